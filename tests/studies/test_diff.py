"""How tensors of two checkpoints are related, against plain torch; through a mapping, and by the command."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command import documented, run
from hypothesis import given, settings, strategies as st
from safetensors.torch import save_file
from strategies import layouts, tensors_of
from typer.testing import CliRunner

import weighbridge as wb
from weighbridge.base.specs import DTYPES
from weighbridge.cli.app import app
from weighbridge.studies import comparing, contents
from weighbridge.studies.contents import Held, Planned
from weighbridge.studies.differences import KINDS, Compared

FLOATS = [dtype.code for dtype in DTYPES.values() if dtype.kind == "float"]
WHOLES = [dtype.code for dtype in DTYPES.values() if dtype.kind in ("signed", "unsigned", "bool")]


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relation(first: torch.Tensor, second: torch.Tensor) -> Compared:
    (found,) = wb.diff({"layers.0.weight": first}, {"layers.0.weight": second}).tensors
    return found


@pytest.fixture(params=[contents.WINDOW_NUMEL, 7])
def window(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Read in windows of the real size, and in windows that cut rows in two."""
    for module in (contents, comparing):
        monkeypatch.setattr(module, "WINDOW_NUMEL", request.param)
    return int(request.param)


def shuffled(count: int) -> torch.Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(1))


RELATED: list[tuple[str, str, torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]] = [
    ("equal", "", numbers(5, 3), torch.clone),
    ("equal", "", torch.tensor([1.0, math.nan]), torch.clone),
    ("equal", "", torch.zeros(0, 3), torch.clone),
    ("cast", "F32 to BF16, rounded", numbers(5, 3), lambda t: t.bfloat16()),
    ("cast", "BF16 to F32", numbers(5, 3).bfloat16(), lambda t: t.float()),
    ("cast", "BF16 to F32", torch.tensor([1.0, math.nan, math.inf]).bfloat16(), lambda t: t.float()),
    ("cast", "F16 to F32; the first is the second one rounded", numbers(5).half(), lambda t: t.float() * 1.00001),
    ("cast", "I64 to I32", torch.arange(9), lambda t: t.to(torch.int32)),
    ("reshaped", "[4, 6] to [3, 8]", numbers(4, 6), lambda t: t.view(3, 8)),
    ("padded", "axis 0 from 5 to 9, by 0", numbers(5, 3), lambda t: torch.cat([t, torch.zeros(4, 3)])),
    (
        "padded",
        "axis 1 from 3 to 4, by -inf",
        numbers(5, 3),
        lambda t: torch.cat([t, torch.full((5, 1), -math.inf)], 1),
    ),
    ("padded", "axis 0 from 9 to 2, by 1", torch.cat([numbers(2), torch.ones(7)]), lambda t: t[:2].clone()),
    ("different", "shape", numbers(5, 3), lambda t: torch.cat([t, torch.arange(3.0)[None] + 0.5])),
    ("different", "shape", numbers(5, 3), lambda t: torch.cat([torch.zeros(1, 3), t])),
    ("different", "shape", torch.zeros(0, 3), lambda t: torch.zeros(4, 3)),
    ("transposed", "axes [1, 0]", numbers(4, 6), lambda t: t.T.contiguous()),
    ("transposed", "axes [1, 0]", numbers(5, 5), lambda t: t.T.contiguous()),
    ("transposed", "axes [2, 0, 1]", numbers(3, 4, 5), lambda t: t.permute(2, 0, 1).contiguous()),
    ("transposed", "axes [0, 2, 1]", numbers(3, 4, 4), lambda t: t.transpose(1, 2).contiguous()),
    ("permuted", "rows, along axis 0", numbers(7, 3), lambda t: t[shuffled(7)]),
    ("permuted", "columns, along axis 1", numbers(3, 7), lambda t: t[:, shuffled(7)].contiguous()),
    ("permuted", "slices, along axis 1", numbers(3, 5, 2), lambda t: t[:, shuffled(5)].contiguous()),
    ("permuted", "elements, in no order of an axis", numbers(4, 3), lambda t: t.view(-1)[shuffled(12)].view(4, 3)),
    ("permuted", "elements, in no order of an axis", numbers(7), lambda t: t[shuffled(7)]),
    ("permuted", "elements, in no order of an axis", numbers(4, 3), lambda t: t.view(-1)[shuffled(12)].view(6, 2)),
    ("permuted", "rows, along axis 0, in blocks: Reorder(order=[1, 0])", numbers(8, 3), lambda t: t.roll(4, 0)),
    (
        "permuted",
        "columns, along axis 1, in blocks: Reorder(dim=1, order=[1, 0], sizes=[2, 8])",
        numbers(3, 10),
        lambda t: torch.cat([t[:, 2:], t[:, :2]], 1),
    ),
    ("permuted", "elements, along axis 0, in blocks: Reorder(order=[1, 0])", numbers(8), lambda t: t.roll(4)),
    (
        "permuted",
        "rows, along axis 0, in blocks: Reorder(order=[0, 1, 2], sizes=[16, 8, 8], source_stripes=4)",
        numbers(32, 3),
        lambda t: torch.cat([torch.cat([r.split((4, 2, 2))[p] for r in t.chunk(4)]) for p in range(3)]),
    ),
    (
        "permuted",
        "rows, along axis 0, in some parts: Split(sizes=[8, 4]), On(parts=[0], apply=Interleave()), Concatenate()",
        numbers(12, 3),
        lambda t: torch.cat([t[0:8:2], t[1:8:2], t[8:]]),
    ),
    ("different", "shape", numbers(4, 3), lambda t: t[:2].clone()),
    ("different", "shape", numbers(4, 3), lambda t: (t + 1).view(6, 2)),
    ("different", "dtype", numbers(4, 3), lambda t: (t + 1).bfloat16()),
    ("different", "dtype and shape", numbers(4, 3), lambda t: t[:2].bfloat16()),
    ("different", "", numbers(4, 3), lambda t: t + 1),
    # the sums of all bits agree, and nothing else does
    ("different", "", torch.tensor([1, 4]), lambda t: torch.tensor([2, 3])),
]


@pytest.mark.parametrize(("kind", "detail", "first", "change"), RELATED)
def test_relation_is_recognised(
    kind: str, detail: str, first: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor], window: int
) -> None:
    found = relation(first, change(first))
    assert (found.relation.kind, found.relation.detail) == (kind, detail)
    same_shape = first.shape == change(first).shape
    assert (found.relation.numbers is not None) == (kind == "different" and same_shape)


def test_every_kind_is_tested() -> None:
    assert {kind for kind, *_ in RELATED} == set(KINDS)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(FLOATS), st.integers(1, 40), st.data())
def test_numbers_of_floats_are_those_of_torch(dtype: str, count: int, data: st.DataObject) -> None:
    """Any bits at all: NaN, infinities and subnormals included."""
    kind = getattr(torch, DTYPES[dtype].torch_name)
    size = DTYPES[dtype].bits // 8 * count
    first, second = (
        torch.frombuffer(bytearray(data.draw(st.binary(min_size=size, max_size=size))), dtype=kind) for _ in range(2)
    )
    check_numbers(first, second)


def check_numbers(first: torch.Tensor, second: torch.Tensor) -> None:
    """Compare what was found with a loop over Python's own numbers."""
    found = relation(first, second).relation
    pairs = list(zip(first.tolist(), second.tolist(), strict=True))
    bits = [side.view(torch.uint8).view(first.numel(), -1) for side in (first, second)]
    differing = int((bits[0] != bits[1]).any(dim=1).sum())
    if found.kind != "different":
        assert (found.kind == "equal") == (differing == 0)
        return
    assert found.numbers is not None
    assert found.numbers.differing == differing
    assert found.numbers.nan == tuple(sum(x != x for x in side) for side in zip(*pairs, strict=True))
    gaps = [0 if x == y or x != x or y != y else abs(x - y) for x, y in pairs]
    assert found.numbers.largest == pytest.approx(max(gaps), rel=1e-12)
    (place,) = found.numbers.place
    assert gaps[place] == pytest.approx(found.numbers.largest, rel=1e-12)
    assert str(found.numbers.values) == str(pairs[place])


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(WHOLES), st.integers(1, 20), st.data())
def test_numbers_of_integers_are_exact(dtype: str, count: int, data: st.DataObject) -> None:
    """Differences of 64-bit integers neither overflow nor vanish."""
    kind = getattr(torch, DTYPES[dtype].torch_name)
    low, high = (0, 1) if kind == torch.bool else (torch.iinfo(kind).min, torch.iinfo(kind).max)
    values = st.lists(st.integers(low, high), min_size=count, max_size=count)
    check_numbers(*(torch.tensor(data.draw(values), dtype=kind) for _ in range(2)))


def test_complex_numbers_are_compared() -> None:
    first = torch.tensor([1 + 2j, 3 + 0j])
    found = relation(first, first + torch.tensor([0, 4j])).relation
    assert found.numbers is not None
    assert (found.numbers.differing, found.numbers.largest, found.numbers.place) == (1, 4.0, (1,))
    json.dumps(wb.diff({"a": first}, {"a": first + 1}).to_dict(), allow_nan=False)


def test_tensors_of_packed_elements_are_compared_as_bytes(tmp_path: Path) -> None:
    header = {"a": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}}
    for name, last in (("one", b"\x03"), ("other", b"\x04")):
        text = json.dumps(header).encode()
        content = len(text).to_bytes(8, "little") + text + b"\x01\x02" + last
        (tmp_path / f"{name}.safetensors").write_bytes(content)
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    assert wb.diff(one, one)
    (found,) = wb.diff(one, other).tensors
    assert (found.relation.kind, found.relation.numbers) == ("different", None)


def test_relative_difference_is_by_the_greatest_value(window: int) -> None:
    first = torch.arange(1.0, 21.0).view(4, 5)
    second = first.clone()
    second[1, 2] = 10.5
    found = relation(first, second).relation.numbers
    assert found is not None
    assert (found.largest, found.relative, found.place, found.values) == (2.5, 2.5 / 20, (1, 2), (8.0, 10.5))


# whole checkpoints


def checkpoint(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    made = {f"layers.{i}.{name}.weight": numbers(4, 3, seed=i) for i in range(12) for name in ("up", "down")}
    return {**made, "norm.weight": torch.ones(3), **changes}


def test_like_tensors_make_one_group() -> None:
    changed = {key: tensor + 0.5 * (key == "layers.7.up.weight") for key, tensor in checkpoint().items()}
    changed = {key: tensor + 0.25 * ("up" in key) for key, tensor in changed.items()}
    del changed["norm.weight"]
    found = wb.diff(checkpoint(), changed | {"extra": torch.ones(1)})
    (group,) = found.groups()
    assert len(group) == 12
    lines = str(found).splitlines()
    assert lines[0] == "different: 12 equal, 12 different, 1 only in the first, 1 only in the second"
    assert lines[1] == "different   layers.{0..11}.up.weight   F32 [4, 3]"
    assert lines[2].startswith("            144 of 144 elements, largest 0.75 (relative ")
    assert " at layers.7.up.weight [" in lines[2]
    assert lines[3:] == ["only in the first  norm.weight   F32 [3]", "only in the second  extra   F32 [1]"]
    assert found.counts["different"] == 12


def test_require_equal_raises_the_result() -> None:
    wb.diff(checkpoint(), checkpoint()).require_equal()
    with pytest.raises(wb.VerifyError) as raised:
        wb.diff(checkpoint(), checkpoint(**{"norm.weight": torch.zeros(3)})).require_equal()
    assert raised.value.code == "verify-failed"
    assert "norm.weight" in raised.value.got


MAPPING = wb.Mapping(
    [
        wb.WeightConverter(["up.weight", "down.weight"], "both.weight", [wb.Concatenate(dim=0)]),
        wb.WeightRenaming("norm", "final_norm"),
    ],
    name="both",
)


def test_through_a_mapping_nothing_is_written(window: int) -> None:
    fused = wb.plan(checkpoint(), MAPPING).state_dict()
    assert wb.diff(checkpoint(), fused, MAPPING)
    assert not wb.diff(checkpoint(), fused)
    fused["layers.3.both.weight"][5, 1] += 1
    found = wb.diff(checkpoint(), fused, MAPPING)
    (one,) = (one for one in found.tensors if one.relation.kind != "equal")
    assert one.key == "layers.3.both.weight"
    assert one.relation.numbers is not None
    assert one.relation.numbers.place == (5, 1)


def test_mapping_that_does_not_fit_is_refused() -> None:
    with pytest.raises(wb.PlanError) as refused:
        wb.diff(checkpoint(), checkpoint(), MAPPING, layout="mapped")
    assert refused.value.code == "plan-failed"


def test_reading_that_was_chosen_is_said() -> None:
    """A first side that is in the second one's layout already is compared as it is."""
    found = wb.diff(checkpoint(), checkpoint(), MAPPING)
    assert found
    assert found.first.endswith("through both, reading: as is")
    assert found.first in str(found)


def test_partial_mapping_leaves_tensors_to_one_side() -> None:
    half = wb.Mapping([wb.WeightRenaming("norm", "final_norm")], name="half")
    fused = wb.plan(checkpoint(), MAPPING).state_dict()
    found = wb.diff(checkpoint(), fused, half, partial=True)
    assert len(found.only_first) == 24
    assert [key for key, _ in found.only_second] == [f"layers.{i}.both.weight" for i in range(12)]
    assert [one.key for one in found.tensors] == ["final_norm.weight"]


@settings(max_examples=200, deadline=None)
@given(layouts())
def test_windows_of_a_plan_are_what_it_gives(layout) -> None:
    """What a plan would give, read in windows, is what it does give; for every drawn layout."""
    plan = wb.plan(tensors_of(layout.tensors), layout.mapping)
    given_back = plan.state_dict()
    planned, held = Planned(plan, plan.checkpoint()), Held(wb.open(given_back))
    for key in given_back:
        sides = planned.contents(key), held.contents(key)
        for start in range(0, sides[0].numel, 5):
            one, other = (side.read(start, min(start + 5, side.numel)) for side in sides)
            assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))


# the command


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diff")
    save_file(checkpoint(), folder / "one.safetensors")
    save_file(checkpoint(**{"norm.weight": torch.full((3,), math.nan)}), folder / "other.safetensors")
    save_file(wb.plan(checkpoint(), MAPPING).state_dict(), folder / "fused.safetensors")
    save_file({"both.weight": torch.ones(2)}, folder / "part.safetensors")
    (folder / "maps.json").write_text(json.dumps(MAPPING.to_dict()))
    return folder


def call(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    """Run the command in this process; return its status and what it printed."""
    monkeypatch.chdir(folder)
    ran = CliRunner().invoke(app, ["diff", *arguments])
    return ran.exit_code, ran.stdout


def test_command_ends_with_the_answer(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = run(there, "diff", "one.safetensors", "one.safetensors")
    assert (ran.status, ran.out, ran.err) == (0, "equal: 25 equal\n", "")
    status, text = call(there, monkeypatch, "one.safetensors", "other.safetensors")
    assert status == 1
    assert "NaN: 0 against 3" in text
    assert call(there, monkeypatch, "one.safetensors", "other.safetensors", "--quiet") == (1, "")


def test_command_goes_through_a_mapping_and_back(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    through = "--through", "maps.json"
    assert call(there, monkeypatch, "one.safetensors", "fused.safetensors", *through)[0] == 0
    assert call(there, monkeypatch, "fused.safetensors", "one.safetensors", *through, "--reverse")[0] == 0
    for lone in (["--reverse"], ["--dtype", "target"], ["--layout", "mapped"]):
        assert call(there, monkeypatch, "one.safetensors", "one.safetensors", *lone)[0] == 2
    status, text = call(there, monkeypatch, "one.safetensors", "part.safetensors", *through, "--json")
    assert (status, json.loads(text)["error"]["code"]) == (3, "plan-failed")


def test_what_infer_calls_an_option_is_one_of_diff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file says what its proof needed; given that, nothing differs, and without it, the plan says what does."""
    held = {f"block.{name}": tensor.bfloat16() for name, tensor in checkpoint().items()}
    save_file(held, tmp_path / "held.safetensors")
    wanted = {name.removeprefix("block."): tensor.float() for name, tensor in held.items()}
    save_file(wanted, tmp_path / "wanted.safetensors")
    assert run(tmp_path, "infer", "held.safetensors", "wanted.safetensors", "-o", "map.yaml").status == 0
    assert "#   --dtype target" in (tmp_path / "map.yaml").read_text().splitlines()
    through = "held.safetensors", "wanted.safetensors", "--through", "map.yaml"
    status, text = call(tmp_path, monkeypatch, *through)
    assert (status, "25 cast" in text) == (1, True)
    assert call(tmp_path, monkeypatch, *through, "--dtype", "target", "--layout", "mapped")[0] == 0
    planned = run(tmp_path, "plan", "held.safetensors", "map.yaml", "--target", "wanted.safetensors")
    assert "note      25 targets want F32 and keep BF16: " in planned.out


def test_command_gives_json_without_strange_numbers(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, text = call(there, monkeypatch, "one.safetensors", "other.safetensors", "--json")
    form = json.loads(text, parse_constant=pytest.fail)
    assert (status, set(form)) == (1, documented("diff"))
    assert form["tensors"][0]["numbers"]["values"] == [1.0, "nan"]
    assert len(form["tensors"]) == 1
    full = json.loads(call(there, monkeypatch, "one.safetensors", "other.safetensors", "--json", "--full")[1])
    assert len(full["tensors"]) == 25
    assert full["counts"] == form["counts"]


def test_full_text_has_a_line_for_each_tensor(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, text = call(there, monkeypatch, "one.safetensors", "one.safetensors", "--full")
    assert len([line for line in text.splitlines() if line.startswith("equal   ")]) == 25


def test_side_without_data_is_refused() -> None:
    header = wb.Header({"a": wb.TensorSpec("F32", (2,))})
    with pytest.raises(wb.CheckpointError) as refused:
        wb.diff(header, {"a": torch.zeros(2)})
    assert refused.value.code == "data-missing"


def test_rows_that_change_within_each_head_are_said_so() -> None:
    """A part of each head is turned from pairs to halves; where one head is turned otherwise, it is no such order."""
    rows = torch.arange(250.0).reshape(50, 5)
    heads = [(head[:6], head[6:]) for head in rows.chunk(5)]
    turned = torch.cat([part for first, last in heads for part in (first[0::2], first[1::2], last)])
    found = relation(rows, turned).relation
    assert found.kind == "permuted"
    assert "in a part of each head: Rearrange(pattern='(a b) ... -> a b ...', lengths={'a': 5})" in str(found)
    other = torch.cat([turned[:40], turned[[41, 40, *range(42, 50)]]])
    found = relation(rows, other).relation
    assert "each head" not in str(found)
