"""The engine: run a plan's copies, from where the source's bytes lie to where the target's bytes belong.

Each copy goes straight to its final place. Runs that are contiguous on both sides and keep their dtype are read from
the file into that place; all others are strided copies by torch between two views, with a cast where dtypes differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from weighbridge.copies import Copy
from weighbridge.errors import CheckpointError, PlanError, WeighbridgeError
from weighbridge.layout import Layout
from weighbridge.plan import Made, Plan, Step
from weighbridge.specs import DTYPES, Header, TensorSpec
from weighbridge.storage import open_checkpoint
from weighbridge.storage.torch_tensors import bytes_of, torch_layout

if TYPE_CHECKING:
    from weighbridge.storage.protocol import Checkpoint


def allocate(spec: TensorSpec) -> torch.Tensor:
    """Allocate a CPU tensor of a spec, without setting its values; raw bytes for dtypes that torch does not have."""
    layout = torch_layout(spec)
    if layout is None:
        return torch.empty(spec.size_bytes, dtype=torch.uint8)
    dtype, shape = layout
    return torch.empty(shape, dtype=dtype)


def bind(plan: Plan, source: Any = None) -> Checkpoint:
    """Find what a plan reads: the source given here, the one it was planned on, or what the forward plan made.

    Raises:
        PlanError: `source-unbound`.
        CheckpointError: `source-changed` when the source does not have the tensors that the plan was made for.
    """
    bound = source if source is not None else plan.binding.source
    if isinstance(bound, Made):
        bound = _made(bound)
    if bound is None:
        raise PlanError(
            "source-unbound",
            "this plan does not know where to read",
            hint="give the source: plan.write(out, source=...), with a path, a state dict or a model",
        )
    checkpoint = open_checkpoint(bound)
    check_source(plan, checkpoint)
    return checkpoint


def _made(made: Made) -> Any:
    """Return what the forward plan produced; a plan that never ran stands for its own result."""
    if made.source is not None:
        return made.source
    produced = made.plan.binding.produced
    if produced is None:
        return PlannedCheckpoint(made.plan)
    live = produced()
    if live is None:
        raise PlanError(
            "source-unbound", "what the plan produced is gone", hint="give the source: plan.inverse(source=...)"
        )
    return live


def check_source(plan: Plan, checkpoint: Checkpoint) -> None:
    """Compare a source's specs with those that a plan was made for; dtypes included, extra tensors not.

    Raises:
        CheckpointError: `source-changed`.
    """
    for key, spec in plan.source.items():
        found = checkpoint.header.specs.get(key)
        if found != spec and not _absent_by_right(plan, key, found):
            raise CheckpointError(
                "source-changed",
                "the source is not the one that the plan was made for",
                where=f"{checkpoint.where}: {key}",
                expected=str(spec),
                got=str(found) if found is not None else "no such tensor",
            )
    checkpoint.check_unchanged()


def _absent_by_right(plan: Plan, key: str, found: TensorSpec | None) -> bool:
    return found is None and (key not in plan.step_of_source)


class Slots:
    """The values that a step's copies read: the sources as they lie, and the temporaries."""

    def __init__(self, step: Step, checkpoint: Checkpoint) -> None:
        self.step = step
        self.checkpoint = checkpoint
        self.temporaries: list[torch.Tensor] = []
        for output in step.program.temporaries:
            tensor = allocate(output.spec)
            fill(tensor.view(-1), output.layout, self, output.dtype)
            self.temporaries.append(tensor.view(-1))

    def key(self, slot: int) -> str | None:
        """Return the source key of a slot; None for a temporary."""
        return self.step.sources[slot] if slot < len(self.step.sources) else None

    def dtype(self, slot: int) -> str:
        """Return the dtype code of a slot."""
        return self.step.program.slots[slot].dtype

    def flat(self, slot: int) -> torch.Tensor:
        """Return a slot's elements in row-major order, on one axis."""
        key = self.key(slot)
        if key is None:
            return self.temporaries[slot - len(self.step.sources)]
        return self.checkpoint.tensor(key).detach().contiguous().view(-1)


def fill(buffer: torch.Tensor, layout: Layout, slots: Slots, dtype: str) -> None:
    """Run all copies of a layout, or of a window of one.

    Args:
        buffer: The flat value, on the CPU; one axis, of the layout's number of elements.
        layout: The copies.
        slots: What they read.
        dtype: Dtype code of the value.
    """
    if not layout.copies:
        return
    if DTYPES[dtype].kind == "packed":
        _read_whole(buffer, slots)
        return
    flats: dict[int, torch.Tensor] = {}
    raw = bytes_of(buffer)
    for copy in layout.copies:
        if is_direct(copy, slots, dtype):
            _read_run(raw, copy, slots, buffer.element_size())
            continue
        if copy.source not in flats:
            flats[copy.source] = slots.flat(copy.source)
        _copy_strided(buffer, flats[copy.source], copy)


def is_direct(copy: Copy, slots: Slots, dtype: str) -> bool:
    """Tell whether a copy is one run of bytes that can be read from the source as it is."""
    key = slots.key(copy.source)
    plain = not copy.loops or (len(copy.loops) == 1 and copy.loops[0][1:] == (1, 1))
    return plain and key is not None and slots.dtype(copy.source) == dtype


def _read_whole(buffer: torch.Tensor, slots: Slots) -> None:
    slots.checkpoint.read(slots.step.sources[0], 0, bytes_of(buffer))


def _read_run(raw: memoryview, copy: Copy, slots: Slots, itemsize: int) -> None:
    start, size = copy.target_start * itemsize, copy.numel * itemsize
    slots.checkpoint.read(slots.step.sources[copy.source], copy.source_start * itemsize, raw[start : start + size])


def _copy_strided(buffer: torch.Tensor, source: torch.Tensor, copy: Copy) -> None:
    sizes = [loop.size for loop in copy.loops]
    target = buffer.as_strided(
        sizes, [loop.target_stride for loop in copy.loops], buffer.storage_offset() + copy.target_start
    )
    origin = source.as_strided(
        sizes, [loop.source_stride for loop in copy.loops], source.storage_offset() + copy.source_start
    )
    target.copy_(origin)


def run_step(step: Step, checkpoint: Checkpoint) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the targets of one step, each in memory of its own."""
    slots = Slots(step, checkpoint)
    for key, output in zip(step.targets, step.program.targets, strict=True):
        tensor = allocate(output.spec)
        fill(tensor.view(-1), output.layout, slots, output.dtype)
        yield key, tensor


def stream(plan: Plan, source: Any = None) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a plan's targets one at a time.

    Args:
        plan: The plan.
        source: What to read, if not what the plan was made on: a path, a state dict, a model.

    Yields:
        Key and tensor, on the CPU, in the order of the plan's steps; tied targets come last, as views of their twins'
        values read again.

    Raises:
        PlanError: `source-unbound`.
        CheckpointError: `source-changed` and the codes of reading.
    """
    checkpoint = bind(plan, source)
    twins: dict[str, list[str]] = {}
    for fated in plan.tied_targets:
        twins.setdefault(fated.by, []).append(fated.key)
    for step in plan.steps:
        for key, tensor in run_step(step, checkpoint):
            yield key, tensor
            yield from ((twin, tensor) for twin in twins.get(key, ()))


class StateDict(dict[str, torch.Tensor]):
    """A state dict that a plan made; a plain `dict` that can be referred to weakly."""

    __slots__ = ("__weakref__",)


def state_dict(plan: Plan, source: Any = None) -> dict[str, torch.Tensor]:
    """Return all of a plan's targets.

    Args:
        plan: The plan.
        source: What to read, if not what the plan was made on.

    Returns:
        Tensors on the CPU by key; tied targets share their storage.

    Raises:
        As `stream`.
    """
    import weakref

    made = StateDict(stream(plan, source))
    plan.binding.produced = weakref.ref(made)
    return made


class PlannedCheckpoint:
    """What a plan would make, as a source: each step runs when one of its targets is asked for."""

    images = ()
    index = None
    extras = ()
    notes = ()

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.checkpoint = bind(plan)
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
        if self._last is None or self._last[0] != number:
            self._last = number, dict(run_step(self.plan.steps[number], self.checkpoint))
        return self._last[1][twin]

    def read(self, key: str, start_byte: int, buffer: memoryview) -> None:
        """Fill a buffer with the bytes of a target."""
        raw = bytes_of(self.tensor(key))
        buffer[:] = raw[start_byte : start_byte + len(buffer)]


def check_ties(plan: Plan, checkpoint: Checkpoint, ties: dict[str, str]) -> None:
    """Compare the sources that fill targets of one storage; they must hold the same bytes.

    Raises:
        PlanError: `tie-differs`, with every pair that differs.
    """
    problems: list[WeighbridgeError] = []
    for step in plan.steps:
        if step.fate != "tied":
            continue
        twin = _twin(plan, step, ties)
        if twin is not None and not _same_values(step, twin, checkpoint):
            problems.append(
                PlanError(
                    "tie-differs",
                    "these tensors share one parameter of the model, and differ",
                    where=step.targets[0],
                    got=f"{', '.join(step.sources)} against {', '.join(twin.sources)}",
                    hint="drop one of them, or untie the model",
                )
            )
    if problems:
        raise PlanError("plan-failed", "tied tensors differ", problems=problems)


def _twin(plan: Plan, step: Step, ties: dict[str, str]) -> Step | None:
    group = ties.get(step.targets[0], step.targets[0])
    others: Sequence[Step] = [other for other in plan.steps if other.fate != "tied"]
    return next((o for o in others if any(ties.get(key, key) == group for key in o.targets)), None)


def _same_values(step: Step, twin: Step, checkpoint: Checkpoint) -> bool:
    first = next(iter(run_step(step, checkpoint)))[1]
    second = next(iter(run_step(twin, checkpoint)))[1]
    return first.dtype == second.dtype and bytes(bytes_of(first)) == bytes(bytes_of(second))
