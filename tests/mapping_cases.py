"""Rules with what they read and what plain torch makes of it: forwards and backwards, from memory and from files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import weighbridge as wb

Tensors = dict[str, torch.Tensor]


def numbers(*shape: int) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


def equal(found: Tensors, wanted: Tensors) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


@dataclass(frozen=True)
class Case:
    """Rules, what they read, and what plain torch makes of it."""

    operations: list[Any]
    source: Tensors
    target: Tensors
    config: dict[str, Any] = field(default_factory=dict)
    sides: tuple[Any, Any] = ("block", "block")

    @property
    def mapping(self) -> wb.Mapping:
        return wb.Mapping([wb.WeightConverter(*self.sides, self.operations)], name="blocks")

    def check_in_memory(self) -> None:
        plan = wb.plan(self.source, self.mapping, config=self.config)
        assert plan.is_exact
        assert equal(plan.state_dict(), self.target)
        assert equal(wb.Plan.from_json(plan.to_json()).state_dict(self.source), self.target)

    def check_ways_back(self) -> None:
        """The inverse is recorded, and derived from the mapping alone."""
        recorded = wb.plan(self.source, self.mapping, config=self.config).inverse()
        assert recorded.inverse().inverse() == recorded
        derived = wb.plan(self.target, self.mapping.inverse(), config=self.config)
        assert equal(recorded.state_dict(self.target), self.source)
        assert equal(derived.state_dict(), self.source)

    def check_files(self, folder: Path) -> None:
        """The mapping is a file, the weights are files, and the way back gives the very same file."""
        published = folder / "published"
        published.mkdir()
        save_file(self.source, published / "model.safetensors")
        file = folder / "mapping.yaml"
        file.write_text(self.mapping.to_yaml(), "utf-8")
        assert wb.load_mapping(file) == self.mapping
        wb.convert(published, folder / "out", wb.load_mapping(file), config=self.config)
        assert equal(load_file(folder / "out" / "model.safetensors"), self.target)
        wb.revert(folder / "out", folder / "back")
        assert (folder / "back" / "model.safetensors").read_bytes() == (published / "model.safetensors").read_bytes()
