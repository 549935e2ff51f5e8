"""Masked attention: a right pass is EXACT or ROUNDING, and a pass with a bug is WRONG.

The table covers each fill value, way to fill, form and dtype, with a right pass and three bugs: a
wrong scale, a mask that is off by one, and a contribution that is overwritten instead of added.
Fill values go down to -infinity, and the elements that are not masked need a rounding bound too.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import compare
from compare.proof.verdict import EXACT, INACCURATE, ROUNDING, WITHIN, WRONG
from tests.opaque import memory
from tests.tenth import unless_chosen

T, D = 5, 4  # rows of q, k and v, and their length
SCALE = 0.3  # not a power of two, so that multiplying by it rounds
DTYPES = {str(d)[6:]: d for d in (torch.float64, torch.float32, torch.float16, torch.bfloat16)}
BUGS = ("right", "wrong scale", "mask off by one", "overwritten")
FORMS = ("softmax", "logsumexp", "online", "online from the lowest")
WAYS = ("masked_fill", "where", "added")
FILLS = ("-inf", "lowest", "-1e9", "-1e4")

Backward = Callable[..., dict[str, Tensor]]


@dataclass(frozen=True)
class Case:
    """A masked pass: the way both sides mask the scores, the by-hand form, and the bug."""

    reference: str  # "softmax", or torch's own attention with "causal" or "attn_mask"
    form: str
    way: str
    fill: str
    dtype: str
    named: bool
    bug: str

    @property
    def name(self) -> str:
        """The pytest id of the case, which also decides whether the quick tests include it."""
        named = "named" if self.named else "not named"
        return "-".join(
            (self.reference, self.form, self.way, self.fill, self.dtype, named, self.bug)
        )

    @property
    def filling(self) -> float:
        """The number that replaces a masked score."""
        lowest = torch.finfo(DTYPES[self.dtype]).min
        return {"-inf": -math.inf, "lowest": lowest, "-1e9": -1e9, "-1e4": -1e4}[self.fill]


def _all() -> list[Case]:
    """Return all cases, except a fill value that the dtype cannot hold: -1e9 in float16."""
    own = [
        Case("softmax", *rest)
        for rest in itertools.product(FORMS, WAYS, FILLS, DTYPES, (False, True), BUGS)
    ]
    torchs = [
        Case(reference, form, "masked_fill", "-inf", dtype, False, bug)
        for reference, form, dtype, bug in itertools.product(
            ("causal", "attn_mask"), FORMS, DTYPES, BUGS
        )
    ]
    return [c for c in own + torchs if not (c.dtype == "float16" and c.fill == "-1e9")]


def _params(cases: list[Any]) -> list[Any]:
    """Return the cases as pytest parameters, nine of ten marked as long."""
    return [pytest.param(c, id=c.name, marks=unless_chosen(c.name)) for c in cases]


def _hidden(off: int = 0) -> Tensor:
    """Return the causal mask: True for keys after the query, except the first `off` of them."""
    return torch.ones(T, T, dtype=torch.bool).triu(1 + off)


def _masked(case: Case, s: Tensor, hidden: Tensor) -> Tensor:
    if case.way == "masked_fill":
        return s.masked_fill(hidden, case.filling)
    if case.way == "where":
        return torch.where(hidden, case.filling, s)
    return s + torch.zeros_like(s).masked_fill(hidden, case.filling)


def _probabilities(case: Case, z: Tensor) -> Tensor:
    """Return the softmax of each row of z, computed in the case's form."""
    if case.form == "softmax":
        return torch.softmax(z, -1)
    if case.form == "logsumexp":
        return torch.exp(z - torch.logsumexp(z, -1, keepdim=True))
    start = -math.inf if case.form == "online" else torch.finfo(z.dtype).min
    most, total = torch.full_like(z[:, :1], start), torch.zeros_like(z[:, :1])
    for block in z.split(2, -1):
        new = torch.maximum(most, block.amax(-1, keepdim=True))
        total = total * torch.exp(most - new) + torch.exp(block - new).sum(-1, keepdim=True)
        most = new
    return torch.exp(z - most - total.log())


def _forward(case: Case) -> Callable[..., Tensor]:
    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if case.reference == "causal":
            return F.scaled_dot_product_attention(
                q[None, None], k[None, None], v[None, None], is_causal=True, scale=SCALE
            )[0, 0]
        if case.reference == "attn_mask":
            return F.scaled_dot_product_attention(
                q[None, None], k[None, None], v[None, None], attn_mask=~_hidden(), scale=SCALE
            )[0, 0]
        s = q @ k.mT * SCALE
        if case.named:
            compare.name(s, "s")
        return torch.softmax(_masked(case, s, _hidden()), -1) @ v

    return forward


def _gradients(case: Case, s: Tensor, q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, ...]:  # fmt: skip  # noqa: E501
    """Return the gradients of the scores, q, k and v; the one of k in two parts."""
    hidden = _hidden(int(case.bug == "mask off by one"))
    p = _probabilities(case, _masked(case, s, hidden))
    dp = g @ v.mT
    if case.form == "softmax":
        ds = p * (dp - (p * dp).sum(-1, keepdim=True))
    else:  # the formula of flash attention: the row sums of the output times its gradient
        ds = p * (dp - (g * (p @ v)).sum(-1, keepdim=True))
    if case.way != "added":
        ds = ds.masked_fill(hidden, 0)
    scale = 1 / D if case.bug == "wrong scale" else SCALE
    first, second = ds[:3].mT @ q[:3] * scale, ds[3:].mT @ q[3:] * scale
    dk = second if case.bug == "overwritten" else first + second
    return ds, ds @ k * scale, dk, p.mT @ g


def _backward(case: Case) -> Backward:
    def with_scores(s: Tensor, q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor) -> dict[str, Tensor]:  # fmt: skip  # noqa: E501
        return dict(zip("sqkv", _gradients(case, s, q, k, v, grad_output), strict=True))

    def without(q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        _, *found = _gradients(case, q @ k.mT * SCALE, q, k, v, grad_output)
        return dict(zip("qkv", found, strict=True))

    return with_scores if case.named else without


def _inputs(names: str, dtype: torch.dtype, *shape: int) -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(1)
    return {n: torch.randn(*shape, generator=chance, dtype=torch.float64).to(dtype) for n in names}


def _told(report: compare.Report) -> str:
    return "; ".join(f"{n} {q.verdict}: {q.proof and q.proof.text}" for n, q in report.quantities.items())  # fmt: skip  # noqa: E501


def _expect(report: compare.Report, bug: str) -> None:
    expected = (EXACT, ROUNDING) if bug == "right" else (WRONG,)
    assert report.verdict in expected, _told(report)


def test_every_form_is_in_the_ordinary_run() -> None:
    short = [c for c in _all() if not unless_chosen(c.name)]
    for part, values in (
        ("form", FORMS), ("way", WAYS), ("fill", FILLS), ("dtype", DTYPES), ("bug", BUGS),
        ("reference", ("softmax", "causal", "attn_mask")), ("named", (True, False)),
    ):  # fmt: skip
        assert {getattr(c, part) for c in short} == set(values)
    assert {(c.form, c.bug) for c in short} == set(itertools.product(FORMS, BUGS))


@pytest.mark.parametrize("case", _params(_all()))
def test_masked_attention(case: Case) -> None:
    inputs = _inputs("qkv", DTYPES[case.dtype], T, D)
    _expect(compare.check(_backward(case), _forward(case), inputs), case.bug)


# -- cross-entropy in which some rows lack some classes


@dataclass(frozen=True)
class Classes:
    """A cross-entropy whose logits are partly infinite."""

    way: str
    form: str
    dtype: str
    bug: str

    @property
    def name(self) -> str:
        """The pytest id of the case."""
        return f"classes-{self.way}-{self.form}-{self.dtype}-{self.bug}"


CLASSES = [
    Classes(*parts)
    for parts in itertools.product(
        ("masked_fill", "added"), ("softmax", "log_softmax"), DTYPES, BUGS[:3]
    )
]


@pytest.mark.parametrize("case", _params(CLASSES))
def test_cross_entropy_with_infinite_logits(case: Classes) -> None:
    target = torch.arange(T)

    def logits(z: Tensor, hidden: Tensor) -> Tensor:
        if case.way == "masked_fill":
            return z.masked_fill(hidden, -math.inf)
        return z + torch.zeros_like(z).masked_fill(hidden, -math.inf)

    def backward(z: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        masked = logits(z, _hidden(int(case.bug == "mask off by one")))
        p = torch.softmax(masked, -1)
        if case.form == "log_softmax":
            p = torch.exp(masked - torch.logsumexp(masked, -1, keepdim=True))
        count = T + 1 if case.bug == "wrong scale" else T
        return {"z": (p - F.one_hot(target, T)) / count * grad_output}

    def forward(z: Tensor) -> Tensor:
        return F.cross_entropy(logits(z, _hidden()), target)

    _expect(compare.check(backward, forward, _inputs("z", DTYPES[case.dtype], T, T)), case.bug)


# -- dynamic programs with an infinite border

Table = dict[tuple[int, int], Tensor]
ROWS, COLUMNS = 3, 4


@dataclass(frozen=True)
class Path:
    """A cheapest path through a table of costs, with a hard or a soft minimum over the steps."""

    least: str
    dtype: str
    bug: str

    @property
    def name(self) -> str:
        """The pytest id of the case."""
        return f"path-{self.least}-{self.dtype}-{self.bug}"

    def of(self, steps: list[Tensor]) -> Tensor:
        """Return the hard or soft minimum of three steps."""
        if self.least == "soft":
            return -torch.logsumexp(-torch.stack(steps), 0)
        return torch.minimum(torch.minimum(steps[0], steps[1]), steps[2])

    def costs(self, cost: Tensor) -> Table:
        """Return the cost of the cheapest path to each cell; it is infinite outside the table."""
        beyond = torch.full((), math.inf, dtype=cost.dtype)
        table: Table = {(i, j): beyond for i in range(ROWS + 1) for j in range(COLUMNS + 1)}
        table[0, 0] = torch.zeros((), dtype=cost.dtype)
        for i, j in itertools.product(range(1, ROWS + 1), range(1, COLUMNS + 1)):
            steps = [table[i - 1, j], table[i - 1, j - 1], table[i, j - 1]]
            table[i, j] = cost[i - 1, j - 1] + self.of(steps)
        return table


PATHS = [Path(*parts) for parts in itertools.product(("soft", "hard"), DTYPES, ("right", "wrong scale", "overwritten"))]  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("case", _params(PATHS))
def test_a_path_with_an_infinite_border(case: Path) -> None:
    def share(table: Table, cost: Tensor, i: int, j: int, a: int, b: int) -> Tensor:
        """Return the derivative of the minimum at (a, b) by the path cost at (i, j)."""
        if case.least == "soft":
            if a > ROWS or b > COLUMNS:  # no path continues from the last row and column
                return torch.exp(torch.full((), -math.inf, dtype=cost.dtype) - table[i, j])
            return torch.exp(table[a, b] - cost[a - 1, b - 1] - table[i, j])
        if a > ROWS or b > COLUMNS:
            return torch.zeros((), dtype=cost.dtype)
        steps = [table[a - 1, b], table[a - 1, b - 1], table[a, b - 1]]
        return (table[i, j] == torch.stack(steps).amin()).to(cost.dtype)

    def backward(cost: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        table, zero = case.costs(cost), torch.zeros((), dtype=cost.dtype)
        to = {(i, j): zero for i in range(ROWS + 2) for j in range(COLUMNS + 2)}
        to[ROWS, COLUMNS] = grad_output * (2 if case.bug == "wrong scale" else 1)
        for i, j in itertools.product(range(ROWS, 0, -1), range(COLUMNS, 0, -1)):
            if (i, j) == (ROWS, COLUMNS):
                continue
            for a, b in ((i + 1, j), (i + 1, j + 1), (i, j + 1)):
                part = to[a, b] * share(table, cost, i, j, a, b)
                to[i, j] = part if case.bug == "overwritten" else to[i, j] + part
        rows = [torch.stack([to[i, j] for j in range(1, COLUMNS + 1)]) for i in range(1, ROWS + 1)]
        return {"cost": torch.stack(rows)}

    def forward(cost: Tensor) -> Tensor:
        return case.costs(cost)[ROWS, COLUMNS]

    cost = _inputs("c", DTYPES[case.dtype], ROWS, COLUMNS)["c"].abs()
    report = compare.check(backward, forward, {"cost": cost})
    _expect(report, case.bug)


# -- code that cannot be traced, and elements without a bound


def _kernel_softmax(times: float) -> Backward:
    def backward(grad_output: Tensor, x: Tensor) -> dict[str, Tensor]:
        g, z = memory(grad_output), memory(x).copy()
        z[..., -1] = -np.inf
        e = np.exp(z - z.max(-1, keepdims=True))
        p = e / e.sum(-1, keepdims=True)
        return {"x": torch.from_numpy(times * p * (g - (g * p).sum(-1, keepdims=True)))}

    return backward


def _last_hidden(x: Tensor) -> Tensor:
    return torch.softmax(x + torch.tensor([0.0, 0.0, 0.0, -math.inf]), -1)


def test_opaque_code_beside_a_mask_is_judged() -> None:
    """Three times the gradient is WRONG, whichever elements are masked."""
    x = _inputs("x", torch.float32, 2, 4)
    assert compare.check(_kernel_softmax(3), _last_hidden, x).verdict == WRONG
    report = compare.check(_kernel_softmax(1), _last_hidden, x)
    assert report.verdict in (WITHIN, EXACT)
    assert not report.quantities["x"].proof or "finite bound" not in _told(report)


def test_elements_without_a_bound_do_not_hide_the_others() -> None:
    """x[0] may overflow in an intermediate, in the reference too; x[1] is three times too large."""
    most = torch.finfo(torch.float32).max

    def forward(x: Tensor) -> Tensor:
        return x * (x.detach() * most / most)

    def backward(grad_output: Tensor, x: Tensor) -> dict[str, Tensor]:
        g = memory(x) * memory(grad_output)
        return {"x": torch.from_numpy(g * np.array([1, 3], dtype=np.float32))}

    x = {"x": torch.tensor([1.0, 0.3])}
    report = compare.check(backward, forward, x)
    assert report.verdict == WRONG, _told(report)

    def right(grad_output: Tensor, x: Tensor) -> dict[str, Tensor]:
        g = memory(x) * memory(grad_output)
        return {"x": torch.from_numpy(np.nextafter(g, np.float32(2)))}

    told = _told(compare.check(right, forward, x))
    assert "x UNDECIDED" in told
    assert "without a finite rounding bound at [0] (1 of 2 elements)" in told


def test_an_overflow_by_hand_is_inaccurate() -> None:
    """exp(89) overflows in float32, so the by-hand gradient is infinite instead of 178."""
    report = compare.check(
        lambda x, grad_output: grad_output * (torch.exp(x) * torch.exp(-x)) * 2 * x,
        lambda x: x * x,
        {"x": torch.tensor([89.0, 1.0])},
    )
    assert report.quantities["x"].verdict == INACCURATE
    assert not report.ok
    proof = report.quantities["x"].proof
    assert proof is not None
    assert proof.text.endswith("but by hand it overflows at [0] (1 of 2 elements)")
    assert proof.manual_error is not None
    assert 1e7 < proof.manual_error <= 2**24  # infinity counts as the next float after the largest


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_errors_are_told_beside_what_was_added_up(dtype: torch.dtype) -> None:
    """The first query sees one key, so its gradient is 0: an error in ulps of 0 would be huge."""
    case = Case("softmax", "logsumexp", "masked_fill", "-inf", str(dtype)[6:], False, "right")
    report = compare.check(_backward(case), _forward(case), _inputs("qkv", dtype, T, D))
    for name in "qkv":
        proof = report.quantities[name].proof
        assert proof is not None
        assert proof.manual_error is not None
        assert proof.autograd_error is not None
        assert max(proof.manual_error, proof.autograd_error) < 10_000  # not 6e29


# -- norms of inputs far from 0


def _layer_norm_by_hand(x: Tensor, w: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    middle = x - x.mean(-1, keepdim=True)
    rstd = torch.rsqrt((middle * middle).mean(-1, keepdim=True) + 1e-5)
    out, g = middle * rstd, grad_output * w
    slope = g - g.mean(-1, keepdim=True) - out * (g * out).mean(-1, keepdim=True)
    return {"x": slope * rstd, "w": (grad_output * out).sum(0)}


@pytest.mark.parametrize("middle", [0.0, 100.0, 1e4])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_a_norm_far_from_0_has_a_bound(dtype: torch.dtype, middle: float) -> None:
    """The variance is at least 0, so eps bounds the derivative of the root.

    At 1e4 the ulp of float16 is 8: its bound rises to 1 / sqrt(eps), and products with it overflow.
    """
    x = (_inputs("x", torch.float64, 6, 8)["x"] + middle).to(dtype)
    inputs = {"x": x, "w": _inputs("w", dtype, 8)["w"]}
    report = compare.check(_layer_norm_by_hand, lambda x, w: F.layer_norm(x, (8,), w), inputs)
    assert report.verdict == ROUNDING, _told(report)
    far = (dtype, middle) == (torch.float16, 1e4)
    assert ("its rounding bound is not finite at [0, " in _told(report)) == far
