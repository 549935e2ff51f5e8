"""Several ranks: the verdict of a single process, reported once, and no rank that waits in vain."""

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
from compare.training.adapters import manual_step_of
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
    """Return the program's own lines; torchrun prints more."""
    return [line for line in err.splitlines() if line.startswith("compare: ")]


def result(path: Path) -> dict[str, Any]:
    """Return a run's JSON without the seconds and the threads, which vary."""
    contents: dict[str, Any] = json.loads(path.read_text())
    del contents["seconds"], contents["environment"]["threads"]
    return contents


@pytest.mark.slow
def test_digits_on_two_ranks(ranks: Started, tmp_path: Path) -> None:
    """Two ranks report once, with the verdicts of a single process for the same quantities."""
    words = f"run digits --steps 6 --lift 40 --log-dir {tmp_path / 'runs'} --json {tmp_path}/"
    codes, out, err = ranks(2, words + "two.json")
    assert codes == [0, 0], out + err
    assert out.count("ROUNDING  same formulas") == 1
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
    """Three ranks too: no float holds 1/3, but a mean is divided by all rows at once."""
    codes, out, err = ranks(count, f"{words} --json {tmp_path / 'out.json'}")
    assert codes == [0] * count, out + err
    report = result(tmp_path / "out.json")
    assert report["verdict"] == "EXACT"
    assert report["one_process"]["verdict"] in ("EXACT", "ROUNDING")
    assert report["free_gap"] == (0.0).hex()
    assert out.count("EXACT  all") == 1


@pytest.mark.slow
def test_a_population_is_split(ranks: Started, tmp_path: Path) -> None:
    """The report is that of a single process, also where one rank could take longer chunks."""
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
            "rank 1 did not arrive within 5 s: all ranks stop",
            marks=pytest.mark.long,
        ),
    ],
)
def test_torchrun_ends_and_names_a_rank_that_goes_missing(
    what: str, rank: int, wait: str, message: str
) -> None:
    """A rank that died is named at once; torchrun takes 30 s to end a rank that was stopped."""
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
    """Ranks that torchrun stops afterwards, or that notice it later, are not named."""
    words = f"{NETWORK} --batch-size {count} --lift none --steps 40"
    codes, out, err = ranks(count, words, ("die", rank, 20))
    assert codes[rank] == -9, out + err
    assert err == f"compare: rank {rank} ended before the run did: all ranks stop\n"
    assert 0 not in codes


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", ["run digits --steps 5", "run two_layer --population 2 --steps 5", "runs", "run x"]
)
def test_bad_input_is_refused_once(words: str, ranks: Started) -> None:
    """One line is printed, whether the ranks have connected before or not."""
    codes, out, err = ranks(3, words)
    assert (codes[0], out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("compare: ")
    assert "rank 1" not in err
    assert "rank 2" not in err


@pytest.mark.slow
def test_one_rank_prints_though_the_others_are_not_stopped_in_time(ranks: Started) -> None:
    """On a busy machine torchrun is late."""
    patches = {"compare.ranks.watchdog._GRACE": 1.0}
    _, out, err = ranks(3, "run digits --steps 5", patches=patches, apart=True)
    refused = "64 rows per step on 3 ranks: give a --batch-size that is a multiple of 3\n"
    assert out == ""
    assert err in [f"compare: {who}{refused}" for who in ("", "rank 1: ", "rank 2: ")]


@pytest.mark.parametrize(
    ("rank", "count"), [("5", "2"), ("2", "2"), ("-1", "2"), ("x", "2"), ("1", "two"), ("x", "1")]
)
def test_invalid_rank_variables(
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
def test_a_rank_without_the_others_ends_with_one_line() -> None:
    """The log of torch about the failed connection is not printed."""
    alone = {"RANK": "5", "WORLD_SIZE": "8", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "compare", "run", "digits", "--wait", "1"],
        env={**os.environ, "PYTHONPATH": str(ROOT), **alone}, timeout=60, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("compare: rank 5: the 8 ranks could not connect: ")
    assert done.stderr.endswith("torchrun, or unset RANK and WORLD_SIZE for a single process\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_rank_on_another_machine_that_dies_is_named(ranks: Started) -> None:
    """It is noticed by its heartbeat alone: its process id means nothing on this machine."""
    beat = {"compare.ranks.watchdog._BEAT": 8.0}  # later than the broken connection is noticed
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
        ("update", "syn1_update", "times the rounding bound of the additions"),
        (
            "weights",
            "syn1",
            "from step 7 on: by hand the bits of rank 1 differ from those of rank 0",
        ),
    ],
)
def test_a_rank_that_differs_is_named(what: str, name: str, says: str, ranks: Started) -> None:
    codes, out, err = ranks(2, f"{NETWORK} --steps 40", (what, 1, 7))
    assert codes[0] == 1, err
    assert f"WRONG  {name} is the first wrong quantity, at step 7" in out
    assert says in out


class _WithOthers(Ranks):
    """A rank that gathers prepared values of the others."""

    def gather(self, value: Any) -> list[Any]:
        return [value, *self.others(value)]

    def others(self, value: Any) -> list[Any]:
        count, numbers = value
        return [(count, numbers), (count - 1, {n: [*v[:2], 0, *v[3:]] for n, v in numbers.items()})]


def test_ranks_agree_on_the_steps_with_the_same_weights() -> None:
    report = run(CASES["two_layer"], steps=5, lift="none")
    after = [{"syn0": torch.full((1, 3, 1), float(k))} for k in range(5)]
    assert agree(_WithOthers(0, 3), report, ["syn0"], after) == (3, False)
    row = report.quantities["syn0"]
    assert row.problem == "from step 7 on: by hand the bits of rank 2 differ from those of rank 0"
    assert agree(ALONE, report, ["syn0"], after) == (5, True)


def test_lost_rows_are_not_rounding() -> None:
    """The sum of both halves' updates is within the bound of a single process; one half is not."""
    case = dataclasses.replace(CASES["network"], network=Network((3, 5, 1), loss="mse", bias=True))
    sampler = draw(case, seed=1, population=1, dtype=torch.float64, device=torch.device("cpu"))
    inputs = sampler.steps(1)[0] | sampler.state
    names = [f"{name}_update" for name in ("syn0", "bias0", "syn1", "bias1")]
    zeros = {name: torch.zeros_like(sampler.state[name[:4] if name[0] == "s" else name[:5]])
            for name in names}  # fmt: skip
    halves = [
        manual_step_of(case)(
            **inputs | {n: Ranks(rank, 2).own_rows(inputs[n]) for n in "Xy"}, ranks=2, **zeros
        )
        for rank in (0, 1)
    ]
    parts = [{n: half[n.replace("_update", "_part")] for n in names} for half in halves]
    sizes = {n: parts[0][n].abs() + parts[1][n].abs() for n in names}
    for sums, allowed in (
        ({n: parts[0][n] + parts[1][n] for n in names}, {"EXACT", "ROUNDING"}),
        (parts[0], {"WRONG"}),
    ):
        check = SingleProcessResult()
        SingleProcessCheck(case, Ranks(0, 2), stop=1, off=None).judge(
            check, inputs, sums, sizes, {}
        )
        assert check.verdict in allowed, check.text
        assert check.verdict == "EXACT" or check.share > 0
    report = run(CASES["two_layer"], steps=2)
    assert report.ok
    report.one_process = check
    assert report.verdict == "WRONG"
    assert "the ranks' summed update disagrees with a single process" in str(report)


def test_the_reports_of_all_ranks_are_merged() -> None:
    """Counts add up; the worst element has its rank; the gravest proof is kept."""
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
        (
            CASES["three_layer"],
            4,
            "case three_layer on 3 ranks: a fixed listing cannot share rows; use run network",
        ),
        (
            CASES["batch_norm"],
            3,
            "batch_norm on 3 ranks: each rank would have the statistics of its own rows only",
        ),
        (
            CASES["deep"],
            4,
            "4 rows per step on 3 ranks: give a --batch-size that is a multiple of 3",
        ),
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


def test_a_rank_on_another_machine_is_gone_when_its_heartbeat_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]
    for key, value in (("place", "1 0 elsewhere"), ("beat", "")):
        store.set(f"{key}/1", value)
    watchdog = Watchdog(Ranks(0, 2), store)
    watchdog.stop()
    monkeypatch.setattr("compare.ranks.watchdog._BEAT", 0.2)
    for beat in "123":
        store.set("beat/1", beat)
        time.sleep(0.15)
        assert watchdog._gone() == []
    time.sleep(0.3)
    assert watchdog._gone() == [1]


def test_rank_0_is_gone_when_the_store_on_its_machine_stops_answering(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A request to the store may never return; ranks on other machines are not judged then."""
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


def test_a_rank_that_left_a_note_has_not_died(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks 1 and 3 have ended, rank 1 because of rank 3; rank 2 has not arrived yet."""
    store, ended = torch.distributed.HashStore(), []  # type: ignore[attr-defined]
    for rank in (1, 3):
        store.set(f"place/{rank}", f"{os.getpid()} another {socket.gethostname()}")
    store.set("left/1", "1")

    def end(watchdog: Watchdog, gone: list[int], message: str, terminated: bool) -> None:
        ended.append((gone, message, terminated))
        watchdog.over.set()

    monkeypatch.setattr(Watchdog, "_end", end)
    Watchdog(Ranks(0, 4), store).thread.join(5)
    assert ended == [([1, 3], "rank 3 ended before the run did: all ranks stop", False)]


def test_one_rank_prints_the_message() -> None:
    """It is the first to ask the store; without an answer, the lowest remaining rank."""
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]
    several = [Watchdog(Ranks(rank, 3), store) for rank in range(3)]
    for watchdog in several:
        watchdog.stop()
    assert [several[rank].prints_message() for rank in (2, 0, 1)] == [True, False, False]
    for watchdog in several:
        watchdog.store = SimpleNamespace(add=lambda *_: 1 / 0)
    assert [watchdog.prints_message(gone=[0]) for watchdog in several[1:]] == [True, False]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("dies", [None, 0, 1])
def test_two_torchruns_as_on_two_machines(dies: int | None) -> None:
    """There is one report; a rank that dies is named, and both commands end."""
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
    """It is gone before its exit code is read, and when its process id is reused."""
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


def test_other_commands_run_in_a_single_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert main(["runs"]) == 2
    message = "compare: runs on 2 ranks: only run works under torchrun; start it without\n"
    assert capsys.readouterr().err == message
