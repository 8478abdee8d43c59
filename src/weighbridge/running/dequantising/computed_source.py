"""A checkpoint whose quantised weights are read as the numbers that they stand for, under their plain names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Final

from weighbridge.base.errors import CheckpointError
from weighbridge.base.json_text import without_members
from weighbridge.base.keys import counted
from weighbridge.base.specs import DTYPES, Header
from weighbridge.mappings.schemes.said import BESIDE, CONFIG, SAID
from weighbridge.running.dequantising.found_groups import ComputedWeight, FoundGroups
from weighbridge.storage.lookup import check_range
from weighbridge.storage.places.directory import Extra
from weighbridge.storage.places.regular_files import read_settings
from weighbridge.storage.protocol import InNoFile, pace_of, read_one_by_one, read_places

if TYPE_CHECKING:
    import torch

    from weighbridge.storage.places.file_fingerprints import FileFingerprint
    from weighbridge.storage.protocol import Checkpoint, Extent
    from weighbridge.storage.remote.pace import Pace

PART_BYTES: Final = 4 * 2**20
"""How much of a weight is computed at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class ComputedCheckpoint(InNoFile):
    """A checkpoint with its quantised weights computed.

    Args:
        inner: The checkpoint as it is.
        header: Specs of its other tensors, and of the weights in the place of their codes.
        weights: The weights by name.
        extras: Files beside the weights, of which none speaks of quantisation any more.
        notes: What is said of the checkpoint.
    """

    inner: Checkpoint
    header: Header
    weights: Mapping[str, ComputedWeight]
    extras: tuple[Extra, ...]
    notes: tuple[str, ...]

    @property
    def where(self) -> str:
        """What to call it: as the checkpoint."""
        return self.inner.where

    @property
    def is_serial(self) -> bool:
        """Whether the checkpoint makes its tensors when they are asked for; to compute is no reason."""
        return self.inner.is_serial

    @property
    def is_past_cache(self) -> bool:
        """Whether its files are read past the page cache."""
        return self.inner.is_past_cache

    @property
    def pace(self) -> Pace | None:
        """How its files are best read, if they lie elsewhere."""
        return pace_of(self.inner)

    def fingerprint(self) -> list[FileFingerprint]:
        """Describe its files."""
        return self.inner.fingerprint()

    def check_unchanged(self) -> None:
        """Compare its files with what was opened.

        Raises:
            CheckpointError: `source-changed`.
        """
        self.inner.check_unchanged()

    def is_made(self, key: str) -> bool:
        """Tell whether a tensor is computed, part by part."""
        return key in self.weights

    def extent(self, key: str) -> Extent | None:
        """Locate a tensor's bytes; those of a weight lie in no file."""
        return None if key in self.weights else self.inner.extent(self._own(key))

    def held(self, key: str) -> torch.Tensor | None:
        """Return a tensor that is held in memory."""
        return None if key in self.weights else self.inner.held(self._own(key))

    def held_tensors(self) -> Iterable[torch.Tensor]:
        """Return the tensors in memory that are read from."""
        return self.inner.held_tensors()

    def tensor(self, key: str) -> torch.Tensor:
        """Give out a tensor, a weight computed as a whole."""
        if key not in self.weights:
            return self.inner.tensor(self._own(key))
        import torch

        from weighbridge.storage.formats.torch_tensors import bytes_of, dtype_of

        spec = self.weights[key].spec
        made = torch.empty(spec.shape, dtype=dtype_of(spec.dtype))
        self.read(key, 0, bytes_of(made))
        return made

    def read(self, key: str, start_byte: int, buffer: memoryview) -> None:
        """Fill the whole buffer with a tensor's bytes, computed part by part."""
        if key not in self.weights:
            self.inner.read(self._own(key), start_byte, buffer)
            return
        from weighbridge.storage.formats.torch_tensors import bytes_of

        weight = self.weights[key]
        check_range(key, weight.spec.size_bytes, start_byte, buffer.nbytes, self.where)
        width = prod(weight.spec.shape[-1:]) * DTYPES[weight.spec.dtype].itemsize
        end, done = start_byte + buffer.nbytes, 0
        while start_byte + done < end:
            line = (start_byte + done) // width
            last = min(-(-end // width), line + max(1, PART_BYTES // width))
            part, lines = _lines(weight, self.inner, line, last)
            raw = bytes_of(part)
            skipped = start_byte + done - line * width
            count = min(lines * width - skipped, end - start_byte - done)
            buffer[done : done + count] = raw[skipped : skipped + count]
            done += count

    def collect(self, key: str, places: Iterable[tuple[int, int]], buffer: memoryview) -> None:
        """Fill the whole buffer from several places of a tensor; parts of a weight are computed one by one."""
        if key not in self.weights:
            read_places(self.inner, self._own(key), places, buffer)
        else:
            read_one_by_one(self, key, places, buffer)

    def _own(self, key: str) -> str:
        if key not in self.header:
            from weighbridge.storage.lookup import not_found

            raise not_found(key, self.header, self.where)
        return key


def _lines(weight: ComputedWeight, inner: Checkpoint, first: int, last: int) -> tuple[torch.Tensor, int]:
    """Compute lines of a weight along its last axis, as far as they are of one of a stack, and say how many."""
    import torch

    from weighbridge.running.dequantising.blocks import Range
    from weighbridge.running.dequantising.flat_values import FlatGroup, compute_flat
    from weighbridge.running.dequantising.weight_values import Wanted, compute

    group = weight.group
    with torch.no_grad():
        if isinstance(group, FlatGroup):
            width = prod(group.shape[-1:])
            return compute_flat(group, inner, Range(first * width, last * width)).contiguous(), last - first
        side = group.columns if group.formula.is_turned else group.rows
        number, start = divmod(first, side)
        stop = min(side, start + last - first)
        lines, rows, columns = Range(start, stop), Range(0, group.rows), Range(0, group.columns)
        if group.formula.is_turned:
            return compute(group, inner, Wanted(number, rows, lines)).T.contiguous(), lines.size
        return compute(group, inner, Wanted(number, lines, columns)).contiguous(), lines.size


def compute_weights(inner: Checkpoint, found: FoundGroups) -> ComputedCheckpoint:
    """Return a checkpoint with the weights that can be computed in the place of their codes.

    Args:
        inner: The checkpoint as it is.
        found: Its weights.

    Raises:
        CheckpointError: `scheme-conflict` where its tensors and its configuration contradict each other, `read-failed`.
    """
    if found.problems:
        raise CheckpointError(
            "scheme-conflict",
            "what is said of the quantised weights is not what is there",
            where=inner.where,
            got="\n".join(found.problems[:5]),
            hint="leave the codes as they are, without a dtype= (--dtype) for all tensors,\n"
            "or correct the configuration: config=, or --config FILE",
        )
    codes = {weight.keys[0]: name for name, weight in found.weights.items()}
    members = {key for weight in found.weights.values() for key in weight.keys}
    specs = {
        codes.get(key, key): found.weights[codes[key]].spec if key in codes else spec
        for key, spec in inner.header.items()
        if key in codes or key not in members
    }
    ties = {key: twin for key, twin in inner.header.ties.items() if not {key, twin} & members}
    metadata = {name: text for name, text in inner.header.metadata.items() if name == "format"}
    header = Header(specs, metadata, ties)
    extras = inner.extras if found.kept else tuple(_plain_extras(inner.extras))
    return ComputedCheckpoint(inner, header, found.weights, extras, inner.notes)


def _plain_extras(extras: Iterable[Extra]) -> Iterable[Extra]:
    """Leave out what speaks of quantisation: a member of the configuration, and files of their own."""
    for extra in extras:
        if extra.name == CONFIG:
            raw = read_settings(extra.path)
            yield extra._replace(content=without_members(raw, SAID))
        elif extra.name not in BESIDE:
            yield extra


def said_of_configuration(made: ComputedCheckpoint) -> tuple[str, ...]:
    """Say what of the files beside the codes speaks of quantisation, and is not carried along."""
    now = {extra.name: extra for extra in made.extras}
    gone = [extra.name for extra in made.inner.extras if extra.name not in now]
    config = now.get(CONFIG)
    if config is not None and config.content is not None:
        raw = read_settings(config.path)
        gone = [f"{name} of {CONFIG}" for name in SAID if without_members(raw, [name]) != raw] + gone
    return (f"left behind with the codes: {', '.join(gone)}",) if gone else ()


def said_of_left_out(found: FoundGroups) -> tuple[str, ...]:
    """Say what of the tensors beside the codes has no part in the weights' values."""
    left: dict[str, int] = {}
    for weight in found.weights.values():
        for what in weight.left:
            left[what] = left.get(what, 0) + 1
    names = ", ".join(f"{what} of {counted(number, 'weight')}" for what, number in left.items())
    return (f"left out with the codes: {names}",) if left else ()
