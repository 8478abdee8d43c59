"""Names in a file's metadata: where a format says there how each tensor is stored, what it says follows the names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping as MappingOf

from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.base.specs import Header
from weighbridge.mappings.schemes.torchao import LISTED, is_of_plain_tensor, listed_names
from weighbridge.planning.plan import Plan
from weighbridge.planning.steps import Step


def follow_names(plan: Plan, seen: Header, problems: list[WeighbridgeError]) -> MappingOf[str, str]:
    """Return a plan's metadata with the names of its targets.

    What is said of a tensor is of its type and of the blocks along its axes, so that it holds as well for tensors of as
    many axes that are joined of some like it, or cut from one. Where nothing gets another name, all stays as it is.

    Args:
        plan: The plan, with the names that rules see.
        seen: What rules see of the source.
        problems: Targets that nothing can be said of are added to it.
    """
    metadata = plan.metadata
    if LISTED not in metadata:
        return metadata
    if not gives_new_names(plan) and all(step.program.is_identity for step in plan.steps):
        return metadata
    said = {target: text for step in plan.steps for target, text in _said(step, metadata, problems)}
    gone = {key for key in seen if key in metadata}
    kept = {name: text for name, text in metadata.items() if name not in gone}
    return {**kept, **said, LISTED: json.dumps(_listed(plan, metadata, said))}


def without_absent(metadata: MappingOf[str, str], keys: Iterable[str]) -> MappingOf[str, str]:
    """Return a file's metadata without what it says of tensors that are left out.

    Args:
        metadata: The metadata.
        keys: The tensors that are there.

    Examples:
        >>> said = {"q.weight": "{}", "k.weight": "{}", "tensor_names": '["q.weight", "k.weight"]', "format": "pt"}
        >>> without_absent(said, ["q._weight_qdata"])
        {'q.weight': '{}', 'tensor_names': '["q.weight"]', 'format': 'pt'}
    """
    try:
        listed = listed_names(metadata)
    except ValueError:
        listed = []
    if not listed:
        return metadata
    there = {name for key in keys for name in (key, f"{key.rpartition('.')[0]}.weight")}
    gone = {name for name in listed if name not in there}
    kept = {name: text for name, text in metadata.items() if name not in gone}
    return {**kept, LISTED: json.dumps([name for name in listed if name in there])} if gone else metadata


def gives_new_names(plan: Plan) -> bool:
    """Tell whether a tensor gets another name, or is left out."""
    return bool(plan.dropped) or any(step.sources != step.targets for step in plan.steps)


def left_behind(plan: Plan) -> Iterator[PlanError]:
    """Yield an error for a file whose metadata names tensors that a plan gives other names, and that no group follows.

    Args:
        plan: The plan.
    """
    names = set(plan.metadata) if LISTED in plan.metadata and gives_new_names(plan) else set()
    moved = [key for step in plan.steps if step.sources != step.targets for key in step.sources] if names else []
    named = next((key for key in moved if {key, f"{key.rpartition('.')[0]}.weight"} & names), None)
    if named is not None:
        yield PlanError(
            "companion-unknown",
            "the file's metadata says by its name how a tensor is stored, which would not follow to another name",
            where=named,
            hint="let what belongs to a weight go along: leave out companions=False (--no-companions)",
        )


def _said(step: Step, metadata: MappingOf[str, str], problems: list[WeighbridgeError]) -> Iterator[tuple[str, str]]:
    texts = {metadata.get(key, "") for key in step.sources}
    if texts == {""}:
        return
    ranks = {len(spec.shape) for spec in (*step.program.sources, *(out.spec for out in step.program.targets))}
    if len(texts) == 1 and (len(ranks) == 1 or is_of_plain_tensor(max(texts))):
        yield from ((target, max(texts)) for target in step.writes)
    else:
        from weighbridge.planning.grouped.refusals import is_described_apart

        problems.append(is_described_apart(step.sources, step.targets[0]))


def _listed(plan: Plan, metadata: MappingOf[str, str], said: MappingOf[str, str]) -> list[str]:
    """List the names that are said something of, where the source's were."""
    try:
        place = {name: number for number, name in enumerate(listed_names(metadata))}
    except ValueError:  # which is an error of its own
        return []
    first = {
        target: min(place.get(key, len(place)) for key in step.sources) for step in plan.steps for target in step.writes
    }
    return sorted(said, key=lambda name: (first[name], name))
