"""The groups of measurements in `bench`, and the speed claims with their limits.

This module imports only the standard library, so that `--help` can list the groups quickly.
"""

from dataclasses import dataclass

AUTOGRAD = "autograd + SGD"
COMMAND = "the default command"  # the whole of `python -m compare`, with TORCH
START = "a run outside its steps"  # the default run without its steps and without TORCH
TORCH = "torch's own start"  # the import of torch, and of its first optimizer
CHECKED = "checked"  # a whole run with its proofs
CHECKED_STEPS = "checked steps"
HAND = "by hand"
FUSED = "by hand, fused"
CHECK, OTHER_CHECK = "compare.check, 64-128-10", "compare.check, 784-128-10"
LISTING = "compare.check, the blog's listing in numpy"
KERNEL = "compare.check, a hidden kernel of 100,000 numbers"
PRODUCTS = "five products alone"  # only the matrix products of the fused step
NORM = "layer norm 1024x768"
LARGE_PASSES = NORM, "attention 8x256x64", "MLP 256x768x3072"
CHECKED_PASS, PASSES = "check of {}", "both passes of {}"
LIMIT = "check of {}, as a share of 2 s + 100 times both passes"
FAST = f"fast gradcheck of {NORM}, float64"
# ours too, but no training step or check like those that a peer's time is compared with
NO_PEERS = PRODUCTS, LISTING, KERNEL, OTHER_CHECK

# The machines on which claims were measured, of two cores each. What share of a large step is its
# products depends on the processor, so claims on fused steps are shares of the products alone.
AVX2, AVX512 = "AVX2", "AVX-512"


@dataclass(frozen=True)
class Claim:
    """A limit on time(what) / sum(time(over)), or on time(what) if `over` is empty."""

    what: str  # label of a workload
    limit: float
    over: tuple[str, ...] = (AUTOGRAD,)  # labels of workloads
    aim: float | None = None  # the value that we would like to reach
    held: tuple[str, ...] = ()  # the machines on which it was seen to hold

    def holds(self, figure: float) -> bool:
        """Whether the claim holds for this value; it never holds for NaN."""
        return figure <= self.limit


@dataclass(frozen=True)
class Group:
    """Workloads that are timed in turn; ratios are to the workload `base`."""

    name: str
    title: str
    unit: str
    scale: float  # units in a second, or in a byte
    base: str = AUTOGRAD
    claims: tuple[Claim, ...] = ()
    project: tuple[str, ...] = ()  # this project's workloads; a peer that is faster is marked
    seconds: float = 8.0  # rounds start until so many seconds have passed
    rounds: int = 5  # the least number of rounds


_ONE, _BOTH = (AVX512,), (AVX2, AVX512)
_BIG = Claim(CHECKED_STEPS, 1.3, over=(HAND, AUTOGRAD), held=_ONE)
_PEAK = Claim(CHECKED_STEPS, 2.2, held=_BOTH)

GROUPS = {
    group.name: group
    for group in (
        Group(
            "three_layer", "one step of 3-4-1, float64", "microseconds", 1e6,
            claims=(Claim(CHECKED, 0.3, aim=0.2, held=_BOTH), Claim(FUSED, 0.15, held=_BOTH)),
            project=(CHECKED, HAND, FUSED), seconds=25.0,
        ),
        Group(
            "population", "one step of one network, 3-4-1, 256 side by side", "microseconds", 1e6,
            claims=(Claim(CHECKED, 0.05, aim=0.02, held=_BOTH),), project=(CHECKED, HAND),
        ),
        Group(
            "digits", "one step of digits, batch 64, float64", "microseconds", 1e6,
            claims=(Claim(HAND, 0.6, aim=0.5, held=_BOTH),), project=(HAND,),
        ),
        Group(
            "wide", "one step of 784-256-10, batch 128, float32", "milliseconds", 1e3,
            claims=(Claim(FUSED, 1.06, over=(PRODUCTS,), held=_ONE),),
            project=(HAND, FUSED), seconds=12.0,
        ),
        Group(
            "large", "one step of 2048-2048-1024, batch 1024, float32", "milliseconds", 1e3,
            claims=(Claim(FUSED, 1.03, over=(PRODUCTS,), held=_ONE), _BIG), project=(HAND, FUSED),
            seconds=30.0,
        ),
        Group(
            "large_memory", "peak of 2048-2048-1024, batch 1024, float32", "MiB", 2.0**-20,
            claims=(_PEAK,), seconds=0.0, rounds=1,
        ),
        Group(
            "huge", "one step of 4096-8192-2048, 50 million weights, batch 64", "milliseconds",
            1e3, claims=(Claim(HAND, 1.0, held=_ONE), _BIG), project=(HAND, FUSED), seconds=20.0,
        ),
        Group(
            "huge_memory", "peak of 4096-8192-2048, batch 64, float32", "MiB", 2.0**-20,
            claims=(_PEAK,), seconds=0.0, rounds=1,
        ),
        Group(
            "start", "start-up, CPU", "seconds", 1.0, "--help",
            claims=(
                Claim("--help", 0.3, over=(), held=_ONE), Claim("--list", 0.3, over=(), held=_ONE),
                Claim(START, 2.0, over=(), held=_BOTH), Claim(COMMAND, 4.5, over=(), held=_ONE),
            ),
            seconds=0.0, rounds=2,
        ),
        Group(
            "verdict", "one verdict, batch 32, float64", "milliseconds", 1e3,
            "slow gradcheck, 64-128-10",
            claims=(
                Claim(LISTING, 1.0, over=(), held=_ONE), Claim(KERNEL, 3.0, over=(), held=_ONE),
            ),
            project=(CHECK,), rounds=3,
        ),
        Group(
            "check", "one check, or one forward and backward pass each way, float32", "seconds",
            1.0, PASSES.format(NORM),
            claims=tuple(
                Claim(LIMIT.format(each), 1.0, over=(), held=_ONE) for each in LARGE_PASSES
            ),
            seconds=0.0, rounds=2,
        ),
    )
}  # fmt: skip

#: The growth measurements: name -> a description of what is timed against what.
GROWTHS = {
    "width": "step of W-W-W, batch 32, float32, against W",
    "depth": "step of D layers of 8 values, batch 4, float64, against D",
    "batch": "step of 64-64-10, float32, against the rows of a batch",
    "steps": "a whole run of three_layer with its proofs, against its steps",
    "population": "step of 3-4-1, all networks together, against the networks",
    "check": "a check of a layer norm of 768 features, float32, against the rows",
}

CHOICES = (*GROUPS, "growth")
