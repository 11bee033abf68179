"""The arithmetic of one output value of a convolution, written out for a person to follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuconv.conv import conv2d
from gpuconv.dtypes import is_float, limits, saturate_value
from gpuconv.plan import check
from gpuconv.window import AxisWindow, Padding, resolve_padding

Matrix = npt.NDArray[Any]

EXAMPLE_IMAGE: Matrix = np.array(
    [
        [105, 102, 100, 97, 96],
        [103, 99, 103, 101, 102],
        [101, 98, 104, 102, 100],
        [99, 101, 106, 104, 99],
        [104, 104, 104, 100, 98],
    ],
    dtype=np.uint8,
)
EXAMPLE_IMAGE.flags.writeable = False

_CHANNELS = {1: ("",), 3: ("red", "green", "blue")}


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """One output value: what it reads, the products, their sum.

    patches : one (KH, KW) array a channel, zeros where the window leaves the image.
    results : what `gpuconv.conv2d` gives there, one a channel.
    first : (y, x) of the window's first pixel in the image; negative in the padding.
    size : (H, W) of the image.
    """

    at: tuple[int, int]
    first: tuple[int, int]
    size: tuple[int, int]
    kernel: Matrix
    channels: tuple[str, ...]
    patches: tuple[Matrix, ...]
    results: tuple[Any, ...]
    dtype: np.dtype[Any]

    def sums(self) -> list[str]:
        """`105*5 + … = 320`, one a channel."""
        return [
            f"{products(patch, self.kernel)} = {format_number(result)}"
            for patch, result in zip(self.patches, self.results, strict=True)
        ]

    @property
    def text(self) -> str:
        """The whole explanation."""
        (y, x), (height, width) = self.first, self.kernel.shape
        lines = [
            f"Output pixel (y {self.at[0]}, x {self.at[1]}) reads rows {y} to {y + height - 1} and "
            f"columns {x} to {x + width - 1} of the image."
        ]
        if min(y, x) < 0 or y + height > self.size[0] or x + width > self.size[1]:
            lines.append(
                f"The image is {self.size[0]} x {self.size[1]}; what lies outside counts as 0."
            )
        for name, patch, result, told in zip(
            self.channels, self.patches, self.results, self.sums(), strict=True
        ):
            title = f"window, {name}" if name else "window"
            lines += ["", side_by_side((title, patch), ("kernel", self.kernel)), "", told]
            lines.append(stored(result, self.dtype))
        return "\n".join(lines)


def explain(
    pixels: Matrix,
    kernel: Matrix,
    *,
    at: Sequence[int] | None = None,
    stride: int = 1,
    padding: Padding = 0,
) -> Explanation:
    """Work out one output value of `conv2d` over an image.

    Parameters
    ----------
    pixels : (H, W) or (H, W, C).
    kernel : (KH, KW), used in every channel.
    at : (y, x) of the output; its middle where None.
    stride, padding : as `conv2d` has them.

    Raises
    ------
    ValueError : `at` lies outside the output, or an argument is none that `conv2d` takes.
    """
    weights = check.host_weights("kernel", kernel, 2, shape="(KH, KW)")
    step = check.integer("stride", stride, minimum=1)
    size = pixels.shape[:2]
    windows = [AxisWindow(n, step) for n in weights.shape]
    pads = resolve_padding(padding, size, windows)
    windows = [AxisWindow(w.size, step, pad=p) for w, p in zip(windows, pads, strict=True)]
    outputs = [w.outputs(n) for w, n in zip(windows, size, strict=True)]
    if min(outputs) < 1:
        raise ValueError(
            f"kernel must fit into the padded image {size[0]}x{size[1]}, got "
            f"{weights.shape[0]}x{weights.shape[1]}"
        )
    if at is not None and len(at) != 2:
        raise ValueError(f"at must be (y, x), got {', '.join(map(str, at))}")
    y, x = (n // 2 for n in outputs) if at is None else check.per_axis("at", at, 2, minimum=0)
    if y >= outputs[0] or x >= outputs[1]:
        raise ValueError(f"at must lie inside the output {outputs[0]}x{outputs[1]}, got {y},{x}")
    (top, _), (left, _) = (w.input_range(p, p + 1) for w, p in zip(windows, (y, x), strict=True))
    exact = bool(np.all(weights == np.rint(weights))) and pixels.dtype.kind in "iu"
    number = np.int64 if exact else np.float64
    taps = weights.astype(number)
    planes = [pixels] if pixels.ndim == 2 else [pixels[..., c] for c in range(pixels.shape[2])]
    patches = tuple(_window(plane, (top, left), taps.shape).astype(number) for plane in planes)
    maps = np.stack(patches)[:, None]
    results = conv2d(maps, taps[None, None])[:, 0, 0, 0]
    names = _CHANNELS.get(len(planes), tuple(f"channel {c}" for c in range(len(planes))))
    return Explanation(
        (y, x),
        (top, left),
        (size[0], size[1]),
        taps,
        names,
        patches,
        tuple(results.tolist()),
        pixels.dtype,
    )


def built_in_example() -> str:
    """A small matrix, zeros around it, and the sharpen kernel: 320, then the whole output."""
    kernel = np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]])
    first = explain(EXAMPLE_IMAGE, kernel, at=(0, 0), padding=1)
    second = explain(EXAMPLE_IMAGE, kernel, at=(0, 1), padding=1)
    output = conv2d(EXAMPLE_IMAGE[None].astype(np.int64), kernel[None, None], padding=1)[0]
    seen = np.array([[saturate_value(v, np.dtype(np.uint8)) for v in row] for row in output])
    return "\n".join(
        [
            "An image is a matrix of numbers. A kernel slides over it; wherever it lies, each",
            "number under it is multiplied by its own, and the products are added up.",
            "",
            side_by_side(("image", EXAMPLE_IMAGE), ("kernel (sharpen)", kernel)),
            "",
            first.text,
            "",
            "One step to the right:",
            "",
            second.sums()[0],
            "",
            "And so on, over every pixel (padding 1 keeps the size):",
            "",
            side_by_side(("output", output), ("as an 8-bit image", seen)),
        ]
    )


def products(patch: Matrix, kernel: Matrix) -> str:
    """`0*0 + 0*-1 + …`: every pixel times its weight."""
    return " + ".join(
        f"{format_number(pixel)}*{format_number(weight)}"
        for pixel, weight in zip(patch.flat, kernel.flat, strict=True)
    )


def stored(result: Any, dtype: np.dtype[Any]) -> str:
    """How an image of `dtype` holds the result: rounded half to even, then saturated."""
    shown = format_number(result)
    if is_float(dtype):
        return f"An image of {dtype} holds it as it is."
    low, high = limits(dtype)
    rounded = round(result)
    kept = int(saturate_value(result, dtype))
    steps = []
    if rounded != result:
        steps.append(f"{shown} rounds (half to even) to {rounded}")
    if kept != rounded:
        side = "below" if rounded < low else "above"
        steps.append(f"{rounded} is {side} the range {low} to {high} and saturates to {kept}")
    if not steps:
        return f"As a pixel of a {dtype} image: {shown}, as it is."
    return f"As a pixel of a {dtype} image: {', then '.join(steps)}."


def format_number(value: Any) -> str:
    """A number as short as it can be read: 5, -1, 0.1111."""
    return f"{value:.6g}" if isinstance(value, (float, np.floating)) else str(value)


def side_by_side(*titled: tuple[str, Matrix]) -> str:
    """Matrices next to each other, each under its title."""
    blocks = []
    for title, matrix in titled:
        cells = [[format_number(v) for v in row] for row in matrix]
        width = max(len(cell) for row in cells for cell in row)
        rows = ["  ".join(cell.rjust(width) for cell in row) for row in cells]
        blocks.append([title, *rows])
    tallest = max(len(block) for block in blocks)
    columns = []
    for block in blocks:
        width = max(len(row) for row in block)
        columns.append([row.ljust(width) for row in block + [""] * (tallest - len(block))])
    return "\n".join("     ".join(rows).rstrip() for rows in zip(*columns, strict=True))


def _window(plane: Matrix, first: tuple[int, int], shape: tuple[int, ...]) -> Matrix:
    """The pixels under the kernel, zeros outside the image."""
    result = np.zeros(shape, plane.dtype)
    rows, columns = (
        np.arange(start, start + size) for start, size in zip(first, shape, strict=True)
    )
    inside_y = (rows >= 0) & (rows < plane.shape[0])
    inside_x = (columns >= 0) & (columns < plane.shape[1])
    result[np.ix_(inside_y, inside_x)] = plane[np.ix_(rows[inside_y], columns[inside_x])]
    return result
