"""Which part of a run a process is: what may be said, and what launchers set."""

from __future__ import annotations

import pytest

from weighbridge.base.errors import WeighbridgeError
from weighbridge.base.process.part_numbers import LAUNCHERS, read_part


@pytest.mark.parametrize("given", [(3, 16), [3, 16], "3/16"])
def test_pair_and_text_are_read(given: object) -> None:
    assert read_part(given, {}) == (3, 16)


@pytest.mark.parametrize(
    "given",
    ["", "3", "3/", "/16", "3/16/2", "-1/4", "a/b", "٣/4", " 3/16", "3 of 16", (1,), (1, 2, 3), (1.0, 2), 3, {}],
)
def test_what_is_no_part_is_refused(given: object) -> None:
    with pytest.raises(WeighbridgeError, match="this is no part of a run") as caught:
        read_part(given, {})
    assert caught.value.code == "usage"


@pytest.mark.parametrize("given", ["16/16", (-1, 4), "0/0", (1, 1)])
def test_number_outside_is_refused(given: object) -> None:
    with pytest.raises(WeighbridgeError, match="no part of this number") as caught:
        read_part(given, {})
    assert caught.value.code == "usage"


@pytest.mark.parametrize("names", LAUNCHERS)
def test_each_launcher_is_understood(names: tuple[str, str]) -> None:
    assert read_part("auto", {names[0]: "2", names[1]: "5", "OTHER": "7"}) == (2, 5)


def test_launchers_that_agree_are_one() -> None:
    said = {"RANK": "1", "WORLD_SIZE": "2", "PMI_RANK": "1", "PMI_SIZE": "2", "SLURM_NTASKS": "9"}
    assert read_part("auto", said) == (1, 2)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({}, "none of them"),
        ({"RANK": "1"}, "RANK alone"),
        ({"RANK": "1", "SLURM_NTASKS": "2"}, "RANK alone, SLURM_NTASKS alone"),
        ({"RANK": "1", "WORLD_SIZE": "4", "SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, "RANK/WORLD_SIZE = 1/4; SLURM"),
        ({"RANK": "4", "WORLD_SIZE": "4"}, "4/4"),
        ({"RANK": "one", "WORLD_SIZE": "4"}, "one/4"),
    ],
)
def test_none_or_a_contradiction_is_refused(said: dict[str, str], words: str) -> None:
    with pytest.raises(WeighbridgeError) as caught:
        read_part("auto", said)
    assert (caught.value.code, words in caught.value.got) == ("usage", True)


def test_contradiction_says_what_to_give() -> None:
    said = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "16"}
    with pytest.raises(WeighbridgeError) as caught:
        read_part("auto", said)
    assert "--part $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" in caught.value.hint
