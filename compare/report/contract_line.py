"""The lines of a report on the contract: one for each kind of additional call."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from compare.errors import BadInput, unknown

KEPT, BROKEN, REFUSED = "kept", "broken", "refused"
NOT_SHOWN, NOT_ASKED = "not shown", "not asked"
OUT_OF_TIME = "the time was up"

#: The name of each line, and its subject as a sentence needs it.
LINES = {
    "stride 0": "cotangents of stride 0",
    "transposed": "transposed cotangents",
    "zero": "zero cotangents",
    "missing": "missing cotangents",
    "twice": "a second backward on one graph",
    "strides": "the inputs' own strides",
    "subsets": "gradients of some inputs alone",
    "inputs untouched": "inputs left as they were",
    "other outputs": "outputs that need no gradient",
}


@dataclass(frozen=True)
class Line:
    """One property of the contract and the outcome of its calls."""

    name: str  # a key of LINES
    outcome: str  # "kept", "broken", "refused", "not shown" or "not asked"
    text: str = ""  # details of the outcome

    @property
    def summary(self) -> str:
        """The name of the line and the details of its outcome."""
        return f"{self.name}: {self.text}" if self.text else self.name


def left_out(contract: Mapping[str, bool] | None) -> set[str]:
    """Return the names of the lines to leave out: those whose value in `contract` is False.

    Raises:
        BadInput: `contract` is not a mapping, has an unknown name, or a value that is not a bool.
    """
    if contract is None:
        return set()
    if not isinstance(contract, Mapping):
        raise BadInput(f"contract is {contract!r}: give a dict such as {{'twice': False}}")
    for name, wanted in contract.items():
        if name not in LINES:
            raise unknown("line of the contract", str(name), LINES)
        if not isinstance(wanted, bool):
            raise BadInput(f"contract[{name!r}] is {wanted!r}: give True or False")
    return {name for name, wanted in contract.items() if not wanted}


def broken(lines: Sequence[Line]) -> str:
    """Return the part of the verdict line on broken lines, "" if none is broken."""
    failures = [line for line in lines if line.outcome == BROKEN]
    if not failures:
        return ""
    first, *others = failures
    more = f" (and {', '.join(LINES[line.name] for line in others)})" if others else ""
    return f"the contract is broken: {LINES[first.name]}: {first.text}{more}"


def refusals(lines: Sequence[Line]) -> str:
    """Return the end of the verdict line on refused calls, "" if none was refused."""
    reasons: dict[str, list[str]] = {}
    for line in lines:
        if line.outcome == REFUSED:
            reasons.setdefault(line.text, []).append(LINES[line.name])
    texts = [f"{', '.join(names)} ({reason})" for reason, names in reasons.items()]
    return f"; refuses {', '.join(texts)}" if texts else ""


def labelled(lines: Sequence[Line]) -> Iterator[tuple[str, str]]:
    """Yield (label, text) for a report: all kept lines as one, then each of the others."""
    if kept := [line.summary for line in lines if line.outcome == KEPT]:
        yield "contract", f"kept: {'; '.join(kept) if ':' in ''.join(kept) else ', '.join(kept)}"
    for outcome in (BROKEN, REFUSED, NOT_SHOWN):
        for line in lines:
            if line.outcome == outcome:
                yield outcome, line.summary
    not_asked: dict[str, list[str]] = {}  # by their reason, often one for all
    for line in lines:
        if line.outcome == NOT_ASKED:
            not_asked.setdefault(line.text, []).append(line.name)
    for reason, names in not_asked.items():
        yield NOT_ASKED, ", ".join(names) + (f": {reason}" if reason else "")
