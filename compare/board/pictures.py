"""Heat maps, a decision surface and a confusion matrix, each as a PNG with labels and scales.

They are drawn with Pillow, which TensorBoard depends on: a picture takes milliseconds, while merely
importing matplotlib would take longer than a run may spend on its pictures.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_MOST_CELLS = 64  # of a map's side; of a larger matrix, the largest value of each block is shown
_MOST_PAIRS = 64  # quantities in one picture
_SIDE = 168  # pixels of a map's longer side
_LABEL = 150
_GAP = 16
_LINE = 15
_INK, _PALE, _PAPER = (30, 30, 30), (110, 110, 110), (255, 255, 255)
_MINUS, _PLUS, _APART = (33, 102, 172), (178, 24, 43), (217, 95, 2)


@dataclass(frozen=True)
class Pair:
    """A quantity on both sides, as matrices of the same shape."""

    name: str
    manual: np.ndarray
    autograd: np.ndarray


def heat_maps(title: str, pairs: Sequence[Pair]) -> bytes:
    """Draw one row of three maps for each quantity: by hand, autograd, |difference|.

    Blue is negative, red is positive, white is 0. The first two maps of a row share one scale.

    Args:
        title: the headline of the picture.
        pairs: the quantities; of more than 64, an even selection is drawn.

    Returns:
        the picture as a PNG.
    """
    if len(pairs) > _MOST_PAIRS:
        last = len(pairs) - 1
        title += f": {_MOST_PAIRS} of {len(pairs):,} quantities"
        pairs = [pairs[last * k // (_MOST_PAIRS - 1)] for k in range(_MOST_PAIRS)]
    rows = [_maps(pair) for pair in pairs]
    heights = [len(maps[0][0]) * _cell(maps[0][0]) + 2 * _LINE for maps in rows]
    width = _LABEL + 3 * (_SIDE + _GAP) + _GAP
    picture, draw = _paper(width, 3 * _LINE + sum(h + _GAP for h in heights) + _GAP)
    _write(draw, _GAP, 6, title, 13)
    for k, heading in enumerate(("by hand", "autograd", "|difference|")):
        _write(draw, _LABEL + k * (_SIDE + _GAP), _LINE + 12, heading)
    top = 3 * _LINE
    for pair, maps, height in zip(pairs, rows, heights, strict=True):
        _write(draw, _GAP, top, pair.name)
        _write(draw, _GAP, top + _LINE, " x ".join(map(str, pair.manual.shape)), 11, _PALE)
        for k, (values, most, scale) in enumerate(maps):
            left = _LABEL + k * (_SIDE + _GAP)
            colours = _sequential(values, most) if k == 2 else _diverging(values, most)
            bottom = _matrix(picture, draw, colours, left, top)
            _write(draw, left, bottom + 2, scale, 11, _PALE)
        top += height + _GAP
    return _png(picture)


def _maps(pair: Pair) -> list[tuple[np.ndarray, float, str]]:
    """Return the three maps of a quantity, each with the largest value and the text of its scale.

    It converts one band of rows at a time to float64, because the matrix may be the largest tensor
    of the run.
    """
    step = -(-len(pair.manual) // _MOST_CELLS) or 1
    bands: list[list[np.ndarray]] = [[], [], []]
    largest_value = largest_difference = 0.0
    for start in range(0, max(1, len(pair.manual)), step):
        sides = [m[start : start + step].astype(np.float64) for m in (pair.manual, pair.autograd)]
        with np.errstate(invalid="ignore"):  # inf - inf
            difference = np.abs(sides[0] - sides[1])
        largest_value = max(largest_value, *(_largest(np.abs(side)) for side in sides))
        largest_difference = max(largest_difference, _largest(difference))
        for maps, values in zip(bands, (*sides, difference), strict=True):
            maps.append(_largest_of_blocks(values))
    scale = f"-{largest_value:.3g} to {largest_value:.3g}"
    scales = (
        scale,
        scale,
        f"0 to {largest_difference:.3g}" if largest_difference else "0 everywhere",
    )
    return [
        (np.concatenate(maps), most, scale)
        for maps, most, scale in zip(
            bands, (largest_value, largest_value, largest_difference), scales, strict=True
        )
    ]


def _largest_of_blocks(band: np.ndarray) -> np.ndarray:
    """Return a band of rows as one row of at most _MOST_CELLS: the largest value of each block."""
    columns = -(-band.shape[1] // _MOST_CELLS) or 1
    if len(band) == columns == 1:
        return band
    wide = np.pad(band, [(0, 0), (0, -band.shape[1] % columns)])
    blocks = wide.reshape(len(wide), -1, columns).swapaxes(0, 1)
    flat = blocks.reshape(len(blocks), -1)
    largest = np.abs(np.nan_to_num(flat, nan=np.inf)).argmax(-1)
    row: np.ndarray = np.take_along_axis(flat, largest[:, None], -1).T
    return row


def surface(title: str, grid: np.ndarray, axes: Sequence[tuple[str, float, float]],
            points: Sequence[tuple[float, float, float]]) -> bytes:  # fmt: skip
    """Draw the output of a network over two of its inputs, from blue (smallest) to red (largest).

    Args:
        title: the headline of the picture.
        grid: the output at grid[row, column]; rows go upwards, along the second input.
        axes: (name, smallest, largest) of both inputs.
        points: the training data: both inputs and the target of each row.

    Returns:
        the picture as a PNG.
    """
    side = 320
    least, most = float(grid.min()), float(grid.max())
    middle, reach = (least + most) / 2, max((most - least) / 2, 1e-12)
    picture, draw = _paper(side + 190, side + 90)
    left, top = 70, 36
    _write(draw, _GAP, 8, title, 13)
    colours = _diverging(grid[::-1] - middle, reach)
    image = Image.fromarray(colours).resize((side, side), Image.Resampling.NEAREST)
    picture.paste(image, (left, top))
    (x_name, x0, x1), (y_name, y0, y1) = axes
    for x, y, target in points:
        at = (left + (x - x0) / (x1 - x0) * side, top + side - (y - y0) / (y1 - y0) * side)
        box = (at[0] - 7, at[1] - 7, at[0] + 7, at[1] + 7)
        colour = tuple(int(c) for c in _diverging(np.array([[target - middle]]), reach)[0, 0])
        draw.ellipse(box, fill=colour, outline=_INK, width=2)
    for share in (0, 0.5, 1):
        along, up = x0 + share * (x1 - x0), y0 + share * (y1 - y0)
        _write(draw, left + share * side - 8, top + side + 6, f"{along:.3g}", 11)
        _write(draw, left - 34, top + side - share * side - 7, f"{up:.3g}", 11)
    _write(draw, left + side / 2 - 30, top + side + 24, x_name)
    _write(draw, _GAP, top + side / 2 - 30, y_name)
    bar = _diverging(np.linspace(1, -1, side)[:, None] * reach, reach)
    picture.paste(Image.fromarray(bar).resize((18, side)), (left + side + 24, top))
    for share, value in ((0.0, most), (0.5, middle), (1.0, least)):
        _write(draw, left + side + 48, top + share * side - 7, f"{value:.3g}", 11)
    return _png(picture)


def confusion(title: str, counts: np.ndarray, classes: Sequence[str]) -> bytes:
    """Draw a confusion matrix: true classes downwards, predicted classes to the right.

    With many classes, each cell is the sum over several neighbouring classes and has the name of
    the first.

    Args:
        title: the headline of the picture.
        counts: the number of data rows, counts[true, predicted]; may be summed over classes.
        classes: the names of all classes.

    Returns:
        the picture as a PNG.
    """
    each = -(-len(counts) // _MOST_CELLS)
    shared = each * -(-len(classes) // len(counts))
    for axis in (0, 1):
        counts = np.add.reduceat(counts, np.arange(0, counts.shape[axis], each), axis)
    title += f"; {shared} classes to a cell" if shared > 1 else ""
    classes = classes[::shared]
    cell, left, top = 34, 110, 66
    side = cell * len(classes)
    picture, draw = _paper(left + side + _GAP, top + side + _GAP)
    _write(draw, _GAP, 8, title, 13)
    _write(draw, left, 28, "predicted class", 11, _PALE)
    _write(draw, _GAP, top - 18, "true class", 11, _PALE)
    most = max(1, int(counts.max()))
    for row, name in enumerate(classes):
        _write(draw, _GAP, top + row * cell + 9, name[:12])
        _write(draw, left + row * cell + 8, top - 18, name[:4])
        for column in range(len(classes)):
            count = int(counts[row, column])
            hue = _MINUS if row == column else _APART
            share = 0.0 if not count else 0.15 + 0.85 * count / most
            x, y = left + column * cell, top + row * cell
            colour = tuple(int(p + (h - p) * share) for p, h in zip(_PAPER, hue, strict=True))
            draw.rectangle([x, y, x + cell - 2, y + cell - 2], fill=colour)
            if count:
                _write(draw, x + 8, y + 9, str(count), ink=_PAPER if share > 0.6 else _INK)
    return _png(picture)


def _paper(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("RGB", (width, height), _PAPER)
    return picture, ImageDraw.Draw(picture)


def _write(
    draw: ImageDraw.ImageDraw, x: float, y: float, text: str, size: int = 12, ink: Any = _INK
) -> None:
    draw.text((x, y), text, fill=ink, font=ImageFont.load_default(size))


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _largest(values: np.ndarray) -> float:
    """Return the largest finite value, 0 if there is none."""
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else 0.0


def _cell(values: np.ndarray) -> int:
    """Return the side of one cell in pixels."""
    longer: int = max(values.shape[:2])
    return max(2, min(24, _SIDE // longer))


def _matrix(
    picture: Image.Image, draw: ImageDraw.ImageDraw, colours: np.ndarray, left: int, top: int
) -> int:
    """Draw the colours as cells with a frame; return the y coordinate of its lower edge."""
    rows, columns = colours.shape[:2]
    size = columns * _cell(colours), rows * _cell(colours)
    image = Image.fromarray(colours).resize(size, Image.Resampling.NEAREST)
    picture.paste(image, (left, top))
    draw.rectangle([left - 1, top - 1, left + image.width, top + image.height], outline=(160,) * 3)
    return top + int(image.height)


def _diverging(values: np.ndarray, reach: float) -> np.ndarray:
    """Return colours from blue at -reach over white at 0 to red at reach; NaN is black."""
    share = values / reach if reach else np.zeros_like(values)
    strength = np.clip(np.abs(share), 0, 1)[..., None]
    hue = np.where((share < 0)[..., None], np.array(_MINUS), np.array(_PLUS))
    return _mixed(hue, strength, share)


def _sequential(values: np.ndarray, most: float) -> np.ndarray:
    """Return colours from white at 0 to orange at `most`; a value above 0 is never white."""
    share = values / most if most else np.zeros_like(values)
    strength = np.where(share > 0, 0.2 + 0.8 * np.clip(share, 0, 1), 0.0)[..., None]
    return _mixed(np.array(_APART), strength, share)


def _mixed(hue: np.ndarray, strength: np.ndarray, share: np.ndarray) -> np.ndarray:
    colours = 255 + (hue - 255) * np.nan_to_num(strength)
    colours = np.where(np.isfinite(share)[..., None], colours, 0)
    return colours.astype(np.uint8)
