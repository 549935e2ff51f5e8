"""The run folder on disk: its file names, its lock, and how it is reset to a checkpoint."""

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
EVENTS = "events.out.tfevents."  # the prefix of event files, before a time and a process id


class Lock:
    """An exclusive lock on a run folder, held until `close` or the end of the process.

    Raises:
        BadInput: if another process, or another run of this process, holds it.
    """

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise BadInput(f"run {path.name} is still running: wait for it, or stop it") from None
        except OSError:  # a file system without locks
            pass

    def close(self) -> None:
        """Release the lock."""
        if self.file >= 0:
            os.close(self.file)
        self.file = -1


def check_plain(path: Path) -> None:
    """Check that a run folder has only regular files and folders where a run writes.

    A link could lead to another user's file.

    Raises:
        BadInput: for a link, or another kind of file.
    """
    for name in SUBRUNS:
        folder = path / name
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise BadInput(f"{folder} is not a folder: restore the run's own, or start a new run")
    for file in (path / name for name in (RESULT, STEPS, CHECKPOINT)):
        if why := untrusted.refusal(file):
            raise BadInput(why)


def cut_back(path: Path, files: Mapping[SubRun, tuple[str, int]]) -> None:
    """Truncate event files to their lengths at the checkpoint, and remove files written later.

    Args:
        path: the run folder.
        files: name and length in bytes of the event file in each sub-folder.

    Raises:
        BadInput: if one of these files is missing, shorter, or a link; nothing is changed then.
    """
    check_plain(path)
    lengths = {path / part / name: length for part, (name, length) in files.items()}
    for file, length in lengths.items():
        if why := untrusted.refusal(file):
            raise BadInput(why)
        size = file.stat().st_size if file.is_file() else 0
        if size < length:
            raise BadInput(
                f"run {path.name}: {file.relative_to(path)} has {size:,} bytes and had {length:,} "
                "at the checkpoint: restore it, or start a new run"
            )
    # a kill leaves temporary files of a write
    temporary = [f for name in (RESULT, STEPS, CHECKPOINT) for f in path.glob(f".{name}.*")]
    events = [f for name in (".", *SUBRUNS) for f in (path / name).glob(f"{EVENTS}*")]
    for file in [*events, *temporary, path / RESULT]:
        if file not in lengths:
            file.unlink(missing_ok=True)
    for file, length in lengths.items():
        os.truncate(file, length)
