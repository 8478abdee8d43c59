"""Every checkpoint of the corpus, one test for all: into the real model, right in bytes and function, and back.

Nothing here depends on which case it is; what a case's own files say decides what must hold.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from corpus import REGISTRY, TOLERANCE, Case, build_model, case_names, untie_unlike, worst_output, wrong_values

import weighbridge as wb
from weighbridge.resolve import resolve

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.filterwarnings("ignore:.rope_scaling. is deprecated:FutureWarning"),  # the library, on its own files
]


@pytest.mark.parametrize("name", case_names())
def test_case_loads_computes_and_comes_back(name: str, tmp_path: Path) -> None:
    """Loaded values are those expected, the model computes what the older version did, and a save gives the file."""
    case = Case.named(name)
    model = build_model(case.facts["class"], case.path)
    untie_unlike(model, case)
    mapping = resolve(model, REGISTRY)
    if not case.has_place:
        with pytest.raises(wb.PlanError) as refused:
            wb.plan(case.path, mapping, target=model)
        assert refused.value.codes == ("source-unplaced",)
        return
    plan = wb.plan(case.path, mapping, target=model)
    plan.load_into(model)
    assert not wrong_values(case, model.state_dict())
    if case.computes_the_same:
        assert worst_output(case, model) <= TOLERANCE
    out = plan.inverse(model).write(tmp_path / "back")
    assert {file: (out / file).read_bytes() for file in case.files()} == case.files()


@pytest.mark.parametrize("name", case_names())
def test_case_resolves_alike_from_its_configuration(name: str) -> None:
    """A configuration alone gives the rules that the model's own tree gives, in the same order."""
    case = Case.named(name)
    found, alone = resolve(build_model(case.facts["class"], case.path), REGISTRY), case.mapping()
    assert found.transforms == alone.transforms
    assert found.carry == alone.carry


@pytest.mark.parametrize("name", case_names())
def test_case_plans_from_headers_alone(name: str) -> None:
    """Neither a model nor the library is needed to plan, and to run the plan: the values are those expected."""
    case = Case.named(name)
    if case.has_place:
        plan = wb.plan(case.path, case.mapping(), target=case.target(), config=case.config)
        assert not wrong_values(case, plan.state_dict())


@pytest.mark.parametrize("name", case_names())
def test_case_is_saved_under_published_names(name: str) -> None:
    """A model that never came through a plan is saved under the names that were published, and no others.

    What the file held beside the model's own tensors cannot be there: tied duplicates and carried tensors.
    """
    case = Case.named(name)
    if not case.has_place or not case.has_published_names:
        return
    plan = wb.plan(case.distinct(), case.mapping().inverse(), config=case.config)
    published = wb.open(case.path).header
    assert [key for key in plan.target if key not in published.specs] == []
