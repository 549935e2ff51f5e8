"""What was found of a practice file: what is right, and the first line that is not."""

from dataclasses import dataclass, field

RIGHT, WRONG, BLANK, MISSING, STOPS, CHANGED = (
    "right", "wrong", "blank", "missing", "stops", "changed",
)  # fmt: skip


@dataclass
class Finding:
    """One answer to a learner; `line` is 0 where it is about no line in particular."""

    state: str
    said: str = ""  # what is the matter, in a sentence
    line: int = 0
    text: str = ""  # of the line, as it stands
    name: str = ""  # of the value that it is about
    remarks: list[str] = field(default_factory=list)
    put_back: list[str] = field(default_factory=list)  # lines that came with the file
    verdicts: dict[str, str] = field(default_factory=dict)  # of the lines judged
    why_numbers: str = ""  # why the file was judged by its numbers alone
    left: int = 0  # blanks in the file
    judged_at: list[int] = field(default_factory=list)  # the steps, of a file that is right
    errors: list[tuple[int, float]] = field(default_factory=list)  # after how many steps, and what
    output: list[float] = field(default_factory=list)
    wanted: list[float] = field(default_factory=list)

    @property
    def code(self) -> int:
        """The exit code: 0 all right, 1 a line to work on, 2 nothing could be judged."""
        if self.state == RIGHT:
            return 0
        return 2 if self.state in (CHANGED, STOPS) and not self.verdicts else 1


class Answer(Exception):
    """What there is to say of a file; `index` is the statement's place in the loop, or before."""

    def __init__(self, finding: Finding, index: float = -1) -> None:
        super().__init__(finding.said)
        self.finding, self.index = finding, index
