"""Why an outcome is not "ok", as data: each entry was looked at, and says whose it is to mend.

Whose is one of

    ours      weighbridge should do better
    theirs    the library's table, or its class, is wrong or incomplete; ours is right, or there is no right
    neither   both are right, and differ for a reason
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Final, Literal, NamedTuple

from sweeping.totals import kind_of


class Reason(NamedTuple):
    """Why some outcomes of some classes are what they are.

    Args:
        classes: Names of classes, with `*` for any letters.
        checks: Names of checks.
        code: The code of the outcome; empty for any.
        whose: Whose it is to mend.
        why: What happens, in a sentence or two.
    """

    classes: tuple[str, ...]
    checks: tuple[str, ...]
    code: str
    whose: Literal["ours", "theirs", "neither"]
    why: str


REASONS: Final[tuple[Reason, ...]] = ()


def reason_for(line: Mapping[str, Any], check: str) -> Reason | None:
    """Return the first entry that speaks of a class's outcome."""
    kind = kind_of(line[check])
    for reason in REASONS:
        is_asked = check in reason.checks and reason.code in ("", kind)
        if is_asked and any(fnmatchcase(line["class"], pattern) for pattern in reason.classes):
            return reason
    return None
