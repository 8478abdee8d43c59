"""Compare two checkpoints exactly, tensor by tensor, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from weighbridge.errors import VerifyError
from weighbridge.keys import collapse
from weighbridge.specs import TensorSpec, coordinates

if TYPE_CHECKING:
    from weighbridge.storage.protocol import Checkpoint

WINDOW_BYTES: Final = 4 * 2**20
"""How much of a tensor is compared at a time, on each side, in bytes; a multiple of every element's size."""


class Difference(NamedTuple):
    """One tensor that differs.

    `first` is the place of the first differing element, `differing` the number of elements that differ; both are empty
    where the specs differ already.
    """

    key: str
    first_spec: TensorSpec
    second_spec: TensorSpec
    first: tuple[int, ...] | None = None
    differing: int = 0

    def __str__(self) -> str:
        if self.first is None:
            return f"{self.key}: {self.first_spec} against {self.second_spec}"
        place = f"first at [{', '.join(map(str, self.first))}]"
        return f"{self.key} {self.first_spec}: {self.differing:,} of {self.first_spec.numel:,} elements differ, {place}"


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of a comparison; true if everything is equal.

    Args:
        compared: Number of tensors whose bytes were compared.
        compared_bytes: Size of these on one side.
        only_first: Keys that only the first has.
        only_second: Keys that only the second has.
        differences: Tensors whose dtype, shape or bytes differ.
    """

    compared: int
    compared_bytes: int
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    differences: tuple[Difference, ...]

    @property
    def equal(self) -> bool:
        """Whether both hold the same keys with the same dtypes, shapes and bytes."""
        return not (self.only_first or self.only_second or self.differences)

    def __bool__(self) -> bool:
        return self.equal

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self, limit: int = 40) -> Iterator[str]:
        """Yield the result as text; of the tensors that differ, at most `limit`."""
        compared = f"{self.compared:,} tensor{'s' * (self.compared != 1)}, {self.compared_bytes:,} bytes compared"
        yield f"equal: {compared}" if self.equal else f"different: {self._counts()} ({compared})"
        yield from (f"only in the first:  {line}" for line in collapse(self.only_first))
        yield from (f"only in the second: {line}" for line in collapse(self.only_second))
        yield from (str(difference) for difference in self.differences[:limit])
        if len(self.differences) > limit:
            yield f"… and {len(self.differences) - limit} more tensors that differ"

    def _counts(self) -> str:
        counts = (len(self.differences), "differ"), (len(self.only_first), "only in the first")
        named = [
            f"{count:,} {word}" for count, word in (*counts, (len(self.only_second), "only in the second")) if count
        ]
        return ", ".join(named)

    def require_equal(self) -> None:
        """Raise if anything differs.

        Raises:
            VerifyError: `verify-failed`.
        """
        if not self.equal:
            raise VerifyError("verify-failed", "the checkpoints differ", got=str(self))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "equal": self.equal,
            "compared": self.compared,
            "compared_bytes": self.compared_bytes,
            "only_first": list(self.only_first),
            "only_second": list(self.only_second),
            "differences": [
                {
                    "key": found.key,
                    "first_spec": str(found.first_spec),
                    "second_spec": str(found.second_spec),
                    "first": None if found.first is None else list(found.first),
                    "differing": found.differing,
                }
                for found in self.differences
            ],
        }


def compare(first: Checkpoint, second: Checkpoint) -> Verification:
    """Compare two opened checkpoints.

    Values are compared as bytes: two NaNs of the same bits are equal, 0.0 and -0.0 are not.

    Args:
        first: One side.
        second: The other side.

    Raises:
        CheckpointError: The codes of reading.
    """
    common = [key for key in first.header if key in second.header]
    differences: list[Difference] = []
    compared = compared_bytes = 0
    for key in sorted(common):
        specs = first.header[key], second.header[key]
        if specs[0] != specs[1]:
            differences.append(Difference(key, *specs))
            continue
        compared += 1
        compared_bytes += specs[0].size_bytes
        found = _compare_tensor(first, second, key, specs[0])
        differences += [found] if found is not None else []
    return Verification(
        compared,
        compared_bytes,
        tuple(sorted(set(first.header) - set(common))),
        tuple(sorted(set(second.header) - set(common))),
        tuple(differences),
    )


def _compare_tensor(first: Checkpoint, second: Checkpoint, key: str, spec: TensorSpec) -> Difference | None:
    one, two = bytearray(min(WINDOW_BYTES, spec.size_bytes)), bytearray(min(WINDOW_BYTES, spec.size_bytes))
    at, count, position = None, 0, 0
    itemsize = max(1, spec.size_bytes // spec.numel) if spec.numel else 1
    while position < spec.size_bytes:
        size = min(len(one), spec.size_bytes - position)
        sides = memoryview(one)[:size], memoryview(two)[:size]
        first.read(key, position, sides[0])
        second.read(key, position, sides[1])
        if sides[0] != sides[1]:
            places = _differing(sides[0], sides[1], itemsize)
            at = at if at is not None else position // itemsize + places[0]
            count += len(places)
        position += size
    return None if at is None else Difference(key, spec, spec, coordinates(at, spec.shape), count)


def _differing(one: memoryview, two: memoryview, itemsize: int) -> Any:
    """Return the numbers of the elements whose bytes differ."""
    import torch

    sides = [torch.frombuffer(side, dtype=torch.uint8).view(-1, itemsize) for side in (one, two)]
    return (sides[0] != sides[1]).any(dim=1).nonzero().view(-1).tolist()
