"""Compare two checkpoints exactly, or an output with its receipt: tensor by tensor, in bounded memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from weighbridge.base.batches import run_in_batches, windows_of
from weighbridge.base.errors import CheckpointError, VerifyError
from weighbridge.base.file_names import INDEX_SUFFIX, names_torch_file
from weighbridge.base.keys import collapse, counted
from weighbridge.base.specs import DTYPES, TensorSpec, coordinates
from weighbridge.base.workers import count_workers
from weighbridge.running.receipt import read_receipt
from weighbridge.running.tensor_digests import digest_files, digest_tensor
from weighbridge.storage import open_checkpoint
from weighbridge.storage.protocol import pace_of
from weighbridge.storage.remote.addresses import path_or_address, read_address

if TYPE_CHECKING:
    from weighbridge.storage.protocol import Checkpoint

_LOG: Final = logging.getLogger(__name__)


class Difference(NamedTuple):
    """One tensor that differs.

    `first` is the place of the first differing element, `differing` the number of elements that differ. Elements that
    are smaller than a byte are not told apart: there, bytes take their place, and `first` is the number of one. Both
    are empty where the specs differ already, and where only digests were compared: `digests` holds these two then.
    """

    key: str
    first_spec: TensorSpec
    second_spec: TensorSpec
    first: tuple[int, ...] | None = None
    differing: int = 0
    digests: tuple[str, str] | None = None

    def __str__(self) -> str:
        if self.first_spec != self.second_spec:
            return f"{self.key}: {self.first_spec} against {self.second_spec}"
        if self.first is None:
            return f"{self.key} {self.first_spec}: its bytes are not those that were written"
        numel, word = _units(self.first_spec)
        place = f"first at [{', '.join(map(str, self.first))}]"
        return f"{self.key} {self.first_spec}: {self.differing:,} of {numel:,} {word} differ, {place}"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "key": self.key,
            "first_spec": str(self.first_spec),
            "second_spec": str(self.second_spec),
            "first": None if self.first is None else list(self.first),
            "differing": self.differing,
            "digests": None if self.digests is None else list(self.digests),
        }


def _units(spec: TensorSpec) -> tuple[int, str]:
    """Return how many pieces of a tensor can be told apart, and what they are."""
    return (spec.size_bytes, "bytes") if DTYPES[spec.dtype].bits % 8 else (spec.numel, "elements")


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of a comparison; true if everything is equal.

    Args:
        compared: Number of tensors whose bytes were compared.
        compared_bytes: Size of these on one side.
        only_first: Keys that only the first has.
        only_second: Keys that only the second has.
        differences: Tensors whose dtype, shape or bytes differ.
        files: What else differs in an output's weight files and index, one clause each.
        by_receipt: Whether the first side is an output's receipt, and the second what lies in the output.
    """

    compared: int
    compared_bytes: int
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    differences: tuple[Difference, ...]
    files: tuple[str, ...] = ()
    by_receipt: bool = False

    @property
    def equal(self) -> bool:
        """Whether both hold the same keys with the same dtypes, shapes and bytes, and files that are the same."""
        return not (self.only_first or self.only_second or self.differences or self.files)

    def __bool__(self) -> bool:
        return self.equal

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self, limit: int | None = 40) -> Iterator[str]:
        """Yield the result as text; of the tensors that differ, at most `limit`, or all for None."""
        compared = f"{self.compared:,} tensor{'s' * (self.compared != 1)}, {self.compared_bytes:,} bytes compared"
        compared += " with the receipt" * self.by_receipt
        yield f"equal: {compared}" if self.equal else f"different: {self._counts()} ({compared})"
        width = max(map(len, self._sides)) + 2
        for side, keys in zip(self._sides, (self.only_first, self.only_second), strict=True):
            yield from (f"only in {side + ':':<{width}}{line}" for line in collapse(keys))
        yield from self.files
        yield from (str(difference) for difference in self.differences[:limit])
        if limit is not None and len(self.differences) > limit:
            yield f"… and {counted(len(self.differences) - limit, 'more tensor')} that differ"

    @property
    def _sides(self) -> tuple[str, str]:
        return ("the receipt", "the files") if self.by_receipt else ("the first", "the second")

    def _counts(self) -> str:
        first, second = self._sides
        counts = (
            (len(self.differences), "differ"),
            (len(self.only_first), f"only in {first}"),
            (len(self.only_second), f"only in {second}"),
            (len(self.files), f"file{'s' * (len(self.files) != 1)} not as written"),
        )
        return ", ".join(f"{count:,} {word}" for count, word in counts if count)

    def require_equal(self) -> None:
        """Raise if anything differs.

        Raises:
            VerifyError: `verify-failed`.
        """
        if not self.equal:
            what = "the output is not what was written" if self.by_receipt else "the checkpoints differ"
            hint = "" if self.by_receipt else "weighbridge.diff(first, second) says how their tensors are related"
            raise VerifyError("verify-failed", what, got=str(self), hint=hint)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "equal": self.equal,
            "compared": self.compared,
            "compared_bytes": self.compared_bytes,
            "only_first": list(self.only_first),
            "only_second": list(self.only_second),
            "differences": [found.to_dict() for found in self.differences],
            "files": list(self.files),
        }


def compare(first: Checkpoint, second: Checkpoint) -> Verification:
    """Compare two opened checkpoints.

    Values are compared as bytes: two NaNs of the same bits are equal, 0.0 and -0.0 are not. Several tensors are read
    at a time, each through two buffers of `batches.WINDOW_BYTES`.

    Args:
        first: One side.
        second: The other side.

    Raises:
        CheckpointError: The codes of reading.
    """

    def work(key: str) -> Difference | None:
        return _compare_tensor(first, second, key)

    return _verify(first.header, second.header, work, workers=_workers(first, second))


def check_output(place: str | PathLike[str]) -> Verification:
    """Compare an output with its own receipt: keys, specs, every tensor's digest, the files' heads and the index.

    Args:
        place: A directory that was written with digests, or one of the files in it; or a torch file.

    Raises:
        CheckpointError: `receipt-invalid`, `digests-missing`, and the codes of opening and reading, `index-mismatch`
            for a missing shard for example.
    """
    path = path_or_address(place)
    is_one_file = isinstance(path, Path) and path.is_file() and not names_torch_file(path)
    found = open_checkpoint(_folder_of(path) if is_one_file or isinstance(path, str) else place)
    receipt = read_receipt(path)
    recorded = receipt.digests
    if recorded is None:
        raise CheckpointError(
            "digests-missing",
            "this output was written without digests",
            where=str(place),
            hint="convert with digests: weighbridge convert --digests, or digests=True;\n"
            "or compare with another checkpoint: weighbridge verify A B",
        )
    wanted = receipt.plan.target

    def work(key: str) -> Difference | None:
        pair, spec = (recorded.tensors[key], digest_tensor(found, key)), wanted[key]
        return None if pair[0] == pair[1] else Difference(key, spec, spec, digests=pair)

    files = _compare_files(recorded.files, digest_files(found.images, found.index))
    return _verify(wanted, found.header, work, files=tuple(files), by_receipt=True, workers=_workers(found))


def _workers(*checkpoints: Checkpoint) -> int:
    """Return how many tensors are looked at at once: what cores do, or what answers from elsewhere take."""
    paces = [pace.in_flight for each in checkpoints if (pace := pace_of(each)) is not None]
    return max(paces, default=count_workers())


def _folder_of(place: Path | str) -> Path | str:
    return place.parent if isinstance(place, Path) else read_address(place).folder


def _compare_files(recorded: Mapping[str, str], found: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(recorded.keys() | found.keys()):
        if name not in found:
            yield f"{name}: this file was written, and is no part of the checkpoint"
        elif name not in recorded:
            yield f"{name}: this file was not written"
        elif found[name] != recorded[name]:
            part = "its text" if name.endswith(INDEX_SUFFIX) else "its header"
            yield f"{name}: {part} is not the one that was written"


def _verify(
    first: Mapping[str, TensorSpec],
    second: Mapping[str, TensorSpec],
    work: Callable[[str], Difference | None],
    *,
    files: tuple[str, ...] = (),
    by_receipt: bool = False,
    workers: int,
) -> Verification:
    """Collect what differs; `work` looks at a tensor whose spec is the same on both sides."""
    common = sorted(first.keys() & second.keys())
    _LOG.info("comparing %s tensors, %d at a time", f"{len(common):,}", workers)
    found = {key: Difference(key, first[key], second[key]) for key in common if first[key] != second[key]}
    same = [key for key in common if key not in found]
    looked_at = run_in_batches(work, same, lambda key: first[key].size_bytes, workers=workers)
    found |= {difference.key: difference for difference in looked_at if difference is not None}
    return Verification(
        len(same),
        sum(first[key].size_bytes for key in same),
        tuple(sorted(first.keys() - second.keys())),
        tuple(sorted(second.keys() - first.keys())),
        tuple(found[key] for key in common if key in found),
        files,
        by_receipt,
    )


def _compare_tensor(first: Checkpoint, second: Checkpoint, key: str) -> Difference | None:
    """Compare a tensor's bytes, a window of both sides at a time."""
    spec = first.header[key]
    itemsize = DTYPES[spec.dtype].itemsize
    at, count = None, 0
    one = two = bytearray()
    for start, stop in windows_of(spec.size_bytes):
        if len(one) != stop - start:
            one, two = bytearray(stop - start), bytearray(stop - start)
        first.read(key, start, memoryview(one))
        second.read(key, start, memoryview(two))
        if one != two:
            place, differing = _differing(one, two, itemsize)
            at = at if at is not None else start // itemsize + place
            count += differing
    if at is None:
        return None
    is_packed = DTYPES[spec.dtype].bits % 8 != 0
    return Difference(key, spec, spec, (at,) if is_packed else coordinates(at, spec.shape), count)


def _differing(one: bytearray, two: bytearray, itemsize: int) -> tuple[int, int]:
    """Return the number of the first element whose bytes differ, and how many do."""
    import torch

    sides = [torch.frombuffer(side, dtype=torch.uint8).view(-1, itemsize) for side in (one, two)]
    differs = (sides[0] != sides[1]).any(dim=1).to(torch.uint8)
    return int(differs.argmax()), int(differs.count_nonzero())
