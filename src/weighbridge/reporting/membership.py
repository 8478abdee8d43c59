"""Say what a key lacks for a rule: the members of its group that are not there, the one name that is another."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from weighbridge.base.errors import WeighbridgeError
from weighbridge.base.keys import index_set
from weighbridge.base.nearby import close_names
from weighbridge.base.spelling import spell_ranges
from weighbridge.mappings.mapping import Mapping
from weighbridge.planning.members.group_keys import Gap, Group, collect_groups, extents_of, find_gaps, spell_gaps
from weighbridge.planning.tracing import FREE, Rule, Rules, finish_names, prepare, trace_keys, trace_name

_NAME: Final = re.compile(r"[A-Za-z_]\w*")
_LIKE: Final = 0.75
"""Least likeness of two names, of which one may be meant for the other."""


def near_miss(rule: Rule, key: str) -> str:
    """Name the one part of a key that keeps a rule from matching it, where that part looks like the right one.

    Args:
        rule: A rule that does not match.
        key: The key.

    Returns:
        What stands there and what should; empty if more than one name of the pattern is not in the key.

    Examples:
        >>> from weighbridge.mappings.transforms import WeightRenaming
        >>> (rule,) = prepare(Mapping([WeightRenaming("mlp.gate_proj", "mlp.gate")])).rules
        >>> near_miss(rule, "layers.0.mlp.gate_prj.weight")
        'gate_prj is not gate_proj'
    """
    segments = key.split(".")
    for source, _ in rule.pairs:
        names = [part for part in re.split(r"\\?\.", source.text.strip("^$")) if _NAME.fullmatch(part)]
        absent = [name for name in names if name not in segments]
        others = [segment for segment in segments if segment not in names]
        near = close_names(absent[0], others, 1, _LIKE) if len(absent) == 1 else []
        if near:
            return f"{near[0]} is not {absent[0]}"
    return ""


def missing_members(mapping: Mapping, keys: Iterable[str], key: str) -> tuple[str, ...]:
    """Describe the incomplete group that a key belongs to.

    Args:
        mapping: The mapping.
        keys: Names of the checkpoint's tensors.
        key: One of them, one that the group lacks, or a target that the group would fill.

    Returns:
        The group's name and rule, and a line for each of its patterns with the indices that are there and those that
        are not; nothing for a key of a whole group, or of none.

    Examples:
        >>> from weighbridge.operations.groupings import MergeModulelist
        >>> from weighbridge.mappings.transforms import WeightConverter
        >>> stack = Mapping([WeightConverter("experts.*.up", "experts.up", [MergeModulelist(0)])])
        >>> for line in missing_members(stack, ["experts.0.up", "experts.2.up"], "experts.1.up"):
        ...     print(line)
        experts.up, of rule 1, is incomplete
          experts.*.up  2 of 3: {0,2}; missing: 1
    """
    rules = prepare(mapping)
    hits = [traced for traced in trace_keys(rules, keys, []) if traced.trace.hit is not None]
    groups = collect_groups(rules, hits, [])
    wanted = _outputs_of(rules, key)
    for look, group in groups.items():
        names = _names(rules, group)
        held = any(key in lane.values() for lane in group.lanes)
        if held or look == wanted or key in names:
            return _describe(rules, group, names[0])
    return ()


def _outputs_of(rules: Rules, key: str) -> tuple[int, tuple[str, ...]] | None:
    """Find the group that a key would belong to, were it there."""
    try:
        hit = trace_name(rules, key).hit
    except WeighbridgeError:
        return None
    return (hit.rule, hit.outputs) if hit is not None else None


def _names(rules: Rules, group: Group) -> list[str]:
    """Return a group's targets under their last names; an index that the operations make is written `*`."""
    fixed = [name for name in group.outputs if FREE not in name]
    done = finish_names(rules, fixed, group.rule, [])
    return [done[name][0] if name in done else name.replace(FREE, "*") for name in group.outputs]


def _describe(rules: Rules, group: Group, name: str) -> tuple[str, ...]:
    rule = rules.rules[group.rule]
    told = rule.heights if isinstance(rule.heights, tuple) else ()
    extents = extents_of(group.lanes, rule.merges, tuple(size for size in told if isinstance(size, int)))
    lines = [f"{name}, of rule {group.rule + 1}, is incomplete"]
    for (source, _), lane, extent in zip(rule.pairs, group.lanes, extents, strict=True):
        missing = find_gaps(lane, extent)
        there = f": {index_set(place[0] for place in lane)}" if rule.merges == 1 and lane else ""
        which = f": {_spelled(missing, rule.merges)}" if rule.merges and lane and missing else ""
        lack = f"; missing{which}" if missing else ""
        lines.append(f"  {source.text}  {len(lane)} of {extent.total}{there}{lack}")
    return tuple(lines) if any("; missing" in line for line in lines) else ()


def _spelled(missing: Sequence[Gap], levels: int) -> str:
    """Write the missing places as those that are there are written: of one index, a set."""
    return spell_ranges(missing[0][0]) if levels == 1 else spell_gaps(missing, levels)
