"""The way back by rules alone: where a missing tensor would have come from, and what an untold one is saved as."""

import logging
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import weighbridge as wb
from weighbridge.planning.way_back.origins import find_origins, find_rivals
from weighbridge.testing import laws

RULES = """\
name: fix
transforms:
  - rename: ^module.blocks
    to: layers
  - rename: ^module.final_norm.scale
    to: norm.weight
  - rename: ln.scale
    to: norm.weight
  - convert: [attn.q, attn.k]
    to: attn.qk
    with: [Concatenate: {dim: 0}]
"""


class Layer(torch.nn.Module):
    """A norm and a fused projection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(5, bias=False)
        self.attn = torch.nn.Module()
        self.attn.qk = torch.nn.Parameter(torch.randn(6, 5))
        self.up = torch.nn.Linear(5, 7, bias=False)


class Small(torch.nn.Module):
    """Two layers and a last norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([Layer(), Layer()])
        self.norm = torch.nn.LayerNorm(5, bias=False)


def trained() -> dict[str, torch.Tensor]:
    """A checkpoint that a trainer could have written for `Small`."""
    made = {"module.final_norm.scale": torch.randn(5)}
    for i in range(2):
        made[f"module.blocks.{i}.ln.scale"] = torch.randn(5)
        made[f"module.blocks.{i}.attn.q"] = torch.randn(3, 5)
        made[f"module.blocks.{i}.attn.k"] = torch.randn(3, 5)
        made[f"module.blocks.{i}.up.weight"] = torch.randn(7, 5)
    return made


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a trainer's checkpoint that lacks one norm and has one tensor too many, a target, and rules."""
    source = trained()
    del source["module.blocks.1.ln.scale"]
    source["module.ema"] = torch.tensor(0.5)
    save_file(source, tmp_path / "trainer.safetensors")
    save_file(Small().state_dict(), tmp_path / "base.safetensors")
    (tmp_path / "fix.yaml").write_text(RULES)
    return tmp_path


def command(place: Path, line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of a shell that begins with the command's name."""
    words = shlex.split(line)
    assert words[0] == "weighbridge"
    ran = [sys.executable, "-m", "weighbridge", *words[1:]]
    environment = {**os.environ, "PYTHONPATH": str(Path(wb.__file__).parents[1])}
    return subprocess.run(ran, cwd=place, env=environment, capture_output=True, text=True, check=False)


# ---- where a missing tensor would come from ----


def test_missing_target_is_reported_with_its_origin_and_the_sibling(place: Path) -> None:
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(place / "trainer.safetensors", place / "fix.yaml", place / "base.safetensors")
    missing, unplaced = caught.value.problems
    assert (missing.code, missing.where) == ("target-missing", "layers.1.norm.weight")
    assert missing.expected == "module.blocks.1.ln.scale, of which rules 1 and 3 would make it"
    assert missing.got.startswith("nearest sources: module.blocks.0.ln.scale")
    assert (unplaced.code, unplaced.where) == ("source-unplaced", "module.ema")


def test_missing_target_without_a_rule_is_shown_sources_of_its_shape(place: Path) -> None:
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(place / "trainer.safetensors", [wb.WeightRenaming("attn.q", "attn.q")], place / "base.safetensors")
    got = {problem.where: problem.got for problem in caught.value.problems}
    assert got["norm.weight"].startswith("nearest sources: module.final_norm.scale")
    assert "norm.weight" in got["module.final_norm.scale"].removeprefix("nearest targets: ").split(", ")


def test_hint_of_a_failure_can_be_typed_as_it_is_printed(place: Path) -> None:
    failed = command(place, "weighbridge plan trainer.safetensors fix.yaml --target base.safetensors")
    assert failed.returncode == 3
    (hint,) = [line for line in failed.stderr.splitlines() if line.startswith("  try ")]
    typed = hint.removeprefix("  try ").strip().partition(", which shows")[0]
    assert typed == "weighbridge explain trainer.safetensors fix.yaml layers.1.norm.weight --target base.safetensors"
    explained = command(place, typed)
    assert explained.returncode == 3
    assert "weighbridge explain" not in explained.stderr, "the hint to explain is of no use to who has explained"
    lines = explained.stdout.splitlines()
    assert lines[0] == "layers.1.norm.weight   target"
    assert lines[1].startswith("  origin   module.blocks.1.ln.scale: not in the source")
    assert lines[2].startswith("  nearest  module.blocks.0.ln.scale")
    assert "      fired: layers.1.ln.scale -> layers.1.norm.weight" in lines


def test_hint_repeats_the_options_that_were_given(place: Path) -> None:
    words = "--carry module.blocks.0.up --base-prefix 'a b' --target base.safetensors"
    failed = command(place, f"weighbridge convert trainer.safetensors out fix.yaml {words}")
    assert failed.returncode == 3
    (hint,) = [line for line in failed.stderr.splitlines() if line.startswith("  try ")]
    typed = shlex.split(hint.removeprefix("  try ").partition(", which shows")[0])
    assert typed[5:] == ["--target", "base.safetensors", "--carry", "module.blocks.0.up", "--base-prefix", "a b"]


def test_hint_in_python_is_a_call_that_works(place: Path) -> None:
    arguments = place / "trainer.safetensors", place / "fix.yaml", place / "base.safetensors"
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(*arguments)
    assert "(in Python: plan(..., partial=True).explain('layers.1.norm.weight'))" in caught.value.hint
    explained = wb.plan(*arguments, partial=True).explain("layers.1.norm.weight")
    assert explained.origins == ("module.blocks.1.ln.scale",)
    assert explained.to_dict()["origins"] == ["module.blocks.1.ln.scale"]
    assert [tried.outcome for tried in explained.tried] == ["fired", "no match", "fired", "no match"]


def test_origin_of_a_stack_names_its_first_members() -> None:
    stack = wb.WeightConverter(
        ["experts.*.gate", "experts.*.up"], "experts.gate_up", [wb.MergeModulelist(dim=0), wb.Concatenate(dim=1)]
    )
    mapping = wb.Mapping([wb.WeightRenaming("^h", "layers"), stack])
    assert str(find_origins(mapping, ["layers.3.experts.gate_up"])["layers.3.experts.gate_up"]) == (
        "h.3.experts.0.gate, h.3.experts.0.up, of which rules 1 and 2 would make it"
    )
    back = find_origins(mapping.inverse(), ["h.3.experts.7.up"])
    assert back["h.3.experts.7.up"].sources == ("layers.3.experts.gate_up",)


def test_rule_without_an_inverse_has_no_origin() -> None:
    mapping = wb.Mapping([wb.WeightRenaming("(a|b).w", "c.w"), wb.WeightRenaming("^x", "y")])
    assert set(find_origins(mapping, ["c.w", "y.w", "z.w"])) == {"y.w"}


def test_every_code_has_a_part_in_what_a_long_failure_prints(tmp_path: Path) -> None:
    names = ["alpha", "beta", "gamma", "delta", "kappa", "lambda", "omega", "sigma", "theta", "zeta"]
    source = wb.Header({f"old.{name}": wb.TensorSpec("F32", (4,)) for name in names})
    target = wb.Header({f"{name}.new": wb.TensorSpec("F32", (3,)) for name in names})
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, [], target)
    lines = str(caught.value).splitlines()
    assert sum(line.startswith("  target-missing") for line in lines) == 6
    assert sum(line.startswith("  source-unplaced") for line in lines) == 6
    assert lines[-3:] == [
        "  … and 4 more of target-missing",
        "  … and 4 more of source-unplaced",
        "  … the error's `problems` are all of them",
    ]


# ---- what is saved, and under which name ----


def test_initialised_tensors_are_saved_under_the_names_that_the_rules_give_them(tmp_path: Path) -> None:
    """A rename and a whole converter's group: the trainer can read the file again."""
    source = {key: value for key, value in trained().items() if ".1.ln" not in key and ".0.attn" not in key}
    model = Small()
    wb.load(model, source, wb.Mapping.from_yaml(RULES), initialise=["layers.1.norm", "layers.0.attn.qk"])
    saved = wb.open(wb.save(model, tmp_path / "out"))
    assert {key: spec.shape for key, spec in saved.header.items()} == {
        key: tuple(value.shape) for key, value in trained().items()
    }
    assert torch.equal(saved.tensor("module.blocks.1.ln.scale"), model.layers[1].norm.weight)
    assert torch.equal(saved.tensor("module.blocks.0.attn.k"), model.layers[0].attn.qk[3:])


def test_rule_without_an_inverse_keeps_no_other_from_naming_what_is_saved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one_way = [wb.WeightRenaming("^module.blocks", "layers"), wb.WeightRenaming("(up|side).weight", "up.weight")]
    source = {key.replace("ln.scale", "norm.weight"): value for key, value in trained().items() if "attn" not in key}
    source["norm.weight"] = source.pop("module.final_norm.scale")
    del source["module.blocks.1.up.weight"]
    model = Small()
    wb.load(model, source, one_way, initialise=["layers.1.up", "attn.qk"])
    with caplog.at_level(logging.WARNING, "weighbridge"):
        saved = wb.open(wb.save(model, tmp_path / "out"))
    assert torch.equal(saved.tensor("module.blocks.0.attn.qk"), model.layers[0].attn.qk)
    assert torch.equal(saved.tensor("module.blocks.1.up.weight"), model.layers[1].up.weight)
    assert caplog.records == []


def test_initialised_tensor_whose_published_name_is_taken_keeps_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A source of another use stands under the very name: it is carried, and the new tensor goes beside it."""
    source = trained()
    transforms = [rule for rule in wb.Mapping.from_yaml(RULES) if rule.source_patterns != ("ln.scale",)]
    ln = wb.WeightRenaming(r"(?<=\d).ln.scale", ".norm.weight")
    carried = wb.Mapping([*transforms, ln], carry=["^module.final_norm"])
    model = Small()
    wb.load(model, source, carried, initialise=["^norm.weight"])
    with caplog.at_level(logging.WARNING, "weighbridge"):
        saved = wb.open(wb.save(model, tmp_path / "out"))
    assert torch.equal(saved.tensor("norm.weight"), model.norm.weight)
    assert torch.equal(saved.tensor("module.final_norm.scale"), source["module.final_norm.scale"])
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["norm.weight"]


GENERAL = wb.Mapping(
    [wb.WeightRenaming("^stem.kernel", "conv.weight"), wb.WeightRenaming(r"\.w$", ".weight")], name="general"
)


def test_way_back_by_a_general_rule_names_the_special_one() -> None:
    plan = wb.plan(wb.Header({"conv.weight": wb.TensorSpec("F32", (4,))}), GENERAL.inverse())
    assert list(plan.target) == ["conv.w"]
    (note,) = plan.notes
    assert note.startswith("conv.weight goes back to conv.w, by rule 2; rule 1 would make it of stem.kernel")
    ordered = wb.Mapping(reversed(GENERAL.transforms), name="ordered")
    better = wb.plan(wb.Header({"conv.weight": wb.TensorSpec("F32", (4,))}), ordered.inverse())
    assert (list(better.target), better.notes) == (["stem.kernel"], ()), "what the note advises is what helps"


def test_tensor_that_is_carried_back_under_its_name_leaves_no_choice_open() -> None:
    header = wb.Header({key: wb.TensorSpec("F32", (4,)) for key in ("conv.weight", "up.weight")})
    plan = wb.plan(header, GENERAL.inverse(), carry=["conv.weight"])
    assert sorted(plan.target) == ["conv.weight", "up.w"]
    assert [line.partition(" goes back")[0] for line in plan.choices] == ["up.weight"]


def test_special_rule_that_takes_a_name_first_is_no_reason_for_a_note() -> None:
    special = wb.Mapping([wb.WeightRenaming(r"\.w$", ".weight"), wb.WeightRenaming("pre.gamma", "norm.weight")])
    assert find_rivals(special, ["layers.0.norm.weight", "layers.0.up.weight"]) == {}


def test_rename_that_could_have_written_the_name_of_a_joined_tensor_is_no_reason_for_a_note() -> None:
    join = wb.WeightConverter(["q", "k", "v"], "qkv", [wb.Concatenate(0)])
    assert find_rivals(wb.Mapping([wb.WeightRenaming("fused", "qkv"), join]), ["attn.qkv"]) == {}


def test_inverse_law_tells_names_from_sizes() -> None:
    header = wb.Header({"stem.kernel": wb.TensorSpec("F32", (4,)), "out.w": wb.TensorSpec("F32", (2,))})
    with pytest.raises(wb.VerifyError) as caught:
        laws.check_inverse(GENERAL, header)
    assert "rule 1 would make it of stem.kernel" in caught.value.got
    assert caught.value.hint.startswith("order or narrow the rules")
    uneven = wb.Mapping([wb.WeightConverter(["q", "k"], "qk", [wb.Concatenate(dim=0)])], name="uneven")
    sizes = wb.Header({"q": wb.TensorSpec("F32", (4, 3)), "k": wb.TensorSpec("F32", (2, 3))})
    with pytest.raises(wb.VerifyError) as caught:
        laws.check_inverse(uneven, sizes)
    assert caught.value.hint.startswith("declare sizes")


def test_note_on_equal_sizes_has_the_number_of_the_rule_as_it_is_written() -> None:
    join = wb.WeightConverter(["q", "k"], "qk", [wb.Concatenate(dim=0)])
    mapping = wb.Mapping([*(wb.WeightRenaming(f"^a{i}", f"b{i}") for i in range(4)), join], name="fifth")
    plan = wb.plan(wb.Header({"qk": wb.TensorSpec("F32", (4, 3))}), mapping.inverse())
    assert plan.notes == ("rule 5 takes q, k to be of equal size; declare Concatenate(sizes=...) if they are not",)


# ---- what of a mapping is used ----


def test_rules_and_exceptions_without_a_tensor_are_reported(place: Path) -> None:
    (place / "typo.yaml").write_text("drop: [module.emma]\n" + RULES.replace("^module.final_norm", "^module.last_norm"))
    planned = command(place, "weighbridge plan trainer.safetensors typo.yaml")
    line = 'unused    rule 2, drop "module.emma": no tensor here has such a name'
    assert planned.returncode == 0
    assert line in planned.stdout.splitlines()
    converted = command(place, "weighbridge convert trainer.safetensors out typo.yaml")
    assert converted.returncode == 0
    assert line in converted.stdout.splitlines()
    form = wb.plan(place / "trainer.safetensors", place / "typo.yaml").report.to_dict()
    assert form["unused"] == {"rules": (2,), "exceptions": ('drop "module.emma"',)}


def test_report_of_a_used_mapping_has_no_such_line(place: Path) -> None:
    plan = wb.plan(place / "trainer.safetensors", place / "fix.yaml", drop=["module.ema"], carry=["final_norm"])
    assert "unused    rule 2:" in str(plan.report), "what is carried passes by the rule"
    plan = wb.plan(place / "trainer.safetensors", place / "fix.yaml", drop=["module.ema"])
    assert "unused" not in str(plan.report)
    assert "unused" not in str(plan.restrict("layers.0.up.weight").report), "a part of a plan does not need all"


def test_one_of_a_thing_is_not_called_several(place: Path) -> None:
    save_file({"old": torch.tensor([1, 2])}, place / "one.safetensors")
    save_file({"new": torch.tensor([1, 2]), "lost": torch.zeros(3)}, place / "two.safetensors")
    (place / "one.yaml").write_text(
        "transforms: [{rename: old, to: new}]\ninitialise: [{pattern: lost, why: the trainer lost it}]\n"
    )
    planned = command(place, "weighbridge plan one.safetensors one.yaml --target two.safetensors").stdout.splitlines()
    assert planned[0] == "plan      1 transform: 1 -> 1 tensor, reading: mapped"
    assert "copies    1 in 1 program" in planned
    converted = command(place, "weighbridge convert one.safetensors out one.yaml --target two.safetensors").stdout
    assert "out: 1 tensor, 16 B" in converted
    assert "note      1 target has no values: the trainer lost it" in converted
    assert "dtype     I64: 1 tensor, 16 B" in command(place, "weighbridge inspect one.safetensors").stdout
    plan = wb.plan(place / "one.safetensors", place / "one.yaml", place / "two.safetensors")
    assert [fated.by for fated in plan.inverse().dropped] == ["not in the source, initialised: the trainer lost it"]


def test_list_in_python_that_is_no_mapping_is_named_with_its_file(place: Path) -> None:
    (place / "wrong.py").write_text("M = [1]\n")
    failed = command(place, "weighbridge plan trainer.safetensors wrong.py:M")
    assert failed.stderr.splitlines()[0] == "mapping-invalid: this is no transform @ wrong.py:M"


@pytest.mark.parametrize(
    ("mapping", "why"),
    [
        ([wb.WeightRenaming("classifier", "score")], "of which rule 1 makes score.bias"),
        (
            wb.Mapping([wb.WeightRenaming("x", "y")], drop=[wb.Drop("classifier.bias", "not wanted")]),
            "which this reading calls otherwise, or drops",
        ),
    ],
    ids=["renamed", "dropped"],
)
def test_e_name_of_its_own_is_not_the_nearest_of_a_missing_tensor(mapping: object, why: str) -> None:
    """The source is there, and a rule or a drop keeps it from the target of this name."""
    spec = wb.TensorSpec("F32", (2, 2))
    source = wb.Header(dict.fromkeys(("encoder.w", "encoder.x", "classifier.bias"), spec))
    target = wb.Header(dict.fromkeys(("bert.encoder.w", "bert.encoder.y", "classifier.bias"), spec))
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, mapping, target=target, layout="mapped")
    found = {problem.where: problem for problem in caught.value.problems if problem.code == "target-missing"}
    said, *nearest = found["classifier.bias"].got.split("\n")
    assert said == f"the source classifier.bias, {why}"
    assert not any("classifier.bias" in line for line in nearest)
    for problem in caught.value.problems:
        lists = [line for line in problem.got.split("\n") if line.startswith("nearest")]
        assert not any(problem.where in line.partition(": ")[2].split(", ") for line in lists)
