"""The cases: which question is put to both sides, and what each is expected to show.

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


def kind_of(name: str) -> str:
    """Return the kind of a quantity by the blog's name: `syn` of syn1, `delta` of l1_delta.

    A step hands back plain names, so one place has to take them apart; no other does.
    """
    return name.rpartition("_")[2] if "_" in name else re.match("[a-z]*", name)[0]  # type: ignore[index]


class Piece(NamedTuple):
    """What is known of an activation or a loss beside its formula, which each side has."""

    rounds: str = ""  # why autograd's kernel cannot be matched bit for bit; `manual/` says more
    kinked: bool = False  # whether its slope jumps where its value is 0


ACTIVATIONS = {
    "sigmoid": Piece(),
    "tanh": Piece(),
    "relu": Piece(kinked=True),
    "leaky_relu": Piece(kinked=True),
    "gelu": Piece("its kernel has an exp and an erf of its own"),
    "silu": Piece("its kernel has an exp of its own"),
    "softplus": Piece("its kernel has an exp of its own"),
    "identity": Piece(),
}
LOSSES = {
    "half_squared_error": Piece(),
    "mse": Piece(),
    "binary_cross_entropy_with_logits": Piece(),
    "cross_entropy": Piece("its kernel has an exp of its own"),
}
OPTIMIZERS = ("sgd", "adam", "adamw")
TRIMMINGS = ("clip", "zero")
INITS = ("blog", "glorot", "he")
MOST_STEPS = 10**9  # of a run: each leaves 16 bytes in memory and in steps.npz


def _asked(default: Any, words: str, choices: Iterable[str] = ()) -> Any:
    """Return a field with what the command line says of it."""
    return field(default=default, metadata={"help": words, "choices": tuple(choices)})


@dataclass(frozen=True)
class Network:
    """The question: goes to both sides as keyword arguments without defaults.

    Batch norm and dropout stand on hidden layers: linear, batch norm, activation, dropout. The
    penalties are part of the loss and of the matrices of weights alone.
    """

    sizes: tuple[int, ...]
    alpha: float = _asked(1.0, "the step size")
    activation: str = _asked("sigmoid", "of hidden layers", ACTIVATIONS)
    output: str = _asked("sigmoid", "the last layer's activation", ACTIVATIONS)
    loss: str = _asked("half_squared_error", "what is made small", LOSSES)
    bias: bool = _asked(False, "bias units; a layer with batch norm has its beta instead")
    batch_norm: bool = _asked(False, "batch norm on hidden layers")
    batch_norm_eps: float = _asked(1e-5, "is added to the variance")
    batch_norm_momentum: float = _asked(0.1, "a step's share in the running statistics")
    dropout: float = _asked(0.0, "share of hidden values that is dropped, inverted dropout")
    trim: float = _asked(0.0, "delta trimming: the limit t on each delta, 0 for none")
    trimming: str = _asked("clip", "clip deltas to [-t, t], or zero those within it", TRIMMINGS)
    l1_penalty: float = _asked(0.0, "times the sum of |weight| is added to the loss")
    l2_penalty: float = _asked(0.0, "times half the sum of squared weights is added to the loss")
    optimizer: str = _asked("sgd", "as torch.optim defines it", OPTIMIZERS)
    momentum: float = _asked(0.0, "of sgd")
    nesterov: bool = _asked(False, "Nesterov's momentum")
    betas: tuple[float, float] = _asked((0.9, 0.999), "of adam and adamw")
    adam_eps: float = _asked(1e-8, "is added to adam's denominator")
    weight_decay: float = _asked(0.0, "decoupled, of adamw; for sgd and adam see l2_penalty")

    def question(self) -> dict[str, Any]:
        """Return the fields by name, as both sides take them."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def unusual(self) -> set[str]:
        """Return the names of the fields that ask for more than the blog's own network."""
        plain = Network(self.sizes, self.alpha)
        return {name for name, value in self.question().items() if value != getattr(plain, name)}

    def numbers(self) -> dict[str, float]:
        """Return the numbers that this network asks for, by the names of their fields."""
        unusual = self.unusual() | {"alpha"}
        return {k: v for k, v in self.question().items() if k in unusual and isinstance(v, float)}

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
        """What the optimizer keeps of each weight, by torch's names."""
        if self.optimizer == "sgd":
            return ("momentum_buffer",) if self.momentum else ()
        return ("exp_avg", "exp_avg_sq")

    @property
    def classes(self) -> int:
        """How many classes the output tells apart; 0 where it gives numbers."""
        if self.loss == "cross_entropy":
            return self.sizes[-1]
        return 2 if self.loss == "binary_cross_entropy_with_logits" else 0

    def check(self) -> None:
        """Raise BadInput for a value, or a combination, that cannot be used or would be ignored."""
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise BadInput(f"sizes {self.sizes}: give at least two layers, each of at least 1")
        for name, value in self.question().items():
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
        unusual = self.unusual()
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
            if name in unusual and not holds:
                raise BadInput(f"{name} {getattr(self, name)}: it needs {needs}")
        if self.loss == "cross_entropy" and self.sizes[-1] < 2:
            raise BadInput(
                f"loss cross_entropy with sizes {self.sizes}: it needs 2 outputs or more, "
                "one for each class; for one output take binary_cross_entropy_with_logits"
            )


#: What is 0 or more, by the limit that it stays below.
_BELOW = {
    "batch_norm_momentum": math.inf, "dropout": 1, "trim": math.inf, "l1_penalty": math.inf,
    "l2_penalty": math.inf, "momentum": 1, "weight_decay": math.inf,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A network, its data, how it is worked by hand, and the verdict that it promises."""

    name: str
    shows: str
    network: Network
    X: Rows = ()
    y: Rows = ()
    steps: int = 1000
    by_hand: str = "network"  # a module of manual/ that has a `step`
    grouping: str | None = None  # a listing's own choice; None: it has none
    promises: str = ""  # "": what the pieces of the network allow, see `expected`
    unnamed: tuple[str, ...] = ()  # quantities that the by-hand listing has no name for
    init: str = "blog"  # how the first weights are drawn
    batch_size: int | None = None  # rows of a mini-batch; None: all of them at every step
    data: "Callable[[int], Table] | None" = None  # in place of X and y; is given the seed
    sweep: tuple[Network, ...] = ()  # these in turn, in one table

    def __post_init__(self) -> None:
        if not self.promises:
            object.__setattr__(self, "promises", expected(self.network))

    @property
    def demand(self) -> str:
        """What the exit code asks for when the command line names no demand."""
        return "exact" if self.promises == "EXACT" else "rounding"  # of a WRONG one: not met


def expected(network: Network) -> str:
    """Return EXACT or ROUNDING, whichever the pieces of the network allow."""
    pieces = [ACTIVATIONS.get(name) for name in (network.activation, network.output)]
    rounds = any(piece and piece.rounds for piece in (*pieces, LOSSES.get(network.loss)))
    # batch norm's kernel sums in another order and in one pass
    return "ROUNDING" if rounds or network.batch_norm else "EXACT"


def _digits(seed: int) -> "Table":
    """Return the digits, split the same whatever the seed."""
    del seed
    from compare.cases.data import digits

    return digits()


_X: Rows = ((0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 1))
_FIRST_COLUMN: Rows = ((0,), (0,), (1,), (1,))
_XOR: Rows = ((0,), (1,), (1,), (0,))
_THREE_LAYER = Case(
    "three_layer",
    "the blog's Part 2: 3-4-1, every step the same bits",
    Network(sizes=(3, 4, 1)), _X, _XOR, steps=60_000,
    by_hand="three_layer", grouping="left_to_right",
)  # fmt: skip


def _blog(
    name: str, shows: str, *, sizes: tuple[int, ...] = (3, 4, 1), steps: int = 10_000,
    batch_size: int | None = None, init: str = "blog", **asked: Any,
) -> Case:  # fmt: skip
    """Return a case on the blog's own rows, of a network with what is `asked`."""
    network = Network(sizes, **asked)
    return Case(name, shows, network, _X, _XOR, steps=steps, batch_size=batch_size, init=init)


CASES = {
    case.name: case
    for case in (
        dataclasses.replace(
            _THREE_LAYER, name="eleven_lines",
            shows="the blog's eleven lines as they stand: 1/(1+exp(-x)) and its own grouping",
            by_hand="eleven_lines", grouping=None, promises="ROUNDING",
            unnamed=("l0", "l2_error", "l1_error", "syn1_update", "syn0_update"),
        ),
        Case(
            "two_layer",
            "the blog's Part 1: 3-1, every step the same bits",
            Network(sizes=(3, 1)), _X, _FIRST_COLUMN, steps=10_000,
            by_hand="two_layer", grouping="left_to_right",
        ),
        _THREE_LAYER,
        dataclasses.replace(
            _THREE_LAYER, name="three_layer_blog_grouping",
            shows="Part 2 with the slope grouped as the blog does: error * (l * (1 - l))",
            grouping="blog", promises="ROUNDING",
        ),
        dataclasses.replace(
            _THREE_LAYER, name="fused",
            shows="Part 2 for speed: in place, fused; the weights are rounded once less",
            by_hand="fused", grouping=None, promises="ROUNDING",
            unnamed=("syn1_update", "syn0_update"),
        ),
        _blog("deep", "five layers of different sizes, 3-7-5-2-1", sizes=(3, 7, 5, 2, 1)),
        Case(
            "dropout_as_published",
            "the author's dropout listing: its slope is taken after the mask, a wrong gradient",
            Network(sizes=(3, 4, 1), dropout=0.2), _X, _XOR, steps=10_000,
            by_hand="dropout_as_published", promises="WRONG", unnamed=("a1", "a1_error"),
        ),
        dataclasses.replace(
            _blog("alpha", "the author's table: 4 and 32 hidden, alpha from 0.001 to 1000",
                  steps=60_000),
            sweep=tuple(
                Network(sizes=(3, hidden, 1), alpha=alpha)
                for hidden in (4, 32) for alpha in (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
            ),
        ),
        _blog("bias", "bias units in every layer: another row of weights, from a constant 1",
              bias=True),
        _blog("mini_batches", "two rows of the four at a time, in an order drawn once",
              batch_size=2),
        _blog("delta_trimming", "each delta clipped to [-0.02, 0.02]: our reading of the blog's "
              "word", trim=0.02),
        _blog("layer_sizes", "two hidden layers of 16 and 8 tanh units", sizes=(3, 16, 8, 1),
              activation="tanh", alpha=0.1),
        _blog("regularization", "an L1 and an L2 penalty on the weights",
              l1_penalty=1e-4, l2_penalty=1e-3),
        _blog("dropout", "inverted dropout of a fifth of 8 hidden values, slope before the mask",
              sizes=(3, 8, 1), dropout=0.2),
        _blog("momentum", "sgd with Nesterov's momentum of 0.9", alpha=0.1, momentum=0.9,
              nesterov=True),
        _blog("adam", "Adam by hand beside torch.optim.Adam", alpha=0.01, optimizer="adam"),
        _blog("adamw", "AdamW, its decay apart from the gradient", alpha=0.01, optimizer="adamw",
              weight_decay=0.01),
        _blog("batch_norm", "batch norm on 8 hidden values, running statistics too",
              sizes=(3, 8, 1), alpha=0.1, batch_norm=True),
        _blog("everything", "all of the above in one network", sizes=(3, 8, 6, 1), alpha=0.05,
              activation="tanh", bias=True, batch_norm=True, dropout=0.2, trim=0.5,
              l1_penalty=1e-4, l2_penalty=1e-3, momentum=0.9, nesterov=True,
              batch_size=3, init="glorot", steps=2000),
        Case(
            "digits",
            "real data: 1,438 handwritten digits to learn from, 359 to be asked, 20 epochs",
            Network(sizes=(64, 64, 10), alpha=0.1, activation="relu", output="identity",
                    loss="cross_entropy", bias=True, momentum=0.9),
            steps=440, batch_size=64, init="he", data=_digits,
        ),
        _blog("network", "yours: --sizes 3,8,8,1 --activation tanh --bias --momentum 0.9 ..."),
    )
}  # fmt: skip


def check_steps(steps: int) -> int:
    """Return the steps of a run; raise BadInput for too few, or more than memory may hold."""
    if steps < 1:
        raise BadInput(f"steps {steps}: a run needs at least 1 step")
    if steps > MOST_STEPS:
        raise BadInput(f"steps {steps}: give at most {MOST_STEPS:,}, each leaves some numbers")
    return steps


def find(name: str) -> Case:
    """Return the case called `name`; raises BadInput with the nearest names."""
    if name not in CASES:
        raise unknown("case", name, CASES)
    return CASES[name]
