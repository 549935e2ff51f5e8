"""Candidate fixes for the quantity as a whole.

It is scaled, rearranged, summed or multiplied by a derivative, or a term is added. A derivative may
also be replaced by that of another activation, or be taken at another value.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compare.diagnosis.evaluation_points import (
    Value,
    broadcasts_to,
    constant_ratio,
    midpoints,
    nearly_equal,
    nearly_equal_rows,
)
from compare.diagnosis.expressions import ATOM, Expr, float_op
from compare.diagnosis.fix_tables import factor
from compare.diagnosis.known_values import KnownValue
from compare.diagnosis.search import DerivativeAt, Search
from compare.diagnosis.slice import Substitution, rearrangements


def scaling(search: Search) -> None:
    """Try to multiply the quantity by one number."""
    manual, autograd = search.manual, search.autograd
    if not manual[0].midpoints.numel():
        return
    if all(not value.midpoints.any() for value in autograd):
        text = "write 0 (autograd's value is 0 in every element)"
        search.try_formula(1, text, 0 * search.quantity)
        return
    ratios = [
        search.quotient(by_hand.numbers, reference.numbers, by_hand.midpoints)
        for by_hand, reference in zip(manual, autograd, strict=True)
    ]
    if any(r is None or r.contains(0) for r in ratios) or not ratios[0].overlaps(ratios[1]):
        return
    named = next((row for row in search.factors if ratios[0].overlaps(row.ball)), None)
    number = named.text if named else f"{float(ratios[0].mid()):.15g}"
    if (named is None and manual[0].midpoints.numel() == 1) or number == "1":
        return  # of one element any ratio would do; and a factor printed as 1 helps no one
    times = named.expr if named else Expr("printed as", ratios[0], number)
    search.factor_suffices = search.try_formula(
        1 if named else 2, f"multiply by {number}", search.quantity * times
    )


def rearranging(search: Search) -> None:
    """Try to move the quantity's elements."""
    for call, move in rearrangements(tuple(search.manual[0].midpoints.shape)):
        text = f"reorder the elements: write {search.display_name}{call}"
        _try_moved(search, 1, "transpose it" if call == ".mT" else text, search.manual, move)
    if not search.fixes:
        _permuting(search)


def _try_moved(
    search: Search, cost: float, text: str, values: Sequence[Value], move: Callable[[Any], Any]
) -> None:
    """Try a value in another shape or order; `move` maps a numpy array, of floats or of balls."""
    search.try_fix(
        cost, text, lambda k: torch.tensor(move(values[k].midpoints.numpy()).copy()),
        lambda k: move(values[k].numbers),
    )  # fmt: skip


def _permuting(search: Search) -> None:
    """Try to reorder the quantity along one dimension."""
    manual, autograd = search.manual[0].midpoints, search.autograd[0].midpoints
    for dim in range(manual.ndim):
        rows, wanted = (x.movedim(dim, 0).reshape(x.shape[dim], -1) for x in (manual, autograd))
        if not 2 < len(rows) <= 64 or not rows.shape[1]:
            continue
        order = [next((j for j, row in enumerate(rows) if nearly_equal(row, w)), None)
                 for w in wanted]  # fmt: skip
        if None in order or order == list(range(len(rows))):
            continue
        text = f"reorder dimension {dim - manual.ndim}: take its entries in the order {order}"
        _try_moved(search, 1, text, search.manual, partial(np.take, indices=order, axis=dim))


def reshaping(search: Search) -> None:
    """Try another shape: the quantity transposed, summed or reshaped."""
    manual, autograd = search.manual[0].midpoints, search.autograd[0].midpoints
    if manual.ndim >= 2 and manual.mT.shape == autograd.shape:
        _try_moved(search, 1, "transpose it", search.manual, lambda x: np.swapaxes(x, -1, -2))
    _summing(search, search.display_name, search.manual, 1)
    if manual.numel() == autograd.numel():
        shape = tuple(autograd.shape)
        _try_moved(
            search, 1, f"reshape it to {shape}", search.manual, lambda x: np.reshape(x, shape)
        )
    if not search.fixes:
        sums_of_others(search)


def sums_of_others(search: Search) -> None:
    """Try the sums of larger values: one may be missing, or be over the wrong dimension."""
    if search.autograd[0].midpoints.numel() > 1:
        for known in search.known:
            _summing(search, known.text, known.values, 2 + known.rank)


def _summing(search: Search, text: str, values: Sequence[Value], cost: float) -> None:
    """Try the sums of one value over some of its dimensions."""
    tensor, target = values[0].midpoints, search.autograd[0].midpoints
    if tensor.numel() <= target.numel() or tensor.ndim > 4:
        return
    shape = tuple(target.shape)
    for chosen in range(1, 2**tensor.ndim):  # each set of dimensions, as bits
        dims = [d for d in range(tensor.ndim) if chosen >> d & 1 and tensor.shape[d] > 1]
        left = [s for d, s in enumerate(tensor.shape) if d not in dims and s > 1]
        if not dims or left != [s for s in shape if s > 1]:
            continue
        over = ", ".join(str(d - tensor.ndim if tensor.ndim > 2 else d) for d in dims)
        over = f"({over})" if len(dims) > 1 else over
        name = text if text.replace("_", "").isalnum() else f"({text})"
        plural = "s" if len(dims) > 1 else ""
        _try_moved(
            search, cost, f"write {name}.sum({over}), the sum over the broadcast dimension{plural}",
            values, partial(_sum, dims=tuple(dims), shape=shape),
        )  # fmt: skip


def _sum(x: Any, dims: tuple[int, ...], shape: tuple[int, ...]) -> Any:
    return np.asarray(x.sum(dims)).reshape(shape)


def products(search: Search) -> None:
    """Try to multiply or divide by a derivative, a mask or any other value."""
    for known, derivative, numbers in search.derivatives:
        at = f"the derivative of {derivative.function} at {known.text_with_definition}"
        text = f"{derivative.text(known.expr)}, {at}"
        cost = 2 + known.rank + (not derivative.of_activation)
        _multiplying(search, cost, text, derivative.at(known.expr), numbers)
    for known in search.known:
        numbers = [value.midpoints for value in known.values]
        if broadcasts_to(numbers[0], search.manual[0].midpoints):
            text = known.expr.within(ATOM)
            _multiplying(search, 2.2 + known.rank, text, known.expr, numbers)


def _multiplying(search: Search, cost: float, text: str, expr: Expr, numbers: list[Tensor]) -> None:
    search.try_formula(cost, f"multiply by {text}", search.quantity * expr)
    if all(bool(x.all()) for x in numbers):
        search.try_formula(cost, f"divide by {text}", search.quantity / expr)


def adding(search: Search) -> None:
    """Try to add or subtract a term."""
    manual = search.manual[0].midpoints
    difference = search.autograd[0].midpoints - manual
    for known in search.known:
        term = known.values[0].midpoints
        if not broadcasts_to(term, difference) or constant_ratio(term, manual):
            continue
        if constant_ratio(term.expand_as(difference), difference) is None:
            continue
        _add_multiple(search, 3 + known.rank, known)


def _add_multiple(search: Search, cost: float, known: KnownValue) -> None:
    """Try the quantity plus a term times a number of the table of factors."""
    manual, autograd = search.manual[0].numbers, search.autograd[0].numbers
    term = search.ball_arithmetic.broadcast_to(known.values[0].numbers, manual.shape)
    times = search.quotient(term, autograd - manual, midpoints(term))
    once, minus_once = factor(1), factor(-1)
    table = (once, minus_once, *search.factors) if times is not None else ()
    named = next((row for row in table if times.overlaps(row.ball)), None)
    if named is None:
        return
    text = f"add {named.text} * {known.expr.within(ATOM)}"
    if named is once:
        text = f"add {known.text}"
    elif named is minus_once:
        text = f"subtract {known.expr.within(ATOM)}"
    changed = search.quantity + named.expr * known.expr
    search.try_formula(cost + 1.5 * (named not in (once, minus_once)), text, changed)


# -- derivatives


def other_derivatives(search: Search) -> None:
    """Try another derivative, the same one at another value, or a derivative times an error."""
    derivatives = [row for row in search.derivatives if row[1].of_activation]
    if not derivatives:
        return
    derivatives = _distinct(derivatives)
    stacked = torch.stack([numbers[0].flatten() for _, _, numbers in derivatives])
    manual = search.manual[0].midpoints.flatten()
    autograd = search.autograd[0].midpoints.flatten()
    for error in search.same_shape_values():
        if error.rank == 0 and error.node is not None:  # the by-hand code has a name for it
            products = error.values[0].midpoints.flatten() * stacked
            for at in nearly_equal_rows(products, autograd):
                known, derivative, _ = derivatives[at]
                text = f"{error.expr.within(ATOM)} * {derivative.text(known.expr)}"
                text = f"write {text}, the derivative of {derivative.function}"
                search.try_formula(3.2, text, error.expr * derivative.at(known.expr))
    values = [search.points[0].manual.get(node) for node, _ in search.slice.operands()]
    read = [v.midpoints for v in values if v is not None and v.midpoints.is_floating_point()]
    for old in derivatives:
        search.check_time()
        if not any(nearly_equal(old[0].values[0].midpoints, value) for value in read):
            continue
        target = autograd * old[2][0].flatten()
        for at in nearly_equal_rows(manual * stacked, target):
            if derivatives[at] is not old:
                _swap_derivatives(search, old, derivatives[at])


def _swap_derivatives(search: Search, old: DerivativeAt, new: DerivativeAt) -> None:
    """Try one derivative in place of another."""
    (old_value, old_derivative, _), (new_value, new_derivative, _) = old, new
    old_numbers, new_numbers = (known.values[0].midpoints for known in (old_value, new_value))
    cost = 3 + new_value.rank / 2
    if old_derivative is new_derivative:
        remark = search.mask_remark(old_numbers, new_numbers)
        text = f"take the derivative of {new_derivative.function} "
        text += f"at {new_value.text_with_definition}{remark} "
        text += f"in place of {old_value.text_with_definition}"
    else:
        if new_derivative.forward:
            new_numbers = float_op(new_derivative.forward, new_numbers)
        same = old_derivative.function == new_derivative.function
        remark = search.mask_remark(old_numbers, new_numbers) if same else ""
        text = f"use {new_derivative.text(new_value.expr)}, "
        text += f"the derivative of {new_derivative.function}{remark}, "
        text += f"in place of {old_derivative.text(old_value.expr)}"
    if not all(bool(x.all()) for x in old[2]):  # 0 / 0 would hide the new derivative there
        _swap_argument(search, old, new, text)
    else:
        quotient = search.quantity * new_derivative.at(new_value.expr)
        search.try_formula(cost, text, quotient / old_derivative.at(old_value.expr))


def _swap_argument(search: Search, old: DerivativeAt, new: DerivativeAt, text: str) -> None:
    """Try the same activation's derivative at another value, by substituting its argument."""
    (old_value, old_derivative, _), (new_value, new_derivative, _) = old, new
    forward = new_derivative.forward
    if old_derivative.function != new_derivative.function or old_derivative.forward:
        return
    if forward not in (None, "sigmoid", "tanh"):
        return
    values = search.evaluate(Expr(forward, new_value.expr)) if forward else new_value.values
    for node, readers in search.slice.operands():
        value = search.points[0].manual.get(node)
        if value is not None and nearly_equal(old_value.values[0].midpoints, value.midpoints):
            edit = Substitution(node, values, readers)
            search.try_substitution(3 + new_value.rank / 2, text, edit)


def _distinct(derivatives: list[DerivativeAt]) -> list[DerivativeAt]:
    """Return derivatives with distinct numbers: l * (1 - l) is the same at 1 - l, for example."""
    rows = torch.stack([numbers[0].flatten() for _, _, numbers in derivatives])
    firsts = (nearly_equal_rows(rows, row)[:1] for row in rows)
    return [d for k, (d, first) in enumerate(zip(derivatives, firsts, strict=True))
            if first in ([], [k])]  # fmt: skip
