"""bitsandbytes' 4 bits: blocks of the flat weight, and a text with rows and columns: joined, cut and told anew."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file, save_file
from test_group_laws import bits
from test_groups import FUSED, codes_of, copied, example, joined, same_files

import weighbridge as wb

Tensors = dict[str, torch.Tensor]

CONFIG: dict[str, Any] = {
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
}
STATE = "weight.quant_state.bitsandbytes__nf4"
TABLE = torch.arange(16.0) - 7


def text(shape: tuple[int, ...], block: int, **more: Any) -> torch.Tensor:
    said = {"quant_type": "nf4", "blocksize": block, "dtype": "float32", "shape": list(shape), **more}
    return torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)


def matrix(name: str, rows: int, columns: int, block: int, seed: int = 0) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    numel = rows * columns
    return {
        f"{name}.weight": torch.randint(0, 256, (-(-numel // 2), 1), dtype=torch.uint8, generator=generator),
        f"{name}.weight.absmax": torch.randint(1, 99, (-(-numel // block),), generator=generator).float(),
        f"{name}.weight.quant_map": TABLE.clone(),
        f"{name}.{STATE}": text((rows, columns), block),
    }


def values(tensors: Tensors, name: str) -> torch.Tensor:
    """What a weight's tensors stand for: the first of two numbers is in the high bits of a byte."""
    said = json.loads(bytes(tensors[f"{name}.{STATE}"].tolist()))
    codes = tensors[f"{name}.weight"].flatten()
    numbers = tensors[f"{name}.weight.quant_map"][torch.stack([codes >> 4, codes & 15], 1).flatten().long()]
    numel = prod(said["shape"])
    scales = tensors[f"{name}.weight.absmax"].repeat_interleave(said["blocksize"])[:numel]
    return (numbers[:numel] * scales).reshape(said["shape"])


def test_an_example_is_joined_as_the_oracle_and_goes_back_byte_for_byte(tmp_path: Path) -> None:
    source = copied(example("bnb-nf4"), tmp_path / "source")
    oracle = load_file(example("bnb-nf4") / "oracle.safetensors")
    made = wb.plan(source, FUSED).write(tmp_path / "made")
    numbers = wb.plan(made, [], dtype="bfloat16").state_dict()
    pairs = {
        "self_attn.qkv_proj": joined(oracle, "model.layers.0.self_attn.{}_proj.weight", "qkv"),
        "mlp.gate_up": joined(oracle, "model.layers.0.mlp.{}_proj.weight", ("gate", "up")),
    }
    for name, wanted in pairs.items():
        assert numbers[f"model.layers.0.{name}.weight"].to(wanted.dtype).equal(wanted)
    said = bytes(load_file(made / "model.safetensors")[f"model.layers.0.self_attn.qkv_proj.{STATE}"].tolist())
    assert said == b'{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [192, 64]}'
    same_files(source, wb.revert(made, tmp_path / "back"))


def test_an_example_that_lost_its_record_is_cut_again(tmp_path: Path) -> None:
    source = copied(example("bnb-nf4"), tmp_path / "source")
    names = [f"self_attn.{name}_proj.weight" for name in "qkv"]
    rule = wb.WeightConverter(names, "self_attn.qkv_proj.weight", [wb.Concatenate(0, sizes=(96, 48, 48))])
    made = wb.convert(source, tmp_path / "made", [rule])
    (made / "weighbridge.json").unlink()
    back = wb.convert(made, tmp_path / "back", [rule], reverse=True)
    first, again = load_file(source / "model.safetensors"), load_file(back / "model.safetensors")
    assert first.keys() == again.keys()
    assert [key for key in first if not bits(first[key]).equal(bits(again[key]))] == []


JOIN = wb.WeightConverter(["a.weight", "b.weight"], "ab.weight", [wb.Concatenate(0)])


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 12), min_size=2, max_size=2),
    st.integers(1, 10),
    st.sampled_from([4, 8, 16]),
    st.integers(1, 11),
)
def test_matrices_are_joined_and_cut_where_whole_blocks_end(rows: list[int], columns: int, block: int, at: int) -> None:
    source = matrix("a", rows[0], columns, block, 1) | matrix("b", rows[1], columns, block, 2)
    cut = wb.WeightConverter("a.weight", ["x.weight", "y.weight"], [wb.Split(0, (at, rows[0] - at))])
    ends = {"join": (JOIN, rows[0])} | ({"cut": (cut, at)} if at < rows[0] else {})
    for rule, end in ends.values():
        if end * columns % block:
            with pytest.raises(wb.PlanError) as caught:
                wb.plan(source, [rule], config=CONFIG)
            assert codes_of(caught) <= {"companion-misaligned", "companion-fixed"}
            assert str(block) in str(caught.value)
            continue
        plan = wb.plan(source, [rule], config=CONFIG)
        made = plan.state_dict()
        if rule is JOIN:
            assert values(made, "ab").equal(torch.cat([values(source, "a"), values(source, "b")]))
        else:
            assert values(made, "x").equal(values(source, "a")[:at])
            assert values(made, "y").equal(values(source, "a")[at:])
        assert plan.is_exact
        assert wb.Plan.from_json(plan.to_json()) == plan
        back = plan.inverse().state_dict(made)
        assert back.keys() == source.keys()
        assert [key for key in back if not bits(back[key]).equal(bits(source[key]))] == []


def test_a_seam_within_a_block_is_named_with_its_numbers() -> None:
    source = matrix("a", 3, 8, 16) | matrix("b", 4, 8, 16)
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, [JOIN], config=CONFIG)
    assert codes_of(caught) == {"companion-misaligned"}
    assert "one entry for 16 elements; the seam at element 24 of 56 of the result is 1.5 blocks" in str(caught.value)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (wb.WeightConverter("a.weight", "a.weight", [wb.Transpose(0, 1)]), "blocks of 16 elements over rows of 8"),
        (
            wb.WeightConverter("a.weight", ["x.weight", "y.weight"], [wb.Chunk(1)]),
            "blocks of 16 elements over rows of 8",
        ),
        (wb.WeightConverter("a.weight", "a.weight", [wb.Reshape((32,))]), "16 bytes of codes, 2 scales"),
    ],
    ids=["turned", "cut by columns", "of one axis"],
)
def test_other_movements_are_refused_with_their_numbers(rule: wb.WeightConverter, words: str) -> None:
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(matrix("a", 4, 8, 16), [rule], config=CONFIG)
    assert codes_of(caught) == {"companion-fixed"}
    assert words in str(caught.value)


def test_what_no_data_or_a_target_says_is_refused() -> None:
    source = matrix("a", 4, 8, 16) | matrix("b", 4, 8, 16, 1)
    header = wb.open(source).header
    made = wb.plan(source, [JOIN], config=CONFIG)
    for place, target in ((header, None), (source, made.target)):
        with pytest.raises(wb.PlanError):
            wb.plan(place, [JOIN], target, config=CONFIG)
    renamed = wb.plan(source, [wb.WeightRenaming("^a.weight", "c.weight")], config=CONFIG).target
    assert wb.plan(source, [wb.WeightRenaming("^a.weight", "c.weight")], renamed, config=CONFIG).is_exact


@pytest.mark.parametrize("back", [False, True], ids=["there", "back"])
def test_a_target_whose_texts_can_be_read_is_reached(back: bool, tmp_path: Path) -> None:
    """What there is to reach says rows and columns in its own texts, so that the inverse knows where to cut."""
    source = matrix("a", 4, 8, 16) | matrix("b", 2, 8, 16, 1)
    joined = wb.plan(source, [JOIN], config=CONFIG).state_dict()
    (tmp_path / "there").mkdir()
    save_file(source if back else joined, tmp_path / "there" / "model.safetensors")
    mapping = wb.Mapping([JOIN])
    made = wb.plan(
        joined if back else source, mapping.inverse() if back else mapping, tmp_path / "there", config=CONFIG
    ).state_dict()
    wanted = load_file(tmp_path / "there" / "model.safetensors")
    assert made.keys() == wanted.keys()
    assert [key for key in made if not bits(made[key]).equal(bits(wanted[key]))] == []
    other = matrix("ab", 7, 8, 16) if not back else matrix("a", 3, 8, 16) | matrix("b", 3, 8, 16)
    with pytest.raises(wb.PlanError):
        wb.plan(joined if back else source, mapping.inverse() if back else mapping, other, config=CONFIG)


def test_scales_that_are_codes_have_an_offset_that_is_not_told_anew() -> None:
    source = nested("a") | nested("b")
    double = {"quantization_config": CONFIG["quantization_config"] | {"bnb_4bit_use_double_quant": True}}
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, [JOIN], config=double)
    assert codes_of(caught) == {"companion-fixed"}
    assert "16 bytes of codes, 2 scales: scales that are codes have an offset of each weight's own" in str(caught.value)
    assert wb.plan(source, [wb.WeightRenaming("^a.weight", "c.weight")], config=double).is_exact


STACK = wb.WeightConverter("experts.*.up.weight", "experts.up", [wb.MergeModulelist(0)])
GATED = wb.WeightConverter(
    ["experts.*.gate.weight", "experts.*.up.weight"], "experts.gate_up", [wb.MergeModulelist(0), wb.Concatenate(1)]
)


def stacked_values(tensors: Tensors, name: str) -> torch.Tensor:
    """What a stack's tensors stand for: they lie one behind the other, as those of a matrix do."""
    of_matrix = {f"{name}.weight{key.removeprefix(name)}": tensor for key, tensor in tensors.items()}
    return values(of_matrix, name)


def experts(shapes: dict[str, tuple[int, int]], count: int, block: int) -> Tensors:
    found: Tensors = {}
    for number in range(count):
        for seed, (name, shape) in enumerate(shapes.items()):
            found |= matrix(f"experts.{number}.{name}", *shape, block, 10 * number + seed)
    return found


@settings(deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 6), st.integers(1, 6), st.integers(1, 9), st.sampled_from([4, 8]), st.booleans()
)
def test_experts_are_stacked_where_whole_blocks_end(
    count: int, gate: int, up: int, columns: int, block: int, is_gated: bool
) -> None:
    """Law C1 by counting: whole blocks end where each part does, but for the last of all; and back, with the text."""
    shapes = {"gate": (gate, columns), "up": (up, columns)} if is_gated else {"up": (up, columns)}
    source, rule = experts(shapes, count, block), GATED if is_gated else STACK
    parts = [rows * columns for _ in range(count) for rows, _ in shapes.values()]
    ends = [sum(parts[: number + 1]) for number in range(len(parts) - 1)]
    if any(end % block or size % block for end, size in zip(ends, parts, strict=False)):
        with pytest.raises(wb.PlanError) as caught:
            wb.plan(source, [rule], config=CONFIG)
        assert codes_of(caught) <= {"companion-misaligned", "companion-fixed"}
        assert str(block) in str(caught.value)
        return
    plan = wb.plan(source, [rule], config=CONFIG)
    made, name = plan.state_dict(), rule.target_patterns[0]
    wanted = torch.stack(
        [torch.cat([values(source, f"experts.{number}.{part}") for part in shapes]) for number in range(count)]
    )
    assert stacked_values(made, name).equal(wanted)
    assert made.keys() == {f"{name}{ending}" for ending in ("", ".absmax", ".quant_map", STATE.removeprefix("weight"))}
    assert json.loads(bytes(made[f"{name}{STATE.removeprefix('weight')}"].tolist()))["shape"] == list(wanted.shape)
    assert wb.plan(made, [], config=CONFIG, dtype="F32").state_dict()[name].equal(wanted)
    assert wb.Plan.from_json(plan.to_json()) == plan
    back = plan.inverse().state_dict(made)
    assert back.keys() == source.keys()
    assert [key for key in back if not bits(back[key]).equal(bits(source[key]))] == []


def test_a_stack_is_joined_cut_and_parted_again_without_a_record() -> None:
    source = experts({"up": (4, 8)}, 3, 16)
    made = wb.plan(source, [STACK], config=CONFIG).state_dict()
    again = wb.plan(made, wb.Mapping([STACK]).inverse(), config=CONFIG).state_dict()
    assert again.keys() == source.keys()
    assert [key for key in again if not bits(again[key]).equal(bits(source[key]))] == []
    whole = stacked_values(made, "experts.up")
    halves = wb.WeightConverter("experts.up", ["experts.a", "experts.b"], [wb.Split(0, (1, 2))])
    parted = wb.plan(made, [halves], config=CONFIG).state_dict()
    assert stacked_values(parted, "experts.a").equal(whole[:1])
    assert stacked_values(parted, "experts.b").equal(whole[1:])
    renamed = wb.plan(made, [wb.WeightRenaming("^experts", "mlp.experts")], config=CONFIG)
    assert set(renamed.target) == {f"mlp.{key}" for key in made}
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(made, [wb.WeightRenaming("experts.up$", "experts.x")])  # nothing says how they are stored
    assert codes_of(caught) == {"companion-unknown"}
    assert "quant_state" in str(caught.value)


def test_the_seam_of_a_stack_is_named_with_its_numbers() -> None:
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(experts({"up": (3, 8)}, 3, 16), [STACK], config=CONFIG)
    assert codes_of(caught) == {"companion-misaligned"}
    assert "one entry for 16 elements; the seam at element 24 of 72 of the result is 1.5 blocks" in str(caught.value)


def test_a_stack_in_files_has_a_configuration_that_names_its_modules(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    save_file(experts({"gate": (4, 8), "up": (2, 8)}, 2, 16), tmp_path / "source" / "model.safetensors")
    said = CONFIG["quantization_config"] | {"llm_int8_skip_modules": ["lm_head", "router"]}
    (tmp_path / "source" / "config.json").write_text(json.dumps({"quantization_config": said}))
    made = wb.convert(tmp_path / "source", tmp_path / "made", [GATED])
    assert (made / "config.json").read_bytes() == (tmp_path / "source" / "config.json").read_bytes()
    assert {key.partition("gate_up")[2] for key in wb.open(made).header} == {
        *("", ".absmax", ".quant_map", ".quant_state.bitsandbytes__nf4")
    }
    same_files(tmp_path / "source", wb.revert(made, tmp_path / "back"))


def nested(name: str, seed: int = 0) -> Tensors:
    return matrix(name, 4, 8, 16, seed) | {
        f"{name}.weight.absmax": torch.zeros(2, dtype=torch.uint8),
        f"{name}.weight.nested_absmax": torch.ones(1),
        f"{name}.weight.nested_quant_map": torch.zeros(256),
        f"{name}.{STATE}": text((4, 8), 16, nested_blocksize=256, nested_offset=0.5),
    }


@pytest.mark.parametrize(
    ("source", "got"),
    [
        (nested("a") | matrix("b", 4, 8, 16), "b.weight"),
        (matrix("a", 4, 8, 16) | nested("b"), "a.weight"),
        (nested("a") | {"b.weight": torch.ones(4, 8)}, "b.weight"),
    ],
    ids=["nested first", "nested last", "with a plain weight"],
)
@pytest.mark.parametrize("axis", [0, 1])
def test_a_nested_weight_is_not_joined_with_another_and_both_are_named(source: Tensors, got: str, axis: int) -> None:
    """Rules see the bytes of the one, and the rows and columns of the other: shapes would say nothing of it."""
    join = wb.WeightConverter(["a.weight", "b.weight"], "ab.weight", [wb.Concatenate(axis)])
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, [join], config=CONFIG)
    assert codes_of(caught) == {"companion-missing"}
    (problem,) = caught.value.problems
    assert problem.where == "ab.weight"
    assert f"{got}" in problem.got
    assert ("a.weight" if got == "b.weight" else "b.weight") in problem.expected
    carried = wb.plan(source, [join], config=CONFIG, carry=["^a.{rest:**}", "^b.{rest:**}"])
    assert carried.target.specs.keys() == source.keys()
    assert wb.plan(source, [wb.WeightRenaming("^a", "c")], config=CONFIG).is_exact


def test_nested_weights_of_other_sizes_are_refused_by_their_scheme() -> None:
    source = nested("a") | {key.replace("x.", "b."): tensor for key, tensor in nested("x", 1).items()}
    source["b.weight"] = torch.zeros(32, 1, dtype=torch.uint8)
    join = wb.WeightConverter(["a.weight", "b.weight"], "ab.weight", [wb.Concatenate(1)])
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, [join], config=CONFIG)
    assert codes_of(caught) == {"companion-fixed"}
    assert "16 bytes of codes, 2 scales" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({f"b.{STATE}": text((4, 8), 16, quant_type="fp4")}, "companion-missing"),
        ({f"b.{STATE}": text((4, 10), 16)}, "scheme-conflict"),
        ({"b.weight.absmax": torch.ones(3)}, "scheme-conflict"),
    ],
    ids=["another text", "another shape", "another grid"],
)
def test_texts_that_do_not_fit_are_refused(change: Tensors, code: str) -> None:
    source = matrix("a", 4, 8, 16) | matrix("b", 4, 8, 16, 1) | change
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, [JOIN], config=CONFIG)
    assert code in codes_of(caught)


def test_a_text_that_was_changed_since_is_found_before_anything_is_made() -> None:
    source = matrix("a", 4, 8, 16) | matrix("b", 4, 8, 16, 1)
    plan = wb.plan(source, [JOIN], config=CONFIG)
    with pytest.raises(wb.PlanError) as caught:
        plan.state_dict(source | {f"b.{STATE}": text((8, 4), 16)})
    assert codes_of(caught) == {"scheme-conflict"}
    tables = source | {"b.weight.quant_map": TABLE + 1}
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(tables, [JOIN], config=CONFIG).state_dict()
    assert codes_of(caught) == {"companion-differs"}
