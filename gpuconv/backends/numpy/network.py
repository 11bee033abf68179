"""Networks of minima and maxima that pick one rank of every window.

Windows that lie beside each other share most of their sorting: a column is sorted once for all
windows that hold it, two sorted columns are merged once, and so on by doubling. Values that can
be of no window's wanted rank are left out. Merges: Batcher's odd-even merge (1968).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

Place = tuple[int, int, int]
"""(value, rows, columns): a value (0 is the pixels) and how far off it is read."""


@dataclass(frozen=True, slots=True)
class Step:
    """value `into` = the larger (or smaller) of two values, for every place at once.

    `free` are values that nothing reads after it; `reach` is how many (rows, columns) beyond
    its own place it depends on.
    """

    into: int
    larger: bool
    first: Place
    second: Place
    free: tuple[int, ...]
    reach: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Network:
    """Steps that end in the wanted rank, if there are any; `held` values at once."""

    steps: tuple[Step, ...]
    held: int


@dataclass(frozen=True, slots=True)
class _Sorted:
    """Pixels in order, of which the `below` smallest (and the largest) were left out."""

    places: list[Place]
    pixels: int
    below: int = 0

    def moved(self, rows: int, columns: int) -> _Sorted:
        """The same pixels of a window further on."""
        places = [(value, y + rows, x + columns) for value, y, x in self.places]
        return _Sorted(places, self.pixels, self.below)


class _Builder:
    """Collects comparisons for a rank of `count` pixels, each only once."""

    def __init__(self, count: int, rank: int) -> None:
        self.count, self.rank = count, rank
        self.values: dict[tuple[bool, Place, Place], int] = {}

    def extreme(self, larger: bool, a: Place, b: Place) -> Place:
        """The smaller or larger, kept at the corner of both places."""
        y, x = min(a[1], b[1]), min(a[2], b[2])
        first, second = sorted((v, i - y, j - x) for v, i, j in (a, b))
        return self.values.setdefault((larger, first, second), len(self.values) + 1), y, x

    def merge(self, a: _Sorted, b: _Sorted) -> _Sorted:
        """Both, without what cannot be the wanted rank whatever the other pixels are."""
        places, pixels = self._merge(a.places, b.places), a.pixels + b.pixels
        below = a.below + b.below
        first = max(below, pixels - self.count + self.rank)
        return _Sorted(places[first - below : self.rank + 1 - below], pixels, first)

    def _merge(self, a: Sequence[Place], b: Sequence[Place]) -> list[Place]:
        if not a or not b:
            return [*a, *b]
        if len(a) == len(b) == 1:
            return [self.extreme(larger, a[0], b[0]) for larger in (False, True)]
        even, odd = self._merge(a[::2], b[::2]), self._merge(a[1::2], b[1::2])
        merged = even[:1]
        for one, other in zip(odd, even[1:], strict=False):
            merged += [self.extreme(larger, one, other) for larger in (False, True)]
        pairs = min(len(odd), len(even) - 1)
        return merged + even[1 + pairs :] + odd[pairs:]

    def select(self, a: _Sorted, b: _Sorted) -> Place:
        """The wanted rank of all pixels: the smallest of what i of a and j of b do not exceed."""
        wanted = self.rank + 1 - a.below - b.below
        found: Place | None = None
        for i in range(max(0, wanted - len(b.places)), min(len(a.places), wanted) + 1):
            j = wanted - i
            ends = [s.places[n - 1] for s, n in ((a, i), (b, j)) if n]
            most = ends[0] if len(ends) == 1 else self.extreme(True, *ends)
            found = most if found is None else self.extreme(False, found, most)
        assert found is not None
        return found

    def network(self, wanted: Place) -> Network:
        """The steps that `wanted` depends on."""
        by_value = {value: key for key, value in self.values.items()}
        last_use = {wanted[0]: len(by_value) + 1}
        for value in range(len(by_value), 0, -1):
            if value in last_use:
                for place in by_value[value][1:]:
                    last_use.setdefault(place[0], value)
        reach = {0: (0, 0)}
        steps, alive, held = [], 0, 0
        for value, (larger, first, second) in by_value.items():
            if value not in last_use:
                continue
            operands = first, second
            reach[value] = (
                max(y + reach[v][0] for v, y, _ in operands),
                max(x + reach[v][1] for v, _, x in operands),
            )
            free = {v for v, _, _ in operands if v and last_use[v] == value}
            steps.append(Step(value, larger, first, second, tuple(free), reach[value]))
            alive += 1
            held = max(held, alive)
            alive -= len(free)
        return Network(tuple(steps), held)


@lru_cache(maxsize=32)
def selection_network(height: int, width: int, rank: int) -> Network:
    """The network for the `rank`-th smallest of height × width pixels."""
    networks = [_build(height, width, rank, large_first) for large_first in (False, True)]
    return min(networks, key=lambda network: len(network.steps))


def _build(height: int, width: int, rank: int, large_first: bool) -> Network:
    build = _Builder(height * width, rank)
    pixel = _Sorted([(0, 0, 0)], 1)
    if height * width == 1:
        return Network((), 0)
    column = _doubled(build, pixel, lambda s, n: s.moved(n, 0))
    if width == 1:
        upper = 1 << (height - 1).bit_length() - 1
        return build.network(build.select(column(upper), column(height - upper).moved(upper, 0)))
    group = _doubled(build, column(height), lambda s, n: s.moved(0, n))
    sizes = [1 << bit for bit in range(width.bit_length()) if width >> bit & 1]
    if len(sizes) == 1:
        sizes = [width // 2, width // 2]
    if large_first:
        sizes.reverse()
    found, done = group(sizes[0]), sizes[0]
    for size in sizes[1:-1]:
        found, done = build.merge(found, group(size).moved(0, done)), done + size
    return build.network(build.select(found, group(sizes[-1]).moved(0, done)))


def _doubled(
    build: _Builder, one: _Sorted, moved: Callable[[_Sorted, int], _Sorted]
) -> Callable[[int], _Sorted]:
    """How n neighbours of `one` are sorted: as two parts, the first a power of two."""
    known = {1: one}

    def sort(size: int) -> _Sorted:
        if size not in known:
            first = 1 << (size - 1).bit_length() - 1
            known[size] = build.merge(sort(first), moved(sort(size - first), first))
        return known[size]

    return sort
