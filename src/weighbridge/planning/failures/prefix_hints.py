"""Find the one change of a prefix that would make a checkpoint fit, by trying it on the whole key set.

A checkpoint may hold a sub-model under another path than the model does: `model.language_model` and `model`. Which of
the two is right cannot be known, so nothing is read that way by itself; but it can be proposed where it fits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from weighbridge.base.errors import WeighbridgeError
from weighbridge.base.keys import by_name
from weighbridge.base.specs import Header
from weighbridge.mappings.transforms import PrefixChange, WeightRenaming, pairs
from weighbridge.planning.drafts import Draft
from weighbridge.planning.readings import Reading

DEEPEST: Final = 4
"""Of how many segments the prefixes may be that are exchanged."""

DECLARE_LEFT: Final = (
    "declare what may be left over: carry=[...] or drop=[...], or partial=True (--carry, --drop, --partial)"
)
LEAST_MOVED: Final = 3
"""How many tensors must be moved by it: two may well be those of another layer that happens to be as large."""

MOST_TRIED: Final = 2
MOST_COMPARED: Final = 500


def propose_rename(best: Draft, source: Header, draft: Callable[[Reading], Draft]) -> str:
    """Say which single rename of a prefix would fill every target; nothing if there is none.

    Args:
        best: The reading that is reported.
        source: Specs of the checkpoint's tensors.
        draft: Compiles a further reading.
    """
    reading = best.reading
    if not best.missing or not best.unplaced or not reading.is_mapped or reading.change is not None:
        return ""
    if reading.mapping.forward is not None:
        return ""
    for old, new in _candidates(best):
        rule = _rename(old, new)
        if rule is None:
            continue
        mapping = replace(reading.mapping, transforms=(rule, *reading.mapping.transforms))
        found = draft(Reading(f"mapped, with {old}. as {new}.", mapping))
        if not found.missing and not found.faults and len(found.unplaced) < len(best.unplaced):
            return _words(rule, len(found.unplaced))
    return ""


def _words(rule: WeightRenaming | PrefixChange, left: int) -> str:
    if isinstance(rule, PrefixChange):
        side = "add" if rule.prefix_to_add is not None else "remove"
        spelled = f"PrefixChange(prefix_to_{side}={rule.prefix_to_add or rule.prefix_to_remove!r})"
    else:
        spelled = f"WeightRenaming({rule.source_patterns[0]!r}, {rule.target_patterns[0]!r})"
    first = f"put {spelled} before the other rules"
    if not left:
        return f"{first}: with it everything fits"
    sources = f"{left:,} sources are" if left > 1 else "1 source is"
    return f"{first}: with it every target is filled, and {sources} left over;\n{DECLARE_LEFT}"


def _candidates(best: Draft) -> list[tuple[str, str]]:
    """Return pairs of prefixes that stand before the same rest in what is left over and in what is missing.

    What is left over is compared by its own names and by those that the rules give it, which may be the target's but
    for the prefix. The pairs that most names have come first, and of these the shortest, which say the most.
    """
    missing: dict[str, list[tuple[str, str]]] = {}
    moved = {name: len(keys) for name, keys in by_name(best.missing).items()}
    for name in sorted(moved)[:MOST_COMPARED]:
        for prefix, rest in _divisions(name):
            missing.setdefault(rest, []).append((prefix, name))
    counts: Counter[tuple[str, str]] = Counter()
    left = by_name({*best.unplaced, *(key for step in best.strays for key in step.targets)})
    for name in sorted(left)[:MOST_COMPARED]:
        for old, rest in _divisions(name):
            for new, whole in missing.get(rest, ()):
                if old != new:
                    counts[old, new] += moved[whole]
    ranked = sorted(counts.items(), key=lambda item: (-item[1], len(item[0][0]) + len(item[0][1]), item[0]))
    return [pair for pair, count in ranked[:MOST_TRIED] if count >= LEAST_MOVED]


def _divisions(line: str) -> Iterator[tuple[str, str]]:
    """Yield each division of a name into a prefix, which may be empty, and a rest."""
    parts = line.split(".")
    for depth in range(min(DEEPEST, len(parts) - 1) + 1):
        prefix = ".".join(parts[:depth])
        if "*" in prefix:
            return
        yield prefix, ".".join(parts[depth:])


def _rename(old: str, new: str) -> WeightRenaming | PrefixChange | None:
    """Return the rule that puts one prefix in the place of another; None for a prefix that is no dotted path."""
    try:
        for prefix in filter(None, (old, new)):
            pairs(PrefixChange(prefix_to_add=prefix))
        if old and new:
            return WeightRenaming(f"^{old}", new)
        return PrefixChange(prefix_to_remove=old) if old else PrefixChange(prefix_to_add=new)
    except WeighbridgeError:  # a key may hold anything, such as an empty segment or a pattern's characters
        return None
