"""Indices that are written in another form: moved by a number of the configuration, divided in two, with zeros."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import weighbridge as wb
from weighbridge.studies.lint import lint


def numbered(*keys: str) -> dict[str, torch.Tensor]:
    return {key: torch.arange(4, dtype=torch.float32) + 10 * place for place, key in enumerate(keys)}


CASES: dict[str, tuple[Iterable[Any], Any, list[str], list[str]]] = {
    "zeros removed": (
        [wb.WeightRenaming("layer_{i:02}-model_states", "layers.{i}")],
        None,
        ["layer_03-model_states.w", "layer_12-model_states.w", "layer_100-model_states.w"],
        ["layers.3.w", "layers.12.w", "layers.100.w"],
    ),
    "zeros written": (
        [wb.WeightRenaming("blocks.{i:int}", "block{i+1:03}")],
        None,
        ["blocks.0.w", "blocks.99.w"],
        ["block001.w", "block100.w"],
    ),
    "one index of two": (
        [wb.WeightRenaming("stages.{i//2}.{i%2}", "blocks.{i}")],
        None,
        ["stages.0.0.w", "stages.0.1.w", "stages.1.0.w", "stages.6.1.w"],
        ["blocks.0.w", "blocks.1.w", "blocks.2.w", "blocks.13.w"],
    ),
    "two of one": (
        [wb.WeightRenaming("h.{i:int}.w", "row.{i%3}.column.{i//3}.w")],
        None,
        ["h.0.w", "h.1.w", "h.5.w", "h.100.w"],
        ["row.0.column.0.w", "row.1.column.0.w", "row.2.column.1.w", "row.1.column.33.w"],
    ),
    "some numbers moved": (
        [wb.WeightRenaming("norm.{i:0|1}", "norm.{i+2}")],
        None,
        ["norm.0.w", "norm.1.w", "norms.0.w"],
        ["norm.2.w", "norm.3.w", "norms.0.w"],
    ),
    "behind the others": (
        [wb.WeightRenaming("^mtp.{j:int}", "layers.{j+num_hidden_layers}")],
        {"num_hidden_layers": 2},
        ["layers.0.w", "layers.1.w", "mtp.0.w", "mtp.1.w"],
        ["layers.0.w", "layers.1.w", "layers.2.w", "layers.3.w"],
    ),
    "before the others": (
        [wb.WeightRenaming("^decoder.{j:int}", "all.{j-depth}"), wb.WeightRenaming("^all", "h")],
        {"text_config": {"depth": 3}},
        ["decoder.3.w", "decoder.10.w"],
        ["h.0.w", "h.7.w"],
    ),
    "in a converter": (
        [wb.WeightConverter(["q_{i:02}.w", "k_{i:02}.w"], "layers.{i}.qk", [wb.Concatenate(0)])],
        None,
        ["q_00.w", "k_00.w", "q_10.w", "k_10.w"],
        ["layers.0.qk", "layers.10.qk"],
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[wb.Mapping, Any, dict[str, torch.Tensor], list[str]]:
    rules, config, before, after = CASES[request.param]
    return wb.Mapping(rules, name="numbers"), config, numbered(*before), after


def test_from_memory_there_and_back(case: Any) -> None:
    mapping, config, tensors, after = case
    plan = wb.plan(tensors, mapping, config=config)
    made = plan.state_dict()
    assert sorted(made) == sorted(after)
    back = wb.plan(made, mapping.inverse(), config=config).state_dict()
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[key], tensors[key]) for key in tensors)
    again = plan.inverse().state_dict()
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)


def test_from_files_with_the_configuration_beside_them(case: Any, tmp_path: Path) -> None:
    mapping, config, tensors, after = case
    (tmp_path / "a").mkdir()
    save_file(tensors, tmp_path / "a" / "model.safetensors")
    (tmp_path / "a" / "config.json").write_text(json.dumps(config or {}))
    wb.convert(tmp_path / "a", tmp_path / "b", mapping)
    assert sorted(load_file(tmp_path / "b" / "model.safetensors")) == sorted(after)
    wb.revert(tmp_path / "b", tmp_path / "c")
    assert (tmp_path / "c" / "model.safetensors").read_bytes() == (tmp_path / "a" / "model.safetensors").read_bytes()
    wb.convert(tmp_path / "b", tmp_path / "d", mapping, reverse=True)
    assert load_file(tmp_path / "d" / "model.safetensors").keys() == tensors.keys()


def test_mapping_file_and_stored_plan_say_the_same(case: Any) -> None:
    mapping, config, tensors, _ = case
    assert wb.Mapping.from_yaml(mapping.to_yaml()) == mapping
    plan = wb.plan(tensors, mapping, config=config)
    again = wb.Plan.from_json(plan.to_json())
    assert again.target == plan.target
    assert again.mapping == plan.mapping


def test_each_is_clean_for_the_linter(case: Any) -> None:
    mapping, config, tensors, _ = case
    report = lint(mapping, wb.plan(tensors, (), layout="as is").source, config=config)
    assert [finding.code for finding in report.errors] == []
    assert [finding.code for finding in lint(mapping).errors] == []


def test_a_number_that_the_configuration_lacks_is_named() -> None:
    rules = [wb.WeightRenaming("^mtp.{j:int}", "layers.{j+num_hidden_layers}")]
    for config, near in ((None, "no configuration"), ({"num_hidden_layer": 3}, "nothing; nearest: num_hidden_layer")):
        with pytest.raises(wb.LayoutError) as caught:
            wb.plan(numbered("mtp.0.w"), rules, config=config)
        assert (caught.value.code, caught.value.got) == ("operation-config", near)
        assert "mtp" in caught.value.where


@pytest.mark.parametrize(
    ("rule", "key", "because"),
    [
        (wb.WeightRenaming("layer_{i:02}", "layers.{i}"), "layer_7.w", "'7', for {i:02}, has fewer than 2 digits"),
        (wb.WeightRenaming("s.{i//2}.{i%2}", "b.{i}"), "s.1.2.w", "'2', for {i%2}, is not less than 2"),
        (wb.WeightRenaming("h.{i:int}", "b.{i//2}.{i%2}"), "h.01.w", "'01', for {i//2}, has leading zeros"),
        (wb.WeightRenaming("h.{i:int}", "b.{i-3:02}"), "h.2.w", "'2', for {i-3:02}, would become negative"),
        (wb.WeightRenaming("h.{i+1:int}.{leaf}", "b.{i}.{leaf}"), "h.02.w", "'02', for {i+1}, has leading zeros"),
    ],
)
def test_an_index_that_does_not_fit_is_an_error(rule: Any, key: str, because: str) -> None:
    with pytest.raises(wb.WeighbridgeError) as caught:
        wb.plan(numbered(key), [rule])
    assert because in str(caught.value)


def test_half_of_an_index_has_no_way_back() -> None:
    mapping = wb.Mapping([wb.WeightRenaming("h.{i:int}.w", "pairs.{i//2}.w")])
    assert list(wb.plan(numbered("h.6.w"), mapping).target) == ["pairs.3.w"]
    with pytest.raises(wb.PatternError) as caught:
        mapping.inverse()
    assert caught.value.code == "pattern-one-way"
    assert caught.value.what == "the target has a part of `i` only"


def test_two_indices_that_become_one_name_collide() -> None:
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(numbered("h.6.w", "h.7.w"), [wb.WeightRenaming("h.{i:int}.w", "pairs.{i//2}.w")])
    assert "target-collision" in caught.value.codes


@pytest.mark.parametrize(
    ("source", "target", "key"),
    [
        ("layer_{i:02}", "layers.{i}", "layer_7.w"),
        ("h.{i:int}", "b.{i-3}", "h.2.w"),
        ("{i//2}.{i%2}", "b.{i}", "1.2.w"),
    ],
)
def test_the_guard_that_is_named_keeps_the_index_from_the_rule(source: str, target: str, key: str) -> None:
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(numbered(key), [wb.WeightRenaming(source, target)])
    guard = str(caught.value).partition("as in ")[2].partition("{i")[0]
    guarded = wb.WeightRenaming(source.replace("{i", guard + "{i"), target)
    assert list(wb.plan(numbered(key), [guarded]).target) == [key]


def test_a_model_is_saved_with_a_configuration_from_a_file(tmp_path: Path) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Linear(2, 2, bias=False) for _ in range(3))

    (tmp_path / "config.json").write_text('{"num_hidden_layers": 2}')
    rules = [wb.WeightRenaming("^mtp.{j:int}", "layers.{j+num_hidden_layers}")]
    out = wb.save(Model(), tmp_path / "out", rules, config=tmp_path / "config.json")
    assert "mtp.0.weight" in load_file(out / "model.safetensors")
