"""The garbage collector is off while many small values are made, and on again as soon as bytes move."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import weighbridge as wb
from weighbridge.base.process.collecting import with_collection, without_collection
from weighbridge.base.workers import run_all


@pytest.fixture(autouse=True)
def _enabled() -> Iterator[None]:
    gc.enable()
    yield
    gc.enable()


def test_it_is_off_inside_and_on_again_afterwards() -> None:
    with without_collection():
        assert not gc.isenabled()
        with without_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_is_on_after_an_exception() -> None:
    with pytest.raises(ValueError, match="x"), without_collection():
        raise ValueError("x")
    assert gc.isenabled()


@pytest.mark.parametrize("block", [without_collection, with_collection])
def test_who_turned_it_off_finds_it_off(block: object) -> None:
    gc.disable()
    with block():  # type: ignore[operator]
        assert not gc.isenabled()
        with with_collection():
            assert not gc.isenabled()
    assert not gc.isenabled()


def test_a_long_part_lets_it_run() -> None:
    with without_collection():
        with with_collection():
            assert gc.isenabled()
            with without_collection():
                assert gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_blocks_of_several_threads_may_end_in_any_order() -> None:
    first, second, ended = threading.Event(), threading.Event(), threading.Event()

    def other() -> None:
        with without_collection():
            first.set()
            second.wait(60)
        ended.set()

    thread = threading.Thread(target=other)
    with without_collection():
        thread.start()
        assert first.wait(60)
    assert not gc.isenabled()
    second.set()
    assert ended.wait(60)
    thread.join()
    assert gc.isenabled()


def test_g17_workers_let_it_run() -> None:
    seen: list[bool] = []
    with without_collection():
        run_all([lambda: seen.append(gc.isenabled())] * 3, 2)
        assert not gc.isenabled()
    assert seen == [True] * 3


@pytest.mark.parametrize("is_meta", [True, False])
def test_g17_a_long_load_does_not_keep_it_off(is_meta: bool, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(
        {f"{k}.weight": torch.rand(64, 64) for k in range(8)} | {f"{k}.bias": torch.rand(64) for k in range(8)}, path
    )
    seen: list[bool] = []
    with torch.device("meta" if is_meta else "cpu"):
        model = torch.nn.Sequential(*[torch.nn.Linear(64, 64) for _ in range(8)])
    wb.load(model, path, [], copy=True, progress=lambda done, total: seen.append(gc.isenabled()))
    assert seen
    assert all(seen)
    assert gc.isenabled()
