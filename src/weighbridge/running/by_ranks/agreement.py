"""What ranks must say alike before one of them writes anything, and the error where they do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from weighbridge.base.errors import CheckpointError, DestinationError
from weighbridge.base.keys import counted, index_set

SAID: Final = {
    "destination": "destination",
    "weighbridge": "version of weighbridge",
    "mapping": "mapping",
    "plan_hash": "plan",
    "files": "weight files",
    "others": "files beside the weights",
    "receipt_sha256": "receipt",
    "digests": "digests",
    "resume": "goes on with what was stopped",
    "sync": "waits for the disk",
}
"""What all ranks must say alike, and what it is called."""


SAID_OF_A_LOAD: Final = {
    "weighbridge": "version of weighbridge",
    "mapping": "mapping",
    "plan_hash": "plan",
    "files": "files",
}
"""What ranks that load together must say alike, and what it is called."""


def check_alike(said: Sequence[Mapping[str, Any]], where: str) -> None:
    """Refuse to write what one of the ranks would not write.

    Args:
        said: What each rank says, by the names of `SAID`.
        where: The destination.

    Raises:
        DestinationError: `ranks-disagree`, with the ranks that differ from most of them.
    """
    found = _find_difference(said, SAID)
    if found is not None:
        others, agreed, expected, got = found
        raise DestinationError(
            "ranks-disagree",
            f"rank {others} would not write the output that rank {agreed} writes",
            where=where,
            expected=expected,
            got=got,
            hint="call save with the same model, destination and options on every rank",
        )


def check_loads_alike(said: Sequence[Mapping[str, Any]], where: str) -> None:
    """Refuse to load what one of the ranks would not load.

    Args:
        said: What each rank says, by the names of `SAID_OF_A_LOAD`.
        where: What is loaded into.

    Raises:
        CheckpointError: `ranks-disagree`, with the ranks that differ from most of them.
    """
    found = _find_difference(said, SAID_OF_A_LOAD)
    if found is not None:
        others, agreed, expected, got = found
        raise CheckpointError(
            "ranks-disagree",
            f"rank {others} would not load what rank {agreed} loads",
            where=where,
            expected=expected,
            got=got,
            hint="give every rank the same model, files, mapping and options",
        )


class _Difference(NamedTuple):
    """Which ranks say something else than most do, and what each side says."""

    others: str
    agreed: str
    expected: str
    got: str


def _find_difference(said: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> _Difference | None:
    for name, called in names.items():
        values = [str(each[name]) for each in said]
        most = Counter(values).most_common(1)[0][0]
        usual = said[values.index(most)][name]
        others = [rank for rank, value in enumerate(values) if value != most]
        if others:
            agreed = [rank for rank, value in enumerate(values) if value == most]
            expected = f"{called}: {_otherwise(usual, said[others[0]][name])}"
            got = "\n".join(f"rank {rank}: {called}: {_otherwise(said[rank][name], usual)}" for rank in others[:4])
            return _Difference(index_set(others), index_set(agreed), expected, got)
    return None


def _otherwise(value: Any, other: Any) -> str:
    """Write what one rank says; of a list, what is not in that of another."""
    are_lists = isinstance(value, list) and isinstance(other, list)
    return str([each for each in value if each not in other] if are_lists else value)[:200]


def check_held_alike(
    held: Sequence[Mapping[str, Any]], copies: Sequence[Mapping[str, str]], *, in_stages: bool = False
) -> None:
    """Refuse ranks that do not hold the same tensors, or of which some hold other values of the same part.

    Args:
        held: What each rank holds, by key.
        copies: Digests of what a rank may hold as others do, by key.
        in_stages: Whether each of them may hold some of the tensors only.

    Raises:
        DestinationError: `ranks-disagree`.
    """
    for rank, parts in enumerate(held if not in_stages else ()):
        strange = sorted(parts.keys() ^ held[0].keys())
        if strange:
            raise DestinationError(
                "ranks-disagree",
                f"rank {rank} does not hold the tensors that rank 0 holds",
                where=strange[0],
                expected=f"{counted(len(held[0]), 'tensor')}, as on rank 0",
                got=f"{counted(len(strange), 'tensor')} on one of the two alone",
                hint="call save with the same model on every rank, or with stages=True where each has some layers",
            )
    for key, groups in _differing(held, copies):
        said = "\n".join(f"rank {index_set(ranks)}: SHA-256 {digest}" for digest, ranks in groups.items())
        raise DestinationError(
            "ranks-disagree",
            "ranks that hold the same part of this tensor hold other values of it",
            where=key,
            expected="the same bytes on each of them",
            got=said,
            hint="give all of them the values of one: torch.distributed.broadcast(tensor, src=0)",
        )


def _differing(
    held: Sequence[Mapping[str, Any]], copies: Sequence[Mapping[str, str]]
) -> Iterator[tuple[str, dict[str, list[int]]]]:
    """Yield each tensor of which two ranks hold the same part, and other values; and which rank holds which."""
    for key in sorted(set().union(*copies)):
        by_part: dict[Any, dict[str, list[int]]] = {}
        for rank, digests in enumerate(copies):
            if key in digests:
                by_part.setdefault(held[rank][key], {}).setdefault(digests[key], []).append(rank)
        yield from ((key, groups) for groups in by_part.values() if len(groups) > 1)
