"""Job of a guarded process in tests: it executes code that the test passes as text."""

from typing import Any

from compare.errors import BadInput
from compare.progress import counted


def run(*, code: str) -> Any:
    """Execute the code; return the value of its variable `found`."""
    names: dict[str, Any] = {"counted": counted, "BadInput": BadInput}
    exec(compile(code, "given.py", "exec"), names)
    return names.get("found")
