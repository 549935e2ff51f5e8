"""`python -m compare board`: TensorBoard on the run folders, with settings that hide no point."""

import contextlib
import io
import logging
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from compare.checkpoint.run_folder_files import EVENTS
from compare.errors import BadInput
from compare.interrupts import stop
from compare.training.downsample import MAX_BUCKETS

HOST = "127.0.0.1"
_TRIES, _TIMEOUT = 4, 20.0  # attempts to reach the server, and seconds for each


def serve(log_dir: Path, port: int, say: Callable[[str], None]) -> None:
    """Serve `log_dir` until a signal arrives; print the address once the server answers.

    TensorBoard shows every stored point of a curve, where by default it would show a sample.

    Args:
        log_dir: the folder that holds the run folders.
        port: the port; if it is in use, one of the next 100.
        say: prints a line.

    Raises:
        BadInput: if there are no runs, TensorBoard is not installed, or no port is free.
    """
    if not any(log_dir.glob(f"*/*/{EVENTS}*")):
        raise BadInput(
            f"no runs in {log_dir} yet: python -m compare runs a case and writes curves there"
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
            with contextlib.redirect_stderr(io.StringIO()):  # it logs a note about its file loader
                address = board.launch()
        except program.TensorBoardPortInUseError:
            continue
        except program.TensorBoardServerException as error:
            raise BadInput(f"port {candidate}: {error.msg}; choose another --port") from error
        _await(address)
        say(f"TensorBoard on {log_dir}: {address}?smoothing=0   (Ctrl-C ends it)")
        stop.wait()
        return
    raise BadInput(f"port {port} and the next ones are in use; choose another --port")


def _await(address: str) -> None:
    """Wait until the server answers; raise BadInput if it does not."""
    for left in reversed(range(_TRIES)):
        try:
            with urllib.request.urlopen(address, timeout=_TIMEOUT) as response:
                response.read(1)
            return
        except OSError as error:
            if not left:
                raise BadInput(
                    f"{address} does not answer: {error}; choose another --port"
                ) from error
            time.sleep(0.5)
