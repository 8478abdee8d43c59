"""Run a whole set of keys through a mapping's rules, as planning does: under which names do they end?

Keys are traced by family, so that 90,000 of them take about a second.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from weighbridge.base.errors import WeighbridgeError
from weighbridge.operations.values import Place
from weighbridge.planning.members.group_keys import merged_indices
from weighbridge.planning.tracing import Hit, Rules, Traced, finish_names, number_name, spell, trace_keys


class Settled(NamedTuple):
    """A key and the names under which its values end.

    Args:
        key: The key.
        names: Its last names: one, or as many as a converter writes. Indices that operations make are 0.
        fired: Numbers of the rules that fired, also of those behind the converter.
        converter: Number of the converter that fired; -1 if none did.
        group: What the converter joins the key with: keys of one group share these names, before later renames.
        place: The key's place in that group: the pattern's number, and the indices that are merged.
    """

    key: str
    names: tuple[str, ...]
    fired: tuple[int, ...]
    converter: int = -1
    group: tuple[str, ...] = ()
    place: tuple[int, Place] = (0, ())

    @property
    def owner(self) -> tuple[int, tuple[str, ...]]:
        """What fills the names: the key itself, or its group."""
        return self.converter, self.group or (self.key,)

    @property
    def is_first(self) -> bool:
        """Whether the key stands at index 0 of what is merged, or nothing is."""
        return not any(self.place[1])


def settle(rules: Rules, keys: Iterable[str], problems: list[WeighbridgeError]) -> list[Settled]:
    """Find the last names of keys.

    Args:
        rules: The mapping's rules.
        keys: The keys, in any order.
        problems: Overlapping rules are added to it; their keys are left out.
    """
    done: list[Settled] = []
    hits: dict[int, list[tuple[Traced, Hit]]] = {}
    for traced in trace_keys(rules, keys, problems):
        trace, members = traced
        if trace.hit is None:
            done += [Settled(key, (spell(trace.name, indices),), trace.fired) for key, indices in members]
        else:
            hits.setdefault(trace.hit.rule, []).append((traced, trace.hit))
    for number, found in sorted(hits.items()):
        done += _finish(rules, number, [one for traced, hit in found for one in _converted(traced, hit)], problems)
    return done


def _converted(traced: Traced, hit: Hit) -> Iterator[Settled]:
    merged = merged_indices(hit)
    fired = (*traced.trace.fired, hit.rule)
    for key, indices in traced.members:
        place = tuple(number if slot is None else indices[slot] for slot, number in merged)
        outputs = tuple(spell(output, indices) for output in hit.outputs)
        yield Settled(key, outputs, fired, hit.rule, outputs, (hit.lane, place))


def _finish(
    rules: Rules, number: int, found: Collection[Settled], problems: list[WeighbridgeError]
) -> Iterator[Settled]:
    """Run the renames behind a converter."""
    written = dict.fromkeys(number_name(name, ()) for one in found for name in one.names)
    last = finish_names(rules, written, number, problems)
    for one in found:
        ends = [last[name] for name in (number_name(name, ()) for name in one.names) if name in last]
        later = tuple(sorted({rule for _, fired in ends for rule in fired}))
        yield one._replace(names=tuple(name for name, _ in ends), fired=one.fired + later)


class Collision(NamedTuple):
    """Two keys that end under one name."""

    name: str
    first: Settled
    second: Settled


def collisions(settled: Iterable[Settled]) -> Iterator[Collision]:
    """Find keys that end under a name which another one has, each pair of owners once."""
    owners: dict[str, Settled] = {}
    places: dict[tuple[object, ...], Settled] = {}
    for one in settled:
        taken = places.setdefault((one.owner, one.place), one)
        if taken is not one:
            yield Collision(one.names[0] if one.names else "", taken, one)
            continue
        if len(set(one.names)) < len(one.names):
            yield Collision(one.names[0], one, one)
        for name in dict.fromkeys(one.names):
            owner = owners.setdefault(name, one)
            if owner.owner != one.owner:
                yield Collision(name, owner, one)
