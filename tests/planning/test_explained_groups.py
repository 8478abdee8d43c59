"""What is said of one tensor of a quantised weight: of which it is, why it moves, and what configurations say of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command import run
from safetensors.torch import save_file
from test_group_laws import KINDS, configuration

import weighbridge as wb
from weighbridge.planning.companions import find_groups
from weighbridge.reporting.report_page.page_facts import Known

RULES = [
    wb.WeightRenaming("^m", "model.m"),
    wb.WeightConverter(["a.weight", "b.weight"], "both.weight", [wb.Concatenate(0)]),
    wb.WeightRenaming("both.weight", "one.weight"),
    wb.WeightRenaming("never.there", "nor.here"),
]


def quantised(name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    kind, generator = KINDS[name], torch.Generator().manual_seed(1)
    rows, columns = 2 * max(1, kind.rows), 2 * max(16, kind.columns)
    both = kind.make("m.a", rows, columns, generator) | kind.make("m.b", rows, columns, generator)
    return both | {"m.norm.weight": torch.ones(3)}, configuration(kind)


@pytest.mark.parametrize("name", KINDS)
def test_each_tensor_of_a_group_is_explained_by_the_rules_that_name_its_weight(name: str) -> None:
    source, config = quantised(name)
    plan = wb.plan(source, RULES, config=config)
    for side, stem, weight in (
        (plan.source, "m.a.", "m.a.weight"),
        (plan.target, "model.m.one.", "model.m.one.weight"),
    ):
        group = [key for key in side if key.startswith(stem)]
        assert len(group) > 1
        for key in group:
            found = plan.explain(key)
            assert found.weight == weight
            assert sorted(found.stored_as) == sorted(group)
            assert [each.outcome for each in found.tried] == ["fired", "fired", "fired", "no match"], key
            assert found.tried[1].before == "model.m.a.weight"
            assert f"  weight   {weight}, stored as " in str(found)
            assert found.to_dict()["weight"] == weight
            assert sorted(found.to_dict()["stored_as"]) == sorted(group)


def test_what_is_no_part_of_such_a_weight_is_explained_as_before() -> None:
    source, config = quantised("blocks of FP8")
    found = wb.plan(source, RULES, config=config).explain("m.norm.weight")
    assert (found.weight, found.stored_as) == ("", ())
    assert "  weight " not in str(found)
    assert [each.outcome for each in found.tried] == ["fired", "no match", "no match", "no match"]


def test_scales_with_rules_of_their_own_are_explained_by_these() -> None:
    source, config = quantised("blocks of FP8")
    own = wb.WeightConverter(["a.weight_scale_inv", "b.weight_scale_inv"], "both.weight_scale_inv", [wb.Concatenate(0)])
    join = RULES[1]
    found = wb.plan(source, [join, own], companions=False, config=config).explain("m.a.weight_scale_inv")
    assert [each.outcome for each in found.tried] == ["no match", "fired"]
    assert found.weight == "m.a.weight"


def test_what_nothing_touches_has_no_rule_that_fired() -> None:
    source, config = quantised("words of columns")
    plan = wb.plan(source, [], config=config)
    assert plan.explain("m.a.scales").weight == "m.a.weight"
    carried = wb.plan(source, RULES, carry=["^m.{rest:**}"], config=config).explain("m.a.scales")
    assert carried.fates[0].name == "carried"
    assert carried.weight == "m.a.weight"


@pytest.mark.parametrize("name", KINDS)
def test_the_page_says_the_same_of_steps_like_it(name: str) -> None:
    source, config = quantised(name)
    plan = wb.plan(source, RULES, config=config)
    traces = Known(plan).to_dict()["traces"]
    keys = {key for group in find_groups(plan.source) for key in (group.codes, *group.beside) if "m.a" in key}
    shown = {trace["key"]: trace for trace in traces}
    assert keys <= shown.keys()
    for key in keys:
        assert shown[key]["weight"] == "m.a.weight"
        assert shown[key]["outcomes"] == "fffn"
    assert "weight" not in shown["m.norm.weight"]
    assert "Quantised weight" in plan.to_html()


def written(folder: Path, said: dict[str, Any], names: tuple[str, ...] = ("gate", "up", "lm_head")) -> Path:
    folder.mkdir()
    save_file({f"{name}.weight": torch.ones(4, 2) for name in names}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"quantization_config": said}))
    return folder


def test_the_entries_that_follow_a_module_are_named_with_it(tmp_path: Path) -> None:
    said = {"quant_method": "compressed-tensors", "ignore": ["re:.*gate$", "lm_head", "re:up"]}
    source = written(tmp_path / "source", said)
    plan = wb.plan(source, [wb.WeightRenaming("^gate", "mlp.router"), wb.WeightRenaming("^lm_head", "head")])
    place = "config.json: quantization_config.ignore names"
    assert plan.explain("gate.weight").configurations == (
        f"{place} gate by 're:.*gate$' -> mlp.router by 'mlp.router'",
    )
    assert plan.explain("head.weight").configurations == (f"{place} lm_head by 'lm_head' -> head by 'head'",)
    assert plan.explain("up.weight").configurations == (f"{place} up by 're:up', and stays",)
    assert f"  config   {place} lm_head by 'lm_head' -> head by 'head'" in str(plan.explain("lm_head.weight"))
    back = plan.inverse().explain("head.weight")
    assert back.configurations == (f"{place} head by 'head' -> lm_head by 'lm_head'",)


def test_what_a_configuration_says_of_other_modules_is_not_said(tmp_path: Path) -> None:
    said = {"quant_method": "modelopt", "quantized_layers": {"gate": {"quant_algo": "FP8"}}, "ignore": ["lm*"]}
    plan = wb.plan(written(tmp_path / "source", said), [wb.WeightRenaming("^gate", "router")])
    assert plan.explain("up.weight").configurations == ()
    (line,) = plan.explain("router.weight").configurations
    assert line == "config.json: quantization_config.quantized_layers names gate by 'gate' -> router by 'router'"
    unchanged = wb.plan(tmp_path / "source", [wb.WeightRenaming("^up", "above")])
    assert unchanged.explain("gate.weight").configurations == ()  # nothing of the file changes


def test_the_command_says_it_too(tmp_path: Path) -> None:
    source, config = quantised("blocks of FP8")
    config["quantization_config"] |= {"modules_to_not_convert": ["^m.norm"]}
    (tmp_path / "source").mkdir()
    save_file(source, tmp_path / "source" / "model.safetensors")
    (tmp_path / "source" / "config.json").write_text(json.dumps(config))
    (tmp_path / "map.yaml").write_text(wb.Mapping(RULES).to_yaml())
    form = json.loads(run(tmp_path, "explain", "source", "map.yaml", "m.a.weight_scale_inv", "--json").out)
    assert form["weight"] == "m.a.weight"
    assert form["stored_as"] == ["m.a.weight", "m.a.weight_scale_inv"]
    norm = json.loads(run(tmp_path, "explain", "source", "map.yaml", "m.norm.weight", "--json").out)
    (said,) = norm["configurations"]
    place = "config.json: quantization_config.modules_to_not_convert"
    assert said == f"{place} names m.norm by '^m.norm' -> model.m.norm by 'model.m.norm'"
    planned = json.loads(run(tmp_path, "plan", "source", "map.yaml", "--json").out)
    assert [change["after"] for change in planned["config_changes"]] == [["model.m.norm"]]
    failed = run(tmp_path, "explain", "source", "map.yaml", "m.a.weight_scale_inv", "--no-companions", "--json")
    assert failed.status == 3
