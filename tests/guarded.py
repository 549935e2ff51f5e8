"""The job of a guarded process in tests: run the code of the test."""

from typing import Any

from compare.errors import BadInput
from compare.guard.child_process import Send


def run(send: Send, *, code: str) -> Any:
    """Run the code; return the variable `found` of the code."""
    names: dict[str, Any] = {"send": send, "BadInput": BadInput}
    exec(compile(code, "given.py", "exec"), names)
    return names.get("found")
