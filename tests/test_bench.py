"""The benchmarks measure what they say: their data has the shape it claims, and their checks see what is wrong.

Sizes are tiny here, and no time is judged.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import weighbridge as wb

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.checkpoints import Pattern, file_hashes, write_checkpoint, wrong_tensors
from bench.inventories import DeepSeek, Moe, deepseek, deepseek_mapping, moe, moe_mapping
from bench.measure import Figure, RunFailedError, anonymous_bytes, divide, run_process, run_python
from bench.report import COLUMNS, heading, machine, plain_table, results_json, table_rows, versions
from bench.rows import (
    DEFAULT_ROWS,
    ROWS,
    SPARSE,
    Bench,
    double,
    measure_convert,
    measure_import,
    measure_inspect,
    measure_plan,
)
from bench.run import read_arguments, run_rows

# Experts are whole blocks wide, as in the real model: the scales of a fused weight are then the fused scales.
TINY_DEEPSEEK = DeepSeek(
    layers=4,
    dense_layers=1,
    experts=3,
    hidden=390,
    intermediate=650,
    expert_intermediate=256,
    q_rank=140,
    kv_rank=50,
    heads=2,
    rope_dim=6,
    nope_dim=10,
    value_dim=14,
    vocabulary=31,
)
TINY_MOE = Moe(
    layers=2, experts=3, hidden=10, expert_intermediate=7, query_dim=12, key_dim=8, head_dim=4, vocabulary=31
)

needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")


# Inventories


def test_deepseek_has_the_published_number_of_keys() -> None:
    sizes = DeepSeek()
    assert len(deepseek(sizes)) == 90_427
    assert len(deepseek(double(sizes))) == 2 * 90_427 - 3


def test_deepseek_has_the_published_number_of_elements() -> None:
    """With layer 61 and its own embedding, head, norms and projection: the numbers that the hub shows for the model."""
    header = deepseek(DeepSeek(layers=62))
    numel = Counter[str]()
    for spec in header.values():
        numel[spec.dtype] += spec.numel
    numel["BF16"] += 2 * 129_280 * 7168 + 7168 * 2 * 7168 + 3 * 7168
    assert len(header) + 6 == 91_991
    assert numel == {"F8_E4M3": 680_571_043_840, "BF16": 3_918_786_560, "F32": 41_555_600}


def test_moe_has_the_size_it_says() -> None:
    assert len(moe(Moe())) == 3219
    assert 3.4e9 < moe(Moe()).size_bytes < 3.45e9
    assert 4.0e9 < moe(SPARSE).size_bytes < 4.1e9


def test_scales_cover_their_weights() -> None:
    header = deepseek(TINY_DEEPSEEK)
    scales = [key for key in header if key.endswith("_scale_inv")]
    assert len(scales) == sum(spec.dtype == "F8_E4M3" for spec in header.values())
    for key in scales:
        rows, columns = header[key.removesuffix("_scale_inv")].shape
        assert header[key].shape == ((rows + 127) // 128, (columns + 127) // 128)


def test_fused_moe_is_what_the_mapping_gives() -> None:
    plan = wb.plan(moe(TINY_MOE), moe_mapping())
    assert plan.is_exact
    assert plan.target.specs == moe(TINY_MOE, fused=True).specs


def test_fused_deepseek_is_what_the_mapping_gives() -> None:
    plan = wb.plan(deepseek(TINY_DEEPSEEK), deepseek_mapping())
    assert plan.is_exact
    assert plan.target.specs == deepseek(TINY_DEEPSEEK, fused=True).specs


# Checkpoints


def test_written_checkpoint_is_the_header(tmp_path: Path) -> None:
    """Read by the library and by safetensors itself."""
    header = moe(TINY_MOE)
    write_checkpoint(tmp_path / "moe", TINY_MOE, 3000)
    shards = sorted((tmp_path / "moe").glob("*.safetensors"))
    tensors = {key: tensor for shard in shards for key, tensor in load_file(shard).items()}
    assert len(shards) > 1
    assert wb.open(tmp_path / "moe").header.specs == header.specs
    assert {key: tuple(tensor.shape) for key, tensor in tensors.items()} == {k: s.shape for k, s in header.items()}
    assert len({tensor.view(torch.uint8).numpy().tobytes() for tensor in tensors.values()}) == len(tensors)


def test_sparse_checkpoint_takes_no_room(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "sparse", Moe(layers=1, experts=4), 10**7, sparse=True)
    files = [path.stat() for path in (tmp_path / "sparse").glob("*.safetensors")]
    assert wb.open(tmp_path / "sparse").header.size_bytes == moe(Moe(layers=1, experts=4)).size_bytes
    assert sum(file.st_size for file in files) > 10**7
    assert sum(file.st_blocks * 512 for file in files) < 10**6


def test_pattern_gives_each_tensor_its_own_bytes() -> None:
    size_bytes = 2**24 + 12_345
    first, again, other = (b"".join(Pattern().pieces(number, size_bytes)) for number in (7, 7, 8))
    assert len(first) == size_bytes
    assert first == again != other


@pytest.fixture
def fused(tmp_path: Path) -> Path:
    """A directory with `moe`, per expert, and `fused`, made from it by torch alone."""
    write_checkpoint(tmp_path / "moe", TINY_MOE, 3000)
    parts = {k: t for path in (tmp_path / "moe").glob("*.safetensors") for k, t in load_file(path).items()}
    whole = {key: tensor for key, tensor in parts.items() if ".experts." not in key}
    for layer in range(TINY_MOE.layers):
        prefix = f"model.layers.{layer}.mlp.experts"
        stacked = {
            name: torch.stack([parts[f"{prefix}.{e}.{name}_proj.weight"] for e in range(TINY_MOE.experts)])
            for name in ("gate", "up", "down")
        }
        whole[f"{prefix}.gate_up_proj"] = torch.cat([stacked["gate"], stacked["up"]], dim=1)
        whole[f"{prefix}.down_proj"] = stacked["down"]
    (tmp_path / "fused").mkdir()
    save_file(whole, tmp_path / "fused" / "model.safetensors")
    return tmp_path


def test_comparison_accepts_what_torch_fuses(fused: Path) -> None:
    assert wrong_tensors(fused / "moe", fused / "fused", TINY_MOE.experts) == []


def test_comparison_sees_a_wrong_value_and_a_missing_tensor(fused: Path) -> None:
    path = fused / "fused" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.experts.gate_up_proj"].view(torch.uint8)[2, 3, 5] ^= 1
    del tensors["model.norm.weight"]
    tensors["astray"] = torch.zeros(1)
    save_file(tensors, path)
    wrong = ["astray", "model.layers.1.mlp.experts.gate_up_proj", "model.norm.weight"]
    assert sorted(wrong_tensors(fused / "moe", fused / "fused", TINY_MOE.experts)) == wrong


def test_hashes_see_one_bit(fused: Path) -> None:
    before = file_hashes(fused / "moe")
    name = next(name for name in before if name.endswith(".safetensors"))
    path = fused / "moe" / name
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
    assert {key for key, value in file_hashes(fused / "moe").items() if value != before[key]} == {name}


# Processes


@needs_proc
def test_memory_of_a_process_is_seen_from_outside() -> None:
    """Memory that is only reserved does not count."""
    size_bytes = 2**26
    work = "import hashlib; [hashlib.sha256(held).digest() for _ in range(3)]"
    held = run_python("-c", f"held = bytearray({size_bytes}); held[::4096] = bytes(len(held[::4096])); {work}")
    bare = run_python("-c", "import mmap; " + f"held = mmap.mmap(-1, {size_bytes}); " + work.replace("held", "b'x'"))
    assert held.samples > 0
    assert held.peak_anonymous_bytes is not None
    assert held.peak_anonymous_bytes > size_bytes
    assert (bare.peak_anonymous_bytes or 0) < size_bytes


@needs_proc
def test_memory_is_told_for_living_processes_only() -> None:
    assert (anonymous_bytes(os.getpid()) or 0) > 2**20
    assert anonymous_bytes(2**22 + 1) is None


def test_failing_process_shows_its_output() -> None:
    with pytest.raises(RunFailedError, match=r"exit status 3\nthe reason"):
        run_python("-c", "print('the reason'); raise SystemExit(3)")


def test_endless_process_is_ended() -> None:
    with pytest.raises(RunFailedError, match="exit status -9"):
        run_process([sys.executable, "-c", "while True: pass"], max_run_s=0.1)


# Figures


def test_figure_holds_medians_and_peaks_against_limits() -> None:
    assert Figure("time", "s", (1.0, 9.0, 2.0), limit=2.0).is_within
    assert not Figure("time", "s", (1.0, 9.0, 2.1), limit=2.0).is_within
    assert not Figure("memory", "MB", (1.0, 9.0, 2.0), limit=8.0).is_within
    assert not Figure("growth", "s", (4.0,), ratios=(2.3,), ratio_limit=2.2).is_within
    assert Figure("growth", "s", (4.0,), ratios=(9.0, 2.1, 2.0), ratio_limit=2.2).is_within


def test_ratio_is_taken_in_each_round() -> None:
    assert divide((2.0, 9.0), (1.0, 3.0)) == (2.0, 3.0)
    with pytest.raises(ValueError, match="zip"):
        divide((1.0,), (1.0, 2.0))


def test_table_shows_values_ratio_and_limit() -> None:
    figure = Figure("b", "s", (1.0, 3.0, 2.0), limit=1.5, beside="a", ratios=(2.0, 2.0, 4.0))
    row = table_rows([figure])[0]
    assert row == ("b", "2.00 s", "1.00 s", "3.00 s", "3", "2.00 × a", "1.5 s", "OVER")
    assert plain_table([row]).splitlines()[0].split() == [column for column in COLUMNS if column]


def test_json_holds_every_run(tmp_path: Path) -> None:
    figure = Figure("b", "s", (1.0, 3.0, 2.0))
    run = run_python("-c", "print('said')")
    form = json.loads(results_json(machine(tmp_path), [figure], [run], {"row": "why"}))
    assert form["figures"][0]["values"] == [1.0, 3.0, 2.0]
    assert form["processes"][0]["output"] == "said\n"
    assert form["failed"] == {"row": "why"}
    assert form["machine"]["memory_bytes"] > 0


def test_heading_tells_versions(tmp_path: Path) -> None:
    assert f"weighbridge {wb.__version__}" in heading(machine(tmp_path), versions())


# Rows


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, say=lambda line: None, moe=TINY_MOE, deepseek=TINY_DEEPSEEK)


def test_plan_row_measures_each_case(bench: Bench) -> None:
    figures = measure_plan(bench, rounds=1, warm=2)
    keys = len(deepseek(bench.deepseek))
    assert [len(figure.values) for figure in figures] == [1, 1, 2, 2] * 2
    assert {figure.beside for figure in figures} == {""} | {
        f"plan {keys:,} keys{ending}" for ending in (", first", ", again", ", target, first", ", target, again")
    }


def test_import_row_takes_the_interpreter_off(bench: Bench) -> None:
    alone, spent = measure_import(bench, rounds=1)
    assert alone.values[0] + spent.values[0] == pytest.approx(1000 * bench.runs[-1].wall_s)


def test_inspect_row_runs_the_command(bench: Bench) -> None:
    (figure,) = measure_inspect(bench, rounds=1)
    assert len(figure.values) == 1
    assert "3,219" in bench.runs[-1].output


def test_convert_row_goes_there_and_back(bench: Bench) -> None:
    """One warm-up round and one that counts, each of four processes; nothing but the source is left."""
    figures = {figure.name: figure for figure in measure_convert(bench, rounds=1)}
    assert len(bench.runs) == 8
    assert {"cp -r", "cp -r, then sync", "convert", "revert"} <= figures.keys()
    assert all(len(figure.values) == 1 for figure in figures.values())
    assert [path.name for path in bench.work.iterdir()] == ["moe"]


def test_failed_row_is_told_and_others_run(bench: Bench) -> None:
    write_checkpoint(bench.work / "moe", TINY_MOE, 3000)
    next((bench.work / "moe").glob("*.safetensors")).write_bytes(b"short")
    figures, failed = run_rows(["convert"], bench)
    assert figures == []
    assert "file-truncated" in failed["convert"]


def test_arguments_name_rows() -> None:
    assert read_arguments(["plan", "load"]).rows == ["plan", "load"]
    assert set(DEFAULT_ROWS) < set(ROWS)
    with pytest.raises(SystemExit):
        read_arguments(["nothing"])
