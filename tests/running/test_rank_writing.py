"""Laws 14 and 15: no two ranks write one byte, and all bytes together are the file; ranks agree, or nothing starts."""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn_mappings import draw
from drawn_parts import deal_all, touched
from hypothesis import assume, given, settings, strategies as st
from left_files import contents
from rank_runs import Ranks, at_once, deal_alike, deal_stages
from strategies import header_of, layouts

import weighbridge as wb
from weighbridge.base.errors import DestinationError
from weighbridge.planning.portions.cutting import written_steps
from weighbridge.running.by_ranks.exchange import Exchange
from weighbridge.running.by_ranks.writers import deal_writing

laws = settings(max_examples=max(1000, settings().max_examples), deadline=None)
some = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def shapes_of(header: wb.Header) -> dict[str, tuple[int, ...]]:
    return {key: spec.shape for key, spec in header.items()}


# ---- one writer per byte ----


@laws
@given(layouts(), seeds)
def test_14_what_ranks_write_is_the_file_and_each_element_has_one_writer(layout: Any, seed: int) -> None:
    plan, chance = wb.plan(header_of(layout.tensors), layout.mapping), random.Random(seed)
    held = deal_all(shapes_of(plan.source), chance.randint(1, 5), chance)
    writes = deal_writing(plan.source, [{key: part.axes for key, part in mine.items()} for mine in held])
    written: Counter[tuple[str, int]] = Counter()
    for rank, (mine, own) in enumerate(zip(held, writes, strict=True)):
        for step in written_steps(plan, mine, own, declares=rank == 0):
            for key, number in step.writes.items():
                copies = step.program.targets[number].layout.copies
                written.update((key, place) for copy in copies for _, place in touched(copy))
    whole = {(key, place) for key, spec in plan.target.items() for place in range(spec.numel)}
    assert written.keys() == whole
    assert set(written.values()) <= {1}


def test_what_all_hold_is_spread_over_them_by_its_size() -> None:
    header = wb.Header({f"w{size}": wb.TensorSpec("F32", (size,)) for size in (7, 5, 3, 2, 1)} | {"own": SPEC})
    held = [{key: (((0, spec.numel),),) for key, spec in header.items()} for _ in range(3)]
    for rank, mine in enumerate(held):
        mine["own"] = (((3 * rank, 3 * rank + 3),),)
    writes = deal_writing(header, held)
    sizes = [sum(header[key].numel for key in own if key != "own") for own in writes]
    assert (sum(sizes), sorted(sizes)) == (18, [5, 6, 7])
    assert all("own" in own for own in writes)


SPEC = wb.TensorSpec("F32", (9,))


@pytest.mark.parametrize(
    ("ends", "what"),
    [
        ([(0, 5), (4, 9)], "1 more than once"),
        ([(0, 4), (5, 9)], "1 not at all"),
        ([(0, 9), (0, 4)], "4 more than once"),
    ],
)
def test_parts_that_are_not_the_whole_are_refused(ends: Any, what: str) -> None:
    with pytest.raises(DestinationError) as caught:
        deal_writing(wb.Header({"own": SPEC}), [{"own": ((end,),)} for end in ends])
    assert (caught.value.code, caught.value.where) == ("ranks-disagree", "own")
    assert what in caught.value.got


# ---- whole runs: each rank is a thread ----


@pytest.mark.parametrize("dealt", [deal_alike, deal_stages])
@some
@given(seeds)
def test_ranks_write_what_one_process_writes(dealt: Any, tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Every operation, casts, declared values, what must be equal, tied and packed tensors: any number of ranks."""
    chance, drawn = random.Random(seed), draw(seed)
    options: dict[str, Any] = (
        {"dtype": chance.choice(("BF16", "F32")), "allow_overflow": True} if chance.random() < 0.3 else {}
    )
    folder = tmp_path_factory.mktemp("ranks")
    try:
        plan = wb.plan(drawn.tensors, drawn.mapping, config=drawn.config, **options)
        plan.write(folder / "alone", max_shard_size=chance.choice((200, None)), sync=False)
    except wb.WeighbridgeError:
        assume(False)
    ranks = Ranks(drawn.tensors, dealt(shapes_of(plan.source), chance.randint(1, 4), chance))
    count = len([path for path in (folder / "alone").iterdir() if path.suffix == ".safetensors"])
    ended = ranks.write(plan, folder / "out", max_shard_size=200 if count > 1 else None, sync=False)
    if all(getattr(each, "code", "") in ("plan-failed", "parts-mismatch") for each in ended):
        # A value that is made on the way would be scattered, or what must be equal is held in other parts.
        assert {code for each in ended for code in each.codes or (each.code,)} <= {
            "layout-fragmented",
            "parts-mismatch",
        }
        assert not (folder / "out").exists()
        return
    assert ended == [folder / "out"] * len(ranks.parts)
    assert contents(folder / "out") == contents(folder / "alone")
    shutil.rmtree(folder)


WEIGHTS = {
    f"layers.{i}.{name}": torch.arange(48.0).reshape(8, 6) + 100 * i + shift
    for i in range(2)
    for name, shift in (("gate", 0), ("up", 50))
} | {"norm": torch.arange(6.0)}
FUSED = wb.Mapping(
    [wb.WeightConverter(["gate", "up"], "gate_up", [wb.Concatenate(0), wb.Transpose(0, 1)])], name="fused"
)
OTHER = wb.Mapping([*FUSED.transforms, wb.WeightRenaming("^norm", "last")], name="other")


def three(timeout_s: float = 60) -> Ranks:
    """Three ranks that hold rows of the layers, and all of the norm."""
    rows = [((0, 3),), ((3, 6),), ((6, 8),)]
    parts = [
        {key: wb.Part((8, 6), (rows[rank], ((0, 6),))) if key != "norm" else wb.Part.whole((6,)) for key in WEIGHTS}
        for rank in range(3)
    ]
    return Ranks(WEIGHTS, parts, timeout_s)


def codes(ended: list[Any]) -> list[str]:
    return [getattr(each, "code", "") for each in ended]


def left_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


PLAN = wb.plan(WEIGHTS, FUSED)


def hold_whole(out: Path) -> None:
    """The ranks write what one process writes, and each tells of the bytes that it writes."""
    done: dict[int, tuple[int, int]] = {}
    but = {rank: {"progress": lambda *pair, rank=rank: done.update({rank: pair})} for rank in range(3)}
    assert three().write(PLAN, out, but=but) == [out] * 3
    assert [stop for stop, _ in done.values()] == [total for _, total in done.values()]
    assert sum(total for _, total in done.values()) == PLAN.target.size_bytes
    PLAN.write(out.with_name("alone"), sync=False)
    assert contents(out) == contents(out.with_name("alone"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_shard_size": 500}, "weight files"),
        ({"name": "weights"}, "weight files"),
        ({"plan": wb.plan(WEIGHTS, OTHER)}, "mapping"),
        ({"plan": wb.plan(WEIGHTS, FUSED, dtype="BF16")}, "plan"),
        ({"digests": True}, "digests"),
        ({"resume": True}, "goes on with what was stopped"),
        ({"sync": False}, "waits for the disk"),
    ],
)
@pytest.mark.parametrize("rank", [0, 2])
def test_15_ranks_agree_or_nothing_starts(tmp_path: Path, change: dict[str, Any], said: str, rank: int) -> None:
    ended = three().write(PLAN, tmp_path / "made" / "out", but={rank: change})
    assert codes(ended) == ["ranks-disagree"] * 3
    others = "{1,2}" if rank == 0 else "{0,1}"
    assert {each.what for each in ended} == {f"rank {rank} would not write the output that rank {others} writes"}
    assert {each.expected.partition(":")[0] for each in ended} == {said}
    assert left_in(tmp_path) == []


def test_another_destination_is_a_disagreement(tmp_path: Path) -> None:
    ended = three().write(PLAN, tmp_path / "out", but={1: {"out": tmp_path / "out-1"}})
    assert codes(ended) == ["ranks-disagree"] * 3
    assert ended[0].got == f"rank 1: destination: {tmp_path / 'out-1'}"
    assert left_in(tmp_path) == []


def test_other_values_of_what_several_hold_are_a_disagreement(tmp_path: Path) -> None:
    ranks = three()
    ranks.held[2]["norm"][3] = -1
    ended = ranks.write(PLAN, tmp_path / "out")
    assert [(each.code, each.where) for each in ended] == [("ranks-disagree", "norm")] * 3
    assert [line.partition(":")[0] for line in ended[0].got.splitlines()] == ["rank {0,1}", "rank 2"]
    assert left_in(tmp_path) == []


def test_ranks_that_hold_less_than_the_whole_are_refused(tmp_path: Path) -> None:
    ranks = Ranks(WEIGHTS, three().parts[:2])
    ended = ranks.write(PLAN, tmp_path / "out")
    assert [(each.code, each.where) for each in ended] == [("ranks-disagree", "layers.0.gate")] * 2
    assert "12 not at all" in ended[0].got
    assert left_in(tmp_path) == []


# ---- a rank that fails, or does not come ----


@pytest.mark.parametrize("absent", [0, 2])
def test_rank_that_does_not_come_is_named_by_all_others(tmp_path: Path, absent: int) -> None:
    ended = three(timeout_s=0.2).write(PLAN, tmp_path / "out", but={absent: None})
    assert [(each.code, each.got) for each in ended] == [("rank-missing", f"no word of rank {absent}")] * 2
    assert left_in(tmp_path) == []
    hold_whole(tmp_path / "out")


def no_room(done: int, total: int) -> None:
    raise DestinationError("destination-no-room", "the file cannot be written", where="disk")


def stop(done: int, total: int) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("rank", [0, 1])
def test_error_of_one_is_the_error_of_all(tmp_path: Path, rank: int) -> None:
    ended = three().write(PLAN, tmp_path / "made" / "out", but={rank: {"progress": no_room}})
    assert [(each.code, each.where) for each in ended] == [("destination-no-room", "disk")] * 3
    met = f"rank {rank} of 3 met it"
    assert [each.because for each in ended] == ["" if other == rank else met for other in range(3)]
    assert left_in(tmp_path) == []
    hold_whole(tmp_path / "out")


@pytest.mark.parametrize("rank", [0, 1])
def test_rank_that_is_stopped_is_named_by_the_others(tmp_path: Path, rank: int) -> None:
    ended = three().write(PLAN, tmp_path / "out", but={rank: {"progress": stop}})
    assert isinstance(ended[rank], KeyboardInterrupt)
    del ended[rank]
    assert [(each.code, each.got) for each in ended] == [("rank-missing", f"rank {rank} of 3: KeyboardInterrupt: ")] * 2
    assert left_in(tmp_path) == []


def test_what_is_there_already_is_refused_by_all(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    ended = three().write(PLAN, tmp_path / "out")
    assert codes(ended) == ["destination-exists"] * 3
    assert left_in(tmp_path) == ["out", "out/mine"]


def test_rank_without_values_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    ranks = three()
    ranks.held[1]["layers.0.up"] = ranks.held[1]["layers.0.up"].to("meta")
    ended = ranks.write(PLAN, tmp_path / "out")
    assert codes(ended) == ["data-missing"] * 3
    assert left_in(tmp_path) == []


def test_what_a_killed_run_left_is_made_anew(tmp_path: Path) -> None:
    """Somebody who was not killed may still be writing to the files that are there."""
    out, hidden, kept = tmp_path / "out", tmp_path / ".out.weighbridge-partial", tmp_path / "kept"

    def keep(done: int, total: int) -> None:
        if not kept.exists():
            shutil.copytree(hidden, kept)

    assert three().write(PLAN, out, but={0: {"progress": keep}}) == [out] * 3
    shutil.rmtree(out)
    kept.rename(hidden)
    assert codes(three().write(PLAN, out)) == ["destination-unfinished"] * 3
    assert codes(three().write(wb.plan(WEIGHTS, OTHER), out, resume=True)) == ["resume-mismatch"] * 3
    with (hidden / "model.safetensors").open("rb") as left:
        assert three().write(PLAN, out, resume=True) == [out] * 3
        assert os.fstat(left.fileno()).st_nlink == 0
    PLAN.write(tmp_path / "alone")
    assert contents(out) == contents(tmp_path / "alone")


def test_digests_are_those_of_the_whole(tmp_path: Path) -> None:
    assert three().write(PLAN, tmp_path / "out", digests=True, max_shard_size=500) == [tmp_path / "out"] * 3
    PLAN.write(tmp_path / "alone", digests=True, max_shard_size=500)
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


@pytest.mark.parametrize(
    ("name", "option"), [("out", {"part": (0, 2)}), ("out", {"link": "hard"}), ("out", {"to": "dcp"}), ("out.pt", {})]
)
def test_what_ranks_do_not_write_together_is_refused(tmp_path: Path, name: str, option: dict[str, Any]) -> None:
    assert codes(three().write(PLAN, tmp_path / name, **option)) == ["usage"] * 3
    assert left_in(tmp_path) == []


def test_ranks_at_different_points_disagree() -> None:
    ranks = three()
    ended = at_once(
        [
            lambda rank=rank: ranks.exchange(rank).agree("one" if rank else "other", None, lambda said: said)
            for rank in range(3)
        ]
    )
    assert codes(ended) == ["ranks-disagree"] * 3
    assert (ended[2].expected, ended[2].got) == ("other", "one")


def test_store_that_is_gone_is_an_error_by_name() -> None:
    class Gone:
        def add(self, key: str, amount: int) -> int:
            return 1

        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("Connection reset by peer")

    with pytest.raises(DestinationError) as caught:
        Exchange(Gone(), 1, 2).agree("the end", None, lambda said: said)
    assert (caught.value.code, "Connection reset" in caught.value.got) == ("rank-missing", True)
