"""Join the keys that a converter matched into groups, by the index in the key, and lower each group to a program.

The order in which keys arrive means nothing: an index that is missing, there twice, or beyond the target's size is an
error that names it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping as MappingOf, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from weighbridge.algebra.layout import Layout
from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.base.keys import index_of, nearest
from weighbridge.base.specs import Header, Shape, TensorSpec
from weighbridge.base.spelling import Range, gaps, spell_ranges
from weighbridge.mappings.transforms import WeightConverter
from weighbridge.operations.lowering import lower
from weighbridge.operations.values import Context, Lane, Value
from weighbridge.planning.problems import MOST_SEARCHES, target_collision
from weighbridge.planning.program import Output, Program
from weighbridge.planning.steps import Step, fate_of
from weighbridge.planning.tracing import FREE, Hit, Rule, Rules, Traced, finish_names, spell

_DIGITS: Final = re.compile(r"\d+")


@dataclass(slots=True)
class Group:
    """The sources of one use of a converter: for each lane, the key at each index.

    Args:
        rule: Number of the converter.
        outputs: Names that the converter writes; the index that it makes is still free in them.
        lanes: For each source pattern, index to key; a lane without an index has its one key at 0.
        fired: Numbers of the rules that fired on the sources.
    """

    rule: int
    outputs: tuple[str, ...]
    lanes: list[dict[int, str]]
    fired: set[int] = field(default_factory=set)
    fault: bool = False


def collect_groups(
    rules: Rules, traced: Iterable[Traced], problems: list[WeighbridgeError]
) -> dict[tuple[int, tuple[str, ...]], Group]:
    """Sort the keys of all families that hit a converter into groups.

    Raises nothing; a key that claims a taken place is added to `problems` as `group-duplicate`.
    """
    groups: dict[tuple[int, tuple[str, ...]], Group] = {}
    for trace, members in traced:
        assert trace.hit is not None
        _collect_family(rules, trace.hit, trace.fired, members, groups, problems)
    return groups


def _collect_family(
    rules: Rules,
    hit: Hit,
    fired: tuple[int, ...],
    members: list[tuple[str, tuple[int, ...]]],
    groups: dict[tuple[int, tuple[str, ...]], Group],
    problems: list[WeighbridgeError],
) -> None:
    """Put one family's keys into their groups; keys that differ only in the merged index share a lookup."""
    slot = _slot(hit.place)
    number = int(hit.place or 0) if slot is None else 0
    known: dict[tuple[int, ...], Group] = {}
    lane_count = len(rules.rules[hit.rule].pairs)
    for key, indices in members:
        outer = indices if slot is None else (*indices[:slot], *indices[slot + 1 :])
        group = known.get(outer)
        if group is None:
            outputs = tuple(spell(output, indices) for output in hit.outputs)
            group = groups.setdefault((hit.rule, outputs), Group(hit.rule, outputs, [{} for _ in range(lane_count)]))
            group.fired.update(fired)
            known[outer] = group
        place = number if slot is None else indices[slot]
        lane = group.lanes[hit.lane]
        if place in lane:
            group.fault = True
            problems.append(_duplicate(rules, group, lane[place], key))
        lane[place] = key


def _slot(index: str) -> int | None:
    """Return the slot that a template's index stands for; None for an index that is a number, or for none."""
    return index_of(index) if index else None


def _duplicate(rules: Rules, group: Group, first: str, second: str) -> PlanError:
    return PlanError(
        "group-duplicate",
        "two sources claim one place in a group",
        where=_name_of(rules, group),
        got="\n".join(sorted((first, second))),
        because=rules.mapping.rule_name(group.rule),
        hint="make the pattern narrower, or declare which source to drop",
    )


class _Fault(NamedTuple):
    """A pattern of a converter that too few keys match: how many should, and the indices that are missing."""

    pattern: str
    wanted: int
    missing: list[Range]


class Lowered(NamedTuple):
    """A program, and how many of its targets, in order, belong to each of the converter's target patterns."""

    program: Program
    counts: tuple[int, ...]


@dataclass(slots=True)
class Joiner:
    """Turn groups into steps; groups that look alike share one program.

    Args:
        rules: The mapping's rules.
        source: Specs of the sources.
        target: Specs of the wanted targets, where they are known.
        config: The model's configuration, for operations that read it.
        problems: What goes wrong is added to it.
        partial: Whether a group that lacks members is left out, instead of an error.
        left: Sources of the groups that were left out.
        blamed: Names of the targets that are missing because of a problem that is reported already.
    """

    rules: Rules
    source: Header
    target: Header | None
    config: Any
    problems: list[WeighbridgeError]
    partial: bool = False
    left: list[str] = field(default_factory=list)
    blamed: set[str] = field(default_factory=set)
    _groups: Sequence[Group] = ()
    _elsewhere: dict[Any, str] = field(default_factory=dict)
    _lowered: dict[Any, Lowered] = field(default_factory=dict)
    _by_layer: dict[str, list[str]] = field(default_factory=dict)
    _nearest: dict[str, list[str]] = field(default_factory=dict)

    def lower_groups(self, groups: Iterable[Group]) -> list[Step]:
        """Lower all groups; what cannot be lowered is added to `problems`."""
        self._groups = tuple(groups)
        by_rule: dict[int, list[Group]] = {}
        for group in self._groups:
            if group.fault:
                self._blame_targets(group)
            elif self._is_complete(group):
                by_rule.setdefault(group.rule, []).append(group)
        return [step for number in sorted(by_rule) for step in self._lower_rule(number, by_rule[number])]

    def _lower_rule(self, number: int, groups: list[Group]) -> list[Step]:
        rule = self.rules.rules[number]
        fixed = [] if rule.splits else [output for group in groups for output in group.outputs]
        names = finish_names(self.rules, fixed, number, self.problems)
        steps = []
        for group in groups:
            try:
                step = self._split_step(rule, group) if rule.splits else self._fixed_step(rule, group, names)
            except WeighbridgeError as problem:
                self.problems.append(self._blame(problem, group))
                self._blame_targets(group)
            else:
                steps += [step] if step is not None else []
        return steps

    def _fixed_step(self, rule: Rule, group: Group, names: MappingOf[str, Any]) -> Step | None:
        if any(output not in names for output in group.outputs):
            return None
        finals = tuple(names[output][0] for output in group.outputs)
        fired = {number for output in group.outputs for number in names[output][1]}
        shapes = tuple((self._shape(final),) for final in finals)
        program = self._lowered_for(rule, group, shapes).program
        return self._step(group, finals, program, fired)

    def _split_step(self, rule: Rule, group: Group) -> Step | None:
        """Make a step whose targets are numbered by the operations: their count comes from the shapes."""
        wanted = self._wanted_names(rule, group)
        program, counts = self._lowered_for(rule, group, tuple(tuple(map(self._shape, lane)) for lane in wanted))
        lanes = zip(group.outputs, counts, strict=True)
        numbered = [output.replace(FREE, str(i)) for output, count in lanes for i in range(count)]
        names = finish_names(self.rules, numbered, rule.number, self.problems)
        if any(name not in names for name in numbered):
            return None
        fired = {number for name in numbered for number in names[name][1]}
        return self._step(group, tuple(names[name][0] for name in numbered), program, fired)

    def _wanted_names(self, rule: Rule, group: Group) -> list[list[str]]:
        """Names that a splitting converter should write, counted up while the target has them."""
        return [self._wanted_lane(rule, output) for output in group.outputs]

    def _wanted_lane(self, rule: Rule, output: str) -> list[str]:
        lane: dict[str, None] = {}
        while self.target is not None:
            name = output.replace(FREE, str(len(lane)))
            final = finish_names(self.rules, [name], rule.number, []).get(name, (name, ()))[0]
            # A later rule may drop the index: then the second name is the first one again, and there is no third.
            if final not in self.target or final in lane:
                break
            lane[final] = None
        return list(lane)

    def _step(self, group: Group, names: tuple[str, ...], program: Program, fired: set[int]) -> Step:
        """Make a step; where rounds read its sources again, or write its targets again, they stand in it as often."""
        rules = tuple(sorted(group.fired | fired))
        twice = next((name for name, count in Counter(names).items() if count > 1), None)
        if twice is not None:
            named = "\n".join(self.rules.mapping.rule_name(rule) for rule in rules)
            raise target_collision(twice, [(_sources(group), named)] * 2)
        sources = _sources(group) * (len(program.sources) // (len(_sources(group)) or 1))
        targets = names * (len(program.targets) // (len(names) or 1))
        return Step(sources, targets, program, fate_of(sources, targets, program), rules)

    def _shape(self, key: str) -> Shape | None:
        spec = self.target.specs.get(key) if self.target is not None else None
        return spec.shape if spec is not None else None

    def _lowered_for(self, rule: Rule, group: Group, shapes: tuple[tuple[Shape | None, ...], ...]) -> Lowered:
        specs = tuple(tuple(self.source.specs[lane[i]] for i in sorted(lane)) for lane in group.lanes)
        look = rule.number, specs, shapes
        found = self._lowered.get(look)
        if found is None:
            found = self._lowered[look] = self._lower(rule, specs, shapes)
        return found

    def _lower(
        self, rule: Rule, specs: tuple[tuple[TensorSpec, ...], ...], shapes: tuple[tuple[Shape | None, ...], ...]
    ) -> Lowered:
        converter = self._converter(rule)
        lanes = _lanes(converter, specs, rule.merges)
        known = shapes if any(shape is not None for lane in shapes for shape in lane) else None
        indexed = (rule.splits,) * len(rule.targets)
        context = Context(converter.target_patterns, known, indexed, config=self.config)
        lowered = lower(converter.operations, lanes, context)
        made = [lane for lanes in (lowered.lanes, *lowered.again) for lane in lanes]
        program = Program(
            tuple(spec for lane in specs for spec in lane) * lowered.repeats,
            tuple(Output(temporary.dtype, temporary.layout) for temporary in lowered.temporaries),
            tuple(Output(value.dtype, value.layout) for lane in made for value in lane.values),
        )
        return Lowered(program, tuple(len(lane.values) for lane in lowered.lanes))

    def _is_complete(self, group: Group) -> bool:
        """Check that every lane has the same, unbroken indices; report what is missing."""
        rule = self.rules.rules[group.rule]
        counts = self._expected_counts(rule, group)
        faults = [
            _Fault(rule.pairs[lane][0].text, counts[lane], missing)
            for lane, present in enumerate(group.lanes)
            if (missing := gaps(present, counts[lane]))
        ]
        if faults and self.partial:
            self.left.extend(_sources(group))
        elif faults:
            self.problems.append(self._incomplete(rule, group, faults, counts))
            self._blame_targets(group)
        return not faults

    def _expected_counts(self, rule: Rule, group: Group) -> list[int]:
        """Return how many sources each lane should have: as many as the longest, unless a target knows better."""
        if not rule.merges:
            return [1 for _ in group.lanes]
        counts = [max(lane, default=0) + 1 for lane in group.lanes]
        if self.target is not None and self._converter(rule).arity.keeps_lanes:
            return counts  # each lane has a target of its own, whose shape says how long it is
        return [max(counts) for _ in counts]

    def _converter(self, rule: Rule) -> WeightConverter:
        converter = self.rules.mapping.transforms[rule.number]
        assert isinstance(converter, WeightConverter)
        return converter

    def _incomplete(self, rule: Rule, group: Group, faults: Sequence[_Fault], counts: Sequence[int]) -> PlanError:
        got = []
        for text, wanted, missing in faults:
            index = f"  missing: {spell_ranges(missing).strip('{}')}" if rule.merges else "  missing"
            lacking = sum(stop - start for start, stop in missing)
            got.append(f"{wanted - lacking} of {wanted}  {text}{index}")
            near = self._near(self._wanted_key(group, text)) if lacking == wanted else []
            got += [f"    nearest keys: {', '.join(near)}"] if near else []
        return PlanError(
            "group-incomplete",
            "a group of tensors lacks members",
            where=_name_of(self.rules, group),
            expected=_expected(counts, [source.text for source, _ in rule.pairs]),
            got="\n".join(got),
            because=self.rules.mapping.rule_name(group.rule),
            hint=self._how_to_complete(group, faults),
        )

    def _how_to_complete(self, group: Group, faults: Sequence[_Fault]) -> str:
        """Say what to do for a group that lacks members; what nothing of its kind has may be absent by design."""
        partial = "; or declare the load partial" if self.target is not None else ""
        texts = {fault.pattern for fault in faults}
        pairs = self.rules.rules[group.rule].pairs
        lanes = tuple(lane for lane, (source, _) in enumerate(pairs) if source.text in texts)
        look = group.rule, _kind_of(group), lanes
        if look not in self._elsewhere:
            self._elsewhere[look] = self._find_elsewhere(*look)
        if not self._elsewhere[look]:
            return f"check the pattern, and that all shards of the checkpoint are present{partial}"
        return (
            f"its pattern fits others, such as {self._elsewhere[look]}, and none of this kind: if there are none,\n"
            f"narrow the rule to the tensors that have all parts; else check that all shards are present{partial}"
        )

    def _find_elsewhere(self, rule: int, kind: tuple[str, ...], lanes: tuple[int, ...]) -> str:
        """Return a key that some patterns of a rule match, if they match others and none of the groups of one kind."""
        having = [group for group in self._groups if group.rule == rule and any(group.lanes[lane] for lane in lanes)]
        if any(_kind_of(group) == kind for group in having):
            return ""
        return min((key for group in having for lane in lanes for key in group.lanes[lane].values()), default="")

    def _near(self, wanted: str) -> list[str]:
        """Find the nearest keys for the first of the wanted ones, among those of its layer where it has one."""
        if not self._by_layer:
            for key in self.source:
                self._by_layer.setdefault(_first_index(key), []).append(key)
        if wanted not in self._nearest and len(self._nearest) < MOST_SEARCHES:
            self._nearest[wanted] = nearest(wanted, self._of_layer(wanted))
        return self._nearest.get(wanted, [])

    def _of_layer(self, wanted: str) -> Collection[str]:
        layer = _first_index(wanted)
        return (self._by_layer.get(layer) if layer else None) or self.source

    def _wanted_key(self, group: Group, text: str) -> str:
        """Guess the key that a pattern should have matched, from one that another pattern of the group did."""
        rule = self.rules.rules[group.rule]
        for lane, present in enumerate(group.lanes):
            other = rule.pairs[lane][0].text
            for key in present.values():
                if other in key:
                    return key.replace(other, text)
        return text

    def _blame_targets(self, group: Group) -> None:
        """Note which targets a faulty group would have filled, as far as its names say."""
        rule = self.rules.rules[group.rule]
        if rule.splits:
            self.blamed.update(name for lane in self._wanted_names(rule, group) for name in lane)
        else:
            self.blamed.update(name for name, _ in finish_names(self.rules, group.outputs, group.rule, []).values())

    def _blame(self, problem: WeighbridgeError, group: Group) -> WeighbridgeError:
        name = self.rules.mapping.rule_name(group.rule)
        because = f"{problem.because}\n{name}" if problem.because else name
        form = {**problem.to_dict(), "because": because}
        form.setdefault("where", _name_of(self.rules, group))
        return type(problem)(**form)


def _name_of(rules: Rules, group: Group) -> str:
    """Name a group by its first target, under its last name; an index that the operations make is written `*`."""
    first = group.outputs[0]
    done = {} if FREE in first else finish_names(rules, [first], group.rule, [])
    return done[first][0] if first in done else first.replace(FREE, "*")


def _expected(counts: Sequence[int], patterns: Sequence[str]) -> str:
    words = [f"{count} source{'s' * (count != 1)} for" for count in counts]
    if len(set(counts)) == 1:
        return f"{words[0]} each of {', '.join(patterns)}"
    return ", ".join(f"{word} {pattern}" for word, pattern in zip(words, patterns, strict=True))


def _kind_of(group: Group) -> tuple[str, ...]:
    """Return the names that a group makes, their numbers apart: those of all layers are of one kind."""
    return tuple(_DIGITS.sub("#", output) for output in group.outputs)


def _first_index(key: str) -> str:
    return next((part for part in key.split(".") if part.isdigit()), "")


def _sources(group: Group) -> tuple[str, ...]:
    return tuple(lane[i] for lane in group.lanes for i in sorted(lane))


def _lanes(converter: WeightConverter, specs: tuple[tuple[TensorSpec, ...], ...], indexed: bool) -> tuple[Lane, ...]:
    slot = 0
    lanes = []
    for text, lane in zip(converter.source_patterns, specs, strict=True):
        values = tuple(Value(Layout.of(slot + number, spec.shape), spec.dtype) for number, spec in enumerate(lane))
        slot += len(lane)
        lanes.append(Lane(text, values, indexed))
    return tuple(lanes)
