"""The networks of `manual` as ordinary PyTorch: nn.Module, a loss, backward() and torch.optim.

Shapes are written as in `manual`: B rows, I inputs, H hidden values, O outputs; "..." stands for
leading dimensions, networks side by side.
"""

from torch_ref.network import Network
from torch_ref.trainer import Trainer

__all__ = ["Network", "Trainer"]
