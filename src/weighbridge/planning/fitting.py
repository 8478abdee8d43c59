"""Fit one reading of a checkpoint to a target: steps, fates, and everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.base.keys import collapse_by_name
from weighbridge.base.specs import Header, TensorSpec
from weighbridge.mappings.exception_rules import KeyRule
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.transforms import WeightConverter
from weighbridge.planning.casts.asked_casts import cast_steps, name_some
from weighbridge.planning.companions import companion_faults, quantised_keys
from weighbridge.planning.drafts import Draft
from weighbridge.planning.joining import Joiner
from weighbridge.planning.members.group_keys import collect_groups
from weighbridge.planning.names.wanting import Wanted
from weighbridge.planning.plan import Plan
from weighbridge.planning.plan_options import Options
from weighbridge.planning.problems import no_such_target, target_collision
from weighbridge.planning.program import Program
from weighbridge.planning.readings import Names, Reading
from weighbridge.planning.steps import Fated, Step
from weighbridge.planning.tracing import Traced, prepare, spell, trace_keys

SHOWN_SOURCES: Final = 4
"""How many sources an error names with their shapes; of more, how many kinds."""


def draft_reading(
    reading: Reading,
    source: Header,
    target: Header | None,
    options: Options,
    settled: Sequence[Step] | None = None,
    wanted: Header | None = None,
) -> Draft:
    """Compile one reading; collects problems instead of raising them.

    Args:
        reading: What to compile.
        source: Specs of the checkpoint's tensors.
        target: Specs of the wanted tensors, if they are known.
        options: What was declared.
        settled: The steps of all tensors that no exception names, where they are known already; else the rules are run.
        wanted: What rules that are `if_wanted` give way to, where that is not the target.
    """
    known = wanted if wanted is not None else target
    return _Fitting(reading, source, target, options, known).draft(settled)


class _Fitting:
    """The work on one reading; lives only while it is compiled."""

    def __init__(
        self,
        reading: Reading,
        source: Header,
        target: Header | None,
        options: Options,
        known: Header | None,
    ) -> None:
        self.reading = reading
        self.wanted = Wanted(known, source) if known is not None else None
        self.spared: dict[int, list[str]] = {}
        self.mapping: Mapping = reading.mapping
        self.source = source
        self.target = target
        self.options = options
        self.problems: list[WeighbridgeError] = []
        self.steps: list[Step] = []
        self.strays: list[Step] = []
        self.blamed: set[str] = set()
        self.first_of: dict[str, str] = {}
        self.twins: tuple[tuple[str, str], ...] = ()

    def draft(self, settled: Sequence[Step] | None = None) -> Draft:
        live, dropped, carried = self._split_declared()
        if self._is_hopeless(live):
            return self._reject(live, carried)
        if settled is None:
            self._trace(live)
        else:
            self.steps += settled
        self.steps += [_carry(key, self.source.specs[key], self._fate_of_carried(key)) for key in carried]
        declared = {key for key in carried if self._fate_of_carried(key) == "carried"}
        unplaced = self._refuse(self._place(declared))
        self._find_collisions()
        self._cast(declared)
        self._check_specs()
        self._tie_steps()
        tied, initialised, missing = self._account_targets()
        self._refuse_empty()
        self.problems += companion_faults(self.mapping, self.source, self.steps, dropped)
        self.steps.sort(key=lambda step: step.targets)
        plan = Plan(
            self.mapping,
            tuple(self.steps),
            dropped=dropped,
            initialised=initialised,
            tied_targets=tied,
            twins=self.twins,
            reading=self.reading.name,
            metadata=dict(self.source.metadata),
            notes=tuple(self._spared_notes()),
        )
        reach = len({key for key in self._written() | self.blamed if self.target is None or key in self.target.specs})
        faults, strays = tuple(self.problems), tuple(self.strays)
        return Draft(self.reading, plan, faults, missing, unplaced, self.options.partial, reach, strays=strays)

    def _written(self) -> set[str]:
        return {key for step in self.steps for key in step.targets}

    def _is_hopeless(self, live: list[str]) -> bool:
        """Tell by the names alone that a reading without rules cannot fit, before any step is made."""
        if self.target is None or self.mapping.transforms or self.options.partial:
            return False
        return any(key not in self.target.specs for key in live)

    def _reject(self, live: list[str], carried: list[str]) -> Draft:
        """Say what is missing and left over by the names alone; what is declared, or has a twin, is neither."""
        assert self.target is not None
        held = {key for key in (*live, *carried) if key in self.target.specs}
        filled = {self._group(key) for key in held}
        lacking = [key for key in self.target if key not in held and self._group(key) not in filled]
        named = self._named_initialised(lacking)
        missing = tuple(sorted(key for key in lacking if key not in named))
        unplaced = self._refuse(tuple(sorted(key for key in live if key not in held)))
        plan = Plan(self.mapping, (), reading=self.reading.name)
        return Draft(self.reading, plan, tuple(self.problems), missing, unplaced, partial=False)

    # ---- sources ----

    def _split_declared(self) -> tuple[list[str], tuple[Fated, ...], list[str]]:
        """Take out the keys that a drop or carry rule names."""
        dropped = self._claim(self.mapping.drop)
        carried = self._claim(self.mapping.carry)
        for key in dropped.keys() & carried.keys():
            self.problems.append(PlanError("rule-overlap", "a drop rule and a carry rule claim this key", where=key))
        taken = dropped.keys() | carried.keys()
        live = [key for key in self.source if key not in taken]
        fated = tuple(Fated(key, self.source.specs[key], why) for key, why in sorted(dropped.items()))
        return live, fated, sorted(carried)

    def _fate_of_carried(self, key: str) -> str:
        """A tensor that keeps its name fills the target of that name, if there is one: that is no exception then."""
        return "carried" if self.target is None or key not in self.target.specs else "moved"

    def _claim(self, rules: Sequence[KeyRule]) -> dict[str, str]:
        claimed: dict[str, str] = {}
        for rule, found in self.reading.named_by(rules, self.source.specs):
            claimed |= dict.fromkeys(found, rule.why or f'"{rule.pattern}"')
        return claimed

    def _trace(self, live: list[str]) -> None:
        rules = prepare(self.mapping, self.wanted)
        hits: list[Traced] = []
        for traced in trace_keys(rules, live, self.problems):
            for number in traced.trace.spared:
                self.spared.setdefault(number, []).extend(key for key, _ in traced.members)
            if traced.trace.hit is not None:
                hits.append(traced)
            else:
                self.steps += _renamed(traced, self.source)
        partial = self.options.partial and self.target is not None
        joiner = Joiner(rules, self.source, self.target, self.options.config, self.problems, partial)
        self.steps += joiner.lower_groups(collect_groups(rules, hits, self.problems).values())
        self.steps += [_carry(key, self.source.specs[key]) for key in joiner.left]
        self.blamed = joiner.blamed

    def _spared_notes(self) -> Iterator[str]:
        for number, keys in sorted(self.spared.items()):
            yield f"rule {number + 1} left alone on {name_some(keys)}: its result is not in the target"

    # ---- targets ----

    def _place(self, declared: set[str]) -> tuple[str, ...]:
        """Carry the steps that no rule touched; with a target, only declared ones, and list the rest as left over."""
        if self.target is None:
            self.steps = [step if step.rules else _carry_step(step) for step in self.steps]
            return ()
        kept: list[Step] = []
        unplaced: list[str] = []
        for step in self.steps:
            if step.sources[0] in declared or any(key in self.target.specs for key in step.targets):
                kept.append(step)
                continue
            unplaced += step.reads
            self.strays.append(step)
            if self.options.partial:
                kept += self._carry_unplaced(step)
        self.steps = kept
        return tuple(sorted(unplaced))

    def _refuse(self, unplaced: tuple[str, ...]) -> tuple[str, ...]:
        """Report the sources that the mapping refuses to leave over, in a partial load too; return the others."""
        refused: set[str] = set()
        for rule, named in self.reading.named_by(self.mapping.refuse, unplaced):
            found = [key for key in named if key not in refused]
            refused.update(found)
            self.problems += [
                PlanError(
                    "source-unplaced",
                    "the model has no place for this tensor, and computes something else without it",
                    where=line,
                    because=rule.why or f'"{rule.pattern}"',
                )
                for line in collapse_by_name(found)
            ]
        return tuple(key for key in unplaced if key not in refused) if refused else unplaced

    def _carry_unplaced(self, step: Step) -> list[Step]:
        """Carry the sources of a step without a place, unless the mapping and the target use their names for others."""
        assert self.target is not None
        for key in step.reads:
            if key in self.target.specs:
                self.problems.append(self._no_such_target(step.targets[0] if step.targets else key, step))
        return [_carry(key, self.source.specs[key]) for key in step.reads if key not in self.target.specs]

    def _find_collisions(self) -> None:
        owner: dict[str, Step] = {}
        for step in self.steps:
            for key in step.writes:
                if key in owner:
                    both = ((each.sources, _rules(self.mapping, each)) for each in (owner[key], step))
                    self.problems.append(target_collision(key, both))
                owner[key] = step

    def _cast(self, declared: set[str]) -> None:
        """Cast targets as was asked for, after every cast of the mapping; and note whether casts may overflow."""
        policy, steps = self.options.dtype, self.steps
        if policy is not None:
            apart = declared | quantised_keys(self.source)
            steps = list(cast_steps(steps, policy, self.target, apart))
        if self.options.allow_overflow:
            steps = [replace(step, program=step.program.overflowing()) for step in steps]
        self.steps = steps

    def _check_specs(self) -> None:
        """Compare what steps write with what the target wants."""
        if self.target is None:
            return
        for step in self.steps:
            for key, number in step.writes.items():
                output = step.program.targets[number]
                wanted = self.target.specs.get(key)
                if wanted is None and step.fate != "carried":
                    self.problems.append(self._no_such_target(key, step))
                elif wanted is not None and wanted.shape != output.layout.shape and key not in self.target.loose:
                    self.problems.append(self._misfit(key, step, output.layout.shape, wanted))

    def _no_such_target(self, key: str, step: Step) -> PlanError:
        return no_such_target(key, step.reads[:SHOWN_SOURCES], _rules(self.mapping, step))

    def _misfit(self, key: str, step: Step, shape: tuple[int, ...], wanted: TensorSpec) -> PlanError:
        """Say that shapes differ; where only the number of joined tensors does, name those in excess or lacking."""
        code, what = "spec-mismatch", "a tensor's shape is not the target's"
        named = f"{list(shape)} from " + self._sources_with_shapes(step)
        axis = self._axis_of_members(step, shape, wanted.shape)
        if axis is not None:
            low, high = sorted((shape[axis], wanted.shape[axis]))
            code, what, word = "group-extra", "a group has more members than the target has room for", "too many"
            if low == shape[axis]:
                code, what, word = "group-incomplete", "a group of tensors lacks members", "missing"
            named += f"\n{word}: {low}" if high - low == 1 else f"\n{word}: {low}..{high - 1}"
        because = _rules(self.mapping, step)
        hint = "compare the checkpoint's config.json with the model's: one of the two is of another size"
        expected = str(list(wanted.shape))
        return PlanError(code, what, where=key, expected=expected, got=named, because=because, hint=hint)

    def _axis_of_members(self, step: Step, shape: tuple[int, ...], wanted: tuple[int, ...]) -> int | None:
        """Return the axis that has joined tensors one behind the other, if all that differs is how many they are."""
        differing = [axis for axis, pair in enumerate(zip(shape, wanted, strict=False)) if pair[0] != pair[1]]
        if len(shape) != len(wanted) or len(differing) != 1 or not self._merges(step):
            return None
        members = shape[differing[0]]
        return differing[0] if members and len(step.sources) % members == 0 else None

    def _sources_with_shapes(self, step: Step) -> str:
        if len(step.reads) > SHOWN_SOURCES:
            return ", ".join(collapse_by_name(step.reads)[:SHOWN_SOURCES])
        return ", ".join(f"{key} {list(self.source[key].shape)}" for key in step.reads)

    def _merges(self, step: Step) -> bool:
        """Tell whether a step joins tensors by the index in their keys."""
        fired = (self.mapping.transforms[number] for number in step.rules)
        return any(isinstance(transform, WeightConverter) and transform.arity.merges for transform in fired)

    def _tie_steps(self) -> None:
        """Mark a step that fills a target whose twin is filled as well: its bytes must be equal, not written again."""
        if self.target is None:
            return
        written = [key for step in sorted(self.steps, key=lambda step: step.targets) for key in step.writes]
        for key in written:
            self.first_of.setdefault(self._group(key), key)
        pairs = ((key, self.first_of[self._group(key)]) for key in written)
        self.twins = tuple(sorted((key, twin) for key, twin in pairs if key != twin))
        later = {key for key, _ in self.twins}
        self.steps = [
            replace(step, fate="tied") if len(step.targets) == 1 and step.targets[0] in later else step
            for step in self.steps
        ]

    def _group(self, key: str) -> str:
        """Return the key that stands for all targets that share a target's storage."""
        assert self.target is not None
        return self.target.ties.get(key, key)

    def _account_targets(self) -> tuple[tuple[Fated, ...], tuple[Fated, ...], tuple[str, ...]]:
        """Give every target that no step writes its fate, or call it missing."""
        if self.target is None:
            return (), (), ()
        written = {
            key: output.spec
            for step in self.steps
            for key, output in zip(step.targets, step.program.targets, strict=True)
        }
        open_keys = [key for key in self.target if key not in written]
        named = self._named_initialised(open_keys)
        tied, initialised, missing = [], [], []
        for key in open_keys:
            twin = self.first_of.get(self._group(key))
            if twin is not None:
                shape = written[twin].shape if twin in self.target.loose else self.target[key].shape
                tied.append(Fated(key, TensorSpec(written[twin].dtype, shape), twin))
            elif key in named or self.options.partial:
                initialised.append(Fated(key, self.target[key], named.get(key, "partial=True")))
            if twin is None and key not in named and key not in self.blamed:
                missing.append(key)
        return tuple(sorted(tied)), tuple(sorted(initialised)), tuple(sorted(missing))

    def _named_initialised(self, keys: list[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        names = Names(keys)
        for rule in self.mapping.initialise:
            found |= dict.fromkeys(names.matching(rule.pattern, rule.scope), rule.why or f'"{rule.pattern}"')
        return found

    def _refuse_empty(self) -> None:
        """Refuse a partial load that loads nothing."""
        if not self.options.partial or self.target is None or self.problems:
            return
        if not any(key in self.target.specs for step in self.steps for key in step.targets):
            self.problems.append(PlanError("target-missing", "a partial load that fills no target at all"))


def _renamed(traced: Traced, source: Header) -> Iterator[Step]:
    """Yield a step for each key of a family that only renames touched, or nothing."""
    trace, members = traced
    for key, indices in members:
        name = spell(trace.name, indices) if trace.fired else key
        yield Step((key,), (name,), Program.identity(source.specs[key]), "moved", trace.fired)


def _carry(key: str, spec: TensorSpec, fate: str = "carried") -> Step:
    return Step((key,), (key,), Program.identity(spec), fate)


def _carry_step(step: Step) -> Step:
    return Step(step.sources, step.targets, step.program, "carried", step.rules)


def _rules(mapping: Mapping, step: Step) -> str:
    return "\n".join(mapping.rule_name(number) for number in step.rules)
