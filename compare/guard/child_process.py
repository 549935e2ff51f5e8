"""The process that runs someone's code, and one above it that lets nothing outlive it.

`python -m compare.guard.child_process CHANNEL ASKED` is started by `guard`. It forks at once: the
first process adopts whatever the code starts (also what leaves the group by setsid) and kills what
is left; the second imports what is asked for, says that it is ready, takes on its limits and only
then runs the work. Both write JSON, one object a line, to CHANNEL, a descriptor.
"""

import contextlib
import ctypes
import faulthandler
import importlib
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from compare.errors import BadInput, first_line

_FILE = 2**30  # bytes: what a file that is written may hold
_SPARE = 2**26  # bytes of memory, to say that there is no more
_PARENT_DEATH, _SUBREAPER = 1, 36  # of Linux's prctl

Tell = Callable[[dict[str, Any]], None]


def main(channel: str, asked: str) -> None:
    """Do what is asked for, in a process below this one."""
    words, fd = json.loads(asked), int(channel)
    os.set_inheritable(fd, False)
    signal.signal(signal.SIGTERM, lambda *_: _end())
    _prctl(_SUBREAPER, 1)
    _prctl(_PARENT_DEATH, signal.SIGTERM)
    if os.getppid() != words["parent"]:  # it has ended already
        return
    if not (worker := os.fork()):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _prctl(_PARENT_DEATH, signal.SIGKILL)
        _work(fd, words)
    _, status = os.waitpid(worker, 0)
    _tell(fd, {"ended": os.waitstatus_to_exitcode(status)})
    _end()


def _end() -> None:
    """Kill all that is left below this process, then end it."""
    with contextlib.suppress(ChildProcessError):  # there is none
        while True:
            for stat in Path("/proc").glob("[0-9]*/stat"):
                with contextlib.suppress(OSError):  # it has gone
                    if int(stat.read_bytes().rpartition(b")")[2].split()[1]) == os.getpid():
                        os.kill(int(stat.parent.name), signal.SIGKILL)
            os.waitpid(-1, 0)  # what it has left in its turn is ours now
    os._exit(0)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _tell(fd: int, message: dict[str, Any]) -> None:
    """Write one message."""
    data = (json.dumps(message) + "\n").encode()
    while data:
        data = data[os.write(fd, data) :]


def _work(fd: int, words: dict[str, Any]) -> None:
    """Run the work and tell what it gave; nothing of theirs is run after that."""
    tell = partial(_tell, fd)
    try:
        module, _, function = words["work"].partition(":")
        work = getattr(importlib.import_module(module), function)
        sys.path += [place for place in words["path"] if place not in sys.path]
        _limit(words["memory"])
        tell({"ready": True})
        if words["seconds"] is not None:
            faulthandler.dump_traceback_later(words["seconds"], exit=True, file=fd)
        found = _found(lambda: work(tell, **words["words"]), words["memory"])
        faulthandler.cancel_dump_traceback_later()
        tell(found)
    except BaseException:  # a fault of this program
        tell({"fault": traceback.format_exc()})
    os._exit(0)


def _found(work: Callable[[], dict[str, Any]], memory: int) -> dict[str, Any]:
    """Return the message that says what the work gave, or why it gave nothing."""
    try:
        return {"answer": work()}
    except BadInput as error:
        return {"bad": str(error)}
    except KeyboardInterrupt:  # no Ctrl-C comes here
        return {"bad": "the file raises KeyboardInterrupt: take that out"}
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "can't allocate memory" not in str(error):
            raise
        _spare()
        return {
            "bad": f"the file's process may use {memory / 2**30:.3g} GiB of memory and asked for "
            f"more ({first_line(error)}): give it smaller inputs"
        }


# -- limits


def _limit(memory: int) -> None:
    """Take on limits for memory beyond what is used now, and for each file written.

    Shared memory counts in the address space; but a GPU's driver takes more of that than there is.
    """
    torch = sys.modules.get("torch")
    gpu = torch is not None and torch.cuda.is_available()
    kind, place = (resource.RLIMIT_DATA, 5) if gpu else (resource.RLIMIT_AS, 0)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[place])
    except OSError:
        pages = 0
    total = pages * resource.getpagesize() + memory
    limits = (kind, total, total + _SPARE), (resource.RLIMIT_FSIZE, _FILE, _FILE)
    for what, least, most in limits:
        hard = resource.getrlimit(what)[1]
        if hard != resource.RLIM_INFINITY:
            least, most = min(least, hard), min(most, hard)
        with contextlib.suppress(ValueError, OSError):  # not every system has each
            resource.setrlimit(what, (least, most))


def _spare() -> None:
    """Have a little more memory."""
    for what in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        with contextlib.suppress(ValueError, OSError):
            hard = resource.getrlimit(what)[1]
            resource.setrlimit(what, (hard, hard))


if __name__ == "__main__":
    main(*sys.argv[1:])
