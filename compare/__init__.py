"""The harness: both sides are given the same, and every quantity gets a verdict.

Importing this does not import torch; the names below do when they are first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compare.cases import CASES, Case, Network
    from compare.checking import assert_same, check
    from compare.errors import BadInput
    from compare.forward import name
    from compare.mutants.mutants import power
    from compare.report import Report
    from compare.training.harness import run

__version__ = "0.1.0"
__all__ = [
    "CASES",
    "BadInput",
    "Case",
    "Network",
    "Report",
    "assert_same",
    "check",
    "name",
    "power",
    "run",
]

_HOMES = {
    "CASES": "cases",
    "Case": "cases",
    "Network": "cases",
    "BadInput": "errors",
    "assert_same": "checking",
    "check": "checking",
    "name": "forward",
    "power": "mutants.mutants",
    "run": "training.harness",
    "Report": "report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'compare' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"compare.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
