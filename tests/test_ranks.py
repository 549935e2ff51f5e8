"""Many processes: the verdict of one, reported once, and no rank that is waited for in vain."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from compare.cases.cases import CASES, Case, Network
from compare.cli.main import main
from compare.errors import BadInput
from compare.ranks.ranks import ALONE, Ranks
from compare.ranks.watchdog import Watchdog, _born
from compare.report.single_process import SingleProcessResult
from compare.training.adapters import by_hand
from compare.training.harness import Run, run
from compare.training.merge import agree, check_shares, merged_reports
from compare.training.sampling import draw
from compare.training.single_process_check import SingleProcessCheck
from tests.conftest import Started, one_ulp, planted

ROOT = Path(__file__).parent.parent
DRIVER = ROOT / "tests" / "rank_driver.py"
NETWORK = "run network --sizes 3,5,4,1 --bias --loss mse --alpha 0.3 --no-board"
DIGITS = "run digits --sizes 64,7,10 --loss mse --output sigmoid --lift 40 --no-board"
PENALTIES = "--l1-penalty 1e-3 --l2-penalty 1e-2 --dropout 0.2 --momentum 0.9 --nesterov"


def torchrun(*words: str) -> tuple[int, str, str]:
    """Run a command on ranks that torchrun starts; return its exit code and what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, timeout=300,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def spoken(err: str) -> list[str]:
    """Return what the program itself says there; torchrun says more."""
    return [line for line in err.splitlines() if line.startswith("compare: ")]


def result(path: Path) -> dict[str, Any]:
    """Return a run's JSON without what differs from time to time."""
    found: dict[str, Any] = json.loads(path.read_text())
    del found["seconds"], found["environment"]["threads"]
    return found


@pytest.mark.slow
def test_digits_on_two_ranks(ranks: Started, tmp_path: Path) -> None:
    """The verdict of one process, in the same quantities; reported once."""
    words = f"run digits --steps 6 --lift 40 --log-dir {tmp_path / 'runs'} --json {tmp_path}/"
    codes, out, err = ranks(2, words + "two.json")
    assert codes == [0, 0], out + err
    assert out.count("ROUNDING  the same formulas") == 1
    assert "run again      torchrun --nproc-per-node 2 -m compare run digits --steps 6" in out
    assert len(list((tmp_path / "runs").iterdir())) == 1
    assert main([*words.split()[:-1], str(tmp_path / "one.json")]) == 0
    two, one = result(tmp_path / "two.json"), result(tmp_path / "one.json")
    rows = {row["name"]: row for row in two["quantities"]}
    assert (two["verdict"], one["verdict"], two["ranks"]) == ("ROUNDING", "ROUNDING", 2)
    for row in one["quantities"]:
        assert rows[row["name"]]["verdict"] == row["verdict"], row["name"]
        times = 1 if row["name"][0] in "lt" else 2  # weights are compared on each rank
        assert rows[row["name"]]["compared"] == times * row["compared"]
    assert [row["verdict"] for name, row in rows.items() if "_update" in name] == ["EXACT"] * 4
    assert [row["verdict"] for name, row in rows.items() if "_part" in name] == ["EXACT"] * 4
    assert two["one_process"]["verdict"] == "ROUNDING"
    assert two["one_process"]["steps"] == [0, 5] or len(two["one_process"]["steps"]) > 2
    assert 0 < two["one_process"]["share_of_bound"] <= 1
    assert abs(two["accuracy"] - one["accuracy"]) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "words"),
    [
        (2, f"{NETWORK} {PENALTIES} --steps 40"),
        pytest.param(3, f"{NETWORK} {PENALTIES} --batch-size 3 --steps 20", marks=pytest.mark.long),
        pytest.param(3, f"{DIGITS} {PENALTIES} --batch-size 60 --steps 10", marks=pytest.mark.long),
    ],
    ids=["two", "a row each", "three"],
)
def test_an_exact_network_stays_exact(
    count: int, words: str, ranks: Started, tmp_path: Path
) -> None:
    """Also on three, of which no float holds a third: a mean is divided by all rows at once."""
    codes, out, err = ranks(count, f"{words} --json {tmp_path / 'out.json'}")
    assert codes == [0] * count, out + err
    found = result(tmp_path / "out.json")
    assert found["verdict"] == "EXACT"
    assert found["one_process"]["verdict"] in ("EXACT", "ROUNDING")
    assert found["free_gap"] == (0.0).hex()
    assert out.count("EXACT  all") == 1


@pytest.mark.slow
def test_a_population_is_split(ranks: Started, tmp_path: Path) -> None:
    """Its report is the one of a single process; also where one rank could take more steps."""
    for name, words in (("small", f"{NETWORK} --steps 60"), ("large", f"{DIGITS} --steps 5")):
        words += f" --population 5 --json {tmp_path / name}."
        codes, out, err = ranks(2, words + "two")
        assert codes == [0, 0], out + err
        assert main((words + "one").split()) == 0
        assert result(tmp_path / f"{name}.two") == result(tmp_path / f"{name}.one")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "rank", "wait", "message"),
    [
        ("die", 0, "300", "rank 0 ended before the run did: all ranks stop"),
        pytest.param(
            "stop",
            1,
            "5",
            "rank 1 did not come within 5 s: all ranks stop",
            marks=pytest.mark.long,
        ),
    ],
)
def test_torchrun_ends_and_names_a_rank_that_goes_missing(
    what: str, rank: int, wait: str, message: str
) -> None:
    """At once where it died; torchrun itself takes 30 s to end a rank that has been stopped."""
    words = [what, str(rank), "20", *NETWORK.split(), "--lift", "none", "--wait", wait]
    started = time.monotonic()
    code, out, err = torchrun("--nproc-per-node", "2", str(DRIVER), *words)
    assert time.monotonic() - started < 150
    assert code != 0
    assert spoken(err) == [f"compare: {message}"]
    assert "EXACT" not in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "rank"), [(3, 0), (4, 2), *(pytest.param(n, r, marks=pytest.mark.long)
                                          for n in (3, 4) for r in range(n))],
)  # fmt: skip
def test_one_rank_that_dies_is_named_once(count: int, rank: int, ranks: Started) -> None:
    """Those whom torchrun stops then, or who see it later than another one, are not blamed."""
    words = f"{NETWORK} --batch-size {count} --lift none --steps 40"
    codes, out, err = ranks(count, words, ("die", rank, 20))
    assert codes[rank] == -9, out + err
    assert err == f"compare: rank {rank} ended before the run did: all ranks stop\n"
    assert 0 not in codes


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", ["run digits --steps 5", "run two_layer --population 2 --steps 5", "runs", "run x"]
)
def test_what_is_refused_is_refused_once(words: str, ranks: Started) -> None:
    """Before the ranks have come together and after."""
    codes, out, err = ranks(3, words)
    assert (codes[0], out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("compare: ")
    assert "rank 1" not in err
    assert "rank 2" not in err


@pytest.mark.slow
def test_one_speaks_though_the_others_are_not_stopped_in_time(ranks: Started) -> None:
    """As on a busy machine."""
    patches = {"compare.ranks.watchdog._GRACE": 1.0}
    _, out, err = ranks(3, "run digits --steps 5", patches=patches, apart=True)
    refused = "64 rows a step on 3 ranks: give --batch-size a multiple of 3\n"
    assert out == ""
    assert err in [f"compare: {who}{refused}" for who in ("", "rank 1: ", "rank 2: ")]


@pytest.mark.parametrize(
    ("rank", "count"), [("5", "2"), ("2", "2"), ("-1", "2"), ("x", "2"), ("1", "two"), ("x", "1")]
)
def test_ranks_that_cannot_be(
    rank: str, count: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", count)
    assert main(["run", "two_layer"]) == 2
    assert capsys.readouterr().err == (
        f"compare: RANK {rank!r} of WORLD_SIZE {count!r}: start with torchrun, which sets them, or "
        "unset both\n"
    )


@pytest.mark.slow
def test_a_rank_without_the_others_is_told_in_one_line() -> None:
    """Though torch would log where in its own code it waited in vain."""
    alone = {"RANK": "5", "WORLD_SIZE": "8", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "compare", "run", "digits", "--wait", "1"],
        env={**os.environ, "PYTHONPATH": str(ROOT), **alone}, timeout=60, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("compare: rank 5: the 8 ranks did not come together: ")
    assert done.stderr.endswith("torchrun, or unset RANK and WORLD_SIZE for one process\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_rank_on_another_machine_that_dies_is_named(ranks: Started) -> None:
    """By its beat alone: its process is not looked for where it is not."""
    beat = {"compare.ranks.watchdog._BEAT": 8.0}  # later than the broken connection is seen
    started = time.monotonic()
    words = f"{NETWORK} --lift none --steps 40"
    codes, out, err = ranks(2, words, ("die", 1, 20), apart=True, patches=beat)
    assert time.monotonic() - started < 60
    assert codes == [3, -9], out + err
    assert spoken(err) == ["compare: rank 1 ended before the run did: all ranks stop"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "name", "says"),
    [
        ("part", "syn1_part", "worst at step 7, seed 1, rank 1, "),
        ("update", "syn1_update", "times further apart than adding in another order can be"),
        ("weights", "syn1", "from step 7 on rank 1 by hand has other bits than rank 0"),
    ],
)
def test_a_rank_that_differs_is_named(what: str, name: str, says: str, ranks: Started) -> None:
    codes, out, err = ranks(2, f"{NETWORK} --steps 40", (what, 1, 7))
    assert codes[0] == 1, err
    assert f"WRONG  {name} is the first wrong quantity, at step 7" in out
    assert says in out


class _Told(Ranks):
    """A rank to whom the others have already told something."""

    def gather(self, told: Any) -> list[Any]:
        return [told, *self.others(told)]

    def others(self, told: Any) -> list[Any]:
        count, numbers = told
        return [(count, numbers), (count - 1, {n: [*v[:2], 0, *v[3:]] for n, v in numbers.items()})]


def test_ranks_agree_on_how_far_they_have_the_same_weights() -> None:
    report = run(CASES["two_layer"], steps=5, lift="none")
    after = [{"syn0": torch.full((1, 3, 1), float(k))} for k in range(5)]
    assert agree(_Told(0, 3), report, ["syn0"], after) == (3, False)
    row = report.quantities["syn0"]
    assert row.problem == "from step 7 on rank 2 by hand has other bits than rank 0"
    assert agree(ALONE, report, ["syn0"], after) == (5, True)


def test_lost_rows_are_not_rounding() -> None:
    """Beside one process: the sum of both halves' updates is within its bound, one half is not."""
    case = dataclasses.replace(CASES["network"], network=Network((3, 5, 1), loss="mse", bias=True))
    given = draw(
        case, seed=1, population=1, dtype=torch.float64, device=torch.device("cpu")
    )  # fmt: skip
    data = given.steps(1)[0] | given.state
    names = [f"{name}_update" for name in ("syn0", "bias0", "syn1", "bias1")]
    none = {name: torch.zeros_like(given.state[name[:4] if name[0] == "s" else name[:5]])
            for name in names}  # fmt: skip
    halves = [
        by_hand(case)(**data | {n: Ranks(rank, 2).own(data[n]) for n in "Xy"}, ranks=2, **none)
        for rank in (0, 1)
    ]
    parts = [{n: half[n.replace("_update", "_part")] for n in names} for half in halves]
    sizes = {n: parts[0][n].abs() + parts[1][n].abs() for n in names}
    for sums, allowed in (
        ({n: parts[0][n] + parts[1][n] for n in names}, {"EXACT", "ROUNDING"}),
        (parts[0], {"WRONG"}),
    ):
        found = SingleProcessResult()
        one_process = SingleProcessCheck(case, Ranks(0, 2), stop=1, off=None)
        one_process.judge(found, data, sums, sizes, {})
        assert found.verdict in allowed, found.text
        assert found.verdict == "EXACT" or found.share > 0
    report = run(CASES["two_layer"], steps=2)
    assert report.ok
    report.one_process = found
    assert report.verdict == "WRONG"
    assert "the ranks' summed update disagrees with a single process" in str(report)


def test_one_report_of_all() -> None:
    """Counts add up; the worst place is the furthest, with its rank; the weightiest proof."""
    case = CASES["two_layer"]
    step = planted(case, one_ulp("l1_delta", 0, 3, 0), at=2)
    reports = [run(case, steps=4), run(case, steps=4, step=step)]
    one = merged_reports(reports, shared=True)
    row = one.quantities["l1_delta"]
    assert (row.compared, row.equal, row.first_unequal, one.steps) == (32, 31, 2, 4)
    assert row.worst is not None
    assert (row.worst.rank, row.worst.index, row.worst.step) == (1, (3, 0), 2)
    assert one.verdict == reports[1].verdict
    assert one.free_gap == reports[1].free_gap


@pytest.mark.parametrize(
    ("case", "rows", "message"),
    [
        (CASES["three_layer"], 4, "case three_layer on 3 ranks: it is a listing that stands as it"),
        (CASES["batch_norm"], 3, "batch_norm on 3 ranks: each would have statistics of its own"),
        (CASES["deep"], 4, "4 rows a step on 3 ranks: give --batch-size a multiple of 3"),
    ],
)
def test_rows_that_cannot_be_shared(case: Case, rows: int, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        check_shares(Ranks(0, 3), case, rows)
    check_shares(ALONE, case, rows)


def test_networks_that_cannot_be_shared() -> None:
    assert [Ranks(r, 3).networks(7) for r in range(3)] == [range(2), range(2, 4), range(4, 7)]
    with pytest.raises(BadInput, match="population 2 on 3 ranks: give 3 or more, or 1 network"):
        Run(CASES["deep"], population=2, ranks=Ranks(1, 3))


def test_a_rank_on_another_machine_is_gone_when_its_beat_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]
    for what, value in (("place", "1 0 elsewhere"), ("beat", "")):
        store.set(f"{what}/1", value)
    watchdog = Watchdog(Ranks(0, 2), store)
    watchdog.stop()
    monkeypatch.setattr("compare.ranks.watchdog._BEAT", 0.2)
    for beat in "123":
        store.set("beat/1", beat)
        time.sleep(0.15)
        assert watchdog._gone() == []
    time.sleep(0.3)
    assert watchdog._gone() == [1]


def test_rank_0_is_gone_when_the_store_on_its_machine_answers_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where to ask never ends; of other machines nothing is known then."""
    monkeypatch.setattr("compare.ranks.watchdog._BEAT", 1.5)
    monkeypatch.setattr("compare.ranks.watchdog._GRACE", 0.1)
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]
    for rank in (0, 2):
        store.set(f"place/{rank}", "1 0 elsewhere")
        store.set(f"beat/{rank}", "")
    watchdog = Watchdog(Ranks(1, 3), store)
    watchdog.stop()
    assert watchdog._gone() == []
    watchdog.store = SimpleNamespace(multi_get=lambda _: time.sleep(60))
    assert watchdog._gone() == []
    time.sleep(1.5)
    assert watchdog._gone() == [0]


def test_who_left_a_note_has_not_died(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks 1 and 3 have ended, rank 1 for the sake of rank 3; rank 2 has not come yet."""
    store, ended = torch.distributed.HashStore(), []  # type: ignore[attr-defined]
    for rank in (1, 3):
        store.set(f"place/{rank}", f"{os.getpid()} another {socket.gethostname()}")
    store.set("left/1", "1")

    def end(watchdog: Watchdog, gone: list[int], message: str, told: bool) -> None:
        ended.append((gone, message, told))
        watchdog.over.set()

    monkeypatch.setattr(Watchdog, "_end", end)
    Watchdog(Ranks(0, 4), store).thread.join(5)
    assert ended == [([1, 3], "rank 3 ended before the run did: all ranks stop", False)]


def test_one_rank_speaks() -> None:
    """The first to ask; where nothing answers, the lowest that is left."""
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]
    several = [Watchdog(Ranks(rank, 3), store) for rank in range(3)]
    for watchdog in several:
        watchdog.stop()
    assert [several[rank].speaks() for rank in (2, 0, 1)] == [True, False, False]
    for watchdog in several:
        watchdog.store = SimpleNamespace(add=lambda *_: 1 / 0)
    assert [watchdog.speaks(gone=[0]) for watchdog in several[1:]] == [True, False]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("dies", [None, 0, 1])
def test_two_torchruns_as_on_two_machines(dies: int | None) -> None:
    """One report; a rank that dies is named, and both commands end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    what = ["none", "-1"] if dies is None else ["die", str(dies)]
    nodes = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1"]
    words = [str(DRIVER), *what, "20", *NETWORK.split(), "--lift", "none", "--steps", "40"]
    started = time.monotonic()
    with ThreadPoolExecutor() as pool:
        both = [
            pool.submit(
                torchrun, *nodes, "--master-port", str(port), "--node-rank", str(node), *words
            )
            for node in (0, 1)
        ]
        (code, out, err), (other, out2, err2) = (each.result() for each in both)
    assert time.monotonic() - started < 150
    if dies is None:
        assert (code, other, out2) == (0, 0, ""), err + err2
        assert out.count("EXACT  all") == 1
    else:
        assert 0 not in (code, other)
        message = f"compare: rank {dies} ended before the run did: all ranks stop"
        assert spoken(err + err2) == [message]


def test_a_process_of_this_machine_is_gone_when_it_has_ended() -> None:
    """Also before anybody has asked for its exit code, and when its number is given anew."""
    process = subprocess.Popen(["sleep", "60"])
    born = _born(process.pid)
    assert born == _born(process.pid) != ""
    process.kill()
    deadline = time.monotonic() + 10
    while _born(process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _born(process.pid) == ""
    process.wait()
    assert _born(process.pid) == ""
    assert born != _born(os.getpid())


def test_other_commands_are_for_one_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert main(["runs"]) == 2
    message = "compare: runs on 2 ranks: torchrun is for run, leave it out\n"
    assert capsys.readouterr().err == message
