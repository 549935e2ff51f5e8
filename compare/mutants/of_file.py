"""Mutants of what the command line names: a person's file, or a case."""

import shlex
from pathlib import Path
from typing import Any

from compare.cases.cases import CASES
from compare.guard.child import Tell
from compare.guard.shown import rendered
from compare.mutants.mutants import of_case, of_file


def judged(
    tell: Tell, *, target: str, dtype: str | None, seed: int, inputs: str | None, save: str | None,
    quiet: bool, width: int,
) -> dict[str, Any]:  # fmt: skip
    """Count what each check catches; return what there is to show of it, as `Judged` has it."""
    of = of_case if target in CASES else of_file
    given = None if inputs is None else Path(inputs)
    watch = lambda count: tell({"count": count})  # noqa: E731
    found = of(target, dtype=dtype, seed=seed, inputs=given, watch=watch)
    notes = []
    if save is not None and found.better is not None:
        found.save_inputs(save)
        again = f"--inputs {shlex.quote(save)}"
        found.again = f"python -m compare mutants {shlex.quote(target)} {again}"
    elif save is not None:
        notes = [f"  --save {save}: nothing to save, no mutant survives at these inputs alone"]
    return {
        "code": 0 if found.ok else 1,
        "text": rendered(width, found.headline() if quiet else found, *notes),
        "json": found.to_dict(),
        "page": "",
    }
