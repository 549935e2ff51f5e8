"""A checker for hand-written backward passes: every quantity is compared with autograd.

`import compare` does not import torch; each public name imports its module when it is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compare.cases.cases import CASES, Case, Network
    from compare.checking.check import assert_same, check
    from compare.errors import BadInput
    from compare.mutants.mutants import power
    from compare.passes.forward import name
    from compare.passes.surrogate import surrogate
    from compare.report.report import Report
    from compare.training.harness import run

__version__ = "0.1.0"
__all__ = [
    "CASES", "BadInput", "Case", "Network", "Report",
    "assert_same", "check", "name", "power", "run", "surrogate",
]  # fmt: skip

_MODULES = {
    "CASES": "cases.cases",
    "Case": "cases.cases",
    "Network": "cases.cases",
    "BadInput": "errors",
    "assert_same": "checking.check",
    "check": "checking.check",
    "name": "passes.forward",
    "power": "mutants.mutants",
    "run": "training.harness",
    "surrogate": "passes.surrogate",
    "Report": "report.report",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'compare' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"compare.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
