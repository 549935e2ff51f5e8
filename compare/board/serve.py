"""`python -m compare board`: TensorBoard on the run folders, as they should be looked at."""

import contextlib
import io
import logging
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from compare.checkpoint.folder import EVENTS
from compare.errors import BadInput
from compare.interrupts import stop
from compare.training.downsample import MAX_BUCKETS

HOST = "127.0.0.1"
_TRIES, _PATIENCE = 4, 20.0  # how often the server is asked, and seconds that it has each time


def serve(log_dir: Path, port: int, say: Callable[[str], None]) -> None:
    """Serve `log_dir` until a signal; say the address once it answers.

    A port that is taken gives way to the next free one. Every bucket of a run is kept.
    Raises BadInput where there is nothing to show, or no port.
    """
    if not any(log_dir.glob(f"*/*/{EVENTS}*")):
        raise BadInput(
            f"nothing in {log_dir} yet: python -m compare runs a case and leaves curves there"
        )
    try:
        from tensorboard import program
    except ImportError as error:
        raise BadInput(f"{error}: install tensorboard (pip install tensorboard)") from error

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    for candidate in range(port, min(port + 100, 65536)):
        board = program.TensorBoard()
        board.configure(
            logdir=str(log_dir), host=HOST, port=candidate,
            samples_per_plugin={"scalars": MAX_BUCKETS + 1, "images": 100, "text": 100},
        )  # fmt: skip
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # a note on how it reads files
                address = board.launch()
        except program.TensorBoardPortInUseError:
            continue
        except program.TensorBoardServerException as error:
            raise BadInput(f"port {candidate}: {error.msg}; give another --port") from error
        _await(address)
        say(f"TensorBoard on {log_dir}: {address}?smoothing=0   (Ctrl-C ends it)")
        stop.wait()
        return
    raise BadInput(f"port {port}: taken, and so are the next ones; give another --port")


def _await(address: str) -> None:
    """Return once the server answers; raises BadInput where it does not."""
    for left in reversed(range(_TRIES)):
        try:
            with urllib.request.urlopen(address, timeout=_PATIENCE) as answer:
                answer.read(1)
            return
        except OSError as error:
            if not left:
                raise BadInput(f"{address} does not answer: {error}; try another --port") from error
            time.sleep(0.5)
