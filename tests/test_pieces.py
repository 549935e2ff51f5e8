"""Each piece of the by-hand network equals torch's own function."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from compare.checking.check import check
from compare.proof.bits import compare_bits
from manual.activations import ACTIVATIONS
from manual.batch_norm import normalise, normalise_as_learned, normalise_back, running
from manual.delta_trimming import trim
from manual.dropout import drop
from manual.losses import LOSSES
from manual.regularization import penalty_update
from torch_ref import losses

pytestmark = pytest.mark.bits

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
EPS = 1e-5

#: torch's activations by name; an activation that torch lacks needs a row here.
TORCH_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: getattr(F, name) for name in ACTIVATIONS if hasattr(F, name)},
    "identity": lambda z: z.view_as(z),
}
# Values whose bits may differ from torch's, and the limit in ulps. Largest measured: 2.
FEW_ULPS = {("silu", "value"): 4, ("softplus", "value"): 4, ("softplus", "delta"): 4}
# gelu loses digits where 1 + erf cancels: limit in ulps of z, and of the error. Measured: 2.3, 1.9.
GELU = 4


def _normal(*shape: int, seed: int = 3, scale: float = 1.0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=rng, dtype=torch.float64)


def _places(dtype: torch.dtype) -> dict[str, Tensor]:
    """Return special inputs of an activation, by their property."""
    info = torch.finfo(dtype)
    twenty = torch.tensor(20.0, dtype=dtype)
    neighbours = [torch.nextafter(twenty, torch.tensor(at, dtype=dtype)) for at in (0.0, 99.0)]
    ones = torch.tensor([1.0, -1.0], dtype=dtype)
    large = torch.tensor([40.0, 700.0, 1000.0, info.max], dtype=torch.float64).to(dtype)
    smallest = info.smallest_normal * info.eps  # the smallest subnormal
    sizes = [smallest, info.smallest_normal / 2, info.smallest_normal, info.eps]
    tiny = torch.tensor(sizes, dtype=torch.float64).to(dtype)
    return {
        "ordinary": _normal(300, scale=3).to(dtype),
        "wide": _normal(300, seed=4, scale=30).to(dtype),
        "kinks": torch.stack([twenty, -twenty, *neighbours, 0 * twenty, -0.0 * twenty]),
        "ones": torch.cat([ones, ones.nextafter(0 * ones), ones.nextafter(2 * ones)]),
        "saturation": torch.cat([large, -large]),
        "tiny": torch.cat([tiny, -tiny]),
    }


def _vjp(function: Callable[..., Tensor], at: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """Return the value of a function at `at` and autograd's gradient for the cotangent `error`."""
    leaf = at.clone().requires_grad_()
    value = function(leaf)
    (gradient,) = torch.autograd.grad(value, leaf, error)
    return value.detach(), gradient


def _assert_same_bits(one: Tensor, other: Tensor) -> None:
    assert one.shape == other.shape
    assert compare_bits(one, other).worst is None


def _close(one: Tensor, other: Tensor, rtol: float = 1e-12) -> None:
    torch.testing.assert_close(one, other, rtol=rtol, atol=rtol)


# -- both by-hand passes as one Function


def _activation(name: str) -> type[torch.autograd.Function]:
    row = ACTIVATIONS[name]

    class ByHand(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, z: Tensor) -> Tensor:
            l = row.value(z).clone()
            ctx.save_for_backward(z, l)
            return l

        @staticmethod
        def backward(ctx: Any, *errors: Tensor) -> Any:
            return row.delta(errors[0], *ctx.saved_tensors)

    return ByHand


def _loss(name: str) -> type[torch.autograd.Function]:
    row = LOSSES[name]

    class ByHand(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, l: Tensor, y: Tensor) -> Tensor:
            ctx.save_for_backward(l, y)
            return row.value(l, y)

        @staticmethod
        def backward(ctx: Any, *errors: Tensor) -> Any:
            return -errors[0][..., None, None] * row.error(*ctx.saved_tensors), None

    return ByHand


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        out, kept, _, _ = normalise(z, gamma, beta, EPS)
        ctx.save_for_backward(gamma)
        ctx.kept = kept
        return out

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> Any:
        return normalise_back(errors[0], *ctx.saved_tensors, ctx.kept)


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        return drop(a, mask, 0.3)

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> Any:
        return drop(errors[0], *ctx.saved_tensors, 0.3), None


class _Penalty(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, syn: Tensor) -> Tensor:
        ctx.save_for_backward(syn)
        return 0.3 / 2 * (syn**2).sum() + 0.2 * syn.abs().sum()

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> Any:
        return -errors[0] * penalty_update(*ctx.saved_tensors, 0.2, 0.3)


# -- activations


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", _places(torch.float64))
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_equals_torchs(name: str, place: str, dtype: torch.dtype) -> None:
    """The bits are the same, or within a few ulps where torch's kernel has its own exp or erf.

    Each length puts other elements in the tail that does not fill a vector; some errors are 0.
    """
    places = _places(dtype)[place]
    eps, floor = torch.finfo(dtype).eps, torch.finfo(dtype).smallest_normal
    for z in [places, *(places[:n] for n in range(1, min(len(places), 36)))]:
        error = _normal(len(z), seed=5).to(dtype)
        error[2::7] = 0
        error[5::7] = -0.0
        l, delta = _vjp(TORCH_FUNCTIONS[name], z, error)
        pairs = {
            "value": (ACTIVATIONS[name].value(z), l, z),
            "delta": (ACTIVATIONS[name].delta(error, z, l), delta, error),
        }
        for what, (manual, reference, size) in pairs.items():
            assert manual.dtype == dtype
            assert not manual.isnan().any()
            assert not reference.isnan().any()
            if name == "gelu":
                # torch halves z last, so it returns inf above half of the largest number
                at = reference.isfinite()
                assert bool(at.all()) or (what == "value" and place == "saturation")
                gap = (manual.double() - reference.double())[at].abs()
                # and torch's bfloat16 flushes subnormal results to 0 on some machines
                assert (gap <= GELU * eps * size.double()[at].abs() + floor).all()
            else:
                allowed = FEW_ULPS.get((name, what), 0)
                compared = compare_bits(manual, reference)
                assert compared.max_ulp <= allowed, compared
                assert allowed or compared.worst is None, compared


def test_gelu_of_the_largest_numbers_is_finite_by_hand() -> None:
    """Torch's gelu is infinite there with AVX-512, and finite with AVX2."""
    z = torch.full((16,), torch.finfo(torch.float32).max)
    assert ACTIVATIONS["gelu"].value(z).equal(z)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_proved(name: str, dtype: torch.dtype) -> None:
    """Value and derivative have torch's formula and differ at most by rounding.

    Where an inner exp overflows, no bound is finite, and the bits must be the same.
    """
    places = _places(dtype)
    if name == "gelu":  # torch's own may be infinite there, see above
        places["saturation"] = places["saturation"][[0, 1, 2, 4, 5, 6]]
    z = torch.cat([place[:10] for place in places.values()])
    far = z.abs() > math.log(torch.finfo(dtype).max) - 1
    for part in (z[~far], z[far]):
        report = check(_activation(name), lambda z: TORCH_FUNCTIONS[name](z), {"z": part})
        assert report.ok, str(report)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activations_derivative_by_differences(name: str) -> None:
    z = _normal(3, 5, scale=2).requires_grad_()
    assert float(z.detach().abs().min()) > 0.01  # not across a kink
    assert torch.autograd.gradcheck(_activation(name).apply, (z,))
    row, at, error = ACTIVATIONS[name], z.detach(), _normal(3, 5, seed=6)
    differences = _central(lambda z: _numpy(error) * _numpy(row.value(torch.from_numpy(z))), at)
    _close(row.delta(error, at, row.value(at)), differences, 1e-7)


# -- losses


def _rows(name: str, dtype: torch.dtype, *shape: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return outputs and targets of the kind that the loss accepts."""
    l = _normal(*shape, seed=7, scale=scale)
    y = _normal(*shape, seed=8)
    if name == "cross_entropy":
        y = F.one_hot(y.argmax(-1), shape[-1])
    elif name == "binary_cross_entropy_with_logits":
        y = (y > 0).double()
        y[..., 0, 0] = 0.3
    return l.to(dtype), y.to(dtype)


def _torchs_loss(name: str, l: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return torch's loss and its negated gradient -dLoss/dl."""
    leaf = l.clone().requires_grad_()
    value = losses.LOSSES[name](leaf, y)
    (error,) = torch.autograd.grad((-value).sum(), leaf)
    return value.detach(), error


# Losses whose bits may differ, because the by-hand grouping is another. Measured: 2 ulps.
OTHER_BITS = {
    ("binary_cross_entropy_with_logits", "value"),
    ("cross_entropy", "value"),
    ("cross_entropy", "error"),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("shape", [(1, 2), (4, 3), (33, 10), (3, 4, 5)])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_equals_torchs(
    name: str, shape: tuple[int, ...], scale: float, dtype: torch.dtype
) -> None:
    """The bits are the same, signs of zeros too, except for means of values computed with exp."""
    l, y = _rows(name, dtype, *shape, scale=scale)
    value, error = _torchs_loss(name, l, y)
    eps = torch.finfo(dtype).eps
    pairs = {"value": (LOSSES[name].value(l, y), value), "error": (LOSSES[name].error(l, y), error)}
    for what, (manual, reference) in pairs.items():
        if (name, what) in OTHER_BITS:
            size = 1 / shape[-2] if what == "error" else reference.double().abs()
            assert ((manual.double() - reference.double()).abs() <= 4 * eps * size).all()
        else:
            _assert_same_bits(manual, reference)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["half_squared_error", "mse"])
def test_the_error_of_a_target_that_is_met(name: str, dtype: torch.dtype) -> None:
    """The error is 0 with the same sign as torch's."""
    l, y = _rows(name, dtype, 4, 3)
    y[1] = l[1]
    _assert_same_bits(LOSSES[name].error(l, y), _torchs_loss(name, l, y)[1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("right", [0.0, 1.0])
def test_the_error_of_a_class_that_is_certain(right: float, dtype: torch.dtype) -> None:
    """The error is 0 with the same sign as torch's."""
    name = "binary_cross_entropy_with_logits"
    l = torch.tensor([[50.0], [800.0], [1000.0]], dtype=dtype) * (2 * right - 1)
    y = torch.full_like(l, right)
    _assert_same_bits(LOSSES[name].error(l, y), _torchs_loss(name, l, y)[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["binary_cross_entropy_with_logits", "cross_entropy"])
def test_extreme_logits_leave_a_loss_finite(name: str, dtype: torch.dtype) -> None:
    l, y = _rows(name, dtype, 4, 2)
    l[0] = torch.tensor([1000.0, -1000.0])
    l[1] = torch.tensor([-1000.0, 1000.0])
    y[0] = y[1] = torch.tensor([0.0, 1.0])
    value, error = LOSSES[name].value(l, y), LOSSES[name].error(l, y)
    assert value.isfinite()
    assert error.isfinite().all()
    # both outputs of the first row are off by 1000, or its class is 2000 below the other one
    assert 499 < float(value) < 502 if name == "cross_entropy" else 249 < float(value) < 252
    reference = _torchs_loss(name, l, y)
    _close(value.double(), reference[0].double(), 4 * torch.finfo(dtype).eps)
    _close(error.double(), reference[1].double(), 4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("name", LOSSES)
def test_networks_side_by_side_have_their_own_losses(name: str) -> None:
    l, y = _rows(name, torch.float64, 3, 4, 5)
    value, error = LOSSES[name].value(l, y), LOSSES[name].error(l, y)
    assert value.shape == (3,)
    for n in range(3):
        _close(value[n], LOSSES[name].value(l[n], y[n]), 1e-14)
        _close(error[n], LOSSES[name].error(l[n], y[n]), 1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_proved(name: str, dtype: torch.dtype) -> None:
    """Value and error have torch's formula and differ at most by rounding."""
    l, y = _rows(name, dtype, 4, 3, scale=3)
    forward = losses.LOSSES[name]
    report = check(_loss(name), lambda l, y: forward(l, y), {"l": l.requires_grad_(), "y": y})
    assert report.ok, str(report)


@pytest.mark.parametrize("name", LOSSES)
def test_a_losss_error_by_differences(name: str) -> None:
    l, y = _rows(name, torch.float64, 4, 3)
    leaf = l.clone().requires_grad_()
    assert torch.autograd.gradcheck(_loss(name).apply, (leaf, y))
    differences = _central(lambda l: _numpy(LOSSES[name].value(torch.from_numpy(l), y)), l)
    _close(LOSSES[name].error(l, y), -differences, 1e-7)


# -- batch norm


def _columns(dtype: torch.dtype, *shape: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return random z, gamma and beta."""
    z = _normal(*shape, seed=9, scale=2) + 1
    gamma, beta = _normal(1, shape[-1], seed=10) + 1, _normal(1, shape[-1], seed=11)
    return z.to(dtype), gamma.to(dtype), beta.to(dtype)


def _torchs_batch_norm(z: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return F.batch_norm(z, None, None, gamma.view(-1), beta.view(-1), training=True, eps=EPS)


@pytest.mark.parametrize("rows", [2, 7])
def test_batch_norm_equals_torchs(rows: int) -> None:
    """Training, evaluation and running statistics agree with torch over several steps.

    The output uses the biased variance, the running one is unbiased: at 2 rows it is twice that.
    """
    _, gamma, beta = _columns(torch.float64, rows, 4)
    reference = torch.nn.BatchNorm1d(4, eps=EPS, momentum=0.1, dtype=torch.float64)
    with torch.no_grad():
        reference.weight.copy_(gamma[0])
        reference.bias.copy_(beta[0])
    mean, var = torch.zeros_like(gamma), torch.ones_like(gamma)
    for seed in range(4):
        z = _normal(rows, 4, seed=seed, scale=2) + 1
        out, _, batch_mean, batch_var = normalise(z, gamma, beta, EPS)
        mean, var = running(mean, batch_mean, 0.1), running(var, batch_var, 0.1)
        _close(out, reference(z).detach())
        assert reference.running_mean is not None
        assert reference.running_var is not None
        _close(mean[0], reference.running_mean)
        _close(var[0], reference.running_var)
        _close(batch_var[0], z.var(0, correction=1))
    reference.eval()
    z = _normal(5, 4, seed=20)
    _close(normalise_as_learned(z, gamma, beta, mean, var, EPS), reference(z).detach())


def test_batch_norm_takes_the_biased_variance_for_its_output() -> None:
    """Two rows are one biased deviation from their mean, or 1 / sqrt(2) of an unbiased one."""
    ones = torch.ones(1, 1, dtype=torch.float64)
    z = torch.tensor([[-3.0], [5.0]], dtype=torch.float64)
    out, _, mean, var = normalise(z, ones, 0 * ones, 1e-12)
    _close(out, torch.tensor([[-1.0], [1.0]], dtype=torch.float64))
    assert (mean.item(), var.item()) == (1.0, 32.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("rows", [2, 7])
def test_batch_norm_is_proved(rows: int, dtype: torch.dtype) -> None:
    z, gamma, beta = _columns(dtype, rows, 3)
    inputs = {"z": z, "gamma": gamma, "beta": beta}
    report = check(_BatchNorm, _torchs_batch_norm, inputs)
    assert report.ok, str(report)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_column_that_is_constant(dtype: torch.dtype) -> None:
    """A constant column is normalised to beta, and no error is NaN or infinite."""
    z, gamma, beta = _columns(dtype, 4, 3)
    z[:, 1] = 0.375
    out, kept, _, var = normalise(z, gamma, beta, EPS)
    assert var[0, 1] == 0
    _assert_same_bits(out[:, 1], beta[0, 1].expand(4))
    error = _normal(4, 3, seed=12).to(dtype)
    back = normalise_back(error, gamma, kept)
    assert all(part.isfinite().all() for part in back)
    _, expected = _vjp(lambda z: _torchs_batch_norm(z, gamma, beta), z, error)
    scale = float(expected.double().abs().max())
    assert (back[0].double() - expected.double()).abs().max() <= 8 * torch.finfo(dtype).eps * scale


@pytest.mark.parametrize("shape", [(2, 3), (6, 3), (3, 6, 2)])
def test_batch_norms_way_back_by_differences(shape: tuple[int, ...]) -> None:
    z, gamma, beta = _columns(torch.float64, *shape)
    if len(shape) == 2:
        at = [part.clone().requires_grad_() for part in (z, gamma, beta)]
        assert torch.autograd.gradcheck(_BatchNorm.apply, at)
    gamma, beta = (part.expand(*shape[:-2], 1, shape[-1]).contiguous() for part in (gamma, beta))
    error = _normal(*shape, seed=13)
    arguments = [z, gamma, beta]
    back = normalise_back(error, gamma, normalise(z, gamma, beta, EPS)[1])
    for n in range(3):

        def weighed(part: Any, n: int = n) -> Any:
            parts = [*arguments[:n], torch.from_numpy(part), *arguments[n + 1 :]]
            out = normalise(parts[0], parts[1], parts[2], EPS)[0]
            return (_numpy(error) * _numpy(out)).sum()

        _close(back[n], _central(weighed, arguments[n], h=1e-6), 1e-6)


# -- dropout and penalties


def test_dropout_by_differences() -> None:
    a = _normal(4, 5).requires_grad_()
    mask = (_normal(4, 5, seed=14) > 0).double()
    assert torch.autograd.gradcheck(_Drop.apply, (a, mask))
    error = _normal(4, 5, seed=15)
    at = a.detach()
    differences = _central(lambda a: _numpy(error * drop(torch.from_numpy(a), mask, 0.3)), at)
    _close(drop(error, mask, 0.3), differences, 1e-8)
    assert bool(((drop(at, mask, 0.3) == 0) == (mask == 0)).all())


def test_dropout_keeps_the_mean() -> None:
    """Kept elements are scaled by 1 / (1 - p), where p is the dropped fraction, as torch does."""
    mask = (F.dropout(torch.ones(20_000, dtype=torch.float64), 0.2) > 0).double()
    assert drop(torch.ones_like(mask), mask, 0.2).unique().tolist() == [0, 1 / 0.8]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("l1", "l2"), [(0.2, 0.0), (0.0, 0.3), (0.2, 0.3)])
def test_a_penalty_is_torchs(l1: float, l2: float, dtype: torch.dtype) -> None:
    """The gap is within two ulps of the weight's size, and the update is 0 at a weight of 0."""
    syn = _normal(4, 5).to(dtype)
    syn[0] = torch.tensor([0.0, -0.0, 1.0, -1.0, 2.0])

    def total(syn: Tensor) -> Tensor:
        return l2 / 2 * (syn**2).sum() + l1 * syn.abs().sum()

    _, gradient = _vjp(total, syn, torch.ones((), dtype=dtype))
    manual = penalty_update(syn, l1, l2)
    assert bool((manual[0, :2] == 0).all())
    gap = (manual.double() + gradient.double()).abs()
    assert (gap <= 2 * torch.finfo(dtype).eps * (l2 * syn.double().abs() + l1)).all()


def test_a_penalty_by_differences() -> None:
    syn = _normal(4, 5).requires_grad_()
    assert torch.autograd.gradcheck(_Penalty.apply, (syn,))
    at = syn.detach()
    differences = _central(lambda w: 0.15 * (w**2).sum() + 0.2 * np.abs(w).sum(), at)
    _close(penalty_update(at, 0.2, 0.3), -differences, 1e-8)


# -- delta trimming


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("limit", [0.5, 0.1])
@pytest.mark.parametrize(
    ("trimming", "reference"),
    [("clip", lambda delta, t: torch.clamp(delta, -t, t)), ("zero", F.hardshrink)],
)
def test_trimming_equals_torchs(
    trimming: str, reference: Any, limit: float, dtype: torch.dtype
) -> None:
    """The bits are the same, also at the limit and at its neighbours."""
    t = torch.tensor(limit, dtype=dtype)
    neighbours = [torch.nextafter(t, torch.tensor(at, dtype=dtype)) for at in (0.0, 1.0)]
    edges = torch.stack([t, *neighbours, 0 * t, 3 * t])
    delta = torch.cat([edges, -edges, _normal(50).to(dtype)])
    _assert_same_bits(trim(delta, limit, trimming), reference(delta, limit))


def test_trimming_at_exactly_the_limit() -> None:
    """Clipping keeps a value at the limit, zeroing sets it to 0: only larger ones stay."""
    delta = torch.tensor([-0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75])
    assert trim(delta, 0.5, "clip").tolist() == [-0.5, -0.5, -0.25, 0.0, 0.25, 0.5, 0.5]
    assert trim(delta, 0.5, "zero").tolist() == [-0.75, 0, 0, 0, 0, 0, 0.75]
    with pytest.raises(KeyError, match="clop"):
        trim(delta, 0.5, "clop")


# -- central differences


def _numpy(tensor: Tensor) -> Any:
    return tensor.numpy()


def _central(function: Callable[[Any], Any], at: Tensor, h: float = 1e-5) -> Tensor:
    """Return the gradient of sum(function(x)) by central differences, element by element."""
    x = at.numpy().copy()
    slope = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        middle = x[index]
        ends = []
        for step in (h, -h):
            x[index] = middle + step
            ends.append(math.fsum(np.ravel(function(x))))
        x[index] = middle
        slope[index] = (ends[0] - ends[1]) / (2 * h)
    return torch.from_numpy(slope)
