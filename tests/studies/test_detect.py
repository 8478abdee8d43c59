"""Which family a checkpoint belongs to: on the corpus's real checkpoints, with and without their configurations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command import documented, run
from corpus import PLACE, Case, built_in, case_names, damaged_case
from hypothesis import given, settings, strategies as st
from safetensors.numpy import save_file

import weighbridge as wb
from weighbridge.mappings import families
from weighbridge.mappings.families.signatures import SIGNATURES
from weighbridge.studies.detection import (
    BOTH,
    ENOUGH,
    PUBLISHED,
    RUNTIME,
    SURE,
    Detection,
    Layout,
    detect,
    known_layouts,
)

SPEC = wb.TensorSpec("F32", (2, 2))


def header_of(*keys: str) -> wb.Header:
    return wb.Header(dict.fromkeys(keys, SPEC))


def named(found: Detection) -> set[str]:
    return {found.name, *found.tied}


@pytest.mark.parametrize("name", case_names())
def test_case_is_recognised_by_name_and_configuration(name: str) -> None:
    case = Case.named(name)
    found = wb.detect(case.path)
    assert found.name == case.config["model_type"]
    assert found.config_type == case.config["model_type"]
    assert found.tied == ()
    if case.has_published_names:
        assert found.layout in (PUBLISHED, BOTH)


@pytest.mark.parametrize("name", case_names())
def test_case_is_recognised_by_its_names_alone(name: str) -> None:
    """The first family is the right one, or the tie is said."""
    case = Case.named(name)
    found = detect(wb.open(case.path).header)
    assert case.config["model_type"] in named(found)
    assert all(other in str(found) for other in found.tied[:8])
    if case.has_published_names:
        assert found.layout in (PUBLISHED, BOTH)


@pytest.mark.parametrize("name", case_names())
def test_runtime_layout_of_a_case_is_recognised(name: str) -> None:
    case = Case.named(name)
    for config in (None, case.config):
        found = detect(case.distinct(), config)
        assert case.config["model_type"] in named(found)
        assert found.layout in (RUNTIME, BOTH)


def test_old_names_of_a_norm_are_known() -> None:
    case = Case.named("bert__BertForPreTraining__gamma_beta")
    (best, *_) = detect(wb.open(case.path).header, case.config).candidates
    assert best.name == "bert"
    assert not [name for name in best.unknown if "LayerNorm" in name]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(case_names()), st.randoms(use_true_random=False))
def test_lost_and_stray_tensors_do_not_mislead(name: str, chance) -> None:
    """A tenth of the tensors lost, as in a file that did not arrive, and strangers added; the order means nothing."""
    case = Case.named(name)
    keys = sorted(wb.open(case.path).header)
    kept = [*chance.sample(keys, len(keys) - len(keys) // 10), "optimizer.step", "ema.decay"]
    chance.shuffle(kept)
    assert detect(header_of(*kept), case.config).name == case.config["model_type"]


def test_quantisation_companions_are_no_names_of_a_family() -> None:
    header = wb.open(Case.named("qwen3_moe__Qwen3MoeForCausalLM__12experts_tied").path).header
    scales = header_of(*(f"{key}_scale_inv" for key in header if "proj" in key))
    best = detect(wb.Header({**header.specs, **scales.specs})).best
    assert best is not None
    assert (best.score, best.unknown) == (1.0, ())


def test_configuration_does_not_make_other_names_fit() -> None:
    """A checkpoint of one type with the configuration of another one: the names decide, and the note says so."""
    header = wb.open(Case.named("segformer__SegformerForImageClassification").path).header
    found = detect(header, {"model_type": "mixtral"})
    assert found.name == "segformer"
    assert found.notes == ("config.json names 'mixtral'; no tensor has a name of that family",)
    found = detect(header, {"model_type": "vit"})
    assert found.name == "segformer"
    assert found.notes[0].startswith("config.json names 'vit', which agrees to ")


@pytest.mark.parametrize("config", [{}, {"model_type": 3}, [], "text", 7])
def test_strange_configuration_is_none(config: object) -> None:
    header = wb.open(Case.named("yolos__YolosModel").path).header
    assert "yolos" in named(detect(header, config))


def test_unknown_names_are_of_no_family() -> None:
    for header in (header_of(), header_of("a.b", "c"), header_of("\ue000.weight")):
        found = detect(header)
        assert (bool(found), found.name, found.layout, found.summary()) == (False, "", "", "")
        assert str(found).startswith("no known family")


def test_fused_and_damaged_checkpoints_are_told() -> None:
    fused = wb.detect(damaged_case("mixtral_already_fused").path)
    assert (fused.name, fused.layout) == ("mixtral", RUNTIME)
    assert wb.detect(damaged_case("llava_extra_unknown_key").path).name == "llava"
    keys = wb.open(damaged_case("mixtral_missing_all_experts_of_layer").path).header
    best = detect(header_of(*(key for key in keys if ".experts." not in key)), {"model_type": "mixtral"}).best
    assert best is not None
    assert any("experts" in name for name in best.missing)


def test_reasons_name_rules_and_what_speaks_against() -> None:
    case = Case.named("llava__LlavaForConditionalGeneration")
    header = wb.Header({**wb.open(case.path).header.specs, "stray.weight": SPEC})
    found = detect(header, case.config)
    text = str(found)
    assert "for     rule 2, GroupWeightRename(^language_model, " in text
    assert "against 1 name not known of it: stray.weight" in text
    plan = wb.plan(case.path, case.mapping(), target=case.target(), config=case.config)
    fired = {number for step in plan.steps for number in step.rules}
    assert found.best is not None
    assert {use.rule.partition(",")[0] for use in found.best.rules} == {f"rule {number + 1}" for number in fired}
    counts = {use.rule.partition(",")[0]: use.keys for use in found.best.rules}
    for number in fired:
        sources = {key for step in plan.steps if number in step.rules for key in step.sources}
        assert counts[f"rule {number + 1}"] == len(sources)


def test_registered_mappings_are_judged_by_their_rules() -> None:
    registry = built_in()
    others = {"mine": wb.Mapping([wb.WeightRenaming("blk", "layers"), wb.WeightRenaming("tok", "embed")], name="mine")}
    keys = [f"blk.{i}.weight" for i in range(3)]
    found = detect(header_of(*keys, "tok.weight"), registry=registry, others=others)
    assert (found.name, found.layout) == ("mine", PUBLISHED)
    found = detect(header_of(*(key.replace("blk", "layers") for key in keys)), registry=registry, others=others)
    assert (found.candidates[0].name, found.candidates[0].layout) == ("mine", RUNTIME)


def test_every_family_is_in_the_table() -> None:
    """Each model type that has a mapping, but for parts that are never published alone."""
    types = {name for name in families.MODULES if name[0].islower()}
    known = {layout.model_type for layout in known_layouts()}
    assert known <= types
    assert types - known == {"altclip_text_model", "siglip2_text_model", "siglip_text_model"} & types - known
    assert sorted(known) == list(dict.fromkeys(layout.model_type for layout in known_layouts()))


def test_table_holds_every_mark_and_no_other() -> None:
    marks = {line[0] for line in SIGNATURES.splitlines() if line[1:2] == " "}
    assert marks == set("+?=~")
    assert all(layout.common | layout.other for layout in known_layouts())


def test_large_header_takes_few_names() -> None:
    """90,000 keys are compared as a handful of names."""
    keys = [
        f"model.layers.{i}.mlp.experts.{j}.{name}_proj.weight"
        for i in range(60)
        for j in range(512)
        for name in ("gate", "up", "down")
    ]
    found = detect(header_of(*keys))
    assert found.candidates[0].known == 3
    assert sum(use.keys for use in found.candidates[0].rules) == len(keys)
    assert found.candidates[0].score < ENOUGH


def test_command_answers_in_text_and_json(tmp_path: Path) -> None:
    place = str(PLACE / "cases" / "qwen3_moe__Qwen3MoeForCausalLM__12experts_tied")
    ran = run(tmp_path, "detect", place)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("qwen3_moe: published layout\nagrees    100%\n")
    form = run(tmp_path, "detect", place, "--json").form
    assert set(form) == documented("detect")
    assert (form["name"], form["candidates"][0]["rules"][0]["keys"]) == ("qwen3_moe", 48)


def test_table_of_transformers_is_asked_for(tmp_path: Path) -> None:
    """A type that has no family here is found by the rules of the installed library's table."""
    pytest.importorskip("transformers", reason="needs the transformers library")
    keys = [
        f"backbone.layers.{i}.mixer.experts.{j}.{name}_proj.weight"
        for i in range(2)
        for j in range(3)
        for name in ("up", "down")
    ]
    save_file({key: np.zeros(2, np.float32) for key in keys}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "nemotron_h"}')
    assert not wb.detect(tmp_path)
    found = wb.detect(tmp_path, transformers=True)
    assert (found.name, found.layout, found.notes) == ("nemotron_h", PUBLISHED, ())


# Families that are not in the table

TWO_STACKS = {
    "d_model": 16,
    **{f"{side}_layers": 1 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 8 for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
    "vocab_size": 32,
    "pad_token_id": 1,
}
VISION = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}

FOREIGN: dict[str, tuple[str, dict[str, object]]] = {
    "BartConfig": ("BartForConditionalGeneration", TWO_STACKS),
    "MBartConfig": ("MBartForConditionalGeneration", TWO_STACKS),
    "MarianConfig": ("MarianMTModel", TWO_STACKS),
    "PegasusConfig": ("PegasusForConditionalGeneration", TWO_STACKS),
    "WhisperConfig": ("WhisperForConditionalGeneration", TWO_STACKS),
    "OPTConfig": (
        "OPTForCausalLM",
        {"hidden_size": 16, "num_hidden_layers": 1, "ffn_dim": 8, "num_attention_heads": 2, "vocab_size": 32},
    ),
    "BeitConfig": ("BeitModel", VISION | {"image_size": 32}),
    "Data2VecVisionConfig": ("Data2VecVisionModel", VISION | {"image_size": 32}),
    "DebertaV2Config": ("DebertaV2Model", VISION | {"vocab_size": 32}),
}
"""Classes of the transformers library whose types have no mapping here, with small configurations."""


def foreign(name: str) -> tuple[str, list[str]]:
    """Make a model without memory; return its type and its keys."""
    transformers = pytest.importorskip("transformers", reason="needs the transformers library")
    torch = pytest.importorskip("torch")
    model_class, settings_of_it = FOREIGN[name]
    config = getattr(transformers, name)(**settings_of_it)
    with torch.device("meta"):
        return config.model_type, list(getattr(transformers, model_class)(config).state_dict())


@pytest.mark.parametrize("name", FOREIGN)
def test_e_foreign_family_is_never_taken_for_another_without_perhaps(name: str) -> None:
    model_type, keys = foreign(name)
    assert model_type not in {layout.model_type for layout in known_layouts()}
    found = detect(header_of(*keys))
    assert not found or found.summary().startswith("perhaps ")
    told = detect(header_of(*keys), {"model_type": model_type})
    assert not told
    assert told.summary() == f"{model_type}, by config.json alone"
    assert told.notes == (f"config.json names {model_type!r}, a family of which no names are known here",)


@pytest.mark.parametrize("name", ["BartConfig", "OPTConfig"])
def test_e_inspect_and_detect_name_the_family_of_the_configuration(name: str, tmp_path: Path) -> None:
    model_type, keys = foreign(name)
    save_file({key: np.zeros(2, np.float32) for key in keys}, tmp_path / "model.safetensors")
    assert "\nfamily    perhaps detr: " in run(tmp_path, "inspect", ".").out
    (tmp_path / "config.json").write_text(f'{{"model_type": "{model_type}"}}')
    assert f"\nfamily    {model_type}, by config.json alone\n" in run(tmp_path, "inspect", ".").out
    form = run(tmp_path, "inspect", ".", "--json").form
    assert form["family"] == {"name": model_type, "layout": None, "score": None, "tied": []}
    answer = run(tmp_path, "detect", ".").out
    assert answer.startswith(f"{model_type}, by config.json alone\nnearest   detr, published layout: ")
    assert run(tmp_path, "detect", ".", "--json").form["name"] is None


def test_e_configuration_wins_over_names_that_fit_better_but_not_for_certain() -> None:
    _, keys = foreign("BartConfig")
    found = detect(header_of(*keys), {"model_type": "llama"})
    assert not found
    assert found.summary() == "llama, by config.json alone"
    assert "config.json names 'llama'" in found.notes[0]


def test_e_configuration_needs_no_perhaps() -> None:
    held = wb.open(Case.named("llava__LlavaForConditionalGeneration").path).header
    most = header_of(*(f"{'' if number % 8 else 'mine.'}{key}" for number, key in enumerate(sorted(held))))
    assert detect(most).summary().startswith("perhaps llava: ")
    assert detect(most, {"model_type": "llava"}).summary() == "llava: published layout (agrees 82%)"


@pytest.mark.parametrize("layout", known_layouts(), ids=lambda layout: f"{layout.model_type}, {layout.name}")
def test_e_every_family_is_a_fact_by_its_own_names(layout: Layout) -> None:
    """By the names that all its checkpoints have, where there are any, and by all that are known of it."""
    for names in (layout.common, layout.common | layout.other):
        found = detect(header_of(*(name.replace("*", "0") for name in names)), reasons=False)
        if names:
            assert found.best is not None
            assert found.best.score >= SURE
            assert layout.model_type in named(found)
            assert not found.summary().startswith("perhaps")
