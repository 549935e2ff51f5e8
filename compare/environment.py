"""Everything that bits depend on: dtype, device, versions, processor features, threads."""

import platform
import re
from typing import Any

import numpy as np
import torch

from compare import torch_private
from compare.errors import BadInput, unknown

TESTED = 2, 13  # the newest torch that the tests have run on, as in constraints.txt


def short(dtype: torch.dtype) -> str:
    """Return the name of a dtype without "torch.", such as "float64"."""
    return str(dtype).removeprefix("torch.")


_FLOATS = torch.float64, torch.float32, torch.float16, torch.bfloat16
DTYPES = {short(dtype): dtype for dtype in _FLOATS}


def environment(device: torch.device) -> dict[str, Any]:
    """Return the environment by name, without anything that identifies a person's machine."""
    result: dict[str, Any] = {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        result["cuda"] = torch.version.cuda
        result["gpu"] = torch.cuda.get_device_name(device)
    if note := _note():
        result["note"] = note
    return result


def _note() -> str:
    """Return a sentence on a torch that is newer than tested, or lacks private names; else ""."""
    version = tuple(map(int, re.findall(r"\d+", torch.__version__)[:2]))
    newest = ".".join(map(str, TESTED))
    newer = [f"it is newer than {newest}, the newest tested"] if version > TESTED else []
    remarks = newer + torch_private.missing()
    return f"torch {torch.__version__}: {'; '.join(remarks)}" if remarks else ""


def dtype_named(name: str | torch.dtype) -> torch.dtype:
    """Return the dtype of this name; raises BadInput, with similar names, for an unknown one."""
    if isinstance(name, torch.dtype):
        name = short(name)
    if not isinstance(name, str) or name not in DTYPES:
        raise unknown("dtype", name, DTYPES)
    return DTYPES[name]


def device_named(name: str | torch.device) -> torch.device:
    """Return the device of this name: cpu, cuda or cuda:N.

    Raises:
        BadInput: The name is another one, or this machine has no such device.
    """
    if isinstance(name, torch.device):
        name = "cpu" if name.type == "cpu" else str(name)
    kind, _, index = name.partition(":") if isinstance(name, str) else ("", "", "")
    if kind not in ("cpu", "cuda") or (":" in name and not (kind == "cuda" and index.isdecimal())):
        raise BadInput(f"unknown device {name!r}: choose cpu, cuda or cuda:N")
    if kind == "cuda":
        count = torch.cuda.device_count()
        if not torch.cuda.is_available() or count == 0:
            raise BadInput(f"device {name!r}: torch sees no CUDA device here, use --device cpu")
        if int(index or 0) >= count:
            last = count - 1
            raise BadInput(f"device {name!r}: there are {count} here, use cuda:0 to cuda:{last}")
    return torch.device(name)
