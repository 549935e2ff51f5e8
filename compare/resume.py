"""`python -m compare run --resume RUN`: take a run up where its last checkpoint left it."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from compare import checkpoint, history, options
from compare.board import RunFolder
from compare.errors import BadInput
from compare.harness import Run
from compare.lock import Lock


@contextmanager
def taken_up(log_dir: Path, name: str, words: dict[str, Any]) -> Iterator[tuple[Run, RunFolder]]:
    """Yield the run called `name`, ready to go on, and its folder, which is held within.

    `words` are what the command line asks for, None where it says nothing. Raises BadInput where
    the run is finished, going on, asked for otherwise, or its checkpoint cannot be used; nothing
    is then touched.
    """
    path = history.find(log_dir, name).path
    with closing(Lock(path)):
        result = history.find(log_dir, name).result
        if result is not None and not result.get("interrupted"):
            raise BadInput(
                f"run {path.name} is finished, {result.get('verdict')} after "
                f"{result.get('steps'):,} steps: there is nothing to resume, run it anew"
            )
        stopped = checkpoint.load(path / checkpoint.NAME)
        options.agree(words, stopped.case, stopped.asked)
        run = stopped.run()
        yield run, RunFolder(path.parent, run, stopped)
