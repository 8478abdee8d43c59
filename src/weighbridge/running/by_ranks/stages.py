"""Stages of a pipeline: each rank holds some of a model's tensors, says which, and hears what all of them hold.

The names are those of the whole model. A tensor of which several ranks hold the same is one tensor, and so are tied
weights: a rank that holds one under one name holds it under all of its names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from weighbridge.algebra.held_parts import Part
from weighbridge.base.errors import DestinationError
from weighbridge.base.keys import index_set
from weighbridge.base.specs import Header, TensorSpec
from weighbridge.running.by_ranks.exchange import Exchange


class Stage(NamedTuple):
    """What one rank holds of a model.

    Args:
        where: What to call it in a message.
        header: Specs of the whole tensors, and which of them are one.
        parts: What is held of each.
        second_names: Names of tied weights that a file has under another name alone.
        notes: What was left aside.
    """

    where: str
    header: Header
    parts: Mapping[str, Part]
    second_names: tuple[str, ...]
    notes: tuple[str, ...]


class Together(NamedTuple):
    """What all ranks hold; the same on each of them.

    Args:
        where: What the first rank is called.
        header: Specs of all tensors, and which of them are one, as any rank says.
        shared: Those of which several ranks hold the same part.
        second_names: As of a stage; of all of them.
        notes: As of a stage; of all of them.
    """

    where: str
    header: Header
    shared: frozenset[str]
    second_names: tuple[str, ...]
    notes: tuple[str, ...]


def join_stages(exchange: Exchange, stage: Stage) -> Together:
    """Say what this rank holds, and return what all of them do; every rank calls it.

    Raises:
        DestinationError: `ranks-disagree` for a name under which two ranks hold tensors of other shapes or dtypes, or
            that is tied on the one and not on the other; as `Exchange.agree`.
    """
    answer = exchange.agree("what each rank holds", _said(stage), partial(_decide, exchange.ranks))
    specs = {key: TensorSpec(dtype, tuple(shape)) for key, (dtype, shape) in answer["specs"].items()}
    header = Header(specs, ties=answer["ties"])
    return Together(
        answer["where"], header, frozenset(answer["shared"]), tuple(answer["second names"]), tuple(answer["notes"])
    )


def _said(stage: Stage) -> dict[str, Any]:
    return {
        "where": stage.where,
        "specs": {key: [spec.dtype, list(spec.shape)] for key, spec in stage.header.items()},
        "ties": dict(stage.header.ties),
        "parts": {key: part.to_dict()["axes"] for key, part in stage.parts.items()},
        "second names": list(stage.second_names),
        "notes": list(stage.notes),
    }


def _decide(ranks: int, said: Sequence[Mapping[str, Any]]) -> list[Any]:
    specs = _all_specs([each["specs"] for each in said])
    ties = _all_ties(said)
    answer = {
        "where": said[0]["where"],
        "specs": specs,
        "ties": ties,
        "shared": _shared([each["parts"] for each in said], specs, ties),
        "second names": sorted({key for each in said for key in each["second names"]}),
        "notes": list(dict.fromkeys(note for each in said for note in each["notes"])),
    }
    return [answer] * ranks


def _all_specs(said: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    specs: dict[str, Any] = {}
    first: dict[str, int] = {}
    for rank, own in enumerate(said):
        for key, (dtype, shape) in own.items():
            spec, other = [dtype, list(shape)], first.setdefault(key, rank)
            if specs.setdefault(key, spec) != spec:
                raise DestinationError(
                    "ranks-disagree",
                    "two ranks hold different tensors under one name",
                    where=key,
                    expected=f"rank {other}: {_text(specs[key])}",
                    got=f"rank {rank}: {_text(spec)}",
                    hint="let each stage give its tensors the names that they have in the whole model",
                )
    return dict(sorted(specs.items()))


def _text(spec: Any) -> str:
    return str(TensorSpec(spec[0], tuple(spec[1])))


def _all_ties(said: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return for each tied name the first one of its tensor, by what all ranks say of the names that they hold."""
    groups: dict[str, set[str]] = {}
    for each in said:
        for pair in each["ties"].items():
            joined = set[str]().union(*(groups.get(key, {key}) for key in pair))
            groups.update(dict.fromkeys(joined, joined))
    ties = {key: min(group) for key, group in sorted(groups.items()) if key != min(group)}
    for rank, each in enumerate(said):
        own: dict[str, str] = {}
        for key in sorted(groups.keys() & each["specs"].keys()):
            twin = own.setdefault(ties.get(key, key), key)
            if each["ties"].get(key, key) != each["ties"].get(twin, twin):
                tied = [other for other, words in enumerate(said) if key in words["ties"] or twin in words["ties"]]
                raise DestinationError(
                    "ranks-disagree",
                    "these tensors are one on some of the ranks, and two on others",
                    where=key,
                    expected=f"rank {index_set(tied)}: tied to {twin}",
                    got=f"rank {rank}: not tied",
                    hint="tie them, or untie them, on every rank that holds both",
                )
    return ties


def _shared(said: Sequence[Mapping[str, Any]], keys: Iterable[str], ties: Mapping[str, str]) -> list[str]:
    """Return the tensors of which more than one rank holds the same part."""
    seen: set[tuple[str, str]] = set()
    found: set[str] = set()
    for parts in said:
        own = {(ties.get(key, key), str(axes)) for key, axes in parts.items()}
        found |= {key for key, _ in own & seen}
        seen |= own
    return [key for key in keys if ties.get(key, key) in found]
