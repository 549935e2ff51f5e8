"""What mutants are made of and judged with.

A subject is a by-hand pass read as a program, at some inputs, with the reference it is judged by.
The same two programs serve at other inputs of the same shapes, and in another dtype.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from compare.errors import BadInput
from compare.mutants.mutate import evaluate, plain
from compare.proof.judge import judge
from compare.proof.names import numbered_from
from compare.proof.pair import Pair
from compare.proof.program import Opaque, Program
from compare.report.quantity import Quantity
from compare.report.report import Report

Named = dict[str, Tensor]
DOUBLE = torch.float64


class Subject(ABC):
    """A pass at some inputs: its program `hand`, what it is `given`, and the `reference`."""

    hand: Program
    reference: Program
    given: Named  # what the program takes
    inputs: Named  # what other values can be drawn for
    name: str

    @property
    def gives_output(self) -> bool:
        """Whether the pass gives the output as well, so that mutants may get that wrong."""
        return any(numbered_from(name) == "output" for name in self.hand.outputs)

    @property
    def dtype(self) -> torch.dtype:
        """The narrowest dtype of the inputs' floats."""
        found = [v.dtype for v in self.inputs.values() if v.is_floating_point()]
        return max(found, key=lambda dtype: torch.finfo(dtype).eps)

    def values(self, program: Program, *, was: torch.dtype | None = None) -> Named:
        """Run a mutant; one that was read in the dtype `was` is brought to this subject's."""
        here = self.dtype
        return evaluate(program, self.given, lambda d: here if d == was or (here == DOUBLE and was
                        and d.is_floating_point) else d)  # fmt: skip

    def judge(self, program: Program, values: Named) -> Report:
        """Judge a mutant by what it gave, each quantity from its own values above it."""
        autograd, pair = self.compared(program, values)
        report = Report("check", {}, steps=1)
        for name, value in autograd.items():
            report.quantities[name] = Quantity.of(name, values.get(name), value)
        for name, proof in judge(pair, list(pair.manual), brief=True, first=True).items():
            report.quantities[name].proof = proof
        return report

    @abstractmethod
    def compared(self, program: Program, values: Named) -> tuple[Named, Pair]:
        """Return autograd's values going on from a mutant's, and both as a pair."""

    @abstractmethod
    def autograd(self) -> Named:
        """Return the reference's own values, from the inputs on."""

    @abstractmethod
    def at(self, inputs: Named) -> "Subject":
        """Return the same pass at other values of the inputs."""

    def anew(self, inputs: Named) -> "Subject | None":
        """Return the pass read again, at inputs of other shapes; None where that cannot be."""
        del inputs
        return None

    def everything(self) -> dict[str, Any]:
        """Return all that is given, also what is no tensor, to be saved."""
        return dict(self.inputs)

    @abstractmethod
    def differentiable(self) -> "tuple[Named, Callable[..., Any], Callable[..., Any]]":
        """Return what gradcheck needs: the leaves, run(program, *leaves) and back.

        `run` returns the outputs; `back(program, leaves, grads)` returns the mutant's gradient of
        each leaf, None where it gives none.
        """

    def to(self, dtype: torch.dtype) -> "Subject":
        """Return the same pass with the floats of its inputs in another dtype."""
        return self.at(_cast(self.inputs, dtype))

    @cached_property
    @abstractmethod
    def pair(self) -> Pair:
        """The pass as it stands beside its reference; a mutant is another by-hand side of it."""


def _cast(values: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {
        name: v.detach().to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v
        for name, v in values.items()
    }


def readable(what: str, program: Program | Opaque) -> Program:
    """Return a program without what only hands on; raises BadInput where there is none."""
    if isinstance(program, Opaque):
        raise BadInput(f"{what} {program}: write it in torch operations, to have mutants of it")
    return plain(program)


def too_large(what: str, off: Opaque) -> BadInput:
    """Return the error for inputs of which `check` would lift nothing."""
    return BadInput(f"{what}: {off}; for mutants of it give smaller inputs")


def double(dtype: torch.dtype) -> torch.dtype:
    """Return float64 for a dtype of floats, others as they are."""
    return DOUBLE if dtype.is_floating_point else dtype
