"""What the bits of a run depend on: versions, processor features, threads."""

import platform
from typing import Any

import numpy as np
import torch


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
    return found
