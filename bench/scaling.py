"""How many photographs a second on 1, 8 and 64 GPUs: `python -m bench.scaling [--rate N ...]`.

Every part of the way has a rate, and the slowest decides; nothing else is lost, for images do not
depend on each other. Which rates were measured and which are assumed is told below the table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from bench import machine
from bench.results import FOLDER, OURS, Line, read
from bench.table import as_markdown, short
from gpuconv.clusters import MOST_TOGETHER

PIXELS = 24_000_000
CHANNELS = 3
RAW_BYTES = PIXELS * CHANNELS

GPUS = (1, 8, 64)
GPUS_A_NODE = 8

FLOOR_SAMPLES = 2150e9
"""Samples a second of an 8-bit filter on an H200, had it nothing to do but read and write them."""

CASE = "gaussian_blur/u8/*x4096x4096/sigma3"
"""The measured case that stands for a filter."""

GPU = "GPU"
LINK = "link"
CODEC = "decode and encode"
TASKS = "Dask's client"
NETWORK = "network"
STORAGE = "file system"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the way of an image.

    images_per_s : of one of it. gpus : that share one; None where all do. origin : where the rate
    comes from.
    """

    name: str
    images_per_s: float
    gpus: int | None
    origin: str

    def on(self, gpus: int) -> float:
        """Images a second of all there are beside so many GPUs."""
        return self.images_per_s * (1 if self.gpus is None else -(-gpus // self.gpus))


WAYS = {
    "on the device": (GPU,),
    "host to host": (GPU, LINK),
    "JPEG files": (GPU, LINK, CODEC, TASKS, NETWORK, STORAGE),
}
"""Where images come from and go to, and the parts that they pass."""


@dataclass(frozen=True, slots=True)
class Row:
    """So many GPUs on one of WAYS: what they reach, and what keeps them from more."""

    way: str
    gpus: int
    images_per_s: float
    limit: str

    @property
    def gpx_per_s(self) -> float:
        """Thousand million pixels a second, of all channels."""
        return self.images_per_s * PIXELS / 1e9


def rows(parts: Sequence[Part], gpus: Sequence[int] = GPUS) -> list[Row]:
    """A row for each way and number of GPUs. The first of equally slow parts is named."""
    named = {part.name: part for part in parts}
    found = []
    for way, names in WAYS.items():
        for count in gpus:
            slowest = min((named[name] for name in names), key=lambda part: part.on(count))
            found.append(Row(way, count, slowest.on(count), slowest.name))
    return found


def gpu_part(lines: Sequence[Line], case: str = CASE) -> Part:
    """The rate of the kernel: measured if there is such a line, else the floor."""
    measured = [
        line
        for line in lines
        if line.implementation == OURS
        and line.backend == "cuda"
        and line.gb_per_s is not None
        and fnmatchcase(line.name, case)
    ]
    if measured:
        line = measured[-1]
        assert line.gb_per_s is not None
        samples = line.gb_per_s * 1e9 / 2  # of a byte, read and written
        return Part(GPU, samples / RAW_BYTES, 1, f"measured: {line.name} on {line.device}")
    return Part(
        GPU,
        FLOOR_SAMPLES / RAW_BYTES,
        1,
        f"assumed: {FLOOR_SAMPLES / 1e9:.0f} Gpx/s, the floor of an 8-bit filter on an H200; "
        "no GPU has been measured yet",
    )


@dataclass(frozen=True, slots=True)
class Codec:
    """JPEG on one processor core, and how many bytes a pixel becomes, read and written."""

    decode_s: float
    encode_s: float
    read_bytes: float
    written_bytes: float


def measure_codec(megapixels: float = 1.0, rounds: int = 3) -> Codec:
    """Decode and encode a photograph as `gpuconv filter` does; per pixel, the best of `rounds`."""
    from bench.photographs import make_folder
    from gpuconv.image_io import read_image, write_image

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, target = make_folder(folder, "jpg", 1, megapixels)[0], folder / "out.jpg"
        image = read_image(source)
        decode = best(lambda: read_image(source), rounds)
        encode = best(lambda: write_image(target, image), rounds)
        sizes = source.stat().st_size, target.stat().st_size
    return Codec(*(value / image.pixels for value in (decode, encode, *sizes)))


def measure_tasks(count: int = 20_000) -> float:
    """Items a second that one client of `scale.run_on` submits and takes back."""
    from gpuconv import scale

    with scale.cluster(workers=1) as client:
        start = 0.0
        for number, _ in enumerate(scale.run_on(client, abs, range(count + 1), ahead=50)):
            if number == 0:
                start = time.perf_counter()
        return count / (time.perf_counter() - start)


def best(call: Callable[[], Any], rounds: int) -> float:
    """Seconds of the quickest of some calls."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def file_parts(
    codec: Codec, tasks: float, *, cores: int, network: float, storage: float, here: str
) -> list[Part]:
    """The parts that image files pass besides GPU and link.

    cores : for each GPU. network, storage : GB/s of a node, and of the file system in all. here :
    the machine that `codec` and `tasks` were measured on.
    """
    seconds = (codec.decode_s + codec.encode_s) * PIXELS
    coded = max(codec.read_bytes, codec.written_bytes) * PIXELS
    both = (codec.read_bytes + codec.written_bytes) * PIXELS
    return [
        Part(
            CODEC,
            cores / seconds,
            1,
            f"measured: {seconds * 1e3:.0f} ms a photograph on a core of {here}; "
            f"assumed: {cores} cores a GPU",
        ),
        Part(
            TASKS,
            tasks,
            None,
            f"measured: one process that hands out images, {MOST_TOGETHER} at a time, on {here}",
        ),
        Part(
            NETWORK,
            network * 1e9 / coded,
            GPUS_A_NODE,
            f"assumed: {network:g} GB/s each way for {GPUS_A_NODE} GPUs; "
            f"measured: {coded / 1e6:.0f} MB a photograph",
        ),
        Part(
            STORAGE,
            storage * 1e9 / both,
            None,
            f"assumed: {storage:g} GB/s in all; measured: {both / 1e6:.0f} MB read and written",
        ),
    ]


def link_part(link: float) -> Part:
    """Raw pixels to the device and back, at once."""
    return Part(
        LINK,
        link * 1e9 / RAW_BYTES,
        1,
        f"assumed: PCIe Gen5 x16, pinned memory, {link:g} GB/s each way for each GPU",
    )


def told(parts: Sequence[Part], gpus: Sequence[int] = GPUS) -> str:
    """The table and where its numbers come from, as Markdown."""
    table = [["way", "GPUs", "images/s", "Gpx/s", "limited by"]]
    for row in rows(parts, gpus):
        rate = f"{row.images_per_s:,.0f}"
        table.append([row.way, str(row.gpus), rate, short(row.gpx_per_s), row.limit])
    origins = [
        f"* {part.name}: {part.images_per_s:,.0f} images/s"
        f"{'' if part.gpus is None else ' a GPU' if part.gpus == 1 else ' a node'}; {part.origin}."
        for part in parts
    ]
    title = f"Photographs of {PIXELS // 1_000_000} megapixels, 8-bit RGB, through one filter."
    return "\n".join([title, "", as_markdown(table), "", *origins])


def measured_lines(folder: Path = FOLDER) -> list[Line]:
    """Every result that was recorded."""
    return [line for path in sorted(folder.glob("*.jsonl")) for line in read(path)]


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table for each rate."""
    parser = argparse.ArgumentParser("python -m bench.scaling", description=__doc__)
    add = parser.add_argument
    add("--rate", type=float, nargs="+", metavar="IMAGES_PER_S_PER_GPU", help="of the GPU alone")
    add("--link", type=float, default=55, metavar="GB_PER_S", help="host to device, a GPU")
    add("--cores", type=int, default=16, help="processor cores for each GPU")
    add(
        "--network", type=float, default=25, metavar="GB_PER_S", help=f"{GPUS_A_NODE} GPUs share it"
    )
    add("--storage", type=float, default=50, metavar="GB_PER_S", help="file system, in all")
    add("--tasks", type=float, metavar="PER_S", help="of one Dask client; measured if not told")
    add("--megapixels", type=float, default=1, help="of the photograph that is coded")
    options = parser.parse_args(argv)
    tasks = measure_tasks() if options.tasks is None else options.tasks
    files = file_parts(
        measure_codec(options.megapixels),
        tasks,
        cores=options.cores,
        network=options.network,
        storage=options.storage,
        here=machine.cpu_name(),
    )
    kernels = [Part(GPU, rate, 1, "as told with --rate") for rate in options.rate or ()]
    tables = [
        told([kernel, link_part(options.link), *files])
        for kernel in kernels or [gpu_part(measured_lines())]
    ]
    print("\n\n".join(tables))
    return 0


if __name__ == "__main__":
    sys.exit(main())
