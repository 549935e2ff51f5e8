"""What would make a WRONG quantity right: a search, each find shown in ball arithmetic.

What counts as found says `search`. What is looked for is in `fix_quantity` and `fix_operand`, and
the tables of it in `fix_tables`.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

import flint
import torch

from compare.diagnosis import fix_operand, fix_quantity
from compare.diagnosis.evaluation_points import samples
from compare.diagnosis.expressions import elements
from compare.diagnosis.search import OutOfTime, Search
from compare.proof.balls import PRECISION
from compare.proof.explanations import source_text
from compare.proof.pair import Pair
from compare.proof.program import Program
from compare.proof.verdict import WRONG, Diagnosis, Proof

SECONDS = 3.0  # a search goes no longer
ALTOGETHER = 6.0  # nor do those of all quantities
TOO_MANY = 200_000  # elements of both programs together
MOST = 4  # candidates that are told
NEAR = 0.8  # how much dearer than the cheapest one may be and still be told
TRIED = "factor, transpose, other rows, sum, term, slope, other operand, constant or other function"

#: What is tried, the simplest first.
_CANDIDATES: tuple[Callable[[Search], None], ...] = (
    fix_quantity.times, fix_quantity.rows, fix_quantity.sums_of_others, fix_quantity.products,
    fix_quantity.other_slopes, fix_quantity.terms, fix_operand.operands, fix_operand.signs,
    fix_operand.constants, fix_operand.functions,
)  # fmt: skip


def diagnose(
    pair: Pair,
    proofs: Mapping[str, Proof],
    misshapen: Iterable[str] = (),
    known: Collection[str] = (),
) -> dict[str, Proof]:
    """Return the proofs, those of WRONG quantities with their line and what would make them right.

    `misshapen` quantities have no proof of their own, and get one that says only this; of `known`
    ones nothing is looked for.
    """
    found = dict(proofs)
    if not isinstance(pair.manual_program, Program) or not isinstance(pair.reference, Program):
        return found
    wrong = {name for name, proof in proofs.items() if proof.verdict == WRONG}
    shapes = {name for name in misshapen if name in pair.manual_program.outputs}
    odd = {name: Proof(WRONG, "") for name in shapes if not shapes & pair.injected_ancestors(name)}
    bad = {name: proofs[name] for name in wrong} | odd
    for name in bad.keys() & pair.manual_program.outputs.keys():
        bad[name] = replace(bad[name], line=source_text(pair.manual_program.outputs[name]))
    found |= {name: bad[name] for name in wrong}
    until = time.process_time() + ALTOGETHER
    with torch.no_grad(), flint.ctx.workprec(PRECISION):
        for name, proof in bad.items():
            both = name in pair.reference.outputs and (name in odd or proof.at is not None)
            if both and name not in known:
                told = Diagnosis.of(
                    _search, pair, name, pair.injected_ancestors(name) & wrong, until
                )
                if told is not None:
                    found[name] = replace(proof, diagnosis=told)
    return found


def _search(pair: Pair, name: str, wrong: Collection[str], until: float) -> Diagnosis | None:
    if time.process_time() > until:
        return Diagnosis((), f"not looked for: those above took {ALTOGETHER:g} s")
    assert isinstance(pair.manual_program, Program)
    assert isinstance(pair.reference, Program)
    count = sum(elements(program.graph.nodes) for program in (pair.manual_program, pair.reference))
    if count > TOO_MANY:
        return Diagnosis((), f"not looked for: {count:,} elements to lift, more than {TOO_MANY:,}")
    both = samples(pair, wrong)
    end, target = pair.manual_program.outputs[name], pair.reference.outputs[name]
    if not all(end in sample.manual_program and target in sample.reference for sample in both):
        return None
    trial = Search(pair, name, both, min(until, time.process_time() + SECONDS))
    if trial.at_a_kink():
        return None
    note = f"tried: {TRIED}"
    same_shape = trial.mine[0].near.shape == trial.theirs[0].near.shape
    try:
        for candidates in _CANDIDATES if same_shape else (fix_quantity.shapes,):
            candidates(trial)
    except OutOfTime:
        note += "; stopped before everything was tried, as the time was up"
    return Diagnosis(_told(trial.found), note)


def _told(found: Collection[tuple[float, str]]) -> tuple[str, ...]:
    """Return the simplest of what was found.

    What holds of several activations' slopes alike says nothing of a slope, a change of two
    operations more than the simplest is a clumsy way to write it, and one factor is told once.
    """
    alike = Counter(_SLOPE.sub("", text) for text in {text for _, text in found})
    best = sorted(found, key=lambda one: (one[0], _operations(one[1]), len(one[1])))
    best = [(cost, text) for cost, text in best if alike[_SLOPE.sub("", text)] == 1] or best
    told = [
        text
        for cost, text in best
        if cost <= best[0][0] + NEAR and _operations(text) <= _operations(best[0][1]) + 1
    ]
    kept: dict[str, str] = {}  # a factor of one value is one of whatever it is a factor of
    for text in told:
        factor = _FACTOR.match(text)
        kept.setdefault(factor[1] if factor else text, text)
    return tuple(kept.values())[:MOST]


_FACTOR = re.compile(r"with (\S+) \* \(?(.+?)\)? in place of \2( in .*)?$")
_SLOPE = re.compile(r"the slope of \w+ at ")


def _operations(text: str) -> int:
    """Return how many operations a remedy has one write."""
    return len(re.findall(r" [-+*/@] ", text.partition(" in place of ")[0]))
