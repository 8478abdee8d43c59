"""How much is asked for at once, and how long it is worth asking again: what a network takes, not what cores do."""

from __future__ import annotations

import random
from typing import Final, NamedTuple


class Pace(NamedTuple):
    """How a source wants to be read.

    Args:
        in_flight: How many requests are to be on their way at once.
        range_bytes: The most that one request is to ask for.
    """

    in_flight: int
    range_bytes: int


RANGE_BYTES: Final = 8 * 2**20
"""The most that one request asks for: long enough to outweigh its latency, and short enough to be lost."""

GAP_BYTES: Final = 256 * 2**10
"""What lies between two wanted ranges is read along up to this size: a request of its own takes longer."""

_NEAR_SECONDS: Final = 0.005
_MIDDLE_SECONDS: Final = 0.05


def pace_for(latency_seconds: float) -> Pace:
    """Return how to read what answers after a while: the longer that takes, the more requests are on their way.

    Args:
        latency_seconds: The shortest time that an answer took to begin.

    Examples:
        >>> [pace_for(seconds).in_flight for seconds in (0.001, 0.02, 0.2)]
        [8, 16, 32]
    """
    in_flight = 8 if latency_seconds < _NEAR_SECONDS else 16 if latency_seconds < _MIDDLE_SECONDS else 32
    return Pace(in_flight, RANGE_BYTES)


class Patience(NamedTuple):
    """How often, and after which waits, a range is asked for again that did not arrive.

    Args:
        tries: How often in a row nothing may come before it is an error.
        first_seconds: The first wait; each one is twice as long as the one before, give or take half of it.
        most_seconds: The longest wait of our own.
        longest_asked_seconds: The longest wait that a server may ask for; one that asks for more gets an error.
        answer_seconds: How long nothing may come of an answer before it is given up, and asked for again.
    """

    tries: int = 6
    first_seconds: float = 0.5
    most_seconds: float = 30.0
    longest_asked_seconds: float = 300.0
    answer_seconds: float = 60.0

    def wait_seconds(self, failed: int) -> float:
        """Return how long to wait after so many failures in a row, at least one; no two readers wait equally long."""
        grown = min(self.most_seconds, self.first_seconds * 2.0 ** (failed - 1))
        return grown * random.uniform(0.5, 1.5)


PATIENCE = Patience()
"""What all readers have."""
