"""Ranks as threads of one process: each has its parts of some tensors, and they write one output together.

What they say goes through a store of torch's that lies in this process; no process group is made, as none is needed.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from drawn_parts import Shape, deal, held_of

import weighbridge as wb
from weighbridge.running.by_ranks.exchange import Exchange
from weighbridge.running.by_ranks.held_source import HeldSource
from weighbridge.storage.formats.memory import hold_tensors

Parts = Mapping[str, wb.Part]


def deal_alike(shapes: Mapping[str, Shape], ranks: int, chance: random.Random) -> list[dict[str, wb.Part]]:
    """Deal tensors out; those of one shape are dealt alike, as a model's layers are."""
    dealt = {shape: deal(shape, ranks, chance) for shape in sorted(set(shapes.values()))}
    return [{key: dealt[shape][rank] for key, shape in shapes.items()} for rank in range(ranks)]


def deal_stages(shapes: Mapping[str, Shape], ranks: int, chance: random.Random) -> list[dict[str, wb.Part]]:
    """Deal tensors out to two stages, and what a stage holds to its ranks; what one rank has, another may have too."""
    stages = [list(range(ranks))[number::2] for number in range(min(2, ranks))]
    dealt: list[dict[str, wb.Part]] = [{} for _ in range(ranks)]
    for key, shape in shapes.items():
        members = chance.choice(stages)
        for rank, part in zip(members, deal(shape, len(members), chance), strict=True):
            dealt[rank][key] = part
        if len(members) == 1 and chance.random() < 0.2:
            dealt[chance.randrange(ranks)][key] = wb.Part.whole(shape)
    return dealt


def at_once(works: Sequence[Callable[[], Any]]) -> list[Any]:
    """Do some things in threads; what each returns, or the error that it ends with."""
    found: list[Any] = [None] * len(works)

    def run(number: int) -> None:
        try:
            found[number] = works[number]()
        except BaseException as problem:
            found[number] = problem

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


class Ranks:
    """Some ranks that hold tensors together.

    Args:
        tensors: The whole tensors.
        parts: What each rank holds of them.
        timeout_s: How long they wait for each other.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], parts: Sequence[Parts], timeout_s: float = 60) -> None:
        self.header = wb.open(dict(tensors)).header
        self.parts = parts
        self.held = [{key: held_of(tensors[key], part).clone() for key, part in mine.items()} for mine in parts]
        self.store = dist.HashStore()
        self.timeout_s = timeout_s

    def exchange(self, rank: int, where: str = "") -> Exchange:
        return Exchange(self.store, rank, len(self.parts), where, self.timeout_s)

    def source(self, rank: int, where: str = "") -> HeldSource:
        mine, exchange = self.parts[rank], self.exchange(rank, where)
        local, in_stages = hold_tensors(self.held[rank]), any(self.header.keys() - each.keys() for each in self.parts)
        return HeldSource(self.header, local, mine, frozenset(mine), exchange, in_stages=in_stages)

    def write(
        self, plan: Any, out: Path, *, but: Mapping[int, Mapping[str, Any]] | None = None, **options: Any
    ) -> list[Any]:
        """Let all ranks write a plan's targets; what each returns or raises.

        Args:
            plan: The plan.
            out: Where.
            but: What some ranks are given otherwise: `plan`, `out`, or options. None for one that does not come.
            options: As for `Plan.write`.
        """
        others = but or {}
        ranks = [rank for rank in range(len(self.parts)) if others.get(rank, {}) is not None]
        return at_once(
            [
                lambda rank=rank: self._write(rank, {"plan": plan, "out": out, **options, **others.get(rank, {})})
                for rank in ranks
            ]
        )  # type: ignore[misc]

    def _write(self, rank: int, given: dict[str, Any]) -> Path:
        plan, out = given.pop("plan"), given.pop("out")
        source = self.source(rank, str(out))
        with source.exchange.failing_first():
            return wb.Plan.bind(plan, source).write(out, **given)
