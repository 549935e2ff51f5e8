"""A person's own file for `python -m compare check FILE`: read, moved to a dtype and device."""

import linecache
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from compare.checking.check import check
from compare.environment import device_named, dtype_named
from compare.errors import BadInput, UserError
from compare.guard.child_process import Tell
from compare.guard.terminal_text import rendered


def judged(
    _tell: Tell, *, file: str, dtype: str | None, device: str, lift: str | int,
    inputs: str | None, demand: str, quiet: bool, width: int, page: bool,
) -> dict[str, Any]:  # fmt: skip
    """Check a file that `defining` reads; return what there is to show of it, as `Judged` has it.

    It may also define `hold`, `contract` and `formula_ulps`, as `check` has them.
    """
    path = Path(file)
    module, given = defining(
        path, None if dtype is None else dtype_named(dtype), device_named(device),
        None if inputs is None else Path(inputs),
    )  # fmt: skip
    own = ("hold", "contract", "formula_ulps")
    options = {name: getattr(module, name) for name in own if name in vars(module)}
    with theirs(path):
        report = check(module.backward, module.forward, given, lift=lift, **options)
    return {
        "code": 0 if report.meets(demand) else 1,
        "text": rendered(width, report.headline() if quiet else report),
        "json": report.to_dict(),
        "page": report.page() if page else "",
    }


def defining(
    path: Path, dtype: torch.dtype | None, device: torch.device, inputs: Path | None
) -> tuple[ModuleType, Any]:
    """Return the file as a module that has `backward` and `forward`, and what these are given.

    That is its own `inputs`, a dict, a tuple, or a function without parameters that returns one;
    or a file of `inputs` that `load_inputs` reads.
    Raises BadInput for a file that has not all three, UserError where its own code raises.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no such file; name one that defines forward, backward and inputs")
    with theirs(path):
        module = _load(path)
    for name in ("forward", "backward", "inputs"):
        if not hasattr(module, name):
            raise BadInput(f"{path} defines no {name!r}: it needs forward, backward and inputs")
    with theirs(path):
        own = module.inputs() if callable(module.inputs) else module.inputs
    return module, _moved(own if inputs is None else load_inputs(inputs), dtype, device)


def load_inputs(path: Path) -> dict[str, Any]:
    """Return inputs that `--save` wrote: a dict of tensors and plain values, by torch.save.

    Raises BadInput for anything else.
    """
    try:
        found = torch.load(path, weights_only=True)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; name a file of inputs") from None
    except Exception:  # torch.load has many of its own for what it did not write
        found = None
    if not isinstance(found, dict):
        raise BadInput(f"{path} holds no inputs: save a dict of tensors with torch.save")
    return found


def _load(path: Path) -> ModuleType:
    """Run the file as a module of its own, with its folder first on the import path."""
    if b"\0" in path.read_bytes():
        raise BadInput(f"{path} is no Python file: it holds bytes of 0")
    loader = SourceFileLoader("_checked_file", str(path))
    module = ModuleType(loader.name)
    module.__file__ = str(path)
    sys.modules[loader.name] = module
    sys.path.insert(0, str(path.resolve().parent))
    loader.exec_module(module)
    return module


def _moved(inputs: Any, dtype: torch.dtype | None, device: torch.device) -> Any:
    """Return the inputs on the device, tensors of floats in the dtype if one is asked for."""

    def move(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        kind = dtype if dtype and value.is_floating_point() else value.dtype
        return value.detach().to(device, kind).requires_grad_(value.requires_grad)

    if isinstance(inputs, Mapping):
        return {name: move(value) for name, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(move(value) for value in inputs)
    return move(inputs)


def _library(filename: str) -> bool:
    """Whether a frame is in Python itself or an installed library."""
    return "site-packages" in filename or filename.startswith(("<", os.path.dirname(os.__file__)))


@contextmanager
def theirs(path: Path) -> Iterator[None]:
    """Within, an exception from the user's file becomes a UserError with their lines of it."""
    try:
        yield
    except (BadInput, KeyboardInterrupt):
        raise
    except BaseException as error:
        file = str(path)
        if isinstance(error, SyntaxError) and error.filename == file:
            lines = traceback.format_exception_only(error)
        else:
            frames = traceback.extract_tb(error.__traceback__)[1:]  # the first one is this
            ours = str(Path(__file__).parents[1])
            last = max((k for k, f in enumerate(frames) if f.filename.startswith(ours)), default=-1)
            theirs = [k for k, f in enumerate(frames) if k > last and not _library(f.filename)]
            if not theirs and not isinstance(error, SystemExit):
                raise  # not in their code: a fault of this program
            linecache.checkcache(file)
            lines = traceback.format_list(frames[theirs[0] if theirs else 0 :])
            lines += traceback.format_exception_only(error)
        told = "".join(lines).rstrip()
        raise UserError(f"{path} raised an exception of its own:\n{told}") from error
