"""Law C6: to cut a quantised checkpoint for ranks commutes with converting it, and with reading it as numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dequantised import weights_of
from safetensors.torch import load_file
from test_group_laws import KINDS, bits, configuration
from test_groups import example
from test_refining import set_in

import weighbridge as wb

Tensors = dict[str, torch.Tensor]

RANKS = (0, 1)
LAYER = "model.layers.{n}."


def of_ranks(name: str) -> list[str]:
    return [f"rank{rank}.{name}" for rank in RANKS]


def dealt(parts: list[str], rows: tuple[int, ...], name: str) -> wb.WeightConverter:
    """Join weights by rows, each rank's share of every one of them side by side, and give each rank its own."""
    sources = [f"^{LAYER}{part}_proj.weight" for part in parts]
    deal = wb.Reorder(0, tuple(range(len(rows))), rows, target_stripes=len(RANKS))
    operations = [wb.Concatenate(0), deal, wb.Chunk(0)]
    return wb.WeightConverter(sources, of_ranks(f"{LAYER}{name}_proj.weight"), operations)


def chunked(name: str, axis: int) -> wb.WeightConverter:
    return wb.WeightConverter(f"^{name}", of_ranks(name), [wb.Chunk(axis)])


PLAIN = [
    *(chunked(name, 0) for name in ("model.embed_tokens.weight", "lm_head.weight")),
    *(
        wb.WeightConverter(f"^{name}.weight", of_ranks(f"{name}.weight"), [wb.Repeat()])
        for name in (f"{LAYER}input_layernorm", f"{LAYER}post_attention_layernorm", "model.norm")
    ),
]
ATTENTION, MLP = ["self_attn.q", "self_attn.k", "self_attn.v"], ["mlp.gate", "mlp.up"]
BY_COLUMNS = [chunked(f"{LAYER}{name}_proj.weight", 1) for name in ("self_attn.o", "mlp.down")]
CUT_AND_JOINED = wb.Mapping(
    [
        dealt(ATTENTION, (24, 12, 12), "self_attn.qkv"),
        dealt(MLP, (20, 20), "mlp.gate_up"),
        *BY_COLUMNS,
        *PLAIN,
    ],
    name="ranks",
)
CUT = wb.Mapping(
    [*(chunked(f"{LAYER}{name}_proj.weight", 0) for name in (*ATTENTION, *MLP)), *BY_COLUMNS, *PLAIN], name="cut"
)
JOINED = wb.Mapping(
    [
        wb.WeightConverter([f"{part}_proj.weight" for part in parts], f"{name}_proj.weight", [wb.Concatenate(0)])
        for parts, name in ((ATTENTION, "self_attn.qkv"), (MLP, "mlp.gate_up"))
    ],
    name="joined",
)
"""The same two in a row: what each rank has of the weights, and then its fused ones."""


def published() -> Tensors:
    return load_file(example("layouts-llama") / "hf.safetensors")


def test_the_rules_give_each_rank_what_its_file_has() -> None:
    """So that what follows is about the ranks of a real system."""
    made = wb.plan(published(), CUT_AND_JOINED).state_dict()
    for rank in RANKS:
        file = load_file(example("layouts-llama") / f"vllm_tp2_rank{rank}.safetensors")
        own = {
            key.removeprefix(f"rank{rank}."): tensor for key, tensor in made.items() if key.startswith(f"rank{rank}.")
        }
        assert own.keys() == file.keys()
        assert [key for key in file if not own[key].equal(file[key])] == []


def quantised(name: str) -> tuple[Tensors, dict[str, Any]]:
    """The published checkpoint's shapes, with the weights of its layers stored in a format."""
    generator = torch.Generator().manual_seed(3)
    source: Tensors = {}
    for key, tensor in published().items():
        if key.endswith("_proj.weight"):
            source |= KINDS[name].make(key.removesuffix(".weight"), *tensor.shape, generator)
        else:
            source[key] = tensor
    return source, configuration(KINDS[name])


def numbers_of(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    """The same without codes: all other tensors as they are."""
    found = weights_of(tensors, config)
    stems = {key.removesuffix("weight") for key in found}
    return found | {key: value for key, value in tensors.items() if f"{key.rpartition('.')[0]}." not in stems}


DENSE = {
    "blocks of FP8": ("weight_block_size from 4 x 8 to 2 x 2",),
    "groups of columns": ("config_groups.group_0.weights.group_size from 8 to 2",),
    "one scale for each row": (),
    "one scale for each weight": (),
}
"""Formats whose sizes allow these shapes, and the blocks that two ranks would share."""


@pytest.mark.parametrize("name", DENSE)
def test_a_cut_for_ranks_commutes_with_converting_and_with_dequantising(name: str) -> None:
    source, config = quantised(name)
    plan = wb.plan(source, CUT_AND_JOINED, config=config, companions="refine")
    assert tuple(map(str, plan.refined)) == DENSE[name]
    made = plan.state_dict()
    numbers = numbers_of(made, set_in(config, plan))
    plain = wb.plan(numbers_of(source, config), CUT_AND_JOINED).state_dict()
    assert numbers.keys() == plain.keys()
    assert [key for key in plain if not numbers[key].equal(plain[key])] == []

    parts = wb.plan(source, CUT, config=config, companions="refine")
    cut, after = parts.state_dict(), set_in(config, parts)
    both = wb.plan(cut, JOINED, config=after, companions="refine")
    in_a_row = numbers_of(both.state_dict(), set_in(after, both))
    assert in_a_row.keys() == plain.keys()
    assert [key for key in plain if not in_a_row[key].equal(plain[key])] == []

    back = plan.inverse().state_dict(made)
    assert back.keys() == source.keys()
    assert [key for key in source if not bits(back[key]).equal(bits(source[key]))] == []


@pytest.mark.parametrize("name", DENSE)
def test_a_ranks_part_of_a_plan_gives_what_that_rank_has_of_all(name: str) -> None:
    source, config = quantised(name)
    plan = wb.plan(source, CUT_AND_JOINED, config=config, companions="refine")
    made = plan.state_dict()
    for rank in RANKS:
        own = plan.restrict(f"rank{rank}.**").state_dict()
        assert own.keys() == {key for key in made if key.startswith(f"rank{rank}.")}
        assert [key for key in own if not bits(own[key]).equal(bits(made[key]))] == []


SHAPES = {"q": (64, 64), "k": (32, 64), "v": (32, 64), "o": (64, 64), "up": (48, 64)}
"""Sizes of which every format's halves have whole blocks, those that are packed both ways included."""

DEALT = wb.WeightConverter(
    [f"^m.{part}_proj.weight" for part in "qkv"],
    of_ranks("m.qkv_proj.weight"),
    [wb.Concatenate(0), wb.Reorder(0, (0, 1, 2), (64, 32, 32), target_stripes=len(RANKS)), wb.Chunk(0)],
)
BY_ROWS = chunked("m.up_proj.weight", 0)
FUSED_IN_RANKS = wb.WeightConverter(
    [f"m.{part}_proj.weight" for part in "qkv"], "m.qkv_proj.weight", [wb.Concatenate(0)]
)


@pytest.mark.parametrize("name", KINDS)
def test_every_format_is_cut_for_ranks_before_or_after_it_is_joined(name: str) -> None:
    kind, config, generator = KINDS[name], configuration(KINDS[name]), torch.Generator().manual_seed(4)
    source: Tensors = {}
    for part, shape in SHAPES.items():
        source |= kind.make(f"m.{part}_proj", *shape, generator)
    has_columns = kind.columns > 0  # where columns are numbered, no rank has some of them
    down = [chunked("m.o_proj.weight", 1)] if has_columns else []
    plan = wb.plan(source, [DEALT, BY_ROWS, *down], config=config)
    made = plan.state_dict()
    cut = wb.plan(
        source, [*(chunked(f"m.{part}_proj.weight", 0) for part in "qkv"), BY_ROWS, *down], config=config
    ).state_dict()
    in_a_row = wb.plan(cut, [FUSED_IN_RANKS], config=config).state_dict()
    assert in_a_row.keys() == made.keys()
    assert [key for key in made if not bits(made[key]).equal(bits(in_a_row[key]))] == []

    before, after = weights_of(source, config), weights_of(made, config)
    for rank in RANKS:
        halves = {
            part: before[f"m.{part}_proj.weight"].chunk(len(RANKS), 1 if part == "o" else 0)[rank] for part in SHAPES
        }
        wanted = {"qkv": torch.cat([halves[part] for part in "qkv"]), "up": halves["up"]}
        wanted |= {"o": halves["o"]} if has_columns else {}
        for part, value in wanted.items():
            assert after[f"rank{rank}.m.{part}_proj.weight"].equal(value), (rank, part)
        own = plan.restrict(f"rank{rank}.**").state_dict()
        assert own.keys() == {key for key in made if key.startswith(f"rank{rank}.")}
        assert [key for key in own if not bits(own[key]).equal(bits(made[key]))] == []
    back = plan.inverse().state_dict(made)
    assert back.keys() == source.keys()
    assert [key for key in source if not bits(back[key]).equal(bits(source[key]))] == []
