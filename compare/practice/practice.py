"""Has a practice file looked at by a process of its own: stopped at a limit, its output cut.

Imports no torch; that process does.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from compare.errors import BadInput
from compare.practice.exercise import DoesNotRun, read, text_of
from compare.practice.finding import STOPS, Finding
from compare.practice.levels import LEVELS, Level, find, said_by

_ROOT = Path(__file__).parents[2]
_GRACE = 30.0  # seconds for torch to load; the limit itself is the process's own to keep
_KEPT = 2000  # bytes of what a file prints, in
_LINES, _COLUMNS = 8, 76  # at most


@dataclass
class Printed:
    """What a file printed: its first lines, and how many more there were."""

    lines: list[str]
    cut: int


def level_of(path: Path, named: str | None) -> Level:
    """Return the level that was named, or that the file says; raises BadInput if neither."""
    said = named or said_by(text_of(path))
    if said is None:
        raise BadInput(
            f"{path} has no comment that says its level: "
            f"add --level NAME, one of {', '.join(LEVELS)}"
        )
    return find(said)


def look(path: Path, level: Level, seconds: float) -> tuple[Finding, Printed]:
    """Return what there is to say of a practice file, and what it printed.

    Raises BadInput for what cannot be read as one.
    """
    text = text_of(path)
    try:
        read(text, str(path), frozenset(level.blanks))
    except DoesNotRun as error:
        line = text.splitlines()[error.line - 1].strip() if error.line else ""
        return Finding(STOPS, f"is not Python: {error}", error.line, line), Printed([], 0)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result"
        code, printed = _run([str(path), level.name, str(result), str(seconds)], seconds)
        found = result.read_text(errors="replace") if result.exists() else ""
    return _finding(found, code, text, path, seconds), printed


def _run(words: list[str], seconds: float) -> tuple[int | None, Printed]:
    """Run the trial; return its exit code, None where it had to be killed, and what it printed."""
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "compare.practice.trial", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,  # so that whatever it starts ends with it
    )
    reader = _Reader(process)
    try:
        code: int | None = process.wait(seconds + _GRACE)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reader.join(1.0)
        if not reader.is_alive() and process.stdout:
            process.stdout.close()
    return code, reader.printed()


class _Reader(threading.Thread):
    """Reads all that a process prints, keeps its beginning, counts the lines of the rest."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        super().__init__(daemon=True)
        self.process, self.kept, self.lines = process, b"", 0
        self.start()

    def run(self) -> None:
        assert self.process.stdout
        while data := os.read(self.process.stdout.fileno(), 65536):
            self.kept += data[: _KEPT - len(self.kept)]
            self.lines += data.count(b"\n")

    def printed(self) -> Printed:
        """Return the first lines, of printable characters alone."""
        text = self.kept.decode(errors="replace")
        lines = [
            "".join(c if c.isprintable() else " " for c in line[:_COLUMNS])
            + ("..." if len(line) > _COLUMNS else "")
            for line in text.splitlines()[:_LINES]
        ]
        return Printed(lines, max(0, self.lines - len(lines)))


def _finding(found: str, code: int | None, text: str, path: Path, seconds: float) -> Finding:
    """Return what the trial wrote, or why it could not."""
    try:
        result = json.loads(found)
    except ValueError:
        pass
    else:
        if "fault" in result:
            raise RuntimeError(result["fault"])
        return Finding(**result)
    if code is None or found.startswith("Timeout"):
        shown = str(path).encode("ascii", "backslashreplace").decode()
        place = re.search(rf'File "{re.escape(shown)}", line (\d+)', found)
        line = int(place[1]) if place else 0
        said = (
            f"was still running after {seconds:g} seconds and was stopped there: does a loop end? "
            "--timeout SECONDS gives it longer"
        )
        return Finding(STOPS, said, line, text.splitlines()[line - 1].strip() if line else "")
    if code < 0:
        name = signal.Signals(-code).name
        why = ": was it out of memory?" if name == "SIGKILL" else ""
        return Finding(STOPS, f"the file's process was ended by {name}{why}")
    return Finding(STOPS, f"the file ended its process itself, with exit code {code}")
