"""Part of a plan: what is selected is written as the whole plan would, and what is not needed is accounted for."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file, save_file
from strategies import layouts, tensors_of

import weighbridge as wb
from weighbridge.base.keys import collapse
from weighbridge.planning.names.selections import MAX_NUMBERS, select
from weighbridge.storage.formats.torch_tensors import bytes_of

KEYS = [f"model.layers.{i}.{name}.weight" for i in range(12) for name in ("up", "down")] + ["model.norm.weight"]

MAPPING = wb.Mapping(
    [
        wb.WeightRenaming("^h", "layers"),
        wb.WeightConverter("qkv.weight", ["q.weight", "k.weight", "v.weight"], [wb.Split(dim=0, sizes=(4, 2, 2))]),
        wb.WeightConverter(
            ["experts.*.gate", "experts.*.up"], "experts.gate_up", [wb.MergeModulelist(0), wb.Concatenate(dim=1)]
        ),
    ],
    name="parts",
)


def tensors() -> dict[str, torch.Tensor]:
    made = {"embed.weight": torch.arange(15.0).view(5, 3)}
    for i in range(3):
        made[f"h.{i}.qkv.weight"] = torch.arange(24.0).view(8, 3) + i
        made |= {
            f"h.{i}.experts.{j}.{name}": torch.randn(2, 3, generator=torch.Generator().manual_seed(i + j))
            for j in range(2)
            for name in ("gate", "up")
        }
    return made


# what a selection names


@pytest.mark.parametrize(
    ("only", "count"),
    [
        ("model.layers.{0..3}.**", 8),
        ("model.layers.{0,2..4}.up", 4),
        ("layers.{11}.{down,up}.weight", 2),
        ("model.layers.{layer}.up.weight", 12),
        ("model.layers.3.up.weight", 1),
        ("^**", 25),
        (["model.norm.weight", "layers.0"], 3),
        ("**.weight", 25),
        ("layers.(0|1).down", 2),
    ],
)
def test_selection_names_these_keys(only: str | list[str], count: int) -> None:
    assert len(select(only, KEYS)) == count


def test_key_stands_for_itself_alone() -> None:
    assert select("a.b", ["a.b", "x.a.b.c"]) == {"a.b"}
    assert select("a.b", ["x.a.b.c"]) == {"x.a.b.c"}


SEGMENTS = st.lists(st.sampled_from(["0", "1", "2", "11", "up", "down", "w"]), min_size=1, max_size=4)


@settings(max_examples=300, deadline=None)
@given(st.sets(SEGMENTS.map(".".join), min_size=1, max_size=12))
def test_whatever_collapse_prints_selects_its_keys(keys: set[str]) -> None:
    assert select([f"^{line}$" for line in collapse(keys)], keys) == keys


@pytest.mark.parametrize(
    ("only", "code"),
    [
        ("layers.{3..1}.up", "pattern-syntax"),
        (f"layers.{{0..{MAX_NUMBERS}}}.up", "pattern-syntax"),
        ("layers.{0..x,1}.up", "pattern-syntax"),
        ("layers.{", "pattern-syntax"),
        ("layers.{20..30}.up", "rule-unused"),
        (["model.norm.weight", "nowhere"], "rule-unused"),
    ],
)
def test_wrong_selection_is_refused(only: str | list[str], code: str) -> None:
    with pytest.raises(wb.WeighbridgeError) as refused:
        select(only, KEYS)
    assert refused.value.code == code


def test_selection_that_names_nothing_names_the_nearest() -> None:
    with pytest.raises(wb.PlanError, match=r"model\.layers\.3\.up\.weight"):
        select("model.layers.3.upp.weight", KEYS)


# what a restricted plan does


@settings(max_examples=300, deadline=None)
@given(layouts(), st.integers(0, 2**32 - 1))
def test_restriction_commutes_and_accounts_for_everything(layout, seed: int) -> None:
    """Run a part of the plan, and take the same part of what the plan gives: the same bytes, and one fate for each."""
    plan = wb.plan(tensors_of(layout.tensors), layout.mapping)
    whole = plan.state_dict()
    chance = random.Random(seed)
    chosen = sorted(chance.sample(sorted(whole), chance.randint(1, len(whole))))
    part = plan.restrict(chosen)
    found = part.state_dict()
    assert sorted(found) == chosen
    assert all(bytes_of(found[key]).tobytes() == bytes_of(whole[key]).tobytes() for key in chosen)
    assert Counter(key for key, _ in part.source_fates()) == Counter(list(layout.tensors))
    needed = {key for step in plan.steps if set(step.targets) & set(chosen) for key in step.sources}
    assert {fated.key for fated in part.dropped} >= set(layout.tensors) - needed
    assert wb.Plan.from_json(part.to_json()) == part
    assert plan.restrict(sorted(whole)).steps == plan.steps


def test_dropped_sources_name_the_selection() -> None:
    part = wb.plan(tensors(), MAPPING).restrict("layers.{1,2}.experts.gate_up")
    assert list(part.target) == ["layers.1.experts.gate_up", "layers.2.experts.gate_up"]
    assert {fated.by for fated in part.dropped} == {"--only layers.{1,2}.experts.gate_up"}
    assert part.notes[-1].endswith("2 of 13 targets")
    assert not part.is_exact


def test_run_of_a_part_leaves_the_whole_plan_alone() -> None:
    """The inverse of the whole plan reads what the whole plan made, not what a part of it made after that."""
    plan = wb.plan(tensors(), MAPPING)
    whole = plan.state_dict()
    part = plan.restrict("layers.0").state_dict()
    assert set(part) < set(whole)
    back = plan.inverse().state_dict()
    assert all(torch.equal(back[key], tensor) for key, tensor in tensors().items())


def test_step_of_several_targets_is_cut() -> None:
    part = wb.plan(tensors(), MAPPING).restrict("layers.1.k.weight")
    (step,) = part.steps
    assert (step.sources, step.targets) == (("h.1.qkv.weight",), ("layers.1.k.weight",))
    assert torch.equal(part.state_dict()["layers.1.k.weight"], tensors()["h.1.qkv.weight"][4:6])
    for lossy in (False, True):
        with pytest.raises(wb.PlanError) as refused:
            part.inverse(lossy=lossy)
        assert refused.value.code == "inverse-lossy"


def test_tied_target_is_written_where_its_twin_is_left_out() -> None:
    weight = torch.arange(6.0).view(2, 3)
    spec = wb.TensorSpec("F32", (2, 3))
    target = wb.Header({"embed.weight": spec, "head.weight": spec}, ties={"head.weight": "embed.weight"})
    plan = wb.plan({"wte.weight": weight}, [wb.WeightRenaming("wte", "embed")], target)
    part = plan.restrict("head")
    assert torch.equal(part.state_dict()["head.weight"], weight)
    assert (list(part.target), part.tied_targets) == (["head.weight"], ())
    both = plan.restrict(["head.weight", "embed.weight"])
    assert [fated.key for fated in both.tied_targets] == ["head.weight"]


def test_initialised_target_can_be_left_out() -> None:
    spec = wb.TensorSpec("F32", (2, 3))
    target = wb.Header({"a.weight": spec, "new.weight": spec})
    plan = wb.plan({"a.weight": torch.zeros(2, 3)}, (), target, initialise="new")
    assert plan.restrict("a").initialised == ()
    assert [fated.key for fated in plan.restrict("**").initialised] == ["new.weight"]


def test_partial_output_holds_the_part_and_its_receipt_says_so(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "model.safetensors")
    out = wb.convert(tmp_path / "model.safetensors", tmp_path / "out", MAPPING, only="layers.{0..1}.**")
    whole = wb.plan(tensors(), MAPPING).state_dict()
    found = load_file(out / "model.safetensors")
    assert sorted(found) == sorted(key for key in whole if key.startswith(("layers.0.", "layers.1.")))
    assert all(torch.equal(found[key], whole[key]) for key in found)
    receipt = json.loads((out / "weighbridge.json").read_text("utf-8"))
    assert {entry[3] for entry in receipt["plan"]["dropped"]} == {"--only layers.{0..1}.**"}


def test_partial_output_goes_back_only_as_a_part(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "model.safetensors")
    wb.convert(tmp_path / "model.safetensors", tmp_path / "out", MAPPING, only="layers.{0..1}.**")
    with pytest.raises(wb.PlanError) as refused:
        wb.revert(tmp_path / "out", tmp_path / "back")
    assert refused.value.code == "inverse-lossy"
    assert not (tmp_path / "back").exists()
    back = load_file(wb.revert(tmp_path / "out", tmp_path / "back", lossy=True) / "model.safetensors")
    assert sorted(back) == sorted(key for key in tensors() if key.startswith(("h.0.", "h.1.")))
    assert all(torch.equal(back[key], tensors()[key]) for key in back)
