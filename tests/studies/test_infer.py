"""Inferring a mapping from two checkpoints, and sketching one from two headers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from corpus import Case, case_names, some_of
from hypothesis import given, settings, strategies as st
from infer_table import judge
from safetensors.torch import save_file
from typer.testing import CliRunner

import weighbridge as wb
from weighbridge.base.specs import Header, TensorSpec
from weighbridge.cli.app import app
from weighbridge.mappings.mapping_files import load_mapping, read_mapping
from weighbridge.mappings.transforms import describe
from weighbridge.operations.ops import Operation
from weighbridge.studies.inference import Inferred, sketch_mapping
from weighbridge.studies.inference.by_value.fingerprints import sum_hashes
from weighbridge.studies.inference.by_value.movement_search import fit_movement, is_moved
from weighbridge.studies.inference.by_value.tiling import find_tiling
from weighbridge.studies.inference.likeness import pair_by_name

Tensors = dict[str, torch.Tensor]
Layouts = tuple[Tensors, Tensors]
LAYERS = 3


class Numbers:
    """A source of tensors that no two runs, and no two calls, make alike."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator)


def rotated(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Turn pairs of neighbours into two halves, head by head, by plain torch."""
    return weight.view(heads, -1, 2, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


# Two layouts of one model, each made by plain torch


def fused_attention(*, biases: bool = True, norm: float = 1.0) -> Layouts:
    """Query, key and value of unequal sizes, fused; every norm weight is the same."""
    new, a, b = Numbers(1), {}, {}
    for layer in range(LAYERS):
        for kind, rest in (("weight", (6,)), *([("bias", ())] if biases else [])):
            parts = [new(rows, *rest) for rows in (16, 4, 4)]
            a |= {f"model.layers.{layer}.self_attn.{n}_proj.{kind}": t for n, t in zip("qkv", parts, strict=True)}
            b[f"transformer.h.{layer}.attn.qkv.{kind}"] = torch.cat(parts)
        for old, now in (("input_norm", "ln_1"), ("output_norm", "ln_2")):
            values = torch.full((6,), norm)
            a[f"model.layers.{layer}.{old}.weight"] = b[f"transformer.h.{layer}.{now}.weight"] = values
    a["model.embed.weight"] = b["transformer.wte.weight"] = new(10, 6)
    return a, b


def zero_biases() -> Layouts:
    """Biases that are all zero: their values say nothing, the rule of the weights does."""
    a, b = fused_attention()
    return {key: torch.zeros_like(t) if key.endswith("bias") else t for key, t in a.items()}, {
        key: torch.zeros_like(t) if key.endswith("bias") else t for key, t in b.items()
    }


def rotary() -> Layouts:
    """Rotary projections with their own numbers of heads."""
    new, a, b = Numbers(2), {}, {}
    for layer in range(LAYERS):
        for name, heads in (("q", 8), ("k", 2)):
            a[f"layers.{layer}.attention.w{name}.weight"] = weight = new(heads * 8, 6)
            b[f"model.layers.{layer}.self_attn.{name}_proj.weight"] = rotated(weight, heads)
        values = new(16, 6)
        a[f"layers.{layer}.attention.wv.weight"] = b[f"model.layers.{layer}.self_attn.v_proj.weight"] = values
    return a, b


def rotary_in_place() -> Layouts:
    """Names and shapes stay: only the order of the rows tells the layouts apart."""
    new = Numbers(3)
    a = {f"layers.{layer}.{name}_proj.weight": new(32, 6) for layer in range(LAYERS) for name in "qv"}
    return a, {key: rotated(t, 4) if "q_proj" in key else t for key, t in a.items()}


def rotary_and_fused() -> Layouts:
    """Some of the joined parts are re-ordered, each by its own number of heads."""
    new, a, b = Numbers(4), {}, {}
    for layer in range(LAYERS):
        q, k, v = new(32, 6), new(16, 6), new(16, 6)
        a |= {f"model.layers.{layer}.attn.{n}_proj.weight": t for n, t in zip("qkv", (q, k, v), strict=True)}
        b[f"h.{layer}.attn.qkv.weight"] = torch.cat([rotated(q, 4), rotated(k, 2), v])
    return a, b


def experts() -> Layouts:
    """Experts stacked, gate and up joined: transposed, and alternating along the last axis."""
    new, a, b = Numbers(5), {}, {}
    for layer in range(LAYERS):
        gate, up, down = ([new(*shape) for _ in range(12)] for shape in ((5, 6), (5, 6), (6, 5)))
        for name, tensors in (("gate", gate), ("up", up), ("down", down)):
            a |= {f"m.layers.{layer}.mlp.experts.{e}.{name}_proj.weight": t for e, t in enumerate(tensors)}
        pairs = [torch.stack([g.T, u.T], -1).reshape(6, 10) for g, u in zip(gate, up, strict=True)]
        b[f"m.layers.{layer}.mlp.experts.gate_up_proj"] = torch.stack(pairs)
        b[f"m.layers.{layer}.mlp.experts.down_proj"] = torch.stack([t.T for t in down])
    return a, b


def interleaved_heads() -> Layouts:
    """One tensor with query, key and value of each head together, divided."""
    new, a, b = Numbers(6), {}, {}
    for layer in range(LAYERS):
        for kind, rest in (("weight", (6,)), ("bias", ())):
            parts = [new(16, *rest) for _ in range(3)]
            b |= {f"layers.{layer}.{name}.{kind}": t for name, t in zip("qkv", parts, strict=True)}
            heads = torch.stack([t.view(4, 4, *rest) for t in parts], 1)
            a[f"neox.layers.{layer}.attention.query_key_value.{kind}"] = heads.reshape(48, *rest)
    return a, b


def grouped_heads() -> Layouts:
    """The same with fewer keys and values than queries."""
    new, a, b = Numbers(7), {}, {}
    for layer in range(LAYERS):
        parts = [new(rows, 6) for rows in (32, 8, 8)]
        b |= {f"layers.{layer}.attn.{name}_proj.weight": t for name, t in zip("qkv", parts, strict=True)}
        a[f"layers.{layer}.attn.wqkv.weight"] = torch.cat([t.view(2, -1, 6) for t in parts], 1).reshape(-1, 6)
    return a, b


def stacked_layers() -> Layouts:
    """All layers in one tensor, transposed."""
    new = Numbers(8)
    a = {f"layers.{layer}.mlp.wi.weight": new(5, 4) for layer in range(6)} | {"emb.weight": new(7, 4)}
    stack = torch.stack([a[f"layers.{layer}.mlp.wi.weight"].T for layer in range(6)])
    return a, {"params.layers.mlp.wi": stack, "params.emb": a["emb.weight"]}


def convolutions() -> Layouts:
    """A kernel that becomes a matrix, one whose axes are permuted, and one that is reshaped."""
    new = Numbers(9)
    a = {"patch.proj.weight": new(8, 3, 2, 4, 4), "conv.weight": new(5, 3, 2, 4), "pos": new(1, 6, 7)}
    return a, {
        "patch.weight": a["patch.proj.weight"].reshape(8, -1),
        "conv.weight": a["conv.weight"].permute(2, 3, 1, 0).contiguous(),
        "pos": a["pos"].reshape(42),
    }


def exchanged_names() -> Layouts:
    """Two names that change places."""
    new, a, b = Numbers(10), {}, {}
    for layer in range(LAYERS):
        a[f"l.{layer}.gate.weight"] = b[f"l.{layer}.up.weight"] = new(5, 4)
        a[f"l.{layer}.up.weight"] = b[f"l.{layer}.gate.weight"] = new(5, 4)
    return a, b


def shifted_indices() -> Layouts:
    """Indices that are one higher, and a name that becomes an index."""
    new = Numbers(11)
    a = {f"blocks.{i}.w": new(5, 4) for i in range(12)} | {"stem.w": new(5, 4)}
    return a, {f"layers.{i + 1}.w": a[f"blocks.{i}.w"] for i in range(12)} | {"layers.0.w": a["stem.w"]}


def numbered_modules() -> Layouts:
    """Indices that become names; the layers have the same numbers."""
    new, a, b = Numbers(12), {}, {}
    for layer in range(LAYERS):
        for old, name, rows in ((0, "fc1", 5), (2, "fc2", 4)):
            a[f"l.{layer}.mlp.{old}.weight"] = b[f"l.{layer}.mlp.{name}.weight"] = new(rows, 9 - rows)
            a[f"l.{layer}.mlp.{old}.bias"] = b[f"l.{layer}.mlp.{name}.bias"] = torch.zeros(rows)
    return a, b


def blocks_in_place() -> Layouts:
    """Halves that change places, [K; Q; V] as [Q; K; V], and stripes of four ranks, each under its own name."""
    new, a, b = Numbers(13), {}, {}
    for layer in range(LAYERS):
        for kind, rest in (("weight", (6,)), ("bias", ())):
            ada, qkv, ranks = new(8, *rest), new(24, *rest), new(32, *rest)
            a[f"l.{layer}.ada.{kind}"], b[f"l.{layer}.ada.{kind}"] = ada, ada.roll(4, 0)
            k, q, v = qkv.split((5, 14, 5))
            a[f"l.{layer}.kqv.{kind}"], b[f"l.{layer}.kqv.{kind}"] = qkv, torch.cat([q, k, v])
            stripes = [rank.split((4, 2, 2)) for rank in ranks.chunk(4)]
            plain = [torch.cat([stripe[part] for stripe in stripes]) for part in range(3)]
            a[f"l.{layer}.ranks.{kind}"], b[f"l.{layer}.ranks.{kind}"] = ranks, torch.cat(plain)
    return a, b


def rotary_parts() -> Layouts:
    """Query and key of a fused tensor turned from pairs to halves, and rows in the middle of another that are not."""
    new, a, b = Numbers(14), {}, {}
    for layer in range(LAYERS):
        for kind, rest in (("weight", (6,)), ("bias", ())):
            qkv, mixed = new(40, *rest), new(30, *rest)
            heads = [torch.cat([head[0::2], head[1::2]]) for head in qkv[:32].chunk(4)]
            a[f"l.{layer}.qkv.{kind}"], b[f"l.{layer}.qkv.{kind}"] = qkv, torch.cat([*heads, qkv[32:]])
            first, last = (torch.cat([part[0::2], part[1::2]]) for part in (mixed[:10], mixed[20:]))
            a[f"l.{layer}.mixed.{kind}"] = mixed
            b[f"l.{layer}.mixed.{kind}"] = torch.cat([first, mixed[10:20], last])
    return a, b


def partial_rotary() -> Layouts:
    """Query and key of which the first rows of each head are turned from pairs to halves, or some in its middle."""
    new, a, b = Numbers(15), {}, {}
    for layer in range(LAYERS):
        for name, heads, size, start, stop in (("q", 5, 10, 0, 6), ("k", 2, 10, 0, 6), ("m", 4, 12, 2, 10)):
            for kind, rest in (("weight", (5,)), ("bias", ())):
                rows = new(heads * size, *rest)
                key = f"l.{layer}.{name}_proj.{kind}"
                a[key] = rows
                cut = [(head[:start], head[start:stop], head[stop:]) for head in rows.chunk(heads)]
                parts = [(first, turned[0::2], turned[1::2], last) for first, turned, last in cut]
                b[key] = torch.cat([part for head in parts for part in head])
    return a, b


def turned(layouts: Layouts) -> Layouts:
    return layouts[1], layouts[0]


def replicas() -> Layouts:
    """Four ranks, of which two have each head of a key, and all have the norm; a table that every layer has."""
    new = Numbers()
    table = new(8)
    a, b = dict[str, torch.Tensor](), {"table": table}
    for layer in range(LAYERS):
        key, query, norm = new(6, 4), new(12, 4), new(5)
        b |= {f"layers.{layer}.{name}.weight": t for name, t in (("k", key), ("q", query), ("norm", norm))}
        for rank in range(4):
            a[f"ranks.{rank}.layers.{layer}.k.weight"] = key.chunk(2)[rank // 2].clone()
            a[f"ranks.{rank}.layers.{layer}.q.weight"] = query.chunk(4)[rank].clone()
            a[f"ranks.{rank}.layers.{layer}.norm.weight"] = norm.clone()
        a[f"layers.{layer}.table"] = table.clone()
    return a, b


def untied() -> Layouts:
    new = Numbers()
    embed, other = new(9, 4), new(4, 4)
    one = {"wte.weight": embed, "l.w": other}
    return one, {"embed.weight": embed.clone(), "head.weight": embed.clone(), "l.w": other.clone()}


def padded_vocabulary() -> Layouts:
    """A vocabulary that a runtime pads to a multiple, and a bias of the lowest logits there is."""
    new = Numbers()
    embed, head, bias, other = new(11, 4), new(11, 4), new(11), new(4, 4)
    rows = torch.zeros(5, 4)
    one = {"wte.weight": embed, "head.weight": head, "head.bias": bias, "l.w": other}
    two = {"embed.weight": torch.cat([embed, rows]), "lm_head.weight": torch.cat([head, rows])}
    return one, two | {"lm_head.bias": torch.cat([bias, torch.full((5,), -torch.inf)]), "l.w": other.clone()}


def padded_and_turned() -> Layouts:
    """Rows that are put in behind matrices that the other layout stores the other way round."""
    new = Numbers()
    embed, head, other = new(11, 4), new(11, 4), new(4, 4)
    one = {"wte.weight": embed, "head.weight": head, "l.w": other}
    two = {
        "embed.kernel": torch.cat([embed, torch.zeros(5, 4)]).T.contiguous(),
        "lm_head.kernel": torch.cat([head, torch.full((5, 4), -torch.inf)]).T.contiguous(),
    }
    return one, two | {"l.w": other.clone()}


def absent_biases() -> Layouts:
    """Fused projections of which one has no bias: of the same sizes in one block, of others in another one."""
    new = Numbers()
    a, b = dict[str, torch.Tensor](), dict[str, torch.Tensor]()
    for layer in range(LAYERS):
        for block, sizes, absent in (("attn", (6, 6, 6), 1), ("cross", (8, 5, 5), 0)):
            weights, biases = [new(size, 4) for size in sizes], [new(size) for size in sizes]
            a |= {f"l.{layer}.{block}.{name}.weight": each for name, each in zip("qkv", weights, strict=True)}
            a |= {
                f"l.{layer}.{block}.{name}.bias": biases["qkv".index(name)] for name in "qkv".replace("qkv"[absent], "")
            }
            biases[absent] = torch.zeros(sizes[absent])
            b |= {f"h.{layer}.{block}.qkv.weight": torch.cat(weights), f"h.{layer}.{block}.qkv.bias": torch.cat(biases)}
    return a, b


def all_layers() -> Layouts:
    """All experts of all layers as one tensor, with an axis for each index, or with one for both."""
    new = Numbers()
    a, b = dict[str, torch.Tensor](), dict[str, torch.Tensor]()
    grid = [(layer, expert) for layer in range(LAYERS) for expert in range(4)]
    for name, shape in (("gate", (6, 5)), ("up", (6, 5)), ("down", (5, 7)), ("flat", (2, 3)), ("scale", (4,))):
        a |= {f"layers.{layer}.experts.{expert}.{name}": new(*shape) for layer, expert in grid}
    few = [(layer, expert) for layer, count in enumerate((2, 5, 3)) for expert in range(count)]
    a |= {f"layers.{layer}.few.{number}.w": new(3, 2) for layer, number in few}

    def whole(name: str) -> torch.Tensor:
        each = torch.stack([a[f"layers.{layer}.experts.{expert}.{name}"] for layer, expert in grid])
        return each.unflatten(0, (LAYERS, 4))

    b["moe.gate_up"] = torch.cat([whole("gate"), whole("up")], 2)
    b["moe.down"] = whole("down").transpose(2, 3).contiguous()
    b["moe.flat"], b["moe.scale"] = whole("flat").flatten(0, 1), whole("scale")
    b["few"] = torch.stack([a[f"layers.{layer}.few.{number}.w"] for layer, number in few])
    return a, b


RECOVERED: dict[str, tuple[Callable[[], Layouts], list[str]]] = {
    "fused attention": (
        fused_attention,
        ["(self_attn.q_proj, self_attn.k_proj, self_attn.v_proj -> attn.qkv) by Concatenate(sizes=[16, 4, 4])"],
    ),
    "divided attention": (lambda: turned(fused_attention()), ["by Split(sizes=[16, 4, 4])"]),
    "zero biases": (zero_biases, ["-> attn.qkv) by Concatenate("]),
    "rotary": (rotary, ["by PermuteForRope(num_heads=8)", "by PermuteForRope(num_heads=2)"]),
    "rotary, back": (
        lambda: turned(rotary()),
        ["by PermuteForRope(inverse=True, num_heads=8)", "by PermuteForRope(inverse=True, num_heads=2)"],
    ),
    "rotary in place": (rotary_in_place, ["layers.*.q_proj -> layers.*.q_proj) by PermuteForRope(num_heads=4)"]),
    "rotary and fused": (rotary_and_fused, ["PermuteForRope(permute_layer_names=['k_proj'], num_heads=2), Conc"]),
    "rotary and divided": (lambda: turned(rotary_and_fused()), ["by Split(sizes=[32, 16, 16]), PermuteForRope("]),
    "experts": (
        experts,
        [
            "experts.*.gate_proj.weight, experts.*.up_proj.weight -> experts.gate_up_proj) by Transpose",
            "experts.*.down_proj.weight -> experts.down_proj) by Transpose",
        ],
    ),
    "experts, back": (lambda: turned(experts()), ["SplitModulelist(), Transpose", "SplitModulelist(), Transpose"]),
    "interleaved heads": (interleaved_heads, ["'(g p d) ... -> (p g d) ...'"]),
    "interleaved heads, back": (lambda: turned(interleaved_heads()), ["'(p g d) ... -> (g p d) ...'"]),
    "grouped heads": (grouped_heads, ["Split(dim=1, sizes=[16, 4, 4])"]),
    "grouped heads, back": (lambda: turned(grouped_heads()), ["Concatenate(dim=1, sizes=[16, 4, 4])"]),
    "stacked layers": (stacked_layers, ["layers.*.mlp.wi.weight -> params.layers.mlp.wi) by Transpose"]),
    "stacked layers, back": (lambda: turned(stacked_layers()), ["by SplitModulelist(), Transpose"]),
    "convolutions": (
        convolutions,
        ["by Conv3dToLinear(in_channels=3, kernel_size=[2, 4, 4])", "by Permute(dims=[2, 3, 1, 0])", "by Reshape("],
    ),
    "blocks": (
        blocks_in_place,
        [
            "l.*.ada -> l.*.ada) by Reorder(order=[1, 0])",
            "l.*.kqv -> l.*.kqv) by Reorder(order=[1, 0, 2], sizes=[5, 14, 5])",
            "l.*.ranks -> l.*.ranks) by Reorder(order=[0, 1, 2], sizes=[16, 8, 8], source_stripes=4)",
        ],
    ),
    "blocks, back": (
        lambda: turned(blocks_in_place()),
        ["by Reorder(order=[1, 0])", "order=[1, 0, 2], sizes=[14, 5, 5])", "sizes=[16, 8, 8], target_stripes=4)"],
    ),
    "replicas": (
        replicas,
        [
            "by MergeEqual(times=2), Concatenate()",
            "by MergeEqual(times=4)",
            "by MergeEqual(times=3)",
            "by Concatenate()",
        ],
    ),
    "replicas, back": (
        lambda: turned(replicas()),
        ["by Chunk(), Repeat(times=2)", "by Repeat(times=4)", "by Repeat(times=3)", "by Chunk()"],
    ),
    "untied": (untied, ["wte -> embed, head) by Repeat()"]),
    "tied again": (lambda: turned(untied()), ["embed, head -> wte) by MergeEqual()"]),
    "padded vocabulary": (
        padded_vocabulary,
        [
            "wte -> embed) by Pad(size=16, source_size=11)",
            "by Pad(size=16, value='-inf', source_size=11)",
            "lm_head.weight)",
        ],
    ),
    "padded vocabulary, back": (
        lambda: turned(padded_vocabulary()),
        [
            "embed -> wte) by Trim(size=11, source_size=16)",
            "by Trim(size=11, value='-inf', source_size=16)",
            "-> head.weight)",
        ],
    ),
    "padded and turned": (
        padded_and_turned,
        [
            "wte.weight -> embed.kernel) by Transpose(dim1=1), Pad(dim=1, size=16, source_size=11)",
            "by Transpose(dim1=1), Pad(dim=1, size=16, value='-inf', source_size=11)",
        ],
    ),
    "padded and turned, back": (
        lambda: turned(padded_and_turned()),
        [
            "embed.kernel -> wte.weight) by Transpose(dim1=1), Trim(size=11, source_size=16)",
            "by Transpose(dim1=1), Trim(size=11, value='-inf', source_size=16)",
        ],
    ),
    "absent biases": (
        absent_biases,
        [
            "q.bias, l.*.attn.v.bias -> h.*.attn.qkv.bias) by InsertConstant(part=1, shape=[6]), Concatenate(chunks=3)",
            "k.bias, l.*.cross.v.bias -> h.*.cross.qkv.bias) by InsertConstant(shape=[8]), Concatenate(",
            "attn.v.weight -> h.*.attn.qkv.weight) by Concatenate()",
            "cross.v.weight -> h.*.cross.qkv.weight) by Concatenate(sizes=[8, 5, 5])",
        ],
    ),
    "absent biases, back": (
        lambda: turned(absent_biases()),
        [
            "by Chunk(chunks=3), RemoveConstant(part=1, shape=[6])",
            "by Split(sizes=[8, 5, 5]), RemoveConstant(shape=[8])",
            "by Chunk()",
            "by Split(sizes=[8, 5, 5])",
        ],
    ),
    "all layers": (
        all_layers,
        [
            "gate, layers.*.experts.*.up -> moe.gate_up) by MergeModulelist(), Concatenate(dim=1), MergeModulelist()",
            "layers.*.experts.*.down -> moe.down) by Transpose(dim1=1), MergeModulelist(), MergeModulelist()",
            "layers.*.experts.*.flat -> moe.flat) by MergeModulelist(), Concatenate(chunks=3)",
            "layers.*.experts.*.scale -> moe.scale) by MergeModulelist(), MergeModulelist()",
            "layers.*.few.*.w -> few) by MergeModulelist(), Concatenate(sizes=[2, 5, 3])",
        ],
    ),
    "all layers, back": (
        lambda: turned(all_layers()),
        [
            "by SplitModulelist(), Chunk(dim=1), SplitModulelist()",
            "by SplitModulelist(), SplitModulelist(), Transpose(dim0=1)",
            "by Chunk(chunks=3), SplitModulelist()",
            "moe.scale -> layers.*.experts.*.scale) by SplitModulelist(), SplitModulelist()",
            "by Split(sizes=[2, 5, 3]), SplitModulelist()",
        ],
    ),
    "rotary parts": (
        rotary_parts,
        [
            "by Split(sizes=[32, 8]), On(parts=[0], apply=PermuteForRope(num_heads=4)), Concatenate()",
            "by Split(sizes=[10, 10, 10]), On(parts=[0, 2], apply=Interleave()), Concatenate()",
        ],
    ),
    "rotary parts, back": (
        lambda: turned(rotary_parts()),
        ["On(parts=[0], apply=PermuteForRope(inverse=True, num_heads=4))", "apply=Interleave(inverse=True))"],
    ),
    "partial rotary": (
        partial_rotary,
        [
            "lengths={'a': 5}), Split(dim=1, sizes=[6, 4]), On(parts=[0], apply=Interleave(dim=1)), Concatenate(dim=1)",
            "by Rearrange(pattern='(a b) ... -> a b ...', lengths={'a': 2}), Split(dim=1, sizes=[6, 4])",
            "lengths={'a': 4}), Split(dim=1, sizes=[2, 8, 2]), On(parts=[1], apply=Interleave(dim=1))",
        ],
    ),
    "partial rotary, back": (
        lambda: turned(partial_rotary()),
        [f"On(parts=[{part}], apply=Interleave(dim=1, inverse=True))" for part in (0, 0, 1)],
    ),
    "exchanged names": (exchanged_names, []),
    "shifted indices": (shifted_indices, []),
    "numbered modules": (numbered_modules, []),
}
"""Two layouts of a model, and what must stand in the converters that lead from one to the other."""

RENAMES = {
    "rotary": ["WeightRenaming(^layers.*.attention.wv -> model.layers.*.self_attn.v_proj)"],
    "exchanged names": ["GroupWeightRename(gate, up -> up, gate)"],
    "shifted indices": ["WeightRenaming(^blocks.{i:int} -> layers.{i+1})", "WeightRenaming(^stem -> layers.0)"],
    "numbered modules": ["WeightRenaming(mlp.0 -> mlp.fc1)", "WeightRenaming(mlp.2 -> mlp.fc2)"],
}
"""For some of them, the renames in order."""


def assert_gives(found: Inferred, a: Tensors, b: Tensors) -> None:
    """Check, with plain torch and by planning anew, that a mapping gives the one layout from the other."""
    made = wb.plan(a, found.mapping, target=b, **found.options).state_dict()
    assert made.keys() == b.keys()
    assert [key for key in b if made[key].dtype != b[key].dtype or not made[key].equal(b[key])] == []


@pytest.mark.parametrize("name", RECOVERED)
def test_layout_is_recovered_exactly(name: str) -> None:
    layouts, expected = RECOVERED[name]
    a, b = layouts()
    found = wb.infer(a, b)
    assert found.is_complete
    assert_gives(found, a, b)
    converters = [describe(converter) for converter in found.mapping.converters]
    assert len(converters) == len(expected)
    assert [part for part in expected if not any(part in text for text in converters)] == []
    assert [describe(rename) for rename in found.mapping.renames] == RENAMES.get(
        name, [describe(rename) for rename in found.mapping.renames]
    )


@pytest.mark.parametrize("name", RECOVERED)
def test_mapping_has_a_way_back_that_is_exact(name: str) -> None:
    a, b = RECOVERED[name][0]()
    found = wb.infer(a, b)
    back = wb.plan(b, found.mapping.inverse(), target=a, **found.options).state_dict()
    assert all(back[key].equal(a[key]) for key in a)


@pytest.mark.parametrize("name", ["fused attention", "experts", "rotary and fused"])
def test_order_of_keys_means_nothing(name: str) -> None:
    a, b = RECOVERED[name][0]()
    shuffled = dict(sorted(a.items(), key=lambda item: hash_of(item[0]))), dict(reversed(b.items()))
    assert wb.infer(*shuffled).mapping == wb.infer(a, b).mapping


def hash_of(text: str) -> int:
    """Give an order that has nothing to do with the text's own, the same in every process."""
    return int.from_bytes(text.encode()[::-1], "big") % 99_991


@pytest.mark.corpus
@pytest.mark.parametrize("name", [name for name in case_names() if Case.named(name).has_place])
def test_corpus_case_is_recovered_exactly(name: str) -> None:
    """From its two layouts alone: bit for bit, nothing left open, and by no more rules than there are names."""
    judged = judge(Case.named(name))
    assert (judged.right, judged.found.unexplained) == (judged.total, ())
    assert judged.is_exact


# What values do not say


def test_equal_values_are_told_apart_by_names_and_that_is_noted() -> None:
    a, b = fused_attention()
    found = wb.infer(a, b)
    assert_gives(found, a, b)
    fates = {step.targets[0]: step.sources[0] for step in found.plan.steps}
    for layer in range(LAYERS):
        sources = {fates[f"transformer.h.{layer}.ln_{n}.weight"] for n in (1, 2)}
        assert sources == {f"model.layers.{layer}.{name}_norm.weight" for name in ("input", "output")}
    assert [note for note in found.notes if "not told by values" in note and "ln_1" in note]


def test_distinct_values_need_no_note() -> None:
    assert wb.infer(*rotary()).notes == ()


def test_names_that_stay_are_plain_though_all_values_are_equal() -> None:
    a = {f"layers.{i}.{name}.weight": torch.ones(5) for i in range(LAYERS) for name in ("first", "second")}
    found = wb.infer(
        a | {"w": torch.arange(6.0)}, {f"model.{key}": t for key, t in a.items()} | {"w": torch.arange(6.0)}
    )
    assert found.is_complete
    assert found.notes == ()
    assert [describe(rule) for rule in found.mapping] == ["WeightRenaming(^layers -> model.layers)"]


def test_a_choice_that_could_go_either_way_is_reported() -> None:
    telling, ones = {"w": torch.arange(9.0).reshape(3, 3)}, torch.ones(5)
    found = wb.infer(telling | {"x.foo": ones, "x.bar": ones.clone()}, telling | {"y.aaa": ones, "y.bbb": ones.clone()})
    assert found.is_complete
    assert sum("not told by values" in note for note in found.notes) == 2


def test_pairs_are_plain_only_without_a_rival() -> None:
    (pair,) = pair_by_name(["a.0.norm"], ["b.0.norm"], {})
    assert pair.is_plain
    assert not any(pair.is_plain for pair in pair_by_name(["a.x", "a.y"], ["b.z", "b.w"], {}))
    assert [pair.target for pair in pair_by_name(["a.x"], ["b.z", "b.w"], {"a.x": "b.w"})] == ["b.w"]


# Dtypes


def test_exact_cast_is_named() -> None:
    a, b = fused_attention()
    half = {key: t.bfloat16() for key, t in a.items()}
    found = wb.infer(half, {key: t.bfloat16().float() for key, t in b.items()})
    assert found.options == {"dtype": "target"}
    assert any("BF16 to F32 (exact" in note for note in found.notes)
    assert_gives(found, half, {key: t.bfloat16().float() for key, t in b.items()})


def test_rounded_cast_is_named() -> None:
    a, b = experts()
    found = wb.infer(a, {key: t.bfloat16() for key, t in b.items()})
    assert any("F32 to BF16 (rounded" in note for note in found.notes)
    assert_gives(found, a, {key: t.bfloat16() for key, t in b.items()})


def test_whole_numbers_and_truth_values_are_renamed() -> None:
    a = {"m.mask": torch.tensor([True, False, True, True, False]), "m.ids": torch.arange(12), "m.step": torch.tensor(7)}
    found = wb.infer(a, {key.replace("m.", "n."): t for key, t in a.items()})
    assert found.is_complete
    assert [describe(rule) for rule in found.mapping] == ["WeightRenaming(^m -> n)"]


def test_nan_and_negative_zero_are_told_apart() -> None:
    a = {"a.w": torch.tensor([float("nan"), -0.0, 0.0, 1.0]), "b.w": torch.tensor([float("nan"), 0.0, 0.0, 1.0])}
    found = wb.infer(a, {"x.w": a["b.w"], "y.w": a["a.w"]})
    assert {step.sources[0]: step.targets[0] for step in found.plan.steps} == {"a.w": "y.w", "b.w": "x.w"}


# What only one side has


def test_source_that_the_target_lacks_is_dropped_by_a_rule() -> None:
    new = Numbers()
    a = {f"l.{i}.{name}": new(4, 4) for i in range(LAYERS) for name in ("w", "rotary.inv_freq")}
    b = {key.replace("l.", "layers."): t for key, t in a.items() if key.endswith(".w")}
    found = wb.infer(a, b)
    assert found.is_complete
    assert [rule.pattern for rule in found.mapping.drop] == ["rotary.inv_freq"]
    assert any("3 sources are dropped" in note for note in found.notes)
    assert_gives(found, a, b)


def test_target_that_the_source_lacks_is_initialised_by_a_rule() -> None:
    new = Numbers()
    a = {f"l.{i}.w": new(4, 4) for i in range(LAYERS)}
    b = {key.replace("l.", "layers."): t for key, t in a.items()} | {"head.weight": new(3, 4)}
    found = wb.infer(a, b)
    assert found.is_complete
    assert [rule.pattern for rule in found.mapping.initialise] == ["^head.weight$"]
    made = wb.plan(a, found.mapping, target=b).state_dict()
    assert made.keys() == b.keys() - {"head.weight"}


def test_copy_is_dropped_or_tied_by_name() -> None:
    weight, other = Numbers()(9, 4), Numbers(1)(4, 4)
    single, double = (
        {"embed.weight": weight, "l.w": other},
        {"embed.weight": weight, "l.w": other, "head.weight": weight},
    )
    assert wb.infer(single, double).plan.tied_targets[0].key == "head.weight"
    assert wb.infer(single, double).mapping.converters == ()
    thrice = double | {"head.weight": weight.clone(), "old.weight": weight.clone()}
    twice = {key: tensor for key, tensor in thrice.items() if key != "old.weight"}
    assert [rule.why for rule in wb.infer(twice, thrice).mapping.initialise] == [
        "a copy of a tensor that has its place"
    ]
    assert [rule.pattern for rule in wb.infer(thrice, twice).mapping.drop] == ["^old.weight$"]


def test_as_many_equal_ones_on_both_sides_are_no_replicas() -> None:
    weight = Numbers()(9, 4)
    a = {"embed.weight": weight, "head.weight": weight.clone()}
    found = wb.infer(a, {f"model.{key}": tensor.clone() for key, tensor in a.items()})
    assert found.is_complete
    assert found.mapping.converters == ()


def test_replicas_of_which_one_differs_are_not_merged() -> None:
    a, b = replicas()
    a["ranks.2.layers.1.norm.weight"][0] += 1
    found = wb.infer(a, b)
    holds(found, a, b)
    assert not found.is_complete
    merged = {step.targets[0]: set(step.sources) for step in found.plan.steps if step.fate == "checked"}
    assert "ranks.2.layers.1.norm.weight" not in merged.get("layers.1.norm.weight", ())
    assert len(merged["layers.1.k.weight"]) == 4


def test_rows_that_do_not_all_hold_one_value_are_not_called_padding() -> None:
    for key, row, value in (("embed.weight", 12, 0.5), ("lm_head.bias", 15, 0.0), ("embed.weight", 3, 9.0)):
        a, b = padded_vocabulary()
        b[key][row] = value
        for one, two in ((a, b), (b, a)):
            found = wb.infer(one, two)
            holds(found, one, two)
            assert not found.is_complete
            assert not any(
                step.program.is_declared for step in found.plan.steps if key in (*step.sources, *step.targets)
            )


def test_a_padded_tensor_that_two_could_be_is_a_choice() -> None:
    weight = Numbers()(9, 4)
    a = {"embed.weight": weight, "head.weight": weight.clone()}
    b = {f"model.{key}": torch.cat([tensor, torch.zeros(3, 4)]) for key, tensor in a.items()}
    found = wb.infer(a, b)
    assert found.is_complete
    assert {step.sources[0]: step.targets[0] for step in found.plan.steps} == {key: f"model.{key}" for key in a}
    assert found.open_choices


def test_a_square_that_could_have_been_turned_before_it_was_padded_is_a_choice() -> None:
    square = Numbers()(4, 4)
    a = {"s.weight": square + square.T}
    found = wb.infer(a, {"p.s.weight": torch.cat([a["s.weight"], torch.zeros(2, 4)])})
    assert found.is_complete
    assert "Transpose(dim1=1), Pad(size=6, source_size=4)" in str(found.open_choices[0])


@pytest.mark.parametrize("is_back", [False, True])
def test_zeros_that_a_tensor_of_the_other_side_holds_are_no_absent_part(is_back: bool) -> None:
    a, b = absent_biases()
    zeros = {f"l.{layer}.attn.k.bias": torch.zeros(6) for layer in range(LAYERS)}
    zeros |= {f"l.{layer}.cross.q.bias": torch.zeros(8) for layer in range(LAYERS)}
    layouts = (b, a | zeros) if is_back else (a | zeros, b)
    found = wb.infer(*layouts)
    holds(found, *layouts)
    assert found.is_complete
    assert not any(step.program.is_declared for step in found.plan.steps)


@pytest.mark.parametrize("is_back", [False, True])
def test_experts_of_which_two_change_places_are_no_grid(is_back: bool) -> None:
    a, b = all_layers()
    for key in ("moe.gate_up", "moe.down", "moe.scale"):
        b[key][1] = b[key][1, [0, 2, 1, 3]]
    layouts = (b, a) if is_back else (a, b)
    found = wb.infer(*layouts)
    holds(found, *layouts)
    assert "moe.down" in [each.key for each in found.unexplained]
    assert not any("moe.down" in (*step.sources, *step.targets) for step in found.plan.steps if step.fate != "carried")


@pytest.mark.parametrize("changed", ["h.1.attn.qkv.bias", "h.0.cross.qkv.bias"])
@pytest.mark.parametrize("is_back", [False, True])
def test_a_part_of_several_values_is_no_constant(changed: str, is_back: bool) -> None:
    a, b = absent_biases()
    b[changed][7] = 0.5
    layouts = (b, a) if is_back else (a, b)
    found = wb.infer(*layouts)
    holds(found, *layouts)
    assert not any(step.program.is_declared for step in found.plan.steps if changed in (*step.sources, *step.targets))
    assert changed in [each.key for each in found.unexplained]


# Nothing is proposed that does not hold


def holds(found: Inferred, a: Tensors, b: Tensors) -> None:
    """Check that every tensor a mapping fills is right, and that all the others are named."""
    made = wb.plan(a, found.mapping, target=b, partial=True, **found.options).state_dict()
    named = {each.key for each in found.unexplained if each.side == "target"}
    assert [key for key in made if key in b and not made[key].equal(b[key])] == []
    assert b.keys() - made.keys() == named | {fated.key for fated in found.plan.initialised if found.is_complete}


def test_changed_values_are_left_open_and_named() -> None:
    a, b = rotary()
    b["model.layers.1.self_attn.v_proj.weight"] = a["layers.1.attention.wv.weight"] * 2
    found = wb.infer(a, b)
    holds(found, a, b)
    sides = {each.side: each for each in found.unexplained}
    assert sides["target"].key == "model.layers.1.self_attn.v_proj.weight"
    assert sides["source"].key == "layers.1.attention.wv.weight"
    assert "which holds other values" in sides["target"].tried
    with pytest.raises(wb.PlanError) as refused:
        wb.plan(a, found.mapping, target=b, **found.options)
    assert refused.value.codes == ("target-missing",)


def test_one_element_is_enough_to_leave_a_fused_tensor_open() -> None:
    a, b = experts()
    b["m.layers.1.mlp.experts.gate_up_proj"][3, 2, 1] += 1
    found = wb.infer(a, b)
    holds(found, a, b)
    assert [each.key for each in found.unexplained if each.side == "target"] == ["m.layers.1.mlp.experts.gate_up_proj"]
    assert sum(each.side == "source" for each in found.unexplained) == 24


def test_stack_in_an_odd_order_is_still_explained() -> None:
    """The one layer whose experts lie backwards gets a rule of its own; the rules of the others keep away from it."""
    a, b = experts()
    b["m.layers.1.mlp.experts.down_proj"] = b["m.layers.1.mlp.experts.down_proj"].flip(0).contiguous()
    for layouts in ((a, b), (b, a)):
        found = wb.infer(*layouts)
        assert found.is_complete
        assert_gives(found, *layouts)


def test_what_is_kept_from_the_rules_is_carried_by_few_patterns() -> None:
    a, b = experts()
    b["m.layers.1.mlp.experts.down_proj"][0, 0, 0] += 1
    found = wb.infer(a, b)
    assert [rule.pattern for rule in found.mapping.carry] == ["layers.1.mlp.experts.*.down_proj.weight"]
    assert [rule.pattern for rule in wb.infer(b, a).mapping.carry] == ["layers.1.mlp.experts.down_proj"]


def test_shuffled_elements_are_left_open() -> None:
    new = Numbers()
    a = {"w": new(8, 6), "v": new(3, 3)}
    order = torch.randperm(48, generator=new.generator)
    found = wb.infer(a, {"x": a["w"].view(-1)[order].view(8, 6), "v": a["v"]})
    assert [each.key for each in found.unexplained] == ["x", "w"]
    assert "in an order that no known operation gives" in found.unexplained[0].tried


def infer_if_alike(a: Tensors, b: Tensors) -> Inferred | None:
    """Infer a mapping; None where nothing is left that both have."""
    try:
        return wb.infer(a, b)
    except wb.PlanError as refused:
        if refused.code != "target-missing":
            raise
        return None


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_whatever_is_changed_all_that_is_filled_is_right(data: st.DataObject) -> None:
    """Take layouts apart at random places: values changed, tensors exchanged, lost or added."""
    name = data.draw(st.sampled_from(sorted(RECOVERED)))
    a, b = RECOVERED[name][0]()
    for _ in range(data.draw(st.integers(1, 3))):
        side = data.draw(st.sampled_from([a, b]))
        key = data.draw(st.sampled_from(sorted(side)))
        change = data.draw(st.sampled_from(["scale", "flip", "lose", "add"]))
        if change == "lose" and len(side) > 2:
            del side[key]
        elif change == "add":
            side[f"{key}.more"] = side[key] + 1
        else:
            side[key] = side[key] * 2 + 1 if change == "scale" else side[key].flip(0).contiguous()
    found = infer_if_alike(a, b)
    if found is None:
        return
    made = wb.plan(a, found.mapping, target=b, partial=True, **found.options).state_dict()
    assert [key for key in made if key in b and not made[key].equal(b[key])] == []
    accounted = set(made) | {each.key for each in found.unexplained} | {f.key for f in found.plan.initialised}
    assert b.keys() <= accounted


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(wb.PlanError) as refused:
        wb.infer({"a": Numbers(1)(3, 4)}, {"b": Numbers(2)(5, 6)})
    assert refused.value.code == "target-missing"


def test_header_without_values_is_an_error() -> None:
    with pytest.raises(wb.CheckpointError) as refused:
        wb.infer(Header({"a": TensorSpec("F32", (3,))}), {"a": torch.ones(3)})
    assert refused.value.code == "data-missing"


# The parts


MOVED: list[tuple[tuple[int, ...], Operation | list[Operation]]] = [
    ((12, 5), wb.Transpose(0, 1)),
    ((3, 4, 5), wb.Transpose(1, 2)),
    ((3, 4, 5), wb.Permute((1, 2, 0))),
    ((24, 5), wb.PermuteForRope(num_heads=3)),
    ((24,), wb.PermuteForRope(num_heads=2, inverse=True)),
    ((12, 5), wb.Interleave(0)),
    ((5, 12), wb.Interleave(1, inverse=True)),
    ((36, 5), wb.Rearrange("(a b c) ... -> (b a c) ...", b=3, c=4)),
    ((5, 36), wb.Rearrange("x (a b c d) -> x (a c b d)", b=3, c=2, d=2)),
    ((12, 5), wb.Reorder(0, (1, 0))),
    ((5, 12), wb.Reorder(1, (2, 0, 1), (3, 7, 2))),
    ((24,), wb.Reorder(0, (1, 0, 2), (12, 4, 8), source_stripes=4)),
    ((24, 2), wb.Reorder(0, (1, 0), (16, 8), target_stripes=4)),
    ((24, 5), [wb.Split(0, (16, 8)), wb.On((0,), wb.PermuteForRope(num_heads=4)), wb.Concatenate(0)]),
    ((5, 20), [wb.Split(1, (4, 12, 4)), wb.On((1,), wb.Interleave(1, inverse=True)), wb.Concatenate(1)]),
    (
        (40,),
        [
            wb.Split(0, (8, 8, 24)),
            wb.On((0,), wb.Interleave(0)),
            wb.On((2,), wb.PermuteForRope(num_heads=3)),
            wb.Concatenate(0),
        ],
    ),
    ((4, 3, 2, 5, 5), wb.Conv3dToLinear(3, (2, 5, 5))),
    ((4, 60), wb.LinearToConv3d(3, (2, 2, 5))),
    ((6, 10), wb.Reshape((4, 15), source_shape=(6, 10))),
]


@pytest.mark.parametrize(("shape", "operation"), MOVED, ids=lambda value: str(value)[:60])
def test_movement_is_found_from_its_result(shape: tuple[int, ...], operation: Operation | list[Operation]) -> None:
    source = Numbers()(*shape)
    operations = operation if isinstance(operation, list) else [operation]
    target = wb.plan({"w": source}, [wb.WeightConverter("w", "w", operations)]).state_dict()["w"]
    found = fit_movement(source, target)
    assert found is not None
    assert is_moved(source, target, found)
    assert not is_moved(source, target + 1, found)


def test_parts_that_no_known_operation_turns_are_not_found() -> None:
    source = Numbers()(47, 5)
    order = [*range(8), *(8 + 5 * place % 31 for place in range(31)), *range(39, 47)]
    assert fit_movement(source, source[order]) is None


def test_sums_of_parts_are_the_sum_of_the_whole() -> None:
    """Over windows larger and smaller than the tensor, on every axis, for tensors of one to four axes."""
    new = Numbers()
    for shape in ((40_000,), (300, 200), (3, 150, 200), (200, 3, 150), (5, 4, 3, 2)):
        tensor = new(*shape)
        sums = sum_hashes(tensor)
        assert sums.total == sum_hashes(tensor.reshape(-1).flip(0)).total
        for axis, slices in sums.axes.items():
            assert [int(slices[i]) for i in range(2)] == [sum_hashes(tensor.select(axis, i)).total for i in range(2)]
        for axis, grid in sums.grids.items():
            assert int(grid[1, 2]) == sum_hashes(tensor[1].select(axis - 1, 2)).total


def test_tiling_needs_every_part() -> None:
    parts = [Numbers(seed)(rows, 6) for seed, rows in enumerate((16, 4, 4))]
    looks = {(part.numel(), sum_hashes(part).total): [name] for name, part in zip("qkv", parts, strict=True)}
    whole = sum_hashes(torch.cat(parts))
    found = find_tiling(whole, looks)
    assert found is not None
    assert [(tile.key, tile.length) for tile in found.rows[0]] == [("q", 16), ("k", 4), ("v", 4)]
    assert find_tiling(whole, dict(list(looks.items())[:2])) is None


# A sketch


def headers(layouts: Layouts) -> tuple[Header, Header]:
    a, b = (wb.open(side).header for side in layouts)
    return a, b


@pytest.mark.corpus
@pytest.mark.parametrize("name", some_of([name for name in case_names() if Case.named(name).has_place], 3))
def test_sketch_of_a_case_loads_as_a_file_and_plans(name: str) -> None:
    """Whatever is guessed, it is a mapping without faults, and what it does not reach is listed."""
    case = Case.named(name)
    source, target = wb.open(case.path).header, case.distinct()
    sketch = sketch_mapping(source, target)
    assert read_mapping(sketch.to_file()) == sketch.mapping
    plan = wb.plan(source, sketch.mapping, target=target, partial=True, layout="mapped")
    filled = {key for step in plan.steps if step.fate != "carried" for key in step.targets}
    assert target.keys() - filled == set(sketch.unfilled)


def test_sketch_guesses_renames_and_joins() -> None:
    sketch = sketch_mapping(*headers(fused_attention()))
    assert (sketch.unfilled, sketch.left_over) == ((), ())
    assert any("qkv) by Concatenate(sizes=[16, 4, 4])" in describe(rule) for rule in sketch.mapping)
    assert all(remark.startswith("guess: ") for remark in sketch.remarks)
    assert sketch.to_file().count("  # guess: ") == len(sketch.mapping)


def test_sketch_guesses_stacks_and_what_is_divided() -> None:
    new, a, b = Numbers(), {}, {}
    for expert in range(4):
        a |= {f"l.0.experts.{expert}.{n}.weight": new(*s) for n, s in (("w1", (5, 6)), ("w2", (6, 5)), ("w3", (5, 6)))}
    a |= {"l.0.mlp.gate_up_proj.weight": new(10, 6), "l.0.c_fc.weight": new(3, 7)}
    b |= {"l.0.experts.gate_up_proj": new(4, 10, 6), "l.0.experts.down_proj": new(4, 6, 5)}
    b |= {f"l.0.mlp.{name}_proj.weight": new(5, 6) for name in ("gate", "up")} | {"l.0.c_fc.weight": new(7, 3)}
    sketch = sketch_mapping(*headers((a, b)))
    assert (sketch.unfilled, sketch.left_over) == ((), ())
    assert sorted(str(rule.operations[-1]) for rule in sketch.mapping.converters) == [
        "Chunk()",
        "Concatenate(dim=1)",
        "MergeModulelist()",
        "Transpose(dim1=1)",
    ]


def test_sketch_knows_words_that_layouts_have_for_one_thing() -> None:
    """An embedding and an output of one shape, and norms under names that share no word, are not exchanged."""
    there, wanted = {}, {}
    pairs = (("tok.weight", "embed_tokens.weight"), ("unembed.weight", "lm_head.weight"), ("ln_f.scale", "norm.weight"))
    for one, two in pairs:
        shape = (4,) if "norm" in two else (9, 4)
        there[f"module.{one}"] = wanted[two if "head" in two else f"model.{two}"] = TensorSpec("F32", shape)
    sketch = sketch_mapping(Header(there), Header(wanted))
    assert (sketch.unfilled, sketch.left_over) == ((), ())
    plan = wb.plan(Header(there), sketch.mapping, target=Header(wanted))
    assert {step.sources[0]: step.targets[0] for step in plan.steps} == {
        "module.tok.weight": "model.embed_tokens.weight",
        "module.unembed.weight": "lm_head.weight",
        "module.ln_f.scale": "model.norm.weight",
    }


def test_sketch_says_of_both_of_an_exchangeable_pair_that_it_could_be_the_other() -> None:
    spec = TensorSpec("F32", (5, 3))
    there = Header({f"blocks.{i}.ffn.{name}.weight": spec for i in range(3) for name in ("w1", "w3")})
    wanted = Header({f"layers.{i}.mlp.{name}_proj.weight": spec for i in range(3) for name in ("gate", "up")})
    sketch = sketch_mapping(there, wanted)
    said = {describe(rule): remark for rule, remark in zip(sketch.mapping, sketch.remarks, strict=True)}
    pairs = [remark for rule, remark in said.items() if "ffn.w" in rule]
    assert len(pairs) == 2
    assert all("another name is" in remark for remark in pairs), said


def test_sketch_has_no_rival_where_one_pair_is_clearly_better() -> None:
    spec = TensorSpec("F32", (5, 3))
    there = Header({"a.attn.query.weight": spec, "a.attn.output.weight": spec})
    wanted = Header({"b.attn.query.weight": spec, "b.attn.output.weight": spec})
    assert not any("another name" in remark for remark in sketch_mapping(there, wanted).remarks)


def test_sketch_lists_what_is_left_to_do() -> None:
    there = Header({"a.w": TensorSpec("F32", (3, 4)), "same.w": TensorSpec("F32", (2,))})
    wanted = Header({"b.x.y": TensorSpec("F32", (7,)), "same.w": TensorSpec("F32", (2,))})
    sketch = sketch_mapping(there, wanted)
    assert (sketch.unfilled, sketch.left_over) == (("b.x.y",), ("a.w",))
    assert sketch.to_file().splitlines()[-2:] == ["#   not filled: b.x.y", "#   left over: a.w"]


# The commands


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two layouts of a model, and a third that is not quite the second."""
    a, b = fused_attention()
    for name, tensors in (("a", a), ("b", b), ("odd", b | {"transformer.wte.weight": b["transformer.wte.weight"] + 1})):
        save_file(tensors, tmp_path / f"{name}.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ran(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


def lines_of(text: str) -> Iterable[str]:
    return [line.strip() for line in text.splitlines()]


def test_command_infers_a_file_that_converts(there: Path) -> None:
    answer = ran("infer", "a.safetensors", "b.safetensors", "-o", "mapping.yaml")
    assert answer.exit_code == 6, answer.output  # norms of ones leave a choice open
    assert "inferred  13 of 13 targets by 5 rules; run, and equal bit for bit" in lines_of(answer.stdout)
    assert ran("convert", "a.safetensors", "out", "mapping.yaml", "--target", "b.safetensors").exit_code == 0
    assert ran("verify", "out", "b.safetensors").exit_code == 0
    assert load_mapping(there / "mapping.yaml") == wb.infer("a.safetensors", "b.safetensors").mapping


def test_command_ends_with_1_where_something_stays_open(there: Path) -> None:
    answer = ran("infer", "a.safetensors", "odd.safetensors", "--json")
    form = json.loads(answer.stdout)
    assert (answer.exit_code, form["complete"]) == (1, False)
    assert [each["key"] for each in form["unexplained"]] == ["transformer.wte.weight", "model.embed.weight"]
    text = ran("infer", "a.safetensors", "odd.safetensors").stdout
    assert any(line.startswith("unexplained target  transformer.wte.weight: ") for line in lines_of(text))
    ran("infer", "a.safetensors", "odd.safetensors", "-o", "open.yaml")
    head, second = (there / "open.yaml").read_text().splitlines()[:2]
    assert head.startswith("# Inferred from two checkpoints, and not complete: ")
    assert "gave 12 of the second one's 13 tensors bit for bit" in f"{head} {second[2:]}"


@pytest.mark.parametrize("command", ["infer", "new"])
def test_command_overwrites_nothing(command: str, there: Path) -> None:
    (there / "mapping.yaml").write_text("mine")
    answer = ran(command, "a.safetensors", "b.safetensors", "-o", "mapping.yaml")
    assert answer.exit_code == 5
    assert "destination-exists" in answer.stderr
    assert (there / "mapping.yaml").read_text() == "mine"


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_command_new_writes_a_file_that_plans(suffix: str, there: Path) -> None:
    answer = ran("new", "a.safetensors", "b.safetensors", "-o", f"sketch.{suffix}")
    assert answer.exit_code == 0, answer.output
    assert ran("plan", "a.safetensors", f"sketch.{suffix}", "--target", "b.safetensors").exit_code == 0


def test_command_new_prints_the_file(there: Path) -> None:
    answer = ran("new", "a.safetensors", "b.safetensors")
    assert read_mapping(answer.stdout) == load_mapping_of(there)
    assert json.loads(ran("new", "a.safetensors", "b.safetensors", "--json").stdout)["unfilled"] == []


def load_mapping_of(folder: Path) -> wb.Mapping:
    return sketch_mapping(*(wb.open(folder / f"{name}.safetensors").header for name in "ab")).mapping
