"""CUDA source to shared libraries with g++, once: kept on disk by a digest of all that went in."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from gpuconv.backends.cuda.source import kernels_folder

SHIM_FOLDER = Path(__file__).parent / "cuda"
"""The C++ side: headers that stand in for CUDA's, and the runtime."""

COMMON_FLAGS = (
    *("-std=gnu++17", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique"),
    # CUDA's arithmetic: no merged multiply-adds, integers wrap, types are punned freely.
    *("-ffp-contract=off", "-fno-math-errno", "-fwrapv", "-fno-strict-aliasing"),
    "-Wno-unknown-pragmas",
)
RUNTIME_FLAGS = (
    *("-std=gnu++17", "-O2", "-g1", "-fPIC", "-Wall", "-Wextra"),
    # -DEMULATOR_UCONTEXT, say: the fiber switch of other processors, to try it on this one.
    *os.environ.get("GPUCONV_EMULATOR_FLAGS", "").split(),
)
CHECK_FLAGS = (
    *("-DEMULATOR_CHECKED", "-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0"),
    # An access of 16 bytes stays one, and stays where it was written.
    *("-fno-tree-sra", "-fno-ipa-sra", "-fno-tree-pre", "-fno-tree-vectorize"),
    *("-fno-code-hoisting", "-fno-tree-tail-merge", "-fno-crossjumping", "-fno-ipa-icf"),
)
COUNT_FLAGS = (
    *CHECK_FLAGS,
    # Every stretch of code tells when it is reached, lies where its source does, and is there once.
    *("-fsanitize-coverage=trace-pc", "-O1", "-finline-functions", "-finline-limit=100000"),
    *("-fno-reorder-blocks", "-fno-reorder-blocks-and-partition", "-fno-thread-jumps"),
    *("-fno-if-conversion", "-fno-split-paths"),
)
BUILDS = {"plain": (), "checked": CHECK_FLAGS, "counted": COUNT_FLAGS}

INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)


class CompileError(RuntimeError):
    """g++ refused a source; the text holds file, defines and the compiler's log."""


@cache
def compiler() -> str | None:
    """The path of g++, or None where there is none or the emulator cannot use it."""
    return shutil.which("g++") if sys.platform == "linux" else None


@cache
def compiler_version() -> str:
    """What tells one g++ from another."""
    asked = [compiler() or "g++", "-v"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stderr


@cache
def cache_folder() -> Path:
    """Where libraries are kept: $GPUCONV_EMULATOR_CACHE, else below the user's cache folder."""
    told = os.environ.get("GPUCONV_EMULATOR_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(told) if told else Path(home) / "gpuconv" / "emulator"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(folder)
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"gpuconv-emulator-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def included_files(path: Path, folders: Sequence[Path]) -> list[Path]:
    """`path` and every file that it includes by name, found as the compiler finds them."""
    found: dict[Path, None] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found[file] = None
        for name in INCLUDE.findall(file.read_text()):
            places = (folder / name for folder in (file.parent, *folders))
            waiting += [next(p.resolve() for p in places if p.is_file())]
    return sorted(found)


def digest(files: Iterable[Path], words: Iterable[str]) -> str:
    """A name for the result of compiling these files in this way."""
    total = hashlib.sha256(compiler_version().encode())
    for word in words:
        total.update(b"\0word\0" + word.encode())
    for file in files:
        total.update(b"\0file\0" + str(file).encode() + b"\0" + file.read_bytes())
    return total.hexdigest()[:32]


def build(name: str, key: str, commands: Sequence[Sequence[str]], source: str = "") -> Path:
    """The library `name`-`key`.so in the cache, made by `commands` if it is not there.

    In a command {out} stands for the library's temporary name; the first reads `source` as its
    standard input. Several processes may ask at once: one compiles, the others wait.
    """
    target = cache_folder() / f"{name}-{key}.so"
    if target.exists():
        os.utime(target)
        return target
    import fcntl  # not on every system; nor is the emulator

    with (cache_folder() / f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
                out = Path(folder) / "out"
                for command in commands:
                    words = [word.replace("{out}", str(out)) for word in command]
                    done = subprocess.run(words, input=source, capture_output=True, text=True)
                    source = ""
                    if done.returncode:
                        shown = " ".join(w for w in words if w.startswith(("-D", "-I")))
                        raise CompileError(f"{name} does not compile ({shown})\n{done.stderr}")
                out.replace(target)
    Path(lock.name).unlink(missing_ok=True)
    return target


def remove_unused(folder: Path, days: float = 30) -> None:
    """Delete libraries that nobody has asked for in a long time."""
    oldest = time.time() - days * 24 * 3600
    for file in folder.glob("*.so"):
        with suppress(OSError):  # another process may be doing the same
            if file.stat().st_mtime < oldest:
                file.unlink()


@cache
def runtime_library() -> ctypes.CDLL:
    """The emulator's runtime, loaded so that all kernels find its functions."""
    remove_unused(cache_folder())
    sources = map(str, sorted(SHIM_FOLDER.glob("*.cpp")))
    key = digest(sorted(SHIM_FOLDER.iterdir()), RUNTIME_FLAGS)
    command = [str(compiler()), *RUNTIME_FLAGS, "-shared", *sources, "-o", "{out}"]
    return ctypes.CDLL(str(build("runtime", key, [command])), mode=ctypes.RTLD_GLOBAL)


@cache
def kernel_library(
    folder: Path, file: str, names: tuple[str, ...], defines: tuple[str, ...], kind: str
) -> Path:
    """The library of `folder`/`file` with one exported pair of functions for each of `names`.

    `names` are kernels as C++ writes them ("filter2d<float, 3>"), `defines` are "NAME=value",
    `kind` is one of BUILDS.
    """
    runtime_library()
    path = (folder / file).resolve()
    flags = [*COMMON_FLAGS, *BUILDS[kind], "-DGPUCONV_EMULATOR"]
    flags += [f"-D{define}" for define in defines]
    exports = [f"EMULATOR_EXPORT({number}, {name})" for number, name in enumerate(names)]
    source = "\n".join([f'#include "{path}"', *exports, ""])
    folders = [folder, kernels_folder(), SHIM_FOLDER]
    key = digest(included_files(path, folders), [*flags, *names])
    places = [f"-I{place}" for place in folders]
    compile_ = [str(compiler()), *flags, *places, "-x", "c++", "-c", "-", "-o", "{out}.o"]
    # Linked apart: with -fsanitize=thread the linker would add libtsan.
    link = [str(compiler()), "-shared", "{out}.o", "-o", "{out}"]
    return build(Path(file).stem, key, [compile_, link], source)
