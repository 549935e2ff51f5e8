"""The blog's step for any number of layers, with every item of its list of future work.

A layer is linear, then batch norm, activation, dropout, each of these asked for or not; with none
of them the lines are those of `three_layer` in loops.
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
    """What the way back needs, by layer: z before and a after its activation, what it normed."""

    named: Named  # l0, l1, ... and what stands between them
    z: dict[int, Tensor]
    a: dict[int, Tensor]
    normed: dict[int, Normed]
    statistics: Named  # the running ones, moved


# B rows, sizes[n] values in layer n; any leading dimensions are networks side by side
@dataclass(frozen=True, kw_only=True)
class Network:
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

    def step(self, *, X: Tensor, y: Tensor, ranks: int = 1, **given: Tensor) -> Named:
        """Take one step: X (B, sizes[0]), y (B, sizes[-1]), syn<n> (sizes[n], sizes[n+1]).

        Where asked for, also bias<n> (1, sizes[n+1]); gamma<n>, beta<n>, mean<n>, var<n>
        (1, sizes[n]) and mask<n> (B, sizes[n]) of hidden layers; each weight's moments, shaped as
        it is; and with adam t, the number of the step from 1.
        With several ranks X and y are one rank's rows; <weight>_part is the update that they ask
        for, and <weight>_update the sum of all ranks' parts: as it is given, else added up here.
        Raises TypeError for what is missing or too much, ValueError for weights of other sizes, and
        KeyError for an unknown name.
        """
        sums = {f"{weight}_update" for weight in self.weights} if ranks > 1 else set()
        if wrong := ", ".join(sorted(given.keys() - sums ^ self.names)):
            raise TypeError(f"given too much or too little for this network: {wrong}")
        N = len(self.sizes) - 1                             # the last layer
        for n in range(N):
            if (shape := given[f"syn{n}"].shape[-2:]) != (sizes := self.sizes[n : n + 2]):
                raise ValueError(f"syn{n} is {tuple(shape)} where sizes say {sizes}")

        # feed forward
        q, z, a, normed, statistics = self.feed_forward(X, given, training=True)

        # the error goes back layer by layer; every delta is known before any weight moves
        updates: Named = {}                                 # by weight
        error = q[f"l{N}_error"] = LOSSES[self.loss].error(q[f"l{N}"], y, ranks)
        for n in range(N, 0, -1):
            if self.dropout and n < N:
                error = q[f"a{n}_error"] = drop(error, given[f"mask{n}"], self.dropout)
            act = ACTIVATIONS[self.activation if n < N else self.output]
            delta = act.delta(error, z[n], a[n])
            if self.trim:
                delta = trimmed(delta, self.trim, self.trimming)
            q[f"l{n}_delta"] = delta
            if self.batch_norm and n < N:
                delta, updates[f"gamma{n}"], updates[f"beta{n}"] = normalise_back(
                    delta, given[f"gamma{n}"], normed[n]
                )
                q[f"z{n}_delta"] = delta
            updates[f"syn{n - 1}"] = q[f"l{n - 1}"].mT @ delta
            if f"bias{n - 1}" in given:
                rows = delta.shape[-2]                      # of one nothing is added: a -0 stays
                updates[f"bias{n - 1}"] = delta.sum(-2, keepdim=True) if rows > 1 else delta
            if n > 1:
                error = q[f"l{n - 1}_error"] = delta @ given[f"syn{n - 1}"].mT

        if self.l1_penalty or self.l2_penalty:
            for syn in (f"syn{n}" for n in range(N)):
                pull = penalty_update(given[syn], self.l1_penalty / ranks, self.l2_penalty / ranks)
                updates[syn] += pull
        if ranks > 1:                                       # of what each rank's rows ask for
            q |= {f"{weight}_part": part for weight, part in updates.items()}
            for weight, part in updates.items():
                name = f"{weight}_update"
                updates[weight] = given[name] if name in given else added(part)
        q |= {f"{weight}_update": update for weight, update in updates.items()}

        # update weights
        if self.optimizer == "sgd":
            q |= sgd(given, updates, self.weights, alpha=self.alpha, momentum=self.momentum,
                     nesterov=self.nesterov)  # fmt: skip
        else:
            t = int(given["t"].flatten()[0])
            q |= adam(given, updates, self.weights, alpha=self.alpha, betas=self.betas,
                      adam_eps=self.adam_eps, weight_decay=self.weight_decay, t=t)  # fmt: skip
        q |= statistics
        return q

    def predict(self, *, X: Tensor, **given: Tensor) -> Named:
        """Return every layer's value in evaluation, given X, the weights and the statistics."""
        return self.feed_forward(X, given, training=False).named

    def feed_forward(self, X: Tensor, given: Named, *, training: bool) -> Forward:
        """Return every layer's value; in evaluation nothing is dropped and the statistics stay."""
        N = len(self.sizes) - 1
        kept = Forward({"l0": X}, {}, {}, {}, {})
        q = kept.named
        for n in range(1, N + 1):
            z = q[f"l{n - 1}"] @ given[f"syn{n - 1}"]
            if f"bias{n - 1}" in given:
                z += given[f"bias{n - 1}"]
            if self.batch_norm and n < N:
                q[f"z{n}"] = z
                learned = given[f"gamma{n}"], given[f"beta{n}"]
                statistics = given[f"mean{n}"], given[f"var{n}"]
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
                a = drop(a, given[f"mask{n}"], self.dropout)
            q[f"l{n}"] = a
        return kept

    @cached_property
    def weights(self) -> tuple[str, ...]:
        """The names of what is learned; a layer with batch norm has its beta in place of a bias."""
        N = len(self.sizes) - 1
        names: list[str] = []
        for n in range(N):
            normed = self.batch_norm and n < N - 1
            names += [f"syn{n}"] + [f"bias{n}"] * (self.bias and not normed)
            names += [f"gamma{n + 1}", f"beta{n + 1}"] * normed
        return tuple(names)

    @cached_property
    def names(self) -> set[str]:
        """The names of what a step is given besides X and y."""
        moments = MOMENTS[self.optimizer] if self.optimizer != "sgd" or self.momentum else ()
        names = {*self.weights, *(f"{name}_{m}" for name in self.weights for m in moments)}
        kept = ["mean", "var"] * self.batch_norm + ["mask"] * (self.dropout > 0)
        names |= {f"{kind}{n}" for kind in kept for n in range(1, len(self.sizes) - 1)}
        return names | ({"t"} if "exp_avg" in moments else set())
