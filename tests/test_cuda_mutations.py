"""Faults put into the real kernels: the emulator's check build must find each."""

from __future__ import annotations

import re
import shutil
from functools import cache

import pytest

import gpuconv
from gpuconv.backends.cuda.source import kernels_folder
from tests.cuda_cases import every_call, few_blocks
from tests.emulator import EmulatorBackend, KernelError, Kind

pytestmark = [pytest.mark.emulator, pytest.mark.slow]

CALLS = every_call()
BARRIER = "__syncthreads();"


def barriers():
    """(file, line) of every barrier in the CUDA source."""
    places = []
    for path in sorted(kernels_folder().rglob("*.cu*")):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if BARRIER in line.partition("//")[0]:
                places.append((path.relative_to(kernels_folder()).as_posix(), number))
    return places


@cache
def calls_by_file():
    """CUDA file → names of the calls that launch its kernels; one for each kernel comes first."""
    found = {}
    for name, call in CALLS.items():
        emulator = EmulatorBackend()
        with gpuconv.use_backend(emulator):
            call()
        for variant in emulator.kernels:
            found.setdefault(variant.file, {}).setdefault(variant.name, []).append(name)
    return {
        file: list(dict.fromkeys(name for names in kernels.values() for name in names[:2]))
        for file, kernels in found.items()
    }


def users(file):
    """The .cu files that include a header, or the file itself."""
    if file.endswith(".cu"):
        return [file]
    name = file.rpartition("/")[2]
    texts = {p.name: p.read_text() for p in kernels_folder().rglob("*.cu*")}
    reached, waiting = set(), [name]
    while waiting:
        wanted = waiting.pop()
        for other, text in texts.items():
            if other not in reached and re.search(rf'#include "(common/)?{wanted}"', text):
                reached.add(other)
                waiting.append(other)
    return sorted(other for other in reached if other.endswith(".cu"))


@pytest.mark.parametrize(("file", "line"), barriers())
def test_a_missing_barrier_is_found(file, line, tmp_path, monkeypatch):
    folder = tmp_path / "kernels_cu"
    shutil.copytree(kernels_folder(), folder)
    lines = (folder / file).read_text().splitlines()
    lines[line - 1] = lines[line - 1].replace(BARRIER, ";", 1)
    (folder / file).write_text("\n".join(lines) + "\n")
    # Blocks must take more than one job for the barrier between two jobs to matter.
    few_blocks(monkeypatch, 1)
    backend = EmulatorBackend(checked=True, folder=folder)
    kinds = set()
    for name in [name for user in users(file) for name in calls_by_file()[user]]:
        try:
            with gpuconv.use_backend(backend):
                CALLS[name]()
        except KernelError as error:
            kinds = {finding.kind for finding in error.findings}
            break
    assert kinds & {Kind.race, Kind.uninitialised}, f"nobody misses {file}:{line}"
