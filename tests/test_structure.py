"""The shape of the project: one-way imports, light import, public names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpuconv

PACKAGE = Path(gpuconv.__file__).parent

ROOMS = [
    ["_version", "errors", "extras", "ranks"],
    ["memory"],
    ["window", "border", "dtypes"],
    ["arrays", "quantize"],
    ["plan.check", "plan.maps", "plan.cpu", "plan.tensor", "plan.remember"],
    ["plan.gpu"],
    ["plan.pool", "plan.filters"],
    ["plan.conv", "plan.chain"],
    ["plan"],
    ["plan.parts"],
    ["backends.planes"],
    ["backends.numpy.threads", "backends.numpy.tile", "backends.numpy.sums"],
    ["backends.numpy.activation", "backends.numpy.scratch", "backends.numpy.network"],
    ["backends.numpy.toeplitz", "backends.numpy.neighbours", "backends.numpy.exact"],
    ["backends.numpy.taps", "backends.numpy.spectra"],
    ["backends.numpy.images", "backends.numpy.window_tiles"],
    ["backends.numpy.passes"],
    ["backends.numpy.linear", "backends.numpy.operands", "backends.numpy.tasks"],
    ["backends.numpy.staging"],
    ["backends.numpy.products", "backends.numpy.slabs"],
    ["backends.numpy.depthwise"],
    ["backends.numpy.correlation"],
    ["backends.numpy.box", "backends.numpy.morphology", "backends.numpy.reduce"],
    ["backends.numpy.rank", "backends.numpy.pool"],
    ["backends.numpy.conv"],
    ["backends.numpy", "backends.cuda.source"],
    ["backends.cuda.launch", "backends.cuda.pieces"],
    ["backends.cuda.cupy_launcher", "backends.cuda.images", "backends.cuda.prepared"],
    ["backends.cuda.maps", "backends.cuda.keys", "backends.cuda.strips", "backends.cuda.sums"],
    [
        "backends.cuda.adaptive",
        "backends.cuda.window",
        "backends.cuda.dense_strips",
        "backends.cuda.separable_strips",
        "backends.cuda.separable_tensor",
        "backends.cuda.toeplitz",
        "backends.cuda.sliding",
        "backends.cuda.morph_small",
        "backends.cuda.window_lanes",
    ],
    ["backends.cuda.window_channels"],
    [
        *("backends.cuda.linear", "backends.cuda.box", "backends.cuda.rank"),
        *("backends.cuda.morphology", "backends.cuda.conv", "backends.cuda.unpool"),
    ],
    ["backends.cuda.conv_transpose", "backends.cuda.conv_pool", "backends.cuda.chains"],
    ["backends.cuda.pool"],
    ["backends.cuda.families"],
    ["backends.cuda"],
    ["backends"],
    ["kernels"],
    ["conv", "pool", "filters"],
    ["step_text"],
    ["operations"],
    ["tiling"],
    ["pipeline"],
    ["clusters"],
    ["scale"],
    ["image_io.metadata"],
    ["image_io.types"],
    ["image_io.quiet", "image_io.whole", "image_io.parts", "image_io.array_axes"],
    ["image_io.codestreams"],
    ["image_io.png", "image_io.jpeg", "image_io.webp"],
    ["image_io.pillow"],
    ["image_io.npy", "image_io.zarr_array", "image_io.tiff_pixels"],
    ["image_io.tiff"],
    ["image_io"],
    ["workers"],
    ["files"],
    ["journal", "streams"],
    ["crew", "interrupts"],
    ["jobs"],
    ["preview"],
    ["report"],
    ["explain"],
    ["demo.draw"],
    ["demo.photos", "demo.coins"],
    ["demo.chapters"],
    ["demo.sheet"],
    ["demo"],
    ["cli"],
    ["__main__"],
    ["__init__"],
]
"""Every file, in the order of the flow: each imports only from rooms above its own."""


def module_files() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imported_rooms(path: Path, names: set[str]) -> set[str]:
    """Rooms of gpuconv that a file imports, wherever the import stands."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            targets = [(alias.name, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            targets = [(f"{module}.{alias.name}", module) for alias in node.names]
        else:
            continue
        for target, module in targets:
            if target.partition(".")[0] == "gpuconv":
                inner = target.removeprefix("gpuconv.")
                outer = module.removeprefix("gpuconv").removeprefix(".") or "__init__"
                rooms.add(inner if inner in names else outer)
    return rooms


def test_rooms_lists_every_file():
    assert sorted(module_files()) == sorted(name for room in ROOMS for name in room)


def test_each_file_imports_only_from_rooms_before_it():
    order = {name: place for place, room in enumerate(ROOMS) for name in room}
    wrong = [
        f"{name} imports {other}"
        for name, path in module_files().items()
        for other in imported_rooms(path, set(order))
        if order[other] >= order[name]
    ]
    assert wrong == []


def test_cupy_is_imported_in_one_room_alone():
    importers = [
        name
        for name, path in module_files().items()
        if any(
            line.strip().startswith(("import cupy", "from cupy"))
            for line in path.read_text().splitlines()
        )
    ]
    assert importers == ["backends.cuda.cupy_launcher"]


def test_import_needs_numpy_alone():
    code = (
        "import sys, numpy; before = set(sys.modules); import gpuconv;"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before};"
        "print(sorted(new - set(sys.stdlib_module_names) - {'gpuconv', 'numpy'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_all_lists_what_is_public_and_nothing_that_is_missing():
    assert len(set(gpuconv.__all__)) == len(gpuconv.__all__)
    assert all(hasattr(gpuconv, name) for name in gpuconv.__all__)
    modules = {"arrays", "backends", "border", "conv", "dtypes", "errors", "extras"} | {
        name.partition(".")[0] for name in module_files()
    }
    public = {n for n in vars(gpuconv) if not n.startswith("_")} - modules
    assert public <= set(gpuconv.__all__)
    for module in (gpuconv.filters, gpuconv.kernels):
        assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("name", [n for n in gpuconv.__all__ if not n.startswith("_")])
def test_public_names_are_documented(name):
    assert (getattr(gpuconv, name).__doc__ or "").strip()


GENERATOR = re.compile(r"^(\w+) = np\.random\.default_rng\([^()]*\)$", re.MULTILINE)


def drawn_in_functions(path: Path) -> set[str]:
    """Random generators of a file that its functions take numbers from."""
    text = path.read_text()
    inner = (f for f in ast.walk(ast.parse(text)) if isinstance(f, ast.FunctionDef | ast.Lambda))
    names = {n.id for f in inner for n in ast.walk(f) if isinstance(n, ast.Name)}
    return names & set(GENERATOR.findall(text))


def test_no_test_draws_from_a_generator_of_its_file():
    # What it gets would hang on the tests before it: the fixture `rng` is for that.
    files = Path(__file__).parent.rglob("*.py")
    assert [path.name for path in files if drawn_in_functions(path)] == []


def test_kernels_cu_is_found_from_the_checkout():
    assert (PACKAGE.parent / "kernels_cu").is_dir() or (PACKAGE / "kernels_cu").is_dir()


def test_package_is_typed():
    assert (PACKAGE / "py.typed").is_file()


def test_numpy_is_the_only_hard_dependency():
    import tomllib

    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    assert [d.partition(">")[0] for d in project["dependencies"]] == ["numpy"]
    assert np.lib.NumpyVersion(np.__version__) >= "2.0.0"
