"""Let the files beside the weights say how large blocks are, where a plan makes them finer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from weighbridge.api.configurations import read_extra
from weighbridge.base.errors import PlanError
from weighbridge.base.json_text import with_numbers
from weighbridge.mappings.schemes.said import places_in
from weighbridge.planning.steps import Refinement

if TYPE_CHECKING:
    from weighbridge.running.changed_files import FileChange
    from weighbridge.storage.places.directory import Extra


def with_blocks(
    changes: Sequence[FileChange], refined: Sequence[Refinement], extras: Sequence[Extra]
) -> tuple[FileChange, ...]:
    """Return changes of files beside the weights, with those that finer blocks ask for.

    Args:
        changes: What changes for other reasons.
        refined: What is to be said anew.
        extras: The files beside the weights.

    Raises:
        PlanError, CheckpointError: As `follow_blocks`.
    """
    named = {change.name: change for change in changes}
    anew = [extra._replace(content=named[extra.name].written) if extra.name in named else extra for extra in extras]
    blocks = {change.name: change for change in follow_blocks(refined, anew)}
    both = {name: change._replace(before=named[name].before) for name, change in blocks.items() if name in named}
    return tuple({**named, **blocks, **both}.values())


def follow_blocks(refined: Sequence[Refinement], extras: Iterable[Extra]) -> Iterator[FileChange]:
    """Yield the files that are to say other sizes of blocks; all their other bytes stay.

    What says the new sizes already stays as it is, as it does where a plan never run is taken back.

    Args:
        refined: What is to be said anew.
        extras: The files beside the weights.

    Raises:
        PlanError: `scheme-conflict` for a file that says neither.
        CheckpointError: `read-failed`.
    """
    from weighbridge.running.changed_files import FileChange

    for extra in extras:
        places = [(path, each) for each in refined for path in places_in(extra.name, each.place)]
        if not places:
            continue
        before = read_extra(extra)
        after, said = before, json.loads(before)
        for path, each in places:
            if _is_to_be_changed(said, path, each, extra.name):
                after = with_numbers(after, path, each.after)
        if after != before:
            yield FileChange(extra.name, before.decode("utf-8"), after.decode("utf-8"))


def _is_to_be_changed(said: Any, path: Sequence[str], refinement: Refinement, name: str) -> bool:
    for step in path:
        said = said.get(step) if isinstance(said, Mapping) else None
    found = said if isinstance(said, list) else [said]
    if found not in ([None], list(refinement.before), list(refinement.after)):
        raise PlanError(
            "scheme-conflict",
            "this file says other sizes of blocks than those that the plan was made with",
            where=f"{name}: {'.'.join(path)}",
            expected=str(list(refinement.before)),
            got=json.dumps(said)[:80],
        )
    return found == list(refinement.before)
