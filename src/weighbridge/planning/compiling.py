"""Compile a mapping against headers into a proven plan.

    header x mapping x target -> Plan

Each candidate reading of the checkpoint's layout is compiled on the whole key set; exactly one may fit. A plan that is
returned has been proven: every program writes each element once, and every tensor has exactly one fate.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from weighbridge.base.errors import PlanError
from weighbridge.base.file_sets import FileSet
from weighbridge.base.keys import counted, nearest
from weighbridge.base.process.collecting import without_collection
from weighbridge.base.specs import Header
from weighbridge.mappings.bound_offsets import bind_offsets
from weighbridge.mappings.exception_rules import Carry, Drop, Initialise, exception_rules
from weighbridge.mappings.mapping import Mapping, MappingLike, as_mapping
from weighbridge.mappings.transforms import describe
from weighbridge.planning.casts.asked_casts import name_some, policy_notes
from weighbridge.planning.casts.dtype_policies import KEEP, is_castable
from weighbridge.planning.companions import quantised_keys, scales_left
from weighbridge.planning.drafts import Draft
from weighbridge.planning.failures.no_fit import none_fits, openness
from weighbridge.planning.fitting import draft_reading
from weighbridge.planning.grouped.described import left_behind
from weighbridge.planning.grouped.sides import Sides, see
from weighbridge.planning.grouped.weights import Saying
from weighbridge.planning.plan import Plan
from weighbridge.planning.plan_options import MODES, REFINE, Options
from weighbridge.planning.problems import uneven_groups
from weighbridge.planning.readings import Names, Reading, nested_readings, possible_readings
from weighbridge.planning.tracing import landing
from weighbridge.planning.way_back.target_steps import steps_from_target

_LOG: Final = logging.getLogger(__name__)


@without_collection()
def compile_plan(
    source: Header,
    mapping: MappingLike,
    target: Header | None = None,
    *,
    files: FileSet | None = None,
    options: Options | None = None,
    saying: Saying | None = None,
) -> Plan:
    """Compile a mapping into a plan.

    Args:
        source: Specs of the checkpoint's tensors.
        mapping: A mapping or a list of transforms.
        target: Specs of the tensors that are wanted; None to take whatever the mapping gives.
        files: How the source lies in files, so that the inverse can write the same.
        options: What is declared beside the mapping.
        saying: What is said of how the weights are quantised; rules then see one tensor for each of those.

    Returns:
        A proven plan.

    Raises:
        PlanError: `plan-failed` with every problem found, `layout-ambiguous`, `inverse-unproven`, `rule-unused`.

    Examples:
        >>> from weighbridge.base.specs import TensorSpec
        >>> from weighbridge.mappings.transforms import WeightRenaming
        >>> source = Header({"norm.gamma": TensorSpec("F32", (4,))})
        >>> compile_plan(source, [WeightRenaming("gamma", "weight")]).target["norm.weight"]
        TensorSpec(dtype='F32', shape=(4,))
    """
    options = options or Options()
    if options.layout not in MODES:
        raise PlanError("usage", "unknown layout mode", expected=", ".join(MODES), got=options.layout)
    sides = see(source, target, saying) if options.companions else Sides(source, target)
    _refuse_unused(options, sides)
    declared = declare(bind_offsets(as_mapping(mapping), options.config), options)
    return _compile(declared, sides, files, options)


def _compile(declared: Mapping, sides: Sides, files: FileSet | None, options: Options) -> Plan:
    """Compile with one tensor for each quantised weight, if any are told, and write that out for all of its group."""
    source, target = sides.seen
    readings = possible_readings(declared, source, target, options.layout)
    sides.refuse_contradictions(readings)
    drafts = [_draft(reading, source, target, options) for reading in readings]
    if target is not None:
        drafts += _nested(declared, drafts, source, target, options)
    chosen = _choose(drafts, source, target, options)
    seen = chosen.plan
    written = sides.write_out(seen, chosen.reading, may_refine=options.companions == REFINE)
    _refuse_what_is_left(written, sides, options)
    plan = replace(written, source_files=files, is_back=False)
    plan.check()
    notes = list(plan.notes)
    if declared.forward is not None and chosen.reading.is_mapped:
        from weighbridge.planning.way_back.inverting import open_choices, prove_inverse

        as_stored = replace(options, dtype=None)  # a cast that the caller wants comes after the way back
        proven = seen if options.dtype is None else _draft(chosen.reading, source, target, as_stored).plan
        prove_inverse(proven, declared.forward, as_stored, is_settled=chosen.is_settled)
        if not chosen.is_settled:
            choices = open_choices(proven, declared.forward, as_stored)
            plan = replace(plan, choices=choices.lines)
            notes += choices.notes
    if declared.transforms and chosen.reading.is_mapped and not any(step.rules for step in plan.steps):
        notes.append("no rule of the mapping fired on any tensor")
    notes += uneven_groups(seen) if target is None else ()
    notes += _kept_dtypes(seen, target, options) if target is not None else ()
    notes += _said_of_dtypes(plan, sides.source, options)
    _log(plan)
    return replace(plan, notes=tuple(notes))


def _refuse_what_is_left(plan: Plan, sides: Sides, options: Options) -> None:
    """Refuse to move weights that hold no codes apart from scales beside them, or by names that metadata keeps.

    Raises:
        PlanError: `plan-failed`, with each.
    """
    problems = list(scales_left(plan, sides.seen[0]) if options.companions else left_behind(plan))
    if problems:
        raise PlanError("plan-failed", "the mapping does not fit", problems=problems)


def _draft(reading: Reading, source: Header, target: Header | None, options: Options) -> Draft:
    """Compile one reading; a target settles what the inverse of a mapping would leave open."""
    settled = steps_from_target(reading, source, target, options)
    return replace(draft_reading(reading, source, target, options, settled), is_settled=settled is not None)


def _nested(mapping: Mapping, drafts: list[Draft], source: Header, target: Header, options: Options) -> list[Draft]:
    """Compile the readings under paths of sub-models, where no nearer one fits.

    In a partial load a nearer one fits easily: it is left for one that fills more, and all that the nearer one fills.
    """
    near = [draft for draft in drafts if draft.is_named]
    if near and not (options.partial and all(draft.missing and draft.unplaced for draft in near)):
        return []

    def is_worth(rules: Mapping) -> bool:
        """Whether a mapping could fill with what is left over what is missing, whichever nearer reading is taken."""
        return all(landing(rules, [*d.unplaced], Header({key: target[key] for key in d.missing})) for d in near)

    found = nested_readings(mapping, source, target, options.layout, is_worth)
    nested = [_draft(each, source, target, options) for each in found]
    if near:
        return [draft for draft in nested if draft.fits and all(draft.covers_more(other) for other in near)]
    nearer = [draft for draft in nested if not any(_is_as_near(other, draft) for other in drafts)]
    return [draft for draft in nearer if options.partial or draft.is_named]


def _kept_dtypes(plan: Plan, target: Header, options: Options) -> Iterator[str]:
    """Say which targets keep a dtype that is not the one they have in the target, unless a dtype was asked for."""
    written = (zip(step.targets, step.program.targets, strict=True) for step in plan.steps)
    specs = [(key, output.dtype) for step in written for key, output in step]
    specs += [(fated.key, fated.spec.dtype) for fated in plan.tied_targets]
    wanted = target.specs.keys() - target.loose
    asked = options.dtype.wanted(plan.target.specs.keys()) if options.dtype is not None else {}
    settled = {key for key, dtype in specs if is_castable(dtype) and asked.get(key, KEEP) != KEEP}
    pairs = ((target.specs[key].dtype, dtype) for key, dtype in specs if key in wanted and key not in settled)
    for (want, kept), count in sorted(Counter(pair for pair in pairs if pair[0] != pair[1]).items()):
        is_float = is_castable(kept)
        remedy = 'dtype="target" (--dtype target) casts them' if is_float else "only floats are cast"
        words = f"{count:,} targets want {want} and keep" if count > 1 else f"1 target wants {want} and keeps"
        yield f"{words} {kept}: {remedy}"


def _said_of_dtypes(plan: Plan, source: Header, options: Options) -> Iterator[str]:
    """Say what came of the dtypes that were asked for.

    Raises:
        PlanError: `rule-unused` for a pattern that decides about no target.
    """
    if options.dtype is not None:
        options.dtype.refuse_unused(plan.target.specs.keys() | {fated.key for fated in plan.initialised})
        yield from policy_notes(plan, options.dtype, quantised_keys(source))
    declared = [key for step in plan.steps if step.program.overflows for key in step.targets]
    if declared:
        yield f"values beyond the range of a dtype become infinite, as declared: {name_some(declared)}"


def _log(plan: Plan) -> None:
    """Say in one line what came of planning; for debugging, also how often each rule fired."""
    if not _LOG.isEnabledFor(logging.INFO):
        return
    sizes = f"{len(plan.source):,} -> {counted(len(plan.target), 'tensor')}"
    way_back = "exact" if plan.is_exact else f"lossy: {'; '.join(plan.lossy_reasons)}"
    _LOG.info('planned "%s": %s, reading: %s, %s', plan.mapping.name, sizes, plan.reading, way_back)
    if _LOG.isEnabledFor(logging.DEBUG):
        uses = Counter(rule for step in plan.steps for rule in step.rules)
        for number, transform in enumerate(plan.mapping.transforms):
            _LOG.debug(
                "rule %d fired in %s of %d steps: %s", number + 1, uses[number], len(plan.steps), describe(transform)
            )


def _refuse_unused(options: Options, sides: Sides) -> None:
    """Refuse a caller's exception that names no tensor; a mapping's own may be meant for other checkpoints."""
    if options.drop == options.carry == options.initialise == ():
        return
    source, target = sides.names()
    given: list[tuple[type[Any], Any, Header | None]] = [
        (Drop, options.drop, source),
        (Carry, options.carry, source),
        (Initialise, options.initialise, target),
    ]
    for kind, rules, header in given:
        names = Names(header or ())
        for rule in exception_rules(kind, rules):
            if header is not None and not names.matching(rule.pattern, rule.scope):
                near = ", ".join(nearest(rule.pattern, header))
                what = f"this {kind.__name__.lower()} rule names no tensor"
                hint = "correct the pattern, or leave the rule out"
                raise PlanError(
                    "rule-unused", what, where=rule.pattern, got=f"nearest: {near}" if near else "", hint=hint
                )


def _is_as_near(draft: Draft, other: Draft) -> bool:
    """Whether a draft leaves no more tensors open than another one."""
    return openness(draft) <= openness(other)


def declare(mapping: Mapping, options: Options) -> Mapping:
    """Add the caller's exceptions to the mapping's own."""
    return replace(
        mapping,
        drop=mapping.drop + exception_rules(Drop, options.drop),
        carry=mapping.carry + exception_rules(Carry, options.carry),
        initialise=mapping.initialise + exception_rules(Initialise, options.initialise),
        base_prefix=options.base_prefix or mapping.base_prefix,
    )


def _choose(drafts: list[Draft], source: Header, target: Header | None, options: Options) -> Draft:
    """Take the one reading whose names and shapes fit; readings that come to the same steps are one.

    What else is wrong with a reading whose names and shapes fit is reported, and is no reason to take another one.
    """

    def further(reading: Reading) -> Draft:
        return _draft(reading, source, target, options)

    fitting: list[Draft] = []
    for draft in drafts:
        if draft.fits and all(draft.movement != other.movement for other in fitting):
            fitting.append(draft)
    if options.partial:
        fitting = [draft for draft in fitting if not any(other.covers_more(draft) for other in fitting)]
    faulty = [draft for draft in drafts if _is_right_but_faulty(draft, fitting, options)]
    if faulty:
        raise none_fits(faulty, source, target, further, others=fitting)
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise none_fits(drafts, source, target, further)
    raise PlanError(
        "layout-ambiguous",
        "the checkpoint can be read in more than one layout",
        got="\n".join(_describe(draft) for draft in fitting),
        hint='declare the layout: layout="mapped" or layout="as is"',
    )


def _is_right_but_faulty(draft: Draft, fitting: list[Draft], options: Options) -> bool:
    """Whether a reading would be taken, or be one of those that could be, if it were not for faults of another kind."""
    if draft.fits:
        return False
    if not options.partial:
        return draft.is_named
    rivals = [other.reach for other in fitting]
    return all(reach < draft.reach or (draft.is_named and reach == draft.reach) for reach in rivals)


def _describe(draft: Draft) -> str:
    filling = [step for step in draft.plan.steps if step.fate != "carried"]
    targets, sources = sum(len(step.writes) for step in filling), sum(len(step.reads) for step in filling)
    line = f"{draft.reading.name}: fills {counted(targets, 'target')} from {counted(sources, 'source')}"
    example = next((step for step in filling if step.sources != step.targets), None)
    return line + (f", such as {example.targets[0]} from {example.sources[0]}" if example else "")
