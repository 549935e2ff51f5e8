"""The user's file of `python -m compare check FILE`: loading it, and checking its passes."""

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
from compare.guard.terminal_text import rendered


def check_file(
    *, file: str, dtype: str | None, device: str, lift: str | int,
    inputs: str | None, demand: str, quiet: bool, width: int, page: bool, budget: float | None,
) -> dict[str, Any]:  # fmt: skip
    """Check the passes of a file; return the exit code, the text, the JSON and the HTML page.

    Besides forward, backward and inputs the file may define `hold`, `contract`, `formula_ulps` and
    `reference`, which are arguments of `compare.check`. The options are those of the command line.
    """
    path = Path(file)
    module, arguments = load_checked_file(
        path, None if dtype is None else dtype_named(dtype), device_named(device),
        None if inputs is None else Path(inputs),
    )  # fmt: skip
    names = ("hold", "contract", "formula_ulps", "reference")
    options = {name: getattr(module, name) for name in names if name in vars(module)}
    with user_errors(path):
        report = check(
            module.backward, module.forward, arguments, lift=lift, budget=budget, **options
        )
    return {
        "code": 0 if report.meets(demand) else 1,
        "text": rendered(width, report.headline() if quiet else report),
        "json": report.to_dict(),
        "page": report.page() if page else "",
    }


def load_checked_file(
    path: Path, dtype: torch.dtype | None, device: torch.device, inputs: Path | None
) -> tuple[ModuleType, Any]:
    """Return the file as a module with `backward` and `forward`, and their inputs.

    Args:
        path: A Python file that defines forward, backward and inputs: a dict, a tuple, or a
            function without parameters that returns one.
        dtype: The dtype to which floating-point inputs are converted, None to keep theirs.
        device: The device to which inputs are moved.
        inputs: A file of inputs for `load_inputs`, which replace those of the module, or None.

    Raises:
        BadInput: The file is missing, or does not define all three names.
        UserError: Its code raises an exception.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no such file; name one that defines forward, backward and inputs")
    with user_errors(path):
        module = _load(path)
    for name in ("forward", "backward", "inputs"):
        if not hasattr(module, name):
            raise BadInput(f"{path} defines no {name!r}: it needs forward, backward and inputs")
    with user_errors(path):
        defined = module.inputs() if callable(module.inputs) else module.inputs
    return module, _moved(defined if inputs is None else load_inputs(inputs), dtype, device)


def load_inputs(path: Path) -> dict[str, Any]:
    """Return inputs that `mutants --save` wrote: a dict of tensors and plain values.

    Raises:
        BadInput: The file cannot be read, or is not such a dict as torch.save writes it.
    """
    try:
        inputs = torch.load(path, weights_only=True)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; name a file of inputs") from None
    except Exception:  # torch.load raises many types for files that torch.save did not write
        inputs = None
    if not isinstance(inputs, dict):
        raise BadInput(f"{path} holds no inputs: save a dict of tensors with torch.save")
    return inputs


def _load(path: Path) -> ModuleType:
    """Import the file as a module, with its folder first on the import path."""
    if b"\0" in path.read_bytes():
        raise BadInput(f"{path} is no Python file: it holds bytes of 0")
    loader = SourceFileLoader("_checked_file", str(path))
    module = ModuleType(loader.name)
    module.__file__ = str(path)
    sys.modules[loader.name] = module
    sys.path.insert(0, str(path.resolve().parent))
    loader.exec_module(module)
    return module


# The complex dtype with parts of a dtype; torch has none that can be checked for half precision.
_COMPLEX: dict[torch.dtype | None, torch.dtype] = {
    torch.float64: torch.complex128,
    torch.float32: torch.complex64,
}


def _moved(inputs: Any, dtype: torch.dtype | None, device: torch.device) -> Any:
    """Return the inputs on the device, floating-point and complex tensors in the dtype if given."""

    def move(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        target = dtype if dtype and value.is_floating_point() else value.dtype
        if value.is_complex():
            target = _COMPLEX.get(dtype, target)
        return value.detach().to(device, target).requires_grad_(value.requires_grad)

    if isinstance(inputs, Mapping):
        return {name: move(value) for name, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(move(value) for value in inputs)
    return move(inputs)


def _library(filename: str) -> bool:
    """Return whether a frame is in Python itself or in an installed library."""
    return "site-packages" in filename or filename.startswith(("<", os.path.dirname(os.__file__)))


@contextmanager
def user_errors(path: Path) -> Iterator[None]:
    """Turn an exception of the user's file into a UserError with its part of the traceback."""
    try:
        yield
    except (BadInput, KeyboardInterrupt):
        raise
    except BaseException as error:
        file = str(path)
        if isinstance(error, SyntaxError) and error.filename == file:
            lines = traceback.format_exception_only(error)
        else:
            frames = traceback.extract_tb(error.__traceback__)[1:]  # without this frame
            package = str(Path(__file__).parents[1])
            inside = (k for k, f in enumerate(frames) if f.filename.startswith(package))
            last = max(inside, default=-1)  # frame of this program
            in_file = [k for k, f in enumerate(frames) if k > last and not _library(f.filename)]
            if not in_file and not isinstance(error, SystemExit):
                raise  # a fault of this program
            linecache.checkcache(file)
            lines = traceback.format_list(frames[in_file[0] if in_file else 0 :])
            lines += traceback.format_exception_only(error)
        text = "".join(lines).rstrip()
        raise UserError(f"{path} raised an exception:\n{text}") from error
