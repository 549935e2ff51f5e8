"""The process that runs a user's code, and a supervisor above it that kills what is left over.

`guard` starts `python -m compare.guard.child_process CHANNEL JOB`. It forks at once. The first
process, the supervisor, becomes the parent of every orphan among the processes that the code
starts, even of one that has left the process group by setsid. At the end it kills them. The second
process, the worker, imports the job's module, sends "ready", sets its limits, and then runs the
job. Both write messages to CHANNEL, a file descriptor: JSON, one object per line.
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
from compare.progress import watched

_FILE = 2**30  # bytes: the largest file that the code may write
_SPARE = 2**26  # bytes of memory for the message that there is no more memory
_PARENT_DEATH, _SUBREAPER = 1, 36  # PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER of Linux's prctl


def main(channel: str, job: str) -> None:
    """Run the job in a child process, and supervise it.

    Args:
        channel: the number of the file descriptor for messages.
        job: the job as JSON; `guarded` in guard.py writes it.
    """
    job_fields, fd = json.loads(job), int(channel)
    os.set_inheritable(fd, False)
    signal.signal(signal.SIGTERM, lambda *_: _end())
    _prctl(_SUBREAPER, 1)
    _prctl(_PARENT_DEATH, signal.SIGTERM)
    if os.getppid() != job_fields["parent"]:  # the parent ended before prctl took effect
        return
    if not (worker := os.fork()):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _prctl(_PARENT_DEATH, signal.SIGKILL)
        _work(fd, job_fields)
    _, status = os.waitpid(worker, 0)
    _send(fd, {"ended": os.waitstatus_to_exitcode(status)})
    _end()


def _end() -> None:
    """Kill all descendants of this process, then end it."""
    with contextlib.suppress(ChildProcessError):  # no child is left
        while True:
            for stat in Path("/proc").glob("[0-9]*/stat"):
                with contextlib.suppress(OSError):  # the process has ended meanwhile
                    if int(stat.read_bytes().rpartition(b")")[2].split()[1]) == os.getpid():
                        os.kill(int(stat.parent.name), signal.SIGKILL)
            os.waitpid(-1, 0)  # its own children are children of this process now
    os._exit(0)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _send(fd: int, message: dict[str, Any]) -> None:
    """Write one message to the channel."""
    data = (json.dumps(message) + "\n").encode()
    while data:
        data = data[os.write(fd, data) :]


def _work(fd: int, job: dict[str, Any]) -> None:
    """Run the job and send its result, then end without running any more of the user's code."""
    send = partial(_send, fd)
    try:
        module, _, function = job["work"].partition(":")
        work = getattr(importlib.import_module(module), function)
        sys.path += [folder for folder in job["path"] if folder not in sys.path]
        _limit(job["memory"])
        send({"ready": True})
        if job["seconds"] is not None:
            faulthandler.dump_traceback_later(job["seconds"], exit=True, file=fd)
        tell = watched(lambda stages: send({"stages": stages}), after=0)
        with tell if job["watched"] else contextlib.nullcontext():
            message = _message(lambda: work(**job["arguments"]), job["memory"])
        faulthandler.cancel_dump_traceback_later()
        send(message)
    except BaseException:  # an internal error of this program
        send({"fault": traceback.format_exc()})
    os._exit(0)  # no atexit handlers of the user's code


def _message(work: Callable[[], dict[str, Any]], memory: int) -> dict[str, Any]:
    """Return the message with the result of the work, or with the reason why there is none."""
    try:
        return {"answer": work()}
    except BadInput as error:
        return {"bad": str(error)}
    except KeyboardInterrupt:  # not from Ctrl-C: the process has a session of its own
        return {"bad": "the file raises KeyboardInterrupt; remove that"}
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "can't allocate memory" not in str(error):
            raise
        _spare()
        return {
            "bad": f"the file's process may use {memory / 2**30:.3g} GiB of memory and asked for "
            f"more ({first_line(error)}); use smaller inputs"
        }


# -- limits


def _limit(memory: int) -> None:
    """Limit the memory beyond the current use, and the size of each file written.

    The limit is on the address space, so that it includes shared memory. With CUDA it is on data
    only, because the GPU driver reserves more address space than the machine has memory.
    """
    torch = sys.modules.get("torch")
    gpu = torch is not None and torch.cuda.is_available()
    kind, column = (resource.RLIMIT_DATA, 5) if gpu else (resource.RLIMIT_AS, 0)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[column])
    except OSError:
        pages = 0
    total = pages * resource.getpagesize() + memory
    limits = (kind, total, total + _SPARE), (resource.RLIMIT_FSIZE, _FILE, _FILE)
    for limit, soft, hard in limits:
        present = resource.getrlimit(limit)[1]
        if present != resource.RLIM_INFINITY:
            soft, hard = min(soft, present), min(hard, present)
        with contextlib.suppress(ValueError, OSError):  # not every system has every limit
            resource.setrlimit(limit, (soft, hard))


def _spare() -> None:
    """Raise the soft memory limits to the hard ones, to have memory for an error message."""
    for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        with contextlib.suppress(ValueError, OSError):
            hard = resource.getrlimit(limit)[1]
            resource.setrlimit(limit, (hard, hard))


if __name__ == "__main__":
    main(*sys.argv[1:])
