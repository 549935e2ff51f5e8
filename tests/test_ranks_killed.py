"""A signal ends one rank: one line is printed, with the number of that rank."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compare.ranks.watchdog import _born
from tests.conftest import Started
from tests.test_ranks import ROOT, spoken

LONG = "run digits --batch-size 60 --steps 100000 --lift none --log-dir {}"
BEGUN = "*/manual/*"  # a file that exists once the ranks train
MOMENTS = [
    *((signal.SIGKILL, n, rank, turn) for n in (3, 4) for rank in range(n) for turn in range(3)),
    *((signal.SIGTERM, 3, rank, 0) for rank in range(3)),
]
# torchrun starts only these: its start takes seconds for every rank, a fork takes none
BY_TORCHRUN = [(signal.SIGKILL, 3, 0, 0), (signal.SIGKILL, 4, 2, 1), (signal.SIGTERM, 3, 1, 0)]


def _after(count: int, rank: int, turn: int) -> float:
    """Return the seconds of the run before the signal."""
    return random.Random(f"{count} {rank} {turn}").uniform(0, 1.5)


def _ranks_of(torchrun: int) -> dict[int, int]:
    """Return the process id of each rank that torchrun has started."""
    pids = {}
    for pid in map(int, Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split()):
        for word in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if word.startswith(b"RANK="):
                pids[int(word[5:])] = pid
    return pids


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "count", "rank", "turn"), [m for m in MOMENTS if m not in BY_TORCHRUN]
)
def test_a_signal_to_one_rank(
    number: int, count: int, rank: int, turn: int, ranks: Started, tmp_path: Path
) -> None:
    """At any moment of a run, also for SIGTERM, which torchrun itself sends to the other ranks."""
    codes, _, err = ranks(
        count, LONG.format(tmp_path), kill=[rank], signal=number, once=BEGUN,
        after=_after(count, rank, turn),
    )  # fmt: skip
    assert spoken(err) == [f"compare: rank {rank} ended before the run did: all ranks stop"]
    assert 0 not in codes
    ended = [r for r, code in enumerate(codes) if code == -signal.SIGKILL]
    assert ended == ([rank] if number == signal.SIGKILL else []), "none has to be killed"


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(("number", "count", "rank", "turn"), BY_TORCHRUN)
def test_a_signal_to_one_rank_of_torchrun(
    number: int, count: int, rank: int, turn: int, tmp_path: Path
) -> None:
    """The same under torchrun, and no process is left."""
    with subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count),
         "-m", "compare", *LONG.format(tmp_path).split()],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as run:  # fmt: skip
        try:
            while not any(tmp_path.glob(BEGUN)) and run.poll() is None:
                time.sleep(0.05)
            pids = _ranks_of(run.pid)
            time.sleep(_after(count, rank, turn))
            os.kill(pids[rank], number)
            _, err = run.communicate(timeout=60)
        finally:
            run.kill()
    assert spoken(err) == [f"compare: rank {rank} ended before the run did: all ranks stop"]
    assert not any(_born(pid) for pid in pids.values())
