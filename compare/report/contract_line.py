"""One line of the contract: what was asked of a backward pass, and what came of it; in words."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from compare.errors import BadInput, unknown

KEPT, BROKEN, REFUSED = "kept", "broken", "refused"
NOT_SHOWN, NOT_ASKED = "not shown", "not asked"

#: Each line's name, and what it is about in a sentence.
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
    """What was asked, and what came of it."""

    name: str  # of LINES
    outcome: str  # "kept", "broken", "refused", "not shown" or "not asked"
    text: str = ""  # what was seen

    @property
    def told(self) -> str:
        """Its name, and what was seen."""
        return f"{self.name}: {self.text}" if self.text else self.name


def left_out(contract: Mapping[str, bool] | None) -> set[str]:
    """Return the names of the lines that are not to be asked.

    Raises BadInput for a name that is none, or a value other than True and False.
    """
    if contract is None:
        return set()
    if not isinstance(contract, Mapping):
        raise BadInput(f"contract is {contract!r}: give a dict such as {{'twice': False}}")
    for name, asked in contract.items():
        if name not in LINES:
            raise unknown("line of the contract", str(name), LINES)
        if not isinstance(asked, bool):
            raise BadInput(f"contract[{name!r}] is {asked!r}: give True or False")
    return {name for name, asked in contract.items() if not asked}


def broken(lines: Sequence[Line]) -> str:
    """Return what is broken as the verdict line has it, "" where nothing is."""
    found = [line for line in lines if line.outcome == BROKEN]
    if not found:
        return ""
    more = f" (and {', '.join(LINES[line.name] for line in found[1:])})" if found[1:] else ""
    return f"the contract is broken: {LINES[found[0].name]}: {found[0].text}{more}"


def refusals(lines: Sequence[Line]) -> str:
    """Return what is refused as the verdict line ends with it, "" where nothing is."""
    whys: dict[str, list[str]] = {}
    for line in lines:
        if line.outcome == REFUSED:
            whys.setdefault(line.text, []).append(LINES[line.name])
    found = [f"{', '.join(names)} ({why})" for why, names in whys.items()]
    return f"; refuses {', '.join(found)}" if found else ""


def told(lines: Sequence[Line]) -> Iterator[tuple[str, str]]:
    """Yield labelled lines by the lines' own names: all that was kept in one, then each other."""
    if kept := [line.told for line in lines if line.outcome == KEPT]:
        yield "contract", f"kept: {'; '.join(kept) if ':' in ''.join(kept) else ', '.join(kept)}"
    for outcome in (BROKEN, REFUSED, NOT_SHOWN, NOT_ASKED):
        for line in lines:
            if line.outcome == outcome:
                yield outcome, line.told
