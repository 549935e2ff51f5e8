"""Sees to it that a rank which dies or hangs ends the whole command, in one line that names it.

A thread of each process looks at the other ranks: on its own machine at their process ids, on
others at a beat that each of them writes into the store which torchrun keeps. Who ends for the sake
of another rank, stopped by torchrun or as it has said why, leaves a note there beforehand: one that
ended without a note has died. The first to ask the store speaks, in the name of all; the others
wait for torchrun to stop them. A rank that lives and does not come is named when the time that was
agreed on is over. A connection that breaks is no proof of who has died: that is looked for in the
same way. The store is on rank 0's machine: where it answers no more, rank 0 counts as dead, and the
lowest rank that is left speaks.
"""

import contextlib
import itertools
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from datetime import timedelta
from typing import Any, NoReturn

from compare.errors import BadInput
from compare.ranks.ranks import ALONE, Ranks, named, started

WAIT = 300.0  # seconds that a rank waits for another one
_LOOK = 0.25  # between two looks at the others
_LOOKS_A_BEAT = 4
_BEAT = 15.0  # seconds without a beat after which a rank on another machine counts as dead
_GRACE = 5.0  # for those who are not to speak: torchrun stops them before
_START = 30.0  # the same, where there is no store yet to ask who speaks


_watchdog: "Watchdog | None" = None  # this process's, where it is one of several


class Watchdog:
    """Looks at the other ranks until `stop`."""

    def __init__(self, ranks: Ranks, store: Any) -> None:
        self.ranks, self.store = ranks, store
        self.here = socket.gethostname()
        store.set(f"beat/{ranks.rank}", "")
        store.set(f"place/{ranks.rank}", f"{os.getpid()} {_born(os.getpid())} {self.here}")
        self.places: dict[int, tuple[int, str, str]] = {}  # of those who have come
        self.beats: dict[int, tuple[bytes, float]] = {}
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Look no more."""
        self.over.set()
        self.thread.join()

    def leave(self) -> None:
        """Tell the others that this rank ends and has not died."""
        self._ask(self.store.set, f"left/{self.ranks.rank}", "1")

    def speaks(self, gone: Collection[int] = ()) -> bool:
        """Whether this rank is the one to say why all of them end: one is, and once."""
        found = self._ask(self.store.add, "spoken", 1)
        if found is None:
            return self.ranks.rank == min(r for r in range(self.ranks.count) if r not in gone)
        return bool(found == 1)

    def late(self, wait: float) -> NoReturn:
        """End this process, whose others did not all come within `wait`, and name who did not."""
        self._ask(self.store.set, f"waits/{self.ranks.rank}", "1")
        time.sleep(_GRACE)  # the others come to know it; one that died the thread names meanwhile
        missing = [r for r in self._others() if not self._said("waits", r)]
        who = named(missing) if missing else "a rank"
        self._end(missing, f"{who} did not come within {wait:g} s: all ranks stop")

    def lost(self) -> NoReturn:
        """End this process, which has lost a connection; who has died the thread sees and names."""
        time.sleep(_BEAT + 2 * _GRACE)
        self._end([], "the connection to another rank was lost: all ranks stop")

    def _watch(self) -> None:
        for look in itertools.count(1):
            told = signal.sigtimedwait([signal.SIGTERM], _LOOK)
            if self.over.is_set():
                return
            if told is not None and told.si_pid == os.getppid():  # torchrun; others only kill
                self.leave()
            gone = self._gone()
            if died := [rank for rank in gone if not self._said("left", rank)]:
                message = f"{named(died)} ended before the run did: all ranks stop"
                self._end(gone, message, told is not None)
            if told is not None:
                os._exit(128 + signal.SIGTERM)
            if look % _LOOKS_A_BEAT == 0:
                self._ask(self.store.set, f"beat/{self.ranks.rank}", str(look))

    def _end(self, gone: list[int], message: str, told: bool = False) -> NoReturn:
        """End; say why if this is the one to speak, else in silence, when torchrun has `told` to.

        The ranks that are `gone` cannot speak.
        """
        self.leave()
        if self.speaks(gone):
            with contextlib.suppress(OSError):
                print(f"compare: {message}", file=sys.stderr, flush=True)
        elif not told:
            _quit_if_told(_GRACE)
        os._exit(3)

    def _gone(self) -> list[int]:
        """Return the other ranks that ended: here by their process, on other machines by the beat.

        Where the store is silent only rank 0, whose machine has it, can be said to be gone.
        """
        for rank in self._others():
            if rank not in self.places and self._said("place", rank):
                pid, born, at = self.store.get(f"place/{rank}").decode().split(" ", 2)
                self.places[rank] = int(pid), born, at
                self.beats[rank] = b"", time.monotonic()
        places = self.places.items()
        gone = [r for r, (pid, born, at) in places if at == self.here and _born(pid) != born]
        away = [r for r, (_, _, at) in places if at != self.here]
        found = self._ask(self.store.multi_get, [f"beat/{r}" for r in away]) if away else []
        now = time.monotonic()
        for rank, beat in zip(away, found or [], strict=False):
            if beat != self.beats[rank][0]:
                self.beats[rank] = beat, now
        doubtful = away if found is not None else [rank for rank in away if rank == 0]
        return gone + [rank for rank in doubtful if now - self.beats[rank][1] > _BEAT]

    def _others(self) -> list[int]:
        return [rank for rank in range(self.ranks.count) if rank != self.ranks.rank]

    def _said(self, what: str, rank: int) -> bool:
        return bool(self._ask(self.store.check, [f"{what}/{rank}"]))

    def _ask(self, work: Callable[..., Any], *words: Any) -> Any:
        """Return what the store says, None where it says nothing: its machine may have gone.

        Its own limits of time do not hold when no answer comes at all.
        """
        found: list[Any] = []

        def ask() -> None:
            with contextlib.suppress(Exception):
                found.append(work(*words))

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(_GRACE)
        return found[0] if found else None


@contextlib.contextmanager
def joined(device: str | None, wait: float) -> Iterator[Ranks]:
    """Within, the processes that torchrun started are one group: gloo, and NCCL on CUDA.

    A `device` that is not known yet, None, may be either where there is CUDA. Raises BadInput where
    they cannot come together. Ends the process, exit code 3, when a rank dies or lets the others
    wait for more than `wait` seconds.
    """
    ranks = started()
    if ranks is ALONE:
        yield ranks
        return
    # what torch itself logs of a connection is forty lines, and comes back as an exception anyway
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    backend = _backend(ranks, device)
    # the thread takes it; what is started later on inherits this
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    limit = timedelta(seconds=wait)
    try:
        store: Any = next(rendezvous("env://", timeout=limit))[0]
    except Exception as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise BadInput(
            f"the {ranks.count} ranks did not come together: {why}; start them with torchrun, "
            "or unset RANK and WORLD_SIZE for one process"
        ) from error
    global _watchdog
    own = distributed.distributed_c10d.PrefixStore("deltacheck", store.clone())
    _watchdog = Watchdog(ranks, own)
    try:
        distributed.init_process_group(
            backend, store=store, rank=ranks.rank, world_size=ranks.count, timeout=limit
        )
        yield ranks
        ranks.gather(None)  # nobody goes before all are done
    except BaseException as error:  # a second Ctrl-C too
        if isinstance(error, distributed.DistError) or "gloo" in str(error):
            late = re.search("timed out|timeout", str(error), re.IGNORECASE)
            _watchdog.late(wait) if late else _watchdog.lost()
        raise
    finally:
        _watchdog.leave()
        _watchdog.stop()
    distributed.destroy_process_group()


def _backend(ranks: Ranks, device: str | None) -> str:
    """Return what `device`s speak through, and on CUDA choose this rank's own."""
    from torch import cuda

    if device and device.startswith("cuda:"):
        raise BadInput(f"device {device!r} on {ranks.count} ranks: say cuda, each takes its own")
    local, here = (int(os.environ.get(n, 0)) for n in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    if device == "cuda" and here > cuda.device_count():
        raise BadInput(
            f"{here} ranks on a machine with {cuda.device_count()} CUDA devices: start as many "
            "ranks as there are devices, or use --device cpu"
        )
    if device == "cuda" or (device is None and 0 < here <= cuda.device_count()):
        cuda.set_device(local)
        return "cpu:gloo,cuda:nccl"
    return "gloo"


def unsaid() -> str:
    """Return who speaks, for the front of a message: "" for rank 0, which speaks for all.

    Another rank first gives rank 0 time to say the same, and torchrun to stop it then. Ends the
    process where another one has spoken.
    """
    try:
        ranks = started()
    except BadInput:
        return ""
    if ranks is ALONE:
        return ""
    if ranks.rank and (_watchdog or "TORCHELASTIC_RUN_ID" in os.environ):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        _quit_if_told(_GRACE if _watchdog else _START)
    if _watchdog and not _watchdog.speaks():
        _quit_if_told(_GRACE)
        os._exit(3)
    return f"rank {ranks.rank}: " if ranks.rank else ""


def _quit_if_told(seconds: float) -> None:
    """End in silence if torchrun stops this process within so many seconds."""
    if signal.sigtimedwait([signal.SIGTERM], seconds) is not None:
        os._exit(128 + signal.SIGTERM)


def _born(pid: int) -> str:
    """Return when a process of this machine began, "" where it has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, *rest = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else rest[18]
