"""The `try` lines of errors: each can be followed in the call that raised the error, and leads past it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from further_remedies import FURTHER, Further
from provocations import PROVOCATIONS
from remedies import BY_HAND, REMEDIES, Remedy

import weighbridge as wb
from weighbridge.base.errors import CODES

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

WITHOUT_HINT = {
    "operation-argument": "`expected` has the form, or lists each value, that the argument may have",
    "mapping-file": "the place is marked, and `expected` lists what may stand there",
    "usage": "`expected` lists what the argument may be",
}
"""Codes whose provocation has no `try` line, and why."""


def provoke(code: str, folder: Path) -> wb.WeighbridgeError:
    with pytest.raises(wb.WeighbridgeError) as caught:
        PROVOCATIONS[code](folder)
    return caught.value


def hints(error: wb.WeighbridgeError) -> list[str]:
    """The hints of an error and of its problems, without the numbers of this machine."""
    problems = error.problems if isinstance(error, wb.PlanError) else ()
    return [re.sub(r"free [\d,]+ bytes", "free NUMBER bytes", each.hint) for each in (error, *problems) if each.hint]


def codes(error: wb.WeighbridgeError) -> set[str]:
    return {error.code, *(error.codes if isinstance(error, wb.PlanError) else ())}


def rest_of(hint: str, words: list[str]) -> str:
    """What is left of a hint without the words that are followed, and without what joins them."""
    for part in sorted(words, key=len, reverse=True):
        hint = hint.replace(part, "", 1)
    return re.sub(r"\b(or|and)\b|[,;\s]", "", hint)


@pytest.mark.parametrize("code", CODES)
def test_every_word_of_a_hint_is_followed_or_said_to_be_by_hand(code, tmp_path):
    found = hints(provoke(code, tmp_path))
    assert bool(found) == (code not in WITHOUT_HINT)
    words = [remedy.words for remedy in REMEDIES.get(code, ())] + list(BY_HAND.get(code, ()))
    assert [rest_of(hint, words) for hint in found] == [""] * len(found)
    assert [part for part in words if not any(part in hint for hint in found)] == []


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        pytest.param(code, remedy, id=f"{code}-{remedy.follow.__name__}")
        for code, remedies in REMEDIES.items()
        for remedy in remedies
    ],
)
def test_following_a_hint_leads_past_the_error(code: str, remedy: Remedy, tmp_path):
    """The call succeeds then, or comes to another error."""
    first = provoke(code, tmp_path)
    later = outcome(remedy, tmp_path)
    assert later is None or not codes(later) & codes(first), later


def outcome(remedy: Remedy, folder: Path) -> wb.WeighbridgeError | None:
    try:
        remedy.follow(folder)
    except wb.WeighbridgeError as later:
        return later
    return None


@pytest.mark.parametrize("case", FURTHER, ids=lambda case: f"{case.name}: {case.words[:40]}")
def test_following_a_further_hint_leads_past_the_error(case: Further, tmp_path):
    with pytest.raises(wb.WeighbridgeError) as caught:
        case.mistake(tmp_path)
    assert any(case.words in hint for hint in hints(caught.value)), hints(caught.value)
    later = outcome(Remedy(case.words, case.remedy), tmp_path)
    is_past = later is None or not codes(later) & codes(caught.value)
    assert is_past == (not case.unfollowable), later
