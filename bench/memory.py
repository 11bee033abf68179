"""Peak memory over huge images: `python -m bench.memory [--size N]`.

Each filter runs over one N×N uint8 image in a process of its own. What it may hold at its peak is
what the process held after its imports, the input, the output and 64 MiB.

Exit status: 0 all within the limit, 1 one is over it or failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np

import gpuconv
from bench import machine

LIMIT_BYTES = 64 << 20

FILTERS = {
    "gaussian_blur sigma=3": lambda image: gpuconv.filters.gaussian_blur(image, sigma=3),
    "median_blur size=5": lambda image: gpuconv.filters.median_blur(image, size=5),
    "median_blur size=3": lambda image: gpuconv.filters.median_blur(image, size=3),
}

ROWS = 64
"""Rows of noise made at a time: filling the input must not need memory of its own."""


def extra_bytes(name: str, size: int) -> int:
    """Peak of this process, which must be a fresh one, beyond imports, input and output."""
    rng = np.random.default_rng(0)
    baseline = machine.resident_bytes() if sys.platform == "linux" else machine.peak_bytes()
    image = np.empty((size, size), np.uint8)
    for top in range(0, size, ROWS):
        rows = image[top : top + ROWS]
        rows[...] = rng.integers(0, 256, rows.shape, np.uint8)
    result = FILTERS[name](image)
    return machine.peak_bytes() - baseline - image.nbytes - result.nbytes


def _in_fresh_process(name: str, size: int) -> tuple[int | None, str]:
    """(extra bytes, "") or (None, why)."""
    command = [sys.executable, "-m", "bench.memory", "--size", str(size), "--only", name]
    done = subprocess.run(command, capture_output=True, text=True, cwd=machine.ROOT)
    if done.returncode:
        return None, (done.stderr.strip().splitlines() or ["no message"])[-1]
    return int(done.stdout), ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser("python -m bench.memory", description=__doc__)
    parser.add_argument("--size", type=int, default=20000, help="side of the image (20000)")
    parser.add_argument("--only", choices=FILTERS, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.only:
        print(extra_bytes(options.only, options.size))
        return 0
    over = 0
    for name in FILTERS:
        start = time.perf_counter()
        extra, why = _in_fresh_process(name, options.size)
        seconds = time.perf_counter() - start
        told = (
            f"failed: {why}"
            if extra is None
            else f"{extra / 2**20:6.1f} MiB beyond input and output"
        )
        within = extra is not None and extra <= LIMIT_BYTES
        verdict = "ok" if within else "OVER THE LIMIT" if extra is not None else "FAILED"
        limit = f"limit {LIMIT_BYTES >> 20} MiB"
        print(
            f"{name:22}  {options.size}x{options.size} uint8  {told}  ({limit})  {verdict}"
            f"  {seconds:.1f} s",
            flush=True,
        )
        over += not within
    return int(over > 0)


if __name__ == "__main__":
    sys.exit(main())
