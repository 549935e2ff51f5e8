"""The command line: its output, its exit codes, and one line for each bad input."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

import compare.cli.parser
from compare.cli.main import main
from compare.cli.parser import COMMANDS
from tests.conftest import one_ulp, planted

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*words: str, **options: object) -> "subprocess.Popen[str]":
    """Start `python -m compare` in a separate process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    return subprocess.Popen(
        [sys.executable, "-m", "compare", *words], text=True, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,  # type: ignore[call-overload]
    )  # fmt: skip


BAD_INPUT = [
    ("run three_layr", "unknown case 'three_layr': did you mean three_layer"),
    ("run zzz", "unknown case 'zzz': choose from eleven_lines, two_layer"),
    ("run --steps 0", "steps 0: a run needs at least 1 step"),
    ("run --steps -5", "steps -5: a run needs at least 1 step"),
    ("run --steps many", "argument --steps: 'many' is not a whole number"),
    ("run --steps 1.5", "argument --steps: '1.5' is not a whole number"),
    ("run --dtype float65", "unknown dtype 'float65': did you mean float64"),
    ("run --device gpu", "unknown device 'gpu': choose cpu, cuda or cuda:N"),
    ("run --device cpu:1", "unknown device 'cpu:1': choose cpu, cuda or cuda:N"),
    ("run --population 0", "population 0: a run needs at least 1 network"),
    ("run --seed -1", "seed -1: numpy takes 0 to 4294967295"),
    ("run --seed 4294967296", "seed 4294967296: numpy takes 0 to 4294967295"),
    (
        "run --seed 4294967295 --population 2",
        "seed 4294967295: numpy takes 0 to 4294967295 (the last network's is seed + 1)",
    ),
    ("run --demand close", "argument --demand: invalid choice: 'close'"),
    ("run --log-dir a_file", "log folder a_file is a file; choose another --log-dir"),
    (
        "run --log-dir a_file/below",
        "log folder a_file/below: Not a directory; choose another --log-dir",
    ),
    (
        "run --log-dir /proc/none",
        "log folder /proc/none: No such file or directory; choose another --log-dir",
    ),
    ("run --json none/out.json", "--json none/out.json: no file can be written there"),
    ("run --json .", "--json .: no file can be written there"),
    ("run --stepz 3", "unrecognized arguments: --stepz"),
    ("walk", "argument COMMAND: invalid choice: 'walk'"),
    ("three_layer", "'three_layer' is a case: use run three_layer"),
    ("run --seed 1,2", "argument --seed: '1,2' is not a whole number"),
    ("run --population 100000000", "population 100000000, sizes (3, 4, 1): one step needs about "),
    ("run --lift some", "lift 'some': choose all, none, auto or a number of entries"),
    ("run --lift 0", "lift '0': choose all, none, auto or a number of entries"),
    ("check none.py", "none.py: no such file; name one that defines forward, backward and inputs"),
    ("check a_file", "a_file defines no 'forward': it needs forward, backward and inputs"),
]


@pytest.mark.parametrize(("words", "message"), BAD_INPUT, ids=[words for words, _ in BAD_INPUT])
def test_bad_input_gets_one_line(
    words: str, message: str, capsys: pytest.CaptureFixture[str], elsewhere: Path
) -> None:
    (elsewhere / "a_file").write_text("")
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"compare: {message}")
    assert err.count("\n") == 1
    assert [path.name for path in elsewhere.iterdir()] == ["a_file"]  # and no half-written run


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_cuda_where_there_is_none(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--device", device]) == 2
    message = f"compare: device '{device}': torch sees no CUDA device here, use --device cpu\n"
    assert capsys.readouterr().err == message


def test_the_default_is_the_whole_three_layer_run() -> None:
    """`python -m compare` by itself: the blog's lines, the table, the verdict, a run folder."""
    done = command()
    out, err = done.communicate()
    assert (done.returncode, err) == (0, "")
    assert out.startswith("Error:0.496410031903\nError:0.00858452565325\n")
    assert "syn0_update  (3,4)   720,000     720,000        0  EXACT" in out
    assert "EXACT  all 11 quantities have autograd's bits at each of 60,000 steps" in out
    assert "output after training  0.00260572  0.99672209  0.99701711  0.00386759" in out
    assert "autograd alone         ends at the same weights, since every step is equal" in out
    assert "\x1b" not in out  # a pipe gets no colour and no progress bar
    (folder,) = Path("runs").iterdir()
    assert folder.name in out


def test_exit_code_1_when_the_demand_is_not_met(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "three_layer_blog_grouping", "--steps", "9", "--demand", "exact", "--no-board"]
    assert main(words) == 1
    out = capsys.readouterr().out
    claim = (
        "same formulas at the sampled steps; l2_delta, l1_delta: different bits, within rounding"
    )
    assert f"ROUNDING {claim} at every step" in " ".join(out.split())
    assert "run again      python -m compare run three_layer_blog_grouping --steps 9\n" in out


def test_json_on_standard_output_stands_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "two_layer", "--steps", "5", "--json", "-", "--no-board"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["case"] == "two_layer"
    assert (result["verdict"], result["first_wrong"], result["steps"]) == ("EXACT", None, 5)
    assert {
        "case",
        "verdict",
        "first_wrong",
        "steps",
        "quantities",
        "environment",
        "seconds",
    } <= set(result)
    row = result["quantities"][1]
    assert (row["name"], row["shape"], row["dtype"]) == ("l1", [4, 1], "float64")
    assert (row["compared"], row["equal"], row["max_ulp"], row["worst"]) == (20, 20, 0, None)
    assert "all 6 quantities" in err


def test_json_to_a_file_keeps_every_bit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from compare.cases.cases import CASES

    step = planted(CASES["two_layer"], one_ulp("l1_delta", 0, 3, 0), at=2)
    monkeypatch.setattr("compare.training.harness.manual_step_of", lambda _case: step)
    assert main(["run", "two_layer", "--steps", "4", "--json", "out.json", "--no-board"]) == 1
    worst = json.loads(Path("out.json").read_text())["quantities"][3]["worst"]
    assert (worst["step"], worst["seed"], worst["index"]) == (2, 1, [3, 0])
    one, other = float.fromhex(worst["manual"]), float.fromhex(worst["autograd"])
    assert one > other
    assert repr(one) in capsys.readouterr().out


def test_quiet_prints_the_verdict_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "two_layer", "--steps", "5", "--quiet", "--no-board"]) == 0
    out = capsys.readouterr().out
    assert out == "EXACT  all 6 quantities have autograd's bits at each of 5 steps\n"


def test_list_and_help_do_not_import_torch(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ("--list", "--help", *(f"{name} --help" for name in COMMANDS)):
        code = (
            "import sys; from compare.cli.main import main\n"
            f"try: main({words.split()!r})\nexcept SystemExit: pass\n"
            "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert main(["--list"]) == 0
    out = capsys.readouterr().out
    for name in ("eleven_lines", "two_layer", "three_layer", "three_layer_blog_grouping", "deep"):
        assert name in out


def unregistered(names: Iterable[str], sources: dict[str, str]) -> list[str]:
    """Return sentences on the differences between COMMANDS and the modules of compare/cli."""
    adding = {name for name, text in sources.items() if "\ndef add(" in text}
    return [
        *(f"COMMANDS names {n!r}: compare/cli/{n}.py needs add" for n in {*names} - adding),
        *(f"compare/cli/{n}.py has add: give COMMANDS its name" for n in adding - {*names}),
    ]


def test_a_command_is_a_file_and_its_name_in_one_list() -> None:
    sources = {path.stem: path.read_text() for path in (ROOT / "compare/cli").glob("*.py")}
    missing = unregistered(COMMANDS, sources)
    assert not missing, "\n".join(missing)
    differences = unregistered((*COMMANDS, "walk"), sources)
    assert differences == ["COMMANDS names 'walk': compare/cli/walk.py needs add"]
    differences = unregistered(COMMANDS, {**sources, "walk": "\ndef add(new):"})
    assert differences == ["compare/cli/walk.py has add: give COMMANDS its name"]


def test_a_new_command_needs_nothing_else(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "walk.py").write_text(
        "def add(new):\n    new(help='go').add_argument('--far', action='store_true')\n"
        "def walk(args):\n    return 1 if args.far else 0\n"
    )
    monkeypatch.setattr(compare.cli, "__path__", [*compare.cli.__path__, str(elsewhere)])
    monkeypatch.setattr(compare.cli.parser, "COMMANDS", (*COMMANDS, "walk"))
    assert (main(["walk"]), main(["walk", "--far"])) == (0, 1)
    with pytest.raises(SystemExit):
        main(["--help"])
    assert ["walk", "go"] in [line.split() for line in capsys.readouterr().out.splitlines()]


def test_ctrl_c_reports_the_checked_steps() -> None:
    """Exit code 130; the run folder is complete, and its result is marked as interrupted."""
    run = command("run", "--steps", "100000000")
    assert run.stdout is not None
    assert run.stdout.readline().startswith("Error:0.49")
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert (run.returncode, err) == (130, "")
    assert "(interrupted: the steps run so far)" in " ".join(out.split())
    (folder,) = Path("runs").iterdir()
    result = json.loads((folder / "result.json").read_text())
    assert result["interrupted"] is True
    assert result["verdict"] == "EXACT"
    assert 0 < result["steps"] < 100_000_000
    assert result["quantities"][2]["compared"] == 4 * result["steps"]


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    """As in `python -m compare | head`: the run continues to its end and is recorded."""
    run = command("run", "--steps", "4000")
    assert run.stdout is not None
    assert run.stdout.readline().startswith("Error:")
    run.stdout.close()
    run.stdout = None
    _, err = run.communicate(timeout=60)
    assert (run.returncode, err) == (0, "")
    (folder,) = Path("runs").iterdir()
    assert json.loads((folder / "result.json").read_text())["steps"] == 4000


def test_a_full_disk_does_not_lose_the_result() -> None:
    """A limit on file size stands in for the disk: writing fails in the middle of the run."""
    done = command(
        "run", "--steps", "6000",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)),
    )  # fmt: skip
    out, err = done.communicate(timeout=60)
    assert "EXACT  all 11 quantities have autograd's bits at each of 6,000 steps" in out
    assert done.returncode == 2
    assert err.startswith("compare: run folder runs/")
    assert "File too large; choose another --log-dir, or use --no-board\n" in err
    assert err.count("\n") == 1
    assert list(Path("runs").iterdir()) == []


def test_an_internal_error_is_exit_code_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(**_tensors: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("compare.training.harness.manual_step_of", lambda _case: broken)
    assert main(["run", "--steps", "1"]) == 3
    err = capsys.readouterr().err
    assert "ZeroDivisionError: planted" in err
    assert err.endswith(
        "compare: internal error: this is a bug in this program, not in your input\n"
    )
    assert list(Path("runs").iterdir()) == []


def test_two_ctrl_c_keep_the_checked_steps() -> None:
    run = command("run", "three_layer_blog_grouping", "--steps", "100000000")
    assert run.stdout is not None
    assert run.stdout.readline().startswith("Error:0.49")
    run.send_signal(signal.SIGINT)
    time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert (run.returncode, err) == (130, "")
    assert "(interrupted: the steps run so far)" in " ".join(out.split())
    (folder,) = Path("runs").iterdir()
    result = json.loads((folder / "result.json").read_text())
    assert {q["compared"] % result["steps"] for q in result["quantities"]} == {0}


@pytest.mark.parametrize("wait", [0.05, 0.3, 0.8])
def test_an_early_ctrl_c_is_not_lost(wait: float) -> None:
    """Also while torch is being imported."""
    run = command("run", "--steps", "100000000")
    time.sleep(wait)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    # the signal can arrive before Python itself has started
    early = run.returncode == -signal.SIGINT or "import_site" in err
    assert run.returncode == 130 or early, err
    assert "Traceback" not in err or early
    assert not Path("runs").exists() or len(list(Path("runs").iterdir())) <= 1


@pytest.mark.parametrize("words", ["--list", "run two_layer --steps 3 --no-board"])
def test_a_standard_output_that_is_full(words: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "compare", *words.split()], stdout=full, stderr=subprocess.PIPE,
            text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "compare: cannot write the output: No space left on device\n"


def test_a_folder_with_brackets_is_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    """Input is never read as markup, and printed commands can be pasted."""
    assert main(["run", "two_layer", "--steps", "3", "--log-dir", "[/x] y"]) == 0
    assert "curves: python -m compare board --log-dir '[/x] y'" in capsys.readouterr().out


def test_json_goes_into_a_pipe_as_it_is(elsewhere: Path) -> None:
    os.mkfifo("pipe")
    reader = subprocess.Popen(["cat", "pipe"], stdout=subprocess.PIPE, text=True)
    assert (
        main(["run", "two_layer", "--steps", "3", "--no-board", "--quiet", "--json", "pipe"]) == 0
    )
    out, _ = reader.communicate(timeout=20)
    assert json.loads(out)["verdict"] == "EXACT"
    assert (elsewhere / "pipe").is_fifo()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_steps() -> None:
    """Thirty times the steps have the same peak of memory, up to allocator noise (in KiB)."""

    def peak(steps: int) -> int:
        code = (
            "import resource; from compare.cases.cases import CASES\n"
            "from compare.training.harness import run\n"
            f"run(CASES['two_layer'], steps={steps})\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert peak(150_000) - peak(5_000) < 20_000


def test_it_stops_soon_after_ctrl_c() -> None:
    run = command("run", "three_layer_blog_grouping", "--no-board")
    assert run.stdout is not None
    run.stdout.readline()
    run.send_signal(signal.SIGINT)
    started = time.monotonic()
    run.communicate(timeout=60)
    assert run.returncode == 130
    assert time.monotonic() - started < 20  # a chunk; without it the run would go on for minutes
