"""Run a whole plan: find what it reads, and give its targets as a stream or as a state dict."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from weighbridge.base.errors import CheckpointError, PlanError, WeighbridgeError
from weighbridge.base.keys import collapse
from weighbridge.base.specs import Header, TensorSpec
from weighbridge.base.workers import Counter, Progress
from weighbridge.planning.plan import Made, Plan, Step
from weighbridge.running.execute import run_step, run_target
from weighbridge.running.gather import Wanted, group_steps, start_output
from weighbridge.running.tensor_digests import digest_tensor
from weighbridge.storage import open_checkpoint
from weighbridge.storage.protocol import FileReader

if TYPE_CHECKING:
    import torch

    from weighbridge.storage.protocol import Checkpoint, Extent, Mapped


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
    if isinstance(plan.binding.source, Made):
        checkpoint = _complete(plan, checkpoint)
    check_source(plan, checkpoint)
    check_standing_ties(plan, checkpoint)
    plan.binding.read = checkpoint
    return checkpoint


def find_origin(plan: Plan) -> Checkpoint | None:
    """Return the checkpoint at the start of a chain of inverses; None where it is not known."""
    bound: Any = plan.binding.source
    while isinstance(bound, Made):
        bound = bound.plan.binding.read or bound.plan.binding.source
    return None if bound is None else open_checkpoint(bound)


def _complete(plan: Plan, checkpoint: Checkpoint) -> Checkpoint:
    """Add the carried tensors that a model has no place for, from the checkpoint that it was loaded from."""
    absent = [
        key for step in plan.steps if step.fate == "carried" for key in step.sources if key not in checkpoint.header
    ]
    origin = find_origin(plan) if absent else None
    if origin is None or any(key not in origin.header for key in absent):
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
    """Compare a source's tensors with those that a plan was made for: names, dtypes and shapes, none left out.

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
    extra = [key for key in checkpoint.header if key not in plan.source]
    if extra:
        raise CheckpointError(
            "source-changed",
            "the source has tensors that the plan does not know",
            where=f"{checkpoint.where}: {', '.join(collapse(extra)[:4])}",
            hint="plan anew, so that they are accounted for",
        )
    checkpoint.check_unchanged()


def _absent_by_right(plan: Plan, key: str, found: TensorSpec | None) -> bool:
    return found is None and (key not in plan.step_of_source)


STREAM_BYTES: Final = 256 * 2**20
"""How much a stream reads ahead at most, in bytes; a step with larger targets is made alone."""


def stream(
    plan: Plan, source: Any = None, *, copy: bool = False, device: Any = "cpu"
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a plan's targets one at a time.

    A tensor that a safetensors file holds as it is wanted is not copied, but mapped: its pages are read when they are
    used, and writing to it changes memory alone. It shows what the file holds at that time: whoever writes into the
    file, or cuts it short, changes the tensor, or ends the process. Replacing the file by another one is harmless.

    Args:
        plan: The plan.
        source: What to read, if not what the plan was made on: a path, a state dict, a model.
        copy: Give every tensor memory of its own, read before it is given out.
        device: Where to make the tensors: a torch device, or its name.

    Yields:
        Key and tensor, in the order of the plan's steps; a tied target comes right after its twin, as the
        same tensor. Up to `STREAM_BYTES` are made ahead.

    Raises:
        PlanError: `source-unbound`.
        CheckpointError: `source-changed` and the codes of reading.
    """
    checkpoint = bind(plan, source)
    return _stream(plan, checkpoint, copy=copy, device=device, ahead_bytes=STREAM_BYTES)


def _stream(
    plan: Plan,
    checkpoint: Checkpoint,
    *,
    copy: bool,
    device: Any,
    ahead_bytes: int,
    progress: Progress | None = None,
) -> Iterator[tuple[str, torch.Tensor]]:
    twins: dict[str, list[str]] = {}
    for fated in plan.tied_targets:
        twins.setdefault(fated.by, []).append(fated.key)
    mapped = mapped_files(checkpoint, copy=copy or str(device) != "cpu")
    counter = Counter(sum(output.spec.size_bytes for step in plan.steps for output in step.program.targets), progress)
    for steps in group_steps(plan.steps, ahead_bytes):
        made: list[tuple[str, torch.Tensor]] = []
        wanted: list[Wanted] = []
        for step in steps:
            for number, key in enumerate(step.targets):
                tensor, want = start_output(step, number, mapped, device)
                made.append((key, tensor))
                if want is None:
                    counter.add(step.program.targets[number].spec.size_bytes)
                else:
                    wanted.append(want)
        if wanted:
            from weighbridge.running.devices import fill_tensors

            fill_tensors(wanted, checkpoint, counter)
        wanted.clear()
        for key, tensor in _taken(made):
            yield key, tensor
            yield from ((twin, tensor) for twin in twins.get(key, ()))
    checkpoint.check_unchanged()


def _taken(made: list[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield what was made, and hold it no longer."""
    made.reverse()
    while made:
        yield made.pop()


def mapped_files(checkpoint: Checkpoint, *, copy: bool) -> Mapped | None:
    """Return maps of a checkpoint's files for one run; None where everything is to be copied, or there are no files."""
    return checkpoint.mapped() if isinstance(checkpoint, FileReader) and not copy else None


class StateDict(dict[str, "torch.Tensor"]):
    """A state dict that a plan made; a plain `dict` that can be referred to weakly."""

    __slots__ = ("__weakref__",)


def state_dict(
    plan: Plan, source: Any = None, *, copy: bool = False, device: Any = "cpu", progress: Progress | None = None
) -> dict[str, torch.Tensor]:
    """Return all of a plan's targets.

    Args:
        plan: The plan.
        source: What to read, if not what the plan was made on.
        copy: Give every tensor memory of its own; see `stream` for what is mapped otherwise.
        device: Where to make the tensors: a torch device, or its name.
        progress: Called with the bytes read so far and the bytes to be read, by one thread at a time.

    Returns:
        Tensors by key; tied targets share their storage.

    Raises:
        As `stream`.
    """
    checkpoint = bind(plan, source)
    whole = plan.target.size_bytes
    made = StateDict(_stream(plan, checkpoint, copy=copy, device=device, ahead_bytes=whole, progress=progress))
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

    @property
    def is_serial(self) -> bool:
        """Whether one of the two makes its tensors as it goes."""
        return self.front.is_serial or self.behind.is_serial

    @property
    def is_past_cache(self) -> bool:
        """Whether files of one of the two are read past the page cache."""
        return self.front.is_past_cache or self.behind.is_past_cache

    def held(self, key: str) -> torch.Tensor | None:
        """Return a tensor that one of the two holds in memory."""
        return self._of(key).held(key)

    def held_tensors(self) -> Iterable[torch.Tensor]:
        """Return the tensors in memory that the two read from."""
        return chain(self.front.held_tensors(), self.behind.held_tensors())


class PlannedCheckpoint:
    """What a plan would make, as a source: each step runs when one of its targets is asked for."""

    images = ()
    index = None
    files = None
    extras = ()
    notes = ()

    is_serial = True

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


def check_ties(plan: Plan, checkpoint: Checkpoint, ties: dict[str, str]) -> None:
    """Compare all that fills targets of one storage; it must be the same bytes.

    Args:
        plan: The plan.
        checkpoint: What it reads.
        ties: For each key that shares its storage, the key that stands for all of them.

    Raises:
        PlanError: `plan-failed`, with a `tie-differs` for every target that differs.
    """
    groups = set(ties.values())
    writers: dict[str, list[tuple[Step, int]]] = {}
    for step in plan.steps:
        for number, key in enumerate(step.targets):
            if key in ties or key in groups:
                writers.setdefault(ties.get(key, key), []).append((step, number))
    problems: list[WeighbridgeError] = []
    for first, *others in writers.values():
        value = run_target(*first, checkpoint) if others else None
        problems += [
            _differs(other, first) for other in others if not same_bytes(value, run_target(*other, checkpoint))
        ]
    if problems:
        raise PlanError("plan-failed", "tied tensors differ", problems=problems)


def _differs(one: tuple[Step, int], other: tuple[Step, int]) -> PlanError:
    return PlanError(
        "tie-differs",
        "these tensors share one parameter of the model, and differ",
        where=one[0].targets[one[1]],
        got=f"{', '.join(one[0].sources[:3])} against {', '.join(other[0].sources[:3])}",
        hint="drop one of them, or untie the model",
    )


def same_bytes(one: torch.Tensor | None, other: torch.Tensor) -> bool:
    """Tell whether two dense CPU tensors have the same dtype, shape and bytes."""
    import torch

    if one is None or one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


def check_standing_ties(plan: Plan, checkpoint: Checkpoint) -> None:
    """Check that what a plan leaves unread because it is tied still holds what its twin holds.

    Raises:
        PlanError: `tie-differs`.
    """
    ties = checkpoint.header.ties
    for fated in plan.tied_sources:
        key, twin = fated.key, fated.by
        if key not in checkpoint.header or ties.get(key, key) == ties.get(twin, twin):
            continue
        if not _hold_the_same(checkpoint, key, twin):
            raise PlanError(
                "tie-differs",
                "these tensors were one when they were loaded, and differ now",
                where=key,
                got=f"{twin} holds something else",
                hint="the original layout has no place for both: tie them again, or save with another mapping",
            )


def _hold_the_same(checkpoint: Checkpoint, one: str, other: str) -> bool:
    """Tell whether two tensors of a source are the same; those in files are read, not mapped."""
    if checkpoint.extent(one) is None or checkpoint.extent(other) is None:
        return same_bytes(*[checkpoint.tensor(name).detach().to("cpu").contiguous() for name in (one, other)])
    same = checkpoint.header[one] == checkpoint.header[other]
    return same and digest_tensor(checkpoint, one) == digest_tensor(checkpoint, other)
