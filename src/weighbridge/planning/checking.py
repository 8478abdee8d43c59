"""What must hold of a plan before it may run, proven from the plan alone, wherever it comes from.

A plan that was compiled is checked by `find_problems`. A plan that is read from JSON is proven further: each value has
its type, the plan is what its hash says, and the recorded files hold exactly the plan's tensors: every head is parsed
again, as if it stood in a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping as MappingOf
from typing import Any, Final

from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.base.file_sets import FileSet
from weighbridge.base.json_forms import items, number, numbers, table, text, texts
from weighbridge.base.specs import Header, TensorSpec
from weighbridge.mappings.mapping import Mapping
from weighbridge.planning.plan import FATED_FIELDS, PLAN_FORMAT, PLAN_VERSION, Fated, Plan, Step
from weighbridge.planning.program import program_from_dict, spec_from_form
from weighbridge.storage.formats.safetensors_header import parse_head
from weighbridge.storage.formats.shard_index import check_shards, parse_index

FATES: Final = ("moved", "computed", "carried", "tied")
"""What a step may say of its sources."""


def find_problems(plan: Plan) -> list[WeighbridgeError]:
    """List all that is wrong with a plan; nothing for one that may run.

    Args:
        plan: The plan. Its files are not looked at.
    """
    problems: list[WeighbridgeError] = []
    for program in plan.programs:
        try:
            program.prove()
        except WeighbridgeError as problem:
            user = next(step for step in plan.steps if step.program == program)
            problems.append(problem.with_context(where=", ".join((user.targets or user.sources)[:1])))
    problems += [problem for step in plan.steps for problem in _step_problems(step, len(plan.mapping.transforms))]
    for side, fates in (("source", plan.source_fates()), ("target", plan.target_fates())):
        twice = [key for key, count in Counter(key for key, _ in fates).items() if count > 1]
        problems += [PlanError("target-collision", f"a {side} has two fates", where=key) for key in twice]
    # The specs of both sides can only be told once every step fits its program.
    return problems or [*_tie_problems(plan.tied_sources, plan.step_of_source, plan.source), *_target_ties(plan)]


def _target_ties(plan: Plan) -> Iterator[WeighbridgeError]:
    return _tie_problems(plan.tied_targets, plan.step_of_target, plan.target)


def _step_problems(step: Step, rules: int) -> Iterator[WeighbridgeError]:
    where = repr(step.targets[:1] or step.sources[:1])[:200]
    for side, keys, slots in (
        ("sources", step.sources, step.program.sources),
        ("targets", step.targets, step.program.targets),
    ):
        if len(keys) != len(slots):
            expected = f"{len(slots)}, as its program has"
            yield PlanError(
                "plan-format",
                f"a step has another number of {side}",
                where=where,
                expected=expected,
                got=str(len(keys)),
            )
        if not all(type(key) is str for key in keys):
            yield PlanError("plan-format", f"the {side} of a step are not all texts", where=where)
    if step.fate not in FATES:
        yield PlanError("plan-format", "this is no fate", where=where, expected=", ".join(FATES), got=repr(step.fate))
    if not all(type(rule) is int and 0 <= rule < rules for rule in step.rules):
        what = "a step names a rule that the mapping does not have"
        yield PlanError("plan-format", what, where=where, expected=f"numbers below {rules}", got=repr(step.rules)[:200])


def _tie_problems(tied: tuple[Fated, ...], steps: MappingOf[str, int], specs: Header) -> Iterator[WeighbridgeError]:
    for key, spec, by in tied:
        if by not in steps:
            yield PlanError(
                "plan-format", "a tensor is tied to one that no step touches", where=key, got=repr(by)[:200]
            )
        elif specs[by] != spec:
            expected, got = str(specs[by]), str(spec)
            yield PlanError("plan-format", "tied tensors differ in their specs", where=key, expected=expected, got=got)


# Reading


def read_plan(form: Any) -> Plan:
    """Read a plan's JSON form and prove all of it.

    Raises:
        PlanError: `plan-format`, `plan-failed`.
        MappingError: `mapping-invalid`.
        CheckpointError: `path-unsafe`.
    """
    try:
        found, known = (form["format"], form["version"]), (PLAN_FORMAT, PLAN_VERSION)
        if found != known:
            what = "this is no plan of a known version"
            raise PlanError("plan-format", what, expected=f"{PLAN_FORMAT} {PLAN_VERSION}", got=repr(found)[:200])
        plan = _plan_from_form(form)
        plan.check()
        _check_hash("hash", form["hash"], plan.hash)
        _check_hash("files_hash", form["files_hash"], plan.files_hash)
        check_files(plan.source_files, plan.source.specs)
        check_files(plan.target_files, plan.target.specs)
    except WeighbridgeError:
        raise
    except Exception as problem:
        # A damaged form can go wrong at any place and in any way; to the caller all of them are one.
        got = f"no field {problem}" if isinstance(problem, KeyError) else f"{type(problem).__name__}: {problem}"
        expected = "what Plan.to_json or weighbridge plan --out writes"
        raise PlanError("plan-format", "this is no plan", expected=expected, got=got[:200]) from problem
    return plan


def _check_hash(name: str, wanted: object, found: str) -> None:
    if wanted != found:
        what = f"the plan is not what its {name} says"
        raise PlanError("plan-format", what, expected=str(wanted)[:200], got=found)


def _plan_from_form(form: MappingOf[str, Any]) -> Plan:
    programs = [program_from_dict(program) for program in items(form["programs"])]
    fated: dict[str, Any] = {name: tuple(map(_fated, items(form[name]))) for name in FATED_FIELDS}
    files: dict[str, Any] = {
        name: FileSet.from_dict(table(form[name])) if form.get(name) is not None else None
        for name in ("source_files", "target_files")
    }
    steps = []
    for entry in items(form["steps"]):
        program, sources, targets, fate, rules = items(entry, 5)
        steps.append(Step(texts(sources), texts(targets), programs[number(program)], text(fate), numbers(rules)))
    return Plan(
        Mapping.from_dict(table(form["mapping"])),
        tuple(steps),
        reading=text(form["reading"]),
        metadata={name: text(value) for name, value in table(form["metadata"]).items()},
        notes=texts(form["notes"]),
        **fated,
        **files,
    )


def _fated(entry: object) -> Fated:
    key, dtype, shape, by = items(entry, 4)
    return Fated(text(key), spec_from_form(dtype, shape), text(by))


# Files


def check_files(files: FileSet | None, specs: MappingOf[str, TensorSpec]) -> None:
    """Prove that recorded files hold exactly the tensors that a plan has on this side, each once.

    Args:
        files: The record; None is always right.
        specs: Spec of each tensor by key.

    Raises:
        PlanError: `plan-format`.
        CheckpointError: `path-unsafe`.
    """
    if files is None:
        return
    files.check_names()
    try:
        shards = {image.name: parse_head(image.head, image.size_bytes, image.name) for image in files.images}
        if files.index_name:
            weight_map = parse_index(files.index_text, files.index_name)
            if set(weight_map.values()) != set(shards):
                raise PlanError("plan-format", "the recorded index names other files", where=files.index_name)
            check_shards(weight_map, {name: head.specs for name, head in shards.items()}, files.index_name)
    except PlanError:
        raise
    except WeighbridgeError as problem:
        what = "a recorded file is damaged"
        raise PlanError("plan-format", what, where=problem.where, got=problem.headline) from None
    for image in files.images:
        head_bytes = 8 + int.from_bytes(image.head[:8], "little")
        if len(image.head) != head_bytes or image.tensors != shards[image.name].tensors:
            what = "a recorded file's head places its tensors elsewhere"
            raise PlanError("plan-format", what, where=image.name)
    _check_specs([(key, spec) for head in shards.values() for key, spec in head.specs.items()], specs)


def _check_specs(recorded: list[tuple[str, TensorSpec]], specs: MappingOf[str, TensorSpec]) -> None:
    found = dict(recorded)
    if len(found) == len(recorded) and found == dict(specs):
        return
    counts = Counter(key for key, _ in recorded)
    wrong = next((key for key in {**found, **specs} if counts[key] != 1 or found[key] != specs.get(key)), "")
    raise PlanError("plan-format", "the recorded files hold other tensors than the plan", where=wrong)
