"""A run folder: its files, one process's at a time, cut back to what a checkpoint knows of it."""

import fcntl
import os
from pathlib import Path

from compare.errors import BadInput

RESULT, STEPS, CHECKPOINT = "result.json", "steps.npz", "checkpoint"


class Lock:
    """Holds a folder until it is closed or the process ends, however it ends.

    Raises BadInput where another process, or another run of this one, holds it.
    """

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise BadInput(f"run {path.name} is going on: wait for it, or stop it first") from None
        except OSError:  # a file system without locks
            pass

    def close(self) -> None:
        """Let others have it."""
        if self.file >= 0:
            os.close(self.file)
        self.file = -1


def cut_back(path: Path, files: dict[str, tuple[str, int]]) -> None:
    """Cut event files back to their lengths, and remove what was written after the checkpoint.

    `files` holds a name and a length for each sub-folder. Nothing is touched, and BadInput raised,
    where one of them is missing or shorter.
    """
    lengths = {path / part / name: length for part, (name, length) in files.items()}
    for file, length in lengths.items():
        found = file.stat().st_size if file.is_file() else 0
        if found < length:
            raise BadInput(
                f"run {path.name}: {file.relative_to(path)} has {found:,} bytes and had {length:,} "
                "at the checkpoint: put it back, or run it anew"
            )
    whole = (RESULT, STEPS, CHECKPOINT)
    cut_off = [file for name in whole for file in path.glob(f".{name}.*")]  # by a kill
    for file in [*path.glob("events.*"), *path.glob("*/events.*"), *cut_off, path / RESULT]:
        if file not in lengths:
            file.unlink(missing_ok=True)
    for file, length in lengths.items():
        os.truncate(file, length)
