"""Blocks that a rule cuts, made finer where that is declared: exact, said in the configuration, and taken back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command import run
from dequantised import weights_of
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file, save_file
from test_group_laws import KINDS, bits, configuration, words_both_ways
from test_groups import EXAMPLES, FUSED, codes_of, config_of, copied, example, joined, numbers_in, same_files

import weighbridge as wb

Tensors = dict[str, torch.Tensor]

REFINABLE = {
    "blocks of FP8": (KINDS["blocks of FP8"], 1, 1),
    "groups of columns": (KINDS["groups of columns"], 1, 1),
    "words of columns": (KINDS["words of columns"], 1, 8),
    "words of rows, columns first": (KINDS["words of rows, columns first"], 8, 1),
    "two rows in a byte": (KINDS["two rows in a byte"], 2, 1),
    "words of columns, zero points in words of rows": (words_both_ways(32), 8, 8),
}
"""Formats whose configuration says the size of a block, with the rows and columns that it may at least be cut at."""


class Case:
    """A checkpoint, a rule that cuts it anywhere that its packing allows, and a weight that no rule is about."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.kind, rows, columns = REFINABLE[draw(st.sampled_from(sorted(REFINABLE)))]
        generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
        sizes = [rows * draw(st.integers(1, 6)) for _ in range(2)]
        units = self.kind.columns // columns
        width = columns * (units * draw(st.integers(1, 2)) if rows > 1 or columns > 1 else draw(st.integers(2, 20)))
        by_rows = draw(st.booleans()) or width == columns
        cut = columns * draw(st.integers(1, width // columns - 1)) if width > columns else width
        self.source = self.kind.make("m.a", sizes[0], width, generator) | self.kind.make(
            "m.b", sizes[1], width, generator
        )
        self.source |= self.kind.make("m.other", rows * 3, self.kind.columns * 2, generator)
        split = wb.WeightConverter("a.weight", ["x.weight", "y.weight"], [wb.Split(1, (cut, width - cut))])
        join = wb.WeightConverter(["a.weight", "b.weight"], "ab.weight", [wb.Concatenate(0)])
        self.rules = [join if by_rows else split]


def set_in(config: dict[str, Any], plan: wb.Plan) -> dict[str, Any]:
    """The configuration as a plan leaves it, by plain assignment."""
    made = json.loads(json.dumps(config))
    for place, before, after in plan.refined:
        (part,) = made.values()
        for name in place[:-1]:
            part = part[name]
        assert part[place[-1]] in (list(before), before[0])
        part[place[-1]] = list(after) if isinstance(part[place[-1]], list) else after[0]
    return made


@settings(deadline=None)
@given(st.composite(Case)())
def test_dequantising_commutes_with_converting_where_blocks_are_made_finer(case: Case) -> None:
    config = configuration(case.kind)
    plan = wb.plan(case.source, case.rules, config=config, companions="refine")
    made = plan.state_dict()
    plain = wb.plan(weights_of(case.source, config), case.rules).state_dict()
    found = weights_of(made, set_in(config, plan))
    assert found.keys() == plain.keys()
    assert [key for key in plain if not torch.equal(found[key], plain[key])] == []
    assert plan.is_exact
    assert wb.Plan.from_json(plan.to_json()) == plan
    inverse = plan.inverse()
    assert inverse.inverse() == plan
    back = inverse.state_dict(made)
    assert back.keys() == case.source.keys()
    assert [key for key in back if not bits(back[key]).equal(bits(case.source[key]))] == []


@settings(deadline=None)
@given(st.composite(Case)())
def test_blocks_are_made_finer_only_where_they_would_be_cut(case: Case) -> None:
    config = configuration(case.kind)
    refined = wb.plan(case.source, case.rules, config=config, companions="refine")
    if refined.refined:
        with pytest.raises(wb.PlanError) as caught:
            wb.plan(case.source, case.rules, config=config)
        assert codes_of(caught) == {"companion-misaligned"}
        assert 'companions="refine" (--refine)' in str(caught.value)
    else:
        assert refined == wb.plan(case.source, case.rules, config=config)


SEAMS = {
    "ct-fp8-block-misaligned": ("config_groups.group_0.weights.block_structure from 32 x 32 to 4 x 32",),
    "fp8-block-straddle": ("weight_block_size from 32 x 32 to 8 x 32",),
}


@pytest.mark.parametrize("name", SEAMS)
def test_examples_whose_blocks_are_cut_are_joined_exactly_and_go_back_byte_for_byte(name: str, tmp_path: Path) -> None:
    source = copied(example(name), tmp_path / "source")
    oracle = load_file(EXAMPLES / name / "oracle.safetensors")
    plan = wb.plan(source, FUSED, companions="refine")
    assert tuple(map(str, plan.refined)) == SEAMS[name]
    assert any(note.startswith(SEAMS[name]) for note in plan.notes)
    assert plan.is_exact
    made = plan.write(tmp_path / "made")
    found = numbers_in(made)
    attention = joined(oracle, "model.layers.0.self_attn.{}_proj.weight", "qkv")
    mlp = joined(oracle, "model.layers.0.mlp.{}_proj.weight", ("gate", "up"))
    joins = {"self_attn.qkv_proj": attention, "mlp.gate_up": mlp}
    pairs = [(found[f"model.layers.0.{key}.weight"], wanted) for key, wanted in joins.items()]
    pairs += [(found[key], oracle[key]) for key in found.keys() & oracle.keys()]
    assert len(pairs) >= 3
    assert [torch.equal(one.to(other.dtype), other) for one, other in pairs] == [True] * len(pairs)
    assert not wb.plan(made, []).notes  # nothing contradicts the new configuration
    same_files(source, wb.revert(made, tmp_path / "back"))


def fp8(name: str, rows: int, columns: int, block: tuple[int, int] = (4, 4)) -> Tensors:
    count = -(-rows // block[0]), -(-columns // block[1])
    codes = (torch.arange(rows * columns) % 9).reshape(rows, columns)
    scales = torch.arange(1.0, 1 + count[0] * count[1]).reshape(count)
    return {f"{name}.weight": codes.to(torch.float8_e4m3fn), f"{name}.weight_scale_inv": scales}


CONFIG: dict[str, Any] = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [4, 4]}}
JOIN = wb.WeightConverter(["a.weight", "b.weight"], "ab.weight", [wb.Concatenate(0)])


def checkpoint() -> Tensors:
    return fp8("a", 6, 4) | fp8("b", 4, 4) | fp8("c", 9, 5) | {"norm.weight": torch.ones(3)}


def written(folder: Path, config: str, more: dict[str, str] | None = None) -> Path:
    folder.mkdir()
    save_file(checkpoint(), folder / "model.safetensors")
    for name, text in {"config.json": config, **(more or {})}.items():
        (folder / name).write_text(text)
    return folder


def test_entries_are_those_of_the_blocks_that_they_lie_in() -> None:
    plan = wb.plan(checkpoint(), [JOIN], config=CONFIG, companions="refine")
    made = plan.state_dict()
    assert made["ab.weight_scale_inv"].flatten().tolist() == [1, 1, 2, 1, 1]
    assert made["c.weight_scale_inv"].tolist() == [[1, 2], [1, 2], [3, 4], [3, 4], [5, 6]]
    assert [str(each) for each in plan.refined] == ["weight_block_size from 4 x 4 to 2 x 4"]


def test_entries_that_are_not_equal_any_more_do_not_become_one() -> None:
    plan = wb.plan(checkpoint(), [JOIN], config=CONFIG, companions="refine")
    made = plan.state_dict()
    back = plan.inverse()
    assert ("c.weight_scale_inv", 2) in {(condition.target, len(condition.ways)) for condition in back.conditions}
    for place in ((1, 0), (3, 1)):
        changed = {key: tensor.clone() for key, tensor in made.items()}
        changed["c.weight_scale_inv"][place] += 1
        with pytest.raises(wb.PlanError) as caught:
            back.state_dict(changed)
        assert codes_of(caught) == {"companion-differs"}
        assert f"c.weight_scale_inv[{place[0]}, {place[1]}]" in str(caught.value)
    last = made | {"c.weight_scale_inv": made["c.weight_scale_inv"].clone()}
    last["c.weight_scale_inv"][4] += 1  # the last block has one entry, there and back
    assert back.state_dict(last)["c.weight_scale_inv"].tolist() == [[1, 2], [3, 4], [6, 7]]


def test_only_the_numbers_of_a_configuration_change_and_those_of_all_files(tmp_path: Path) -> None:
    part = '{"weight_block_size": [\n 4,\n 4], "quant_method": "fp8"}'
    text = f'{{"torch_dtype": "bfloat16",\n  "quantization_config": {part}}}\n'
    source = written(tmp_path / "source", text)
    made = wb.convert(source, tmp_path / "made", [JOIN], companions="refine")
    assert (made / "config.json").read_text() == text.replace(" 4,", " 2,")
    same_files(source, wb.revert(made, tmp_path / "back"))


def test_every_file_that_says_the_size_says_the_new_one(tmp_path: Path) -> None:
    said = {"quant_method": "gptq", "bits": 4, "group_size": 16, "checkpoint_format": "gptq_v2"}
    grouped = KINDS["words of columns, columns first"].make("a", 8, 32, torch.Generator().manual_seed(1))
    del grouped["a.g_idx"]
    (tmp_path / "source").mkdir()
    save_file(grouped, tmp_path / "source" / "model.safetensors")
    (tmp_path / "source" / "config.json").write_text(json.dumps({"quantization_config": said}))
    (tmp_path / "source" / "quantize_config.json").write_text('{"group_size":16, "bits": 4}')
    cut = wb.WeightConverter("a.weight", ["x.weight", "y.weight"], [wb.Split(1, (8, 24))])
    made = wb.plan(tmp_path / "source", [cut], companions="refine").write(tmp_path / "made")
    assert config_of(made)["quantization_config"] == said | {"group_size": 8}
    assert (made / "quantize_config.json").read_text() == '{"group_size":8, "bits": 4}'
    same_files(tmp_path / "source", wb.revert(made, tmp_path / "back"))


def test_experts_are_stacked_and_joined_within_their_blocks() -> None:
    source: Tensors = {}
    for expert, start in enumerate((0.0, 100.0)):
        for name in ("gate", "up"):
            made = fp8(f"experts.{expert}.{name}", 6, 5)
            made[f"experts.{expert}.{name}.weight_scale_inv"] += start
            source |= made
    rule = wb.WeightConverter(
        ["experts.*.gate.weight", "experts.*.up.weight"],
        "experts.gate_up",
        [wb.MergeModulelist(0), wb.Concatenate(1), wb.Reshape((2, 12, 5))],
    )
    plan = wb.plan(source, [rule], config=CONFIG, companions="refine")
    before, after = weights_of(source, CONFIG), weights_of(plan.state_dict(), set_in(CONFIG, plan))
    both = [torch.cat([before[f"experts.{n}.{name}.weight"] for name in ("gate", "up")]) for n in range(2)]
    assert after["experts.gate_up"].equal(torch.stack(both))
    back = plan.inverse().state_dict(plan.state_dict())
    assert {key: bits(tensor).tolist() for key, tensor in back.items()} == {
        key: bits(tensor).tolist() for key, tensor in source.items()
    }


def test_a_plan_that_was_stored_writes_the_configuration_as_well(tmp_path: Path) -> None:
    source = written(tmp_path / "source", json.dumps(CONFIG))
    plan = wb.plan(source, [JOIN], companions="refine")
    stored = wb.Plan.from_json(plan.to_json())
    assert stored.refined == plan.refined
    made = stored.write(tmp_path / "made", source=source)
    assert config_of(made)["quantization_config"]["weight_block_size"] == [2, 4]
    back = wb.Plan.from_json(plan.inverse().to_json()).write(tmp_path / "back", source=made)
    same_files(source, back)


def test_a_plan_that_never_ran_goes_back_to_what_there_is(tmp_path: Path) -> None:
    source = written(tmp_path / "source", json.dumps(CONFIG))
    same_files(source, wb.plan(source, [JOIN], companions="refine").inverse().write(tmp_path / "back"))


def test_a_part_of_a_plan_has_finer_blocks_as_well(tmp_path: Path) -> None:
    source = written(tmp_path / "source", json.dumps(CONFIG))
    whole = wb.plan(source, [JOIN], companions="refine")
    made = whole.restrict("c.{rest:**}").write(tmp_path / "made")
    assert numbers_in(made)["c.weight"].equal(numbers_in(source)["c.weight"])
    back = whole.inverse(whole.state_dict()).restrict("a.{rest:**}").state_dict()
    assert {key: bits(tensor).tolist() for key, tensor in back.items()} == {
        key: bits(tensor).tolist() for key, tensor in checkpoint().items() if key.startswith("a.")
    }


MODELOPT: dict[str, Any] = {"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"}
HALVES = wb.WeightConverter("a.weight", ["x.weight", "y.weight"], [wb.Split(1, (4, 20))])


@pytest.mark.parametrize("is_in_groups", [True, False])
def test_both_files_of_modelopt_say_the_new_size_and_columns_keep_their_scale(
    is_in_groups: bool, tmp_path: Path
) -> None:
    """What acts on what comes in has an entry for each column, and is cut with them."""
    groups = {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 8}, "targets": ["Linear"]}}
    said = MODELOPT | ({"config_groups": groups} if is_in_groups else {"group_size": 8})
    source = KINDS["two rows in a byte"].make("a", 6, 24, torch.Generator().manual_seed(1))
    source["a.pre_quant_scale"] = torch.arange(24.0)
    (tmp_path / "source").mkdir()
    save_file(source, tmp_path / "source" / "model.safetensors")
    (tmp_path / "source" / "config.json").write_text(json.dumps({"quantization_config": said}))
    other = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "W4A16_AWQ", "group_size": 8}}
    (tmp_path / "source" / "hf_quant_config.json").write_text(json.dumps(other))
    plan = wb.plan(tmp_path / "source", [HALVES], companions="refine")
    made = plan.write(tmp_path / "made")
    changed = config_of(made)["quantization_config"]
    assert (changed["config_groups"]["group_0"]["weights"] if is_in_groups else changed)["group_size"] == 4
    written = json.loads((made / "hf_quant_config.json").read_text())
    assert written == other | {"quantization": {"quant_algo": "W4A16_AWQ", "group_size": 4}}
    tensors = load_file(made / "model.safetensors")
    assert tensors["x.pre_quant_scale"].equal(source["a.pre_quant_scale"][:4])
    assert tensors["y.pre_quant_scale"].equal(source["a.pre_quant_scale"][4:])
    before = weights_of(source, {"quantization_config": MODELOPT})["a.weight"]
    after = weights_of(tensors, {"quantization_config": MODELOPT})
    assert torch.cat([after["x.weight"], after["y.weight"]], 1).equal(before)
    same_files(tmp_path / "source", wb.revert(made, tmp_path / "back"))


def test_a_size_that_one_configuration_says_twice_is_not_changed() -> None:
    groups = {"group_0": {"weights": {"group_size": 8}}}
    source = KINDS["two rows in a byte"].make("a", 6, 24, torch.Generator().manual_seed(1))
    said = {"quantization_config": MODELOPT | {"group_size": 8, "config_groups": groups}}
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, [HALVES], companions="refine", config=said)
    assert codes_of(caught) == {"companion-misaligned"}
    assert "the seam at column 4 of 24 of a.weight is 0.5 blocks in" in str(caught.value)
    assert "refine" not in str(caught.value)


@pytest.mark.parametrize(("name", "axis"), [("ct-int4-group", 1), ("ct-int4-asym", 1), ("ct-moe-int4-asym", 1)])
def test_groups_of_packed_examples_are_cut_between_words(name: str, axis: int, tmp_path: Path) -> None:
    """Where a group has more columns than a word: eight of them, which share no scale any more."""
    source = copied(example(name), tmp_path / "source")
    before = numbers_in(source)
    key = next(key for key in sorted(before) if key.endswith("gate_proj.weight"))
    (group,) = config_of(source)["quantization_config"]["config_groups"].values()
    size, width = group["weights"]["group_size"], before[key].shape[axis]
    assert size > 8
    stem = key.removesuffix("gate_proj.weight")
    cut = wb.WeightConverter("gate_proj.weight", ["gate_a.weight", "gate_b.weight"], [wb.Split(axis, (width - 8, 8))])
    plan = wb.plan(source, [cut], companions="refine")
    assert [each.after for each in plan.refined] == [(8,)]
    made = plan.write(tmp_path / "made")
    after = numbers_in(made)
    assert torch.cat([after[f"{stem}gate_a.weight"], after[f"{stem}gate_b.weight"]], axis).equal(before[key])
    kept = [other for other in before if "gate_proj" not in other]
    assert kept
    assert [other for other in kept if not after[other].equal(before[other])] == []
    assert not wb.plan(made, []).notes
    same_files(source, wb.revert(made, tmp_path / "back"))
    within = wb.WeightConverter(
        "gate_proj.weight", ["gate_a.weight", "gate_b.weight"], [wb.Split(axis, (width - 4, 4))]
    )
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, [within], companions="refine")
    assert codes_of(caught) <= {"companion-misaligned", "companion-fixed"}


def test_a_configuration_beside_the_weights_that_says_something_else_is_an_error(tmp_path: Path) -> None:
    other = json.dumps({"quantization_config": {"quant_method": "fp8", "weight_block_size": [8, 8]}})
    source = written(tmp_path / "source", other)
    plan = wb.plan(source, [JOIN], companions="refine", config=CONFIG)
    with pytest.raises(wb.PlanError) as caught:
        plan.write(tmp_path / "made")
    assert caught.value.code == "scheme-conflict"
    assert not (tmp_path / "made").exists()


def test_columns_that_say_which_entry_they_have_cannot_have_others() -> None:
    said = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 16}}
    cut = wb.WeightConverter("a.weight", ["x.weight", "y.weight"], [wb.Split(1, (8, 24))])
    source = KINDS["words of columns, columns first"].make("a", 8, 32, torch.Generator().manual_seed(1))
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, [cut], config=said, companions="refine")
    assert codes_of(caught) == {"companion-misaligned"}
    assert "refine" not in str(caught.value)
    without = {key: tensor for key, tensor in source.items() if key != "a.g_idx"}
    assert wb.plan(without, [cut], config=said, companions="refine").refined[0].after == (8,)
    other = {key.replace("a.", "other."): tensor for key, tensor in source.items()}
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(without | other, [cut], config=said, companions="refine")
    assert codes_of(caught) == {"companion-misaligned"}
    assert "whole checkpoint" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "axis", "at"),
    [
        ("two columns in a byte", 1, 8),
        ("two rows in a byte", 0, 1),
        ("words of rows, columns first", 0, 4),
        ("words of columns", 1, 4),
    ],
)
def test_what_is_packed_or_of_one_size_is_not_made_finer(name: str, axis: int, at: int) -> None:
    kind = KINDS[name]
    sizes = [max(2, kind.rows), 2 * kind.columns]
    source = kind.make("a", *sizes, torch.Generator().manual_seed(1))
    cut = wb.WeightConverter("a.weight", ["x.weight", "y.weight"], [wb.Split(axis, (at, sizes[axis] - at))])
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, [cut], config=configuration(kind), companions="refine")
    assert codes_of(caught) == {"companion-misaligned"}
    assert "refine" not in str(caught.value)


def test_what_contradicts_the_configuration_cannot_be_refined_alike() -> None:
    strange = checkpoint() | {"c.weight_scale_inv": torch.ones(7, 7)}
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(strange, [JOIN], config=CONFIG, companions="refine")
    assert codes_of(caught) == {"companion-misaligned"}
    assert "c: scales have [7, 7] entries" in str(caught.value)


@settings(deadline=None)
@given(st.composite(Case)())
def test_a_target_with_finer_blocks_is_reached(case: Case) -> None:
    """The same plan as without a target; and no other sizes than those that come of the seams."""
    config = configuration(case.kind)
    free = wb.plan(case.source, case.rules, config=config, companions="refine")
    plan = wb.plan(case.source, case.rules, free.target, config=config, companions="refine")
    moved = [{(step.sources, step.targets, step.program) for step in each.steps} for each in (plan, free)]
    assert moved[0] == moved[1]
    assert plan.refined == free.refined
    made, wanted = plan.state_dict(), free.state_dict()
    assert [key for key in wanted if not bits(made[key]).equal(bits(wanted[key]))] == []
    grids = [key for key, spec in free.target.items() if key.endswith(("scale_inv", "scale", "scales"))]
    if free.refined:
        key = grids[0]
        rows, columns = free.target[key].shape
        other = {**free.target.specs, key: wb.TensorSpec(free.target[key].dtype, (rows, columns + 1))}
        with pytest.raises(wb.PlanError) as caught:
            wb.plan(case.source, case.rules, wb.Header(other), config=config, companions="refine")
        assert codes_of(caught) <= {"companion-misaligned", "companion-missing", "source-unplaced", "target-missing"}
        assert key in str(caught.value)


def test_a_target_says_how_large_blocks_are() -> None:
    wanted = dict(wb.plan(fp8("a", 8, 4) | fp8("b", 4, 4), [JOIN], config=CONFIG).target)
    assert wb.plan(fp8("a", 8, 4) | fp8("b", 4, 4), [JOIN], wb.Header(wanted), config=CONFIG, companions="refine")
    wanted["ab.weight"] = wb.TensorSpec("F8_E4M3", (10, 4))
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(fp8("a", 6, 4) | fp8("b", 4, 4), [JOIN], wb.Header(wanted), config=CONFIG, companions="refine")
    (problem,) = caught.value.problems
    assert problem.code == "companion-misaligned"
    assert "the target says how large blocks are" in str(problem)
    assert (problem.where, problem.expected) == ("ab.weight_scale_inv", "F32 [3, 1]")
    assert problem.got == "F32 [5, 1], with blocks made finer"


def test_finer_blocks_that_only_the_target_has_are_not_made() -> None:
    """Its grid would fit several sizes; what a rule needs, or the configuration says, decides alone."""
    wanted = {"c.weight": wb.TensorSpec("F8_E4M3", (9, 5)), "c.weight_scale_inv": wb.TensorSpec("F32", (9, 5))}
    renamed = [wb.WeightRenaming("^a", "c")]
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(fp8("a", 9, 5), renamed, wb.Header(wanted), config=CONFIG, companions="refine")
    assert codes_of(caught) == {"companion-missing"}
    assert "F32 [9, 5]" in str(caught.value)
    assert "F32 [3, 2]" in str(caught.value)


def test_a_target_in_a_directory_has_a_configuration_of_its_own(tmp_path: Path) -> None:
    """Which is that of its own blocks, and says nothing of the source's."""
    source = written(tmp_path / "source", json.dumps(CONFIG))
    there = wb.plan(source, [JOIN], companions="refine").write(tmp_path / "there")
    assert config_of(there) != config_of(source)
    plan = wb.plan(source, [JOIN], there, companions="refine")
    assert [str(each) for each in plan.refined] == ["weight_block_size from 4 x 4 to 2 x 4"]
    made = plan.write(tmp_path / "made")
    for name in ("config.json", "model.safetensors"):
        assert (made / name).read_bytes() == (there / name).read_bytes(), name
    same_files(source, wb.revert(made, tmp_path / "back"))
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, [JOIN], there)
    assert codes_of(caught) == {"companion-misaligned", "companion-missing"}  # of the seam, and of c, which has none
    assert "(--refine)" in str(caught.value)


def test_the_option_is_one_of_three() -> None:
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(checkpoint(), [JOIN], config=CONFIG, companions="finer")
    assert caught.value.code == "usage"


def test_the_command_makes_blocks_finer(tmp_path: Path) -> None:
    written(tmp_path / "source", json.dumps(CONFIG))
    (tmp_path / "map.yaml").write_text(wb.Mapping([JOIN]).to_yaml())
    refused = run(tmp_path, "convert", "source", "made", "map.yaml")
    assert refused.status == 3
    assert "--refine" in refused.err
    made = run(tmp_path, "convert", "source", "made", "map.yaml", "--refine")
    assert made.status == 0
    assert "weight_block_size from 4 x 4 to 2 x 4" in made.out + made.err
    assert config_of(tmp_path / "made")["quantization_config"]["weight_block_size"] == [2, 4]
    assert run(tmp_path, "revert", "made", "back").status == 0
    same_files(tmp_path / "source", tmp_path / "back")
    both = run(tmp_path, "plan", "source", "map.yaml", "--refine", "--no-companions")
    assert both.status == 2


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda form: form["programs"][0].pop("again"), "do not write each element once"),
        (lambda form: form["programs"][0].__setitem__("again", [0, 9]), "more tensors are there for parts"),
        (lambda form: form["steps"][0][2].__setitem__(-1, "another"), "nowhere as a whole"),
        (lambda form: form.pop("refined"), "is not what its hash says"),
        (lambda form: form.__setitem__("version", 2), "not of the version that it names"),
    ],
)
def test_a_plan_that_was_changed_is_refused(change: Any, what: str) -> None:
    join = wb.WeightConverter(["a.weight", "c.weight"], "ac.weight", [wb.Concatenate(0)])
    plan = wb.plan(fp8("c", 6, 4) | fp8("a", 6, 4), [join], config=CONFIG, companions="refine")
    form = json.loads(plan.inverse().to_json())
    number = next(n for n, program in enumerate(form["programs"]) if "again" in program)
    form["programs"].insert(0, form["programs"].pop(number))
    order = [number, *(n for n in range(len(form["programs"])) if n != number)]
    for step in form["steps"]:
        step[0] = order.index(step[0])
    form["steps"].sort(key=lambda step: step[0])
    change(form)
    with pytest.raises(wb.PlanError) as caught:
        wb.Plan.from_dict(form)
    assert what in str(caught.value)
