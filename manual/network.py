"""The blog's step for any number of layers, with every item of its list of future work.

A layer is linear, then batch norm, activation, dropout, each of these asked for or not; with none
of them the lines are those of `three_layer` in loops.
"""

from functools import cache
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
def step(
    *, X: Tensor, y: Tensor, sizes: tuple[int, ...], alpha: float, activation: str, output: str,
    loss: str, bias: bool, batch_norm: bool, batch_norm_eps: float, batch_norm_momentum: float,
    dropout: float, trim: float, trimming: str, l1_penalty: float, l2_penalty: float,
    optimizer: str, momentum: float, nesterov: bool, betas: tuple[float, float], adam_eps: float,
    weight_decay: float, ranks: int = 1, **given: Tensor,
) -> Named:  # fmt: skip
    """Take one step: X (B, sizes[0]), y (B, sizes[-1]), syn<n> (sizes[n], sizes[n+1]).

    Where asked for, also bias<n> (1, sizes[n+1]); gamma<n>, beta<n>, mean<n>, var<n> (1, sizes[n])
    and mask<n> (B, sizes[n]) of hidden layers; each weight's moments, shaped as it is; and with
    adam t, the number of the step from 1.
    With several ranks X and y are one rank's rows; <weight>_part is the update that they ask for,
    and <weight>_update the sum of all ranks' parts: as it is given, else added up here.
    Raises TypeError for what is missing or too much, ValueError for weights of other sizes, and
    KeyError for an unknown name.
    """
    N = len(sizes) - 1                                      # the last layer
    weights = weight_names(sizes, bias, batch_norm)
    moments = MOMENTS[optimizer] if optimizer != "sgd" or momentum else ()
    check_names(tuple(given), sizes, bias, batch_norm, dropout > 0, moments, ranks > 1)
    for n in range(N):
        if (shape := given[f"syn{n}"].shape[-2:]) != sizes[n : n + 2]:
            raise ValueError(f"syn{n} is {tuple(shape)} where sizes say {sizes[n : n + 2]}")

    # feed forward
    q, z, a, normed, statistics = feed_forward(
        X, given, sizes=sizes, activation=activation, output=output, batch_norm=batch_norm,
        batch_norm_eps=batch_norm_eps, batch_norm_momentum=batch_norm_momentum, dropout=dropout,
        training=True,
    )  # fmt: skip

    # the error goes back layer by layer; every delta is known before any weight moves
    updates: Named = {}
    error = q[f"l{N}_error"] = LOSSES[loss].error(q[f"l{N}"], y, ranks)
    for n in range(N, 0, -1):
        if dropout and n < N:
            error = q[f"a{n}_error"] = drop(error, given[f"mask{n}"], dropout)
        act = ACTIVATIONS[activation if n < N else output]
        delta = act.delta(error, z[n], a[n])
        if trim:
            delta = trimmed(delta, trim, trimming)
        q[f"l{n}_delta"] = delta
        if batch_norm and n < N:
            delta, updates[f"gamma{n}_update"], updates[f"beta{n}_update"] = normalise_back(
                delta, given[f"gamma{n}"], normed[n]
            )
            q[f"z{n}_delta"] = delta
        updates[f"syn{n - 1}_update"] = q[f"l{n - 1}"].mT @ delta
        if f"bias{n - 1}" in given:
            rows = delta.shape[-2]                          # of one nothing is added: a -0 stays
            updates[f"bias{n - 1}_update"] = delta.sum(-2, keepdim=True) if rows > 1 else delta
        if n > 1:
            error = q[f"l{n - 1}_error"] = delta @ given[f"syn{n - 1}"].mT

    if l1_penalty or l2_penalty:
        for syn in (f"syn{n}" for n in range(N)):
            pull = penalty_update(given[syn], l1_penalty / ranks, l2_penalty / ranks)
            updates[f"{syn}_update"] += pull
    if ranks > 1:                                           # of what each rank's rows ask for
        q |= {name.replace("update", "part"): part for name, part in updates.items()}
        for name, part in updates.items():
            updates[name] = given[name] if name in given else added(part)
    q |= updates

    # update weights
    if optimizer == "sgd":
        q |= sgd(given, updates, weights, alpha=alpha, momentum=momentum, nesterov=nesterov)
    else:
        t = int(given["t"].flatten()[0])
        q |= adam(given, updates, weights, alpha=alpha, betas=betas, adam_eps=adam_eps,
                  weight_decay=weight_decay, t=t)  # fmt: skip
    q |= statistics
    return q


@cache
def weight_names(sizes: tuple[int, ...], bias: bool, batch_norm: bool) -> tuple[str, ...]:
    """Return what is learned; a layer with batch norm has its beta in place of a bias."""
    N = len(sizes) - 1
    names: list[str] = []
    for n in range(N):
        names += [f"syn{n}"] + [f"bias{n}"] * (bias and (not batch_norm or n == N - 1))
        names += [f"gamma{n + 1}", f"beta{n + 1}"] * (batch_norm and n < N - 1)
    return tuple(names)


@cache                                                      # it is asked at every step
def check_names(
    given: tuple[str, ...], sizes: tuple[int, ...], bias: bool, batch_norm: bool, dropout: bool,
    moments: tuple[str, ...], several_ranks: bool,
) -> None:  # fmt: skip
    """Raise TypeError unless a step is given just what it needs besides X and y.

    Of several ranks the sums of their updates may be given.
    """
    weights = weight_names(sizes, bias, batch_norm)
    known = {*weights, *(f"{name}_{moment}" for name in weights for moment in moments)}
    for n in range(1, len(sizes) - 1):
        known |= {f"mean{n}", f"var{n}"} if batch_norm else set()
        known |= {f"mask{n}"} if dropout else set()
    known |= {"t"} if "exp_avg" in moments else set()
    sums = {f"{name}_update" for name in weights if several_ranks}
    if wrong := ", ".join(sorted(set(given) - sums ^ known)):
        raise TypeError(f"given too much or too little for this network: {wrong}")


def feed_forward(
    X: Tensor, given: Named, *, sizes: tuple[int, ...], activation: str, output: str,
    batch_norm: bool, batch_norm_eps: float, batch_norm_momentum: float, dropout: float,
    training: bool,
) -> Forward:  # fmt: skip
    """Return every layer's value; in evaluation nothing is dropped and the statistics stay."""
    N = len(sizes) - 1
    kept = Forward({"l0": X}, {}, {}, {}, {})
    q = kept.named
    for n in range(1, N + 1):
        z = q[f"l{n - 1}"] @ given[f"syn{n - 1}"]
        if f"bias{n - 1}" in given:
            z += given[f"bias{n - 1}"]
        if batch_norm and n < N:
            q[f"z{n}"] = z
            learned = given[f"gamma{n}"], given[f"beta{n}"]
            statistics = given[f"mean{n}"], given[f"var{n}"]
            if training:
                z, kept.normed[n], *batch = normalise(z, *learned, batch_norm_eps)
                for name, before, now in zip(("mean", "var"), statistics, batch, strict=True):
                    kept.statistics[f"{name}{n}"] = running(before, now, batch_norm_momentum)
            else:
                z = normalise_as_learned(z, *learned, *statistics, batch_norm_eps)
            q[f"norm{n}"] = z
        a = ACTIVATIONS[activation if n < N else output].value(z)
        kept.z[n], kept.a[n] = z, a
        if dropout and n < N and training:
            q[f"a{n}"] = a
            a = drop(a, given[f"mask{n}"], dropout)
        q[f"l{n}"] = a
    return kept


def predict(
    *, X: Tensor, sizes: tuple[int, ...], activation: str, output: str, batch_norm: bool,
    batch_norm_eps: float, batch_norm_momentum: float, **given: Tensor,
) -> Named:  # fmt: skip
    """Return every layer's value in evaluation: X (B, sizes[0]), the rest as `step` takes it."""
    return feed_forward(
        X, given, sizes=sizes, activation=activation, output=output, batch_norm=batch_norm,
        batch_norm_eps=batch_norm_eps, batch_norm_momentum=batch_norm_momentum, dropout=0.0,
        training=False,
    ).named  # fmt: skip
