"""What following each hint means, as code: for each code of `provocations.py`, in the folder of its mistake.

A remedy says which words of the hint it follows. The words of a code's remedies together are its hints; those that no
program can follow are in `BY_HAND`, with what has to be done instead.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple
from unittest import mock

import pytest
import torch
from dcp_directories import write_dcp
from forked import COMMAND, forks
from provocations import (
    BOTH,
    DIFFERING,
    EXPERT_BASE,
    EXPERTS,
    FUSED,
    HALVES,
    MOVED,
    NORMS,
    ONE_SCALE,
    OTHER,
    adapter,
    checkpoint,
    converter,
    entry,
    header,
    int8,
    numbers,
    of_two_processes,
    one_process,
    quantised,
    raw_file,
    served,
    sharded,
)
from safetensors.torch import save_file

import weighbridge as wb
from weighbridge.algebra.layout import Layout
from weighbridge.base.process import machines
from weighbridge.testing import check_lint

PACKAGES = str(Path(wb.__file__).parents[1])


class Remedy(NamedTuple):
    """The words of a hint, and what they tell to do, up to the call that went wrong."""

    words: str
    follow: Callable[[Path], object]


REMEDIES: Final[dict[str, list[Remedy]]] = {}

BY_HAND: Final[dict[str, tuple[str, ...]]] = {
    "remote-denied": ("a gated one is asked for\non its page",),
    "adapter-inexact": ("merge the adapter into its model with PEFT, and convert that",),
    "dcp-unsafe": ("only if you trust its origin",),
    "dcp-unsupported": ("open it with those that wrote it",),
    "destination-no-room": ("free NUMBER bytes",),
    "path-unsafe": ("do not use this checkpoint before you know who wrote it",),
    "pickle-unsafe": ("only if you trust its origin",),
    "machine-unsupported": ("convert on x86-64 or arm64",),
    "rank-missing": ("or a longer timeout=...",),
}
"""Words of hints that tell a person what to do, not a program."""


def follows(code: str, words: str) -> Callable[[Callable[[Path], object]], Callable[[Path], object]]:
    """Enter a remedy into the table."""

    def enter(function: Callable[[Path], object]) -> Callable[[Path], object]:
        REMEDIES.setdefault(code, []).append(Remedy(words, function))
        return function

    return enter


def command(*arguments: Any, status: int = 0) -> str:
    """Run the command, which must succeed, or end as it is said to."""
    environment = os.environ | {"PYTHONPATH": PACKAGES, "COLUMNS": "120"}
    ended = forks(COMMAND).run("weighbridge", [*map(str, arguments)], Path.cwd(), environment)
    assert ended.status == status, (ended.out + ended.err).decode()
    return ended.out.decode()


def mapping_file(folder: Path, mapping: wb.Mapping) -> Path:
    path = folder / f"{mapping.name}.yaml"
    path.write_text(mapping.to_yaml())
    return path


def saved(folder: Path, name: str, **shapes: tuple[int, ...]) -> Path:
    """Write a checkpoint with these tensors."""
    path = folder / name
    path.mkdir()
    tensors = {key.replace("__", "."): numbers(*shape) for key, shape in shapes.items()}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


# Patterns


@follows("pattern-syntax", r"write {name}, {name:int}, {name:**}, {name:q|k} or \{")
def close_the_bracket(folder: Path) -> object:
    kinds = ("{layer}", "{layer:int}", "{layer:**}", "{layer:q|k}")
    renames = [wb.WeightRenaming(f"layers.{kind}.norm", "blocks.{layer}.norm") for kind in kinds]
    return [*renames, wb.WeightRenaming(r"layers.\{layer.norm", "blocks.layer.norm")]


@follows("pattern-reference", "capture it in the source as {leyer}")
def capture_it(folder: Path) -> object:
    return wb.WeightRenaming("layers.{leyer}.norm", "blocks.{leyer}.norm")


@follows("pattern-reference", "take one of the names above")
def take_the_name(folder: Path) -> object:
    return wb.WeightRenaming("layers.{layer}.norm", "blocks.{layer}.norm")


REPEATED = "__".join(["layer"] * 200) + "__w"


@follows("pattern-costly", "give the part that is repeated a narrower kind, such as {i:int}")
def narrow_the_part(folder: Path) -> object:
    return wb.plan(header(**{REPEATED: (2,)}), [wb.WeightRenaming("{a:int}.{b:int}.{a}.{b}.w", "{a}.{b}.w")])


@follows("pattern-costly", "anchor the pattern with ^")
def anchor_the_pattern(folder: Path) -> object:
    return wb.plan(header(**{REPEATED: (2,)}), [wb.WeightRenaming("^{a:**}.{b:**}.{a}.{b}.w", "{a}.{b}.w")])


@follows("pattern-one-way", "write in the target what the way back needs")
def write_the_number(folder: Path) -> object:
    return wb.Mapping([wb.WeightRenaming("layers.{layer}.rotary", "rotary.{layer}")], name="mine").inverse()


@follows("pattern-one-way", "mark a rule of former names as legacy")
def mark_as_legacy(folder: Path) -> object:
    rule = wb.WeightRenaming("layers.{layer}.rotary", "rotary")
    return wb.Mapping([rule], name="mine", legacy=[rule]).inverse()


# Layout algebra and operations


@follows("split-unequal", "give the sizes of the parts: Split(dim, sizes)")
def give_the_sizes(folder: Path) -> object:
    return converter(wb.Split(0, (4, 3, 3)), (10, 3), targets=["q", "k", "v"])


@follows("shape-mismatch", "correct the operation's axes")
def join_on_the_other_axis(folder: Path) -> object:
    return wb.plan(header(q=(6, 4), k=(6, 5)), [wb.WeightConverter(["q", "k"], "qk", [wb.Concatenate(1)])])


@follows("shape-mismatch", "the pattern that takes a tensor of another shape")
def join_what_fits(folder: Path) -> object:
    rules = [wb.WeightConverter(["q", "key"], "qk", [wb.Concatenate(0)])]
    return wb.plan(header(q=(6, 4), k=(6, 5), key=(2, 4)), rules)


@follows("axis-out-of-range", "axes count from 0")
def name_the_second_axis(folder: Path) -> object:
    return converter(wb.Transpose(0, 1), (8, 3))


@follows("axis-out-of-range", "from the last one, which is -1")
def name_the_last_axis(folder: Path) -> object:
    return converter(wb.Transpose(0, -1), (8, 3))


@follows("operation-arity", "give as many sizes and targets as there are tensors")
def give_three_sizes(folder: Path) -> object:
    return converter(wb.Split(0, (4, 3, 3)), (10, 3), targets=["q", "k", "v"])


@follows("operation-config", "name the directory that has the model's config.json beside the weights")
def keep_the_configuration(folder: Path) -> object:
    path = saved(folder, "model", old=(12, 5))
    (path / "config.json").write_text('{"num_attention_heads": 2}')
    return wb.plan(path, [wb.WeightConverter("old", "new", [wb.PermuteForRope()])])


@follows("operation-config", "pass config=")
def pass_the_configuration(folder: Path) -> object:
    return converter(wb.PermuteForRope(), (12, 5), config={"num_attention_heads": 2})


@follows("operation-one-way", "give it a source_dtype")
def give_the_source_dtype(folder: Path) -> object:
    return wb.Mapping([wb.WeightConverter("old", "new", [wb.Cast("F16", source_dtype="F32")])], name="mine").inverse()


@follows("layout-coverage", "make the plan anew: its form was changed")
def make_the_plan_again(folder: Path) -> object:
    return wb.Plan.from_json(converter(wb.Transpose(0, 1), (8, 3)).to_json())


@follows("layout-fragmented", "do it in two steps")
def write_it_out_between(folder: Path) -> object:
    value = Layout.of(0, (300, 301))
    for _ in range(3):
        turned = value.transpose(0, 1).reshape((300, 301))
        value = Layout.of(0, turned.shape)  # the next step starts from what this one has written
    return value


@follows("layout-fragmented", "in an order that keeps longer runs together")
def exchange_them_first(folder: Path) -> object:
    value = Layout.of(0, (300, 301))
    for _ in range(3):
        value = value.transpose(0, 1)
    return value.reshape((300, 301))


# Mappings and the registry


@follows("mapping-invalid", "compare what the operations take and give with the patterns of the two sides")
def give_one_target(folder: Path) -> object:
    return wb.WeightConverter(["gate", "up"], "one", [wb.Concatenate(0)])


@follows("mapping-duplicate-rule", "remove one of the two")
def give_it_once(folder: Path) -> object:
    return wb.Mapping(NORMS, name="mine")


@follows("mapping-not-found", "weighbridge.register(name, transforms)")
def register_it(folder: Path) -> object:
    """In a process of its own, whose registry ends with it."""
    lines = [
        "import weighbridge as wb",
        "wb.register('qwen3_meo', [wb.WeightRenaming('gamma', 'weight')])",
        f"wb.plan({str(folder / 'model')!r}, 'qwen3_meo')",
    ]
    environment = os.environ | {"PYTHONPATH": PACKAGES}
    return subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, timeout=60, env=environment)


@follows("mapping-not-found", "give a mapping file, such as path.yaml")
def give_a_file(folder: Path) -> object:
    return wb.plan(folder / "model", mapping_file(folder, NORMS))


@follows("mapping-not-found", "weighbridge mapping list prints all names")
def list_the_names(folder: Path) -> object:
    names = [line.split()[0] for line in command("mapping", "list").splitlines() if line.strip()]
    assert "qwen3_moe" in names
    return wb.plan(folder / "model", "qwen3_moe")


@follows("mapping-exists", "choose another name")
def register_it_elsewhere(folder: Path) -> object:
    registry = wb.Registry()
    registry.register("mine", NORMS)
    return registry.register("mine too", OTHER)


@follows("mapping-exists", "pass overwrite=True to replace what is there")
def overwrite_it(folder: Path) -> object:
    registry = wb.Registry()
    registry.register("mine", NORMS)
    return registry.register("mine", OTHER, overwrite=True)


# Plans


def shows_rule_and_names(said: str) -> str:
    assert "rule 1  WeightRenaming(gamma -> weight)" in said
    assert "nearest  " in said
    assert "second.gamma" in said
    return said


@follows("plan-failed", "weighbridge explain SOURCE MAPPING third.norm.weight --target TARGET")
def explain_it_by_the_command(folder: Path) -> object:
    target = saved(folder, "target", first__weight=(4,), third__norm__weight=(4,))
    rules = mapping_file(folder, NORMS)
    call = ("explain", folder / "model", rules, "third.norm.weight", "--target", target)
    return shows_rule_and_names(command(*call, status=3))  # the plan still fails


@follows(
    "plan-failed",
    "(in Python: plan(..., partial=True).explain('third.norm.weight')), which shows every rule and the nearest names",
)
def explain_it_in_python(folder: Path) -> object:
    target = header(first__weight=(4,), third__norm__weight=(4,))
    explained = wb.plan(folder / "model", NORMS, target=target, partial=True).explain("third.norm.weight")
    return shows_rule_and_names(str(explained))


OVERLAPPING = header(layers__0__q__weight=(3, 2))


@follows("plan-format", "make the plan anew from its checkpoint and mapping")
def plan_and_store_it(folder: Path) -> object:
    return wb.Plan.from_json(wb.plan(checkpoint(folder), NORMS).to_json())


@follows("rule-overlap", "make one of the two patterns narrower")
def narrow_one(folder: Path) -> object:
    names = (("^q.weight", "q"), ("layers.{i}.q.weight", "layers.{i}.q"))
    return wb.plan(OVERLAPPING, [wb.WeightConverter(*pair, [wb.Transpose(0, 1)]) for pair in names])


@follows("rule-overlap", "give one a scope")
def scope_one(folder: Path) -> object:
    rules = [
        wb.WeightConverter("q.weight", "q", [wb.Transpose(0, 1)], scope="tower"),
        wb.WeightConverter("layers.{i}.q.weight", "layers.{i}.q", [wb.Transpose(0, 1)]),
    ]
    return wb.plan(OVERLAPPING, rules)


COLLIDING = header(k__weight=(2, 2), l__weight=(2, 2))


@follows("target-collision", "narrow one of the rules")
def narrow_the_rename(folder: Path) -> object:
    return wb.plan(COLLIDING, [wb.WeightRenaming("m.k.weight", "l.weight")])


@follows("target-collision", "declare which source to drop")
def drop_the_other(folder: Path) -> object:
    return wb.plan(COLLIDING, [wb.WeightRenaming("k.weight", "l.weight")], drop=["^l.weight$"])


@follows("target-collision", "say by MergeEqual that they are equal")
def merge_them(folder: Path) -> object:
    return wb.plan(COLLIDING, [wb.WeightConverter(["k.weight", "l.weight"], "l.weight", [wb.MergeEqual()])])


WITH_A_BIAS = header(first__weight=(4,), second__weight=(4,), second__bias=(4,))


@follows("target-missing", "declare what may be missing: initialise=[...]")
def initialise_it(folder: Path) -> object:
    return wb.plan(folder / "model", NORMS, target=WITH_A_BIAS, initialise=["second.bias"])


@follows("target-missing", "partial=True")
def load_it_in_part(folder: Path) -> object:
    return wb.plan(folder / "model", NORMS, target=WITH_A_BIAS, partial=True)


@follows("target-missing", "(--initialise, --partial)")
def say_so_in_the_command(folder: Path) -> object:
    target = saved(folder, "target", first__weight=(4,), second__weight=(4,), second__bias=(4,))
    call = ("plan", folder / "model", mapping_file(folder, NORMS), "--target", target)
    return command(*call, "--initialise", "second.bias") + command(*call, "--partial")


BOTH_NORMS = header(first__weight=(4,), second__weight=(4,))


@follows("source-unplaced", "declare what may be left over: carry=[...] or drop=[...]")
def carry_or_drop_it(folder: Path) -> object:
    plans = {"carry": {"carry": ["rotary.gamma"]}, "drop": {"drop": ["rotary.gamma"]}}
    return [wb.plan(folder / "model", NORMS, target=BOTH_NORMS, **options) for options in plans.values()]


@follows("source-unplaced", "partial=True")
def leave_it_over(folder: Path) -> object:
    return wb.plan(folder / "model", NORMS, target=BOTH_NORMS, partial=True)


@follows("source-unplaced", "(--carry, --drop, --partial)")
def leave_it_over_in_the_command(folder: Path) -> object:
    target = saved(folder, "target", first__weight=(4,), second__weight=(4,))
    call = ("plan", folder / "model", mapping_file(folder, NORMS), "--target", target)
    return [command(*call, *more) for more in (["--carry", "rotary.gamma"], ["--drop", "rotary.gamma"], ["--partial"])]


STACKED = header(experts__up=(4, 2, 3))


def experts(*indices: Any) -> wb.Header:
    return header(**{f"experts__{i}__up__weight": (2, 3) for i in indices})


@follows("group-incomplete", "check the pattern")
def mend_the_pattern(folder: Path) -> object:
    """The last expert has another name, which the pattern should have covered."""
    source = wb.Header({**experts(0, 1, 3).specs, "experts.2.upp.weight": wb.TensorSpec("F32", (2, 3))})
    rules = [wb.WeightConverter("experts.*.(?:up|upp).weight", "experts.up", [wb.MergeModulelist(0)])]
    return wb.plan(source, rules, target=STACKED)


@follows("group-incomplete", "that all shards of the checkpoint are present")
def bring_the_shard(folder: Path) -> object:
    return wb.plan(experts(0, 1, 2, 3), EXPERTS, target=STACKED)


@follows("group-incomplete", "declare the load partial")
def load_the_group_in_part(folder: Path) -> object:
    target = wb.Header({**STACKED.specs, "norm": wb.TensorSpec("F32", (2,))})
    source = wb.Header({**experts(0, 1, 3).specs, "norm": wb.TensorSpec("F32", (2,))})
    return wb.plan(source, EXPERTS, target=target, partial=True)


SAME_SIZE = "compare the checkpoint's config.json with the model's: one of the two is of another size"


@follows("group-extra", SAME_SIZE)
def take_five_experts(folder: Path) -> object:
    return wb.plan(experts(*range(5)), EXPERTS, target=header(experts__up=(5, 2, 3)))


@follows("group-duplicate", "make the pattern narrower")
def match_one_spelling(folder: Path) -> object:
    rules = [wb.WeightConverter("experts.(?!0[0-9])*.up.weight", "experts.up", [wb.MergeModulelist(0)])]
    return wb.plan(experts("0", "1", "01"), rules)


@follows("group-duplicate", "declare which source to drop")
def drop_one_spelling(folder: Path) -> object:
    return wb.plan(experts("0", "1", "01"), EXPERTS, drop=[r"^experts\.01\."])


PADDED = header(layer_02__w=(3,))


@follows("index-out-of-range", r"guard the pattern against such an index, as in (?!0\d){i:int}")
def guard_the_index(folder: Path) -> object:
    return wb.plan(PADDED, [wb.WeightRenaming(r"layer_(?!0\d){i:int}", "layers.{i+1}")])


@follows("index-out-of-range", "give the key a rule of its own")
def give_it_its_own_rule(folder: Path) -> object:
    own = [wb.WeightRenaming("layer_02", "layers.3"), wb.WeightRenaming(r"layer_(?!0\d){i:int}", "layers.{i+1}")]
    plan = wb.plan(PADDED, own)
    assert list(plan.target) == ["layers.3.w"]
    return plan


@follows("spec-mismatch", SAME_SIZE)
def take_the_model_of_this_size(folder: Path) -> object:
    return wb.plan(folder / "model", NORMS, target=BOTH_NORMS)


@follows("dtype-mismatch", "put a Cast before the operation that joins them")
def cast_before_joining(folder: Path) -> object:
    rules = [wb.WeightConverter("experts.*.up.weight", "experts.up", [wb.Cast("F32"), wb.MergeModulelist(0)])]
    halves = {f"experts.{i}.up.weight": numbers(2).to(t) for i, t in enumerate((torch.half, torch.float))}
    return wb.plan(halves, rules).state_dict()


CODED = wb.Header({"q.weight": wb.TensorSpec("F8_E4M3", (4, 4)), "q.weight_scale_inv": wb.TensorSpec("F32", (1, 1))})


@follows("companion-unknown", "give the configuration that says how they are stored: config (--config)")
def say_how_it_is_stored(folder: Path) -> object:
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [4, 4]}}
    return wb.plan(CODED, [wb.WeightConverter("q.weight", "t.weight", [wb.Transpose(0, 1)])], config=config)


@follows("companion-unknown", "rename the whole module")
def rename_the_module(folder: Path) -> object:
    return wb.plan(CODED, [wb.WeightRenaming("^q", "query")])


@follows("companion-unknown", "give its scales a rule with the same operations")
def turn_the_scales_as_well(folder: Path) -> object:
    names = ("q.weight", "q.weight_scale_inv")
    return wb.plan(CODED, [wb.WeightConverter(name, f"t.{name}", [wb.Transpose(0, 1)]) for name in names])


AS_NUMBERS = 'read the weights as numbers: dtype="bfloat16" (--dtype bfloat16)'


@follows(
    "companion-unknown",
    "read the weights as numbers,\nwhich takes the configuration as well: " + AS_NUMBERS.partition(": ")[2],
)
def read_numbers_by_a_configuration(folder: Path) -> object:
    codes = {"q.weight": numbers(4, 4).to(torch.float8_e4m3fn), "q.weight_scale_inv": torch.ones(1, 1)}
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [4, 4]}}
    cast = wb.WeightConverter("q.weight", "q.weight", [wb.Cast("BF16")])
    return wb.plan(codes, [cast], dtype="bfloat16", config=config).state_dict()


def tensors(specs: dict[str, wb.TensorSpec]) -> dict[str, torch.Tensor]:
    """Quantised weights whose codes and scales are all zero."""
    dtypes = {"F8_E4M3": torch.float8_e4m3fn, "F32": torch.float32, "U8": torch.uint8}
    return {key: torch.zeros(spec.shape).to(dtypes[spec.dtype]) for key, spec in specs.items()}


NARROWER = wb.WeightConverter(["q.weight"], "qk.weight", [wb.Concatenate(0)])


@follows("companion-missing", "narrow the rule to other weights")
def join_what_has_scales(folder: Path) -> object:
    specs, config = quantised((4, 2))
    return wb.plan(wb.Header(specs | {"k.weight": wb.TensorSpec("BF16", (2, 4))}), [NARROWER], config=config)


@follows("companion-missing", "pass these through as they are: carry (--carry)")
def carry_both(folder: Path) -> object:
    specs, config = quantised((4, 2))
    plain = specs | {"k.weight": wb.TensorSpec("U8", (2, 4))}
    del plain["k.weight_scale_inv"]
    return wb.plan(wb.Header(plain), [BOTH], carry=["q.{rest:**}", "k.{rest:**}"], config=config)


@follows("companion-missing", AS_NUMBERS)
def join_numbers(folder: Path) -> object:
    specs, config = quantised((4, 2))
    plain = tensors({key: spec for key, spec in specs.items() if not key.startswith("k")})
    return wb.plan(plain | {"k.weight": numbers(2, 4)}, [BOTH], dtype="bfloat16", config=config).state_dict()


@follows("companion-misaligned", AS_NUMBERS)
def join_numbers_behind_a_block(folder: Path) -> object:
    specs, config = quantised((3, 2))
    return wb.plan(tensors(specs), [BOTH], dtype="bfloat16", config=config).state_dict()


@follows("companion-misaligned", 'make blocks finer in the whole checkpoint: companions="refine" (--refine)')
def make_blocks_finer(folder: Path) -> object:
    specs, config = quantised((3, 2))
    return wb.plan(tensors(specs), [BOTH], companions="refine", config=config).state_dict()


@follows("companion-misaligned", "narrow the rule to other weights")
def join_whole_blocks(folder: Path) -> object:
    specs, config = quantised((3, 2))
    return wb.plan(wb.Header(specs), [NARROWER], config=config)


@follows("companion-misaligned", "pass these through as they are: carry (--carry)")
def carry_what_is_not_whole(folder: Path) -> object:
    specs, config = quantised((3, 2))
    return wb.plan(wb.Header(specs), [BOTH], carry=["q.{rest:**}", "k.{rest:**}"], config=config)


TURNED = wb.WeightConverter("q", "q", [wb.Transpose(0, 1)])
PACKED = wb.Header({"q_blocks": wb.TensorSpec("U8", (4, 2, 16)), "q_scales": wb.TensorSpec("U8", (4, 2))})


@follows("companion-fixed", "narrow the rule to other weights")
def turn_nothing_packed(folder: Path) -> object:
    specs, config = PACKED.specs | {"p": wb.TensorSpec("F32", (2, 3))}, {"quant_method": "mxfp4"}
    rule = wb.WeightConverter("p", "p", [wb.Transpose(0, 1)])
    return wb.plan(wb.Header(specs), [rule], config={"quantization_config": config})


@follows("companion-fixed", "pass these through as they are: carry (--carry)")
def carry_packed_codes(folder: Path) -> object:
    config = {"quantization_config": {"quant_method": "mxfp4"}}
    return wb.plan(PACKED, [TURNED], carry=["^q", "^q_blocks", "^q_scales"], config=config)


@follows("companion-fixed", AS_NUMBERS)
def turn_numbers(folder: Path) -> object:
    config = {"quantization_config": {"quant_method": "mxfp4"}}
    rule = wb.WeightConverter("^q", "q", [wb.Transpose(0, 1)])
    return wb.plan(tensors(dict(PACKED.specs)), [rule], dtype="bfloat16", config=config).state_dict()


@follows("companion-differs", AS_NUMBERS.replace(":", ", by their configuration:"))
def join_numbers_of_two_scales(folder: Path) -> object:
    return wb.plan(DIFFERING, [BOTH], dtype="bfloat16", config=ONE_SCALE).state_dict()


@follows("companion-differs", "narrow the rule to other weights")
def join_one_weight(folder: Path) -> object:
    return wb.plan(DIFFERING, [NARROWER], config=ONE_SCALE).state_dict()


@follows("companion-differs", "quantise these with one scale")
def give_both_one_scale(folder: Path) -> object:
    alike = DIFFERING | {f"{name}.weight_scale": torch.tensor(0.5) for name in "qk"}
    return wb.plan(alike, [BOTH], config=ONE_SCALE).state_dict()


@follows("scheme-ambiguous", "correct the configuration")
def name_the_module_exactly(folder: Path) -> object:
    source, config = int8("q", "Linear")
    return wb.plan(source, [HALVES], config=config)


@follows("scheme-ambiguous", "narrow the rule to other weights")
def cut_nothing(folder: Path) -> object:
    source, config = int8("re:q.*", "Linear")
    return wb.plan(source, [], config=config)


@follows("scheme-conflict", "correct the configuration")
def say_the_block_that_there_is(folder: Path) -> object:
    specs, config = quantised((4, 2))
    return wb.plan(wb.Header(specs), [BOTH], config=config)


@follows("scheme-conflict", "narrow the rule to other weights")
def join_nothing(folder: Path) -> object:
    specs, config = quantised((4, 2), block=4)
    return wb.plan(wb.Header(specs), [], config=config)


@follows(
    "cast-overflow", 'keep the tensor in a dtype of a wider range: dtype={"**": ..., KEY: "BF16"} (--dtype KEY=BF16)'
)
def ask_for_a_wider_dtype(folder: Path) -> object:
    source = {"a.weight": torch.tensor([1e30, 1.0]), "b.weight": torch.tensor([2.0])}
    return wb.plan(source, [], dtype={"**": "F16", "a.weight": "BF16"}).state_dict()


@follows("cast-overflow", "declare that such values may become infinite: allow_overflow=True (--allow-overflow)")
def declare_infinities(folder: Path) -> object:
    return wb.plan({"a.weight": torch.tensor([1e30, 1.0])}, [], dtype="F16", allow_overflow=True).state_dict()


@follows("names-mixed", "correct the configuration")
def name_both_parts(folder: Path) -> object:
    said = {"quant_method": "compressed-tensors", "ignore": ["q", "k"]}
    (folder / "named" / "config.json").write_text(json.dumps({"quantization_config": said}))
    return wb.convert(folder / "named", folder / "out", [BOTH])


@follows("names-mixed", "leave its names as they are: config_names=False (--no-config-names)")
@follows("names-unmapped", "leave its names as they are: config_names=False (--no-config-names)")
def leave_the_names(folder: Path) -> object:
    return wb.convert(folder / "named", folder / "out", [BOTH], config_names=False)


@follows("names-unmapped", "correct the configuration")
def name_what_is_there(folder: Path) -> object:
    return name_both_parts(folder)


@follows("adapter-invalid", "take the adapter_config.json that was saved with these tensors")
def take_its_own_configuration(folder: Path) -> object:
    return wb.convert(adapter(folder), folder / "out", FUSED, block_diagonal=True)


@follows("adapter-module", "give the model that the adapter was trained on: base=... (--base)")
def give_the_model(folder: Path) -> object:
    return wb.convert(folder / "kohya.safetensors", folder / "out", MOVED, base=header(mlp__gate__weight=(4, 3)))


@follows("adapter-packing", 'declare it: lora_B_layout="rank_major" as of PEFT')
def declare_the_packing_of_peft(folder: Path) -> object:
    return wb.plan(folder / "experts", MOVED, base=EXPERT_BASE, lora_B_layout="rank_major")


@follows("adapter-packing", '"grouped_by_expert" as of earlier versions of Unsloth')
def declare_the_other_packing(folder: Path) -> object:
    return wb.plan(folder / "experts", MOVED, base=EXPERT_BASE, lora_B_layout="grouped_by_expert")


@follows("layout-ambiguous", 'declare the layout: layout="mapped" or layout="as is"')
def declare_the_layout(folder: Path) -> object:
    rules = wb.Mapping([wb.GroupWeightRename(["up", "gate"], ["gate", "up"])], name="mine")
    both = header(up=(2, 2), gate=(2, 2))
    return [wb.plan(both, rules, target=both, layout=layout) for layout in ("mapped", "as is")]


TURNED = wb.Mapping([wb.WeightConverter("first.gamma", "first.gamma", [wb.Permute((0,))])], name="turned")


@follows("already-converted", "weighbridge revert takes it back")
def take_it_back(folder: Path) -> object:
    return command("revert", folder / "made", folder / "back")


@follows("already-converted", 'layout="as is" takes it as it is')
def take_it_as_it_is(folder: Path) -> object:
    return wb.convert(folder / "made", folder / "again", TURNED, layout="as is")


@follows("already-converted", 'layout="mapped" runs the rules again')
def run_the_rules_again(folder: Path) -> object:
    return wb.convert(folder / "made", folder / "again", TURNED, layout="mapped")


@follows("rule-unused", "correct the pattern")
def spell_it_right(folder: Path) -> object:
    return wb.plan(folder / "model", NORMS, drop=["first.gamma"])


@follows("rule-unused", "leave the rule out")
def leave_it_out(folder: Path) -> object:
    return wb.plan(folder / "model", NORMS)


@follows("inverse-lossy", "pass lossy=True")
def accept_the_loss(folder: Path) -> object:
    return wb.plan(folder / "model", NORMS, dtype="BF16", drop=["second.gamma"]).inverse(lossy=True)


@follows("inverse-lossy", "(revert --lossy) to go back without what is lost")
def accept_the_loss_in_the_command(folder: Path) -> object:
    wb.convert(folder / "model", folder / "out", NORMS, dtype="BF16", drop=["second.gamma"])
    return command("revert", "--lossy", folder / "out", folder / "back")


@follows("inverse-unproven", "go back through the inverse of the plan that made the source: plan.inverse()")
def go_back_by_the_plan(folder: Path) -> object:
    return wb.plan(header(first__gamma=(4,)), NORMS).inverse()


@follows("inverse-unproven", "weighbridge revert")
def go_back_by_the_receipt(folder: Path) -> object:
    wb.convert(checkpoint(folder), folder / "out", NORMS)
    return command("revert", folder / "out", folder / "back")


@follows("source-unbound", "give the source: plan.write(out, source=...), with a path, a state dict or a model")
def give_the_source(folder: Path) -> object:
    path = folder / "model"
    plan = wb.Plan.from_json(wb.plan(path, NORMS).to_json())
    model = torch.nn.ModuleDict({name: torch.nn.Module() for name in ("first", "second")})
    for name in model:
        model[name].register_parameter("gamma", torch.nn.Parameter(numbers(4)))
    sources = {"path": path, "dict": wb.plan(path, []).state_dict(), "model": model}
    return [plan.write(folder / name, source=source) for name, source in sources.items()]


UNLIKE = {"embed.weight": numbers(2, 3), "head.weight": numbers(2, 3) + 1}


def embedding() -> torch.nn.ModuleDict:
    return torch.nn.ModuleDict({name: torch.nn.Linear(3, 2, bias=False) for name in ("embed", "head")})


@follows("tie-differs", "drop what is not meant, such as drop=['^head.weight$']")
def drop_the_head(folder: Path) -> object:
    model = embedding()
    model["head"].weight = model["embed"].weight
    return wb.load(model, UNLIKE, [], drop=["^head.weight$"])


@follows("tie-differs", "(--drop)")
def drop_the_head_in_the_command(folder: Path) -> object:
    (folder / "model").mkdir()
    save_file(UNLIKE, folder / "model" / "model.safetensors")
    target = wb.Header(dict.fromkeys(UNLIKE, wb.TensorSpec("F32", (2, 3))), ties=dict.fromkeys(UNLIKE, "embed.weight"))
    from weighbridge.storage.formats.inventory import inventory_text

    (folder / "target.json").write_text(inventory_text(target))
    rules = mapping_file(folder, wb.Mapping([wb.WeightRenaming("gamma", "weight")], name="none"))
    call = ("convert", folder / "model", folder / "out", rules, "--target", folder / "target.json")
    return command(*call, "--drop", "^head.weight$")


@follows("tie-differs", "untie the model")
def untie_them(folder: Path) -> object:
    return wb.load(embedding(), UNLIKE, [])


@follows("sources-differ", "give each a target of its own")
def keep_both(folder: Path) -> object:
    return wb.plan(UNLIKE, [wb.WeightRenaming("embed.weight", "embed.table")]).state_dict()


@follows("sources-differ", "rename the one that is meant and drop the others")
def keep_one(folder: Path) -> object:
    return wb.plan(UNLIKE, [wb.WeightRenaming("embed.weight", "table.weight")], drop=["^head.weight$"]).state_dict()


ROWS_OF_ONES = {"embed.weight": torch.cat([numbers(5, 3), torch.ones(3, 3)])}


@follows("padding-differs", "declare the value that stands there: Trim(..., value=...)")
def declare_ones(folder: Path) -> object:
    rule = wb.WeightConverter("embed.weight", "embed.weight", [wb.Trim(0, 5, value=1)])
    return wb.plan(ROWS_OF_ONES, [rule]).state_dict()


@follows("padding-differs", "keep the tensor as long as it is")
def keep_all_rows(folder: Path) -> object:
    return wb.plan(ROWS_OF_ONES, []).state_dict()


@follows("parts-unclear", "load the model before it is sharded this way")
def load_before(folder: Path) -> object:
    from torch.distributed.tensor import DTensor, Partial

    model = torch.nn.Linear(3, 8, bias=False)
    wb.load(model, {"weight": numbers(8, 3)}, [])
    with one_process() as mesh:
        model.weight = torch.nn.Parameter(DTensor.from_local(model.weight.detach(), mesh, [Partial()]))
    return model


@follows("parts-unclear", "or give what .full_tensor() returns")
def give_the_full_tensor(folder: Path) -> object:
    from torch.distributed.tensor import DTensor, Partial

    model = torch.nn.Linear(3, 8, bias=False)
    with one_process() as mesh:
        summands = DTensor.from_local(numbers(8, 3), mesh, [Partial()])
        model.weight = torch.nn.Parameter(summands.full_tensor())
    return wb.load(model, {"weight": numbers(8, 3)}, [])


SPREAD = {"up.weight": numbers(8, 3), "norm.weight": numbers(3)}
ROWS = {"up.weight": wb.Part((8, 3), (((0, 4),), ((0, 3),)))}


@follows("parts-mismatch", "take the parts of all tensors of this plan")
def take_the_parts_of_all(folder: Path) -> object:
    return wb.plan(SPREAD, []).cut(ROWS | {"norm.weight": wb.Part.whole((3,))})


@follows("parts-mismatch", "restrict it to those that are held: plan.restrict(keys)")
def restrict_to_what_is_held(folder: Path) -> object:
    return wb.plan(SPREAD, []).restrict(list(ROWS)).cut(ROWS)


TALL = {"old": numbers(8, 3)}


@follows("budget-too-small", "raise memory_budget=")
def raise_the_budget(folder: Path) -> object:
    plan = wb.plan(TALL, [wb.WeightConverter("old", "new", [wb.Transpose(0, 1)])])
    return plan.write(folder / "out", memory_budget=1000)


@follows("budget-too-small", "(--memory)")
def raise_the_budget_in_the_command(folder: Path) -> object:
    path = saved(folder, "model", old=(8, 3))
    rules = wb.Mapping([wb.WeightConverter("old", "new", [wb.Transpose(0, 1)])], name="mine")
    return command("convert", path, folder / "out", mapping_file(folder, rules), "--memory", "1KB")


# Sources


@follows("checkpoint-ambiguous", "open the file or the index that is meant")
def open_the_one_that_is_meant(folder: Path) -> object:
    return wb.open(folder / "old-00001-of-00001.safetensors")


@follows(
    "checkpoint-partial",
    "open the directory that holds the files of all ranks, under the names that torch.distributed.checkpoint gave them",
)
def open_the_files_of_all_ranks(folder: Path) -> object:
    path = folder / "shard-00001-model-00001-of-00001.safetensors"
    save_file({"a.weight": numbers(2, 3)}, path, {"DCP_SHARDING_INFO": '{"a.weight": {"saved_offsets": [0, 0]}}'})
    return wb.open(folder)


@follows("dcp-unsafe", "convert it with the program that wrote it, and")
@follows("dcp-unsupported", "write it without extensions")
@follows("dcp-invalid", "check that the files of all ranks are there, and of one save alone")
def save_it_again(folder: Path) -> object:
    return wb.open(write_dcp(folder, {"a.weight": numbers(5, 3)}))


@follows("file-truncated", "fetch or copy the file again")
def copy_it_again(folder: Path) -> object:
    path = folder / "model" / "model.safetensors"
    save_file({"first.gamma": numbers(4)}, path)
    return wb.open(path)


@follows("header-too-large", "the download was answered with a page instead of the file: fetch it again")
def fetch_it_again(folder: Path) -> object:
    save_file({"first.gamma": numbers(4)}, folder / "model.safetensors")
    return wb.open(folder / "model.safetensors")


@follows("name-too-long", "rename the tensor where it was written")
def give_it_a_short_name(folder: Path) -> object:
    return wb.open(raw_file(folder, f"{{{entry('once')}}}", bytes(8)))


@follows("tensor-unsupported", "give its .to_dense()")
def make_it_dense(folder: Path) -> object:
    return wb.open({"a.weight": numbers(3, 3).to_sparse().to_dense()})


@follows("index-invalid", "fetch the index again")
def fetch_the_index_again(folder: Path) -> object:
    (folder / "again").mkdir()
    return wb.open(sharded(folder / "again"))


@follows("index-invalid", "without it, a complete set of shards opens as well")
def do_without_the_index(folder: Path) -> object:
    (folder / "model" / "model.safetensors.index.json").unlink()
    return wb.open(folder / "model")


@follows("index-mismatch", "fetch the checkpoint again; a shard did not arrive")
def fetch_the_shard(folder: Path) -> object:
    save_file({"b.weight": numbers(2)}, folder / "model" / "model-00002-of-00002.safetensors")
    return wb.open(folder / "model")


@follows("pickle-unsafe", "convert it with the program that wrote it, and")
def save_the_tensors_alone(folder: Path) -> object:
    held = torch.load(folder / "model.bin", weights_only=False)
    torch.save({key: value for key, value in held.items() if isinstance(value, torch.Tensor)}, folder / "model.bin")
    return wb.open(folder / "model.bin")


@follows("pickle-invalid", "it only names the file: fetch the file itself with `git lfs pull`")
def pull_the_file(folder: Path) -> object:
    torch.save({"a.weight": numbers(2)}, folder / "model.bin")
    return wb.open(folder / "model.bin")


@follows("inventory-invalid", "give the weights or their directory")
def give_the_directory(folder: Path) -> object:
    path = checkpoint(folder)
    return [wb.open(path), wb.open(path / "model.safetensors")]


@follows("inventory-invalid", "what weighbridge inspect --inventory writes")
def give_the_inventory(folder: Path) -> object:
    command("inspect", checkpoint(folder), "--inventory", folder / "header.json")
    return wb.open(folder / "header.json")


@follows("data-missing", "open the checkpoint that this header was taken from")
def open_the_checkpoint_itself(folder: Path) -> object:
    return wb.plan(checkpoint(folder), NORMS).state_dict()


@follows("source-changed", "open the checkpoint again, and plan again")
def plan_again(folder: Path) -> object:
    return wb.plan(wb.open(folder / "model"), NORMS).state_dict()


@follows("receipt-invalid", "to go back, give the mapping: weighbridge convert --reverse SOURCE DESTINATION MAPPING")
def reverse_by_the_mapping(folder: Path) -> object:
    published = saved(folder, "runtime", first__weight=(4,), second__weight=(4,))
    # The names may have been the new ones already: it is written, and said by a status of its own.
    return command("convert", "--reverse", published, folder / "back", mapping_file(folder, NORMS), status=6)


@follows("receipt-invalid", "to compare, give the other checkpoint: weighbridge verify A B")
def compare_the_two(folder: Path) -> object:
    return command("verify", folder / "model", folder / "model")


@follows("digests-missing", "convert with digests: weighbridge convert --digests")
def convert_with_digests_in_the_command(folder: Path) -> object:
    command("convert", "--digests", folder / "model", folder / "with digests", mapping_file(folder, NORMS))
    return wb.verify(folder / "with digests")


@follows("digests-missing", "digests=True")
def convert_with_digests(folder: Path) -> object:
    return wb.verify(wb.convert(folder / "model", folder / "with digests", NORMS, digests=True))


@follows("digests-missing", "compare with another checkpoint: weighbridge verify A B")
def compare_with_another(folder: Path) -> object:
    return command("verify", folder / "out", folder / "out")


@follows("checkpoint-not-found", "take the nearest name, if that is what is meant")
def open_the_nearest(folder: Path) -> object:
    return wb.open(folder / "model")


ANEW = "fetch the file again, or write it anew with the library that made it"


@follows("header-invalid", ANEW)
@follows("header-duplicate-key", ANEW)
@follows("dtype-unknown", ANEW)
@follows("tensor-bounds", ANEW)
def write_it_anew(folder: Path) -> object:
    save_file({"a.weight": numbers(2), "b.weight": numbers(3)}, folder / "model.safetensors")
    return wb.open(folder / "model.safetensors")


@follows("tensor-not-found", "take one of these names")
def take_the_nearest(folder: Path) -> object:
    return wb.open(folder / "model").tensor("first.gamma")


@follows("tensor-not-found", "list(checkpoint.header) has all")
def list_all_names(folder: Path) -> object:
    opened = wb.open(folder / "model")
    return [opened.tensor(key) for key in list(opened.header)]


@follows("read-failed", "write what it gives into a file, and open that")
def write_it_into_a_file(folder: Path) -> object:
    save_file({"a.weight": numbers(2)}, folder / "given.safetensors")
    return wb.open(folder / "given.safetensors")


@follows("remote-denied", "log in (hf auth login), or set HF_TOKEN to a token that may read this repository")
def set_the_token(folder: Path) -> object:
    pytest.importorskip("obstore", reason="needs the extra `remote`")
    with served(folder / "again") as server:
        server.token = "SECRETTOKEN"
        return wb.open("hf://org/tiny")


@follows("remote-no-ranges", "fetch the file, and open it here")
def open_it_here(folder: Path) -> object:
    return wb.open(folder / "served" / "model-00001-of-00002.safetensors")


@follows("verify-failed", "weighbridge.diff(first, second) says how their tensors are related")
def ask_for_the_difference(folder: Path) -> object:
    found = wb.diff(folder / "model", {"first.gamma": numbers(4) + 1, "third.gamma": numbers(4)})
    assert "first.gamma" in str(found)
    return found


@follows("machine-unsupported", "names and shapes can be inspected and planned here")
def plan_on_another_machine(folder: Path) -> object:
    with mock.patch.object(machines, "byte_order", return_value="big"):
        return wb.plan(folder / "model", NORMS).report


# Destinations


@follows("destination-exists", "remove it")
def remove_the_output(folder: Path) -> object:
    subprocess.run(["rm", "-r", folder / "out"], check=True)
    return wb.convert(folder / "model", folder / "out", NORMS)


@follows("destination-exists", "choose another name; nothing is ever overwritten")
def choose_another_name(folder: Path) -> object:
    return wb.convert(folder / "model", folder / "another", NORMS)


@follows("destination-unsafe", "choose a directory beside the source")
def write_beside_the_source(folder: Path) -> object:
    return wb.convert(folder / "model", folder / "out", NORMS)


@follows("destination-no-room", "write to another disk")
def write_what_fits(folder: Path) -> object:
    """There is no disk for this tensor: a smaller one stands for the larger disk."""
    return wb.plan({"first.gamma": torch.zeros(1).expand(4)}, NORMS).write(folder / "out", max_shard_size=None)


@follows("destination-busy", "wait until it is done")
def wait_for_the_other(folder: Path) -> object:
    first = wb.convert(folder / "model", folder / "out", NORMS)
    subprocess.run(["rm", "-r", first], check=True)
    return wb.convert(folder / "model", folder / "out", NORMS)


@follows("destination-busy", "choose another name")
def write_somewhere_else(folder: Path) -> object:
    def another(done: int, total: int) -> None:
        if not (folder / "second").exists():
            wb.convert(folder / "model", folder / "second", NORMS)

    return wb.convert(folder / "model", folder / "out", NORMS, progress=another)


@follows("destination-unfinished", "go on with --resume")
def go_on_in_the_command(folder: Path) -> object:
    return command("convert", "--resume", folder / "model", folder / "out", mapping_file(folder, NORMS))


@follows("destination-unfinished", "(resume=True)")
def go_on(folder: Path) -> object:
    return wb.convert(folder / "model", folder / "out", NORMS, resume=True)


def remove_unfinished(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != "model":
            subprocess.run(["rm", "-r", path], check=True)


@follows("destination-unfinished", "remove this directory to start anew")
def start_anew(folder: Path) -> object:
    remove_unfinished(folder)
    return wb.convert(folder / "model", folder / "out", NORMS)


@follows("resume-mismatch", "repeat what was stopped with the same arguments")
def repeat_it(folder: Path) -> object:
    return wb.convert(folder / "model", folder / "out", NORMS, resume=True)


@follows("resume-mismatch", "remove the directory to start anew")
def start_the_other(folder: Path) -> object:
    remove_unfinished(folder)
    return wb.convert(folder / "model", folder / "out", OTHER, resume=True)


@follows("ranks-disagree", "run all parts with the same arguments")
def run_all_parts_alike(folder: Path) -> object:
    return wb.convert(folder / "model", folder / "out", NORMS, part=(1, 2))


@follows("ranks-disagree", "remove the directory to start anew with others")
def start_all_parts_anew(folder: Path) -> object:
    remove_unfinished(folder)
    return [wb.convert(folder / "model", folder / "out", OTHER, part=(number, 2)) for number in range(2)]


@follows("rank-missing", "call save on every rank")
def save_on_every_rank(folder: Path) -> object:
    model = torch.nn.Linear(3, 8, bias=False)
    with one_process() as mesh:
        torch.distributed.fsdp.fully_shard(model, mesh=mesh)
        return wb.save(model, folder / "out", layout="as is")


@follows("rank-missing", "or give the group of those that call it: group=...")
def save_by_a_group(folder: Path) -> object:
    from torch.distributed.tensor import DTensor, Replicate

    model = torch.nn.Linear(3, 8, bias=False)
    with of_two_processes() as mesh:
        copied = DTensor.from_local(model.weight.detach(), mesh, [Replicate()], run_check=False)
        model.weight = torch.nn.Parameter(copied)
        return wb.save(model, folder / "out", layout="as is", group=torch.distributed.new_group([0]))


@follows("write-failed", "choose a directory for it")
def choose_a_directory(folder: Path) -> object:
    return wb.convert(folder / "model", folder / "notes" / "out", NORMS)


@follows("model-mismatch", "make the plan anew, with this model as its target")
def plan_for_this_model(folder: Path) -> object:
    model = torch.nn.Linear(4, 2)
    return wb.plan({"weight": numbers(2, 4), "bias": numbers(2)}, [], target=model).load_into(model)


# Other libraries


@follows("integration-version", "give a mapping of your own")
def give_a_mapping(folder: Path) -> object:
    return wb.plan(checkpoint(folder), NORMS)


@follows("integration-version", "an empty list if the checkpoint has the model's own names")
def give_an_empty_list(folder: Path) -> object:
    return wb.plan(checkpoint(folder), [])


@follows("integration-unsupported", "leave it out: weights are loaded as they are, and quantised afterwards")
def quantise_afterwards(folder: Path) -> object:
    import transformers

    from weighbridge.integrations import transformers as wbt

    config = transformers.BertConfig(
        vocab_size=11, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=6
    )
    path = folder / "bert"
    transformers.BertModel(config).save_pretrained(path)
    loaded = wbt.from_pretrained(transformers.BertModel, path, mapping=[])
    return torch.ao.quantization.quantize_dynamic(loaded)


# Verification and commands


@follows("law-broken", "mend the rules")
def rename_both_at_once(folder: Path) -> object:
    rules = wb.Mapping([wb.GroupWeightRename(["a", "b"], ["b", "c"])], name="mine")
    return check_lint(rules, header(a__weight=(2,), b__weight=(2,)))


@follows("law-broken", 'a finding that is meant is allowed by its code: allow=["collide", "round-trip", "order"]')
def allow_the_findings(folder: Path) -> object:
    rules = wb.Mapping([wb.WeightRenaming("a", "b"), wb.WeightRenaming("b", "c")], name="mine")
    return check_lint(rules, header(a__weight=(2,), b__weight=(2,)), allow=["collide", "round-trip", "order"])
