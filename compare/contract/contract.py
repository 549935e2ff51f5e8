"""The calls that are made for each point of the contract, and the values they are compared with.

The contract is what PyTorch may ask of a backward pass beyond one ordinary call.

Every backward pass is called with the inputs' own strides. A Function, or a function that takes
`grad_output`, is also called with cotangents of other layouts and of zero. A Function is also
called with cotangents that are None, twice on one graph, and with fewer inputs that need a
gradient; its inputs and its outputs without a gradient are checked. If the code raises, that point
counts as refused.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, TypeVar

import torch
from torch import Tensor

from compare.budget import TimeIsUp
from compare.contract.calls import (
    Graph,
    call,
    clone_keeps_layout,
    cut_out,
    stride_zero,
    transposed,
)
from compare.contract.outcome import (
    Broken,
    CallComparison,
    NotKept,
    NotShown,
    compare_other_outputs,
    difference,
)
from compare.errors import first_line, is_internal
from compare.passes.inputs import Values
from compare.progress import counted
from compare.proof.bits import same_bits
from compare.report.contract_line import KEPT, LINES, NOT_ASKED, OUT_OF_TIME, REFUSED, Line

T = TypeVar("T")
ALL_SUBSETS_UP_TO = 3  # leaves; of more leaves, only the subsets of one are called
_NOT_DETERMINISTIC = "two equal calls give different bits: the code is not deterministic"


class _Refused(NotKept):
    """The code under test raised an exception; the message quotes it."""

    outcome = REFUSED


@contextmanager
def _user_code() -> Iterator[None]:
    """Turn an exception of the user's code into _Refused; faults of this program pass through."""
    try:
        yield
    except Exception as error:
        if is_internal(error):
            raise
        raise _Refused(first_line(error)) from error


@dataclass(frozen=True)
class Contract(CallComparison):
    """The lines of the contract for a check that is not WRONG."""

    def lines(self, left_out: Collection[str] = ()) -> tuple[Line, ...]:
        """Check every line that applies, except those `left_out`, and return their outcomes."""
        backward = self.passes.backward
        checks: dict[str, Callable[[], str | None]] = {"strides": self._strides}
        if backward.is_function or (
            "grad_output" in backward.argument_names and not backward.unit_cotangents
        ):
            checks |= {
                "stride 0": self._stride_zero,
                "transposed": self._transposed,
                "zero": self._zero,
            }
        if backward.is_function:
            checks |= {"missing": self._missing, "twice": self._twice, "subsets": self._subsets}
            checks["inputs untouched"] = self._inputs_untouched
            checks["other outputs"] = lambda: compare_other_outputs(self.passes, self._extra_call)
        lines: dict[str, Line | None] = {}
        try:
            for name in counted("contract: {}", LINES):
                if name in left_out:
                    lines[name] = Line(name, NOT_ASKED)
                elif name in checks:
                    lines[name] = _line(name, checks[name])
        except TimeIsUp:
            undone = [name for name in LINES if name in checks and name not in lines]
            lines |= {name: Line(name, NOT_ASKED, OUT_OF_TIME) for name in undone}
        return tuple(filter(None, lines.values()))

    @property
    def _cotangents(self) -> list[Tensor]:
        """The cotangents of the outputs, copies: the code may write into its arguments."""
        return [value.clone() for value in self.passes.forward.cotangents]

    def _call(
        self, cotangents: Iterable[Tensor | None], **options: Any
    ) -> tuple[dict[str, Tensor], list[str]]:
        with _user_code():
            values, none = call(self.passes.backward, list(cotangents), **options)
        if not self.passes.backward.is_function:
            before = self.passes.manual.keys()
            if missing := before - values.keys():
                raise Broken(f"no gradient for {', '.join(sorted(missing))}")
            if extra := values.keys() - before:
                raise Broken(f"a gradient for {', '.join(sorted(extra))}, which had none before")
        return values, none

    # -- other cotangents

    def _stride_zero(self) -> str | None:
        first, last = (
            [stride_zero(value, which) for value in self._cotangents] for which in (0, -1)
        )
        if all(0 not in value.stride() for value in last):
            return None
        variants = [("", last), ("along the first dimension", first)]
        if all(a.stride() == b.stride() for a, b in zip(first, last, strict=True)):
            variants.pop()  # the first dimension is the last one

        def check(cotangents: list[Tensor]) -> str:
            dense = [value.contiguous() for value in cotangents]
            equivalent, _ = self._call(value.clone() for value in dense)
            values, _ = self._call(cotangents)
            return self.compare_call(values, equivalent, dense)

        return _each(variants, check)

    def _transposed(self) -> str | None:
        variants = [
            ("", [transposed(value) for value in self._cotangents]),
            # the backward of torch.cat passes slices of a larger tensor
            ("cut out of a larger tensor", [cut_out(value) for value in self._cotangents]),
        ]
        variants = [
            (words, cotangents)
            for words, cotangents in variants
            if not all(value.is_contiguous() for value in cotangents)
        ]

        def check(cotangents: list[Tensor]) -> str:
            values, _ = self._call(cotangents)
            return self.compare_call(values, self.passes.manual, passed=cotangents)

        return _each(variants, check) if variants else None

    def _zero(self) -> str | None:
        zeros = [torch.zeros_like(value) for value in self._cotangents]
        if not any(value.numel() for value in zeros):
            return None
        values, _ = self._call(value.clone() for value in zeros)
        return self.compare_call(values, None, zeros)

    def _missing(self) -> str | None:
        count = len(self.passes.forward.outputs)
        if count < 2:
            return None

        def check(k: int) -> str:
            zeros = self._cotangents
            missing: list[Tensor | None] = [*self._cotangents]
            zeros[k], missing[k] = torch.zeros_like(zeros[k]), None
            values, none = self._call(missing)
            return self.compare_call(values, None, zeros, none)

        return _each([(f"without a cotangent for output[{k}]", k) for k in range(count)], check)

    # -- a second backward on one graph, the inputs' own strides, fewer leaves

    def _twice(self) -> str:
        """Demand equal bits of both backward calls if two fresh calls have equal bits."""
        first, second = self._two_backward_calls()
        if not _same(first, {key: self.passes.manual[key] for key in first}):
            raise NotShown(_NOT_DETERMINISTIC)
        if _same(second, first):
            return ""
        if not all(map(_same, self._two_backward_calls(), (first, second))):
            raise NotShown(_NOT_DETERMINISTIC)
        key = next(key for key in first if not same_bits(second[key], first[key]))
        raise Broken(difference(key, first[key], second[key], "{}, then {}"))

    def _two_backward_calls(self) -> tuple[Values, Values]:
        graph = self._graph()
        return (
            self._gradients(graph, retain_graph=True),
            self._gradients(graph, retain_graph=True),
        )

    def _strides(self) -> str | None:
        arguments = self.passes.backward.arguments.items()
        used = (value for name, value in arguments if name in self.passes.forward.inputs)
        if all(clone_keeps_layout(value) for value in used if isinstance(value, Tensor)):
            return None
        values, _ = self._call(self._cotangents, strided=True)
        return self.compare_call(values, self.passes.manual)

    def _subsets(self) -> str | None:
        leaves = self.passes.forward.leaves
        if len(leaves) < 2:
            return None
        sizes = range(1, len(leaves)) if len(leaves) <= ALL_SUBSETS_UP_TO else [1]
        subsets = [subset for size in sizes for subset in combinations(leaves, size)]

        def check(subset: Collection[str]) -> str:
            values, none = self._call(self._cotangents, leaves=subset)
            return self.compare_call(values, self.passes.manual, none=none)

        return _each([(f"for {' and '.join(subset)} alone", subset) for subset in subsets], check)

    # -- side effects of a Function

    def _inputs_untouched(self) -> str:
        graph, forward = self._extra_call, self.passes.forward
        modified = graph.modified(forward.inputs)
        if modified:  # the reference may modify them too, as running statistics
            fresh = forward.copies(forward.inputs)
            with torch.enable_grad():
                forward.function(**fresh)
            different = [k for k in modified if not same_bits(fresh[k], graph.arguments[k])]
            if alone := [k for k in different if same_bits(fresh[k], forward.inputs[k])]:
                raise Broken(f"forward writes into {', '.join(alone)} without ctx.mark_dirty")
            if different:
                raise NotShown(
                    f"the Function and forward write different values into {', '.join(different)}"
                )
        self._gradients(graph)
        if by_backward := [k for k in graph.modified(forward.inputs) if k not in modified]:
            raise Broken(f"backward writes into {', '.join(by_backward)}")
        return ""

    @cached_property
    def _extra_call(self) -> Graph:
        """One more call of the Function, to check its side effects and its other outputs."""
        return self._graph()

    def _graph(self) -> Graph:
        forward = self.passes.forward
        with _user_code():
            return Graph(self.passes.backward, forward.inputs, leaves=forward.leaves)

    def _gradients(self, graph: Graph, *, retain_graph: bool = False) -> Values:
        with _user_code():
            positions = graph.differentiable_outputs()
            cotangents = dict(zip(positions, self._cotangents, strict=True))
            return graph.gradients(cotangents, retain_graph=retain_graph)[0]


def _line(name: str, check: Callable[[], str | None]) -> Line | None:
    """Return the outcome of one line, None if it does not apply."""
    try:
        text = check()
    except NotKept as reason:
        return Line(name, reason.outcome, str(reason))
    return None if text is None else Line(name, KEPT, text)


def _each(variants: Iterable[tuple[str, T]], check: Callable[[T], str]) -> str:
    """Check several variants of one line, and return the remarks on them.

    Broken outweighs refused, refused outweighs not shown.

    Args:
        variants: A description, "" for the plain variant, and the argument of `check`.
        check: Returns a remark, or raises NotKept.
    """
    kept: list[str] = []
    refused: list[str] = []
    not_shown: list[str] = []
    for words, variant in variants:
        prefix = f"{words}: " if words else ""
        try:
            if text := check(variant):
                kept.append(f"{prefix}{text}")
        except Broken as reason:
            raise Broken(f"{prefix}{reason}") from None
        except NotShown as reason:
            not_shown.append(f"{prefix}{reason}")
        except _Refused as reason:
            if str(reason) not in refused:  # the plain variant has been refused the same way
                refused.append(f"{prefix}{reason}")
    if refused:
        raise _Refused("; ".join(refused))
    if not_shown:
        raise NotShown("; ".join(not_shown))
    return "; ".join(kept)


def _same(one: Values, other: Values) -> bool:
    """Return whether two calls gave the same bits."""
    return all(same_bits(value, other[key]) for key, value in one.items())
