"""The engine fills many tensors at once as it fills one: by parts, in threads, through buffers, from files or memory.

The twin is `execute.make`, which runs one output's copies in a row, and numpy's own idea of the values.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import save_file

import weighbridge as wb
from weighbridge.algebra.copies import Copy, Loop
from weighbridge.algebra.sections import reach, sections
from weighbridge.base.workers import Counter, run_all
from weighbridge.running import budgets, devices, execute, filling, gather as gathering, strided
from weighbridge.running.devices import fill_tensors, gather_staged
from weighbridge.running.execute import Slots, make
from weighbridge.running.gather import Wanted, gather, group_steps
from weighbridge.running.sources import LayeredCheckpoint, PlannedCheckpoint
from weighbridge.running.strided import copy_strided
from weighbridge.storage.places.scatter import MAX_SPANS, Span, scatter

EXPERTS = [
    wb.WeightConverter(
        ["e.*.gate.weight", "e.*.up.weight"], "e.gate_up", [wb.MergeModulelist(dim=0), wb.Concatenate(dim=1)]
    ),
    wb.WeightConverter("e.*.down.weight", "e.down", [wb.Transpose(0, 1), wb.MergeModulelist(dim=0)]),
    wb.WeightConverter("qkv.weight", ["q.weight", "k.weight"], [wb.Chunk(dim=0)]),
]


def values(seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    found = {"norm.weight": torch.randn(7, generator=draw), "qkv.weight": torch.randn(6, 5, generator=draw)}
    for expert in range(5):
        for name, shape in (("gate", (9, 70)), ("up", (9, 70)), ("down", (70, 90))):
            found[f"e.{expert}.{name}.weight"] = torch.randn(shape, generator=draw).to(torch.bfloat16)
    found["long.weight"] = torch.arange(40_000, dtype=torch.int32).view(200, 200)
    found["empty.weight"] = torch.empty(0, 3)
    return found


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every limit of the engine so small that tiny tensors are cut, batched and staged."""
    monkeypatch.setattr(gathering, "BATCH_BYTES", 1024)
    monkeypatch.setattr(gathering, "MAX_SPANS", 3)
    monkeypatch.setattr(gathering, "SECTION_BYTES", 64)
    monkeypatch.setattr(execute, "SECTION_BYTES", 8192)
    monkeypatch.setattr(strided, "SECTION_BYTES", 8192)
    monkeypatch.setattr(strided, "GRAIN", 100)
    monkeypatch.setattr(devices, "STAGE_BYTES", 2048)
    monkeypatch.setattr(filling, "PIECE_BYTES", 512)
    monkeypatch.setattr(budgets, "RUN_BYTES", 64)
    monkeypatch.setattr(budgets, "WINDOW_BYTES", 1024)
    monkeypatch.setattr(strided._kept, "section", None, raising=False)
    monkeypatch.setattr(strided._kept, "transposed", None, raising=False)


def saved(path: Path) -> Path:
    save_file(values(), path / "model.safetensors", metadata={"format": "pt"})
    return path / "model.safetensors"


def wanted_of(plan: wb.Plan) -> tuple[dict[str, torch.Tensor], list[Wanted]]:
    """Zeroed memory for all targets of a plan, and what is to be filled."""
    made: dict[str, torch.Tensor] = {}
    listed = []
    for step in plan.steps:
        for number, key in enumerate(step.targets):
            tensor = execute.allocate(step.program.targets[number].spec)
            tensor.zero_()
            made[key] = tensor
            listed.append(Wanted(step, number, tensor))
    return made, listed


def twin_of(plan: wb.Plan, source: object) -> dict[str, torch.Tensor]:
    checkpoint = wb.open(source)
    return {
        key: make(step.program.targets[number], Slots(step, checkpoint))
        for step in plan.steps
        for number, key in enumerate(step.targets)
    }


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# Whole plans


@pytest.mark.parametrize("dtype", [None, "F32", "BF16"])
@pytest.mark.parametrize("kind", ["file", "memory", "strided memory"])
def test_many_tensors_are_filled_as_one_is(kind: str, dtype: str | None, tmp_path: Path, small_limits: None) -> None:
    source: object = saved(tmp_path) if kind == "file" else values()
    if kind == "strided memory":
        source = {key: t.t().contiguous().t() if t.ndim == 2 else t for key, t in values().items()}
    plan = wb.plan(source, EXPERTS, dtype=dtype)
    made, listed = wanted_of(plan)
    gather(listed, wb.open(source))
    expected = twin_of(wb.plan(values(), EXPERTS, dtype=dtype), values())
    assert same(made, expected)
    assert torch.equal(made["e.down"][3], values()["e.3.down.weight"].t().to(made["e.down"].dtype))


def test_a_step_is_cut_into_parts_where_all_that_it_reads_lies_in_memory(small_limits: None) -> None:
    """What is made as it is asked for is made once, however many parts the step would have."""
    held = {"front": torch.arange(600.0).view(20, 30), "behind": torch.arange(900.0).view(30, 30)}
    join = [wb.WeightConverter(["front", "behind"], "both", [wb.Concatenate(dim=0), wb.Transpose(0, 1)])]
    plan = wb.plan(held, join)
    in_memory = wb.open(held)
    first, second = (wb.open({key: held[key]}) for key in held)
    is_made = PlannedCheckpoint(wb.plan({"behind": held["behind"]}), second)
    told: dict[str, int] = {}
    for name, checkpoint in (
        ("in memory", in_memory),
        ("made", PlannedCheckpoint(wb.plan(held), in_memory)),
        ("both", LayeredCheckpoint(first, is_made, frozenset({"behind"}))),
    ):
        parts: list[int] = []
        made, listed = wanted_of(plan)
        gather(listed, checkpoint, Counter(plan.target.size_bytes, lambda done, _, parts=parts: parts.append(done)))
        assert torch.equal(made["both"], torch.cat([held["front"], held["behind"]]).t())
        told[name] = len(parts)
    assert told["in memory"] > 4
    assert (told["made"], told["both"]) == (1, 1)


def crowd_of_gathering(plan: wb.Plan, checkpoint: object) -> int:
    """Fill a plan's targets, and return how many threads worked besides this one when the first was filled."""
    crowds: list[int] = []

    def count(*_: int) -> None:
        crowds.append(sum(thread.name == "weighbridge" for thread in threading.enumerate()))

    gather(wanted_of(plan)[1], checkpoint, Counter(plan.target.size_bytes, count))
    return crowds[0]


def test_a_source_that_makes_its_tensors_is_asked_by_one_thread(small_limits: None) -> None:
    held = {str(number): torch.arange(600.0) for number in range(8)}
    plan = wb.plan(held)
    assert crowd_of_gathering(plan, PlannedCheckpoint(plan, wb.open(held))) == 0


def test_little_work_is_done_by_the_thread_that_asks_for_it() -> None:
    held = {str(number): torch.arange(600.0) for number in range(8)}
    assert crowd_of_gathering(wb.plan(held), wb.open(held)) == 0


def test_work_is_done_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Whatever kind of work it is: what moves as it is, and what is transposed on the way."""
    held = {name: torch.ones(rows, 2) for rows, name in enumerate("abcde", 3)}
    save_file(held, tmp_path / "model.safetensors")
    plan = wb.plan(tmp_path / "model.safetensors", [wb.WeightConverter("(b|d)", r"\1", [wb.Transpose(0, 1)])])
    _, listed = wanted_of(plan)
    told: list[int] = []
    gather(listed[::-1], wb.open(tmp_path / "model.safetensors"), Counter(200, lambda done, _: told.append(done)))
    assert told == list(accumulate(tensor.nbytes for tensor in held.values()))


@pytest.mark.parametrize("dtype", [None, "F32"])
def test_staged_filling_gives_the_same(dtype: str | None, tmp_path: Path, small_limits: None) -> None:
    """The path of accelerators, with the CPU as the device."""
    path = saved(tmp_path)
    plan = wb.plan(path, EXPERTS, dtype=dtype)
    made, listed = wanted_of(plan)
    told: list[tuple[int, int]] = []
    counter = Counter(plan.target.size_bytes, lambda done, total: told.append((done, total)))
    gather_staged(listed, wb.open(path), torch.device("cpu"), counter)
    assert same(made, twin_of(plan, path))
    assert told[-1] == (plan.target.size_bytes, plan.target.size_bytes)


def test_staged_filling_takes_any_source(small_limits: None) -> None:
    plan = wb.plan(values(), EXPERTS)
    made, listed = wanted_of(plan)
    gather_staged(listed, wb.open(values()), torch.device("cpu"))
    assert same(made, twin_of(plan, values()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [None, "F16"])
def test_tensors_are_made_on_a_gpu(dtype: str | None, tmp_path: Path) -> None:
    path = saved(tmp_path)
    plan = wb.plan(path, EXPERTS, dtype=dtype)
    made = plan.state_dict(device="cuda")
    assert {tensor.device.type for tensor in made.values()} == {"cuda"}
    assert same({key: tensor.cpu() for key, tensor in made.items()}, twin_of(plan, path))
    back = plan.inverse(made, lossy=dtype is not None).state_dict(copy=True)
    rounded = {key: tensor if dtype is None else halved(tensor) for key, tensor in values().items()}
    assert same(back, rounded)


def halved(tensor: torch.Tensor) -> torch.Tensor:
    """Round a floating tensor to 16 bits, and give it its dtype back."""
    return tensor.to(torch.float16).to(tensor.dtype) if tensor.is_floating_point() else tensor


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_model_on_a_gpu_is_loaded_in_place(tmp_path: Path) -> None:
    save_file({"weight": torch.randn(30, 20), "bias": torch.randn(30)}, tmp_path / "model.safetensors")
    model = torch.nn.Linear(20, 30, device="cuda")
    before = model.weight.data_ptr()
    wb.load(model, tmp_path / "model.safetensors", [])
    assert model.weight.data_ptr() == before
    assert same(
        {key: tensor.cpu() for key, tensor in model.state_dict().items()},
        wb.plan(tmp_path / "model.safetensors").state_dict(copy=True),
    )


@pytest.mark.parametrize("budget", [70_000, 200_000, "1MB"])
def test_files_hold_what_memory_does(budget: int | str, tmp_path: Path, small_limits: None) -> None:
    path = saved(tmp_path)
    plan = wb.plan(path, EXPERTS)
    told: list[int] = []
    plan.write(
        tmp_path / "out", memory_budget=budget, max_shard_size=30_000, progress=lambda done, _: told.append(done)
    )
    assert wb.verify(tmp_path / "out", plan.state_dict())
    assert told == sorted(told)
    assert told[-1] == plan.target.size_bytes
    wb.revert(tmp_path / "out", tmp_path / "back", memory_budget=budget)
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == path.read_bytes()


def test_moves_that_follow_each_other_are_one(tmp_path: Path) -> None:
    """A rename of a whole file is a handful of kernel copies, however many tensors it has."""
    save_file({f"w{number:03}": torch.full((5,), float(number)) for number in range(300)}, tmp_path / "m.safetensors")
    checkpoint = wb.open(tmp_path / "m.safetensors")
    plan = wb.plan(checkpoint, [wb.WeightRenaming("w", "v")])
    calls: list[int] = []

    class Sink:
        def copy_range(self, extent: object, offset: int) -> None:
            calls.append(offset)

        def close(self) -> None:
            calls.append(-1)

    from weighbridge.running.to_files.file_decisions import lay_out

    filling.fill_files(
        plan,
        checkpoint,
        lay_out(plan, None).images,
        lambda _: Sink(),  # type: ignore[arg-type,return-value]
        budget_bytes=10**6,
        counter=Counter(0, None),
    )
    assert len(calls) == 2
    assert calls[-1] == -1


# Maps


def test_whole_tensors_are_mapped_and_writing_stays_in_memory(tmp_path: Path) -> None:
    path = saved(tmp_path)
    before = path.read_bytes()
    checkpoint = wb.open(path)
    one, two = wb.plan(checkpoint, EXPERTS).state_dict(), wb.plan(checkpoint, EXPERTS).state_dict()
    one["long.weight"].zero_()
    assert torch.equal(two["long.weight"], values()["long.weight"])
    assert torch.equal(wb.plan(checkpoint, EXPERTS).state_dict()["long.weight"], values()["long.weight"])
    assert path.read_bytes() == before


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_copy_leaves_no_map_behind(tmp_path: Path) -> None:
    path = saved(tmp_path)

    def is_mapped() -> bool:
        return str(path) in Path("/proc/self/maps").read_text()

    copied = wb.plan(path, EXPERTS).state_dict(copy=True)
    assert not is_mapped()
    mapped = wb.plan(path, EXPERTS).state_dict()
    assert is_mapped()
    assert same(copied, mapped)
    path.unlink()
    assert same(copied, mapped)


@pytest.mark.parametrize("copy", [False, True])
def test_model_on_meta_is_mapped_or_copied(copy: bool, tmp_path: Path) -> None:
    save_file({"weight": torch.randn(3, 2), "bias": torch.randn(3)}, tmp_path / "model.safetensors")
    model = torch.nn.Linear(2, 3, device="meta")
    told: list[tuple[int, int]] = []
    wb.load(model, tmp_path / "model.safetensors", [], copy=copy, progress=lambda *pair: told.append(pair))
    assert torch.equal(model.weight, wb.plan(tmp_path / "model.safetensors").state_dict()["weight"])
    assert told[-1] == (36, 36)


def test_file_that_changes_while_it_is_loaded_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path)
    model = torch.nn.ParameterDict({"norm": torch.nn.Parameter(torch.empty(7, device="meta"))})
    plan = wb.plan(path, [wb.WeightRenaming("norm.weight", "norm")], target=model, partial=True)
    with pytest.raises(wb.CheckpointError) as caught:
        plan.load_into(model, copy=True, progress=lambda *_: path.write_bytes(path.read_bytes()))
    assert caught.value.code == "source-changed"


# Parts of the engine


@st.composite
def strided_copies(draw: st.DrawFn) -> Copy:
    sizes = draw(st.lists(st.integers(1, 6), max_size=4))
    order = draw(st.permutations(range(len(sizes))))
    read, write = [0] * len(sizes), [0] * len(sizes)
    for strides, axes in ((read, list(range(len(sizes)))), (write, order)):
        step = draw(st.integers(1, 3))
        for axis in axes:
            strides[axis] = step
            step *= sizes[axis] + draw(st.integers(0, 2))
    loops = tuple(Loop(*loop) for loop in zip(sizes, read, write, strict=True) if loop[0] > 1)
    return Copy(0, draw(st.integers(0, 5)), draw(st.integers(0, 5)), loops)


@given(copy=strided_copies(), longest=st.integers(1, 40), numel=st.integers(1, 40))
@settings(max_examples=500)
def test_sections_do_what_the_copy_does(copy: Copy, longest: int, numel: int) -> None:
    def pairs(one: Copy) -> list[tuple[int, int]]:
        found = [(one.source_start, one.target_start)]
        for size, read, write in one.loops:
            found = [(a + read * k, b + write * k) for a, b in found for k in range(size)]
        return found

    parts = list(sections(copy, longest, numel))
    assert sorted(pair for part in parts for pair in pairs(part)) == sorted(pairs(copy))
    for part in parts:
        assert part.numel == 1 or (reach(part) <= longest and part.numel <= numel)


@given(copy=strided_copies(), casts=st.booleans())
@settings(max_examples=300)
def test_strided_copies_are_those_of_plain_indexing(copy: Copy, casts: bool) -> None:
    size = 6 * 8**4
    source = torch.arange(size, dtype=torch.int32)
    target = torch.zeros(size, dtype=torch.int64 if casts else torch.int32)
    copy_strided(target, source, copy)
    places = [(copy.source_start, copy.target_start)]
    for count, read, write in copy.loops:
        places = [(a + read * k, b + write * k) for a, b in places for k in range(count)]
    expected = torch.zeros_like(target)
    for read_at, write_at in places:
        expected[write_at] = read_at
    assert torch.equal(target, expected)


@pytest.mark.parametrize("rows", [60, 61, 700])
@pytest.mark.parametrize("columns", [60, 333])
@pytest.mark.parametrize("room", [0, 5])
def test_large_transposes_are_exact(rows: int, columns: int, room: int) -> None:
    source = torch.arange(rows * columns, dtype=torch.int32)
    target = torch.full((columns, rows + room), -1, dtype=torch.int32)
    copy_strided(target.view(-1), source, Copy(0, 0, 0, (Loop(columns, 1, rows + room), Loop(rows, columns, 1))))
    assert torch.equal(target[:, :rows], source.view(rows, columns).t())
    assert (target[:, rows:] == -1).all()


def test_scatter_fills_more_places_than_one_call_takes(tmp_path: Path) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(bytes(range(251)) * 40)
    memory = torch.zeros(2 * (MAX_SPANS + 70), dtype=torch.uint8)
    spans = [Span(memory.data_ptr() + 2 * number, 1 + number % 2) for number in range(MAX_SPANS + 70)]
    with path.open("rb") as file:
        total = sum(span.size_bytes for span in spans)
        assert scatter(file.fileno(), 3, spans) == total
        assert scatter(file.fileno(), 251 * 40 - 5, spans) == 5
        with pytest.raises(OSError, match="Bad address"):
            scatter(file.fileno(), 0, [Span(0, 10)])
    content = path.read_bytes()
    memory.zero_()
    with path.open("rb") as file:
        scatter(file.fileno(), 3, spans)
    position = 3
    for number, span in enumerate(spans):
        place = 2 * number
        assert memory[place : place + span.size_bytes].tolist() == list(content[position : position + span.size_bytes])
        position += span.size_bytes


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3"])
def test_empty_tensor_of_a_dtype_below_a_byte_is_made(tmp_path: Path, dtype: str) -> None:
    header = {"a": {"dtype": dtype, "shape": [0, 2], "data_offsets": [0, 0]}}
    text = json.dumps(header).encode()
    raw = len(text).to_bytes(8, "little") + text
    (tmp_path / "in.safetensors").write_bytes(raw)
    plan = wb.plan(tmp_path / "in.safetensors", [wb.WeightRenaming("a", "b")])
    assert [(key, made.numel()) for key, made in plan.state_dict(copy=True).items()] == [("b", 0)]
    plan.write(tmp_path / "out")
    plan.inverse().write(tmp_path / "back")
    assert (tmp_path / "back" / "in.safetensors").read_bytes() == raw


@pytest.mark.parametrize(
    ("most_bytes", "numbers"),
    [(24, [[1, 2, 3], [4], [5], [6], [7], [8]]), (23, [[1, 2], [3], [4], [5], [6], [7], [8]]), (200, [[*range(1, 9)]])],
)
def test_batches_keep_the_order_and_are_as_large_as_they_may_be(most_bytes: int, numbers: list[list[int]]) -> None:
    plan = wb.plan({f"w{number}": torch.zeros(number) for number in range(1, 9)})
    assert list(group_steps(plan.steps, most_bytes)) == [[plan.steps[n - 1] for n in batch] for batch in numbers]
    assert list(group_steps([], most_bytes)) == []


# Workers


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_all_tasks_run_once(workers: int) -> None:
    done: list[int] = []
    run_all((lambda n=n: done.append(n) for n in range(200)), workers)  # type: ignore[misc]
    assert sorted(done) == list(range(200))


@pytest.mark.parametrize("problem", [ValueError, KeyboardInterrupt, SystemExit])
def test_first_failure_stops_the_others_and_is_raised(problem: type[BaseException]) -> None:
    begun: list[int] = []

    def task(number: int) -> Callable[[], None]:
        def run() -> None:
            begun.append(number)
            if number == 5:
                raise problem("here")

        return run

    threads = threading.active_count()
    with pytest.raises(problem, match="here"):
        run_all(map(task, range(10**6)), 3)
    assert len(begun) < 10**6
    assert threading.active_count() == threads


def test_failing_list_of_tasks_is_raised() -> None:
    def tasks():
        yield lambda: None
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        run_all(tasks(), 2)


def test_filling_nothing_is_nothing() -> None:
    fill_tensors([], wb.open({}))


# What a strict reader found


def test_lazily_conjugated_targets_get_the_values(tmp_path: Path) -> None:
    """A view that torch conjugates or negates when it is read must not be filled with raw bytes."""
    model = torch.nn.Module()
    model.register_buffer("c", torch.zeros(4, 3, dtype=torch.complex64).conj())
    model.register_buffer("n", torch._neg_view(torch.zeros(4, 3)))
    held = {"c": torch.randn(4, 3, dtype=torch.complex64), "n": torch.randn(4, 3)}
    save_file(held, tmp_path / "model.safetensors")
    wb.load(model, tmp_path / "model.safetensors", [])
    assert torch.equal(model.c.resolve_conj(), held["c"])
    assert torch.equal(model.n.resolve_neg(), held["n"])


def test_model_that_reads_itself_behind_a_carried_tensor(tmp_path: Path) -> None:
    """The inverse reads the model and, for what it has no place for, the file; it then writes to what it reads."""
    held = {"a": torch.randn(130, 130), "left": torch.randn(3)}
    save_file(held, tmp_path / "model.safetensors")
    model = torch.nn.Module()
    model.a = torch.nn.Parameter(torch.zeros(130, 130))
    turn = [wb.WeightConverter("a", "a", [wb.Transpose(0, 1)])]
    plan = wb.plan(tmp_path / "model.safetensors", turn, target=model, carry="left", layout="mapped")
    plan.load_into(model)
    back = plan.inverse()
    assert torch.equal(back.state_dict(copy=True)["a"], held["a"])
    back.load_into(model)
    assert torch.equal(model.a, held["a"])


def test_memory_that_overlaps_by_a_part_is_not_read_while_it_is_written() -> None:
    memory = torch.arange(70.0 * 70 + 70)
    model = torch.nn.Module()
    model.register_buffer("w", memory[: 70 * 70].view(70, 70))
    source = {"w": torch.from_numpy(memory.numpy()[70:]).view(70, 70)}
    expected = source["w"].t().clone()
    wb.load(model, source, [wb.WeightConverter("w", "w", [wb.Transpose(0, 1)])], layout="mapped")
    assert torch.equal(model.w, expected)


def test_default_device_is_not_asked(tmp_path: Path) -> None:
    """Buffers of the engine lie in memory, whatever device new tensors are made on by default."""
    held = {"w": torch.randn(80, 90), "none": torch.empty(0, 2)}
    save_file(held, tmp_path / "model.safetensors")
    turn = [wb.WeightConverter("w", "w", [wb.Transpose(0, 1)])]
    found: list[dict[str, torch.Tensor]] = []

    def work() -> None:
        with torch.device("meta"):
            found.append(wb.plan(tmp_path / "model.safetensors", turn).state_dict(copy=True))
        found.append(wb.plan(tmp_path / "model.safetensors", turn).state_dict(copy=True))

    thread = threading.Thread(target=work)  # with no buffers from other tests
    thread.start()
    thread.join()
    assert len(found) == 2
    for made in found:
        assert torch.equal(made["w"], held["w"].t())
        assert made["none"].device.type == "cpu"


@pytest.mark.parametrize("shape", [(3, 5), (50, 7), (64, 2), (70, 80)])
def test_bytes_of_a_bool_are_kept_whatever_they_are(shape: tuple[int, int], tmp_path: Path) -> None:
    raw = (torch.arange(shape[0] * shape[1]) % 256).to(torch.uint8).view(shape)
    save_file({"w": raw}, tmp_path / "plain.safetensors")
    content = (tmp_path / "plain.safetensors").read_bytes().replace(b'"U8"', b'"BOOL"', 1)
    length = int.from_bytes(content[:8], "little") + 2
    (tmp_path / "model.safetensors").write_bytes(length.to_bytes(8, "little") + content[8:])
    turn = [wb.WeightConverter("w", "w", [wb.Transpose(0, 1)])]
    wb.convert(tmp_path / "model.safetensors", tmp_path / "out", turn)
    wb.revert(tmp_path / "out", tmp_path / "back")
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    made = wb.plan(tmp_path / "model.safetensors", turn).state_dict(copy=True)["w"]
    assert torch.equal(made.view(torch.uint8), raw.t())


def test_inference_mode_holds_in_all_workers(tmp_path: Path) -> None:
    held = {f"w{number}": torch.randn(1500, 1024) for number in range(4)}
    save_file(held, tmp_path / "model.safetensors")
    turn = [wb.WeightConverter("w{n}", "w{n}", [wb.Transpose(0, 1)])]
    with torch.inference_mode():
        made = wb.plan(tmp_path / "model.safetensors", turn).state_dict(copy=True)
    outside = wb.plan(tmp_path / "model.safetensors", turn).state_dict(copy=True)
    for key, tensor in held.items():
        assert torch.equal(made[key], tensor.t())
        assert torch.equal(outside[key], tensor.t())


def test_interrupt_while_threads_are_awaited_waits_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the workers write to belongs to the caller again only when they have ended."""
    begun, release = threading.Event(), threading.Event()
    ended: list[bool] = []

    class Interrupted(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            if not release.is_set():
                release.set()
                raise KeyboardInterrupt
            super().join(timeout)

    def work() -> None:
        if threading.current_thread() is threading.main_thread():
            begun.wait()  # leave the other task to the other thread
        else:
            begun.set()
            release.wait()
            ended.append(True)

    monkeypatch.setattr(threading, "Thread", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_all([work, work], 2)
    assert ended == [True]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_maps_hold_no_descriptors(tmp_path: Path) -> None:
    weight_map = {}
    for number in range(60):
        name = f"model-{number:05}.safetensors"
        save_file({f"w{number}": torch.full((3,), float(number))}, tmp_path / name)
        weight_map[f"w{number}"] = name
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    before = len(list(Path("/proc/self/fd").iterdir()))
    made = wb.plan(tmp_path).state_dict()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 33
    assert all(torch.equal(tensor, torch.full((3,), float(key[1:]))) for key, tensor in made.items())


def test_autograd_notices_that_a_parameter_was_loaded(tmp_path: Path) -> None:
    save_file({"weight": torch.randn(3, 2), "bias": torch.randn(3)}, tmp_path / "model.safetensors")
    model = torch.nn.Linear(2, 3)
    made = model(torch.randn(4, 2, requires_grad=True))
    wb.load(model, tmp_path / "model.safetensors", [])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        made.sum().backward()


@pytest.mark.parametrize("parts", [(64, 64), (30, 70, 28), (128,)])
def test_columns_side_by_side_are_one_transpose(parts: tuple[int, ...], tmp_path: Path) -> None:
    """q, k and v, or gate and up, stored transposed: what is stitched is what plain indexing gives."""
    held = {f"w{number}": torch.randn(rows, 90) for number, rows in enumerate(parts)}
    save_file(held, tmp_path / "model.safetensors")
    names = sorted(held)
    operations = [wb.Concatenate(dim=0, sizes=parts), wb.Transpose(0, 1)] if len(parts) > 1 else [wb.Transpose(0, 1)]
    plan = wb.plan(tmp_path / "model.safetensors", [wb.WeightConverter(names, "all", operations)])
    expected = torch.cat([held[name] for name in names]).t()
    assert torch.equal(plan.state_dict(copy=True)["all"], expected)
    assert plan.is_exact


def test_columns_side_by_side_are_read_where_the_first_of_them_lies(tmp_path: Path) -> None:
    held = {name: torch.randn(rows, 90) for name, rows in (("w0", 30), ("w0.other", 1), ("w1", 20))}
    save_file(held, tmp_path / "model.safetensors")
    join = wb.WeightConverter(["^w0$", "^w1$"], "all", [wb.Concatenate(dim=0, sizes=(30, 20)), wb.Transpose(0, 1)])
    plan = wb.plan(tmp_path / "model.safetensors", [join])
    made, listed = wanted_of(plan)
    told: list[int] = []
    total = plan.target.size_bytes
    gather(listed, wb.open(tmp_path / "model.safetensors"), Counter(total, lambda done, _: told.append(done)))
    assert told == [made["all"].nbytes, total]


@pytest.mark.parametrize("parts", [(1,) * 40, (16, 8, 16), (3, 30, 7)])
@pytest.mark.parametrize("dtype", [None, "F32"])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_columns_that_become_tensors_read_their_matrix_once(
    parts: tuple[int, ...], dtype: str | None, is_transposed: bool, tmp_path: Path
) -> None:
    """Many heads, or q, k and v of a Conv1D: what reads parts of the same rows shares a read."""
    rows = 40_000
    held = torch.randn(rows, sum(parts)).to(torch.bfloat16)
    save_file({"all": held}, tmp_path / "model.safetensors")
    names = [f"w{number:02}" for number in range(len(parts))]
    operations = [wb.Concatenate(dim=1, sizes=parts).inverse()]
    operations += [wb.Transpose(0, 1)] if is_transposed else []
    source = wb.open(tmp_path)
    plan = wb.plan(source, [wb.WeightConverter("all", names, operations)], dtype=dtype)
    before = bytes_read()
    made = plan.state_dict(copy=True)
    assert bytes_read() - before < 1.1 * held.nbytes + 200_000
    start = 0
    for name, width in zip(names, parts, strict=True):
        expected = held[:, start : start + width].to(torch.float32 if dtype else torch.bfloat16)
        assert torch.equal(made[name], expected.t() if is_transposed else expected)
        start += width


def bytes_read() -> int:
    """Return how many bytes this process has read by calls so far, as the kernel counts them."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        pytest.skip("the system does not count what a process reads")
    return int(dict(line.split(": ") for line in lines)["rchar"])
