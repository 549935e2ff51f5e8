"""Damaged files: each command reports them in one line and changes nothing outside its folder.

2,000 randomly damaged files, and other kinds of file system entries in their places, are read by
`runs`, `diff`, `run --resume` and `run --data`, called as from the command line.
"""

import contextlib
import functools
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from compare.cases.cases import CASES
from compare.cli.main import main
from compare.cli.parser import parser
from compare.training.harness import Run
from tests import damage
from tests.resumed import copied

ONE, OTHER, STOPPED = (
    "2026-01-01_00-00-00_one", "2026-01-01_00-00-01_other", "2026-01-01_00-00-02_stopped"
)  # fmt: skip
PARTS = ("result.json", "steps.npz", "checkpoint", "manual", "autograd", "compare")
TABLE = "one,two,kind\n" + "".join(f"{k % 7},{k % 5 - 0.5},{'ab'[k % 2]}\n" for k in range(14))


class World:
    """A folder with two finished runs, a stopped run and a table, and a folder outside the runs."""

    def __init__(self, top: Path) -> None:
        self.whole, self.top = top / "whole", top / "here"
        runs, outside = self.whole / "runs", self.whole / "outside"
        for name, case in ((ONE, "two_layer"), (OTHER, "three_layer_blog_grouping")):
            words = f"run {case} --steps 9 --lift none --quiet --log-dir {top / name}"
            assert main(words.split()) in (0, 1)
            shutil.copytree(next((top / name).iterdir()), runs / name)
        kept = copied(Run(CASES["two_layer"], steps=9, lift="none"), top, at=3)[1]
        shutil.copytree(kept, runs / STOPPED)
        (runs / "my.csv").write_text(TABLE)
        (outside / "folder").mkdir(parents=True)
        (outside / "thesis.txt").write_text("years of work\n" * 99)
        (outside / "my.csv").write_text(TABLE)
        for part in PARTS:
            copy = shutil.copytree if (kept / part).is_dir() else shutil.copyfile
            copy((kept if (kept / part).exists() else runs / ONE) / part, outside / part)
        os.mkfifo(outside / "fifo")
        self.data = {
            name: (runs / ONE / name).read_bytes() for name in ("result.json", "steps.npz")
        }
        self.data |= {"checkpoint": (kept / "checkpoint").read_bytes(), "my.csv": TABLE.encode()}

    @property
    def outside(self) -> Path:
        """The folder that no command may change."""
        return self.top / "outside"

    def anew(self) -> Path:
        """Restore every file that has changed; return the folder of the runs."""
        self.top.mkdir(exist_ok=True)
        whole, here = damage.seen(self.whole), damage.seen(self.top)
        for name in sorted(here, reverse=True):  # the contents of a folder come before the folder
            if here[name] != whole.get(name):
                path = self.top / name
                path.rmdir() if stat.S_ISDIR(here[name][0]) else path.unlink()
        for name in sorted(whole):
            if here.get(name) != whole[name]:
                if stat.S_ISDIR(whole[name][0]):
                    (self.top / name).mkdir()
                elif stat.S_ISFIFO(whole[name][0]):
                    os.mkfifo(self.top / name)
                else:
                    shutil.copy(self.whole / name, self.top / name)
        return self.top / "runs"

    def wrong(self, *only: str) -> list[str]:
        """Run the commands named in `only`; return a line for each that does not end properly."""
        commands = {
            "runs": ["runs"],
            "diff": ["diff", ONE, OTHER],
            "diff back": ["diff", OTHER, ONE],
            "resume": ["run", "--resume", STOPPED],
            "data": ["run", "network", "--data", "runs/my.csv", "--no-board", "--steps", "2"],
        }
        found = []
        for name in only:
            own = f"runs/{STOPPED}" if name == "resume" else ""
            more = ["--quiet", "--lift", "none"] if name in ("resume", "data") else []
            codes = (0,) if name == "runs" else (0, 1, 2)  # `runs` lists the other runs in any case
            if wrong := damage.wrong_end(self.top, own, *commands[name], *more, codes=codes):
                found.append(f"{name}: {wrong}")
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compare.training.chunking.STEPS", 3)
        patch.setattr(
            "compare.cli.main.parser", functools.cache(parser)
        )  # built once for thousands of commands
        yield World(tmp_path_factory.mktemp("damage"))


Search = Callable[[World, st.DataObject], None]


def drawn(count: int, *, parts: int) -> Callable[[Search], Callable[..., None]]:
    """Run the test on `count` examples, the same each time, in parts; failing examples shrink."""

    def made(trial: Search) -> Callable[..., None]:
        @pytest.mark.long
        @pytest.mark.parametrize("part", range(parts))
        def test(world: World, part: int) -> None:
            @seed(part)
            @settings(
                max_examples=count // parts, deadline=None, database=None,
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(draw=st.data())
            def tried(draw: st.DataObject) -> None:
                trial(world, draw)

            tried()

        test.__doc__ = trial.__doc__
        return test

    return made


def test_what_is_whole_goes_on(world: World) -> None:
    """An undamaged checkpoint resumes, also after its bytes were unpacked and sealed again.

    Otherwise the tests below would prove nothing.
    """
    for seal in (False, True):
        file = world.anew() / STOPPED / "checkpoint"
        if seal:
            file.write_bytes(damage.resealed(file.read_bytes(), lambda kept: kept))
        words = ["run", "--resume", STOPPED, "--quiet"]
        assert damage.wrong_end(world.top, f"runs/{STOPPED}", *words, codes=(0,)) is None
        assert (file.parent / "result.json").exists()


@drawn(500, parts=2)
def test_a_damaged_result(world: World, draw: st.DataObject) -> None:
    """The result.json belongs to a finished run, or lies next to a checkpoint."""
    data, runs = draw.draw(damage.result(world.data["result.json"])), world.anew()
    for name in (ONE, STOPPED):
        (runs / name / "result.json").write_bytes(data)
    assert world.wrong("runs", "diff", "diff back", "resume") == []


@drawn(400, parts=4)
def test_a_damaged_record(world: World, draw: st.DataObject) -> None:
    data, runs = draw.draw(damage.steps(world.data["steps.npz"])), world.anew()
    for name in (ONE, STOPPED):
        (runs / name / "steps.npz").write_bytes(data)
    assert world.wrong("diff", "diff back", "resume") == []


@drawn(600, parts=2)
def test_a_damaged_checkpoint(world: World, draw: st.DataObject) -> None:
    """The digest may be recomputed to match: it is a checksum and not a signature."""
    runs = world.anew()
    data = draw.draw(damage.checkpoint(world.data["checkpoint"], world.outside))
    (runs / STOPPED / "checkpoint").write_bytes(data)
    assert world.wrong("resume") == []


@drawn(500, parts=2)
def test_a_damaged_table(world: World, draw: st.DataObject) -> None:
    runs = world.anew()
    (runs / "my.csv").write_bytes(draw.draw(damage.table(world.data["my.csv"])))
    assert world.wrong("data") == []


def _replaced(thing: str, what: str, world: World) -> list[str]:
    """Replace a part of a run, or the table, by `thing`; return how the commands misbehave."""
    if what == "my.csv" and "fifo" in thing:
        pytest.skip("a table's pipe is waited for, and that is said: tests/test_table_file.py")
    runs = world.anew()
    paths = [runs / what] if what == "my.csv" else [runs / name / what for name in (ONE, STOPPED)]
    for path in paths:
        if not os.path.lexists(path):
            path.touch()
        try:
            damage.replace(path, thing, world.outside)
        except PermissionError:
            pytest.skip("making a device takes more rights")
    return world.wrong(*["data"] if what == "my.csv" else ["runs", "diff", "diff back", "resume"])


@pytest.mark.parametrize("thing", ["fifo", "link to a file outside", "folder"])
@pytest.mark.parametrize("what", ["result.json", "checkpoint", "my.csv"])
def test_another_thing_in_its_place(thing: str, what: str, world: World) -> None:
    assert _replaced(thing, what, world) == []


@pytest.mark.long
@pytest.mark.parametrize("thing", damage.THINGS)
@pytest.mark.parametrize("what", [*PARTS, "my.csv"])
def test_every_thing_in_every_place(thing: str, what: str, world: World) -> None:
    assert _replaced(thing, what, world) == []


@pytest.mark.long
@pytest.mark.parametrize("thing", damage.THINGS)
@pytest.mark.parametrize("part", ["manual", "autograd", "compare"])
def test_another_thing_in_the_place_of_an_event_file(part: str, thing: str, world: World) -> None:
    runs = world.anew()
    for name in (ONE, STOPPED):
        (file,) = (runs / name / part).iterdir()
        shutil.copyfile(file, world.outside / file.name)
        with contextlib.suppress(PermissionError):
            damage.replace(file, thing, world.outside)
    assert world.wrong("runs", "diff", "diff back", "resume") == []


@pytest.mark.parametrize("part", ["manual", "autograd", "compare"])
def test_curves_of_another_place_are_not_cut(part: str, world: World) -> None:
    """The curves are a link to a folder with files of the same names, or to one such file."""
    for linked in (False, True):
        runs = world.anew()
        folder = runs / STOPPED / part
        (file,) = folder.iterdir()
        (world.outside / part / file.name).write_bytes(file.read_bytes() + b"more")
        path = folder if linked else file
        there = world.outside / part if linked else world.outside / part / file.name
        damage.replace(path, "nothing", world.outside)
        path.symlink_to(there)
        assert world.wrong("resume") == []


@pytest.mark.parametrize(
    "name", ["\x1b[2J\x1b]0;title\x07", "two\nlines", "\x9b31m", "a\rb", "\udcff", "\u202e", " "]
)
def test_a_run_whose_name_steers_the_terminal(
    name: str, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Control characters in a name do not reach the terminal and add no line to the list."""
    runs = world.anew()
    for old in (ONE, STOPPED):
        os.rename(runs / old, runs / f"2027-{old}{name}")
    (runs / OTHER).rename(runs / f"2028{name}")
    top = functools.partial(damage.wrong_end, world.top)
    assert top("", "runs") is None
    assert top("", "diff", f"2027-{ONE}{name}", f"2028{name}") is None
    assert top(f"runs/2027-{STOPPED}{name}", "run", "--resume", f"2027-{STOPPED}{name}") is None
    monkeypatch.chdir(world.top)
    capsys.readouterr()
    assert main(["runs"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 3
