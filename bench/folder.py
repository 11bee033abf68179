"""A folder of photographs from disk to disk: `python -m bench.folder [--format jpg|png|tif|all]`.

`gpuconv filter` beside the loop that one would write with another library. Each is a process of its
own, timed from its start to its end, imports included; they take turns, round by round. Before
that, one run of each is checked: the same function, the same format, the same quality.

Exit status: 0; 1 if gpuconv failed or its files are not what OpenCV's are; 2 bad usage.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import gpuconv
from bench import machine, table
from bench.folder_loops import LOOPS, missing
from bench.photographs import FORMATS, make_folder
from bench.results import OURS, destination
from bench.timeline import timeline

OPERATION = "gaussian_blur:sigma=3"
REFERENCE = "opencv"
"""Whose files ours must be like."""

SLOW = ("skimage", "cucim")
FEW = 4
"""Images that the slow ones are given: their rate does not hang on the number."""

LARGEST_DIFFERENCE = 1
LEAST_PSNR = 45.0
"""What JPEG, which rounds again, may differ by."""


@dataclass(frozen=True, slots=True)
class Line:
    """One implementation's result over one folder. Fields as those of `bench.results.Line`.

    seconds : of the whole process. cpu_s : of the processors, steadier where others are at work.
    ratio : its time a pixel over gpuconv's in the same rounds.
    largest_difference, psnr_db : of its files from OpenCV's. stages : seconds of all workers.
    """

    name: str
    implementation: str
    backend: str
    status: str
    reason: str
    images: int
    megapixels: float
    rounds: int
    seconds: dict[str, float] | None
    cpu_s: float | None
    megapixels_per_s: float | None
    ratio: float | None
    input_bytes: int
    output_bytes: int | None
    largest_difference: int | None
    psnr_db: float | None
    stages: dict[str, float] | None
    threads: int
    device: str
    driver: str | None
    versions: dict[str, str]
    commit: str | None
    dirty: bool | None
    date: str
    load: float | None


@dataclass(slots=True)
class Contender:
    """One implementation over one folder: its command, what became of it, and its seconds."""

    name: str
    source: Path
    target: Path
    command: list[str]
    images: int
    status: str = "ok"
    reason: str = ""
    output_bytes: int | None = None
    difference: int | None = None
    psnr_db: float | None = None
    samples: list[float] = field(default_factory=list)
    cpu_samples: list[float] = field(default_factory=list)

    def run(self) -> tuple[float, float]:
        """Seconds of one run into an empty folder, by the clock and of the processors.

        Raises
        ------
        RuntimeError : it failed.
        """
        shutil.rmtree(self.target, ignore_errors=True)
        environment = as_installed(self.target.parent)
        before, start = children_cpu_seconds(), time.perf_counter()
        done = subprocess.run(self.command, env=environment, capture_output=True, text=True)
        seconds, after = time.perf_counter() - start, children_cpu_seconds()
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
        return seconds, after - before

    def try_out(self) -> None:
        """One run that is not counted, for its files and to warm the disk's cache."""
        try:
            self.run()
        except RuntimeError as error:
            self.status, self.reason = "failed", str(error)
            return
        self.output_bytes = folder_bytes(self.target)


def children_cpu_seconds() -> float:
    """Processor time of all processes that this one has started and waited for."""
    times = os.times()
    return times.children_user + times.children_system


def as_installed(work: Path) -> dict[str, str]:
    """An environment where this checkout is found, and compiled but once as installed files are."""
    paths = [str(machine.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    environment["PYTHONPYCACHEPREFIX"] = str(work / "bytecode")
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


def folder_bytes(folder: Path) -> int:
    """Bytes of the images in a folder."""
    return sum(path.stat().st_size for path in images_of(folder))


def images_of(folder: Path) -> list[Path]:
    """The images in a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix[1:] in FORMATS)


def contenders(
    source: Path, work: Path, operation: str, loops: Sequence[str], report: Path
) -> list[Contender]:
    """gpuconv first, then the loops. The slow ones get a folder of a few images."""
    paths = images_of(source)
    ours = [sys.executable, "-m", "gpuconv", "filter", str(source), "-o", str(work / OURS)]
    ours += ["--op", operation, "-q", "--report", str(report)]
    found = [Contender(OURS, source, work / OURS, ours, len(paths))]
    few = work / "few"
    few.mkdir(parents=True)
    for path in paths[:FEW]:
        (few / path.name).symlink_to(path.resolve())
    for loop in loops:
        slow = loop.partition("-")[0] in SLOW
        folder, count = (few, min(FEW, len(paths))) if slow else (source, len(paths))
        command = [sys.executable, "-m", "bench.folder_loops", loop, str(folder), str(work / loop)]
        found.append(Contender(loop, folder, work / loop, [*command, operation], count))
    return found


def judge(entries: Sequence[Contender]) -> None:
    """Compare everyone's files with OpenCV's; ours must be like them."""
    reference = next((e for e in entries if e.name == REFERENCE and e.status == "ok"), None)
    if reference is None:
        return
    for entry in entries:
        if entry.status != "ok":
            continue
        pairs = [(path, reference.target / path.name) for path in images_of(entry.target)]
        differences = [differ(*pair) for pair in pairs]
        entry.difference = max(most for most, _ in differences)
        entry.psnr_db = min(psnr for _, psnr in differences)
        if entry.name == OURS:
            reasons = [reason for pair in pairs if (reason := complaint(*pair))]
            if len(pairs) != entry.images:
                reasons = [f"{len(pairs)} of {entry.images} images were written"]
            if reasons:
                entry.status, entry.reason = "wrong", reasons[0]


def differ(path: Path, other: Path) -> tuple[int, float]:
    """The largest difference of two images' levels, and the peak signal-to-noise ratio (dB)."""
    first, second = (_pixels(p).astype(np.int16) for p in (path, other))
    off = first - second
    mean_square = float(np.mean(np.square(off, dtype=np.float32)))
    psnr = 10 * np.log10(255**2 / mean_square) if mean_square else 99.0
    return int(abs(off).max()), min(99.0, float(psnr))


def complaint(path: Path, other: Path) -> str | None:
    """Why a file of ours is not what OpenCV's is; None where it is."""
    most, psnr = differ(path, other)
    mine, theirs = coding(path), coding(other)
    if mine != theirs:
        return f"{path.name} is {mine}, OpenCV's is {theirs}"
    if path.suffix == ".jpg":
        return None if psnr >= LEAST_PSNR else f"{path.name} has a PSNR of {psnr:.1f} dB"
    return None if most <= LARGEST_DIFFERENCE else f"{path.name} is {most} levels off"


def coding(path: Path) -> dict[str, Any]:
    """What a file tells of its format: of JPEG its quantisation tables and sampling, too."""
    import PIL.Image

    with PIL.Image.open(path) as picture:
        told: dict[str, Any] = {"format": picture.format, "mode": picture.mode}
        told["size"] = picture.size
        if picture.format == "JPEG":
            told["quantisation"] = getattr(picture, "quantization", None)
            told["sampling"] = [layer[1:3] for layer in getattr(picture, "layer", ())]
    return told


def _pixels(path: Path) -> Any:
    import PIL.Image

    with PIL.Image.open(path) as picture:
        return np.asarray(picture)


def measure(entries: Sequence[Contender], rounds: int) -> None:
    """Take turns, each round starting with another."""
    able = [entry for entry in entries if entry.status == "ok"]
    for number in range(rounds if able else 0):
        start = number % len(able)
        for entry in (*able[start:], *able[:start]):
            if entry.status != "ok":
                continue
            try:
                seconds, cpu_seconds = entry.run()
            except RuntimeError as error:
                entry.status, entry.reason = "failed", str(error)
                entry.samples.clear()
            else:
                entry.samples.append(seconds)
                entry.cpu_samples.append(cpu_seconds)


def lines_of(
    name: str,
    entries: Sequence[Contender],
    pixels_each: float,
    stages: dict[str, float] | None,
    facts: Mapping[str, Any],
) -> list[Line]:
    """The lines of a folder. `facts` is what all lines of a run share."""
    ours = entries[0]
    lines = []
    for entry in entries:
        seconds = rate = ratio = None
        megapixels = entry.images * pixels_each / 1e6
        if entry.samples:
            low, median, high = (float(t) for t in np.percentile(entry.samples, (10, 50, 90)))
            seconds = {"median": median, "p10": low, "p90": high}
            rate = megapixels / median
        if entry.samples and ours.samples:
            pairs = zip(entry.samples, ours.samples, strict=False)
            scale = ours.images / entry.images
            ratio = float(np.median([own / our * scale for own, our in pairs]))
        mine = entry is ours
        lines.append(
            Line(
                name=name,
                implementation=entry.name,
                backend=facts["backend"] if mine else "cuda" if "cu" in entry.name else "cpu",
                status=entry.status,
                reason=entry.reason,
                images=entry.images,
                megapixels=round(megapixels, 3),
                rounds=len(entry.samples),
                seconds=seconds,
                cpu_s=float(np.median(entry.cpu_samples)) if entry.samples else None,
                megapixels_per_s=rate,
                ratio=ratio,
                input_bytes=folder_bytes(entry.source),
                output_bytes=entry.output_bytes,
                largest_difference=entry.difference,
                psnr_db=entry.psnr_db,
                stages=stages if mine else None,
                **{key: value for key, value in facts.items() if key != "backend"},
            )
        )
    return lines


def shared_facts() -> dict[str, Any]:
    """What every line of this run says of the machine."""
    backend = gpuconv.info()["auto"]["backend"]
    packages = ("numpy", "pillow", "imagecodecs", "tifffile", "isal", "scikit-image", "pyvips")
    return {
        "backend": backend,
        "threads": machine.cpu_count(),
        "load": machine.load(),
        **machine.device(backend),
        "versions": {
            "python": sys.version.split()[0],
            "opencv": machine.version("opencv-python-headless", "opencv-python"),
            **{package: machine.version(package) for package in packages},
        },
        **machine.commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def rows(lines: Sequence[Line]) -> list[list[str]]:
    """The header and a row an implementation."""
    found = [["", "s", "CPU s", "Mpixel/s", "time ÷ ours", "MB written", "difference", "PSNR"]]
    for line in lines:
        if line.seconds is None:
            found.append([line.implementation, line.status, *[""] * 6])
            continue
        scale = lines[0].images / line.images
        written = (line.output_bytes or 0) / 1e6 * scale
        found.append(
            [
                line.implementation,
                f"{line.seconds['median'] * scale:.2f}",
                f"{(line.cpu_s or 0) * scale:.2f}",
                table.short(line.megapixels_per_s),
                f"{line.ratio:.2f}" if line.ratio is not None else "",
                f"{written:.1f}",
                "" if line.largest_difference is None else str(line.largest_difference),
                "" if line.psnr_db is None else f"{line.psnr_db:.1f} dB",
            ]
        )
    return found


def verdict(lines: Sequence[Line]) -> str:
    """One sentence: gpuconv beside the best of OpenCV's loops."""
    ours = lines[0].megapixels_per_s
    rivals = {
        line.implementation: line.megapixels_per_s
        for line in lines
        if line.implementation.startswith(REFERENCE) and line.megapixels_per_s
    }
    if not ours or not rivals:
        return ""
    best = max(rivals, key=lambda name: rivals[name])
    return f"gpuconv does {ours:.1f} Mpixel/s, {ours / rivals[best]:.2f} times {best}"


def each(
    kinds: Sequence[str], options: argparse.Namespace, loops: Sequence[str], folder: Path
) -> Iterator[list[Line]]:
    """Measure one format after the other; the lines are appended to `options.output`."""
    facts = shared_facts()
    for kind in kinds:
        source = folder / f"{options.images}x{options.megapixels:g}-{kind}"
        paths = make_folder(source, kind, options.images, options.megapixels)
        pixels = float(np.prod(_pixels(paths[0]).shape[:2]))
        with tempfile.TemporaryDirectory(dir=folder) as work:
            report = Path(work) / "report.json"
            entries = contenders(source, Path(work), options.op, loops, report)
            for entry in entries:
                entry.try_out()
            judge(entries)
            measure(entries, options.rounds)
            told = json.loads(report.read_text()) if report.exists() else {}
            name = f"folder/{options.op}/{kind}/{options.images}x{options.megapixels:g}Mpixel"
            found = lines_of(name, entries, pixels, told.get("stages"), facts)
        if options.output is not None:
            append(destination(options.output, facts["device"]), found)
        if options.timeline is not None and told.get("timeline"):
            picture = options.timeline
            timeline(told, picture.with_stem(f"{picture.stem}-{kind}"))
        yield found


def overview(path: Path) -> str:
    """Kept lines as a Markdown table: a row a folder, a column an implementation."""
    folders: dict[str, dict[str, Mapping[str, Any]]] = {}
    for text in path.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        folders.setdefault(line["name"], {})[line["implementation"]] = line
    rivals = list(dict.fromkeys(name for found in folders.values() for name in found))[1:]
    table_rows = [["folder", "Mpixel/s", *rivals]]
    for name, found in folders.items():
        rate = table.short(found["gpuconv"]["megapixels_per_s"])
        ratios = [found[rival]["ratio"] if rival in found else None for rival in rivals]
        shown = ["-" if ratio is None else f"{ratio:.2f}x" for ratio in ratios]
        table_rows.append([name.removeprefix("folder/"), rate, *shown])
    return table.as_markdown(table_rows)


def append(path: Path, lines: Sequence[Line]) -> None:
    """Add lines to a file, which need not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(line)) + "\n" for line in lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser("python -m bench.folder", description=__doc__)
    parser.add_argument("--images", type=int, default=16, metavar="N", help="default: 16")
    parser.add_argument("--megapixels", type=float, default=12, metavar="M", help="default: 12")
    parser.add_argument("--format", choices=(*FORMATS, "all"), default="all")
    parser.add_argument("--op", default=OPERATION, metavar="NAME:KEY=VALUE", help=OPERATION)
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument(
        "--loops", metavar="NAMES", help=f"of {', '.join(LOOPS)}; default: those that can run"
    )
    parser.add_argument("--folder", type=Path, help="where the photographs are kept; default: not")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="append JSON lines")
    parser.add_argument("--show", type=Path, metavar="FILE", help="a table of kept lines, no run")
    parser.add_argument("--timeline", type=Path, metavar="FILE.svg", help="draw the last run, too")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    command = parser()
    options = command.parse_args(argv)
    if options.show is not None:
        print(overview(options.show))
        return 0
    loops = options.loops.split(",") if options.loops else list(LOOPS)
    for loop in loops:
        if loop not in LOOPS:
            command.error(f"--loops must name some of {', '.join(LOOPS)}, got {loop}")
    reasons = {loop: why for loop in loops if (why := missing(loop))}
    for loop, why in reasons.items():
        print(f"{loop} skipped: {why}", file=sys.stderr)
    kinds = FORMATS if options.format == "all" else (options.format,)
    right = True
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        able = [loop for loop in loops if loop not in reasons]
        for lines in each(kinds, options, able, folder):
            print(f"{lines[0].name}, {lines[0].device}", table.as_text(rows(lines)), sep="\n\n")
            troubles = [f"{x.implementation} {x.status}: {x.reason}" for x in lines if x.reason]
            stages = lines[0].stages or {}
            told = [f"{stage} {seconds:.2f} s" for stage, seconds in stages.items()]
            print("", *troubles, ", ".join(told), verdict(lines), "", sep="\n", flush=True)
            right &= lines[0].status == "ok"
    return int(not right)


if __name__ == "__main__":
    sys.exit(main())
