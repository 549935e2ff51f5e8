"""Pictures: how they summarise large matrices, and that their size is bounded."""

import io
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from compare.board.pictures import Pair, confusion, heat_maps


def pixels(png: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(png)))


def test_a_large_matrix_shows_the_largest_of_each_block() -> None:
    """The picture equals that of a small matrix with only these values."""
    large, small = np.zeros((640, 128)), np.zeros((64, 64))
    for row, column, value in ((3, 5, -2.0), (63, 0, 1.0), (20, 63, 0.5)):
        large[10 * row + row % 10, 2 * column + 1] = small[row, column] = value
    one, other = (pixels(heat_maps("", [Pair("", m, m / 2)])) for m in (large, small))
    one, other = (each[80:, 150:] for each in (one, other))  # without the text of the shape
    assert (one == other).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_heat_map_needs_less_memory_than_the_matrix(dtype: type) -> None:
    values: np.ndarray = np.ones((4096, 2048), dtype)
    tracemalloc.start()
    heat_maps("", [Pair("w", values, values)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values.nbytes


def test_heat_maps_of_many_quantities_show_some() -> None:
    pairs = [Pair(f"s{k}", np.ones((9, 9)), np.ones((9, 9))) for k in range(3000)]
    assert pixels(heat_maps("", pairs)).shape[0] < 64 * 220


@pytest.mark.parametrize(("classes", "rows"), [(65, 65), (2500, 2500), (2500, 250), (1000, 1000)])
def test_many_classes_share_cells(classes: int, rows: int) -> None:
    counts = np.zeros((rows, rows), np.int64)
    counts[0, 0] = 7
    picture = pixels(confusion("", counts, [f"c{k}" for k in range(classes)]))
    assert max(picture.shape) < 2400
    few = pixels(confusion("", counts[:1, :1], ["c0"]))
    assert (picture[66:98, 110:142] == few[66:98, 110:142]).all()  # the same first cell: 7


def test_counts_are_summed() -> None:
    """Four counts per cell: the picture equals that of a matrix with the sum."""
    counts = np.full((128, 128), 0)
    counts[:2, :2] = 10
    counts[0, 0] = 11
    summed = pixels(confusion("", counts, [str(k) for k in range(128)]))
    plain = np.zeros((64, 64), np.int64)
    plain[0, 0] = 41
    same = pixels(confusion("", plain, [str(2 * k) for k in range(64)]))
    assert (summed[28:] == same[28:]).all()  # without the title
