"""Every checkpoint of the corpus, one test for all: into the real model, right in bytes and function, and back.

Nothing here depends on which case it is; what a case's own files say decides what must hold.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from corpus import (
    REGISTRY,
    SUBSET,
    TOLERANCE,
    Case,
    CrossLoad,
    build_model,
    case_names,
    cross_loads,
    damaged_case,
    damaged_names,
    misplaced_values,
    some_of,
    untie_unlike,
    worst_output,
    wrong_values,
)

import weighbridge as wb
from weighbridge.models.resolve import resolve
from weighbridge.planning.readings import matching

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.filterwarnings("ignore:.rope_scaling. is deprecated:FutureWarning"),  # the library, on its own files
]

MOST_LINES = 80
"""An error is to be read by a person: never a line for each of hundreds of keys."""


def test_part_kept_with_the_tests_is_the_corpus(corpus: Path) -> None:
    """Where the whole corpus is not there, its kept part alone is tested, and this test says so by being skipped."""
    kept = case_names(SUBSET)
    assert kept
    assert set(kept) <= set(case_names(corpus))
    for name in kept:
        for path in (SUBSET / "cases" / name).iterdir():
            assert path.read_bytes() == (corpus / "cases" / name / path.name).read_bytes(), path


@pytest.mark.parametrize("name", case_names())
def test_case_loads_computes_and_comes_back(name: str, tmp_path: Path) -> None:
    """Loaded values are those expected, the model computes what the older version did, and a save gives the file."""
    case = Case.named(name)
    model = build_model(case.facts["class"], case.path)
    untie_unlike(model, case)
    mapping = resolve(model, REGISTRY)
    if not case.has_place:
        with pytest.raises(wb.PlanError) as refused:
            wb.plan(case.path, mapping, target=model)
        assert refused.value.codes == ("source-unplaced",)
        return
    plan = wb.plan(case.path, mapping, target=model)
    plan.load_into(model)
    assert not wrong_values(case, model.state_dict())
    if case.computes_the_same:
        assert worst_output(case, model) <= TOLERANCE
    out = plan.inverse(model).write(tmp_path / "back")
    assert {file: (out / file).read_bytes() for file in case.files()} == case.files()


@pytest.mark.parametrize("name", case_names()[::3])
def test_case_is_what_its_parts_are_together(name: str) -> None:
    """Rows of three processes, as FSDP2 deals them out, and columns of two: each runs its cut of the plan alone."""
    case = Case.named(name)
    if not case.has_place:
        return
    plan = wb.plan(case.path, case.mapping(), target=case.target(), config=case.config)
    for processes, axis in ((3, 0), (2, -1)):
        held = [plan.cut(chunks(plan.target, processes, place, axis)).state_dict() for place in range(processes)]
        whole = {
            key: torch.cat([made[key] for made in held], axis) if spec.shape else held[0][key]
            for key, spec in plan.target.items()
        }
        assert not wrong_values(case, whole)


def chunks(target: wb.Header, processes: int, place: int, axis: int) -> dict[str, wb.Part]:
    """Return one process's chunk of each tensor along an axis, as `torch.chunk` cuts it; nothing is cut of a number."""
    found = {}
    for key, spec in target.items():
        axes = [((0, size),) if size else () for size in spec.shape]
        if axes:
            step = -(-spec.shape[axis] // processes)
            start, stop = (min(step * at, spec.shape[axis]) for at in (place, place + 1))
            axes[axis] = ((start, stop),) if start < stop else ()
        found[key] = wb.Part(spec.shape, tuple(axes))
    return found


@pytest.mark.parametrize("name", case_names())
def test_case_resolves_alike_from_its_configuration(name: str) -> None:
    """A configuration alone gives the rules that the model's own tree gives, in the same order."""
    case = Case.named(name)
    found, alone = resolve(build_model(case.facts["class"], case.path), REGISTRY), case.mapping()
    assert found.transforms == alone.transforms
    assert found.carry == alone.carry


@pytest.mark.parametrize("name", case_names())
def test_case_plans_from_headers_alone(name: str) -> None:
    """Neither a model nor the library is needed to plan, and to run the plan: the values are those expected."""
    case = Case.named(name)
    if case.has_place:
        plan = wb.plan(case.path, case.mapping(), target=case.target(), config=case.config)
        assert not wrong_values(case, plan.state_dict())


@pytest.mark.parametrize("name", case_names())
def test_case_is_saved_under_published_names(name: str) -> None:
    """A model that never came through a plan is saved as the published files are: names, shapes, and no others.

    What a file holds beside the model's own tensors cannot be there: second copies of tied ones, and carried ones.
    """
    case = Case.named(name)
    if not case.has_place or not case.has_published_names:
        return
    published = wb.open(case.path).header
    saved = wb.plan(case.distinct(), case.mapping().inverse(), config=case.config).target
    assert {key: spec for key, spec in saved.specs.items() if published.specs.get(key) != spec} == {}
    loaded = wb.plan(case.path, case.mapping(), target=case.target(), config=case.config)
    moved = {key for step in loaded.steps if step.fate == "moved" for key in step.sources}
    tied = {key for step in loaded.steps for key in step.sources if set(step.targets) & set(case.target().ties)}
    assert moved - tied - set(saved.specs) == set()


def plan_or_refusal(case: Case, mapping: wb.Mapping, model: torch.nn.Module, **options: bool) -> wb.Plan | wb.PlanError:
    """Return the plan of a case for a model of any class, or the error that refuses it."""
    try:
        return wb.plan(case.path, mapping, target=model, **options)
    except wb.PlanError as refused:
        return refused


@pytest.mark.parametrize("load", cross_loads(), ids=lambda load: f"{load.source}-{load.target_class}")
def test_checkpoint_of_another_class_loads_all_that_fits(load: CrossLoad) -> None:
    """What two classes share is loaded, and nothing that could be is left out; or a named error says why not."""
    case = Case.named(load.source)
    with torch.device("meta"):
        model = build_model(load.target_class, case.path, own_config=True)
    mapping = resolve(model, REGISTRY)
    plan = plan_or_refusal(case, mapping, model, partial=True)
    if isinstance(plan, wb.PlanError):
        assert set(plan.codes) <= {"spec-mismatch", "target-missing"}
        assert (load.loaded, load.avoidably_missing) == (0, 0)
        return
    model_keys = set(model.state_dict())
    filled = {key for key, fate in plan.target_fates() if fate.name in ("filled", "tied") and key in model_keys}
    declared = {key for rule in mapping.carry for key in matching(rule.pattern, plan.source)}
    left_over = {key for step in plan.steps if step.fate == "carried" for key in step.sources} - declared
    assert len(filled) >= load.loaded
    assert not left_over or len(filled) >= load.loaded + load.avoidably_missing
    values = plan.state_dict()
    assert misplaced_values(case, {key: values[key] for key in filled & plan.step_of_target.keys()}) == []


@pytest.mark.parametrize("load", some_of(cross_loads(), 3), ids=lambda load: f"{load.source}-{load.target_class}")
def test_checkpoint_of_another_class_is_refused_in_short(load: CrossLoad) -> None:
    """Without `partial=True` a checkpoint of another class either fits whole, or the error names families of keys."""
    with torch.device("meta"):
        model = build_model(load.target_class, Case.named(load.source).path, own_config=True)
    plan = plan_or_refusal(Case.named(load.source), resolve(model, REGISTRY), model)
    if isinstance(plan, wb.PlanError):
        assert set(plan.codes) <= {"source-unplaced", "target-missing", "spec-mismatch"}
        assert len(str(plan).splitlines()) <= MOST_LINES
        return
    assert set(model.state_dict()) <= {key for key, fate in plan.target_fates() if fate.name != "initialised"}


DAMAGED = {
    "detr_missing_fc1": (("target-missing",), "model.encoder.layers.0.mlp.fc1."),
    "llama_missing_layer_tensor": (("target-missing",), "model.layers.1.mlp.up_proj.weight"),
    "llava_extra_key": (("source-unplaced",), "language_model.model.layers.0.self_attn.rotary_emb.inv_freq"),
    "llava_extra_unknown_key": (("source-unplaced",), "some.unknown.key"),
    "mixtral_extra_expert": (("group-extra",), "too many: 4"),
    "mixtral_missing_all_experts_of_layer": (("target-missing",), "model.layers.1.mlp.experts."),
    "mixtral_missing_one_expert_w3": (("group-incomplete",), "mlp.experts.*.w3.weight  missing: 3"),
    "mixtral_missing_whole_last_expert": (("group-incomplete",), "missing: 3"),
    "mixtral_wrong_shape_one_expert": (("shape-mismatch",), "model.layers.1.mlp.experts.gate_up_proj"),
}
"""Damaged checkpoints: the codes that must be reported, and a line of the report."""

UNUSUAL = ("mixtral_already_fused",)
"""Checkpoints that nothing is wrong with, though no library wrote them: one in the runtime layout already."""


@pytest.mark.parametrize("name", sorted(DAMAGED))
def test_damaged_checkpoint_is_refused_by_name(name: str) -> None:
    """The error says what is wrong with which tensor, before anything is loaded."""
    codes, line = DAMAGED[name]
    case = damaged_case(name)
    model = build_model(case.facts["class"], case.path)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(wb.PlanError) as refused:
        wb.plan(case.path, resolve(model, REGISTRY), target=model)
    assert set(codes) <= set(refused.value.codes)
    assert line in str(refused.value)
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_checkpoint_loads_all_the_same(name: str) -> None:
    """A checkpoint in the runtime layout gives the values that the published one gives."""
    case = damaged_case(name)
    model = build_model(case.facts["class"], case.path)
    wb.plan(case.path, resolve(model, REGISTRY), target=model).load_into(model)
    assert not wrong_values(Case.named(case.facts["source"]), model.state_dict())


def test_every_damaged_checkpoint_is_tested() -> None:
    """The directory holds those named above, and no others."""
    assert damaged_names() == sorted((*DAMAGED, *UNUSUAL))
