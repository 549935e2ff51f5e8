"""What a network is asked to be, in one object for all that is built from it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the network is and how it learns; a field missing or too many is a TypeError."""

    sizes: tuple[int, ...]
    alpha: float
    activation: str
    output: str
    loss: str
    bias: bool
    batch_norm: bool
    batch_norm_eps: float
    batch_norm_momentum: float
    dropout: float
    trim: float
    trimming: str
    l1_penalty: float
    l2_penalty: float
    optimizer: str
    momentum: float
    nesterov: bool
    betas: tuple[float, float]
    adam_eps: float
    weight_decay: float
