"""A user's code in a separate process: its limits, and that no process of it survives."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from compare.cli.main import main
from compare.errors import BadInput
from compare.guard.guard import Ended, Printed, guarded
from compare.guard.terminal_text import rendered, shown
from compare.progress import Stage, Stages

ROOT = Path(__file__).parent.parent
MIB = 2**20


def run(
    code: str, *, seconds: float | None = 20.0, memory: int = 256 * MIB, **more: Any
) -> tuple[Ended, Printed]:
    printed = Printed(3, 20)
    ended = guarded(
        "tests.guarded:run", {"code": code}, printed, seconds=seconds, memory=memory, **more
    )
    return ended, printed


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_result_and_the_stages_come_back() -> None:
    """The stages are read several times a second: one that takes long is seen."""
    seen: list[Stages] = []
    code = (
        "import time\nfor name in counted('judging {}', 'ab'): time.sleep(1)\n"
        "found = {'a': [1, 2.5, None]}"
    )
    assert run(code, watch=seen.append)[0].answer == {"a": [1, 2.5, None]}
    assert [(Stage("judging a", 1, 2),), (Stage("judging b", 2, 2),)] == [
        stages for k, stages in enumerate(seen) if stages and stages not in seen[:k]
    ]


def test_without_a_watcher_no_thread_is_started() -> None:
    assert run("import threading; found = threading.active_count()")[0].answer == 1


def test_output_is_separate_and_cut() -> None:
    """Also output of C code, output without an end of line, and control codes."""
    code = (
        "import os\nprint('one\\x1b[2J'); os.write(2, b'two' * 20 + b'\\n')\nprint('3\\n4\\n5')\n"
        "found = 1; print('6', end='')"
    )
    ended, printed = run(code)
    assert ended.answer == 1
    assert printed.lines == ["one [2J", "two" * 6 + "tw...", "3"]
    assert printed.cut == 3


ENDINGS = [
    ("import os; os._exit(7)", "the file ended its own process with exit code 7"),
    ("import os; os._exit(0)", "the file ended its own process with exit code 0"),
    ("import os; os.kill(os.getpid(), 9)", "was ended by SIGKILL (out of memory?)"),
    ("import os; os.abort()", "was ended by SIGABRT"),
    ("import os; os.kill(os.getppid(), 9); os._exit(0)", "was ended by SIGKILL"),
]


@pytest.mark.parametrize(("code", "reason"), ENDINGS)
def test_the_end_of_the_process_is_explained(code: str, reason: str) -> None:
    ended, _ = run(code)
    assert (ended.answer, ended.code is None) == (None, False)
    assert reason in ended.why(None)


def test_a_loop_without_end_is_stopped_in_its_line() -> None:
    started = time.monotonic()
    ended, _ = run("x = 1\nwhile True: pass", seconds=0.5)
    assert time.monotonic() - started < 15
    assert (ended.answer, ended.code, ended.line(Path("given.py"))) == (None, None, 2)
    assert "still running after 0.5 seconds" in ended.why(0.5)


def test_the_limit_holds_if_the_code_cancels_its_timer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("compare.guard.guard._GRACE", 0.2)
    code = (
        "import faulthandler, signal\nfaulthandler.cancel_dump_traceback_later()\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: pass"
    )
    ended, _ = run(code, seconds=0.3)
    assert (ended.answer, ended.code) == (None, None)


def test_the_limit_does_not_include_the_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module takes longer to import than the job may run."""
    monkeypatch.setattr("compare.guard.guard._GRACE", 0.0)
    monkeypatch.setenv("SLOW_IMPORT", "1.5")
    ended = guarded(
        "tests.guarded_slowly:run",
        {"code": "found = 5"},
        Printed(1, 1),
        seconds=0.5,
        memory=256 * MIB,
    )
    assert ended.answer == 5


MEMORY = [
    "x = []\nwhile True: x.append(b' ' * 10**6)",
    "x = []\nwhile True: x.append(object())",
    "import mmap\ntry: x = mmap.mmap(-1, 10**9)\nexcept OSError: raise MemoryError from None",
    "x = bytearray(10**10)",
]


@pytest.mark.parametrize("code", MEMORY)
def test_memory_is_limited(code: str) -> None:
    """Shared memory counts, and the message names the limit in one line."""
    with pytest.raises(BadInput, match=r"may use 0\.25 GiB of memory and asked for more") as error:
        run(code)
    assert "\n" not in str(error.value)


def test_the_size_of_a_written_file_is_limited(tmp_path: Path) -> None:
    code = (
        f"try: open({str(tmp_path / 'big')!r}, 'wb').truncate(2**31)\n"
        "except OSError as error: found = error.strerror"
    )
    assert run(code)[0].answer == "File too large"


STARTED = [
    "start_new_session=True",
    "preexec_fn=lambda: (os.setsid(), os.fork() and os._exit(0))",  # as a daemon does
    "start_new_session=False",
]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has subreapers")
@pytest.mark.parametrize("how", STARTED)
@pytest.mark.parametrize("end", ["found = 1", "os._exit(3)", "while True: pass"])
def test_no_process_that_it_starts_survives(how: str, end: str, tmp_path: Path) -> None:
    here = tmp_path / "pid"
    code = (
        "import os, subprocess, time\n"
        f"subprocess.Popen(['sh', '-c', 'echo $$ > {here}; exec sleep 100'], {how})\n"
        f"while not (os.path.exists({str(here)!r}) and os.path.getsize({str(here)!r})): "
        f"time.sleep(0.01)\n{end}"
    )
    run(code, seconds=1.5)
    assert not alive(int(here.read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals the death of a parent")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_survives_if_the_program_itself_is_killed(number: int, tmp_path: Path) -> None:
    here = tmp_path / "pid"
    code = (
        "import os, subprocess\n"
        f"subprocess.Popen(['sh', '-c', 'echo $$ > {here}; exec sleep 100'], "
        "start_new_session=True)\n"
        "while True: pass"
    )
    program = (
        "from compare.guard.guard import *\n"
        f"guarded('tests.guarded:run', {{'code': {code!r}}}, Printed(1, 1), seconds=None, "
        "memory=2**28)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", program], env=environment) as process:
        while not (here.exists() and here.read_text().strip()):
            time.sleep(0.02)
        process.send_signal(number)
    until = time.monotonic() + 10
    while alive(int(here.read_text())) and time.monotonic() < until:
        time.sleep(0.02)
    assert not alive(int(here.read_text()))


FORGED = [
    b"\x80\x04\x95.\n",
    b"[" * 100_000 + b"\n",
    b"[1]\n{}\n7\nnull\n" + b"9" * 5000 + b"\n",
    b'{"ended": "soon"}\n',
    *(
        b'{"stages": %s}\n' % stages
        for stages in (
            b"7",
            b"[7]",
            b'[["x", "many", 2]]',
            b'[["x", 3, 2]]',
            b'[["x", -1, 2]]',
            b'[["x", 1, 1e400]]',
            b'[["x", 1, 1%s]]' % (b"0" * 400),
            b'[["x", 1, 2, 3]]',
        )
    ),
]


@pytest.mark.parametrize("written", FORGED, ids=range(len(FORGED)))
def test_forged_messages_break_nothing(written: bytes) -> None:
    code = f"import os, sys\nos.write(int(sys.argv[1]), {written!r})\nos._exit(4)"
    seen: list[Stages] = []
    ended, _ = run(code, watch=seen.append)
    assert ended.answer is None
    assert not any(seen)
    assert ended.code in (0, 1, 4)  # the supervisor may have been ended before it sent the code


def test_bad_input_and_internal_errors_come_back_as_such() -> None:
    with pytest.raises(BadInput, match="x is 3: give 4"):
        run("raise BadInput('x is 3: give 4')")
    with pytest.raises(BadInput, match="raises KeyboardInterrupt"):
        run("raise KeyboardInterrupt")
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run("1 / 0")


@dataclass
class _Kind:
    word: str
    part: float
    rows: list[tuple[int, float]]
    names: dict[str, str]
    line: int | None


GOOD: dict[str, Any] = {"word": "a", "part": 1, "rows": [[1, 2.0]], "names": {}, "line": None}


@pytest.mark.parametrize(
    "change",
    [
        {"word": 1}, {"part": "1"}, {"part": True}, {"rows": [[1]]}, {"rows": [1]}, {"rows": {}},
        {"names": {"a": 1}}, {"names": []}, {"line": "1"},
    ],
)  # fmt: skip
def test_only_results_of_the_right_types_are_accepted(change: dict[str, Any]) -> None:
    good = GOOD | {"rows": [(1, 2.0)]}
    assert Ended(GOOD).answer_as(_Kind) == _Kind(**good)
    for forged in ({**GOOD, **change}, [GOOD], {"word": "a"}):
        assert Ended(forged).answer_as(_Kind) is None


def test_colour_codes_pass_and_other_control_codes_do_not() -> None:
    text = shown(rendered(80, "\x1b[31mred\x1b[0m\x1b[2J\x1b]0;title\x07\x1bc and 1 on"))
    assert text.plain == "red[2J]0;titlec and 1 on"
    assert [str(span.style) for span in text.spans] == ["color(1)"]


# -- on the command line

FILE = """\
import os, torch
print("from the file")

def forward(x):
    return x.tanh()

def backward(x, grad_output):
    return {"x": (1 - x.tanh() ** 2) * grad_output}

inputs = {"x": torch.randn(3, 4)}
"""


def test_output_of_a_file_goes_to_standard_error_with_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that standard output holds only JSON."""
    file = tmp_path / "mine.py"
    file.write_text(FILE)
    assert main(["check", str(file), "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["verdict"] in ("EXACT", "ROUNDING")
    assert "mine.py | from the file\n" in err
    assert "from the file" not in out


@pytest.mark.parametrize("command", ["check", "mutants"])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("os._exit(7)", "{file}: the file ended its own process with exit code 7; remove "),
        ("os._exit(0)", "{file}: the file ended its own process with exit code 0; remove "),
        ("while True: pass", "{file}, line 1 (while True: pass) was still running after 1 seco"),
        ("raise KeyboardInterrupt", "the file raises KeyboardInterrupt"),
    ],
)
def test_a_file_that_ends_its_process_gets_one_line(
    command: str, line: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f"{line}\n{FILE}".replace("os._exit", "__import__('os')._exit"))
    assert main([command, str(file), "--timeout", "1"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("compare: " + message.format(file=file))
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", ["--timeout 0", "--timeout nan", "--timeout 1e9"])
@pytest.mark.parametrize("command", ["check", "mutants"])
def test_an_invalid_time_limit_is_refused(
    command: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "no.py", *words.split()]) == 2
    assert "give seconds, above 0 and at most 86400 (a day)" in capsys.readouterr().err


def test_ctrl_c_ends_a_check_and_its_file(tmp_path: Path) -> None:
    here = tmp_path / "pid"
    file = tmp_path / "mine.py"
    file.write_text(
        f"import os; open({str(here)!r}, 'w').write(str(os.getpid()))\nwhile True: pass"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "compare", "check", str(file)], text=True, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        while not (here.exists() and here.read_text()):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert err == "compare: stopped before anything was checked\n"
    assert not alive(int(here.read_text()))
