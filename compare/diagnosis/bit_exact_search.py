"""The search for a rewrite of a ROUNDING quantity that matches autograd bit for bit.

A rewrite is reported only if it has autograd's bits in every element, at the user's inputs and at
others near them.
"""

import contextlib
import re
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from compare.diagnosis.expressions import ATOM, SUM, Expr, expression, float_op
from compare.diagnosis.known_values import display_names
from compare.diagnosis.rewrites import rewrites
from compare.diagnosis.slice import Slice
from compare.progress import counted
from compare.proof.bits import real_view, same_bits
from compare.proof.interpreter import Cache, Floats, Lifted, lift
from compare.proof.other_inputs import nearby_same_kind
from compare.proof.pair import Pair
from compare.proof.program import Program, elements
from compare.proof.verdict import ROUNDING, Diagnosis, Proof

MAX_SECONDS = 0.5  # of the search for one quantity
MAX_ELEMENTS = 200_000  # of the inputs, and of the values from which a quantity is computed
ENOUGH_ELEMENTS = 400  # of inputs, at all points together, to test a rewrite on
MIN_OTHERS, MAX_OTHERS = 3, 24  # other inputs to test at: the fewer elements, the more of them
MAX_CHARACTERS = 160  # of a rewrite

_Values = dict[fx.Node, Any]


def suggest_rewrites(
    pair: Pair, proofs: Mapping[str, Proof], skip: Collection[str] = ()
) -> dict[str, Proof]:
    """Return the proofs, each ROUNDING one with a rewrite that matches autograd bit for bit.

    Args:
        pair: the two passes.
        proofs: by quantity.
        skip: quantities that are not searched.
    """
    results = dict(proofs)
    names = [
        name
        for name, proof in proofs.items()
        if proof.verdict == ROUNDING and not proof.accepted and name not in skip
    ]
    size = sum(value.numel() for value in pair.inputs.values())
    if not names or not isinstance(pair.manual_program, Program) or size > MAX_ELEMENTS:
        return results
    pairs = [pair, *_at_other_inputs(pair)]
    with torch.no_grad():
        for name in counted("searching for autograd's bits of {}", names):
            diagnosis = Diagnosis.of(_search, pair, name, pairs)
            results[name] = replace(proofs[name], diagnosis=diagnosis)
    return results


def _at_other_inputs(pair: Pair) -> Iterator[Pair]:
    """Yield both passes at other inputs, each drawn near the previous ones."""
    inputs = dict(pair.inputs)
    count = ENOUGH_ELEMENTS // max(1, sum(value.numel() for value in inputs.values()))
    for _ in range(min(max(count, MIN_OTHERS), MAX_OTHERS) if pair.remake else 0):
        inputs = {name: nearby_same_kind(name, value) for name, value in inputs.items()}
        with contextlib.suppress(Exception):  # the user's code may fail at these inputs
            yield pair.at(inputs)


def _search(pair: Pair, name: str, pairs: list[Pair]) -> Diagnosis | None:
    assert isinstance(pair.manual_program, Program)
    program_slice = Slice(pair.manual_program, name)
    if elements(program_slice.nodes) > MAX_ELEMENTS or not program_slice.nodes or len(pairs) < 2:
        return None
    deadline = time.process_time() + MAX_SECONDS
    try:
        values = [_evaluate(pair.manual_program, name, each) for each in pairs]
    except Exception:  # shapes differ at other inputs
        return None
    matches: list[Expr] = []
    names, tried = display_names(pair, pair.manual_program), 0
    targets = [each.autograd[name] for each in pairs]
    for expr in rewrites(program_slice, names):
        if time.process_time() > deadline:
            break
        tried += 1
        if len(expr.text) <= MAX_CHARACTERS and all(
            _has_bits(expr, *each) for each in zip(values, targets, strict=True)
        ):
            matches.append(expr)
    note = f"{tried:,} rewrites tried"
    if not matches:
        return Diagnosis((), note)
    begins_with = _first_name(expression(program_slice.end, names, inside=True).text)
    best = min(
        matches,
        key=lambda expr: (
            _first_name(expr.text) != begins_with,
            len(expr.text),
            not _is_left_to_right(expr),
        ),
    )
    first, *counts = (target.numel() for target in targets)
    here, others = f"{first:,}", f"{sum(counts):,}"
    checked = f"checked: {here} of {here} elements, and {others} of {others} at other inputs"
    order = ", evaluated left to right" if _is_left_to_right(best) else ""
    return Diagnosis((f"write {best.text}{order} ({checked})",), note)


def _is_left_to_right(expr: Any) -> bool:
    """Whether it is a product of names without brackets, whose order of evaluation matters."""
    if not isinstance(expr, Expr) or expr.op != "*":
        return False
    first, second = (arg.printed[1] if isinstance(arg, Expr) else ATOM for arg in expr.args)
    return second == SUM or (second == ATOM and (first == ATOM or _is_left_to_right(expr.args[0])))


def _first_name(text: str) -> str:
    """Return the name with which an expression begins."""
    name = re.search(r"[A-Za-z_]\w*", text)
    return name.group() if name else ""


def _evaluate(program: Program, name: str, pair: Pair) -> _Values:
    """Return the value of every node from the by-hand values to the quantity."""
    above = {k: Lifted(v, None) for k, v in pair.manual.items() if k != name}
    cache: Cache = {}
    lift(program, Floats(), pair.manual_floats, overrides=above, only=[name], cache=cache)
    return {node: value.floats for node, value in cache.items()}


def _has_bits(expr: Expr, values: _Values, target: Tensor) -> bool:
    """Whether an expression has the bits of `target`."""
    try:
        result = expr.run(float_op, values.__getitem__)
    except Exception:  # shapes that do not match
        return False
    if not isinstance(result, Tensor):
        return False
    result = real_view(result)  # as the target is
    if result.numel() != target.numel():
        return False
    return result.dtype == target.dtype and same_bits(result.reshape(target.shape), target)
