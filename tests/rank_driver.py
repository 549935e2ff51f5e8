"""Started by torchrun in tests: the command line, with something planted on one rank.

`rank_driver.py WHAT RANK STEP words...`: at that step by hand the rank dies, stops, spoils its part
of an update, or the weights that it goes on with.
"""

import itertools
import os
import signal
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import compare.harness
from compare.cases import Case
from compare.cli import main
from compare.sides import Step, by_hand

Named = dict[str, Tensor]


def _die(_values: Named) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop(_values: Named) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _weights(values: Named) -> None:
    values["syn1"] = values["syn1"] * (1 + 2.0**-52)


def _part(values: Named) -> None:
    values["syn1_part"] = values["syn1_part"] * 1.5


def _update(values: Named) -> None:
    values["syn1_update"] = values["syn1_update"] * 1.5


def _fault(_values: Named) -> None:
    raise ZeroDivisionError("planted")


PLANTS: dict[str, Callable[[Named], None]] = {
    "die": _die, "stop": _stop, "weights": _weights, "part": _part, "update": _update,
    "fault": _fault,
}  # fmt: skip


def planted(plant: Callable[[Named], None], at: int, case: Case) -> Step:
    step, calls = by_hand(case), itertools.count()

    def wrong(**given: Tensor) -> Named:
        values = dict(step(**given))
        if torch.is_inference_mode_enabled() and next(calls) == at:
            plant(values)
        return values

    return wrong


def run(what: str, rank: str, step: str, *words: str) -> int:
    if os.environ["RANK"] == rank:
        compare.harness.by_hand = partial(planted, PLANTS[what], int(step))  # type: ignore[attr-defined]
    return main(words)


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:]))
