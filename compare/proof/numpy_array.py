"""NumPy code as torch operations: an array that hands what NumPy is asked of it to torch.

NumPy's protocols (`__array_ufunc__`, `__array_function__`) bring each call of NumPy with such an
array here. The dtypes are those that NumPy itself resolves. What cannot be followed raises, and the
function under test then counts as opaque: no number leaves a recording unseen. The kernels are
torch's and not NumPy's; whoever records has to compare the numbers with NumPy's own
(compare/proof/trace.py). Code comes by such arrays while compare/proof/numpy_recording.py has it
recorded.
"""

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compare.torch_private import numpy_in_torch

# NumPy's and torch's own functions, as they are without the patches below
_from_numpy, _array, _asarray = torch.from_numpy, np.array, np.asarray

# ufuncs that Python has an operator for: a number among their operands stays a number
_OPERATORS: dict[str, Callable[..., Any]] = {
    "add": operator.add, "subtract": operator.sub, "multiply": operator.mul,
    "divide": operator.truediv, "power": operator.pow, "remainder": operator.mod,
    "floor_divide": operator.floordiv, "greater": operator.gt, "greater_equal": operator.ge,
    "less": operator.lt, "less_equal": operator.le, "equal": operator.eq,
    "not_equal": operator.ne, "negative": operator.neg, "bitwise_and": operator.and_,
    "bitwise_or": operator.or_, "bitwise_xor": operator.xor, "invert": operator.invert,
}  # fmt: skip
# ufuncs that have another name in torch
_RENAMED = {
    "conjugate": torch.conj_physical, "degrees": torch.rad2deg, "fabs": torch.abs,
    "radians": torch.deg2rad, "rint": torch.round,
}  # fmt: skip
_REDUCTIONS = {
    "add": "sum", "multiply": "prod", "maximum": "max", "minimum": "min", "logical_and": "all",
    "logical_or": "any",
}  # fmt: skip
_ACCUMULATIONS = {"add": "cumsum", "multiply": "cumprod"}
# methods of an array that are functions of NumPy of the same name
_METHODS = (
    "all", "any", "argmax", "argmin", "argsort", "clip", "conj", "conjugate", "cumprod", "cumsum",
    "diagonal", "dot", "max", "mean", "min", "nonzero", "prod", "ptp", "repeat", "round",
    "squeeze", "std", "sum", "swapaxes", "take", "trace", "var",
)  # fmt: skip


class RecordedArray:
    """An array of NumPy's whose numbers are a tensor that is being recorded.

    A slice shares memory with its array, as in NumPy. An array without dimensions behaves as
    NumPy's scalars do: it is never changed, `total += x` makes a new one.

    Args:
        tensor: The numbers, of any shape.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """What `isinstance` sees: the type that the code under test expects."""
        return np.ndarray if self.tensor.ndim else self.dtype.type

    # -- attributes

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of each dimension."""
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's dtype."""
        return _numpy_dtype(self.tensor.dtype)

    ndim = property(lambda self: self.tensor.ndim)
    size = property(lambda self: self.tensor.numel())
    itemsize = property(lambda self: self.tensor.itemsize)
    nbytes = property(lambda self: self.tensor.nbytes)
    real = property(lambda self: RecordedArray(self.tensor.real))
    imag = property(lambda self: RecordedArray(_imaginary(self.tensor)))
    T = property(lambda self: self.transpose())
    mT = property(lambda self: RecordedArray(self.tensor.mT))  # noqa: N815
    flat = property(lambda self: self.reshape(-1))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"ndarray.{name} cannot be recorded")

    # -- numbers that leave the recording: torch decides whether they may

    def __bool__(self) -> bool:
        return bool(self.tensor)

    def __int__(self) -> int:
        return int(self.tensor)

    def __index__(self) -> int:
        return operator.index(self.tensor)

    def __float__(self) -> float:
        return float(self.tensor)

    def item(self, *index: Any) -> Any:
        """Return one element as a number of Python's."""
        return (self[index] if index else self).tensor.item()

    def __array__(self, *_args: Any, **_kwargs: Any) -> Any:
        raise TypeError("NumPy asks for the memory of an array, which cannot be recorded")

    def __repr__(self) -> str:  # without numbers: a text is printed, and decides nothing
        return f"array(shape={self.shape}, dtype={self.dtype})"

    def __format__(self, spec: str) -> str:
        return repr(self)

    # -- containers

    def __len__(self) -> int:
        return len(self.tensor)

    def __iter__(self) -> Iterator["RecordedArray"]:
        return (self[k] for k in range(len(self)))

    def __contains__(self, value: Any) -> bool:
        return bool((self == value).tensor.any())

    def __getitem__(self, index: Any) -> "RecordedArray":
        tensor, index = _without_reversal(self.tensor, index)
        result = numpy_in_torch().ndarray(tensor)[_unwrapped(index)].tensor
        return RecordedArray(result if result.ndim else result.clone())

    def __setitem__(self, index: Any, value: Any) -> None:
        tensor, index = _without_reversal(self.tensor, index)
        if tensor is not self.tensor:
            raise TypeError("an assignment to elements in reversed order cannot be recorded")
        value = value if _is_number(value) else tensor_of(value).to(self.tensor.dtype)
        numpy_in_torch().ndarray(self.tensor)[_unwrapped(index)] = value

    # -- methods that are no functions of NumPy, or that return a copy where torch returns a view

    def astype(self, dtype: Any, *_args: Any, copy: bool = True, **_kwargs: Any) -> "RecordedArray":
        """Return a copy in another dtype."""
        return RecordedArray(self.tensor.to(_torch_dtype(np.dtype(dtype)), copy=copy))

    def copy(self, *_args: Any, **_kwargs: Any) -> "RecordedArray":
        """Return a copy."""
        return RecordedArray(self.tensor.clone())

    __copy__ = __deepcopy__ = copy

    def flatten(self) -> "RecordedArray":
        """Return a copy with one dimension."""
        return RecordedArray(self.tensor.flatten().clone())

    def ravel(self) -> "RecordedArray":
        """Return the numbers in one dimension, a view if possible."""
        return self.reshape(-1)

    def reshape(self, *shape: Any) -> "RecordedArray":
        """Return the numbers in another shape, a view if possible."""
        sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], Sequence) else shape
        return RecordedArray(self.tensor.reshape(tuple(map(operator.index, sizes))))

    def transpose(self, *axes: Any) -> "RecordedArray":
        """Return a view with the dimensions in another order, by default reversed."""
        order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        return RecordedArray(self.tensor.permute(tuple(order or range(self.ndim)[::-1])))

    def fill(self, value: Any) -> None:
        """Set all elements to one value."""
        self[...] = value

    # -- NumPy's protocols

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: tuple[Any, ...] = (),
        where: Any = True, **options: Any,
    ) -> Any:  # fmt: skip
        """Compute a ufunc of NumPy, or one of its methods."""
        name = ufunc.__name__
        if method == "at":
            return _add_at(name, *inputs)
        if method == "outer":
            first, second = map(tensor_of, inputs)
            inputs = RecordedArray(first.reshape(*first.shape, *[1] * second.ndim)), inputs[1]
        elif method != "__call__":
            named = {"reduce": _REDUCTIONS, "accumulate": _ACCUMULATIONS}.get(method, {})
            if name not in named or where is not True:
                raise TypeError(f"np.{name}.{method} cannot be recorded")
            options |= {"out": out[0]} if out else {}
            return call(getattr(np, named[name]), inputs, {"axis": 0, **options})
        result = _elementwise(ufunc, inputs, **options)
        if out and not isinstance(out[0], RecordedArray):
            raise TypeError("a recorded array is written into one that was made elsewhere")
        if where is not True:
            before = out[0].tensor if out else torch.empty_like(result)
            result = torch.where(tensor_of(where), result, before)
        if not out:
            return RecordedArray(result)
        out[0].tensor.copy_(result)
        return out[0]

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Call the function of torch that stands for a function of NumPy."""
        del types
        return call(func, args, kwargs)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let torch compute with an array as with its tensor: `tensor * array` is a tensor."""
        del cls, types
        return func(*_unwrapped(args), **_unwrapped(kwargs or {}))


def _operator(ufunc: np.ufunc, *, reflected: bool = False) -> Callable[..., Any]:
    def method(self: RecordedArray, *others: Any) -> Any:
        operands = (*others, self) if reflected else (self, *others)
        return self.__array_ufunc__(ufunc, "__call__", *operands)

    return method


def _in_place(ufunc: np.ufunc) -> Callable[[RecordedArray, Any], Any]:
    def method(self: RecordedArray, other: Any) -> Any:
        out = (self,) if self.ndim else ()  # a scalar is replaced, not changed
        return self.__array_ufunc__(ufunc, "__call__", self, other, out=out)

    return method


def _method(name: str) -> Callable[..., Any]:
    return lambda self, *args, **kwargs: call(getattr(np, name), (self, *args), kwargs)


for _name in _METHODS:
    setattr(RecordedArray, _name, _method(_name))
for _name, _ufunc in {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.divide,
    "floordiv": np.floor_divide, "mod": np.remainder, "pow": np.power, "matmul": np.matmul,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
}.items():  # fmt: skip
    setattr(RecordedArray, f"__{_name}__", _operator(_ufunc))
    setattr(RecordedArray, f"__r{_name}__", _operator(_ufunc, reflected=True))
    setattr(RecordedArray, f"__i{_name}__", _in_place(_ufunc))
for _name, _ufunc in {
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal,
    "ne": np.not_equal, "neg": np.negative, "pos": np.positive, "abs": np.absolute,
    "invert": np.invert,
}.items():  # fmt: skip
    setattr(RecordedArray, f"__{_name}__", _operator(_ufunc))


# -- the parts of a call


def _is_number(value: Any) -> bool:
    """Whether a value is a number of Python's, whose dtype follows the other operand (NEP 50)."""
    return type(value) in (bool, int, float)


@functools.cache
def _torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """Return torch's dtype for one of NumPy's; raises TypeError if torch has none."""
    return _from_numpy(np.ndarray((0,), dtype)).dtype


_NUMPY_DTYPES = {
    _torch_dtype(np.dtype(name)): np.dtype(name)
    for name in (
        "bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64",
        "complex64", "complex128",
    )
}  # fmt: skip


def _numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    if dtype not in _NUMPY_DTYPES:
        raise TypeError(f"NumPy has no {str(dtype).removeprefix('torch.')}")
    return _NUMPY_DTYPES[dtype]


def holds_recorded(value: Any) -> bool:
    """Whether a value is a tensor or a recorded array, or a list with one in it."""
    if type(value) in (list, tuple):
        return any(map(holds_recorded, value))
    return type(value) is RecordedArray or isinstance(value, Tensor)


def tensor_of(value: Any) -> Tensor:
    """Return the numbers of an array, a tensor, a number or a list of these as a tensor.

    An array that exists already is captured with its memory. A list or a number is a constant that
    the code makes.
    """
    if type(value) is RecordedArray:
        return value.tensor
    if isinstance(value, Tensor):
        return value.detach()
    if holds_recorded(value):
        parts = [tensor_of(part) for part in value]
        dtype = _torch_dtype(np.result_type(*(_numpy_dtype(part.dtype) for part in parts)))
        return torch.stack([part.to(dtype) for part in parts])
    if type(value) is np.ndarray:
        plain = value.flags.writeable and all(step >= 0 for step in value.strides)
        return _from_numpy(value if plain else value.copy())
    array = _array(value)
    return torch.tensor(array.tolist(), dtype=_torch_dtype(array.dtype))


def _unwrapped(value: Any) -> Any:
    """Return a value with each array of NumPy's in it, recorded or not, as a tensor."""
    if type(value) in (list, tuple):
        return type(value)(map(_unwrapped, value))
    if type(value) is dict:
        return {key: _unwrapped(part) for key, part in value.items()}
    if type(value) in (RecordedArray, np.ndarray):
        return tensor_of(value)
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return np.dtype(value).name
    if isinstance(value, np.integer | np.bool_):
        return value.item()
    return tensor_of(value) if isinstance(value, np.generic) else value


def _wrapped(value: Any) -> Any:
    """Return a value with each tensor in it as a recorded array."""
    if isinstance(value, list | tuple):
        return type(value)(map(_wrapped, value))
    value = getattr(value, "tensor", value)
    return RecordedArray(value) if isinstance(value, Tensor) else value


def _elementwise(
    ufunc: np.ufunc, inputs: Sequence[Any], *, dtype: Any = None, casting: Any = "same_kind"
) -> Tensor:
    """Return a ufunc of its operands, computed in the dtypes that NumPy resolves for them."""
    name = ufunc.__name__
    function = _OPERATORS.get(name) or _RENAMED.get(name) or getattr(torch, name, None)
    if function is None or ufunc.nout != 1:
        raise TypeError(f"np.{name} cannot be recorded")
    operands = [value if type(value) in (int, float) else tensor_of(value) for value in inputs]
    kinds = [type(v) if _is_number(v) else _numpy_dtype(v.dtype) for v in operands]
    asked: Any = {} if dtype is None else {"signature": (*[None] * ufunc.nin, np.dtype(dtype))}
    *loop, result = ufunc.resolve_dtypes((*kinds, None), casting=casting, **asked)
    for k, (value, kind) in enumerate(zip(operands, loop, strict=True)):
        if isinstance(value, Tensor):
            operands[k] = value.to(_torch_dtype(kind))
        elif name not in _OPERATORS:
            operands[k] = torch.tensor(value, dtype=_torch_dtype(kind))
    return function(*operands).to(_torch_dtype(result))


def _without_reversal(tensor: Tensor, index: Any) -> tuple[Tensor, Any]:
    """Return a tensor and an index without a slice of negative step, which torch does not have."""
    parts = index if type(index) is tuple else (index,)
    if not any(type(part) is slice and (part.step or 1) < 0 for part in parts):
        return tensor, index
    if any(holds_recorded(part) or isinstance(part, list | np.ndarray) for part in parts):
        raise TypeError("an index with arrays and a reversed slice cannot be recorded")
    kept = [part for part in parts if part is not None]
    if Ellipsis in kept:
        at = parts.index(Ellipsis)
        missing = tensor.ndim - (len(kept) - 1)
        parts = (*parts[:at], *[slice(None)] * missing, *parts[at + 1 :])
    result, dim = [], 0
    for part in parts:
        if type(part) is slice and (part.step or 1) < 0:
            size = tensor.shape[dim]
            picked = [size - 1 - k for k in range(*part.indices(size))]
            tensor = tensor.flip(dim)
            part = slice(picked[0], picked[-1] + 1, -part.step) if picked else slice(0, 0)
        result.append(part)
        dim += part is not None
    return tensor, tuple(result)


def _add_at(name: str, array: Any, index: Any, value: Any) -> None:
    """Add or subtract at an index, once for each time that an element occurs in it."""
    if name not in ("add", "subtract") or type(array) is not RecordedArray:
        raise TypeError(f"np.{name}.at cannot be recorded")
    added = tensor_of(value).to(array.tensor.dtype)
    added = -added if name == "subtract" else added
    indices = index if type(index) is tuple else (index,)
    if not any(isinstance(part, slice) or part is None or part is Ellipsis for part in indices):
        array.tensor.index_put_(tuple(map(tensor_of, indices)), added, accumulate=True)
        return
    if any(type(part) is RecordedArray for part in indices):
        raise TypeError(f"np.{name}.at with a slice and a recorded index cannot be recorded")
    flat = torch.from_numpy(np.arange(array.size).reshape(array.shape)[index])  # of each addition
    whole = array.tensor.reshape(-1)
    total = whole.index_put((flat,), added.expand(flat.shape), accumulate=True)
    array.tensor.copy_(total.reshape(array.shape))


def _imaginary(tensor: Tensor) -> Tensor:
    return tensor.imag if tensor.is_complex() else torch.zeros_like(tensor)


def _where(condition: Any, *values: Any) -> Any:
    if not values:
        return call(np.nonzero, (condition,), {})
    operands = [value if _is_number(value) else tensor_of(value) for value in values]
    kinds = [v if _is_number(v) else _numpy_dtype(v.dtype) for v in operands]
    dtype = _torch_dtype(np.result_type(*kinds))
    one, other = (torch.tensor(v, dtype=dtype) if _is_number(v) else v.to(dtype) for v in operands)
    return RecordedArray(torch.where(tensor_of(condition).bool(), one, other))


def _clip(array: Any, low: Any = None, high: Any = None, out: Any = None, **_: Any) -> Any:
    for ufunc, limit in ((np.maximum, low), (np.minimum, high)):
        if limit is not None:
            array = ufunc(_asarray_recorded(array), limit)
    return array if out is None else np.positive(array, out=out)


def _unravel_index(index: Any, shape: Sequence[int]) -> tuple[Any, ...]:
    parts: list[Any] = []
    for size in reversed(shape):
        parts.insert(0, index % size)
        index = index // size
    return tuple(parts)


# Functions of NumPy that torch lacks, or whose results share memory or follow a dtype otherwise.
_OWN: dict[str, Callable[..., Any]] = {
    "where": _where,
    "clip": _clip,
    "copy": lambda array, **_: RecordedArray(tensor_of(array).clone()),
    "reshape": lambda array, *shape, **_: _asarray_recorded(array).reshape(*shape),
    "ravel": lambda array, **_: _asarray_recorded(array).ravel(),
    "transpose": lambda array, axes=(): _asarray_recorded(array).transpose(*axes or ()),
    "unravel_index": _unravel_index,
    "shape": lambda array: array.shape,
    "ndim": lambda array: array.ndim,
    "size": lambda array, axis=None: array.size if axis is None else array.shape[axis],
}


def call(func: Any, args: Sequence[Any], kwargs: Any) -> Any:
    """Call what stands for a function of NumPy."""
    name, home = func.__name__, func.__module__.removeprefix("numpy").lstrip(".")
    name = {"amax": "max", "amin": "min"}.get(name, name)
    if not home and name in _OWN:
        return _OWN[name](*args, **kwargs)
    namespace = getattr(numpy_in_torch(), home, None) if home else numpy_in_torch()
    function = getattr(namespace, name, None)
    if function is None:
        raise TypeError(f"np.{'.'.join(filter(None, (home, name)))} cannot be recorded")
    out = kwargs.get("out")
    kwargs = {key: value for key, value in kwargs.items() if not _is_default(key, value)}
    result = _wrapped(function(*_unwrapped(args), **_unwrapped(kwargs)))
    return result if out is None else out


def _is_default(key: str, value: Any) -> bool:
    """Whether an argument is as good as none, so that torch need not know it."""
    return value is None or (key == "where" and value is True)


# -- functions that get no array: NumPy's protocols do not bring their calls here


def _asarray_recorded(value: Any, dtype: Any = None, *, copy: Any = None, **_: Any) -> Any:
    tensor = tensor_of(value)
    if dtype is not None:
        tensor = tensor.to(_torch_dtype(np.dtype(dtype)))
    fresh = type(value) is not RecordedArray or tensor is not value.tensor
    if copy and not (fresh and type(value) in (list, tuple)):
        tensor = tensor.clone()
    return value if not fresh and not copy else RecordedArray(tensor)


def _filled(shape: Any, value: Any, dtype: Any = None, **_: Any) -> RecordedArray:
    sizes = tuple(map(operator.index, shape)) if isinstance(shape, Sequence) else (int(shape),)
    if not _is_number(value):
        filled = tensor_of(value)
        filled = filled if dtype is None else filled.to(_torch_dtype(np.dtype(dtype)))
        return RecordedArray(filled.expand(sizes).clone())
    kind = np.dtype(type(value) if dtype is None else dtype)
    return RecordedArray(torch.full(sizes, value, dtype=_torch_dtype(kind)))


def _empty(shape: Any, dtype: Any = float, **_: Any) -> RecordedArray:
    sizes = shape if isinstance(shape, Sequence) else (shape,)
    return RecordedArray(torch.empty(tuple(sizes), dtype=_torch_dtype(np.dtype(dtype))))


def _like(make: Callable[..., RecordedArray]) -> Callable[..., RecordedArray]:
    def made(array: Any, *value: Any, dtype: Any = None, shape: Any = None, **_: Any) -> Any:
        like = tensor_of(array)
        kind = _numpy_dtype(like.dtype) if dtype is None else dtype
        return make(tuple(like.shape) if shape is None else shape, *value, dtype=kind)

    return made


def _zeros(shape: Any, dtype: Any = float, **_: Any) -> RecordedArray:
    return _filled(shape, 0, dtype)


def _ones(shape: Any, dtype: Any = float, **_: Any) -> RecordedArray:
    return _filled(shape, 1, dtype)


def _eye(rows: int, columns: int | None = None, k: int = 0, dtype: Any = float, **_: Any) -> Any:
    if k:
        raise TypeError("np.eye with another diagonal cannot be recorded")
    columns = rows if columns is None else columns
    return RecordedArray(torch.eye(rows, columns, dtype=_torch_dtype(np.dtype(dtype))))


#: NumPy's functions that make arrays.
CREATE: dict[str, Callable[..., Any]] = {
    "array": functools.partial(_asarray_recorded, copy=True),
    **dict.fromkeys(("asarray", "asanyarray", "ascontiguousarray"), _asarray_recorded),
    "zeros": _zeros, "ones": _ones, "empty": _empty, "full": _filled, "eye": _eye,
    "identity": _eye, "zeros_like": _like(_zeros), "ones_like": _like(_ones),
    "empty_like": _like(_empty), "full_like": _like(_filled),
}  # fmt: skip
_OWN |= CREATE
