"""Sees to it that a rank which dies or hangs ends the whole command, in one line that names it.

A thread of each process looks at the other ranks: on its own machine at their process ids, on
others at a beat that each of them writes into the store which torchrun keeps. The one who speaks is
the lowest rank that is left; the others wait for torchrun to stop them. A rank that lives and does
not come is named when the time that was agreed on is over. A connection that breaks is no proof of
who has died: that is looked for in the same way. The store is on rank 0's machine: where it answers
no more, rank 0 counts as dead.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NoReturn

from compare.errors import BadInput
from compare.training.ranks import ALONE, Ranks, named, started

WAIT = 300.0  # seconds that a rank waits for another one
_LOOK = 0.25  # between two looks at the others
_BEAT = 15.0  # seconds without a beat after which a rank on another machine counts as dead
_GRACE = 5.0  # for those who are not to speak: torchrun stops them before


class Watchman:
    """Looks at the other ranks until `stop`."""

    def __init__(self, ranks: Ranks, store: Any) -> None:
        self.ranks, self.store = ranks, store
        self.here = socket.gethostname()
        store.set(f"beat/{ranks.rank}", "")
        store.set(f"place/{ranks.rank}", f"{os.getpid()} {_born(os.getpid())} {self.here}")
        self.places: dict[int, tuple[int, str, str]] = {}
        for rank in range(ranks.count):
            pid, born, host = store.get(f"place/{rank}").decode().split(" ", 2)
            self.places[rank] = int(pid), born, host
        self.beats = dict.fromkeys(self.places, (b"", time.monotonic()))
        self.beaten = 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Look no more."""
        self.over.set()
        self.thread.join()

    def leave(self) -> None:
        """Tell the others that this rank goes, and has said why."""
        self._ask(self.store.set, f"left/{self.ranks.rank}", "1")

    def late(self, wait: float) -> NoReturn:
        """End this process, whose others did not all come within `wait`, and name who did not."""
        self._ask(self.store.set, f"waits/{self.ranks.rank}", "1")
        time.sleep(_GRACE)  # the others come to know it; one that died the thread names meanwhile
        missing = [r for r in self.places if r != self.ranks.rank and not self._said("waits", r)]
        who = named(missing) if missing else "a rank"
        self._end(missing, f"{who} did not come within {wait:g} s: all ranks stop")
        _quit(_GRACE)

    def lost(self) -> NoReturn:
        """End this process, which has lost a connection; who has died the thread sees and names."""
        time.sleep(_BEAT + 2 * _GRACE)
        self._end([], "the connection to another rank was lost: all ranks stop")
        _quit(_GRACE)

    def _watch(self) -> None:
        seconds = 0.0
        while not self.over.is_set():
            told = signal.sigtimedwait([signal.SIGTERM], _LOOK)
            if self.over.is_set():
                break
            gone = self._gone()
            if gone:
                self._end(gone, f"{named(gone)} ended before the run did: all ranks stop")
            if told is not None:
                os._exit(128 + signal.SIGTERM)
            if gone:
                _quit(_GRACE)
            seconds += _LOOK
            if seconds >= 1:
                seconds = 0.0
                self._beat()

    def _end(self, gone: list[int], message: str) -> None:
        """If this is the lowest rank that is left, and none said why it goes, say it and end."""
        if self.ranks.rank != min(rank for rank in self.places if rank not in gone):
            return
        if any(self._said("left", rank) for rank in gone):
            return
        with contextlib.suppress(OSError):
            print(f"compare: {message}", file=sys.stderr, flush=True)
        os._exit(3)

    def _beat(self) -> None:
        self.beaten += 1
        self._ask(self.store.set, f"beat/{self.ranks.rank}", str(self.beaten))

    def _gone(self) -> list[int]:
        """Return the other ranks that ended: here by their process, on other machines by the beat.

        Where the store is silent only rank 0, whose machine has it, can be said to be gone.
        """
        others = {rank: place for rank, place in self.places.items() if rank != self.ranks.rank}
        gone = [
            r for r, (pid, born, at) in others.items() if at == self.here and _born(pid) != born
        ]
        away = [rank for rank, (_, _, at) in others.items() if at != self.here]
        found = self._ask(self.store.multi_get, [f"beat/{r}" for r in away]) if away else []
        now = time.monotonic()
        for rank, beat in zip(away, found or [], strict=False):
            if beat != self.beats[rank][0]:
                self.beats[rank] = beat, now
        doubtful = away if found is not None else [rank for rank in away if rank == 0]
        return gone + [rank for rank in doubtful if now - self.beats[rank][1] > _BEAT]

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
    from torch import cuda, distributed

    backend = "gloo"
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
        backend = "cpu:gloo,cuda:nccl"
    # the thread takes it; what is started later on inherits this
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        distributed.init_process_group(backend, timeout=timedelta(seconds=wait))
        store: Any = distributed.distributed_c10d._get_default_store()
        own = distributed.distributed_c10d.PrefixStore("deltacheck", store.clone())
        watchman = Watchman(ranks, own)
    except Exception as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(f"the {ranks.count} ranks did not come together: {why}") from error
    try:
        yield ranks
        ranks.gather(None)  # nobody goes before all are done
    except BaseException as error:  # a second Ctrl-C too
        if isinstance(error, distributed.DistError) or "gloo" in str(error):
            late = "timed out" in str(error).lower()
            watchman.late(wait) if late else watchman.lost()
        watchman.leave()
        raise
    finally:
        watchman.stop()
    distributed.destroy_process_group()


def unsaid() -> str:
    """Return who speaks, for the front of a message: "" for rank 0, which speaks for all.

    Another rank first waits for torchrun to stop it, as it does when rank 0 has ended.
    """
    try:
        rank = started().rank
    except BadInput:
        return ""
    if not rank:
        return ""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    _quit_if_told(_GRACE)
    return f"rank {rank}: "


def _quit_if_told(seconds: float) -> None:
    if signal.sigtimedwait([signal.SIGTERM], seconds) is not None:
        os._exit(128 + signal.SIGTERM)


def _quit(seconds: float) -> NoReturn:
    """End the process in silence when torchrun stops it, at the latest after `seconds`."""
    _quit_if_told(seconds)
    os._exit(3)


def _born(pid: int) -> str:
    """Return when a process of this machine began, "" where it has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, *rest = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else rest[18]
