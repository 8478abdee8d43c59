"""What is chosen is the only possible choice: a reading by names and shapes, a unique way back, groups that stay.

Each test names the fault that strangers found, by its letter and number.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import weighbridge as wb
from weighbridge.planning.companions import find_groups
from weighbridge.planning.way_back.preimages import find_preimages
from weighbridge.running import receipt


class Attention(torch.nn.Module):
    """One square or oblong projection, without rules of its own."""

    def __init__(self, rows: int = 8, columns: int = 4) -> None:
        super().__init__()
        self.q = torch.nn.Linear(columns, rows, bias=False)


def numbered(*shape: int) -> torch.Tensor:
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape)


def codes_of(caught: pytest.ExceptionInfo[wb.PlanError]) -> set[str]:
    return {caught.value.code, *caught.value.codes}


IN_PLACE = {
    "no configuration": (wb.PermuteForRope(), (8, 4), {}, "operation-config"),
    "heads that do not divide": (wb.PermuteForRope(num_heads=3), (8, 4), {}, "split-unequal"),
    "rows that do not pair": (wb.Interleave(dim=0), (7, 4), {}, "split-unequal"),
    "a notation that does not divide": (wb.Rearrange("(a b) c -> (b a) c", a=3), (8, 4), {}, "split-unequal"),
    "a square that fits both ways": (wb.Transpose(0, 1, check_dims=True), (6, 6), {}, "layout-ambiguous"),
}


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("case", IN_PLACE, ids=lambda case: case.replace(" ", "-"))
def test_a1_what_is_wrong_with_the_right_reading_is_no_reason_to_read_as_is(case: str, partial: bool) -> None:
    operation, shape, options, code = IN_PLACE[case]
    rules = [wb.WeightConverter("q.weight", "q.weight", [operation])]
    model = Attention(*shape)
    before = model.q.weight.clone()
    with pytest.raises(wb.PlanError) as caught:
        wb.load(model, {"q.weight": numbered(*shape)}, rules, partial=partial, **options)
    assert code in codes_of(caught)
    assert torch.equal(model.q.weight, before)


def test_a1_one_wrong_head_count_lets_no_other_tensor_through() -> None:
    rules = [
        wb.WeightConverter("q.weight", "q.weight", [wb.PermuteForRope(num_heads=2)]),
        wb.WeightConverter("k.weight", "k.weight", [wb.PermuteForRope(num_heads=3)]),
    ]
    source = {"q.weight": numbered(8, 4), "k.weight": numbered(8, 4)}
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, rules, wb.open(source).header)
    assert "split-unequal" in codes_of(caught)


def test_a1_the_hint_can_be_followed_in_the_call_that_raised_it() -> None:
    rules = [wb.WeightConverter("q.weight", "q.weight", [wb.PermuteForRope()])]
    source = {"q.weight": numbered(8, 4)}
    with pytest.raises(wb.PlanError) as caught:
        wb.load(Attention(), source, rules)
    assert 'layout="as is"' in caught.value.hint
    model = Attention()
    wb.load(model, source, rules, layout="as is")
    assert torch.equal(model.q.weight, source["q.weight"])
    heads = {"num_attention_heads": 2}
    wb.load(model, source, rules, config=heads, layout="mapped")
    assert not torch.equal(model.q.weight, source["q.weight"])


def test_a1_shapes_still_tell_the_layouts_apart() -> None:
    """Where the mapped reading gives another shape, and the file has the target's, the file is in its layout."""
    rules = [wb.WeightConverter("w", "w", [wb.Transpose(0, 1)])]
    wanted = wb.Header({"w": wb.TensorSpec("F32", (3, 5))})
    assert wb.plan({"w": numbered(5, 3)}, rules, wanted).reading == "mapped"
    assert wb.plan({"w": numbered(3, 5)}, rules, wanted).reading == "as is"


# ---- the way back ----

HEAD_BESIDE_BASE = ("transformer.wte.weight", "transformer.h.0.w", "score.weight")
WAYS = {
    "a prefix that some keys lack": ([wb.PrefixChange(prefix_to_remove="transformer")], HEAD_BESIDE_BASE),
    "two renames onto one name": (
        [wb.WeightRenaming("ln_post", "layer_norm"), wb.WeightRenaming("ln", "layer_norm")],
        ("encoder.ln_post", "decoder.ln"),
    ),
    "a name that is there already": (
        [wb.WeightRenaming("in_layers.0", "norm1")],
        ("a.in_layers.0", "transformer_blocks.0.norm1"),
    ),
    "a fused tensor that was published so": (
        [wb.WeightConverter(["q", "k"], "qk", [wb.Concatenate(0)])],
        ("text.q", "text.k", "vision.qk"),
    ),
    "parts of unequal size": ([wb.WeightConverter(["p", "q"], "pq", [wb.Concatenate(0)])], ("p", "q")),
}


def source_of(keys: tuple[str, ...]) -> dict[str, torch.Tensor]:
    rows = {"p": 4, "q": 2, "text.q": 2, "text.k": 2, "vision.qk": 4}
    return {key: numbered(rows.get(key, 3), 2) + number for number, key in enumerate(keys)}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.replace(" ", "-"))
def test_a2_a_way_back_that_is_not_unique_says_so(way: str) -> None:
    rules, keys = WAYS[way]
    mapping, source = wb.Mapping(rules), source_of(keys)
    there = wb.plan(source, mapping)
    made = dict(there.state_dict())
    back = wb.plan(made, mapping.inverse())
    assert back.choices, "other names, or sizes, lead to the same tensors"
    assert set(back.notes) <= set(back.choices)
    assert "choice" in str(back.report)
    assert back.report.to_dict()["choices"] == list(back.choices)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.replace(" ", "-"))
def test_a2_the_layout_to_reach_settles_the_way_back(way: str) -> None:
    rules, keys = WAYS[way]
    mapping, source = wb.Mapping(rules), source_of(keys)
    made = dict(wb.plan(source, mapping).state_dict())
    back = wb.plan(made, mapping.inverse(), target=wb.open(source).header)
    assert back.choices == ()
    assert wb.verify(back.state_dict(), source)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.replace(" ", "-"))
def test_a2_a_receipt_settles_the_way_back(way: str, tmp_path: Path) -> None:
    rules, keys = WAYS[way]
    mapping, source = wb.Mapping(rules), source_of(keys)
    save_file(source, tmp_path / "model.safetensors")
    wb.convert(tmp_path / "model.safetensors", tmp_path / "made", mapping)
    wb.convert(tmp_path / "made", tmp_path / "back", mapping, reverse=True)
    assert wb.verify(tmp_path / "back", source)


def test_a2_a_place_that_moves_as_a_whole_is_worth_no_note() -> None:
    """That everything below it had its name already is another layout; the plan's choices tell of it all the same."""
    mapping = wb.Mapping([wb.WeightRenaming("^old", "model.new")])
    plan = wb.plan({"model.new.w": numbered(2)}, mapping.inverse())
    assert (list(plan.target), plan.notes, len(plan.choices)) == (["old.w"], (), 1)
    found = find_preimages(mapping, ["model.new.w"])["model.new.w"]
    assert (found.names, found.likely) == ({"old.w", "model.new.w"}, {"old.w"})
    found = find_preimages(wb.Mapping([wb.WeightRenaming("gamma", "weight")]), ["0.weight"])["0.weight"]
    assert found.names == found.likely == {"0.gamma", "0.weight"}


def test_a2_a_rule_for_one_index_is_looked_at_by_itself() -> None:
    rules = [
        wb.WeightRenaming("e.1.old", "e.1.w"),
        wb.WeightConverter("{i:int}.w", "{i}.w", [wb.Transpose(0, 1)]),
    ]
    made = {f"e.{number}.w": numbered(2, 2) for number in range(2)}
    back = wb.plan(made, wb.Mapping(rules).inverse())
    assert any(choice.startswith("e.1.w goes back to e.1.old") for choice in back.choices)


def test_g3_a_name_that_may_have_been_there_is_told_when_a_model_is_saved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    rules = [wb.WeightRenaming("gamma", "weight"), wb.WeightRenaming("beta", "bias")]
    with caplog.at_level(logging.WARNING, "weighbridge"):
        wb.save(model, tmp_path / "out", rules)
    assert any("may have had that name already" in record.getMessage() for record in caplog.records)


# ---- what a receipt proves ----


def converted(folder: Path) -> tuple[Path, wb.Mapping]:
    mapping = wb.Mapping(
        [wb.WeightRenaming("gamma", "weight"), wb.WeightConverter("q.weight", "q.weight", [wb.Transpose(0, 1)])]
    )
    save_file({"norm.weight": numbered(4), "q.weight": numbered(4, 4)}, folder / "model.safetensors")
    return wb.convert(folder / "model.safetensors", folder / "made", mapping), mapping


def test_g1_a_reversal_runs_the_rules_back(tmp_path: Path) -> None:
    made, mapping = converted(tmp_path)
    wb.convert(made, tmp_path / "back", mapping, reverse=True)
    assert wb.verify(tmp_path / "back", tmp_path / "model.safetensors")


def test_a7_an_output_is_not_converted_again(tmp_path: Path) -> None:
    made, mapping = converted(tmp_path)
    with pytest.raises(wb.PlanError) as caught:
        wb.convert(made, tmp_path / "twice", mapping)
    assert caught.value.code == "already-converted"
    assert not (tmp_path / "twice").exists()
    twice = wb.convert(made, tmp_path / "twice", mapping, layout="mapped")
    assert torch.equal(wb.open(twice).tensor("q.weight"), numbered(4, 4))


def test_a7_an_output_is_loaded_as_it_is(tmp_path: Path) -> None:
    """Its names and square shapes fit both ways; its receipt says which it is."""
    made, mapping = converted(tmp_path)
    model = torch.nn.ModuleDict({"norm": torch.nn.LayerNorm(4, bias=False), "q": torch.nn.Linear(4, 4, bias=False)})
    report = wb.load(model, made, mapping)
    assert report.plan.reading == "as is"
    assert torch.equal(model["q"].weight, numbered(4, 4).T)


def test_a7_what_was_saved_from_a_model_is_read_through_the_rules_again(tmp_path: Path) -> None:
    """A receipt of the way back names the same rules; its output is in the layout that they read."""
    rules = [wb.WeightConverter("q.weight", "q.weight", [wb.PermuteForRope(num_heads=2)])]
    model = Attention()
    wb.load(model, {"q.weight": numbered(8, 4)}, rules, layout="mapped")
    saved = wb.save(model.double(), tmp_path / "saved")
    assert torch.equal(wb.open(saved).tensor("q.weight"), numbered(8, 4).double())
    again = Attention()
    wb.load(again, saved, rules, layout="mapped")
    assert torch.equal(again.q.weight, model.q.weight)


# ---- quantised weights ----

FP8 = {"q.weight": ("F8_E4M3", (4, 4)), "q.weight_scale_inv": ("F32", (1, 1)), "norm.weight": ("F32", (4,))}
QUANTISED = {
    "fp8": FP8,
    "compressed": {
        "q.weight_packed": ("I32", (4, 1)),
        "q.weight_scale": ("F32", (4, 1)),
        "q.weight_shape": ("I64", (2,)),
    },
    "gptq": {"q.qweight": ("I32", (1, 4)), "q.qzeros": ("I32", (1, 1)), "q.scales": ("F16", (1, 4))},
    "bitsandbytes": {
        "q.weight": ("U8", (8, 1)),
        "q.weight.absmax": ("F32", (1,)),
        "q.weight.quant_map": ("F32", (16,)),
    },
    "mxfp4": {"q.w_blocks": ("U8", (4, 2)), "q.w_scales": ("U8", (4, 1))},
    "mlx": {"q.weight": ("U32", (4, 2)), "q.scales": ("F16", (4, 1)), "q.biases": ("F16", (4, 1))},
}


def header(specs: dict[str, tuple[str, tuple[int, ...]]]) -> wb.Header:
    return wb.Header({key: wb.TensorSpec(dtype, shape) for key, (dtype, shape) in specs.items()})


@pytest.mark.parametrize("name", QUANTISED)
def test_a4_quantised_groups_are_found(name: str) -> None:
    (group,) = find_groups(header(QUANTISED[name]))
    assert group.stem == ("q.w" if name == "mxfp4" else "q")
    assert {group.codes, *group.beside} == QUANTISED[name].keys() - {"norm.weight"}


def test_a4_a_scale_beside_ordinary_weights_is_no_group() -> None:
    plain = {"q.weight": ("BF16", (4, 4)), "q.scale": ("F32", (4,)), "logit_scale": ("F32", ())}
    assert find_groups(header(plain)) == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a4_codes_never_become_numbers(dtype: str) -> None:
    """A dtype that is asked for leaves them alone, scales included; a rule that casts them is refused."""
    target = wb.plan(header(FP8), [], dtype=dtype).target
    assert {key: target[key] for key in target if "norm" not in key} == {
        key: spec for key, spec in header(FP8).items() if "norm" not in key
    }
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(header(FP8), [wb.WeightConverter("q.weight", "q.weight", [wb.Cast(dtype)])])
    assert "companion-unknown" in codes_of(caught)


@pytest.mark.parametrize("name", QUANTISED)
def test_a4_a_module_is_renamed_with_all_that_belongs_to_it(name: str) -> None:
    target = wb.plan(header(QUANTISED[name]), [wb.WeightRenaming("^q", "attention.q")]).target
    assert {key for key in target if "norm" not in key} == {
        f"attention.{key}" for key in QUANTISED[name] if "norm" not in key
    }


@pytest.mark.parametrize(
    "rules",
    [
        [wb.WeightRenaming(r"^q\.weight$", "p.weight")],
        [wb.WeightConverter("q.weight", "q.weight", [wb.Transpose(0, 1)])],
        [wb.WeightConverter(["q.weight", "k.weight"], "qk.weight", [wb.Concatenate(0)])],
    ],
    ids=["renamed", "turned", "joined"],
)
def test_a4_codes_and_scales_do_not_part(rules: list[wb.WeightRenaming]) -> None:
    both = FP8 | {key.replace("q.", "k."): spec for key, spec in FP8.items() if key.startswith("q.")}
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(header(both), rules)
    assert "companion-unknown" in codes_of(caught)


def test_a4_a_scale_is_not_dropped_alone() -> None:
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(header(FP8), [], drop=["weight_scale_inv"])
    assert "companion-unknown" in codes_of(caught)
    assert list(wb.plan(header(FP8), [], drop=["^q.{rest:**}"]).target) == ["norm.weight"]


BLOCKS = {"gate.weight": (4, 8), "gate.weight_scale_inv": (2, 2), "up.weight": (4, 8), "up.weight_scale_inv": (2, 2)}


@pytest.mark.parametrize(("rows", "fits"), [(4, True), (3, False)])
def test_a4_scales_that_a_rule_of_their_own_moves_alike_go_along(rows: int, fits: bool) -> None:
    """Where every part has whole blocks, the same operations give the scales of what they give of the weights."""
    shapes = {key: ((rows, 8) if key == "gate.weight" else shape) for key, shape in BLOCKS.items()}
    dtypes = {key: "F32" if "scale" in key else "F8_E4M3" for key in BLOCKS}
    source = wb.Header({key: wb.TensorSpec(dtypes[key], shape) for key, shape in shapes.items()})
    rules = [
        wb.WeightConverter([f"gate.{name}", f"up.{name}"], target, [wb.Concatenate(0)])
        for name, target in (("weight", "both"), ("weight_scale_inv", "both_scale_inv"))
    ]
    if fits:
        assert wb.plan(source, rules).target["both_scale_inv"].shape == (4, 2)
        return
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, rules)
    assert "companion-unknown" in codes_of(caught)


def test_a4_scales_that_are_joined_the_other_way_round_are_refused() -> None:
    dtypes = {key: "F32" if "scale" in key else "F8_E4M3" for key in BLOCKS}
    source = wb.Header({key: wb.TensorSpec(dtypes[key], shape) for key, shape in BLOCKS.items()})
    rules = [
        wb.WeightConverter(["gate.weight", "up.weight"], "both", [wb.Concatenate(0)]),
        wb.WeightConverter(["up.weight_scale_inv", "gate.weight_scale_inv"], "both_scale_inv", [wb.Concatenate(0)]),
    ]
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, rules)
    assert "companion-unknown" in codes_of(caught)


def test_a2_the_command_ends_a_reversal_that_could_be_another_with_a_status_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from weighbridge.cli.app import app

    save_file({"a.norm1": numbered(2), "blocks.0.norm1": numbered(3)}, tmp_path / "made.safetensors")
    (tmp_path / "map.yaml").write_text("transforms: [{rename: in_layers.0, to: norm1}]\n")
    asked = [str(tmp_path / "made.safetensors"), str(tmp_path / "out"), str(tmp_path / "map.yaml"), "--reverse"]
    with pytest.raises(SystemExit) as ended:
        app(["convert", *asked])
    assert ended.value.code == 6
    assert "choice    a.norm1 goes back to a.in_layers.0" in capsys.readouterr().out
    assert (tmp_path / "out").is_dir()


def test_a_receipt_of_another_mapping_is_not_proven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proving the plan of a large output takes longer than planning: its rules are compared first."""
    made, mapping = converted(tmp_path)
    proven: list[object] = []
    prove = receipt.read_plan
    monkeypatch.setattr(receipt, "read_plan", lambda form: proven.append(form) or prove(form))
    assert wb.plan(made, [wb.WeightRenaming("norm", "ln")])
    assert proven == []
    with pytest.raises(wb.PlanError):
        wb.plan(made, mapping)
    assert len(proven) == 1


@pytest.mark.parametrize("damage", [3, {"transforms": 3}, {"name": 3, "transforms": []}, None])
def test_a_receipt_whose_mapping_is_damaged_says_nothing(damage: object, tmp_path: Path) -> None:
    made, mapping = converted(tmp_path)
    path = made / "weighbridge.json"
    form = json.loads(path.read_text())
    form["plan"]["mapping"] = damage
    path.write_text(json.dumps(form))
    assert wb.plan(made, mapping).reading == "mapped"


@pytest.mark.parametrize("reading", ["mapped, with net. added", "mapped, then with net. added"])
def test_a_receipt_that_has_lost_the_rule_of_its_reading_says_nothing(reading: str, tmp_path: Path) -> None:
    made, mapping = converted(tmp_path)
    path = made / "weighbridge.json"
    form = json.loads(path.read_text())
    form["plan"] |= {"mapping": {"transforms": []}, "reading": reading}
    path.write_text(json.dumps(form))
    assert wb.plan(made, mapping).reading == "mapped"
