"""The laws that a mapping has to obey, each as a function that raises where one is broken.

They take what an author has: the mapping, the header of a published checkpoint (an inventory will do, which takes a few
kilobytes where the tensors take gigabytes), and the model. What they find is one error that says what to do.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

from weighbridge import api
from weighbridge.base.errors import MappingError, PlanError, VerifyError, WeighbridgeError
from weighbridge.base.keys import collapse
from weighbridge.base.specs import Header, TensorSpec
from weighbridge.mappings.exception_rules import Carry, Drop, Initialise
from weighbridge.mappings.finding import AnyMapping
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.transforms import describe
from weighbridge.planning.plan import Plan
from weighbridge.planning.readings import matching
from weighbridge.planning.way_back.inverting import name_choices
from weighbridge.studies.lint import lint
from weighbridge.testing.sampling import MAX_BYTES, make_values, parts_of, restrict, run
from weighbridge.testing.saved_files import check_files, check_model
from weighbridge.testing.subjects import Model, Place, Subject, is_model, make_subject

NO_INVERSE: Final = (
    "declare sizes, Concatenate(sizes=...), or leave this law out: a model that was loaded goes back as it was recorded"
)

NAMES_DIFFER: Final = (
    "order or narrow the rules so that each name has one origin; or leave this law out, "
    "then only a model that was loaded goes back to the published names"
)

ORDERS: Final = 3
"""How many shuffled orders of the keys are planned."""


def check_coverage(
    mapping: AnyMapping | None,
    header: Place,
    model: Model = None,
    *,
    optional: Collection[str] = (),
    **options: Any,
) -> None:
    """Check that there is no parameter without a rule, and no rule without a parameter.

    Every tensor of the header has its place in the model and every parameter of the model is filled, by a rule or
    under its own name; and every transform and declared exception of the mapping is used. Without a model, only the
    last can be said.

    Args:
        mapping: A mapping, a list of transforms, a registered name, or the path of a mapping file; None for what
            is registered for the model.
        header: A `Header`, a path of an inventory or a checkpoint, or a dict of tensors.
        model: A model, a function without arguments that makes one (on the meta device), or a header or path.
        optional: Source patterns of rules that need not be used, because they are for other checkpoints.
        options: As for `weighbridge.plan`, such as `initialise` or `partial`.

    Raises:
        PlanError: `plan-failed` with every problem; those of unused rules are `rule-unused`.

    Examples:
        >>> from weighbridge import TensorSpec, WeightRenaming
        >>> header = Header({"norm.gamma": TensorSpec("F32", (4,))})
        >>> check_coverage([WeightRenaming("gamma", "weight")], header)
        >>> check_coverage([WeightRenaming("gamma", "weight"), WeightRenaming("beta", "bias")], header)
        Traceback (most recent call last):
        ...
        weighbridge.PlanError: plan-failed: a rule of the mapping is not used
          rule-unused: no key of the header needs this rule @ WeightRenaming(beta -> bias)
            try       correct its patterns, remove it, or name it: optional=["beta"]
    """
    subject = make_subject(mapping, header, model, options)
    try:
        plan = subject.plan()
    except PlanError as error:
        raise _with_unused(error, subject, optional) from None
    unused = list(_unused(subject, _fired(plan), optional))
    if unused:
        raise PlanError("plan-failed", "a rule of the mapping is not used", problems=unused)


def _fired(plan: Plan) -> set[Any]:
    return {plan.mapping.transforms[number] for step in plan.steps for number in step.rules}


def _with_unused(error: PlanError, subject: Subject, optional: Collection[str]) -> PlanError:
    """Add the rules that match no key to the problems of a plan: often they are what went wrong."""
    if error.code != "plan-failed":
        return error
    silent = {
        number - 1
        for finding in lint(subject.mapping, subject.source).findings
        if finding.code == "never"
        for number in finding.rules
    }
    fired = {transform for number, transform in enumerate(subject.mapping) if number not in silent}
    problems = [*_unused(subject, fired, optional), *error.problems]
    return PlanError(error.code, error.what, got=error.got, hint=error.hint, problems=problems)


def _with_hint(error: PlanError, hint: str) -> PlanError:
    """Return an error that advises something else."""
    return PlanError(error.code, error.what, where=error.where, got=error.got, hint=hint, problems=error.problems)


def _unused(subject: Subject, fired: set[Any], optional: Collection[str]) -> Iterator[WeighbridgeError]:
    excused = set(optional)
    for transform in subject.mapping:
        is_needed = excused.isdisjoint(transform.source_patterns) and transform not in subject.mapping.legacy
        if is_needed and transform not in fired:
            yield _unused_rule(
                "no key of the header needs this rule", describe(transform), transform.source_patterns[0]
            )
    target = subject.target_header
    sides: list[tuple[type[Any], tuple[Any, ...], Header | None]] = [
        (Drop, subject.mapping.drop, subject.source),
        (Carry, subject.mapping.carry, subject.source),
        (Initialise, subject.mapping.initialise, target),
    ]
    for kind, rules, side in sides:
        for rule in rules:
            if side is not None and rule.pattern not in excused and not matching(rule.pattern, side, rule.scope):
                words = f"{kind.__name__}({rule.pattern})" + (f" in {rule.scope}" if rule.scope else "")
                yield _unused_rule("this exception names no tensor", words, rule.pattern)


def _unused_rule(what: str, where: str, pattern: str) -> PlanError:
    hint = f'correct its patterns, remove it, or name it: optional=["{pattern}"]'
    return PlanError("rule-unused", what, where=where, hint=hint)


def check_lint(
    mapping: AnyMapping | None, header: Place = None, target: Model = None, *, allow: Collection[str] = ()
) -> None:
    """Check that the linter finds nothing, neither an error nor what is usually a mistake.

    Args:
        mapping: As for `check_coverage`.
        header: Keys that the mapping is for; None to check it on keys made from its patterns.
        target: The model, or the layout, that it leads to; its keys are sent back and forth.
        allow: Codes of findings that are meant.

    Raises:
        MappingError: `law-broken` with every finding; `usage` for a code that is none.

    Examples:
        >>> from weighbridge import WeightRenaming
        >>> check_lint([WeightRenaming("gamma", "weight")])
    """
    subject = make_subject(mapping, Header({}) if header is None else header, target, {})
    report = lint(subject.mapping, subject.source if header is not None else None, subject.target_header).without(allow)
    if report:
        return
    codes = json.dumps(list(report.counts()))
    raise MappingError(
        "law-broken",
        "the linter finds something",
        where=subject.mapping.name,
        got=str(report),
        hint=f"mend the rules; a finding that is meant is allowed by its code: allow={codes}",
    )


def check_order_independence(mapping: AnyMapping | None, header: Place, model: Model = None, **options: Any) -> None:
    """Check that the plan is the same whatever the order of the keys.

    Args:
        mapping: As for `check_coverage`, like the others.
        header: Its keys are shuffled, and the model's.
        model: The target.
        options: As for `weighbridge.plan`.

    Raises:
        MappingError: `law-broken`.
    """
    subject = make_subject(mapping, header, model, options)
    plan = subject.plan()
    for seed in range(ORDERS):
        require_same_plan(plan, subject.shuffled(seed).plan())


def require_same_plan(first: Plan, second: Plan) -> None:
    """Raise unless two plans are equal.

    Raises:
        MappingError: `law-broken`, with a step that differs.
    """
    if first == second:
        return
    steps = set(first.steps) ^ set(second.steps)
    astray = min((step.targets for step in steps), default=("what no step touches",))
    raise MappingError(
        "law-broken",
        "the plan depends on the order of the keys",
        where=", ".join(astray[:3]),
        hint="report it: no mapping should be able to do this",
    )


def check_round_trip(
    mapping: AnyMapping | None,
    header: Place,
    model: Model = None,
    *,
    lossy: bool = False,
    max_bytes: int = MAX_BYTES,
    **options: Any,
) -> None:
    """Check that nothing is lost: what the plan makes gives back every bit of what it was made from.

    Real values go through the plan and back, on a part of each kind if there are more than `max_bytes` of them.

    Args:
        mapping: As for `check_coverage`, like the next two.
        header: What is published.
        model: The target.
        lossy: Accept what a rule drops or rounds; the rest is still compared.
        max_bytes: Most bytes of tensors that are made for it.
        options: As for `weighbridge.plan`.

    Raises:
        PlanError: `inverse-lossy` with all that would be lost, and the codes of planning.
        VerifyError: `verify-failed`.
    """
    subject = make_subject(mapping, header, model, options)
    for part in _exact_parts(subject, lossy, max_bytes):
        values = make_values(part)
        there = run(part, values)
        api.verify(values, run(part.inverse(), there)).require_equal()


def _exact_parts(subject: Subject, lossy: bool, max_bytes: int) -> list[Plan]:
    plan = require_exact(subject.plan(), lossy=lossy)
    config = subject.options.get("config", getattr(subject.target, "config", None))
    return parts_of(plan, max_bytes, config)


def require_exact(plan: Plan, *, lossy: bool) -> Plan:
    """Return a plan without its lossy steps and dropped tensors, if these are accepted.

    Raises:
        PlanError: `inverse-lossy`.
    """
    if plan.is_exact:
        return plan
    if not lossy:
        raise PlanError(
            "inverse-lossy",
            "the way back loses a part of the checkpoint",
            got="\n".join([*plan.lossy_reasons, *(f"dropped: {key}" for key in collapse(f.key for f in plan.dropped))]),
            hint="carry what a rule drops, and leave dtypes alone; if the loss is meant, say lossy=True",
        )
    kept = [step for step in plan.steps if step.program.is_exact]
    return restrict(plan, kept)


def check_inverse(mapping: AnyMapping | None, header: Place, model: Model = None, **options: Any) -> None:
    """Check that the mapping alone leads back, as it must for a model that was not loaded from a checkpoint.

    Names and shapes are compared; what is dropped or rounded is the round trip's concern.

    Args:
        mapping: As for `check_coverage`, like the next two.
        header: What is published.
        model: The target.
        options: As for `weighbridge.plan`.

    Raises:
        PatternError: `pattern-one-way`.
        LayoutError: `operation-one-way`.
        PlanError: `inverse-unproven`, and the codes of planning.
        VerifyError: `verify-failed` where it leads to other names or shapes than the header's.
    """
    subject = make_subject(mapping, header, model, options)
    plan = require_exact(subject.plan(), lossy=True)
    made = {
        key: output.spec for step in plan.steps for key, output in zip(step.targets, step.program.targets, strict=True)
    }
    published = {key: spec for step in plan.steps for key, spec in zip(step.sources, step.program.sources, strict=True)}
    config = options.get("config", getattr(subject.target, "config", None))
    try:
        back = api.plan(Header(made), plan.mapping.inverse(), config=config, layout=options.get("layout", "auto"))
    except PlanError as error:
        raise _with_hint(error, NO_INVERSE) from None
    _require_layout(published, back, plan.mapping)


def _require_layout(published: dict[str, TensorSpec], back: Plan, mapping: Mapping) -> None:
    saved = back.target.specs
    lines = [
        f"{key}: {published.get(key, 'nothing')} is published, {saved.get(key, 'nothing')} is saved"
        for key in sorted(published.keys() | saved.keys())
        if published.get(key) != saved.get(key)
    ]
    if lines:
        shown = lines[:6] + ([f"… and {len(lines) - 6} more"] if len(lines) > 6 else [])
        only_names = Counter(published.values()) == Counter(saved.values())
        raise VerifyError(
            "verify-failed",
            "the mapping's inverse leads to another layout",
            got="\n".join([*shown, *((line for _, line in name_choices(back, mapping)) if only_names else back.notes)]),
            hint=NAMES_DIFFER if only_names else NO_INVERSE,
        )


def check_save_back(
    mapping: AnyMapping | None,
    header: Place,
    model: Model = None,
    *,
    max_bytes: int = MAX_BYTES,
    **options: Any,
) -> None:
    """Check that the published layout comes out again, byte for byte: files, shards, index, order of the header.

    A checkpoint with the header's tensors is written, loaded into a copy of the model and saved. Without a model, or
    where the checkpoint would be larger than `max_bytes`, it is converted and reverted instead, a part of each kind.

    Args:
        mapping: As for `check_coverage`, like the next two.
        header: What is published.
        model: The target; it stays as it is.
        max_bytes: Most bytes of tensors that are made for it.
        options: As for `weighbridge.plan`.

    Raises:
        PlanError: `inverse-lossy`, and the codes of planning and loading.
        VerifyError: `verify-failed` with the first file that differs.
    """
    subject = make_subject(mapping, header, model, options)
    plan = require_exact(subject.plan(), lossy=False)
    with tempfile.TemporaryDirectory() as place:
        if is_model(subject.target) and subject.source.size_bytes <= max_bytes and not plan.initialised:
            check_model(subject, plan, Path(place))
            return
        for number, part in enumerate(_exact_parts(subject, False, max_bytes)):
            check_files(part, Path(place) / str(number))
