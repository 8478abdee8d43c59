"""How strong an adapter is: the rank and alpha of a module, and the alpha that keeps its strength at another rank.

The change of a weight is `s * B @ A`, with `s = alpha / r`, or `alpha / sqrt(r)` where `use_rslora` is set.
"""

from __future__ import annotations

from fractions import Fraction
from math import inf, nextafter, sqrt
from typing import NamedTuple

Number = int | float


class Strength(NamedTuple):
    """The rank and alpha of one module.

    Args:
        rank: Number of rows of A, for each expert where there are several.
        alpha: As in the configuration.
        is_rooted: Whether alpha is divided by the root of the rank (rsLoRA), not by the rank.
    """

    rank: int
    alpha: Number
    is_rooted: bool = False

    @property
    def scaling(self) -> float:
        """What B @ A is multiplied by, as PEFT computes it."""
        return self.alpha / sqrt(self.rank) if self.is_rooted else self.alpha / self.rank

    def is_as_strong(self, other: Strength) -> bool:
        """Tell whether two modules multiply by the very same number."""
        return self.scaling == other.scaling

    def at(self, rank: int) -> Strength:
        """Return the same strength at another rank; where no number says it exactly, the nearest.

        Examples:
            >>> Strength(8, 16).at(24)
            Strength(rank=24, alpha=48, is_rooted=False)
            >>> Strength(2, 6, is_rooted=True).at(4).alpha
            8.48528137423857
            >>> Strength(2, 6, is_rooted=True).at(8).alpha
            12
        """
        if self.is_rooted:
            return self._nearest(rank, self.alpha * sqrt(Fraction(rank, self.rank)), is_rooted=True)
        return self._nearest(rank, float(Fraction(self.alpha) * rank / self.rank), is_rooted=False)

    def divided(self) -> Strength:
        """Return the same strength with an alpha that is divided by the rank; or the nearest that a number can say.

        Examples:
            >>> Strength(4, 6, is_rooted=True).divided()
            Strength(rank=4, alpha=12, is_rooted=False)
        """
        return self._nearest(self.rank, self.alpha * sqrt(self.rank), is_rooted=False) if self.is_rooted else self

    def _nearest(self, rank: int, alpha: float, *, is_rooted: bool) -> Strength:
        """Return the strength with a number near one that is nearly right, whole where it can be."""
        near = (alpha, nextafter(alpha, inf), nextafter(alpha, -inf))
        numbers = [int(number) if number.is_integer() else number for number in near]
        found = (Strength(rank, number, is_rooted) for number in numbers)
        return min(found, key=lambda strength: abs(strength.scaling - self.scaling))
