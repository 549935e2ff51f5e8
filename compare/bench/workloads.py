"""The works of each group of `bench`; with `small` on tiny sizes, for tests."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch

from compare.bench import claims, gradcheck, peers, subprocesses
from compare.bench import third_party as others
from compare.bench.checked import checked, checked_steps
from compare.bench.problems import Problem, problem, random_case
from compare.bench.timing import NotHere, Take, Work
from compare.cases.cases import CASES, Case
from compare.errors import BadInput

Peer = Callable[[Problem], Any]
LARGE, HUGE = ((2048, 2048, 1024), 1024), ((4096, 8192, 2048), 64)  # sizes, rows
SMALL = (8, 6, 4), 5


def works(group: str, *, small: bool = False) -> list[Work]:
    """Return the works of a group."""
    return _GROUPS[group](small)


def _of(given: Callable[[], Problem], made: dict[str, Peer], *, each: int = 1) -> list[Work]:
    """Return a work for each of the peers."""
    return [
        Work(label, lambda peer=peer: peer(given()).take, each=each)  # type: ignore[misc]
        for label, peer in made.items()
    ]


def _drawn(case: Case, dtype: torch.dtype, **settings: int) -> Callable[[], Problem]:
    """Return what draws a problem when it is first needed, once."""

    @cache
    def given() -> Problem:
        try:
            return problem(case, dtype, **settings)
        except BadInput as error:  # digits without scikit-learn
            raise NotHere(str(error)) from error

    return given


_OURS: dict[str, Peer] = {
    claims.HAND: peers.ByHand, claims.FUSED: peers.Fused, claims.PRODUCTS: peers.Products
}  # fmt: skip
_BASE: dict[str, Peer] = {claims.AUTOGRAD: peers.Autograd}
_COMPILED = "torch.compile'd autograd"
_OTHERS: dict[str, Peer] = {
    "torch.func.grad": others.Func,
    _COMPILED: others.Compiled,
    "JAX, grad with jit": partial(others.Jax, whole=False),
    "JAX, whole loop jitted": partial(others.Jax, whole=True),
}


def _three_layer(small: bool) -> list[Work]:
    case = CASES["three_layer"]
    given = _drawn(case, torch.float64)
    ours = {claims.HAND: peers.ByHand, claims.FUSED: peers.Fused}
    return [
        *_of(given, _BASE),
        Work(claims.CHECKED, lambda: checked(case), 60 if small else case.steps),
        *_of(given, {**ours, "the listing in numpy": others.Numpy, **_OTHERS}),
    ]


def _population(small: bool) -> list[Work]:
    case, P = CASES["three_layer"], 4 if small else 256
    given = _drawn(case, torch.float64, population=P)
    side_by_side: dict[str, Peer] = {
        claims.HAND: peers.ByHand,
        claims.FUSED: peers.Fused,
        "torch.func, vmap of grad": others.Func,
        "JAX, vmap, whole loop jitted": partial(others.Jax, whole=True),
    }
    return [
        *_of(_drawn(case, torch.float64), _BASE),
        Work(claims.CHECKED, lambda: checked(case, population=P), 8 if small else 1_024, P),
        *_of(given, side_by_side, each=P),
    ]


def _digits(small: bool) -> list[Work]:
    del small
    case = CASES["digits"]
    made = {claims.HAND: peers.ByHand, _COMPILED: others.Compiled}
    return _of(_drawn(case, torch.float64), _BASE | made)


def _wide(small: bool) -> list[Work]:
    case = random_case(*(SMALL if small else ((784, 256, 10), 128)))
    return _of(_drawn(case, torch.float32), _BASE | _OURS | _OTHERS)


def _big(small: bool, *, sizes: tuple[int, ...], rows: int) -> list[Work]:
    case = random_case(*(SMALL if small else (sizes, rows)))
    # the small network's chunks hold many steps, and more than two are needed
    return [
        *_of(_drawn(case, torch.float32), _BASE | _OURS),
        Work(
            claims.CHECKED_STEPS,
            lambda: checked_steps(case, dtype="float32"),
            1_600 if small else 2,
        ),
    ]


def _peaks(small: bool, *, sizes: tuple[int, ...], rows: int) -> list[Work]:
    shape = SMALL if small else (sizes, rows)
    labels = claims.AUTOGRAD, claims.HAND, claims.FUSED, claims.CHECKED_STEPS
    return [Work(label, partial(_peak, label, *shape), 1, warm_up=False) for label in labels]


def _peak(label: str, sizes: tuple[int, ...], rows: int) -> Take:
    return lambda _: subprocesses.peak(label, sizes, rows)


def _start(small: bool) -> list[Work]:
    steps = 20 if small else 1_000
    return [
        Work("--help", lambda: lambda _: subprocesses.cpu("--help"), 1),
        Work("--list", lambda: lambda _: subprocesses.cpu("--list"), 1),
        Work(claims.START, lambda: lambda _: subprocesses.outside(steps), 1),
        Work(claims.TORCH, lambda: lambda _: subprocesses.torch_alone(), 1),
    ]


def _verdict(small: bool) -> list[Work]:
    sizes = ((5, 4, 3), (8, 4, 3)) if small else ((64, 128, 10), (784, 128, 10))
    rows = 4 if small else 32
    return [
        Work(f"{title}, {label}", partial(make, shape, rows), 1)
        for title, make, shape, label in (
            ("slow gradcheck", gradcheck.slow, sizes[0], "64-128-10"),
            ("fast gradcheck", gradcheck.fast, sizes[0], "64-128-10"),
            ("compare.check", gradcheck.ours, sizes[0], "64-128-10"),
            ("compare.check", gradcheck.ours, sizes[1], "784-128-10"),
        )
    ]


_GROUPS: dict[str, Callable[[bool], list[Work]]] = {
    "three_layer": _three_layer,
    "population": _population,
    "digits": _digits,
    "wide": _wide,
    "large": partial(_big, sizes=LARGE[0], rows=LARGE[1]),
    "large_memory": partial(_peaks, sizes=LARGE[0], rows=LARGE[1]),
    "huge": partial(_big, sizes=HUGE[0], rows=HUGE[1]),
    "huge_memory": partial(_peaks, sizes=HUGE[0], rows=HUGE[1]),
    "start": _start,
    "verdict": _verdict,
}
