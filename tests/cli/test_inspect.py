"""What `inspect` says beyond the table: family, quantisation, the tree of modules, statistics; and on 80 columns."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from command import SEGMENTS, run, run_on_terminal
from corpus import Case
from hypothesis import given, settings, strategies as st
from safetensors.torch import save_file

import weighbridge as wb
from weighbridge.cli.inspecting.inspection import Inspection
from weighbridge.cli.inspecting.measuring import NAMES, measure
from weighbridge.cli.inspecting.module_tree import Branch, module_tree, tree_lines
from weighbridge.cli.inspecting.quantised import quantisation_hints
from weighbridge.mappings.schemes.endings import COMPANIONS

SPEC = wb.TensorSpec("F32", (2, 3))


def summary(place: object) -> list[str]:
    return [f"{label}: {text}" for label, text in Inspection(wb.open(place)).summary()]


# family, ties, quantisation


def test_family_stands_in_one_line() -> None:
    case = Case.named("llava__LlavaForConditionalGeneration").path
    assert "family: llava: published layout" in summary(case)
    assert Inspection(wb.open(case)).to_dict()["family"] == {
        "name": "llava",
        "layout": "published",
        "score": 1.0,
        "tied": [],
    }
    tied = Case.named("qwen3_moe__Qwen3MoeForCausalLM__12experts_tied").path / "model.safetensors"
    assert "family: qwen3_moe: published layout" in summary(tied)
    assert "family: olmoe; or qwen3_moe: published layout" in summary(wb.open(tied).header)
    assert not [line for line in summary({"a.b": torch.zeros(2)}) if line.startswith("family")]


def test_family_of_some_of_the_names_is_no_fact() -> None:
    held = wb.open(Case.named("llava__LlavaForConditionalGeneration").path).header
    keys = sorted(held)
    half, most = (
        wb.Header({f"{'' if number % share else 'mine.'}{key}": held[key] for number, key in enumerate(keys)})
        for share in (2, 8)
    )
    assert not [line for line in summary(half) if line.startswith("family")]
    assert "family: perhaps llava: published layout (agrees 82%)" in summary(most)


def test_ties_are_named_and_counted_once(tmp_path: Path) -> None:
    shared = torch.zeros(4, 3)
    torch.save({"embed.weight": shared, "head.weight": shared}, tmp_path / "model.bin")
    lines = summary(tmp_path / "model.bin")
    assert "tied: head.weight = embed.weight" in lines
    assert "params: 12" in lines


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["l.0.q.weight_scale_inv", "l.1.q.weight_scale_inv"], "scales of blocks, as of FP8: 2 tensors, l.{0,1}.q"),
        (
            ["l.0.qweight", "l.0.qzeros", "l.0.scales", "l.0.g_idx"],
            "GPTQ and AWQ: 3 tensors, l.0.{g_idx,qweight,qzeros}",
        ),
        (["q.weight_packed", "q.weight_shape"], "packed weights of compressed-tensors: 2 tensors"),
        (["q.weight_scale", "q.input_scale"], "scales of weights, activations or caches: 2 tensors"),
        (["w.absmax", "w.quant_state.bitsandbytes__nf4"], "state of bitsandbytes: 2 tensors"),
        (["q._weight_qdata", "q._weight_scale"], "tensors of torchao: 2 tensors"),
        (["experts.gate_up_proj_blocks", "experts.gate_up_proj_scales"], "as of MXFP4: 2 tensors"),
    ],
)
def test_companions_of_quantised_weights_are_recognised(keys: list[str], words: str) -> None:
    (hint,) = quantisation_hints(wb.Header(dict.fromkeys([*keys, "model.norm.weight"], SPEC)))
    assert words in hint


def test_every_kind_of_companion_is_tested() -> None:
    assert len(COMPANIONS) == 7


def test_narrow_dtypes_and_configurations_are_signs() -> None:
    header = wb.Header({"a": wb.TensorSpec("F8_E4M3", (2,)), "b": wb.TensorSpec("F4", (2,)), "c": SPEC})
    config = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}
    assert quantisation_hints(header, config) == (
        "config.json: gptq, bits 4, group_size 128",
        "F4 elements of 4 bits: 1 tensor",
        "F8_E4M3 elements of 8 bits: 1 tensor",
    )


def test_the_scheme_of_quantised_weights_is_named(tmp_path: Path) -> None:
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [2, 2]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    codes = torch.zeros(5, 4, dtype=torch.float8_e4m3fn)
    tensors = {f"{name}.weight": codes.clone() for name in "qk"} | {"k.k_scale": torch.ones(())}
    tensors |= {f"{name}.weight_scale_inv": torch.ones(3, 2) for name in "qk"}
    save_file(tensors, tmp_path / "model.safetensors")
    assert [line for line in summary(tmp_path) if line.startswith("quantised")] == [
        "quantised: fp8, FP8 in blocks of 2 x 2: 2 weights as weight F8_E4M3, weight_scale_inv F32",
        "quantised: scales of weights, activations or caches: 1 tensor, k.k_scale",
    ]
    save_file(tensors | {"q.weight_scale_inv": torch.ones(5, 2)}, tmp_path / "model.safetensors")
    assert [line for line in summary(tmp_path) if line.startswith("quantised")][:2] == [
        "quantised: fp8, FP8 in blocks of 2 x 2: 1 weight as weight F8_E4M3, weight_scale_inv F32",
        "quantised: CHECK: q: scales have [5, 2] entries, and 3 are expected for 5 rows, 2 each",
    ]


@pytest.mark.parametrize("config", [None, {}, {"quantization_config": 3}, [], "text"])
def test_plain_checkpoint_shows_no_sign(config: object) -> None:
    header = wb.open(Case.named("qwen3_moe__Qwen3MoeForCausalLM__12experts_tied").path).header
    assert quantisation_hints(header, config) == ()


# the tree


def leaves(branch: Branch, times: int = 1) -> int:
    """Count the tensors that a branch stands for, by its lines alone."""
    if branch.spec is not None:
        return times * branch.count + sum(leaves(inner, times * branch.count) for inner in branch.branches)
    return sum(leaves(inner, times * branch.count) for inner in branch.branches)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.lists(SEGMENTS, min_size=1, max_size=4).map(".".join),
        st.sampled_from([SPEC, wb.TensorSpec("F16", (5,))]),
        max_size=14,
    )
)
def test_tree_holds_every_tensor_once(specs: dict[str, wb.TensorSpec]) -> None:
    branches = module_tree(wb.Header(specs))
    assert sum(map(leaves, branches)) == len(specs)
    assert sum(branch.tensors for branch in branches) == len(specs)
    assert sum(branch.size_bytes for branch in branches) == wb.Header(specs).size_bytes


def test_like_modules_make_one_line() -> None:
    specs = {f"model.layers.{i}.{name}.weight": SPEC for i in range(32) for name in ("up", "down")}
    specs |= {f"model.layers.{i}.norm.weight": wb.TensorSpec("F32", (3,)) for i in range(32)}
    specs["model.embed.weight"] = SPEC
    assert list(tree_lines(module_tree(wb.Header(specs)))) == [
        "model   97 tensors, 1.90 KiB",
        "  embed.weight   F32 [2, 3]",
        "  layers.{0..31}   96 tensors, 1.88 KiB",
        "    {down,up}.weight   2 x F32 [2, 3]",
        "    norm.weight   F32 [3]",
    ]


def test_the_longest_key_makes_a_tree_of_bounded_depth() -> None:
    header = wb.Header({".".join("a" * 256): SPEC})
    assert sum(map(leaves, module_tree(header))) == 1


# statistics


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=40), st.integers(1, 7))
def test_statistics_are_those_of_torch(values: list[float], window: int) -> None:
    tensor = torch.tensor(values, dtype=torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("weighbridge.studies.contents.WINDOW_NUMEL", window)
        found = measure(wb.open({"w": tensor}), "w").to_dict()
    wide = tensor.double()
    finite = wide[torch.isfinite(wide)]
    counts = tensor.numel(), finite.numel(), int(wide.isnan().sum()), int(wide.isinf().sum()), int((wide == 0).sum())
    assert tuple(found[name] for name in NAMES[:5]) == counts
    if not finite.numel():
        assert [found[name] for name in NAMES[5:]] == [None] * 4
        return
    expected = finite.min(), finite.max(), finite.mean(), finite.std(correction=0)
    scale = max(float(finite.abs().max()), 1e-30)
    for name, value in zip(NAMES[5:], expected, strict=True):
        assert math.isclose(found[name], float(value), rel_tol=1e-9, abs_tol=1e-9 * scale)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.bool, torch.complex64])
def test_statistics_of_every_kind_of_dtype(dtype: torch.dtype) -> None:
    found = measure(wb.open({"w": torch.tensor([0.0, 1.0, 1.0, 0.0]).to(dtype)}), "w")
    assert (found.min, found.max, found.mean, found.std, found.zeros) == (0.0, 1.0, 0.5, 0.5, 2)


def test_elements_below_a_byte_are_refused(tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}}'
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\1\2")
    ran = run(tmp_path, "inspect", "a.safetensors", "--stats", "a", "--json")
    assert (ran.status, ran.form["error"]["code"]) == (2, "usage")
    ran = run(tmp_path, "inspect", "a.safetensors", "--tree", "--key", "a", "--json")
    assert (ran.status, ran.form["error"]["code"]) == (2, "usage")


def test_command_prints_statistics_and_tree(tmp_path: Path) -> None:
    save_file({"layers.0.w": torch.tensor([1.0, math.nan]), "layers.1.w": torch.zeros(2)}, tmp_path / "m.safetensors")
    lines = run(tmp_path, "inspect", "m.safetensors", "--stats", "layers.0.w").out.splitlines()
    assert {"nan       1", "max       1", "key       layers.0.w"} <= set(lines)
    assert run(tmp_path, "inspect", "m.safetensors", "--tree").out == "layers.{0,1}.w   2 x F32 [2]\n"
    ran = run(tmp_path, "inspect", "m.safetensors", "--stats", "layers.0.v", "--json")
    assert (ran.status, ran.form["error"]["code"]) == (4, "tensor-not-found")


# narrow terminals


def test_terminal_of_80_columns_cuts_no_key(tmp_path: Path) -> None:
    key = "model.language_model.layers.{0,1}.self_attention_with_a_long_name.query_key_value_projection.weight"
    specs = {key.replace("{0,1}", str(i)): torch.zeros(3, 2) for i in range(2)}
    save_file(specs, tmp_path / "m.safetensors", metadata={"format": "pt", "long": "text " * 40})
    ran = run_on_terminal(tmp_path, "inspect", "m.safetensors", COLUMNS="80")
    plain = re.sub(r"\x1b\[[0-9;?]*[a-z]", "", ran.out)
    assert key in plain
    assert "text " * 40 in plain
    assert "…" not in plain
    assert "tensors" in plain.split("\r\n\r\n")[1]
