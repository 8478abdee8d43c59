"""Wrappers (A10, A11, C9), the real ones of PEFT, torch, accelerate: what is no part of a layout is looked through."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

import weighbridge as wb
from weighbridge.integrations import transformers as wbt
from weighbridge.models.wrappers import unwrap

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own, of which they have many


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = torch.nn.Linear(3, 5), torch.nn.Linear(5, 3)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(Block() for _ in range(2))
        self.norm = torch.nn.BatchNorm1d(3)


NORMS = [wb.WeightRenaming("norm.gamma", "norm.weight"), wb.WeightRenaming("norm.beta", "norm.bias")]


def published() -> dict[str, torch.Tensor]:
    """A file's tensors in the layout that `NORMS` reads."""
    names = {"norm.weight": "norm.gamma", "norm.bias": "norm.beta"}
    return {names.get(key, key): torch.rand(value.shape).to(value.dtype) for key, value in Net().state_dict().items()}


def checkpointed(model: Net) -> Net:
    model.layers[0] = checkpoint_wrapper(model.layers[0])
    model.layers[1].up = checkpoint_wrapper(model.layers[1].up)
    return model


def compiled_part(model: Net) -> Net:
    model.layers[0].up = torch.compile(model.layers[0].up, backend="eager")
    return model


def wrapped_part(model: Net) -> Net:
    model.layers[1] = torch.nn.DataParallel(model.layers[1])
    return model


WRAPS: dict[str, Callable[[Net], torch.nn.Module]] = {
    "DataParallel": torch.nn.DataParallel,
    "AveragedModel": AveragedModel,
    "AveragedModel of DataParallel": lambda model: AveragedModel(torch.nn.DataParallel(model)),
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "compiled part": compiled_part,
    "data-parallel part": wrapped_part,
    "checkpoint_wrapper": checkpointed,
    "checkpoint_wrapper of all": checkpoint_wrapper,
    "all of them": lambda model: torch.nn.DataParallel(torch.compile(checkpointed(model), backend="eager")),
}


@pytest.fixture(params=WRAPS)
def wrap(request: pytest.FixtureRequest) -> Callable[[Net], torch.nn.Module]:
    return WRAPS[request.param]


def test_a_wrapped_model_opens_as_the_model_inside(wrap: Any) -> None:
    """C9: `wb.open` and `verify`."""
    model = Net()
    plain = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    wrapped = wrap(model)
    assert dict(wb.open(wrapped).header.specs) == dict(wb.open(plain).header.specs)
    assert wb.verify(wrapped, plain)
    with torch.no_grad():
        next(wrapped.parameters()).add_(1)
    assert not wb.verify(wrapped, plain)


def test_a_wrapped_model_is_a_target_as_the_model_inside(wrap: Any, tmp_path: Path) -> None:
    """C9: `plan(target=)`, and a model that is loaded and saved through its wrapper."""
    file, wrapped = published(), wrap(Net())
    plan = wb.plan(file, NORMS, target=wrapped)
    assert {key for key, _ in plan.target_fates()} == set(Net().state_dict())
    report = wb.load(wrapped, file, NORMS)
    assert report.plan == plan
    for name, tensor in as_read(file).items():
        assert unwrapped_state(wrapped)[name].equal(tensor)
    saved = load_file(wb.save(wrapped, tmp_path / "recorded") / "model.safetensors")
    assert saved.keys() == file.keys()
    assert all(saved[key].equal(file[key]) for key in file)
    derived = load_file(wb.save(wrapped, tmp_path / "derived", NORMS, layout="mapped") / "model.safetensors")
    assert {key for key in derived if key.startswith("layers")} == {key for key in file if key.startswith("layers")}


def as_read(file: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    names = {"norm.gamma": "norm.weight", "norm.beta": "norm.bias"}
    return {names.get(key, key): tensor for key, tensor in file.items()}


def unwrapped_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What the model inside holds, by torch's own account; the names of wrappers are taken out of the text."""
    state = unwrap(model).state_dict()
    for name in ("_orig_mod.", "_checkpoint_wrapped_module.", "layers.1.module."):
        kept = "layers.1." if name.startswith("layers") else ""
        state = {key.replace(name, kept): tensor for key, tensor in state.items()}
    return state


def test_a_wrapped_model_is_converted_as_the_model_inside(wrap: Any, tmp_path: Path) -> None:
    """C9: `convert`."""
    model = Net()
    plain = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    out = wb.convert(wrap(model), tmp_path / "out", [wb.WeightRenaming("layers", "blocks")])
    saved = load_file(out / "model.safetensors")
    assert {key.replace("blocks", "layers") for key in saved} == set(plain)
    assert all(saved[key.replace("layers", "blocks")].equal(tensor) for key, tensor in plain.items())


def test_the_counter_of_an_average_is_left_aside_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """C9: `n_averaged` is neither asked for nor written."""
    model = AveragedModel(Net())
    model.update_parameters(Net())
    note = "n_averaged of AveragedModel, which is no part of the model inside: left aside"
    assert wb.open(model).notes == (note,)
    file = as_read(published())
    assert note in wb.load(model, file, []).plan.notes
    assert model.n_averaged.item() == 1
    with caplog.at_level(logging.WARNING, logger="weighbridge"):
        wb.save(model, tmp_path / "out")
    assert note in caplog.text


# ---- names of wrappers in a file ----


def marked(file: dict[str, torch.Tensor], *marks: tuple[str, str]) -> dict[str, torch.Tensor]:
    found = {}
    for key, tensor in file.items():
        for before, after in marks:
            key = key.replace(before, after) if before else after + key
        found[key] = tensor
    return found


MARKS = {
    "at the start": [("", "_orig_mod.")],
    "inside": [("layers.0.", "layers.0._orig_mod.")],
    "at the start and inside": [("up.", "up._orig_mod."), ("", "_orig_mod.")],
    "twice inside": [("up.", "up._orig_mod."), ("layers.", "layers._orig_mod.")],
    "of two kinds": [("layers.1.", "layers.1._checkpoint_wrapped_module._orig_mod.")],
}


@pytest.mark.parametrize("marks", MARKS.values(), ids=MARKS)
def test_names_of_wrappers_in_a_file_are_looked_through(marks: Any, tmp_path: Path) -> None:
    """C9: `_orig_mod.` anywhere in a file's keys: loaded, converted, and written back as it was."""
    file = marked(published(), *marks)
    save_file(file, tmp_path / "model.safetensors")
    model = Net()
    wb.load(model, tmp_path / "model.safetensors", NORMS)
    for name, tensor in as_read(published_names(file)).items():
        assert model.state_dict()[name].equal(tensor)
    saved = wb.save(model, tmp_path / "back")
    assert (saved / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    out = wb.convert(tmp_path / "model.safetensors", tmp_path / "out", NORMS)
    assert wb.open(out).header.specs.keys() == Net().state_dict().keys()
    back = wb.revert(out, tmp_path / "reverted")
    assert (back / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def published_names(file: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.replace("_orig_mod.", "").replace("_checkpoint_wrapped_module.", ""): file[key] for key in file}


HOLDERS = {
    "DataParallel": torch.nn.DataParallel,
    "AveragedModel": torch.optim.swa_utils.AveragedModel,
    "both": lambda model: torch.nn.DataParallel(torch.compile(model, backend="eager")),
}


@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS)
def test_c9_a_state_dict_with_module_in_front_is_the_model_inside(hold: Any, tmp_path: Path) -> None:
    """Loaded into a model, converted without one, compared, and written back as it was."""
    model = Net()
    file = {key: tensor.clone() for key, tensor in hold(model).state_dict().items()}
    save_file(file, tmp_path / "model.safetensors")
    there = tmp_path / "model.safetensors"
    loaded = Net()
    wb.load(loaded, there, [])
    assert all(tensor.equal(model.state_dict()[key]) for key, tensor in loaded.state_dict().items())
    wb.load(torch.nn.DataParallel(loaded), there, [])
    rule = [wb.WeightRenaming("^layers", "blocks")]
    out = wb.convert(there, tmp_path / "out", rule)
    wanted = {key.replace("layers.", "blocks.", 1) for key in model.state_dict()}
    assert wb.open(out).header.specs.keys() - {"n_averaged"} == wanted
    back = wb.revert(out, tmp_path / "back")
    assert (back / "model.safetensors").read_bytes() == there.read_bytes()


def test_c9_module_stays_where_a_rule_or_a_target_speaks_of_it() -> None:
    file = {"module.up": torch.zeros(2), "module.down": torch.ones(3)}
    assert sorted(wb.plan(file, [wb.WeightRenaming("module.up", "up")]).target) == ["module.down", "up"]
    assert sorted(wb.plan(file, [wb.WeightRenaming("up", "first")], target=file).target) == sorted(file)
    assert sorted(wb.plan(file, []).target) == sorted(file)
    part = {**file, "head": torch.ones(4)}
    assert sorted(wb.plan(part, [wb.WeightRenaming("up", "first")]).target) == ["head", "module.down", "module.first"]


def test_names_of_wrappers_stay_where_they_are_wanted() -> None:
    """C9: a target that has such names itself is reached."""
    file = marked(published(), ("up.", "up._orig_mod."))
    plan = wb.plan(file, [], target=wb.open(file).header)
    assert plan.target.specs == plan.source.specs


def test_a_name_that_is_marked_and_not_is_a_collision() -> None:
    """C9: two tensors that would have one name are not told apart by chance."""
    file = {"a._orig_mod.w": torch.zeros(2), "a.w": torch.ones(2)}
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(file, [])
    assert caught.value.codes == ("target-collision",)


def test_the_file_of_a_compiled_model_is_read_by_the_integration(tmp_path: Path) -> None:
    """C9: `from_pretrained`, whose mappings are the library's."""
    model = llama()
    compiled = torch.compile(model, backend="eager")
    state = {key: tensor.clone() for key, tensor in compiled.state_dict().items()}
    assert all(key.startswith("_orig_mod.") for key in state)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model.config.save_pretrained(tmp_path)
    loaded = wbt.from_pretrained(LlamaForCausalLM, tmp_path)
    assert all(tensor.equal(model.state_dict()[key]) for key, tensor in loaded.state_dict().items())


# ---- PEFT ----


def llama(kind: Any = LlamaForCausalLM) -> Any:
    torch.manual_seed(0)
    sizes = {"vocab_size": 17, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "pad_token_id": 0}
    return kind(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=False))


def lora(**options: Any) -> Callable[[Any], Any]:
    def make(model: Any) -> Any:
        import peft

        return peft.get_peft_model(model, peft.LoraConfig(**({"target_modules": ["q_proj", "v_proj"]} | options)))

    return make


def of_kind(name: str, **options: Any) -> Callable[[Any], Any]:
    def make(model: Any) -> Any:
        import peft

        return peft.get_peft_model(model, getattr(peft, name)(**options))

    return make


def added_by_the_library(model: Any) -> Any:
    import peft

    try:
        model.add_adapter(peft.LoraConfig(target_modules=["q_proj"]))
    except ValueError as refused:
        if "version of PEFT" not in str(refused):
            raise
        pytest.skip("needs the version of the package peft that the installed transformers asks for")
    return model


def two_adapters(model: Any) -> Any:
    import peft

    made = lora()(model)
    made.add_adapter("other", peft.LoraConfig(target_modules=["k_proj"]))
    return made


PEFT: dict[str, Callable[[Any], Any]] = {
    "lora": lora(),
    "dora": lora(use_dora=True),
    "of an embedding": lora(target_modules=["q_proj", "embed_tokens"]),
    "trainable tokens": lora(trainable_token_indices=[1, 2]),
    "of parameters": lora(target_modules=[], target_parameters=["mlp.up_proj.weight", "mlp.gate_proj.weight"]),
    "two": two_adapters,
    "added by the library": added_by_the_library,
    "ia3": of_kind("IA3Config", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "vera": of_kind("VeraConfig", target_modules=["q_proj"], r=2),
    "loha": of_kind("LoHaConfig", target_modules=["q_proj"]),
    "prompt": of_kind("PromptTuningConfig", num_virtual_tokens=3, task_type="CAUSAL_LM"),
    "prefix": of_kind("PrefixTuningConfig", num_virtual_tokens=3, task_type="CAUSAL_LM"),
    "llama adapter": of_kind("AdaptionPromptConfig", adapter_len=2, adapter_layers=1, task_type="CAUSAL_LM"),
}


@pytest.fixture
def peft() -> Any:
    return pytest.importorskip("peft", reason="needs the package peft, of the extra `test`")


@pytest.mark.parametrize("adapt", PEFT.values(), ids=PEFT)
def test_a_model_with_adapters_is_saved_as_its_base(peft: Any, adapt: Any, tmp_path: Path, caplog: Any) -> None:
    """A11: `base_layer` and `lora_A.default` stood in the files, in silence."""
    plain = llama().state_dict()
    model = adapt(llama())
    with caplog.at_level(logging.WARNING, logger="weighbridge"):
        saved = [
            wb.save(model, tmp_path / "by a family"),
            wb.save(model, tmp_path / "by a list", []),
            wbt.save_pretrained(model, tmp_path / "pretrained"),
        ]
    for out in saved:
        held = load_file(out / "model.safetensors")
        assert held.keys() == plain.keys()
        assert all(held[key].equal(plain[key]) for key in plain)
    assert caplog.text.count("not merged into the weights") >= len(saved)
    assert "not merged" in " ".join(wb.open(saved[0]).notes) or "not merged" in receipt_notes(saved[0])


def receipt_notes(out: Path) -> str:
    import json

    return " ".join(json.loads((out / "weighbridge.json").read_text())["plan"]["notes"])


def test_a_model_that_was_loaded_and_adapted_goes_back_byte_for_byte(peft: Any, tmp_path: Path) -> None:
    """A11: the recorded way back is that of the model inside."""
    llama().save_pretrained(tmp_path / "hub")
    model = lora()(wbt.from_pretrained(LlamaForCausalLM, tmp_path / "hub"))
    wbt.save_pretrained(model, tmp_path / "out")
    name = "model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "hub" / name).read_bytes()
    assert (tmp_path / "out" / "config.json").is_file()
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict().keys() == llama().state_dict().keys()


def test_a_base_is_loaded_under_adapters(peft: Any) -> None:
    """A11: as a target, too, and the adapters stay."""
    model = lora(init_lora_weights=False)(llama())
    file = {key: torch.rand_like(tensor) for key, tensor in llama().state_dict().items()}
    factors = {key: tensor.clone() for key, tensor in model.state_dict().items() if "lora_" in key}
    report = wb.load(model, file, [])
    held = model.state_dict()
    assert all(held[key].equal(factors[key]) for key in factors)
    assert held["base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight"].equal(
        file["model.layers.0.self_attn.q_proj.weight"]
    )
    assert "adapter default: not merged into the weights; 8 tensors beside them left aside" in str(report)


def test_merged_adapters_are_saved_with_the_weights_and_said(peft: Any, tmp_path: Path, caplog: Any) -> None:
    """A11: what is saved is said; and nothing is loaded under what is merged."""
    model = lora(init_lora_weights=False)(llama())
    model.merge_adapter()
    with caplog.at_level(logging.WARNING, logger="weighbridge"):
        saved = load_file(wb.save(model, tmp_path / "out") / "model.safetensors")
    assert "adapter default: merged into the weights, which hold it" in caplog.text
    assert "merged into the weights" in receipt_notes(tmp_path / "out")
    plain = llama().state_dict()
    changed = {key for key in plain if not saved[key].equal(plain[key])}
    assert changed == {key for key in plain if "q_proj" in key or "v_proj" in key}
    with pytest.raises(wb.RegistryError) as caught:
        wb.load(model, plain, [])
    assert caught.value.code == "integration-unsupported"
    model.unmerge_adapter()  # as the hint says
    wb.load(model, plain, [])


def test_adapters_that_are_merged_in_part_are_refused(peft: Any, tmp_path: Path) -> None:
    """A11: a file with some of the adapters in it is nobody's."""
    model = lora()(llama())
    model.base_model.model.model.layers[0].self_attn.q_proj.merge()
    with pytest.raises(wb.RegistryError) as caught:
        wb.save(model, tmp_path / "out")
    assert caught.value.code == "integration-unsupported"
    assert not (tmp_path / "out").exists()
    model.merge_adapter()  # as the hint says
    wb.save(model, tmp_path / "out")


def test_trained_copies_and_changed_weights_are_said(peft: Any, tmp_path: Path) -> None:
    """A11: the originals are saved; an adapter that began with a part of the weights took it from them."""
    model = lora(modules_to_save=["score"], task_type="SEQ_CLS")(llama(LlamaForSequenceClassification))
    with torch.no_grad():
        for tensor in model.base_model.model.score.modules_to_save.parameters():
            tensor.add_(1)
    opened = wb.open(model)
    assert "trained copies left aside, the originals stand for them: score" in opened.notes
    plain = llama(LlamaForSequenceClassification).state_dict()
    assert wb.verify(opened, plain)
    taken = lora(init_lora_weights="pissa", r=2)(llama())
    assert any("init_lora_weights='pissa'" in note for note in wb.open(taken).notes)
    with pytest.raises(wb.RegistryError):
        wb.load(taken, llama().state_dict(), [])
    assert any("bias='all'" in note for note in wb.open(lora(bias="all")(llama())).notes)


def test_a_part_of_peft_that_is_not_known_is_refused_by_name(peft: Any, tmp_path: Path) -> None:
    """A11: no names of a wrapper are written because nobody knew it."""
    from peft.tuners.tuners_utils import BasePromptEncoder

    class Unknown(BasePromptEncoder):
        def __init__(self, inner: torch.nn.Module) -> None:
            torch.nn.Module.__init__(self)
            self.inner = inner

    model = torch.nn.Sequential(Unknown(torch.nn.Linear(2, 3)))
    with pytest.raises(wb.RegistryError) as caught:
        wb.save(model, tmp_path / "out", [])
    assert (caught.value.code, caught.value.got) == ("integration-unsupported", "Unknown")


# ---- accelerate ----


@pytest.fixture
def accelerate() -> Any:
    return pytest.importorskip("accelerate", reason="needs the package accelerate, of the extra `test`")


def test_a_model_that_accelerate_prepared_is_the_model(accelerate: Any, tmp_path: Path) -> None:
    """C9: it has hooks, and the same tensors."""
    model = accelerate.Accelerator(cpu=True).prepare(Net())
    file = published()
    wb.load(model, file, NORMS)
    saved = load_file(wb.save(model, tmp_path / "out") / "model.safetensors")
    assert saved.keys() == file.keys()


TIED = {"layers.1.up.weight": "layers.0.up.weight"}


def tied_net() -> Net:
    torch.manual_seed(0)
    model = Net()
    model.layers[1].up.weight = model.layers[0].up.weight
    return model


def used(model: torch.nn.Module) -> torch.Tensor:
    """Run each block of a model as a hook would have it."""
    rows = torch.arange(6.0).view(2, 3)
    return torch.cat([block.down(block.up(rows)) for block in unwrap(model).layers])


def offloaded(accelerate: Any, how: str, folder: Path) -> Any:
    """Offload a model: all of it to memory or to files, or half of it, or in a wrapper, or once it has run."""
    model = tied_net()
    if how in ("to memory", "buffers too", "in a wrapper"):
        accelerate.cpu_offload(model, execution_device="cpu", offload_buffers=how == "buffers too")
    elif how == "part of it":
        places = {"layers.0": "cpu", "layers.1": "disk", "norm": "cpu"}
        accelerate.dispatch_model(model, places, offload_dir=folder)
    else:
        accelerate.disk_offload(model, folder, execution_device="cpu")
    return torch.nn.DataParallel(checkpointed(model)) if how == "in a wrapper" else model


@pytest.mark.parametrize("how", ["to memory", "buffers too", "in a wrapper", "part of it", "to files"])
def test_weights_that_accelerate_keeps_elsewhere_are_the_models(accelerate: Any, how: str, tmp_path: Path) -> None:
    """Read from memory or from files, and saved as the model was that nobody offloaded."""
    plain = tied_net()
    wanted = wb.save(plain, tmp_path / "plain", [])
    model = offloaded(accelerate, how, tmp_path / "folder")
    assert used(model).equal(used(plain))
    assert wb.verify(model, plain.state_dict())
    if how not in ("part of it", "to files"):
        assert wb.open(model).header.ties == TIED
    saved = wb.save(model, tmp_path / "out", [])
    assert (saved / "model.safetensors").read_bytes() == (wanted / "model.safetensors").read_bytes()


@pytest.mark.parametrize("how", ["to memory", "buffers too", "in a wrapper"])
def test_weights_that_accelerate_keeps_in_memory_are_set_there(accelerate: Any, how: str, tmp_path: Path) -> None:
    """The next call of the model takes them from where they were set; a dtype that it would not take is refused."""
    model, file = offloaded(accelerate, how, tmp_path), published()
    file["layers.1.up.weight"] = file["layers.0.up.weight"]
    wb.load(model, file, NORMS)
    other = Net()
    other.load_state_dict(as_read(file))
    assert used(model).equal(used(other))
    assert wb.verify(model, as_read(file))
    wider = {key: tensor.double() if tensor.is_floating_point() else tensor for key, tensor in file.items()}
    with pytest.raises(wb.PlanError) as caught:
        wb.load(model, wider, NORMS)
    assert "dtype-mismatch" in caught.value.codes
    assert used(model).equal(used(other))
    wb.load(model, wider, NORMS, dtype="target")  # as the hint says
    assert wb.verify(model, as_read(file))


def test_weights_that_accelerate_reads_from_files_are_not_set(accelerate: Any, tmp_path: Path) -> None:
    """A load would be undone by the next call of the model."""
    model, plain = offloaded(accelerate, "part of it", tmp_path), tied_net().state_dict()
    with pytest.raises(wb.RegistryError) as caught:
        wb.load(model, plain, [])
    assert caught.value.code == "integration-unsupported"
    assert caught.value.where.startswith("layers.1.up.weight, ")
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(wb.CheckpointError) as lost:
        wb.verify(model, plain)
    assert (lost.value.code, "layers.1." in lost.value.where) == ("data-missing", True)


# ---- processes ----


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_a_distributed_model_is_the_model_inside(one_process: None, tmp_path: Path) -> None:
    """C9: DistributedDataParallel."""
    from torch.nn.parallel import DistributedDataParallel

    model = DistributedDataParallel(Net())
    file = published()
    wb.load(model, file, NORMS)
    assert wb.open(model).header.specs.keys() == Net().state_dict().keys()
    saved = load_file(wb.save(model, tmp_path / "out") / "model.safetensors")
    assert all(saved[key].equal(file[key]) for key in file)


def test_a_model_of_one_flat_parameter_is_read_and_not_set(one_process: None, tmp_path: Path) -> None:
    """C9: FSDP1 writes names that its parameters do not have; what cannot be set is refused before a load."""
    from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy

    options = {"device_id": torch.device("cpu"), "sharding_strategy": ShardingStrategy.NO_SHARD}
    plain = {key: tensor.clone() for key, tensor in Net().state_dict().items()}
    named = FullyShardedDataParallel(Net(), use_orig_params=True, **options)
    wb.load(named, plain, [])
    assert wb.verify(named, plain)
    flat = FullyShardedDataParallel(Net(), use_orig_params=False, **options)
    before = {key: tensor.clone() for key, tensor in flat.state_dict().items()}
    saved = load_file(wb.save(flat, tmp_path / "out", []) / "model.safetensors")
    assert saved.keys() == plain.keys()
    with pytest.raises(wb.RegistryError) as caught:
        wb.load(flat, plain, [])
    assert caught.value.where == "_flat_param"
    assert all(before[key].equal(tensor) for key, tensor in flat.state_dict().items())


def test_weights_of_another_size_are_not_made_anew_in_parts(one_process: None) -> None:
    """Each process would make random values of its own, and take a part for a whole where sizes happen to be equal."""
    from torch.distributed.fsdp import fully_shard

    from weighbridge.integrations.transformers_sizes import refuse_spread
    from weighbridge.models.holdings import take_stock

    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    model = Net()
    refuse_spread({"layers.0.up.weight"}, take_stock(model))
    fully_shard(model, mesh=mesh)
    with pytest.raises(wb.RegistryError) as caught:
        refuse_spread({"layers.0.up.weight": (4, 3)}, take_stock(model))
    assert (caught.value.code, caught.value.where) == ("integration-unsupported", "layers.0.up.weight")


SHARDED = """
import sys, torch
import weighbridge as wb
from torch.distributed.fsdp import fully_shard

torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/group", rank=0, world_size=1)
mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
with torch.device(sys.argv[2]):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 2))
plain = {key: torch.rand(tensor.shape) for key, tensor in model.state_dict().items()}
fully_shard(model[1], mesh=mesh)
if sys.argv[3] == "all":
    fully_shard(model, mesh=mesh)
before = {key: (type(tensor), tensor.device, id(tensor)) for key, tensor in model.named_parameters()}
for use in (
    lambda: wb.verify(model, plain),
    lambda: wb.open(model),
    lambda: wb.plan(model.state_dict(), []).state_dict() if sys.argv[4] == "dicts" else wb.open(model),
):
    try:
        use()
    except wb.WeighbridgeError as problem:
        print(problem.code, problem.got, bool(problem.hint))
    else:
        print("nothing was refused")
after = {key: (type(tensor), tensor.device, id(tensor)) for key, tensor in model.named_parameters()}
print(before == after)
torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("how_much", ["all", "part"])
def test_a_sharded_model_is_not_read_and_left_as_it_is(device: str, how_much: str, tmp_path: Path) -> None:
    """Each process has a part of it, which is no checkpoint; `test_spread_models` loads and saves such models."""
    command = [sys.executable, "-W", "ignore", "-c", SHARDED, str(tmp_path), device, how_much, "models"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[-1] == "True"
    assert len(lines) == 4
    assert all("DTensor True" in line for line in lines[:-1]), lines
