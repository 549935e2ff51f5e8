"""The cases that `compare.run` trains: a network, its data, and the verdict to expect.

Imports nothing but the standard library, so that `--list` answers at once.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from compare.errors import BadInput, unknown

if TYPE_CHECKING:
    from compare.cases.data import Table

Rows = tuple[tuple[float, ...], ...]


def quantity_kind(name: str) -> str:
    """Return the kind of a quantity, read from its name: `syn` of syn1, `delta` of l1_delta.

    A step returns its quantities under plain names. This is the only place that parses them.
    """
    return name.rpartition("_")[2] if "_" in name else re.match("[a-z]*", name)[0]  # type: ignore[index]


class Traits(NamedTuple):
    """Properties of an activation or a loss, other than its formula, which each side has."""

    rounds: str = ""  # why autograd's kernel cannot be matched bit for bit; `manual/` says more
    kinked: bool = False  # whether its derivative jumps where its value is 0


ACTIVATIONS = {
    "sigmoid": Traits(),
    "tanh": Traits(),
    "relu": Traits(kinked=True),
    "leaky_relu": Traits(kinked=True),
    "gelu": Traits("autograd's kernel has its own exp and erf"),
    "silu": Traits("autograd's kernel has its own exp"),
    "softplus": Traits("autograd's kernel has its own exp"),
    "identity": Traits(),
}
LOSSES = {
    "half_squared_error": Traits(),
    "mse": Traits(),
    "binary_cross_entropy_with_logits": Traits(),
    "cross_entropy": Traits("autograd's kernel has its own exp"),
}
OPTIMIZERS = ("sgd", "adam", "adamw")
TRIMMINGS = ("clip", "zero")
INITS = ("blog", "glorot", "he")
MAX_STEPS = 10**9  # of a run: each step takes 16 bytes in memory and in steps.npz


def _option(default: Any, help_text: str, choices: Iterable[str] = ()) -> Any:
    """Return a dataclass field with the help text and the choices of its command-line option."""
    return field(default=default, metadata={"help": help_text, "choices": tuple(choices)})


@dataclass(frozen=True)
class Network:
    """The description of a fully connected network and of how it is trained.

    Both sides take its fields as keyword arguments without defaults, so a field that one side does
    not know is a TypeError. A hidden layer is linear, batch norm, activation, dropout, in this
    order. The penalties are part of the loss, and cover the weight matrices only, not the biases.

    Args:
        sizes: number of values in each layer, inputs first: (3, 4, 1) has 3 inputs, 4 hidden
            values and 1 output, and so the weights syn0 (3, 4) and syn1 (4, 1).
        alpha: step size (learning rate), positive.
        activation: activation of the hidden layers, a key of `ACTIVATIONS`.
        output: activation of the last layer, a key of `ACTIVATIONS`; "identity" with the losses
            that take logits.
        loss: loss to minimise, a key of `LOSSES`.
        bias: add bias units (1, size) to each layer; a layer with batch norm has its beta instead.
        batch_norm: use batch normalization in the hidden layers.
        batch_norm_eps: number that batch norm adds to the variance, positive.
        batch_norm_momentum: weight of a step's statistics in the running statistics, 0 or more.
        dropout: share of hidden values that is dropped at each step, from 0 to below 1; the others
            are divided by 1 - dropout (inverted dropout).
        trim: limit t of delta trimming, 0 for no trimming.
        trimming: "clip" limits each delta to [-t, t]; "zero" sets the deltas within it to 0.
        l1_penalty: coefficient of the sum of |weight| in the loss, 0 or more.
        l2_penalty: coefficient of half the sum of squared weights in the loss, 0 or more.
        optimizer: "sgd", "adam" or "adamw", as torch.optim defines them.
        momentum: momentum of sgd, from 0 to below 1.
        nesterov: use Nesterov's form of the momentum.
        betas: decay rates of the two moments of adam and adamw, each from 0 to below 1.
        adam_eps: number that adam and adamw add to the denominator, positive.
        weight_decay: decoupled weight decay of adamw, 0 or more.

    Example:
        >>> import compare
        >>> network = compare.Network((3, 4, 1), activation="tanh")
        >>> network.prediction, network.hidden, network.non_default()
        ('l2', range(1, 2), {'activation'})
    """

    sizes: tuple[int, ...]
    alpha: float = _option(1.0, "step size (learning rate)")
    activation: str = _option("sigmoid", "activation of the hidden layers", ACTIVATIONS)
    output: str = _option("sigmoid", "activation of the last layer", ACTIVATIONS)
    loss: str = _option("half_squared_error", "loss to minimise", LOSSES)
    bias: bool = _option(False, "add bias units; in a layer with batch norm, its beta is the bias")
    batch_norm: bool = _option(False, "use batch normalization in the hidden layers")
    batch_norm_eps: float = _option(1e-5, "number that batch norm adds to the variance")
    batch_norm_momentum: float = _option(
        0.1, "weight of a step in the running statistics of batch norm"
    )
    dropout: float = _option(0.0, "share of hidden values to drop (inverted dropout)")
    trim: float = _option(0.0, "limit t of delta trimming, 0 for no trimming")
    trimming: str = _option(
        "clip", "clip: limit deltas to [-t, t]; zero: set those within it to 0", TRIMMINGS
    )
    l1_penalty: float = _option(0.0, "coefficient of the sum of |weight| in the loss")
    l2_penalty: float = _option(0.0, "coefficient of half the sum of squared weights in the loss")
    optimizer: str = _option("sgd", "optimizer, as torch.optim defines it", OPTIMIZERS)
    momentum: float = _option(0.0, "momentum of sgd")
    nesterov: bool = _option(False, "use Nesterov momentum")
    betas: tuple[float, float] = _option(
        (0.9, 0.999), "decay rates of the moments of adam and adamw"
    )
    adam_eps: float = _option(1e-8, "number that adam and adamw add to the denominator")
    weight_decay: float = _option(
        0.0, "decoupled weight decay of adamw; for sgd and adam see --l2-penalty"
    )

    def arguments(self) -> dict[str, Any]:
        """Return the fields by name: the keyword arguments that both sides take."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def non_default(self) -> set[str]:
        """Return the fields, other than sizes and alpha, that are not at their defaults."""
        plain = Network(self.sizes, self.alpha)
        return {name for name, value in self.arguments().items() if value != getattr(plain, name)}

    def numbers(self) -> dict[str, float]:
        """Return alpha and the float fields that are not at their defaults, by name."""
        used = self.non_default() | {"alpha"}
        return {k: v for k, v in self.arguments().items() if k in used and isinstance(v, float)}

    @property
    def hidden(self) -> range:
        """The numbers of the hidden layers."""
        return range(1, len(self.sizes) - 1)

    @property
    def prediction(self) -> str:
        """The name of the last layer's value, such as l2."""
        return f"l{len(self.sizes) - 1}"

    @property
    def moments(self) -> tuple[str, ...]:
        """The optimizer's state for each weight, by torch's names."""
        if self.optimizer == "sgd":
            return ("momentum_buffer",) if self.momentum else ()
        return ("exp_avg", "exp_avg_sq")

    @property
    def classes(self) -> int:
        """The number of classes that the output distinguishes; 0 where it predicts numbers."""
        if self.loss == "cross_entropy":
            return self.sizes[-1]
        return 2 if self.loss == "binary_cross_entropy_with_logits" else 0

    def check(self) -> None:
        """Raise BadInput for a field that cannot be used, or that would have no effect."""
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise BadInput(f"sizes {self.sizes}: give at least two layers, each of at least 1")
        for name, value in self.arguments().items():
            if choices := self.__dataclass_fields__[name].metadata.get("choices"):
                if value not in choices:
                    raise unknown(name, value, choices)
            elif name not in ("sizes", "betas") and not math.isfinite(value):
                raise BadInput(f"{name} {value}: give a finite number")
        for name, limit in _BELOW.items():
            if not 0 <= getattr(self, name) < limit:
                upper = f" to below {limit:g}" if limit < math.inf else " or more"
                raise BadInput(f"{name} {getattr(self, name)}: give 0{upper}")
        for name in ("alpha", "batch_norm_eps", "adam_eps"):
            if not getattr(self, name) > 0:
                raise BadInput(f"{name} {getattr(self, name)}: give a positive number")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise BadInput(f"betas {self.betas}: give two numbers from 0 to below 1")
        non_default = self.non_default()
        for name, needs, holds in (
            ("batch_norm", "a hidden layer", bool(self.hidden)),
            ("dropout", "a hidden layer", bool(self.hidden)),
            ("activation", "a hidden layer; see output", bool(self.hidden)),
            ("batch_norm_eps", "batch_norm", self.batch_norm),
            ("batch_norm_momentum", "batch_norm", self.batch_norm),
            ("trimming", "trim", self.trim > 0),
            ("momentum", "optimizer sgd", self.optimizer == "sgd"),
            ("nesterov", "momentum", self.momentum > 0),
            ("betas", "optimizer adam or adamw", self.optimizer != "sgd"),
            ("adam_eps", "optimizer adam or adamw", self.optimizer != "sgd"),
            ("weight_decay", "optimizer adamw; see l2_penalty", self.optimizer == "adamw"),
        ):
            if name in non_default and not holds:
                raise BadInput(f"{name} {getattr(self, name)}: it needs {needs}")
        if self.loss == "cross_entropy" and self.sizes[-1] < 2:
            raise BadInput(
                f"loss cross_entropy with sizes {self.sizes}: it needs 2 outputs or more, "
                "one for each class; for one output use binary_cross_entropy_with_logits"
            )


#: Fields that are 0 or more, with the limit that each must stay below.
_BELOW = {
    "batch_norm_momentum": math.inf, "dropout": 1, "trim": math.inf, "l1_penalty": math.inf,
    "l2_penalty": math.inf, "momentum": 1, "weight_decay": math.inf,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A training run that `compare.run` can do: a network, its data, and the expected verdict.

    Args:
        name: name of the case on the command line and in reports.
        shows: one line for `--list`.
        network: description of the network.
        X: inputs, a tuple of rows with sizes[0] numbers each.
        y: targets, one row for each row of `X`, with sizes[-1] numbers each.
        steps: number of training steps unless the caller names another.
        by_hand: module of `manual/` whose `step` is the by-hand side.
        grouping: argument `grouping` of that step; None for a step without one.
        promises: expected verdict, "EXACT", "ROUNDING" or "WRONG"; "" derives it from the network,
            see `expected`.
        unnamed: quantities that the by-hand listing does not name, and which are not compared.
        init: distribution of the first weights: "blog", "glorot" or "he".
        batch_size: rows of a mini-batch; None takes all rows at every step.
        data: function of the seed that returns a `Table`, in place of `X` and `y`.
        sweep: networks to train one after another, reported in one table.

    Example:
        >>> import compare
        >>> network = compare.Network((2, 3, 1), alpha=0.5)
        >>> xor = compare.Case("xor", "exclusive or", network,
        ...                    X=((0, 0), (0, 1), (1, 0), (1, 1)), y=((0,), (1,), (1,), (0,)))
        >>> report = compare.run(xor, steps=20)
        >>> print(report.verdict, report.steps)
        EXACT 20
    """

    name: str
    shows: str
    network: Network
    X: Rows = ()
    y: Rows = ()
    steps: int = 1000
    by_hand: str = "network"
    grouping: str | None = None
    promises: str = ""
    unnamed: tuple[str, ...] = ()
    init: str = "blog"
    batch_size: int | None = None
    data: "Callable[[int], Table] | None" = None
    sweep: tuple[Network, ...] = ()

    def __post_init__(self) -> None:
        if not self.promises:
            object.__setattr__(self, "promises", expected(self.network))

    @property
    def demand(self) -> str:
        """The demand that decides the exit code when the command line names none."""
        return "exact" if self.promises == "EXACT" else "rounding"  # a WRONG case does not meet it


def expected(network: Network) -> str:
    """Return the verdict to expect of a network, EXACT or ROUNDING."""
    activations = [ACTIVATIONS.get(name) for name in (network.activation, network.output)]
    rounds = any(traits and traits.rounds for traits in (*activations, LOSSES.get(network.loss)))
    # autograd's batch norm kernel sums in another order and in one pass
    return "ROUNDING" if rounds or network.batch_norm else "EXACT"


def _digits(seed: int) -> "Table":
    """Return the digits, with the same split for every seed."""
    del seed
    from compare.cases.data import digits

    return digits()


_X: Rows = ((0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 1))
_FIRST_COLUMN: Rows = ((0,), (0,), (1,), (1,))
_XOR: Rows = ((0,), (1,), (1,), (0,))
_THREE_LAYER = Case(
    "three_layer",
    "the blog's Part 2, layer sizes 3-4-1: the same bits at every step",
    Network(sizes=(3, 4, 1)), _X, _XOR, steps=60_000,
    by_hand="three_layer", grouping="left_to_right",
)  # fmt: skip


def _blog(
    name: str, shows: str, *, sizes: tuple[int, ...] = (3, 4, 1), steps: int = 10_000,
    batch_size: int | None = None, init: str = "blog", **fields: Any,
) -> Case:  # fmt: skip
    """Return a case on the blog's own rows; `fields` are those of its Network."""
    network = Network(sizes, **fields)
    return Case(name, shows, network, _X, _XOR, steps=steps, batch_size=batch_size, init=init)


#: The cases of the command line, by name: `compare.run(compare.CASES["three_layer"])`.
CASES = {
    case.name: case
    for case in (
        dataclasses.replace(
            _THREE_LAYER, name="eleven_lines",
            shows="the blog's eleven lines as published: 1/(1+exp(-x)) and its own grouping",
            by_hand="eleven_lines", grouping=None, promises="ROUNDING",
            unnamed=("l0", "l2_error", "l1_error", "syn1_update", "syn0_update"),
        ),
        Case(
            "two_layer",
            "the blog's Part 1, layer sizes 3-1: the same bits at every step",
            Network(sizes=(3, 1)), _X, _FIRST_COLUMN, steps=10_000,
            by_hand="two_layer", grouping="left_to_right",
        ),
        _THREE_LAYER,
        dataclasses.replace(
            _THREE_LAYER, name="three_layer_blog_grouping",
            shows="Part 2 with the slope grouped as in the blog: error * (l * (1 - l))",
            grouping="blog", promises="ROUNDING",
        ),
        dataclasses.replace(
            _THREE_LAYER, name="fused",
            shows="Part 2 for speed: in place and fused, with one rounding fewer in the weights",
            by_hand="fused", grouping=None, promises="ROUNDING",
            unnamed=("syn1_update", "syn0_update"),
        ),
        _blog("deep", "five layers of different sizes, 3-7-5-2-1", sizes=(3, 7, 5, 2, 1)),
        Case(
            "dropout_as_published",
            "the author's dropout listing: slope taken after the mask, a wrong gradient",
            Network(sizes=(3, 4, 1), dropout=0.2), _X, _XOR, steps=10_000,
            by_hand="dropout_as_published", promises="WRONG", unnamed=("a1", "a1_error"),
        ),
        dataclasses.replace(
            _blog("alpha", "the author's table: 4 and 32 hidden units, alpha from 0.001 to 1000",
                  steps=60_000),
            sweep=tuple(
                Network(sizes=(3, hidden, 1), alpha=alpha)
                for hidden in (4, 32) for alpha in (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
            ),
        ),
        _blog("bias", "bias units in every layer: one more row of weights, for an input of 1",
              bias=True),
        _blog("mini_batches", "two of the four rows at each step, in the same random order",
              batch_size=2),
        _blog("delta_trimming", "each delta clipped to [-0.02, 0.02]: our reading of the blog's "
              "term", trim=0.02),
        _blog("layer_sizes", "two hidden layers of 16 and 8 tanh units", sizes=(3, 16, 8, 1),
              activation="tanh", alpha=0.1),
        _blog("regularization", "an L1 and an L2 penalty on the weights",
              l1_penalty=1e-4, l2_penalty=1e-3),
        _blog("dropout", "inverted dropout of a fifth of 8 hidden values, slope before the mask",
              sizes=(3, 8, 1), dropout=0.2),
        _blog("momentum", "SGD with Nesterov momentum 0.9", alpha=0.1, momentum=0.9,
              nesterov=True),
        _blog("adam", "Adam by hand, compared with torch.optim.Adam", alpha=0.01, optimizer="adam"),
        _blog("adamw", "AdamW, with decoupled weight decay", alpha=0.01, optimizer="adamw",
              weight_decay=0.01),
        _blog("batch_norm", "batch norm on 8 hidden values, with running statistics",
              sizes=(3, 8, 1), alpha=0.1, batch_norm=True),
        _blog("everything", "all options from bias to batch norm in one network",
              sizes=(3, 8, 6, 1), alpha=0.05,
              activation="tanh", bias=True, batch_norm=True, dropout=0.2, trim=0.5,
              l1_penalty=1e-4, l2_penalty=1e-3, momentum=0.9, nesterov=True,
              batch_size=3, init="glorot", steps=2000),
        Case(
            "digits",
            "real data: 1,438 handwritten digits for training, 359 for testing, 20 epochs",
            Network(sizes=(64, 64, 10), alpha=0.1, activation="relu", output="identity",
                    loss="cross_entropy", bias=True, momentum=0.9),
            steps=440, batch_size=64, init="he", data=_digits,
        ),
        _blog("network", "your own: --sizes 3,8,8,1 --activation tanh --bias --momentum 0.9 ..."),
    )
}  # fmt: skip


def check_steps(steps: int) -> int:
    """Return the number of steps of a run.

    Raises:
        BadInput: for fewer than 1 step, or more than `MAX_STEPS`.
    """
    if steps < 1:
        raise BadInput(f"steps {steps}: a run needs at least 1 step")
    if steps > MAX_STEPS:
        raise BadInput(f"steps {steps}: give at most {MAX_STEPS:,}, since each takes memory")
    return steps


def find_case(name: str) -> Case:
    """Return the case called `name`.

    Raises:
        BadInput: for an unknown name; the message suggests similar ones.
    """
    if name not in CASES:
        raise unknown("case", name, CASES)
    return CASES[name]
