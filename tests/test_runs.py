"""`runs` and `diff` list run folders; a report becomes an HTML page."""

import json
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from rich.console import Console

import compare
from compare.board.run_folder import EventFile
from compare.cases.cases import CASES
from compare.cli.main import main
from compare.errors import BadInput
from compare.training.harness import run


def _train(log_dir: Path, *words: str) -> None:
    assert main(["run", *words, "--log-dir", str(log_dir), "--quiet"]) in (0, 1)


def _lines(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_runs_are_listed_with_verdict_steps_and_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The oldest comes first; a stopped run has no verdict."""
    _train(tmp_path, "two_layer", "--steps", "7")
    _train(tmp_path, "dropout_as_published", "--steps", "1200")
    stopped = tmp_path / "2999-01-01_00-00-00_deep"
    stopped.mkdir()
    EventFile(stopped / "manual").close()
    (tmp_path / "2999-01-01_00-00-00_a_checkout/manual").mkdir(
        parents=True
    )  # like a checkout of this repository, which is not a run
    capsys.readouterr()
    assert main(["runs", "--log-dir", str(tmp_path)]) == 0
    head, one, two, three = _lines(capsys)
    assert head == ["run", "verdict", "steps", "seconds"]
    assert one[0].endswith("two_layer")
    assert one[1:3] == ["EXACT", "7"]
    assert two[0].endswith("dropout_as_published")
    assert two[1:3] == ["WRONG", "1,200"]
    assert three == [stopped.name, "stopped", "early"]


def test_diff_lists_differences_and_the_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _train(tmp_path, "three_layer", "--steps", "50")
    _train(tmp_path, "three_layer_blog_grouping", "--steps", "50")
    capsys.readouterr()
    assert main(["diff", "three_layer", "grouping", "--log-dir", str(tmp_path)]) == 1
    text = " ".join(word for line in _lines(capsys) for word in line)
    assert "verdict EXACT ROUNDING" in text
    assert "l1_delta first unequal None 0" in text
    assert "loss by hand at step 4," in text
    assert "environment" not in text  # it is the same
    assert main(["diff", "three_layer", "three_layer", "--log-dir", str(tmp_path)]) == 0
    assert "differ only in their times" in capsys.readouterr().out


def test_diff_of_missing_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _train(tmp_path, "two_layer", "--steps", "5")
    _train(tmp_path, "three_layer", "--steps", "5")
    (tmp_path / "2999_deep").mkdir()
    EventFile(tmp_path / "2999_deep/manual").close()
    capsys.readouterr()
    for names, message in (
        (["two_layer", "tow"], "unknown run 'tow'"),
        (
            ["layer", "deep"],
            "run 'layer': 2 names end in it; give a complete name, the newest is 20",
        ),
        (["two_layer", "deep"], "run 2999_deep has no result.json: it was stopped"),
    ):
        assert main(["diff", *names, "--log-dir", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err


class _Links(HTMLParser):
    """Collects every attribute that could load something, and every tag."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [f"{tag} {key}" for key, _ in attrs if key in ("src", "href", "srcset")]


def test_a_report_is_one_page_with_plots_and_no_links(tmp_path: Path) -> None:
    report = run(CASES["three_layer_blog_grouping"], steps=300)
    report.save(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    seen = _Links()
    seen.feed(text)
    assert seen.loads == []
    assert "url(" not in text
    assert "@import" not in text
    assert "width=device-width" in text  # a phone shows it at its own width
    assert seen.tags.count("svg") == 2
    assert seen.tags.count("polyline") == 3  # loss of both sides, and the largest difference
    for word in ("ROUNDING", "syn1_update", "worst at step", "python -m compare run"):
        assert word in text
    assert text.count("<tr>") >= 12


def test_a_page_escapes_names(tmp_path: Path) -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        return compare.name(x * 2, "<script>")

    report = compare.check(
        lambda grad_output: {"x": grad_output * 2, "<script>": grad_output},
        forward,
        (torch.ones(3),),
    )
    assert report.verdict == "EXACT", str(report)
    text = report._repr_html_()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        (100, "quantity shape compared equal bits max ulp verdict"),
        (60, "quantity shape equal bits max ulp verdict"),
        (50, "quantity equal bits max ulp verdict"),
        (30, "quantity verdict"),
    ],
)
def test_a_narrow_window_keeps_names_and_verdicts(width: int, titles: str) -> None:
    """Whole columns are left out; no text is cut."""
    report = run(CASES["momentum"], steps=3)
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(report, crop=False)
    lines = capture.get().splitlines()
    assert lines[0].split() == titles.split()
    assert "…" not in capture.get()
    for name, line in zip(report.quantities, lines[1:], strict=False):
        assert line.split()[0] == name
        assert line.split()[-1] == "EXACT"


def test_a_report_in_other_forms(tmp_path: Path) -> None:
    report = run(CASES["two_layer"], steps=5)
    report.save(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["verdict"] == "EXACT"
    report.save(str(tmp_path / "r.txt"))
    assert (tmp_path / "r.txt").read_text() == f"{report}\n"
    with pytest.raises(BadInput, match=r"r\.pdf: name a file that ends in \.html, \.json, \.txt"):
        report.save(tmp_path / "r.pdf")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "two_layer", "--html", "r.pdf"], "--html r.pdf: name a file that ends in .html"),
        (["run", "two_layer", "--html", "no/r.html"], "--html no/r.html: no file can be written"),
        (["run", "alpha", "--html", "r.html"], "--html r.html: case alpha trains several networks"),
    ],
)
def test_a_page_that_could_not_be_written(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--no-board", "--steps", "3"]) == 2
    assert message in capsys.readouterr().err


def test_html_on_the_command_line(tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    assert main(["run", "two_layer", "--steps", "5", "--no-board", "--html", str(page)]) == 0
    assert page.read_text().startswith("<!doctype html>")


def test_without_tensorboard_there_is_a_hint_and_no_board_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in [
        name for name in sys.modules if name.startswith(("tensorboard", "compare.board.run_folder"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    words = ["run", "two_layer", "--steps", "5", "--log-dir", str(tmp_path)]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "install tensorboard for curves (pip install tensorboard), or use --no-board" in error
    assert error.count("\n") == 1
    assert main([*words, "--no-board"]) == 0
