"""A rank that is killed while a model is saved leaves nothing that opens, the others stop, and all save it again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from left_files import contents
from safetensors.torch import save_file
from spread_models import published

POINTS = 9
"""How often each of two ranks is killed: the first time that it reaches for the output, the last time, and between."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("killed")
    (made / "published").mkdir()
    save_file(published(), made / "published" / "model.safetensors", metadata={"format": "pt"})
    return made


@pytest.fixture(scope="module")
def cases(folder: Path) -> list[dict[str, Any]]:
    command = [sys.executable, str(ROOT / "tests" / "killed_ranks.py"), str(folder), str(POINTS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"name"')]


def test_each_rank_is_killed_all_along(cases: list[dict[str, Any]]) -> None:
    assert len(cases) == 2 * POINTS
    assert len({(case["victim"], case["kill_at"]) for case in cases}) == 2 * POINTS
    assert all(case["ended"][case["victim"]] is None for case in cases)


def test_other_rank_stops_and_nothing_opens(folder: Path, cases: list[dict[str, Any]]) -> None:
    """All but the name may be there when the first rank is killed: then every byte is."""
    for case in cases:
        other, _ = case["ended"][1 - case["victim"]]
        if (folder / case["name"] / "delivered").exists() and "again" not in case:
            assert other in ("", "rank-missing")
            continue
        assert other == "rank-missing", case
        is_whole = len(case["left"]) == len(list((folder / "published").iterdir()))
        assert set(case["heads"]) <= {"00" * 8} or (is_whole and case["victim"] == 0), case


def test_all_save_again(folder: Path, cases: list[dict[str, Any]]) -> None:
    wanted = contents(folder / "published")
    assert sum("again" in case for case in cases) >= 15
    for case in cases:
        if "again" in case:
            assert [code for code, _ in case["again"]] == ["", ""], case
        assert contents(folder / case["name"] / "delivered") == wanted, case
        assert not list((folder / case["name"]).glob(".*")), case
