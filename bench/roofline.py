"""How fast a GPU could run a case, predicted from machine code: no GPU is needed, none is measured.

    python -m bench.roofline [--arch sm_90 | --device H100] [--filter 'filter2d/f32/8x*']
    python -m bench.roofline --kernels              what the kernels of these cases take of a GPU
    python -m bench.roofline --goals                the cases that DESIGN.md section 7 is about
    python -m bench.roofline --arithmetic           how each limit comes about, case by case
    python -m bench.roofline --readme               a table for the README

For each case of the gpu set that filters or pools images, the CUDA backend is asked for its
launches, with arrays that take no memory. Each launch is limited by

    memory   input once and output once, at the speed of a copy
    L2       what the launch reads, halos and all, and writes
    issue    warp instructions over the four that a multiprocessor issues a clock
    pipes    fma, imad, half, alu, fp64, xu, tensor, lsu, uniform: see bench/sass.py
    latency  rounds of loads that resident warps wait for (Little's law)

and the slowest of them is the prediction: nothing is added for what does not overlap, so a kernel
reaches less. How often a launch goes through a kernel's loops is told by `WORK`, a line a kernel.
"""

from __future__ import annotations

import argparse
import math
import mmap
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import numpy as np

from bench import nvrtc, results, sass
from bench.cases import FULL, Case, Scale, gpu_group
from bench.results import OURS
from bench.table import as_markdown, as_text, short
from gpuconv.backends.cuda.families import FAMILIES
from gpuconv.backends.cuda.launch import Launch, Variant
from gpuconv.backends.cuda.source import kernels_folder
from gpuconv.plan import ChainPlan

# ---------------------------------------------------------------- devices


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU. `copy_gb_s` counts bytes read and written; `source` tells where it is from."""

    name: str
    architecture: str
    processors: int
    ghz: float
    copy_gb_s: float
    source: str
    threads: int = 2048
    blocks: int = 32
    shared_bytes: int = 228 * 1024

    @property
    def clocks(self) -> float:
        """Clocks of all multiprocessors together, a second."""
        return self.processors * self.ghz * 1e9

    @property
    def l2_gb_s(self) -> float:
        """Assumed: multiprocessors together read 24 bytes a clock each, as an H100 is told to."""
        return 24 * self.clocks / 1e9


SMALL_SM = {"threads": 1536, "blocks": 24, "shared_bytes": 100 * 1024}
"""Multiprocessors of GPUs that are no data centre's first choice."""

DEVICES = (
    Device("H200", "sm_90", 132, 1.98, 4300, "measured"),
    Device("H100", "sm_90", 132, 1.98, 3000, "measured"),
    Device("A100", "sm_80", 108, 1.41, 1750, "datasheet 2039, 86 %", shared_bytes=164 * 1024),
    Device("T4", "sm_75", 40, 1.59, 270, "datasheet 320, 85 %", 1024, 16, 64 * 1024),
    Device("A10", "sm_86", 72, 1.695, 510, "datasheet 600, 85 %", 1536, 16, 100 * 1024),
    Device("L4", "sm_89", 58, 2.04, 255, "datasheet 300, 85 %", **SMALL_SM),
    Device("B200", "sm_100", 148, 1.965, 6800, "datasheet 8000, 85 %"),
    Device("RTX PRO 6000", "sm_120", 188, 2.6, 1520, "datasheet 1792, 85 %", **SMALL_SM),
)
"""The first of an architecture is the one that `--arch` means."""

LATENCY_S = 650e-9
"""From a load to its data in memory, under load: 600 to 700 ns on an H100."""

CACHE_LATENCY_S = 20e-9
"""The same from the L1 cache: about 40 clocks."""

REGISTERS, REGISTER_UNIT = 65536, 256
"""Of a multiprocessor; what a warp takes is a multiple of the second."""

SYSTEM_SHARED_BYTES = 1024
"""Of every block since sm_80."""


def device_of(name: str | None, architecture: str) -> Device:
    """A device by name, or the first of an architecture."""
    if name is None:
        return next(d for d in DEVICES if d.architecture == architecture)
    return next(d for d in DEVICES if d.name == name)


# ---------------------------------------------------------------- what the backend launches


class _Asked:
    """A backend that asks the CUDA families for launches and notes them; also their launcher."""

    name = "asked"
    tensor_cores = True

    def __init__(self) -> None:
        self.launches: list[Launch] = []
        self.traffic: list[tuple[int, int]] = []

    def scope(self, array: Any) -> AbstractContextManager[Any]:
        return nullcontext()

    def adopt(self, argument: str, array: Any) -> Any:
        return array

    def empty(self, shape: Any, dtype: Any) -> Any:
        """As a backend: (spec, like); as a launcher: (shape, dtype)."""
        spec = (shape.shape, shape.dtype) if hasattr(shape, "dtype") else (shape, dtype)
        return without_memory(*spec)

    def owns(self, array: Any) -> bool:
        return True

    def device(self, array: Any) -> int:
        return 0

    def constant(self, array: Any) -> Any:
        return array

    def run(self, plan: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        found = list(FAMILIES[type(plan)](plan, inputs, outputs, self))  # type: ignore[arg-type]
        self.launches += found
        if isinstance(plan, ChainPlan):  # what passes hand on to each other lies in memory
            self.traffic += [(x.arguments[0].nbytes, x.arguments[1].nbytes) for x in found]
            return
        read, written = (sum(int(a.nbytes) for a in arrays) for arrays in (inputs[:1], outputs))
        self.traffic += [(read // len(found), written // len(found))] * len(found)


@cache
def _pages(size: int) -> mmap.mmap:
    """Addresses without memory behind them: it comes when they are written."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def without_memory(shape: Sequence[int], dtype: Any) -> Any:
    """Zeros that take no memory, aligned like a device's; all of one size share their place."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    return np.frombuffer(_pages(size), np.uint8).view(dtype).reshape(shape)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the CUDA backend launches for a case whose arrays are contiguous.

    traffic : bytes read and written by each launch, unless its Work knows better.
    read, written : bytes of a call that reads and writes everything once.
    """

    launches: tuple[Launch, ...]
    traffic: tuple[tuple[int, int], ...]
    read: int
    written: int


def ask(case: Case) -> Asked:
    """The launches of a case."""
    backend = _Asked()
    image = without_memory(case.shape, case.dtype)
    result = case.run(image, *case.weights(np.random.default_rng(0)), backend=backend)
    return Asked(tuple(backend.launches), tuple(backend.traffic), image.nbytes, result.nbytes)


# ---------------------------------------------------------------- what a launch does


@dataclass(frozen=True, slots=True)
class Part:
    """A loop of a kernel: how often all warps of the launch together go through it.

    `pick` and `avoid` are those of bench.sass. Besides, `pick` may be "around", the loop around the
    hot one; "edge", the loop that does what the hot one does at more cost, where the border is
    asked; or "edge inner", a loop within that. Where the compiler has unrolled the loop, `trips`
    counts rows, of which a trip holds as many as opcodes that match `per`. `cached`: what it loads
    lies in the L1 cache.
    """

    trips: float
    pick: str | None = None
    avoid: str | None = None
    per: str | None = None
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """What a launch goes through.

    `reads`: elements read over those of the input, halos counted as often as they are read.
    `ahead`: trips (of a part with `per`: rows) from a load to the use of its data; 0 where a warp
    waits for what it has just asked for. `traffic`: bytes read and written, where these are not
    the case's input and output.
    """

    parts: tuple[Part, ...]
    reads: float = 1.0
    ahead: int = 0
    traffic: tuple[int, int] | None = None


def _params(launch: Launch) -> Any:
    """The struct of a launch."""
    return next(
        a
        for a in reversed(launch.arguments)
        if getattr(a, "dtype", None) is not None and a.dtype.names
    )


def warps(launch: Launch) -> int:
    """Of the whole grid."""
    return math.prod(launch.grid) * -(-math.prod(launch.block) // sass.WARP)


def strips(launch: Launch, ahead: int = 1, stores: int = 1, reach: int | None = None) -> Work:
    """Kernels of common/strip.cuh: a warp marches down a strip and the rows around it.

    `stores`: instructions that write a row of a lane. Strips at an edge of the image go another
    way, and gather the packs that straddle it element by element: `reach` of those before them,
    where the kernel leaves out what no window holds.
    """
    params = _params(launch)
    images, strip = params["images"], params["strips"]
    row, height = int(images["width"]) * int(images["channels"]), int(images["height"])
    rows, columns, above, below, before, behind = (
        int(strip[name]) for name in ("rows", "columns", "above", "below", "before", "behind")
    )
    down, across = -(-height // rows), -(-row // columns)
    left = [x < before for x in range(0, row, columns)]
    right = [x + columns + behind > row for x in range(0, row, columns)]
    ends = [y < above or y + rows + below > height for y in range(0, height, rows)]
    beside = across - sum(a or b for a, b in zip(left, right, strict=True))
    inside = beside * (down - sum(ends)) / (across * down)
    lines = int(images["planes"]) * (height + down * (above + below)) * stores
    first = before if reach is None else reach
    gathered = (sum(left) * first + sum(right) * behind) * lines / stores
    parts = (
        Part(lines * across * inside, per="STG"),
        Part(lines * across * (1 - inside), "edge", per="STG"),
        Part(gathered, "edge inner", cached=True),
    )
    reads = (height + down * (above + below)) / height * across * (columns + before + behind) / row
    return Work(tuple(part for part in parts if part.trips), reads, ahead)


def lane_strips(launch: Launch, ahead: int = 1, reach: int | None = None) -> Work:
    """The same where the lanes of a warp may lie in two bands of rows."""
    params = _params(launch)
    images, strip = params["images"], params["strips"]
    row, height = int(images["width"]) * int(images["channels"]), int(images["height"])
    planes, again = int(images["planes"]), int(strip["above"]) + int(strip["below"])
    rows, elements, before, behind = (
        int(strip[name]) for name in ("rows", "elements", "before", "behind")
    )
    band, pack = np.divmod(
        np.arange(int(strip["each"]) * sass.WARP).reshape(-1, sass.WARP), int(strip["packs"])
    )
    y, x = band * rows, pack * elements
    own = np.clip(height - y, 0, rows)
    left, right = x < before, x + elements + behind > row
    above, below = y < strip["above"], y + own + strip["below"] > height
    inside = ~np.any(left | right | above | below, axis=1)
    lines = planes * (own[:, 0] + again)
    first = before if reach is None else reach
    gathered = np.any(left & (own > 0), 1) * first + np.any(right & (own > 0), 1) * behind
    parts = (
        Part(int(lines[inside].sum()), per="STG"),
        Part(int(lines[~inside].sum()), "edge", per="STG"),
        Part(int((gathered * lines).sum()), "edge inner", cached=True),
    )
    reads = int(lines.sum()) * (sass.WARP * elements + before + behind) / (planes * height * row)
    return Work(tuple(part for part in parts if part.trips), reads, ahead)


def block_strips(launch: Launch, ahead: int = 1, stores: int = 1) -> Work:
    """The same where a block marches down a strip; warps beyond the end of the row have no work.

    What strips at an edge do besides, in the same loop, is left out.
    """
    params = _params(launch)
    images, strip = params["images"], params["strips"]
    row, height = int(images["width"]) * int(images["channels"]), int(images["height"])
    columns, beside = int(strip["columns"]), int(strip["before"]) + int(strip["behind"])
    own = math.prod(launch.block) // sass.WARP
    down, across = int(strip["down"]), int(strip["across"])
    last = math.ceil((row - (across - 1) * columns + beside) / (columns + beside) * own)
    lines = height + down * (int(strip["above"]) + int(strip["below"]))
    busy = (across - 1) * own + min(last, own)
    reads = lines / height * (row + across * beside) / row
    return Work((Part(int(images["planes"]) * lines * busy * stores, per="STG"),), reads, ahead)


def _pool_tile(launch: Launch) -> Work:
    """A tile comes into shared memory, is reduced along one axis, then along the others."""
    params = _params(launch)
    z, y, x = (params[name] for name in "zyx")
    jobs, itemsize = int(params["jobs"]), launch.arguments[0].dtype.itemsize
    span_y, rows = int(params["span_y"]["divisor"]), int(params["rows"]["divisor"])
    span_z, pitch, along_y = (int(params[name]) for name in ("span_z", "pitch", "along_y"))
    threads = math.prod(launch.block)
    own, columns = jobs * threads / sass.WARP, threads >> int(params["x_bits"])
    lanes = 1 << int(params["load_bits"])
    packs = -(-pitch * itemsize // 16) if params["wide_loads"] else int(params["span_x"])
    loads = own * -(-span_z * span_y // (threads // lanes)) * -(-packs // lanes)
    first = own * -(-span_z * rows // columns)
    second = own * -(-int(params["tile_z"]) * int(params["tile_y"]) // columns)
    along, others = (y, z["size"]) if along_y else (x, z["size"] * y["size"])
    parts = (
        Part(loads, r"STS\.128" if params["wide_loads"] else "LDG"),
        Part(first, r"STS(\.U8|\.U16|\.64)?$", avoid="LDG"),
        Part(first * int(along["size"]), "LDS", per="LDS"),
        Part(second, "STG"),
        Part(second * int(others), "LDS", per="LDS"),
    )
    elements = jobs * span_z * span_y * packs * (16 // itemsize if params["wide_loads"] else 1)
    return Work(parts, reads=max(1.0, elements / launch.arguments[0].size))


def _pool_channels(launch: Launch) -> Work:
    """A thread reads a pack of channels for each tap of a window."""
    params = _params(launch)
    threads = int(params["windows"]) / sass.WARP
    taps = math.prod(int(params[name]["size"]) for name in "zyx")
    inside = math.prod(int(params[name]["outputs"]["divisor"]) for name in "zyx")
    reads = taps * inside / math.prod(int(params[name]["length"]) for name in "zyx")
    return Work((Part(threads * taps, "LDG", per="LDG"), Part(threads, "STG")), max(1.0, reads))


def _pool_small(launch: Launch) -> Work:
    """A thread slides down some rows of windows, two of the input a trip.

    Rows that windows share come before; columns on either side are read again where threads take
    columns of channels, and come from the L1 cache where they take columns of a plane.
    """
    params = _params(launch)
    size, stride, _ = map(int, launch.variant.arguments[1:])
    threads, rows = int(params["threads"]), int(params["rows"])
    outputs = threads / int(params["groups_y"]["divisor"]) * int(params["y"]["outputs"]["divisor"])
    shared = max(0, size - stride) / stride
    trips = outputs * stride / 2 / sass.WARP
    parts = (Part(trips), Part(threads / sass.WARP, "around"))
    reads, ahead = 1 + shared / rows, 1
    if launch.variant.kernel == "pool_columns":
        reads, ahead = reads * (1 + max(0, size - stride) / (2 * stride)), 0
    return Work(parts, reads, ahead)


def _dense_any(launch: Launch) -> Work:
    """A warp meets the entries of each line of pixels that its rows of outputs reach.

    A trip is counted whole, though the first and the last lines reach fewer of the rows.
    """
    params, each = _params(launch), 4 if launch.variant.arguments[1] == "float" else 2
    height, chunk = int(params["height"]), int(params["chunk_height"])
    chunks, rows = -(-height // chunk), launch.block[1] * each
    lines = height + chunks * (each - 1)
    trips = int(params["tiling"]["jobs"]) * launch.block[1] * lines * int(params["entries"])
    return Work((Part(trips),), reads=(height + chunks * (rows - 1)) / rows)


def _dense_strip(launch: Launch) -> Work:
    element, _, size, channels = launch.variant.arguments
    two = int(size) < 7 or (int(size) == 7 and element not in ("uint16", "float16"))
    return lane_strips(launch, ahead=2 if two else 1, reach=int(size) // 2 * int(channels))


def _gradient_strip(launch: Launch) -> Work:
    """Which elements answer beside the ends of a row is found once a strip: nothing is gathered."""
    work = lane_strips(launch, ahead=2)
    return replace(work, parts=tuple(part for part in work.parts if part.pick != "edge inner"))


def _separable_bytes(launch: Launch) -> Work:
    """Four rows of the middle at once; of larger windows, a loop takes them to results."""
    work = block_strips(launch, ahead=4)
    if int(launch.variant.arguments[0]) <= 15:
        return work
    lines = work.parts[0].trips
    return replace(work, parts=(Part(lines / 4, "IDP"), Part(lines, "STG", per="STG")), ahead=1)


TOEPLITZ_STORES = {
    **{"uint8": r"STG\.E$", "float": r"STG\.E\.128"},
    **{"float16": r"STG\.E\.64", "bfloat16": r"STG\.E\.64"},
}
"""What writes four results of a lane, by dtype."""


def _toeplitz(launch: Launch) -> Work:
    """A warp marches down a strip two rows at a time, and meets each slab of weights.

    Of the loop over rows counts the way through all places that sums may be handed over from, of
    which one is taken; the short loops over the two rows, which cost less, are left out.
    """
    params = _params(launch)
    images = params["images"]
    rows, height, parts = (int(params[name]) for name in ("rows", "height", "parts"))
    rolling = launch.variant.kernel == "toeplitz_roll"
    steps = (rows + height) // 2 if rolling else (rows + height - 1) // 2 + 1
    steps *= int(params["jobs"]) * parts
    element, sums = launch.variant.arguments
    tiles = 2 if int(sums) <= 16 else 1
    fetches = 2 * math.ceil(int(params["packs"]) / sass.WARP)
    slabs, row = int(params["slabs"]), int(images["width"]) * int(images["channels"])
    strip_row = int(params["packs"]) * 16 / (4 if element == "float" else 1 + (element != "uint8"))
    again = math.ceil(slabs / int(params["chunk"])) * parts * (1 + (height - 1) / rows)
    return Work(
        (
            Part(steps * slabs * int(params["terms"]), "HMMA"),
            Part(steps * slabs, "around"),
            Part(steps, r"STS\.64"),
            Part(steps * fetches, "LDGSTS"),
            Part(steps * 2 / parts * tiles, TOEPLITZ_STORES[element]),
        ),
        reads=again * int(params["across"]) * strip_row / row,
        ahead=3 * fetches,
    )


def _median_tiles(launch: Launch) -> Work:
    """A block loads a tile, whose rows its warps then find by squares: a store a row and warp."""
    params = _params(launch)
    size, rows = int(params["height"]), int(params["rows"])
    itemsize, channels = launch.arguments[0].dtype.itemsize, int(params["images"]["channels"])
    side = 2 if size == 3 or itemsize == 8 else 4
    columns = sass.WARP // channels * channels * side
    jobs, loaded = int(params["tiling"]["jobs"]), (rows + size - 1) * int(params["pitch"])
    parts = (
        Part(float(jobs * rows), per="STG"),
        Part(jobs * loaded * itemsize / (16 * sass.WARP), r"STS\.128", per=r"STS\.128"),
    )
    return Work(parts, reads=loaded / (rows * columns))


def _marches(lines: float, span: int, width: int, table: int, jobs: int) -> tuple[Part, ...]:
    """Of rank_large.cu: pixels exchanged by fours, rows staged and asked for, a table cleared.

    `lines`: rows that all warps together take in. Of a row's `span`, 128 are asked for a row ahead.
    """
    late = max(0, -(-span // sass.WARP) - 4)
    parts = (
        Part(lines, "STG"),
        Part(lines * late, r"LDG\.E\.U\w+"),
        Part(lines * (width // 4), "LDS"),
        Part(lines * (width % 4) / 4, "LDS"),
        Part(float(jobs * table), "STS", per="STS"),
    )
    return tuple(part for part in parts if part.trips)


def _rank_counts(launch: Launch) -> Work:
    """Each warp takes in the first window of its march, then row by row."""
    params = _params(launch)
    height, width, rows = (int(params[name]) for name in ("height", "width", "rows"))
    jobs = int(params["tiling"]["jobs"])
    span = sass.WARP + (width - 1) * int(params["images"]["channels"])
    lines = jobs * (rows + height - 1)
    parts = _marches(lines, span, width, 256 // int(launch.variant.arguments[0]), jobs)
    return Work(parts, reads=2 * (rows + height) / rows * span / sass.WARP, ahead=1)


def _sliding(launch: Launch) -> Work:
    """A block marches down a strip, and reads the rows that its windows begin with once more.

    Those come from the L1 cache where a multiprocessor's strips are low enough for it. Two windows
    in one launch go through the loop in turn. What the few warps at an edge copy is left out.
    """
    params = _params(launch)
    steps = (
        [params["sliding"]]
        if "sliding" in params.dtype.names
        else [params["pair"][name] for name in ("first", "second")]
    )
    first = steps[0]
    rows, lanes = int(first["rows"]), int(first["lanes"])
    own, jobs = -(-lanes // sass.WARP), int(first["jobs"])
    source = launch.arguments[0]
    pack = 8 if source.dtype.itemsize < 4 else 4
    above = [int(step["height"]) - 1 for step in steps]
    made = [rows + sum(above[k + 1 :]) for k in range(len(steps))]
    lines = float(jobs * own * sum(made))
    grouped = launch.variant.kernel != "box_strip" or launch.variant.arguments[2] == "true"
    grouped &= source.dtype.itemsize < 4
    copies = r"LDS\.(64|128)"
    parts = (Part(lines, "STG", copies, "STG"),)
    if not grouped or len(steps) == 2:
        parts = (*parts, Part(lines / 4, "LDG"))
    live = 3 * (int(first["height"]) + 8) * lanes * pack * source.dtype.itemsize
    again = 1 if live <= L1_BYTES else 2
    read = jobs * lanes * pack * (again * made[0] + above[0])
    return Work(parts, reads=read / source.size, ahead=4)


L1_BYTES = 100 << 10
"""Of a multiprocessor, at least, beside what its blocks share."""


def _sorted_traffic(launch: Launch) -> tuple[Any, int, int]:
    """(parameters, jobs, bytes of all entries)."""
    params = _params(launch)
    jobs = int(params["jobs"])
    itemsize = next(a for a in launch.arguments if hasattr(a, "dtype")).dtype.itemsize
    return params, jobs, jobs * int(params["padded"]) * itemsize


def _rank_entries(launch: Launch) -> Work:
    """A pixel a thread and trip."""
    params = _params(launch)
    jobs, padded, pixels = int(params["jobs"]), int(params["padded"]), launch.arguments[0].dtype
    entry = launch.arguments[1].dtype.itemsize
    traffic = (jobs * int(params["count"]) * pixels.itemsize, jobs * padded * entry)
    return Work((Part(jobs * padded / sass.WARP),), traffic=traffic)


def _rank_sort(launch: Launch) -> Work:
    """Eights in turn: a pass for the first three rounds of each merge, and one for three more."""
    params, jobs, entries = _sorted_traffic(launch)
    log = int(params["padded"]).bit_length() - 1
    passes = 2 + sum(1 + -(-(size - 3) // 3) for size in range(4, log + 1))
    parts = (Part(jobs * passes * params["padded"] / 8 / sass.WARP, r"LDS\.64|LDS\.128|LDS"),)
    return Work(parts, traffic=(2 * entries, entries + 2 * jobs * int(params["count"])))


def _rank_bits(launch: Launch) -> Work:
    """As rank_counts, over tiles of places."""
    params, jobs, _ = _sorted_traffic(launch)
    height, width, rows = (int(params[name]) for name in ("height", "width", "rows"))
    count, written = int(params["count"]), jobs * rows * sass.WARP
    span, lines = sass.WARP - 1 + width, jobs * (rows + height - 1)
    parts = _marches(lines, span, width, -(-count // 32), jobs)
    itemsize = launch.arguments[2].dtype.itemsize
    read = jobs * count * 2 + written * itemsize
    return Work(parts, ahead=1, traffic=(read, written * itemsize))


WORK: dict[str, Callable[[Launch], Work]] = {
    "box_strip": _sliding,
    "dense_any": _dense_any,
    "dense_strip": _dense_strip,
    "gradient_strip": _gradient_strip,
    "median": _median_tiles,
    "morph_pair": _sliding,
    "morph_strip": _sliding,
    "median_strip": strips,
    "pool_channels": _pool_channels,
    "pool_columns": _pool_small,
    "pool_small": _pool_small,
    "pool_tile": _pool_tile,
    "rank_bits": _rank_bits,
    "rank_counts": _rank_counts,
    "rank_entries": _rank_entries,
    "rank_sort": _rank_sort,
    "separable_bytes": _separable_bytes,
    "separable_odd": block_strips,
    "separable_strip": lambda launch: block_strips(launch, ahead=2),
    "toeplitz_roll": _toeplitz,
    "toeplitz_still": _toeplitz,
}
"""A line a kernel. A kernel that has none is shown as not modelled."""


# ---------------------------------------------------------------- predictions


class ModelError(LookupError):
    """A kernel's machine code is not what its line in WORK takes it for."""


@dataclass(frozen=True)
class Occupancy:
    """What fits a multiprocessor, and what of that a launch fills."""

    blocks: int
    warps: int
    limit: str
    waves: float
    """Blocks of the launch over those that run at once."""


def occupancy(launch: Launch, resources: nvrtc.Resources, device: Device) -> Occupancy:
    """Blocks and warps that a multiprocessor holds at once."""
    threads = math.prod(launch.block)
    own_warps = -(-threads // sass.WARP)
    warp_registers = -(-resources.registers * sass.WARP // REGISTER_UNIT) * REGISTER_UNIT
    shared = launch.shared_bytes + resources.shared_bytes
    shared += SYSTEM_SHARED_BYTES * (device.architecture != "sm_75")
    # Registers are handed out by the four quarters of a multiprocessor.
    room = {
        "registers": REGISTERS // warp_registers // 4 * 4 // own_warps,
        "shared memory": device.shared_bytes // shared if shared else device.blocks,
        "threads": device.threads // (own_warps * sass.WARP),
        "blocks": device.blocks,
    }
    limit = min(room, key=lambda name: room[name])
    held = room[limit]
    waves = math.prod(launch.grid) / max(1, held * device.processors)
    return Occupancy(held, held * own_warps, limit, waves)


@dataclass(frozen=True)
class LaunchLimits:
    """Seconds that a launch takes at least, by what limits it."""

    variant: Variant
    kernel: sass.Kernel
    occupancy: Occupancy
    seconds: dict[str, float]
    slots: float
    """Issue slots of all warps together."""
    in_flight: float
    """Bytes on their way to a multiprocessor at a time."""

    @property
    def limiter(self) -> str:
        """What takes longest."""
        return max(self.seconds, key=lambda name: self.seconds[name])


@cache
def _kernel(variant: Variant, architecture: str) -> sass.Kernel:
    """Compile a kernel."""
    path = kernels_folder() / variant.file
    return sass.kernels(path, [variant.name], architecture)[variant.name]


def _trip(kernel: sass.Kernel, part: Part) -> sass.Trip:
    """The usual trip through the loop of a part."""
    graph, architecture = kernel.graph, kernel.architecture
    if part.pick not in ("around", "edge", "edge inner"):
        return kernel.trip(part.pick, part.avoid)
    hot, trip = sass.hot_loop(graph, architecture, None, part.avoid)
    loops = sass.loops(graph)
    if part.pick == "around":
        outer = [loop for loop in loops if hot.members < loop.members]
        if not outer:
            return sass.Trip((), architecture)
        return sass.usual_trip(graph, outer[0], architecture, part.avoid)
    trips = {loop: sass.usual_trip(graph, loop, architecture, part.avoid) for loop in loops}
    apart = [loop for loop in loops if not hot.members <= loop.members]
    edges = [loop for loop in apart if _alike(trips[loop], trip)]
    if not edges:
        return trip if part.pick == "edge" else sass.Trip((), architecture)
    edge = max(edges, key=lambda loop: trips[loop].slots)
    if part.pick == "edge":
        return trips[edge]
    inner = [trips[loop] for loop in loops if loop.members < edge.members]
    return max(inner, key=lambda trip: trip.slots, default=sass.Trip((), architecture))


def _alike(trip: sass.Trip, hot: sass.Trip) -> bool:
    """Whether a loop does for each row that it writes about what the hot loop does."""
    own, hots = trip.count("STG"), hot.count("STG")
    return bool(own and hots) and 0.8 <= trip.arithmetic / own / (hot.arithmetic / hots) <= 1.3


def launch_limits(
    launch: Launch, work: Work, read: int, written: int, device: Device
) -> LaunchLimits:
    """The limits of one launch that reads and writes so many bytes."""
    kernel = _kernel(launch.variant, device.architecture)
    room = occupancy(launch, kernel.resources, device)
    all_warps = warps(launch)
    resident = min(device.processors * room.warps, all_warps)
    # A grid of fewer blocks than there are multiprocessors leaves some idle.
    clocks = device.clocks * min(1.0, math.prod(launch.grid) / device.processors)
    seconds = {
        "memory": (read + written) / device.copy_gb_s / 1e9,
        "L2": (read * work.reads + written) / device.l2_gb_s / 1e9,
    }
    slots = waiting = flying = 0.0
    for part in work.parts:
        trip = _trip(kernel, part)
        rows = trip.count(part.per) if part.per else 1
        if not rows:
            raise ModelError(f"{launch.variant}: the loop of {part} holds no {part.per}")
        trips, ahead = part.trips / rows, 0.0 if part.cached else work.ahead / rows
        slots += trips * trip.slots
        for pipe, spent in trip.clocks.items():
            seconds[pipe] = seconds.get(pipe, 0.0) + trips * spent / clocks
        loaded = sum(i.lane_bytes for i in trip.instructions if i.root in ("LDG", "LDGSTS"))
        own = trip.slots / (device.ghz * 1e9)
        wait = CACHE_LATENCY_S if part.cached else LATENCY_S
        each = max(wait / ahead, own) if ahead and loaded else own + wait * bool(loaded)
        waiting += trips / all_warps * each
        if not part.cached:
            flying = max(flying, loaded * sass.WARP * max(1.0, ahead))
    seconds["latency"] = waiting * all_warps / max(1, resident)
    in_flight = flying * resident / device.processors
    return LaunchLimits(launch.variant, kernel, room, seconds, slots, in_flight)


@dataclass(frozen=True)
class Prediction:
    """A case on a device."""

    case: Case
    device: Device
    read: int
    written: int
    launches: tuple[Launch, ...]
    limits: tuple[LaunchLimits, ...]
    """Empty where a kernel has no line in WORK."""
    measured_ms: float | None = None

    @property
    def elements(self) -> int:
        """Of the input."""
        return math.prod(self.case.shape)

    @property
    def floor_seconds(self) -> float:
        """Input and output once at the speed of a copy."""
        return (self.read + self.written) / self.device.copy_gb_s / 1e9

    @property
    def seconds(self) -> float | None:
        """The slowest limit of each launch, one after the other."""
        if not self.limits:
            return None
        return sum(max(one.seconds.values()) for one in self.limits)

    @property
    def share(self) -> float | None:
        """Of the speed of a copy."""
        return None if self.seconds is None else self.floor_seconds / self.seconds

    def rate(self, seconds: float | None) -> float | None:
        """Gpx/s: thousands of millions of input elements a second."""
        return self.elements / seconds / 1e9 if seconds else None

    @property
    def kernels(self) -> str:
        """What is launched."""
        counted: dict[str, int] = {}
        for launch in self.launches:
            counted[launch.variant.name] = counted.get(launch.variant.name, 0) + 1
        return ", ".join(f"{n} × {name}" if n > 1 else name for name, n in counted.items())


def predict(case: Case, device: Device, lines: Iterable[results.Line] = ()) -> Prediction:
    """The limits of a case, and what was measured of it on such a device."""
    asked = ask(case)
    limits: list[LaunchLimits] = []
    if all(launch.variant.kernel in WORK for launch in asked.launches):
        for launch, traffic in zip(asked.launches, asked.traffic, strict=True):
            work = WORK[launch.variant.kernel](launch)
            limits.append(launch_limits(launch, work, *(work.traffic or traffic), device))
    measured = [
        line.times_ms["median"]
        for line in lines
        if line.name == case.name
        and line.implementation == OURS
        and line.times_ms
        and device.name in line.device
    ]
    return Prediction(
        *(case, device, asked.read, asked.written, asked.launches, tuple(limits)),
        measured[-1] if measured else None,
    )


# ---------------------------------------------------------------- goals


@dataclass(frozen=True, slots=True)
class Goal:
    """What DESIGN.md section 7 asks of cases: a share of a copy's speed, or Gpx/s on an H200."""

    patterns: tuple[str, ...]
    share: float | None = None
    gpx: float | None = None

    def covers(self, case: Case) -> bool:
        """Whether it is about this case."""
        return any(fnmatchcase(case.name, pattern) for pattern in self.patterns)

    def told(self) -> str:
        """For a column."""
        return f"{self.share:.0%}" if self.share is not None else f"{short(self.gpx)} Gpx/s"

    def met(self, found: Prediction) -> bool | None:
        """Whether the prediction reaches it; None where nobody can tell."""
        if self.share is not None:
            return None if found.share is None else found.share >= self.share
        rate = found.rate(found.seconds)
        if rate is None or self.gpx is None or found.device.name != "H200":
            return None
        return rate >= self.gpx


COPIED = ("u8", "f16", "f32")
"""Dtypes of section 7's floors."""

GOALS = (
    Goal(("filter2d/*/k3", "sharpen/*"), 0.85),
    Goal(("filter2d/f32/*/k5", "filter2d/f32/*/k7"), 0.85),
    Goal(("filter2d/u8/*/k15-tensor", "filter2d/f16/*/k15-tensor"), gpx=300),
    Goal(("filter2d/u8/*/k31-tensor", "filter2d/f16/*/k31-tensor"), gpx=100),
    *(Goal((f"{name}/{dtype}/*",), 0.85) for name in ("sobel", "box_blur") for dtype in COPIED),
    Goal(tuple(f"gaussian_blur/{dtype}/*/sigma1" for dtype in COPIED), 0.85),
    *(
        Goal(tuple(f"separable_filter2d/{dtype}/*/k{k}" for dtype in COPIED), 0.85)
        for k in (3, 5, 7, 9, 11, 13, 15)
    ),
    Goal(("separable_filter2d/f32/*/k31", "gaussian_blur/f32/*/sigma3"), 0.70),
    *(
        Goal((f"median_blur/u8/*/{k}x{k}",), gpx=gpx)
        for k, gpx in ((3, 700), (5, 200), (7, 90), (15, 15), (31, 3), (75, 1))
    ),
    *(
        Goal((f"median_blur/u16/*/{k}x{k}", f"median_blur/f32/*/{k}x{k}"), gpx=gpx / 3)
        for k, gpx in ((15, 15), (31, 3), (75, 1))
    ),
    Goal(("dilate/*", "erode/*"), 0.70),
    Goal(("max_pool2d/*", "avg_pool2d/*"), 0.85),
)
"""Of filters and pools: section 7, and for medians of 75×75 and of other dtypes issue 6."""


def goal_of(case: Case) -> Goal | None:
    """The goal that a case has, if any."""
    return next((goal for goal in GOALS if goal.covers(case)), None)


# ---------------------------------------------------------------- the command line

GROUPS = ("filters", "pools")
HEADER = ["case", "floor", "Gpx/s", "of copy", "limit", "goal", "", "measured", "kernel"]


def cases(pattern: str = "*", scale: Scale = FULL) -> list[Case]:
    """Filters and pools of images, once each, in the order of the gpu set."""
    found = {case.name: case for group in GROUPS for case in gpu_group(group, scale)}
    return [case for name, case in found.items() if fnmatchcase(name, pattern)]


def row(found: Prediction) -> list[str]:
    """A row of the table."""
    goal = goal_of(found.case)
    met = goal.met(found) if goal else None
    verdict = "" if goal is None else {True: "reached", False: "MISSED", None: "?"}[met]
    kernel, limiter = f"not modelled: {found.kernels}", ""
    if found.limits:
        slowest = max(found.limits, key=lambda one: max(one.seconds.values()))
        kernel, limiter = found.kernels, slowest.limiter
    measured = found.rate(found.measured_ms / 1e3) if found.measured_ms else None
    return [
        found.case.name,
        short(found.rate(found.floor_seconds)),
        short(found.rate(found.seconds)),
        "" if found.share is None else f"{found.share:.0%}",
        limiter,
        goal.told() if goal else "",
        verdict,
        short(measured),
        kernel,
    ]


def arithmetic(found: Prediction) -> Iterator[str]:
    """How each limit of a case comes about, a line a limit."""
    device = found.device
    moved = f"{found.read / 1e6:.1f} + {found.written / 1e6:.1f} MB"
    floor = short(found.rate(found.floor_seconds))
    yield (
        f"{found.case.name}: {moved} at {device.copy_gb_s:g} GB/s ({device.source}) "
        f"take {found.floor_seconds * 1e6:.1f} µs: {floor} Gpx/s"
    )
    for launch, one in zip(found.launches, found.limits, strict=False):
        room, resources = one.occupancy, one.kernel.resources
        yield (
            f"  {one.variant.name}: {math.prod(launch.grid)} blocks of {math.prod(launch.block)}, "
            f"{resources.registers} registers, "
            f"{launch.shared_bytes + resources.shared_bytes} bytes shared: {room.blocks} blocks = "
            f"{room.warps} warps an SM ({room.limit}), {room.waves:.2f} waves"
        )
        yield (
            f"    {one.slots * sass.WARP / found.elements:.2f} issue slots an element; "
            f"{one.in_flight / 1024:.1f} KB of loads in flight an SM, "
            f"{_wanted(found) / 1024:.1f} KB wanted at this speed"
        )
        for name, seconds in sorted(one.seconds.items(), key=lambda item: -item[1]):
            if seconds < max(one.seconds.values()) / 20:
                continue
            a_clock = found.elements / seconds / device.clocks
            yield (
                f"    {name:8} {seconds * 1e6:9.1f} µs  {short(found.rate(seconds)):>6} Gpx/s  "
                f"{a_clock:6.2f} elements a clock and SM"
            )
    if not found.limits:
        yield f"  not modelled: {found.kernels}"


def _wanted(found: Prediction) -> float:
    """Little's law: bytes a multiprocessor must have asked for, to read at the predicted speed."""
    assert found.seconds is not None
    return found.read / found.seconds * LATENCY_S / found.device.processors


def kernel_rows(found: Iterable[Prediction]) -> list[list[str]]:
    """The header and a row a kernel: what it takes of a multiprocessor."""
    rows = {}
    for prediction in found:
        for launch, one in zip(prediction.launches, prediction.limits, strict=False):
            resources = one.kernel.resources
            rows[one.variant.name] = [
                one.variant.name,
                str(resources.registers),
                str(launch.shared_bytes + resources.shared_bytes),
                f"{one.occupancy.warps} ({one.occupancy.limit})",
                f"{one.slots * sass.WARP / prediction.elements:.1f}",
                f"{one.in_flight / 1024:.1f}",
            ]
    header = ["kernel", "registers", "shared", "warps an SM", "slots an element", "KB in flight"]
    return [header, *rows.values()]


README_CASES = (
    *("filter2d/*/8x2160x3840/*", "separable_filter2d/*/8x2160x3840/*"),
    *("gaussian_blur/*/8x2160x3840/*", "box_blur/*/8x2160x3840/*", "sobel/*/8x2160x3840/*"),
    *("median_blur/*/8x2160x3840/*", "dilate/*/8x2160x3840/*", "*_pool2d/*/8x1x2160x3840/*"),
)


README_MARKS = "<!-- bench.roofline --readme -->", "<!-- end -->"


def readme(device: Device) -> str:
    """The text of the README: a prediction, and called so."""
    chosen = [c for c in cases() if any(fnmatchcase(c.name, p) for p in README_CASES)]
    table = [[*HEADER[:6], "predicted"]]
    table += [row(predict(case, device))[:7] for case in chosen if goal_of(case)]
    begin, end = README_MARKS
    text = (
        f"Predicted from machine code for one {device.name}, not measured: the slowest of memory, "
        "L2, issue slots, pipes and latency, for 8 images of 3840×2160. `floor` is a copy of input "
        "and output; Gpx/s are thousands of millions of input elements a second. A kernel reaches "
        "less than its limits."
    )
    return f"{begin}\n{text}\n\n{as_markdown(table)}\n{end}\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, or the arithmetic of a few cases."""
    parser = argparse.ArgumentParser(
        "python -m bench.roofline", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--arch", default="sm_90", choices=list(dict.fromkeys(d.architecture for d in DEVICES))
    )
    parser.add_argument(
        "--device", choices=[d.name for d in DEVICES], help="default: the first of --arch"
    )
    parser.add_argument("--filter", default="*", metavar="GLOB", help="of cases' names")
    parser.add_argument("--arithmetic", action="store_true", help="how each limit comes about")
    parser.add_argument("--kernels", action="store_true", help="a row a kernel instead")
    parser.add_argument("--goals", action="store_true", help="cases that have a goal alone")
    parser.add_argument("--readme", action="store_true", help="the README's table")
    options = parser.parse_args(argv)
    device = device_of(options.device, options.arch)
    chosen = [case for case in cases(options.filter) if goal_of(case) or not options.goals]
    if not chosen:
        parser.error(f"--filter must match a case of the gpu set, got {options.filter!r}")
    try:
        if options.readme:
            print(readme(device), end="")
            return 0
        lines = [
            line for path in sorted(results.FOLDER.glob("*.jsonl")) for line in results.read(path)
        ]
        found = [predict(case, device, lines) for case in chosen]
    except (nvrtc.MissingToolError, nvrtc.NvrtcError, LookupError, ValueError) as error:
        parser.error(str(error))
    print(
        f"{device.name}: {device.architecture}, {device.processors} SMs at {device.ghz:g} GHz, "
        f"copy {device.copy_gb_s:g} GB/s ({device.source}). Predictions, not measurements.\n"
    )
    if options.kernels:
        print(as_text(kernel_rows(found)))
        return 0
    print(as_text([HEADER, *map(row, found)]))
    if options.arithmetic:
        print()
        for prediction in found:
            print(*arithmetic(prediction), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
