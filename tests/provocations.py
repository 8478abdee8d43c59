"""One small, real mistake for each error code, made through the public names: what a user did to see that error.

Each function gets an empty folder, makes in it what it needs, and does what goes wrong. No error is raised by hand.
`PROVOCATIONS` has the function of each code; `tests/golden/errors` has what each prints.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn
from unittest import mock

import pytest
import torch
from dcp_directories import write_dcp
from elsewhere import SHARDS, reached, serve_everywhere, write_tiny
from loopback import Loopback, Wrong, loopback
from safetensors.torch import save_file

import weighbridge as wb
from weighbridge.algebra.layout import Layout
from weighbridge.base.process import machines
from weighbridge.testing import check_lint

Provocation = Callable[[Path], object]

PROVOCATIONS: Final[dict[str, Provocation]] = {}
"""For each code, the function that provokes it."""

NORMS: Final = wb.Mapping([wb.WeightRenaming("gamma", "weight")], name="norms")
OTHER: Final = wb.Mapping([wb.WeightRenaming("gamma", "scale")], name="other")
EXPERTS: Final = wb.Mapping(
    [wb.WeightConverter("experts.*.up.weight", "experts.up", [wb.MergeModulelist(0)])], name="experts"
)


def provokes(code: str) -> Callable[[Provocation], Provocation]:
    """Enter a function into the table."""

    def enter(function: Provocation) -> Provocation:
        assert code not in PROVOCATIONS, f"{code} is provoked twice"
        PROVOCATIONS[code] = function
        return function

    return enter


# What they work on


@contextmanager
def of_two_processes() -> Iterator[Any]:
    """A process group whose other process never comes, and its mesh."""
    import torch.testing._internal.distributed.fake_pg  # what registers the group of which nobody answers

    torch.distributed.init_process_group("fake", store=torch.distributed.HashStore(), rank=0, world_size=2)
    try:
        yield torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    finally:
        torch.distributed.destroy_process_group()


@contextmanager
def one_process() -> Iterator[Any]:
    """A process group of this process alone, and its mesh."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        yield torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    finally:
        torch.distributed.destroy_process_group()


FUSED: Final = wb.Mapping(
    [wb.WeightConverter(["gate.weight", "up.weight"], "gate_up.weight", [wb.Concatenate(0)])], name="fused"
)
MOVED: Final = wb.Mapping([wb.WeightRenaming("mlp", "feed_forward")], name="moved")


def adapter(folder: Path, *modules: str, r: int = 2) -> Path:
    """Make an adapter of rank 2 for some projections, with a configuration that says `r`."""
    named = {f"base_model.model.mlp.{module}.lora_{role}.weight": shape
             for module in modules or ("gate", "up") for role, shape in (("A", (2, 3)), ("B", (4, 2)))}  # fmt: skip
    return write_adapter(folder / f"adapter-{r}", named, {"r": r, "target_modules": ["gate", "up"]})


def kohyas(folder: Path) -> Path:
    """Make an adapter in kohya's names for one projection."""
    place = folder / "kohya.safetensors"
    save_file({f"lora_unet_mlp_gate.lora_{way}.weight": numbers(*shape)
               for way, shape in (("down", (2, 3)), ("up", (4, 2)))}, place)  # fmt: skip
    return place


def expert_adapter(folder: Path) -> Path:
    """Make an adapter for three fused experts that does not say how they are packed."""
    named = {"base_model.model.mlp.experts.lora_A.weight": (6, 3), "base_model.model.mlp.experts.lora_B.weight": (4, 6)}
    return write_adapter(folder / "experts", named, {"r": 2, "target_parameters": ["experts.down"]})


def write_adapter(place: Path, shapes: dict[str, tuple[int, ...]], config: dict[str, Any]) -> Path:
    place.mkdir()
    save_file({name: numbers(*shape) for name, shape in shapes.items()}, place / "adapter_model.safetensors")
    (place / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 2} | config))
    return place


EXPERT_BASE: Final = wb.Header({"mlp.experts.down": wb.TensorSpec("F32", (3, 4, 3))})


def numbers(*shape: int) -> torch.Tensor:
    """Distinct values."""
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape)


def header(**shapes: tuple[int, ...]) -> wb.Header:
    """Return a header; `__` in a name stands for a dot."""
    return wb.Header({name.replace("__", "."): wb.TensorSpec("F32", shape) for name, shape in shapes.items()})


def checkpoint(folder: Path, *more: str) -> Path:
    """Write a checkpoint with two norms, and more of them."""
    path = folder / "model"
    path.mkdir()
    tensors = {f"{name}.gamma": numbers(4) for name in ("first", "second", *more)}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


def sharded(folder: Path, **places: str) -> Path:
    """Write a checkpoint of two shards, whose index says what `places` says of it."""
    path = folder / "model"
    path.mkdir()
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for key, name in zip("ab", shards, strict=True):
        save_file({f"{key}.weight": numbers(2)}, path / name)
    weight_map = {"a.weight": shards[0], "b.weight": shards[1]} | {
        f"{key}.weight": name for key, name in places.items()
    }
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return path


def raw_file(folder: Path, head: str, data: bytes = b"", length: int | None = None) -> Path:
    """Write a safetensors file with this text as its header, whatever it is."""
    path = folder / "model.safetensors"
    text = head.encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(key: str, shape: Iterable[int] = (2,), offsets: tuple[int, int] = (0, 8), dtype: str = "F32") -> str:
    """Return the text of one tensor in a header."""
    return f'"{key}": ' + json.dumps({"dtype": dtype, "shape": list(shape), "data_offsets": offsets})


def converter(
    operation: Any, shape: tuple[int, ...], *, to: wb.Header | None = None, targets: Any = "new", **options: Any
) -> wb.Plan:
    """Plan one converter on a checkpoint with one tensor, `old`."""
    mapping = wb.Mapping([wb.WeightConverter("old", targets, [operation])], name="mine")
    return wb.plan(header(old=shape), mapping, target=to, **options)


def stop(done: int, total: int) -> NoReturn:
    """Press Ctrl-C as soon as something is written."""
    raise KeyboardInterrupt


def begin(folder: Path) -> tuple[Path, Path]:
    """Stop a conversion in the middle; return its source and its destination."""
    source, out = checkpoint(folder), folder / "out"
    with pytest.raises(KeyboardInterrupt):
        wb.convert(source, out, NORMS, resume=True, progress=stop)
    return source, out


# Patterns


@provokes("pattern-syntax")
def forget_a_bracket(folder: Path) -> object:
    return wb.WeightRenaming("layers.{layer.norm", "blocks.{layer}.norm")


@provokes("pattern-reference")
def misspell_a_capture(folder: Path) -> object:
    return wb.WeightRenaming("layers.{layer}.norm", "blocks.{leyer}.norm")


@provokes("pattern-costly")
def look_for_repetitions(folder: Path) -> object:
    rules = wb.Mapping([wb.WeightRenaming("{a:**}.{b:**}.{a}.{b}.w", "{a}.{b}.w")], name="mine")
    return wb.plan(header(**{"__".join(["layer"] * 200) + "__w": (2,)}), rules)


@provokes("pattern-one-way")
def forget_a_number(folder: Path) -> object:
    return wb.Mapping([wb.WeightRenaming("layers.{layer}.rotary", "rotary")], name="mine").inverse()


# Layout algebra and operations


@provokes("shape-mismatch")
def join_what_differs(folder: Path) -> object:
    rules = [wb.WeightConverter(["q", "k"], "qk", [wb.Concatenate(0)])]
    return wb.plan(header(q=(6, 4), k=(6, 5)), wb.Mapping(rules, name="mine"))


@provokes("axis-out-of-range")
def name_a_third_axis(folder: Path) -> object:
    return converter(wb.Transpose(0, 2), (8, 3))


@provokes("split-unequal")
def divide_ten_by_three(folder: Path) -> object:
    return converter(wb.Chunk(0), (10, 3), targets=["q", "k", "v"])


@provokes("operation-arity")
def give_two_sizes_for_three_targets(folder: Path) -> object:
    return converter(wb.Split(0, (5, 5)), (10, 3), targets=["q", "k", "v"])


@provokes("operation-argument")
def misspell_a_dtype(folder: Path) -> object:
    return wb.Cast("float12")


@provokes("operation-config")
def forget_the_configuration(folder: Path) -> object:
    return converter(wb.PermuteForRope(), (12, 5))


@provokes("operation-one-way")
def cast_and_ask_for_the_inverse(folder: Path) -> object:
    return wb.Mapping([wb.WeightConverter("old", "new", [wb.Cast("F16")])], name="mine").inverse()


@provokes("layout-coverage")
def change_a_plan_file(folder: Path) -> object:
    text = converter(wb.Transpose(0, 1), (8, 3)).to_json()
    return wb.Plan.from_json(text.replace("[8, 3, 1]", "[7, 3, 1]"))


@provokes("layout-fragmented")
def exchange_axes_again_and_again(folder: Path) -> object:
    value = Layout.of(0, (300, 301))
    for _ in range(3):
        value = value.transpose(0, 1).reshape((300, 301))
    return value


# Mappings and the registry


@provokes("mapping-invalid")
def forget_the_targets(folder: Path) -> object:
    return wb.WeightConverter(["gate", "up"], ["one", "two", "three"], [wb.Concatenate(0)])


@provokes("mapping-duplicate-rule")
def give_a_rule_twice(folder: Path) -> object:
    return wb.Mapping([*NORMS, *NORMS], name="mine")


@provokes("mapping-not-found")
def misspell_a_name(folder: Path) -> object:
    return wb.plan(checkpoint(folder), "qwen3_meo")


@provokes("mapping-exists")
def register_twice(folder: Path) -> object:
    registry = wb.Registry()
    registry.register("mine", NORMS)
    return registry.register("mine", OTHER)


@provokes("mapping-file")
def misspell_a_field(folder: Path) -> object:
    path = folder / "fix.yaml"
    path.write_text("name: mine\nrules:\n  - rename: gamma\n    too: weight\n")
    return wb.load_mapping(path)


# Plans


@provokes("plan-failed")
def plan_for_another_model(folder: Path) -> object:
    return wb.plan(checkpoint(folder), NORMS, target=header(first__weight=(4,), third__norm__weight=(4,)))


@provokes("plan-format")
def read_another_json_file(folder: Path) -> object:
    return wb.Plan.from_json('{"model_type": "llama"}')


@provokes("rule-overlap")
def convert_a_key_twice(folder: Path) -> object:
    sides = (("q.weight", "query"), ("layers.{i}.q.weight", "layers.{i}.q"))
    rules = [wb.WeightConverter(*side, [wb.Transpose(0, 1)]) for side in sides]
    return wb.plan(header(layers__0__q__weight=(3, 2)), wb.Mapping(rules, name="mine"))


@provokes("target-collision")
def send_two_to_one(folder: Path) -> object:
    return wb.plan(header(k__weight=(2, 2), l__weight=(2, 2)), [wb.WeightRenaming("k.weight", "l.weight")])


@provokes("target-missing")
def leave_a_target_empty(folder: Path) -> object:
    return wb.plan(checkpoint(folder), NORMS, target=header(first__weight=(4,), second__weight=(4,), second__bias=(4,)))


@provokes("source-unplaced")
def have_one_too_many(folder: Path) -> object:
    path = checkpoint(folder, "rotary")
    return wb.plan(path, NORMS, target=header(first__weight=(4,), second__weight=(4,)))


@provokes("group-incomplete")
def lose_an_expert(folder: Path) -> object:
    source = {f"experts__{i}__up__weight": (2, 3) for i in (0, 1, 3)}
    return wb.plan(header(**source), EXPERTS, target=header(experts__up=(4, 2, 3)))


@provokes("group-extra")
def have_an_expert_too_many(folder: Path) -> object:
    source = {f"experts__{i}__up__weight": (2, 3) for i in range(5)}
    return wb.plan(header(**source), EXPERTS, target=header(experts__up=(4, 2, 3)))


@provokes("group-duplicate")
def write_an_index_in_two_ways(folder: Path) -> object:
    return wb.plan(header(**{f"experts__{i}__up__weight": (2, 3) for i in ("0", "1", "01")}), EXPERTS)


@provokes("index-out-of-range")
def move_an_index_with_a_leading_zero(folder: Path) -> object:
    return wb.plan(
        header(layer_02__w=(3,)), wb.Mapping([wb.WeightRenaming("layer_{i:int}", "layers.{i+1}")], name="mine")
    )


@provokes("spec-mismatch")
def take_a_larger_model(folder: Path) -> object:
    return wb.plan(checkpoint(folder), NORMS, target=header(first__weight=(4,), second__weight=(8,)))


@provokes("dtype-mismatch")
def join_two_dtypes(folder: Path) -> object:
    return wb.plan(
        {f"experts.{i}.up.weight": numbers(2).to(t) for i, t in enumerate((torch.half, torch.float))}, EXPERTS
    )


@provokes("cast-overflow")
def cast_a_large_value(folder: Path) -> object:
    return wb.plan({"a.weight": torch.tensor([1e30, 1.0])}, [], dtype="F16").state_dict()


@provokes("companion-unknown")
def cast_codes(folder: Path) -> object:
    specs = {"q.weight": wb.TensorSpec("F8_E4M3", (4, 4)), "q.weight_scale_inv": wb.TensorSpec("F32", (1, 1))}
    return wb.plan(wb.Header(specs), [wb.WeightConverter("q.weight", "q.weight", [wb.Cast("BF16")])])


def quantised(rows: tuple[int, int], block: int = 2) -> tuple[dict[str, wb.TensorSpec], dict[str, object]]:
    """Two weights of FP8 in blocks of 2 x 2, and a configuration."""
    specs = {}
    for name, count in zip("qk", rows, strict=True):
        specs[f"{name}.weight"] = wb.TensorSpec("F8_E4M3", (count, 4))
        specs[f"{name}.weight_scale_inv"] = wb.TensorSpec("F32", (-(-count // 2), 2))
    return specs, {"quantization_config": {"quant_method": "fp8", "weight_block_size": [block, block]}}


BOTH = wb.WeightConverter(["q.weight", "k.weight"], "qk.weight", [wb.Concatenate(0)])


@provokes("companion-missing")
def join_with_weights_without_scales(folder: Path) -> object:
    specs, config = quantised((4, 2))
    plain = specs | {"k.weight": wb.TensorSpec("U8", (2, 4))}
    return wb.plan(wb.Header({key: plain[key] for key in plain if key != "k.weight_scale_inv"}), [BOTH], config=config)


@provokes("companion-misaligned")
def join_behind_a_block_that_is_not_full(folder: Path) -> object:
    specs, config = quantised((3, 2))
    return wb.plan(wb.Header(specs), [BOTH], config=config)


@provokes("companion-fixed")
def turn_packed_codes(folder: Path) -> object:
    specs = {"q_blocks": wb.TensorSpec("U8", (4, 2, 16)), "q_scales": wb.TensorSpec("U8", (4, 2))}
    config = {"quantization_config": {"quant_method": "mxfp4"}}
    return wb.plan(wb.Header(specs), [wb.WeightConverter("q", "q", [wb.Transpose(0, 1)])], config=config)


DIFFERING = {
    f"{name}.{ending}": value
    for name, scale in (("q", 0.5), ("k", 0.25))
    for ending, value in (
        ("weight", torch.ones(2, 4, dtype=torch.float8_e4m3fn)),
        ("weight_scale", torch.tensor(scale)),
    )
}
ONE_SCALE = {"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}}


@provokes("companion-differs")
def join_weights_of_two_scales(folder: Path) -> object:
    return wb.plan(DIFFERING, [BOTH], config=ONE_SCALE).state_dict()


def int8(*targets: str) -> tuple[wb.Header, dict[str, object]]:
    """A weight that may have groups of 4 columns, or one group of all, and what its configuration names."""
    weights = {"num_bits": 8, "type": "int", "symmetric": True}
    sizes = ({"strategy": "group", "group_size": 4}, {"strategy": "channel"})
    groups = {
        str(number): {"targets": [target], "weights": weights | size}
        for number, (target, size) in enumerate(zip(targets, sizes, strict=True))
    }
    config = {"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": groups}
    specs = {"q.weight": wb.TensorSpec("I8", (2, 4)), "q.weight_scale": wb.TensorSpec("F32", (2, 1))}
    return wb.Header(specs), {"quantization_config": config}


HALVES = wb.WeightConverter("q.weight", ["a.weight", "b.weight"], [wb.Chunk(0)])


@provokes("scheme-ambiguous")
def cut_a_weight_of_two_schemes(folder: Path) -> object:
    source, config = int8("re:q.*", "Linear")
    return wb.plan(source, [HALVES], config=config)


@provokes("scheme-conflict")
def say_another_block(folder: Path) -> object:
    specs, config = quantised((4, 2), block=4)
    return wb.plan(wb.Header(specs), [BOTH], config=config)


def naming(folder: Path, *entries: str) -> Path:
    """Write a checkpoint with two weights, and a configuration that names some of them as not quantised."""
    place = folder / "named"
    place.mkdir()
    save_file({f"{name}.weight": numbers(6).reshape(2, 3) for name in "qk"}, place / "model.safetensors")
    said = {"quant_method": "compressed-tensors", "ignore": list(entries)}
    (place / "config.json").write_text(json.dumps({"quantization_config": said}))
    return place


@provokes("names-mixed")
def join_what_the_configuration_names_in_part(folder: Path) -> object:
    return wb.convert(naming(folder, "re:q"), folder / "out", [BOTH])


@provokes("names-unmapped")
def name_in_the_configuration_what_is_made_of_others(folder: Path) -> object:
    return wb.convert(naming(folder, "qk"), folder / "out", [BOTH])


@provokes("adapter-invalid")
def convert_with_the_configuration_of_another_adapter(folder: Path) -> object:
    return wb.plan(adapter(folder, r=4), FUSED)


@provokes("adapter-module")
def convert_names_without_dots(folder: Path) -> object:
    return wb.plan(kohyas(folder), MOVED)


@provokes("adapter-packing")
def convert_experts_that_nobody_knows_of(folder: Path) -> object:
    return wb.plan(expert_adapter(folder), MOVED, base=EXPERT_BASE)


@provokes("adapter-inexact")
def fuse_what_was_trained_in_part(folder: Path) -> object:
    return wb.plan(adapter(folder, "gate"), FUSED, base=header(mlp__gate__weight=(4, 3), mlp__up__weight=(4, 3)))


@provokes("layout-ambiguous")
def swap_two_names(folder: Path) -> object:
    rules = wb.Mapping([wb.GroupWeightRename(["up", "gate"], ["gate", "up"])], name="mine")
    return wb.plan(header(up=(2, 2), gate=(2, 2)), rules, target=header(up=(2, 2), gate=(2, 2)))


@provokes("already-converted")
def convert_an_output_again(folder: Path) -> object:
    turned = wb.Mapping([wb.WeightConverter("first.gamma", "first.gamma", [wb.Permute((0,))])], name="turned")
    wb.convert(checkpoint(folder), folder / "made", turned)
    return wb.convert(folder / "made", folder / "again", turned)


@provokes("rule-unused")
def drop_what_is_not_there(folder: Path) -> object:
    return wb.plan(checkpoint(folder), NORMS, drop=["frist.gamma"])


@provokes("inverse-lossy")
def go_back_after_rounding(folder: Path) -> object:
    return wb.plan(checkpoint(folder), NORMS, dtype="BF16", drop=["second.gamma"]).inverse()


@provokes("inverse-unproven")
def save_what_was_never_renamed(folder: Path) -> object:
    return wb.plan(header(first__gamma=(4,)), NORMS.inverse())


@provokes("source-unbound")
def run_a_plan_from_json(folder: Path) -> object:
    return wb.Plan.from_json(wb.plan(checkpoint(folder), NORMS).to_json()).state_dict()


@provokes("tie-differs")
def load_different_values_into_one_parameter(folder: Path) -> object:
    model = torch.nn.ModuleDict({"embed": torch.nn.Linear(3, 2, bias=False), "head": torch.nn.Linear(3, 2, bias=False)})
    model["head"].weight = model["embed"].weight
    return wb.load(model, {"embed.weight": numbers(2, 3), "head.weight": numbers(2, 3) + 1}, [])


@provokes("sources-differ")
def merge_what_is_not_equal(folder: Path) -> object:
    scales = {f"layers.{i}.scale": numbers(2, 3) for i in range(3)}
    scales["layers.2.scale"][1, 0] = 9.5
    return wb.plan(scales, [wb.WeightConverter("layers.*.scale", "scale", [wb.MergeEqual()])]).state_dict()


@provokes("padding-differs")
def trim_rows_that_hold_something(folder: Path) -> object:
    vocabulary = torch.zeros(16, 3)
    vocabulary[:11] = numbers(11, 3)
    vocabulary[13, 1] = 0.25
    return wb.plan({"embed.weight": vocabulary}, [wb.WeightConverter("embed", "embed", [wb.Trim(0, 11)])]).state_dict()


@provokes("parts-unclear")
def load_into_summands(folder: Path) -> object:
    """What backward leaves of a layer whose input was spread, before it is reduced."""
    from torch.distributed.tensor import DTensor, Partial

    model = torch.nn.Linear(3, 8, bias=False)
    with one_process() as mesh:
        model.weight = torch.nn.Parameter(DTensor.from_local(numbers(8, 3), mesh, [Partial()]))
        return wb.load(model, {"weight": numbers(8, 3)}, [])


@provokes("parts-mismatch")
def cut_a_plan_to_parts_of_another_model(folder: Path) -> object:
    plan = wb.plan({"up.weight": numbers(8, 3), "norm.weight": numbers(3)}, [])
    return plan.cut({"up.weight": wb.Part((6, 3), (((0, 3),), ((0, 3),)))})


@provokes("budget-too-small")
def give_one_byte(folder: Path) -> object:
    plan = wb.plan({"old": numbers(8, 3)}, [wb.WeightConverter("old", "new", [wb.Transpose(0, 1)])])
    return plan.write(folder / "out", memory_budget=1)


# Sources


@provokes("checkpoint-not-found")
def misspell_a_path(folder: Path) -> object:
    checkpoint(folder)
    return wb.open(folder / "modle")


@provokes("checkpoint-ambiguous")
def keep_two_sets_of_shards(folder: Path) -> object:
    for name in ("model-00001-of-00001.safetensors", "old-00001-of-00001.safetensors"):
        save_file({"a.weight": numbers(2)}, folder / name)
    return wb.open(folder)


@provokes("checkpoint-partial")
def open_the_file_of_one_rank(folder: Path) -> object:
    path = folder / "shard-00002-model-00001-of-00001.safetensors"
    save_file({"a.weight": numbers(2, 3)}, path, {"DCP_SHARDING_INFO": '{"a.weight": {"saved_offsets": [2, 0]}}'})
    return wb.open(path)


@provokes("file-truncated")
def stop_a_download(folder: Path) -> object:
    path = checkpoint(folder) / "model.safetensors"
    os.truncate(path, path.stat().st_size - 5)
    return wb.open(path)


@provokes("header-too-large")
def open_a_page_as_weights(folder: Path) -> object:
    path = folder / "model.safetensors"
    path.write_text("<!DOCTYPE html><html><body>404: not found</body></html>")
    return wb.open(path)


@provokes("header-invalid")
def forget_the_dtype(folder: Path) -> object:
    return wb.open(raw_file(folder, '{"a.weight": {"shape": [2], "data_offsets": [0, 8]}}', bytes(8)))


@provokes("header-duplicate-key")
def name_a_tensor_twice(folder: Path) -> object:
    return wb.open(raw_file(folder, f"{{{entry('a.weight')}, {entry('a.weight')}}}", bytes(8)))


@provokes("name-too-long")
def write_a_text_as_a_name(folder: Path) -> object:
    return wb.open(raw_file(folder, f"{{{entry('once upon a time ' * 300)}}}", bytes(8)))


@provokes("dtype-unknown")
def write_a_dtype_of_torch(folder: Path) -> object:
    return wb.open(raw_file(folder, f"{{{entry('a.weight', dtype='float32')}}}", bytes(8)))


@provokes("tensor-bounds")
def let_tensors_overlap(folder: Path) -> object:
    return wb.open(raw_file(folder, f"{{{entry('a.weight')}, {entry('b.weight', offsets=(4, 12))}}}", bytes(12)))


@provokes("tensor-unsupported")
def give_a_sparse_tensor(folder: Path) -> object:
    return wb.open({"a.weight": numbers(3, 3).to_sparse()})


@provokes("index-invalid")
def cut_an_index(folder: Path) -> object:
    path = sharded(folder)
    index = path / "model.safetensors.index.json"
    index.write_text(index.read_text()[:-10])
    return wb.open(path)


@provokes("index-mismatch")
def lose_a_shard(folder: Path) -> object:
    path = sharded(folder)
    (path / "model-00002-of-00002.safetensors").unlink()
    return wb.open(path)


@provokes("path-unsafe")
def name_a_file_outside(folder: Path) -> object:
    return wb.open(sharded(folder, b="../../other/model.safetensors"))


@provokes("dcp-unsafe")
def hide_code_in_metadata(folder: Path) -> object:
    def hide(metadata: Any) -> None:
        metadata.planner_data = {"a.weight": subprocess.run}

    return wb.open(write_dcp(folder, {"a.weight": numbers(2)}, metadata=hide))


@provokes("dcp-unsupported")
def save_with_an_extension(folder: Path) -> object:
    def transform(metadata: Any) -> None:
        for info in metadata.storage_data.values():
            info.transform_descriptors = ["zstd"]

    return wb.open(write_dcp(folder, {"a.weight": numbers(2)}, metadata=transform))


@provokes("dcp-invalid")
def lose_a_chunk(folder: Path) -> object:
    return wb.open(write_dcp(folder, {"a.weight": numbers(5, 3)}, {"a.weight": [((0, 0), (3, 3))]}))


@provokes("pickle-unsafe")
def save_more_than_tensors(folder: Path) -> object:
    path = folder / "model.bin"
    torch.save({"a.weight": numbers(2), "loss": os.system}, path)
    return wb.open(path)


@provokes("pickle-invalid")
def save_a_model_and_not_its_tensors(folder: Path) -> object:
    path = folder / "model.bin"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    return wb.open(path)


@provokes("inventory-invalid")
def open_a_config(folder: Path) -> object:
    path = folder / "config.json"
    path.write_text('{"model_type": "llama"}')
    return wb.open(path)


@provokes("tensor-not-found")
def misspell_a_key(folder: Path) -> object:
    return wb.open(checkpoint(folder)).tensor("first.gama")


@provokes("data-missing")
def run_a_header(folder: Path) -> object:
    return wb.plan(header(first__gamma=(4,)), NORMS).state_dict()


@provokes("source-changed")
def train_on_after_planning(folder: Path) -> object:
    path = checkpoint(folder)
    plan = wb.plan(path, NORMS)
    save_file({"first.gamma": numbers(6)}, path / "model.safetensors")
    return plan.state_dict()


@provokes("receipt-invalid")
def revert_what_was_never_converted(folder: Path) -> object:
    return wb.revert(checkpoint(folder), folder / "back")


@provokes("digests-missing")
def verify_without_digests(folder: Path) -> object:
    wb.convert(checkpoint(folder), folder / "out", NORMS)
    return wb.verify(folder / "out")


@provokes("read-failed")
def open_a_pipe(folder: Path) -> object:
    os.mkfifo(folder / "model.safetensors")
    return wb.open(folder / "model.safetensors")


@contextmanager
def served(folder: Path) -> Iterator[Loopback]:
    """A checkpoint behind a server on this machine, which all clients find."""
    with loopback() as server, reached(server, folder):
        serve_everywhere(server, write_tiny(folder / "served"))
        yield server


@provokes("remote-denied")
def open_what_is_gated(folder: Path) -> object:
    with served(folder) as server:
        server.token = "another"
        return wb.open("hf://org/tiny")


@provokes("remote-no-ranges")
def read_parts_of_whole_files(folder: Path) -> object:
    pytest.importorskip("obstore", reason="needs the extra `remote`")
    with served(folder) as server:
        server.trouble = lambda asked: Wrong(whole=True)
        return wb.open(f"s3://bucket/models/tiny/{SHARDS[0]}")


@provokes("machine-unsupported")
def read_on_another_machine(folder: Path) -> object:
    plan = wb.plan(checkpoint(folder), NORMS)
    with mock.patch.object(machines, "byte_order", return_value="big"):
        return plan.state_dict()


# Destinations


@provokes("destination-exists")
def convert_twice(folder: Path) -> object:
    source = checkpoint(folder)
    wb.convert(source, folder / "out", NORMS)
    return wb.convert(source, folder / "out", NORMS)


@provokes("destination-unsafe")
def convert_into_the_source(folder: Path) -> object:
    source = checkpoint(folder)
    return wb.convert(source, source / "out", NORMS)


@provokes("destination-no-room")
def write_more_than_any_disk_holds(folder: Path) -> object:
    """One element, seen 2**55 times: its header asks for more room than there is, and nothing is written."""
    return wb.plan({"first.gamma": torch.zeros(1).expand(2**55)}, NORMS).write(folder / "out", max_shard_size=None)


@provokes("destination-busy")
def convert_in_two_windows(folder: Path) -> object:
    source, out = checkpoint(folder), folder / "out"

    def another(done: int, total: int) -> None:
        wb.convert(source, out, NORMS)

    return wb.convert(source, out, NORMS, progress=another)


@provokes("destination-unfinished")
def start_anew_after_a_stop(folder: Path) -> object:
    return wb.convert(*begin(folder), NORMS)


@provokes("resume-mismatch")
def resume_with_another_mapping(folder: Path) -> object:
    return wb.convert(*begin(folder), OTHER, resume=True)


@provokes("ranks-disagree")
def give_the_second_part_another_mapping(folder: Path) -> object:
    source = checkpoint(folder)
    wb.convert(source, folder / "out", NORMS, part=(0, 2))
    return wb.convert(source, folder / "out", OTHER, part=(1, 2))


@provokes("rank-missing")
def save_on_one_of_two_ranks(folder: Path) -> object:
    with of_two_processes() as mesh:
        model = torch.nn.Linear(3, 8, bias=False)
        torch.distributed.fsdp.fully_shard(model, mesh=mesh)
        return wb.save(model, folder / "out", layout="as is", timeout=0.01)


@provokes("write-failed")
def write_below_a_file(folder: Path) -> object:
    source = checkpoint(folder)
    (folder / "notes.txt").write_text("mine")
    return wb.convert(source, folder / "notes.txt" / "out", NORMS)


@provokes("model-mismatch")
def load_into_another_model(folder: Path) -> object:
    plan = wb.plan({"weight": numbers(2, 3), "bias": numbers(2)}, [], target=torch.nn.Linear(3, 2))
    return plan.load_into(torch.nn.Linear(4, 2))


# Other libraries


@provokes("integration-version")
def meet_an_operation_of_the_future(folder: Path) -> object:
    core = pytest.importorskip("transformers.core_model_loading", reason="needs the extra `transformers`")
    from weighbridge.mappings.transformers_table import import_operation

    return import_operation(type("FutureOperation", (core.ConversionOps,), {"convert": None})())


@provokes("integration-unsupported")
def load_quantised(folder: Path) -> object:
    transformers = pytest.importorskip("transformers", reason="needs the extra `transformers`")
    from weighbridge.integrations import transformers as wbt

    return wbt.from_pretrained(transformers.AutoModel, checkpoint(folder), quantization_config={"load_in_8bit": True})


# Verification and commands


@provokes("verify-failed")
def compare_two_trainings(folder: Path) -> object:
    other = {"first.gamma": numbers(4) + 1, "third.gamma": numbers(4)}
    return wb.verify(checkpoint(folder), other).require_equal()


@provokes("law-broken")
def chain_two_renames(folder: Path) -> object:
    rules = wb.Mapping([wb.WeightRenaming("a", "b"), wb.WeightRenaming("b", "c")], name="mine")
    return check_lint(rules, header(a__weight=(2,), b__weight=(2,)))


@provokes("usage")
def misspell_an_option(folder: Path) -> object:
    return wb.plan(checkpoint(folder), NORMS, layout="maped")
