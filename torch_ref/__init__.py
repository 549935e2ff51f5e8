"""The same networks as ordinary PyTorch: nn.Module, a loss, backward() and torch.optim."""

from torch_ref.network import Network
from torch_ref.trainer import Trainer

__all__ = ["Network", "Trainer"]
