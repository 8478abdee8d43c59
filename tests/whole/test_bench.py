"""The benchmarks measure what they say: their data has the shape it claims, and their checks see what is wrong.

Sizes are tiny here, and no time is judged.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from forked import BENCH, forks
from safetensors.torch import load_file, save_file

import weighbridge as wb

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.checkpoints import Pattern, differing_tensors, file_hashes, write_checkpoint, write_file, wrong_tensors
from bench.clock import anonymous_bytes
from bench.inventories import (
    DeepSeek,
    Dense,
    Moe,
    Small,
    deepseek,
    deepseek_mapping,
    dense,
    huge,
    moe,
    moe_mapping,
    small,
    transposed_mapping,
)
from bench.measure import (
    ROOT,
    Comparison,
    Figure,
    Run,
    RunFailedError,
    child_environment,
    divide,
    run_process,
    run_python,
)
from bench.picture import picture
from bench.quantised import Blocks, wrong_values
from bench.report import COLUMNS, heading, machine, plain_table, results_json, table_rows, versions
from bench.rounds import Bench, Side, memory, take_turns
from bench.rows import DEFAULT_ROWS, OPT_IN, ROWS, double, measure_cut, measure_import, measure_plan
from bench.rows_devices import BOUND, OURS, measure_cuda
from bench.rows_distributed import IN, OUT, THEIR_IN, THEIR_OUT, measure_dcp_in, measure_dcp_out
from bench.rows_files import (
    PARTS_RATIO,
    measure_convert,
    measure_convert_large,
    measure_parts,
    measure_revert,
    measure_save,
)
from bench.rows_first import SPARSE, measure_first, measure_inspect
from bench.rows_load import measure_huge, measure_load_dense, measure_load_moe, measure_small, measure_transposed
from bench.rows_quantised import measure_dequantise
from bench.rows_ranks import measure_rank_bytes, measure_rank_save
from bench.run import Results, read_arguments
from bench.work_devices import WAYS, compare_on_device

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

TINY_DENSE = Dense(layers=2, hidden=16, intermediate=24, heads=2, vocabulary=31)
TINY_SMALL = Small(layers=3, tensors=4, numel=6)

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


def test_other_sizes_are_what_they_say() -> None:
    assert len(dense(Dense())) == 183
    assert 2.1e9 < dense(Dense()).size_bytes < 2.2e9
    assert len(small(Small())) == 50_000
    assert {spec.size_bytes for spec in small(Small()).values()} == {4096}
    assert huge(2**16).size_bytes == 2**32


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


def test_transposed_mapping_turns_the_experts() -> None:
    plain, turned = (wb.plan(moe(TINY_MOE), mapping()).target for mapping in (moe_mapping, transposed_mapping))
    for key, spec in plain.items():
        experts, rows, columns = spec.shape if ".experts." in key else (0, 0, 0)
        assert turned[key].shape == ((experts, columns, rows) if experts else spec.shape)


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


def test_direct_comparison_sees_one_bit_and_one_key(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_file(tmp_path / name / "model.safetensors", small(TINY_SMALL))
    assert differing_tensors(tmp_path / "first", tmp_path / "second") == []
    tensors = load_file(tmp_path / "second" / "model.safetensors")
    tensors["layers.1.w2"].view(torch.uint8)[5] ^= 1
    tensors["astray"] = torch.zeros(1)
    save_file(tensors, tmp_path / "second" / "model.safetensors")
    assert differing_tensors(tmp_path / "first", tmp_path / "second") == ["astray", "layers.1.w2"]


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
    work = "import hashlib; [hashlib.sha256(held).digest() for _ in range({})]"
    held = f"held = bytearray({size_bytes}); held[::4096] = bytes(len(held[::4096])); {work}"
    bare = f"import mmap; held = mmap.mmap(-1, {size_bytes}); {work.replace('held', 'bytes(2**20)')}"
    # On a busy machine a short process may end before it is looked at: the work grows until it does not.
    seen = (run_python("-c", held.format(3 * 4**attempt)) for attempt in range(5))
    assert any((run.peak_anonymous_bytes or 0) > size_bytes for run in seen)
    empty = run_python("-c", bare.format(200))
    assert (empty.peak_anonymous_bytes or 0) < size_bytes


@needs_proc
def test_memory_is_told_for_living_processes_only() -> None:
    assert (anonymous_bytes(os.getpid()) or 0) > 2**20
    assert anonymous_bytes(2**22 + 1) is None


TIMED = r"""
import re
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from bench.clock import run_timed

held = []


def work():
    held.append(bytearray(10_000_000))
    held[0][::4096] = b"x" * len(held[0][::4096])
    return sum(held[0])


before = bytearray(b"x") * 20_000_000
run_timed(work, work, touch_bytes=int(sys.argv[2]))
after = bytearray(b"x") * 100_000_000
print(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1] if sys.platform == "linux" else 0)
print([1.0, 2.0])
"""


@needs_proc
def test_memory_counts_while_the_clock_runs() -> None:
    """Neither 200 MB that are touched before it starts, nor 100 MB after it stops; the 20 MB that are held do."""
    run = run_python("-c", TIMED, ROOT, "200000000")
    assert run.peak_anonymous_bytes is not None
    assert run.extra_bytes is not None
    assert run.baseline_bytes is not None
    assert 20_000_000 < run.baseline_bytes < run.peak_anonymous_bytes < 100_000_000
    assert 19_000_000 < run.extra_bytes < 40_000_000
    assert int(run.output.splitlines()[-2]) * 1024 > 200_000_000
    assert run.seconds == [1.0, 2.0]


def test_clock_prints_the_seconds_to_the_end_of_each_part() -> None:
    first, second = json.loads(run_python("-c", TIMED, ROOT, "0").output.splitlines()[0])
    assert 0 < first < second


def test_process_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    """The grandchild holds the other end of a pipe, and would for ever."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    endless = "exec 3>$0; echo >&3; while :; do sleep 1; done"
    script = f"import subprocess, sys; subprocess.run(['sh', '-c', {endless!r}, sys.argv[1]])"
    heard = []
    listener = threading.Thread(target=lambda: heard.append(pipe.read_text()))
    listener.start()
    with pytest.raises(RunFailedError, match="exit status -9"):
        run_process([sys.executable, "-c", script, pipe], max_run_s=2.0)
    listener.join()
    assert heard == ["\n"]


def test_failing_process_shows_its_output() -> None:
    with pytest.raises(RunFailedError, match=r"exit status 3\nthe reason"):
        run_python("-c", "print('the reason'); raise SystemExit(3)")


def test_endless_process_is_ended() -> None:
    with pytest.raises(RunFailedError, match="exit status -9"):
        run_process([sys.executable, "-c", "while True: pass"], max_run_s=0.1)


# Figures


def run_of(peak_bytes: int | None, baseline_bytes: int | None) -> Run:
    return Run(("command",), 1.0, 1.0, peak_bytes, baseline_bytes, 0, 1, "[0.5, 0.75]\n")


def test_figure_holds_medians_and_peaks_against_limits() -> None:
    assert Figure("time", "s", (1.0, 9.0, 2.0), limit=2.0).is_within
    assert not Figure("time", "s", (1.0, 9.0, 2.1), limit=2.0).is_within
    assert not Figure("memory", "MB", (1.0, 9.0, 2.0), limit=8.0).is_within
    slow, fast = Comparison("a", (9.0, 2.3, 2.3), 2.2), Comparison("b", (9.0, 2.1, 2.0), 2.2)
    assert not Figure("growth", "s", (4.0,), comparisons=(fast, slow)).is_within
    assert Figure("growth", "s", (4.0,), comparisons=(fast, slow._replace(limit=None))).is_within


def test_memory_is_the_peak_and_what_came_on_top() -> None:
    peak, extra = memory("side", [run_of(5_000_000, 2_000_000)], limit_mb=4.0, extra_mb=3.0)
    assert (peak.values, extra.values) == ((5.0,), (3.0,))
    assert (peak.is_within, extra.is_within) == (False, True)
    assert memory("side", [run_of(None, None)]) == []


def test_ratio_is_taken_in_each_round() -> None:
    assert divide((2.0, 9.0), (1.0, 3.0)) == (2.0, 3.0)
    with pytest.raises(ValueError, match="zip"):
        divide((1.0,), (1.0, 2.0))


FIGURES = (
    Figure("a", "s", (1.0, 1.0, 0.5), is_ours=False, row="first"),
    Figure(
        "b",
        "s",
        (1.0, 3.0, 2.0),
        1.5,
        (Comparison("a", (2.0, 2.0, 4.0)), Comparison("c", (1.0,) * 3, 1.2)),
        row="first",
    ),
    Figure("memory & more", "MB", (7.0,), row="second"),
)


def test_table_shows_each_limit_and_ratio_in_a_line_of_its_own() -> None:
    rows = table_rows(FIGURES)
    assert rows[1] == ("b", "2.00 s", "1.00 s", "3.00 s", "3", "", "1.5 s", "OVER")
    assert rows[2] == ("", "", "", "", "", "2.00 × a", "", "")
    assert rows[3] == ("", "", "", "", "", "1.00 × c", "1.2 ×", "ok")
    assert [row[0] for row in rows] == ["a", "b", "", "", "memory & more"]
    assert plain_table(rows).splitlines()[0].split() == [column for column in COLUMNS if column]


def test_json_holds_every_run(tmp_path: Path) -> None:
    run = run_python("-c", "print('said')")
    form = json.loads(results_json(machine(tmp_path), FIGURES, [run], {"row": "why"}))
    assert form["figures"][1]["values"] == [1.0, 3.0, 2.0]
    assert form["figures"][1]["comparisons"][1] == {
        "other": "c",
        "ratios": [1.0, 1.0, 1.0],
        "limit": 1.2,
        "ratio": 1.0,
        "is_within": True,
    }
    assert form["processes"][0]["output"] == "said\n"
    assert form["failed"] == {"row": "why"}
    assert form["machine"]["memory_bytes"] > 0


def test_heading_tells_versions(tmp_path: Path) -> None:
    assert f"weighbridge {wb.__version__}" in heading(machine(tmp_path), versions())


def elements(root: ElementTree.Element, kind: str) -> list[ElementTree.Element]:
    return [element for element in root.iter() if element.get("class") == kind]


def test_picture_has_a_bar_for_each_figure() -> None:
    root = ElementTree.fromstring(picture(FIGURES, ["a machine", "weighbridge 1"]))
    assert [bar.get("width") for bar in elements(root, "other")] == ["90.0"]
    assert [bar.get("width") for bar in elements(root, "ours")] == ["180.0", "270.0"]
    assert [name.text for name in elements(root, "name")] == [figure.name for figure in FIGURES]
    assert [row.text for row in elements(root, "row")] == ["first", "second"]
    assert len(elements(root, "span")) == 3
    assert [text.text for text in elements(root, "over")] == ["2.00 s 2.00 × (limit 1.50 s)"]
    assert "prefers-color-scheme: dark" in "".join(root.itertext())


def test_picture_draws_the_limit_of_a_ratio() -> None:
    other = Figure("a", "s", (2.0,), row="r")
    ours = Figure("b", "s", (4.0,), comparisons=(Comparison("a", (2.0,), 1.5),), row="r")
    root = ElementTree.fromstring(picture([other, ours], []))
    (tick,) = elements(root, "limit")
    assert float(tick.get("x1", "0")) - float(elements(root, "ours")[0].get("x", "0")) == 270.0 * 3 / 4


def test_picture_of_nothing_is_a_picture() -> None:
    assert elements(ElementTree.fromstring(picture([], [])), "ours") == []


# Rows


def start(*arguments: str | Path) -> Run:
    """Run this interpreter: a child of the benchmarks in a fork of one process, since it would mostly import.

    Its memory is not watched then, and its seconds mean little.
    """
    words = tuple(str(argument) for argument in arguments)
    if words[:2] != ("-m", "bench.child"):
        return run_python(*words)
    environment = child_environment()
    began = time.perf_counter()
    ended = forks(BENCH).run("bench.child", words[2:], ROOT, environment)
    text = (ended.err + ended.out).decode(errors="replace")
    if ended.status:
        raise RunFailedError(f"{' '.join(words)}: exit status {ended.status}\n{text}")
    return Run((sys.executable, *words), time.perf_counter() - began, ended.cpu_s, None, None, 0, 0, text)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(
        tmp_path,
        say=lambda line: None,
        moe=TINY_MOE,
        dense=TINY_DENSE,
        deepseek=TINY_DEEPSEEK,
        small=TINY_SMALL,
        huge_rows=64,
        layers_factor=2,
        touch_extra_bytes=2**20,
        shard_bytes=3000,
        warm_ups=0,
        start=start,
    )


def names_of(figures: list[Figure]) -> set[str]:
    return {figure.name for figure in figures if figure.unit != "MB"}


def left(bench: Bench) -> list[str]:
    return sorted(path.name for path in bench.work.iterdir())


def test_sides_take_turns(bench: Bench) -> None:
    """Each begins a round, the first round does not count here, and outputs go."""
    bench = replace(bench, warm_ups=1)
    source, out = bench.checkpoint("moe", TINY_MOE), bench.work / "out"
    sides = [
        Side("a", "copy", (source, out, "0"), 0, source, out),
        Side("b", "read", (source,), 0, source),
        Side("c", "convert", (source, out), 0, source, out, lambda: None),
    ]
    runs = take_turns(bench, sides, rounds=2)
    assert [run.command[3] for run in bench.runs] == [
        *("copy", "read", "convert"),
        *("read", "convert", "copy"),
        *("convert", "copy", "read"),
    ]
    assert {name: len(taken) for name, taken in runs.items()} == {"a": 2, "b": 2, "c": 2}
    assert left(bench) == ["moe"]


def test_plan_row_measures_each_case(bench: Bench) -> None:
    figures = measure_plan(bench, rounds=1, warm=2)
    keys = len(deepseek(bench.deepseek))
    assert [len(figure.values) for figure in figures] == [1, 2] + [1, 1, 2, 2] * 2 + [1, 2]
    assert {compared.other for figure in figures for compared in figure.comparisons} == {
        *(f"plan {keys:,} keys{ending}" for ending in (", first", ", again", ", target, first", ", target, again")),
        *(f"group {keys:,} keys by transformers, {when}" for when in ("first", "again")),
    }


def test_cut_row_cuts_in_each_process(bench: Bench) -> None:
    (figure,) = measure_cut(bench, rounds=2)
    assert len(figure.values) == 2


def test_parts_row_shares_the_output(bench: Bench) -> None:
    alone, shared = measure_parts(bench, rounds=1)
    assert [comparison.limit for comparison in (*alone.comparisons, *shared.comparisons)] == [PARTS_RATIO]
    assert all(value > 0 for figure in (alone, shared) for value in figure.values)
    assert left(bench) == ["twice"]


def test_import_row_takes_the_interpreter_off(bench: Bench) -> None:
    alone, spent = measure_import(bench, rounds=1)
    assert alone.values[0] + spent.values[0] == pytest.approx(1000 * bench.runs[-1].wall_s)


def test_inspect_row_runs_the_command(bench: Bench) -> None:
    inspected, planned = measure_inspect(bench, rounds=1)
    assert len(inspected.values) == len(planned.values) == 1
    assert all("3,219" in run.output for run in (bench.runs[0], bench.runs[-1]))


def test_load_rows_compare_values_and_time_every_side(bench: Bench) -> None:
    figures = measure_load_moe(bench, rounds=1)
    expected = {"bare read by two threads", "from_pretrained of transformers", "wbt.from_pretrained"}
    pages = {f"wbt.from_pretrained, huge pages {choice}" for choice in ("on", "off")}
    assert names_of(figures) == expected | pages | {"wb.load into a meta model"}
    assert len(bench.runs) == 1 + 6
    plain = measure_load_dense(bench, rounds=1)
    loads = {"from_pretrained of transformers", "wbt.from_pretrained", "wb.load into a meta model"}
    assert names_of(plain) == loads | {f"{name}, then read" for name in loads}


def test_first_row_loads_with_nothing_of_ours_imported(bench: Bench) -> None:
    """The child itself refuses to start its clock where anything of ours is there already."""
    figures = measure_first(bench, rounds=1, kinds=["dense"])
    assert names_of(figures) == {"from_pretrained of transformers, dense", "wbt.from_pretrained, dense"}
    assert [figure.is_ours for figure in figures] == [False, True]
    assert {run.command[2] for run in bench.runs} == {"bench.child", "bench.first"}


def test_device_row_compares_values_and_times_every_side(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the CPU as the device, which any machine has."""
    figures = measure_cuda(bench, rounds=1, device="cpu")
    names = names_of(figures)
    assert names >= {BOUND, *OURS.values(), "safetensors load_file(device=)"}
    assert [figure.name for figure in figures if figure.is_ours] == list(OURS.values())
    assert all(BOUND in [compared.other for compared in figure.comparisons] for figure in figures[1:])
    monkeypatch.setitem(WAYS, "plain", lambda source, device: load_file(next(bench.work.glob("moe/*.safetensors"))))
    with pytest.raises(SystemExit, match="tensors differ"):
        compare_on_device(str(bench.work / "moe"), "plain", "cpu")


def test_dequantise_row_compares_the_values(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = Blocks(files=2, matrices=2, rows=300, columns=200)
    figures = measure_dequantise(bench, rounds=1, blocks=sizes)
    assert [figure.is_ours for figure in figures if figure.comparisons] == [True]
    made = wb.convert(bench.work / "fp8", bench.work / "again", dtype="bfloat16")
    assert list(wrong_values(bench.work / "fp8", made)) == []
    other = wb.convert(bench.work / "fp8", bench.work / "other", dtype="float16")
    assert len(list(wrong_values(bench.work / "fp8", other))) == 4


def test_transposed_row_runs_both_kinds(bench: Bench) -> None:
    figures = measure_transposed(bench, rounds=1)
    assert names_of(figures) == {"state_dict of plain experts", "state_dict of transposed experts"}


def test_small_row_loads_live_and_meta_modules(bench: Bench) -> None:
    figures = measure_small(bench, rounds=1)
    ways = ("wb.load", "load_file, load_state_dict")
    assert names_of(figures) == {f"{way} into a {kind} module" for way in ways for kind in ("live", "meta")}


def test_huge_row_loads_and_converts(bench: Bench) -> None:
    figures = measure_huge(bench, rounds=1)
    assert {"wb, loaded and copied", "wb.convert, renamed", "wb.convert, transposed"} < names_of(figures)
    assert [run.command[3] for run in bench.runs][-4:] == ["convert_huge", "compare_huge"] * 2


def test_convert_row_compares_every_output(bench: Bench) -> None:
    figures = measure_convert(bench, rounds=1)
    peer = "from_pretrained, save_pretrained"
    assert names_of(figures) == {"cp -r", "cp -r, then sync", "wb.convert", peer}
    assert len(bench.runs) == 4
    assert left(bench) == ["moe"]


def test_large_conversion_has_more_layers(bench: Bench) -> None:
    measure_convert_large(bench)
    assert len(wb.open(bench.work / "large").header) > 1.5 * len(moe(TINY_MOE))
    bench.clear()
    assert left(bench) == []


def test_revert_row_gives_the_files_back(bench: Bench) -> None:
    figures = measure_revert(bench, rounds=1)
    assert names_of(figures) == {"cp -r of the fused", "cp -r, then sync", "wb.revert"}
    assert left(bench) == ["fused", "moe"]


def test_rows_of_distributed_checkpoints_compare_what_torch_reads_and_writes(bench: Bench) -> None:
    figures = measure_dcp_in(bench, rounds=1)
    assert names_of(figures) == {"cp -r of the distributed one", IN, THEIR_IN}
    assert wb.open(bench.work / "dcp").header.specs == moe(TINY_MOE).specs
    figures = measure_dcp_out(bench, rounds=1)
    assert names_of(figures) == {"cp -r", OUT, THEIR_OUT}
    assert left(bench) == ["dcp", "moe"]


def test_rows_of_ranks_compare_every_file_and_count_what_is_read(bench: Bench) -> None:
    sizes = Moe(1, experts=4, hidden=16, expert_intermediate=8, query_dim=16, key_dim=8, head_dim=4, vocabulary=16)
    bench = replace(bench, moe=sizes)
    figures = measure_rank_save(bench, rounds=1)
    assert len(names_of(figures)) == 6
    assert left(bench) == ["moe"]
    needed = {figure.name: figure.values for figure in measure_rank_bytes(bench)}
    held = moe(sizes, fused=True).size_bytes / 4e6
    assert needed["fsdp: needed by each rank"] == (held,) * 4
    assert min(needed["tp: needed by each rank"]) > held


def test_save_row_writes_the_same_bytes_on_every_side(bench: Bench) -> None:
    figures = measure_save(bench, rounds=1)
    plain = {f"the same bytes, written {how}" for how in ("plainly", "and forced to disk")}
    assert names_of(figures) == plain | {"wb.save", "wb.save, sync=False", "save_pretrained of transformers"}


def test_row_without_room_says_so(bench: Bench) -> None:
    with pytest.raises(RunFailedError, match=r"GB free, 1000000000\.0 GB are needed; --work"):
        bench.need_room(10**18)


def test_each_row_is_told_when_it_is_done_and_failed_ones_stop_no_other(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path_factory.mktemp("results")
    write_checkpoint(bench.work / "moe", TINY_MOE, 3000)
    next((bench.work / "moe").glob("*.safetensors")).write_bytes(b"short")
    results = Results(machine(bench.work), place / "found.json", place / "bars.svg")
    results.add("convert", bench)
    assert "FAILED" in capsys.readouterr().out
    results.add("import", bench)
    assert {figure.row for figure in results.figures} == {"import"}
    assert "import weighbridge" in capsys.readouterr().out
    assert "file-truncated" in results.failed["convert"]
    assert not results.is_within
    written = json.loads((place / "found.json").read_text())
    assert [figure["row"] for figure in written["figures"]] == ["import", "import"]
    assert "import weighbridge" in (place / "bars.svg").read_text()
    assert left(bench) == ["moe"]


def test_arguments_name_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert read_arguments(["plan", "--rows", "save,huge"]).names == ["plan", "save", "huge"]
    assert read_arguments([]).names == list(DEFAULT_ROWS)
    assert {*DEFAULT_ROWS, *OPT_IN} == set(ROWS)
    for wrong in (["nothing"], ["--json", str(tmp_path / "no" / "x.json")]):
        with pytest.raises(SystemExit):
            read_arguments(wrong)
    assert "there is no such directory" in capsys.readouterr().err


def test_interrupted_bench_leaves_nothing(tmp_path: Path) -> None:
    """It is stopped as soon as its checkpoint is being written."""
    command = [sys.executable, ROOT / "bench" / "run.py", "inspect", "--work", tmp_path]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        assert b"inspect:" in process.stderr.readline()
        assert list(tmp_path.iterdir()) != []
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read()
    assert process.returncode == 1
    assert b"interrupted" in said
    assert list(tmp_path.iterdir()) == []
