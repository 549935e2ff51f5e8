"""`practice FILE`: typical mistakes of learners, and the feedback for each."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compare.cli.main import main
from compare.practice.grader import grade
from compare.practice.levels import LEVELS
from compare.practice.result import BLANK, CHANGED, MISSING, RIGHT, STOPS, WRONG, Result

ROOT = Path(__file__).parent.parent
L1_ERROR, L1_DELTA = "l1_error = y - l1", "l1_delta = l1_error * (1 - l1) * l1"
SYN0 = "syn0 += l0.T @ l1_delta"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def solution(level: str = "two_layer", *changes: tuple[str, str], steps: int = 4) -> str:
    """Return a correct file with changes, which trains for a few steps only."""
    text = f"# practice, level {level}\n{LEVELS[level].solution}"
    text = re.sub(r"range\([\d_]+\)", f"range({steps})", text)
    for old, now in changes:
        assert old in text
        text = text.replace(old, now)
    return text


def check(*changes: tuple[str, str], level: str = "two_layer", steps: int = 4) -> Result:
    return grade(LEVELS[level], solution(level, *changes, steps=steps), "file.py")


def practice(*words: str, file: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Run the command in a process, on file.py."""
    if file is not None:
        Path("file.py").write_text(file)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    return subprocess.run(
        [sys.executable, "-m", "compare", "practice", *words], text=True, env=environment,
        capture_output=True, check=False,
    )  # fmt: skip


WRONG_LINES = [
    ("the slope is forgotten", (L1_DELTA, "l1_delta = l1_error"), "l1_delta = l1_error", ""),
    ("half of it", (L1_DELTA, "l1_delta = l1_error * l1"), "l1_delta = l1_error * l1", ""),
    ("the miss turned", (L1_ERROR, "l1_error = l1 - y"), "l1_error = l1 - y", ""),
    ("not added", (SYN0, "syn0 = l0.T @ l1_delta"), "syn0 = l0.T @ l1_delta", ""),
    ("taken away", (SYN0, "syn0 -= l0.T @ l1_delta"), "syn0 -= l0.T @ l1_delta", ""),
    (
        "in place", (L1_DELTA, "l1_error *= (1 - l1) * l1\n    l1_delta = l1_error"),
        "l1_error *= (1 - l1) * l1", "line 22 computed l1_error, and this line changes it",
    ),
    (
        "another shape", (L1_ERROR, "l1_error = (y - l1).T"),
        "l1_error = (y - l1).T", "gives l1_error the shape (1, 4); it should be (4, 1)",
    ),
    (
        "another dtype", ("sigmoid(l0 @ syn0)", "sigmoid(l0 @ syn0).float()"),
        "l1 = sigmoid(l0 @ syn0).float()", "makes l1 float32; the other values are float64",
    ),
    (
        "a list", (L1_ERROR, "l1_error = (y - l1).tolist()"),
        "l1_error = (y - l1).tolist()", "makes l1_error a list; it must be a tensor",
    ),
    (
        "not a number", (L1_ERROR, "l1_error = (y - l1) * float('nan')"),
        "l1_error = (y - l1) * float('nan')", "makes l1_error not a number (NaN)",
    ),
    (
        "in a helper", ("torch.sigmoid(x)", "torch.sigmoid(-x)"),
        "l1 = sigmoid(l0 @ syn0)", "it calls sigmoid (line 6): check it too",
    ),
    (
        "only later", (SYN0, "if j > 1:\n        l1_delta = -l1_delta\n    " + SYN0),
        "if j > 1:", "the error does not show at the first steps; it shows at step 2",
    ),
    (
        "no step", ("range(4)", "range(0)"),
        "for j in range(0):", "the loop runs no step: give range a positive number",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "text", "said"),
    [row[1:] for row in WRONG_LINES],
    ids=[row[0] for row in WRONG_LINES],
)
def test_a_wrong_line(change: tuple[str, str], text: str, said: str) -> None:
    result = check(change)
    assert (result.state, result.code) == (WRONG, 1)
    assert result.text.startswith(text)
    lines = solution("two_layer", change).splitlines()
    assert lines[result.line - 1].strip() == result.text
    assert said in [result.said, *result.remarks, ""]
    if not said:
        assert re.match(r"sets \w+\[\d, \d\] to \S+; autograd gives \S+$", result.said)


def test_weights_that_move_too_early() -> None:
    """The error goes back through the old syn1; the remark names the line that changed it."""
    back, move = "    l1_error = l2_delta @ syn1.T  # (4, 4)\n", "    syn1 += l1.T @ l2_delta"
    result = check((back, ""), (move, f"{move}\n{back}\n  #"), level="three_layer")
    assert result.name == "l1_delta"  # l1_error does not exist there yet
    early = solution("three_layer").replace(f"{move}  # (4, 1)\n", "")
    early = early.replace(back, f"{move}\n{back}")
    result = grade(LEVELS["three_layer"], early, "file.py")
    assert (result.state, result.name) == (WRONG, "l1_error")
    line = early.splitlines().index(move) + 1
    assert f"it reads syn1 after line {line} changed it: update the weights last" in result.remarks


def test_weights_that_start_at_0_hide_nothing() -> None:
    """The speed and the biases are 0 at the first step."""
    result = check(("momentum * v1 + syn1_update", "syn1_update"), level="momentum")
    assert (result.state, result.name) == (WRONG, "v1")
    assert result.remarks == [
        "the error does not show at the first step; it shows with other weights"
    ]
    assert check((" + bias1)", ")"), level="bias").name == "l2"


def test_right_in_other_words() -> None:
    """The blog's grouping is ROUNDING and right; so are helpers, aliases and additional lines."""
    blog = check((L1_DELTA, "l1_delta = l1_error * (l1 * (1 - l1))"), steps=2000)
    assert (blog.state, blog.verdicts["l1_delta"], blog.verdicts["syn0"]) == (
        RIGHT, "ROUNDING", "EXACT",
    )  # fmt: skip
    assert check(("    l0 = X  # (4, 3)\n", ""), ("l0", "X")).state == RIGHT
    assert check((L1_ERROR, "l1_error = y.clone()\n    l1_error -= l1")).state == RIGHT
    assert check((L1_ERROR, "l1_error = y.clone()\n    l1_error.sub_(l1)")).state == RIGHT
    assert check((SYN0, f"if j % 2 == 0: print(j)\n    {SYN0}")).state == RIGHT


def test_break_ends_the_training() -> None:
    result = check((SYN0, f"if j == 2: break\n    {SYN0}"), steps=1000)
    assert (result.state, result.errors[-1][0]) == (RIGHT, 2)


OTHERS = [
    ("dots in a term", (L1_ERROR, "l1_error = y - ..."), BLANK, "is not filled in yet"),
    ("None", (L1_ERROR, "l1_error = None"), BLANK, "is not filled in yet"),
    ("renamed", ("l1_error", "miss"), MISSING, "no line assigns l1_error; the check needs"),
    ("no such name", (L1_ERROR, "l1_error = y - l3"), STOPS, "does not run: NameError: name 'l3'"),
    (
        "shapes", (SYN0, "syn0 += l0 @ l1_delta"), STOPS,
        "does not run: RuntimeError: mat1 and mat2 shapes cannot be multiplied (4x3 and 4x1)",
    ),
    ("exit", (SYN0, f"import sys; sys.exit()\n    {SYN0}"), STOPS, "ends the program: remove"),
    ("input", (SYN0, f"input()\n    {SYN0}"), STOPS, "does not run: EOFError"),
    ("too deep", ("torch.sigmoid(x)", "sigmoid(x)"), STOPS, "does not run: RecursionError"),
    ("after the loop", ("# (3, 1)\n", "#\nprint(l9)\n"), STOPS, "does not run: NameError"),
    ("late", (SYN0, f"if j == 3: l9\n    {SYN0}"), STOPS, "does not run: NameError"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "state", "said"), [row[1:] for row in OTHERS], ids=[row[0] for row in OTHERS]
)
def test_a_line_that_cannot_be_judged(
    change: tuple[str, str], state: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())  # as in the separate process
    result = check(change)
    assert (result.state, result.code) == (state, 1)
    assert result.said.startswith(said)
    assert result.verdicts["l0"] == "EXACT"  # the lines above are checked all the same


def test_a_renamed_value_is_pointed_at() -> None:
    assert check(("l1_error", "miss")).remarks == ["did you rename it to miss?"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of numpy, on torch tensors
def test_an_error_in_a_helper_names_the_caller() -> None:
    result = check(("l0 @ syn0", "np.dot(l0, syn0)"))
    assert (result.line, result.text) == (7, "return torch.sigmoid(x)")
    assert result.remarks[1:] == [
        "called from line 19",
        "np.dot and similar functions return numpy arrays; with torch tensors use @",
    ]


@pytest.mark.parametrize(
    ("change", "said", "back"),
    [
        (("X = torch", "Z = torch"), "X is missing", "X = torch.tensor([[0, 0, 1]"),
        (("float64", "float32"), "gives X a value that is not", "X = torch.tensor([[0, 0, 1]"),
        (
            ("[1, 1, 1]]", "[1, 1, 0]]"),
            "gives X a value that is not",
            "X = torch.tensor([[0, 0, 1]",
        ),
        (
            ("np.random.seed(1)", "np.random.seed(2)"),
            "gives syn0 a value that is not",
            "np.random.seed(1)",
        ),
        (("l0 = X", "X = X * 2; l0 = X"), "changes X, which is data", ""),
    ],
)
def test_a_changed_original_line_is_reported(change: tuple[str, str], said: str, back: str) -> None:
    result = check(change)
    assert (result.state, result.code) == (CHANGED, 2)
    assert result.said.startswith(said)
    assert "".join(result.put_back).startswith(back)


def test_changed_masks_of_dropout_are_reported() -> None:
    result = check((".to(X)", ".to(X) * 2"), level="dropout")
    assert (result.state, result.code) == (CHANGED, 2)
    assert result.put_back[0].startswith("mask1 = torch.from_numpy(np.random.binomial")


def test_a_changed_line_of_the_loop_is_reported() -> None:
    result = check(("correction=0", "correction=1"), level="batch_norm")
    assert (result.state, result.name) == (WRONG, "norm1")
    assert [line.partition(" = ")[0] for line in result.put_back] == ["rstd1"]


NUMPY = (
    ("torch.tensor(", "np.array("), ("dtype=torch.float64", "dtype=float"),
    ("torch.from_numpy(2 * np.random.random((3, 1)) - 1)", "2 * np.random.random((3, 1)) - 1"),
    ("torch.sigmoid(x)", "1 / (1 + np.exp(-x))"), ("l0 @ syn0", "np.dot(l0, syn0)"),
)  # fmt: skip


def test_for_numpy_code_only_numbers_are_compared() -> None:
    right = check(*NUMPY, (L1_DELTA, "l1_delta = l1_error * (l1 * (1 - l1))"), steps=2000)
    assert right.state == RIGHT
    assert "cannot be traced" in right.why_numbers
    assert right.verdicts["l1_delta"] == "UNDECIDED"
    wrong = check(*NUMPY, (L1_DELTA, "l1_delta = l1_error * l1"))
    assert (wrong.state, wrong.name) == (WRONG, "l1_delta")


# -- on the command line


def test_a_right_file(capfd: pytest.CaptureFixture[str]) -> None:
    done = practice("file.py", "--json", "out.json", file=solution(steps=400))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("file.py, level two_layer: every line is right\n")
    assert "  right           l0, l1, l1_error, l1_delta, syn0\n" in done.stdout
    assert "  error at step        0  0.5172   \u2588\u2588\u2588" in done.stdout
    assert re.search(r"\n {21}399  0\.0\d+ +\u2588+\n", done.stdout)
    assert "  target y        0        0        1        1\n" in done.stdout
    command = "python -m compare practice new three_layer.py --level three_layer"
    assert done.stdout.endswith(f"  next level      {command}\n")
    assert max(map(len, done.stdout.splitlines())) <= 16 + len(command) + 2
    result = json.loads(Path("out.json").read_text())
    assert (result["state"], result["level"], result["next"]) == (RIGHT, "two_layer", "three_layer")
    assert result["verdicts"]["l1"] == "EXACT"


@pytest.mark.long
def test_first_a_hint_then_more_then_the_line() -> None:
    assert practice("new", "file.py").stdout == (
        "file.py: level two_layer, 4 lines to fill in, then run\n"
        "  python -m compare practice file.py\n"
    )
    blank = LEVELS["two_layer"].blanks["l1"]
    for words, shown in (
        ([], [True, False, False]), (["--hint"], [True, True, False]), (["--answer"], [True] * 3)
    ):  # fmt: skip
        done = practice("file.py", *words)
        assert done.returncode == 1
        text = " ".join(done.stdout.split())
        assert [t in text for t in (blank.hint, blank.more, blank.answer)] == shown
        assert "line 23 l1 = ... # (4, 1) Start here (4 lines to fill in)." in text
        assert "Traceback" not in text + done.stderr


def test_an_endless_loop_is_stopped() -> None:
    text = solution("two_layer", (L1_ERROR, f"{L1_ERROR}\n    while True: pass"))
    started = time.monotonic()
    done = practice("file.py", "--timeout", "15", file=text)
    assert time.monotonic() - started < 90
    assert done.returncode == 2
    said = " ".join(done.stdout.split())
    assert "line 23 while True: pass" in said
    assert "was still running after 15 seconds and was stopped" in said
    assert "--timeout SECONDS allows more time" in said


def test_a_flood_of_output_is_cut() -> None:
    text = solution("two_layer", (L1_ERROR, f"print('flood' * 40)\n    {L1_ERROR}"), steps=1000)
    done = practice("file.py", file=text)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "  | " + "flood" * 15 + "f..."
    assert lines[8] == "  | ... 992 more lines that the file printed, not shown"
    assert lines[9] == "file.py, level two_layer: every line is right"


@pytest.mark.long
def test_the_end_of_the_process_is_explained() -> None:
    done = practice("file.py", file=solution("two_layer", (L1_ERROR, "import os; os._exit(7)")))
    assert done.returncode == 2
    assert "the file ended its own process with exit code 7." in done.stdout
    text = solution("two_layer", (L1_ERROR, "import os; os.kill(os.getpid(), 9)"))
    done = practice("file.py", file=text)
    assert done.returncode == 2
    assert "was ended by SIGKILL (out of memory?)" in done.stdout


def test_memory_has_a_limit() -> None:
    text = solution("two_layer", (L1_ERROR, f"x = ' ' * 10**10\n    {L1_ERROR}"))
    done = practice("file.py", file=text)
    assert done.returncode == 1
    assert "does not run: MemoryError." in done.stdout


def test_json_on_standard_output_stands_alone() -> None:
    done = practice("file.py", "--json", "-", file=solution("two_layer", (L1_ERROR, "print(7)")))
    result = json.loads(done.stdout)
    assert (result["state"], result["name"], result["printed"]) == (MISSING, "l1_error", ["7"])
    assert result["hint"] == LEVELS["two_layer"].blanks["l1_error"].hint
    assert "no line assigns l1_error" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("none.py", "none.py: no such file; python -m compare practice new none.py writes one"),
        (".", ". is a folder: name the practice file"),
        ("latin.py", "latin.py is not UTF-8 (byte 0xe9 in line 2): save it as UTF-8"),
        ("empty.py", "empty.py has no comment that names its level: add --level NAME"),
        ("empty.py --level two", "unknown level 'two': did you mean two_layer"),
        ("empty.py --level bias", "empty.py has no `for` loop at the left margin that assigns any"),
        ("empty.py --timeout 0", "--timeout 0: give seconds, above 0"),
        ("empty.py --timeout nan", "--timeout nan: give seconds, above 0"),
        ("empty.py --timeout soon", "argument --timeout: invalid float value: 'soon'"),
        ("empty.py other.py", "practice empty.py other.py: name one file"),
        ("empty.py --json none/out", "--json none/out: no file can be written there"),
        ("new", "practice new: name one file"),
        ("new empty.py", "empty.py exists, and practice new never overwrites a file"),
        ("new other.py --level zzz", "unknown level 'zzz': choose from two_layer, three_layer"),
        (
            "new other.py --hint",
            "practice new only writes the file: use --hint, --answer and --json",
        ),
        ("", "the following arguments are required: [new] FILE"),
    ],
)
def test_bad_input_gets_one_line(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("latin.py").write_bytes(b"# practice, level bias\n# caf\xe9\n")
    Path("empty.py").write_text("")
    assert main(["practice", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"compare: {message}")
    assert err.count("\n") == 1
    assert Path("empty.py").read_text() == ""


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        ((L1_ERROR, "l1_error = y -"), 22, "is not Python: SyntaxError: invalid syntax."),
        ((L1_ERROR, "return l1"), 22, "is not Python: SyntaxError: 'return' outside function."),
        ((L1_ERROR, f"\t{L1_ERROR}"), 22, "is not Python: IndentationError: unexpected indent."),
    ],
)
def test_what_is_not_python(
    change: tuple[str, str], line: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file.py").write_text(solution("two_layer", change))
    assert main(["practice", "file.py"]) == 2
    out = " ".join(capsys.readouterr().out.split())
    assert f" line {line} " in out
    assert said in out


def test_ctrl_c_ends_the_users_code_too() -> None:
    text = solution("two_layer", (L1_ERROR, "open('up', 'w').close()\n    while True: pass"))
    Path("file.py").write_text(
        text.replace("import numpy", "import os; print(os.getpid())\nimport numpy")
    )
    run = subprocess.Popen(
        [sys.executable, "-m", "compare", "practice", "file.py"], text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    while not Path("up").exists():
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=30)
    assert (run.returncode, out) == (130, "")
    assert err == "compare: stopped before anything was checked\n"


def test_writing_and_refusing_do_not_import_torch() -> None:
    code = (
        "import sys; from compare.cli.main import main\n"
        "assert main(['practice', 'new', 'a.py']) == 0\n"
        "assert main(['practice', 'b.py']) == 2\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
