"""Plans of each version of the format, as the commits stored them that brought it: they are read, and do the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from conftest import ROOT
from mapping_cases import Tensors, equal, numbers
from safetensors.torch import save_file

import weighbridge as wb

STORED = ROOT / "tests" / "data" / "plans"


class Stored(NamedTuple):
    """What a stored plan was made from, and what it makes of it, in plain torch."""

    source: Tensors
    rules: wb.Mapping
    wanted: Tensors
    options: dict[str, Any]


def fused() -> Stored:
    source = {f"h.{i}.{n}.weight": 100 * i + 20 * at + numbers(3, 5) for i in range(2) for at, n in enumerate("qkv")}
    source |= {f"h.{i}.experts.{e}.weight": 10 * i + 7 * e + numbers(2, 3) for i in range(2) for e in range(3)}
    source |= {"wte": numbers(7, 4).bfloat16(), "old": numbers(2)}
    rules = wb.Mapping(
        [
            wb.WeightRenaming("^h", "layers"),
            wb.WeightConverter(
                ["q.weight", "k.weight", "v.weight"], "qkv.weight", [wb.Concatenate(0), wb.Transpose(0, 1)]
            ),
            wb.WeightConverter("experts.*.weight", "experts.weight", [wb.MergeModulelist(0)]),
        ],
        name="fused",
        drop=["^old$"],
    )
    wanted = {"wte": source["wte"]}
    for i in range(2):
        wanted[f"layers.{i}.qkv.weight"] = torch.cat([source[f"h.{i}.{n}.weight"] for n in "qkv"]).T
        wanted[f"layers.{i}.experts.weight"] = torch.stack([source[f"h.{i}.experts.{e}.weight"] for e in range(3)])
    return Stored(source, rules, wanted, {})


def equals() -> Stored:
    embed, norm = numbers(4, 3), 9 + numbers(5)
    rules = wb.Mapping(
        [
            wb.WeightConverter("wte.weight", ["embed.weight", "head.weight"], [wb.Repeat()]),
            wb.WeightConverter("ranks.*.norm", "norm", [wb.MergeEqual()]),
        ],
        name="equal",
    )
    source = {"wte.weight": embed, "ranks.0.norm": norm, "ranks.1.norm": norm.clone()}
    return Stored(source, rules, {"embed.weight": embed, "head.weight": embed, "norm": norm}, {})


def quantised() -> Stored:
    codes, scales = (numbers(4, 6) - 12).to(torch.float8_e4m3fn), torch.tensor([[0.5, 2.0], [4.0, 0.25]])
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [2, 3]}}
    source = {"l.weight": codes, "l.weight_scale_inv": scales, "norm.weight": numbers(6)}
    plain = codes.float() * scales.repeat_interleave(2, 0).repeat_interleave(3, 1)
    rules = wb.Mapping([wb.WeightRenaming("^l", "layer")], name="codes")
    wanted = {"layer.weight": plain, "norm.weight": numbers(6)}
    return Stored(source, rules, wanted, {"dtype": "float32", "config": config})


def declared() -> Stored:
    embed, q, v = numbers(5, 3), numbers(4), 50 + numbers(4)
    source = {"wte.weight": embed, "q.bias": q, "v.bias": v, "head": torch.cat([numbers(3, 2), torch.ones(2, 2)])}
    pad = wb.Pad(0, multiple_of=8, value="-inf", source_size=5)
    rules = wb.Mapping(
        [
            wb.WeightConverter("wte.weight", "embed.weight", [pad]),
            wb.WeightConverter(
                ["q.bias", "v.bias"], "qkv.bias", [wb.InsertConstant(1, (4,)), wb.Concatenate(0, chunks=3)]
            ),
            wb.WeightConverter("head", "lm_head", [wb.Trim(0, 3, value=1, source_size=5)]),
        ],
        name="declared",
    )
    wanted = {
        "embed.weight": torch.cat([embed, torch.full((3, 3), -torch.inf)]),
        "qkv.bias": torch.cat([q, torch.zeros(4), v]),
        "lm_head": numbers(3, 2),
    }
    return Stored(source, rules, wanted, {})


CASES = {1: fused, 2: equals, 3: quantised, 4: declared}
"""By version of the format; the file of each was written by the commit that brought it, the first one by c1a290b."""


@pytest.mark.parametrize("version", CASES)
def test_a_stored_plan_is_read_and_does_what_it_did(version: int, tmp_path: Path) -> None:
    case, text = CASES[version](), (STORED / f"version-{version}.json").read_text("utf-8")
    save_file(case.source, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(case.options.get("config", {})))
    plan = wb.Plan.from_json(text)
    assert plan.version == version
    assert equal(plan.state_dict(tmp_path), case.wanted)
    compiled = wb.plan(case.source, case.rules, **case.options)
    assert (compiled, compiled.hash, compiled.version) == (plan, plan.hash, version)
    assert wb.Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("version", [version for version in CASES if version != 3])
def test_a_stored_plan_goes_back(version: int) -> None:
    """Codes, of which the third one computes, are not had back."""
    case = CASES[version]()
    plan = wb.Plan.from_json((STORED / f"version-{version}.json").read_text("utf-8"))
    kept = {key: tensor for key, tensor in case.source.items() if key not in {fated.key for fated in plan.dropped}}
    assert equal(plan.inverse(lossy=True).state_dict(case.wanted), kept)
