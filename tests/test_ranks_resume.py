"""Runs on several ranks that are killed or interrupted, and that end the same after resuming."""

import random
import shutil
import time
from pathlib import Path

import pytest
import torch

from compare.checkpoint import file as checksummed
from tests.conftest import Started
from tests.resumed import folder_contents

OFTEN = {
    "compare.training.chunking.STEPS": 3,
    "compare.checkpoint.checkpoint.EVERY": 0,
    "compare.checkpoint.checkpoint.SHARE": 1e9,
}
SHARED = "run digits --sizes 64,7,10 --momentum 0.9 --dropout 0.2 --steps 12 --lift none --quiet"
SPLIT = "run three_layer_blog_grouping --population 3 --steps 24 --lift none --quiet"
NETWORK = "run network --sizes 3,5,1 --batch-size 2 --steps 15"
QUICK = f"{NETWORK} --lift none"
AGAIN = "run --resume {} --quiet"


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "kills"),
    [
        (SHARED, 3),
        (SPLIT, 3),
        pytest.param(SHARED, 20, marks=pytest.mark.long),
        pytest.param(SPLIT, 20, marks=pytest.mark.long),
    ],
)
def test_kill_9_of_one_rank_or_of_all_at_random_moments(
    words: str, kills: int, ranks: Started, tmp_path: Path
) -> None:
    """A kill before, during and after a checkpoint does not change one bit at the end."""
    ranks(2, f"{words} --log-dir warm", patches=OFTEN)
    started = time.monotonic()
    done = ranks(2, f"{words} --log-dir whole", patches=OFTEN)[0][0]
    usual = time.monotonic() - started
    assert done in (0, 1)
    (whole,) = (tmp_path / "whole").iterdir()
    expected, chance = folder_contents(whole), random.Random(kills)
    killed = resumed = n = 0
    while killed < kills or not resumed:
        log_dir, begun, codes = tmp_path / str(n), words, [-9]
        while codes[0] != done:
            kill = chance.choice([[0], [1], [0, 1]])
            more = killed < kills or not resumed
            after = chance.uniform(0.2, 1) * usual if more else 60
            codes, _, err = ranks(
                2, f"{begun} --log-dir {log_dir}", patches=OFTEN, kill=kill, after=after
            )
            assert codes[0] == done or -9 in codes, err
            killed += -9 in codes
            for folder in log_dir.glob("*") if codes[0] != done else ():
                if (folder / "checkpoint").exists() and not (folder / "result.json").exists():
                    begun = AGAIN.format(folder.name)
                    resumed += 1
                else:
                    shutil.rmtree(folder)
                    begun = words
        (folder,) = log_dir.iterdir()
        assert folder_contents(folder) == expected
        n += 1


@pytest.mark.slow
def test_ranks_that_cannot_resume_print_one_line(ranks: Started, tmp_path: Path) -> None:
    """Another number of ranks, a damaged file or another environment: no file changes."""
    ranks(2, f"{NETWORK} --log-dir whole", patches=OFTEN)
    ranks(2, NETWORK, ("die", 1, 9), patches=OFTEN)
    (whole,), (folder,) = (tmp_path / "whole").iterdir(), (tmp_path / "runs").iterdir()
    with next((folder / "manual").iterdir()).open("ab") as events:
        events.write(b"written after the checkpoint")
    file = folder / "checkpoint"
    kept, data = checksummed.read(file), file.read_bytes()
    assert [state["run"]["report"]["steps"] for state in kept["ranks"]] == [9, 9]
    name, again = folder.name, AGAIN.format(folder.name)

    def refused(count: int, message: str) -> None:
        before = contents(folder)
        codes, out, err = ranks(count, again, patches=OFTEN)
        assert (2 in codes, out, err) == (True, "", f"compare: {message}\n")
        assert contents(folder) == before

    for count in (1, 3):
        other = "which gives other bits: use torchrun --nproc-per-node 2 -m compare run --resume"
        refused(
            count, f"run {name}: number of ranks {count}, was 2, {other} {name}, "
            "or start a new run",
        )  # fmt: skip
    kept["ranks"][1]["world"]["torch"] = "2.0"
    checksummed.write(file, kept)
    refused(
        2, f"rank 1: run {name}: torch was 2.0 and is {torch.__version__} now, which could "
        "change bits: resume the run in its first environment, or start a new run",
    )  # fmt: skip
    checksummed.write(file, {**kept, "ranks": kept["ranks"][:1]})
    refused(
        2, f"run {name}: number of ranks 2, was 1, which gives other bits: "
        f"use python -m compare run --resume {name}, or start a new run",
    )  # fmt: skip
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    codes, _, err = ranks(2, again, patches=OFTEN)
    assert 2 in codes
    assert f"runs/{name}/checkpoint is damaged, its digest is" in err
    assert err.count("compare: ") == 1
    file.write_bytes(data)
    codes, _, err = ranks(2, again, patches=OFTEN)
    assert codes == [0, 0], err
    assert folder_contents(folder) == folder_contents(whole)
    refused(
        2,
        f"run {name} is finished, EXACT after 15 steps: there is nothing to resume; "
        "start a new run",
    )


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_ctrl_c_of_one_rank_stops_all(rank: int, ranks: Started, tmp_path: Path) -> None:
    """Also in a short run; the printed command resumes with as many ranks."""
    rare = {"compare.training.chunking.STEPS": 3}
    ranks(2, f"{QUICK} --log-dir whole", patches=rare)
    codes, out, err = ranks(2, QUICK, ("interrupt", rank, 4), patches=rare)
    assert codes == [130, 130], out + err
    (whole,), (folder,) = (tmp_path / "whole").iterdir(), (tmp_path / "runs").iterdir()
    assert f"  resume: torchrun --nproc-per-node 2 -m compare run --resume {folder.name}\n" in out
    assert checksummed.read(folder / "checkpoint")["ranks"][1]["run"]["report"]["steps"] == 6
    codes, out, err = ranks(2, AGAIN.format(folder.name), patches=rare)
    assert codes == [0, 0], out + err
    assert folder_contents(folder) == folder_contents(whole)


@pytest.mark.slow
def test_a_full_disk_stops_no_rank(ranks: Started) -> None:
    """Only rank 0 writes; if it cannot, the others do not wait for it."""
    codes, out, err = ranks(2, QUICK, ("full", 0, 4), patches=OFTEN)
    assert codes[0] == 2, out + err
    assert "EXACT  all" in out
    assert "No space left on device" in err
    assert err.count("compare: ") == 1
