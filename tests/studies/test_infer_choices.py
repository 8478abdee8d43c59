"""What values do not tell when a mapping is inferred: it is chosen by names and places, and it is said.

Two kinds of checkpoints stand behind each test: a fresh one, whose norms are ones and whose biases are zeros, from
which the mapping is inferred, and a trained one of the same layouts, on which it has to hold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from corpus import Case, case_names, some_of
from hypothesis import given, settings, strategies as st
from safetensors.torch import save_file
from typer.testing import CliRunner

import weighbridge as wb
from weighbridge.cli.app import app
from weighbridge.cli.commands.inference_commands import status_of
from weighbridge.mappings.mapping_files import read_mapping
from weighbridge.mappings.transforms import describe
from weighbridge.storage import open_checkpoint
from weighbridge.studies.inference import Inferred
from weighbridge.studies.inference.by_value.block_places import place_in_block
from weighbridge.studies.inference.by_value.symmetry import may_be_symmetric, rival_movements
from weighbridge.studies.inference.inverse_proof import inverse_faults

Tensors = dict[str, torch.Tensor]
Move = Callable[[torch.Tensor], torch.Tensor]
LAYERS = 2
WIDTH = 8


class Line(NamedTuple):
    """One tensor of a layout and of another one; `{i}` stands for the layers."""

    source: str
    target: str
    shape: tuple[int, ...]
    fresh: float | None = None
    move: Move = torch.Tensor.clone


def norm(source: str, target: str) -> list[Line]:
    """A norm's weight, which is one at first, and its bias, which is zero."""
    return [
        Line(f"{source}.weight", f"{target}.weight", (WIDTH,), 1.0),
        Line(f"{source}.bias", f"{target}.bias", (WIDTH,), 0.0),
    ]


def linear(
    source: str, target: str, rows: int = WIDTH, columns: int = WIDTH, move: Move = torch.Tensor.clone
) -> list[Line]:
    """A matrix of numbers and a bias that is zero at first."""
    weight = Line(f"{source}.weight", f"{target}.weight", (rows, columns), None, move)
    return [weight, Line(f"{source}.bias", f"{target}.bias", (rows,), 0.0)]


def rotated(weight: torch.Tensor) -> torch.Tensor:
    """Turn pairs of neighbours into two halves, in two heads."""
    return weight.view(2, -1, 2, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def transposed(weight: torch.Tensor) -> torch.Tensor:
    return weight.T.contiguous()


def below(source: str, target: str, lines: Iterable[Line]) -> list[Line]:
    return [line._replace(source=source + line.source, target=target + line.target) for line in lines]


LLAMA = [
    Line("tok_embeddings.weight", "model.embed_tokens.weight", (16, WIDTH)),
    *below(
        "layers.{i}.",
        "model.layers.{i}.",
        [
            Line("attention.wq.weight", "self_attn.q_proj.weight", (WIDTH, WIDTH), None, rotated),
            Line("attention.wk.weight", "self_attn.k_proj.weight", (WIDTH, WIDTH), None, rotated),
            Line("attention.wv.weight", "self_attn.v_proj.weight", (WIDTH, WIDTH)),
            Line("feed_forward.w1.weight", "mlp.gate_proj.weight", (12, WIDTH)),
            Line("attention_norm.weight", "input_layernorm.weight", (WIDTH,), 1.0),
            Line("ffn_norm.weight", "post_attention_layernorm.weight", (WIDTH,), 1.0),
        ],
    ),
    Line("norm.weight", "model.norm.weight", (WIDTH,), 1.0),
]

VIT = [
    *below(
        "blocks.{i}.",
        "vit.encoder.layer.{i}.",
        [
            *norm("norm1", "layernorm_before"),
            *linear("attn.proj", "attention.output.dense"),
            *norm("norm2", "layernorm_after"),
            *linear("mlp.fc1", "intermediate.dense", 12),
            *linear("mlp.fc2", "output.dense", WIDTH, 12),
        ],
    ),
    *norm("norm", "vit.layernorm"),
]

SWIN = [
    Line("patch_embed.proj.weight", "swin.embeddings.patch_embeddings.projection.weight", (WIDTH, 3, 2, 2)),
    *norm("patch_embed.norm", "swin.embeddings.norm"),
    *below(
        "layers.0.blocks.{i}.",
        "swin.encoder.layers.0.blocks.{i}.",
        [
            *norm("norm1", "layernorm_before"),
            *linear("attn.proj", "attention.output.dense"),
            *norm("norm2", "layernorm_after"),
            *linear("mlp.fc1", "intermediate.dense", 12),
        ],
    ),
    *norm("norm", "swin.layernorm"),
]

WHISPER = [
    *below(
        "encoder.blocks.{i}.",
        "model.encoder.layers.{i}.",
        [
            *norm("attn_ln", "self_attn_layer_norm"),
            *linear("attn.query", "self_attn.q_proj"),
            *norm("mlp_ln", "final_layer_norm"),
            *linear("mlp.0", "fc1", 12),
        ],
    ),
    *norm("encoder.ln_post", "model.encoder.layer_norm"),
    *below(
        "decoder.blocks.{i}.",
        "model.decoder.layers.{i}.",
        [
            *norm("attn_ln", "self_attn_layer_norm"),
            *linear("attn.query", "self_attn.q_proj"),
            *norm("cross_attn_ln", "encoder_attn_layer_norm"),
            *linear("cross_attn.query", "encoder_attn.q_proj"),
            *norm("mlp_ln", "final_layer_norm"),
            *linear("mlp.0", "fc1", 12),
        ],
    ),
    *norm("decoder.ln", "model.decoder.layer_norm"),
]

CLIP = [
    *norm("visual.ln_pre", "vision_model.pre_layrnorm"),
    *below(
        "visual.transformer.resblocks.{i}.",
        "vision_model.encoder.layers.{i}.",
        [*norm("ln_1", "layer_norm1"), *linear("attn.out_proj", "self_attn.out_proj"), *norm("ln_2", "layer_norm2")],
    ),
    *norm("visual.ln_post", "vision_model.post_layernorm"),
    *below(
        "transformer.resblocks.{i}.",
        "text_model.encoder.layers.{i}.",
        [*norm("ln_1", "layer_norm1"), *linear("attn.out_proj", "self_attn.out_proj"), *norm("ln_2", "layer_norm2")],
    ),
    *norm("ln_final", "text_model.final_layer_norm"),
]

BERT = [
    *norm("embeddings.LayerNorm", "embed_norm"),
    *below(
        "encoder.layer.{i}.",
        "layers.{i}.",
        [
            *linear("attention.output.dense", "attn.out"),
            *norm("attention.output.LayerNorm", "norm1"),
            *linear("intermediate.dense", "fc1", 12),
            *linear("output.dense", "fc2", WIDTH, 12),
            *norm("output.LayerNorm", "norm2"),
        ],
    ),
]

GPT2 = [
    *below(
        "h.{i}.",
        "model.blocks.{i}.",
        [
            *norm("ln_1", "attn_norm"),
            *linear("attn.c_proj", "attn.out", move=transposed),
            *norm("ln_2", "mlp_norm"),
            *linear("mlp.c_proj", "mlp.down", move=transposed),
        ],
    ),
    *norm("ln_f", "model.final_norm"),
]

GEMMA = below(
    "l.{i}.",
    "model.layers.{i}.",
    [
        Line("attn.q.weight", "self_attn.q_proj.weight", (WIDTH, WIDTH)),
        Line("mlp.w.weight", "mlp.up_proj.weight", (12, WIDTH)),
        Line("pre_attn_norm.weight", "input_layernorm.weight", (WIDTH,), 0.0),
        Line("post_attn_norm.weight", "post_attention_layernorm.weight", (WIDTH,), 0.0),
        Line("pre_ffw_norm.weight", "pre_feedforward_layernorm.weight", (WIDTH,), 0.0),
        Line("post_ffw_norm.weight", "post_feedforward_layernorm.weight", (WIDTH,), 0.0),
    ],
)

QK_NORMS = below(
    "l.{i}.attn.",
    "model.layers.{i}.self_attn.",
    [
        Line("q.weight", "q_proj.weight", (WIDTH, WIDTH), None, rotated),
        Line("k_ln.weight", "k_norm.weight", (WIDTH,), 1.0),
        Line("q_ln.weight", "q_norm.weight", (WIDTH,), 1.0),
    ],
)

BY_NAMES = {
    "llama": LLAMA,
    "vit": VIT,
    "swin": SWIN,
    "whisper": WHISPER,
    "clip": CLIP,
    "bert": BERT,
    "gpt2": GPT2,
    "gemma": GEMMA,
    "norms of queries and keys": QK_NORMS,
}
"""Layouts of which names alone say which norm is which, in any order of the file."""

STRANGE_NORMS = [
    Line("l.{i}.n_a.weight", "m.{i}.foo.weight", (WIDTH,), 1.0),
    Line("l.{i}.attn.weight", "m.{i}.attention.weight", (WIDTH, WIDTH)),
    Line("l.{i}.n_b.weight", "m.{i}.bar.weight", (WIDTH,), 1.0),
    Line("l.{i}.ff.weight", "m.{i}.dense.weight", (12, WIDTH)),
]


def batch_norm(source: str, target: str) -> list[Line]:
    return [
        *norm(source, target),
        Line(f"{source}.running_mean", f"{target}.running_mean", (WIDTH,), 0.0),
        Line(f"{source}.running_var", f"{target}.running_var", (WIDTH,), 1.0),
    ]


RESNET = [
    line
    for layer in (0, 1)
    for place in (1, 2)
    for line in below(
        f"layer{layer + 1}.{{i}}.",
        f"encoder.stages.{layer}.layers.{{i}}.layer.{place - 1}.",
        [
            Line(f"conv{place}.weight", "convolution.weight", (WIDTH, WIDTH, 3, 3)),
            *batch_norm(f"bn{place}", "normalization"),
        ],
    )
]

BY_ORDER = {"strange names": STRANGE_NORMS, "resnet": RESNET}
"""Layouts of which the order of the file says which norm is which, as it stands beside what it belongs to."""


class Models(NamedTuple):
    """A fresh checkpoint and a trained one, in two layouts each."""

    fresh: Tensors
    fresh_target: Tensors
    trained: Tensors
    trained_target: Tensors

    def turned(self) -> Models:
        return Models(self.fresh_target, self.fresh, self.trained_target, self.trained)


def models(lines: Iterable[Line]) -> Models:
    """Make the checkpoints, layer by layer, in the order of the lines."""
    numbers = torch.Generator().manual_seed(7)
    made = Models({}, {}, {}, {})
    kept = list(lines)
    layered = [line for line in kept if "{i}" in line.source]
    before = kept[: kept.index(layered[0])] if layered else kept
    order = [(line, 0) for line in before] + [(line, i) for i in range(LAYERS) for line in layered]
    order += [(line, 0) for line in kept if line not in before and line not in layered]
    for line, i in order:
        value = torch.randn(line.shape, generator=numbers)
        first = value if line.fresh is None else torch.full(line.shape, line.fresh)
        source, target = line.source.format(i=i), line.target.format(i=i)
        made.fresh[source], made.fresh_target[target] = first, line.move(first)
        made.trained[source], made.trained_target[target] = value, line.move(value)
    return made


def in_alphabet(made: Models) -> Models:
    return Models(*(dict(sorted(tensors.items())) for tensors in made))


def wrong_on(found: Inferred, source: Tensors, target: Any) -> list[str]:
    """List the targets that an inferred mapping gives otherwise from other values."""
    made = wb.plan(source, found.mapping, target=target, partial=True, **found.options).state_dict()
    return [key for key in target if key not in made or not made[key].equal(target[key])]


# Fresh norms


@pytest.mark.parametrize("order", [lambda made: made, in_alphabet], ids=["file", "alphabet"])
@pytest.mark.parametrize("turn", [lambda made: made, Models.turned], ids=["there", "back"])
@pytest.mark.parametrize("name", BY_NAMES)
def test_a9_fresh_norms_are_told_by_their_names_and_that_is_said(
    name: str, turn: Callable[[Models], Models], order: Callable[[Models], Models]
) -> None:
    made = turn(order(models(BY_NAMES[name])))
    found = wb.infer(made.fresh, made.fresh_target)
    assert found.is_complete
    assert found.inverse_faults == ()
    assert wrong_on(found, made.trained, made.trained_target) == []
    assert not found.is_settled


@pytest.mark.parametrize("turn", [lambda made: made, Models.turned], ids=["there", "back"])
@pytest.mark.parametrize("name", BY_ORDER)
def test_a9_fresh_norms_are_told_by_the_order_of_the_file_where_names_say_nothing(
    name: str, turn: Callable[[Models], Models]
) -> None:
    made = turn(models(BY_ORDER[name]))
    found = wb.infer(made.fresh, made.fresh_target)
    assert wrong_on(found, made.trained, made.trained_target) == []
    assert not found.is_settled


def test_a9_a_norm_stands_beside_the_block_it_belongs_to() -> None:
    """The second layout has its blocks in the other order, each after its norm."""
    made = models(STRANGE_NORMS)
    order = ["bar", "dense", "foo", "attention"]
    target = sorted(made.fresh_target, key=lambda key: (key.split(".")[1], order.index(key.split(".")[2])))
    found = wb.infer(made.fresh, {key: made.fresh_target[key] for key in target})
    assert wrong_on(found, made.trained, made.trained_target) == []
    assert {choice.by for choice in found.open_choices} == {"what it stands beside in the file"}


@pytest.mark.parametrize("name", [*BY_NAMES, *BY_ORDER])
def test_a9_trained_values_leave_nothing_open(name: str) -> None:
    made = models((BY_NAMES | BY_ORDER)[name])
    found = wb.infer(made.trained, made.trained_target)
    assert (found.open_choices, found.unexplained, found.notes) == ((), (), ())
    assert wrong_on(found, made.trained, made.trained_target) == []


def test_a9_every_norm_that_could_be_another_is_named_with_the_other() -> None:
    made = models(LLAMA)
    found = wb.infer(made.fresh, made.fresh_target)
    first, second = "layers.{0,1}.attention_norm.weight", "layers.{0,1}.ffn_norm.weight"
    assert [(choice.sources, choice.others) for choice in found.open_choices] == [
        ((first,), (second,)),
        ((second,), (first,)),
    ]
    assert [choice.targets for choice in found.open_choices] == [
        ("model.layers.{0,1}.input_layernorm.weight",),
        ("model.layers.{0,1}.post_attention_layernorm.weight",),
    ]
    assert found.notes[:2] == tuple(map(str, found.open_choices))


def test_a9_what_follows_the_rules_of_others_is_settled_and_noted() -> None:
    """Zero biases go where their weights went, and a norm that is alone in its layer where the layer went."""
    lines = below("l.{i}.", "m.{i}.", [*linear("fc1", "up"), *linear("fc2", "down"), *norm("norm", "norm")])
    made = models(lines)
    found = wb.infer(made.fresh, made.fresh_target)
    assert found.is_settled
    assert wrong_on(found, made.trained, made.trained_target) == []
    assert [note for note in found.notes if note.startswith("8 targets are not told by values")]


def test_a9_zero_bias_goes_through_the_same_order_as_its_weight() -> None:
    weight, bias = linear("l.{i}.q", "m.{i}.q", move=rotated)
    made = models([weight, bias._replace(move=rotated)])
    found = wb.infer(made.fresh, made.fresh_target)
    assert found.is_settled
    assert wrong_on(found, made.trained, made.trained_target) == []


def test_a9_vector_of_one_value_beside_a_reordered_matrix_could_be_reordered_too() -> None:
    made = models(QK_NORMS)
    found = wb.infer(made.fresh, made.fresh_target)
    assert ["PermuteForRope(num_heads=2)" in choice.others for choice in found.open_choices] == [True, True]


@pytest.mark.parametrize("source", ["one", "two"])
def test_a9_one_of_several_twins_is_chosen_and_said(source: str) -> None:
    value, other = torch.randn(5, 3), torch.randn(4, 4)
    double = {"a": value, "b": value.clone(), "v": other}
    triple = {"x": value, "y": value.clone(), "z": value.clone(), "v": other}
    found = wb.infer(*((double, triple) if source == "one" else (triple, double)))
    assert len(found.open_choices) == 2
    assert found.mapping.converters == ()


@pytest.mark.parametrize("source", ["one", "two"])
def test_a9_twins_of_one_are_that_one(source: str) -> None:
    value, other = torch.randn(5, 3), torch.randn(4, 4)
    single, double = {"x": value, "v": other}, {"a": value, "b": value.clone(), "v": other}
    found = wb.infer(*((single, double) if source == "one" else (double, single)))
    assert found.is_settled
    assert found.is_complete
    assert len(found.mapping.converters) == 1
    assert found.inverse_faults == ()


@pytest.mark.parametrize("source", ["one", "two"])
def test_a9_twins_are_not_one_where_something_else_is_open(source: str) -> None:
    """One of them could be what is open, moved in some way that is not known."""
    value, other = torch.randn(5, 3), torch.randn(5, 3)
    single, double = {"x": value, "v": other}, {"a": value, "b": value.clone()}
    found = wb.infer(*((single, double) if source == "one" else (double, single)))
    assert found.mapping.converters == ()


def test_a9_targets_that_share_their_storage_leave_no_choice() -> None:
    value, other = torch.randn(5, 3), torch.randn(4, 4)
    assert wb.infer({"x": value, "v": other}, {"a": value, "b": value, "v": other}).is_settled


def test_a9_names_of_a_block_are_in_the_order_in_which_it_computes() -> None:
    names = ["input_layernorm", "attention_norm", "post_attention_layernorm", "encoder_attn_layer_norm",
             "pre_feedforward_layernorm", "mlp_ln", "post_feedforward_layernorm", "final_layer_norm"]  # fmt: skip
    places = [place_in_block(name) for name in names]
    assert None not in places
    assert places == sorted(places)
    assert place_in_block("foo") is None


# Other things that values do not tell


def squares(count: int) -> list[torch.Tensor]:
    halves = [torch.randn(4, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(count)]
    return [half + half.T for half in halves]


MATRIX = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
OTHER = torch.randn(6, 6, generator=torch.Generator().manual_seed(2))
PAIRS = (torch.arange(8).remainder(2).view(8, 1) + torch.arange(6.0)).contiguous()
TELLING = {"z": torch.randn(3, 7, generator=torch.Generator().manual_seed(3))}

OPEN: dict[str, tuple[Tensors, Tensors, str]] = {
    "two targets of identical value": (
        {"x": MATRIX, "y": MATRIX.clone()},
        {"a": MATRIX, "b": MATRIX.clone()},
        "y",
    ),
    "a symmetric matrix": ({"w": squares(1)[0]}, {"w": squares(1)[0]}, "Transpose(dim1=1)"),
    "an identity under another name": ({"l.w": torch.eye(4)}, {"m.w": torch.eye(4)}, "Transpose(dim1=1)"),
    "a cube that is symmetric in its last axes": (
        {"w": torch.stack(squares(3))},
        {"w": torch.stack(squares(3))},
        "Transpose(dim0=1, dim1=2)",
    ),
    "a matrix of zeros": ({"w": torch.zeros(4, 4)}, {"w": torch.zeros(4, 4)}, "any order of their elements"),
    "an oblong of ones": ({"l.w": torch.ones(3, 5)}, {"m.w": torch.ones(3, 5)}, "any order of their elements"),
    "rows that repeat in place": (
        {"w": MATRIX[:2].repeat_interleave(4, 0)},
        {"w": MATRIX[:2].repeat_interleave(4, 0)},
        "PermuteForRope(num_heads=2)",
    ),
    "rows that repeat, in another order": (
        {"w": PAIRS},
        {"w": rotated(PAIRS)},
        "PermuteForRope(num_heads=2)",
    ),
    "equal parts": (
        {"l.q": OTHER, "l.k": OTHER.clone(), "l.v": MATRIX},
        {"l.qkv": torch.cat([OTHER, OTHER, MATRIX])},
        "l.{k,q} in another order",
    ),
    "equal parts, divided": (
        {"l.qkv": torch.cat([OTHER, OTHER, MATRIX])},
        {"l.q": OTHER, "l.k": OTHER.clone(), "l.v": MATRIX},
        "l.{k,q} in another order",
    ),
    "equal experts": (
        {f"l.0.experts.{e}.w": MATRIX.clone() for e in range(3)},
        {"l.0.experts": torch.stack([MATRIX] * 3)},
        "l.0.experts.{0..2}.w in another order",
    ),
    "equal experts, transposed": (
        {f"l.0.experts.{e}.w": MATRIX.clone() for e in range(3)},
        {"l.0.experts": torch.stack([MATRIX.T] * 3)},
        "l.0.experts.{0..2}.w in another order",
    ),
    "equal experts, renamed": (
        {f"l.0.experts.{e}.w1": MATRIX.clone() for e in range(3)},
        {f"m.0.experts.{e}.up": MATRIX.clone() for e in range(3)},
        "l.0.experts.{0..2}.w1 in another order",
    ),
    "symmetric experts": (
        {f"l.experts.{e}.w": square for e, square in enumerate(squares(3))},
        {"l.w": torch.stack(squares(3))},
        "Transpose(dim1=1)",
    ),
    "equal matrices, transposed": (
        {"x": MATRIX, "y": MATRIX.clone()},
        {"a": transposed(MATRIX), "b": transposed(MATRIX)},
        "y",
    ),
    "a matrix and its own transpose": (
        {"x": MATRIX, "y": transposed(MATRIX)},
        {"a": MATRIX, "b": transposed(MATRIX)},
        "Transpose(dim1=1) of y",
    ),
    "equal values, cast": (
        {"x": MATRIX.bfloat16(), "y": MATRIX.bfloat16()},
        {"a": MATRIX.bfloat16().float(), "b": MATRIX.bfloat16().float()},
        "y",
    ),
    "layers that are copies": (
        {f"l.{i}.w": MATRIX.clone() for i in range(3)},
        {f"m.{i}.u": MATRIX.clone() for i in range(3)},
        "l.{0..2}.w in another order",
    ),
}
"""Two layouts, and what else would give the same bytes."""


@pytest.mark.parametrize("name", OPEN)
def test_g5_what_else_fits_is_said(name: str) -> None:
    source, target, other = OPEN[name]
    found = wb.infer(source | TELLING, target | TELLING)
    assert found.is_complete
    assert wrong_on(found, source | TELLING, target | TELLING) == []
    assert other in {text for choice in found.open_choices for text in choice.others}
    assert found.to_file().count("CHECK: ") >= len(found.open_choices) >= 1
    assert "CHECK" in str(found)
    assert read_mapping(found.to_file()) == found.mapping
    form = json.loads(json.dumps(found.commented().to_dict()))
    said = [line for lines in (*form["comments"]["rules"], form["comments"]["tail"]) for line in lines]
    assert sum("CHECK: " in line for line in said) == found.to_file().count("CHECK: ")
    assert wb.Mapping.from_dict(form) == found.mapping
    assert found.inverse_faults == ()


SETTLED: dict[str, tuple[Tensors, Tensors, str]] = {
    "one layer of several is symmetric": (
        {f"l.{i}.w": value for i, value in enumerate([OTHER[:4, :4], squares(1)[0], OTHER[2:, 2:]])},
        {f"m.{i}.w": transposed(v) for i, v in enumerate([OTHER[:4, :4], squares(1)[0], OTHER[2:, 2:]])},
        "Transpose",
    ),
    "one layer of several is symmetric, and nothing is transposed": (
        {f"l.{i}.w": value.contiguous() for i, value in enumerate([OTHER[:4, :4], squares(1)[0], OTHER[2:, 2:]])},
        {f"m.{i}.w": value.contiguous() for i, value in enumerate([OTHER[:4, :4], squares(1)[0], OTHER[2:, 2:]])},
        "",
    ),
    "a matrix and its transpose, in a layer that another one tells of": (
        {"l.0.w": OTHER, "l.0.u": transposed(OTHER), "l.1.w": OTHER + 1, "l.1.u": OTHER + 2},
        {"m.0.w": OTHER, "m.0.u": transposed(OTHER), "m.1.w": OTHER + 1, "m.1.u": OTHER + 2},
        "",
    ),
    "one expert of several is not symmetric": (
        {f"l.experts.{e}.w": value for e, value in enumerate([*squares(3), OTHER[:4, :4].contiguous()])},
        {"l.w": torch.stack([value.T for value in (*squares(3), OTHER[:4, :4])])},
        "Transpose",
    ),
    "experts of one layer are equal, and those of another are not": (
        {f"l.{i}.experts.{e}.w": MATRIX + i * (e + 1) for i in range(2) for e in range(3)},
        {f"l.{i}.experts": torch.stack([MATRIX + i * (e + 1) for e in range(3)]) for i in range(2)},
        "MergeModulelist",
    ),
    "the last of its kind": ({"x": torch.ones(4)}, {"y": torch.ones(4)}, ""),
    "names that stay but for a prefix": (
        {f"l.{i}.{name}.weight": torch.ones(5) for i in range(3) for name in ("first", "second")},
        {f"model.l.{i}.{name}.weight": torch.ones(5) for i in range(3) for name in ("first", "second")},
        "",
    ),
    "a module that keeps its name": (
        {f"{name}.LayerNorm.gamma": torch.ones(4) for name in ("a", "b")},
        {f"{name}.LayerNorm.weight": torch.ones(4) for name in ("a", "b")},
        "",
    ),
}
"""Two layouts in which what is equal has its place by what others tell."""


@pytest.mark.parametrize("name", SETTLED)
def test_g5_what_others_tell_is_no_choice(name: str) -> None:
    source, target, operation = SETTLED[name]
    found = wb.infer(source | TELLING, target | TELLING)
    assert found.is_complete
    assert found.open_choices == ()
    assert operation in " ".join(map(describe, found.mapping))


def test_g5_only_an_order_that_changes_other_values_is_another_one() -> None:
    assert not may_be_symmetric(torch.arange(12.0).view(3, 4))
    assert may_be_symmetric(torch.eye(4))
    padded = torch.cat([torch.randn(12, 6), torch.zeros(3, 6)])
    assert not may_be_symmetric(padded), "a few rows that are alike leave no order of whole parts open"
    assert rival_movements(torch.eye(4), torch.eye(4), ()) != []
    column = torch.arange(4.0).view(4, 1)
    assert rival_movements(column, column.T.contiguous(), (wb.Transpose(0, 1),)) == []


WORDS = ("alder", "birch", "cedar", "date", "elm", "fir")
NAMES = ("north", "east", "south", "west", "up", "down")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a9_settled_means_right_on_any_other_values(data: st.DataObject) -> None:
    """Tensors of few values, under names that say nothing, each renamed or transposed: no silence where it matters."""
    count = data.draw(st.integers(2, 5))
    targets = data.draw(st.permutations(NAMES))[:count]
    kinds = data.draw(
        st.lists(st.sampled_from(["own", "ones", "symmetric", "copy", "turned"]), min_size=count, max_size=count)
    )
    turns = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    numbers = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    fresh: Tensors = {}
    for word, kind in zip(WORDS, kinds, strict=False):
        value = torch.randn(4, 4, generator=numbers)
        first = next(iter(fresh.values()), value)
        known = {"ones": torch.ones(4, 4), "symmetric": value + value.T, "copy": first, "turned": transposed(first)}
        fresh[word] = known.get(kind, value).clone()
    trained = {word: torch.randn(4, 4, generator=numbers) for word in fresh}

    def there(side: Tensors) -> Tensors:
        moves = zip(side.values(), targets, turns, strict=True)
        return {name: transposed(value) if turn else value for value, name, turn in moves}

    found = wb.infer(fresh, there(fresh))
    assert wrong_on(found, fresh, there(fresh)) == [each.key for each in found.unexplained if each.side == "target"]
    if found.is_complete and found.is_settled:
        assert wrong_on(found, trained, there(trained)) == []


def fresh_of(key: str, tensor: torch.Tensor) -> torch.Tensor:
    """Give a vector the values that it has before training."""
    if tensor.dim() != 1 or not tensor.is_floating_point():
        return tensor
    return torch.zeros_like(tensor) if key.endswith(("bias", "beta")) else torch.ones_like(tensor)


@pytest.mark.corpus
@pytest.mark.parametrize("name", some_of([name for name in case_names() if Case.named(name).has_place], 4))
def test_a9_mapping_of_a_fresh_case_holds_on_its_own_values(name: str) -> None:
    """With its vectors as before training, a case of the corpus still gives the mapping that its own values need."""
    case = Case.named(name)
    own = wb.plan(case.path, []).state_dict()
    new = set(case.expected.get("not_from_checkpoint", ()))

    def runtime(tensors: Tensors) -> Tensors:
        made = wb.plan(tensors, case.mapping(), target=case.target(), config=case.config).state_dict()
        return {key: t.contiguous() for key, t in made.items() if key in case.expected["state_dict"] and key not in new}

    fresh = {key: fresh_of(key, tensor) for key, tensor in own.items()}
    found = wb.infer(fresh, runtime(fresh))
    assert found.is_complete
    assert found.inverse_faults == ()
    wanted = runtime(own)
    made = wb.plan(own, found.mapping, target=open_checkpoint(wanted), **found.options).state_dict()
    assert [key for key in wanted if not made[key].equal(wanted[key])] == []


# The way back


def test_a9_rules_are_chosen_so_that_the_way_back_holds() -> None:
    """A prefix that some names lack, and a word that others have already: the shortest rules could not be undone."""
    value = {name: torch.randn(4, number + 2) for number, name in enumerate("abcd")}
    source = {"transformer.wte.weight": value["a"], "transformer.h.0.w": value["b"], "score.weight": value["c"]}
    found = wb.infer(source, {key.removeprefix("transformer."): tensor for key, tensor in source.items()})
    assert found.inverse_faults == ()
    assert "PrefixChange" not in str(found)
    source = {"a.norm.gamma": value["a"], "b.norm.gamma": value["b"], "new.norm.weight": value["c"]}
    found = wb.infer(source, {key.replace("gamma", "weight"): tensor for key, tensor in source.items()})
    assert found.inverse_faults == ()
    back = wb.plan(found.plan.state_dict(), found.mapping.inverse(), target=source).state_dict()
    assert back.keys() == source.keys()
    assert all(back[key].equal(source[key]) for key in source)


def faults_of(rules: list[Any], source: Tensors, target: Tensors) -> tuple[str, ...]:
    mapping, sides = wb.Mapping(rules), [open_checkpoint(side) for side in (source, target)]
    return inverse_faults(mapping, wb.plan(source, mapping, target=target), *sides)


def test_a9_an_inverse_that_does_not_hold_is_found_out() -> None:
    a, b = torch.randn(4, 4), torch.randn(4, 4)
    source, target = {"one.gamma": a, "two.weight": b}, {"one.weight": a, "two.weight": b}
    (fault,) = faults_of([wb.WeightRenaming("gamma", "weight")], source, target)
    assert fault == "target-missing: nothing fills this target @ two.weight"
    assert faults_of([wb.WeightRenaming("one.gamma", "one.weight")], source, target) == ()
    (fault,) = faults_of([wb.WeightRenaming(r"(one|uno)\.gamma", "one.weight")], source, target)
    assert fault.startswith("pattern-one-way: ")


def test_a9_an_inverse_with_other_values_is_found_out() -> None:
    """The plan is that of one pair of checkpoints, and what comes back is compared with another one."""
    a = torch.randn(4, 4)
    plan = wb.plan({"x": a}, wb.Mapping([wb.WeightRenaming("x", "y")]), target={"y": a})
    faults = inverse_faults(plan.mapping, plan, open_checkpoint({"x": a + 1}), open_checkpoint({"y": a}))
    assert faults == ("x comes back with other values",)


def test_a9_way_back_of_a_cast_is_what_the_cast_leaves() -> None:
    source = {"x": torch.randn(9, 4), "v": torch.randn(3)}
    found = wb.infer(source, {key.upper(): tensor.bfloat16() for key, tensor in source.items()})
    assert found.inverse_faults == ()
    assert any("rounded" in note for note in found.notes)


def test_a9_way_back_is_not_asked_for_what_is_dropped_or_new() -> None:
    source = {"x": torch.randn(9, 4), "freq": torch.tensor([True, False, True])}
    target = {"y": source["x"], "head": torch.ones(7, dtype=torch.int64)}
    found = wb.infer(source, target)
    assert found.is_complete
    assert (len(found.mapping.drop), len(found.mapping.initialise)) == (1, 1)
    assert found.inverse_faults == ()


# The command


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = models(LLAMA)
    for name, tensors in made._asdict().items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ran(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


def test_a9_command_says_it_on_the_terminal_in_the_file_in_json_and_by_its_status(fresh: Path) -> None:
    answer = ran("infer", "fresh.safetensors", "fresh_target.safetensors", "-o", "mapping.yaml")
    assert answer.exit_code == 6, answer.output
    checks = [line for line in answer.stdout.splitlines() if line.startswith("CHECK ")]
    assert len(checks) == 2
    lines = (fresh / "mapping.yaml").read_text().splitlines()
    for name, other in (("attention_norm", "ffn_norm"), ("ffn_norm", "attention_norm")):
        above = lines[lines.index(f"  - rename: {name}") - 1]
        assert above.startswith("  # CHECK: ")
        assert f"layers.{{0,1}}.{other}.weight" in above
    form = json.loads(ran("infer", "fresh.safetensors", "fresh_target.safetensors", "--json").stdout)
    assert [choice["others"] for choice in form["open_choices"]] == [
        [f"layers.{{0,1}}.{name}.weight"] for name in ("ffn_norm", "attention_norm")
    ]
    assert form["inverse_faults"] == []
    for choice in form["open_choices"]:
        (rule,) = choice["rules"]
        assert form["explained_by"][rule] == LAYERS


def test_a9_command_ends_with_0_where_values_tell_all(fresh: Path) -> None:
    answer = ran("infer", "trained.safetensors", "trained_target.safetensors")
    assert answer.exit_code == 0
    assert "CHECK" not in answer.stdout


def test_a9_each_status_has_its_meaning(fresh: Path) -> None:
    found = wb.infer("trained.safetensors", "trained_target.safetensors")
    assert status_of(found) == 0
    assert status_of(replace(found, inverse_faults=("x does not come back",))) == 7
    unsettled = wb.infer("fresh.safetensors", "fresh_target.safetensors")
    assert status_of(replace(unsettled, inverse_faults=("x does not come back",))) == 6
    text = ran("--help").stdout
    assert "6" in text
    assert "(CHECK)" in " ".join(text.split())
