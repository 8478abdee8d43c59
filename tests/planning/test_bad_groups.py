"""Quantised checkpoints that cannot be trusted: a named error before anything is written, or an exact movement."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from test_groups import DIFFERING, EQUALISED, FUSED, JOINABLE, codes_of, config_of, example

import weighbridge as wb

Specs = dict[str, tuple[str, tuple[int, ...]]]


def said(method: str, **config: Any) -> dict[str, Any]:
    return {"quantization_config": {"quant_method": method, **config}}


FP8 = said("fp8", weight_block_size=[2, 2])
MODELOPT = said("modelopt", quant_algo="FP8")
NVFP4 = said("modelopt", quant_algo="NVFP4", group_size=16)
AWQ = said("awq", bits=4, group_size=16, version="gemm")
GPTQ = said("gptq", bits=4, group_size=16)
NF4 = said("bitsandbytes", load_in_4bit=True, bnb_4bit_quant_type="nf4")
HQQ = said("hqq", quant_config={"weight_quant_params": {"nbits": 4, "group_size": 8}})
TORCHAO = said("torchao")


def integers(**weights: Any) -> dict[str, Any]:
    form = "pack-quantized" if weights["num_bits"] < 8 else "int-quantized"
    groups = {"one": {"targets": ["re:.*"], "weights": {"type": "int", "symmetric": True, **weights}}}
    return said("compressed-tensors", format=form, config_groups=groups)


INT3 = integers(num_bits=3, strategy="group", group_size=16)
TWO_GROUPS = integers(num_bits=8, strategy="channel")
TWO_GROUPS["quantization_config"]["config_groups"]["two"] = {
    "targets": ["Linear"],
    "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "group", "group_size": 4},
}


def of(name: str, tensors: Specs) -> Specs:
    return {f"{name}.{key}": spec for key, spec in tensors.items()}


def both(tensors: Specs) -> Specs:
    """The tensors of two weights, which a rule joins."""
    return of("a", tensors) | of("b", tensors)


BLOCKS: Specs = {"weight": ("F8_E4M3", (4, 4)), "weight_scale_inv": ("F32", (2, 2))}
WHOLE: Specs = {"weight": ("F8_E4M3", (4, 4)), "weight_scale": ("F32", ())}
FOUR_BITS: Specs = {
    "weight": ("U8", (4, 16)),
    "weight_scale": ("F8_E4M3", (4, 2)),
    "weight_scale_2": ("F32", ()),
    "input_scale": ("F32", ()),
}
WORDS: Specs = {"qweight": ("I32", (32, 2)), "qzeros": ("I32", (2, 2)), "scales": ("F16", (2, 12))}
NUMBERED: Specs = {
    "qweight": ("I32", (4, 8)),
    "qzeros": ("I32", (2, 1)),
    "scales": ("F16", (2, 8)),
    "g_idx": ("I32", (32,)),
}
THREE_BITS: Specs = {"weight_packed": ("I32", (4, 6)), "weight_scale": ("BF16", (4, 4)), "weight_shape": ("I64", (2,))}
FLAT: Specs = {
    "weight": ("U8", (96, 1)),
    "weight.absmax": ("F32", (3,)),
    "weight.quant_map": ("F32", (16,)),
    "weight.quant_state.bitsandbytes__nf4": ("U8", (81,)),
}
NESTED: Specs = FLAT | {
    "weight.absmax": ("U8", (3,)),
    "weight.nested_absmax": ("F32", (1,)),
    "weight.nested_quant_map": ("F32", (256,)),
}
HALVES: Specs = {"W_q": ("U8", (6, 8)), "scale": ("F16", (12, 1)), "zero": ("F16", (12, 1))}
FLATTENED: Specs = {"_weight_qdata": ("I8", (4, 4)), "_weight_scale": ("F32", (4, 1))}

JOIN = wb.WeightConverter(["a.weight", "b.weight"], "ab.weight", [wb.Concatenate(0)])
STACK = wb.WeightConverter("experts.*.up.weight", "experts.up", [wb.MergeModulelist(0)])
MOVED = wb.WeightRenaming("^a.weight", "c.weight")


def cut(*sizes: int) -> wb.WeightConverter:
    return wb.WeightConverter("a.weight", ["x.weight", "y.weight"], [wb.Split(1, sizes)])


class Case(NamedTuple):
    """Tensors, a configuration and a rule; then the code of the error, and a part of what it says."""

    specs: Specs
    config: dict[str, Any]
    rule: wb.WeightConverter | wb.WeightRenaming
    code: str
    words: str
    metadata: Mapping[str, str] = {}


def experts(numbers: tuple[int, ...]) -> Specs:
    return {key: spec for number in numbers for key, spec in of(f"experts.{number}.up", BLOCKS).items()}


DESCRIBED = {
    name: json.dumps({"_type": "Int8Tensor", "_data": {"block_size": [1, 4]}}) for name in ("a.weight", "b.weight")
}
ABSENT = DESCRIBED | {"m.gone.weight": DESCRIBED["a.weight"], "tensor_names": json.dumps([*DESCRIBED, "m.gone.weight"])}
ABSENT_NORM = DESCRIBED | {
    "norm.weight": json.dumps({"_type": "Tensor"}),
    "tensor_names": json.dumps([*DESCRIBED, "norm.weight"]),
}
SINGLE, DOUBLE = (
    said("bitsandbytes", load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=is_double)
    for is_double in (False, True)
)

OTHER_GRID: Specs = {"a.weight_scale_inv": ("F32", (4, 4))}

CASES: dict[str, Case] = {
    "scales on another grid than the configuration says": Case(
        both(BLOCKS) | OTHER_GRID, FP8, JOIN, "scheme-conflict", "2 are expected for 4 rows"
    ),
    "a grid whose axes are exchanged": Case(
        both(BLOCKS) | of("a", {"weight": ("F8_E4M3", (8, 4)), "weight_scale_inv": ("F32", (2, 4))}),
        FP8, JOIN, "scheme-conflict", "4 are expected for 8 rows",
    ),
    "scales beside plain weights": Case(
        both(WHOLE | {"weight": ("BF16", (4, 4))}), MODELOPT, JOIN, "scheme-conflict", "codes are BF16"
    ),
    "scales beside one plain weight": Case(
        both(WHOLE) | {"a.weight": ("BF16", (4, 4))}, MODELOPT, JOIN, "scheme-conflict", "codes are BF16"
    ),
    "a plain weight that is renamed, and not the scale beside it": Case(
        both(WHOLE | {"weight": ("BF16", (4, 4))}), MODELOPT, MOVED, "scheme-conflict", "codes are BF16"
    ),
    "codes that are renamed, and not the scales of another grid": Case(
        both(BLOCKS) | OTHER_GRID, FP8, MOVED, "companion-unknown", "a.weight_scale_inv -> a.weight_scale_inv"
    ),
    "0-d and [1]": Case(
        both(WHOLE) | {"b.weight_scale": ("F32", (1,))}, MODELOPT, JOIN, "companion-missing", "F32 [1]"
    ),
    "[1] and [1, 1]": Case(
        both(WHOLE | {"weight_scale": ("F32", (1,))}) | {"b.weight_scale": ("F32", (1, 1))},
        MODELOPT, JOIN, "companion-missing", "F32 [1, 1]",
    ),
    "0-d here and [1] elsewhere": Case(
        both(WHOLE) | of("z", WHOLE | {"weight_scale": ("F32", (1,))}),
        MODELOPT, JOIN, "scheme-conflict", "single values have the shapes [] and [1]",
    ),
    "two schemes that fit": Case(
        both({"weight": ("I8", (2, 4)), "weight_scale": ("F32", (2, 1))}),
        TWO_GROUPS, JOIN, "scheme-ambiguous", "may be int8, one scale for each row or int8, groups of 4 columns",
    ),
    "metadata of torchao that names absent tensors": Case(
        both(FLATTENED), TORCHAO, JOIN, "scheme-conflict", "m.gone: has no tensors of int8", ABSENT
    ),
    "metadata of torchao that names absent tensors, where names change": Case(
        both(FLATTENED), TORCHAO, MOVED, "scheme-conflict", "m.gone: has no tensors of int8", ABSENT
    ),
    "metadata of torchao that names an absent norm, where names change": Case(
        both(FLATTENED), TORCHAO, MOVED, "scheme-conflict", "norm: has no tensor, and the metadata", ABSENT_NORM
    ),
    "metadata of torchao without a list of names, where names change": Case(
        both(FLATTENED), TORCHAO, MOVED, "scheme-conflict", "cannot be read", DESCRIBED | {"tensor_names": "{}"}
    ),
    "a method without a scheme": Case(
        both(BLOCKS), said("fbgemm_fp8"), JOIN, "companion-unknown", "a.weight_scale_inv"
    ),
    "experts with a gap": Case(experts((0, 1, 3)), FP8, STACK, "group-incomplete", "missing: 2"),
    "experts with a gap in their scales": Case(
        {key: spec for key, spec in experts((0, 1, 2)).items() if key != "experts.1.up.weight_scale_inv"},
        FP8, STACK, "companion-missing", "has no scales (.weight_scale_inv)",
    ),
    "rows that do not fill their last word, in front": Case(
        both(WORDS), AWQ, JOIN, "companion-misaligned", "row 12 of 24 of the result is 1.5 blocks"
    ),
    "3 bits cut within a word": Case(of("a", THREE_BITS), INT3, cut(16, 48), "companion-fixed", "packed anew"),
    "blocks of the flat weight": Case(
        both(FLAT), NF4, JOIN, "companion-fixed", "96 bytes of codes, 3 scales: their rows and columns"
    ),
    "nested blocks of the flat weight": Case(
        both(NESTED), DOUBLE, JOIN, "companion-fixed", "3 scales: scales that are codes have an offset"
    ),
    "scales that are codes, and a configuration that says they are not": Case(
        both(NESTED), SINGLE, JOIN, "scheme-conflict", "scales are U8, where F32 is known"
    ),
    "nested scales without their table": Case(
        {key: spec for key, spec in both(NESTED).items() if key != "a.weight.nested_quant_map"},
        DOUBLE, JOIN, "companion-missing", "the table of scales (.weight.nested_quant_map)",
    ),
    "groups whose halves share bytes": Case(
        both(HALVES), HQQ, JOIN, "companion-fixed", "48 bytes of codes, 12 scales: a byte holds codes of groups"
    ),
}  # fmt: skip


def header(specs: Specs, metadata: Mapping[str, str] | None = None) -> wb.Header:
    return wb.Header({key: wb.TensorSpec(*spec) for key, spec in specs.items()}, metadata or {})


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_named(name: str) -> None:
    case = CASES[name]
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(header(case.specs, case.metadata), [case.rule], config=case.config)
    assert codes_of(caught) == {case.code}
    assert case.words in str(caught.value)


GROUPS = {
    "blocks": (BLOCKS, FP8),
    "four bits": (FOUR_BITS, NVFP4),
    "words": (WORDS, AWQ),
    "numbered": (NUMBERED, GPTQ),
    "three bits": (THREE_BITS, INT3),
    "flat": (FLAT, NF4),
    "nested": (NESTED, DOUBLE),
    "halves": (HALVES, HQQ),
}


@pytest.mark.parametrize(
    ("name", "lacking"), [(name, key) for name, (specs, _) in GROUPS.items() for key in specs]
)  # fmt: skip
def test_no_tensor_of_a_group_may_be_missing(name: str, lacking: str) -> None:
    specs, config = GROUPS[name]
    there = {key: spec for key, spec in both(specs).items() if key != f"a.{lacking}"}
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(header(there), [JOIN], config=config)
    assert codes_of(caught) & {"companion-missing", "group-incomplete"}


@pytest.mark.parametrize("name", [*JOINABLE, *EQUALISED, *DIFFERING, "ct-int4-asym", "ct-int4-group", "torchao-int8"])
def test_no_tensor_of_a_real_group_may_be_missing(name: str) -> None:
    """Law C5, over the formats' own files: one key is deleted at a time."""
    found, config = wb.open(example(name) / "model.safetensors").header, config_of(example(name))
    assert wb.plan(found, FUSED, config=config)
    group = [key for key in found if key.startswith("model.layers.0.self_attn.q_proj.") and not key.endswith(".bias")]
    assert len(group) > 1
    for lacking in group:
        there = {key: spec for key, spec in found.items() if key != lacking}
        with pytest.raises(wb.PlanError) as caught:
            wb.plan(wb.Header(there, found.metadata), FUSED, config=config)
        assert codes_of(caught) & {"companion-missing", "group-incomplete", "scheme-conflict"}, lacking


@pytest.mark.parametrize("metadata", [ABSENT, ABSENT_NORM], ids=["codes", "a norm"])
def test_metadata_of_absent_tensors_is_found_without_a_configuration_and_stays_where_no_name_changes(
    metadata: Mapping[str, str],
) -> None:
    found = header(both(FLATTENED), metadata)
    for config in (TORCHAO, None):
        for options in ({}, {"drop": ["^b.{rest:**}"]}):
            with pytest.raises(wb.PlanError) as caught:
                wb.plan(found, [] if options else [MOVED], config=config, **options)
            assert codes_of(caught) == {"scheme-conflict"}
        assert wb.plan(found, [], config=config).metadata == metadata
    whole = {name: text for name, text in metadata.items() if name in DESCRIBED} | {
        "tensor_names": json.dumps([*DESCRIBED])
    }
    for config in (TORCHAO, None):
        made = wb.plan(header(both(FLATTENED), whole), [MOVED], config=config).metadata
        assert json.loads(made["tensor_names"]) == ["c.weight", "b.weight"]
        assert made.keys() == {"c.weight", "b.weight", "tensor_names"}


@pytest.mark.parametrize(
    ("name", "lacking"),
    [(name, key) for name in ("words", "numbered", "three bits") for key in GROUPS[name][0] if "idx" not in key],
)
def test_a_weight_that_lacks_a_tensor_is_not_left_where_a_rule_renames_it(name: str, lacking: str) -> None:
    """No tensor of it has the name that the rule is for: it would silently stay."""
    specs, config = GROUPS[name]
    there = {key: spec for key, spec in both(specs).items() if key != f"a.{lacking}"}
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(header(there), [MOVED], config=config)
    assert codes_of(caught) == {"companion-missing"}
    renamed = wb.plan(
        header(there), [wb.WeightRenaming("^a", "c")], config=config
    )  # all that there is, by its own name
    assert {key for key in renamed.target if key.startswith("c.")} == {f"c.{key}" for key in specs if key != lacking}


INT4 = json.dumps(
    {"_type": "Int4Tensor", "_data": {"shape": [8, 64]}, "_tensor_data_names": ["scale", "qdata", "zero_point"]}
)
"""A type of torchao of which nothing is known here but what its tensors are called."""

TILES: Specs = {
    "_weight_qdata": ("I32", (1, 2, 8, 4)),
    "_weight_scale": ("BF16", (2, 8)),
    "_weight_zero_point": ("BF16", (2, 8)),
}


@pytest.mark.parametrize("config", [TORCHAO, None], ids=["said", "not said"])
def test_types_of_torchao_that_are_not_known_move_under_other_names_with_what_is_said_of_them(config: Any) -> None:
    metadata = {"a.weight": INT4, "b.weight": INT4, "tensor_names": '["b.weight", "a.weight"]'}
    found = header(both(TILES), metadata)
    plan = wb.plan(found, [MOVED], config=config)
    assert dict(plan.metadata) == {"c.weight": INT4, "b.weight": INT4, "tensor_names": '["b.weight", "c.weight"]'}
    assert set(plan.target) == {key.replace("a.", "c.") for key in found}
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(found, [JOIN], config=config)
    assert codes_of(caught) == {"companion-fixed"}
    assert "256 bytes of codes, 16 scales: how its tensors lie over the weight is not known here" in str(caught.value)
    for lacking in of("a", TILES):
        there = {key: spec for key, spec in found.items() if key != lacking}
        with pytest.raises(wb.PlanError) as caught:
            wb.plan(wb.Header(there, metadata), [MOVED], config=TORCHAO)
        assert codes_of(caught) == {"companion-missing"}, lacking


@pytest.mark.parametrize("specs", [FLATTENED, TILES], ids=["known", "not known"])
def test_names_in_metadata_are_not_left_behind_where_tensors_go_by_their_own_names(specs: Specs) -> None:
    said = DESCRIBED["a.weight"] if specs is FLATTENED else INT4
    found = header(both(specs), {"a.weight": said, "b.weight": said, "tensor_names": '["a.weight", "b.weight"]'})
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(found, [wb.WeightRenaming("^a", "c")], config=TORCHAO, companions=False)
    assert codes_of(caught) == {"companion-unknown"}
    assert "leave out companions=False" in str(caught.value)
    assert wb.plan(found, [wb.WeightRenaming("^other", "c")], config=TORCHAO, companions=False).metadata
    assert wb.plan(found, [wb.WeightRenaming("^a", "c")], config=TORCHAO).metadata["c.weight"] == said


GOOD: dict[str, tuple[Specs, dict[str, Any], Any]] = {
    "scales that are powers of two, as bytes": (both(BLOCKS | {"weight_scale_inv": ("U8", (2, 2))}), FP8, JOIN),
    "a scale of a cache beside a plain weight": (
        both({"weight": ("BF16", (4, 4)), "k_scale": ("F32", ())}), MODELOPT, JOIN,
    ),
    "a GPTQ format that nobody declared, whose bytes move alike": (both(NUMBERED), GPTQ, JOIN),
    "plain weights in a quantised checkpoint": (both({"weight": ("BF16", (4, 4))}), FP8, JOIN),
    "3 bits cut between words": (of("a", THREE_BITS), INT3, cut(32, 32)),
    "rows that do not fill their last word, stacked": (
        of("experts.0.up", WORDS) | of("experts.1.up", WORDS), AWQ,
        wb.WeightConverter("experts.*.up.weight", "experts.up.weight", [wb.MergeModulelist(0)]),
    ),
    "what was joined already": (of("ab", BLOCKS), FP8, JOIN),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_what_only_looks_strange_moves(name: str) -> None:
    specs, config, rule = GOOD[name]
    assert wb.plan(header(specs), [rule], config=config).is_exact


def test_files_of_modelopt_that_disagree_are_an_error_where_elements_move(tmp_path: Path) -> None:
    dtypes = {"F8_E4M3": torch.float8_e4m3fn, "F32": torch.float32}
    tensors = {key: torch.ones(shape).to(dtypes[dtype]) for key, (dtype, shape) in both(WHOLE).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(MODELOPT))
    (tmp_path / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP8"}}')
    assert wb.plan(tmp_path, [JOIN]).is_exact
    (tmp_path / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "NVFP4"}}')
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(tmp_path, [JOIN])
    assert codes_of(caught) == {"scheme-conflict"}
    assert "quant_algo is NVFP4 in hf_quant_config.json, and FP8 in the configuration" in str(caught.value)


def test_an_undeclared_format_of_gptq_is_not_read_as_numbers() -> None:
    plan = wb.plan(header(both(NUMBERED)), [], config=GPTQ, dtype="bfloat16")
    assert not plan.computed
    assert any("checkpoint_format is undeclared" in note for note in plan.notes)
