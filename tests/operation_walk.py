"""Walks torch's own database of operations: of which does a check decide, and how?

Each operation that autograd differentiates is checked at a small sample of torch's own tests, with
autograd's gradients as those by hand, and with 1.5 times these. `python -m tests.operation_walk >
docs/operations.md` writes the page that shows the result for each operation.
"""

import contextlib
import itertools
import math
import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import compare
from compare.errors import BadInput
from compare.proof.verdict import UNDECIDED, WRONG, Verdict
from compare.report.report import Report
from tests.conftest import skip_fix_search

DTYPES = (torch.float64, torch.float32)
SMALL = 40  # numbers in inputs and outputs together; a larger sample is taken if there is no other
TRIED = 20  # usable samples of an operation to choose from
DRAWN = 200  # samples that are looked at for them
FACTOR = 1.5
LEAST_SLOPE = 1e-6  # of a gradient that is not 0 up to rounding
#: How a check decides: by the formulas, by the numbers alone, or not at all.
DECIDED, BY_NUMBERS, REFUSED = WAYS = "decided", "by numbers", "refused"
NOT_RUN = "not run"
COMMAND = "python -m tests.operation_walk > docs/operations.md"
_BITS_ONLY = "formula not checked: "


@dataclass(frozen=True)
class Sample:
    """An operation at a sample of torch's tests, as a function of the tensors that need a gradient.

    Attributes:
        run: The function: takes `inputs` by name, returns the outputs that depend on them.
        inputs: The tensors by name; each has `requires_grad`.
    """

    run: Callable[..., tuple[Tensor, ...]]
    inputs: dict[str, Tensor]

    def gradients(
        self, values: Mapping[str, Tensor], cotangents: tuple[Tensor, ...] = (), factor: float = 1
    ) -> dict[str, Tensor | None]:
        """Return autograd's gradients times a factor, by name; None for no gradient."""
        leaves = {name: values[name].detach().requires_grad_() for name in self.inputs}
        with torch.enable_grad():
            outputs = self.run(**leaves)
        ones = tuple(torch.ones_like(output) for output in outputs)
        given = torch.autograd.grad(
            outputs, [*leaves.values()], cotangents or ones, allow_unused=True
        )
        scaled = [g if g is None or factor == 1 else g * factor for g in given]
        return dict(zip(leaves, scaled, strict=True))

    @cached_property
    def size(self) -> int:
        """The number of elements of inputs and outputs; 0 if one of them has none."""
        outputs = self.run(**{name: value.clone() for name, value in self.inputs.items()})
        counts = [value.numel() for value in (*self.inputs.values(), *outputs)]
        return sum(counts) if self.inputs and outputs and all(counts) else 0

    @cached_property
    def slope(self) -> float:
        """The largest magnitude of a gradient: infinite if one is infinite or NaN."""
        given = [g for g in self.gradients(self.inputs).values() if g is not None]
        sizes = [float(g.abs().max().nan_to_num(math.inf)) for g in given]
        return max(sizes, default=0.0)

    def check(self, factor: float = 1) -> Report:
        """Check autograd's gradients times a factor as those by hand."""

        def backward(grad_output: Any, **values: Tensor) -> dict[str, Tensor | None]:
            several = grad_output if isinstance(grad_output, tuple) else (grad_output,)
            return self.gradients(values, several, factor)

        return compare.check(backward, self.run, self.inputs)


@cache
def entries() -> dict[str, Any]:
    """Return the operations of torch's database that autograd differentiates, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries that the database imports
        from torch.testing._internal.common_methods_invocations import op_db
    return {
        ".".join(filter(None, (op.name, op.variant_test_name))): op
        for op in op_db
        if op.supports_autograd
    }


def sample_of(op: Any) -> Sample | None:
    """Return the largest small sample of an operation at which a factor shows; None without any."""
    for dtype in DTYPES:
        if not op.supports_dtype(dtype, "cpu"):
            continue
        for seed in (torch.manual_seed, random.seed, np.random.seed):
            seed(0)
        drawn = itertools.islice(op.sample_inputs("cpu", dtype, requires_grad=True), DRAWN)
        made = (sample for given in drawn for sample in _usable(op, given))
        usable = list(itertools.islice(made, TRIED))
        if usable:
            usable = [s for s in usable if s.slope > LEAST_SLOPE] or usable
            small = [s for s in usable if s.size <= SMALL]
            return max(small, key=_size) if small else min(usable, key=_size)
    return None


def _size(sample: Sample) -> int:
    return sample.size


def _usable(op: Any, sample: Any) -> Iterator[Sample]:
    """Yield one of torch's samples of an operation, unless it fails, is empty or is a pole."""
    whole = sample.input, tuple(sample.args), dict(sample.kwargs)
    parts, structure = pytree.tree_flatten(whole)
    fixed = [part.detach() if isinstance(part, Tensor) else part for part in parts]
    needed = [k for k, part in enumerate(parts) if isinstance(part, Tensor) and part.requires_grad]
    names = {f"x{number}": k for number, k in enumerate(needed)}

    def run(**values: Tensor) -> tuple[Tensor, ...]:
        given = list(fixed)
        for name, k in names.items():
            given[k] = values[name]
        first, args, kwargs = pytree.tree_unflatten(given, structure)
        result = sample.output_process_fn_grad(op(first, *args, **kwargs))
        leaves = pytree.tree_leaves(result)
        return tuple(v for v in leaves if isinstance(v, Tensor) and v.requires_grad)

    made = Sample(run, {name: fixed[k].clone().requires_grad_() for name, k in names.items()})
    with contextlib.suppress(RuntimeError, TypeError, ValueError, NotImplementedError):
        if made.size and made.slope < math.inf:
            yield made


@dataclass(frozen=True)
class Outcome:
    """The two checks of an operation.

    Attributes:
        way: One of WAYS.
        right: The verdict on autograd's gradients; UNDECIDED if the check refuses them.
        wrong: The verdict on 1.5 times these.
        flat: Whether all gradients are 0, and so 1.5 times these are right.
        why: Why the formulas do not decide; empty if they do.
    """

    way: str
    right: Verdict = UNDECIDED
    wrong: Verdict = UNDECIDED
    flat: bool = False
    why: str = ""

    @property
    def false_words(self) -> list[str]:
        """What is false in the verdicts."""
        right = ["the right gradients are WRONG"] * (self.right == WRONG)
        passes = self.wrong.passes and not self.flat
        missed = passes or (self.way == DECIDED and self.wrong != WRONG and not self.flat)
        return right + [f"1.5 times the gradients are {self.wrong}"] * missed


@cache
def outcome(name: str) -> Outcome:
    """Check an operation twice, as it should be and with a factor."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecated operations, and of samples that provoke one
        sample = sample_of(entries()[name])
        if sample is None:
            return Outcome(NOT_RUN)
        try:
            right, wrong = sample.check(), sample.check(FACTOR)
        except BadInput as error:
            return Outcome(REFUSED, why=str(error))
    proofs = [quantity.proof for quantity in right.quantities.values() if quantity.proof]
    flat = sample.slope <= LEAST_SLOPE
    missing = [proof.text.removeprefix(_BITS_ONLY) for proof in proofs if not proof.lifted]
    numbers = WRONG in (right.verdict, wrong.verdict) or right.verdict == "WITHIN"
    way = (BY_NUMBERS if numbers else REFUSED) if missing else DECIDED
    why = missing[0].partition(";")[0] if missing else ""
    return Outcome(way, right.verdict, wrong.verdict, flat, why)


def page(outcomes: Mapping[str, Outcome]) -> str:
    """Return docs/operations.md."""
    count = Counter(one.way for one in outcomes.values())
    ran = sum(count[way] for way in WAYS)
    version = ".".join(torch.__version__.split(".")[:2])
    lines = [
        "# The operations that a check decides",
        "",
        f"Of the {len(outcomes)} operations in the tests of torch {version} that autograd",
        f"differentiates, {ran} have a sample with real numbers and finite gradients. Each was",
        "checked at one, with autograd's gradients as those by hand and with 1.5 times these.",
        "",
        "| how | operations | what it means |",
        "|---|---|---|",
        f"| {DECIDED} | {count[DECIDED]} | both formulas are computed exactly |",
        f"| {BY_NUMBERS} | {count[BY_NUMBERS]} | the numbers alone decide, not the formula |",
        f"| {REFUSED} | {count[REFUSED]} | UNDECIDED, or the check refuses the inputs |",
        f"| {NOT_RUN} | {count[NOT_RUN]} | no such sample |",
        "",
        f"`{COMMAND}` writes this page. [How to add an operation](how-to/operation.md).",
        "",
        "| operation | how | why not decided |",
        "|---|---|---|",
    ]
    for name, one in sorted(outcomes.items()):
        lines.append(f"| {name} | {one.way} | {one.why.replace('|', ' ')} |".replace("  |", " |"))
    return "\n".join([*lines, ""])


def rows(text: str) -> dict[str, str]:
    """Return operation -> how, as the page says."""
    table = text.partition("| operation | how |")[2].splitlines()[2:]
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in table)
    return {name: way for name, way, *_ in cells}


def main() -> None:
    """Print the page."""
    with pytest.MonkeyPatch.context() as patch:
        skip_fix_search(patch)
        outcomes = {}
        for name in entries():
            outcomes[name] = outcome(name)
            print(name, outcomes[name], file=sys.stderr, flush=True)
    sys.stdout.write(page(outcomes))


if __name__ == "__main__":
    main()
