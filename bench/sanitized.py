"""What runs under compute-sanitizer: small calls that together launch every kernel.

`python -m bench.sanitized BACKEND UNTIL` reads the names of its calls from its standard input; see
`supervise.py`. Every array gets memory of its own, so that a step beyond its end is seen.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import gpuconv
from bench import machine, supervise
from tests.cuda_cases import every_call


def calls(most: int | None = None) -> dict[str, Callable[[], Any]]:
    """The calls by name, each kind's first before each kind's second; at most so many."""
    everything = every_call()
    turn: dict[str, int] = {}
    turns = {}
    for name in everything:
        kind = name.partition(",")[0]
        turns[name] = turn[kind] = turn.get(kind, -1) + 1
    order = sorted(everything, key=turns.__getitem__)
    return {name: everything[name] for name in order[:most]}


def main() -> int:
    """Run the calls, one after another."""
    backend, until = sys.argv[1], float(sys.argv[2])
    if backend == "cuda":
        import cupy

        cupy.cuda.set_allocator(None)
    everything = calls()
    for name in supervise.jobs():
        if time.time() > until:
            return 0
        supervise.announce(supervise.BEGIN, name)
        try:
            with gpuconv.use_backend(backend):
                everything[name]()
        except Exception as error:
            print(f"{supervise.RAISED}{type(error).__name__}: {error}", flush=True)
        works = machine.device_works(backend)
        supervise.announce(supervise.END, name)
        if not works:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
