"""Inference on layouts that nobody has chosen: of each kind some are drawn, and found both ways, or nothing is said."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings, strategies as st
from mapping_cases import Tensors, equal

import weighbridge as wb

Layouts = tuple[Tensors, Tensors]


class Draw:
    """Chance, and tensors with values that no other one has."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.layers = range(self.chance.randint(1, 3))

    def new(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator)

    def value(self) -> float:
        return self.chance.choice((0.0, 0.0, 1.0, -2.5, -torch.inf))


def blocks(draw: Draw) -> Layouts:
    """Parts of one tensor that change places."""
    chance = draw.chance
    sizes = chance.choice(((5, 5), (6, 3, 3), (3, 8, 4), (4, 4, 4)))
    order = chance.choice([order for order in ((1, 0), (1, 0, 2), (2, 0, 1), (0, 2, 1)) if len(order) == len(sizes)])
    a = {f"l.{i}.mix.weight": draw.new(sum(sizes), 3) for i in draw.layers}
    b = {f"h.{i[2]}.mixed.weight": torch.cat([whole.split(sizes)[part] for part in order]) for i, whole in a.items()}
    return a, b


def replicas(draw: Draw) -> Layouts:
    """Equal tensors, by an index or by names, that are one on the other side."""
    count = draw.chance.randint(2, 4)
    one = {f"h.{i}.norm.weight": draw.new(6) for i in draw.layers} | {"wte.weight": draw.new(7, 3)}
    names = [f"ranks.{rank}.%s" for rank in range(count)]
    several = {name % f"l.{i}.norm.weight": one[f"h.{i}.norm.weight"].clone() for i in draw.layers for name in names}
    return several | {key: one["wte.weight"].clone() for key in ("embed.weight", "head.weight")}, one


def padded(draw: Draw) -> Layouts:
    """Rows behind a matrix or a vector, which may be stored the other way round as well."""
    a, b = Tensors(), Tensors()
    for i in draw.layers:
        w, bias = draw.new(draw.chance.randint(3, 8), draw.chance.randint(3, 8)), draw.new(draw.chance.randint(4, 8))
        rows = torch.full((draw.chance.randint(1, 4), w.shape[1]), draw.value())
        a |= {f"l.{i}.w": w, f"l.{i}.b": bias}
        longer = torch.cat([w, rows])
        b[f"h.{i}.w"] = longer.T.contiguous() if draw.chance.random() < 0.5 else longer
        b[f"h.{i}.b"] = torch.cat([bias, torch.full((3,), draw.value())])
    return a, b


def absent(draw: Draw) -> Layouts:
    """Parts of a fused tensor, of which one is of one value and stands on that side alone."""
    chance = draw.chance
    sizes, axis = [chance.randint(4, 7) for _ in range(chance.randint(2, 4))], chance.randint(0, 1)
    hole, value = chance.randrange(len(sizes)), draw.value()
    a, b = Tensors(), Tensors()
    for i in draw.layers:
        parts = [draw.new(size, 3) if axis == 0 else draw.new(3, size) for size in sizes]
        a |= {f"l.{i}.part_{n}.w": part for n, part in enumerate(parts) if n != hole}
        parts[hole] = torch.full_like(parts[hole], value)
        b[f"h.{i}.fused.w"] = torch.cat(parts, axis)
    return a, b


def grids(draw: Draw) -> Layouts:
    """All experts of all layers in one tensor, two of them side by side or one, with an axis for each index or not."""
    chance = draw.chance
    layers, experts, shape = chance.randint(2, 3), chance.randint(2, 4), (chance.randint(2, 4), chance.randint(2, 4))
    names = ("gate", "up")[: chance.randint(1, 2)]
    a = {f"l.{i}.e.{e}.{name}": draw.new(*shape) for i in range(layers) for e in range(experts) for name in names}
    each = [torch.stack([torch.stack([a[f"l.{i}.e.{e}.{name}"] for e in range(experts)]) for i in range(layers)])
            for name in names]  # fmt: skip
    whole = torch.cat(each, 2)
    return a, {"moe.all": whole.flatten(0, 1) if len(names) == 1 and chance.random() < 0.5 else whole}


KINDS: dict[str, Callable[[Draw], Layouts]] = {
    each.__name__: each for each in (blocks, replicas, padded, absent, grids)
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_what_is_drawn_is_found_there_and_back(kind: str, seed: int) -> None:
    a, b = KINDS[kind](Draw(seed))
    a, b = a | {"other.weight": torch.ones(5, 5).triu()}, b | {"another.weight": torch.ones(5, 5).triu()}
    for one, two in ((a, b), (b, a)):
        found = wb.infer(one, two)
        assert found.is_complete
        assert found.inverse_faults == ()
        assert equal(wb.plan(one, found.mapping, target=two, **found.options).state_dict(), two)
        assert equal(wb.plan(two, found.mapping.inverse(), target=one, **found.options).state_dict(), one)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_what_does_not_hold_is_not_said(kind: str, seed: int) -> None:
    """One element is another one, on the side of which it is changed: what is said of the others is right."""
    draw = Draw(seed)
    a, b = KINDS[kind](draw)
    key = draw.chance.choice(sorted(b))
    b[key].view(-1)[draw.chance.randrange(b[key].numel())] = 0.123
    a["other.weight"] = draw.new(5, 5)
    b["another.weight"] = a["other.weight"].clone()
    for one, two in ((a, b), (b, a)):
        found = wb.infer(one, two)
        made = wb.plan(one, found.mapping, target=two, partial=True, **found.options).state_dict()
        assert [name for name in made if name in two and not made[name].equal(two[name])] == []
        moved = [step for step in found.plan.steps if step.fate != "carried"]
        assert not any(key in (*step.sources, *step.targets) for step in moved)
