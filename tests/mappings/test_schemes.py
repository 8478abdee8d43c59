"""Quantised formats as data: the scheme of each real example, and what contradicts a configuration."""

from __future__ import annotations

import json
from importlib import import_module
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from form_values import places_of, replaced
from hypothesis import given, strategies as st

import weighbridge as wb
from weighbridge.mappings.schemes.endings import BELOW_WEIGHT, OF_MODULE, STATE, TAILS
from weighbridge.mappings.schemes.quantisation import FORMATS, Quantisation, find_quantisation
from weighbridge.mappings.schemes.said import BESIDE, read_said
from weighbridge.mappings.schemes.scheme import Span

EXAMPLES = ROOT.parent / "shared" / "formats"

TITLES = {
    "awq-gemm": {"int4 in groups of 32 columns, version gemm": 7},
    "bnb-int8": {"int8, one scale for each row": 7},
    "bnb-nf4": {"NF4 in blocks of the flat weight": 7},
    "ct-fp8-block": {"fp8, blocks of 16 x 16": 7},
    "ct-fp8-block-misaligned": {"fp8, blocks of 32 x 32": 7},
    "ct-fp8-tensor-static": {"fp8, one scale for each weight": 7},
    "ct-from-awq-gemm": {"int4 packed into words, groups of 32 columns": 7},
    "ct-int4-asym": {"int4 packed into words, groups of 16 columns": 7},
    "ct-int4-asym-misaligned": {"int4 packed into words, groups of 8 columns": 7},
    "ct-int4-group": {"int4 packed into words, groups of 32 columns": 7},
    "ct-int8-channel": {"int8, one scale for each row": 7},
    "ct-moe-int4-asym": {"int4 packed into words, groups of 16 columns": 13},
    "ct-moe-int4-group": {"int4 packed into words, groups of 16 columns": 13},
    "ct-mxfp4": {"MXFP4 in groups of 32 columns": 7},
    "ct-nvfp4": {"NVFP4 in groups of 16 columns": 7},
    "fp8-block-128-mla": {"FP8 in blocks of 128 x 128": 2},
    "fp8-block-aligned": {"FP8 in blocks of 16 x 16": 7},
    "fp8-block-moe": {"FP8 in blocks of 16 x 16": 13},
    "fp8-block-straddle": {"FP8 in blocks of 32 x 32": 7},
    "gpt-oss-mxfp4": {"MXFP4 in blocks of 32 columns": 2},
    "gptq-int4": {"int4 in groups of 32 columns, format gptq": 7},
    "hqq-int4": {"int4 in groups of 32 of the flat weight": 7},
    "mlx-mxfp4": {"mxfp4 of 4 bits in groups of 32 columns": 6},
    "modelopt-fp8": {"FP8, one scale for each weight": 7},
    "modelopt-nvfp4": {"NVFP4 in groups of 16 columns": 7},
    "torchao-float8": {f"FP8, one scale for {size} columns of a row": n for size, n in ((32, 5), (64, 1), (96, 1))},
    "torchao-int8": {f"int8, one scale for {size} columns of a row": n for size, n in ((32, 5), (64, 1), (96, 1))},
}
"""What each example is, and how many weights of it are stored so: facts of the libraries that wrote them."""

PLAIN = ("F32", "BF16", "F16")


def example(name: str) -> tuple[wb.Header, Any, dict[str, Any]]:
    place = EXAMPLES / name
    if not place.is_dir():
        pytest.skip("needs the directory shared/formats beside the project")
    beside = {each: json.loads((place / each).read_text()) for each in BESIDE if (place / each).is_file()}
    return wb.open(place / "model.safetensors").header, json.loads((place / "config.json").read_text()), beside


def counts(found: Quantisation | None) -> dict[str, int]:
    assert found is not None
    titles = [weight.scheme.title for weight in found.weights]
    return {title: titles.count(title) for title in dict.fromkeys(titles)}


@pytest.mark.parametrize("name", TITLES)
def test_each_example_has_the_scheme_that_its_writer_gave_it(name: str) -> None:
    header, config, beside = example(name)
    found = find_quantisation(header, config, beside)
    assert counts(found) == TITLES[name]
    assert found is not None
    assert found.problems == []
    grouped = [key for weight in found.weights for _, key in weight.keys]
    assert len(grouped) == len(set(grouped))
    others = {key: spec.dtype for key, spec in header.items() if key not in grouped}
    assert set(others.values()) <= set(PLAIN), others


def test_every_example_is_told() -> None:
    if not EXAMPLES.is_dir():
        pytest.skip("needs the directory shared/formats beside the project")
    said = [place.parent.name for place in EXAMPLES.glob("*/config.json") if b"quantization" in place.read_bytes()]
    assert sorted(said) == sorted(TITLES)


# ---- what contradicts a configuration ----

Specs = dict[str, tuple[str, tuple[int, ...]]]
WEIGHTS: dict[str, tuple[dict[str, Any], Specs]] = {
    "fp8": (
        {"quant_method": "fp8", "weight_block_size": [32, 32]},
        {"q.weight": ("F8_E4M3", (80, 64)), "q.weight_scale_inv": ("F32", (3, 2))},
    ),
    "stacked fp8": (
        {"quant_method": "fp8", "weight_block_size": [32, 32]},
        {"experts.up": ("F8_E4M3", (5, 80, 64)), "experts.up_scale_inv": ("F32", (5, 3, 2))},
    ),
    "packed": (
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {
                "one": {
                    "targets": ["Linear"],
                    "weights": {
                        "num_bits": 3,
                        "type": "int",
                        "strategy": "group",
                        "group_size": 20,
                        "symmetric": False,
                    },
                }
            },
        },
        {
            "q.weight_packed": ("I32", (16, 6)),  # 60 columns of 3 bits, in 5.6 words
            "q.weight_scale": ("BF16", (16, 3)),
            "q.weight_zero_point": ("I32", (2, 3)),
            "q.weight_shape": ("I64", (2,)),
        },
    ),
    "modelopt": (
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16},
        {"q.weight": ("U8", (6, 16)), "q.weight_scale": ("F8_E4M3", (6, 2)), "q.weight_scale_2": ("F32", ())},
    ),
    "int4 of modelopt": (
        {"quant_method": "modelopt", "quant_algo": "W4A16_AWQ", "group_size": 8},
        {"q.weight": ("U8", (3, 16)), "q.weight_scale": ("F32", (6, 2)), "q.pre_quant_scale": ("BF16", (16,))},
    ),
    "gptq": (
        {"quant_method": "gptq", "bits": 4, "group_size": 16},
        {
            "q.qweight": ("I32", (4, 24)),
            "q.qzeros": ("I32", (2, 3)),
            "q.scales": ("F16", (2, 24)),
            "q.g_idx": ("I32", (32,)),
        },
    ),
    "awq": (
        {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm"},
        {"q.qweight": ("I32", (32, 3)), "q.qzeros": ("I32", (2, 3)), "q.scales": ("F16", (2, 24))},
    ),
    "nf4": (
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        {
            "q.weight": ("U8", (96, 1)),
            "q.weight.absmax": ("F32", (3,)),
            "q.weight.quant_map": ("F32", (16,)),
            "q.weight.quant_state.bitsandbytes__nf4": ("U8", (81,)),
        },
    ),
    "mxfp4": (
        {"quant_method": "mxfp4"},
        {"experts.up_blocks": ("U8", (2, 6, 3, 16)), "experts.up_scales": ("U8", (2, 6, 3))},
    ),
    "hqq": (
        {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 8}}},
        {"q.W_q": ("U8", (6, 8)), "q.scale": ("F16", (12, 1)), "q.zero": ("F16", (12, 1))},
    ),
}


def header_of(specs: Specs, metadata: dict[str, str] | None = None) -> wb.Header:
    found = {key: wb.TensorSpec(dtype, shape) for key, (dtype, shape) in specs.items()}
    return wb.Header(found | {"norm.weight": wb.TensorSpec("F32", (4,))}, metadata or {})


def problems_of(config: dict[str, Any], specs: Specs, **beside: Any) -> list[str]:
    found = find_quantisation(header_of(specs), {"quantization_config": config}, beside)
    assert found is not None
    return found.problems


@pytest.mark.parametrize("name", WEIGHTS)
def test_one_tensor_less_is_missed(name: str) -> None:
    config, specs = WEIGHTS[name]
    assert problems_of(config, specs) == []
    for key in specs:
        if not key.endswith(("g_idx", "pre_quant_scale")):  # not every checkpoint has them
            (problem,) = problems_of(config, {other: spec for other, spec in specs.items() if other != key})
            ending = next(end for end in (key.removeprefix("q"), key.removeprefix("experts.up")) if end != key)
            assert "has no " in problem
            assert f"({ending})" in problem


@pytest.mark.parametrize("name", WEIGHTS)
def test_another_size_or_dtype_is_seen(name: str) -> None:
    """Of any tensor with entries for parts of the weight, along any axis."""
    config, specs = WEIGHTS[name]
    free = ("weight_shape", "absmax", "quant_state.bitsandbytes__nf4", "W_q")
    for key, (dtype, shape) in specs.items():
        assert problems_of(config, specs | {key: ("C64", shape)}) != [], key
        for axis in range(0 if key.endswith(free) else len(shape)):
            larger = (*shape[:axis], 3 * shape[axis] + 1, *shape[axis + 1 :])
            is_alone = (name, key, axis) == ("nf4", "q.weight", 0)  # the other tensors say no size
            assert bool(problems_of(config, specs | {key: (dtype, larger)})) != is_alone, (key, axis)


def test_scales_beside_ordinary_weights_are_seen() -> None:
    config, specs = WEIGHTS["fp8"]
    (problem,) = problems_of(config, specs | {"q.weight": ("BF16", (80, 64))})
    assert problem == "q: codes are BF16, where F8_E4M3 or F8_E5M2 or F8_E4M3FNUZ or F8_E5M2FNUZ is known"


def test_a_grid_of_another_block_says_what_was_expected() -> None:
    config, specs = WEIGHTS["fp8"]
    (problem,) = problems_of(config | {"weight_block_size": [16, 64]}, specs)
    assert problem == "q: scales have [3, 2] entries, and 5 are expected for 80 rows, 16 each"


def test_single_values_in_two_shapes_are_seen() -> None:
    config, specs = WEIGHTS["modelopt"]
    both = specs | {key.replace("q.", "k."): spec for key, spec in specs.items()} | {"k.weight_scale_2": ("F32", (1,))}
    assert problems_of(config, both) == [".weight_scale_2: single values have the shapes [] and [1]"]


@pytest.mark.parametrize(
    ("name", "file", "content", "problem"),
    [
        (
            "modelopt",
            "hf_quant_config.json",
            {"quantization": {"quant_algo": "FP8"}},
            "quant_algo is FP8 in hf_quant_config.json, and NVFP4 in the configuration",
        ),
        (
            "gptq",
            "quantize_config.json",
            {"bits": 4, "group_size": 128},
            "group_size is 128 in quantize_config.json, and 16 in the configuration",
        ),
        (
            "awq",
            "quantize_config.json",
            {"bits": 4, "group_size": 16},
            "quantize_config.json is of gptq, the configuration of awq",
        ),
    ],
)
def test_files_that_disagree_are_seen(name: str, file: str, content: Any, problem: str) -> None:
    assert problems_of(*WEIGHTS[name], **{file: content}) == [problem]


def test_a_file_of_its_own_may_say_it_all() -> None:
    config, specs = WEIGHTS["gptq"]
    found = find_quantisation(header_of(specs), {"model_type": "llama"}, {"quantize_config.json": config})
    assert counts(found) == {"int4 in groups of 16 columns, format undeclared": 1}


def test_two_schemes_that_fit_are_no_choice() -> None:
    """Neither is named exactly: targets are classes, or patterns, and the sizes allow both."""
    config, _ = WEIGHTS["packed"]
    weights = {"num_bits": 8, "type": "int", "symmetric": True}
    groups = {
        "one": {"targets": ["re:.*q"], "weights": weights | {"strategy": "group", "group_size": 64}},
        "two": {"targets": ["Linear"], "weights": weights | {"strategy": "channel"}},
    }
    specs: Specs = {"q.weight": ("I8", (8, 64)), "q.weight_scale": ("F32", (8, 1))}
    said = config | {"format": "int-quantized", "config_groups": groups}
    assert problems_of(said, specs) == ["q: may be int8, groups of 64 columns or int8, one scale for each row"]
    groups["one"]["targets"] = ["q"]
    assert problems_of(said, specs) == []


def test_metadata_that_names_absent_tensors_is_seen() -> None:
    described = json.dumps({"_type": "Int8Tensor", "_data": {"block_size": [1, 64]}})
    metadata = {"a.q.weight": described, "a.k.weight": described, "norm.weight": '{"_type": "Tensor"}', "x": "["}
    specs: Specs = {"a.q._weight_qdata": ("I8", (8, 64)), "a.q._weight_scale": ("F32", (8, 1))}
    found = find_quantisation(header_of(specs, metadata), {"quantization_config": {"quant_method": "torchao"}})
    assert counts(found) == {"int8, one scale for 64 columns of a row": 1}
    assert found is not None
    named = "and the metadata of the file names it"
    absent = [f"a.k: has no tensors of int8, one scale for 64 columns of a row, {named}"]
    assert found.problems == absent
    metadata["tensor_names"] = '["head.weight", "norm.weight", "a.q.weight"]'
    found = find_quantisation(header_of(specs, metadata), {"quantization_config": {"quant_method": "torchao"}})
    assert found is not None
    assert found.problems == [f"head: has no tensor, {named}", *absent]


def test_an_unknown_method_is_named() -> None:
    assert problems_of({"quant_method": "AQLM"}, {}) == ["no scheme is known for what the configuration says of aqlm"]


@given(st.data())
def test_no_configuration_is_a_crash(data: st.DataObject) -> None:
    config, specs = WEIGHTS[data.draw(st.sampled_from(sorted(WEIGHTS)))]
    wrong = st.sampled_from([None, True, 0, -1, 2**70, 1.5, "", "text", [], [1], [[]], {}, {"weights": 1}, {"a": {}}])
    changed = replaced(config, data.draw(st.sampled_from(places_of(config))), data.draw(wrong))
    find_quantisation(header_of(specs), {"quantization_config": changed}, dict.fromkeys(BESIDE, data.draw(wrong)))


@given(st.integers(1, 60), st.integers(0, 60), st.integers(1, 12), st.integers(1, 9))
def test_the_sizes_of_an_axis_are_those_that_have_as_many_entries(
    least: int, more: int, entries: int, elements: int
) -> None:
    found = Span(least, least + more).within(entries, elements)
    fitting = [size for size in range(least, least + more + 1) if ceil(size / elements) == entries]
    assert (None if found is None else list(range(found.least, found.most + 1))) == (fitting or None)


@pytest.mark.parametrize("name", [*WEIGHTS, "int8", "several"])
def test_every_name_of_a_scheme_is_in_the_one_list_of_names(name: str) -> None:
    """Whoever has no configuration tells the tensors of a quantised weight by that list."""
    group = {
        "targets": ["Linear"],
        "weights": {"num_bits": 8, "type": "int", "symmetric": False, "strategy": "channel"},
    }
    further = {
        "int8": {"quant_method": "bitsandbytes", "load_in_8bit": True},
        "several": {"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": {"one": group}},
    }
    config = further[name] if name in further else WEIGHTS[name][0]
    said, _ = read_said({"quantization_config": config}, {}, {})
    assert said is not None
    schemes = [
        scheme for each in FORMATS for scheme in import_module(f"weighbridge.mappings.schemes.{each}").read(said)
    ]
    members = [member for scheme in schemes for form in scheme.forms for member in form]
    assert len(members) > 1
    endings = {member.ending for member in members if member.kind != "derived" or member.is_needed} - {"", ".weight"}
    known = OF_MODULE | BELOW_WEIGHT
    strange = [each for each in endings if each.rpartition(".")[2] not in known and STATE not in each]
    assert [each for each in strange if not each.endswith(TAILS)] == []


def test_each_format_says_where_its_facts_are_from() -> None:
    folder = ROOT / "src" / "weighbridge" / "mappings" / "schemes"
    assert {path.stem for path in Path(folder).glob("*.py")} == {
        *FORMATS,
        "__init__",
        "dialects",
        "endings",
        "quantisation",
        "said",
        "scheme",
    }
    assert all("After `" in (folder / f"{name}.py").read_text().split('"""')[1] for name in FORMATS)
