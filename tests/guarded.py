"""Work for a guarded process: the code of a test."""

from typing import Any

from compare.errors import BadInput
from compare.guard.child_process import Tell


def run(tell: Tell, *, code: str) -> Any:
    """Run the code; return what it calls `found`."""
    names: dict[str, Any] = {"tell": tell, "BadInput": BadInput}
    exec(compile(code, "given.py", "exec"), names)
    return names.get("found")
