"""What an error looks like, and that it survives a trip to another process."""

from __future__ import annotations

import pickle

import pytest

import weighbridge as wb
from weighbridge.base.errors import CODES

KINDS = [
    wb.CheckpointError,
    wb.DestinationError,
    wb.LayoutError,
    wb.MappingError,
    wb.PatternError,
    wb.PlanError,
    wb.RegistryError,
    wb.VerifyError,
]


def whole(kind: type[wb.WeighbridgeError], code: str = "group-incomplete") -> wb.WeighbridgeError:
    return kind(
        code,
        "cannot stack experts",
        where="model.layers.3.mlp.experts.gate_up_proj",
        expected="64 sources",
        got="63\nmissing: 17",
        because="rule 4",
        hint="check that all shards are present",
    )


def test_text_of_an_error() -> None:
    assert str(whole(wb.PlanError)).splitlines() == [
        "group-incomplete: cannot stack experts @ model.layers.3.mlp.experts.gate_up_proj",
        "  expected  64 sources",
        "  got       63",
        "            missing: 17",
        "  because   rule 4",
        "  try       check that all shards are present",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_errors_pickle(kind: type[wb.WeighbridgeError]) -> None:
    error = whole(kind)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (str(again), again.to_dict()) == (str(error), error.to_dict())


def test_problems_pickle_with_their_plan_error() -> None:
    error = wb.PlanError("plan-failed", "nothing fits", problems=[whole(wb.PlanError), whole(wb.LayoutError)])
    again = pickle.loads(pickle.dumps(error))
    assert [type(problem) for problem in again.problems] == [wb.PlanError, wb.LayoutError]
    assert str(again) == str(error)


def test_many_problems_are_capped_and_counted_when_printed() -> None:
    problems = [wb.PlanError("target-missing", "nothing fills this", where=f"key.{i}") for i in range(12)]
    problems += [wb.PlanError("source-unplaced", "no place", where=f"more.{i}") for i in range(200)]
    error = wb.PlanError("plan-failed", "nothing fits", problems=problems)
    lines = str(error).splitlines()
    assert sum("target-missing" in line for line in lines[1:13]) == 6
    assert sum("source-unplaced" in line for line in lines[1:13]) == 6
    assert lines[13:] == [
        "  … and 6 more of target-missing",
        "  … and 194 more of source-unplaced",
        "  … the error's `problems` are all of them",
    ]
    assert len(error.problems) == 212
    assert error.codes == ("target-missing", "source-unplaced")


def test_context_fills_only_what_is_empty() -> None:
    error = wb.LayoutError("shape-mismatch", "cannot reshape", got="[2, 3]")
    filled = error.with_context(got="other", because="rule 1")
    assert (filled.got, filled.because, filled.code) == ("[2, 3]", "rule 1", "shape-mismatch")
    assert isinstance(filled, wb.LayoutError)


@pytest.mark.parametrize("kind", KINDS)
def test_errors_are_what_users_catch_already(kind: type[wb.WeighbridgeError]) -> None:
    builtin = LookupError if kind is wb.RegistryError else ValueError
    assert issubclass(kind, builtin)
    assert issubclass(kind, wb.WeighbridgeError)


def test_codes_are_closed() -> None:
    with pytest.raises(AssertionError):
        wb.PlanError("no-such-code", "x")
    assert all(code == code.lower() and " " not in code for code in CODES)
