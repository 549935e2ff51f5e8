"""The result of checking a practice file: the lines that are right, the first one that is not."""

from dataclasses import dataclass, field

RIGHT, WRONG, BLANK, MISSING, STOPS, CHANGED = (
    "right", "wrong", "blank", "missing", "stops", "changed",
)  # fmt: skip


@dataclass
class Result:
    """The result of one check. The field names are keys of the JSON output."""

    state: str
    said: str = ""  # the problem, in a sentence
    line: int = 0  # the line that it is about, 0 for none
    text: str = ""  # the text of that line
    name: str = ""  # the name of the value that it is about
    remarks: list[str] = field(default_factory=list)
    put_back: list[str] = field(default_factory=list)  # original lines that were changed
    verdicts: dict[str, str] = field(default_factory=dict)  # name -> verdict, of checked lines
    why_numbers: str = ""  # why only the numbers of the file could be compared
    left: int = 0  # lines that are still blank
    # of a file that is right:
    judged_at: list[int] = field(default_factory=list)  # the steps that were checked
    errors: list[tuple[int, float]] = field(default_factory=list)  # step -> mean absolute error
    output: list[float] = field(default_factory=list)  # of the trained network
    wanted: list[float] = field(default_factory=list)  # the targets y

    @property
    def code(self) -> int:
        """The exit code: 0 all right, 1 a line is wrong or blank, 2 nothing could be checked."""
        if self.state == RIGHT:
            return 0
        return 2 if self.state in (CHANGED, STOPS) and not self.verdicts else 1


class Problem(Exception):
    """The result for a file with a problem.

    `index` is the position of the statement in the loop. It is -1 for lines before the loop, and a
    fraction for a line that is missing between two statements.
    """

    def __init__(self, result: Result, index: float = -1) -> None:
        super().__init__(result.said)
        self.result, self.index = result, index
