"""Training and test data: scikit-learn's digits, and the user's own table in a CSV file."""

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

Line = tuple[int, list[str]]  # the line's number in the file, and its values


@dataclass(frozen=True)
class Table:
    """Training rows and test rows; all float64, y one-hot."""

    X: np.ndarray  # (rows, inputs)
    y: np.ndarray  # (rows, classes)
    X_test: np.ndarray  # (test rows, inputs)
    y_test: np.ndarray  # (test rows, classes)
    classes: tuple[str, ...]  # names of the columns of y


def digits() -> Table:
    """Return scikit-learn's 1797 digits, 8 x 8 pixels from 0 to 1, always with the same split.

    Raises:
        BadInput: if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise BadInput(
            "digits needs scikit-learn, which is not installed: pip install 'deltacheck[digits]'"
        ) from None
    pixels, labels = load_digits(return_X_y=True)
    X, y = pixels / 16, np.eye(10)[labels]
    train, test = _split(len(X), seed=0)
    return Table(X[train], y[train], X[test], y[test], tuple("0123456789"))


def csv_table(path: Path, target: str | None, seed: int) -> Table:
    """Read a table from a CSV file: a line of column names, then one row of values a line.

    Each input column is standardised with the mean and standard deviation of the training rows.

    Args:
        path: the file, or a pipe.
        target: name of the column of classes; None takes the last column.
        seed: seed of the random split, which makes a fifth of the rows test rows.

    Raises:
        BadInput: for anything in the file that cannot be used; the message names the line.
    """
    lines = _lines(path, _text(path))
    names, target_index = _header(path, lines, target)
    inputs, labels = _values(path, lines, names, target_index)
    classes = _classes(path, names[target_index], labels)
    try:
        train, test = _split(len(labels), seed)
    except ValueError:
        raise BadInput(f"seed {seed}: numpy takes 0 to {2**32 - 1}") from None

    trained = {labels[row] for row in train}
    for name, rows in Counter(labels).items():
        if name not in trained:
            raise BadInput(
                f"{path}, column {names[target_index]!r}: class {reprlib.repr(name)} has too few "
                f"rows ({rows}): seed {seed} makes all of them test rows; add rows, or choose "
                "another seed"
            )
    column = {name: n for n, name in enumerate(classes)}
    y = np.eye(len(classes))[[column[label] for label in labels]]
    input_names = names[:target_index] + names[target_index + 1 :]
    X = _standardised(path, input_names, np.array(inputs), train)
    return Table(X[train], y[train], X[test], y[test], classes)


def _split(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the training rows, and of the test rows, a fifth of all."""
    order = np.random.RandomState(seed).permutation(rows)
    return order[rows // 5 :], order[: rows // 5]


def _text(path: Path) -> str:
    """Return the text of the file, without a byte order mark."""
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
    """Yield the lines that are not blank, each with its number.

    A row whose quotes span several lines has the number of the first of them. White space around a
    value is dropped, and a line end inside a value becomes a space.
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
    """Return the names of the columns, and the index of the target among them."""
    line, names = next(lines, (1, []))
    where = f"{path}, line {line}"
    if not names:
        raise BadInput(f"{path} is empty: give a line of column names, then the rows")
    for separator in ";\t":
        if len(names) == 1 and separator in names[0]:
            raise BadInput(f"{where}: found {separator!r} between the values: use commas")
    numbers = [name for name in names if math.isfinite(_number(name))]
    if len(numbers) < len(names):  # whole numbers may then be names: pandas writes such headers
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
    target_name = names[-1] if target is None else " ".join(target.strip().splitlines())
    if target_name not in names:
        raise BadInput(f"{where}: {unknown('column', target_name, names)}")
    if len(names) == 1:
        raise BadInput(f"{where}: {target_name!r} is the only column: add one or more as inputs")
    return names, names.index(target_name)


def _values(
    path: Path, lines: Iterator[Line], names: list[str], target_index: int
) -> tuple[list[list[float]], list[str]]:
    """Return the inputs of each row, and the labels in the target column."""
    inputs, labels = [], []
    for line, row in lines:
        if len(row) != len(names):
            raise BadInput(
                f"{path}, line {line}: found {len(row)} values for {len(names)} columns: "
                "give one value for each column, and quote a value that contains a comma"
            )
        numbers = []
        for n, (name, value) in enumerate(zip(names, row, strict=True)):
            where = f"{path}, line {line}, column {name!r}: {reprlib.repr(value)}"
            if value.lower() in MISSING:
                raise BadInput(f"{where} is a missing value: fill it in, or remove the row")
            if n == target_index:
                continue
            number = _number(value)
            if math.isnan(number):
                raise BadInput(f"{where} is not a number: write one; only the target may be text")
            if math.isinf(number):
                raise BadInput(f"{where} is not finite: give a number that float64 can hold")
            numbers.append(number)
        inputs.append(numbers)
        labels.append(row[target_index])
    if len(labels) < FEWEST_ROWS:
        raise BadInput(
            f"{path}: rows below the column names: {len(labels)}; give at least {FEWEST_ROWS}"
        )
    return inputs, labels


def _number(value: str) -> float:
    """Return `value` as a number, NaN if it is not one."""
    try:
        return math.nan if "_" in value else float(value)  # Python reads 1_000 as 1000
    except ValueError:
        return math.nan


def _classes(path: Path, target: str, labels: list[str]) -> tuple[str, ...]:
    """Return the distinct labels in order: by value if all are numbers, else as text."""
    where = f"{path}, column {target!r}"
    classes = sorted(set(labels))
    if len(classes) == 1:
        only = reprlib.repr(classes[0])
        raise BadInput(f"{where}: {only} is the only class: give rows of at least two")
    if len(classes) > len(labels) / 2:
        raise BadInput(
            f"{where}: {len(classes)} different values in {len(labels)} rows are too many to "
            "be classes: name a target with at most half as many"
        )
    if not all(math.isfinite(_number(name)) for name in classes):
        return tuple(classes)
    classes.sort(key=_number)
    for one, other in pairwise(classes):
        if _number(one) == _number(other):
            raise BadInput(
                f"{where}: {one!r} and {other!r} are the same number: write it the same way"
            )
    return tuple(classes)


def _standardised(path: Path, names: list[str], X: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return X minus the mean of the rows `train`, divided by their standard deviation."""
    rows = X[train]
    constant = (rows == rows[0]).all(axis=0)  # a rounded mean would leave noise in such a column
    with np.errstate(all="ignore"):  # an overflow raises BadInput below
        centre = np.where(constant, rows[0], rows.mean(axis=0))
        spread = np.where(constant, 1, rows.std(axis=0))
        result: np.ndarray = (X - centre) / spread
    usable = np.isfinite(spread) & np.isfinite(result).all(axis=0)
    for name, column, is_usable in zip(names, X.T, usable, strict=True):
        if not is_usable:
            raise BadInput(
                f"{path}, column {name!r}: values from {column.min()} to {column.max()} cannot be "
                "standardised in float64: give them in another unit"
            )
    return result
