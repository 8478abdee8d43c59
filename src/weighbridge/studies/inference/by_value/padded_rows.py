"""Find tensors that are others with rows of one value behind them: a vocabulary that was padded, or cut again.

A matrix may have been stored the other way round as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from weighbridge.base.errors import LayoutError
from weighbridge.base.forms.elements import Element, element_bytes
from weighbridge.base.specs import Shape
from weighbridge.operations.declaring.padding import Pad, Trim
from weighbridge.operations.movements import Transpose
from weighbridge.studies.common_rows import one_longer_axis
from weighbridge.studies.inference.by_value.choices import Choice
from weighbridge.studies.inference.by_value.evidence import BY_NAMES, Evidence, operations_text, replace_operations
from weighbridge.studies.inference.by_value.fingerprints import bits_of, cast_dtype, only_value, read_as
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
        (source, target): fitting
        for target in evidence.telling_targets()
        for source in evidence.telling_sources(evidence.target.header[target].dtype)
        if (fitting := tuple(_fitting(evidence, source, target)))
    }
    for sources, targets in _groups(found):
        if told and len(sources) + len(targets) > 2:
            continue
        for source, target, _ in pair_by_name(sources, targets, {}):
            fitting = found.get((source, target), ())
            if fitting and not (told and len(fitting) > 1):
                rivals = tuple(map(operations_text, fitting[1:]))
                others = Choice(tuple(sorted(sources - {source})), tuple(sorted(targets - {target})), rivals, BY_NAMES)
                evidence.add(replace_operations(Fact.rename(source, target), fitting[0]), others)


def _groups(found: Iterable[tuple[str, str]]) -> list[tuple[set[str], set[str]]]:
    """Sort pairs of a source and a target into those that hang together: another pairing could be meant."""
    groups: list[tuple[set[str], set[str]]] = []
    for source, target in found:
        joined = [group for group in groups if source in group[0] or target in group[1]]
        groups = [group for group in groups if group not in joined]
        groups.append(({source}.union(*(one for one, _ in joined)), {target}.union(*(two for _, two in joined))))
    return groups


def _fitting(evidence: Evidence, source: str, target: str) -> Iterator[Operations]:
    """Yield the operations that make a target of a source, which is of another length."""
    one, two = evidence.source.header[source], evidence.target.header[target]
    ways: list[tuple[Operations, Shape]] = [((), one.shape)]
    if len(one.shape) == 2:
        ways.append(((Transpose(0, 1),), one.shape[::-1]))
    for moves, shape in ways if cast_dtype(one.dtype, two.dtype) else ():
        axis = one_longer_axis(shape, two.shape)
        if axis is None:
            continue
        before, after = shape[axis], two.shape[axis]
        own = read_as(evidence.source, source, two.dtype)
        sides = own.T if moves else own, read_as(evidence.target, target, two.dtype)
        value = _value_behind(*(sides if before < after else sides[::-1]), axis)
        if value is not None and _has(one.dtype, value):
            kind = Pad if before < after else Trim
            yield *moves, kind(axis, after, value=value, source_size=before)


def _value_behind(shorter: torch.Tensor, longer: torch.Tensor, axis: int) -> Element | None:
    """Return the value of all that the longer one has behind the shorter one; None where it is not made so."""
    size = shorter.shape[axis]
    bits = bits_of(longer)
    if not bits.narrow(axis, 0, 1).equal(bits_of(shorter).narrow(axis, 0, 1)):
        return None
    value = only_value(longer.narrow(axis, size, longer.shape[axis] - size))
    return value if value is not None and bits.narrow(axis, 0, size).equal(bits_of(shorter)) else None


def _has(dtype: str, value: Element) -> bool:
    try:
        element_bytes(value, dtype)
    except LayoutError:
        return False
    return True
