"""A source of which this rank holds parts, and the other ranks of an exchange the rest: its header is of the whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from weighbridge.algebra.held_parts import Part
from weighbridge.base.specs import Header
from weighbridge.running.by_ranks.exchange import Exchange
from weighbridge.storage.formats.memory import TensorsCheckpoint
from weighbridge.storage.protocol import InNoFile

if TYPE_CHECKING:
    import torch


class HeldSource(InNoFile):
    """Tensors that several ranks hold together, as one of them has them.

    Args:
        header: Specs of the whole tensors, and which are tied.
        held: What this rank holds of them, in memory.
        parts: Which part that is, of each of which it holds one.
        copied: Keys of which others may hold the very same.
        exchange: What the ranks talk through.
        notes: What was left aside.
        second_names: Names of tied weights that a file has under another name alone, as the model says.
        in_stages: Whether a rank may hold no part of a tensor, as that is in another stage of a pipeline.
    """

    extras = ()
    is_serial = False
    is_past_cache = False

    def __init__(
        self,
        header: Header,
        held: TensorsCheckpoint,
        parts: Mapping[str, Part],
        copied: frozenset[str],
        exchange: Exchange,
        notes: tuple[str, ...] = (),
        second_names: tuple[str, ...] = (),
        *,
        in_stages: bool = False,
    ) -> None:
        self.header = header
        self.local = held
        self.parts = parts
        self.copied = copied
        self.exchange = exchange
        self.notes = notes
        self.second_names = second_names
        self.in_stages = in_stages

    @property
    def where(self) -> str:
        """What to call it in a message."""
        return self.local.where

    def fingerprint(self) -> list[dict[str, str | int]]:
        """Return nothing: the tensors are in no file."""
        return []

    def check_unchanged(self) -> None:
        """Do nothing: tensors in memory are not looked at."""

    def check_there(self) -> None:
        """Check that what this rank holds has values, before any rank writes.

        Raises:
            CheckpointError: `data-missing`, `tensor-bounds`.
        """
        for key in self.parts:
            self.local.tensor(key)

    def first_word(self, topic: str, word: str) -> str:
        """Return what the first rank says that has something to say; all of them ask for it.

        Raises:
            DestinationError: As `Exchange.agree`.
        """
        ranks = self.exchange.ranks
        found: str = self.exchange.agree(topic, word, lambda said: [next(filter(None, said), "")] * ranks)
        return found

    def has_no_part(self, key: str) -> bool:
        """Tell whether a tensor of the model is held by other ranks alone; not so of what is in a file."""
        return key in self.header and key not in self.parts

    def extent(self, key: str) -> None:
        """Return None: the bytes are in memory.

        Raises:
            CheckpointError: `tensor-not-found`.
        """
        self.local.extent(key)

    def held(self, key: str) -> torch.Tensor:
        """Return what this rank holds of a tensor.

        Raises:
            CheckpointError: `tensor-not-found`.
        """
        return self.local.held(key)

    def held_tensors(self) -> Iterable[torch.Tensor]:
        """Return what this rank holds of all tensors."""
        return self.local.held_tensors()

    def tensor(self, key: str) -> torch.Tensor:
        """Return what this rank holds of a tensor.

        Raises:
            CheckpointError: `tensor-not-found`, `data-missing`, `tensor-bounds`.
        """
        return self.local.tensor(key)

    def read(self, key: str, start_byte: int, buffer: memoryview) -> None:
        """Fill a buffer with bytes of what this rank holds of a tensor.

        Raises:
            CheckpointError: `tensor-not-found`, `data-missing`, `tensor-bounds`.
        """
        self.local.read(key, start_byte, buffer)
