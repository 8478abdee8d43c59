"""What mapping authors test with: the laws one by one, the tests that pytest shows of them, the strategies.

The plugin is tested by runs of pytest in processes of their own, on files that an author would write.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings

import weighbridge as wb
from weighbridge.mappings.families import MODULES
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.registry import default_registry
from weighbridge.mappings.transforms import WeightConverter
from weighbridge.models.modules import module_tensors
from weighbridge.models.resolve import resolve_config
from weighbridge.planning.tracing import prepare, trace_keys
from weighbridge.testing import (
    LAWS,
    check_coverage,
    check_inverse,
    check_lint,
    check_order_independence,
    check_round_trip,
    check_save_back,
    checkpoints,
    headers,
    keys,
    mappings,
    weighbridge_check,
    write_inventory,
)
from weighbridge.testing.groups import groups_of
from weighbridge.testing.laws import require_same_plan
from weighbridge.testing.sampling import make_values, parts_of
from weighbridge.testing.saved_files import compare_files

pytest_plugins = ["pytester"]

CASES = sorted((ROOT / "tests" / "data" / "corpus" / "cases").iterdir())
PLUGIN = "_weighbridge_pytest"


class Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = torch.nn.Linear(8, 16, bias=False)
        self.gate_up = torch.nn.Parameter(torch.empty(3, 12, 8))


class Model(torch.nn.Module):
    """Two layers with grouped heads and experts, and an output that is tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(50, 8)
        self.layers = torch.nn.ModuleList(Layer() for _ in range(2))
        self.norm = torch.nn.LayerNorm(8, bias=False)
        self.head = torch.nn.Linear(8, 50, bias=False)
        self.head.weight = self.embed.weight


def published() -> dict[str, wb.TensorSpec]:
    specs = {"embed.weight": wb.TensorSpec("BF16", (50, 8)), "norm.gamma": wb.TensorSpec("F32", (8,))}
    for layer in range(2):
        for name, rows in (("q", 8), ("k", 4), ("v", 4)):
            specs[f"h.{layer}.{name}_proj.weight"] = wb.TensorSpec("BF16", (rows, 8))
        for expert in range(3):
            for name in ("gate", "up"):
                specs[f"h.{layer}.experts.{expert}.{name}.weight"] = wb.TensorSpec("BF16", (6, 8))
    return specs


HEADER = wb.Header(published())
RULES = (
    wb.WeightRenaming("^h", "layers"),
    wb.WeightRenaming("norm.gamma", "norm.weight"),
    wb.WeightConverter(
        ["q_proj.weight", "k_proj.weight", "v_proj.weight"], "qkv.weight", [wb.Concatenate(dim=0, sizes=(8, 4, 4))]
    ),
    wb.WeightConverter(
        ["experts.*.gate.weight", "experts.*.up.weight"], "gate_up", [wb.MergeModulelist(0), wb.Concatenate(1)]
    ),
)
MAPPING = wb.Mapping(RULES, name="model")


def without(*keys: str) -> wb.Header:
    return wb.Header({key: spec for key, spec in HEADER.items() if key not in keys})


def with_more(**specs: wb.TensorSpec) -> wb.Header:
    return wb.Header({**HEADER.specs, **{key.replace("__", "."): spec for key, spec in specs.items()}})


# ---- the laws, one by one ----


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("model", [Model, None, HEADER, wb.plan(HEADER, MAPPING).target], ids=lambda model: "")
def test_good_mapping_obeys_every_law(law, model):
    mapping = wb.Mapping((), name="nothing to do") if model is HEADER else MAPPING
    weighbridge_check(mapping, HEADER, model)(law)


def problems(error: wb.PlanError) -> list[tuple[str, str]]:
    return [(problem.code, problem.where) for problem in error.problems]


def test_parameter_without_a_rule():
    with pytest.raises(wb.PlanError) as caught:
        check_coverage(MAPPING, without("embed.weight"), Model)
    assert problems(caught.value) == [("target-missing", "embed.weight"), ("target-missing", "head.weight")]


def test_tensor_without_a_place():
    with pytest.raises(wb.PlanError) as caught:
        check_coverage(MAPPING, with_more(rotary__inv_freq=wb.TensorSpec("F32", (4,))), Model)
    assert problems(caught.value) == [("source-unplaced", "rotary.inv_freq")]


def test_rule_without_a_parameter():
    rules = wb.Mapping([*RULES, wb.WeightRenaming("beta", "bias"), wb.WeightRenaming("alpha", "scale")])
    with pytest.raises(wb.PlanError) as caught:
        check_coverage(rules, HEADER, Model, optional=["alpha"])
    assert problems(caught.value) == [("rule-unused", "WeightRenaming(beta -> bias)")]
    check_coverage(rules, HEADER, Model, optional=["alpha", "beta"])
    check_coverage(wb.Mapping(rules, legacy=rules.transforms[4:]), HEADER, Model)


def test_unused_rule_is_named_beside_what_it_leaves_open():
    wrong = wb.Mapping([RULES[0], wb.WeightRenaming("norm.gama", "norm.weight"), *RULES[2:]])
    with pytest.raises(wb.PlanError) as caught:
        check_coverage(wrong, HEADER, Model)
    assert problems(caught.value) == [
        ("rule-unused", "WeightRenaming(norm.gama -> norm.weight)"),
        ("target-missing", "norm.weight"),
        ("source-unplaced", "norm.gamma"),
    ]


@pytest.mark.parametrize("kind", ["drop", "carry", "initialise"])
def test_exception_that_names_nothing(kind):
    with pytest.raises(wb.PlanError) as caught:
        check_coverage(wb.Mapping(RULES, **{kind: "absent"}), HEADER, Model)
    assert problems(caught.value) == [("rule-unused", f"{kind.capitalize()}(absent)")]


def test_coverage_under_a_reading_with_a_prefix():
    """A rule counts as used whichever reading of the checkpoint fits."""

    class Outer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = Model()

    mapping = wb.Mapping(wb.Mapping(RULES).scoped("model"), base_prefix="model")
    check_coverage(mapping, HEADER, Outer)
    check_inverse(mapping, HEADER, Outer)


def test_lint_finds_what_is_usually_a_mistake():
    header = wb.Header({key: wb.TensorSpec("F32", (2,)) for key in ("a.weight", "b.weight")})
    with pytest.raises(wb.MappingError) as caught:
        check_lint([wb.WeightRenaming("a", "b"), wb.WeightRenaming("b", "c")], header)
    assert caught.value.code == "law-broken"
    assert 'allow=["collide", "round-trip", "order"]' in caught.value.hint
    check_lint([wb.WeightRenaming("a", "b")], allow=["round-trip"])
    with pytest.raises(wb.MappingError, match="no finding has this code"):
        check_lint([wb.WeightRenaming("a", "b")], allow=["colide"])


def test_orders_are_compared():
    check_order_independence(MAPPING, HEADER, Model)
    first = wb.plan(HEADER, MAPPING)
    other = wb.plan(HEADER, wb.Mapping([*RULES[:1], wb.WeightRenaming("norm.gamma", "norm.scale"), *RULES[2:]]))
    with pytest.raises(wb.MappingError) as caught:
        require_same_plan(first, other)
    assert (caught.value.code, caught.value.where) == ("law-broken", "norm.scale")


@pytest.mark.parametrize(
    ("header", "mapping", "options", "words"),
    [
        (
            with_more(rotary__inv_freq=wb.TensorSpec("F32", (4,))),
            wb.Mapping(RULES, drop="rotary.inv_freq"),
            {},
            "dropped: rotary.inv_freq",
        ),
        (HEADER, MAPPING, {"dtype": "float16"}, "BF16 to F16"),
    ],
)
def test_loss_is_named(header, mapping, options, words):
    with pytest.raises(wb.PlanError) as caught:
        check_round_trip(mapping, header, Model, **options)
    assert caught.value.code == "inverse-lossy"
    assert words in caught.value.got
    check_round_trip(mapping, header, Model, lossy=True, **options)
    check_inverse(mapping, header, Model, **options)
    with pytest.raises(wb.PlanError, match="loses a part"):
        check_save_back(mapping, header, Model, **options)


def test_widening_cast_comes_back():
    check_round_trip(MAPPING, HEADER, Model, dtype="float32")


def test_derived_inverse_needs_the_sizes():
    rules = [*RULES[:2], wb.WeightConverter(RULES[2].source_patterns, "qkv.weight", [wb.Concatenate(dim=0)]), RULES[3]]
    with pytest.raises(wb.PlanError) as caught:
        check_inverse(rules, HEADER, Model)
    assert "Concatenate(sizes=...)" in caught.value.hint
    check_round_trip(rules, HEADER, Model)
    check_save_back(rules, HEADER, Model)


def test_derived_inverse_that_cuts_in_other_places():
    """An equal cut is possible and wrong: 12 rows are taken for 4, 4 and 4."""
    specs = {f"{name}.weight": wb.TensorSpec("F32", (rows, 2)) for name, rows in (("q", 8), ("k", 2), ("v", 2))}
    fused = wb.WeightConverter(["q.weight", "k.weight", "v.weight"], "qkv.weight", [wb.Concatenate(dim=0)])
    with pytest.raises(wb.VerifyError) as caught:
        check_inverse([fused], wb.Header(specs))
    assert "q.weight: F32 [8, 2] is published, F32 [4, 2] is saved" in caught.value.got


def test_one_way_rule():
    with pytest.raises(wb.PatternError) as caught:
        check_inverse([wb.WeightRenaming(["norm.gamma", "norm.scale"], "norm.weight")], HEADER)
    assert caught.value.code == "pattern-one-way"


def test_save_back_leaves_the_model_alone():
    torch.manual_seed(0)
    model = Model()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    before = {key: tensor.clone() for key, tensor in module_tensors(model).items()}
    check_save_back(MAPPING, HEADER, model)
    assert all(torch.equal(tensor, before[key]) for key, tensor in module_tensors(model).items())
    assert wb.open(model).header["embed.weight"].dtype == "F32"


def test_save_back_with_both_names_of_a_tied_tensor():
    """The published file holds the tied tensor twice; the values have to be equal to be loaded."""
    check_save_back(MAPPING, with_more(head__weight=wb.TensorSpec("BF16", (50, 8))), Model)


def test_save_back_with_a_new_parameter():
    check_save_back(wb.Mapping([RULES[0], *RULES[2:]], initialise="norm.weight"), without("norm.gamma"), Model)


def test_files_that_differ_are_named(tmp_path):
    for name, metadata in (("a", {"format": "pt"}), ("b", {"format": "np"})):
        source = wb.open({"w": torch.ones(2)}).header
        plan = wb.plan(wb.Header(source.specs, metadata), [])
        plan.write(tmp_path / name, {"w": torch.ones(2)})
    with pytest.raises(wb.VerifyError) as caught:
        compare_files(tmp_path / "a", tmp_path / "b")
    assert (caught.value.code, caught.value.where) == ("verify-failed", "model.safetensors")


# ---- large headers ----

LARGE = wb.Header(
    {f"h.{layer}.{name}_proj.weight": wb.TensorSpec("BF16", (rows, 4096)) for layer in range(40)
     for name, rows in (("q", 4096), ("k", 1024), ("v", 1024))}
    | {f"h.{layer}.experts.{expert}.{name}.weight": wb.TensorSpec("BF16", (2048, 4096)) for layer in range(40)
       for expert in range(8) for name in ("gate", "up")}
    | {"norm.gamma": wb.TensorSpec("F32", (4096,))}
)  # fmt: skip


def test_large_checkpoint_is_tested_on_small_tensors():
    rules = wb.Mapping(
        [*RULES[:2], wb.WeightConverter(RULES[2].source_patterns, "qkv.weight", [wb.Concatenate(dim=0)]), RULES[3]]
    )
    limit = 2**20
    parts = parts_of(wb.plan(LARGE, rules), limit)
    assert sum(len(part.steps) for part in parts) == 3  # of each kind one: norm, attention, experts
    assert all(part.source.size_bytes <= limit for part in parts)
    fused = next(part.target for part in parts if "layers.0.qkv.weight" in part.target)
    rows, columns = fused["layers.0.qkv.weight"].shape
    assert (rows * 4096) == (columns * 6144)  # the proportions are the large one's
    check_round_trip(rules, LARGE, max_bytes=limit)
    check_save_back(rules, LARGE, max_bytes=limit)


def test_sizes_that_cannot_shrink_are_left_to_the_proof():
    plan = wb.plan(LARGE, wb.Mapping([RULES[0], wb.WeightConverter(
        RULES[2].source_patterns, "qkv.weight", [wb.Concatenate(dim=0, sizes=(4096, 1024, 1024))])]))  # fmt: skip
    kept = {key for part in parts_of(plan, 2**20) for key in part.target}
    assert "layers.0.qkv.weight" not in kept
    assert plan.is_exact


def test_values_are_the_same_every_time_and_differ_by_key():
    plan = wb.plan(HEADER, MAPPING)
    first, second = make_values(plan), make_values(plan)
    assert first.keys() == HEADER.keys()
    assert wb.verify(first, second)
    assert not torch.equal(first["h.0.q_proj.weight"].view(torch.int16), first["h.1.q_proj.weight"].view(torch.int16))


# ---- what a check can be about ----


def test_header_from_files_and_a_registered_mapping(tmp_path):
    write_inventory(HEADER, tmp_path / "header.json.gz")
    write_inventory(wb.plan(HEADER, MAPPING).target, tmp_path / "target.json")
    check_coverage(MAPPING, tmp_path / "header.json.gz", Model)
    check_coverage(MAPPING, str(tmp_path / "header.json.gz"), tmp_path / "target.json")
    with pytest.raises(wb.PlanError, match="a rule of the mapping is not used"):
        check_coverage("qwen3_moe", wb.Header({"model.norm.weight": wb.TensorSpec("F32", (2,))}))


def test_mapping_that_is_registered_for_the_model():
    class Registered(Model):
        pass

    wb.register("Registered", MAPPING, overwrite=True)
    weighbridge_check(None, HEADER, Registered)("save_back")


def test_neither_mapping_nor_model():
    with pytest.raises(wb.MappingError) as caught:
        check_coverage(None, HEADER)
    assert caught.value.code == "usage"


def test_unknown_law():
    with pytest.raises(wb.MappingError) as caught:
        weighbridge_check(MAPPING, HEADER, without=["roundtrip"])
    assert caught.value.code == "usage"
    assert "nearest: round_trip" in caught.value.got


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_families_obey_the_laws_of_values(case):
    mapping = resolve_config(json.loads((case / "config.json").read_text("utf-8")))
    place = case / "model.safetensors"
    plan = wb.plan(place, mapping)
    check_order_independence(mapping, place)
    check_round_trip(mapping, place, lossy=not plan.is_exact)
    if plan.is_exact:
        check_save_back(mapping, place)


# ---- in pytest ----

AUTHORS_MAP = """
import torch
import weighbridge as wb

SPEC = wb.TensorSpec("F32", (3, 3))
HEADER = wb.Header({f"encoder.layer.{i}.{name}.weight": SPEC for i in range(2) for name in ("q", "k")})
RULES = [
    wb.WeightRenaming("^encoder.layer", "layers"),
    wb.WeightConverter(["q.weight", "k.weight"], "qk.weight", [wb.Concatenate(dim=0)]),
]


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.qk = torch.nn.Linear(3, 6, bias=False)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(Layer() for _ in range(2))


class Larger(Model):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.LayerNorm(3, bias=False)
"""

AUTHORS_TEST = """
from pathlib import Path

import weighbridge as wb
from authors_map import HEADER, RULES, Larger, Model
from weighbridge.testing import weighbridge_check

FUSED = wb.WeightConverter(["q.weight", "k.weight"], "fused.weight", [wb.Concatenate(dim=0)])

test_good = weighbridge_check(wb.Mapping(RULES, name="good"), Path(__file__).with_name("header.json.gz"), Model)

test_no_rule = weighbridge_check(RULES, HEADER, Larger)
test_no_parameter = weighbridge_check([*RULES, wb.WeightRenaming("norm.gamma", "norm.scale")], HEADER, Model)
test_lossy = weighbridge_check(RULES, HEADER, Model, dtype="float16")
test_lint = weighbridge_check([RULES[0], FUSED, wb.WeightRenaming("fused", "qk")], HEADER, Model)
test_expected_loss = weighbridge_check(RULES, HEADER, Model, dtype="float16", lossy=True)
test_less = weighbridge_check(RULES, HEADER, Larger, without=["coverage"], initialise=["norm.weight"])
"""


@pytest.fixture
def author(pytester, monkeypatch):
    """A directory with an author's files, in which pytest loads the plugin alone."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(wb.__file__).parents[1]))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makepyfile(authors_map=AUTHORS_MAP, test_maps=AUTHORS_TEST)
    specs = {f"encoder.layer.{i}.{name}.weight": wb.TensorSpec("F32", (3, 3)) for i in range(2) for name in ("q", "k")}
    write_inventory(wb.Header(specs), pytester.path / "header.json.gz")
    return pytester


class Outcome(NamedTuple):
    """What became of a test: `passed`, `failed` or `skipped`, and what the report says of it."""

    word: str
    text: str = ""


def outcomes(pytester, *arguments: str) -> dict[str, Outcome]:
    """Run pytest; return what became of each test."""
    report = pytester.path / "report.xml"
    command = ("-p", PLUGIN, "--strict-markers", "-W", "error", f"--junitxml={report}", *arguments)
    pytester.runpytest_subprocess(*command)
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        failed, skipped = case.find("failure"), case.find("skipped")
        found[case.attrib["name"]] = Outcome("passed")
        if failed is not None:
            found[case.attrib["name"]] = Outcome("failed", failed.text or "")
        elif skipped is not None:
            found[case.attrib["name"]] = Outcome("skipped", skipped.attrib["message"])
    return found


def names_of(name: str, *laws: str) -> set[str]:
    return {f"{name}[{law}]" for law in laws or LAWS}


def test_each_law_is_a_test_of_its_own(author):
    found = outcomes(author)
    failed = {name for name, outcome in found.items() if outcome.word == "failed"}
    assert failed == {
        "test_no_rule[coverage]",
        "test_no_parameter[coverage]",
        "test_lint[lint]",
        *names_of("test_lossy", "round_trip", "save_back"),
    }
    skipped = {name for name, outcome in found.items() if outcome.word == "skipped"}
    assert skipped == names_of("test_no_rule", "order_independence", "round_trip", "inverse", "save_back")
    assert "the test `coverage` says why" in found["test_no_rule[inverse]"].text
    assert names_of("test_good") | names_of("test_no_parameter") <= found.keys()
    assert names_of("test_expected_loss") - found.keys() == {"test_expected_loss[save_back]"}
    assert names_of("test_less") - found.keys() == {"test_less[coverage]"}
    assert "target-missing: nothing fills this target @ norm.weight" in found["test_no_rule[coverage]"].text
    assert found["test_no_parameter[coverage]"].text.splitlines() == [
        "plan-failed: a rule of the mapping is not used",
        "  rule-unused: no key of the header needs this rule @ WeightRenaming(norm.gamma -> norm.scale)",
        '    try       correct its patterns, remove it, or name it: optional=["norm.gamma"]',
    ]
    assert "cast from F32 to F16" in found["test_lossy[round_trip]"].text
    assert "say lossy=True" in found["test_lossy[save_back]"].text
    assert "after-converter: rule 3 changes the name" in found["test_lint[lint]"].text
    assert 'allow=["after-converter"]' in found["test_lint[lint]"].text


def test_way_through_the_library_is_shown_on_request(author):
    full = outcomes(author, "-k", "test_no_parameter and coverage", "--full-trace")
    assert "laws.py" in full["test_no_parameter[coverage]"].text


def test_tests_are_selected_by_their_marker_and_named_after_their_file(author):
    author.makepyfile(test_other="def test_other_good(): pass")
    result = author.runpytest_subprocess("-p", PLUGIN, "-m", "weighbridge", "-k", "good", "-v")
    assert result.parseoutcomes()["passed"] == len(LAWS)
    lines = [line for line in result.outlines if "good" in line]
    assert len(lines) == len(LAWS)
    assert all(line.startswith("test_maps.py::test_good[") and "<-" not in line for line in lines)


def test_plugin_loads_nothing_of_ours(author):
    author.makepyfile(
        test_light="""
        import sys

        def test_light():
            assert "_weighbridge_pytest" in sys.modules
            assert not {"weighbridge", "torch", "hypothesis", "numpy"} & set(sys.modules)
        """
    )
    author.runpytest_subprocess("-p", PLUGIN, "test_light.py").assert_outcomes(passed=1)


def test_importing_the_checks_loads_no_torch_and_no_hypothesis():
    script = "import sys, weighbridge.testing; print(*{'torch', 'hypothesis', 'pytest'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout == "\n"


def test_plugin_is_what_the_package_offers_to_pytest():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"weighbridge": PLUGIN}


# ---- strategies ----


@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral", "llava", "detr"])
def test_drawn_headers_can_be_planned(name):
    mapping = default_registry.find(name)

    @settings(max_examples=20)
    @given(headers(mapping))
    def planned(header):
        plan = wb.plan(header, mapping)
        assert plan.source.keys() == header.keys()
        assert any(step.rules for step in plan.steps)

    planned()


@settings(max_examples=50)
@given(checkpoints(RULES))
def test_drawn_checkpoints_come_back(tensors):
    plan = wb.plan(tensors, RULES)
    assert wb.verify(plan.inverse().state_dict(plan.state_dict()), tensors)


@settings(max_examples=50)
@given(keys(RULES))
def test_drawn_keys_are_changed(key):
    (traced,) = trace_keys(prepare(MAPPING), [key], [])
    assert traced.trace.fired or traced.trace.hit is not None


@settings(max_examples=200)
@given(mappings())
def test_drawn_mappings_are_mappings(mapping):
    assert Mapping.from_dict(json.loads(json.dumps(mapping.to_dict()))) == mapping


def test_every_converter_of_the_families_is_reached():
    found = {default_registry.find(name) for name in MODULES}
    missed = [
        transform
        for mapping in found
        for number, transform in enumerate(mapping)
        if isinstance(transform, WeightConverter) and number not in {rule for rule, _ in groups_of(mapping)}
    ]
    assert missed == []


def test_strategies_of_a_mapping_that_matches_nothing():
    with pytest.raises(wb.MappingError) as caught:
        headers([])
    assert caught.value.code == "mapping-invalid"


def test_strategies_ask_for_hypothesis(tmp_path):
    script = """
import sys
sys.modules["hypothesis"] = None
import weighbridge as wb
from weighbridge.testing import keys
try:
    keys([wb.WeightRenaming("a", "b")])
except wb.WeighbridgeError as error:
    print(error.code)
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "integration-version\n"
