"""Adapters in kohya's and diffusers' names: moved by the mapping of their model, as PEFT's are."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_cases import BLOCKS, CASES, ROWS, apart, equal_inputs, one
from adapters import PREFIX, Tensors, changes, config_of, embedding, linear, whole_numbers, write_adapter
from command import run
from conftest import ROOT
from hypothesis import given, settings, strategies as st
from named_adapters import FLUX, flux, in_names_of, metadata_of, named_changes
from safetensors.torch import load_file, save_file

import weighbridge as wb

PARTS = {"kohya": "lora_unet_", "diffusers": "unet."}
MOVED = [name for name in CASES if not name.endswith(("embedding", "fan in first")) and "experts" not in name]


def header_of(weights: Tensors) -> wb.Header:
    """Return the header of a model that has these weights."""
    return wb.Header({key: wb.TensorSpec("BF16", tuple(tensor.shape)) for key, tensor in weights.items()})


def modules_of(weights: Any) -> list[str]:
    return [key.removesuffix(".weight") for key in weights]


@pytest.mark.parametrize("dialect", PARTS)
@pytest.mark.parametrize("name", MOVED)
@settings(max_examples=8)
@given(
    out=st.integers(1, 4), inputs=st.integers(1, 4), rank=st.integers(1, 4), alpha=st.sampled_from([None, 1, 3, 0.5])
)
def test_factors_and_alphas_move_as_what_they_stand_for(
    name: str, dialect: str, out: int, inputs: int, rank: int, alpha: float | None
) -> None:
    """Law A1, with the strength in tensors; and back, the very file."""
    case, part = CASES[name], PARTS[dialect]
    factors = case.tensors(out, inputs, rank)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        file = folder / "mine.safetensors"
        save_file(in_names_of(dialect, part, factors, alpha), file, metadata={"ss_network_dim": str(rank)})
        old = named_changes(file, part, {key.partition(".lora_")[0] for key in factors})
        plan = wb.plan(file, [case.rule], base=header_of(old), **(case.options or {}))
        plan.write(folder / "new")
        wanted = wb.plan(old, [case.rule]).state_dict()
        found = named_changes(next((folder / "new").glob("*.safetensors")), part, modules_of(wanted))
        assert found.keys() == wanted.keys()
        for key, tensor in wanted.items():
            torch.testing.assert_close(found[key], tensor, rtol=1e-14, atol=0, msg=key)
        wb.revert(folder / "new", folder / "back")
        assert (folder / "back" / file.name).read_bytes() == file.read_bytes()
        assert wb.Plan.from_json(plan.to_json()) == plan


def test_they_come_as_they_would_as_an_adapter_of_peft(tmp_path: Path) -> None:
    """The same factors under PEFT's names are the same factors afterwards, at the same ranks and alphas."""
    factors, rule = apart(4, 5, 2), CASES["join rows as blocks"].rule
    adapter = write_adapter(tmp_path / "peft", factors, target_modules=["q", "k", "v"], lora_alpha=3)
    theirs = changes(wb.convert(adapter, tmp_path / "theirs", [rule], **BLOCKS))
    save_file(in_names_of("kohya", "lora_unet_", factors, 3), tmp_path / "mine.safetensors")
    base = header_of(changes(adapter))
    wb.convert(tmp_path / "mine.safetensors", tmp_path / "ours", [rule], base=base, **BLOCKS)
    tensors = load_file(tmp_path / "ours" / "model.safetensors")
    assert tensors["lora_unet_l_0_qkv.alpha"].item() == 9
    assert len(tensors["lora_unet_l_0_qkv.lora_down.weight"]) == 6
    ours = named_changes(tmp_path / "ours" / "model.safetensors", "lora_unet_", ["l.0.qkv"])
    assert torch.equal(ours["l.0.qkv.weight"], theirs["l.0.qkv.weight"])


def test_the_law_can_fail(tmp_path: Path) -> None:
    """A wrong alpha is another change."""
    factors = one(2, 3, 2)
    save_file(in_names_of("kohya", "lora_unet_", factors, 3), tmp_path / "a.safetensors")
    save_file(in_names_of("kohya", "lora_unet_", factors, 6), tmp_path / "b.safetensors")
    ones, others = (named_changes(tmp_path / f"{name}.safetensors", "lora_unet_", ["l.0.a"]) for name in "ab")
    assert not torch.equal(ones["l.0.a.weight"], others["l.0.a.weight"])


# Real names

FLUX_BASE = wb.Header({f"{name}.weight": wb.TensorSpec("BF16", shape) for name, shape in FLUX.items()})
DIFFUSERS_BASE = wb.plan(FLUX_BASE, flux()).target


def example(name: str) -> Path:
    """Return a file of the genuine example."""
    place = ROOT.parent / "shared" / "formats" / "lora-kohya-flux" / f"{name}.safetensors"
    if not place.is_file():
        pytest.skip("needs the directory shared/formats beside the project")
    return place


@pytest.mark.parametrize("prefix", [None, "transformer."])
def test_kohyas_fused_projections_come_apart_as_diffusers_cuts_them(tmp_path: Path, prefix: str | None) -> None:
    """The peer multiplies alpha / r into the factors; multiplied out, both add the same."""
    file, oracle = example("kohya"), load_file(example("oracle"))
    options = {} if prefix is None else {"adapter_prefix": prefix}
    wb.convert(file, tmp_path / "new", flux(), base=FLUX_BASE, **options)
    made = tmp_path / "new" / ("model.safetensors" if prefix is None else "pytorch_lora_weights.safetensors")
    found = named_changes(made, prefix or "lora_unet_", modules_of(DIFFUSERS_BASE))
    assert len(found) == 8
    for key, tensor in found.items():
        wanted = oracle[f"delta.transformer.{key.removesuffix('.weight')}"].double()
        torch.testing.assert_close(tensor, wanted, rtol=1e-5, atol=1e-5, msg=key)
    wb.revert(tmp_path / "new", tmp_path / "back")
    assert (tmp_path / "back" / file.name).read_bytes() == file.read_bytes()


def test_diffusers_projections_are_fused_into_kohyas(tmp_path: Path) -> None:
    file, oracle = example("diffusers"), load_file(example("oracle"))
    rules = flux().inverse()
    wb.convert(file, tmp_path / "new", rules, base=DIFFUSERS_BASE, adapter_prefix="lora_unet_", **BLOCKS)
    found = named_changes(tmp_path / "new" / "model.safetensors", "lora_unet_", FLUX)
    assert {key.removesuffix(".weight") for key in found} == FLUX.keys()
    for key, tensor in found.items():
        name = key.removesuffix(".weight").replace(".", "_")
        torch.testing.assert_close(tensor, oracle[f"delta.lora_unet_{name}"].double(), rtol=1e-5, atol=1e-5, msg=key)
    wb.revert(tmp_path / "new", tmp_path / "back")
    assert (tmp_path / "back" / file.name).read_bytes() == file.read_bytes()


def test_older_names_of_diffusers_are_read_and_todays_are_written(tmp_path: Path) -> None:
    block = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    layer = "text_model.encoder.layers.0"
    old = {
        f"unet.{block}.processor.to_q_lora": f"unet.{block}.to_q",
        f"unet.{block}.processor.to_out_lora": f"unet.{block}.to_out.0",
        f"unet.{block}.to_k.lora": f"unet.{block}.to_k",
        f"text_encoder.{layer}.self_attn.to_v_lora": f"text_encoder.{layer}.self_attn.v_proj",
        f"text_encoder.{layer}.self_attn.to_out_lora": f"text_encoder.{layer}.self_attn.out_proj",
        f"text_encoder.{layer}.mlp.fc1.lora_linear_layer": f"text_encoder.{layer}.mlp.fc1",
    }
    tensors = {f"{name}.{word}.weight": whole_numbers(*shape, seed=at)
               for at, name in enumerate(old) for word, shape in (("down", (2, 5)), ("up", (4, 2)))}  # fmt: skip
    save_file(tensors, tmp_path / "old.safetensors")
    rules = [wb.WeightRenaming("fc1", "linear_1")]
    wb.convert(tmp_path / "old.safetensors", tmp_path / "new", rules)
    found = load_file(tmp_path / "new" / "pytorch_lora_weights.safetensors")
    wanted = {f"{new.replace('fc1', 'linear_1')}.lora_{role}.weight": tensors[f"{name}.{word}.weight"]
              for name, new in old.items() for role, word in (("A", "down"), ("B", "up"))}  # fmt: skip
    assert {key: tensor.tolist() for key, tensor in found.items()} == {key: t.tolist() for key, t in wanted.items()}
    wb.revert(tmp_path / "new", tmp_path / "back")
    assert (tmp_path / "back" / "old.safetensors").read_bytes() == (tmp_path / "old.safetensors").read_bytes()


def test_parts_of_a_pipeline_are_found_where_the_model_has_them(tmp_path: Path) -> None:
    """One mapping moves the adapter of a whole pipeline; each part keeps its beginning, or gets another one."""
    tensors = in_names_of("kohya", "lora_unet_", linear("mid_block.attn1.to_q", 4, 5), 2)
    tensors |= in_names_of("kohya", "lora_te1_", linear("text_model.layers.0.fc1", 3, 5, seed=3), 2)
    save_file(tensors, tmp_path / "mine.safetensors")
    base = wb.Header(
        {
            "unet.mid_block.attn1.to_q.weight": wb.TensorSpec("F16", (4, 5)),
            "text_encoder.text_model.layers.0.fc1.weight": wb.TensorSpec("F16", (3, 5)),
        }
    )
    rules = [wb.WeightRenaming("^unet.mid_block", "unet.middle_block"), wb.WeightRenaming("fc1", "linear_1")]
    plan = wb.plan(tmp_path / "mine.safetensors", rules, base=base)
    assert {key.partition(".")[0] for key in plan.target} == {
        "lora_unet_middle_block_attn1_to_q", "lora_te1_text_model_layers_0_linear_1"
    }  # fmt: skip
    prefixes = {"lora_unet_": "unet.", "lora_te1_": "text_encoder."}
    plan = wb.plan(tmp_path / "mine.safetensors", rules, base=base, adapter_prefix=prefixes)
    assert {key.partition(".lora_")[0].removesuffix(".alpha") for key in plan.target} == {
        "unet.middle_block.attn1.to_q", "text_encoder.text_model.layers.0.linear_1"
    }  # fmt: skip


def test_convolutions_have_factors_too(tmp_path: Path) -> None:
    """The window of a convolution belongs to its inputs: rows are cut and joined, and a linear module made of it."""
    down, up = whole_numbers(2, 3, 3, 5), whole_numbers(4, 2, 1, 1, seed=1)
    name = "lora_unet_conv_in"
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(1.0)}
    save_file(tensors, tmp_path / "mine.safetensors")
    base = wb.Header({"conv_in.weight": wb.TensorSpec("F16", (4, 3, 3, 5))})
    cases = {
        "cut": wb.WeightConverter("conv_in.weight", ["a.weight", "b.weight"], [wb.Chunk(0)]),
        "flat": wb.WeightConverter("conv_in.weight", "a.weight", [wb.Reshape((4, 45))]),
        "moved": wb.WeightConverter("conv_in.weight", "a.weight", [wb.Permute((0, 2, 3, 1))]),
    }
    old = named_changes(tmp_path / "mine.safetensors", "lora_unet_", ["conv_in"])
    for case, rule in cases.items():
        wb.convert(tmp_path / "mine.safetensors", tmp_path / case, [rule], base=base)
        wanted = wb.plan(old, [rule]).state_dict()
        found = named_changes(tmp_path / case / "model.safetensors", "lora_unet_", modules_of(wanted))
        assert {key: tensor.shape for key, tensor in found.items()} == {key: t.shape for key, t in wanted.items()}
        assert all(torch.equal(found[key], tensor) for key, tensor in wanted.items())
        wb.revert(tmp_path / case, tmp_path / f"{case}-back")
        back = tmp_path / f"{case}-back" / "mine.safetensors"
        assert back.read_bytes() == (tmp_path / "mine.safetensors").read_bytes()


def test_an_adapter_in_memory_is_one_too() -> None:
    tensors = in_names_of("kohya", "lora_unet_", equal_inputs(4, 5, 2), 3)
    weights = {f"l.0.{name}.weight": torch.zeros(4 + at, 5) for at, name in enumerate("qkv")}
    plan = wb.plan(tensors, [ROWS], base=weights)
    found = plan.state_dict()
    assert found.keys() == {f"lora_unet_l_0_qkv{end}" for end in (".lora_down.weight", ".lora_up.weight", ".alpha")}
    assert found["lora_unet_l_0_qkv.alpha"].shape == ()
    back = plan.inverse(found).state_dict()
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in tensors.items())


# Strengths that the metadata says

SAID = {"r": 2, "lora_alpha": 3, "target_modules": ["q", "k", "v"], "rank_pattern": {}, "alpha_pattern": {}}


def with_metadata(place: Path, factors: Tensors, **changed: Any) -> Path:
    """Write an adapter as diffusers does since it writes the configuration of PEFT into the metadata."""
    said = {f"unet.{name}": value for name, value in (SAID | changed).items()}
    text = json.dumps(said, indent=2, sort_keys=True)
    save_file(
        in_names_of("diffusers", "unet.", factors), place, metadata={"format": "pt", "lora_adapter_metadata": text}
    )
    return place


def test_the_metadata_follows_what_it_is_of(tmp_path: Path) -> None:
    file = with_metadata(tmp_path / "mine.safetensors", apart(4, 5, 2))
    old = named_changes(file, "unet.", [f"l.0.{name}" for name in "qkv"])
    wb.convert(file, tmp_path / "new", [ROWS], **BLOCKS)
    made = tmp_path / "new" / "pytorch_lora_weights.safetensors"
    said = json.loads(metadata_of(made)["lora_adapter_metadata"])
    assert said["unet.target_modules"] == ["l.0.qkv"]
    assert metadata_of(made)["format"] == "pt"
    found = named_changes(made, "unet.", ["l.0.qkv"])
    assert torch.equal(found["l.0.qkv.weight"], wb.plan(old, [ROWS]).state_dict()["l.0.qkv.weight"])
    wb.revert(tmp_path / "new", tmp_path / "back")
    assert (tmp_path / "back" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(("changed", "alpha"), [({}, 3), ({"use_rslora": True, "r": 4}, 6)])
def test_what_the_metadata_says_becomes_tensors_in_names_of_kohya(
    tmp_path: Path, changed: dict[str, Any], alpha: float
) -> None:
    rank = changed.get("r", 2)
    file = with_metadata(tmp_path / "mine.safetensors", apart(4, 5, rank), **changed)
    rule = wb.WeightRenaming("l.{i}", "layers.{i}")
    plan = wb.plan(file, [rule], adapter_prefix="lora_unet_")
    assert "lora_adapter_metadata" not in plan.metadata
    plan.write(tmp_path / "new")
    tensors = load_file(tmp_path / "new" / "model.safetensors")
    assert {tensors[f"lora_unet_layers_0_{name}.alpha"].item() for name in "qkv"} == {alpha}
    wb.revert(tmp_path / "new", tmp_path / "back")
    assert (tmp_path / "back" / file.name).read_bytes() == file.read_bytes()


def test_another_dialect_alone_needs_no_rules(tmp_path: Path) -> None:
    factors = apart(4, 5, 2)
    file = tmp_path / "mine.safetensors"
    save_file(in_names_of("kohya", "lora_unet_", factors, 3), file)
    old = named_changes(file, "lora_unet_", [f"l.0.{name}" for name in "qkv"])
    wb.convert(file, tmp_path / "new", base=header_of(old), adapter_prefix="unet.")
    found = named_changes(tmp_path / "new" / "pytorch_lora_weights.safetensors", "unet.", modules_of(old))
    assert all(torch.equal(found[key], tensor) for key, tensor in old.items())
    again = wb.plan(tmp_path / "new", base=header_of(old), adapter_prefix="lora_unet_")
    tensors = load_file(file)
    assert again.target.specs.keys() == tensors.keys()
    assert all(torch.equal(tensor, tensors[key]) for key, tensor in again.state_dict().items())


# To and from PEFT's files

STARTS = {"peft": PREFIX, "kohya": "lora_unet_", "diffusers": "unet."}
RANKS = {"q": 2, "k": 3, "v": 2}


def parts_of_other_ranks() -> Tensors:
    """Factors of three modules, one of them of another rank."""
    found: Tensors = {}
    for at, (name, rank) in enumerate(RANKS.items()):
        found |= linear(f"l.0.{name}", 4 + at, 5, rank, seed=at)
    return found


def adapter_in(dialect: str, folder: Path) -> Path:
    """Write an adapter of three modules, each with an alpha of three times its rank, in a folder of its own."""
    factors = parts_of_other_ranks()
    if dialect == "peft":
        return write_adapter(
            folder, factors, r=2, lora_alpha=6, target_modules=["q", "k", "v"],
            rank_pattern={"k": 3}, alpha_pattern={"k": 9},
        )  # fmt: skip
    folder.mkdir()
    tensors = in_names_of(dialect, STARTS[dialect], factors)
    for name, rank in RANKS.items():
        module = "l_0_" if dialect == "kohya" else "l.0."
        tensors[f"{STARTS[dialect]}{module}{name}.alpha"] = torch.tensor(3.0 * rank)
    save_file(tensors, folder / "mine.safetensors")
    return folder


def changes_in(dialect: str, folder: Path, modules: list[str]) -> Tensors:
    if dialect == "peft":
        return changes(folder)
    return named_changes(next(folder.glob("*.safetensors")), STARTS[dialect], modules)


@pytest.mark.parametrize("rule", ["rename", "join rows as blocks"])
@pytest.mark.parametrize("new", STARTS)
@pytest.mark.parametrize("old", STARTS)
def test_each_dialect_becomes_each_other_one(tmp_path: Path, old: str, new: str, rule: str) -> None:
    """What is added is the same in all of them, and each goes back to the very files."""
    adapter = adapter_in(old, tmp_path / "adapter")
    before = changes_in(old, adapter, [f"l.0.{name}" for name in RANKS])
    wanted = wb.plan(before, [CASES[rule].rule]).state_dict()
    base = header_of(before)
    wb.convert(
        adapter, tmp_path / "new", [CASES[rule].rule], base=base, block_diagonal=True, adapter_prefix=STARTS[new]
    )
    assert (tmp_path / "new" / "adapter_config.json").exists() == (new == "peft")
    found = changes_in(new, tmp_path / "new", modules_of(wanted))
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-14, atol=0, msg=key)
    wb.revert(tmp_path / "new", tmp_path / "back")
    assert {path.name: path.read_bytes() for path in (tmp_path / "back").iterdir()} == {
        path.name: path.read_bytes() for path in adapter.iterdir()
    }


def test_biases_and_magnitudes_are_said_to_peft(tmp_path: Path) -> None:
    tensors = in_names_of("diffusers", "unet.", A)
    tensors |= {"unet.l.0.a.lora_B.bias": torch.ones(4), "unet.l.0.a.lora_magnitude_vector": torch.ones(4)}
    save_file(tensors, tmp_path / "mine.safetensors")
    wb.convert(tmp_path / "mine.safetensors", tmp_path / "new", adapter_prefix=PREFIX)
    said = config_of(tmp_path / "new")
    assert (said["use_dora"], said["lora_bias"], said["target_modules"]) == (True, True, ["l.0.a"])
    more = in_names_of("diffusers", "unet.", linear("l.0.b", 4, 5))
    save_file(tensors | more, tmp_path / "some.safetensors")
    assert codes_of(tmp_path / "some.safetensors", (), adapter_prefix=PREFIX) == {"adapter-inexact"}


@pytest.mark.parametrize(
    ("tensors", "config"),
    [
        pytest.param(embedding("l.0.a", 4, 5), {}, id="an embedding"),
        pytest.param(linear("l.0.a", 4, 5) | {"head.weight": whole_numbers(3, 5)}, {}, id="a tensor saved whole"),
        pytest.param(
            linear("l.0.a", 4, 5) | {"l.0.a.lora_magnitude_vector": whole_numbers(4)}, {"use_dora": True}, id="DoRA"
        ),
        pytest.param(linear("l.0.a", 4, 5, 3), {"r": 3, "use_rslora": True}, id="a strength that no number says"),
    ],
)
def test_what_kohya_has_no_names_for_is_refused(tmp_path: Path, tensors: Tensors, config: dict[str, Any]) -> None:
    adapter = write_adapter(tmp_path / "adapter", tensors, target_modules=["a"], **config)
    assert codes_of(adapter, RENAME, adapter_prefix="lora_unet_") == {"adapter-inexact"}


def test_a_plan_from_peft_without_its_configuration_is_not_written(tmp_path: Path) -> None:
    adapter = adapter_in("peft", tmp_path / "adapter")
    plan = wb.plan(adapter, RENAME, adapter_prefix="lora_unet_")
    with pytest.raises(wb.PlanError, match="does not hold the configuration"):
        wb.Plan.from_json(plan.to_json()).write(tmp_path / "out", adapter)
    assert [str(change) for change in plan.config_changes][:1]


# What is said of it


def test_a_key_is_explained_by_the_weight_that_it_belongs_to(tmp_path: Path) -> None:
    factors = equal_inputs(4, 5, 2)
    save_file(in_names_of("kohya", "lora_unet_", factors, 3), tmp_path / "mine.safetensors")
    base = header_of({f"l.0.{name}.weight": torch.zeros(4 + at, 5) for at, name in enumerate("qkv")})
    plan = wb.plan(tmp_path / "mine.safetensors", wb.Mapping([ROWS], name="mine"), base=base)
    for end in (".lora_up.weight", ".alpha"):
        assert "fired: l.0.k.weight -> l.0.qkv.weight" in str(plan.explain(f"lora_unet_l_0_k{end}"))
    assert "reading: mapped, as an adapter in the names of kohya" in str(plan)
    ways = tuple((f"lora_unet_l_0_{name}.alpha",) for name in "qkv")
    assert ways in [condition.ways for condition in plan.conditions]
    assert plan.to_html()
    read = wb.Plan.from_json(plan.to_json()).explain("lora_unet_l_0_k.alpha")
    assert read.sides == ("source",)
    assert read.tried == ()


def test_the_command_moves_it_and_takes_it_back(tmp_path: Path) -> None:
    save_file(in_names_of("kohya", "lora_unet_", apart(4, 5, 2), 3), tmp_path / "mine.safetensors")
    (tmp_path / "rules.yaml").write_text(wb.Mapping([ROWS]).to_yaml())
    save_file(
        {f"l.0.{name}.weight": torch.zeros(4 + at, 5) for at, name in enumerate("qkv")}, tmp_path / "b.safetensors"
    )
    words = ["convert", "mine.safetensors", "out", "rules.yaml", "--block-diagonal"]
    assert "adapter-module" in run(tmp_path, *words).err
    assert not (tmp_path / "out").exists()
    made = run(tmp_path, *words, "--base", "b.safetensors", "--adapter-prefix", "unet.")
    assert made.status == 0, made.err
    found = named_changes(tmp_path / "out" / "pytorch_lora_weights.safetensors", "unet.", ["l.0.qkv"])
    old = named_changes(tmp_path / "mine.safetensors", "lora_unet_", [f"l.0.{name}" for name in "qkv"])
    assert torch.equal(found["l.0.qkv.weight"], wb.plan(old, [ROWS]).state_dict()["l.0.qkv.weight"])
    assert run(tmp_path, "revert", "out", "back").status == 0
    assert (tmp_path / "back" / "mine.safetensors").read_bytes() == (tmp_path / "mine.safetensors").read_bytes()
    words[2] = "other"
    assert "--adapter-prefix OLD=NEW" in run(tmp_path, *words, "--adapter-prefix", "lora_unet_=").err


# What is refused


def codes_of(file: Path, rules: Any, **options: Any) -> set[str]:
    with pytest.raises(wb.WeighbridgeError) as caught:
        wb.convert(file, file.parent / "out", rules, **options)
    assert not (file.parent / "out").exists()
    problems = getattr(caught.value, "problems", ())
    return {problem.code for problem in problems} or {caught.value.code}


def weights(**shapes: tuple[int, ...]) -> wb.Header:
    return wb.Header({name.replace("__", "."): wb.TensorSpec("F16", shape) for name, shape in shapes.items()})


A = linear("l.0.a", 4, 5)
RENAME = [wb.WeightRenaming("l.{i}", "layers.{i}")]
THREE = weights(l__0__q__weight=(4, 5), l__0__k__weight=(5, 5), l__0__v__weight=(6, 5))


def kohya(factors: Tensors, alpha: float | None = 3, **more: torch.Tensor) -> Tensors:
    """Return an adapter in kohya's names, with other tensors of its first module."""
    made = in_names_of("kohya", "lora_unet_", factors, alpha)
    return made | {f"lora_unet_l_0_a.{name}": tensor for name, tensor in more.items()}


@pytest.mark.parametrize(
    ("tensors", "rules", "options", "code"),
    [
        pytest.param(kohya(A), RENAME, {}, "adapter-module", id="no base"),
        pytest.param(
            kohya(A), RENAME, {"base": weights(l__0__b__weight=(4, 5))}, "adapter-module", id="no such module"
        ),
        pytest.param(
            kohya(A),
            RENAME,
            {"base": weights(l__0__a__weight=(4, 5), l__0_a__weight=(4, 5))},
            "adapter-module",
            id="two such modules",
        ),
        pytest.param(
            kohya(linear("l.0.a", 4, 5) | linear("l.0.b", 4, 5)),
            [wb.WeightRenaming("^l.0.a", "x.y"), wb.WeightRenaming("^l.0.b", "x_y")],
            {"base": weights(l__0__a__weight=(4, 5), l__0__b__weight=(4, 5))},
            "adapter-module",
            id="two new modules of one name",
        ),
        pytest.param(
            kohya(A),
            [wb.WeightRenaming("^l.0.a", "x.y"), wb.WeightRenaming("^l.0.b", "x_y")],
            {"base": weights(l__0__a__weight=(4, 5), l__0__b__weight=(4, 5))},
            "adapter-module",
            id="a new module that has the name of another",
        ),
        pytest.param(
            kohya(A), RENAME, {"base": weights(l__0__a__weight=(4, 6))}, "adapter-invalid", id="a base of other sizes"
        ),
        pytest.param(
            {key: tensor for key, tensor in kohya(A).items() if "up" not in key},
            RENAME,
            {"base": weights(l__0__a__weight=(4, 5))},
            "adapter-invalid",
            id="one factor alone",
        ),
        pytest.param(
            kohya(A) | {"lora_unet_l_0_a.alpha": torch.zeros(2)},
            RENAME,
            {"base": weights(l__0__a__weight=(4, 5))},
            "adapter-invalid",
            id="an alpha of two numbers",
        ),
        pytest.param(
            kohya(A, float("nan")), RENAME, {"base": weights(l__0__a__weight=(4, 5))}, "adapter-invalid", id="no number"
        ),
        pytest.param(
            kohya(A, dora_scale=torch.ones(4, 1)),
            RENAME,
            {"base": weights(l__0__a__weight=(4, 5))},
            "adapter-inexact",
            id="what is no factor",
        ),
        pytest.param(
            {"lora_unet_l_0_a.lokr_w1": torch.ones(2, 2), "lora_unet_l_0_a.lokr_w2": torch.ones(2, 3)},
            RENAME,
            {"base": weights(l__0__a__weight=(4, 6))},
            "adapter-inexact",
            id="no factors at all",
        ),
        pytest.param(
            kohya(A) | {"other.weight": torch.ones(2)},
            RENAME,
            {"base": weights(l__0__a__weight=(4, 5))},
            "adapter-invalid",
            id="what belongs to no part",
        ),
        pytest.param(kohya(apart(4, 5, 2)), [ROWS], {"base": THREE}, "sources-differ", id="A differs"),
        pytest.param(
            kohya(equal_inputs(4, 5, 2)) | {"lora_unet_l_0_k.alpha": torch.tensor(5.0)},
            [ROWS],
            {"base": THREE},
            "adapter-inexact",
            id="other strengths",
        ),
        pytest.param(
            {key: tensor for key, tensor in kohya(equal_inputs(4, 5, 2)).items() if key != "lora_unet_l_0_k.alpha"},
            [ROWS],
            {"base": THREE},
            "adapter-inexact",
            id="an alpha for some alone",
        ),
        pytest.param(
            kohya(apart(4, 5, 2)) | {f"lora_unet_l_0_{n}.alpha": torch.tensor(1 + 2**-23) for n in "qkv"},
            [ROWS],
            {"base": THREE, **BLOCKS},
            "adapter-inexact",
            id="an alpha that its dtype does not have",
        ),
        pytest.param(
            kohya(equal_inputs(4, 5, 2)) | {"lora_unet_l_0_k.alpha": torch.tensor(3.0).half()},
            [ROWS],
            {"base": THREE, **BLOCKS},
            "dtype-mismatch",
            id="alphas of several dtypes",
        ),
        pytest.param(
            kohya(linear("e.0.up", 4, 5) | linear("e.1.up", 4, 5)),
            [wb.WeightConverter("e.*.up.weight", "e.up_proj", [wb.MergeModulelist(0)])],
            {"base": weights(e__0__up__weight=(4, 5), e__1__up__weight=(4, 5))},
            "adapter-inexact",
            id="experts that become one",
        ),
        pytest.param(
            kohya(A), RENAME, {"base": THREE, "adapter_prefix": "base."}, "adapter-module", id="a base before all else"
        ),
        pytest.param(
            kohya(A),
            RENAME,
            {"base": weights(l__0__a__weight=(4, 5)), "adapter_prefix": "base."},
            "usage",
            id="a beginning of no dialect",
        ),
        pytest.param(
            kohya(A),
            RENAME,
            {"base": weights(l__0__a__weight=(4, 5)), "adapter_prefix": {"lora_te_": "unet."}},
            "usage",
            id="a beginning that it has not",
        ),
        pytest.param(
            kohya(A),
            RENAME,
            {"base": weights(l__0__a__weight=(4, 5)), "adapter_prefix": ["unet."]},
            "usage",
            id="a beginning that is no text",
        ),
        pytest.param(
            kohya(A) | in_names_of("kohya", "lora_te_", linear("l.0.b", 4, 5)),
            RENAME,
            {
                "base": weights(l__0__a__weight=(4, 5), l__0__b__weight=(4, 5)),
                "adapter_prefix": {"lora_unet_": PREFIX, "lora_te_": PREFIX},
            },
            "usage",
            id="two parts that would be one",
        ),
        pytest.param(
            kohya(A) | in_names_of("kohya", "lora_te_", linear("l.0.b", 4, 5)),
            RENAME,
            {"base": weights(l__0__a__weight=(4, 5), l__0__b__weight=(4, 5)), "adapter_prefix": "unet."},
            "usage",
            id="one beginning for two parts",
        ),
        pytest.param(
            kohya(A) | in_names_of("kohya", "lora_te_", linear("l.0.b", 4, 5)),
            [wb.WeightConverter(["a.weight", "b.weight"], "ab.weight", [wb.Concatenate(0)])],
            {"base": weights(l__0__a__weight=(4, 5), l__0__b__weight=(4, 5)), **BLOCKS},
            "adapter-inexact",
            id="two parts that become one",
        ),
        pytest.param(kohya(A), RENAME, {"base": THREE, "dtype": "BF16"}, "usage", id="a cast"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_or_moved_is_refused_before_anything_is_written(
    tmp_path: Path, tensors: Tensors, rules: list[Any], options: dict[str, Any], code: str
) -> None:
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, tmp_path / "mine.safetensors")
    assert codes_of(tmp_path / "mine.safetensors", rules, **options) == {code}


@pytest.mark.parametrize(
    "tensors",
    [
        pytest.param(
            in_names_of("diffusers", "unet.", A, 3) | in_names_of("diffusers", "unet.", linear("l.0.b", 4, 5)),
            id="an alpha for some modules",
        ),
        pytest.param(
            in_names_of("diffusers", "unet.", linear("l.0.to_q", 4, 5))
            | {"unet.l.0.to_q_lora.down.weight": whole_numbers(2, 5)},
            id="two names of one factor",
        ),
    ],
)  # fmt: skip
def test_names_that_say_too_little_or_too_much_are_refused(tmp_path: Path, tensors: Tensors) -> None:
    save_file(tensors, tmp_path / "mine.safetensors")
    assert codes_of(tmp_path / "mine.safetensors", RENAME) == {"adapter-invalid"}


def test_two_parts_that_mean_one_module_are_refused(tmp_path: Path) -> None:
    tensors = kohya(A) | in_names_of("kohya", "lora_transformer_", A)
    save_file(tensors, tmp_path / "mine.safetensors")
    assert codes_of(tmp_path / "mine.safetensors", RENAME, base=weights(l__0__a__weight=(4, 5))) == {"adapter-invalid"}


def test_each_name_that_means_nothing_is_listed_and_the_first_ones_with_names_like_theirs(tmp_path: Path) -> None:
    tensors: Tensors = {}
    for number in range(20):
        tensors |= kohya(linear(f"l.{number}.a", 4, 5))
    save_file(tensors, tmp_path / "mine.safetensors")
    base = wb.Header({f"m.{number}.a.weight": wb.TensorSpec("F16", (4, 5)) for number in range(20)})
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(tmp_path / "mine.safetensors", RENAME, base=base)
    found = [str(problem) for problem in caught.value.problems]
    assert len(found) == 20
    assert "nearest: m.0.a.weight" in found[0]
    assert "nearest" not in found[-1]


def test_a_configuration_that_lies_about_comes_back(tmp_path: Path) -> None:
    """It says nothing of kohya's names, and makes way for the one that PEFT needs."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file(kohya(A), folder / "mine.safetensors")
    (folder / "adapter_config.json").write_text("{}\n")
    base = weights(l__0__a__weight=(4, 5))
    wb.convert(folder, tmp_path / "new", base=base, adapter_prefix=PREFIX)
    assert config_of(tmp_path / "new")["lora_alpha"] == 3
    wb.revert(tmp_path / "new", tmp_path / "back")
    assert (tmp_path / "back" / "adapter_config.json").read_text() == "{}\n"


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("{", "adapter-invalid"),
        ("[]", "adapter-invalid"),
        ('{"unet.r": "2"}', "adapter-invalid"),
        ('{"unet.r": 3}', "adapter-invalid"),
        ('{"unet.r": 2, "unet.use_qalora": true}', "adapter-inexact"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(tmp_path: Path, said: str, code: str) -> None:
    tensors = in_names_of("diffusers", "unet.", A)
    save_file(tensors, tmp_path / "mine.safetensors", metadata={"lora_adapter_metadata": said})
    assert codes_of(tmp_path / "mine.safetensors", RENAME) == {code}


def test_metadata_and_alphas_do_not_go_together(tmp_path: Path) -> None:
    """Diffusers refuses both as well."""
    text = json.dumps({"unet.r": 2, "unet.lora_alpha": 3})
    tensors = in_names_of("diffusers", "unet.", A, 3)
    save_file(tensors, tmp_path / "mine.safetensors", metadata={"lora_adapter_metadata": text})
    assert codes_of(tmp_path / "mine.safetensors", RENAME) == {"adapter-invalid"}


def test_alphas_that_changed_since_are_found_on_the_way_back(tmp_path: Path) -> None:
    save_file(kohya(apart(4, 5, 2)), tmp_path / "mine.safetensors")
    wb.convert(tmp_path / "mine.safetensors", tmp_path / "new", [ROWS], base=THREE, **BLOCKS)
    path = tmp_path / "new" / "model.safetensors"
    tensors = load_file(path)
    tensors["lora_unet_l_0_qkv.alpha"] += 1
    save_file(tensors, path)
    with pytest.raises(wb.PlanError) as caught:
        wb.revert(tmp_path / "new", tmp_path / "back")
    assert {problem.code for problem in caught.value.problems} == {"padding-differs"}
    assert not (tmp_path / "back").exists()


def test_a_header_alone_does_not_say_how_strong_an_adapter_is() -> None:
    specs = {key: wb.TensorSpec("F32", tuple(tensor.shape)) for key, tensor in kohya(A).items()}
    with pytest.raises(wb.WeighbridgeError) as caught:
        wb.plan(wb.Header(specs), RENAME, base=weights(l__0__a__weight=(4, 5)))
    assert caught.value.code == "data-missing"
