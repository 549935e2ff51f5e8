"""Practice levels: one text yields template, hints and answers, and a wrong line is named."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compare.cases.cases import expected
from compare.errors import BadInput
from compare.practice.grader import grade
from compare.practice.levels import LEVELS, Level, find, level_name, new
from compare.practice.result import BLANK, RIGHT, STOPS, WRONG
from compare.training.sampling import draw
from tests.tenth import unless_chosen

EACH = pytest.mark.parametrize("level", LEVELS.values(), ids=list(LEVELS))
EACH_LINE = pytest.mark.parametrize(
    ("level", "name"),
    [
        pytest.param(
            level, name, id=f"{level.name}-{name}",
            marks=unless_chosen(f"a line of {level.name}: {name}"),
        )
        for level in LEVELS.values() for name in level.blanks
    ],
)  # fmt: skip


def short(text: str) -> str:
    """Return the text of a practice file with its training shortened to a few steps."""
    return re.sub(r"range\([\d_]+\)", "range(4)", text)


def with_line(level: Level, name: str, value: str) -> tuple[str, int]:
    """Return the solution with one name's right-hand side replaced, and the line number."""
    answer = level.blanks[name].answer
    left, right = answer.split("= ", 1)
    wrong = f"{left}= {value.format(right)}"
    text = short(level.solution).replace(f" {answer}  #", f" {wrong}  #")
    (line,) = (k for k, t in enumerate(text.splitlines(), 1) if f" {wrong}  #" in t)
    return text, line


@EACH
def test_the_solution_passes(level: Level) -> None:
    result = grade(level, short(level.solution), "file.py")
    assert (result.state, result.code, result.why_numbers) == (RIGHT, 0, "")
    assert list(result.verdicts) == ["l0", *level.blanks]
    assert set(result.verdicts.values()) <= {"EXACT", "ROUNDING"}
    if expected(level.case.network) == "EXACT" and level.case.network.alpha == 1:
        assert set(result.verdicts.values()) == {"EXACT"}


@EACH
def test_the_file_draws_what_the_harness_draws(level: Level) -> None:
    """A correct file trains the network of its case, also when it runs as a script of its own."""
    names: dict[str, Any] = {}
    exec(level.solution.partition("\nfor ")[0], names)
    case = level.case
    sample = draw(case, seed=1, population=1, dtype=torch.float64, device=torch.device("cpu"))
    for name, value in {"X": sample.X, "y": sample.y, **sample.state}.items():
        file = next((n for n, ref in level.names.items() if ref.lstrip("-") == name), name)
        if not name.startswith(("mean", "var")):
            assert torch.equal(names[file], value[0]), name
    exec(short(level.solution), names)
    for data in sample.steps(4):
        for name in data.keys() & {"mask1"}:
            last: Tensor = data[name]
            result = names[name]
    if case.network.dropout:
        assert torch.equal(result, last[0])


@EACH
def test_the_template_is_filled_in_line_by_line(level: Level) -> None:
    """While the blanks are filled in one by one, the check names the next blank each time."""
    text = short(level.template)
    assert text.count("= ...") == len(level.blanks)
    for k, (name, blank) in enumerate(level.blanks.items()):
        result = grade(level, text, "file.py")
        line = text.splitlines()[result.line - 1]
        assert (result.state, result.name, result.left) == (BLANK, name, len(level.blanks) - k)
        assert result.code == 1
        assert line.strip().startswith(f"{name} ")
        assert list(result.verdicts) == ["l0", *list(level.blanks)[:k]]
        text = text.replace(line.partition("  # (")[0].strip(), blank.answer, 1)
    assert text == short(level.solution)


@EACH_LINE
def test_a_wrong_line_is_the_one_that_is_named(level: Level, name: str) -> None:
    """A line with a wrong sign, or wrong in the seventh digit, is the only line named."""
    subtle = ["1.0000001 * ({})"] if level.name in ("two_layer", "batch_norm") else []
    for value in ("-({})", *subtle):
        text, line = with_line(level, name, value)
        result = grade(level, text, "file.py")
        assert (result.state, result.name, result.line, result.code) == (WRONG, name, line, 1)
        assert result.text == text.splitlines()[line - 1].strip()
        assert [n for n, verdict in result.verdicts.items() if verdict == "WRONG"] == [name]
        assert list(result.verdicts)[-1] == name


@EACH_LINE
def test_a_line_that_does_not_run_is_the_one_that_is_named(level: Level, name: str) -> None:
    text, line = with_line(level, name, "({}) / None")
    result = grade(level, text, "file.py")
    assert (result.state, result.name, result.line, result.code) == (STOPS, name, line, 1)
    assert result.said.startswith("does not run: TypeError: unsupported operand")
    assert name not in result.verdicts


@EACH
def test_hints_do_not_give_the_line_away(level: Level) -> None:
    for blank in level.blanks.values():
        right = blank.answer.split("= ", 1)[1]
        assert blank.hint
        assert blank.more
        assert right not in f"{blank.hint} {blank.more}"
        assert blank.hint not in level.template
        assert right not in level.template


def test_a_new_file_says_its_level_and_stands_alone(tmp_path: Path) -> None:
    for level in LEVELS.values():
        path = tmp_path / f"{level.name}.py"
        new(path, level)
        text = path.read_text(encoding="ascii")
        assert level_name(text) == level.name
        assert f"python -m compare practice {path}\n" in text
        assert text.endswith(level.template)
        assert max(map(len, level.template.splitlines())) <= 100


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("mine")
    with pytest.raises(BadInput, match=r"mine\.py exists, and practice new never"):
        new(path, LEVELS["bias"])
    assert path.read_text() == "mine"
    (tmp_path / "link.py").symlink_to(tmp_path / "nowhere.py")
    with pytest.raises(BadInput, match="exists, and practice new"):
        new(tmp_path / "link.py", LEVELS["bias"])
    with pytest.raises(BadInput, match=r"cannot write .*: No such file or directory; name another"):
        new(tmp_path / "none" / "mine.py", LEVELS["bias"])


def test_levels_lead_from_one_to_the_next() -> None:
    assert [level.next for level in LEVELS.values()] == [*list(LEVELS)[1:], None]
    with pytest.raises(BadInput, match="unknown level 'three': did you mean three_layer"):
        find("three")
