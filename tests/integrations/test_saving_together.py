"""Weights and settings are saved together (G8), and what an error says to try can be done where it was raised (C4)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

import weighbridge as wb
from weighbridge.integrations import transformers as wbt

pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own, of which it has many


def llama(**changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 17, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1, **changes))


class NoText:
    """A value that no JSON holds."""


def unwritable_config(model: LlamaForCausalLM) -> None:
    model.config.custom = NoText()


def unwritable_generation(model: LlamaForCausalLM) -> None:
    model.generation_config.update(do_sample=False, temperature=0.2, custom=NoText())


@pytest.mark.parametrize("spoil", [unwritable_config, unwritable_generation])
@pytest.mark.parametrize("came", ["loaded", "new"])
@pytest.mark.parametrize("resume", [False, True])
def test_settings_that_cannot_be_written_leave_no_output(spoil: Any, came: str, resume: bool, tmp_path: Path) -> None:
    """G8, law 10: a finished directory stayed there with an empty `config.json`, and the retry was refused."""
    llama().save_pretrained(tmp_path / "hub")
    model = wbt.from_pretrained(LlamaForCausalLM, tmp_path / "hub") if came == "loaded" else llama()
    spoil(model)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises((TypeError, ValueError)):
        wbt.save_pretrained(model, tmp_path / "out", resume=resume)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    model.config.__dict__.pop("custom", None)
    model.generation_config.__dict__.pop("custom", None)
    model.generation_config.temperature = None
    out = wbt.save_pretrained(model, tmp_path / "out", resume=resume)
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 17
    assert LlamaForCausalLM.from_pretrained(out).state_dict().keys() == model.state_dict().keys()


def test_settings_are_there_when_the_directory_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """G8: they are written into the hidden directory, in the place of those that the checkpoint came with."""
    llama().save_pretrained(tmp_path / "hub")
    (tmp_path / "hub" / "tokenizer.json").write_text("{}")
    model = wbt.from_pretrained(LlamaForCausalLM, tmp_path / "hub", dtype=torch.bfloat16)
    seen: list[set[str]] = []
    plain = os.rename

    def rename(path: Any, target: Any, **options: Any) -> None:
        if not options and Path(path).is_dir():
            seen.append({entry.name for entry in Path(path).iterdir()})
        plain(path, target, **options)

    monkeypatch.setattr(os, "rename", rename)
    out = wbt.save_pretrained(model, tmp_path / "out")
    wanted = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert {entry.name for entry in out.iterdir()} >= wanted
    assert any(names >= wanted for names in seen), "nothing was renamed with all of it"
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"


def test_the_room_that_is_needed_counts_the_files_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """G17: extras were not counted."""
    source = tmp_path / "source"
    source.mkdir()
    save_file({"a": torch.ones(4)}, source / "model.safetensors", metadata={"format": "pt"})
    (source / "tokenizer.model").write_bytes(bytes(100_000))
    from weighbridge.running.to_files import directory_writing

    needed: list[int] = []
    plain = directory_writing.staged_directory

    def staged(*places: Any, **options: Any) -> Any:
        needed.append(options["needed_bytes"])
        return plain(*places, **options)

    monkeypatch.setattr(directory_writing, "staged_directory", staged)
    out = wb.convert(source, tmp_path / "out", [])
    assert sum(path.stat().st_size for path in out.iterdir()) == needed[0]


# ---- what an error says to try ----


def test_a_broken_tie_is_saved_as_the_error_says(tmp_path: Path) -> None:
    """C4: the hint "save with another mapping" had no argument to be followed with."""
    llama(tie_word_embeddings=True).save_pretrained(tmp_path / "hub")
    for number, save in enumerate((wb.save, wbt.save_pretrained)):
        model = wbt.from_pretrained(LlamaForCausalLM, tmp_path / "hub")
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() + 1)
        with pytest.raises(wb.PlanError) as caught:
            wb.loaded_plan(model).inverse().write(tmp_path / "refused")
        assert caught.value.code == "tie-differs"
        assert "save(model, out)" in caught.value.hint
        out = save(model, tmp_path / f"out{number}")
        held = load_file(out / "model.safetensors")
        assert held["lm_head.weight"].equal(model.lm_head.weight)
        assert not held["model.embed_tokens.weight"].equal(held["lm_head.weight"])


def test_a_model_that_changed_is_saved_as_the_error_says(tmp_path: Path) -> None:
    """C4: `source-changed` came without a hint."""
    llama().save_pretrained(tmp_path / "hub")
    for number, save in enumerate((wb.save, wbt.save_pretrained)):
        model = wbt.from_pretrained(LlamaForCausalLM, tmp_path / "hub")
        model.resize_token_embeddings(20)
        with pytest.raises(wb.CheckpointError) as caught:
            wb.loaded_plan(model).inverse().write(tmp_path / f"first{number}")
        assert "save(model, out)" in caught.value.hint
        out = save(model, tmp_path / f"out{number}")
        assert load_file(out / "model.safetensors")["model.embed_tokens.weight"].shape == (20, 8)


def test_the_layout_is_declared_in_every_call_that_may_ask_for_it(tmp_path: Path) -> None:
    """C4: `layout="mapped"` ended in a TypeError of `write`."""
    rules = [wb.WeightRenaming("^first", "second"), wb.WeightRenaming("^third", "first")]
    model = torch.nn.ModuleDict({"first": torch.nn.Linear(2, 2), "second": torch.nn.Linear(2, 2)})
    out = wb.save(model, tmp_path / "mapped", rules, layout="mapped", max_shard_size=None)
    assert {key.split(".")[0] for key in wb.open(out).header} == {"first", "third"}
    as_is = wb.save(model, tmp_path / "as is", rules, layout="as is", digests=True)
    assert {key.split(".")[0] for key in wb.open(as_is).header} == {"first", "second"}
    llama().save_pretrained(tmp_path / "hub")
    for layout in ("mapped", "as is"):
        loaded = wbt.from_pretrained(LlamaForCausalLM, tmp_path / "hub", layout=layout)
        assert loaded.state_dict().keys() == llama().state_dict().keys()
    again = wbt.save_pretrained(llama(), tmp_path / "again", "llama", layout="mapped", drop="lm_head")
    assert load_file(again / "model.safetensors").keys() == llama().state_dict().keys() - {"lm_head.weight"}


def test_an_option_that_has_no_part_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """C4: an option of a plan, for a model whose plan is made already."""
    llama().save_pretrained(tmp_path / "hub")
    model = wbt.from_pretrained(LlamaForCausalLM, tmp_path / "hub")
    for number, save in enumerate((wb.save, wbt.save_pretrained)):
        with pytest.raises(wb.WeighbridgeError) as caught:
            save(model, tmp_path / "out", drop="lm_head")
        assert (caught.value.code, caught.value.got) == ("usage", "drop")
        save(model, tmp_path / f"first{number}", layout="published", drop="lm_head")  # as the hint says
        save(model, tmp_path / f"second{number}", "llama", drop="lm_head")
        with pytest.raises(wb.WeighbridgeError) as caught:
            save(model, tmp_path / "out", max_shard_sise=3)
        assert caught.value.code == "usage"


# ---- what else may happen meanwhile ----


def test_what_somebody_else_put_there_meanwhile_stays(tmp_path: Path) -> None:
    """G17: the patch of another library was thrown away at the end of a load."""
    from transformers import modeling_utils

    from weighbridge.integrations.transformers_loading import Filled, converted_by

    name = "convert_and_load_state_dict_in_model"
    llama().save_pretrained(tmp_path / "hub")
    before = getattr(modeling_utils, name)
    calls: list[str] = []
    try:
        with converted_by(lambda model, load_config: Filled({})):
            ours = getattr(modeling_utils, name)

            def theirs(*args: Any, **options: Any) -> Any:
                calls.append("theirs")
                return ours(*args, **options)

            setattr(modeling_utils, name, theirs)
        assert getattr(modeling_utils, name) is theirs
        for _ in range(2):
            loaded = wbt.from_pretrained(LlamaForCausalLM, tmp_path / "hub")
            assert getattr(modeling_utils, name) is theirs
            assert all(tensor.equal(llama().state_dict()[key]) for key, tensor in loaded.state_dict().items())
        LlamaForCausalLM.from_pretrained(tmp_path / "hub")
        assert calls == ["theirs"] * 3
    finally:
        setattr(modeling_utils, name, before)
    wbt.from_pretrained(LlamaForCausalLM, tmp_path / "hub")
    assert getattr(modeling_utils, name) is before


class WithState(LlamaForCausalLM):
    """A class with extra state of its own."""

    state = torch.zeros(3)

    def get_extra_state(self) -> torch.Tensor:
        return self.state

    def set_extra_state(self, state: torch.Tensor) -> None:
        self.state = state


def test_extra_state_goes_through_the_library_and_back(tmp_path: Path) -> None:
    """B2: what a model holds is the same for the integration."""
    state = {key: tensor.clone() for key, tensor in llama().state_dict().items()} | {"_extra_state": torch.arange(5)}
    (tmp_path / "hub").mkdir()
    save_file(state, tmp_path / "hub" / "model.safetensors", metadata={"format": "pt"})
    llama().config.save_pretrained(tmp_path / "hub")
    model = wbt.from_pretrained(WithState, tmp_path / "hub")
    assert model.state.tolist() == [0, 1, 2, 3, 4]
    out = wbt.save_pretrained(model, tmp_path / "out")
    name = "model.safetensors"
    assert (out / name).read_bytes() == (tmp_path / "hub" / name).read_bytes()


def test_names_of_wrappers_inside_keys_are_read_by_the_integration(tmp_path: Path) -> None:
    """C9: a checkpoint of a model with one compiled layer."""
    state = {key.replace("mlp.", "mlp._orig_mod."): tensor.clone() for key, tensor in llama().state_dict().items()}
    (tmp_path / "hub").mkdir()
    save_file(state, tmp_path / "hub" / "model.safetensors", metadata={"format": "pt"})
    llama().config.save_pretrained(tmp_path / "hub")
    model = wbt.from_pretrained(LlamaForCausalLM, tmp_path / "hub")
    assert all(tensor.equal(llama().state_dict()[key]) for key, tensor in model.state_dict().items())
    out = wbt.save_pretrained(model, tmp_path / "out")
    assert load_file(out / "model.safetensors").keys() == state.keys()


@pytest.mark.parametrize(
    ("name", "options", "got"),
    [("out.bin", {}, "out.bin"), ("out", {"name": "adapter_model"}, "name='adapter_model'")],
)
def test_a_model_is_saved_where_the_library_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, str], got: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(wb.WeighbridgeError) as caught:
        wbt.save_pretrained(llama(), name, **options)
    assert (caught.value.code, caught.value.got) == ("usage", got)
    assert not list(tmp_path.iterdir())
