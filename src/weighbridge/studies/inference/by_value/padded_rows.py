"""Find tensors that are others with rows of one value behind them: a vocabulary that was padded, or cut again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from weighbridge.base.errors import LayoutError
from weighbridge.base.forms.elements import Element, element_bytes, element_value
from weighbridge.operations.declaring.padding import Pad, Trim
from weighbridge.studies.common_rows import one_longer_axis
from weighbridge.studies.inference.by_value.choices import Choice
from weighbridge.studies.inference.by_value.evidence import BY_NAMES, Evidence, replace_operations
from weighbridge.studies.inference.by_value.fingerprints import bits_of, cast_dtype, read_as
from weighbridge.studies.inference.by_value.movement_search import Operations
from weighbridge.studies.inference.likeness import pair_by_name
from weighbridge.studies.inference.tensor_facts import Fact

if TYPE_CHECKING:
    import torch


def match_padded(evidence: Evidence, *, told: bool = True) -> None:
    """Take over what is another tensor with an axis made longer, or shorter.

    Args:
        evidence: What is known so far.
        told: Whether to take over only what the values tell; else what several could be goes by the names.
    """
    found = {
        (source, target): operations
        for target in evidence.telling_targets()
        for source in evidence.telling_sources(evidence.target.header[target].dtype)
        if (operations := _fit(evidence, source, target)) is not None
    }
    for sources, targets in _groups(found):
        if told and len(sources) + len(targets) > 2:
            continue
        for source, target, _ in pair_by_name(sources, targets, {}):
            operations = found.get((source, target))
            if operations is not None:
                others = Choice(tuple(sorted(sources - {source})), tuple(sorted(targets - {target})), (), BY_NAMES)
                evidence.add(replace_operations(Fact.rename(source, target), operations), others)


def _groups(found: Iterable[tuple[str, str]]) -> list[tuple[set[str], set[str]]]:
    """Sort pairs of a source and a target into those that hang together: another pairing could be meant."""
    groups: list[tuple[set[str], set[str]]] = []
    for source, target in found:
        joined = [group for group in groups if source in group[0] or target in group[1]]
        groups = [group for group in groups if group not in joined]
        groups.append(({source}.union(*(one for one, _ in joined)), {target}.union(*(two for _, two in joined))))
    return groups


def _fit(evidence: Evidence, source: str, target: str) -> Operations | None:
    """Return the operation that makes a target of a source; None where it is no other length of it."""
    one, two = evidence.source.header[source], evidence.target.header[target]
    axis = one_longer_axis(one.shape, two.shape)
    if axis is None or not cast_dtype(one.dtype, two.dtype):
        return None
    before, after = one.shape[axis], two.shape[axis]
    sides = read_as(evidence.source, source, two.dtype), read_as(evidence.target, target, two.dtype)
    shorter, longer = sides if before < after else reversed(sides)
    value = _value_behind(shorter, longer, axis, two.dtype)
    if value is None or not _has(one.dtype, value):
        return None
    kind = Pad if before < after else Trim
    return (kind(axis, after, value=value, source_size=before),)


def _value_behind(shorter: torch.Tensor, longer: torch.Tensor, axis: int, dtype: str) -> Element | None:
    """Return the value of all that the longer one has behind the shorter one; None where it is not made so."""
    import torch

    size = shorter.shape[axis]
    bits = bits_of(longer)
    rest = bits.narrow(axis, size, longer.shape[axis] - size)
    first = rest[(slice(0, 1),) * rest.dim()].contiguous()
    if not bits.narrow(axis, 0, 1).equal(bits_of(shorter).narrow(axis, 0, 1)) or bool((rest != first).any()):
        return None
    if not bits.narrow(axis, 0, size).equal(bits_of(shorter)):
        return None
    return element_value(bytes(first.view(-1).view(torch.uint8).tolist()), dtype)


def _has(dtype: str, value: Element) -> bool:
    try:
        element_bytes(value, dtype)
    except LayoutError:
        return False
    return True
