"""Which axis of an array is what: arrays of 2 to 4 dimensions as pages, and pages as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuconv.image_io.types import Header, PageSpec

_SAMPLES = (1, 3, 4)


def axes_of(shape: tuple[int, ...]) -> str:
    """ "HW", "HWC", "NHW" or "NHWC", where C is 1 grey, 3 colours, or 3 colours and alpha.

    Raises
    ------
    ValueError : no image has this shape.
    """
    axes = {2: "HW", 3: "NHW", 4: "NHWC"}.get(len(shape), "")
    if len(shape) == 3 and shape[2] in _SAMPLES:
        axes = "HWC"
    if not axes or (axes == "NHWC" and shape[3] not in _SAMPLES):
        raise ValueError(
            f"an array of shape {shape} is no image: it must be (H, W), (H, W, 3 or 4), "
            "(N, H, W) or (N, H, W, 3 or 4)"
        )
    if 0 in shape:
        raise ValueError(f"an array of shape {shape} holds no pixels")
    return axes


def pages_of(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[PageSpec, ...]:
    """The pages that an array holds.

    Raises
    ------
    ValueError : no image has this shape or dtype.
    """
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise ValueError(f"arrays of dtype {dtype} are not supported: integers and floats are")
    axes = axes_of(shape)
    size = dict(zip(axes, shape, strict=True))
    samples = size.get("C", 1)
    kind = dtype.newbyteorder("=")
    spec = PageSpec(size["H"], size["W"], min(samples, 3), kind, alpha=samples == 4)
    return (spec,) * size.get("N", 1)


def shape_of(header: Header) -> tuple[str, tuple[int, ...]]:
    """Axes and shape of the array that holds such pages; as many axes as the source had."""
    spec = header.pages[0]
    samples = spec.channels + spec.alpha
    source = header.metadata.layout.axes if header.metadata.layout is not None else ""
    several = len(header.pages) > 1 or "N" in source
    mistakable = several and spec.width in _SAMPLES  # (N, H, 3) would be a colour image
    axes = "HWC" if samples > 1 or "C" in source or mistakable else "HW"
    sizes = {"N": len(header.pages), "H": spec.height, "W": spec.width, "C": samples}
    axes = f"N{axes}" if several else axes
    return axes, tuple(sizes[axis] for axis in axes)


def misfit(kind: str, header: Header) -> str | None:
    """Why an array cannot hold such pages; None where it can."""
    spec = header.pages[0]
    if any(page != spec for page in header.pages):
        return f"{kind} holds pages of one size and kind alone; write TIFF"
    if spec.channels not in (1, 3):
        return f"{kind} cannot hold {spec.channels} colour channels; write TIFF"
    if spec.alpha and spec.channels == 1:
        return f"{kind} cannot hold grey pixels with alpha; write PNG or TIFF"
    return None
