"""The table of operations for complex operands or results: formulas over `ComplexArithmetic`.

A row takes that arithmetic, then the arguments of the operation; arrays of real numbers come as
complex ones. It returns complex numbers, or an array of real ones.
"""

from collections.abc import Callable
from typing import Any

import flint
import numpy as np

from compare.proof.complex_numbers import Complex, ComplexArithmetic, as_view, of_view
from compare.proof.fourier import FOURIER
from compare.proof.operations import ROWS

# Operations whose formulas for real numbers hold for complex ones too.
_SAME_FORMULA = {
    "add", "sub", "mul", "neg", "mm", "bmm", "addmm", "sum", "mean", "prod", "cumsum", "cumprod",
    "where",
    "index_put", "scatter_add", "scatter", "masked_scatter", "as_strided", "as_strided_copy",
    "as_strided_scatter", "constant_pad_nd",
    "exp", "expm1", "log", "sqrt", "rsqrt", "reciprocal", "sigmoid", "sin", "cos", "sinh", "cosh",
    "tanh", "tan",
}  # fmt: skip


def _cast(n: ComplexArithmetic, x: Complex, **_kwargs: Any) -> Any:
    """Return x in another dtype, rounded only if that can lose bits; as a real one without im."""
    narrower = n.dtype.itemsize < n.floats[-1].dtype.to_real().itemsize
    rounded = n.round_to_dtype(x) if narrower else x
    return rounded if n.out.is_complex() else rounded.re


def _copy(n: ComplexArithmetic, x: Complex, y: Complex, *_: Any) -> Any:
    """Return y in the shape and dtype of x, as x.copy_(y) does."""
    cast = _cast(n, y)
    arithmetic = n if n.out.is_complex() else n.n
    return arithmetic.broadcast_to(cast, x.shape)


def _pow(n: ComplexArithmetic, x: Any, y: Any) -> Complex:
    base, exponent = n.scalar(x), n.scalar(y)
    if exponent is not None:
        return n.power(x, exponent, n.dtype)
    if base is None:
        return n.general_power(x, y)
    if complex(base).imag or complex(base).real <= 0:
        raise ValueError("its base is a number that is not positive")
    logarithm = n.n.function("log", n.n.constant(complex(base).real, n.dtype))
    return n.function("exp", n.each(lambda part: part * logarithm, y))


def _norm(n: ComplexArithmetic, x: Complex, *args: Any, **kwargs: Any) -> Any:
    numbers = [n.scalar(a) if isinstance(a, Complex) else a for a in args]
    return ROWS["linalg_vector_norm"](n.real, n.abs(x), *numbers, **kwargs)


def _to_base(base: int) -> Callable[[ComplexArithmetic, Complex], Complex]:
    """Return the row of the logarithm to a base."""

    def logarithm(n: ComplexArithmetic, z: Complex) -> Complex:
        scale = n.n.known(np.asarray(1 / flint.arb(base).log()))
        return n.each(lambda part: part * scale, n.function("log", z))

    return logarithm


def _exp2(n: ComplexArithmetic, z: Complex) -> Complex:
    scale = n.n.known(np.asarray(flint.arb(2).log()))
    return n.function("exp", n.each(lambda part: part * scale, z))


def _polar(n: ComplexArithmetic, size: Complex, angle: Complex) -> Complex:
    cos, sin = (n.n.function(name, angle.re) for name in ("cos", "sin"))
    return n.pair(size.re * cos, size.re * sin)


def _conj(_n: ComplexArithmetic, z: Complex) -> Complex:
    return z.conj()


COMPLEX_ROWS: dict[str, Callable[..., Any]] = {
    **{name: ROWS[name] for name in _SAME_FORMULA},
    "div": lambda n, x, y: n.divide(x, y),
    "pow": _pow,
    "exp2": _exp2,
    "log2": _to_base(2),
    "log10": _to_base(10),
    # between real and complex numbers
    "view_as_real": lambda _n, z: as_view(z),
    "view_as_complex": lambda n, x: of_view(n.n, x.re),
    "complex": lambda n, x, y: n.pair(x.re, y.re),
    "polar": _polar,
    "abs": lambda n, z: n.abs(z),
    "angle": lambda n, z: n.angle(z),
    "linalg_vector_norm": _norm,
    "_to_copy": _cast,
    "copy": _copy,
    # conjugates
    **dict.fromkeys(("_conj", "_conj_physical"), _conj),
    **FOURIER,
}
