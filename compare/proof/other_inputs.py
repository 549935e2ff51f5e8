"""Other inputs than the user's, of the same shapes, and cotangents: everything that is sampled.

Inputs close to the user's, each number moved on its own:
- `nearby` moves every float by about one percent;
- `very_near` moves floats so little that few branches change;
- `nearby_same_kind` moves floats, and shuffles rows of masks and classes.

Inputs that keep what a pass may rely on: `similar`, and `scaled` for parameters. A pass may rely on
rows that sum to 1, a symmetric matrix, one-hot rows, a mask, sorted numbers, pruned zeros. So
`similar` mixes each row of an input with another row of it. A mixture keeps the range, the sums,
the signs and the empty columns.

Random inputs: `random_inputs` samples them from `normals`, `ties` or `sampled_from`, and keeps
masks and signs; `uniform` keeps nothing.
"""

import hashlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from compare.proof.input_structure import find_normalised_lines, line_kind, symmetry_sign

MIN_SHARE, MAX_SHARE = 1 / 64, 1 / 8  # how much of another row is mixed in
_SUMS = "sums of 1", "sums of 0"


def nearby(name: str, tensor: Tensor, share: float = 1 / 64) -> Tensor:
    """Return another input close by: each float moved by a `share` of it or so, zeros off zero too.

    Seeded by the name, so that equal inputs move apart. An infinity stays, as in a mask.
    """
    if not tensor.is_floating_point() or not tensor.numel():
        return tensor.clone()
    chance = seeded_generator("beside", name, tuple(tensor.shape))
    noise = torch.rand(tensor.shape, generator=chance, dtype=torch.float64).to(tensor.device)
    size = tensor.detach().double().abs()
    largest = size[size.isfinite()].max() if bool(size.isfinite().any()) else size.new_zeros(())
    scale = torch.where(size == 0, largest.clamp_min(2.0**-10), size)
    moved = (tensor.detach().double() + scale * (noise + 0.25) * share).to(tensor.dtype)
    return torch.where(tensor.isfinite(), moved, tensor.detach())


def very_near(name: str, tensor: Tensor) -> Tensor:
    """Return another input so close that few branches go elsewhere: a float, or 2^-20 off."""
    far = nearby(name, tensor)
    if not tensor.is_floating_point():
        return far
    near = tensor + (far - tensor) * 2.0**-14
    near = torch.where(near == tensor, torch.nextafter(tensor, far), near)
    return torch.where(tensor.isfinite(), near, tensor)


def nearby_same_kind(name: str, tensor: Tensor) -> Tensor:
    """Return another input of the same kind: floats moved a little, rows of 0 and 1 shuffled.

    A mask stays a mask then, and a class a class.
    """
    if not tensor.is_floating_point() or not tensor.numel() or not _is_codes(tensor):
        return nearby(name, tensor)
    return _shuffled(tensor, seeded_generator("shuffled", name))


def _is_codes(values: Tensor) -> bool:
    """Whether all is 0 or 1."""
    return bool(((values == 0) | (values == 1)).all())


def _shuffled(values: Tensor, chance: torch.Generator) -> Tensor:
    """Return its rows in another order."""
    if not values.ndim:
        return values.clone()
    rows = max(values.ndim - 2, 0)
    order = torch.randperm(values.shape[rows], generator=chance)
    return values.index_select(rows, order.to(values.device))


def random_inputs(
    inputs: Mapping[str, Tensor], kind: Callable[[torch.Generator, Tensor], Tensor], seed: int
) -> dict[str, Tensor]:
    """Return inputs of the same shapes drawn afresh, each by a `kind`.

    Whole numbers and booleans stay: they are places and masks, and code may branch on them. Of
    floats that are all 0 or 1 (a mask, a class) the rows are shuffled; floats that are nowhere
    negative stay so.
    """
    made: dict[str, Tensor] = {}
    for name, value in inputs.items():
        v, chance = value.detach(), seeded_generator("drawn", name, tuple(value.shape), seed)
        if not v.is_floating_point() or not v.numel():
            made[name] = v.clone()
        elif _is_codes(v) and bool(v.any()):
            made[name] = _shuffled(v, chance)
        else:
            found = kind(chance, v).to(v)
            signed = bool((v < 0).any()) or not bool(v.any())
            made[name] = found if signed else found.abs()
    return made


def normals(chance: torch.Generator, like: Tensor, size: float = 1) -> Tensor:
    """Draw normals of that size."""
    return size * torch.randn(like.shape, generator=chance, dtype=torch.float64)


def ties(chance: torch.Generator, like: Tensor) -> Tensor:
    """Draw halves from -1 to 1: zeros, and equal numbers."""
    return torch.randint(-2, 3, like.shape, generator=chance).double() / 2


def sampled_from(values: Tensor, chance: torch.Generator, like: Tensor) -> Tensor:
    """Draw some of `values`."""
    return values[torch.randint(len(values), like.shape, generator=chance)]


def uniform(name: str, like: Tensor) -> Tensor:
    """Return numbers from -1 to 1."""
    return torch.rand(like.shape, generator=seeded_generator(name), dtype=like.dtype) * 2 - 1


def similar(name: str, values: Tensor, *, leaf: bool, share: float = 1.0, draw: int = 0) -> Tensor:
    """Return another input of the same kind; a `leaf` is one whose gradient is asked for.

    Each row becomes a mixture with another one, of which it takes 1/64 to 1/8 times `share`; what
    is the same number everywhere is scaled, element by element, zeros alone become small numbers.
    Seeded by the name and the number of the draw. Of two values (a mask, classes) the rows are
    shuffled; else infinities, and zeros among other numbers, stay where they are. Whole numbers
    that are no leaf, even grids, orthonormal rows and matrices of one number along each diagonal
    stay too.
    """
    if not _moves(values):
        return values.detach().clone()
    found = _Mix(name, values.detach(), leaf, share, draw).found().to(values)
    return torch.where(found.isnan(), values.detach(), found)


def scaled(name: str, values: Tensor, share: float = 1.0, draw: int = 0) -> Tensor:
    """Return a parameter with each of its numbers scaled, of zeros alone small numbers.

    Zeros among other numbers stay: they may have been pruned.
    """
    if not _moves(values):
        return values.detach().clone()
    found = _Mix(name, values.detach(), True, share, draw).scaled()
    return torch.where(values.isfinite(), found.to(values), values.detach())


def all_zeros_or_ones(values: Tensor) -> bool:
    """Whether it is all 0 or all 1, as labels of one class are, or a mask that hides nothing."""
    return _moves(values) and len(values.unique()) == 1 and float(values.flatten()[0]) in (0, 1)


def _moves(values: Tensor) -> bool:
    return values.is_floating_point() and values.numel() > 0 and values.dtype.itemsize > 1


class _Mix:
    """One input, in float64, and what is drawn for it."""

    def __init__(self, name: str, values: Tensor, leaf: bool, share: float, draw: int) -> None:
        self.given, self.leaf, self.share, self.draw = values, leaf, share, draw
        self.x = values.double().cpu()
        self.chance = seeded_generator("other", name, tuple(values.shape), draw)

    def found(self) -> Tensor:
        """Return the other input."""
        x = self.x
        kinds = x.unique()
        kind = find_normalised_lines(self.given)
        if not self.leaf and self.draw == 1 and all_zeros_or_ones(x) and x.numel() > 1:
            return self._classes()
        if len(kinds) == 1:
            return kind.renormalise(self.scaled()) if kind else self.scaled()
        if len(kinds) == 2 and x.numel() > 2:
            return self._codes()
        whole = not self.leaf and bool((x == x.round())[x.isfinite()].all())
        if whole or _orthonormal(self.given) or _along_diagonals(x) or _even(self.given):
            return x
        if not self.leaf and _some_whole(x):
            return x[self._shuffle(len(x))]
        mixed = torch.where(x == 0, 0.0, self._mixed())
        if symmetry_sign(self.given) is not None:
            return mixed
        if kind is None:
            return self.scaled() if torch.equal(mixed, x) else mixed
        if kind.dim != x.ndim - 1 or self._columns() not in _SUMS:
            return kind.renormalise(mixed)
        return x if bool((x == 0).any()) else mixed  # rows and columns have their sums

    def scaled(self) -> Tensor:
        """Scale the numbers one by one."""
        shares = self._shares(*self.x.shape)
        return shares if bool((self.x == 0).all()) else self.x * (1 + shares)

    def _shares(self, *shape: int) -> Tensor:
        drawn = torch.rand(shape, generator=self.chance, dtype=torch.float64)
        return (MIN_SHARE + (MAX_SHARE - MIN_SHARE) * drawn) * self.share

    def _codes(self) -> Tensor:
        """Shuffle the rows of what has two values, a mask or classes; a causal mask stays."""
        x = self.x
        if symmetry_sign(x) == 1:
            return self._reordered()
        if x.ndim > 1 and _triangular(x):
            return x
        if x.ndim < 2:
            return x[self._shuffle(len(x))]
        kind = find_normalised_lines(x)
        dim = x.ndim - 1 if kind is None or kind.dim is None else kind.dim
        rows = x.movedim(dim, -1)
        shuffled = rows.reshape(-1, x.shape[dim])[self._shuffle(x.numel() // x.shape[dim])]
        return shuffled.reshape(rows.shape).movedim(-1, dim)

    def _classes(self) -> Tensor:
        """Draw the other class for some, but not for all: 0 for 1, and 1 for 0."""
        some = torch.rand(self.x.shape, generator=self.chance) < 0.5
        some.view(-1)[0], some.view(-1)[-1] = True, False
        return torch.where(some, 1 - self.x, self.x)

    def _reordered(self) -> Tensor:
        """Shuffle rows and columns alike."""
        order = self._shuffle(self.x.shape[-1])
        return self.x[..., order, :][..., order]

    def _mixed(self) -> Tensor:
        x = self.x
        if symmetry_sign(self.given) is not None:
            return x + self._shares(1) * (self._reordered() - x)
        if not x.ndim or x.numel() == x.shape[-1]:
            return self._row(x.flatten()).reshape(x.shape)
        return self._rows(x, together=self._columns() in _SUMS)

    def _columns(self) -> str | None:
        if self.x.ndim < 2 or not bool(self.x.isfinite().all()):
            return None
        return line_kind(self.given, self.x.ndim - 2)

    def _row(self, x: Tensor) -> Tensor:
        """Mix the elements of one row, all by one share: its sum stays, or its order."""
        free = x.isfinite() & (x != 0)
        some = x[free]
        if len(some) < 2:
            return x * (1 + self._shares(*x.shape))
        found = x.clone()
        found[free] = some + self._shares(1) * (self._beside(some) - some)
        return found

    def _rows(self, x: Tensor, *, together: bool = False) -> Tensor:
        """Mix each row with another one, all by one share where the columns' sums stay too."""
        rows = x.reshape(-1, x.shape[-1])
        beside = self._beside(rows)
        mixed = rows + self._shares(1 if together else len(rows), 1) * (beside - rows)
        return torch.where(beside.isfinite(), mixed, rows).reshape(x.shape)

    def _beside(self, rows: Tensor) -> Tensor:
        """Return another row for each: the next one where they are sorted, else a shuffled one."""
        steps = rows[1:] - rows[:-1]
        if len(rows) > 2 and bool(((steps >= 0).all(0) | (steps <= 0).all(0)).all()):
            return torch.cat([rows[1:], rows[-1:]])
        return rows[self._shuffle(len(rows))]

    def _shuffle(self, count: int) -> Tensor:
        """Draw an order in which none stays in its place."""
        order = torch.randperm(count, generator=self.chance)
        found = torch.empty_like(order)
        found[order] = order.roll(1)
        return found


def _even(x: Tensor) -> bool:
    """Whether it is one row of even steps, as of a grid."""
    if x.numel() < 3 or x.numel() != x.shape[-1]:
        return False
    steps = x.double().flatten().diff()
    room = 4 * torch.finfo(x.dtype).eps * x.double().abs().max()
    return bool(((steps - steps.mean()).abs() <= room).all())


def _some_whole(x: Tensor) -> bool:
    """Whether some columns are whole numbers, classes or times, and others are not."""
    if x.ndim != 2 or len(x) < 2 or not bool(x.isfinite().all()):
        return False
    whole = (x == x.round()).all(0) & (x != x[:1]).any(0)
    return bool(whole.any() & ~(x == x.round()).all())


def _triangular(x: Tensor) -> bool:
    """Whether one of two values is what stands on one side of the diagonal.

    Such is a causal mask: its order says which row comes first.
    """
    mark = x == x[..., :1, :1]
    sides = torch.ones_like(mark).triu(1), torch.ones_like(mark).tril(-1)
    return any(bool((mark != side).all()) for side in sides)


def _orthonormal(values: Tensor) -> bool:
    """Whether its rows have length 1 and stand at right angles, to rounding, as of a rotation."""
    if values.ndim < 2 or not 1 < values.shape[-2] <= values.shape[-1]:
        return False
    x = values.double()
    off = (x @ x.mT - torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)).abs()
    return bool((off <= 8 * torch.finfo(values.dtype).eps).all())


def _along_diagonals(x: Tensor) -> bool:
    """Whether each diagonal is one number, as of a convolution written as a matrix."""
    if x.ndim < 2 or min(x.shape[-2:]) < 3:
        return False
    return bool((x[..., 1:, 1:] == x[..., :-1, :-1]).all())


def seeded_generator(*what: object) -> torch.Generator:
    """Return a generator seeded by a digest of what is to be drawn, its name among it.

    One seeded by 0 or 1 gives the very numbers of a user's `torch.manual_seed(0)`, and a pass that
    mistakes the one for the other would be right by accident. So ours give what nobody else draws.
    """
    digest = hashlib.sha256(repr(("deltacheck", *what)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


def cotangent(label: str, like: Tensor, seed: int) -> Tensor:
    """Return what stands above an output: uniform in +-[0.5, 1.5], in its shape and dtype.

    No normals, as a user draws them, and never near 0. The first, of a scalar the only one, is
    below -1: neither its size nor what a clamp leaves of it will do for it.
    """
    chance = seeded_generator("cotangent", label, tuple(like.shape), seed)
    size = torch.rand(like.shape, generator=chance, dtype=torch.float64) + 0.5
    sign = torch.randint(2, like.shape, generator=chance) * 2 - 1
    found = (size * sign).flatten()
    found[:1] = -(1 + found[:1].abs() / 3)
    return found.reshape(like.shape).to(like)
