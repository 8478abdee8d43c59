"""Write the page docs/sweep.md from the files of two sweeps, or of one: totals, differences with reasons, and the rest.

python tests/sweep.py --page build/sweep-5.23.0.jsonl build/sweep-5.24.0.jsonl > docs/sweep.md
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from textwrap import shorten
from typing import Any, Final, NamedTuple

from sweeping.outcomes import NONE, OK
from sweeping.reasons import Reason, reason_for
from sweeping.totals import Line, asked, count, differing, kind_of

HEAD: Final = """# Every class of transformers

*Printed by `make sweep-page` from the lines that `make sweep` writes, one for each class and version.*

`make sweep` makes a small model of every model class of the installed transformers and holds it to what weighbridge
promises. A sub-model that has a class of its own is one of them, and is looked at by itself as well. Layers and experts
are few, but there is every kind of tensor that the model of the default configuration has; it lies on the meta device,
and only names and shapes are looked at. Then the model is made narrow as well, gets values that are all different, and
what both libraries write and read of it is compared bit for bit.

| check | what is asked |
|---|---|
| resolved | there is a mapping for the class |
| saved | `save_pretrained` of a model that was never loaded: each name is proven to come back |
| names | names and shapes of that file are those of the library's own |
| library | the library's own file is read: nothing is missing, nothing left over; saved again, it is what it was |
| again | so is the file that we saved |
| runtime | the model's own names are read as they are |
| head | the base model's file is read into the class, all of it that has a place; saved, and read again whole |
| base | the file of the class is read into its base model, all of which is filled; saved, and read again whole |
| values | read by us and by the library, and written by both, afresh and after loading: all values are equal |
"""


NOT_BUILT: Final = (
    "These classes cannot be made from a configuration here; the library says why. A class of which no small model can "
    "be made, and whose checks take more than two minutes, is said to `hang`."
)


class Sweep(NamedTuple):
    """The file of one sweep."""

    made_with: dict[str, str]
    lines: list[Line]

    @property
    def name(self) -> str:
        """The library's version."""
        return self.made_with["transformers"]


def page(sweeps: Iterable[Sweep]) -> Iterator[str]:
    """Yield the lines of the page."""
    sweeps = list(sweeps)
    yield from HEAD.split("\n")
    yield from _totals(sweeps)
    yield from ("", "## What differs, and why", "")
    yield from _differences(sweeps)
    yield from ("", "## What is not built", "")
    yield from _others(sweeps, "built", NOT_BUILT)
    yield from ("", "## What is not compared by value", "")
    yield from _others(
        sweeps, "values", "The library itself does not write or read a small model of these classes, or has none."
    )


def _totals(sweeps: Sequence[Sweep]) -> Iterator[str]:
    counted = [count(sweep.lines) for sweep in sweeps]
    yield f"| check |{''.join(f' transformers {sweep.name} |' for sweep in sweeps)}"
    yield f"|---|{'---|' * len(sweeps)}"
    for name in counted[0]:
        cells = (counts[name] for counts in counted)
        yield f"| {name} |{''.join(f' {cell[OK]:,} of {asked(cell):,} |' for cell in cells)}"


def _differences(sweeps: Sequence[Sweep]) -> Iterator[str]:
    """Yield a table of what differs: classes of one reason in one row."""
    rows: dict[Any, dict[str, list[str]]] = {}
    for sweep in sweeps:
        for line, check in differing(sweep.lines):
            reason = reason_for(line, check)
            about = reason or f"not looked at yet: {_words(line[check])}"
            checks = rows.setdefault(about, {})
            checks.setdefault(line["class"], []).append(check)
    yield "| classes | checks | whose | why |"
    yield "|---|---|---|---|"
    for about, classes in rows.items():
        checks = ", ".join(dict.fromkeys(check for each in classes.values() for check in each))
        names = ", ".join(sorted(classes))
        is_known = isinstance(about, Reason)
        yield f"| {names} | {checks} | {about.whose if is_known else '?'} | {about.why if is_known else _cell(about)} |"
    if not rows:
        yield "| none | | | |"


def _words(outcome: Any) -> str:
    counts = outcome.get("counts") or outcome.get("codes") or {}
    found = ", ".join(f"{number} {name}" for name, number in counts.items())
    return f"{kind_of(outcome)} {found or shorten(outcome.get('said', ''), 100)}".strip()


def _others(sweeps: Sequence[Sweep], check: str, words: str) -> Iterator[str]:
    """Yield the classes for which the library itself gives a reason."""
    yield from (words, "", "| classes | what the library says |", "|---|---|")
    found: dict[str, set[str]] = {}
    for sweep in sweeps:
        for line in sweep.lines:
            outcome = line.get(check, NONE)
            if outcome != OK and (check == "built" or kind_of(outcome) == "not compared"):
                text = outcome if isinstance(outcome, str) else outcome["said"]
                found.setdefault(_cell(shorten(text, 110)), set()).add(line["class"])
    for text, classes in sorted(found.items(), key=lambda each: sorted(each[1])):
        yield f"| {', '.join(sorted(classes))} | {text} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[").replace("*", "\\*")
