"""NVRTC from its PyPI wheel through ctypes: compiles CUDA source without a GPU or a driver.

The wheels are nvidia-cuda-nvrtc-cu12 (the compiler) and nvidia-cuda-runtime-cu12 (the headers of
half and bfloat16), or their -cu13 successors.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gpuconv.backends.cuda.cupy_launcher import OPTIONS
from gpuconv.backends.cuda.source import kernels_folder

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")

LIBRARIES = ("nvidia/cuda_nvrtc/lib/libnvrtc.so.12", "nvidia/cu13/lib/libnvrtc.so.13")
DISASSEMBLERS = ("nvidia/cu13/bin/nvdisasm", "nvidia/cuda_nvdisasm/bin/nvdisasm")
HEADERS = ("nvidia/cuda_runtime/include", "nvidia/cu13/include")

FLAGS = (*OPTIONS, "-ftz=true", "-Xptxas=-v")
"""What CuPy is given and adds itself, and the resources told."""


class MissingToolError(RuntimeError):
    """A wheel that is needed is not installed; the text tells which."""


class NvrtcError(RuntimeError):
    """NVRTC refused a source; the text holds file, architecture, defines and log."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What one kernel takes of the GPU."""

    registers: int
    spilled_bytes: int
    stack_bytes: int
    shared_bytes: int


@dataclass(frozen=True, slots=True)
class Compiled:
    """The machine code of a file, and for each kernel asked for: its name there, its resources."""

    cubin: bytes
    log: str
    symbols: dict[str, str]
    resources: dict[str, Resources]


@cache
def _found(names: tuple[str, ...]) -> Path | None:
    """The first of these files or folders below any folder that Python imports from."""
    places = (Path(folder) / name for name in names for folder in sys.path)
    return next((place for place in places if place.exists()), None)


@cache
def _library() -> ctypes.CDLL:
    path = _found(LIBRARIES)
    assert path is not None
    for builtins in sorted(path.parent.glob("libnvrtc-builtins.so.*")):
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(path))
    library.nvrtcGetErrorString.restype = ctypes.c_char_p
    return library


def require_nvrtc() -> None:
    """Raise MissingToolError where NVRTC or CUDA's headers are not installed."""
    if _found(LIBRARIES) is None:
        raise MissingToolError("NVRTC is not installed: pip install nvidia-cuda-nvrtc-cu12")
    if _found(HEADERS) is None:
        raise MissingToolError(
            "CUDA's headers are not installed: pip install nvidia-cuda-runtime-cu12"
        )


def compile_cuda(
    path: Path,
    architecture: str,
    names: Sequence[str] = (),
    defines: Sequence[str] = (),
    flags: Sequence[str] = FLAGS,
) -> Compiled:
    """Compile a .cu file for one architecture.

    `names` are the kernels wanted, as C++ writes them ("filter2d<float, 3>"); `defines` are
    "NAME=value".

    Raises
    ------
    MissingToolError : see `require_nvrtc`.
    NvrtcError : it does not compile.
    """
    require_nvrtc()
    library, program = _library(), ctypes.c_void_p()
    folders = [path.parent, kernels_folder(), _found(HEADERS)]
    options = [f"-arch={architecture}", *flags, *(f"-I{folder}" for folder in folders)]
    options += [f"-D{define}" for define in defines]
    text, size = path.read_text().encode(), ctypes.c_size_t()

    def text_of(getter: str) -> bytes:
        getattr(library, f"{getter}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(library, getter)(program, buffer)
        return buffer.raw

    def require(code: int) -> None:
        if code:
            log = text_of("nvrtcGetProgramLog").rstrip(b"\0").decode(errors="replace")
            reason = library.nvrtcGetErrorString(code).decode()
            told = " ".join([architecture, *defines])
            raise NvrtcError(f"{path.name} does not compile ({told}): {reason}\n{log}")

    require(
        library.nvrtcCreateProgram(ctypes.byref(program), text, str(path).encode(), 0, None, None)
    )
    try:
        for name in names:
            require(library.nvrtcAddNameExpression(program, name.encode()))
        words = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        require(library.nvrtcCompileProgram(program, len(options), words))
        log = text_of("nvrtcGetProgramLog").rstrip(b"\0").decode(errors="replace")
        symbols = {}
        for name in names:
            symbol = ctypes.c_char_p()
            require(library.nvrtcGetLoweredName(program, name.encode(), ctypes.byref(symbol)))
            symbols[name] = (symbol.value or b"").decode()
        return Compiled(text_of("nvrtcGetCUBIN"), log, symbols, _resources(log, symbols))
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


ENTRY = re.compile(
    r"Compiling entry function '(?P<symbol>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


def _resources(log: str, symbols: dict[str, str]) -> dict[str, Resources]:
    """Resources by kernel name, from what ptxas -v wrote."""
    by_symbol = {}
    for entry in ENTRY.finditer(log):
        shared = re.search(r"(\d+) bytes smem", entry["rest"])
        by_symbol[entry["symbol"]] = Resources(
            registers=int(entry["registers"]),
            spilled_bytes=int(entry["stores"]) + int(entry["loads"]),
            stack_bytes=int(entry["stack"]),
            shared_bytes=int(shared[1]) if shared else 0,
        )
    return {name: by_symbol[symbol] for name, symbol in symbols.items()}


def machine_code(cubin: bytes) -> str:
    """The SASS of a cubin, from the wheel nvidia-cuda-nvdisasm.

    Raises
    ------
    MissingToolError : it is not installed.
    """
    tool = _found(DISASSEMBLERS)
    if tool is None:
        raise MissingToolError("nvdisasm is not installed: pip install nvidia-cuda-nvdisasm")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "-c", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def functions(assembly: str) -> dict[str, str]:
    """The machine code of each kernel of a disassembly, by its symbol."""
    found = re.split(r"^\.text\.(\w+):$", assembly, flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))
