"""The loops that `bench.folder` measures: `python -m bench.folder_loops LOOP IN OUT OPERATION`.

Each reads every image of a folder, filters it and writes it under its name, as a script of a few
lines would, and is a process of its own. OPERATION is text as `gpuconv filter --op` takes it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from bench import machine

QUALITY = 95

Filter = Callable[[Any], Any]
One = Callable[[str, Path, Path], None]
"""Read a file, filter it by an operation and write it."""


def parsed(operation: str) -> tuple[str, dict[str, float]]:
    """`"gaussian_blur:sigma=3"` → its name and arguments. Only plain numbers are understood."""
    name, _, rest = operation.partition(":")
    pairs = (part.split("=") for part in rest.split(",") if part)
    return name, {key: float(value) for key, value in pairs}


def radius(sigma: float) -> int:
    """How far gpuconv's bell reaches: four sigmas."""
    return int(4 * sigma + 0.5)


def opencv_filter(name: str, sigma: float = 1, size: float = 3) -> Filter:
    """The same function in OpenCV, with the same taps and border."""
    import cv2

    border, side = cv2.BORDER_REFLECT_101, int(size)
    taps = (2 * radius(sigma) + 1,) * 2
    return {
        "gaussian_blur": lambda image: cv2.GaussianBlur(image, taps, sigma, borderType=border),
        "box_blur": lambda image: cv2.blur(image, (side, side), borderType=border),
        "median_blur": lambda image: cv2.medianBlur(image, side),
    }[name]


def opencv_one(operation: str, source: Path, target: Path) -> None:
    """imread, filter, imwrite."""
    import cv2

    name, arguments = parsed(operation)
    image = opencv_filter(name, **arguments)(cv2.imread(str(source)))
    if not cv2.imwrite(str(target), image, _opencv_options(target)):
        raise OSError(f"{target} was not written")


def _opencv_options(target: Path) -> list[int]:
    """JPEG as gpuconv writes it: OpenCV's default halves the resolution of colours."""
    import cv2

    full = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return [cv2.IMWRITE_JPEG_QUALITY, QUALITY, *full] if target.suffix == ".jpg" else []


def skimage_one(operation: str, source: Path, target: Path) -> None:
    """Floats between 0 and 1, as its own examples have it."""
    import imageio.v3
    import skimage

    name, arguments = parsed(operation)
    if name != "gaussian_blur":
        raise KeyError(name)
    image = skimage.io.imread(source)
    blurred = skimage.filters.gaussian(image, mode="mirror", channel_axis=-1, **arguments)
    pixels = skimage.img_as_ubyte(blurred)
    if target.suffix == ".jpg":  # imsave has no word for the quality
        imageio.v3.imwrite(target, pixels, quality=QUALITY, subsampling=0)
    else:
        skimage.io.imsave(target, pixels, check_contrast=False)


def vips_one(operation: str, source: Path, target: Path) -> None:
    """Row by row, on threads of its own."""
    import math

    import pyvips

    name, arguments = parsed(operation)
    image = pyvips.Image.new_from_file(str(source), access="sequential")
    if name == "gaussian_blur":
        sigma = arguments["sigma"]
        least = math.exp(-(((radius(sigma) + 0.5) / sigma) ** 2) / 2)
        image = image.gaussblur(sigma, min_ampl=max(least, 0.001))  # its bound
    else:
        side = int(arguments["size"])
        image = {"median_blur": lambda: image.median(side)}[name]()
    options: dict[str, dict[str, Any]] = {
        ".jpg": {"Q": QUALITY, "subsample_mode": "off"},
        ".png": {"compression": 1, "filter": "sub"},
        ".tif": {"compression": "deflate", "predictor": "horizontal"},
    }
    image.write_to_file(str(target), **options[target.suffix])


def cupy_one(operation: str, source: Path, target: Path) -> None:
    """OpenCV's codecs, CuPy's filter."""
    import cupy
    import cv2
    from cupyx.scipy import ndimage

    name, arguments = parsed(operation)
    image = cupy.asarray(cv2.imread(str(source)))
    done = {
        "gaussian_blur": lambda sigma: ndimage.gaussian_filter(
            image, (sigma, sigma, 0), mode="mirror"
        ),
        "median_blur": lambda size: ndimage.median_filter(
            image, (int(size), int(size), 1), mode="mirror"
        ),
    }[name](**arguments)
    cv2.imwrite(str(target), done.get(), _opencv_options(target))


def cucim_one(operation: str, source: Path, target: Path) -> None:
    """OpenCV's codecs, cuCIM's filter."""
    import cupy
    import cv2
    from cucim.skimage import filters

    name, arguments = parsed(operation)
    if name != "gaussian_blur":
        raise KeyError(name)
    image = cupy.asarray(cv2.imread(str(source)))
    done = filters.gaussian(image, mode="mirror", channel_axis=-1, preserve_range=True, **arguments)
    cv2.imwrite(str(target), cupy.rint(done).astype("uint8").get(), _opencv_options(target))


def _opencv_alone() -> None:
    """One thread inside OpenCV, where images go side by side."""
    import cv2

    cv2.setNumThreads(1)


def in_turn(one: One) -> Callable[[Sequence[tuple[Path, Path]], str], None]:
    """One image after the other, with the library's own threads."""

    def run(pairs: Sequence[tuple[Path, Path]], operation: str) -> None:
        for source, target in pairs:
            one(operation, source, target)

    return run


def side_by_side(
    one: One, pool: Callable[..., Executor], prepare: Callable[[], None] | None = None
) -> Callable[[Sequence[tuple[Path, Path]], str], None]:
    """As many images at a time as there are processors, in threads or processes."""

    def run(pairs: Sequence[tuple[Path, Path]], operation: str) -> None:
        with pool(machine.cpu_count(), initializer=prepare) as workers:
            list(workers.map(partial(one, operation), *zip(*pairs, strict=True)))

    return run


LOOPS = {
    "opencv": in_turn(opencv_one),
    "opencv-threads": side_by_side(opencv_one, ThreadPoolExecutor, _opencv_alone),
    "opencv-processes": side_by_side(opencv_one, ProcessPoolExecutor, _opencv_alone),
    "skimage": in_turn(skimage_one),
    "pyvips": in_turn(vips_one),
    "cupy": in_turn(cupy_one),
    "cupy-threads": side_by_side(cupy_one, ThreadPoolExecutor, _opencv_alone),
    "cucim": in_turn(cucim_one),
    "cucim-threads": side_by_side(cucim_one, ThreadPoolExecutor, _opencv_alone),
}

NEEDS = {
    "opencv": ("cv2",),
    "skimage": ("skimage",),
    "pyvips": ("pyvips",),
    "cupy": ("cupy", "cv2"),
    "cucim": ("cucim", "cupy", "cv2"),
}
"""Modules of a loop's library."""


def missing(loop: str) -> str | None:
    """Why a loop can't run here; None where it can."""
    modules = NEEDS[loop.partition("-")[0]]
    for module in modules:
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed"
    if "cupy" in modules:
        import cupy

        try:
            if not cupy.cuda.runtime.getDeviceCount():
                return "there is no CUDA device"
        except cupy.cuda.runtime.CUDARuntimeError as error:
            return str(error)
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Run a loop."""
    loop, source, target, operation = sys.argv[1:] if argv is None else argv
    pairs = [(path, Path(target) / path.name) for path in sorted(Path(source).iterdir())]
    Path(target).mkdir(parents=True, exist_ok=True)
    LOOPS[loop](pairs, operation)
    return 0


if __name__ == "__main__":
    sys.exit(main())
