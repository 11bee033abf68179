"""CUDA source that a host compiler can run: the same answers as its Python twin."""

from __future__ import annotations

import ctypes
import shutil
import subprocess

import numpy as np
import pytest

from gpuconv.backends.cuda.source import kernels_folder
from gpuconv.border import Border, map_index

HOST_SOURCE = """
#include "common/border.cuh"
extern "C" int answer(int border, int position, int length) {
    return map_index(static_cast<Border>(border), position, length);
}
"""


@pytest.fixture(scope="module")
def border_library(tmp_path_factory):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ on this machine to compile the CUDA source for the host")
    folder = tmp_path_factory.mktemp("border")
    (folder / "border.cpp").write_text(HOST_SOURCE)
    library = folder / "border.so"
    subprocess.run(
        [
            *(compiler, "-std=c++17", "-Wall", "-Werror", "-fPIC", "-shared"),
            *(f"-I{kernels_folder()}", str(folder / "border.cpp"), "-o", str(library)),
        ],
        check=True,
    )
    return ctypes.CDLL(str(library))


@pytest.mark.emulator
@pytest.mark.parametrize("number", range(5))
def test_border_cuh_answers_as_border_py(border_library, number):
    border = list(Border)[number]
    for length in (1, 2, 3, 10):
        places = np.arange(-4 * length - 3, 5 * length + 4)
        expected = map_index(places, length, border).tolist()
        assert [border_library.answer(number, int(p), length) for p in places] == expected


def test_kernels_folder_is_found():
    assert (kernels_folder() / "common" / "border.cuh").is_file()
