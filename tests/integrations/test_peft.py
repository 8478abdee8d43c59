"""Converted adapters in PEFT itself: it loads them, and merges what they are to add."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import FILES, PREFIX, changes, config_of, linear, same_files, whole_numbers, write_adapter
from conftest import ROOT
from hypothesis import given, strategies as st
from named_adapters import in_names_of, named_changes
from safetensors.torch import load_file, save_file

import weighbridge as wb
from weighbridge.mappings.lora.peft_configs import Modules, PeftConfig
from weighbridge.mappings.lora.ranks import Strength

peft = pytest.importorskip("peft", reason="needs the library peft")
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning",
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    # PEFT looks at patterns before it has wrapped any parameters, and says so of those that it writes itself, too.
    "ignore:The following .*_pattern keys did not match:RuntimeWarning",
)

EXAMPLES = ROOT.parent / "shared" / "formats"


class Experts(torch.nn.Module):
    """Fused experts as the models of transformers have them: [experts, out, in]."""

    def __init__(self, count: int, inner: int, width: int) -> None:
        super().__init__()
        self.gate_up_proj = torch.nn.Parameter(whole_numbers(count, 2 * inner, width))
        self.down_proj = torch.nn.Parameter(whole_numbers(count, width, inner))

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """Let all experts see everything, and add up what they say."""
        gate, up = (value @ self.gate_up_proj.transpose(1, 2)).chunk(2, -1)
        return ((gate * up) @ self.down_proj.transpose(1, 2)).sum(0)


class Block(torch.nn.Module):
    """One layer in the layout that the rules lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv_proj = torch.nn.Linear(6, 9, bias=False).double()
        self.experts = Experts(3, 4, 6)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """Run both."""
        return self.experts(self.qkv_proj(value)[..., :6])


class Model(torch.nn.Module):
    """A model of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([Block()])
        self.layers[0].qkv_proj.weight = torch.nn.Parameter(whole_numbers(9, 6, seed=5))

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """Run the layer."""
        made: torch.Tensor = self.layers[0](value)
        return made


RULES = wb.Mapping(
    [
        wb.WeightConverter(["q_proj.weight", "k_proj.weight", "v_proj.weight"], "qkv_proj.weight", [wb.Concatenate(0)]),
        wb.WeightConverter(
            ["experts.*.gate_proj.weight", "experts.*.up_proj.weight"],
            "experts.gate_up_proj",
            [wb.MergeModulelist(0), wb.Concatenate(1)],
        ),
        wb.WeightConverter("experts.*.down_proj.weight", "experts.down_proj", [wb.MergeModulelist(0)]),
    ],
    name="fused",
)
SIZES = {"q_proj": (5, 6), "k_proj": (1, 6), "v_proj": (3, 6)}


def parts() -> dict[str, torch.Tensor]:
    """The factors of a layer whose projections and experts are apart."""
    found: dict[str, torch.Tensor] = {}
    for at, (name, (out, inputs)) in enumerate(SIZES.items()):
        found |= linear(f"layers.0.{name}", out, inputs, seed=at)
    for expert in range(3):
        for at, (name, sizes) in enumerate({"gate_proj": (4, 6), "up_proj": (4, 6), "down_proj": (6, 4)}.items()):
            found |= linear(f"layers.0.experts.{expert}.{name}", *sizes, seed=10 * expert + at)
    return found


@pytest.mark.parametrize("is_rooted", [False, True])
def test_peft_merges_what_the_parts_add(tmp_path: Path, is_rooted: bool) -> None:
    names = [*SIZES, "gate_proj", "up_proj", "down_proj"]
    adapter = write_adapter(
        tmp_path / "adapter", parts(), target_modules=names, use_rslora=is_rooted, lora_dropout=0.25
    )
    wb.convert(adapter, tmp_path / "new", RULES, block_diagonal=True)
    wanted = {key: tensor.clone() for key, tensor in Model().state_dict().items()}
    for key, change in wb.plan(changes(adapter), RULES).state_dict().items():
        wanted[key] += change
    merged = peft.PeftModel.from_pretrained(Model(), str(tmp_path / "new")).merge_and_unload().state_dict()
    assert merged.keys() == wanted.keys()
    for key, tensor in merged.items():
        torch.testing.assert_close(tensor, wanted[key], rtol=1e-14, atol=1e-12, msg=key)


def test_peft_merges_what_kohyas_names_stand_for(tmp_path: Path) -> None:
    """An adapter that never had a configuration gets one which PEFT reads."""
    factors = {key: tensor for key, tensor in parts().items() if "experts" not in key}
    file = tmp_path / "mine.safetensors"
    save_file(in_names_of("kohya", "lora_unet_", factors, 3), file)
    before = named_changes(file, "lora_unet_", [f"layers.0.{name}" for name in SIZES])
    wb.convert(file, tmp_path / "new", RULES, base=before, block_diagonal=True, adapter_prefix=PREFIX)
    wanted = {key: tensor.clone() for key, tensor in Model().state_dict().items()}
    wanted["layers.0.qkv_proj.weight"] += wb.plan(before, RULES).state_dict()["layers.0.qkv_proj.weight"]
    merged = peft.PeftModel.from_pretrained(Model(), str(tmp_path / "new")).merge_and_unload().state_dict()
    for key, tensor in merged.items():
        torch.testing.assert_close(tensor, wanted[key], rtol=1e-14, atol=1e-12, msg=key)
    wb.revert(tmp_path / "new", tmp_path / "back")
    assert [path.name for path in (tmp_path / "back").iterdir()] == [file.name]
    assert (tmp_path / "back" / file.name).read_bytes() == file.read_bytes()


class Convolutions(torch.nn.Module):
    """Two convolutions that were one, with other numbers of outputs together."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (torch.nn.Conv2d(3, 4, (3, 5), bias=False).double() for _ in "ab")


def test_peft_merges_a_convolution_that_was_cut(tmp_path: Path) -> None:
    down, up = whole_numbers(2, 3, 3, 5), whole_numbers(8, 2, 1, 1, seed=1)
    tensors = {"ab.lora_A.weight": down, "ab.lora_B.weight": up}
    adapter = write_adapter(tmp_path / "adapter", tensors, target_modules=["ab"], lora_alpha=6)
    wb.convert(adapter, tmp_path / "new", [wb.WeightConverter("ab.weight", ["a.weight", "b.weight"], [wb.Chunk(0)])])
    model = Convolutions()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    merged = peft.PeftModel.from_pretrained(model, str(tmp_path / "new")).merge_and_unload().state_dict()
    change = 3 * (up.flatten(1) @ down.flatten(1)).unflatten(1, (3, 3, 5))
    for key, part in zip(("a.weight", "b.weight"), change.chunk(2), strict=True):
        torch.testing.assert_close(merged[key] - before[key], part, rtol=1e-14, atol=1e-12)
    wb.revert(tmp_path / "new", tmp_path / "back")
    assert same_files(adapter, tmp_path / "back")


# The dialect

NAMES = st.lists(st.sampled_from(["a", "b", "ab", "0", "1", "x_proj"]), min_size=1, max_size=4).map(".".join)
PATTERNS = st.one_of(NAMES, st.sampled_from(["a.*", r"(a|b)\.0", "x_.*", r"b\.\d"]))


@given(name=NAMES, patterns=st.dictionaries(PATTERNS, st.integers(1, 9), max_size=3))
def test_a_rank_is_what_peft_takes(name: str, patterns: dict[str, int]) -> None:
    from peft.utils.other import get_pattern_key

    wanted = patterns.get(get_pattern_key(list(patterns), name), 8)
    assert PeftConfig({"r": 8, "rank_pattern": patterns}).strength(name).rank == wanted


@given(
    before=st.sets(NAMES, min_size=1, max_size=5),
    after=st.dictionaries(NAMES, st.integers(1, 3), min_size=1, max_size=5),
    entries=st.one_of(st.lists(NAMES, min_size=1, max_size=3), PATTERNS),
)
def test_peft_reads_of_the_new_names_what_was_meant(
    before: set[str], after: dict[str, int], entries: list[str] | str
) -> None:
    """Law N1: each module that has factors is targeted by the new configuration, with its own rank and alpha."""
    from peft.tuners.tuners_utils import check_target_module_exists
    from peft.utils.other import get_pattern_key

    old = PeftConfig({"r": 2, "lora_alpha": 4, "target_modules": entries, "rank_pattern": {"a": 3}})
    strengths = {name: Strength(rank, 2 * rank) for name, rank in after.items()}
    form = old.follow(Modules({name: Strength(2, 4) for name in before}, {}), Modules(strengths, {}), {})
    for name, rank in after.items():
        assert form["rank_pattern"].get(get_pattern_key(list(form["rank_pattern"]), name), form["r"]) == rank
        alphas = form.get("alpha_pattern") or {}
        assert alphas.get(get_pattern_key(list(alphas), name), form["lora_alpha"]) == 2 * rank
    if before != set(after):
        config = peft.LoraConfig(target_modules=form["target_modules"])
        assert all(check_target_module_exists(config, name) for name in after)


# Genuine adapters


def example(name: str, folder: Path, **changed: Any) -> Path:
    """Copy an adapter that PEFT wrote, with members of its configuration changed."""
    place = EXAMPLES / name
    if not place.is_dir():
        pytest.skip("needs the directory shared/formats beside the project")
    made = folder / name
    made.mkdir()
    for file in FILES:
        shutil.copyfile(place / file, made / file)
    if changed:
        (made / FILES[0]).write_text(json.dumps(config_of(made) | changed))
    return made


def published(name: str) -> dict[str, torch.Tensor]:
    """The weights that an example's adapter was trained on."""
    folder = EXAMPLES / name / "base"
    same = next(folder.glob("SAME_AS_*"), None)
    return load_file(
        (folder if same is None else EXAMPLES / same.name.removeprefix("SAME_AS_") / "base") / "model.safetensors"
    )


MIXTRAL = wb.Mapping(
    [
        wb.WeightConverter(
            ["block_sparse_moe.experts.*.w1.weight", "block_sparse_moe.experts.*.w3.weight"],
            "mlp.experts.gate_up_proj",
            [wb.MergeModulelist(0), wb.Concatenate(1)],
        ),
        wb.WeightConverter("block_sparse_moe.experts.*.w2.weight", "mlp.experts.down_proj", [wb.MergeModulelist(0)]),
        wb.WeightRenaming("block_sparse_moe.gate", "mlp.gate"),
    ],
    name="mixtral",
)
QWEN = wb.Mapping(
    [
        wb.WeightConverter(
            ["mlp.experts.*.gate_proj.weight", "mlp.experts.*.up_proj.weight"],
            "mlp.experts.gate_up_proj",
            [wb.MergeModulelist(0), wb.Concatenate(1)],
        ),
        wb.WeightConverter("mlp.experts.*.down_proj.weight", "mlp.experts.down_proj", [wb.MergeModulelist(0)]),
    ],
    name="qwen",
)
LLAMA = wb.Mapping(
    [
        wb.WeightRenaming("self_attn", "attention"),
        wb.WeightConverter("q_proj.weight", "wq.weight", [wb.Rearrange("(h two d) i -> (h d two) i", h=8, two=2)]),
        wb.WeightConverter("down_proj.weight", "w2.weight", [wb.Transpose(0, 1)]),
        wb.WeightRenaming("^lm_head", "output"),
        wb.WeightRenaming("embed_tokens", "tok_embeddings"),
    ],
    name="llama",
)


@pytest.mark.parametrize(
    ("name", "mapping"), [("peft-lora-llama", LLAMA), ("peft-embedding", LLAMA), ("peft-mixtral-per-expert", MIXTRAL)]
)
def test_a_genuine_adapter_moves_as_its_oracle(name: str, mapping: wb.Mapping, tmp_path: Path) -> None:
    """Merged by PEFT and moved by the plan of the weights, or moved as factors and merged: the same."""
    adapter = example(name, tmp_path)
    wb.convert(adapter, tmp_path / "new", mapping, block_diagonal=True)
    base = published(name)
    moved_base, added = wb.plan(base, mapping).state_dict(), changes(tmp_path / "new")
    oracle = load_file(EXAMPLES / name / "oracle.safetensors")
    wanted = wb.plan(base | oracle, mapping).state_dict()
    touched = {
        key for step in wb.plan(base, mapping).steps if oracle.keys() & set(step.sources) for key in step.targets
    }
    assert touched
    for key in touched:
        whole = added.get(f"whole:{key}")
        found = moved_base[key] + added[key] if whole is None else whole
        torch.testing.assert_close(found, wanted[key], rtol=1e-6, atol=1e-6)
    wb.revert(tmp_path / "new", tmp_path / "back")
    assert same_files(adapter, tmp_path / "back")


@pytest.mark.parametrize("name", ["peft-experts-fused", "unsloth-experts-grouped"])
def test_genuine_fused_experts_are_taken_apart(name: str, tmp_path: Path) -> None:
    adapter = example(name, tmp_path)
    base = published(name)
    wb.convert(adapter, tmp_path / "new", QWEN.inverse(), base=wb.plan(base, QWEN).target)
    added = changes(tmp_path / "new")
    oracle = load_file(EXAMPLES / name / "oracle.safetensors")
    fused = wb.plan({key: base[key] + added.get(key, 0) for key in base}, QWEN).state_dict()
    for key, wanted in oracle.items():
        torch.testing.assert_close(fused[key], wanted, rtol=1e-6, atol=1e-6)
    wb.revert(tmp_path / "new", tmp_path / "back")
    assert same_files(adapter, tmp_path / "back")


def test_experts_are_fused_as_peft_fuses_them(tmp_path: Path) -> None:
    adapter = example("peft-mixtral-per-expert", tmp_path)
    wb.convert(adapter, tmp_path / "new", MIXTRAL, block_diagonal=True)
    wanted = load_file(EXAMPLES / "peft-mixtral-per-expert" / "as_peft_fuses_it.safetensors")
    found = load_file(tmp_path / "new" / FILES[1])
    assert found.keys() == wanted.keys()
    assert [key for key in wanted if not torch.equal(found[key], wanted[key])] == []


def merged(folder: Path) -> dict[str, torch.Tensor]:
    """Merge an adapter of the example's model by PEFT, under the names that its modules have in memory."""
    transformers = pytest.importorskip("transformers", reason="needs the extra `transformers`")
    place = EXAMPLES / "peft-mixtral-per-expert" / "base"
    model = transformers.AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
    found: dict[str, torch.Tensor] = peft.PeftModel.from_pretrained(model, str(folder)).merge_and_unload().state_dict()
    return found


def test_peft_makes_fused_experts_of_rslora_too_strong_and_ours_are_right(tmp_path: Path) -> None:
    """The peer doubles the rank and alpha, and divides alpha by the root of the rank: √2 too strong, without a word."""
    adapter = example("peft-mixtral-per-expert", tmp_path, use_rslora=True)
    base, key = published("peft-mixtral-per-expert"), "model.layers.0.mlp.experts.gate_up_proj"
    before = wb.plan(base, MIXTRAL).state_dict()[key]
    change = wb.plan(changes(adapter), MIXTRAL).state_dict()[key]
    theirs = merged(adapter)[key] - before
    torch.testing.assert_close(theirs, math.sqrt(2) * change, rtol=1e-4, atol=1e-5)
    assert (theirs - change).abs().max() > 0.1
    wb.convert(adapter, tmp_path / "new", MIXTRAL, block_diagonal=True)
    ours = merged(tmp_path / "new")[key] - before
    torch.testing.assert_close(ours, change, rtol=1e-4, atol=1e-5)


def test_prefix_is_what_peft_writes(tmp_path: Path) -> None:
    """The names and files that the tests write are those of PEFT."""
    config = peft.LoraConfig(r=2, target_modules=["qkv_proj"])
    peft.get_peft_model(Model(), config).save_pretrained(str(tmp_path / "adapter"))
    assert sorted(load_file(tmp_path / "adapter" / FILES[1])) == [
        f"{PREFIX}layers.0.qkv_proj.lora_{role}.weight" for role in "AB"
    ]
    wb.convert(tmp_path / "adapter", tmp_path / "new", [wb.WeightRenaming("qkv_proj", "wqkv")])
    assert config_of(tmp_path / "new")["target_modules"] == ["layers.0.wqkv"]
