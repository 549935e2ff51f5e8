"""End all ranks when one of them dies or hangs, with one line that names it.

A thread of each process watches the other ranks: on its own machine by their process ids, on other
machines by a heartbeat that each rank writes into torchrun's store. A rank that ends because of
another one (torchrun stops it, or it has printed the reason) first leaves a note in the store. A
rank that ended without a note has died. The first rank to ask the store prints the message for all;
the others wait for torchrun to stop them. A rank that lives but does not arrive is named when the
time limit is over. A broken connection does not prove which rank died, so the same watch decides
that too. The store is on rank 0's machine: when it stops answering, rank 0 counts as dead, and the
lowest remaining rank prints the message.
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
from compare.ranks.ranks import ALONE, Ranks, current_ranks, rank_names

DEFAULT_WAIT = 300.0  # seconds that a rank waits for another one
_POLL = 0.25  # seconds between two looks at the other ranks
_POLLS_PER_BEAT = 4
_BEAT = 15.0  # seconds without a heartbeat after which a rank on another machine counts as dead
_GRACE = 5.0  # seconds in which torchrun stops the ranks that do not print the message
_START_GRACE = 30.0  # the same, while there is no store yet that decides which rank prints


_watchdog: "Watchdog | None" = None  # of this process, if it is one of several ranks


class Watchdog:
    """Watches the other ranks in a thread until `stop`.

    Args:
        ranks: the place of this process among the ranks.
        store: the key-value store that all ranks share (torch.distributed.Store).
    """

    def __init__(self, ranks: Ranks, store: Any) -> None:
        self.ranks, self.store = ranks, store
        self.host = socket.gethostname()
        store.set(f"beat/{ranks.rank}", "")
        store.set(f"place/{ranks.rank}", f"{os.getpid()} {_born(os.getpid())} {self.host}")
        # of the ranks that have arrived: process id, its start time, host
        self.places: dict[int, tuple[int, str, str]] = {}
        self.beats: dict[int, tuple[bytes, float]] = {}  # the last heartbeat, when it was seen
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self.over.set()
        self.thread.join()

    def leave(self) -> None:
        """Leave the note that this rank ends without having died."""
        self._ask(self.store.set, f"left/{self.ranks.rank}", "1")

    def prints_message(self, gone: Collection[int] = ()) -> bool:
        """Whether this rank prints why all ranks end; True for one rank, once.

        Args:
            gone: the ranks that have ended.
        """
        asked_so_far = self._ask(self.store.add, "spoken", 1)
        if asked_so_far is None:
            return self.ranks.rank == min(r for r in range(self.ranks.count) if r not in gone)
        return bool(asked_so_far == 1)

    def late(self, wait: float) -> NoReturn:
        """End this process after `wait` seconds without some rank, and name the missing ranks."""
        self._ask(self.store.set, f"waits/{self.ranks.rank}", "1")
        time.sleep(_GRACE)  # so that all waiting ranks are known; the thread names one that died
        missing = [r for r in self._others() if not self._has_key("waits", r)]
        who = rank_names(missing) if missing else "a rank"
        self._end(missing, f"{who} did not arrive within {wait:g} s: all ranks stop")

    def lost(self) -> NoReturn:
        """End this process after it lost a connection; the thread names a rank that died."""
        time.sleep(_BEAT + 2 * _GRACE)
        self._end([], "the connection to another rank was lost: all ranks stop")

    def _watch(self) -> None:
        for polls in itertools.count(1):
            sigterm = signal.sigtimedwait([signal.SIGTERM], _POLL)
            if self.over.is_set():
                return
            # only torchrun, the parent, sends it on behalf of another rank
            if sigterm is not None and sigterm.si_pid == os.getppid():
                self.leave()
            gone = self._gone()
            if died := [rank for rank in gone if not self._has_key("left", rank)]:
                message = f"{rank_names(died)} ended before the run did: all ranks stop"
                self._end(gone, message, sigterm is not None)
            if sigterm is not None:
                os._exit(128 + signal.SIGTERM)
            if polls % _POLLS_PER_BEAT == 0:
                self._ask(self.store.set, f"beat/{self.ranks.rank}", str(polls))

    def _end(self, gone: list[int], message: str, terminated: bool = False) -> NoReturn:
        """End this process; print the message if this rank is the one to do so.

        Args:
            gone: the ranks that have ended, and cannot print it.
            message: why all ranks end.
            terminated: whether SIGTERM has arrived; without it, leave torchrun time to send it.
        """
        self.leave()
        if self.prints_message(gone):
            with contextlib.suppress(OSError):
                print(f"compare: {message}", file=sys.stderr, flush=True)
        elif not terminated:
            _exit_on_sigterm(_GRACE)
        os._exit(3)

    def _gone(self) -> list[int]:
        """Return the other ranks that ended: by process id on this machine, else by heartbeat.

        While the store does not answer, only rank 0, whose machine has it, can count as gone.
        """
        for rank in self._others():
            if rank not in self.places and self._has_key("place", rank):
                pid, born, host = self.store.get(f"place/{rank}").decode().split(" ", 2)
                self.places[rank] = int(pid), born, host
                self.beats[rank] = b"", time.monotonic()
        places = self.places.items()
        gone = [r for r, (pid, born, host) in places if host == self.host and _born(pid) != born]
        remote = [r for r, (_, _, host) in places if host != self.host]
        beats = self._ask(self.store.multi_get, [f"beat/{r}" for r in remote]) if remote else []
        now = time.monotonic()
        for rank, beat in zip(remote, beats or [], strict=False):
            if beat != self.beats[rank][0]:
                self.beats[rank] = beat, now
        may_be_gone = remote if beats is not None else [rank for rank in remote if rank == 0]
        return gone + [rank for rank in may_be_gone if now - self.beats[rank][1] > _BEAT]

    def _others(self) -> list[int]:
        return [rank for rank in range(self.ranks.count) if rank != self.ranks.rank]

    def _has_key(self, key: str, rank: int) -> bool:
        return bool(self._ask(self.store.check, [f"{key}/{rank}"]))

    def _ask(self, request: Callable[..., Any], *arguments: Any) -> Any:
        """Return the store's answer, None if there is none: its machine may be lost.

        The store's own time limits do not apply when no answer comes at all.
        """
        answers: list[Any] = []

        def ask() -> None:
            with contextlib.suppress(Exception):
                answers.append(request(*arguments))

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(_GRACE)
        return answers[0] if answers else None


@contextlib.contextmanager
def joined_ranks(device: str | None, wait: float) -> Iterator[Ranks]:
    """Join the processes that torchrun started into a group, by gloo and on CUDA by NCCL too.

    Without torchrun the context is that of a single process. When a rank dies, or another rank
    waits too long for it, this ends the process with exit code 3.

    Args:
        device: the device of the run; None where a checkpoint names it later.
        wait: seconds that a rank waits for another one.

    Raises:
        BadInput: if the ranks cannot connect, or the device does not fit their number.
    """
    ranks = current_ranks()
    if ranks is ALONE:
        yield ranks
        return
    # torch logs forty lines about a failed connection, and raises an exception anyway
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    backend = _backend(ranks, device)
    # the watchdog's thread receives it; threads that start later inherit this
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    limit = timedelta(seconds=wait)
    try:
        store: Any = next(rendezvous("env://", timeout=limit))[0]
    except Exception as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise BadInput(
            f"the {ranks.count} ranks could not connect: {why}; start them with torchrun, "
            "or unset RANK and WORLD_SIZE for a single process"
        ) from error
    global _watchdog
    watchdog_store = distributed.distributed_c10d.PrefixStore("deltacheck", store.clone())
    _watchdog = Watchdog(ranks, watchdog_store)
    try:
        distributed.init_process_group(
            backend, store=store, rank=ranks.rank, world_size=ranks.count, timeout=limit
        )
        yield ranks
        ranks.gather(None)  # no rank leaves before all are done
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
    """Return the torch.distributed backend for a device; on CUDA select this rank's device."""
    from torch import cuda

    if device and device.startswith("cuda:"):
        raise BadInput(
            f"device {device!r} on {ranks.count} ranks: use cuda, each rank takes its own"
        )
    local_rank, local = (int(os.environ.get(n, 0)) for n in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    if device == "cuda" and local > cuda.device_count():
        raise BadInput(
            f"{local} ranks on a machine with {cuda.device_count()} CUDA devices: start one "
            "rank for each device, or use --device cpu"
        )
    if device == "cuda" or (device is None and 0 < local <= cuda.device_count()):
        cuda.set_device(local_rank)
        return "cpu:gloo,cuda:nccl"
    return "gloo"


def await_rank0_then_prefix() -> str:
    """Return the prefix of a message, "" or "rank N: ", after rank 0 had time to print the same.

    Rank 0 prints its message at once. Another rank waits first: torchrun usually stops it after
    rank 0 has ended. The process ends without a message if another rank has printed one.
    """
    try:
        ranks = current_ranks()
    except BadInput:
        return ""
    if ranks is ALONE:
        return ""
    if ranks.rank and (_watchdog or "TORCHELASTIC_RUN_ID" in os.environ):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        _exit_on_sigterm(_GRACE if _watchdog else _START_GRACE)
    if _watchdog and not _watchdog.prints_message():
        _exit_on_sigterm(_GRACE)
        os._exit(3)
    return f"rank {ranks.rank}: " if ranks.rank else ""


def _exit_on_sigterm(seconds: float) -> None:
    """Wait so many seconds for torchrun's SIGTERM, and end the process if it comes."""
    if signal.sigtimedwait([signal.SIGTERM], seconds) is not None:
        os._exit(128 + signal.SIGTERM)


def _born(pid: int) -> str:
    """Return the start time of a process on this machine, "" if it has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, *rest = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else rest[18]
