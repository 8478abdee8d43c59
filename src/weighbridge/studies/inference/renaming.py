"""Learn a few renames that turn many names into others: whatever repairs most names and spoils none comes first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping as MappingOf, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Final, NamedTuple

from weighbridge.base.errors import WeighbridgeError
from weighbridge.mappings.transforms import GroupWeightRename, PrefixChange, Transform, WeightRenaming, rename_key
from weighbridge.studies.inference.kin import name_variables, pattern_text, read_variable
from weighbridge.studies.inference.tensor_facts import STAR

_TRIED: Final = 48
"""Number of renames that are tried on all names before one is chosen."""

_CONTEXT: Final = 3
"""Number of segments beside a difference that a rename may name."""


@dataclass(slots=True)
class Naming:
    """One name: what it is by now, and what it should become; None where that is nobody's business."""

    current: str
    wanted: str | None


class _Edit(NamedTuple):
    """One difference between two names: segments that stand in place of others, from `start` on."""

    start: int
    stop: int
    new_start: int
    new_stop: int


@dataclass(slots=True)
class _Learner:
    names: list[Naming]
    transforms: list[Transform] = field(default_factory=list)

    def learn(self) -> list[Transform]:
        """Choose renames until nothing more is gained, then state the rest name by name."""
        while self._open():
            best = self._best(strict=True) or self._best(strict=False)
            best = best or self._best(strict=True, reversible=False) or self._best(strict=False, reversible=False)
            if best is None:
                self._finish()
                break
            self._apply(best)
        return self.transforms

    def _open(self) -> list[Naming]:
        return [name for name in self.names if name.wanted not in (None, name.current)]

    def _best(self, *, strict: bool, reversible: bool = True) -> Transform | None:
        """Choose the rename that mends most.

        Args:
            strict: It must begin with a word, and mend all that it touches in full.
            reversible: Its inverse must give every name back, and touch no name that it left alone.
        """
        proposed: Counter[Transform] = Counter()
        sizes: dict[Transform, int] = {}
        for name in self._open():
            assert name.wanted is not None
            for transform, gain in propose(name.current, name.wanted):
                proposed[transform] += gain
                sizes[transform] = gain
        if strict:
            proposed = Counter({one: count for one, count in proposed.items() if not _begins_with_index(one)})
        ranked = sorted(proposed, key=lambda one: (-proposed[one], _length(one)))
        judged = [(self._gain(each, sizes[each] if strict else 0, reversible), each) for each in ranked[:_TRIED]]
        useful = [(gain, transform) for gain, transform in judged if gain > 0]
        return min(useful, key=lambda pair: (-pair[0], _length(pair[1])))[1] if useful else None

    def _gain(self, transform: Transform, least: int = 0, reversible: bool = False) -> int:
        """Count by how many segments names come nearer to what is wanted; 0 where any gains less than `least`."""
        gain = 0
        changed: dict[str, str] = {}
        for name in self.names:
            new = _renamed(transform, name.current)
            if new is None:
                return 0
            if new == name.current:
                continue
            changed[name.current] = new
            if name.wanted is not None:
                nearer = distance(name.current, name.wanted) - distance(new, name.wanted)
                if nearer < least:
                    return 0
                gain += nearer
        kept = {name.current for name in self.names} - changed.keys()
        new_names = set(changed.values())
        if len(new_names) < len(changed) or new_names & kept:
            return 0
        return gain if not reversible or _comes_back(transform, changed, kept) else 0

    def _apply(self, transform: Transform) -> None:
        self.transforms.append(transform)
        for name in self.names:
            name.current = _renamed(transform, name.current) or name.current

    def _finish(self) -> None:
        """Rename what is left at once, so that names can change places: by what differs alone if that will do."""
        pairs = [(name.current, name.wanted) for name in self._open() if name.wanted is not None]
        for group in (_group(pairs, whole=False), _group(pairs, whole=True)):
            if group is not None and self._gain(group):
                self._apply(group)
                return


def learn_renames(names: Iterable[Naming]) -> list[Transform]:
    """Learn renames in the order in which they run.

    Args:
        names: What names are, and what they should become; `current` is brought up to date.

    Returns:
        The renames. Names that no rename can reach stay as they are.

    Examples:
        >>> from weighbridge.mappings.transforms import describe
        >>> names = [Naming(f"encoder.{part}.ln.weight", f"model.encoder.{part}.norm.weight") for part in "ab"]
        >>> [describe(rename) for rename in learn_renames(names)]
        ['WeightRenaming(ln -> norm)', 'PrefixChange(add model)']
    """
    return _Learner(list(names)).learn()


@lru_cache(maxsize=65536)
def distance(one: str, two: str) -> int:
    """Count the segments in which two names differ."""
    first, second = one.split("."), two.split(".")
    return sum(edit.stop - edit.start + edit.new_stop - edit.new_start for edit in _edits(first, second))


def _edits(first: Sequence[str], second: Sequence[str]) -> list[_Edit]:
    codes = SequenceMatcher(None, first, second, autojunk=False).get_opcodes()
    return [_Edit(*places) for kind, *places in codes if kind != "equal"]


def _renamed(transform: Transform, name: str) -> str | None:
    """Apply a rename; None where it does not hold."""
    try:
        return rename_key(transform, name) or name
    except WeighbridgeError:
        return None


def _comes_back(transform: Transform, changed: MappingOf[str, str], kept: Iterable[str]) -> bool:
    """Tell whether the inverse of a rename gives back what it changed, and leaves alone what it kept."""
    try:
        inverse = transform.inverse()
    except WeighbridgeError:
        return False
    pairs = [*changed.items(), *((name, name) for name in kept)]
    return all(_renamed(inverse, new) == old for old, new in pairs)


@lru_cache(maxsize=16384)
def propose(current: str, wanted: str) -> tuple[tuple[Transform, int], ...]:
    """List renames that bring one name nearer to another, each with the number of segments that it mends."""
    first, second = current.split("."), wanted.split(".")
    edits = _edits(first, second)
    found: dict[Transform, int] = {}
    for begin in range(len(edits)):
        for end in range(begin, min(len(edits), begin + 3)):
            merged = _Edit(edits[begin].start, edits[end].stop, edits[begin].new_start, edits[end].new_stop)
            size = sum(e.stop - e.start + e.new_stop - e.new_start for e in edits[begin : end + 1])
            for transform in _variants(first, second, merged):
                found.setdefault(transform, size)
    return tuple(found.items())


def _variants(first: list[str], second: list[str], edit: _Edit) -> Iterator[Transform]:
    """State one difference with more and more of what stands beside it."""
    old, new = first[edit.start : edit.stop], second[edit.new_start : edit.new_stop]
    if edit.start == 0 and not (old and new) and not any(map(read_variable, (*old, *new))):
        yield from _prefix_change(".".join(old), ".".join(new))
    for left in range(min(edit.start, edit.new_start, _CONTEXT) + 1):
        for right in range(min(len(first) - edit.stop, len(second) - edit.new_stop, _CONTEXT) + 1):
            before, after = first[edit.start - left : edit.start], first[edit.stop : edit.stop + right]
            new_before = second[edit.new_start - left : edit.new_start]
            if before != new_before or after != second[edit.new_stop : edit.new_stop + right]:
                continue
            sides = [*before, *old, *after], [*before, *new, *after]
            if sides[0] and sides[1]:
                at_start = edit.start == left and edit.new_start == left
                yield from _renames(*sides, at_start, edit.stop + right == len(first))


def _prefix_change(old: str, new: str) -> Iterator[Transform]:
    try:
        yield PrefixChange(prefix_to_add=new) if new else PrefixChange(prefix_to_remove=old)
    except WeighbridgeError:
        return


def _renames(source: list[str], target: list[str], at_start: bool, at_end: bool) -> Iterator[Transform]:
    named = name_variables([source], [target])
    if named is None:
        return
    texts = pattern_text(source, named), pattern_text(target, named)
    for start, stop in ((False, False), (at_start, False), (at_start, at_end)):
        anchored = "^" * start + texts[0] + "$" * stop
        try:
            yield WeightRenaming(anchored, texts[1])
        except WeighbridgeError:
            continue


def _length(transform: Transform) -> tuple[int, int, str]:
    """Order renames by how much they say: segments first, then where a key begins; its end matters only in need."""
    if isinstance(transform, PrefixChange):
        return 2, 0, str(transform)
    source, target = transform.source_patterns[0], transform.target_patterns[0]
    odd = source.endswith("$") + source[0].isdigit()
    segments = source.count(".") + target.count(".") + 2
    return 2 * segments + odd, int(not source.startswith("^")), source + target


def _begins_with_index(transform: Transform) -> bool:
    return transform.source_patterns[0].startswith((STAR, "{"))


def _group(pairs: Sequence[tuple[str, str]], *, whole: bool) -> GroupWeightRename | None:
    """Rename several names at once."""
    sides: dict[str, str] = {}
    for current, wanted in pairs:
        first, second = current.split("."), wanted.split(".")
        if not whole:
            edits = _edits(first, second)
            merged = _Edit(edits[0].start, edits[-1].stop, edits[0].new_start, edits[-1].new_stop)
            first, second = first[merged.start : merged.stop], second[merged.new_start : merged.new_stop]
        named = name_variables([first], [second]) if first and second else None
        if named is None:
            return None
        source = pattern_text(first, named)
        sides.setdefault(f"^{source}$" if whole else source, pattern_text(second, named))
    try:
        return GroupWeightRename(list(sides), list(sides.values()))
    except WeighbridgeError:
        return None
