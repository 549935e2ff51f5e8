"""Training data: a user's table is read as written, or one line says what to change in it."""

import csv
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compare.cases.data import Table, csv_table, digits
from compare.errors import BadInput

ROOT = Path(__file__).parent.parent

ROWS = [f"{n},{n * n / 4},{'red' if n % 2 else 'blue'}" for n in range(10)]
GOOD = "a,b,kind\n" + "\n".join(ROWS) + "\n"


def with_row(row: str) -> str:
    """Return the good table with `row` as its third line."""
    return "\n".join(["a,b,kind", ROWS[0], row, *ROWS[1:]])


def with_labels(*labels: object) -> str:
    """Return a table of one input and these labels."""
    return "\n".join(["a,kind", *(f"{n},{label}" for n, label in enumerate(labels))])


def written(place: Path, text: str | bytes) -> Path:
    """Write the table and return its path."""
    path = place / "t.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def read(place: Path, text: str | bytes, target: str | None = None, seed: int = 0) -> Table:
    """Write the table and read it."""
    return csv_table(written(place, text), target, seed)


def labels(table: Table) -> list[str]:
    """Return the class of every row, the test rows last."""
    return [table.classes[n] for n in np.vstack([table.y, table.y_test]).argmax(axis=1)]


TEXT = "save the file as CSV in UTF-8"
NAMES = "put a line of column names above the rows"
MISSING = "is a missing value: fill it in, or remove the row"
NUMBER = "is not a number: write one; only the target may be text"
FINITE = "is not finite: give a number that float64 can hold"
COUNT = "give one value for each column, and quote a value that contains a comma"
QUOTES = "check the quotes and commas from this line on"
UNIT = "cannot be standardised in float64: give them in another unit"
CLASSES = "are too many to be classes: name a target with at most half as many"

BAD_TABLES: dict[str, tuple[str | bytes, str]] = {
    "latin-1": ("a,kind\n1,x\n2,é\n".encode("latin-1"), f", line 3: byte 0xe9 is not text: {TEXT}"),
    "after a BOM": (b"\xef\xbb\xbfa\r\n\xff", f", line 2: byte 0xff is not text: {TEXT}"),
    "utf-16": (GOOD.encode("utf-16"), f", line 1: byte 0xff is not text: {TEXT}"),
    "NUL": ("a,b\r1,2\r\0", f", line 3: byte 0x00 is not text: {TEXT}"),
    "empty": ("", " is empty: give a line of column names, then the rows"),
    "blank": ("\n  \n\n", " is empty: give a line of column names, then the rows"),
    "header only": (
        "a,b,kind\n",
        ": rows below the column names: 0; give at least 10",
    ),
    "nine rows": (
        "\n".join(["a,b,kind", *ROWS[:9]]),
        ": rows below the column names: 9; give at least 10",
    ),
    "no names": (
        "1,2\n3,4\n",
        f", line 1: '1' is a number where a column name is expected: {NAMES}",
    ),
    "no names, text": (
        "5,5.1,setosa\n",
        f", line 1: '5.1' is a number where a column name is expected: {NAMES}",
    ),
    "name twice": ("a,b, a\n", ", line 1: columns 1 and 3 are both 'a': rename one"),
    "no name": ("\na,,b\n", ", line 2: column 2 has no name: give it one"),
    "semicolons": ("a;b;c\n", ", line 1: found ';' between the values: use commas"),
    "tabs": (
        "a\tb\n",
        ", line 1: found '\\t' between the values: use commas",
    ),
    "one column": ("kind\n", ", line 1: 'kind' is the only column: add one or more as inputs"),
    "a value less": (with_row("7,blue"), f", line 3: found 2 values for 3 columns: {COUNT}"),
    "a value more": (with_row("7,1,2,blue"), f", line 3: found 4 values for 3 columns: {COUNT}"),
    "no value": (with_row(" ,1,blue"), f", line 3, column 'a': '' {MISSING}"),
    "no values": (with_row(",,"), f", line 3, column 'a': '' {MISSING}"),
    "?": (with_row("1,?,blue"), f", line 3, column 'b': '?' {MISSING}"),
    "NaN": (with_row("1,NaN,blue"), f", line 3, column 'b': 'NaN' {MISSING}"),
    "no class": (with_row("1,1,NA"), f", line 3, column 'kind': 'NA' {MISSING}"),
    "text": (with_row("1,x,blue"), f", line 3, column 'b': 'x' {NUMBER}"),
    "decimal comma": (with_row('1,"2,5",blue'), f", line 3, column 'b': '2,5' {NUMBER}"),
    "underscore": (with_row("1_000,1,blue"), f", line 3, column 'a': '1_000' {NUMBER}"),
    "-nan": (with_row("-nan,1,blue"), f", line 3, column 'a': '-nan' {NUMBER}"),
    "long text": (
        with_row(f"{'x' * 999},1,blue"),
        f", line 3, column 'a': '{'x' * 12}...{'x' * 13}' {NUMBER}",
    ),
    "inf": (with_row("1,inf,blue"), f", line 3, column 'b': 'inf' {FINITE}"),
    "too large": (with_row("-1e400,1,blue"), f", line 3, column 'a': '-1e400' {FINITE}"),
    "below a quoted line": (
        with_row('1,1,"dark\nblue"\n\nx,1,blue'),
        f", line 6, column 'a': 'x' {NUMBER}",
    ),
    "in quoted lines": (with_row('1,"x\ny",blue'), f", line 3, column 'b': 'x y' {NUMBER}"),
    "quote not closed": (with_row('1,1,"blue'), f", line 3: unexpected end of data: {QUOTES}"),
    "quote closed early": (with_row('1,1,"bl"ue'), f", line 3: ',' expected after '\"': {QUOTES}"),
    "very long": (
        with_row("1,1," + "x" * 200_000),
        f", line 3: field larger than field limit (131072): {QUOTES}",
    ),
    "one class": (
        with_labels(*["x"] * 10),
        ", column 'kind': 'x' is the only class: give rows of at least two",
    ),
    "no classes": (
        with_labels(*range(6), *range(5)),
        f", column 'kind': 6 different values in 11 rows {CLASSES}",
    ),
    "one number, two ways": (
        with_labels(*"1212121212", "1.0"),
        ", column 'kind': '1' and '1.0' are the same number: write it the same way",
    ),
    "overflow": (
        with_row("1,1e200,blue"),
        f", column 'b': values from 0.0 to 1e+200 {UNIT}",
    ),
    "overflow of the mean": (
        GOOD + "1,1e308,blue\n" * 40,
        f", column 'b': values from 0.0 to 1e+308 {UNIT}",
    ),
    "underflow": (
        "a,kind\n" + "1e-300,x\n2e-300,y\n" * 9,
        f", column 'a': values from 1e-300 to 2e-300 {UNIT}",
    ),
}


@pytest.mark.parametrize(("text", "message"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_a_bad_table_gets_one_line(text: str | bytes, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(BadInput) as caught:
        csv_table(path, None, 0)
    assert str(caught.value) == f"{path}{message}"
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none.csv", "No such file or directory"),
        (".", "Is a directory"),
        ("t.csv/below", "Not a directory"),
        ("x" * 300, "File name too long"),
    ],
)
def test_a_file_that_cannot_be_read(name: str, reason: str, tmp_path: Path) -> None:
    written(tmp_path, GOOD)
    path = tmp_path / name
    with pytest.raises(BadInput) as caught:
        csv_table(path, None, 0)
    assert str(caught.value) == f"{path}: {reason}; name a CSV file that can be read"


@pytest.mark.parametrize(
    ("target", "hint"),
    [("kinds", "did you mean kind?"), ("zzz", "choose from a, b, kind")],
)
def test_a_target_that_is_no_column(target: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        read(tmp_path, GOOD, target)
    assert str(caught.value) == f"{tmp_path / 't.csv'}, line 1: unknown column '{target}': {hint}"


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_numpy_does_not_take(seed: int, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"^seed {seed}: numpy takes 0 to 4294967295$"):
        read(tmp_path, GOOD, seed=seed)


def test_a_class_with_test_rows_only(tmp_path: Path) -> None:
    """A class of one row is refused with the seeds that make it a test row, and with no other."""
    text, refused = with_labels(*"xyxyxyxyxz"), 0
    for seed in range(20):
        if 9 not in np.random.RandomState(seed).permutation(10)[:2]:
            assert read(tmp_path, text, seed=seed).y.sum(axis=0).min() >= 1
            continue
        refused += 1
        with pytest.raises(BadInput) as caught:
            read(tmp_path, text, seed=seed)
        assert str(caught.value) == (
            f"{tmp_path / 't.csv'}, column 'kind': class 'z' has too few rows (1): "
            f"seed {seed} makes all of them test rows; add rows, or choose another seed"
        )
    assert 0 < refused < 20


WHOLE = st.integers(-(10**6), 10**6)


@given(
    rows=st.lists(st.tuples(WHOLE, WHOLE, st.sampled_from(["x", "y, z"])), min_size=10),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([1.0, 0.1, 1e-30, 1e30]),
)
def test_a_table_is_read_as_written(
    rows: list[tuple[int, int, str]],
    seed: int,
    scale: float,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Every row appears once, with its class, and standardised by the training rows."""
    rows = [*rows, *[(0, 0, "x"), (1, 2, "y, z")] * len(rows)]  # too many to be all test rows
    numbers = np.array([row[:2] for row in rows]) * scale
    file = io.StringIO()
    csv.writer(file).writerows(
        [["a", "kind", "b"], *([a, row[2], b] for (a, b), row in zip(numbers, rows, strict=True))]
    )
    table = read(tmp_path_factory.mktemp("t"), file.getvalue(), "kind", seed)
    order = np.random.RandomState(seed).permutation(len(rows))
    back = len(rows) // 5
    assert len(table.X_test) == len(table.y_test) == back
    order = np.concatenate([order[back:], order[:back]])
    assert labels(table) == [rows[n][2] for n in order]

    learnt = numbers[order[: len(rows) - back]]
    unit = np.where(np.ptp(learnt, axis=0) == 0, 1, learnt.std(axis=0))
    written_again = np.vstack([table.X, table.X_test]) * unit + learnt.mean(axis=0)
    np.testing.assert_allclose(written_again, numbers[order], rtol=1e-9, atol=1e-9 * scale)
    assert abs(table.X.mean(axis=0)).max() < 1e-6
    for column in table.X.T:
        assert (column == 0).all() or column.std() == pytest.approx(1)


def test_a_good_table(tmp_path: Path) -> None:
    table = read(tmp_path, GOOD)
    assert (table.X.shape, table.y.shape) == ((8, 2), (8, 2))
    assert (table.X_test.shape, table.y_test.shape) == ((2, 2), (2, 2))
    assert {array.dtype for array in (table.X, table.y, table.X_test, table.y_test)} == {
        np.dtype("float64")
    }
    assert table.classes == ("blue", "red")
    np.testing.assert_array_equal(table.y.sum(axis=1), 1)


def test_the_seed_chooses_the_test_rows(tmp_path: Path) -> None:
    one, same, other = (read(tmp_path, GOOD, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.X_test, same.X_test)
    np.testing.assert_array_equal(one.y, same.y)
    assert not np.array_equal(one.X_test, other.X_test)


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbf" + GOOD.encode(),
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", "\r"),
        GOOD.replace("\n", "\n\n \n"),
        GOOD.replace(",", " , ").rstrip("\n"),
        GOOD.replace("a,b", '"a", "b"').replace(",red", ', "red"'),
        GOOD.replace(",2.25,", ",+225e-2,"),
    ],
    ids=["BOM", "CRLF", "CR", "blank lines", "spaces", "quotes", "spelling"],
)
def test_the_same_table_in_another_form(text: str | bytes, tmp_path: Path) -> None:
    table, plain = read(tmp_path, text, "kind"), read(tmp_path, GOOD)
    np.testing.assert_array_equal(table.X, plain.X)
    np.testing.assert_array_equal(table.y_test, plain.y_test)
    assert table.classes == plain.classes


def test_a_quoted_value_may_hold_commas_and_lines(tmp_path: Path) -> None:
    text = GOOD.replace("red", '"red, ""dark""\nor light"').replace("kind", '"kind,\nor so"')
    assert read(tmp_path, text, "kind, or so").classes == ("blue", 'red, "dark" or light')


def test_any_column_may_be_the_target(tmp_path: Path) -> None:
    text = "kind,a\n" + "\n".join(f"{'xy'[n % 2]},{n}" for n in range(10))
    for table in (read(tmp_path, text, " kind "), read(tmp_path, "\ufeff" + text, "kind")):
        assert (table.classes, table.X.shape) == (("x", "y"), (8, 1))


def test_unusual_column_names_are_accepted(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD.replace("a,b", "0,1")).X.shape == (8, 2)
    assert read(tmp_path, GOOD.replace("a,b", "a;b,c")).X.shape == (8, 2)


def test_classes_may_be_half_as_many_as_rows(tmp_path: Path) -> None:
    assert read(tmp_path, with_labels(*range(5), *range(5))).classes == tuple("01234")


def test_the_bad_column_is_named_where_the_target_comes_first(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="column 'a': values from 1e-300 to 2e-300 cannot be"):
        read(tmp_path, "kind,a\n" + "x,1e-300\ny,2e-300\n" * 9, "kind")


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["10", "9", "-1.5"], ("-1.5", "9", "10")),
        (["10", "9", "x"], ("10", "9", "x")),
        (["b", "B", "a"], ("B", "a", "b")),
    ],
)
def test_the_order_of_the_classes(names: list[str], order: tuple[str, ...], tmp_path: Path) -> None:
    assert read(tmp_path, with_labels(*names * 5)).classes == order


@pytest.mark.parametrize("value", ["0.1", "1e300", "0"])
def test_a_constant_column_is_only_centred(value: str, tmp_path: Path) -> None:
    """It becomes exactly 0, though the rounded mean of many 0.1 is another number than 0.1."""
    text = "a,b,kind\n" + "".join(f"{n},{value},{'xy'[n % 2]}\n" for n in range(20))
    assert (read(tmp_path, text).X[:, 1] == 0).all()


def test_a_column_that_is_constant_in_the_training_rows_only(tmp_path: Path) -> None:
    back = np.random.RandomState(0).permutation(10)[0]
    text = "a,b,kind\n" + "".join(f"{n},{7 if n == back else 5},{'xy'[n % 2]}\n" for n in range(10))
    table = read(tmp_path, text)
    assert (table.X[:, 1] == 0).all()
    assert table.X_test[:, 1].tolist() == [2, 0]


def test_the_digits_always_have_the_same_split() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    table, again = digits(), digits()
    assert (table.X.shape, table.y.shape) == ((1438, 64), (1438, 10))
    assert (table.X_test.shape, table.y_test.shape) == ((359, 64), (359, 10))
    assert table.classes == tuple("0123456789")
    X, y = np.vstack([table.X, table.X_test]), np.vstack([table.y, table.y_test])
    assert {X.dtype, y.dtype} == {np.dtype("float64")}
    assert (X.min(), X.max()) == (0, 1)
    np.testing.assert_array_equal(X, np.vstack([again.X, again.X_test]))

    pixels, digit = datasets.load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(1797)
    order = np.concatenate([order[359:], order[:359]])
    np.testing.assert_array_equal(X * 16, pixels[order])
    assert labels(table) == [str(n) for n in digit[order]]


def test_the_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(BadInput) as caught:
        digits()
    assert str(caught.value) == (
        "digits needs scikit-learn, which is not installed: pip install 'deltacheck[digits]'"
    )


def test_reading_needs_neither_torch_nor_scikit_learn() -> None:
    code = "import sys, compare.cases.data\nassert not {'torch', 'sklearn'} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
