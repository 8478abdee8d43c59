"""A model that was never loaded is saved with the names that transformers gives it: a tied weight stands there once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

import weighbridge as wb
from weighbridge.models.module_saving import tied_names


def llama(*, tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=17,
            hidden_size=8,
            intermediate_size=12,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=tied,
        )
    )


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("tied", [True, False])
def test_the_file_has_the_tensors_of_the_librarys_own(tied: bool, tmp_path: Path) -> None:
    model = llama(tied=tied)
    model.save_pretrained(tmp_path / "theirs")
    wb.save(model, tmp_path / "ours")
    ours = load_file(tmp_path / "ours" / "model.safetensors")
    assert same(ours, load_file(tmp_path / "theirs" / "model.safetensors"))
    assert ("lm_head.weight" in ours) is not tied


def test_the_name_that_is_left_out_has_a_fate(tmp_path: Path) -> None:
    wb.save(llama(tied=True), tmp_path / "out")
    receipt = json.loads((tmp_path / "out" / "weighbridge.json").read_text())
    plan = wb.Plan.from_json(json.dumps(receipt["plan"]))
    fate = dict(plan.source_fates())["lm_head.weight"]
    assert (fate.name, fate.by) == ("dropped", "tied")
    assert plan.lossy_reasons == ("1 tensor dropped: tied",)


def test_what_was_saved_loads_into_a_tied_model_again(tmp_path: Path) -> None:
    model, other = llama(tied=True), llama(tied=True)
    with torch.no_grad():
        other.lm_head.weight.zero_()
    wb.save(model, tmp_path / "out")
    wb.load(other, tmp_path / "out")
    assert same(model.state_dict(), other.state_dict())
    assert other.lm_head.weight is other.model.embed_tokens.weight
    wb.save(other, tmp_path / "again")
    assert same(load_file(tmp_path / "again" / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors"))


def test_a_weight_that_is_no_longer_tied_is_saved(tmp_path: Path) -> None:
    model = llama(tied=True)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() + 1)
    assert tied_names(model) == []
    wb.save(model, tmp_path / "out")
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["lm_head.weight"], model.lm_head.weight)


def test_a_model_that_says_nothing_keeps_both_names(tmp_path: Path) -> None:
    model = torch.nn.Module()
    model.a, model.b = torch.nn.Linear(2, 3, bias=False), torch.nn.Linear(2, 3, bias=False)
    model.b.weight = model.a.weight
    wb.save(model, tmp_path / "out", [])
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == {"a.weight", "b.weight"}
