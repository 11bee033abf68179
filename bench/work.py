"""What a launch goes through: how often which loop of its kernel, and what it reads.

A line a kernel is in `WORK`, made from the launch's own geometry and parameters;
bench/prediction.py weighs it with the loops' machine code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench.instructions import WARP
from gpuconv.backends.cuda import chains
from gpuconv.backends.cuda.launch import Launch
from gpuconv.backends.cuda.morph_small import block_lag
from gpuconv.backends.cuda.separable_strips import rows_at_once
from gpuconv.backends.cuda.strips import MULTIPROCESSORS
from gpuconv.backends.cuda.sums import HOW
from gpuconv.backends.cuda.window_channels import SIDE
from gpuconv.backends.cuda.window_lanes import RESIDENT, RISE
from gpuconv.border import Border


@dataclass(frozen=True, slots=True)
class Part:
    """A loop of a kernel: how often all warps of the launch together go through it.

    `pick` and `avoid` are those of bench.sass. Besides, `pick` may be "around", the loop around the
    hot one; "edge", the loop that does what the hot one does at more cost, where the border is
    asked; or "edge inner", a loop within that. Where the compiler has unrolled the loop, `trips`
    counts rows, of which a trip holds as many as opcodes that match `per`. `cached`: what it loads
    lies in the L1 cache. `holds` instead of `pick`: opcodes, and how many of each the loop has;
    the longest of those that do.
    """

    trips: float
    pick: str | None = None
    avoid: str | None = None
    per: str | None = None
    cached: bool = False
    holds: tuple[tuple[str, int], ...] = ()


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
    ahead: float = 0
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
    return math.prod(launch.grid) * -(-math.prod(launch.block) // WARP)


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
        np.arange(int(strip["each"]) * WARP).reshape(-1, WARP), int(strip["packs"])
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
    reads = int(lines.sum()) * (WARP * elements + before + behind) / (planes * height * row)
    return Work(tuple(part for part in parts if part.trips), reads, ahead)


SINGLE = {"float", "float16"}
"""Arguments of kernels that sum in float32, but for bytes."""

PACKS = r"LDG\.E\.(64|128)"
"""Loads of several elements at once."""


def block_strips(launch: Launch) -> Work:
    """The same where the threads of a block do, some rows a trip; see BlockStrips.

    A warp goes the easy way where it reads and writes whole packs of the image. The other way is
    counted row by row: sums along H, of which some trips load elements beside the ends one by one,
    then sums along W.
    """
    params = _params(launch)
    images, strip, finish = params["images"], params["strips"], params["finish"]
    planes, height = int(images["planes"]), int(images["height"])
    row = int(images["width"]) * int(images["channels"])
    each, lanes, rows, beside, above, below = map(int, strip.tolist()[1:])
    threads, together = math.prod(launch.block), rows_at_once(launch.variant)
    pair = together // 2 if SINGLE & set(launch.variant.arguments) else together
    own = next(n for n in (8, 4, 2) if -(-row // n) + 2 * beside == lanes)

    first = np.arange(each)[:, None] * (threads - 2 * beside)
    rank = np.arange(threads)
    band, place = np.divmod(first + rank, lanes)
    y, x = band * rows, (place - beside) * own
    results = np.clip(height - y, 0, rows)
    x, y = np.where(results, x, 0), np.where(results, y, 0)
    whole = (x >= 0) & (x + own <= row)
    writes = (rank >= beside) & (rank < threads - beside) & (x >= 0) & (x < row)
    longest = np.clip(height - first // lanes * rows, 0, rows)
    last = np.where(writes, results // together * together, longest)
    last = np.minimum(last, height - below - together - pair - y)
    easy = np.maximum(-above - below, -below - y).reshape(each, -1, WARP).max(2)
    hard = np.where(whole, last, -above - below - together).reshape(each, -1, WARP).min(2)
    rounds = -(-(~whole).reshape(each, -1, WARP).sum(2) * own // WARP)

    trip = np.arange(-above - below, rows, together)
    there = trip < longest[:, :, None]
    free = there & (trip >= easy[..., None]) & (trip < hard[..., None])
    bound = there & ~free
    made, asked = trip >= 0, finish["how"] != HOW["sum"] or bool(finish["offset"])
    halves = bound.sum(2) * (together // pair) + 0.5  # and one without sums to begin with
    stored = pair * own * params["row" if "row" in params.dtype.names else "before"].itemsize // 16
    parts = (
        Part(int((free & made).sum()) * planes, "LDG" if asked else "STG"),
        Part(int((free & ~made).sum()) * planes, "LDG", "BAR|STG"),
        Part(int(halves.sum()) * planes, holds=(("STG", 0), (r"STS\.128", stored))),
        Part(int((halves * rounds).sum()) * planes, "LDG", rf"STG|BAR|{PACKS}", cached=True),
        Part(int((bound & made).sum()) * planes * together, "STG", "BAR" if asked else "BAR|LDG"),
    )
    reads = int(there.sum()) * together * threads * own / (height * row)
    return Work(tuple(part for part in parts if part.trips), reads, ahead=pair / together)


def _pool_tile(launch: Launch) -> Work:
    """A tile comes into shared memory, is reduced along one axis, then along the others."""
    params = _params(launch)
    z, y, x = (params[name] for name in "zyx")
    jobs, itemsize = int(params["jobs"]), launch.arguments[0].dtype.itemsize
    span_y, rows = int(params["span_y"]["divisor"]), int(params["rows"]["divisor"])
    span_z, pitch, along_y = (int(params[name]) for name in ("span_z", "pitch", "along_y"))
    threads = math.prod(launch.block)
    own, columns = jobs * threads / WARP, threads >> int(params["x_bits"])
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
    threads = int(params["windows"]) / WARP
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
    trips = outputs * stride / 2 / WARP
    parts = (Part(trips), Part(threads / WARP, "around"))
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


def _separable_any(launch: Launch) -> Work:
    """A block loads a tile, sums columns of four rows at once, then rows by entries."""
    params, each = _params(launch), 4 if launch.variant.arguments[1] == "float" else 2
    height, entries = int(params["height"]), int(params["entries"])
    jobs, packs = int(params["tiling"]["jobs"]), int(params["middle_packs"])
    warps, itemsize = launch.block[1], launch.arguments[0].dtype.itemsize
    rows, columns = warps * each, packs * (8 // each)
    chunks = -(-height // int(params["chunk_height"]))
    lines = chunks * (rows - 1) + height
    parts = (
        Part(jobs * packs * rows / 4 / WARP * -(-height // 4)),
        Part(float(jobs * warps * each // 2 * entries), r"LDS\.128", avoid="STS"),
        Part(jobs * lines * columns * itemsize / 16 / 4 / WARP, r"LDG\.E\.128"),
        Part(float(jobs * warps), "STG"),
    )
    return Work(parts, reads=jobs * lines * columns / launch.arguments[0].size)


def _dense_strip(launch: Launch) -> Work:
    element, _, size, channels = launch.variant.arguments
    two = int(size) < 7 or (int(size) == 7 and element not in ("uint16", "float16"))
    return lane_strips(launch, ahead=2 if two else 1, reach=int(size) // 2 * int(channels))


def _gradient_strip(launch: Launch) -> Work:
    """Which elements answer beside the ends of a row is found once a strip: nothing is gathered."""
    work = lane_strips(launch, ahead=2)
    return replace(work, parts=tuple(part for part in work.parts if part.pick != "edge inner"))


def _morph_small(launch: Launch) -> Work:
    """As `_gradient_strip`: lanes fetch the elements beside the ends together, in the same loop."""
    work = strips(launch, ahead=2)
    return replace(work, parts=tuple(part for part in work.parts if part.pick != "edge inner"))


def _morph_blocks(launch: Launch) -> Work:
    """Four rows a trip. Rows above a strip go but some of the way, the first half of them of two
    steps no further than what waits in shared memory. Where a border may be asked a loop of its
    own goes: above strips, in those at the ends of a row, and in the last rows of a plane.
    """
    params = _params(launch)
    images, strip = params["images"], params["strips"]
    row, height = int(images["width"]) * int(images["channels"]), int(images["height"])
    planes = int(images["planes"])
    rows, columns, above, below, side = (
        int(strip[name]) for name in ("rows", "columns", "above", "below", "before")
    )
    boxes, size = launch.variant.arguments[0], int(launch.variant.arguments[1])
    steps = 2 if boxes == "Boxes::Twice" else 1
    late, back = steps * block_lag(size), block_lag(size) + size // 2
    edges = [x < side or x + columns + side > row for x in range(0, row, columns)]
    all_trips = inner = 0
    for y in range(0, height, rows):
        own = min(rows, height - y)
        all_trips += -(-own // 4)
        inner += max(0, min(own - 4, height - y - late - 8) // 4 + 1)
    inner *= len(edges) - sum(edges)
    before, second = (above + late) // 4, (steps - 1) * ((back + 3) // 4)
    strips = planes * len(edges) * -(-height // rows)
    parts = (
        Part(4.0 * planes * inner, per="STG"),
        Part(1.0 * strips * (before - second), "SHFL.IDX", avoid=r"STG|SHFL\.(UP|DOWN)"),
        Part(1.0 * strips * second, "SHFL.IDX", avoid="STG"),
        Part(4.0 * planes * (len(edges) * all_trips - inner), "edge", per="STG"),
    )
    lines = height + -(-height // rows) * (above + below)
    reads = lines / height * (row + 2 * side * len(edges)) / row
    return Work(tuple(part for part in parts if part.trips), reads, ahead=4)


def _separable_strip(launch: Launch) -> Work:
    """Of integers, an inner loop takes the middle to results, a row a trip; not of short bytes."""
    work = block_strips(launch)
    *types, size, _ = launch.variant.arguments
    if SINGLE & set(types) or (not types and int(size) <= 15):
        return work
    main, *others = work.parts
    inner = Part(rows_at_once(launch.variant) * main.trips, "STG", "BAR|LDG")
    return replace(work, parts=(replace(main, pick=None), inner, *others))


def _separable_tensor(launch: Launch) -> Work:
    """A block marches down a strip 16 rows a step; a warp with any results makes 128 bytes of each.

    Strips at an edge ask for rows one by one, and the elements beside an end.
    """
    params = _params(launch)
    images, strip = params["images"], params["strips"]
    row, height = int(images["width"]) * int(images["channels"]), int(images["height"])
    planes, rows, columns = int(images["planes"]), int(strip["rows"]), int(strip["columns"])
    side, above = int(strip["before"]), int(strip["above"])
    own = [min(rows, height - y) for y in range(0, height, rows)]
    steps = planes * sum(-(-r // 16) for r in own)
    asked = planes * 16 * sum(-(-r // 16) + above // 8 for r in own)
    ends = sum(x < side or x + columns + side > row for x in range(0, row, columns))
    each = 128 // launch.arguments[0].dtype.itemsize
    parts = (
        Part(float(steps * -(-row // each)), "HMMA"),
        Part(float(asked * ends), r"LDG\.E\.U\d+", cached=True),
    )
    reads = asked / (planes * height) * (row + 2 * side * int(strip["across"])) / row
    return Work(tuple(part for part in parts if part.trips), reads, ahead=1)


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
    fetches = 2 * math.ceil(int(params["packs"]) / WARP)
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
    columns = WARP // channels * channels * side
    jobs, loaded = int(params["tiling"]["jobs"]), (rows + size - 1) * int(params["pitch"])
    parts = (
        Part(float(jobs * rows), per="STG"),
        Part(jobs * loaded * itemsize / (16 * WARP), r"STS\.128", per=r"STS\.128"),
    )
    return Work(parts, reads=loaded / (rows * columns))


def _marches(lines: float, span: int, width: int, table: int, jobs: int) -> tuple[Part, ...]:
    """Of rank_large.cu: pixels exchanged by fours, rows staged and asked for, a table cleared.

    `lines`: rows that all warps together take in. Of a row's `span`, 128 are asked for a row ahead.
    """
    late = max(0, -(-span // WARP) - 4)
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
    span = WARP + (width - 1) * int(params["images"]["channels"])
    lines = jobs * (rows + height - 1)
    parts = _marches(lines, span, width, 256 // int(launch.variant.arguments[0]), jobs)
    return Work(parts, reads=2 * (rows + height) / rows * span / WARP, ahead=1)


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
    own, jobs = -(-lanes // WARP), int(first["jobs"])
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
    images, planes = first["images"], jobs // (int(first["down"]) * int(first["across"]))
    pixels = planes * int(images["height"]) * int(images["width"]) * int(images["channels"])
    return Work(parts, reads=read / pixels, ahead=4)


def _window_lanes(launch: Launch) -> Work:
    """A warp marches down a strip, as in `_sliding`, after it has met the first window's rows.

    Where lanes copy elements from inside the image, the whole warp goes that way. What strips do
    besides above and below the image is left out.
    """
    params = _params(launch)
    windows, source = params["windows"], launch.arguments[0]
    names = ("jobs", "rows", "height", "top", "lanes", "packs", "beside", "bands", "down")
    jobs, rows, height, top, lanes, packs, beside, bands, down = (int(windows[n]) for n in names)
    itemsize = source.dtype.itemsize
    pack = 4 if itemsize == 4 else 8
    place = np.arange(jobs)[:, None] * (WARP - 2 * beside) + np.arange(WARP)
    band, lane = np.divmod(place, lanes)
    inside = (lane >= beside) & (lane < beside + packs) & (band < bands)
    # One value outside is nobody's copy.
    one = int(windows["images"]["border"]) == list(Border).index(Border.CONSTANT)
    copying = 0 if one else int(np.any(~inside, axis=1).sum())
    parts = (
        Part(float((jobs - copying) * rows), "STG", per="STG"),
        Part(float(copying * rows), "STG", rf"LDG\.E\.{8 * pack * itemsize}", per="STG"),
        Part(float(jobs * math.ceil((height - 1) / RISE)), "LDG", "STG"),
        Part(jobs * rows / RISE * int(windows["blocks"]), r"LDS\.128", "STG"),
    )
    first = band[inside] % down * rows - top
    last = np.minimum(first + rows + height - 1 + RISE, int(windows["images"]["height"]))
    met = int((last - np.maximum(first, 0)).sum())
    resident = min(RESIDENT[itemsize], math.ceil(jobs / MULTIPROCESSORS))
    live = resident * (height + 2 * RISE) * WARP * pack * itemsize
    if live > L1_BYTES:
        met += int((np.minimum(first + rows, last) - np.maximum(first, 0)).sum())
    return Work(tuple(part for part in parts if part.trips), met * pack / source.size, ahead=RISE)


def _window_channels(launch: Launch) -> Work:
    """A block marches down a strip, whose threads reduce columns, then rows, of one trip.

    What strips do besides above and below the image is left out.
    """
    params = _params(launch)
    windows, source = params["windows"], launch.arguments[0]
    names = ("slices", "across", "down", "rows", "columns", "cells", "height", "width", "top")
    slices, across, down, rows, columns, cells, height, width, top = map(
        int, (windows[name] for name in names)
    )
    planes, image_height, image_width, channels = map(
        int, (windows["images"][name] for name in ("planes", "height", "width", "channels"))
    )
    own, itemsize = math.prod(launch.block) // WARP, source.dtype.itemsize
    bands = planes * slices * across * down
    trips = float(bands * own * rows) / RISE
    pieces = 2 if launch.variant.kernel == "mean_channels" and itemsize == 2 else 1
    parts = (
        Part(trips * RISE, "STG", per="STG"),
        Part(trips * (width - SIDE) * pieces, r"LDS\.128", "STG", r"LDS\.128"),
        Part(trips * int(windows["blocks"]) * pieces, r"LDS\.128", "STG", r"LDS\.128"),
        Part(float(bands * own * math.ceil((height - 1) / RISE)), "LDG", "STG"),
    )
    x = np.arange(across) * columns - int(windows["left"])
    met = int((np.minimum(x + cells, image_width) - np.maximum(x, 0)).sum())
    first = np.arange(down) * rows - top
    last = np.minimum(first + rows + height - 1 + RISE, image_height)
    lines = int((last - np.maximum(first, 0)).sum())
    resident = min(RESIDENT[itemsize] // own, math.ceil(bands / MULTIPROCESSORS)) * own
    pack = 4 if itemsize == 4 else 8
    if resident * (height + 2 * RISE) * WARP * pack * itemsize > L1_BYTES:
        lines += int((np.minimum(first + rows, last) - np.maximum(first, 0)).sum())
    reads = planes * channels * met * lines / source.size
    return Work(tuple(part for part in parts if part.trips), reads, ahead=RISE)


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
    return Work((Part(jobs * padded / WARP),), traffic=traffic)


def _rank_sort(launch: Launch) -> Work:
    """Eights in turn: a pass for the first three rounds of each merge, and one for three more."""
    params, jobs, entries = _sorted_traffic(launch)
    log = int(params["padded"]).bit_length() - 1
    passes = 2 + sum(1 + -(-(size - 3) // 3) for size in range(4, log + 1))
    parts = (Part(jobs * passes * params["padded"] / 8 / WARP, r"LDS\.64|LDS\.128|LDS"),)
    return Work(parts, traffic=(2 * entries, entries + 2 * jobs * int(params["count"])))


def _rank_bits(launch: Launch) -> Work:
    """As rank_counts, over tiles of places."""
    params, jobs, _ = _sorted_traffic(launch)
    height, width, rows = (int(params[name]) for name in ("height", "width", "rows"))
    count, written = int(params["count"]), jobs * rows * WARP
    span, lines = WARP - 1 + width, jobs * (rows + height - 1)
    parts = _marches(lines, span, width, -(-count // 32), jobs)
    itemsize = launch.arguments[2].dtype.itemsize
    read = jobs * count * 2 + written * itemsize
    return Work(parts, ahead=1, traffic=(read, written * itemsize))


def _chain(launch: Launch) -> Work:
    """A block loads a tile, sweeps over it step by step and stores what is left.

    Tiles at an edge of the image read element by element, and fill what each step finds outside.
    Waiting at barriers is left out.
    """
    params = _params(launch)
    images, integers = params["images"], launch.variant.arguments[0].startswith("u")
    channels, jobs = int(images["channels"]), int(params["tiling"]["jobs"])
    steps = params["sweep"][: int(params["sweeps"])]
    down, across = (int(params["tiling"][name]) for name in ("down", "across"))
    tile_rows, tile_columns = int(params["tile_rows"]), int(params["tile_columns"])

    def outside(step: Any, rows: int, height: int, width: int) -> float:
        """Share of the tiles whose region before a step reaches beyond its image."""
        y = np.arange(down) * tile_rows * int(step["scale_y"]) + int(step["from_y"])
        x = np.arange(across) * tile_columns // channels * int(step["scale_x"])
        x += int(step["from_x"])
        inside_y = (y >= 0) & (y + rows <= height)
        inside_x = (x >= 0) & (x + int(step["in_columns"]) // channels <= width)
        return float(1 - inside_y.mean() * inside_x.mean())

    rows, columns = int(params["in_rows"]), int(steps[0]["in_columns"])
    away = outside(steps[0], rows, int(images["height"]), int(images["width"]))
    cells = jobs * rows * -(-columns // WARP)
    parts = [
        Part(jobs * (1 - away) * -(-rows // 4) * -(-columns // 128), "LDG"),
        Part(cells * away, holds=(("LDG", 1), ("STS", 1))),
        Part(jobs * tile_rows * -(-tile_columns // 128), holds=(("STG", 1), ("LDS", 1))),
    ]
    for step in steps:
        if step["fills"]:
            away = outside(step, rows, int(step["height"]), int(step["width"]))
            filled = rows * -(-int(step["in_columns"]) // WARP)
            bare = (("STS", 1), ("LDS", 0), ("LDG", 0), ("FFMA", 0))
            parts.append(Part(jobs * away * filled, cached=True, holds=bare))
        rows, columns = int(step["rows"]), int(step["columns"])
        together, holds = _sweep(int(step["form"]), channels, integers)
        parts.append(Part(jobs * -(-rows // together) * -(-columns // 128), holds=holds))
    reads = jobs * int(params["in_rows"]) * int(steps[0]["in_columns"])
    return Work(tuple(part for part in parts if part.trips), reads / launch.arguments[0].size)


def _sweep(form: int, channels: int, integers: bool) -> tuple[int, tuple[tuple[str, int], ...]]:
    """(rows of a lane and trip, what the loop holds for them) of a sweep of packs."""
    kind, size = next(key for key, number in chains.FORMS.items() if number == form)
    if kind == "gradient":
        return 4, (("STS", 4), ("MUFU", 16))
    if kind == "pairs":
        return 1, (("STS", 1), ("LDS", 4), ("FFMA", 0))
    if kind != "sum":
        raise LookupError(f"sweeps of {kind} have no line")
    height, width = size
    together = 4 if height > width else 1 if height == 1 else 2
    # Integers: rounded between two sweeps, else scaled, rounded and saturated.
    ending = (4 if height > width else 8) * integers
    loads = (together + height - 1) * -(-(4 + (width - 1) * channels) // 4)
    products = together * (4 * height * width + ending)
    return together, (("STS", together), ("LDS", loads), ("FFMA", products), ("MUFU", 0))


WORK: dict[str, Callable[[Launch], Work]] = {
    "box_strip": _sliding,
    "chain": _chain,
    "dense_any": _dense_any,
    "dense_strip": _dense_strip,
    "gradient_strip": _gradient_strip,
    "extreme_channels": _window_channels,
    "extreme_lanes": _window_lanes,
    "mean_channels": _window_channels,
    "mean_lanes": _window_lanes,
    "median": _median_tiles,
    "morph_blocks": _morph_blocks,
    "morph_pair": _sliding,
    "morph_small": _morph_small,
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
    "separable_any": _separable_any,
    "separable_bytes": _separable_strip,
    "separable_odd": block_strips,
    "separable_strip": _separable_strip,
    "separable_tensor": _separable_tensor,
    "toeplitz_roll": _toeplitz,
    "toeplitz_still": _toeplitz,
}
"""A line a kernel. A kernel that has none is shown as not modelled."""
