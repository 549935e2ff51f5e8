"""Writing files: their modes, files that are refused in advance, pipes."""

import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from compare import files
from compare.cli.main import main
from compare.errors import BadInput


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in an empty folder, with the usual umask."""
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o022)
    yield tmp_path
    os.umask(before)


def mode(name: str) -> int:
    return stat.S_IMODE(Path(name).stat().st_mode)


def test_a_new_file_follows_the_umask() -> None:
    for mask in (0o022, 0o077, 0o002):
        os.umask(mask)
        files.save(Path("new"), "x")
        assert mode("new") == 0o666 & ~mask
        Path("new").unlink()


def test_an_old_file_keeps_its_mode() -> None:
    for old in (0o600, 0o640, 0o664):
        Path("old").write_text("")
        Path("old").chmod(old)
        files.save(Path("old"), "x")
        assert (mode("old"), Path("old").read_text()) == (old, "x")


def test_a_run_folder_is_private_under_a_private_umask() -> None:
    os.umask(0o077)
    words = "run two_layer --steps 3 --quiet --json s.json --html s.html"
    assert main(words.split()) == 0
    assert [mode(name) for name in ("s.json", "s.html")] == [0o600] * 2
    for file in Path("runs").rglob("*"):
        assert not stat.S_IMODE(file.stat().st_mode) & 0o077


def test_a_link_is_followed_and_a_long_name_is_written() -> None:
    Path("link").symlink_to("new")
    files.save(Path("link"), "x")
    assert (Path("link").is_symlink(), Path("new").read_text()) == (True, "x")
    files.check_can_hold("--json", "n" * 255)
    files.save(Path("n" * 255), "x")


def test_a_file_that_cannot_be_put_in_place_leaves_nothing() -> None:
    with pytest.raises(files.CannotWrite, match=r"cannot write none/x: No such file or directory"):
        files.save(Path("none/x"), "x")
    assert list(Path().iterdir()) == []


REFUSED = {
    "loop": "Too many levels of symbolic links",
    "n" * 256: "File name too long",
    "a_file/x": "Not a directory",
    "none/x": "No such file or directory",
    "new/": "it is a folder",
    "": "the name is empty",
    "/dev/full": "No space left on device",
    "/proc/x": "No such file or directory",
    "a\0b": "embedded null byte",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_could_not_be_written_is_refused_in_advance(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("loop").symlink_to("loop")
    Path("a_file").touch()
    assert main(["run", "--json", name]) == 2
    shown = name.replace("\0", "\\x00")
    message = f"--json {shown}: no file can be written there ({REFUSED[name]}): choose another path"
    assert capsys.readouterr() == ("", f"compare: {message}\n")
    assert {path.name for path in Path().iterdir()} == {"loop", "a_file"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run --html x.html --json x.html", "--html x.html: it is the file of --json"),
        ("run --html x.html --json ./d/../x.html", "--html x.html: it is the file of --json"),
        ("run network --data t.csv --json t.csv", "--json t.csv: it is the file of --data"),
        ("check f.py --json f.py", "--json f.py: it is the file of check f.py"),
        ("mutants f.py --save f.py", "--save f.py: it is the file of mutants f.py"),
        ("bench --json b --plot b", "--plot b: it is the file of --json"),
        ("run --html .html", "--html .html: name a file that ends in .html"),
        ("run --html d/.html", "--html d/.html: name a file that ends in .html"),
        (f"runs --log-dir {'n' * 300}", f"--log-dir {'n' * 300}: File name too long"),
        (f"run --log-dir {'n' * 300}", f"log folder {'n' * 300}: File name too long"),
        (f"run --resume {'n' * 300}", f"--resume {'n' * 300}: File name too long"),
        (f"run --steps {10**9 + 1}", "steps 1000000001: give at most 1,000,000,000"),
        (f"run alpha --steps {2**63}", f"steps {2**63}: give at most 1,000,000,000"),
    ],
)
def test_nothing_is_overwritten_and_the_option_is_named(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("d").mkdir()
    Path("f.py").write_text("")
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"compare: {message}")
    assert {path.name for path in Path().iterdir()} == {"d", "f.py"}


def test_devices_may_be_named_twice() -> None:
    words = "run two_layer --steps 3 --quiet --no-board --json /dev/null"
    assert main(words.split()) == 0
    files.check_apart({"command": "run", "json": "/dev/null", "html": "/dev/null"})


def test_a_pipe_without_a_reader_is_waited_for_with_a_message(
    capsys: pytest.CaptureFixture[str],
) -> None:
    os.mkfifo("pipe")
    files.check_can_hold("--json", "pipe")
    writer = threading.Thread(target=files.save, args=(Path("pipe"), "x" * 100_000))
    writer.start()
    writer.join(0.5)
    assert writer.is_alive()
    assert Path("pipe").read_text() == "x" * 100_000
    writer.join()
    assert capsys.readouterr().err == "compare: pipe: waiting for a reader of this pipe\n"


def test_a_pipe_or_device_is_written_directly() -> None:
    """/dev/fd/N of a shell's >(...) has no folder for a temporary file."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
        assert cat.stdin
        name = f"/dev/fd/{cat.stdin.fileno()}"
        files.check_can_hold("--json", name)
        files.save(Path(name), "text")
        assert cat.communicate()[0] == b"text"


def test_a_failure_has_its_reason_separately() -> None:
    with pytest.raises(BadInput) as caught:
        files.save(Path("none/x"), "x")
    assert isinstance(caught.value, files.CannotWrite)
    assert caught.value.why == "No such file or directory"
