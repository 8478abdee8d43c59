"""Pieces of one model that several processes hold are saved as the whole, without gathering."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from left_files import contents
from safetensors.torch import load_file
from spread_models import RULES, Net, publish
from stage_models import WAYS

import weighbridge as wb


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("stages"))


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    """What each of four ranks found; they run once."""
    command = [sys.executable, str(ROOT / "tests" / "stage_models.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"rank"')]
    raised = [rank["raised"] for rank in found if "raised" in rank]
    assert not raised, "\n".join(raised)
    return found


@pytest.fixture(scope="module")
def alone(folder: Path) -> Path:
    model = Net()
    wb.load(model, folder / "published", RULES)
    return wb.save(model, folder / "alone", RULES, max_shard_size=1500, digests=True, sync=False)


@pytest.mark.parametrize("way", WAYS)
def test_stages_save_what_one_process_saves(way: str, folder: Path, ranks: Any, alone: Path) -> None:
    """The files that were published, and through the mapping, with receipt and digests, those of one process."""
    assert contents(folder / f"{way} as loaded") == contents(folder / "published")
    assert contents(folder / f"{way} published") == contents(alone)


def test_weights_that_are_one_in_the_whole_are_saved_once_until_they_differ(folder: Path, ranks: Any) -> None:
    """The embedding is in one stage, and the head in another."""
    rows = torch.arange(6.0).reshape(3, 2)
    tied, untied = (load_file(folder / name / "model.safetensors") for name in ("tied", "untied"))
    assert tied.keys() == {"0.weight"}
    assert untied["0.weight"].equal(rows)
    assert untied["1.weight"].equal(2 * rows)


@pytest.mark.parametrize("name", ["tied in one", "scalars"])
def test_what_a_stage_repeats_or_cannot_hold_in_part_is_saved_as_by_one(name: str, folder: Path, ranks: Any) -> None:
    assert contents(folder / name) == contents(folder / f"{name}, alone")


def test_ranks_outside_the_mesh_take_part_and_hold_nothing(folder: Path, ranks: Any) -> None:
    assert load_file(folder / "outside" / "model.safetensors")["weight"].equal(torch.eye(4, 3))


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        ("other_shape", "ranks-disagree", "rank 3: F32"),
        ("other_values", "ranks-disagree", "rank 3: SHA-256"),
        ("tied_on_some", "ranks-disagree", "tied to"),
        ("missing", "ranks-disagree", "head.weight"),
        ("half_of_it", "inverse-lossy", "stages=True"),
        ("not_all", "ranks-disagree", "another point"),
        ("other_files", "ranks-disagree", "rank 0 would not load what rank {1..3} loads"),
        ("other_rules", "ranks-disagree", "rank 0 would not load"),
        ("missing_file", "checkpoint-not-found", "nowhere"),
        ("no_room", "destination-no-room", "model"),
    ],
)
def test_ranks_that_do_not_fit_together_are_refused_by_all(
    what: str, code: str, words: str, folder: Path, ranks: Any
) -> None:
    for rank in ranks:
        found, *_, text = rank["refused"][what]
        assert found == code, text
        assert words in text
    assert not [path.name for path in folder.iterdir() if what.replace("_", " ") in path.name]


@pytest.mark.parametrize(("what", "word"), [("absent", "save"), ("absent_from_load", "load")])
def test_a_rank_that_does_not_come_is_named(what: str, word: str, folder: Path, ranks: Any) -> None:
    assert [rank["refused"][what][0] for rank in ranks] == ["nothing was refused", *["rank-missing"] * 3]
    for rank in ranks[1:]:
        assert f"not all ranks that {word} together are there" in rank["refused"][what][-1]
        assert "no word of rank 0" in rank["refused"][what][-1]
    assert not (folder / "absent").exists()


def test_a_group_of_some_processes_saves_what_they_hold(folder: Path, ranks: Any) -> None:
    assert [rank["refused"]["of_no_group"][0] for rank in ranks] == [*["nothing was refused"] * 2, *["usage"] * 2]
    assert load_file(folder / "of two ranks" / "model.safetensors").keys() == {"weight", "bias"}
