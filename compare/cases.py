"""The cases: which question is put to both sides, and what each is expected to show.

Imports nothing but the standard library, so that `--list` answers at once.
"""

import dataclasses
from dataclasses import dataclass

from compare.errors import unknown

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Network:
    """The question: goes to both sides as keyword arguments without defaults."""

    sizes: tuple[int, ...]
    alpha: float = 1.0
    dropout: float = 0.0  # the share of each hidden layer's values that is dropped

    def question(self) -> dict[str, object]:
        """Return the fields by name, as both sides take them."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def unusual(self) -> set[str]:
        """Return the names of the fields that ask for more than the blog's own network."""
        plain = Network(self.sizes, self.alpha)
        return {name for name, value in self.question().items() if value != getattr(plain, name)}


@dataclass(frozen=True)
class Case:
    """A network, its data, how it is worked by hand, and the verdict that it promises."""

    name: str
    shows: str
    network: Network
    X: Rows
    y: Rows
    steps: int
    by_hand: str  # a module of manual/ that has a `step`
    grouping: str | None = "left_to_right"  # the by-hand side's own choice; None: it has none
    promises: str = "EXACT"
    unnamed: tuple[str, ...] = ()  # quantities that the by-hand listing has no name for

    @property
    def demand(self) -> str:
        """What the exit code asks for when the command line names no demand."""
        return "exact" if self.promises == "EXACT" else "rounding"  # of a WRONG one: not met


_X: Rows = ((0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 1))
_FIRST_COLUMN: Rows = ((0,), (0,), (1,), (1,))
_XOR: Rows = ((0,), (1,), (1,), (0,))
_THREE_LAYER = Case(
    "three_layer",
    "the blog's Part 2: 3-4-1, every step the same bits",
    Network(sizes=(3, 4, 1)), _X, _XOR, steps=60_000, by_hand="three_layer",
)  # fmt: skip

CASES = {
    case.name: case
    for case in (
        dataclasses.replace(
            _THREE_LAYER, name="eleven_lines",
            shows="the blog's eleven lines as they stand: 1/(1+exp(-x)) and its own grouping",
            by_hand="eleven_lines", grouping=None, promises="ROUNDING",
            unnamed=("l0", "l2_error", "l1_error", "syn1_update", "syn0_update"),
        ),
        Case(
            "two_layer",
            "the blog's Part 1: 3-1, every step the same bits",
            Network(sizes=(3, 1)), _X, _FIRST_COLUMN, steps=10_000, by_hand="two_layer",
        ),
        _THREE_LAYER,
        dataclasses.replace(
            _THREE_LAYER, name="three_layer_blog_grouping",
            shows="Part 2 with the slope grouped as the blog does: error * (l * (1 - l))",
            grouping="blog", promises="ROUNDING",
        ),
        Case(
            "deep",
            "five layers of different sizes, 3-7-5-2-1, every step the same bits",
            Network(sizes=(3, 7, 5, 2, 1)), _X, _XOR, steps=10_000, by_hand="network",
        ),
        Case(
            "dropout_as_published",
            "the author's dropout listing: its slope is taken after the mask, a wrong gradient",
            Network(sizes=(3, 4, 1), dropout=0.2), _X, _XOR, steps=10_000,
            by_hand="dropout_as_published", grouping=None, promises="WRONG",
        ),
    )
}  # fmt: skip


def find(name: str) -> Case:
    """Return the case called `name`; raises BadInput with the nearest names."""
    if name not in CASES:
        raise unknown("case", name, CASES)
    return CASES[name]
