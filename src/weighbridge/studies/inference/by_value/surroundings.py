"""Say what a tensor stands beside in the order of its file, as far as that is known on both sides."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping as MappingOf, Sequence

from weighbridge.base.keys import natural_key
from weighbridge.studies.inference.tensor_facts import Fact, is_index


class Surroundings:
    """The order of two checkpoints' tensors, with those of them that values have put together.

    Args:
        sources: Keys of the one side, in the file's order.
        targets: Keys of the other one.
        facts: What values have told.
    """

    def __init__(self, sources: Sequence[str], targets: Sequence[str], facts: Iterable[Fact]) -> None:
        self.places = {key: place for place, key in enumerate(sources)}
        self.target_places = {key: place for place, key in enumerate(targets)}
        self.partner = {key: fact.target_keys[0] for fact in facts for key in fact.source_keys}
        told = {key for fact in facts for key in fact.target_keys}
        self._sources = [key for key in sources if key in self.partner]
        self._targets = [key for key in targets if key in told]
        self.says_nothing = _is_sorted(sources) or _is_sorted(targets)
        """Whether a side's order is that of the alphabet, in which nothing stands beside what it belongs to."""

    def agree(self, source: str, target: str) -> int:
        """Count on how many sides, of two, two tensors stand beside the same block of their layer."""
        pairs = self._neighbours(source, target)
        return sum(_block(target, one) == _block(target, two) != "" for one, two in pairs)

    def touch(self, source: str, target: str) -> int:
        """Count on how many sides, of two, two tensors stand beside the very same one."""
        return sum(one == two != "" for one, two in self._neighbours(source, target))

    def _neighbours(self, source: str, target: str) -> list[tuple[str, str]]:
        """Return before and after two tensors what is next to the one, as the target calls it, and to the other."""
        if self.says_nothing:
            return []
        ones = _beside(self._sources, self.places, source)
        twos = _beside(self._targets, self.target_places, target)
        return [(self.partner.get(one, ""), two) for one, two in zip(ones, twos, strict=True)]


def _beside(known: Sequence[str], places: MappingOf[str, int], key: str) -> tuple[str, str]:
    """Return the known tensors before and after a key; empty texts for none."""
    at = bisect_left(known, places[key], key=places.__getitem__)
    return known[at - 1] if at else "", known[at] if at < len(known) else ""


def _block(key: str, other: str) -> str:
    """Return the block of a key's layer that another one belongs to; an empty text for none.

    Examples:
        >>> _block("layers.1.norm.weight", "layers.1.attn.q.weight"), _block("layers.1.norm.weight", "layers.0.mlp.w")
        ('attn', '')
    """
    one, two = key.split("."), other.split(".")
    layer = max((place + 1 for place, segment in enumerate(one) if is_index(segment)), default=0)
    return two[layer] if one[:layer] == two[:layer] and len(two) > layer else ""


def _is_sorted(keys: Sequence[str]) -> bool:
    return list(keys) in (sorted(keys), sorted(keys, key=natural_key))
