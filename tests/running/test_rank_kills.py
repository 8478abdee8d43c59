"""A rank that is killed as a model is loaded or saved leaves nothing that opens; the others stop and do it again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from killed_ranks import WAYS
from left_files import contents
from safetensors.torch import save_file
from spread_models import published

CERTAIN = 50
"""How many kills there are at least."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("killed")
    (made / "published").mkdir()
    save_file(published(), made / "published" / "model.safetensors", metadata={"format": "pt"})
    (made / "published" / "tokenizer.json").write_text("{}")
    return made


@pytest.fixture(scope="module")
def cases(folder: Path) -> list[dict[str, Any]]:
    """What became of each kill; they run once."""
    command = [sys.executable, str(ROOT / "tests" / "killed_ranks.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"name"')]


def test_each_rank_is_killed_all_along(cases: list[dict[str, Any]]) -> None:
    """Before its first touch, its last one, and between: of weights, other files, the index, the receipt, the name."""
    assert all(isinstance(case["ended"][case["victim"]], str) for case in cases)
    counts = Counter(case["way"] for case in cases)
    print(f"{len(cases)} kills: {dict(counts)}")
    assert counts == {name: way.points * way.ranks for name, way in WAYS.items()}
    assert len({(case["way"], case["victim"], case["kill_at"]) for case in cases}) == len(cases) >= CERTAIN
    places = "\n".join(case["ended"][case["victim"]] for case in cases)
    for place in ("a piece", ".safetensors", "tokenizer.json", "os.mkdir", "os.rename"):
        assert place in places, places


def test_other_rank_stops_and_nothing_opens(folder: Path, cases: list[dict[str, Any]]) -> None:
    """All but the name may be there when the first rank is killed: then every byte is."""
    for case in cases:
        others = [ended for rank, ended in enumerate(case["ended"]) if rank != case["victim"]]
        if (folder / case["name"] / "delivered").exists() and "again" not in case:
            assert all(code in ("", "rank-missing") for code, _ in others)
            continue
        assert [code for code, _ in others] == ["rank-missing"] * len(others), case
        is_whole = len(case["left"]) == len(list((folder / f"{case['way']}, whole" / "delivered").iterdir()))
        assert set(case["heads"]) <= {"00" * 8} or (is_whole and case["victim"] == 0), case


def test_all_save_again(folder: Path, cases: list[dict[str, Any]]) -> None:
    assert sum("again" in case for case in cases) >= CERTAIN * 4 // 5
    assert contents(folder / "as loaded, whole" / "delivered") == contents(folder / "published")
    for case in cases:
        if "again" in case:
            assert {code for code, _ in case["again"]} == {""}, case
        wanted = contents(folder / f"{case['way']}, whole" / "delivered")
        assert contents(folder / case["name"] / "delivered") == wanted, case
        assert not list((folder / case["name"]).glob(".*")), case
