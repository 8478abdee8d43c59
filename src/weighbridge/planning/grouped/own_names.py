"""What rules say of a group's tensors by their own names, and of weights that contradict the configuration.

A rule names the weight, and its group goes along. One that names scales or packed codes themselves says the same of
them, or is an error: it would silently do nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping as MappingOf, Sequence
from typing import NamedTuple

from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.base.specs import Header
from weighbridge.mappings.exception_rules import KeyRule
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.schemes.endings import LIKELY
from weighbridge.mappings.transforms import WeightConverter
from weighbridge.planning.grouped.described import gives_new_names
from weighbridge.planning.grouped.dividing import Undivided
from weighbridge.planning.grouped.refusals import is_plain, not_alike, not_divided
from weighbridge.planning.grouped.weights import Grouped
from weighbridge.planning.members.group_keys import Group, collect_groups, name_of
from weighbridge.planning.names.wanting import FREE, Wanted
from weighbridge.planning.plan import Plan
from weighbridge.planning.readings import Reading
from weighbridge.planning.steps import Step
from weighbridge.planning.tracing import Trace, last_names, prepare, trace_ends, trace_keys

_ALONE = "name the weight alone, whose group goes along, or plan by names only: companions=False (--no-companions)"


class _Said(NamedTuple):
    """What the rules make of a name by itself: the last names, those that fired, and what a converter does there."""

    names: tuple[str, ...]
    fired: tuple[int, ...]
    use: object


def strays(plan: Plan, reading: Reading, source: Grouped, target: Header | None) -> Iterator[PlanError]:
    """Yield an error for each kind of tensors of which the rules say something else than their weight's do.

    Args:
        plan: The plan, with steps for all tensors.
        reading: The reading that it was made with.
        source: The source's groups.
        target: Specs of the wanted tensors, where they are known.
    """
    yield from _left_out(plan, reading, source)
    yield from _unknown(plan, source)
    mapping = plan.mapping
    wanted = Wanted(target, source.header) if target is not None else None
    rules = prepare(mapping, wanted)
    carried = _named(reading, mapping.carry, source.own_keys)
    own_keys = [key for key in source.own_keys if key not in carried]
    fired = [traced for traced in trace_keys(rules, own_keys, []) if traced.trace.fired]
    if not fired:
        return
    said = {
        key: _said(mapping, names, traced.trace)
        for traced in fired
        for (key, _), names in zip(traced.members, last_names(rules, traced), strict=True)
    }
    bases = list(dict.fromkeys(source.base_of[key] for key in said))
    of_base = {key: _said(mapping, names, trace) for key, names, trace in trace_ends(rules, bases)}
    steps = {key: step for step in plan.steps for key in step.sources}
    seen: set[object] = set()
    for key, one in said.items():
        base = source.base_of[key]
        kind = source.weights[base].scheme.title, key.rpartition(".")[2], one.use
        if key in steps and kind not in seen and not _is_alike(one, of_base.get(base), steps[key]):
            seen.add(kind)
            yield _astray(key, one, steps[key])


def _named(reading: Reading, rules: Sequence[KeyRule], keys: Collection[str]) -> set[str]:
    """Return the keys that exception rules name."""
    return {key for _, found in reading.named_by(rules, keys if rules else ()) for key in found}


def _said(mapping: Mapping, names: tuple[str, ...], trace: Trace) -> _Said:
    if trace.hit is None:
        return _Said(names, trace.fired, None)
    rule = mapping.transforms[trace.hit.rule]
    assert isinstance(rule, WeightConverter)
    return _Said(names, trace.fired, (rule.operations, trace.hit.lane))


def _is_alike(one: _Said, base: _Said | None, step: Step) -> bool:
    """Tell whether no rule is about a tensor alone, or those that are say the same as those of its weight."""
    if set(one.fired) <= set(step.rules):
        return True
    names = {name.replace(FREE, "0") for name in one.names}
    return names <= set(step.targets) and base is not None and one.use == base.use


def _astray(key: str, one: _Said, step: Step) -> PlanError:
    return PlanError(
        "companion-unknown",
        "a rule says something else of this tensor than of the weight that it belongs to",
        where=key,
        expected=f"{', '.join(step.targets[:2])}, with its weight",
        got=", ".join(name.replace(FREE, "*") for name in one.names[:2]),
        hint=_ALONE,
    )


def _unknown(plan: Plan, source: Grouped) -> Iterator[PlanError]:
    """Yield an error for each tensor without a role in the scheme whose module gets another weight, and not it."""
    modules = {weight.stem: base for base, weight in source.weights.items()}
    beside = [key for key in source.seen if LIKELY.search(key) and key.rpartition(".")[0] in modules]
    if not beside:
        return
    steps = {key: step for step in plan.steps for key in step.sources}
    for key in beside:
        weight = source.weights[modules[key.rpartition(".")[0]]]
        moved, own = steps.get(weight.keys[0]), steps.get(key)
        if moved is not None and moved.rules and (own is None or not own.rules):
            yield PlanError(
                "companion-unknown",
                "a rule moves a quantised weight, and this tensor of its module has no role in the scheme",
                where=key,
                expected=f"no more than {', '.join(weight.keys)}",
                got=f"{weight.scheme.title}, and {key}",
                hint=_ALONE,
            )


def _left_out(plan: Plan, reading: Reading, source: Grouped) -> Iterator[PlanError]:
    """Yield an error for each weight of which a drop or carry rule names only a part."""
    dropped = {fated.key for fated in plan.dropped}
    carried = {key for step in plan.steps if step.fate == "carried" or not step.rules for key in step.sources}
    for rules, declared in ((plan.mapping.drop, dropped), (plan.mapping.carry, carried)):
        for rule, found in reading.named_by(rules, list(source.base_of) if rules else ()):
            part = next((key for key in found if key not in declared), None)
            if part is not None:
                base = source.base_of[part]
                yield PlanError(
                    "companion-unknown",
                    "a rule leaves out a part of what belongs to a quantised weight",
                    where=part,
                    expected=f"all of it, by a pattern that names {base}",
                    got=f'"{rule.pattern}"',
                    hint=_ALONE,
                )


def contradictions(readings: Iterable[Reading], source: Grouped) -> list[WeighbridgeError]:
    """List what contradicts the configuration, of the weights whose elements a rule would move.

    Args:
        readings: All that the checkpoint could be read in.
        source: The source's groups.
    """
    keys = {key: fault for fault in source.faults for key in (*fault.keys, f"{fault.stem}.weight") if fault.keys}
    if not keys:
        return []
    hit = {
        key
        for reading in readings
        for key, _, trace in trace_ends(prepare(reading.mapping), list(keys))
        if trace.hit is not None
    }
    faults = dict.fromkeys(keys[key] for key in keys if key in hit)
    return [_contradiction(fault.code, fault.text, fault.stem) for fault in faults]


def unlike(readings: Iterable[Reading], source: Grouped) -> Iterator[WeighbridgeError]:
    """Yield an error for each weight that a rule would move with others, of which something else tells the size.

    Nothing tells the rows of a weight that only moves as it is: rules see its codes, whose sizes are of no weight.

    Args:
        readings: All that the checkpoint could be read in.
        source: The source's groups.
    """
    if all(weight.kind.shape is not None for weight in source.weights.values()):
        return
    for reading in readings:
        rules, keys = prepare(reading.mapping), list(source.seen)
        claimed = _named(reading, (*reading.mapping.drop, *reading.mapping.carry), keys)
        hits = [each for each in trace_keys(rules, [key for key in keys if key not in claimed], []) if each.trace.hit]
        for group in collect_groups(rules, hits, []).values():
            yield from _unlike_parts(group, source, name_of(rules, group))


def _unlike_parts(group: Group, source: Grouped, where: str) -> Iterator[WeighbridgeError]:
    weights = [weight for key in group.sources if (weight := source.weights.get(key)) is not None]
    fixed = next((weight for weight in weights if weight.kind.shape is None), None)
    if fixed is None or len(group.sources) == 1:
        return
    plain = next((key for key in group.sources if key not in source.weights), None)
    other = next((weight for weight in weights if weight.kind.likeness != fixed.kind.likeness), None)
    if plain is not None:
        yield is_plain(plain, fixed, where)
    elif other is not None:
        yield not_alike(fixed, other).with_context(where=where)
    else:
        yield not_divided(Undivided(fixed.kind.stored.members[0], None), weights).with_context(where=where)


def disagreements(plan: Plan, source: Grouped) -> Iterator[PlanError]:
    """Yield what contradicts the configuration, where a rule parts the tensors of a weight, or moves any elements.

    A rule that names the weight, and none of the tensors that it would be stored as, parts them as well.
    """
    rules = {key: step.rules for step in plan.steps for key in step.sources} if source.faults else {}
    names = [name for fault in source.faults if fault.keys and (name := f"{fault.stem}.weight") not in rules]
    if names:
        rules |= {key: trace.fired for key, _, trace in trace_ends(prepare(plan.mapping), names) if trace.fired}
    for fault in source.faults:
        keys = {*fault.keys, f"{fault.stem}.weight"} & rules.keys() if fault.keys else set()
        if len({bool(rules[key]) for key in keys}) > 1:
            yield _contradiction(fault.code, fault.text, fault.stem)
    whole = [fault for fault in source.faults if not fault.keys]
    moves = whole and any(not step.program.is_identity for step in _grouped_steps(plan, source.base_of))
    renames = whole and gives_new_names(plan)
    yield from (_contradiction(fault.code, fault.text, "") for fault in whole if moves and not fault.is_of_names)
    yield from (_misnamed(fault.text) for fault in whole if fault.is_of_names and (moves or renames))


def _grouped_steps(plan: Plan, keys: MappingOf[str, str]) -> Iterator[Step]:
    return (step for step in plan.steps if any(key in keys for key in step.sources))


def _misnamed(text: str) -> PlanError:
    return PlanError(
        "scheme-conflict",
        "the file's metadata says how tensors are stored that are not there, and would have to say it of new names",
        got=text,
        hint="write the file anew with what its metadata says of the tensors that it has, or take all shards together",
    )


def _contradiction(code: str, text: str, where: str) -> PlanError:
    return PlanError(
        code,
        "the configuration and the tensors do not agree on how a weight is quantised",
        where=where,
        got=text,
        hint="correct the configuration, or narrow the rule to other weights",
    )
