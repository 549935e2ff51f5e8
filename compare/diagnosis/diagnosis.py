"""The search for candidate fixes of WRONG quantities; each fix is proven in exact arithmetic.

`search` tests the candidates, `fix_quantity` and `fix_operand` make the candidates, and
`fix_tables` holds the tables behind them.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

import flint
import torch

from compare.diagnosis import fix_operand, fix_quantity
from compare.diagnosis.evaluation_points import evaluation_points
from compare.diagnosis.search import OutOfTime, Search
from compare.progress import counted
from compare.proof.balls import PRECISION
from compare.proof.explanations import source_text
from compare.proof.pair import Pair
from compare.proof.program import Program, elements, meta_tensor, upstream
from compare.proof.verdict import WRONG, Diagnosis, Proof

MAX_SECONDS = 3.0  # of the search for one quantity
MAX_SECONDS_IN_ALL = 6.0  # of the searches for all quantities
MAX_ELEMENTS = 200_000  # of both programs together
MAX_FIXES = 4  # in the report
MAX_EXTRA_COST = 0.8  # by which a reported fix may cost more than the cheapest one
TRIED = (
    "factor, transpose, other rows, sum, term, derivative, other operand, constant or other "
    "function"
)

#: The simplest candidates first.
_CANDIDATES: tuple[Callable[[Search], None], ...] = (
    fix_quantity.scaling, fix_quantity.rearranging, fix_quantity.sums_of_others,
    fix_quantity.products, fix_quantity.other_derivatives, fix_quantity.adding,
    fix_operand.operands, fix_operand.signs, fix_operand.constants, fix_operand.functions,
)  # fmt: skip


def diagnose(
    pair: Pair,
    proofs: Mapping[str, Proof],
    misshapen: Iterable[str] = (),
    skip: Collection[str] = (),
) -> dict[str, Proof]:
    """Return the proofs; those of WRONG quantities get the line of code and the fixes found.

    Args:
        pair: the two passes.
        proofs: by quantity.
        misshapen: quantities with another shape than autograd's. They have no proof yet, and get
            one that holds only the line and the fixes.
        skip: quantities that get their line but no search.
    """
    results = dict(proofs)
    if not isinstance(pair.manual_program, Program) or not isinstance(pair.reference, Program):
        return results
    wrong = {name for name, proof in proofs.items() if proof.verdict == WRONG}
    shapes = {name for name in misshapen if name in pair.manual_program.outputs}
    first_misshapen = {name for name in shapes if not shapes & pair.injected_ancestors(name)}
    to_fix = {name: proofs[name] for name in wrong}
    to_fix |= {name: Proof(WRONG, "") for name in first_misshapen}
    for name in to_fix.keys() & pair.manual_program.outputs.keys():
        to_fix[name] = replace(to_fix[name], line=source_text(pair.manual_program.outputs[name]))
    results |= {name: to_fix[name] for name in wrong}
    deadline = time.process_time() + MAX_SECONDS_IN_ALL
    with torch.no_grad(), flint.ctx.workprec(PRECISION):
        for name in counted("searching for a fix of {}", to_fix):
            proof = to_fix[name]
            formulas_differ = name in first_misshapen or proof.at is not None
            if formulas_differ and name in pair.reference.outputs and name not in skip:
                injected = pair.injected_ancestors(name) & wrong
                diagnosis = Diagnosis.of(_search, pair, name, injected, deadline)
                if diagnosis is not None:
                    results[name] = replace(proof, diagnosis=diagnosis)
    return results


def _search(pair: Pair, name: str, injected: Collection[str], deadline: float) -> Diagnosis | None:
    if time.process_time() > deadline:
        spent = f"the quantities above took all {MAX_SECONDS_IN_ALL:g} s"
        return Diagnosis((), f"search skipped: {spent}")
    assert isinstance(pair.manual_program, Program)
    assert isinstance(pair.reference, Program)
    count = sum(elements(program.graph.nodes) for program in (pair.manual_program, pair.reference))
    if count > MAX_ELEMENTS:
        large = f"{count:,} elements to compute exactly, the limit is {MAX_ELEMENTS:,}"
        return Diagnosis((), f"search skipped: {large}")
    end, reference_end = pair.manual_program.outputs[name], pair.reference.outputs[name]
    values = map(meta_tensor, upstream([end, reference_end]))
    if any(value is not None and value.is_complex() for value in values):
        return Diagnosis((), "there is no search among complex numbers")
    points = evaluation_points(pair, injected)
    if not all(end in point.manual and reference_end in point.reference for point in points):
        return None
    search = Search(pair, name, points, min(deadline, time.process_time() + MAX_SECONDS))
    if search.at_a_kink():
        return None
    note = f"tried: {TRIED}"
    same_shape = search.manual[0].midpoints.shape == search.autograd[0].midpoints.shape
    try:
        for try_candidates in _CANDIDATES if same_shape else (fix_quantity.reshaping,):
            try_candidates(search)
    except OutOfTime:
        note += "; the search ran out of time before it had tried everything"
    return Diagnosis(_simplest(search.fixes), note)


def _simplest(fixes: Collection[tuple[float, str]]) -> tuple[str, ...]:
    """Return the texts of the simplest of several fixes, given with their costs.

    Left out are: a derivative, if several activations' derivatives would do as well; a fix with two
    operations more than the simplest; and a factor that is already in another fix.
    """
    without_name = Counter(_DERIVATIVE.sub("", text) for text in {text for _, text in fixes})
    ranked = sorted(fixes, key=lambda fix: (fix[0], _operations(fix[1]), len(fix[1])))
    unambiguous = [fix for fix in ranked if without_name[_DERIVATIVE.sub("", fix[1])] == 1]
    ranked = unambiguous or ranked
    texts = [
        text
        for cost, text in ranked
        if cost <= ranked[0][0] + MAX_EXTRA_COST
        and _operations(text) <= _operations(ranked[0][1]) + 1
    ]
    distinct: dict[str, str] = {}  # 2 * a for a, and 2 * (a * b) for a * b, are the same fix
    for text in texts:
        factor = _FACTOR.match(text)
        distinct.setdefault(factor[1] if factor else text, text)
    return tuple(distinct.values())[:MAX_FIXES]


_FACTOR = re.compile(r"use (\S+) \* \(?(.+?)\)? in place of \2( in .*)?$")
_DERIVATIVE = re.compile(r"the derivative of \w+ at ")


def _operations(text: str) -> int:
    """Return the number of operations in the code that a fix proposes."""
    return len(re.findall(r" [-+*/@] ", text.partition(" in place of ")[0]))
