"""What a check gives: "ok", or a code and what was found; an error of any kind is an outcome as well."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import weighbridge as wb

OK: Final = "ok"
NONE: Final = "none"
"""The outcome of a check that a class gives no occasion for."""

SKIPPED: Final = "skipped"
"""The outcome of a check that needs what an earlier one did not give."""

NOT_COMPARED: Final = "not compared"
"""The outcome of a comparison that the library itself has no part in."""

SHOWN: Final = 6
"""How many names a line has of each kind, beside their number."""

Outcome = Any
"""`OK`, `NONE`, `SKIPPED`, or a dict with a `code`."""


def attempt(check: Callable[[], Outcome]) -> Outcome:
    """Run a check; an error becomes its outcome."""
    try:
        return check()
    except wb.WeighbridgeError as refused:
        codes = Counter(problem.code for problem in getattr(refused, "problems", ()) or ())
        return {"code": refused.code, "codes": dict(codes), "said": str(refused)[:1200]}
    except MemoryError:
        raise
    except Exception as crashed:
        return {"code": "raw", "said": said(crashed), "where": place(crashed)}


def finding(code: str, keys: Mapping[str, Sequence[str]]) -> Outcome:
    """Return an outcome with some names of each kind, and how many there are; "ok" if there are none."""
    found = {name: list(names) for name, names in keys.items() if names}
    if not found:
        return OK
    counts = {name: len(names) for name, names in found.items()}
    return {"code": code, "counts": counts, **{name: names[:SHOWN] for name, names in found.items()}}


def said(error: BaseException) -> str:
    """Return what an error says, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def place(error: BaseException) -> str:
    """Return the innermost lines that an error passed through."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return " < ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in reversed(frames))
