"""The blog's training step for any number of layers, with every item of its list of future work.

Each layer is a matrix product, then batch norm (optional), an activation, and dropout (optional).
Without the optional parts this is `three_layer` written with loops.

Example: one step of a network with 3 inputs, 4 hidden values and 1 output.
    >>> import torch
    >>> from manual.network import Network
    >>> network = Network(
    ...     sizes=(3, 4, 1), alpha=1.0, activation="sigmoid", output="sigmoid",
    ...     loss="half_squared_error", bias=True, batch_norm=False, batch_norm_eps=1e-5,
    ...     batch_norm_momentum=0.1, dropout=0.0, trim=0.0, trimming="clip", l1_penalty=0.0,
    ...     l2_penalty=0.0, optimizer="sgd", momentum=0.0, nesterov=False, betas=(0.9, 0.999),
    ...     adam_eps=1e-8, weight_decay=0.0,
    ... )
    >>> network.weights
    ('syn0', 'bias0', 'syn1', 'bias1')
    >>> values = network.step(
    ...     X=torch.ones(2, 3), y=torch.ones(2, 1), syn0=torch.zeros(3, 4), bias0=torch.zeros(1, 4),
    ...     syn1=torch.zeros(4, 1), bias1=torch.zeros(1, 1),
    ... )
    >>> values["l2_delta"].tolist()  # (1 - 0.5) * 0.5 * 0.5
    [[0.125], [0.125]]
    >>> values["bias1"]  # the sum of both rows
    tensor([[0.2500]])
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from manual.activations import ACTIVATIONS
from manual.batch_norm import Normed, normalise, normalise_as_learned, normalise_back, running
from manual.delta_trimming import trim as trimmed
from manual.dropout import drop
from manual.losses import LOSSES
from manual.optimizers import MOMENTS, adam, sgd
from manual.parallel import added
from manual.regularization import penalty_update

Named = dict[str, Tensor]


class Forward(NamedTuple):
    """The values of a forward pass that the backward pass needs; the keys are layer numbers."""

    named: Named  # every value with a name: l0, l1, ... and the values between them
    z: dict[int, Tensor]  # the input of the layer's activation
    a: dict[int, Tensor]  # the output of the layer's activation
    normed: dict[int, Normed]  # of layers with batch norm
    statistics: Named  # the running statistics after this pass


# B rows, sizes[n] values in layer n; any leading dimensions are networks side by side
@dataclass(frozen=True, kw_only=True)
class Network:
    """A network and its training method; the fields are those of compare's Network.

    No field has a default value: a missing or an unknown field is a TypeError.
    """

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

    def step(
        self, *, X: Tensor, y: Tensor, ranks: int = 1, into: Named | None = None, **tensors: Tensor
    ) -> Named:
        """Take one training step, and return every named value of it in the order of computation.

        Args:
            X: the inputs, (B, sizes[0]).
            y: the targets, (B, sizes[-1]).
            ranks: the number of processes that share the rows of the step. With several, X and y
                are the rows of one rank; <weight>_part is the update from these rows, and
                <weight>_update is the sum of the parts of all ranks.
            into: memory for the weights after the step, by name; by default it is allocated. The
                tensors of the weights themselves make it a step in place.
            tensors: the tensors in `names`, by keyword:
                syn<n> (sizes[n], sizes[n+1]); bias<n> (1, sizes[n+1]);
                gamma<n>, beta<n>, mean<n>, var<n> (1, sizes[n]) and mask<n> (B, sizes[n]) of hidden
                layers; <weight>_<moment>, shaped as the weight; t, for adam the number of the step,
                counted from 1. With several ranks also <weight>_update, if the sum is known;
                otherwise it is computed here with `added`.

        Raises:
            TypeError: for a missing or an unknown tensor.
            ValueError: for weights whose shapes do not fit `sizes`.
            KeyError: for an unknown activation, loss or trimming.
        """
        sums = {f"{weight}_update" for weight in self.weights} if ranks > 1 else set()
        if wrong := ", ".join(sorted(tensors.keys() - sums ^ self.names)):
            raise TypeError(f"missing or unknown tensors for this network: {wrong}")
        N = len(self.sizes) - 1                             # the last layer
        for n in range(N):
            if (shape := tensors[f"syn{n}"].shape[-2:]) != (sizes := self.sizes[n : n + 2]):
                raise ValueError(f"syn{n} has shape {tuple(shape)}, but sizes require {sizes}")

        # feed forward
        q, z, a, normed, statistics = self.feed_forward(X, tensors, training=True)

        # the error goes back layer by layer; every delta is known before any weight moves
        updates: Named = {}                                 # weight -> its update
        error = q[f"l{N}_error"] = LOSSES[self.loss].error(q[f"l{N}"], y, ranks)
        for n in range(N, 0, -1):
            if self.dropout and n < N:
                error = q[f"a{n}_error"] = drop(error, tensors[f"mask{n}"], self.dropout)
            act = ACTIVATIONS[self.activation if n < N else self.output]
            delta = act.delta(error, z[n], a[n])
            if self.trim:
                delta = trimmed(delta, self.trim, self.trimming)
            q[f"l{n}_delta"] = delta
            if self.batch_norm and n < N:
                delta, updates[f"gamma{n}"], updates[f"beta{n}"] = normalise_back(
                    delta, tensors[f"gamma{n}"], normed[n]
                )
                q[f"z{n}_delta"] = delta
            updates[f"syn{n - 1}"] = q[f"l{n - 1}"].mT @ delta
            if f"bias{n - 1}" in tensors:
                rows = delta.shape[-2]                      # .sum of one row would turn -0 into 0
                updates[f"bias{n - 1}"] = delta.sum(-2, keepdim=True) if rows > 1 else delta
            if n > 1:
                error = q[f"l{n - 1}_error"] = delta @ tensors[f"syn{n - 1}"].mT

        if self.l1_penalty or self.l2_penalty:
            for syn in (f"syn{n}" for n in range(N)):
                updates[syn] += penalty_update(
                    tensors[syn], self.l1_penalty / ranks, self.l2_penalty / ranks
                )
        if ranks > 1:                                       # so far from the rows of this rank only
            q |= {f"{weight}_part": part for weight, part in updates.items()}
            for weight, part in updates.items():
                name = f"{weight}_update"
                updates[weight] = tensors[name] if name in tensors else added(part)
        q |= {f"{weight}_update": update for weight, update in updates.items()}

        # update weights
        if self.optimizer == "sgd":
            q |= sgd(tensors, updates, self.weights, alpha=self.alpha, momentum=self.momentum,
                     nesterov=self.nesterov, into=into)  # fmt: skip
        else:
            t = int(tensors["t"].flatten()[0])
            q |= adam(tensors, updates, self.weights, alpha=self.alpha, betas=self.betas,
                      adam_eps=self.adam_eps, weight_decay=self.weight_decay, t=t,
                      into=into)  # fmt: skip
        q |= statistics
        return q

    def predict(self, *, X: Tensor, **tensors: Tensor) -> Named:
        """Return the value of every layer in evaluation mode.

        Args:
            X: the inputs, (B, sizes[0]).
            tensors: the weights, and with batch norm the running statistics, shaped as in `step`.
        """
        return self.feed_forward(X, tensors, training=False).named

    def feed_forward(self, X: Tensor, tensors: Named, *, training: bool) -> Forward:
        """Return the value of every layer, and the values that the backward pass needs.

        Args:
            X: the inputs, (B, sizes[0]).
            tensors: the tensors of `step`.
            training: False evaluates: nothing is dropped, and batch norm uses the running
                statistics and does not change them.
        """
        N = len(self.sizes) - 1
        kept = Forward({"l0": X}, {}, {}, {}, {})
        q = kept.named
        for n in range(1, N + 1):
            z = q[f"l{n - 1}"] @ tensors[f"syn{n - 1}"]
            if f"bias{n - 1}" in tensors:
                z += tensors[f"bias{n - 1}"]
            if self.batch_norm and n < N:
                q[f"z{n}"] = z
                learned = tensors[f"gamma{n}"], tensors[f"beta{n}"]
                statistics = tensors[f"mean{n}"], tensors[f"var{n}"]
                if training:
                    z, kept.normed[n], *batch = normalise(z, *learned, self.batch_norm_eps)
                    for name, before, now in zip(("mean", "var"), statistics, batch, strict=True):
                        moved = running(before, now, self.batch_norm_momentum)
                        kept.statistics[f"{name}{n}"] = moved
                else:
                    z = normalise_as_learned(z, *learned, *statistics, self.batch_norm_eps)
                q[f"norm{n}"] = z
            a = ACTIVATIONS[self.activation if n < N else self.output].value(z)
            kept.z[n], kept.a[n] = z, a
            if self.dropout and n < N and training:
                q[f"a{n}"] = a
                a = drop(a, tensors[f"mask{n}"], self.dropout)
            q[f"l{n}"] = a
        return kept

    @cached_property
    def weights(self) -> tuple[str, ...]:
        """The names of the trained tensors; a layer with batch norm has beta instead of a bias."""
        N = len(self.sizes) - 1
        names: list[str] = []
        for n in range(N):
            normed = self.batch_norm and n < N - 1
            names += [f"syn{n}"] + [f"bias{n}"] * (self.bias and not normed)
            names += [f"gamma{n + 1}", f"beta{n + 1}"] * normed
        return tuple(names)

    @cached_property
    def names(self) -> set[str]:
        """The names of the tensors that `step` requires besides X and y."""
        moments = MOMENTS[self.optimizer] if self.optimizer != "sgd" or self.momentum else ()
        names = {*self.weights, *(f"{name}_{m}" for name in self.weights for m in moments)}
        kept = ["mean", "var"] * self.batch_norm + ["mask"] * (self.dropout > 0)
        names |= {f"{kind}{n}" for kind in kept for n in range(1, len(self.sizes) - 1)}
        return names | ({"t"} if "exp_avg" in moments else set())
