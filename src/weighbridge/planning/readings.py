"""The layouts that a checkpoint could be in: mapped, already the target's, with or without the base model's prefix.

Whether keys carry a prefix cannot be known key by key. Here each possibility is one candidate mapping for the whole key
set; planning keeps the only one that fits. A prefix is added to all keys, none of which has it, but for whole sub-trees
that the target has beside the base model, such as a head's; or it is taken from the keys that have it: the others are
then those of other parts of a larger model, and never fill a tensor.

Rules that are written for the names of a base model, or for those of its head model, only see the right ones if the
prefix changes behind them, or before them: each order is a candidate where it comes to other names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice, takewhile
from typing import Final, TypeVar

from weighbridge.base.errors import WeighbridgeError
from weighbridge.base.keys import Families, families
from weighbridge.base.specs import Header
from weighbridge.mappings.exception_rules import KeyRule
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.transforms import GroupWeightRename, PrefixChange, Transform, pairs, strip_scope
from weighbridge.pattern import Pattern
from weighbridge.planning.names.subtrees import subtrees
from weighbridge.planning.names.wanting import Wanted
from weighbridge.planning.tracing import landing, prepare, trace_ends

_Rule = TypeVar("_Rule", bound=KeyRule)


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read a checkpoint's layout.

    Args:
        name: What reports call it.
        mapping: The mapping to run under this reading.
        is_mapped: Whether the caller's mapping is part of it.
        change: The prefix change that this reading puts before all other transforms, if it does.
        spared: Paths of the sub-trees that the change leaves alone.
    """

    name: str
    mapping: Mapping
    is_mapped: bool = True
    change: PrefixChange | None = None
    spared: frozenset[str] = frozenset()

    def named_by(self, rules: Iterable[_Rule], keys: Collection[str]) -> Iterator[tuple[_Rule, list[str]]]:
        """Yield each exception rule with the keys that it names, by their own names or by those of this reading.

        Args:
            rules: `Drop`, `Carry` or `Refuse` rules.
            keys: Names of the checkpoint.

        Examples:
            >>> from weighbridge.mappings.exception_rules import Drop
            >>> added = PrefixChange(prefix_to_add="tower")
            >>> reading = Reading("with tower. added", Mapping([added]), change=added)
            >>> [found for _, found in reading.named_by([Drop("^table", scope="tower")], ["table", "weight"])]
            [['table']]
        """
        own, renamed = Names(keys), self._changed_names(keys) if rules else {}
        changed = Names(renamed)
        for rule in rules:
            found = own.matching(rule.pattern, rule.scope)
            yield rule, [*found, *(renamed[name] for name in changed.matching(rule.pattern, rule.scope))]

    def _changed_names(self, keys: Collection[str]) -> dict[str, str]:
        """Return the keys that the change of prefix gives another name, by that name."""
        if self.change is None:
            return {}
        changed = [key for key in keys if not any(f"{key}.".startswith(f"{path}.") for path in self.spared)]
        return {name: key for key in changed if (name := _renamed(self.change, key)) != key}

    def live(self, source: Header) -> list[str]:
        """Return the keys that no drop or carry rule takes out."""
        rules = (*self.mapping.drop, *self.mapping.carry)
        taken = {key for _, found in self.named_by(rules, source.specs) for key in found}
        return [key for key in source if key not in taken]


class Names:
    """Keys that many patterns are matched against: they are sorted out once, not for each pattern.

    Args:
        keys: The keys.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._given = keys
        self._families: dict[frozenset[str], Families] = {}
        self._inside: dict[str, tuple[Names, dict[str, str]]] = {}

    @cached_property
    def _keys(self) -> dict[str, None]:
        return dict.fromkeys(self._given)

    def matching(self, pattern: str, scope: str = "") -> list[str]:
        """Return the keys that a pattern matches below a scope.

        Examples:
            >>> Names(["tower.h.0.w", "tower.h.1.w", "h.0.w"]).matching("^h.*.w", "tower")
            ['tower.h.0.w', 'tower.h.1.w']
        """
        if scope:
            names, inside = self._below(scope)
            return [inside[inner] for inner in names.matching(pattern)]
        parsed = Pattern.parse(pattern)
        if parsed.only_key is not None:
            return [parsed.only_key] if parsed.only_key in self._keys else []
        if not parsed.collapsible:
            return [key for key in self._keys if parsed.match(key, literal=True) is not None]
        found = self._grouped(parsed.literal_indices)
        alike = [
            key for name, members in found.templates.items() if parsed.match(name) is not None for key, _ in members
        ]
        return alike + [key for key in found.literal if parsed.match(key, literal=True) is not None]

    def _below(self, scope: str) -> tuple[Names, dict[str, str]]:
        if scope not in self._inside:
            inside = {inner: key for key in self._keys if (inner := strip_scope(scope, key)) is not None}
            self._inside[scope] = Names(inside), inside
        return self._inside[scope]

    def _grouped(self, keep: frozenset[str]) -> Families:
        if keep not in self._families:
            self._families[keep] = families(self._keys, keep)
        return self._families[keep]


def matching(pattern: str, keys: Iterable[str], scope: str = "") -> list[str]:
    """Return the keys that one pattern matches below a scope."""
    return Names(keys).matching(pattern, scope)


def possible_readings(mapping: Mapping, source: Header, target: Header | None, mode: str) -> list[Reading]:
    """List the readings to compile, the mapped one first; those that cannot fit by their names alone are left out.

    Without a target there is nothing to compare with: the reading is the plain one if the caller says so, else the
    mapped one. Who reverses a mapping says with it that the tensors are in the layout that the mapping gives.
    """
    first = _unchanged_readings(mapping, target, mode)
    if target is None:
        return first
    prefixed = list(_prefixed(first, mapping.base_prefix, source, target))
    mapped = Reading("mapped", mapping)
    found = [*first, *prefixed]
    if mode != "as is":
        found += _prefixed_after(mapped, mapping.base_prefix, [mapped, *prefixed], source, target)
    shares = mode == "as is" or any(_shares_names(reading, source, target) for reading in found)
    return [reading for reading in found if reading.is_mapped or shares]


def _unchanged_readings(mapping: Mapping, target: Header | None, mode: str) -> list[Reading]:
    """List the readings that leave every prefix as it is."""
    mapped = Reading("mapped", mapping)
    plain = Reading("as is", replace(mapping, transforms=(), forward=None), is_mapped=False)
    if mode == "as is":
        return [plain]
    if target is None or mode == "mapped" or mapping.forward is not None or not mapping.transforms:
        return [mapped]
    return [mapped, plain]


def _shares_names(reading: Reading, source: Header, target: Header) -> bool:
    """Whether a reading without rules gives a tensor the name of a target: one of them that does is worth a look."""
    if reading.is_mapped:
        return False
    change = reading.change
    return any((key if change is None else _renamed(change, key)) in target.specs for key in source)


def _prefixed(readings: list[Reading], prefix: str, source: Header, target: Header) -> Iterator[Reading]:
    """Yield each reading with the base prefix added, and with it removed, where the keys as a whole allow it."""
    if not prefix:
        return
    for reading in readings:
        for change in (PrefixChange(prefix_to_add=prefix), PrefixChange(prefix_to_remove=prefix)):
            changed = _changed(reading, change)
            if changed is not None and _is_possible(changed, source, target):
                yield _sparing(changed, reading.mapping, source, target)


def _prefixed_after(
    reading: Reading, prefix: str, others: list[Reading], source: Header, target: Header
) -> Iterator[Reading]:
    """Yield a reading whose rules run before a prefix is added, or removed, if no other one does the same.

    The keys themselves must lack the prefix, so that it is clear where it comes from; rules may have put it before some
    of the names. It is added only where the target has it, and removed only where the target has it nowhere.
    """
    mapping = reading.mapping
    if not prefix or not mapping.transforms or mapping.forward is not None:
        return
    live = reading.live(source)
    if _any_below(prefix, live):
        return
    is_added = _any_below(prefix, target)
    names = (name for written, _ in _ends(mapping, live).values() for name in written)
    change = _added_behind(prefix, names, target) if is_added else PrefixChange(prefix_to_remove=prefix)
    if change is None or change in mapping.transforms:
        return
    words = f"then with {prefix}. {'added' if is_added else 'removed'}"
    made = replace(mapping, transforms=(*mapping.transforms, change), forward=None)
    ends = _ends(made, live)
    if all(_ends(other.mapping, live) != ends for other in others):
        yield Reading(f"{reading.name}, {words}", made)


def _any_below(prefix: str, keys: Iterable[str]) -> bool:
    return any(key.startswith(f"{prefix}.") for key in keys)


def _added_behind(prefix: str, names: Iterable[str], target: Header) -> Transform | None:
    """Return the change that puts a prefix before all names but those of sub-trees that the target has without it."""
    wanted = Wanted(target)
    ours = dict.fromkeys(name for name in names if not name.startswith(f"{prefix}."))
    trees = subtrees(ours, lambda names: len({wanted.has(name) for name in names}) == 2)
    named = [path for path, names in trees if not any(map(wanted.has, names))]
    return _moved(named, prefix) if named else None


def _moved(trees: list[str], prefix: str) -> Transform | None:
    """Return the rename that puts a prefix before whole sub-trees.

    Returns:
        The rename; None where a pattern cannot name one of them, and where they are more than a model has.
    """
    if len(trees) > MOST_TREES:
        return None
    try:
        moved = GroupWeightRename([f"^{first}" for first in trees], [f"{prefix}.{first}" for first in trees])
        pairs(moved)
    except WeighbridgeError:  # a key may hold anything, such as a pattern's characters
        return None
    return moved


def _ends(mapping: Mapping, keys: list[str]) -> dict[str, tuple[tuple[str, ...], Transform | None]]:
    """Return the last names that a mapping gives each key, and the converter that makes its tensor another one."""
    rules = prepare(mapping)
    return {
        key: (names, mapping.transforms[trace.hit.rule] if trace.hit is not None else None)
        for key, names, trace in trace_ends(rules, keys)
    }


def _changed(reading: Reading, change: PrefixChange) -> Reading | None:
    """Return a reading with a prefix change in front; None where that change is one of its mapping's own."""
    if change in reading.mapping.transforms:
        return None
    words = f"with {change.prefix_to_add}. added"
    if change.prefix_to_add is None:
        words = f"with {change.prefix_to_remove}. removed"
    mapping = replace(reading.mapping, transforms=(change, *reading.mapping.transforms), forward=None)
    return Reading(f"{reading.name}, {words}", mapping, reading.is_mapped, change)


def _sparing(reading: Reading, unchanged: Mapping, source: Header, target: Header) -> Reading:
    """Leave those sub-trees without the prefix that have a place in the target as they are, and none with it.

    A file of a model that was made from a base model's may hold a new head beside the bare names of the base. Each
    sub-tree is decided as a whole, by all of its keys; one that both of them have a part in (`extractor.weight` of the
    head, `extractor.layers` of the base) is divided until each part is of one kind.

    Args:
        reading: A reading that adds a prefix to all keys.
        unchanged: Its mapping without the change.
        source: Specs of the checkpoint's tensors.
        target: Specs of the wanted tensors.
    """
    change = reading.change
    if change is None or change.prefix_to_add is None:
        return reading

    live = reading.live(source)
    bare, prefixed = (landing(mapping, live, target) for mapping in (unchanged, reading.mapping))

    def fits(keys: list[str]) -> tuple[bool, bool]:
        return not bare.isdisjoint(keys), not prefixed.isdisjoint(keys)

    trees = dict(subtrees(live, lambda keys: all(fits(keys))))
    spared = {path for path, keys in trees.items() if fits(keys) == (True, False)}
    if not spared or len(spared) == len(trees):
        return reading
    moved = _moved([path for path in trees if path not in spared], change.prefix_to_add)
    if moved is None or moved in unchanged.transforms:
        return reading
    mapping = replace(reading.mapping, transforms=(moved, *unchanged.transforms))
    return replace(reading, mapping=mapping, spared=frozenset(spared))


def _renamed(change: PrefixChange, key: str) -> str:
    """Return a key as a reading's prefix change gives it: that change has no scope and no path before the prefix."""
    if change.prefix_to_add is None:
        return key.removeprefix(f"{change.prefix_to_remove}.")
    return key if key.startswith(f"{change.prefix_to_add}.") else f"{change.prefix_to_add}.{key}"


def _is_possible(reading: Reading, source: Header, target: Header) -> bool:
    """Whether a prefix change suits the keys as a whole; those that a drop or carry rule takes out do not count.

    A prefix is added to all keys or to none. Where one is removed, what lacks it belongs to other parts of a model
    (a head, beside the base model) and has no place: if it had, two models would be mixed.
    """
    assert reading.change is not None
    unchanged = {key for key in source if _renamed(reading.change, key) == key}
    if len(unchanged) == len(source.specs):
        return False
    outside = [key for key in reading.live(source) if key in unchanged] if unchanged else []
    if reading.change.prefix_to_add is not None:
        return not outside
    return not outside or not landing(reading.mapping, outside, target)


def without_change(mapping: Mapping, reading: str) -> tuple[Mapping, Transform | None]:
    """Return the mapping of a reading without the prefix change that the reading put there, and that change.

    Args:
        mapping: The mapping, as a plan has it.
        reading: What the reading is called.

    Examples:
        >>> added, rule, other = PrefixChange(prefix_to_add="net"), GroupWeightRename(["a"], ["b"]), PrefixChange("m")
        >>> without_change(Mapping([added, rule, other]), "mapped, with net. added") == (Mapping([rule, other]), added)
        True
        >>> without_change(Mapping([rule, added]), "mapped, then with net. added") == (Mapping([rule]), added)
        True
        >>> without_change(Mapping([rule]), "mapped") == (Mapping([rule]), None)
        True
    """
    rules = mapping.transforms
    if ", with " in reading and rules:
        return replace(mapping, transforms=rules[1:]), rules[0]
    if ", then with " in reading and rules:
        return replace(mapping, transforms=rules[:-1]), rules[-1]
    return mapping, None


MOST_TREES: Final = 64  # how many sub-trees a prefix is put before by their names; a model has some ten
MOST_PATHS: Final = 16  # how many paths of either side are tried, the largest sub-trees first
MOST_SEGMENTS: Final = 3  # how deep such a path is


def nested_readings(
    mapping: Mapping,
    source: Header,
    target: Header,
    mode: str = "auto",
    is_worth: Callable[[Mapping], bool] = lambda _: True,
) -> Iterator[Reading]:
    """Yield each reading under every path of a sub-model: of the target, put in front, or of the source, removed.

    A checkpoint may be that of one part of the model, or of a model that holds this one. These are only tried where
    no nearer reading fits.

    Args:
        mapping: The mapping.
        source: Specs of the checkpoint's tensors.
        target: Specs of the wanted tensors.
        mode: As for `possible_readings`.
        is_worth: Whether a mapping is worth a look.
    """
    added = [PrefixChange(prefix_to_add=path) for path in _paths(target)]
    removed = [PrefixChange(prefix_to_remove=path) for path in _paths(source)]
    for first in _unchanged_readings(mapping, target, mode):
        for change in (*added, *removed):
            reading = _changed(first, change)
            if reading is None or not (first.is_mapped or _shares_names(reading, source, target)):
                continue
            if is_worth(reading.mapping) and _is_possible(reading, source, target):
                yield _sparing(reading, first.mapping, source, target)
            if first.is_mapped and change.prefix_to_add is not None:
                behind = _prefixed_after(first, change.prefix_to_add, [reading], source, target)
                yield from (each for each in behind if is_worth(each.mapping))


def _paths(header: Header) -> list[str]:
    """List the paths of sub-models, those with most tensors first: up to the first index in a key."""
    counts: Counter[str] = Counter()
    for key in header:
        parts = list(takewhile(lambda part: not part.isdigit(), key.split(".")[:-1]))
        counts.update(".".join(parts[:depth]) for depth in range(1, min(len(parts), MOST_SEGMENTS) + 1))
    ranked = sorted((-count, path) for path, count in counts.items())
    return list(islice((path for _, path in ranked if _is_prefix(path)), MOST_PATHS))


def _is_prefix(path: str) -> bool:
    """Whether a path can be a prefix: a key may hold anything, such as an empty segment or a pattern's characters."""
    try:
        pairs(PrefixChange(prefix_to_add=path))
    except WeighbridgeError:
        return False
    return True
