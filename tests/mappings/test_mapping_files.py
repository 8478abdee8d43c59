"""Mapping files: both ways and back exactly, errors with their place, and nothing that a hostile file can do."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import ROOT
from hypothesis import assume, given, settings, strategies as st
from jsonschema import Draft202012Validator
from safetensors.numpy import save_file
from strategies import draw_layout, draw_rules, mapping as mapping_of

import weighbridge as wb
from weighbridge.cli.commands.mapping_commands import app
from weighbridge.cli.mapping_argument import load_argument
from weighbridge.mappings.families import MODULES
from weighbridge.mappings.mapping import Part
from weighbridge.mappings.mapping_files import json_schema, read_mapping
from weighbridge.mappings.mapping_files.documents import MAX_BYTES
from weighbridge.mappings.mapping_files.mapping_forms import OPERATION_NAMES, TRANSFORM_FIELDS
from weighbridge.mappings.mapping_files.nodes import MAX_DEPTH, MAX_NODES, read_plain
from weighbridge.mappings.registry import default_registry
from weighbridge.mappings.transforms import TRANSFORMS
from weighbridge.operations.ops import OPERATIONS

SCHEMA = json_schema()


def complaint(text: str) -> wb.WeighbridgeError:
    """The error that a text is refused with."""
    with pytest.raises(wb.WeighbridgeError) as caught:
        read_mapping(text)
    return caught.value


def outcome(text: str) -> wb.Mapping | wb.WeighbridgeError:
    """What comes of a text: a mapping, or the error that it is refused with."""
    try:
        return read_mapping(text)
    except wb.WeighbridgeError as problem:
        return problem


def comes_back(mapping: wb.Mapping) -> str:
    """Write a mapping and read it: an equal one, whose text is the same; the schema takes it, too."""
    text = mapping.to_yaml()
    back = wb.Mapping.from_yaml(text)
    assert back == mapping
    assert hash(back) == hash(mapping)
    assert back.to_yaml() == text
    return text


def suits_schema(form: Any) -> bool:
    return Draft202012Validator(SCHEMA).is_valid(form)


def variants(mapping: wb.Mapping) -> Iterator[wb.Mapping]:
    """A mapping, mounted, and turned round where it can be."""
    yield mapping
    yield mapping.scoped("a.b")
    try:
        yield mapping.inverse()
    except wb.WeighbridgeError:
        return


# ---- there and back ----


@pytest.mark.parametrize("module", sorted(set(MODULES.values())))
def test_families_come_back(module: str) -> None:
    names = [name for name, owner in MODULES.items() if owner == module]
    for name in names:
        for mapping in variants(default_registry.find(name)):
            text = comes_back(mapping)
            assert suits_schema(yaml.safe_load(text)), name


def test_transformers_table_comes_back() -> None:
    from weighbridge.integrations.transformers import registry

    table = registry()
    names = list(table)
    assert len(names) > 200
    for name in names:
        comes_back(table.find(name))


TRAPS = [
    *("on", "off", "yes", "no", "On", "NO", "true", "True", "false", "null", "Null", "~", "y", "n"),
    *("12", "-1", "+1", "010", "0o17", "0x1F", "1_0", "1e3", "1.5", ".5", "1.", ".inf", ".nan", "1:30", "1:30.5"),
    *("2024-01-01", "2024-01-01 10:00:00", "=", "<<", "-", "- a", "?", "? a", ":", "a: b", "a #b", "#a", "[a", "{a}"),
    *("a, b", "&a", "*a", "!a", "%a", "@a", "`a", "|", ">", "'", '"', "''", "---", "...", " a", "a ", "\t", "a\tb"),
    *(
        "a\nb",
        "\n",
        "\r",
        "\x85",
        "\u2028",
        "\ufeff",
        "\x00",
        "\x1b[31m",
        "é",
        "日本",
        "😀",
        "\\",
        "\\n",
        "%TAG",
    ),
]
TEXTS = st.one_of(st.sampled_from(TRAPS), st.text(max_size=12), st.text("ab. :#-,'\"\\[]{}&*!|>\n", max_size=12))
PATHS = st.sampled_from(["", "a", "a.b", "on", "12", "1e3", "model.0"])


def literal(text: str) -> str:
    """Write a text as a pattern that stands for itself."""
    return "".join("\\" + sign if sign.isascii() and not sign.isalnum() and sign != "_" else sign for sign in text)


PATTERNS = st.one_of(TEXTS.map(literal), TEXTS, st.sampled_from(["a.*.b", "^a", "{x}.b", r"a\.(\d+)", "(a|b).c", "a$"]))


@st.composite
def transforms(draw: st.DrawFn) -> Any:
    kind = draw(st.sampled_from(["rename", "group", "prefix", "convert", "drawn"]))
    scope, if_wanted = draw(PATHS), draw(st.booleans())
    if kind == "drawn":
        drawn = draw_rules(random.Random(draw(st.integers(0, 2**32))), 1)
        assume(drawn)
        return mapping_of(drawn).transforms[0]
    if kind == "prefix":
        names = draw(st.sampled_from([("prefix_to_add",), ("prefix_to_remove",)]))
        model_prefix = draw(st.sampled_from([None, "", "a.b", "no"]))
        added = {names[0]: draw(PATHS.filter(bool))}
        return wb.PrefixChange(**added, model_prefix=model_prefix, scope=scope, if_wanted=if_wanted)
    try:
        if kind == "rename":
            sources = draw(st.lists(PATTERNS, min_size=1, max_size=3))
            return wb.WeightRenaming(sources, draw(PATTERNS), scope, if_wanted)
        if kind == "group":
            pairs = draw(st.dictionaries(PATTERNS, PATTERNS, min_size=1, max_size=3))
            return wb.GroupWeightRename(list(pairs), list(pairs.values()), scope, if_wanted)
        return wb.WeightConverter(draw(PATTERNS), draw(PATTERNS), draw(chains()), scope, if_wanted)
    except wb.WeighbridgeError:
        assume(False)


OPERATIONS_OF_ONE = st.one_of(
    st.builds(wb.Transpose, st.integers(), st.integers(), st.booleans()),
    st.builds(wb.Permute, st.lists(st.integers(0, 9), max_size=4).map(tuple)),
    st.builds(wb.Reshape, st.lists(st.integers(-1, 9), max_size=4).map(tuple)),
    st.builds(wb.Interleave, st.integers(), st.booleans()),
    st.builds(
        wb.PermuteForRope,
        st.none() | TEXTS,
        st.none() | st.lists(TEXTS, max_size=3),
        st.booleans(),
        st.none() | TEXTS | st.integers(),
    ),
    st.builds(
        wb.Reorder,
        st.integers(),
        st.permutations(range(3)),
        st.none() | st.lists(st.integers(1) | TEXTS.filter(bool), min_size=3, max_size=3),
        st.none() | st.integers(1) | TEXTS.filter(bool),
        st.none() | st.integers(1) | TEXTS.filter(bool),
    ),
    st.builds(lambda a, b: wb.Rearrange("(a b) -> b a", a=a, b=b), st.integers(1, 99), TEXTS.filter(bool)),
    st.sampled_from([wb.Cast("F32"), wb.Cast("BF16", "F32")]),
)


@st.composite
def chains(draw: st.DrawFn) -> list[Any]:
    """Draw operations for one tensor: one, or several on its parts."""
    inner = draw(st.lists(OPERATIONS_OF_ONE, min_size=1, max_size=2))
    count = draw(st.integers(0, 3))
    if not count:
        return inner
    numbers = st.lists(st.integers(0, count - 1), min_size=1, unique=True)
    sizes = draw(st.lists(st.integers(1) | TEXTS.filter(bool), min_size=count, max_size=count))
    cut = draw(st.sampled_from([wb.Split(0, tuple(sizes)), wb.Chunk(1, chunks=count)]))
    return [cut, *(wb.On(draw(numbers), each) if draw(st.booleans()) else each for each in inner), wb.Concatenate(0)]


def rules(kind: Any, **more: Any) -> Any:
    try_patterns = st.one_of(st.sampled_from(["", "a", "on"]), TEXTS.map(literal)).filter(is_pattern)
    return st.lists(st.builds(kind, try_patterns, TEXTS, PATHS, **more), max_size=2)


def is_pattern(text: str) -> bool:
    try:
        wb.Drop(text)
    except wb.WeighbridgeError:
        return False
    return True


@st.composite
def mappings(draw: st.DrawFn) -> wb.Mapping:
    listed = draw(st.lists(transforms(), max_size=4, unique=True))
    old = draw(st.sampled_from(["none", "some", "turned", "others"]))
    legacy = {
        "none": [],
        "some": listed[::2],
        "turned": listed[::-1],
        "others": draw(st.lists(transforms(), max_size=2)),
    }
    parts = st.builds(Part, TEXTS, TEXTS, st.dictionaries(TEXTS, TEXTS, max_size=2).map(lambda d: tuple(d.items())))
    return wb.Mapping(
        listed,
        draw(TEXTS),
        drop=draw(rules(wb.Drop)),
        carry=draw(rules(wb.Carry)),
        initialise=draw(rules(wb.Initialise, saved=st.booleans())),
        refuse=draw(rules(wb.Refuse)),
        base_prefix=draw(TEXTS),
        parts=draw(st.lists(parts, max_size=2)),
        claims=draw(st.lists(TEXTS, max_size=2)),
        legacy=legacy[old],
    )


@settings(max_examples=120)
@given(mappings(), mappings(), st.booleans())
def test_any_mapping_comes_back(mapping: wb.Mapping, other: wb.Mapping, with_forward: bool) -> None:
    made = wb.Mapping(mapping.transforms, mapping.name, forward=other) if with_forward else mapping
    text = comes_back(made)
    assert suits_schema(yaml.safe_load(text))


def test_a_text_that_no_file_holds_is_refused() -> None:
    for mapping in (wb.Mapping([wb.WeightRenaming("\ud800", "on")]), wb.Mapping(name="a\udfff")):
        with pytest.raises(wb.MappingError) as caught:
            mapping.to_yaml()
        assert caught.value.code == "mapping-invalid"


@pytest.mark.parametrize("seed", range(40))
def test_drawn_layouts_come_back(seed: int) -> None:
    for mapping in variants(mapping_of(draw_layout(seed).rules)):
        comes_back(mapping)


EVERY_OPERATION = [
    wb.Cast("bfloat16", "float32"),
    wb.Chunk(1, "num_shards"),
    wb.Concatenate(-1, sizes=(3, 4)),
    wb.Conv3dToLinear(3, (2, 14, 14)),
    wb.ErnieFuseAndSplitTextVisionExperts(1, 2),
    wb.ErnieSplitAndDecoupleTextVisionExperts(1, 2),
    wb.InsertConstant(1, (4, "head_dim"), value=-0.5),
    wb.Interleave(1, inverse=True),
    wb.LinearToConv3d(3, (2, 14, 14)),
    wb.MergeEqual(3),
    wb.MergeModulelist(),
    wb.On([1, 0], wb.Rearrange("(a b) c -> (b a) c", a="num_heads")),
    wb.Pad(-1, multiple_of="ranks", value="-inf", source_size="vocab_size"),
    wb.Permute((2, 0, 1)),
    wb.PermuteForRope("text_config", ("q_proj", "k_proj"), True, "num_key_value_heads"),
    wb.Rearrange("(h two d) c -> (two h d) c", two=2, h="num_attention_heads"),
    wb.RemoveConstant(0, (4,), value="bits:0x7fc1"),
    wb.Reorder(0, (1, 0), ("num_attention_heads*head_dim", 3), target_stripes="tensor_parallel_size"),
    wb.Repeat(),
    wb.Reshape((2, -1), (6,)),
    wb.Split(0, (1, 2)),
    wb.SplitModulelist(2),
    wb.Transpose(0, 1, check_dims=True),
    wb.Trim(0, 50257, source_size="padded_size", value=1e-05),
]


def test_every_operation_is_covered_here() -> None:
    assert tuple(type(operation) for operation in EVERY_OPERATION) == OPERATIONS
    assert tuple(operation.__name__ for operation in OPERATIONS) == OPERATION_NAMES


@pytest.mark.parametrize("operation", EVERY_OPERATION, ids=lambda operation: type(operation).__name__)
def test_every_operation_comes_back(operation: Any) -> None:
    sides = {
        "Chunk": ("a", ["b", "c"]),
        "Concatenate": (["a", "b"], "c"),
        "Split": ("a", ["b", "c"]),
        "On": (["a", "b"], ["c", "d"]),
        "InsertConstant": ("a", ["b", "c"]),
        "RemoveConstant": (["a", "b"], "c"),
        "MergeEqual": ("a.*", "b"),
        "MergeModulelist": ("a.*", "b"),
        "Repeat": ("a", ["b", "c"]),
        "SplitModulelist": ("a", "b.*"),
        "ErnieFuseAndSplitTextVisionExperts": ("a.*", ["b", "c"]),
        "ErnieSplitAndDecoupleTextVisionExperts": (["a", "b"], ["c.*", "d.*"]),
    }
    source, target = sides.get(type(operation).__name__, ("a", "b"))
    mapping = wb.Mapping([wb.WeightConverter(source, target, [operation])])
    assert suits_schema(yaml.safe_load(comes_back(mapping)))


def test_every_transform_has_a_field() -> None:
    assert len(TRANSFORM_FIELDS) == len(TRANSFORMS) + 1, "one for each kind, and one for includes"


def test_what_no_file_can_say_is_an_error() -> None:
    for mapping in (
        wb.Mapping(parts=[Part("a", classes=(("b", "C"), ("b", "D")))]),
        wb.Mapping(name=3),  # type: ignore[arg-type]
        wb.Mapping(forward=wb.Mapping(name=3)),  # type: ignore[arg-type]
        wb.Mapping(claims=["a" * MAX_BYTES]),
    ):
        with pytest.raises(wb.MappingError) as caught:
            mapping.to_yaml()
        assert caught.value.code == "mapping-invalid"


# ---- by hand ----

BY_HAND = r"""
# yaml-language-server: $schema=mapping.schema.json
name: my_model
transforms:
  - rename: ^language_model\.model
    to: model.language_model
  - convert: [mlp.experts.*.gate_proj.weight, mlp.experts.*.up_proj.weight]
    to: mlp.experts.gate_up_proj
    with: [MergeModulelist: {dim: 0}, Concatenate: {dim: 1}]
    scope: model.vlm
  - {convert: a, to: a, with: Transpose}
  - prefix: {add: model}
  - prefix: {remove: model, model_prefix: vlm}
    scope: tower
  - group: {a: b, b: a}
  - rename: [x.gamma, y.gamma]
    to: z
    legacy: true
drop:
  - {pattern: "rotary.{rest:**}", why: computed again}
  - inv_freq
carry: tables
initialise: {pattern: head.bias, saved: false}
refuse: []
parts: [{path: vision, config: vision_config, classes: {clip: CLIPVisionModel}}]
claims: MyModel
base_prefix: model
"""

OLD = wb.WeightRenaming(["x.gamma", "y.gamma"], "z")
IN_PYTHON = wb.Mapping(
    [
        wb.WeightRenaming(r"^language_model\.model", "model.language_model"),
        wb.WeightConverter(
            ["mlp.experts.*.gate_proj.weight", "mlp.experts.*.up_proj.weight"],
            "mlp.experts.gate_up_proj",
            [wb.MergeModulelist(dim=0), wb.Concatenate(dim=1)],
            scope="model.vlm",
        ),
        wb.WeightConverter("a", "a", [wb.Transpose()]),
        wb.PrefixChange(prefix_to_add="model"),
        wb.PrefixChange(prefix_to_remove="model", model_prefix="vlm", scope="tower"),
        wb.GroupWeightRename(["a", "b"], ["b", "a"]),
        OLD,
    ],
    name="my_model",
    drop=[wb.Drop("rotary.{rest:**}", "computed again"), wb.Drop("inv_freq")],
    carry="tables",
    initialise=wb.Initialise("head.bias", saved=False),
    parts=[Part("vision", "vision_config", (("clip", "CLIPVisionModel"),))],
    claims=["MyModel"],
    base_prefix="model",
    legacy=[OLD],
)


def test_what_is_written_by_hand_means_the_same_in_python() -> None:
    assert wb.Mapping.from_yaml(BY_HAND) == IN_PYTHON
    assert suits_schema(yaml.safe_load(BY_HAND))
    comes_back(IN_PYTHON)


def test_canonical_text_is_readable(golden: Any) -> None:
    golden("mapping_file.yaml", IN_PYTHON.to_yaml())


def test_anchors_stand_for_what_they_name() -> None:
    text = "transforms:\n- {convert: a, to: b, with: &t [Transpose]}\n- {convert: c, to: d, with: *t}"
    assert [rule.operations for rule in read_mapping(text)] == [(wb.Transpose(),)] * 2  # type: ignore[union-attr]


def test_order_of_the_old_rules_is_kept() -> None:
    a, b = wb.WeightRenaming("a", "b"), wb.WeightRenaming("c", "d")
    assert "legacy: true" in comes_back(wb.Mapping([a, b], legacy=[a, b]))
    assert "\nlegacy:\n" in comes_back(wb.Mapping([a, b], legacy=[b, a]))
    assert "\nlegacy:\n" in comes_back(wb.Mapping([a], legacy=[a, a]))


def test_a_mapping_may_say_nothing_but_its_name() -> None:
    assert read_mapping("name: identity") == wb.Mapping(name="identity")
    assert wb.Mapping().to_yaml() == "transforms: []\n"


# ---- errors ----

RENAME = "transforms:\n  - rename: "


@pytest.mark.parametrize(
    ("text", "code", "place", "words"),
    [
        # YAML
        ("", "mapping-file", "1:1", "this file is empty"),
        ("# only this", "mapping-file", "1:1", "this file is empty"),
        ("just a text", "mapping-file", "1:1", "holds no mapping"),
        ("- rename: a\n  to: b", "mapping-file", "1:1", "holds no mapping"),
        ("name: a\n---\nname: b", "mapping-file", "2:1", "one document"),
        ("name: a\nname: b", "mapping-file", "2:1", "`name` stands twice"),
        ("transforms:\n- group: {a: b, 'a': c}", "mapping-file", "2:17", "`a` stands twice"),
        ("name: [a\ntransforms: []", "mapping-file", "1:8", "close the bracket"),
        ("name: [a, b\n", "mapping-file", "2:1", "this is no YAML"),
        ("name: a\n\ttransforms: []", "mapping-file", "2:1", "this is no YAML"),
        (RENAME + "a\n  to: b", "mapping-file", "3:3", "check the indentation"),
        (RENAME + "a\n   to: b", "mapping-file", "3:4", "check the indentation"),
        (RENAME + "a\n      to: b", "mapping-file", "2:13", "check the indentation"),
        (RENAME + "a\n    to: b\n - rename: c\n   to: d", "mapping-file", "4:2", "check the indentation"),
        ("name: a\n transforms: []", "mapping-file", "1:7", "check the indentation"),
        (RENAME + "a\n\tto: b", "mapping-file", "3:1", "indent with spaces"),
        (RENAME + "a\n    to:b", "mapping-file", "3:9", "a space behind the colon"),
        (RENAME + "a\n    to: [b", "mapping-file", "3:11", "close the bracket that line 3 opens"),
        (RENAME + "'a\n    to: b", "mapping-file", "3:10", "close the quote that line 2 opens"),
        (RENAME + "@a", "mapping-file", "2:13", "this is no YAML"),
        (RENAME + "*.weight", "mapping-file", "2:14", "this is no YAML"),
        (RENAME + "*weight", "mapping-file", "2:13", "*weight is an alias"),
        (RENAME + "&a [*a]", "mapping-file", "2:17", "*a is an alias"),
        (RENAME + "!weight a", "mapping-file", "2:13", "tags have no meaning"),
        ("name: !!python/object/apply:os.getcwd []", "mapping-file", "1:7", "tags have no meaning"),
        (RENAME + "|\n      a\n    to: b", "mapping-file", "2:13", "on one line"),
        (RENAME + ">-\n      a\n    to: b", "mapping-file", "2:13", "on one line"),
        (RENAME + "a\n      b\n    to: c", "mapping-file", "2:13", "on one line"),
        (RENAME + '"a\n      b"\n    to: c', "mapping-file", "2:13", "on one line"),
        ("name: a\x07b", "mapping-file", "1:8", "U+0007 cannot stand"),
        ("name: a\ntransforms: \ufffe", "mapping-file", "2:13", "U+FFFE cannot stand"),
        ("{a: b}: c", "mapping-file", "1:1", "a name must be a text"),
        ("1: a", "mapping-file", "1:1", "a name must be a text"),
        ("transforms:\n- group: {1e3: b}", "mapping-file", "2:11", "YAML takes 1e3 for no text"),
        # shape
        ("nam: a", "mapping-file", "1:1", "did you mean name"),
        ("<<: {name: a}", "mapping-file", "1:1", "YAML takes << for no text"),
        ("name: 12", "mapping-file", "1:7", "quote it, if a text is meant: '12'"),
        ("name:", "mapping-file", "1:6", "this is not a text"),
        ("name: {a: b}", "mapping-file", "1:7", "this is not a text"),
        ("transforms: a", "mapping-file", "1:13", "this is not a list"),
        ("transforms: {rename: a, to: b}", "mapping-file", "1:13", "this is not a list"),
        ("transforms: [a]", "mapping-file", "1:14", "this is not a transform"),
        ("transforms:\n- renam: a\n  to: b", "mapping-file", "2:3", "did you mean rename:"),
        ("transforms: [{}]", "mapping-file", "1:14", "this is not a transform"),
        (RENAME + "a", "mapping-file", "2:5", "`to` is missing here"),
        (RENAME + "a\n    to:", "mapping-file", "3:8", "this is not a text"),
        (RENAME + "a\n    to: [b]", "mapping-file", "3:9", "this is not a text"),
        (RENAME + "[]\n    to: b", "mapping-file", "2:13", "at least one"),
        (RENAME + "''\n    to: b", "mapping-file", "2:13", "a text that is not empty"),
        (RENAME + "[a, 3]\n    to: b", "mapping-file", "2:17", "quote it, if a text is meant: '3'"),
        (RENAME + "a\n    to: b\n    scop: c", "mapping-file", "4:5", "did you mean scope"),
        (RENAME + "a\n    to: b\n    group: {a: b}", "mapping-file", "4:5", "there is no field `group` here"),
        (RENAME + "a\n    to: b\n    legacy: 1", "mapping-file", "4:13", "this is not true or false"),
        (RENAME + "a\n    to: b\n    legacy: yes", "mapping-file", "4:13", "true, false, null, or a text in quotes"),
        ("transforms:\n- group: {}", "mapping-file", "2:10", "at least one"),
        ("transforms:\n- prefix: {adds: a}", "mapping-file", "2:12", "did you mean add"),
        ("transforms:\n- prefix: model", "mapping-file", "2:11", "this is not fields"),
        ("drop: [{patern: a}]", "mapping-file", "*", "did you mean pattern"),
        ("drop: [{pattern: a, saved: true}]", "mapping-file", "1:21", "there is no field `saved` here"),
        ("drop: [3]", "mapping-file", "1:8", "this is not fields"),
        ("parts: [{path: a, classes: [b]}]", "mapping-file", "1:28", "this is not fields"),
        ("forward: {nam: a}", "mapping-file", "1:11", "did you mean name"),
        # operations
        ("transforms:\n- {convert: a, to: b, with: []}", "mapping-file", "2:29", "at least one"),
        ("transforms:\n- {convert: a, to: b, with: [Transpos]}", "mapping-file", "2:30", "did you mean Transpose"),
        ("transforms:\n- {convert: a, to: b, with: transpose}", "mapping-file", "2:29", "did you mean Transpose"),
        ("transforms:\n- {convert: a, to: b, with: [Permute]}", "mapping-file", "2:30", "`dims` is missing here"),
        ("transforms:\n- {convert: a, to: b, with: [Chunk: {dims: 1}]}", "mapping-file", "2:38", "did you mean dim"),
        ("transforms:\n- {convert: a, to: b, with: [Chunk: {dim: a}]}", "mapping-file", "2:43", "a whole number"),
        ("transforms:\n- {convert: a, to: b, with: [Chunk: {dim: true}]}", "mapping-file", "2:43", "a whole number"),
        ("transforms:\n- {convert: a, to: b, with: [Chunk: {dim: 0x1}]}", "mapping-file", "2:43", "in decimal"),
        ("transforms:\n- {convert: a, to: b, with: [Chunk: ]}", "mapping-file", "2:36", "this is not fields"),
        ("transforms:\n- {convert: a, to: b, with: {Chunk: {}, Split: {}}}", "mapping-file", "2:29", "one operation"),
        ("transforms:\n- {convert: a, to: b, with: [{}]}", "mapping-file", "2:30", "one operation"),
        # what patterns, operations and transforms say themselves
        (RENAME + "^a.(b\n    to: c", "pattern-syntax", "2:16", "parenthesis is not closed"),
        (RENAME + "'^a.(b'\n    to: c", "pattern-syntax", "2:17", "parenthesis is not closed"),
        (RENAME + '"^a\\\\.(b"\n    to: c', "pattern-syntax", "2:13", "^a\\.(b"),
        (RENAME + "{x}\n    to: '{y}'", "mapping-file", "2:13", "this is not"),
        (RENAME + "'{x}'\n    to: '{y}'", "pattern-reference", "3:9", "the target refers to `y`"),
        (RENAME + "[b, 'a)']\n    to: c", "pattern-syntax", "2:19", ""),
        (RENAME + "a\n    to: b\n    scope: a.", "mapping-invalid", "2:5", "scope is no dotted path"),
        (RENAME + "[a, a]\n    to: b", "mapping-invalid", "2:5", "stands twice"),
        ("transforms:\n- group: {'(a': b}", "pattern-syntax", "2:12", ""),
        ("transforms:\n- prefix: {add: a, remove: b}", "mapping-invalid", "2:3", "adds one prefix or removes one"),
        (
            "transforms:\n- {convert: [a, b], to: c, with: Transpose}",
            "mapping-invalid",
            "2:3",
            "2 tensors for 1 target",
        ),
        ("transforms:\n- {convert: a, to: b, with: [Cast: {dtype: f}]}", "operation-argument", "2:30", "no dtype"),
        (
            "transforms:\n- convert: a\n  to: b\n  with:\n  - Rearrange: {pattern: (a b -> b a}",
            "operation-argument",
            "5:29",
            "a bracket is not closed",
        ),
        (RENAME + "a\n    to: b\n  - {rename: a, to: b}", "mapping-duplicate-rule", "4:5", "line 2"),
        ("drop: ['a(']", "pattern-syntax", "1:10", ""),
        ("carry: 'a('", "pattern-syntax", "1:10", ""),
        ("initialise: {pattern: 'a('}", "pattern-syntax", "1:25", ""),
        ("forward:\n  transforms:\n  - {rename: a(, to: b}", "pattern-syntax", "3:15", ""),
        ("legacy: [{include: llava}]", "mapping-file", "1:10", "nothing can be included here"),
        ("legacy: [{rename: a(, to: b}]", "pattern-syntax", "1:20", ""),
        ("transforms:\n- include: lama", "mapping-not-found", "2:12", "llama"),
        ("transforms:\n- include: ./other.yaml", "mapping-file", "2:12", "only a file can include files"),
    ],
)
def test_error_has_a_place(text: str, code: str, place: str, words: str) -> None:
    problem = complaint(text)
    shown = str(problem)
    assert words in shown
    if place == "*":
        assert "2 problems" in shown
        return
    assert (problem.code, problem.where) == (code, f"the text:{place}"), shown


def test_caret_stands_under_the_place() -> None:
    problem = complaint("name: x\ntransforms:\n  - rename: ^a.(b   # here\n    to: c\n")
    assert problem.got.split("\n") == ["- rename: ^a.(b   # here", "             ^"]
    assert problem.where == "the text:3:16"
    wide = complaint("name: x\ntransforms: [{rename: '" + "a" * 300 + "(', to: c}]")
    line, caret = wide.got.split("\n")
    assert len(line) <= 100
    assert line[len(caret) - 1] == "("


def test_all_problems_come_in_one_report_in_the_order_of_the_file() -> None:
    problem = complaint(
        "legacy: 1\nnam: a\ntransforms:\n- rename: 1\n  to: b\n- {convert: a, to: b, with: [Chunk: {dim: x}]}"
    )
    assert (problem.code, problem.what) == ("mapping-file", "this file has 4 problems")
    places = re.findall(r"the text:(\d+):(\d+)", problem.got)
    assert [tuple(map(int, place)) for place in places] == [(1, 9), (2, 1), (4, 11), (6, 43)]
    many = complaint("transforms:\n" + "- {rename: a(, to: b}\n- {rename: b(, to: b}\n" * 20)
    assert "this file has 40 problems" in str(many)
    assert "… and 28 more" in str(many)


@pytest.mark.parametrize("text", TRAPS)
def test_no_text_silently_becomes_another(text: str) -> None:
    """Written without quotes, a text is either itself or an error that says to quote it."""
    assert wb.Mapping.from_yaml(wb.Mapping(name=text).to_yaml()).name == text
    found = outcome(f"name: {text}\n")
    if isinstance(found, wb.Mapping):
        assert found.name in (text, text.partition(" #")[0].strip(" "), text[1:-1])
    else:
        assert found.code == "mapping-file"


@pytest.mark.parametrize(
    "text", ["on", "No", "TRUE", "0x1F", "010", "1_0", "1e3", "1.5e3", "1:30", "2024-01-01", "Null", "="]
)
def test_unclear_text_is_an_error_that_says_to_quote_it(text: str) -> None:
    assert read_plain(text) is Ellipsis
    problem = complaint(f"transforms:\n- rename: {text}\n  to: a")
    assert (problem.code, problem.where, problem.hint) == ("mapping-file", "the text:2:11", f"quote it: '{text}'")
    quoted = read_mapping(f"transforms:\n- rename: '{text}'\n  to: a")
    assert quoted.transforms[0].source_patterns == (text,)


# ---- what a hostile file cannot do ----


def test_aliases_cannot_grow_without_bound() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    problem = complaint("\n".join(lines))
    assert (problem.code, problem.what) == ("mapping-file", "this file says too much")
    assert f"{MAX_NODES:,}" in problem.expected


@pytest.mark.parametrize(
    "text", ["[" * 5000, "{a: " * 5000, "- " * 5000, "".join(" " * i + "a:\n" for i in range(200))]
)
def test_nesting_is_bounded(text: str) -> None:
    problem = complaint("forward: " + text if not text.startswith(("-", "a")) else text)
    assert (problem.code, problem.what) == ("mapping-file", "this is nested too deeply")
    assert str(MAX_DEPTH) in problem.expected


def test_groups_in_a_pattern_cannot_exhaust_the_stack() -> None:
    problem = complaint("transforms:\n- rename: " + "(?:" * 5000 + "a\n  to: a")
    assert (problem.code, problem.what) == ("pattern-syntax", "groups are nested too deeply")


def test_size_is_bounded(tmp_path: Path) -> None:
    assert "too large" in complaint("#" * (MAX_BYTES + 1)).what
    (tmp_path / "big.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9")
    (tmp_path / "folder.yaml").mkdir()
    for name, words in (
        ("big", "too large"),
        ("latin", "no UTF-8"),
        ("folder", "no regular file"),
        ("none", "cannot be read"),
    ):
        with pytest.raises(wb.MappingError, match=words) as caught:
            wb.load_mapping(tmp_path / f"{name}.yaml")
        assert caught.value.code == "mapping-file"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes, which this system lacks")
def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(wb.MappingError, match="no regular file"):
        wb.load_mapping(tmp_path / "pipe.yaml")


@settings(max_examples=600)
@given(st.integers(0, 2**32))
def test_damaged_file_is_read_or_refused(seed: int) -> None:
    """Whatever a text has become, it is a mapping or a coded error with a place; nothing else is raised."""
    chance = random.Random(seed)
    text = chance.choice([BY_HAND, IN_PYTHON.to_yaml(), default_registry.find("shieldgemma2").to_yaml()])
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(text))
        stop = start + chance.choice([0, 1, 1, 2, 12])
        text = (
            text[:start]
            + "".join(chance.choices("ab:-[]{}&*!|>'\"#%@,? \n\t\\\x00é1", k=chance.randint(0, 3)))
            + text[stop:]
        )
    found = outcome(text)
    if isinstance(found, wb.Mapping):
        comes_back(found)
    else:
        assert found.where.startswith("the text"), found


# ---- includes ----


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder / "main.yaml"


def test_include_puts_in_what_another_mapping_says(tmp_path: Path) -> None:
    other = wb.Mapping(
        [OLD, wb.WeightRenaming("c", "d")],
        name="other",
        drop="e",
        initialise=wb.Initialise("f", scope="g"),
        parts=[Part("h")],
        claims=["I"],
        legacy=[OLD],
        base_prefix="ignored",
    )
    main = write(
        tmp_path,
        main="name: main\ntransforms:\n- {rename: a, to: b}\n- {include: sub/other.yaml, scope: tower}\n"
        "- include: llava\n- {rename: y, to: z}\ndrop: own\n",
        sub__other="transforms:\n- include: ./below/deep.yaml\n",
        sub__below__deep=other.to_yaml(),
    )
    found = wb.load_mapping(main)
    assert found.name == "main"
    assert found.transforms == (
        wb.WeightRenaming("a", "b"),
        *other.scoped("tower").transforms,
        *default_registry.find("llava").transforms,
        wb.WeightRenaming("y", "z"),
    )
    assert found.drop == (wb.Drop("own"), wb.Drop("e", scope="tower"))
    assert found.initialise == (wb.Initialise("f", scope="tower.g"),)
    assert found.parts == (Part("tower.h"), *default_registry.find("llava").parts)
    assert (found.claims, found.base_prefix) == (("I",), "")
    assert found.legacy == other.scoped("tower").legacy
    comes_back(found)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../other.yaml", "relative path without '..'"),
        ("sub/../../other.yaml", "relative path without '..'"),
        ("/other.yaml", "relative path without '..'"),
        ("C:/other.yaml", "relative path without '..'"),
        ("'sub\\other.yaml'", "relative path without '..'"),
        ("link.yaml", "leads out of the folder"),
        ("none.yaml", "cannot be read"),
        ("main.yaml", "main.yaml -> main.yaml"),
        ("one.yaml", "one.yaml -> two.yaml -> one.yaml"),
        ("wrong.yaml", "there is no field `nam` here"),
    ],
)
def test_include_that_is_refused_has_a_place(tmp_path: Path, name: str, words: str) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "other.yaml").write_text("name: outside")
    (folder / "link.yaml").symlink_to(tmp_path / "other.yaml")
    include = "transforms:\n- include: "
    main = write(folder, main=include + name, one=include + "two.yaml", two=include + "one.yaml", wrong="nam: a")
    with pytest.raises(wb.MappingError) as caught:
        wb.load_mapping(main)
    assert caught.value.code == "mapping-file"
    assert words in str(caught.value)
    assert f"{main}:2:12" in str(caught.value)


def test_includes_cannot_grow_without_bound(tmp_path: Path) -> None:
    files = {
        f"f{i}": "transforms:\n" + "".join(f"- {{include: f{i + 1}.yaml, scope: s{j}}}\n" for j in range(10))
        for i in range(8)
    }
    main = write(tmp_path, main="transforms: [{include: f0.yaml}]", f8="transforms: [{rename: a, to: b}]", **files)
    with pytest.raises(wb.MappingError, match="this includes too much") as caught:
        wb.load_mapping(main)
    assert caught.value.code == "mapping-file"
    chain = {f"c{i}": f"transforms: [{{include: c{i + 1}.yaml}}]" for i in range(30)}
    main = write(tmp_path, main="transforms: [{include: c0.yaml}]", **chain)
    with pytest.raises(wb.MappingError, match="too deeply"):
        wb.load_mapping(main)


def test_one_rule_included_twice_is_an_error(tmp_path: Path) -> None:
    main = write(
        tmp_path, main="transforms: [{include: a.yaml}, {include: a.yaml}]", a="transforms: [{rename: a, to: b}]"
    )
    with pytest.raises(wb.MappingError) as caught:
        wb.load_mapping(main)
    assert (caught.value.code, caught.value.where) == ("mapping-duplicate-rule", f"{main}:1:33")


# ---- the schema ----


def test_schema_in_the_docs_is_current() -> None:
    committed = ROOT / "docs" / "mapping.schema.json"
    text = json.dumps(SCHEMA, indent=2) + "\n"
    if os.environ.get("WEIGHBRIDGE_GOLDEN") == "1":
        committed.write_text(text, encoding="utf-8")
    assert committed.read_text("utf-8") == text, "run `make golden` and review the diff"


def test_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


WORDS = [
    "name",
    "rename",
    "to",
    "with",
    "scope",
    "a",
    3,
    True,
    None,
    "Chunk",
    "dim",
    "Concatenate",
    "",
    "classes",
    "path",
]


@settings(max_examples=250)
@given(st.integers(0, 2**32))
def test_schema_and_reader_agree_on_shapes(seed: int) -> None:
    """Change a valid file at random: where the schema refuses it, so does the reader, and the other way round."""
    chance = random.Random(seed)
    form = yaml.safe_load(BY_HAND)
    for _ in range(chance.randint(1, 2)):
        _change(form, chance)
    found = outcome(yaml.safe_dump(form))
    codes = set()
    if isinstance(found, wb.WeighbridgeError):
        codes = {found.code, *re.findall(r"^([a-z]+-[a-z-]+): ", found.got, re.MULTILINE)}
    assert suits_schema(form) == (codes != {"mapping-file"}), found


def _change(form: Any, chance: random.Random) -> None:
    """Change, remove or add something, somewhere in a form."""
    while isinstance(form, dict | list) and form:
        key = chance.choice(list(form)) if isinstance(form, dict) else chance.randrange(len(form))
        if isinstance(form[key], dict | list) and chance.random() < 0.75:
            form = form[key]
            continue
        what = chance.choice(["change", "remove", "add"])
        if what == "remove":
            del form[key]
        elif what == "add" and isinstance(form, dict):
            form[str(chance.choice(WORDS))] = chance.choice(WORDS)
        else:
            form[key] = chance.choice(WORDS)
        return


# ---- where a file may stand for a mapping ----


@pytest.fixture
def there(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    save_file({"norm.gamma": np.arange(4, dtype=np.float32)}, tmp_path / "model" / "model.safetensors")
    (tmp_path / "fix.yaml").write_text("name: fix\ntransforms: [{rename: gamma, to: weight}]\n")
    (tmp_path / "fix.json").write_text(json.dumps(wb.load_mapping(tmp_path / "fix.yaml").to_dict()))
    return tmp_path


@pytest.mark.parametrize("name", ["fix.yaml", "fix.json"])
def test_file_stands_for_a_mapping(there: Path, name: str) -> None:
    path = there / name
    assert wb.load_mapping(path) == wb.load_mapping(str(path)) == load_argument(str(path))
    for given_as in (path, str(path)):
        assert list(wb.plan(there / "model", given_as).target) == ["norm.weight"]
    wb.convert(there / "model", there / "out", path)
    assert list(wb.open(there / "out").header) == ["norm.weight"]


def test_file_of_another_name_is_refused(there: Path) -> None:
    with pytest.raises(wb.MappingError) as caught:
        wb.load_mapping(there / "fix.toml")
    assert caught.value.code == "mapping-file"
    with pytest.raises(wb.MappingError, match=r"\.yaml, \.yml or \.json"):
        wb.plan(there / "model", there / "fix")


def test_yml_is_yaml(there: Path) -> None:
    (there / "fix.yaml").rename(there / "fix.yml")
    assert wb.load_mapping(there / "fix.yml").name == "fix"


# ---- the command ----


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(wb.__file__).parents[1]), "COLUMNS": "100", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "weighbridge", *arguments]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in ran.stderr
    return ran


def test_list_names_every_mapping(there: Path) -> None:
    form = json.loads(run(there, "mapping", "list", "--json").stdout)
    assert {row["name"] for row in form["mappings"]} >= set(MODULES)
    assert {row["origin"] for row in form["mappings"]} >= {"weighbridge"}
    llava = {
        "name": "LlavaModel",
        "kind": "built in",
        "origin": "weighbridge",
        "module": "weighbridge.mappings.families.llava",
    }
    assert llava in form["mappings"]
    lines = run(there, "mapping", "list").stdout.splitlines()
    assert [line.split()[-1] for line in lines if line.startswith("LlavaModel ")] == [
        "weighbridge.mappings.families.llava"
    ]
    assert [line.split()[0] for line in lines] == [row["name"] for row in form["mappings"]]


def test_transformers_table_can_be_listed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from weighbridge.integrations.transformers import registry

    app(["list", "--transformers"], standalone_mode=False)
    listed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert listed == [[name, "transformers", "transformers.conversion_mapping"] for name in registry()]
    app(["export", "mixtral", "--transformers", "-o", str(tmp_path / "mixtral.yaml")], standalone_mode=False)
    assert wb.load_mapping(tmp_path / "mixtral.yaml") == registry().find("mixtral")


def test_show_says_what_a_mapping_does(there: Path) -> None:
    (there / "all.yaml").write_text(BY_HAND)
    lines = run(there, "mapping", "show", "all.yaml").stdout.splitlines()
    assert lines[:3] == ["name      my_model", "prefix    model, of head models only", "rules     7"]
    assert "  5  PrefixChange(remove model) in tower" in lines
    assert "  7  WeightRenaming(x.gamma, y.gamma -> z)  (old files only)" in lines
    assert "drop      rotary.{rest:**}: computed again" in lines
    assert "initialise head.bias, not saved" in lines
    assert "part      vision by vision_config (clip: CLIPVisionModel)" in lines
    assert lines[-1] == "way back  each rule has an inverse"
    assert wb.Mapping.from_dict(json.loads(run(there, "mapping", "show", "all.yaml", "--json").stdout)) == IN_PYTHON
    (there / "lossy.yaml").write_text("transforms: [{rename: [a, b], to: c}]")
    assert "rule 1: several sources share one target" in run(there, "mapping", "show", "lossy.yaml").stdout


def test_export_and_import_are_inverse(there: Path) -> None:
    (there / "maps.py").write_text("from weighbridge import *\nA = [WeightRenaming('a', 'b')]")
    assert run(there, "mapping", "export", "maps.py:A").stdout == "name: A\ntransforms:\n  - rename: a\n    to: b\n"
    for name in ("a.yaml", "a.json"):
        ran = run(there, "mapping", "export", "maps.py:A", "-o", name)
        assert (ran.returncode, ran.stdout) == (0, f"wrote     {name}: 1 rule\n")
        assert run(there, "mapping", "import", name).stdout == (there / "a.yaml").read_text()
        assert json.loads(run(there, "mapping", "import", name, "--json").stdout)["name"] == "A"
    again = run(there, "mapping", "export", "maps.py:A", "-o", "a.yaml")
    assert (again.returncode, again.stderr.partition(":")[0]) == (5, "destination-exists")
    odd = run(there, "mapping", "export", "maps.py:A", "-o", "a.txt")
    assert (odd.returncode, odd.stderr.partition(":")[0]) == (2, "usage")
    assert not (there / "a.txt").exists()


def test_import_of_a_wrong_file_names_the_place(there: Path) -> None:
    (there / "wrong.yaml").write_text("name: a\ntransform: []\n")
    ran = run(there, "mapping", "import", "wrong.yaml")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("mapping-file: there is no field `transform` here @ wrong.yaml:2:1\n")
    assert "did you mean transforms" in ran.stderr
    form = json.loads(run(there, "mapping", "import", "wrong.yaml", "--json").stdout)
    assert form["error"]["where"] == "wrong.yaml:2:1"


def test_schema_is_printed(there: Path) -> None:
    printed = run(there, "mapping", "schema").stdout
    assert printed == (ROOT / "docs" / "mapping.schema.json").read_text("utf-8")
    assert json.loads(run(there, "mapping", "schema", "--json").stdout) == SCHEMA


def test_every_command_takes_a_mapping_file(there: Path) -> None:
    assert run(there, "plan", "model", "fix.yaml", "--quiet").returncode == 0
    assert run(there, "lint", "fix.yaml", "--quiet").returncode == 0
    assert run(there, "convert", "model", "out", "fix.yaml", "--quiet").returncode == 0
    assert run(there, "explain", "model", "fix.yaml", "norm.weight", "--quiet").returncode == 0


def test_files_on_the_page_are_read() -> None:
    """Its commands run in tests/whole/test_docs.py."""
    page = (ROOT / "docs" / "mapping-files.md").read_text("utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(read_mapping(block)) == 12 + len(default_registry.find("llava"))


def test_examples_in_the_help_run(there: Path) -> None:
    for command in app.registered_commands:
        assert command.callback is not None
        (line,) = re.findall(r"Example: weighbridge (mapping .*)", command.callback.__doc__ or "")
        ran = run(there, *line.split())
        assert ran.returncode == 0, ran.stderr
    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    assert names == ["list", "show", "export", "import", "schema"]
    assert wb.load_mapping(there / "qwen3_moe.yaml") == default_registry.find("qwen3_moe")
    assert len(list(itertools.chain(there.glob("*.yaml")))) == 2
