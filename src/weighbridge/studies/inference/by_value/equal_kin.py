"""Put tensors together that hold the same values as others: kind by kind, by all that names and files say.

Keys that differ in their indices alone are one kind, and go together. Where several kinds hold the same values, each
pair is scored: by the module that its other tensors are in, by the layers that are known, by the place in the block, by
words, and by what stands beside. Whatever decides, it is written down, since the values did not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping as MappingOf, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import combinations
from typing import Final, NamedTuple

from weighbridge.base.specs import Shape
from weighbridge.studies.inference.by_value.block_places import leaf_of, place_in_block, ranks, telling_words
from weighbridge.studies.inference.by_value.choices import BY_MODULE
from weighbridge.studies.inference.by_value.surroundings import Surroundings
from weighbridge.studies.inference.by_value.told import Pair, Told, module_of, starts_of
from weighbridge.studies.inference.tensor_facts import indices_of, mask

Look = tuple[str, Shape, bytes]
"""Dtype, shape and digest of a tensor."""

_WEIGHTS: Final = {
    BY_MODULE: 4.0,
    "what it lies in": 2.0,
    "the place in the block that its name speaks of": 1.5,
    "the last word of its name": 2.0,
    "the words of its name": 1.0,
    "what it stands beside in the file": 0.3,
    "the letters of its name": 0.3,
}
"""What can speak for a pair, and how much it counts."""

_ORDER: Final = 0.15
"""What it takes to give up the order in which the tensors stand in their files."""

BY_ORDER: Final = "the order of the tensors in the files"
BY_ELIMINATION: Final = "being the only one left"

_ACCIDENT: Final = 1e-9
"""Difference of scores that comes from rounding."""

MOST_KINDS: Final = 64
"""Number of kinds on one side that are weighed pair by pair."""

_ALIKE: Final = 0.6
"""Least likeness of letters that is no accident."""


class Kin(NamedTuple):
    """Keys that differ in their indices alone."""

    mask: str
    keys: dict[tuple[int, ...], str]

    @property
    def first(self) -> str:
        """The first key."""
        return next(iter(self.keys.values()))


def gather_kin(keys: Iterable[str]) -> list[Kin]:
    """Sort keys into kinds."""
    found: dict[str, Kin] = {}
    for key in sorted(keys, key=indices_of):
        found.setdefault(mask(key), Kin(mask(key), {})).keys[indices_of(key)] = key
    return list(found.values())


class Equals(NamedTuple):
    """Kinds of tensors of both sides that hold the same values, index by index."""

    sources: list[Kin]
    targets: list[Kin]


Signature = tuple[tuple[tuple[int, ...], Look], ...]
"""Indices of the tensors of a kind, each with what the tensor looks like."""


def equal_kinds(
    sources: Iterable[str],
    targets: Iterable[str],
    looks_of: Callable[[str], Iterable[Look]],
    look_of: Callable[[str], Look],
) -> list[Equals]:
    """Find kinds that hold the same values.

    Args:
        sources: Keys of the one side.
        targets: Keys of the other one.
        looks_of: Gives what a source can look like, cast or not.
        look_of: Gives what a target looks like.
    """
    found: dict[Signature, Equals] = {}
    starts: dict[object, list[Signature]] = {}
    for kin in gather_kin(targets):
        signature = tuple((indices, look_of(key)) for indices, key in kin.keys.items())
        if signature not in found:
            found[signature] = Equals([], [])
            starts.setdefault((signature[0], len(signature)), []).append(signature)
        found[signature].targets.append(kin)
    for kin in gather_kin(sources):
        looks = [(indices, set(looks_of(key))) for indices, key in kin.keys.items()]
        for look in looks[0][1]:
            for signature in starts.get(((looks[0][0], look), len(looks)), ()):
                if all(one == i and two in all_of for (one, two), (i, all_of) in zip(signature, looks, strict=True)):
                    found[signature].sources.append(kin)
    return [equals for equals in found.values() if equals.sources]


class Paired(NamedTuple):
    """Two kinds that were put together, and what decided."""

    source: Kin
    target: Kin
    by: str


@dataclass(frozen=True, slots=True)
class Signs:
    """What is known beside the values.

    Args:
        told: What values have told.
        names: What a source is called by the rules that are known so far.
        around: The order of both files.
        modules: Pairs of modules, the one of the sources, of which tensors have been put together since.
    """

    told: Told
    names: MappingOf[str, str]
    around: Surroundings
    modules: set[Pair]

    def same_module(self, source: str, target: str) -> bool:
        """Tell whether other tensors of the one module belong to the other."""
        one, two = module_of(source), module_of(target)
        return two in self.told.modules.get(one, ()) or (one, two) in self.modules


def pair_kinds(equals: Equals, signs: Signs) -> list[Paired]:
    """Put kinds of equal values together, each once, as all signs together say."""
    sources = sorted(equals.sources, key=lambda kin: signs.around.places[kin.first])
    targets = sorted(equals.targets, key=lambda kin: signs.around.target_places[kin.first])
    table = _Table(sources, targets, signs)
    return [Paired(sources[one], targets[two], table.reason(one, two)) for one, two in table.assign()]


class _Table:
    """Scores of all pairs of two lists of kinds."""

    def __init__(self, sources: Sequence[Kin], targets: Sequence[Kin], signs: Signs) -> None:
        self.sources, self.targets, self.signs = sources, targets, signs
        self.called = [signs.names.get(kin.first, kin.first) for kin in sources]
        self.places = [place_in_block(_inner(kin.mask)) for kin in sources]
        self.target_places = [place_in_block(_inner(kin.mask)) for kin in targets]
        self.ranks, self.target_ranks = ranks(self.places), ranks(self.target_places)
        size = max(len(sources), len(targets))
        self.signs_of = [[self._signs(one, two) for two in range(size)] for one in range(size)]
        self.scores = [[sum(each) for each in row] for row in self.signs_of]

    def _signs(self, one: int, two: int) -> list[float]:
        """Weigh what speaks for a pair; nothing for one that is none."""
        if one >= len(self.sources) or two >= len(self.targets):
            return [0.0] * len(_WEIGHTS)
        source, target = self.sources[one], self.targets[two]
        named = mask(self.called[one])
        ones, twos = (telling_words(name, with_place=not self._placed(one, two)) for name in (named, target.mask))
        found = (
            float(self.signs.same_module(source.first, target.first)),
            (self._same_layers(source, target) + _ratio(_outer(named).split("."), _outer(target.mask).split("."))) / 2,
            self._place(one, two),
            float(leaf_of(named) == leaf_of(target.mask)),
            len(ones & twos) / max(1, len(ones | twos)),
            float(self.signs.around.agree(source.first, target.first)),
            _letters(_inner(named), _inner(target.mask)),
        )
        return [value * weight for value, weight in zip(found, _WEIGHTS.values(), strict=True)]

    def _placed(self, one: int, two: int) -> bool:
        return self.places[one] in self.ranks and self.target_places[two] in self.target_ranks

    def _place(self, one: int, two: int) -> float:
        if not self._placed(one, two):
            return 0.0
        ours, theirs = self.places[one], self.target_places[two]
        assert ours is not None
        assert theirs is not None
        return 1.0 - abs(self.ranks[ours] - self.target_ranks[theirs])

    def _same_layers(self, source: Kin, target: Kin) -> bool:
        pairs = list(zip(starts_of(source.first), starts_of(target.first), strict=False))
        return bool(pairs) and all((one[0], two[0]) in self.signs.told.layers for one, two in pairs)

    def assign(self) -> list[tuple[int, int]]:
        """Choose pairs: in the order of the files, unless an exchange of two is better by more than order counts."""
        chosen = list(range(len(self.scores)))
        better = True
        while better:
            better = False
            for one, two in combinations(range(len(chosen)), 2):
                if self._gain(chosen, one, two) > _ACCIDENT:
                    chosen[one], chosen[two] = chosen[two], chosen[one]
                    better = True
        return [(one, two) for one, two in enumerate(chosen) if one < len(self.sources) and two < len(self.targets)]

    def _gain(self, chosen: Sequence[int], one: int, two: int) -> float:
        """Weigh the exchange of two pairs: what speaks for it, and how many pairs it puts in order."""
        first, second = chosen[one], chosen[two]
        now = self.scores[one][first] + self.scores[two][second]
        then = self.scores[one][second] + self.scores[two][first]
        low, high = sorted((first, second))
        ordered = 1 + 2 * sum(low < other < high for other in chosen[one + 1 : two])
        return then - now + _ORDER * (ordered if first > second else -ordered)

    def reason(self, one: int, two: int) -> str:
        """Say what speaks for a pair, and for none of its rivals as much."""
        rivals = [self.signs_of[one][other] for other in range(len(self.targets)) if other != two]
        rivals += [self.signs_of[other][two] for other in range(len(self.sources)) if other != one]
        if not rivals:
            return BY_ELIMINATION
        own = self.signs_of[one][two]
        gains = [value - max(rival[n] for rival in rivals) for n, value in enumerate(own)]
        best = max(range(len(gains)), key=gains.__getitem__)
        return list(_WEIGHTS)[best] if gains[best] > 0 else BY_ORDER


def _inner(name: str) -> str:
    """Return the part of a mask after its last index, or all of it."""
    return name.rpartition("#.")[2]


def _outer(name: str) -> str:
    """Return the part of a mask up to its last index, or its modules."""
    return name.rpartition("#.")[0] or name.rpartition(".")[0]


def _ratio(one: Sequence[str], two: Sequence[str]) -> float:
    return SequenceMatcher(None, one, two, autojunk=False).ratio()


def _letters(one: str, two: str) -> float:
    found = _ratio(one.rpartition(".")[0] or one, two.rpartition(".")[0] or two)
    return found if found >= _ALIKE else 0.0


def is_named(pair: Paired, equals: Equals, signs: Signs) -> bool:
    """Tell whether a name that stays, or values that tell of the module, say of a pair of kinds that it is one.

    A name stays if it does but for a prefix; its module's is enough, if no other kind of the same values is in it.
    """
    ones = [(mask(signs.names.get(kin.first, kin.first)), kin.mask) for kin in equals.sources]
    twos = [kin.mask for kin in equals.targets]
    place = equals.sources.index(pair.source), equals.targets.index(pair.target)
    names = [[_stays(called, two) for two in twos] for called, _ in ones]
    modules = [[_is_module(called, one, two, signs.told) for two in twos] for called, one in ones]
    return any(_is_only(table, *place) for table in (names, modules))


def _is_only(table: Sequence[Sequence[bool]], one: int, two: int) -> bool:
    return table[one][two] and sum(table[one]) == sum(row[two] for row in table) == 1


def _is_module(called: str, source: str, target: str, told: Told) -> bool:
    """Tell whether the module of a kind, by what it is called now and before, is that of a kind of targets."""
    now, before, there = (name.rpartition(".")[0] for name in (called, source, target))
    return bool(there) and (_stays(now, there) or told.modules.get(before) == {there})


def _stays(one: str, two: str) -> bool:
    """Tell whether two names are the same but for a prefix."""
    return bool(one and two) and (f".{one}".endswith(f".{two}") or f".{two}".endswith(f".{one}"))


def indices_told(pair: Paired, told: Told) -> bool:
    """Tell whether values elsewhere say which index of the one kind is which of the other."""
    pairs = zip(starts_of(pair.source.first), starts_of(pair.target.first), strict=False)
    columns = zip(*pair.source.keys, strict=True)
    return all(
        len(set(column)) == 1 or len(told.layers.get((one[0], two[0]), ())) > 1
        for column, (one, two) in zip(columns, pairs, strict=False)
    )
