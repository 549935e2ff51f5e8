"""`python -m compare run --resume RUN`: take a run up where its last checkpoint left it."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from compare.board import runs
from compare.board.run_folder import RunFolder
from compare.cases import options
from compare.checkpoint import checkpoint
from compare.checkpoint.checkpoint import Checkpoint
from compare.checkpoint.folder import CHECKPOINT, Lock, check_plain
from compare.errors import BadInput
from compare.ranks.ranks import Ranks
from compare.training.harness import Run


@contextmanager
def stopped_run(
    log_dir: Path, name: str, words: dict[str, Any], ranks: Ranks
) -> Iterator[tuple[Run, RunFolder | None]]:
    """Yield the run called `name`, ready to go on, and on rank 0 its folder, held within.

    `words` are what the command line asks for, None where it says nothing. Raises BadInput where
    the run is finished, going on, asked for otherwise, or its checkpoint cannot be used; nothing
    is then touched.
    """
    with ExitStack() as held:
        each = None
        if ranks.rank == 0:
            path = runs.find(log_dir, name).path
            check_plain(path)
            held.enter_context(closing(Lock(path)))
            whole = _stopped(path, words, ranks)
            each = [whole.for_rank(rank) for rank in range(ranks.count)]
        stopped = ranks.scatter_from_rank0(each)
        run = stopped.run(ranks)
        ranks.gather(None)  # nothing is touched before all can go on
        yield run, None if ranks.rank else RunFolder(path.parent, run, whole)


def _stopped(path: Path, words: dict[str, Any], ranks: Ranks) -> Checkpoint:
    """Return the checkpoint of a run that can be gone on with by these ranks."""
    result = runs.result(path)
    if result is not None and not result.get("interrupted"):
        raise BadInput(
            f"run {path.name} is finished, {result['verdict']} after {result['steps']:,} steps: "
            "there is nothing to resume, run it anew"
        )
    stopped = checkpoint.load(path / CHECKPOINT)
    options.check_unchanged(words, stopped.case, stopped.asked)
    if (count := len(stopped.ranks)) != ranks.count:
        again = Ranks(count=count).command(options.resume_command(path), count)
        raise BadInput(
            f"run {path.name}: ranks were {count} and are {ranks.count} here, and other "
            f"bits come of it: {again}, or run it anew"
        )
    return stopped
