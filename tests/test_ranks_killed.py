"""Ranks of a real torchrun, killed one by one: one line, and the right number in it."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compare.ranks.watchdog import _born
from tests.test_ranks import ROOT, spoken


def _ranks_of(torchrun: int) -> dict[int, int]:
    """Return the process id of each rank that torchrun has started."""
    found = {}
    for pid in map(int, Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split()):
        for word in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if word.startswith(b"RANK="):
                found[int(word[5:])] = pid
    return found


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "count", "rank", "turn"),
    [(signal.SIGKILL, n, rank, turn) for n in (3, 4) for rank in range(n) for turn in range(3)]
    + [(signal.SIGTERM, 3, rank, 0) for rank in range(3)],
)
def test_a_signal_to_one_rank_of_torchrun(
    number: int, count: int, rank: int, turn: int, tmp_path: Path
) -> None:
    """At some moment of the run; SIGTERM, too, which torchrun itself sends to all but that one."""
    words = f"-m compare run digits --batch-size 60 --steps 100000 --lift none --log-dir {tmp_path}"
    with subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count),
         *words.split()],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as run:  # fmt: skip
        try:
            while not any(tmp_path.glob("*/manual/*")) and run.poll() is None:
                time.sleep(0.05)
            pids = _ranks_of(run.pid)
            time.sleep(random.Random(f"{count} {rank} {turn}").uniform(0, 1.5))
            os.kill(pids[rank], number)
            _, err = run.communicate(timeout=60)
        finally:
            run.kill()
    assert spoken(err) == [f"compare: rank {rank} ended before the run did: all ranks stop"]
    assert not any(_born(pid) for pid in pids.values())
