"""Rows to train on: scikit-learn's digits, and a person's own table in a CSV file."""

import csv
import io
import math
import re
import reprlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from compare.cases.table_file import table_bytes
from compare.errors import BadInput, unknown

MISSING = {"", "?", "na", "n/a", "nan", "null"}  # in lower case
FEWEST_ROWS = 10

Line = tuple[int, list[str]]  # its number in the file, its values


@dataclass(frozen=True)
class Table:
    """Rows to learn from, and rows kept back; all float64, y one-hot."""

    X: np.ndarray  # (rows, inputs)
    y: np.ndarray  # (rows, classes)
    X_test: np.ndarray  # kept back, likewise
    y_test: np.ndarray
    classes: tuple[str, ...]  # the names of y's columns


def digits() -> Table:
    """Return scikit-learn's 1797 digits, 8 x 8 pixels in 0 to 1, always split the same way.

    Raises BadInput where scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise BadInput(
            "digits: they come with scikit-learn, which is missing here: "
            "pip install 'deltacheck[digits]'"
        ) from None
    pixels, labels = load_digits(return_X_y=True)
    X, y = pixels / 16, np.eye(10)[labels]
    train, back = _split(len(X), seed=0)
    return Table(X[train], y[train], X[back], y[back], tuple("0123456789"))


def csv_table(path: Path, target: str | None, seed: int) -> Table:
    """Read a CSV file: a line of column names, then numbers, and classes in column `target`.

    The target is the last column if None. `seed` chooses the fifth of the rows that is kept back;
    the mean and standard deviation of the others standardise each column. Raises BadInput for
    anything in the file that cannot be used.
    """
    lines = _lines(path, _text(path))
    names, at = _header(path, lines, target)
    inputs, labels = _values(path, lines, names, at)
    classes = _classes(path, names[at], labels)
    try:
        train, back = _split(len(labels), seed)
    except ValueError:
        raise BadInput(f"seed {seed}: numpy takes 0 to {2**32 - 1}") from None

    learnt = {labels[row] for row in train}
    for name, rows in Counter(labels).items():
        if name not in learnt:
            raise BadInput(
                f"{path}, column {names[at]!r}: class {reprlib.repr(name)} has too few rows "
                f"({rows}): seed {seed} keeps them all back; give more, or another seed"
            )
    column = {name: n for n, name in enumerate(classes)}
    y = np.eye(len(classes))[[column[label] for label in labels]]
    X = _standardised(path, names[:at] + names[at + 1 :], np.array(inputs), train)
    return Table(X[train], y[train], X[back], y[back], classes)


def _split(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows to learn from, and the fifth of all rows to keep back."""
    order = np.random.RandomState(seed).permutation(rows)
    return order[rows // 5 :], order[: rows // 5]


def _text(path: Path) -> str:
    """Return what is in the file, without a byte order mark."""
    data = table_bytes(path)
    # a byte that is not UTF-8 becomes a lone surrogate with its value at the end
    text = data.decode("utf-8-sig", errors="surrogateescape")
    if bad := re.search("[\0\udc80-\udcff]", text):
        line = len(list(io.StringIO(text[: bad.end()], newline="")))
        raise BadInput(
            f"{path}, line {line}: byte 0x{ord(bad[0]) & 0xFF:02x} is not text: "
            "save the file as CSV in UTF-8"
        )
    return text


def _lines(path: Path, text: str) -> Iterator[Line]:
    """Yield the lines that are not blank, by the number of the first where a quote spans several.

    White space around a value goes, and a line end inside becomes a space.
    """
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    number = 1
    try:
        for row in reader:
            values = [" ".join(value.strip().splitlines()) for value in row]
            if values not in ([], [""]):
                yield number, values
            number = reader.line_num + 1
    except csv.Error as error:
        raise BadInput(
            f"{path}, line {number}: {error}: check the quotes and commas from this line on"
        ) from None


def _header(path: Path, lines: Iterator[Line], target: str | None) -> tuple[list[str], int]:
    """Return the names of the columns, and the place of the target among them."""
    line, names = next(lines, (1, []))
    where = f"{path}, line {line}"
    if not names:
        raise BadInput(f"{path} is empty: give a line of column names, then the rows")
    for separator in ";\t":
        if len(names) == 1 and separator in names[0]:
            raise BadInput(f"{where}: found {separator!r} between the values: write commas")
    numbers = [name for name in names if math.isfinite(_number(name))]
    if len(numbers) < len(names):  # then whole numbers may be names: pandas writes such
        numbers = [name for name in numbers if not name.isdecimal()]
    if numbers:
        raise BadInput(
            f"{where}: {numbers[0]!r} is a number where a column name is expected: "
            "put a line of column names above the rows"
        )
    for n, name in enumerate(names, start=1):
        if not name:
            raise BadInput(f"{where}: column {n} has no name: give it one")
        if (first := names.index(name) + 1) < n:
            raise BadInput(f"{where}: columns {first} and {n} are both {name!r}: rename one")
    wanted = names[-1] if target is None else " ".join(target.strip().splitlines())
    if wanted not in names:
        raise BadInput(f"{where}: {unknown('column', wanted, names)}")
    if len(names) == 1:
        raise BadInput(f"{where}: {wanted!r} is the only column: add one or more as inputs")
    return names, names.index(wanted)


def _values(
    path: Path, lines: Iterator[Line], names: list[str], at: int
) -> tuple[list[list[float]], list[str]]:
    """Return each row's inputs, and its value in the target column."""
    inputs, labels = [], []
    for line, row in lines:
        if len(row) != len(names):
            raise BadInput(
                f"{path}, line {line}: found {len(row)} values for {len(names)} columns: "
                "give one each, in quotes where a value contains a comma"
            )
        numbers = []
        for n, (name, value) in enumerate(zip(names, row, strict=True)):
            where = f"{path}, line {line}, column {name!r}: {reprlib.repr(value)}"
            if value.lower() in MISSING:
                raise BadInput(f"{where} is a missing value: fill it in, or take the row out")
            if n == at:
                continue
            number = _number(value)
            if math.isnan(number):
                raise BadInput(f"{where} is no number: write one; only the target may be text")
            if math.isinf(number):
                raise BadInput(f"{where} is not finite: give a number that float64 can hold")
            numbers.append(number)
        inputs.append(numbers)
        labels.append(row[at])
    if len(labels) < FEWEST_ROWS:
        raise BadInput(
            f"{path}: rows below the column names: {len(labels)}; give at least {FEWEST_ROWS}"
        )
    return inputs, labels


def _number(value: str) -> float:
    """Return the number that `value` spells, NaN if it spells none."""
    try:
        return math.nan if "_" in value else float(value)  # Python reads 1_000 as 1000
    except ValueError:
        return math.nan


def _classes(path: Path, target: str, labels: list[str]) -> tuple[str, ...]:
    """Return the different labels, by size if all are numbers."""
    where = f"{path}, column {target!r}"
    classes = sorted(set(labels))
    if len(classes) == 1:
        only = reprlib.repr(classes[0])
        raise BadInput(f"{where}: {only} is the only class: give rows of at least two")
    if len(classes) > len(labels) / 2:
        raise BadInput(
            f"{where}: {len(classes)} different values in {len(labels)} rows are no classes: "
            "name a target with at most half as many"
        )
    if not all(math.isfinite(_number(name)) for name in classes):
        return tuple(classes)
    classes.sort(key=_number)
    for one, other in pairwise(classes):
        if _number(one) == _number(other):
            raise BadInput(f"{where}: {one!r} and {other!r} are one number: write it in one way")
    return tuple(classes)


def _standardised(path: Path, names: list[str], X: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return X less the mean of the rows in `train`, in units of their standard deviation."""
    learnt = X[train]
    constant = (learnt == learnt[0]).all(axis=0)  # there a rounded mean would leave noise
    with np.errstate(all="ignore"):  # what overflows is found below
        centre = np.where(constant, learnt[0], learnt.mean(axis=0))
        spread = np.where(constant, 1, learnt.std(axis=0))
        result: np.ndarray = (X - centre) / spread
    usable = np.isfinite(spread) & np.isfinite(result).all(axis=0)
    for name, column, fine in zip(names, X.T, usable, strict=True):
        if not fine:
            raise BadInput(
                f"{path}, column {name!r}: values from {column.min()} to {column.max()} cannot be "
                "standardised in float64: give them in another unit"
            )
    return result
