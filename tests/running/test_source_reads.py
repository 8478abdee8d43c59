"""How the engine reads a source that lies in files: never through a map, and past the page cache if that is wanted."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import random
import shutil
import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from conftest import ROOT
from counting import Counting
from drawn_parts import deal_all
from hypothesis import given, settings, strategies as st
from safetensors.torch import save_file

import weighbridge as wb
from weighbridge.algebra.copies import Copy, Loop
from weighbridge.algebra.sections import close_gaps
from weighbridge.running import execute, gather, strided
from weighbridge.running.predicting.predicted_reads import predict_reads
from weighbridge.storage.places import direct
from weighbridge.storage.places.direct import fill_direct, scatter_direct, set_direct
from weighbridge.storage.places.scatter import Span

SOURCE = ROOT / "src"

COLUMNS = wb.Mapping([wb.WeightConverter("w", [f"part{k}" for k in range(32)], [wb.Chunk(dim=1)])], name="columns")


def wide(path: Path, rows: int = 64, columns: int = 32 * 700) -> torch.Tensor:
    """Save a matrix whose columns are far apart, and return it."""
    made = torch.arange(rows * columns, dtype=torch.int32).view(rows, columns)
    save_file({"w": made}, path, metadata={"format": "pt"})
    return made


# Pieces that are far apart


@st.composite
def sparse_copies(draw: st.DrawFn) -> Copy:
    sizes = draw(st.lists(st.integers(2, 4), min_size=1, max_size=3))
    read, write = [], []
    for strides, gap in ((read, 40), (write, 2)):
        step = draw(st.integers(1, 3))
        for size in sizes:
            strides.append(step)
            step *= size + draw(st.integers(0, gap))
    order = draw(st.permutations(range(len(sizes))))
    return Copy(0, draw(st.integers(0, 5)), 0, tuple(Loop(sizes[k], read[k], write[k]) for k in order))


@given(copy=sparse_copies(), far=st.integers(1, 60), cut=st.integers(0, 100))
@settings(max_examples=300)
def test_packed_copy_reads_the_same_elements(copy: Copy, far: int, cut: int) -> None:
    def reads(one: Copy) -> list[tuple[int, int]]:
        found = [(one.source_start, one.target_start)]
        for size, read, write in one.loops:
            found = [(a + read * k, b + write * k) for a, b in found for k in range(size)]
        return found

    whole, pieces = close_gaps(copy, far)
    last = max(place for place, _ in reads(whole)) + 1
    middle = min(cut, last)
    parts = [*pieces.between(0, middle), *pieces.between(middle, last)]
    source = [place for start, count in parts for place in range(start, start + count)]
    assert sorted((source[place], target) for place, target in reads(whole)) == sorted(reads(copy))


@pytest.mark.parametrize("far_bytes", [1, 4096, 10**9])
@pytest.mark.parametrize("section_bytes", [64, 10_000])
def test_columns_are_the_same_however_they_are_read(
    far_bytes: int, section_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute, "FAR_BYTES", far_bytes)
    monkeypatch.setattr(execute, "SECTION_BYTES", section_bytes)
    monkeypatch.setattr(strided, "SECTION_BYTES", section_bytes)
    whole = wide(tmp_path / "model.safetensors", rows=7, columns=32 * 90)
    made = wb.plan(tmp_path / "model.safetensors", COLUMNS).state_dict(copy=True)
    for number, part in enumerate(whole.chunk(32, dim=1)):
        assert torch.equal(made[f"part{number}"], part)


CUT = """
import json, os, sys
from pathlib import Path
import torch
import weighbridge as wb

path, out, kind = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
plan = wb.plan(path, [wb.WeightConverter("w", [f"part{k}" for k in range(32)], [wb.Chunk(dim=1)])])


def cut(done, total):
    os.truncate(path, path.stat().st_size // 8)


try:
    if kind == "convert":
        plan.write(out, progress=cut)
    elif kind == "state dict":
        plan.state_dict(progress=cut)
    else:
        model = torch.nn.ParameterDict({k: torch.nn.Parameter(torch.empty(s.shape, dtype=torch.int32), False)
                                        for k, s in plan.target.items()})
        plan.load_into(model, progress=cut)
except wb.WeighbridgeError as problem:
    print(json.dumps([problem.code, sorted(p.name for p in out.parent.iterdir())]))
"""


@pytest.mark.parametrize("kind", ["convert", "state dict", "load"])
def test_file_that_is_cut_short_during_a_strided_read_is_an_error(kind: str, tmp_path: Path) -> None:
    """A map of it would end the process: the columns come from all over the file, and only an eighth is left of it."""
    path = tmp_path / "model.safetensors"
    wide(path)
    ran = subprocess.run(
        [sys.executable, "-c", CUT, str(path), str(tmp_path / "out"), kind],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == ["source-changed", ["model.safetensors"]]


MAPS = dedent("""
import sys
from pathlib import Path
import weighbridge as wb

path, out = Path(sys.argv[1]), Path(sys.argv[2])
plan = wb.plan(path, [wb.WeightConverter("w", [f"part{k}" for k in range(32)], [wb.Chunk(dim=1)])])
seen = []


def look(done, total):
    seen.append(str(path) in Path("/proc/self/maps").read_text())


plan.write(out, progress=look)
kept = plan.state_dict(progress=look)
print(len(seen) > 2, any(seen))
""")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_strided_reads_map_nothing(tmp_path: Path) -> None:
    wide(tmp_path / "model.safetensors")
    ran = subprocess.run(
        [sys.executable, "-c", MAPS, str(tmp_path / "model.safetensors"), str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.split() == ["True", "False"], ran.stderr


def test_tie_that_still_stands_is_read_and_one_that_does_not_is_named(tmp_path: Path) -> None:
    shared = torch.randn(5, 3)
    target = wb.open({"a": shared, "b": shared, "c": torch.zeros(2)}).header
    plan = wb.plan({"a": shared, "c": torch.zeros(2)}, [], target).inverse()
    assert [fated.key for fated in plan.tied_sources] == ["b"]
    for name, second in (("same", shared.clone()), ("other", shared + 1)):
        save_file({"a": shared, "b": second, "c": torch.zeros(2)}, tmp_path / f"{name}.safetensors")
    assert torch.equal(plan.state_dict(tmp_path / "same.safetensors")["a"], shared)
    with pytest.raises(wb.PlanError) as caught:
        plan.state_dict(tmp_path / "other.safetensors")
    assert caught.value.code == "tie-differs"


# Past the page cache


def can_read_directly(folder: Path) -> bool:
    (folder / "probe").write_bytes(bytes(8192))
    descriptor = os.open(folder / "probe", os.O_RDONLY)
    try:
        return set_direct(descriptor, on=True) and fill_direct(descriptor, memoryview(bytearray(10)), 5) == 10
    except OSError:
        return False
    finally:
        os.close(descriptor)


@pytest.fixture(scope="module")
def direct_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("direct")
    if not can_read_directly(folder):
        pytest.skip("needs a file system with direct reads (O_DIRECT)")
    return folder


def noise(size_bytes: int) -> bytes:
    return bytes(torch.randint(256, (size_bytes,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)))


@given(data=st.data(), size_bytes=st.integers(0, 30_000), bounce=st.sampled_from([4096, 8192, 4 * 2**20]))
@settings(max_examples=150, deadline=None)
def test_direct_reads_give_the_same_bytes(
    direct_folder: Path, data: st.DataObject, size_bytes: int, bounce: int
) -> None:
    content = noise(size_bytes)
    path = direct_folder / "bytes"
    path.write_bytes(content)
    start = data.draw(st.integers(0, size_bytes))
    wanted = data.draw(st.integers(0, size_bytes - start + 5000))
    cuts = sorted(data.draw(st.lists(st.integers(0, wanted), max_size=4)))
    memory = torch.zeros(wanted + 1, dtype=torch.uint8)
    spans = [Span(memory.data_ptr() + a, b - a) for a, b in pairwise([0, *cuts, wanted]) if a < b]
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(direct, "BOUNCE_BYTES", bounce)
            assert set_direct(descriptor, on=True)
            buffer = bytearray(wanted)
            there = len(content[start : start + wanted])
            assert fill_direct(descriptor, memoryview(buffer), start) == there
            assert scatter_direct(descriptor, start, spans) == there
    finally:
        os.close(descriptor)
    assert bytes(buffer[:there]) == bytes(memory[:there].tolist()) == content[start : start + wanted]


@pytest.mark.parametrize("resume", [False, True])
def test_direct_conversion_and_load_are_the_same(direct_folder: Path, tmp_path: Path, resume: bool) -> None:
    path = tmp_path / "model.safetensors"
    whole = wide(path, rows=9)
    for name, past in (("one", False), ("two", True)):
        wb.convert(path, tmp_path / name, COLUMNS, direct=past, resume=resume)
        wb.revert(tmp_path / name, tmp_path / f"{name} back", direct=past, resume=resume)
    for name in ("model.safetensors", "weighbridge.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert (tmp_path / "two back" / "model.safetensors").read_bytes() == path.read_bytes()
    model = torch.nn.ParameterDict({"w": torch.nn.Parameter(torch.empty(whole.shape, dtype=torch.int32), False)})
    wb.load(model, path, [], direct=True)
    assert torch.equal(model["w"], whole)
    assert torch.equal(wb.open(path, direct=True).tensor("w"), whole)


def resident_bytes(path: Path) -> int:
    """How much of a file is in the page cache: mincore(2) over a map of it that is never touched."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as room:
        pages = -(-len(room) // mmap.PAGESIZE)
        found = (ctypes.c_ubyte * pages)()
        place = ctypes.c_char.from_buffer(room)
        status = ctypes.CDLL(None).mincore(ctypes.c_void_p(ctypes.addressof(place)), ctypes.c_size_t(len(room)), found)
        del place
        assert status == 0
        return sum(page & 1 for page in found) * mmap.PAGESIZE


def drop_from_cache(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.parametrize("kind", ["load", "convert"])
def test_direct_reads_leave_the_page_cache_alone(direct_folder: Path, kind: str) -> None:
    path, out = direct_folder / "cold.safetensors", direct_folder / "out"
    save_file({"w": torch.arange(6_000_000, dtype=torch.int32)}, path)
    drop_from_cache(path)
    if resident_bytes(path) > 1_000_000:
        pytest.skip("needs a file system that lets go of cached pages")
    resident = {}
    for past in (True, False):
        plan = wb.plan(wb.open(path, direct=past), [wb.WeightRenaming("w", "v")])
        if kind == "load":
            plan.state_dict(copy=True)
        else:
            plan.write(out)
            shutil.rmtree(out)
        resident[past] = resident_bytes(path)
        drop_from_cache(path)
    assert resident[True] < 2_000_000
    assert resident[False] > 20_000_000


def test_direct_source_that_is_cut_short_is_named(direct_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    wide(path)
    plan = wb.plan(wb.open(path, direct=True), COLUMNS)
    with pytest.raises(wb.CheckpointError) as caught:
        plan.write(tmp_path / "out", progress=lambda *_: os.truncate(path, path.stat().st_size // 8))
    assert caught.value.code == "source-changed"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", ["at once", "when it is read"])
def test_refused_direct_reads_go_through_the_cache(
    how: str, direct_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An alignment that no disk takes, or a file system that knows no direct reads."""
    whole = wide(tmp_path / "model.safetensors", rows=3)
    if how == "at once":
        monkeypatch.setattr(direct, "set_direct", lambda *_, **__: False)
    else:
        monkeypatch.setattr(direct, "ALIGNMENT", 1)
    made = wb.plan(wb.open(tmp_path / "model.safetensors", direct=True), []).state_dict()
    assert torch.equal(made["w"], whole)
    assert "read through the page cache" in caplog.text


def test_only_safetensors_files_are_read_directly(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(3)}, tmp_path / "model.bin")
    for place in (tmp_path / "model.bin", {"w": torch.zeros(3)}):
        with pytest.raises(wb.WeighbridgeError) as caught:
            wb.open(place, direct=True)
        assert caught.value.code == "usage"


def test_forked_processes_read_past_the_cache_each_for_itself(tmp_path: Path) -> None:
    """The buffer of direct reads is shared memory: a child that wrote to its parent's would spoil what it reads."""
    from weighbridge.storage.places import direct

    first = direct._bounce()
    first[:4] = b"mine"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads of this process hold nothing that is used
        child = os.fork()
    if child == 0:
        direct._bounce()[:4] = b"them"
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert direct._bounce() is first
    assert first[:4] == b"mine"


# What is read is known before


MOVES = wb.Mapping(
    [
        wb.WeightConverter("turned", "turned", [wb.Transpose(0, 1)]),
        wb.WeightConverter("wide", [f"wide{k}" for k in range(20)], [wb.Chunk(dim=1)]),
        wb.WeightConverter(["up", "down"], "both", [wb.Concatenate(1), wb.Transpose(0, 1)]),
        wb.WeightConverter("rounded", "rounded", [wb.Cast("BF16"), wb.Cast("F32")]),
        wb.WeightConverter("experts.*.w", "experts", [wb.MergeModulelist(0), wb.Transpose(1, 2)]),
    ],
    name="moves",
)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_as_much_is_read_as_was_predicted(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Of whole plans and of plans that are cut, in sections of any size."""
    chance = random.Random(seed)
    path = tmp_path_factory.mktemp("reads") / "model.safetensors"
    tensors = {name: torch.rand(40, 60) for name in ("turned", "wide", "up", "down", "rounded", "plain")}
    save_file(tensors | {f"experts.{k}.w": torch.rand(8, 12) for k in range(5)}, path)
    plan = wb.plan(path, MOVES)
    (mine, *_) = deal_all({key: spec.shape for key, spec in plan.target.items()}, 3, chance)
    section_bytes = chance.choice((800, 5000, 2**20))
    with pytest.MonkeyPatch.context() as patch:
        for module in (execute, gather, strided):
            patch.setattr(module, "SECTION_BYTES", section_bytes)
        patch.setattr(execute, "FAR_BYTES", chance.choice((16, 300, 2**14)))
        for made in (plan, plan.cut(mine)):
            counting = Counting(wb.open(path))
            made.state_dict(counting, copy=True)
            assert counting.count == predict_reads(made)
    assert predict_reads(plan) >= sum(tensor.nbytes for tensor in tensors.values())


def test_rows_are_read_as_they_are_and_no_more(tmp_path: Path) -> None:
    """What FSDP2 and expert parallelism need lies in one piece."""
    experts = {f"experts.{k}.{name}": torch.rand(8, 12) for k in range(4) for name in ("gate", "up")}
    save_file(experts | {"norm": torch.rand(6)}, tmp_path / "model.safetensors")
    operations = [wb.MergeModulelist(0), wb.Concatenate(1)]
    rules = wb.WeightConverter(["experts.*.gate", "experts.*.up"], "experts", operations)
    plan = wb.plan(tmp_path / "model.safetensors", [rules])
    rows = {"experts": wb.Part((4, 16, 12), (((2, 4),), ((0, 16),), ((0, 12),))), "norm": wb.Part((6,), (((0, 3),),))}
    cut = plan.cut(rows)
    counting = Counting(wb.open(tmp_path / "model.safetensors"))
    made = cut.state_dict(counting, copy=True)
    assert counting.count == predict_reads(cut) == sum(tensor.nbytes for tensor in made.values())
    assert "reads 1.000 times that" in str(cut)
    mapping = Counting(wb.open(tmp_path / "model.safetensors"))
    again = cut.state_dict(mapping)
    assert again["norm"].equal(made["norm"])
    assert mapping.count == made["experts"].nbytes  # rows of a tensor that moves as it is are mapped
