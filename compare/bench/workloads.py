"""The workloads of each group of `bench`; `small` means tiny sizes, for tests."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch

from compare.bench import claims, gradcheck, numpy_checks, subprocesses, torch_steps
from compare.bench import other_libraries as others
from compare.bench.checked import checked, checked_steps
from compare.bench.large_passes import (
    Pass,
    attention,
    both_passes,
    checked_pass,
    fast_gradcheck,
    layer_norm,
    mlp,
    share_of_limit,
)
from compare.bench.timing import Take, Work
from compare.bench.torch_steps import Problem, draw_problem, random_case
from compare.cases.cases import CASES, Case

Shape = tuple[tuple[int, ...], int]  # sizes, rows
LARGE, HUGE, SMALL = ((2048, 2048, 1024), 1024), ((4096, 8192, 2048), 64), ((8, 6, 4), 5)

_MANUAL = (claims.HAND, claims.FUSED)
_COMPILED = "torch.compile'd autograd"
_OTHERS: dict[str, Callable[[Problem], Any]] = {
    "torch.func.grad": others.Func,
    _COMPILED: others.Compiled,
    "JAX, grad with jit": partial(others.Jax, whole=False),
    "JAX, whole loop jitted": partial(others.Jax, whole=True),
}
_PEERS: dict[str, Callable[[Problem], Any]] = {
    **torch_steps.PEERS,
    **_OTHERS,
    "the listing in numpy": others.Numpy,
    "torch.func, vmap of grad": others.Func,
    "JAX, vmap, whole loop jitted": partial(others.Jax, whole=True),
}


def works(group: str, *, small: bool = False) -> list[Work]:
    """Return the workloads of a group."""
    return _GROUPS[group](small)


def _of(problem: Callable[[], Problem], *labels: str, each: int = 1) -> list[Work]:
    """Return a workload for each of the peers with these labels."""

    def make(label: str) -> Take:
        take: Take = _PEERS[label](problem()).take
        return take

    return [Work(label, partial(make, label), each=each) for label in labels]


def _drawn(case: Case, dtype: torch.dtype, **settings: int) -> Callable[[], Problem]:
    """Return a function that draws a problem at its first call and then returns it again."""
    return cache(partial(draw_problem, case, dtype, **settings))


def _three_layer(small: bool) -> list[Work]:
    case = CASES["three_layer"]
    problem = _drawn(case, torch.float64)
    return [
        *_of(problem, claims.AUTOGRAD),
        Work(claims.CHECKED, lambda: checked(case), 60 if small else case.steps),
        *_of(problem, *_MANUAL, "the listing in numpy", *_OTHERS),
    ]


def _population(small: bool) -> list[Work]:
    case, P = CASES["three_layer"], 4 if small else 256
    stacked = "torch.func, vmap of grad", "JAX, vmap, whole loop jitted"
    return [
        *_of(_drawn(case, torch.float64), claims.AUTOGRAD),
        Work(claims.CHECKED, lambda: checked(case, population=P), 8 if small else 1_024, P),
        *_of(_drawn(case, torch.float64, population=P), *_MANUAL, *stacked, each=P),
    ]


def _digits(_small: bool) -> list[Work]:
    problem = _drawn(CASES["digits"], torch.float64)
    return _of(problem, claims.AUTOGRAD, claims.HAND, _COMPILED)


def _wide(small: bool) -> list[Work]:
    case = random_case(*(SMALL if small else ((784, 256, 10), 128)))
    return _of(_drawn(case, torch.float32), *torch_steps.PEERS, *_OTHERS)


def _big(small: bool, shape: Shape) -> list[Work]:
    case = random_case(*(SMALL if small else shape))
    # a chunk of the small network holds many steps, and checked_steps needs more than two chunks
    steps = 1_600 if small else 2
    return [
        *_of(_drawn(case, torch.float32), *torch_steps.PEERS),
        Work(claims.CHECKED_STEPS, lambda: checked_steps(case, dtype="float32"), steps),
    ]


def _peaks(small: bool, shape: Shape) -> list[Work]:
    def make(label: str) -> Take:
        return lambda _: subprocesses.peak(label, *(SMALL if small else shape))

    labels = claims.AUTOGRAD, *_MANUAL, claims.CHECKED_STEPS
    return [Work(label, partial(make, label), 1, warm_up=False) for label in labels]


def _start(small: bool) -> list[Work]:
    steps = 20 if small else 1_000
    return [
        Work("--help", lambda: lambda _: subprocesses.cpu("--help"), 1),
        Work("--list", lambda: lambda _: subprocesses.cpu("--list"), 1),
        Work(claims.START, lambda: lambda _: subprocesses.outside(steps), 1),
        Work(claims.COMMAND, lambda: lambda _: subprocesses.default_case(20 if small else None), 1),
        Work(claims.TORCH, lambda: lambda _: subprocesses.torch_alone(), 1),
    ]


def _verdict(small: bool) -> list[Work]:
    one, other = ((5, 4, 3), (8, 4, 3)) if small else ((64, 128, 10), (784, 128, 10))
    rows = 4 if small else 32
    return [
        Work(
            "slow gradcheck, 64-128-10", lambda: gradcheck.torch_gradcheck(one, rows, fast=False), 1
        ),
        Work(
            "fast gradcheck, 64-128-10", lambda: gradcheck.torch_gradcheck(one, rows, fast=True), 1
        ),
        Work(claims.CHECK, lambda: gradcheck.compare_check(one, rows), 1),
        Work(claims.OTHER_CHECK, lambda: gradcheck.compare_check(other, rows), 1),
        Work(claims.LISTING, numpy_checks.blog_listing, 1),
        Work(
            claims.KERNEL,
            partial(numpy_checks.hidden_kernel, *((4, 8) if small else (132, 768))),
            1,
        ),
    ]


def _check(small: bool) -> list[Work]:
    tiny, real = ((3, 8), (2, 5, 4), (3, 4, 6)), ((1024, 768), (8, 256, 64), (256, 768, 3072))
    sizes: Sequence[Sequence[int]] = tiny if small else real
    kinds: Sequence[Callable[..., Pass]] = layer_norm, attention, mlp
    works = []
    for label, kind, size in zip(claims.LARGE_PASSES, kinds, sizes, strict=True):
        made = kind(*size)
        works += [
            Work(claims.PASSES.format(label), partial(both_passes, made), 1),
            Work(claims.CHECKED_PASS.format(label), partial(checked_pass, made), 1),
            Work(claims.LIMIT.format(label), partial(share_of_limit, made), 1, warm_up=False),
        ]
    return [*works, Work(claims.FAST, partial(fast_gradcheck, layer_norm(*sizes[0])), 1)]


_GROUPS: dict[str, Callable[[bool], list[Work]]] = {
    "three_layer": _three_layer,
    "population": _population,
    "digits": _digits,
    "wide": _wide,
    "large": partial(_big, shape=LARGE),
    "large_memory": partial(_peaks, shape=LARGE),
    "huge": partial(_big, shape=HUGE),
    "huge_memory": partial(_peaks, shape=HUGE),
    "start": _start,
    "verdict": _verdict,
    "check": _check,
}
