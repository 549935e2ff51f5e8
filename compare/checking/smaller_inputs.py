"""The formulas of a large pass, compared at smaller inputs that take the same operations.

Exact values of many elements take long. A pass is therefore called with fewer rows of a batch, and
with tables of fewer rows, and its formulas are compared there. Bits and rounding bounds are those
of every element at the given inputs.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from compare.passes.inputs import tensors
from compare.passes.passes import Passes
from compare.proof.judge import judge
from compare.proof.pair import Pair
from compare.proof.program import Opaque, Program, work
from compare.proof.same_operations import same_operations
from compare.proof.verdict import INACCURATE, UNDECIDED, WRONG, Proof

#: Elements of both programs from which on smaller inputs are looked for.
LARGE = 20_000_000
#: How many rows to keep: the first count with which the programs are no longer large.
ROWS = 16, 4
# A batch comes first, or after the sequences; in the end every dimension of one size is cut.
CUTS = (0,), (1,), (0, 1, 2, 3)


@dataclass(frozen=True)
class SmallerInputs:
    """Both passes at smaller inputs, and what was shown there.

    Attributes:
        passes: The passes.
        pair: Both sides' values.
        proofs: The proof of each quantity.
    """

    passes: Passes
    pair: Pair
    proofs: Mapping[str, Proof]

    def words(self, given: Passes) -> str:
        """Return in words which inputs are smaller than the given ones."""
        inputs = tensors(self.passes.forward.inputs)
        return ", ".join(
            f"{name} {tuple(inputs[name].shape)} of {tuple(value.shape)}"
            for name, value in tensors(given.forward.inputs).items()
            if inputs[name].shape != value.shape
        )


def at_smaller_inputs(
    passes: Passes, pair: Pair, *, even_if_small: bool = False
) -> SmallerInputs | None:
    """Return the proofs at smaller inputs, None if the given ones are small or nothing is smaller.

    All formulas are decided there, and the programs have the operations of those at the given
    inputs.

    Args:
        passes: Both passes at the given inputs.
        pair: Both sides' values there.
        even_if_small: Whether to return the proofs at the given inputs if these are small.
    """
    small, small_pair = passes, pair
    if passes.lift != "auto":
        return None
    if _work(pair) > LARGE:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of inputs that are not the user's
            found = _smaller(passes, pair)
        if found is None:
            return None
        small, small_pair = found
    elif not even_if_small:
        return None
    # of float64 the accuracy too is shown there: no exact values are computed at the given inputs
    narrow = all(value.dtype.itemsize < 8 for value in pair.manual.values())
    proofs = judge(small_pair, list(small_pair.manual), formulas_only=narrow)
    if proofs.keys() != pair.manual.keys() or any(
        proof.obstacle or proof.verdict in (UNDECIDED, INACCURATE) for proof in proofs.values()
    ):
        return None
    return SmallerInputs(small, small_pair, {k: _said_of_there(v) for k, v in proofs.items()})


def _said_of_there(proof: Proof) -> Proof:
    text = proof.text.replace("at these inputs", "at the smaller inputs")
    if proof.verdict == WRONG:
        text = f"at the smaller inputs: {text}"
    return replace(proof, text=text)


def _work(pair: Pair) -> int:
    """Return the number of elements that both programs compute, 0 if there is no program."""
    programs = pair.manual_program, pair.reference
    return sum(work(p.graph.nodes) for p in programs if isinstance(p, Program))


def _smaller(passes: Passes, pair: Pair) -> tuple[Passes, Pair] | None:
    """Return the passes at smaller inputs, if that makes them much smaller."""
    best, least = None, _work(pair) / 2
    for rows in ROWS:
        found = _cut(passes, pair, rows)
        if found is not None and _work(found[1]) < least:
            best, least = found, _work(found[1])
        if least <= LARGE:
            break
    return best


def _cut(passes: Passes, pair: Pair, rows: int) -> tuple[Passes, Pair] | None:
    """Return the passes with as many inputs cut to `rows` as it takes, None if none can be cut."""
    inputs, best = passes.forward.inputs, None
    for dims in CUTS:
        shapes = [value.shape for value in tensors(inputs).values()]
        for size in dict.fromkeys(n for d in dims for shape in shapes for n in shape[d : d + 1]):
            if size <= rows:
                continue
            for fewer in _fewer(inputs, dims, size, rows):
                found = _traced(passes, pair, fewer)
                if found is not None:
                    inputs, best = fewer, found
                    break
            if best is not None and _work(best[1]) <= LARGE:
                return best
    return best


def _fewer(
    inputs: Mapping[str, Any], dims: Sequence[int], size: int, rows: int
) -> Iterator[dict[str, Any]]:
    """Yield the inputs with `rows` in place of `size` elements along dimensions of that size.

    Whole numbers below `size` may be indices into what is cut. They are made smaller in the second
    draw.
    """
    fewer, indices = dict(inputs), False
    for name, value in tensors(inputs).items():
        cut = [d in dims and n == size for d, n in enumerate(value.shape)]
        if any(cut):
            kept = tuple(slice(rows if here else None) for here in cut)
            fewer[name] = value = _like(value, value.detach()[kept])
        whole = value.dtype in (torch.int32, torch.int64) and bool(value.numel())
        indices |= whole and rows <= int(value.max()) < size
    yield fewer
    if indices:
        for name, value in tensors(fewer).items():
            if value.dtype in (torch.int32, torch.int64):
                fewer[name] = value % rows
        yield fewer


def _like(value: Tensor, part: Tensor) -> Tensor:
    return part.clone().requires_grad_(value.requires_grad)


def _traced(passes: Passes, pair: Pair, inputs: Mapping[str, Any]) -> tuple[Passes, Pair] | None:
    """Return the passes at smaller inputs, None if they take other operations or none there."""
    try:
        small = passes.retraced_at(inputs)
        if not _same_kind(passes, small):
            return None
        _, small_pair = small.with_autograd(small.manual, small.manual_program)
    except Exception:  # the code may raise anything at such inputs; the given ones decide then
        return None
    programs = (pair.manual_program, small_pair.manual_program), (
        pair.reference, small_pair.reference
    )  # fmt: skip
    for program, other in programs:
        if isinstance(program, Opaque) or isinstance(other, Opaque):
            return None
        if not same_operations(program, other):
            return None
    return small, small_pair


def _same_kind(passes: Passes, small: Passes) -> bool:
    """Whether the passes give the same names at smaller inputs, each of its tensor's shape."""
    if small.manual.keys() != passes.manual.keys():
        return False
    expected = small.autograd(small.manual)
    return all(small.manual[k].shape == v.shape for k, v in expected.items() if k in small.manual)
