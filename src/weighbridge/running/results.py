"""Give a plan's targets as a stream or as a state dict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from weighbridge.base.workers import Counter, Progress
from weighbridge.planning.plan import Plan
from weighbridge.running.gather import Wanted, group_steps, start_output
from weighbridge.running.ties import check_values
from weighbridge.storage.protocol import FileReader

if TYPE_CHECKING:
    import torch

    from weighbridge.storage.protocol import Checkpoint, Mapped

STREAM_BYTES: Final = 256 * 2**20
"""How much a stream reads ahead at most, in bytes; a step with larger targets is made alone."""


def stream(
    plan: Plan, checkpoint: Checkpoint, *, copy: bool = False, device: Any = "cpu"
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a plan's targets one at a time.

    A tensor that a safetensors file holds as it is wanted is not copied, but mapped: its pages are read when they are
    used, and writing to it changes memory alone. It shows what the file holds at that time: whoever writes into the
    file, or cuts it short, changes the tensor, or ends the process. Replacing the file by another one is harmless.

    Args:
        plan: The plan.
        checkpoint: What it reads.
        copy: Give every tensor memory of its own, read before it is given out.
        device: Where to make the tensors: a torch device, or its name.

    Yields:
        Key and tensor, in the order of the plan's steps; a tied target comes right after its twin, as the
        same tensor. Up to `STREAM_BYTES` are made ahead.

    Raises:
        PlanError: `plan-failed`, before anything is made: with a `tie-differs` for tied targets that would differ, a
            `sources-differ` for sources that must be equal, a `padding-differs` for what is cut off and holds something
            else than was declared.
        CheckpointError: `source-changed` and the codes of reading.
    """
    check_values(plan, checkpoint)
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
    sizes = (step.program.targets[number].spec.size_bytes for step in plan.steps for number in step.writes.values())
    counter = Counter(sum(sizes), progress)
    for steps in group_steps(plan.steps, ahead_bytes):
        made: list[tuple[str, torch.Tensor]] = []
        wanted: list[Wanted] = []
        for step in steps:
            for key, number in step.writes.items():
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
    plan: Plan, checkpoint: Checkpoint, *, copy: bool = False, device: Any = "cpu", progress: Progress | None = None
) -> StateDict:
    """Return all of a plan's targets.

    Args:
        plan: The plan.
        checkpoint: What it reads.
        copy: Give every tensor memory of its own; see `stream` for what is mapped otherwise.
        device: Where to make the tensors: a torch device, or its name.
        progress: Called with the bytes read so far and the bytes to be read, by one thread at a time.

    Returns:
        Tensors by key; tied targets share their storage.

    Raises:
        As `stream`.
    """
    check_values(plan, checkpoint)
    whole = plan.target.size_bytes
    return StateDict(_stream(plan, checkpoint, copy=copy, device=device, ahead_bytes=whole, progress=progress))
