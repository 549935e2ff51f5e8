"""The documents match the code: the names in them exist, and their code runs.

Checked in README.md, CONTRIBUTING.md and docs/: links, paths of files, commands with their options,
and dotted names. Python and shell blocks in docs/ run in a copy of the sources; for those of the
README see tests/test_readme.py. A page of docs/how-to/ is followed in order: its diffs are applied,
its commands run, and a text block after a command must occur in that command's output.
"""

import importlib
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from compare.cli.parser import COMMANDS, Parser, module_of
from compare.proof.verdict import Verdict
from tests.documents import (
    ROOT,
    SOURCES,
    Block,
    apply,
    blocks,
    copy_sources,
    done,
    numbers_masked,
    run_block,
)  # fmt: skip

GUIDES = sorted((ROOT / "docs/how-to").glob("*.md"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FOLDERS = (*SOURCES, "tests", "docs", ".ci")  # a path that begins with one of them must exist
RUNS = ("python -m compare", "torchrun")  # shell blocks in docs/ that begin with one of these run


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code(document: str) -> list[str]:
    """Return the code in a document: the text between backticks, and the fenced blocks."""
    spans = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```$", "", document, flags=re.M | re.S))
    return [
        *(" ".join(span.split()) for span in spans),
        *(block.text for block in blocks(document)),
    ]


def heading_links(document: str) -> set[str]:
    """Return the anchors that GitHub creates for a document's headings."""
    headings = re.findall(r"^#+ (.*)$", document, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(document: str, folder: Path) -> list[str]:
    """Return the broken relative links of a document that lies in `folder`."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", document):
        path, _, anchor = link.partition("#")
        if "://" in link or link.startswith("mailto:"):
            continue
        target = folder / path
        if path and not target.exists():
            dead.append(link)
        elif anchor:
            there = target.read_text() if path else document
            dead += [link] * (anchor not in heading_links(there))
    return dead


def lost_files(document: str) -> list[str]:
    """Return the paths in a document's code that match no file; `*` matches any name.

    A file that the reader creates must be announced: new file `compare/cli/name.py`.
    """
    made = set(re.findall(r"[Nn]ew file\s+`([^`]+)`", document))
    folders = "|".join(map(re.escape, FOLDERS))
    pattern = rf"(?<![\w./-])(?:(?:{folders})/[\w./*-]*|[A-Z]+\.md|pyproject\.toml|\.[\w-]+\.yaml)"
    paths = {path.rstrip(".") for text in code(document) for path in re.findall(pattern, text)}
    return sorted(path for path in paths - made if not any(ROOT.glob(path.rstrip("/"))))


@cache
def options(command: str) -> set[str]:
    """Return the options of a command."""
    parsers: list[Parser] = []

    def new(**words: Any) -> Parser:
        words.pop("help", None)  # an argument of add_parser only
        parsers.append(Parser(prog=command, **words))
        return parsers[-1]

    module_of(command).add(new)
    return {option for action in parsers[0]._actions for option in action.option_strings}


def unknown_commands(document: str) -> list[str]:
    """Return the commands and options of `python -m compare` in a document that do not exist.

    A command or an option that the reader adds must be announced: new command `name`, new option
    `--name`.
    """
    made = set(re.findall(r"[Nn]ew (?:command|option)\s+`([^`]+)`", document))
    unknown = []
    for text in code(document):
        for words in re.findall(r"python -m compare(?![.\w])([^\n|&;>()\"]*)", text):
            command, *more = words.split() or ["run"]
            if command.startswith("-"):
                command, more = "run", [command, *more]
            if command not in (*COMMANDS, "COMMAND", *made):
                unknown.append(command)
            elif command in COMMANDS:
                known = options(command) | made | {"--list", "--help", "-h"}
                names = {word.partition("=")[0].strip("[]") for word in more if word[0] in "-["}
                unknown += sorted(f"{command} {name}" for name in names - {"-", "..."} - known)
    return unknown


def unknown_modules(document: str) -> list[str]:
    """Return the modules that a document runs with `python -m` and that do not exist."""
    names = {name for text in code(document) for name in re.findall(r"python3? -m ([\w.]+)", text)}
    return sorted(name for name in names if not find_spec(name.rstrip(".")))


def unknown_names(document: str) -> list[str]:
    """Return the dotted names in a document's code that do not exist in the packages."""
    pattern = rf"(?<![\w./-])(?:{'|'.join((*SOURCES, 'tests'))})(?:\.[A-Za-z_]\w*)+(?![\w/])"
    names = {name for text in code(document) for name in re.findall(pattern, text)}
    made = re.findall(r"[Nn]ew file\s+`([^`]+)\.py`", document)
    names -= {name for path in made for name in names if name.startswith(path.replace("/", "."))}
    return sorted(name for name in names if not _resolves(name))


def _resolves(name: str) -> bool:
    module, *rest = name.split(".")
    value: Any = importlib.import_module(module)
    for part in rest:
        module = f"{module}.{part}"
        if hasattr(value, part):
            value = getattr(value, part)
        elif hasattr(value, "__path__") and find_spec(module):
            value = importlib.import_module(module)
        else:
            return False
    return True


@pytest.mark.parametrize("path", DOCUMENTS, ids=short)
def test_what_a_document_names_exists(path: Path) -> None:
    document = path.read_text()
    assert not dead_links(document, path.parent)
    assert not lost_files(document)
    assert not unknown_commands(document)
    assert not unknown_modules(document)
    assert not unknown_names(document)


@pytest.mark.parametrize("verdict", Verdict)
def test_a_verdict_has_its_row_in_a_table(verdict: str) -> None:
    rows = [line for path in DOCUMENTS for line in path.read_text().splitlines()]
    row = re.compile(rf"\| \W*{verdict}\b")
    assert any(map(row.match, rows)), f"no table says what {verdict} means"


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (lambda text: dead_links(text, ROOT), "[a](README.md)", "[a](READYOU.md)"),
        (lambda text: dead_links(text, ROOT), "# So it is\n[a](#so-it-is)", "[a](#so-it-is)"),
        (lost_files, "`compare/proof/bits.py`", "`compare/proof/bytes.py`"),
        (lost_files, "```sh\ncat docs/*.md\n```\n", "```sh\ncat docs/*.rst\n```\n"),
        (lost_files, "New file `tests/test_x.py`, see `tests/test_x.py:3`", "`tests/test_x.py:3`"),
        (lost_files, "`runs/x`, `docs/`", "`CONTRIBUTE.md`"),
        (unknown_commands, "`python -m compare run X --steps 3`", "`python -m compare walk`"),
        (unknown_commands, "`python -m compare --seed 3`", "`python -m compare --seeds 3`"),
        (unknown_commands, "`python -m compare run [--json FILE|-]`", "`python -m compare run -q`"),
        (unknown_commands, "new command `walk`: `python -m compare walk`", "`python -m compare w`"),
        (unknown_modules, "`python -m compare.proof.kernels`", "`python -m compare.kernels`"),
        (unknown_names, "`compare.check`", "`compare.checks`"),
        (unknown_names, "`compare.cases.cases.CASES[...]`", "`compare.cases.cases.CASE`"),
        (unknown_names, "```text\ntests.test_fields.FIELDS\n```\n", "`tests.test_field.FIELDS`"),
    ],
)
def test_the_readers_of_documents_catch(check: Any, right: str, wrong: str) -> None:
    assert check(right) == []
    assert len(check(wrong)) == 1


def runnable(document: str) -> list[tuple[Block, str]]:
    """Return the blocks of a page that run, each with the output that the page shows for it.

    Python blocks run, and shell blocks that begin with an entry of RUNS. A block without a language
    that directly follows one of them shows its output; without it the output is "".
    """
    page = blocks(document)
    shown = {k: block.text for k, block in enumerate(page) if not block.language}
    return [
        (block, shown.get(k + 1, ""))
        for k, block in enumerate(page)
        if block.language == "python" or (block.language == "sh" and block.text.startswith(RUNS))
    ]


PAGES = {short(path): path.read_text() for path in DOCUMENTS[2:] if path not in GUIDES}


LONG = "compare bench", "torchrun", "--steps 2000"  # blocks with one of these take 10 s and more


@pytest.mark.parametrize(
    ("page", "block", "shown"),
    [
        pytest.param(
            page, block, shown, marks=pytest.mark.long if any(k in block.text for k in LONG) else ()
        )
        for page, text in PAGES.items()
        for block, shown in runnable(text)
    ],
)
def test_a_block_of_a_page_runs(page: str, block: Block, shown: str, tmp_path: Path) -> None:
    """The block prints the output on the page; digits are ignored: they depend on the processor."""
    printed = numbers_masked(run_block(block, copy_sources(tmp_path)))
    assert [line for line in numbers_masked(shown) if line not in printed] == []


def checkout(folder: Path) -> Path:
    """Return a copy of the checkout that is complete enough to run tests."""
    return copy_sources(
        folder, "tests", "docs", ".ci", "README.md", "CONTRIBUTING.md", "pyproject.toml"
    )


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_the_changes_of_a_guide_fit_the_sources(guide: Path, tmp_path: Path) -> None:
    """The diffs of a guide apply, and its last command shows the result."""
    page, folder = blocks(guide.read_text()), checkout(tmp_path)
    for block in page:
        if block.language == "diff":
            apply(block.text, folder)
    assert next(block for block in reversed(page) if block.language != "text").language == "sh"


def test_the_changes_of_all_guides_are_complete_together(tmp_path: Path) -> None:
    """With the diffs of all guides applied, every table has every row, and the files import."""
    folder = checkout(tmp_path)
    for guide in GUIDES:
        for block in blocks(guide.read_text()):
            if block.language == "diff":
                apply(block.text, folder)
    test = "python -m pytest -q -p no:cacheprovider tests/test_adding.py -k every_table"
    run_block(Block("sh", test), folder)


@pytest.mark.long
@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_a_guide_can_be_followed(guide: Path, tmp_path: Path) -> None:
    """Each command prints the output that the page shows; digits are ignored."""
    folder, printed, code = checkout(tmp_path), "", 0
    for block in blocks(guide.read_text()):
        if block.language == "diff":
            apply(block.text, folder)
        elif block.language == "sh":
            result = done(["bash", "-euo", "pipefail", "-c", block.text], folder)
            printed, code = result.stdout + result.stderr, result.returncode
        elif block.language == "text":
            lines = "\n".join(numbers_masked(printed))
            missing = [line for line in numbers_masked(block.text) if line not in lines]
            assert not missing, printed
    assert code == 0, printed


@pytest.mark.parametrize(
    ("diff", "message"),
    [
        ("+++ a.py\n@@\n one\n-three\n+two\n", "a.py has these lines 0 times"),
        ("+++ a.py\n@@\n same\n+two\n", "a.py has these lines 2 times"),
        ("+++ b.py\n@@\n one\n+two\n", "b.py: there is no such file"),
    ],
)
def test_a_diff_that_no_longer_fits_says_so(diff: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("one\ntwo\nsame\nsame\n")
    with pytest.raises(AssertionError, match=message):
        apply(diff, tmp_path)


def test_a_diff_is_made(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("one\ntwo\nthree\n")
    apply("+++ a.py\n@@\n-one\n+1\n two\n@@\n three\n+four\n+++ b.py\n@@\n+new\n", tmp_path)
    assert (tmp_path / "a.py").read_text() == "1\ntwo\nthree\nfour\n"
    assert (tmp_path / "b.py").read_text() == "new\n"
