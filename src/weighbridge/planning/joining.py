"""Lower each group of keys that a converter matched to a program, if it is complete."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping as MappingOf
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

from weighbridge.algebra.layout import Layout
from weighbridge.base.errors import LayoutError, WeighbridgeError
from weighbridge.base.specs import Header, Shape, TensorSpec
from weighbridge.mappings.transforms import WeightConverter
from weighbridge.operations.configuration import ConfigAt, read_sizes
from weighbridge.operations.lowering import lower
from weighbridge.operations.values import Context, Lane, Place, Value
from weighbridge.planning.members.group_keys import Group, extents_of, find_gaps, name_of
from weighbridge.planning.members.lacking import Fault, Lacking
from weighbridge.planning.problems import target_collision
from weighbridge.planning.program import Cut, Output, Program
from weighbridge.planning.steps import Step, fate_of
from weighbridge.planning.tracing import FREE, Rule, Rules, finish_names, number_name


class Lowered(NamedTuple):
    """A program, and for each of the converter's target patterns the indices of those of its targets that belong to it.

    The targets stand in this order.
    """

    program: Program
    places: tuple[tuple[Place, ...], ...]


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
    _lowered: dict[Any, Lowered] = field(default_factory=dict)

    def lower_groups(self, groups: Iterable[Group]) -> list[Step]:
        """Lower all groups; what cannot be lowered is added to `problems`."""
        known = tuple(groups)
        lacking = Lacking(self.rules, self.source, known, self.target is not None)
        by_rule: dict[int, list[Group]] = {}
        for group in known:
            if group.fault:
                self._blame_targets(group)
            elif self._is_complete(group, lacking):
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
        shapes = tuple(tuple(map(self._shape, lane.values())) for lane in wanted)
        program, places = self._lowered_for(rule, group, shapes, tuple(map(tuple, wanted)))
        lanes = zip(group.outputs, places, strict=True)
        numbered = [number_name(output, place) for output, lane in lanes for place in lane]
        names = finish_names(self.rules, numbered, rule.number, self.problems)
        if any(name not in names for name in numbered):
            return None
        fired = {number for name in numbered for number in names[name][1]}
        return self._step(group, tuple(names[name][0] for name in numbered), program, fired)

    def _wanted_names(self, rule: Rule, group: Group) -> list[dict[Place, str]]:
        """Names that a splitting converter should write, by their indices, counted up while the target has them."""
        return [self._wanted_lane(rule, output, output.count(FREE)) for output in group.outputs]

    def _wanted_lane(self, rule: Rule, output: str, levels: int) -> dict[Place, str]:
        lane: dict[Place, str] = {}
        seen: set[str] = set()
        for index in count() if self.target is not None else ():
            name = output.replace(FREE, str(index), 1)
            if levels > 1:
                inner = self._wanted_lane(rule, name, levels - 1)
            else:
                final = finish_names(self.rules, [name], rule.number, []).get(name, (name, ()))[0]
                inner = {(): final} if self.target is not None and final in self.target else {}
            # A later rule may drop an index: then the second name is the first one again, and there is no third.
            if not inner or not seen.isdisjoint(inner.values()):
                break
            seen.update(inner.values())
            lane |= {(index, *place): final for place, final in inner.items()}
        return lane

    def _step(self, group: Group, names: tuple[str, ...], program: Program, fired: set[int]) -> Step:
        """Make a step; where rounds read its sources again, or write its targets again, they stand in it as often."""
        rules = tuple(sorted(group.fired | fired))
        twice = next((name for name, count in Counter(names).items() if count > 1), None)
        if twice is not None:
            named = "\n".join(self.rules.mapping.rule_name(rule) for rule in rules)
            raise target_collision(twice, [(group.sources, named)] * 2)
        sources = group.sources * (len(program.sources) // (len(group.sources) or 1))
        targets = names * (len(program.targets) // (len(names) or 1))
        return Step(sources, targets, program, fate_of(sources, targets, program), rules)

    def _shape(self, key: str) -> Shape | None:
        spec = self.target.specs.get(key) if self.target is not None else None
        return spec.shape if spec is not None else None

    def _lowered_for(
        self,
        rule: Rule,
        group: Group,
        shapes: tuple[tuple[Shape | None, ...], ...],
        wanted: tuple[tuple[Place, ...], ...] = (),
    ) -> Lowered:
        """Lower a group, or return what has come of one that looks the same; `wanted` has the indices of the shapes."""
        specs = tuple(tuple(self.source.specs[lane[place]] for place in sorted(lane)) for lane in group.lanes)
        places = tuple(tuple(sorted(lane)) for lane in group.lanes) if rule.merges > 1 else ()
        look = rule.number, specs, places, shapes, wanted if rule.splits > 1 else (), group.read_by
        found = self._lowered.get(look)
        if found is None:
            found = self._lowered[look] = self._lower(rule, *look[1:])
        return found

    def _lower(
        self,
        rule: Rule,
        specs: tuple[tuple[TensorSpec, ...], ...],
        places: tuple[tuple[Place, ...], ...],
        shapes: tuple[tuple[Shape | None, ...], ...],
        wanted: tuple[tuple[Place, ...], ...],
        read_by: tuple[int, ...],
    ) -> Lowered:
        converter = self._converter(rule)
        lanes = _lanes(converter, specs, places, rule.merges > 0)
        known = shapes if any(shape is not None for lane in shapes for shape in lane) else None
        indexed = (rule.splits > 0,) * len(rule.targets)
        levels = max(1, rule.splits)
        config = ConfigAt(self.config, dict(zip(rule.read_by, read_by, strict=True))) if read_by else self.config
        context = Context(
            converter.target_patterns, known, indexed, config=config, levels=levels, places=wanted if known else ()
        )
        lowered = lower(converter.operations, lanes, context)
        made = [lane for lanes in (lowered.lanes, *lowered.again) for lane in lanes]
        program = Program(
            tuple(spec for lane in specs for spec in lane) * lowered.repeats,
            tuple(Output(temporary.dtype, temporary.layout) for temporary in lowered.temporaries),
            tuple(Output(value.dtype, value.layout) for lane in made for value in lane.values),
            constants=lowered.constants,
            cuts=tuple(Cut(Output(value.dtype, value.layout), element) for value, element in lowered.cuts),
        )
        return Lowered(program, tuple(tuple(place for place, _ in lane.numbered) for lane in lowered.lanes))

    def _is_complete(self, group: Group, lacking: Lacking) -> bool:
        """Check that every lane has the same, unbroken indices; report what is missing."""
        rule = self.rules.rules[group.rule]
        # A lane with a target of its own is as long as that target's shape says.
        is_apart = rule.merges > 0 and self.target is not None and self._converter(rule).arity.keeps_lanes
        try:
            heights = tuple(read_sizes(self.config, rule.heights or ()))
        except LayoutError as problem:
            self.problems.append(self._blame(problem, group))
            self._blame_targets(group)
            return False
        extents = extents_of(group.lanes, rule.merges, heights, is_apart)
        faults = [
            Fault(lane, missing)
            for lane, (present, extent) in enumerate(zip(group.lanes, extents, strict=True))
            if (missing := find_gaps(present, extent))
        ]
        if faults and self.partial:
            self.left.extend(group.sources)
        elif faults:
            self.problems.append(lacking.describe(group, faults, extents))
            self._blame_targets(group)
        return not faults

    def _converter(self, rule: Rule) -> WeightConverter:
        converter = self.rules.mapping.transforms[rule.number]
        assert isinstance(converter, WeightConverter)
        return converter

    def _blame_targets(self, group: Group) -> None:
        """Note which targets a faulty group would have filled, as far as its names say."""
        rule = self.rules.rules[group.rule]
        if rule.splits:
            self.blamed.update(name for lane in self._wanted_names(rule, group) for name in lane.values())
        else:
            self.blamed.update(name for name, _ in finish_names(self.rules, group.outputs, group.rule, []).values())

    def _blame(self, problem: WeighbridgeError, group: Group) -> WeighbridgeError:
        name = self.rules.mapping.rule_name(group.rule)
        because = f"{problem.because}\n{name}" if problem.because else name
        form = {**problem.to_dict(), "because": because}
        form.setdefault("where", name_of(self.rules, group))
        return type(problem)(**form)


def _lanes(
    converter: WeightConverter,
    specs: tuple[tuple[TensorSpec, ...], ...],
    places: tuple[tuple[Place, ...], ...],
    indexed: bool,
) -> tuple[Lane, ...]:
    slot = 0
    lanes = []
    for number, (text, lane) in enumerate(zip(converter.source_patterns, specs, strict=True)):
        values = tuple(Value(Layout.of(slot + at, spec.shape), spec.dtype) for at, spec in enumerate(lane))
        slot += len(lane)
        lanes.append(Lane(text, values, indexed, places[number] if places else ()))
    return tuple(lanes)
