"""A run folder: its files, one process's at a time, cut back to what a checkpoint knows of it."""

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from compare import untrusted
from compare.errors import BadInput

RESULT, STEPS, CHECKPOINT = "result.json", "steps.npz", "checkpoint"
SubRun = Literal["manual", "autograd", "compare"]
SUBRUNS: tuple[SubRun, ...] = get_args(SubRun)
EVENTS = "events.out.tfevents."  # what the files of curves are called, before a time and a process


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


def check_plain(path: Path) -> None:
    """Raise BadInput for a run folder with a link or no plain file where one is written.

    What leads out of the folder is somebody else's file.
    """
    for name in SUBRUNS:
        part = path / name
        if part.is_symlink() or (part.exists() and not part.is_dir()):
            raise BadInput(f"{part} is no folder of the run's own: put that back, or run it anew")
    for file in (path / name for name in (RESULT, STEPS, CHECKPOINT)):
        if why := untrusted.refusal(file):
            raise BadInput(why)


def cut_back(path: Path, files: Mapping[SubRun, tuple[str, int]]) -> None:
    """Cut event files back to their lengths, and remove what was written after the checkpoint.

    `files` holds a name and a length for each sub-folder. Nothing is touched, and BadInput raised,
    where one of them is missing, shorter, or leads elsewhere.
    """
    check_plain(path)
    lengths = {path / part / name: length for part, (name, length) in files.items()}
    for file, length in lengths.items():
        if why := untrusted.refusal(file):
            raise BadInput(why)
        found = file.stat().st_size if file.is_file() else 0
        if found < length:
            raise BadInput(
                f"run {path.name}: {file.relative_to(path)} has {found:,} bytes and had {length:,} "
                "at the checkpoint: put it back, or run it anew"
            )
    whole = (RESULT, STEPS, CHECKPOINT)
    cut_off = [file for name in whole for file in path.glob(f".{name}.*")]  # by a kill
    curves = [file for part in (".", *SUBRUNS) for file in (path / part).glob(f"{EVENTS}*")]
    for file in [*curves, *cut_off, path / RESULT]:
        if file not in lengths:
            file.unlink(missing_ok=True)
    for file, length in lengths.items():
        os.truncate(file, length)
