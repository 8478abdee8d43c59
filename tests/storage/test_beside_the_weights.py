"""Files beside the weights: how far they are looked for, and what is left aside with a word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bounded import run_bounded
from safetensors.torch import save_file

import weighbridge as wb


def checkpoint(folder: Path) -> Path:
    path = folder / "model"
    path.mkdir()
    save_file({"a": torch.arange(4.0)}, path / "model.safetensors")
    (path / "config.json").write_text("{}")
    return path


def extras(path: Path) -> list[str]:
    return [extra.name for extra in wb.open(path).extras]


def nest(folder: Path, depth: int, last: str = "") -> None:
    """Make folders inside each other, deeper than a path may be long."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("deeper", dir_fd=here)
        there = os.open("deeper", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = there
    if last:
        os.close(os.open(last, os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


@pytest.mark.parametrize("last", ["", "file.txt", "weights.safetensors"])
@pytest.mark.parametrize("depth", [40, 1100, 3000])
def test_g14_folders_may_be_nested_as_deep_as_anybody_likes(depth: int, last: str, tmp_path: Path) -> None:
    path = checkpoint(tmp_path)
    nest(path, depth, last)
    try:
        found = run_bounded(
            "import sys\nsource = wb.open(sys.argv[1])\nreturn [[extra.name for extra in source.extras], source.notes]",
            path,
        )
    finally:  # Python's own way to remove a tree goes as deep as its stack
        subprocess.run(["rm", "-rf", str(path)], check=True)
    assert found.value == [["config.json"], ["left aside, not carried along: 'deeper'"]]


def test_folders_of_a_model_are_looked_through(tmp_path: Path) -> None:
    path = checkpoint(tmp_path)
    nest(path, 15, "file.txt")
    (path / "tokenizer").mkdir()
    (path / "tokenizer" / "vocab.txt").write_text("a")
    assert extras(path) == ["config.json", "deeper/" * 15 + "file.txt", "tokenizer/vocab.txt"]
    out = wb.convert(path, tmp_path / "out", [])
    assert (out / "tokenizer" / "vocab.txt").read_text() == "a"


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, where root can give up reading everything")
@pytest.mark.parametrize("depth", [0, 3])
def test_g17_a_folder_that_may_not_be_read_is_left_aside(depth: int, tmp_path: Path) -> None:
    path = checkpoint(tmp_path)
    private = path / "a" / "/".join("bcd"[:depth]) / "private"
    private.mkdir(parents=True)
    (private / "notes.txt").write_text("mine")
    private.chmod(0o000)
    found = run_bounded(
        """
        import ctypes, sys
        # capset(2), version 3: no capability is left, not even that of root to read what nobody may read
        assert ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()) == 0
        source = wb.open(sys.argv[1])
        return [[extra.name for extra in source.extras], source.notes]
        """,
        path,
    )
    private.chmod(0o700)
    assert found.value == [["config.json"], ["left aside, not carried along: 'a'"]]


@pytest.mark.parametrize("is_folder", [False, True])
def test_g17_what_has_the_name_of_a_record_is_left_aside(is_folder: bool, tmp_path: Path) -> None:
    path = checkpoint(tmp_path)
    odd = path / "weighbridge-partial.json"
    if is_folder:
        odd.mkdir()
        (odd / "file.txt").write_text("mine")
    else:
        odd.write_text("{}")
    assert wb.open(path).notes == ("left aside, not carried along: 'weighbridge-partial.json'",)
    out = wb.convert(path, tmp_path / "out", [], resume=True)
    assert sorted(entry.name for entry in out.iterdir()) == ["config.json", "model.safetensors", "weighbridge.json"]
    assert wb.verify(path, out)


@pytest.mark.parametrize("name", ["model.safetensors.link", "sub/weighbridge-partial.json", "sub/weighbridge.json"])
@pytest.mark.parametrize("link", ["never", "share", "hard"])
def test_g17_any_other_name_is_carried_along(name: str, link: str, tmp_path: Path) -> None:
    path = checkpoint(tmp_path)
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_text("mine")
    out = wb.convert(path, tmp_path / "out", [], link=link)
    assert (out / name).read_text() == "mine"
