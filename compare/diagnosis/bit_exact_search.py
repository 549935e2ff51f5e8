"""How to write a ROUNDING quantity so that it gets autograd's very bits: a search that tries it.

Another way to write the quantity's operations is told only if it gave autograd's bits at every
element of the inputs and of others beside them.
"""

import contextlib
import re
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from compare.diagnosis.expressions import ATOM, SUM, Expr, elements, expression, floats
from compare.diagnosis.known_values import names_in
from compare.diagnosis.rewrites import writings
from compare.diagnosis.slice import Slice
from compare.proof.bits import same_bits
from compare.proof.interpreter import Cache, Floats, Lifted, lift
from compare.proof.other_inputs import nearby_same_kind
from compare.proof.pair import Pair
from compare.proof.program import Program
from compare.proof.verdict import ROUNDING, Diagnosis, Proof

SECONDS = 0.5  # a search for one quantity goes no longer
TOO_MANY = 200_000  # elements of the inputs, or on the way to a quantity
ELEMENTS = 400  # of inputs, that are enough to try a writing on
AGAIN = 3, 24  # other inputs: at least, and at most where there are few elements
LONGEST = 160  # characters of a writing

_Values = dict[fx.Node, Any]


def rewritten(
    pair: Pair, proofs: Mapping[str, Proof], known: Collection[str] = ()
) -> dict[str, Proof]:
    """Return the proofs, those of ROUNDING quantities with what to write for autograd's bits.

    Nothing is looked for of `known` ones.
    """
    found = dict(proofs)
    asked = [
        n for n, p in proofs.items() if p.verdict == ROUNDING and not p.accepted and n not in known
    ]
    size = sum(value.numel() for value in pair.inputs.values())
    if not asked or not isinstance(pair.manual_program, Program) or size > TOO_MANY:
        return found
    samples = [pair, *_others(pair)]
    with torch.no_grad():
        for name in asked:
            told = Diagnosis.of(_search, pair, name, samples)
            found[name] = replace(proofs[name], diagnosis=told)
    return found


def _others(pair: Pair) -> Iterator[Pair]:
    """Yield both sides at other inputs."""
    inputs = dict(pair.inputs)
    few = ELEMENTS // max(1, sum(value.numel() for value in inputs.values()))
    for _ in range(min(max(few, AGAIN[0]), AGAIN[1]) if pair.remake else 0):
        inputs = {name: nearby_same_kind(name, value) for name, value in inputs.items()}
        with contextlib.suppress(Exception):  # the user's own code, at inputs not their own
            yield pair.at(inputs)


def _search(pair: Pair, name: str, samples: list[Pair]) -> Diagnosis | None:
    assert isinstance(pair.manual_program, Program)
    way = Slice(pair.manual_program, name)
    if elements(way.nodes) > TOO_MANY or not way.nodes or len(samples) < 2:
        return None
    until = time.process_time() + SECONDS
    try:
        values = [_read(pair.manual_program, name, sample) for sample in samples]
    except Exception:  # other shapes at other inputs
        return None
    found: list[Expr] = []
    names, tried = names_in(pair, pair.manual_program), 0
    for one in writings(way, names):
        if time.process_time() > until:
            break
        tried += 1
        if len(one.text) <= LONGEST and all(
            _gives(one, v, s.autograd[name]) for v, s in zip(values, samples, strict=True)
        ):
            found.append(one)
    lead = _first_name(expression(way.end, names, inside=True).text)
    found.sort(key=lambda one: (_first_name(one.text) != lead, len(one.text), -_from_left(one)))
    sizes = [sample.autograd[name].numel() for sample in samples]
    here, beside = f"{sizes[0]:,}", f"{sum(sizes[1:]):,}"
    same = f"(tried: {here} of {here} elements the same, and {beside} of {beside} at other inputs)"
    told = [f"write {one.text}{', left to right' * _from_left(one)} {same}" for one in found[:1]]
    return Diagnosis(tuple(told), f"{tried:,} ways to write it tried")


def _from_left(one: Any) -> bool:
    """Whether it is a product that says so only if one reads it from left to right."""
    if not isinstance(one, Expr) or one.op != "*":
        return False
    first, second = (arg.printed[1] if isinstance(arg, Expr) else ATOM for arg in one.args)
    return second == SUM or (second == ATOM and (first == ATOM or _from_left(one.args[0])))


def _first_name(text: str) -> str:
    """Return the name that an expression begins with."""
    name = re.search(r"[A-Za-z_]\w*", text)
    return name.group() if name else ""


def _read(program: Program, name: str, sample: Pair) -> _Values:
    """Return the value of every node on the way to a quantity, from the by-hand values above it."""
    above = {k: Lifted(v, None) for k, v in sample.manual.items() if k != name}
    cache: Cache = {}
    lift(program, Floats(), sample.manual_floats, overrides=above, only=[name], cache=cache)
    return {node: value.floats for node, value in cache.items()}


def _gives(one: Expr, values: _Values, wanted: Tensor) -> bool:
    """Whether a writing gives these bits."""
    try:
        found = one.run(floats, values.__getitem__)
    except Exception:  # shapes that do not fit
        return False
    if not isinstance(found, Tensor) or found.numel() != wanted.numel():
        return False
    return found.dtype == wanted.dtype and same_bits(found.reshape(wanted.shape), wanted)
