"""Prove a plan that was made with a derived inverse, where no earlier plan recorded the way back.

A name that the inverse gives is accepted only if the mapping itself, run over everything that was given, brings it back
by the same copies. And a name that the mapping would change is not taken for one that it has made: such a source could
be in the original layout already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping as MappingOf, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.base.keys import by_name, collapse
from weighbridge.base.specs import Header
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.transforms import Transform, WeightConverter
from weighbridge.operations.groupings import Chunk
from weighbridge.planning.fitting import draft_reading
from weighbridge.planning.names.wanting import Wanted
from weighbridge.planning.plan import Plan
from weighbridge.planning.plan_options import Options
from weighbridge.planning.program import Output, Program
from weighbridge.planning.readings import Reading
from weighbridge.planning.steps import Step
from weighbridge.planning.tracing import Rules, prepare, trace_keys
from weighbridge.planning.way_back.origins import find_rivals, invert_rules
from weighbridge.planning.way_back.preimages import MOST_NAMES, Part, Preimages, find_preimages, part_of

SHOWN_KEYS: Final = 4
"""How many keys of those alike an error names."""


def prove_inverse(plan: Plan, forward: Mapping, options: Options, *, is_settled: bool) -> None:
    """Accept what a derived inverse gives only if the forward mapping turns exactly that into exactly the source.

    Args:
        plan: A plan made with the inverse of `forward`, without a dtype asked for.
        forward: The mapping.
        options: What was declared; ``layout="mapped"`` says that the source is in the mapping's own layout.
        is_settled: Whether the layout to reach has decided about every name.

    Raises:
        PlanError: `inverse-unproven`, with every key that does not come back or cannot be told.
    """
    produced = Header({key: plan.target[key] for step in plan.steps for key in step.targets})
    reading, plain = Reading("mapped", forward), replace(options, partial=False)
    # Whoever reads it has the model before them, whose shapes say where an operation without sizes cuts.
    back = draft_reading(reading, produced, plan.source, plain)
    lost = _lost(plan, back.plan)
    # Where a key goes that is none of the model's, only a draft without it says.
    names = draft_reading(reading, produced, None, plain, wanted=plan.source).plan if lost else back.plan
    problems = [*back.faults, *_not_back(plan, lost, names)]
    if options.layout == "auto" and not is_settled and not problems:
        problems += _untold(plan, forward)
    if problems:
        raise PlanError(
            "inverse-unproven",
            "the inverse of the mapping gives names that cannot be relied on",
            hint="go back through the inverse of the plan that made the source: plan.inverse(), or weighbridge revert",
            problems=problems,
        )


class Choices(NamedTuple):
    """What a derived inverse took of several, a line each: all of it, and what is worth a note."""

    lines: tuple[str, ...]
    notes: tuple[str, ...]


NameChoice = tuple[set[str], str]
"""Keys that a derived inverse takes back by a general rule, and what is to be said of that."""


def open_choices(plan: Plan, forward: Mapping, options: Options) -> Choices:
    """Say where a derived inverse takes one of several sizes or names, each of which the mapping would bring back.

    Args:
        plan: A plan made with the inverse of `forward`, for which no layout to reach was known, or none that fitted.
        forward: The mapping.
        options: What was declared; ``layout="mapped"`` says that every rule that can be run backwards is to be.
    """
    general = tuple(name_choices(plan, forward))
    told = (*dict(_assumptions(plan)).values(), *(note for _, note in general))
    others = open_names(plan, forward, general) if options.layout == "auto" else Choices((), ())
    return Choices(told + others.lines, told + others.notes)


def open_names(plan: Plan, forward: Mapping, general: Iterable[NameChoice] | None = None) -> Choices:
    """Say which names of a derived inverse could be others, besides those that `name_choices` tells of.

    A note is worth what would be left open if every rule that moves a place of the tree had moved all that is there.

    Args:
        plan: A plan made with the inverse of `forward`.
        forward: The mapping.
        general: What `name_choices` tells of, where that is known already.
    """
    told = name_choices(plan, forward) if general is None else general
    taken = {key for keys, _ in told for key in keys}
    sized = dict(_assumptions(plan)).keys()
    steps = [step for step in plan.steps if step.rules and sized.isdisjoint(step.rules)]
    wanted = Wanted(plan.source)
    taken_back = list(_taken_back(prepare(forward, wanted), steps, taken))
    found: dict[tuple[str, Part], Preimages] = {}
    for part in dict.fromkeys(one.part for one in taken_back):
        keys = [one.key for one in taken_back if one.part == part]
        found |= {(key, part): names for key, names in find_preimages(forward, keys, wanted, part).items()}
    lines = _rival_lines(plan, [(one, found[one.key, one.part].names) for one in taken_back], found)
    notes = _rival_lines(plan, [(one, found[one.key, one.part].likely) for one in taken_back], found)
    return Choices(tuple(lines), tuple(notes))


class _TakenBack(NamedTuple):
    """A key of a way back, one of the names that it goes back to, which part of it that is, and how many are like it.

    `rules` has the numbers of the rules that take it there.
    """

    key: str
    part: Part
    went: str
    rules: tuple[int, ...]
    alike: int


def _taken_back(rules: Rules, steps: Iterable[Step], taken: set[str]) -> Iterator[_TakenBack]:
    """Yield one of the keys that behave alike, with each of the names that it goes back to, but for those alike.

    A rule may speak of one index alone, and of one of the tensors that are joined.
    """
    alike: dict[tuple[int, ...], dict[str, Step]] = {}
    for step in steps:
        alike.setdefault(step.rules, {}).update((key, step) for key in step.sources if key not in taken)
    for numbers, steps_of in alike.items():
        for key, count in rules.first_of_each(steps_of).items():
            names = rules.first_of_each(steps_of[key].targets)
            parts = {part_of(rules, name): name for name in reversed(names)}
            yield from (_TakenBack(key, part, parts[part], numbers, count) for part in sorted(parts))


def _rival_lines(
    plan: Plan,
    taken_back: Iterable[tuple[_TakenBack, frozenset[str]]],
    found: MappingOf[tuple[str, Part], Preimages],
) -> Iterator[str]:
    """Yield a line for each way in which rules are run back, where the mapping makes a name of others as well.

    Args:
        plan: The plan.
        taken_back: What goes back, each with all names that the mapping makes it of.
        found: What is known of these, and whether it is all.
    """
    rivals: dict[tuple[int, ...], list[tuple[_TakenBack, str]]] = {}
    for one, origins in taken_back:
        others = sorted(origins - {one.went}, key=lambda name: (name == one.key, name))
        if others or found[one.key, one.part].is_cut:
            rivals.setdefault(one.rules, []).append((one, others[0] if others else ""))
    for _, ones in sorted(rivals.items()):
        yield _rival_line(plan, ones)


def _rival_line(plan: Plan, rivals: list[tuple[_TakenBack, str]]) -> str:
    first, other = rivals[0]
    count = sum({one.key: one.alike for one, _ in rivals}.values())
    more = f", and {count - 1} more like it" if count > 1 else ""
    ran = ", ".join(str(_forward_number(plan.mapping, number)) for number in first.rules)
    could = f"the mapping would make it of {other}, too"
    if not other:
        could = f"more than {MOST_NAMES} ways lead to it, and not all of them were followed"
    elif other == first.key:
        could = "it may have had that name already"
    remedy = "give the layout to reach as target, if it is known"
    return f"{first.key} goes back to {first.went}, by rule {ran}{more}; {could}: {remedy}"


def _assumptions(plan: Plan) -> Iterator[tuple[int, str]]:
    """Say of each rule, by number, what is taken for granted because neither the mapping nor a target says it."""
    fired = {number for step in plan.steps for number in step.rules}
    for number, transform in enumerate(plan.mapping.transforms):
        if number in fired and isinstance(transform, WeightConverter) and any(map(_is_equal_cut, transform.operations)):
            names, rule = ", ".join(transform.target_patterns), _forward_number(plan.mapping, number)
            yield (
                number,
                f"rule {rule} takes {names} to be of equal size; declare Concatenate(sizes=...) if they are not",
            )


def _forward_number(mapping: Mapping, number: int) -> int:
    """Return the number, from 1, of a rule in the mapping that this one is the inverse of: the one that people read."""
    forward = mapping.forward
    numbers = invert_rules(forward).numbers if forward is not None else ()
    return (numbers[number] if len(numbers) == len(mapping.transforms) else number) + 1


def name_choices(plan: Plan, forward: Mapping) -> Iterator[NameChoice]:
    """Say where a derived inverse gives a name by a general rule, with the keys of which that is said.

    The rules run backwards in reverse order, so that a general rule behind a special one takes the name first.
    """
    alike = by_name(key for step in plan.steps if step.rules for key in step.sources)
    firsts = {keys[0]: keys for keys in alike.values()}
    found: dict[tuple[int, int], list[tuple[str, str, str]]] = {}
    for key, (chosen, rival) in find_rivals(forward, firsts).items():
        rules = min(set(chosen.rules) - set(rival.rules)), min(set(rival.rules) - set(chosen.rules))
        found.setdefault(rules, []).append((key, chosen.sources[0], rival.sources[0]))
    for (one, other), names in sorted(found.items()):
        key, went, could = names[0]
        count = sum(len(firsts[name]) for name, _, _ in names)
        more = f", and {count - 1} more like it" if count > 1 else ""
        told = f"{key} goes back to {went}, by rule {one + 1}{more}; rule {other + 1} would make it of {could}: "
        remedy = f"list rule {one + 1} before rule {other + 1}, or narrow it, if that is the published name"
        yield {key for name, _, _ in names for key in firsts[name]}, told + remedy


def proven_steps(
    mapping: Mapping,
    header: Header,
    config: Any = None,
    *,
    rules: Sequence[int],
    whole: Header | None = None,
    ahead: Mapping | None = None,
) -> tuple[Step, ...]:
    """Make the steps that take a model's tensors back by a mapping's rules, without a plan that recorded the way.

    Args:
        mapping: The mapping.
        header: Specs of the tensors, by the names that the mapping gives.
        config: The model's configuration.
        rules: Numbers of the rules to run back; those that have no inverse are passed over.
        whole: Specs of all tensors of the model, if these are a part of it.
        ahead: The mapping that is to undo the steps, if it is another one.

    Returns:
        The steps in which a rule has a part, and which the mapping undoes; for all other tensors there is none.
    """
    way = invert_rules(Mapping([mapping.transforms[number] for number in rules], name=mapping.name))
    options = Options(config=config)
    made = draft_reading(Reading("mapped", way.mapping), header, None, options).plan
    produced = Header({key: made.target[key] for step in made.steps for key in step.targets})
    forward = Reading("mapped", replace(ahead or mapping, forward=None))
    again = draft_reading(forward, produced, header, options, wanted=whole).plan
    pairs = ((step, again.step_of_source.get(step.targets[0])) for step in made.steps if step.rules)
    return tuple(
        replace(step, rules=tuple(sorted(rules[way.numbers[rule]] for rule in step.rules)))
        for step, number in pairs
        if number is not None and _undoes(again.steps[number], step)
    )


def takes_equal_parts(transform: Transform) -> bool:
    """Tell whether the inverse of a transform cuts a tensor into parts that it takes to be equal.

    Examples:
        >>> from weighbridge.operations.groupings import Concatenate
        >>> takes_equal_parts(WeightConverter(["q", "k"], "qk", [Concatenate(0)]))
        True
        >>> takes_equal_parts(WeightConverter(["q", "k"], "qk", [Concatenate(0, sizes=(4, 2))]))
        False
    """
    return isinstance(transform, WeightConverter) and any(map(_is_equal_cut, transform.inverse().operations))


def _is_equal_cut(operation: object) -> bool:
    return isinstance(operation, Chunk) and operation.num_shards_attribute is None and operation.chunks is None


def _lost(plan: Plan, back: Plan) -> dict[tuple[int, ...], list[Step]]:
    """Return the steps that the forward plan does not undo, by the rules that made them."""
    lost: dict[tuple[int, ...], list[Step]] = {}
    for step in steps_not_back(plan, back):
        lost.setdefault(step.rules, []).append(step)
    return lost


def _not_back(plan: Plan, lost: MappingOf[tuple[int, ...], list[Step]], back: Plan) -> Iterator[WeighbridgeError]:
    """Yield a problem for the steps that the forward plan does not undo, those of like keys together."""
    for rules, steps in lost.items():
        number = back.step_of_source.get(steps[0].targets[0])
        came = ", ".join(back.steps[number].targets[:SHOWN_KEYS]) if number is not None else "nothing"
        yield PlanError(
            "inverse-unproven",
            "these keys do not come back",
            where=", ".join(collapse(key for step in steps for key in step.targets)[:SHOWN_KEYS]),
            expected=", ".join(collapse(key for step in steps for key in step.sources)[:SHOWN_KEYS]),
            got=came,
            because="\n".join(plan.mapping.rule_name(rule) for rule in rules) or _rules_of(back, number),
        )


def _rules_of(plan: Plan, number: int | None) -> str:
    return "\n".join(plan.mapping.rule_name(rule) for rule in (plan.steps[number].rules if number is not None else ()))


def _untold(plan: Plan, forward: Mapping) -> Iterator[WeighbridgeError]:
    """Yield a problem for keys that the mapping's renames would change: they may be original names."""
    changed = {key for step in plan.steps if step.rules for key in step.sources}
    renames = Mapping(forward.renames, name=forward.name)
    for trace, members in trace_keys(prepare(renames, Wanted(plan.source)), changed, []):
        if not trace.fired:
            continue
        keys = [key for key, _ in members]
        yield PlanError(
            "inverse-unproven",
            "these keys could be in the original layout already",
            where=", ".join(collapse(keys)[:SHOWN_KEYS]),
            got=f"the mapping would turn {keys[0]} into another name",
            because="\n".join(renames.rule_name(rule) for rule in trace.fired),
            hint='declare layout="mapped" if they are not, or guard the rule so that it leaves its own names alone',
        )


def steps_not_back(plan: Plan, back: Plan) -> list[Step]:
    """Return the steps of a plan that another one does not undo.

    Args:
        plan: The plan.
        back: A plan that reads what the first one makes.
    """
    numbers = ((step, back.step_of_source.get(step.targets[0])) for step in plan.steps)
    return [step for step, number in numbers if number is None or not _undoes(back.steps[number], step)]


def _undoes(forward: Step, inverse: Step) -> bool:
    """Tell whether one step is the other one turned round, the order of their keys apart."""
    if set(forward.sources) != set(inverse.targets) or set(forward.targets) != set(inverse.sources):
        return False
    turned = inverse.program.inverse(lossy=True)
    if (forward.sources, forward.targets) == (inverse.targets, inverse.sources):
        return turned.is_same(forward.program)
    slots, order = places_of(forward.sources, inverse.targets), places_of(forward.targets, inverse.sources)
    return slots is not None and order is not None and _reorder(turned, slots, order).is_same(forward.program)


def places_of(keys: Sequence[str], among: Sequence[str]) -> list[int] | None:
    """Return where each key stands among others, a second one of a name at its second place; None for other keys.

    Examples:
        >>> places_of(["k", "q", "k"], ["q", "k", "k"]), places_of(["k", "k"], ["k", "q"])
        ([1, 0, 2], None)
    """
    places: dict[str, list[int]] = {}
    for place, key in reversed(list(enumerate(among))):
        places.setdefault(key, []).append(place)
    if Counter(keys) != Counter(among):
        return None
    return [places[key].pop() for key in keys]


def _reorder(program: Program, slots: list[int], order: list[int]) -> Program:
    """Give a program's sources and targets another order."""
    place = {slot: number for number, slot in enumerate(slots)}

    def moved(output: Output) -> Output:
        copies = [copy._replace(source=place.get(copy.source, copy.source)) for copy in output.layout.copies]
        return output._replace(layout=replace(output.layout, copies=tuple(copies)))

    return replace(
        program,
        sources=tuple(program.sources[slot] for slot in slots),
        temporaries=tuple(map(moved, program.temporaries)),
        targets=tuple(moved(program.targets[number]) for number in order),
        cuts=tuple(cut._replace(output=moved(cut.output)) for cut in program.cuts),
    )
