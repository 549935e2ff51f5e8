"""What the bits depend on: dtype, device, versions, processor features, threads."""

import platform
import re
from typing import Any

import numpy as np
import torch

from compare import torch_private
from compare.errors import BadInput, unknown

TESTED = 2, 13  # the newest torch that the tests have seen: that of constraints.txt


def short(dtype: torch.dtype) -> str:
    """Return a dtype's name without torch's."""
    return str(dtype).removeprefix("torch.")


_FLOATS = torch.float64, torch.float32, torch.float16, torch.bfloat16
DTYPES = {short(dtype): dtype for dtype in _FLOATS}


def environment(device: torch.device) -> dict[str, Any]:
    """Return it by name, without anything that tells one person's machine from another's."""
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        found["cuda"] = torch.version.cuda
        found["gpu"] = torch.cuda.get_device_name(device)
    if note := _note():
        found["note"] = note
    return found


def _note() -> str:
    """Return in a sentence what is not known of this torch, or not there; "" where nothing is."""
    version = tuple(map(int, re.findall(r"\d+", torch.__version__)[:2]))
    newest = ".".join(map(str, TESTED))
    newer = [f"it is newer than {newest}, the newest tested"] if version > TESTED else []
    lines = newer + torch_private.missing()
    return f"torch {torch.__version__}: {'; '.join(lines)}" if lines else ""


def dtype_named(name: str | torch.dtype) -> torch.dtype:
    """Return the dtype called `name`, or that itself; raises BadInput with the nearest names."""
    if isinstance(name, torch.dtype):
        name = short(name)
    if not isinstance(name, str) or name not in DTYPES:
        raise unknown("dtype", name, DTYPES)
    return DTYPES[name]


def device_named(name: str | torch.device) -> torch.device:
    """Return the device called `name` (cpu, cuda, cuda:N), or that itself.

    Raises BadInput if it is not here.
    """
    if isinstance(name, torch.device):
        name = "cpu" if name.type == "cpu" else str(name)
    kind, _, index = name.partition(":") if isinstance(name, str) else ("", "", "")
    if kind not in ("cpu", "cuda") or (":" in name and not (kind == "cuda" and index.isdecimal())):
        raise BadInput(f"unknown device {name!r}: choose cpu, cuda or cuda:N")
    if kind == "cuda":
        found = torch.cuda.device_count()
        if not torch.cuda.is_available() or found == 0:
            raise BadInput(f"device {name!r}: torch sees no CUDA device here, use --device cpu")
        if int(index or 0) >= found:
            last = found - 1
            raise BadInput(f"device {name!r}: there are {found} here, use cuda:0 to cuda:{last}")
    return torch.device(name)
