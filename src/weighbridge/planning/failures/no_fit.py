"""Choose the reading whose problems are reported, say in a line what is wrong with each, and what could be tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from shlex import quote

from weighbridge.base.errors import PlanError
from weighbridge.base.keys import counted
from weighbridge.base.specs import Header
from weighbridge.planning.drafts import Draft
from weighbridge.planning.failures.prefix_hints import DECLARE_LEFT, propose_rename
from weighbridge.planning.problems import merge_alike
from weighbridge.planning.readings import Reading


def none_fits(
    drafts: Sequence[Draft],
    source: Header,
    target: Header | None,
    draft: Callable[[Reading], Draft],
    others: Sequence[Draft] = (),
) -> PlanError:
    """Report the nearest reading's problems in full, and the others in a line each.

    Args:
        drafts: Readings that do not fit.
        source: Specs of the checkpoint's tensors.
        target: Specs of the wanted tensors, if they are known.
        draft: Compiles a further reading, to find out whether it would fit.
        others: Readings that fit, and are not taken, because one of the drafts could be the right one.
    """
    best = nearest_reading(drafts)
    further = sorted((draft for draft in drafts if draft is not best), key=openness)
    tried = [f"{draft.reading.name}: {_fault_line(draft)}" for draft in (best, *further[:2])]
    tried += [f"and {counted(len(further) - 2, 'more reading')}, fitting less"] if len(further) > 2 else []
    tried += [f"{draft.reading.name}: would fit, if that were the checkpoint's layout" for draft in others]
    name = best.plan.mapping.name
    return PlanError(
        "plan-failed",
        f'the mapping "{name}" does not fit' if name else "the mapping does not fit",
        got="\n".join(tried),
        hint=_too_wide(best) or propose_rename(best, source, draft) or _hint(best) or _other_layout(others),
        problems=merge_alike(best.problems(source, target)),
    )


def nearest_reading(drafts: Sequence[Draft]) -> Draft:
    """Return the reading that leaves least open; the mapped one, if it fills what the checkpoint as it is does not.

    Rules that are too wide leave more open than none at all, and what they do is what has to be shown.

    Args:
        drafts: Readings that do not fit.
    """
    best = min(drafts, key=openness)
    if best.reading.is_mapped:
        return best
    open_targets = set(best.missing)
    mapped = [draft for draft in drafts if draft.reading.is_mapped and not open_targets <= set(draft.missing)]
    return min(mapped, key=openness, default=best)


def openness(draft: Draft) -> int:
    """Return how many tensors a draft leaves open, on both sides."""
    return len(draft.missing) + len(draft.unplaced)


def _fault_line(draft: Draft) -> str:
    counts = ((len(draft.missing), "target"), (len(draft.unplaced), "source"), (len(draft.faults), "fault"))
    words = {"target": "missing", "source": "left over", "fault": ""}
    named = (f"{count:,} {word}{'s' * (count != 1)} {words[word]}".strip() for count, word in counts if count)
    return ", ".join(named)


def _other_layout(others: Sequence[Draft]) -> str:
    is_plain = any(draft.reading.name == "as is" for draft in others)
    return 'mend what is wrong; layout="as is" if the checkpoint is in the target\'s layout already' if is_plain else ""


def _too_wide(draft: Draft) -> str:
    """Name the rules that take what the target wants as it is, if that is all that is wrong."""
    wanted = set(draft.missing)
    taken = [step for step in draft.strays if step.rules and wanted.issuperset(step.sources)]
    keys = sorted({key for step in taken for key in step.sources})
    if not keys or set(keys) != wanted or wanted != set(draft.unplaced) or draft.faults:
        return ""
    numbers = sorted({rule + 1 for step in taken for rule in step.rules})
    rules = f"rule {numbers[0]}" if len(numbers) == 1 else f"one of rules {', '.join(map(str, numbers))}"
    return f"narrow {rules}: the target wants {len(keys):,} of its sources by their own names, such as {keys[0]}"


def _hint(draft: Draft) -> str:
    if draft.missing and draft.unplaced:
        key = draft.missing[0]
        command = f"weighbridge explain SOURCE MAPPING {quote(key)} --target TARGET"
        call = "" if draft.faults else f" (in Python: plan(..., partial=True).explain({key!r}))"
        return f"{command}{call}, which shows every rule and the nearest names"
    if draft.unplaced:
        return DECLARE_LEFT
    if draft.missing:
        return "declare what may be missing: initialise=[...], or partial=True (--initialise, --partial)"
    return ""
