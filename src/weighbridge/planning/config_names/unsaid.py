"""Say what of a configuration's names cannot be said of new ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from weighbridge.base.errors import PlanError
from weighbridge.base.json_text import join_keys, shorten
from weighbridge.planning.config_names.entries import CannotSayError, Mixed
from weighbridge.planning.config_names.meanings import UnreadableError

_SHOWN: Final = 3

_HINT: Final = "correct the configuration, or leave its names as they are: config_names=False (--no-config-names)"


def is_mixed(mixed: Sequence[Mixed], file: str, place: str) -> PlanError:
    """Say that different things are said of the parts of one module."""
    more = [f"and {len(mixed) - _SHOWN} more modules"] if len(mixed) > _SHOWN else []
    return PlanError(
        "names-mixed",
        "a configuration names some parts of what becomes one module, or says different things of them",
        where=f"{file}: {place}",
        expected=f"the same of all parts of {join_keys([each.target for each in mixed], _SHOWN)}",
        got="\n".join([*(line for each in mixed[:_SHOWN] for line in _parts(each)), *more]),
        hint=_HINT,
    )


def _parts(mixed: Mixed) -> Iterator[str]:
    """Yield a line for each entry that decides on some parts of a module."""
    by_entry: dict[str | None, list[str]] = {}
    for part, entry in mixed.parts.items():
        by_entry.setdefault(entry, []).append(part)
    for entry, parts in by_entry.items():
        yield f"{join_keys(parts, _SHOWN)}: {'named by nothing' if entry is None else f'named by {shorten(entry)}'}"


def cannot_say(problem: CannotSayError, file: str, place: str) -> PlanError:
    """Say that there are no words for something, and why."""
    return PlanError(
        "names-unmapped",
        "what a configuration says of modules cannot be said of those that they become",
        where=f"{file}: {place}",
        expected=f"entries for {join_keys(problem.modules)}",
        got=f"{join_keys(problem.entries)}: {problem.why}",
        hint=_HINT,
    )


def is_no_expression(problem: UnreadableError, file: str, place: str) -> PlanError:
    """Say that an entry cannot be read."""
    return PlanError(
        "names-unmapped",
        "what a configuration says of modules cannot be read",
        where=f"{file}: {place}",
        expected="a regular expression",
        got=f"{shorten(problem.entry)}: {problem.cause}",
        hint=_HINT,
    )
