"""Law 11: what we write, we read. Random models and files, and every checkpoint of the corpus, in both directions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from corpus import REGISTRY, Case, build_model, case_names, untie_unlike
from drawn_mappings import draw
from finds import show, shrink
from hypothesis import given, settings, strategies as st
from reading_back import judge_read_back

import weighbridge as wb
from weighbridge.base.file_names import RECEIPT_NAME
from weighbridge.models import module_saving
from weighbridge.models.resolve import resolve

many = settings(max_examples=max(200, settings().max_examples // 5), deadline=None)


@many
@given(st.integers(0, 2**32 - 1))
def test_a_drawn_model_is_read_back_as_it_was_saved(seed: int) -> None:
    drawn = draw(seed)
    if judge_read_back(drawn, seed) is not None:
        small, find = shrink(judge_read_back, drawn, seed)
        pytest.fail(f"{find.kind}\n{find.said}\n{show(small)}seed      {seed}", pytrace=False)


def test_the_check_finds_what_is_written_and_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors that a partial load left over, written back as they once were."""
    monkeypatch.setattr(module_saving, "_without_strays", lambda plan, header: (plan, ()))
    monkeypatch.setattr(module_saving, "prove_read_back", lambda *_: None)
    found = (judge_read_back(draw(seed), seed) for seed in range(100))
    assert next(find.kind for find in found if find) == "save: not read back"


# ---- the corpus ----

CASES = case_names() if os.environ.get("HYPOTHESIS_PROFILE") == "search" else case_names()[::3]
"""Every third case; the search profile takes all of them."""


def fresh(case: Case, seed: int) -> Any:
    """A model of a case's class with values of its own."""
    torch.manual_seed(seed)
    model = build_model(case.facts["class"], case.path)
    untie_unlike(model, case)
    return model


def differing(one: Any, other: Any) -> list[str]:
    theirs = other.state_dict()
    return [key for key, value in one.state_dict().items() if not torch.equal(value, theirs[key])]


@pytest.mark.corpus
@pytest.mark.filterwarnings("ignore:.rope_scaling. is deprecated:FutureWarning")  # the library, on its own files
@pytest.mark.parametrize("name", CASES)
def test_a_case_is_read_back_from_all_that_is_written_of_it(name: str, tmp_path: Path) -> None:
    """In the published layout and in the runtime's, by a model's own plan, by its mapping, and by a conversion."""
    case = Case.named(name)
    if not case.has_place:
        return
    model = fresh(case, 1)
    mapping = resolve(model, REGISTRY)
    wb.load(model, case.path, mapping)
    written = {
        "its plan": wb.save(model, tmp_path / "plan", sync=False),
        "its mapping": wb.save(model, tmp_path / "mapping", mapping, layout="mapped", sync=False),
        "the runtime's names": wb.save(model, tmp_path / "names", mapping, layout="as is", sync=False),
        "a conversion": wb.convert(case.path, tmp_path / "converted", mapping, target=model, sync=False),
        "its own names": wb.save(model, tmp_path / "own", [], sync=False),
    }
    (written["its own names"] / RECEIPT_NAME).unlink()
    again = fresh(case, 2)
    first = {key: value.clone() for key, value in again.state_dict().items()}
    for what, out in written.items():
        again.load_state_dict(first)
        wb.load(again, out, mapping)
        assert differing(model, again) == [], what
