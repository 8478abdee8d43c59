"""The linter: each finding by a mapping that has it and the nearest that has not; what a clean report promises."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import strategies
from conftest import ROOT
from hypothesis import given, settings, strategies as st
from safetensors.numpy import save_file

import weighbridge as wb
from weighbridge.base.errors import MappingError, PlanError
from weighbridge.mappings.families import MODULES, load_family
from weighbridge.pattern import Pattern
from weighbridge.planning.compiling import compile_plan
from weighbridge.planning.plan_options import Options
from weighbridge.planning.tracing import match_rule, prepare
from weighbridge.studies.lint import FINDINGS, Finding, LintReport, lint, lint_registry
from weighbridge.studies.lint.table import table_lines
from weighbridge.studies.lint.witnesses import SPELLINGS_MAX, spellings, witnesses

PAGE = (ROOT / "docs" / "lint.md").read_text("utf-8")

JOIN = [wb.Concatenate(dim=0)]
STACK = [wb.MergeModulelist(dim=0)]


def header(*keys: str) -> wb.Header:
    return wb.Header({key: wb.TensorSpec("F32", (4, 3)) for key in keys})


def rename(source: str | list[str], target: str, scope: str = "") -> wb.WeightRenaming:
    return wb.WeightRenaming(source, target, scope=scope)


def join(sources: Sequence[str], target: str, scope: str = "") -> wb.WeightConverter:
    return wb.WeightConverter(sources, target, JOIN, scope=scope)


def codes(report: LintReport) -> set[str]:
    return set(report.counts())


# ---- each finding, and the nearest mapping without it ----

Rules = list[wb.WeightRenaming | wb.WeightConverter | wb.GroupWeightRename | wb.PrefixChange]

PAIRS: dict[str, tuple[str, str, tuple[int, ...], Rules, Rules]] = {
    "two patterns of one rename": (
        "overlap",
        "error",
        (1,),
        [rename(["q", "attn.q"], "q_proj")],
        [rename(["mlp.q", "attn.q"], "x.q_proj")],
    ),
    "two converters": (
        "overlap",
        "error",
        (1, 2),
        [join(["q", "k"], "qk"), join(["attn.q", "attn.v"], "attn.qv")],
        [join(["mlp.q", "mlp.k"], "mlp.qk"), join(["attn.q", "attn.v"], "attn.qv")],
    ),
    "two renames to one name": (
        "collide",
        "warning",
        (1, 2),
        [rename("w1", "gate"), rename("linear_v", "gate")],
        [rename("w1", "gate"), rename("linear_v", "up")],
    ),
    "a chain that should be a group": (
        "collide",
        "warning",
        (1, 2),
        [rename("norm0", "norm1"), rename("norm1", "norm2")],
        [wb.GroupWeightRename(["norm0", "norm1"], ["norm1", "norm2"])],
    ),
    "an index that is lost": (
        "collide",
        "warning",
        (1,),
        [rename(r"layers.(\d+).rope", "rope")],
        [rename(r"layers.(\d+).rope", r"rope.\1")],
    ),
    "a rule behind a more general one": (
        "never",
        "error",
        (2,),
        [rename("^vision", "model.vision"), rename("^vision.norm", "model.norm")],
        [rename("^vision.norm", "model.norm"), rename("^vision", "model.vision")],
    ),
    "a pattern that an earlier rule rewrites": (
        "never",
        "error",
        (2,),
        [rename("attn", "self_attn"), join(["attn.q", "self_attn.k"], "self_attn.qk")],
        [rename("attn", "self_attn"), join(["self_attn.q", "self_attn.k"], "self_attn.qk")],
    ),
    "a rule that loses its choice": (
        "one-way",
        "warning",
        (1,),
        [rename("(encoder|decoder).norm", "norm")],
        [rename("(encoder|decoder).norm", r"norm.\1")],
    ),
    "two rules with one inverse": (
        "one-way",
        "warning",
        (1, 2),
        [rename("(?<!x.)q", "p"), rename("q", "p")],
        [rename("(?<!x.)q", "p"), rename("q", "r")],
    ),
    "an inverse that renames every weight": (
        "round-trip",
        "warning",
        (1, 2),
        [rename("attn.wq", "attn.q"), rename("gamma", "weight")],
        [rename("attn.wq", "attn.q"), rename("norm.gamma", "norm.weight")],
    ),
    "two converters that write alike": (
        "round-trip",
        "warning",
        (1, 2),
        [join(["q", "k"], "qk"), join(["attn.a", "attn.b"], "attn.qk")],
        [join(["mlp.q", "mlp.k"], "mlp.qk"), join(["attn.a", "attn.b"], "attn.qk")],
    ),
    "a rename that grows": (
        "repeats",
        "warning",
        (1,),
        [rename("norm", "attn.norm")],
        [rename("norm", "attn_norm")],
    ),
    "an inverse that grows": (
        "repeats",
        "warning",
        (1,),
        [rename("encoder.layers", "layers")],
        [rename("^encoder.layers", "layers")],
    ),
    "a rename that reads what another wrote": (
        "order",
        "warning",
        (1, 2),
        [rename("attention", "attn"), rename("attn.dense", "attn.o")],
        [rename("attention", "attn"), rename("mlp.dense", "mlp.o")],
    ),
    "a rename behind a converter": (
        "after-converter",
        "warning",
        (1, 2),
        [join(["q", "k"], "qk"), rename("qk", "qkv")],
        [join(["q", "k"], "qk"), rename("^model", "core")],
    ),
    "a converter of what another one wrote": (
        "second-converter",
        "warning",
        (1, 2),
        [join(["q", "k"], "qk"), wb.WeightConverter("qk", "fused", [wb.Transpose(0, 1)])],
        [wb.WeightConverter(["q", "k"], "fused", [wb.Concatenate(0), wb.Transpose(0, 1)])],
    ),
    "blocks that stay where they are": (
        "idle",
        "warning",
        (1,),
        [wb.WeightConverter("qkv", "kqv", [wb.Reorder(0, (0, 1), source_stripes=2, target_stripes=2)])],
        [wb.WeightConverter("qkv", "kqv", [wb.Reorder(0, (0, 1), source_stripes=2)])],
    ),
    "operations that undo each other": (
        "idle",
        "warning",
        (1,),
        [
            wb.WeightConverter(
                "w", "v", [wb.Transpose(0, 1), wb.Reorder(0, (1, 2, 0)), wb.Reorder(0, (2, 0, 1)), wb.Transpose(1, 0)]
            )
        ],
        [wb.WeightConverter("w", "v", [wb.Reorder(0, (1, 2, 0)), wb.Transpose(1, 0), wb.Reorder(0, (2, 0, 1))])],
    ),
    "equal tensors that undo each other": (
        "idle",
        "warning",
        (1,),
        [wb.WeightConverter(["a", "b"], ["c", "d"], [wb.Repeat(2), wb.MergeEqual(2)])],
        [wb.WeightConverter(["a", "b"], ["c", "d"], [wb.MergeEqual(2), wb.Repeat(2)])],
    ),
    "as many as a target says": (
        "uncounted",
        "warning",
        (1,),
        [wb.WeightConverter("table", "layers.*.table", [wb.Repeat()])],
        [wb.WeightConverter("table", ["table", "copy"], [wb.Repeat()])],
    ),
    "as many as there were": (
        "uncounted",
        "warning",
        (1,),
        [wb.WeightConverter("layers.*.table", "table", [wb.MergeEqual()])],
        [wb.WeightConverter("layers.*.table", "table", [wb.MergeEqual(3)])],
    ),
    "joined stacks of which nobody says how many": (
        "uncounted",
        "warning",
        (1,),
        [wb.WeightConverter("layers.*.experts.*.w", "w", [*STACK, *JOIN])],
        [wb.WeightConverter("layers.*.experts.*.w", "w", [*STACK, wb.Concatenate(0, sizes="experts_per_layer")])],
    ),
    "joined ranks of which nobody says how many": (
        "uncounted",
        "warning",
        (1,),
        [wb.WeightConverter("ranks.*.w", "w", JOIN)],
        [wb.WeightConverter("ranks.*.w", "w", [wb.Concatenate(0, chunks=4)])],
    ),
    "as many parts as a target says": (
        "uncounted",
        "warning",
        (1,),
        [wb.WeightConverter("w", "ranks.*.w", [wb.Chunk(0)])],
        [wb.WeightConverter("w", "ranks.*.w", [wb.Chunk(0, "world_size")])],
    ),
    "as many stacks as a target says": (
        "uncounted",
        "warning",
        (1,),
        [wb.WeightConverter("w", "layers.*.experts.*.w", [wb.Split(0), wb.SplitModulelist(0)])],
        [wb.WeightConverter("w", "layers.*.experts.*.w", [wb.Split(0, "experts_per_layer"), wb.SplitModulelist(0)])],
    ),
    "rows that are cut off whatever they hold": (
        "one-way",
        "warning",
        (1,),
        [wb.WeightConverter("embed", "embed", [wb.Trim(0, 11, value="any", source_size=16)])],
        [wb.WeightConverter("embed", "embed", [wb.Trim(0, 11, source_size=16)])],
    ),
    "rows of the model's own": (
        "one-way",
        "warning",
        (1,),
        [wb.WeightConverter("embed", "embed", [wb.Pad(0, 16, value="own", source_size=11)])],
        [wb.WeightConverter("embed", "embed", [wb.Pad(0, 16, value="-inf", source_size=11)])],
    ),
    "parts of other shapes that are joined": (
        "one-way",
        "warning",
        (1,),
        [wb.WeightConverter("w", "v", [wb.Split(0, (4, 2)), wb.Transpose(), wb.Concatenate(1)])],
        [wb.WeightConverter("w", "v", [wb.Split(0, (4, 2)), wb.Transpose(), wb.Concatenate(1, sizes=(4, 2))])],
    ),
    "more parts than targets": (
        "one-way",
        "warning",
        (1,),
        [wb.WeightConverter("qkv", ["q", "k"], [wb.Split(0, (4, 2, 2))])],
        [wb.WeightConverter("qkv", ["q", "k", "v"], [wb.Split(0, (4, 2, 2))])],
    ),
    "half of an index": (
        "one-way",
        "warning",
        (1,),
        [rename("layers.{i:int}", "blocks.{i//2}")],
        [rename("layers.{i:int}", "blocks.{i//2}.{i%2}")],
    ),
    "halves of indices that are one": (
        "collide",
        "warning",
        (1,),
        [rename("layers.{i:int}", "blocks.{i//2}")],
        [rename("layers.{i:int}", "blocks.{i//2}.{i%2}")],
    ),
    "two lists of which one is not moved behind the other": (
        "collide",
        "warning",
        (1, 2),
        [rename("encoder.{i:int}", "layers.{i}"), rename("decoder.{j:int}", "layers.{j+1}")],
        [rename("encoder.{i:0|1}", "layers.{i}"), rename("decoder.{j:int}", "layers.{j+2}")],
    ),
    "an index below zero": (
        "index-out-of-range",
        "warning",
        (1,),
        [rename("layers.{i:int}", "blocks.{i-1}")],
        [rename("layers.{i:1|2|3}", "blocks.{i-1}")],
    ),
    "as long as a target says": (
        "uncounted",
        "warning",
        (1,),
        [wb.WeightConverter("embed", "embed", [wb.On([0], wb.Pad(0, source_size=11))])],
        [wb.WeightConverter("embed", "embed", [wb.On([0], wb.Pad(0, multiple_of=8, source_size=11))])],
    ),
    "as long as it was": (
        "uncounted",
        "warning",
        (1,),
        [wb.WeightConverter("embed", "embed", [wb.Trim(0, "vocab_size")])],
        [wb.WeightConverter("embed", "embed", [wb.Trim(0, "vocab_size", multiple_of=8)])],
    ),
    "an axis that stays as long as it was": (
        "idle",
        "warning",
        (1,),
        [wb.WeightConverter("embed", "table", [wb.Pad(0, 11, source_size=11), wb.Trim(1, "rows", multiple_of=1)])],
        [wb.WeightConverter("embed", "table", [wb.Pad(0, 12, source_size=11), wb.Trim(1, "rows", multiple_of=2)])],
    ),
    "rows that are put in and cut off": (
        "idle",
        "warning",
        (1,),
        [wb.WeightConverter("embed", "table", [wb.Pad(0, 12, source_size=11), wb.Trim(0, 11, source_size=12)])],
        [wb.WeightConverter("embed", "table", [wb.Trim(0, 11, source_size=12), wb.Pad(0, 12, source_size=11)])],
    ),
    "a tensor that is cut and joined": (
        "idle",
        "warning",
        (1,),
        [wb.WeightConverter("qkv", "fused", [wb.Split(0, (4, 2, 2)), wb.Concatenate(0)])],
        [wb.WeightConverter("qkv", "fused", [wb.Split(0, (4, 2, 2)), wb.Transpose(), wb.Concatenate(1)])],
    ),
    "parts that stay as they are": (
        "idle",
        "warning",
        (1,),
        [wb.WeightConverter("qk", "fused", [wb.Chunk(0, chunks=2), wb.On([1], wb.Transpose(1, 1)), wb.Concatenate(0)])],
        [wb.WeightConverter("qk", "fused", [wb.Chunk(0, chunks=2), wb.On([1], wb.Interleave(1)), wb.Concatenate(0)])],
    ),
    "an operation on some parts that are all": (
        "idle",
        "warning",
        (1,),
        [wb.WeightConverter(["q", "k"], "fused", [wb.On([0, 1], wb.Transpose()), wb.Concatenate(0)])],
        [wb.WeightConverter(["q", "k"], "fused", [wb.On([0], wb.Transpose()), wb.Concatenate(0)])],
    ),
    "a pattern that fits twice": (
        "places",
        "warning",
        (1,),
        [rename("attn", "attention"), rename("attn.norm.attn.q", "q")],
        [rename("^attn", "attention"), rename("attn.norm.attn.q", "q")],
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_finding_is_found_and_the_nearest_mapping_is_without(name: str) -> None:
    code, severity, rules, bad, good = PAIRS[name]
    found = [finding for finding in lint(bad).findings if finding.code == code]
    assert (code, severity, rules) in [(finding.code, finding.severity, finding.rules) for finding in found]
    assert code not in codes(lint(good))


def test_every_code_has_a_pair() -> None:
    assert {code for code, *_ in PAIRS.values()} == set(FINDINGS) - {"name-too-long"}  # that depends on the key
    assert {code for code, *_ in REAL.values()} == set(FINDINGS) - {"one-way", "idle", "uncounted"}  # and these do not


def test_a_rule_without_a_way_back_is_not_told_what_that_lacks() -> None:
    for operation in (wb.Trim(0, 11, value="any"), wb.Pad(0, 16, value="own")):
        assert codes(lint([wb.WeightConverter("embed", "embed", [operation])])) == {"one-way"}
    old = wb.WeightConverter("ranks.*.w", "w", JOIN)
    assert codes(lint(wb.Mapping([old], legacy=[old]))) == set()


def test_typical_mappings_are_clean() -> None:
    composite = [rename("^old_prefix", "model.vlm"), join(["q_proj", "k_proj"], "qk_proj", scope="model.vlm")]
    experts = [
        wb.WeightConverter(
            ["mlp.experts.*.gate_proj.weight", "mlp.experts.*.up_proj.weight"],
            "mlp.experts.gate_up_proj",
            [wb.MergeModulelist(dim=0), wb.Concatenate(dim=1)],
        ),
        wb.WeightConverter("mlp.experts.*.down_proj.weight", "mlp.experts.down_proj", STACK),
    ]
    prefixed = [wb.PrefixChange(prefix_to_remove="thinker"), rename("^visual", "model.visual")]
    for mapping in (composite, experts, prefixed, []):
        report = lint(mapping)
        assert report.findings == ()
        assert report


def test_rename_in_another_scope_is_no_matter_of_order() -> None:
    assert "order" not in codes(lint([rename("^old", "tower"), rename("^q", "query", scope="tower")]))
    assert "after-converter" not in codes(lint([join(["q", "k"], "qk", scope="a"), rename("a.qk", "a.fused")]))


# ---- with a header ----

REAL: dict[str, tuple[str, str, Rules, tuple[str, ...], tuple[str, ...]]] = {
    "overlap": ("overlap", "error", [join(["q", "k"], "qk"), join(["b.q", "v"], "x")], ("b.q",), ("a.q", "v")),
    "overlap by digits": (
        "overlap",
        "error",
        [rename([r"l.(\d)", r"l.(1\d*)"], r"m.\1")],
        ("l.0", "l.1", "l.2"),
        ("l.0", "l.2"),
    ),
    "collide": ("collide", "error", [rename("gamma", "weight")], ("n.gamma", "n.weight"), ("n.gamma", "m.bias")),
    "collide in a group": (
        "collide",
        "error",
        [wb.WeightConverter("e.*.w", "e.w", STACK), rename("^f", "e.fw")],
        ("e.0.w", "e.w"),
        ("e.0.w", "e.1.w"),
    ),
    "collide with what is left alone": (
        "collide",
        "error",
        [rename("norm.{i:0|1}", "norm.{i+2}")],
        ("norm.0.w", "norm.2.w"),
        ("norm.0.w", "norm.1.w"),
    ),
    "collide by an offset": (
        "collide",
        "error",
        [rename("l.{i:int}.a", "l.{i+1}.b")],
        ("l.1.a", "l.2.b"),
        ("l.1.a", "l.1.b"),
    ),
    "index-out-of-range": (
        "index-out-of-range",
        "error",
        [rename("layer_{i:int}", "layers.{i+1}")],
        ("layer_02.w", "layer_10.w"),
        ("layer_2.w", "layer_10.w"),
    ),
    "name-too-long": (
        "name-too-long",
        "error",
        [rename("{a:**}", "{a}.{a}.{a}")],
        ("x" * 2000,),
        ("x",),
    ),
    "never": ("never", "warning", [rename("a", "b")], ("c",), ("a",)),
    "round-trip": ("round-trip", "error", [rename("gamma", "weight")], ("n.gamma", "q.weight"), ("n.gamma", "q.bias")),
    "repeats": ("repeats", "warning", [rename("enc.l", "l")], ("x.enc.l.w",), ("x.l.w",)),
    "order": ("order", "warning", [rename("a", "b"), rename("b.c", "d")], ("a.c",), ("a.x", "b.c")),
    "places": ("places", "warning", [rename("attn", "x")], ("attn.0.attn.q",), ("attn.0.attn_q",)),
    "after-converter": (
        "after-converter",
        "warning",
        [join(["q", "k"], "qk"), rename("qk.w", "f.w")],
        ("q.w", "k.w"),
        ("q.b", "k.b"),
    ),
    "second-converter": (
        "second-converter",
        "warning",
        [join(["q", "k"], "qk"), wb.WeightConverter("qk.w", "f.w", [wb.Transpose(0, 1)])],
        ("q.w", "k.w"),
        ("q.b", "k.b"),
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_real_keys_decide(name: str) -> None:
    code, severity, rules, bad, good = REAL[name]
    found = [finding for finding in lint(rules, header(*bad)).findings if finding.code == code]
    assert found
    assert {finding.severity for finding in found} == {severity}
    assert all(finding.key in bad for finding in found if finding.key)
    assert code not in codes(lint(rules, header(*good)))


@pytest.mark.parametrize("renamed", [[], [rename("qk", "mix")]], ids=["at once", "under a later name"])
@pytest.mark.parametrize("turned", [False, True], ids=["listed behind", "listed before"])
def test_e_a_converter_that_waits_for_another_is_found(renamed: Rules, turned: bool) -> None:
    """A tensor meets one converter: the second of two in a chain sees nothing of the first."""
    name = "mix" if renamed else "qk"
    rules = [join(["q", "k"], "qk"), *renamed, wb.WeightConverter(name, "fused", [wb.Transpose(0, 1)])]
    rules = [rules[-1], *rules[:-1]] if turned else rules
    (finding,) = [each for each in lint(rules).findings if each.code == "second-converter"]
    first, second = (rules.index(rule) + 1 for rule in (join(["q", "k"], "qk"), rules[0 if turned else -1]))
    assert finding.words == f"rule {second} never sees what the converter rule {first} wrote"
    planned = wb.plan(header("a.q.w", "a.k.w"), rules)
    assert list(planned.target) == [f"a.{name}.w"]


@pytest.mark.parametrize("key", ["layer_02.w", "layer_00.w"])
def test_a_key_that_planning_refuses_has_one_name_in_both(key: str) -> None:
    rules = [rename("^layer_{i:int}", "layers.{i+1}")]
    (finding,) = lint(rules, header(key)).findings
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(header(key), rules)
    (problem,) = caught.value.problems
    assert (finding.code, finding.words, finding.key) == (problem.code, problem.what, problem.where)
    assert (finding.got, finding.hint, finding.rules) == (problem.got, problem.hint, (1,))


def test_collision_names_both_keys_and_all_rules() -> None:
    (finding,) = lint([rename("norm0", "norm1"), rename("norm1", "norm2")], header("norm0.w", "norm1.w")).errors[:1]
    assert (finding.key, finding.rules) == ("norm0.w", (1, 2))
    assert finding.got == "norm0.w -> norm2.w\nnorm1.w -> norm2.w"


def test_dropped_and_carried_keys_are_left_alone() -> None:
    rules = [rename("gamma", "weight")]
    keys = header("n.gamma", "n.weight")
    assert "collide" in codes(lint(rules, keys))
    assert "collide" not in codes(lint(wb.Mapping(rules, drop="n.weight"), keys))
    assert "collide" in codes(lint(wb.Mapping(rules, carry="n.weight"), keys))
    assert codes(lint(wb.Mapping(rules, drop="n.weight", carry="absent"), keys)) == {"never"}
    assert codes(lint(wb.Mapping(rules, initialise="absent"), header("n.gamma"), header("n.weight"))) == {"never"}


def test_target_is_sent_back_and_forth() -> None:
    """A model that has a `b` of its own gives it the name `a`, which the rules take past `b`."""
    rules = [rename("a", "b"), rename("b", "c")]
    assert "round-trip" not in codes(lint(rules, header("a.x"), header("c.x")))
    (finding,) = (one for one in lint(rules, header("a.x"), header("c.x", "b.x")).errors if one.key == "b.x")
    assert (finding.code, finding.got) == ("round-trip", "b.x -> a.x -> c.x")


def test_a_rule_for_old_files_alone_needs_no_inverse() -> None:
    """A derived inverse leaves it out, so that nothing about its way back is a finding; all else about it is."""
    lossy, gamma = rename("(old|older).norm", "norm"), rename("gamma", "weight")
    old = wb.Mapping([lossy, gamma], legacy=[lossy, gamma])
    assert codes(lint([lossy, gamma])) == {"one-way", "collide"}
    assert codes(lint(old)) == {"collide"}
    assert codes(lint([lossy, gamma], header("old.norm.gamma"))) == {"one-way"}
    assert not lint(old, header("old.norm.gamma", "attn.gamma")).findings
    assert codes(lint(wb.Mapping([lossy, gamma], legacy=[gamma]), header("old.norm.gamma"))) == {"one-way"}
    same = [rename("(?<!x.)q", "p"), rename("q", "p")]
    assert not lint(wb.Mapping(same, legacy=same[:1]), header("a.q.w", "x.q.w")).findings
    assert codes(lint(old, header("old.norm.w", "norm.w"))) == {"collide", "never"}


def test_a_rule_for_old_files_that_claims_a_name_of_today_is_found() -> None:
    """The inverse gives a target's name as it is, and on reading it back the old rule would take it elsewhere."""
    old = rename("beta", "bias")
    (finding,) = lint(wb.Mapping([old], legacy=[old]), header("n.beta"), header("n.bias", "m.beta")).errors
    assert (finding.code, finding.key, finding.got) == ("round-trip", "m.beta", "m.beta -> m.beta -> m.bias")


def test_large_header_is_one_line_of_findings() -> None:
    """Families of keys are looked at together."""
    keys = [
        f"layers.{i}.experts.{j}.{name}.weight" for i in range(20) for j in range(100) for name in ("w1", "w2", "w3")
    ]
    rules = [rename("w1", "gate"), wb.WeightConverter("experts.*.w2.weight", "experts.w2", STACK), rename("w3", "gate")]
    report = lint(rules, header(*keys))
    assert report.keys == 6000
    assert report.counts() == {"collide": 1, "round-trip": 1}


# ---- what a clean report promises ----

CLAIMS = {"rule-overlap", "target-collision", "group-duplicate"}


def drawn(seed: int) -> tuple[wb.Mapping, wb.Header] | None:
    """Rules that run into each other on random keys, or rules that fit their layout."""
    chance = random.Random(seed)
    if seed % 3:
        rules, tensors = strategies.draw_rules(chance, chance.randint(1, 5)), strategies.draw_keys(chance, 7)
    else:
        layout = strategies.draw_layout(seed, chance.randint(0, 2))
        rules, tensors = layout.rules, layout.tensors
    try:
        return strategies.mapping(rules), strategies.header_of(tensors)
    except (wb.MappingError, wb.PatternError):
        return None


def planned(source: wb.Header, mapping: wb.Mapping) -> wb.Plan | set[str]:
    """The plan, or the codes of what is wrong."""
    try:
        return compile_plan(source, mapping, options=Options(layout="mapped"))
    except PlanError as problem:
        return set(problem.codes) or {problem.code}


@settings(max_examples=1000, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_claims_are_found_exactly(seed: int) -> None:
    """`overlap` is what planning refuses; without it and `collide`, a plan claims nothing twice."""
    made = drawn(seed)
    if made is None:
        return
    found, plan = codes(lint(*made)), planned(made[1], made[0])
    wrong = plan if isinstance(plan, set) else set()
    assert ("overlap" in found) == ("rule-overlap" in wrong)
    assert found & {"overlap", "collide"} or not wrong & CLAIMS
    assert isinstance(plan, set) or not found & {"overlap", "collide"}


@settings(max_examples=1000, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_way_back_is_found_exactly(seed: int) -> None:
    """`round-trip` is there just when the derived inverse is refused, or gives other names."""
    made = drawn(seed)
    report = lint(*made) if made is not None else None
    plan = planned(made[1], made[0]) if made is not None else set()
    if report is None or isinstance(plan, set) or "one-way" in codes(report):
        return
    back = planned(plan.target, made[0].inverse())
    if isinstance(back, set) and back <= {"split-unequal"}:
        return
    comes_back = not isinstance(back, set) and set(back.target) == set(made[1])
    assert comes_back == ("round-trip" not in codes(report))


@settings(max_examples=1000, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_way_back_is_found_exactly_where_some_rules_are_for_old_files(seed: int) -> None:
    made = drawn(seed)
    if made is None:
        return
    rules = list(made[0])
    chosen = [rule for rule in rules if random.Random(f"{seed} {rule}").random() < 0.4]
    mapping = wb.Mapping(rules, legacy=chosen)
    plan, report = planned(made[1], mapping), lint(mapping, made[1])
    if isinstance(plan, set) or "one-way" in codes(report):
        return
    if any(rules[number] in chosen for step in plan.steps for number in step.rules):
        return
    back = planned(plan.target, mapping.inverse())
    if isinstance(back, set) and back <= {"split-unequal"}:
        return
    comes_back = not isinstance(back, set) and set(back.target) == set(made[1])
    assert comes_back == ("round-trip" not in codes(report))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_order_of_keys_does_not_matter(seed: int) -> None:
    made = drawn(seed)
    if made is None:
        return
    mapping, source = made
    keys = list(source)
    random.Random(seed).shuffle(keys)
    shuffled = wb.Header({key: source[key] for key in keys})
    one, other = lint(mapping, source), lint(mapping, shuffled)
    assert [(f.code, f.rules, f.severity) for f in one.findings] == [
        (f.code, f.rules, f.severity) for f in other.findings
    ]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_any_mapping_can_be_checked_alone(seed: int) -> None:
    """Without a header, too; what is found is sorted, and each finding has a place and words."""
    made = drawn(seed)
    if made is None:
        return
    report = lint(made[0])
    assert report == lint(made[0])
    for finding in report.findings:
        assert finding.code in FINDINGS
        assert finding.words
        assert all(0 < number <= len(made[0]) for number in finding.rules)
    ranks = [finding.severity == "warning" for finding in report.findings]
    assert all(a <= b for a, b in pairwise(ranks))


# ---- made-up keys ----

PATTERNS = (
    r"layers.{i:int}.(q|k)_proj",
    r"^model\.(.+)",
    r"experts.*.w1.weight",
    r"\.attn\.",
    r"(?<=vision\.)norm(?=\.bias)",
    r"h.(\d+).ln_{i}",
    r"(?:a|b)?\.x[abc]$",
    r"{n+3}.w",
    r"^(?!model\.)(.+)",
    r"_norm\.gamma",
    r"block.{a:x|y}.{a}",
)


@pytest.mark.parametrize("text", PATTERNS)
def test_witness_matches_its_pattern(text: str) -> None:
    for scope in ("", "tower.0"):
        rules = prepare(wb.Mapping([wb.WeightRenaming(text, "written", scope=scope)]))
        made = list(witnesses(rules, {}))
        assert made
        assert all(match_rule(rules, rules.rules[0], witness.key) is not None for witness in made)


def test_spellings_cover_every_branch() -> None:
    assert spellings(Pattern.parse("(a|b).{x:c|d}")) == ("a.c", "b.c", "a.d", "b.d")
    many = spellings(Pattern.parse("(a|b|c|d).(a|b|c|d).(a|b|c|d).(a|b|c|d)"))
    assert len(many) == SPELLINGS_MAX


def test_witness_is_taken_back_to_its_original_name() -> None:
    rules = prepare(wb.Mapping([rename("^old", "model.vlm"), join(["q", "k"], "qk", scope="model.vlm")]))
    inverse = prepare(wb.Mapping([rename("^model.vlm", "old")])).rules[0]
    originals = {witness.original for witness in witnesses(rules, {0: inverse}) if witness.rule == 1}
    assert originals == {
        f"old.{stem}{name}.{tail}" for stem in ("", "stem.0.") for name in "qk" for tail in ("weight", "bias")
    }


# ---- reports ----


def test_report_as_text_and_json() -> None:
    report = lint(wb.Mapping([rename("encoder.layers", "layers")], name="nomic"))
    assert str(report).split("\n") == [
        "nomic: 1 rule, 4 made-up keys: 1 warning",
        "warning  repeats: the inverse of this rule matches an original name @ stem.0.encoder.layers.weight",
        "  got       stem.0.encoder.layers.weight -> stem.0.encoder.encoder.layers.weight",
        "  because   rule 1: WeightRenaming(encoder.layers -> layers)",
        "  try       anchor the pattern, or write a neighbouring segment on both sides",
    ]
    form = json.loads(json.dumps(report.to_dict()))
    assert (
        Finding(**{**form["findings"][0], "rules": (1,), "because": (form["findings"][0]["because"][0],)})
        == (report.findings[0])
    )
    assert not report
    assert report.without(["repeats"])


def test_unknown_code_is_refused() -> None:
    with pytest.raises(MappingError, match="usage: no finding has this code"):
        lint([]).without(["no-such-code"])


def test_registry_is_checked_once_for_each_mapping() -> None:
    registry = wb.Registry(use_entry_points=False)
    registry.register("b", [rename("encoder.layers", "layers")])
    registry.register("a", [rename("encoder.layers", "layers")])
    registry.register("c", [])
    entries = lint_registry(registry)
    assert [entry.names for entry in entries] == [("a", "b"), ("c",)]
    lines = list(table_lines(entries))
    assert lines[0] == "2 mappings under 3 names: 1 findings"
    assert lines[-1] == "  also      b"


def test_page_lists_the_codes() -> None:
    rows = [line.split("`")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    assert rows == list(FINDINGS)


def test_own_families_have_no_errors() -> None:
    registry = wb.Registry(use_entry_points=False)
    registry.provide(MODULES, load_family)
    entries = lint_registry(registry)
    assert {code for entry in entries for code in entry.report.counts()} <= {"repeats"}
    assert [entry.names for entry in entries if entry.report.errors] == []


# ---- the command ----

MAPS = """
from weighbridge import Mapping, WeightRenaming

CLEAN = Mapping([WeightRenaming("attn", "self_attn")], name="clean")
WARNED = Mapping([WeightRenaming("encoder.layers", "layers")], name="warned")
CHAIN = [WeightRenaming("a", "b"), WeightRenaming("b", "c")]
WRONG = [WeightRenaming("^vision", "model.vision"), WeightRenaming("^vision.norm", "model.norm")]
"""


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    (tmp_path / "maps.py").write_text(MAPS)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "weighbridge", "lint", *arguments]
        path = {"PYTHONPATH": str(Path(wb.__file__).parents[1]), "PATH": ""}
        return subprocess.run(line, cwd=tmp_path, env=path, capture_output=True, text=True, check=False)

    return run


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("maps.py:CLEAN",), 0),
        (("maps.py:CLEAN", "--strict"), 0),
        (("maps.py:WARNED",), 0),
        (("maps.py:WARNED", "--strict"), 1),
        (("maps.py:WARNED", "--strict", "--ignore", "repeats"), 0),
        (("maps.py:WRONG",), 1),
        (("maps.py:WRONG", "--quiet"), 1),
        ((), 2),
        (("maps.py:CLEAN", "--registered", "x"), 2),
        (("--registered", "no such name"), 2),
        (("--transformers", "--header", "x"), 2),
        (("maps.py:CLEAN", "--ignore", "no-such-code"), 2),
        (("maps.py:CLEAN", "--header", "absent"), 4),
    ],
)
def test_command_ends_with_the_right_status(command, arguments: tuple[str, ...], status: int) -> None:
    assert command(*arguments).returncode == status


def test_command_checks_real_keys(command, tmp_path: Path) -> None:
    for name in "ab":
        save_file({f"{name}.x": np.ones((2, 3), np.float32)}, tmp_path / f"{name}.safetensors")
    ran = command("maps.py:CHAIN", "--header", "a.safetensors", "--target", "b.safetensors", "--json")
    form = json.loads(ran.stdout)
    assert (ran.returncode, form["keys"], form["real"]) == (1, 1, True)
    assert [(finding["code"], finding["key"]) for finding in form["findings"]] == [
        ("round-trip", "b.x"),
        ("order", "a.x"),
    ]


# ---- the table of transformers ----


def test_table_page_is_what_the_linter_finds() -> None:
    """`make lint-table` writes it."""
    transformers = pytest.importorskip("transformers", reason="needs the package transformers")
    if transformers.__version__ != "5.23.0":
        pytest.skip("needs transformers 5.23.0, which the page is about")
    spec = importlib.util.spec_from_file_location("lint_table", ROOT / "docs" / "lint_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert "\n".join(module.page()) + "\n" == (ROOT / "docs" / "transformers-table.md").read_text("utf-8")


def test_a_pattern_of_a_converter_that_matches_no_key_is_found():
    """A typo in one of three patterns, which the other two hide."""
    fuse = wb.WeightConverter(["attn.q", "attn.k_porj", "attn.v"], "attn.qkv", [wb.Concatenate(0)])
    header = wb.Header({f"h.{i}.attn.{name}.weight": wb.TensorSpec("F32", (2,)) for i in range(3) for name in "qkv"})
    found = lint(wb.Mapping([fuse]), header=header)
    assert [finding.words for finding in found.findings if finding.code == "never"] == [
        "attn.k_porj matches no key of the header"
    ]
    right = wb.WeightConverter(["attn.q", "attn.k", "attn.v"], "attn.qkv", [wb.Concatenate(0)])
    assert "never" not in lint(wb.Mapping([right]), header=header).counts()
