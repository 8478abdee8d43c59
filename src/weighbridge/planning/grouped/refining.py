"""Finer blocks, where a rule would cut those that there are: how fine, for which weights, and who stands in the way.

A configuration says one size for all weights that share the setting, so that all of them are refined alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import gcd, prod

from weighbridge.algebra.quotient import MAX_TURNS
from weighbridge.mappings.schemes.scheme import Form
from weighbridge.planning.grouped.dividing import Undivided
from weighbridge.planning.grouped.weights import Kind
from weighbridge.planning.steps import Refinement


@dataclass(frozen=True)
class Finer:
    """The blocks that are made finer.

    Args:
        sizes: The rows and columns of a block, or its columns alone, by the place of the setting that says them.
    """

    sizes: dict[tuple[str, ...], tuple[int, ...]] = field(default_factory=dict)

    def form_of(self, kind: Kind) -> Form:
        """Return what the tensors of a group will be."""
        setting, members = kind.stored.scheme.setting, kind.stored.members
        sizes = self.sizes.get(setting.place) if setting is not None else None
        return members if setting is None or sizes is None else setting.refine(members, sizes)

    def touches(self, kind: Kind) -> bool:
        """Tell whether weights that are stored so become finer."""
        setting = kind.stored.scheme.setting
        return setting is not None and setting.place in self.sizes

    def beyond(self, kind: Kind, found: Undivided) -> Finer | None:
        """Return these blocks with those made finer that a rule would cut; None where that would not help.

        Blocks are what one entry stands for that can be repeated: not what is packed, nor columns that are numbered.

        Args:
            kind: How the weight is stored.
            found: What of it does not divide.
        """
        setting, seam = kind.stored.scheme.setting, found.seam
        if setting is None or seam is None or seam.role is None or seam.is_order or _numbers(kind):
            return None
        sizes = list(self.sizes.get(setting.place, setting.sizes))
        at = seam.role - (2 - len(sizes))
        if at < 0 or found.member.kind != "moved" or seam.block != sizes[at]:
            return None
        sizes[at] = gcd(seam.at, seam.block)
        turns = prod(setting.sizes) // prod(sizes)
        made = Finer({**self.sizes, setting.place: tuple(sizes)})
        is_of_block = made.form_of(kind) != self.form_of(kind)
        return made if is_of_block and turns <= MAX_TURNS else None

    def meet(self, other: Finer) -> Finer:
        """Return the largest blocks that both divide."""
        both = {**other.sizes, **self.sizes}
        pairs = ((place, sizes, other.sizes.get(place, sizes)) for place, sizes in both.items())
        return Finer({place: tuple(map(gcd, one, two)) for place, one, two in pairs})

    def changes(self, kinds: Iterable[Kind]) -> Iterator[Refinement]:
        """Yield what of the configuration is to be said anew.

        Args:
            kinds: How the weights are stored that there are.
        """
        settings = {kind.stored.scheme.setting for kind in kinds if self.touches(kind)}
        for setting in sorted(each for each in settings if each is not None):
            yield Refinement(setting.place, setting.sizes, self.sizes[setting.place])


def _numbers(kind: Kind) -> bool:
    """Tell whether something says for each column which of the entries it has."""
    return any(member.kind == "numbered" for member in kind.stored.members)


def unrefinable(finer: Finer, kinds: Iterable[Kind]) -> Kind | None:
    """Return how some weights are stored that would have to become finer with others, and cannot."""
    return next((kind for kind in kinds if finer.touches(kind) and _numbers(kind)), None)
