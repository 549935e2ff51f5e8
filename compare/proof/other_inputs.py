"""Other inputs than the user's, of the same shapes, and cotangents: everything that is sampled.

Inputs close to the user's, each number moved on its own:
- `nearby` moves every float by about one percent;
- `very_near` moves floats so little that few branches change;
- `nearby_same_kind` moves floats, and shuffles rows of masks and classes.

Inputs that keep what a pass may rely on: `similar`, and `scaled` for parameters. A pass may rely on
rows that sum to 1, a symmetric matrix, one-hot rows, a mask, sorted numbers, pruned zeros. So
`similar` mixes each row of an input with another row of it. A mixture keeps the range, the sums,
the signs and the empty columns.

Complex inputs are moved as their real view: both parts move.

Random inputs: `random_inputs` samples them from `normals`, `ties` or `sampled_from`, and keeps
masks and signs; `uniform` keeps nothing.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from compare.proof.bits import of_real_view, real_view
from compare.proof.input_structure import find_normalised_lines, line_kind, symmetry_sign

MIN_SHARE, MAX_SHARE = 1 / 64, 1 / 8  # the share of another row in a mixture
_SUMS = "sums of 1", "sums of 0"

# The words "beside", "shuffled", "drawn", "other" and "cotangent" below are part of the seeds.
# Other words would give other numbers.


def _as_real_view(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function of a name and a tensor that takes complex numbers as their real view."""

    @functools.wraps(function)
    def with_real_view(name: str, values: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return of_real_view(function(name, real_view(values), *args, **kwargs), values)

    return with_real_view


@_as_real_view
def nearby(name: str, tensor: Tensor, share: float = 1 / 64) -> Tensor:
    """Return a nearby input: each float moves by about `share` of itself.

    A zero moves by about `share` of the largest number, infinities stay, as in a mask.

    Args:
        name: The name of the input. It seeds the noise, so that equal inputs move differently.
        tensor: The input. Tensors of other than floats are returned unchanged.
        share: Each float moves by 0.25 to 1.25 times this share.
    """
    if not tensor.is_floating_point() or not tensor.numel():
        return tensor.clone()
    rng = seeded_generator("beside", name, tuple(tensor.shape))
    noise = torch.rand(tensor.shape, generator=rng, dtype=torch.float64).to(tensor.device)
    size = tensor.detach().double().abs()
    largest = size[size.isfinite()].max() if bool(size.isfinite().any()) else size.new_zeros(())
    scale = torch.where(size == 0, largest.clamp_min(2.0**-10), size)
    moved = (tensor.detach().double() + scale * (noise + 0.25) * share).to(tensor.dtype)
    return torch.where(tensor.isfinite(), moved, tensor.detach())


@_as_real_view
def very_near(name: str, tensor: Tensor) -> Tensor:
    """Return an input so close that few branches change: about 2^-20 away, or the next float."""
    far = nearby(name, tensor)
    if not tensor.is_floating_point():
        return far
    near = tensor + (far - tensor) * 2.0**-14
    near = torch.where(near == tensor, torch.nextafter(tensor, far), near)
    return torch.where(tensor.isfinite(), near, tensor)


@_as_real_view
def nearby_same_kind(name: str, tensor: Tensor) -> Tensor:
    """Return a nearby input; if all its floats are 0 or 1, its rows are shuffled instead.

    So a mask stays a mask, and a one-hot row stays one.
    """
    if not tensor.is_floating_point() or not tensor.numel() or not _is_codes(tensor):
        return nearby(name, tensor)
    return _shuffled(tensor, seeded_generator("shuffled", name))


def _is_codes(values: Tensor) -> bool:
    """Whether each number is 0 or 1."""
    return bool(((values == 0) | (values == 1)).all())


def _shuffled(values: Tensor, rng: torch.Generator) -> Tensor:
    """Return a tensor with its rows in another order."""
    if not values.ndim:
        return values.clone()
    rows = max(values.ndim - 2, 0)
    order = torch.randperm(values.shape[rows], generator=rng)
    return values.index_select(rows, order.to(values.device))


def random_inputs(
    inputs: Mapping[str, Tensor],
    distribution: Callable[[torch.Generator, Tensor], Tensor],
    seed: int,
) -> dict[str, Tensor]:
    """Return random inputs of the same shapes.

    Integers and booleans stay: they are indices and masks, and code may branch on them. Where all
    floats are 0 or 1 (a mask, a class) the rows are shuffled. Floats without a negative number
    stay without one.

    Args:
        inputs: The inputs by name.
        distribution: Samples numbers, from a generator and a tensor of the shape.
        seed: The seed.
    """
    result: dict[str, Tensor] = {}
    for name, value in inputs.items():
        rng = seeded_generator("drawn", name, tuple(value.shape), seed)
        v = real_view(value.detach())
        if not v.is_floating_point() or not v.numel():
            result[name] = v.clone()
        elif _is_codes(v) and bool(v.any()):
            result[name] = _shuffled(v, rng)
        else:
            sample = distribution(rng, v).to(v)
            signed = bool((v < 0).any()) or not bool(v.any())
            result[name] = sample if signed else sample.abs()
    return {name: of_real_view(values, inputs[name]) for name, values in result.items()}


def normals(rng: torch.Generator, like: Tensor, size: float = 1) -> Tensor:
    """Sample from the normal distribution of standard deviation `size`."""
    return size * torch.randn(like.shape, generator=rng, dtype=torch.float64)


def ties(rng: torch.Generator, like: Tensor) -> Tensor:
    """Sample multiples of 1/2 from -1 to 1, so that there are zeros and equal numbers."""
    return torch.randint(-2, 3, like.shape, generator=rng).double() / 2


def sampled_from(values: Tensor, rng: torch.Generator, like: Tensor) -> Tensor:
    """Sample from a list of values."""
    return values[torch.randint(len(values), like.shape, generator=rng)]


@_as_real_view
def uniform(name: str, like: Tensor) -> Tensor:
    """Return numbers sampled uniformly from -1 to 1; the name seeds them."""
    return torch.rand(like.shape, generator=seeded_generator(name), dtype=like.dtype) * 2 - 1


def similar(name: str, values: Tensor, *, leaf: bool, share: float = 1.0, draw: int = 0) -> Tensor:
    """Return another input that keeps the visible properties of an input.

    Each row becomes a mixture with another row. If all numbers are equal, each is scaled on its
    own; zeros alone become small numbers. If there are two values (a mask, classes) the rows are
    shuffled. Infinities stay, and so do zeros among other numbers. Not moved at all are integers
    held as floats unless the input is a leaf, evenly spaced grids, orthonormal rows, and matrices
    with one number along each diagonal.

    Args:
        name: The name of the input; it seeds the choice.
        values: The input.
        leaf: Whether the gradient of the input is requested.
        share: Scales the share of the other row, which is 1/64 to 1/8.
        draw: The number of the draw; it seeds the choice too.
    """
    if values.is_complex():
        return _similar_complex(name, values.detach(), leaf=leaf, share=share, draw=draw)
    if not _moves(values):
        return values.detach().clone()
    moved = _Mixture(name, values.detach(), leaf, share, draw).sample().to(values)
    return torch.where(moved.isnan(), values.detach(), moved)


def _similar_complex(name: str, values: Tensor, *, leaf: bool, **draw: Any) -> Tensor:
    """Return another complex input: similar as a real view.

    A leaf that is all real, or all imaginary, gets another part too: with real numbers a missing
    conjugate would not show.
    """
    both = real_view(values)
    moved = similar(name, both, leaf=leaf, **draw)
    for part in (0, 1) if leaf else ():
        if not bool(both[..., part].any()):
            moved[..., part] = similar(f"{name}, part {part}", both[..., part], leaf=True, **draw)
    return of_real_view(moved, values)


@_as_real_view
def scaled(name: str, values: Tensor, share: float = 1.0, draw: int = 0) -> Tensor:
    """Return a parameter with each number scaled on its own; zeros alone become small numbers.

    Zeros among other numbers stay, for they may have been pruned. The arguments are those of
    `similar`.
    """
    if not _moves(values):
        return values.detach().clone()
    moved = _Mixture(name, values.detach(), True, share, draw).scaled()
    return torch.where(values.isfinite(), moved.to(values), values.detach())


def all_zeros_or_ones(values: Tensor) -> bool:
    """Whether all numbers are 0, or all are 1: labels of one class, a mask that hides nothing."""
    return _moves(values) and len(values.unique()) == 1 and float(values.flatten()[0]) in (0, 1)


def is_scalable(values: Tensor) -> bool:
    """Whether a leaf shows no property that would be lost if all its numbers were scaled.

    Probabilities, whole numbers, unit rows and grids show one; so do numbers between 0 and 1.
    """
    values = real_view(values.detach())
    x = values.double().cpu()
    if not _moves(values) or not bool(x.isfinite().all()):
        return False
    whole = bool((x == x.round()).all()) and bool(x.any())
    shares = bool(((x >= 0) & (x <= 1)).all()) and bool(x.any())
    lines = find_normalised_lines(values)
    normalised = lines is not None and lines.kind != "sums of 0"  # which stay so
    fixed = _is_orthonormal(values) or _is_constant_along_diagonals(x) or _is_even_grid(values)
    return not (whole or shares or normalised or fixed)


@_as_real_view
def whole_numbers(name: str, like: Tensor) -> Tensor:
    """Return numbers of 1 to 3, of both signs unless `like` has no negative number; name seeds."""
    rng = seeded_generator("whole", name, tuple(like.shape))
    size = torch.randint(1, 4, like.shape, generator=rng)
    sign = torch.randint(2, like.shape, generator=rng) * 2 - 1
    return (size * sign if bool((like < 0).any()) else size).to(like)


def block(name: str, values: Tensor, number: int, *, rows: bool) -> Tensor | None:
    """Return a cotangent that is 0 but for a block of some sqrt(n) of its n rows or columns.

    Args:
        name: It seeds the choice.
        values: The cotangent.
        number: 0 and 1 are the first and the last block, others are drawn.
        rows: Whether the last dimension is whole in the block; else all others are.

    Returns:
        None if there are fewer than 4 rows or columns.
    """
    if values.ndim < 1 or (rows and values.ndim < 2):
        return None
    flat = values.reshape(-1, values.shape[-1])
    dim = 0 if rows else 1
    count = flat.shape[dim]
    if count < 4:
        return None
    length = math.isqrt(count - 1) + 1
    rng = seeded_generator("block", name, number, rows)
    drawn = int(torch.randint(count - length + 1, (), generator=rng))
    start = {0: 0, 1: count - length}.get(number, drawn)
    part = torch.zeros_like(flat)
    part.narrow(dim, start, length).copy_(flat.narrow(dim, start, length))
    return part.reshape(values.shape)


def _moves(values: Tensor) -> bool:
    return values.is_floating_point() and values.numel() > 0 and values.dtype.itemsize > 1


class _Mixture:
    """An input in float64, and its random mixtures."""

    def __init__(self, name: str, values: Tensor, leaf: bool, share: float, draw: int) -> None:
        self.values, self.leaf, self.share, self.draw = values, leaf, share, draw
        self.x = values.double().cpu()
        self.rng = seeded_generator("other", name, tuple(values.shape), draw)

    def sample(self) -> Tensor:
        """Return the other input."""
        x = self.x
        distinct = x.unique()
        lines = find_normalised_lines(self.values)
        if not self.leaf and self.draw == 1 and all_zeros_or_ones(x) and x.numel() > 1:
            return self._some_flipped()
        if len(distinct) == 1:
            return lines.renormalise(self.scaled()) if lines else self.scaled()
        if len(distinct) == 2 and x.numel() > 2:
            return self._codes_shuffled()
        integers = not self.leaf and bool((x == x.round())[x.isfinite()].all())
        if (
            integers
            or _is_orthonormal(self.values)
            or _is_constant_along_diagonals(x)
            or _is_even_grid(self.values)
        ):
            return x
        if not self.leaf and _has_some_integer_columns(x):
            return x[self._derangement(len(x))]
        mixed = torch.where(x == 0, 0.0, self._mixed())
        if symmetry_sign(self.values) is not None:
            return mixed
        if lines is None:
            return self.scaled() if torch.equal(mixed, x) else mixed
        if lines.dim != x.ndim - 1 or self._column_kind() not in _SUMS:
            return lines.renormalise(mixed)
        # the mixture has kept the sums of rows and of columns
        return x if bool((x == 0).any()) else mixed

    def scaled(self) -> Tensor:
        """Return the numbers, each scaled on its own."""
        shares = self._shares(*self.x.shape)
        return shares if bool((self.x == 0).all()) else self.x * (1 + shares)

    def _shares(self, *shape: int) -> Tensor:
        sample = torch.rand(shape, generator=self.rng, dtype=torch.float64)
        return (MIN_SHARE + (MAX_SHARE - MIN_SHARE) * sample) * self.share

    def _codes_shuffled(self) -> Tensor:
        """Return a tensor of two values (a mask, classes) with its rows shuffled.

        A causal mask stays.
        """
        x = self.x
        if symmetry_sign(x) == 1:
            return self._rows_and_columns_shuffled()
        if x.ndim > 1 and _is_triangular(x):
            return x
        if x.ndim < 2:
            return x[self._derangement(len(x))]
        lines = find_normalised_lines(x)
        dim = x.ndim - 1 if lines is None or lines.dim is None else lines.dim
        rows = x.movedim(dim, -1)
        shuffled = rows.reshape(-1, x.shape[dim])[self._derangement(x.numel() // x.shape[dim])]
        return shuffled.reshape(rows.shape).movedim(-1, dim)

    def _some_flipped(self) -> Tensor:
        """Return 1 for some of the zeros, or 0 for some of the ones, but not for all."""
        some = torch.rand(self.x.shape, generator=self.rng) < 0.5
        some.view(-1)[0], some.view(-1)[-1] = True, False
        return torch.where(some, 1 - self.x, self.x)

    def _rows_and_columns_shuffled(self) -> Tensor:
        order = self._derangement(self.x.shape[-1])
        return self.x[..., order, :][..., order]

    def _mixed(self) -> Tensor:
        x = self.x
        if symmetry_sign(self.values) is not None:
            return x + self._shares(1) * (self._rows_and_columns_shuffled() - x)
        if not x.ndim or x.numel() == x.shape[-1]:
            return self._row_mixed(x.flatten()).reshape(x.shape)
        return self._rows_mixed(x, same_share=self._column_kind() in _SUMS)

    def _column_kind(self) -> str | None:
        if self.x.ndim < 2 or not bool(self.x.isfinite().all()):
            return None
        return line_kind(self.values, self.x.ndim - 2)

    def _row_mixed(self, x: Tensor) -> Tensor:
        """Mix the elements of one row, all with one share, which keeps their sum or their order."""
        free = x.isfinite() & (x != 0)
        some = x[free]
        if len(some) < 2:
            return x * (1 + self._shares(*x.shape))
        result = x.clone()
        result[free] = some + self._shares(1) * (self._partners(some) - some)
        return result

    def _rows_mixed(self, x: Tensor, *, same_share: bool = False) -> Tensor:
        """Mix each row with another; with one share for all rows the sums of columns stay too."""
        rows = x.reshape(-1, x.shape[-1])
        partners = self._partners(rows)
        mixed = rows + self._shares(1 if same_share else len(rows), 1) * (partners - rows)
        return torch.where(partners.isfinite(), mixed, rows).reshape(x.shape)

    def _partners(self, rows: Tensor) -> Tensor:
        """Return another row for each row: the next one if they are sorted, else a random one."""
        steps = rows[1:] - rows[:-1]
        if len(rows) > 2 and bool(((steps >= 0).all(0) | (steps <= 0).all(0)).all()):
            return torch.cat([rows[1:], rows[-1:]])
        return rows[self._derangement(len(rows))]

    def _derangement(self, count: int) -> Tensor:
        """Return a random order in which no element stays in its place."""
        order = torch.randperm(count, generator=self.rng)
        result = torch.empty_like(order)
        result[order] = order.roll(1)
        return result


def _is_even_grid(x: Tensor) -> bool:
    """Whether a tensor is one row of evenly spaced numbers."""
    if x.numel() < 3 or x.numel() != x.shape[-1]:
        return False
    steps = x.double().flatten().diff()
    room = 4 * torch.finfo(x.dtype).eps * x.double().abs().max()
    return bool(((steps - steps.mean()).abs() <= room).all())


def _has_some_integer_columns(x: Tensor) -> bool:
    """Whether some columns hold integers (classes, times) and others do not."""
    if x.ndim != 2 or len(x) < 2 or not bool(x.isfinite().all()):
        return False
    integers = (x == x.round()).all(0) & (x != x[:1]).any(0)
    return bool(integers.any() & ~(x == x.round()).all())


def _is_triangular(x: Tensor) -> bool:
    """Whether one of two values fills one side of the diagonal, as in a causal mask.

    Such a mask depends on the order of the rows.
    """
    mark = x == x[..., :1, :1]
    sides = torch.ones_like(mark).triu(1), torch.ones_like(mark).tril(-1)
    return any(bool((mark != side).all()) for side in sides)


def _is_orthonormal(values: Tensor) -> bool:
    """Whether the rows are orthonormal up to rounding, as in a rotation."""
    if values.ndim < 2 or not 1 < values.shape[-2] <= values.shape[-1]:
        return False
    x = values.double()
    off = (x @ x.mT - torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)).abs()
    return bool((off <= 8 * torch.finfo(values.dtype).eps).all())


def _is_constant_along_diagonals(x: Tensor) -> bool:
    """Whether each diagonal holds one number, as in a convolution written as a matrix."""
    if x.ndim < 2 or min(x.shape[-2:]) < 3:
        return False
    return bool((x[..., 1:, 1:] == x[..., :-1, :-1]).all())


def seeded_generator(*key: object) -> torch.Generator:
    """Return a generator seeded by a digest of the key, such as the name of the input to sample.

    A generator seeded by 0 or 1 gives the numbers of a user's `torch.manual_seed(0)`; a pass that
    confuses the user's numbers with the check's would then be right by accident. A digest gives
    numbers that no user samples.
    """
    digest = hashlib.sha256(repr(("deltacheck", *key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


@_as_real_view
def cotangent(label: str, like: Tensor, seed: int) -> Tensor:
    """Return a random cotangent for an output, in its shape and dtype.

    It is uniform in +-[0.5, 1.5]: never near 0, and not normal, as users sample. The first element,
    the only one of a scalar, is below -1, so that neither its absolute value nor a clamped value
    can take its place unnoticed.

    Args:
        label: The name of the output.
        like: The output.
        seed: The seed of the check.
    """
    rng = seeded_generator("cotangent", label, tuple(like.shape), seed)
    size = torch.rand(like.shape, generator=rng, dtype=torch.float64) + 0.5
    sign = torch.randint(2, like.shape, generator=rng) * 2 - 1
    result = (size * sign).flatten()
    result[:1] = -(1 + result[:1].abs() / 3)
    return result.reshape(like.shape).to(like)
