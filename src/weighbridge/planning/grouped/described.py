"""Names in a file's metadata: where a format says there how each tensor is stored, what it says follows the names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping as MappingOf
from typing import Final

from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.planning.grouped.refusals import is_described_apart
from weighbridge.planning.grouped.weights import Grouped
from weighbridge.planning.plan import Plan
from weighbridge.planning.steps import Step

NAMES: Final = "tensor_names"
"""The entry that lists all names that have an entry of their own, as JSON."""


def follow_names(plan: Plan, source: Grouped, problems: list[WeighbridgeError]) -> MappingOf[str, str]:
    """Return a plan's metadata with the names of its targets.

    What is said of a tensor is of its type and of the blocks along its axes, so that it holds as well for tensors of as
    many axes that are joined of some like it, or cut from one.

    Args:
        plan: The plan, with the names that rules see.
        source: The source's groups.
        problems: Targets that nothing can be said of are added to it.
    """
    metadata = plan.metadata
    if NAMES not in metadata or not any(weight.scheme.in_metadata for weight in source.weights.values()):
        return metadata
    said = {target: text for step in plan.steps for target, text in _said(step, source, metadata, problems)}
    gone = {key for key in source.seen if key in metadata}
    kept = {name: text for name, text in metadata.items() if name not in gone}
    return {**kept, **said, NAMES: json.dumps(_listed(plan, metadata, said))}


def _said(
    step: Step, source: Grouped, metadata: MappingOf[str, str], problems: list[WeighbridgeError]
) -> Iterator[tuple[str, str]]:
    texts = {metadata.get(key, "") for key in step.sources}
    if texts == {""}:
        return
    ranks = {len(spec.shape) for spec in (*step.program.sources, *(out.spec for out in step.program.targets))}
    if len(texts) == 1 and len(ranks) == 1:
        yield from ((target, max(texts)) for target in step.writes)
    else:
        problems.append(is_described_apart(step.sources, step.targets[0]))


def _listed(plan: Plan, metadata: MappingOf[str, str], said: MappingOf[str, str]) -> list[str]:
    """List the names that are said something of, where the source's were."""
    try:
        listed = json.loads(metadata[NAMES])
    except ValueError as problem:
        what = "the list of names in the metadata cannot be read"
        raise PlanError("scheme-conflict", what, where=NAMES, got=str(problem)[:80]) from None
    place = {name: number for number, name in enumerate(listed)} if isinstance(listed, list) else {}
    first = {
        target: min(place.get(key, len(place)) for key in step.sources) for step in plan.steps for target in step.writes
    }
    return sorted(said, key=lambda name: (first[name], name))
