"""`python -m compare run --resume RUN`: continue a run from its last checkpoint."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from compare.board import runs
from compare.board.run_folder import RunFolder
from compare.cases import options
from compare.checkpoint import checkpoint
from compare.checkpoint.checkpoint import Checkpoint
from compare.checkpoint.run_folder_files import CHECKPOINT, Lock, check_plain
from compare.errors import BadInput
from compare.ranks.ranks import Ranks
from compare.training.harness import Run


@contextmanager
def stopped_run(
    log_dir: Path, name: str, requested: dict[str, Any], ranks: Ranks
) -> Iterator[tuple[Run, RunFolder | None]]:
    """Yield the run called `name`, ready to continue, and on rank 0 its locked folder.

    Args:
        log_dir: the folder that holds the run folders.
        name: the name of the run folder, or the end of the name.
        requested: the options of the command line, None for each that was not used.
        ranks: the processes that resume the run.

    Raises:
        BadInput: if the run is finished or still running, has other settings than `requested`, or
            its checkpoint cannot be used. No file is changed in these cases.
    """
    with ExitStack() as locks:
        states = None
        if ranks.rank == 0:
            path = runs.find(log_dir, name).path
            check_plain(path)
            locks.enter_context(closing(Lock(path)))
            whole = _checkpoint(path, requested, ranks)
            states = [whole.for_rank(rank) for rank in range(ranks.count)]
        stopped = ranks.scatter_from_rank0(states)
        run = stopped.run(ranks)
        ranks.gather(None)  # no file is changed before every rank can continue
        yield run, None if ranks.rank else RunFolder(path.parent, run, whole)


def _checkpoint(path: Path, requested: dict[str, Any], ranks: Ranks) -> Checkpoint:
    """Return the checkpoint of a stopped run; raise BadInput if these ranks cannot continue it."""
    result = runs.result(path)
    if result is not None and not result.get("interrupted"):
        raise BadInput(
            f"run {path.name} is finished, {result['verdict']} after {result['steps']:,} steps: "
            "there is nothing to resume; start a new run"
        )
    stopped = checkpoint.load(path / CHECKPOINT)
    options.check_unchanged(requested, stopped.case, stopped.asked)
    if (count := len(stopped.ranks)) != ranks.count:
        command = Ranks(count=count).command(options.resume_command(path), count)
        raise BadInput(
            f"run {path.name}: number of ranks {ranks.count}, was {count}, which gives other "
            f"bits: use {command}, or start a new run"
        )
    return stopped
