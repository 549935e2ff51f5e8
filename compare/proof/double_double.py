"""Double-double arithmetic: a number as the unevaluated sum of two float64 tensors.

The high part is the sum rounded to float64, so |low| <= u |high| with u = 2**-53. Every operation
here is one on whole tensors, each rounded by itself: no kernel of torch contracts two of them, so
the algorithms without FMA hold as published.

The bounds are of M. Joldes, J.-M. Muller, V. Popescu, Tight and Rigorous Error Bounds for Basic
Building Blocks of Double-Word Arithmetic, ACM Transactions on Mathematical Software 44(2), 2017.
They leave out overflow and underflow. Where something overflows, a part of the result is NaN or
infinite; products below 2**-969 have an absolute error besides; sums never underflow.
"""

from torch import Tensor

UNIT = 2.0**-53  # u, the largest relative error of one rounding to float64
ADD_ERROR = 3.01 * UNIT**2  # relative error of `add`
MULTIPLY_ERROR = 7 * UNIT**2  # relative error of `multiply`
DIVIDE_ERROR = 15.01 * UNIT**2  # relative error of `divide`
PRODUCT_UNDERFLOW = 2.0**-1073  # absolute error that underflow may add to `two_product`
MULTIPLY_UNDERFLOW = 2.0**-1072  # and to `multiply`
_SPLITTER = 2.0**27 + 1


def two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return s = a + b rounded and e = a + b - s exactly: Knuth's 2Sum, algorithm 2."""
    s = a + b
    of_a = s - b
    of_b = s - of_a
    return s, (a - of_a) + (b - of_b)


def fast_two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return s = a + b rounded and e = a + b - s exactly, if |a| >= |b| or a is 0.

    Dekker's Fast2Sum, algorithm 1.
    """
    s = a + b
    return s, b - (s - a)


def two_product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return p = a * b rounded and e = a * b - p exactly: Dekker's product.

    Source: T. J. Dekker, A Floating-Point Technique for Extending the Available Precision,
    Numerische Mathematik 18, 1971. Where |p| < 2**-969, e is off by at most PRODUCT_UNDERFLOW:
    each of the four products of halves may be rounded to a multiple of 2**-1074. Where a factor
    exceeds 2**996, splitting it overflows and e is NaN.
    """
    p = a * b
    return p, product_error(p, split(a), split(b))


def split(a: Tensor) -> tuple[Tensor, Tensor]:
    """Return a as the sum of two numbers of at most 26 bits: Veltkamp's splitting."""
    scaled = a * _SPLITTER
    high = scaled - (scaled - a)
    return high, a - high


def product_error(p: Tensor, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
    """Return a * b - p for the rounded product p of two numbers that are split already."""
    # in place, so that a block of numbers and its intermediate results stay in the cache
    return (a[0] * b[0]).sub_(p).add_(a[0] * b[1]).add_(a[1] * b[0]).add_(a[1] * b[1])


def add(ah: Tensor, al: Tensor, bh: Tensor, bl: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of two double-doubles to within ADD_ERROR, relative to it.

    Algorithm 6, AccurateDWPlusDW, whose bound is 3 u^2 + 13 u^3.
    """
    sh, sl = two_sum(ah, bh)
    th, tl = two_sum(al, bl)
    vh, vl = fast_two_sum(sh, sl + th)
    return fast_two_sum(vh, tl + vl)


def multiply(ah: Tensor, al: Tensor, bh: Tensor, bl: Tensor) -> tuple[Tensor, Tensor]:
    """Return the product of two double-doubles to within MULTIPLY_ERROR, relative to the exact one.

    Algorithm 10, DWTimesDW1, whose bound is 7 u^2. A product below 2**-969 may be off by
    MULTIPLY_UNDERFLOW more.
    """
    ph, pl = two_product(ah, bh)
    return fast_two_sum(ph, pl + (ah * bl + al * bh))


def divide(ah: Tensor, al: Tensor, bh: Tensor, bl: Tensor) -> tuple[Tensor, Tensor]:
    """Return the quotient of two double-doubles to within DIVIDE_ERROR, relative to it.

    Algorithm 17, DWDivDW2, whose bound is 15 u^2 + 56 u^3. Where the products of b and the quotient
    underflow, the quotient may be off by 4 * PRODUCT_UNDERFLOW / |b| more.
    """
    q = ah / bh
    ph, pl = two_product(bh, q)
    ph, rest = fast_two_sum(ph, bl * q)
    ph, pl = fast_two_sum(ph, rest + pl)
    return fast_two_sum(q, ((ah - ph) + (al - pl)) / bh)
