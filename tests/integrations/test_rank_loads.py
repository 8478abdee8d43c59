"""Models that transformers spreads over processes: each process holds its part of what one process loads."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import rank_loads
import rank_saves
import torch
import torch.distributed as dist
import transformers
from conftest import ROOT
from drawn_parts import held_of
from left_files import contents
from made_families import FAMILIES
from rank_loads import MESHES, TRAINED, differing
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers.distributed import DistributedConfig

import weighbridge as wb
from weighbridge.integrations import transformers as wbt
from weighbridge.integrations.transformers_ranks import cut_already

pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own, of which it has many

CASES = (
    "altclip__AltCLIPModel",
    "bert__BertForPreTraining__gamma_beta",
    "dinov2__Dinov2ForImageClassification__swiglu",
    "gemma3__Gemma3ForConditionalGeneration",
    "granitemoe__GraniteMoeForCausalLM",
    "mixtral__MixtralForCausalLM",
    "qwen3_moe__Qwen3MoeForCausalLM__12experts_tied",
    "qwen3_vl_moe__Qwen3VLMoeForConditionalGeneration",
)

REFUSED = {
    ("altclip__AltCLIPModel", "fsdp"): "ValueError: fully_shard doesn't support scalar parameters",
    ("qwen3_vl_moe__Qwen3VLMoeForConditionalGeneration", "pp"): "AttributeError",
}
"""What torch or the library itself cannot do, beside models without a plan."""


# ---- two processes that talk to each other ----


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def lines(folder: Path) -> list[dict[str, Any]]:
    """What each process found; they run once."""
    words = ["2", "fsdp,tp,ep,pp", "weighbridge", str(folder), "meshes", "saves", *CASES, *FAMILIES]
    command = [sys.executable, str(ROOT / "tests" / "rank_loads.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def found(lines: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """What each of two processes found, by subject and mode."""
    return {(line["name"], line["ranks"][0].get("mode")): line["ranks"] for line in lines if "name" in line}


@pytest.mark.parametrize("name", [*CASES, *FAMILIES])
def test_each_process_holds_its_part_of_what_one_loads(name: str, found: Any) -> None:
    """By rows, tensors, experts and stages; what the model computes is what it computed when it was published."""
    modes = {mode: ranks for (subject, mode), ranks in found.items() if subject == name}
    assert modes.keys() == {"fsdp", "tp", "ep", "pp"}
    right = 0
    for mode, ranks in modes.items():
        for rank in ranks:
            if "raised" in rank:
                assert is_expected(name, mode, rank["raised"]), (mode, rank["raised"])
                continue
            right += 1
            assert rank["wrong"] == [], mode
            assert not isinstance(rank["output"], float) or rank["output"] < 1e-4, mode
    assert right or (name, "fsdp") in REFUSED


def is_expected(name: str, mode: str, raised: str) -> bool:
    is_without = f"has no `{mode}_plan`" in raised or (mode == "pp" and raised.startswith("AttributeError"))
    return is_without or raised.startswith(REFUSED.get((name, mode), "-"))


def test_a_model_that_was_loaded_in_parts_is_trained_like_a_whole_one(found: Any) -> None:
    name, mode, _ = TRAINED
    assert [rank["trained"] for rank in found[name, mode]] == [[], []]


# ---- what both save ----


@pytest.mark.parametrize("mode", rank_saves.SIZES)
@pytest.mark.parametrize("layout", rank_saves.LAYOUTS)
def test_what_both_save_is_what_one_saves(mode: str, layout: str, found: Any, folder: Path) -> None:
    """Weights, configuration, generation settings and receipt: each file is there once, byte for byte."""
    assert contents(folder / f"{mode}, {layout}") == contents(folder / f"alone, {layout}")
    assert (folder / f"{mode}, {layout}" / "config.json").is_file()


@pytest.mark.parametrize(
    ("mode", "name"), [("fsdp", "rounded"), ("fsdp", "tied"), ("pp", "rounded"), ("pp", "tied"), ("fsdp", "fresh")]
)
def test_casts_ties_and_new_models_are_saved_as_by_one(mode: str, name: str, found: Any, folder: Path) -> None:
    assert contents(folder / f"{mode}, {name}") == contents(folder / f"alone, {name}")


def test_what_was_trained_by_both_and_saved_is_loaded_by_one(found: Any, folder: Path) -> None:
    alone = rank_loads.trained(spread(folder / "language")).state_dict()
    again = spread(folder / "fsdp, trained").state_dict()
    before = load_file(folder / "language" / "model.safetensors")
    for key, tensor in alone.items():
        assert torch.allclose(again[key], tensor, rtol=1e-5, atol=1e-6), key
    assert not again["lm_head.weight"].equal(before["lm_head.weight"])


@pytest.mark.parametrize("name", ["other layout", "other config", "other generation", "other files"])
def test_one_that_would_save_something_else_is_refused_by_both(name: str, found: Any, folder: Path) -> None:
    for rank in found["saves", None]:
        assert rank[name][0] == "ranks-disagree", rank[name][1]
    assert not [path.name for path in folder.iterdir() if name in path.name]


# ---- four processes, each by itself: its mesh is real, and nobody answers ----


def test_what_each_makes_for_itself_is_saved_if_it_is_the_same(found: Any, folder: Path) -> None:
    """A router that the file lacks, and that both processes hold whole."""
    ranks = found["saves", None]
    assert [rank["made alike"][0] for rank in ranks] == ["nothing was refused"] * 2
    for rank in ranks:
        assert rank["made apart"][0] == "ranks-disagree"
        assert "mlp.gate.weight" in rank["made apart"][1]
    assert "model.layers.0.mlp.gate.weight" in load_file(folder / "made alike" / "model.safetensors")


@pytest.mark.parametrize("sizes", MESHES.values(), ids=MESHES)
def test_meshes_save_what_one_process_saves(sizes: dict[str, int], found: Any, folder: Path) -> None:
    assert contents(folder / f"saved {'-'.join(sizes)}") == contents(folder / "alone, as loaded")


def test_a_stage_without_a_weight_knows_what_the_others_round(found: Any, folder: Path) -> None:
    assert contents(folder / "stages, rounded") == contents(folder / "alone, rounded")


@pytest.mark.parametrize("mesh", MESHES)
def test_meshes_of_two_axes_and_sizes_that_are_not_dealt_out_evenly(mesh: str, lines: list[dict[str, Any]]) -> None:
    """All processes together hold each element, equally many of them each one of a tensor, and read what is said."""
    ranks = [line for line in lines if line.get("mesh") == mesh]
    assert sorted(rank["rank"] for rank in ranks) == [0, 1, 2, 3]
    counts: dict[str, torch.Tensor] = {}
    for rank in ranks:
        assert "raised" not in rank, rank["raised"]
        assert rank["wrong"] == []
        assert rank["same plan"] == (mesh != "stages")
        assert rank["read"] == rank["said"]["reads_bytes"]
        assert mesh.endswith("tensors") or rank["read"] == rank["said"]["held_bytes"]
        for key, part in rank["parts"].items():
            places = torch.arange(torch.Size(part["shape"]).numel()).reshape(part["shape"])
            counts.setdefault(key, torch.zeros(places.numel()))
            counts[key][held_of(places, wb.Part.from_dict(part)).reshape(-1)] += 1
    assert sorted(counts) == sorted(rank_loads.make_language().state_dict())
    assert all(count.min() == count.max() >= 1 for count in counts.values())


# ---- the second of two processes, by itself ----
# What torch keeps of a mesh it keeps for a process, so this is the same rank in all tests.


@pytest.fixture
def second() -> Iterator[None]:
    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=2)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    from transformers.utils import logging as theirs

    theirs.set_verbosity_error()
    theirs.disable_progress_bar()


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rank_loads.publish_language(tmp_path_factory.mktemp("rank_loads"))


def spread(path: Path, **arguments: Any) -> Any:
    return wbt.from_pretrained(transformers.AutoModelForCausalLM, path, **arguments)


def test_a_stage_is_refused_for_what_no_stage_finds(second: None, language: Path, tmp_path: Path) -> None:
    """A weight that the other stage lacks is missing here as well, so no process goes on alone."""
    tensors = load_file(language / "model.safetensors")
    del tensors["model.layers.0.mlp.gate.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((language / "config.json").read_bytes())
    with pytest.raises(wb.PlanError) as caught:
        spread(tmp_path, distributed_config=DistributedConfig(pp_size=2))
    assert caught.value.codes == ("target-missing",)


@pytest.mark.parametrize("sizes", [{"fsdp_size": 2}, {"pp_size": 2}])
def test_a_tie_that_the_values_contradict_is_none_in_any_process(
    sizes: dict[str, int], second: None, language: Path
) -> None:
    config = transformers.AutoConfig.from_pretrained(language, tie_word_embeddings=True)
    wanted = dict(spread(language).state_dict())
    model = spread(language, config=config, distributed_config=DistributedConfig(**sizes))
    assert differing(model, wanted) == []
    assert model.lm_head.weight is not model.model.embed_tokens.weight


def test_a_stage_with_tied_weights_has_both(second: None, language: Path, tmp_path: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(language, tie_word_embeddings=True)
    made = transformers.AutoModelForCausalLM.from_config(config)
    path = wbt.save_pretrained(made, tmp_path / "tied")
    model = spread(path, distributed_config=DistributedConfig(pp_size=2))
    assert differing(model, made.state_dict()) == []
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.lm_head.weight.equal(made.lm_head.weight)


def test_parts_are_cast_to_the_dtype_that_is_asked_for(second: None, language: Path) -> None:
    wanted = dict(spread(language, dtype=torch.bfloat16).state_dict())
    for sizes in ({"fsdp_size": 2}, {"tp_size": 2}, {"pp_size": 2}):
        model = spread(language, dtype=torch.bfloat16, distributed_config=DistributedConfig(**sizes))
        assert differing(model, wanted) == []
        assert wb.loaded_plan(model).target["model.norm.weight"].dtype == "BF16"


def test_weights_of_another_size_are_made_anew_in_a_stage_and_refused_in_parts(second: None, language: Path) -> None:
    """A whole of half the rows has the shape of a part."""
    wanted = dict(spread(language).state_dict())
    wide = {"vocab_size": 102, "ignore_mismatched_sizes": True, "output_loading_info": True}
    model, info = spread(language, distributed_config=DistributedConfig(pp_size=2), **wide)
    assert {key for key, *_ in info["mismatched_keys"]} == {"lm_head.weight"} == set(differing(model, wanted))
    assert model.lm_head.weight.shape == (102, 12)
    assert not info["unexpected_keys"]
    with pytest.raises(wb.RegistryError) as caught:
        spread(language, distributed_config=DistributedConfig(fsdp_size=2), **wide)
    assert caught.value.code == "integration-unsupported"


def test_what_a_class_writes_into_a_part_is_noticed(
    second: None, language: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The library's hook for missing weights, in a class that overwrites one that was loaded."""
    wanted = dict(spread(language).state_dict())
    finish = transformers.Qwen3MoeForCausalLM._initialize_missing_keys

    def overwrite(model: Any, is_quantized: bool) -> None:
        finish(model, is_quantized)
        with torch.no_grad():
            model.lm_head.weight.fill_(7)

    monkeypatch.setattr(transformers.Qwen3MoeForCausalLM, "_initialize_missing_keys", overwrite)
    model = spread(language, distributed_config=DistributedConfig(fsdp_size=2))
    assert "lm_head.weight was changed after it was loaded" in caplog.text
    assert differing(model, wanted) == []


def test_the_older_arguments_mean_what_they_mean_there(
    second: None, language: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    wanted = dict(spread(language).state_dict())
    mesh = dist.device_mesh.init_device_mesh("cpu", (2,), mesh_dim_names=("mine",))
    for arguments in ({"tp_plan": "auto", "device_mesh": mesh}, {"tp_size": 2}):
        model = spread(language, **arguments)
        assert differing(model, wanted) == []
        assert isinstance(model.lm_head.weight, DTensor)
    assert caplog.text.count("device_mesh is left aside") == 1


@pytest.mark.parametrize("arguments", [{"distributed_config": {"fsdp_size": 2}}, {"tp_size": 2}])
@pytest.mark.parametrize("place", ["device", "device_map"])
def test_a_device_is_refused_beside_a_mesh(language: Path, place: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(wb.RegistryError) as caught:
        spread(language, **{place: "cpu"}, **arguments)
    assert caught.value.code == "integration-unsupported"
    assert caught.value.got == f"{place} beside {next(iter(arguments))}"


def test_files_of_processes_are_refused_with_what_to_do(language: Path, tmp_path: Path) -> None:
    """The library reads them by itself; what it wrote of a model that is spread loads when it is one checkpoint."""
    for number in (1, 2):
        (tmp_path / f"shard-{number:05}-model-00001-of-00001.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_bytes((language / "config.json").read_bytes())
    with pytest.raises(wb.RegistryError) as caught:
        spread(tmp_path)
    assert caught.value.code == "integration-unsupported"
    assert "weighbridge.convert(directory, out, [])" in str(caught.value.hint)


def test_a_library_that_cuts_otherwise_is_refused(
    second: None, language: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("transformers.core_model_loading.DtensorShardOperation")
    with pytest.raises(wb.RegistryError) as caught:
        spread(language, distributed_config=DistributedConfig(fsdp_size=2))
    assert caught.value.code == "integration-version"
    assert "DtensorShardOperation" in str(caught.value.got)
    assert spread(language).lm_head.weight.shape == (51, 12)


def test_the_librarys_own_loads_in_other_threads_are_cut_by_the_library(second: None, language: Path) -> None:
    config = DistributedConfig(fsdp_size=2)
    ours = spread(language, distributed_config=config)
    load = partial(transformers.AutoModelForCausalLM.from_pretrained, language, distributed_config=config)
    with cut_already(ours), ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(load).result().state_dict()
    for key, tensor in ours.state_dict().items():
        assert tensor.to_local().equal(theirs[key].to_local())
