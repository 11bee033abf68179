"""How well a kernel's accesses fit the memory, line by line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tests.emulator.places import Line, lines
from tests.emulator.reports import ACCESSES
from tests.emulator.runtime import Count


@dataclass(frozen=True, slots=True)
class AccessCount:
    """The requests that warps made from one line.

    space         "shared": transactions are wavefronts, one where no bank conflicts
                  "global": transactions are 32-byte sectors
    access        "read", "write" or "atomic"
    bytes         of one thread's access
    ideal         the fewest transactions that the same bytes could take
    """

    line: Line
    space: str
    access: str
    bytes: int
    requests: int
    transactions: int
    ideal: int

    @property
    def per_request(self) -> float:
        """Transactions of an average request."""
        return self.transactions / self.requests

    @property
    def excess(self) -> float:
        """How many times the fewest possible transactions: 1 is perfect."""
        return self.transactions / self.ideal


def access_counts(counts: Sequence[Count]) -> list[AccessCount]:
    """The runtime's counts by line, in the order of the lines."""
    where = lines(count.code for count in counts)
    totals: dict[tuple[Line, str, str, int], list[int]] = defaultdict(lambda: [0, 0, 0])
    for count in counts:
        space = "shared" if count.shared else "global"
        total = totals[where[count.code], space, ACCESSES[count.access], count.bytes]
        total[0] += count.requests
        total[1] += count.transactions
        total[2] += count.ideal
    rows = [AccessCount(*key, *total) for key, total in totals.items()]
    return sorted(rows, key=lambda r: (r.line.file, r.line.line, r.space, r.access, r.bytes))
