"""Read a plan that was stored, and prove all of it again.

Each value has its type, the plan is what its hash says, and the recorded files hold exactly the plan's tensors: every
head is parsed again, as if it stood in a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping as MappingOf
from typing import Any, Final

from weighbridge.algebra.copies import Copy, Loop
from weighbridge.algebra.held_parts import Part
from weighbridge.algebra.layout import Layout
from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.base.file_sets import FileSet
from weighbridge.base.forms.elements import Constant
from weighbridge.base.forms.json_forms import items, number, numbers, table, text, texts, truth
from weighbridge.base.json_text import JsonError, parse_json
from weighbridge.base.specs import DTYPES, TensorSpec
from weighbridge.mappings.mapping import Mapping
from weighbridge.planning.plan import PLAN_FORMAT, PLAN_VERSIONS, PORTION_VERSION, Plan
from weighbridge.planning.portions.cutting import cut
from weighbridge.planning.program import Cut, Output, Program
from weighbridge.planning.steps import FATED_FIELDS, Fated, Refinement, Step
from weighbridge.storage.formats.safetensors_header import parse_head
from weighbridge.storage.formats.shard_index import check_shards, parse_index

MAX_PLAN_BYTES: Final = 200_000_000
"""Limit for a plan's text; that of 90,000 tensors has a sixth of it."""

EXPECTED: Final = "what Plan.to_json or weighbridge plan --out writes"
ANEW: Final = "make the plan anew from its checkpoint and mapping"


def read_plan_text(written: str | bytes) -> Plan:
    """Read the JSON text of a plan, as strictly as a receipt is read.

    Raises:
        PlanError: `plan-format`, `plan-failed`.
        MappingError: `mapping-invalid`.
        CheckpointError: `path-unsafe`.
    """
    if not isinstance(written, str | bytes):
        raise _no_plan("this is no text", f"a {type(written).__name__}")
    raw = written if isinstance(written, bytes) else written.encode("utf-8", "surrogatepass")
    if len(raw) > MAX_PLAN_BYTES:
        raise _no_plan("this text is too large for a plan", f"{len(raw):,} bytes, of {MAX_PLAN_BYTES:,}")
    try:
        form = parse_json(raw, surrogates=True)
    except JsonError as problem:
        raise _no_plan("this is no JSON", str(problem)) from None
    return read_plan(form)


def _no_plan(what: str, got: str) -> PlanError:
    return PlanError("plan-format", what, expected=EXPECTED, got=got[:200], hint=ANEW)


def read_plan(form: Any) -> Plan:
    """Read a plan's JSON form and prove all of it.

    Raises:
        PlanError: `plan-format`, `plan-failed`.
        MappingError: `mapping-invalid`.
        CheckpointError: `path-unsafe`.
    """
    try:
        found = form["format"], form["version"]
        if found not in [(PLAN_FORMAT, version) for version in PLAN_VERSIONS]:
            first, last = PLAN_VERSIONS[0], PLAN_VERSIONS[-1]
            what, expected = "this is no plan of a known version", f"{PLAN_FORMAT} {first} to {last}"
            raise PlanError("plan-format", what, expected=expected, got=repr(found)[:200])
        plan = _plan_from_form(form)
        plan.check()
        if form["version"] == PORTION_VERSION:
            plan = _portion_from_form(plan, table(form["parts"]))
        if plan.version != form["version"]:
            what = "the plan is not of the version that it names"
            raise PlanError("plan-format", what, expected=str(plan.version), got=str(form["version"]))
        _check_hash("hash", form["hash"], plan.hash)
        _check_hash("files_hash", form["files_hash"], plan.files_hash)
        whole = plan if plan.portion is None else plan.portion.whole
        check_files(whole.source_files, whole.source.specs)
        check_files(whole.target_files, whole.target.specs)
    except WeighbridgeError as problem:
        raise problem.with_context(hint=ANEW if problem.code == "plan-format" else "") from None
    except Exception as problem:
        # A damaged form can go wrong at any place and in any way; to the caller all of them are one.
        got = f"no field {problem}" if isinstance(problem, KeyError) else f"{type(problem).__name__}: {problem}"
        raise _no_plan("this is no plan", got) from problem
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
        twins=tuple(_pair(entry) for entry in items(form.get("twins", []))),
        choices=texts(form.get("choices", [])),
        computed=tuple((title, texts(keys)) for title, keys in table(form.get("computed", {})).items()),
        refined=tuple(_refinement_from_form(entry) for entry in items(form.get("refined", []))),
        is_back=truth(form["is_back"]) if "is_back" in form else None,
        **fated,
        **files,
    )


def _portion_from_form(whole: Plan, form: MappingOf[str, Any]) -> Plan:
    if not form or not form.keys() <= {"target", "source"}:
        what = "a plan that was cut does not say to parts of which side"
        raise PlanError("plan-format", what, expected="target, source", got=", ".join(form)[:200])
    sides = {side: {key: Part.from_dict(part) for key, part in table(parts).items()} for side, parts in form.items()}
    return cut(whole, sides.get("target"), source=sides.get("source"))


def program_from_dict(form: MappingOf[str, Any]) -> Program:
    """Read the JSON form of a program; `Program.prove` must still vouch for it.

    Raises:
        PlanError: `plan-format`.
    """
    specs = [items(entry, 2) for entry in items(form["sources"])]
    return Program(
        tuple(spec_from_form(dtype, shape) for dtype, shape in specs),
        tuple(_output_from_form(entry) for entry in items(form["temporaries"])),
        tuple(_output_from_form(entry) for entry in items(form["targets"])),
        truth(form.get("overflows", False)),
        tuple(_constant_from_form(entry) for entry in items(form.get("constants", []))),
        tuple(_cut_from_form(entry) for entry in items(form.get("cuts", []))),
        again=_again_from_form(form.get("again", [0, 0]), len(specs), len(items(form["targets"]))),
    )


def _again_from_form(entry: object, sources: int, targets: int) -> tuple[int, int]:
    again = numbers(items(entry, 2))
    if again[0] > sources or again[1] > targets:
        raise PlanError("plan-format", "more tensors are there for parts than there are", got=repr(entry)[:80])
    return again[0], again[1]


def _constant_from_form(entry: object) -> Constant:
    dtype, shape, element = items(entry, 3)
    return Constant(spec_from_form(dtype, shape), bytes.fromhex(text(element)))


def _cut_from_form(entry: object) -> Cut:
    *output, element = items(entry, 4)
    return Cut(_output_from_form(output), bytes.fromhex(text(element)))


def spec_from_form(dtype: object, shape: object) -> TensorSpec:
    """Read a spec of a JSON form.

    Raises:
        PlanError: `plan-format`.

    Examples:
        >>> spec_from_form("F32", [2, 3])
        TensorSpec(dtype='F32', shape=(2, 3))
    """
    spec = TensorSpec(text(dtype), numbers(shape))
    if spec.dtype not in DTYPES:
        raise PlanError("plan-format", "this is no dtype", got=repr(spec.dtype)[:120])
    number(spec.numel * DTYPES[spec.dtype].bits)
    return spec


def _output_from_form(entry: object) -> Output:
    dtype, shape, copies = items(entry, 3)
    spec = spec_from_form(dtype, shape)
    return Output(spec.dtype, Layout(spec.shape, tuple([_copy_from_form(copy) for copy in items(copies)])))


def _copy_from_form(entry: object) -> Copy:
    source, source_start, target_start, loops = items(entry, 4)
    read = [numbers(items(loop, 3)) for loop in items(loops)]
    return Copy(number(source), number(source_start), number(target_start), tuple([Loop(*loop) for loop in read]))


def _refinement_from_form(entry: object) -> Refinement:
    place, before, after = items(entry, 3)
    return Refinement(texts(place), numbers(before), numbers(after))


def _pair(entry: object) -> tuple[str, str]:
    key, twin = items(entry, 2)
    return text(key), text(twin)


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
