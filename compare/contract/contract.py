"""Which calls are made for each line of the contract, and what they are compared with.

Any backward pass is called with the inputs' own strides; a Function, or a function that asks for
`grad_output`, also with cotangents of other layouts and of zero; a Function also with missing ones,
twice on one graph, and with fewer inputs that need a gradient. Its inputs and its other outputs are
looked at. Whatever it raises is a refusal.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, TypeVar

import torch
from torch import Tensor

from compare.contract.calls import Graph, called, cut, keeps_layout, spread, transposed
from compare.contract.outcome import Broken, NotKept, NotShown, Settled, apart, settle_others
from compare.errors import first_line, is_ours
from compare.passes.inputs import Values
from compare.proof.bits import same_bits
from compare.report.contract_line import KEPT, LINES, NOT_ASKED, REFUSED, Line

T = TypeVar("T")
EACH = 3  # inputs, of which every subset is asked; of more each alone
_CHANCE = "two equal calls give other bits: the code is not deterministic"


class _Refused(NotKept):
    """Their code raised something; the message says what."""

    outcome = REFUSED


@contextmanager
def _theirs() -> Iterator[None]:
    """Take what their own code raises for a refusal; a fault of this program passes through."""
    try:
        yield
    except Exception as error:
        if is_ours(error):
            raise
        raise _Refused(first_line(error)) from error


@dataclass(frozen=True)
class Contract(Settled):
    """A check that is not WRONG, and what can be asked of it."""

    def lines(self, left_out: Collection[str] = ()) -> tuple[Line, ...]:
        """Ask every line that applies, but for what is `left_out`, and say what came of it."""
        backward = self.passes.backward
        asks: dict[str, Callable[[], str | None]] = {"strides": self._strides}
        if backward.is_function or ("grad_output" in backward.asked and not backward.ones):
            asks |= {"stride 0": self._spread, "transposed": self._transposed, "zero": self._zero}
        if backward.is_function:
            asks |= {"missing": self._missing, "twice": self._twice, "subsets": self._subsets}
            asks["inputs untouched"] = self._untouched
            asks["other outputs"] = lambda: settle_others(self.passes, self._called)
        found: list[Line] = []
        for name in LINES:
            if name in left_out:
                found.append(Line(name, NOT_ASKED))
            elif name in asks and (line := _line(name, asks[name])):
                found.append(line)
        return tuple(found)

    @property
    def _grads(self) -> list[Tensor]:
        """What stands above the outputs, copies: the code may write into what it is given."""
        return [grad.clone() for grad in self.passes.forward.grads]

    def _call(
        self, grads: Iterable[Tensor | None], **how: Any
    ) -> tuple[dict[str, Tensor], list[str]]:
        with _theirs():
            found, none = called(self.passes.backward, list(grads), **how)
        if not self.passes.backward.is_function:
            before = self.passes.manual.keys()
            if lost := before - found.keys():
                raise Broken(f"no gradient for {', '.join(sorted(lost))}")
            if more := found.keys() - before:
                raise Broken(f"a gradient for {', '.join(sorted(more))}, which had none before")
        return found, none

    # -- other gradients above the outputs

    def _spread(self) -> str | None:
        first, last = ([spread(grad, which) for grad in self._grads] for which in (0, -1))
        if all(0 not in grad.stride() for grad in last):
            return None
        ways = [("", last), ("along the first dimension", first)]
        if all(a.stride() == b.stride() for a, b in zip(first, last, strict=True)):
            ways.pop()  # of one dimension the first is the last

        def along(grads: list[Tensor]) -> str:
            dense = [grad.contiguous() for grad in grads]
            equal, _ = self._call(grad.clone() for grad in dense)
            found, _ = self._call(grads)
            return self.settle(found, equal, dense)

        return _each(ways, along)

    def _transposed(self) -> str | None:
        ways = [
            ("", [transposed(grad) for grad in self._grads]),
            ("cut out of a larger tensor", [cut(grad) for grad in self._grads]),  # as below a cat
        ]
        ways = [(at, way) for at, way in ways if not all(grad.is_contiguous() for grad in way)]

        def laid_out(grads: list[Tensor]) -> str:
            found, _ = self._call(grads)
            return self.settle(found, self.passes.manual)

        return _each(ways, laid_out) if ways else None

    def _zero(self) -> str | None:
        zeros = [torch.zeros_like(grad) for grad in self._grads]
        if not any(grad.numel() for grad in zeros):
            return None
        found, _ = self._call(grad.clone() for grad in zeros)
        return self.settle(found, None, zeros)

    def _missing(self) -> str | None:
        count = len(self.passes.forward.outputs)
        if count < 2:
            return None

        def without(k: int) -> str:
            found, none = self._call(None if i == k else g for i, g in enumerate(self._grads))
            above = [torch.zeros_like(g) if i == k else g for i, g in enumerate(self._grads)]
            return self.settle(found, None, above, none)

        return _each([(f"with none above output[{k}]", k) for k in range(count)], without)

    # -- once more, in the inputs' own strides, with fewer leaves

    def _twice(self) -> str:
        """Ask for the bits of the first time, of code that two fresh calls show to have them."""
        once, again = self._on_one_graph()
        if not _same(once, {key: self.passes.manual[key] for key in once}):
            raise NotShown(_CHANCE)
        if _same(again, once):
            return ""
        if not all(map(_same, self._on_one_graph(), (once, again))):
            raise NotShown(_CHANCE)
        odd = next(key for key in once if not same_bits(again[key], once[key]))
        raise Broken(apart(odd, once[odd], again[odd], "{}, then {}"))

    def _on_one_graph(self) -> tuple[Values, Values]:
        graph = self._graph()
        return self._gradients(graph, again=True), self._gradients(graph, again=True)

    def _strides(self) -> str | None:
        backward = self.passes.backward
        taken = (v for k, v in backward.given.items() if k in self.passes.forward.inputs)
        if all(keeps_layout(value) for value in taken if isinstance(value, Tensor)):
            return None
        found, _ = self._call(self._grads, strided=True)
        return self.settle(found, self.passes.manual)

    def _subsets(self) -> str | None:
        leaves = self.passes.forward.leaves
        if len(leaves) < 2:
            return None
        sizes = range(1, len(leaves)) if len(leaves) <= EACH else [1]
        subsets = [subset for size in sizes for subset in combinations(leaves, size)]

        def alone(subset: Collection[str]) -> str:
            found, none = self._call(self._grads, leaves=subset)
            return self.settle(found, self.passes.manual, none=none)

        return _each([(f"for {' and '.join(subset)} alone", subset) for subset in subsets], alone)

    # -- what a Function does besides

    def _untouched(self) -> str:
        graph, forward = self._called, self.passes.forward
        written = graph.written(forward.inputs)
        if written:  # the reference may do so too: running statistics
            fresh = forward.fresh(forward.inputs)
            with torch.enable_grad():
                forward.function(**fresh)
            odd = [key for key in written if not same_bits(fresh[key], graph.own[key])]
            if alone := [key for key in odd if same_bits(fresh[key], forward.inputs[key])]:
                raise Broken(f"forward writes into {', '.join(alone)} without ctx.mark_dirty")
            if odd:
                raise NotShown(f"forward writes other numbers into {', '.join(odd)}")
        self._gradients(graph)
        if odd := [key for key in graph.written(forward.inputs) if key not in written]:
            raise Broken(f"backward writes into {', '.join(odd)}")
        return ""

    @cached_property
    def _called(self) -> Graph:
        """One call more, to look at what it did besides."""
        return self._graph()

    def _graph(self) -> Graph:
        forward = self.passes.forward
        with _theirs():
            return Graph(self.passes.backward, forward.inputs, leaves=forward.leaves)

    def _gradients(self, graph: Graph, *, again: bool = False) -> Values:
        with _theirs():
            above = dict(zip(graph.differentiable(), self._grads, strict=True))
            return graph.gradients(above, again=again)[0]


def _line(name: str, ask: Callable[[], str | None]) -> Line | None:
    """Ask one line; None where it does not apply."""
    try:
        text = ask()
    except NotKept as found:
        return Line(name, found.outcome, str(found))
    return None if text is None else Line(name, KEPT, text)


def _each(ways: Iterable[tuple[str, T]], ask: Callable[[T], str]) -> str:
    """Ask several calls of one line, each with words for it before what came of it.

    Broken outweighs refused, refused outweighs not shown.
    """
    kept: list[str] = []
    refused: list[str] = []
    not_shown: list[str] = []
    for words, way in ways:
        at = f"{words}: " if words else ""
        try:
            if text := ask(way):
                kept.append(f"{at}{text}")
        except Broken as found:
            raise Broken(f"{at}{found}") from None
        except NotShown as found:
            not_shown.append(f"{at}{found}")
        except _Refused as found:
            if str(found) not in refused:  # the same as without more words
                refused.append(f"{at}{found}")
    if refused:
        raise _Refused("; ".join(refused))
    if not_shown:
        raise NotShown("; ".join(not_shown))
    return "; ".join(kept)


def _same(one: Values, other: Values) -> bool:
    """Whether two calls gave the same bits."""
    return all(same_bits(value, other[key]) for key, value in one.items())
