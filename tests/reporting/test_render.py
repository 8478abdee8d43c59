"""The texts of plans, reviewed as text: reports and explanations in golden files."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

import weighbridge as wb
from weighbridge.algebra.copies import Copy, Loop
from weighbridge.algebra.regions import region
from weighbridge.reporting.costs import cost, format_bytes
from weighbridge.reporting.diagrams import MAX_ROWS, WIDTH

Golden = Callable[[str, str], None]

MAPPING = wb.Mapping(
    [
        wb.WeightRenaming(r"^language_model\.model", "model.language_model"),
        wb.WeightConverter(
            ["mlp.experts.*.gate_proj.weight", "mlp.experts.*.up_proj.weight"],
            "mlp.experts.gate_up_proj",
            [wb.MergeModulelist(dim=0), wb.Concatenate(dim=1), wb.Transpose(1, 2)],
            scope="model.language_model",
        ),
        wb.WeightConverter(
            "attn.in_proj", ["attn.q_proj", "attn.k_proj", "attn.v_proj"], [wb.Split(dim=0, sizes=(8, 4, 4))]
        ),
    ],
    name="example",
    drop=[wb.Drop("rotary_emb.inv_freq", why="computed from the configuration")],
)


def header() -> wb.Header:
    specs = {"model.embed.weight": wb.TensorSpec("BF16", (32, 6))}
    for layer in range(3):
        path = f"language_model.model.layers.{layer}"
        specs[f"{path}.attn.in_proj.weight"] = wb.TensorSpec("F32", (16, 6))
        specs[f"{path}.rotary_emb.inv_freq"] = wb.TensorSpec("F32", (3,))
        for expert in range(4):
            for name in ("gate", "up"):
                specs[f"{path}.mlp.experts.{expert}.{name}_proj.weight"] = wb.TensorSpec("BF16", (5, 6))
    return wb.Header(specs)


def test_report_reads_as_reviewed(golden: Golden) -> None:
    golden("example.report.txt", str(wb.plan(header(), MAPPING).report) + "\n")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("target", "model.language_model.layers.1.mlp.experts.gate_up_proj"),
        ("source", "language_model.model.layers.1.mlp.experts.2.up_proj.weight"),
        ("split", "model.language_model.layers.0.attn.k_proj.weight"),
        ("split-source", "language_model.model.layers.0.attn.in_proj.weight"),
        ("dropped", "language_model.model.layers.0.rotary_emb.inv_freq"),
        ("miss", "model.language_model.layers.1.mlp.experts.gate_up_projj"),
    ],
)
def test_explanation_reads_as_reviewed(golden: Golden, name: str, key: str) -> None:
    golden(f"example.explain.{name}.txt", str(wb.plan(header(), MAPPING).explain(key)) + "\n")


BACK = {
    "back": "language_model.model.layers.1.mlp.experts.2.up_proj.weight",
    "back-source": "model.language_model.layers.1.mlp.experts.gate_up_proj",
    "back-joined": "language_model.model.layers.0.attn.in_proj.weight",
}


@pytest.mark.parametrize("name", BACK)
def test_explanation_of_the_way_back_reads_as_reviewed(golden: Golden, name: str) -> None:
    """The inverse of the mapping, made on what the mapping gives; the recorded inverse says the same of the copies."""
    plan = wb.plan(header(), MAPPING)
    back = wb.plan(plan.target, MAPPING.inverse(), target=wb.plan(header(), MAPPING).inverse(lossy=True).target)
    golden(f"example.explain.{name}.txt", str(back.explain(BACK[name])) + "\n")
    assert plan.inverse(lossy=True).explain(BACK[name]).copies == back.explain(BACK[name]).copies


def without(*keys: str) -> wb.Header:
    return wb.Header({key: spec for key, spec in header().items() if key not in keys})


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("incomplete", "language_model.model.layers.1.mlp.experts.0.gate_proj.weight"),
        ("incomplete-missing", "language_model.model.layers.1.mlp.experts.2.up_proj.weight"),
        ("incomplete-target", "model.language_model.layers.1.mlp.experts.gate_up_proj"),
    ],
)
def test_explanation_of_an_incomplete_group_reads_as_reviewed(golden: Golden, name: str, key: str) -> None:
    held = without("language_model.model.layers.1.mlp.experts.2.up_proj.weight").specs
    target = wb.plan(header(), MAPPING).target
    plan = wb.plan(wb.Header(held), MAPPING, target, partial=True)
    assert plan.explain(key).group
    golden(f"example.explain.{name}.txt", str(plan.explain(key)) + "\n")


def test_near_miss_reads_as_reviewed(golden: Golden) -> None:
    """A name that is nearly the one that a rule wants is named beside that."""
    key = "language_model.model.layers.1.mlp.experts.2.up_prj.weight"
    plan = wb.plan(wb.Header({key: wb.TensorSpec("BF16", (5, 6))}), MAPPING)
    golden("example.explain.near.txt", str(plan.explain(key)) + "\n")


def test_long_grid_is_capped_and_keeps_what_was_asked_for() -> None:
    count = 40
    specs = {f"experts.{i}.w": wb.TensorSpec("F32", (3, 2)) for i in range(count)}
    stack = wb.WeightConverter("experts.*.w", "experts.w", [wb.MergeModulelist(0)])
    plan = wb.plan(wb.Header(specs), [stack])
    drawn = plan.explain("experts.w").diagrams
    assert len(drawn) <= MAX_ROWS + 5
    assert any("33 more" in line for line in drawn)
    drawn = plan.explain("experts.17.w").diagrams
    assert any(line.split() == ["17", "│", "a", "│"] for line in drawn)
    assert max(map(len, drawn)) <= WIDTH


def test_interleaved_copies_are_not_drawn() -> None:
    rope = wb.WeightConverter("w", "v", [wb.PermuteForRope(num_heads=2)])
    explained = wb.plan(wb.Header({"w": wb.TensorSpec("F32", (8, 3))}), [rope]).explain("v")
    assert explained.copies
    assert explained.diagrams == ()


EQUALS = [
    wb.WeightConverter("^layers.*.g_idx", "g_idx", [wb.MergeEqual()]),
    wb.WeightConverter([f"ranks.{rank}.k" for rank in range(4)], "k", [wb.MergeEqual(2), wb.Concatenate(0)]),
    wb.WeightConverter("embed", ["embed", "head"], [wb.Repeat()]),
    wb.WeightConverter("experts.up", "up", [wb.SplitModulelist(0), wb.MergeEqual(3)]),
]


def equals() -> wb.Plan:
    shapes = {f"layers.{i}.g_idx": (8,) for i in range(3)} | {f"ranks.{rank}.k": (2, 5) for rank in range(4)}
    shapes |= {"embed": (7, 5), "experts.up": (3, 6, 5)}
    return wb.plan(wb.Header({key: wb.TensorSpec("F32", shape) for key, shape in shapes.items()}), EQUALS)


def test_a_report_says_what_has_to_be_equal() -> None:
    report = equals().report
    lines = [line for line in report.lines() if line.startswith("if equal")]
    assert lines == [
        "if equal  layers.{0..2}.g_idx -> g_idx",
        "if equal  ranks.{0,2}.k = ranks.{1,3}.k -> k",
        "if equal  3 parts of experts.up -> up",
    ]
    assert json.loads(json.dumps(report.to_dict()))["conditions"] == [line.removeprefix("if equal  ") for line in lines]
    assert report.fates() == {"source": {"shared": 1, "checked": 8}, "target": {"filled": 5}}


def test_like_conditions_stand_in_one_line() -> None:
    specs = {f"ranks.{r}.layers.{i}.norm": wb.TensorSpec("F32", (3,)) for r in range(2) for i in range(3)}
    plan = wb.plan(
        wb.Header(specs), [wb.WeightConverter("ranks.*.layers.{i:int}.norm", "layers.{i}.norm", [wb.MergeEqual()])]
    )
    assert "if equal  ranks.{0,1}.layers.{0..2}.norm -> layers.{0..2}.norm" in str(plan.report)


@pytest.mark.parametrize(
    ("key", "fate", "condition", "copies"),
    [
        ("g_idx", "filled", "layers.{0..2}.g_idx -> g_idx",
         ["g_idx[:] <- layers.0.g_idx[:]", "g_idx[:] == layers.1.g_idx[:]", "g_idx[:] == layers.2.g_idx[:]"]),
        ("layers.1.g_idx", "checked", "layers.{0..2}.g_idx -> g_idx", ["g_idx[:] == layers.1.g_idx[:]"]),
        ("ranks.3.k", "checked", "ranks.{0,2}.k = ranks.{1,3}.k -> k", ["k[2:4, :] == ranks.3.k[:, :]"]),
        ("embed", "shared", None, ["embed[:, :] <- embed[:, :]", "head[:, :] <- embed[:, :]"]),
    ],
)  # fmt: skip
def test_an_explanation_says_what_is_only_compared(
    key: str, fate: str, condition: str | None, copies: list[str]
) -> None:
    explained = equals().explain(key)
    assert explained.fates[0].name == fate
    assert explained.conditions == ((condition,) if condition else ())
    assert list(explained.copies) == copies
    assert (f"  if equal {condition}" in str(explained).splitlines()) == bool(condition)
    assert explained.to_dict()["conditions"] == list(explained.conditions)


def test_failure_reads_as_reviewed(golden: Golden) -> None:
    specs = dict(header().specs)
    del specs["language_model.model.layers.1.mlp.experts.2.up_proj.weight"]
    target = wb.Header(
        {"model.embed.weight": wb.TensorSpec("BF16", (32, 6)), "lm_head.weight": wb.TensorSpec("BF16", (32, 6))}
    )
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(wb.Header(specs), MAPPING, target)
    golden("example.failure.txt", str(caught.value) + "\n")


def test_json_forms_are_json() -> None:
    plan = wb.plan(header(), MAPPING)
    report = json.loads(json.dumps(plan.report.to_dict()))
    assert (report["source_tensors"], report["exact"], report["fates"]["source"]["dropped"]) == (31, False, 3)
    explained = json.loads(json.dumps(plan.explain("model.embed.weight").to_dict()))
    assert explained["sides"] == ["source", "target"]


def test_cost_counts_every_byte() -> None:
    plan = wb.plan(header(), MAPPING)
    spent = cost(plan, budget_bytes=100)
    kept = sum(spec.size_bytes for key, spec in header().items() if "rotary" not in key)
    assert (spent.read_bytes, spent.written_bytes) == (kept, kept)
    assert spent.buffer_bytes == 100


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (5 * 2**40, "5.00 TiB")]
)
def test_sizes_are_written_for_readers(size_bytes: int, text: str) -> None:
    assert format_bytes(size_bytes) == text


@pytest.mark.parametrize(
    ("copy", "shape", "text"),
    [
        (Copy(0, 0, 0, (Loop(24, 1, 1),)), (4, 6), "[:, :]"),
        (Copy(0, 0, 6, (Loop(12, 1, 1),)), (4, 6), "[1:3, :]"),
        (Copy(0, 0, 8, (Loop(2, 9, 6), Loop(3, 1, 1))), (4, 6), "[1:3, 2:5]"),
        (Copy(0, 0, 0, ()), (1, 1), "[:, :]"),
        (Copy(0, 0, 0, (Loop(4, 1, 7),)), (4, 6), "{from 0: 4x7}"),
    ],
)
def test_regions_are_boxes_where_they_can_be(copy: Copy, shape: tuple[int, ...], text: str) -> None:
    assert region(copy, shape, of_target=True) == text
