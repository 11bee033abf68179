"""Compiling for the emulator: once, shared between processes, renewed when anything changes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.emulator import EmulatorLauncher, build, launcher
from tests.emulator.build import included_files
from tests.emulator.cases import KERNELS

pytestmark = pytest.mark.emulator

ROOT = Path(__file__).parents[1]
SOURCE = """
#include "common/prelude.cuh"
#include "value.cuh"
__global__ void value(int* out) { out[threadIdx.x] = VALUE + EXTRA; }
"""


@pytest.fixture
def sources(tmp_path):
    """A folder with a kernel and a header of its own."""
    (tmp_path / "value.cu").write_text(SOURCE)
    (tmp_path / "value.cuh").write_text("#define VALUE 1\n")
    return tmp_path


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    """An empty cache; what this process has compiled is forgotten for the time of a test."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr(build, "cache_folder", lambda: folder)
    build.kernel_library.cache_clear()
    yield folder
    build.kernel_library.cache_clear()


def value_of(folder, extra=0):
    out = np.zeros(4, np.int32)
    EmulatorLauncher(folder=folder).kernel("value.cu", "value", [f"EXTRA={extra}"])(
        (1,), (4,), (out,)
    )
    return out[0]


def test_included_files_are_found_through_each_other():
    found = included_files(KERNELS / "tensor.cu", [ROOT / "kernels_cu", build.SHIM_FOLDER])
    assert {"tensor.cu", "ptx.cuh", "prelude.cuh", "device.hpp", "machine.hpp"} <= {
        file.name for file in found
    }


def test_library_is_made_once_and_again_when_an_included_file_changes(sources, fresh_cache):
    def libraries():
        return {file: file.stat().st_ino for file in fresh_cache.glob("value-*.so")}

    assert value_of(sources) == 1
    first = libraries()
    build.kernel_library.cache_clear()
    assert value_of(sources) == 1
    assert libraries() == first
    assert value_of(sources, extra=5) == 6
    (sources / "value.cuh").write_text("#define VALUE 2\n")
    build.kernel_library.cache_clear()
    assert value_of(sources) == 2
    assert len(libraries()) == 3
    assert [f.name for f in fresh_cache.iterdir() if f.suffix != ".so"] == []


def run_python(code, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_processes_that_compile_at_once_share_the_work(sources, tmp_path):
    code = (
        "import numpy as np; from pathlib import Path; from tests.emulator import EmulatorLauncher;"
        "out = np.zeros(4, np.int32);"
        f"launcher = EmulatorLauncher(folder=Path({str(sources)!r}));"
        "launcher.kernel('value.cu', 'value', ['EXTRA=3'])((1,), (4,), (out,)); print(out)"
    )

    folder = tmp_path / "shared"
    running = [run_python(code, GPUCONV_EMULATOR_CACHE=str(folder)) for _ in range(2)]
    assert [process.communicate(timeout=120)[0].strip() for process in running] == ["[4 4 4 4]"] * 2
    names = sorted(file.name.partition("-")[0] for file in folder.glob("*.so"))
    assert names == ["runtime", "value"]


def test_fiber_switch_of_other_processors():
    chosen = "block_sums or warp_votes or (caught_with_its_line and reverse) or signal"
    files = ["tests/test_emulator.py", "tests/test_emulator_faults.py"]
    arguments = ["-q", "-p", "no:cacheprovider", "-k", chosen, *files]
    code = f"import sys, pytest; sys.exit(pytest.main({arguments!r}))"
    process = run_python(code, GPUCONV_EMULATOR_FLAGS="-DEMULATOR_UCONTEXT")
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output[-3000:]
    assert " passed" in output
    assert "skipped" not in output


def test_without_a_compiler_tests_skip_with_the_reason(monkeypatch):
    monkeypatch.setattr(launcher, "compiler", lambda: None)
    with pytest.raises(pytest.skip.Exception, match=r"no g\+\+ on this machine"):
        EmulatorLauncher()
    monkeypatch.delitem(sys.modules, "pytest")
    with pytest.raises(launcher.EmulatorUnavailableError, match=r"no g\+\+ on this machine"):
        EmulatorLauncher()


def test_libraries_that_nobody_uses_are_removed(tmp_path):
    for name, age_days in [("old.so", 40), ("new.so", 20), ("old.txt", 40)]:
        (tmp_path / name).touch()
        moment = time.time() - age_days * 24 * 3600
        os.utime(tmp_path / name, (moment, moment))
    build.remove_unused(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["new.so", "old.txt"]
