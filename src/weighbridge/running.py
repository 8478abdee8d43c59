"""Run a whole plan: find what it reads, and give its targets as a stream or as a state dict."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from weighbridge.errors import CheckpointError, PlanError, WeighbridgeError
from weighbridge.execute import run_step
from weighbridge.plan import Made, Plan, Step
from weighbridge.specs import Header, TensorSpec
from weighbridge.storage import open_checkpoint

if TYPE_CHECKING:
    import torch

    from weighbridge.storage.protocol import Checkpoint, Extent


def bind(plan: Plan, source: Any = None) -> Checkpoint:
    """Find what a plan reads: the source given here, the one it was planned on, or what the forward plan made.

    Raises:
        PlanError: `source-unbound`.
        CheckpointError: `source-changed` when the source does not have the tensors that the plan was made for.
    """
    bound = source if source is not None else plan.binding.source
    origin = find_origin(plan)
    if isinstance(bound, Made):
        bound = _made(bound)
    if bound is None:
        raise PlanError(
            "source-unbound",
            "this plan does not know where to read",
            hint="give the source: plan.write(out, source=...), with a path, a state dict or a model",
        )
    checkpoint = open_checkpoint(bound)
    if isinstance(plan.binding.source, Made):
        checkpoint = _complete(plan, checkpoint, origin)
    check_source(plan, checkpoint)
    return checkpoint


def find_origin(plan: Plan) -> Checkpoint | None:
    """Return the checkpoint at the start of a chain of inverses; None where it is not known."""
    bound = plan.binding.source
    while isinstance(bound, Made):
        bound = bound.plan.binding.source
    return None if bound is None else open_checkpoint(bound)


def _complete(plan: Plan, checkpoint: Checkpoint, origin: Checkpoint | None) -> Checkpoint:
    """Add the carried tensors that a model has no place for, from the checkpoint that it was loaded from."""
    absent = [
        key for step in plan.steps if step.fate == "carried" for key in step.sources if key not in checkpoint.header
    ]
    if not absent or origin is None or any(key not in origin.header for key in absent):
        return checkpoint
    return LayeredCheckpoint(checkpoint, origin, frozenset(absent))


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


class StateDict(dict[str, "torch.Tensor"]):
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
    made = StateDict(stream(plan, source))
    plan.binding.produced = weakref.ref(made)
    return made


class LayeredCheckpoint:
    """A source in front, and another one behind it for the keys that the first does not have.

    Args:
        front: Where most tensors come from.
        behind: Where the others come from.
        keys: The others.
    """

    images = ()
    index = None
    files = None

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


class PlannedCheckpoint:
    """What a plan would make, as a source: each step runs when one of its targets is asked for."""

    images = ()
    index = None
    files = None
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
        from weighbridge.storage.torch_tensors import bytes_of

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
    from weighbridge.storage.torch_tensors import bytes_of

    first = next(iter(run_step(step, checkpoint)))[1]
    second = next(iter(run_step(twin, checkpoint)))[1]
    return first.dtype == second.dtype and bytes(bytes_of(first)) == bytes(bytes_of(second))
