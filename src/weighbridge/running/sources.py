"""What a run reads: whether it is what the plan was made for, and sources that are made of others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import TYPE_CHECKING, Final

from weighbridge.base.errors import CheckpointError
from weighbridge.base.keys import collapse
from weighbridge.base.process.machines import check_byte_order
from weighbridge.base.specs import Header, TensorSpec
from weighbridge.planning.plan import Plan
from weighbridge.running.execute import run_step
from weighbridge.storage.protocol import InNoFile, fullest_pace, read_places

if TYPE_CHECKING:
    import torch

    from weighbridge.storage.protocol import Checkpoint, Extent
    from weighbridge.storage.remote.pace import Pace


_ANEW: Final = (
    "plan anew for what is there now; a model that has changed since it was loaded is saved as it is by\n"
    "save(model, out)"
)


def check_source(plan: Plan, checkpoint: Checkpoint) -> None:
    """Compare a source's tensors with those that a plan was made for: names, dtypes and shapes, none left out.

    Raises:
        CheckpointError: `source-changed`.
        WeighbridgeError: `machine-unsupported`.
    """
    check_byte_order()
    for key, spec in plan.source.items():
        found = checkpoint.header.specs.get(key)
        if found != spec and not _absent_by_right(plan, key, found):
            raise CheckpointError(
                "source-changed",
                "the source is not the one that the plan was made for",
                where=f"{checkpoint.where}: {key}",
                expected=str(spec),
                got=str(found) if found is not None else "no such tensor",
                hint=_ANEW,
            )
    extra = [key for key in checkpoint.header if key not in plan.source]
    if extra:
        raise CheckpointError(
            "source-changed",
            "the source has tensors that the plan does not know",
            where=f"{checkpoint.where}: {', '.join(collapse(extra)[:4])}",
            hint=_ANEW,
        )
    checkpoint.check_unchanged()


def _absent_by_right(plan: Plan, key: str, found: TensorSpec | None) -> bool:
    return found is None and (key not in plan.step_of_source)


def complete(plan: Plan, checkpoint: Checkpoint, find_origin: Callable[[], Checkpoint | None]) -> Checkpoint:
    """Add the carried tensors that a model has no place for, from the checkpoint that it was loaded from.

    Args:
        plan: A way back.
        checkpoint: What it reads, such as a model.
        find_origin: Opens what the model's weights came from, if that is known; called where something is absent.
    """
    steps = (step for step in plan.steps if step.fate == "carried")
    absent = [key for step in steps for key in step.sources if key not in checkpoint.header]
    origin = find_origin() if absent else None
    if origin is None or any(key not in origin.header for key in absent):
        return checkpoint
    return LayeredCheckpoint(checkpoint, origin, frozenset(absent))


class LayeredCheckpoint(InNoFile):
    """A source in front, and another one behind it for the keys that the first does not have.

    Args:
        front: Where most tensors come from.
        behind: Where the others come from.
        keys: The others.
    """

    def __init__(self, front: Checkpoint, behind: Checkpoint, keys: frozenset[str]) -> None:
        self.front = front
        self.behind = behind
        self.keys = keys
        self.where = front.where
        self.extras = front.extras
        self.notes = front.notes
        specs = {**front.header.specs, **{key: behind.header[key] for key in keys}}
        self.header = Header(specs, front.header.metadata, front.header.ties)

    def _of(self, key: str) -> Checkpoint:
        return self.behind if key in self.keys else self.front

    def fingerprint(self) -> list[dict[str, str | int]]:
        """Describe the files of both."""
        return [*self.front.fingerprint(), *self.behind.fingerprint()]

    def check_unchanged(self) -> None:
        """Check the files of both."""
        self.front.check_unchanged()
        self.behind.check_unchanged()

    def extent(self, key: str) -> Extent | None:
        """Locate a tensor's bytes."""
        return self._of(key).extent(key)

    def tensor(self, key: str) -> torch.Tensor:
        """Give out a tensor of either."""
        return self._of(key).tensor(key)

    def read(self, key: str, start_byte: int, buffer: memoryview) -> None:
        """Fill a buffer with a tensor's bytes."""
        self._of(key).read(key, start_byte, buffer)

    def collect(self, key: str, places: Iterable[tuple[int, int]], buffer: memoryview) -> None:
        """Fill a buffer from several places of a tensor."""
        read_places(self._of(key), key, places, buffer)

    @property
    def is_serial(self) -> bool:
        """Whether one of the two makes its tensors as it goes."""
        return self.front.is_serial or self.behind.is_serial

    @property
    def is_past_cache(self) -> bool:
        """Whether files of one of the two are read past the page cache."""
        return self.front.is_past_cache or self.behind.is_past_cache

    @property
    def pace(self) -> Pace | None:
        """How the one that lies elsewhere is best read; None where none does."""
        return fullest_pace((self.front, self.behind))

    def held(self, key: str) -> torch.Tensor | None:
        """Return a tensor that one of the two holds in memory."""
        return self._of(key).held(key)

    def held_tensors(self) -> Iterable[torch.Tensor]:
        """Return the tensors in memory that the two read from."""
        return chain(self.front.held_tensors(), self.behind.held_tensors())


class PlannedCheckpoint(InNoFile):
    """What a plan would make, as a source: each step runs when one of its targets is asked for.

    Args:
        plan: The plan.
        checkpoint: What it reads.
    """

    extras = ()
    notes = ()

    is_serial = True

    def __init__(self, plan: Plan, checkpoint: Checkpoint) -> None:
        self.plan = plan
        self.checkpoint = checkpoint
        self.where = f"the result of plan {plan.hash[:16]}"
        self._last: tuple[int, dict[str, torch.Tensor]] | None = None

    @property
    def header(self) -> Header:
        """Specs of the plan's targets."""
        return self.plan.target

    def fingerprint(self) -> list[dict[str, str | int]]:
        """Describe the files that the plan reads."""
        return self.checkpoint.fingerprint()

    def check_unchanged(self) -> None:
        """Check the files that the plan reads."""
        self.checkpoint.check_unchanged()

    def extent(self, key: str) -> None:
        """Return None: the bytes lie in no file."""

    def tensor(self, key: str) -> torch.Tensor:
        """Run the step that writes a target; the last step's targets are kept."""
        twin = next((fated.by for fated in self.plan.tied_targets if fated.key == key), key)
        number = self.plan.step_of_target.get(twin)
        if number is None:
            raise CheckpointError("tensor-not-found", "the plan makes no such tensor", where=key)
        last = self._last
        if last is None or last[0] != number:
            last = self._last = number, dict(run_step(self.plan.steps[number], self.checkpoint))
        return last[1][twin]

    def read(self, key: str, start_byte: int, buffer: memoryview) -> None:
        """Fill a buffer with the bytes of a target."""
        from weighbridge.storage.formats.torch_tensors import bytes_of

        raw = bytes_of(self.tensor(key))
        buffer[:] = raw[start_byte : start_byte + len(buffer)]

    @property
    def is_past_cache(self) -> bool:
        """Whether the files that the plan reads are read past the page cache."""
        return self.checkpoint.is_past_cache

    def held(self, key: str) -> None:
        """Return None: a target is made when it is asked for."""

    def held_tensors(self) -> Iterable[torch.Tensor]:
        """Return the tensors in memory that the plan reads from."""
        return self.checkpoint.held_tensors()
