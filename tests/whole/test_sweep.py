"""The sweep of the classes of transformers: ours and a tenth of the others, and that it finds what is wrong."""

from __future__ import annotations

import ctypes
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import weighbridge as wb
from weighbridge.integrations import transformers_mappings

transformers = pytest.importorskip("transformers", reason="needs the extra `transformers`")

import sweep  # noqa: E402
from sweeping import checks, children, classes, configurations, lines, page, reasons, totals  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own, of which it has many


PARTS = 8
"""Tests that share the classes; those of one folder stay together. Two of them run where nobody looks for more."""
RUN = range(PARTS) if os.environ.get("HYPOTHESIS_PROFILE") == "search" else (0, 3)


def named(name: str) -> classes.Named:
    return next(each for each in classes.names() if each.name == name)


def line_of(name: str, **options: Any) -> dict:
    line = checks.judge(named(name), **options)
    assert line is not None
    return line


# ---- the classes ----


@pytest.mark.parametrize("part", RUN)
def test_each_class_is_as_it_should_be_or_has_a_reason(part):
    looked_at = Counter()
    for each in classes.chosen(classes.names(), as_tests=True):
        if sum(each.family.encode()) % PARTS == part and classes.model_class(each) is not None:
            names = checks.HEADERS if classes.is_tenth(each) else checks.FILES
            line = checks.judge(each, by_value="none", quick=True, names=names)
            looked_at[line["built"] == "ok"] += 1
            for _, check in totals.differing([line]):
                assert reasons.reason_for(line, check), (each.name, check, line[check])
    assert looked_at[True] > 20


def test_whole_families_are_among_them():
    chosen = {each.name for each in classes.chosen(classes.names(), as_tests=True)}
    assert {"LlamaForCausalLM", "LlavaModel", "DetrForSegmentation", "CLIPTextModel", "Qwen2_5_VLModel"} <= chosen
    others = [each for each in classes.names() if not classes.is_ours(each)]
    assert 0.08 < sum(each.name in chosen for each in others) / len(others) < 0.12


@pytest.mark.parametrize("name", ["MixtralForCausalLM", "LlavaForConditionalGeneration", "T5ForConditionalGeneration"])
def test_values_are_equal(name):
    line = line_of(name, quick=True)
    assert line["values"] == "ok"
    assert [check for _, check in totals.differing([line]) if reasons.reason_for(line, check) is None] == []


def test_classes_are_found_without_what_cannot_be_made_or_run():
    assert classes.model_class(named("BertModel")) is transformers.BertModel
    for name in ("BertPreTrainedModel", "BertLayer", "PretrainedBartModel"):
        assert classes.model_class(named(name)) is None


# ---- a small model has all that a large one has ----


def test_a_small_model_has_every_kind_of_tensor():
    """DeepSeek's first layers are dense: with too few, there would be no experts."""
    kind = transformers.DeepseekV3ForCausalLM
    model, small = configurations.build(kind)
    names = set(configurations.by_name(model.state_dict()))
    assert any("experts" in name for name in names)
    assert small is not None
    assert len(model.state_dict()) < 60


def test_a_narrow_model_holds_little_and_has_the_same_names():
    model, small = configurations.build(transformers.MixtralForCausalLM)
    config = next(configurations.narrow(transformers.MixtralForCausalLM, model, small, 2**24))
    made = configurations.make(transformers.MixtralForCausalLM, config)
    assert made.state_dict().keys() == model.state_dict().keys()
    assert sum(tensor.nbytes for tensor in made.state_dict().values()) <= 2**24


def test_a_small_model_has_a_configuration_that_the_library_would_save():
    """Two layers of DINOv2 have no stage 12, which the configuration names."""
    model, _ = configurations.build(transformers.Dinov2Backbone)
    model.config.validate()
    config = configurations.reduced(transformers.EfficientLoFTRConfig(), configurations.Small(2))
    with pytest.raises(Exception, match="validate_architecture"):
        configurations.checked(config)


def test_of_what_cannot_be_imported_models_alone_have_a_line(tmp_path, monkeypatch):
    def refuse(each):
        raise ImportError(each.name)

    monkeypatch.setattr(sweep, "model_class", refuse)
    given = [each for each in classes.names() if each.family == "bert"]
    assert list(sweep.importable(iter(given), tmp_path / "lines")) == []
    written = {line["class"] for line in map(json.loads, (tmp_path / "lines").read_text().splitlines())}
    assert {"BertModel", "BertForMaskedLM"} <= written
    assert {"BertLayer", "BertPreTrainedModel"}.isdisjoint(written)


# ---- it can fail ----


@pytest.fixture
def wrong_mapping(monkeypatch):
    """Put rules behind those of a family."""
    registry = transformers_mappings.default_registry.copy()
    monkeypatch.setattr(transformers_mappings, "default_registry", registry)

    def change(name, rules):
        registry.register(name, wb.Mapping([*registry.find(name).transforms, *rules], name=name), overwrite=True)

    return change


def test_a_wrong_name_is_found(wrong_mapping):
    wrong_mapping("mixtral", [wb.WeightRenaming("^score_head", "lm_head")])
    line = line_of("MixtralForCausalLM", by_value="none", quick=True)
    found = line["saved"]
    assert (found["code"], found["ours"]) == ("as the library saves it", ["score_head.weight"])
    assert line["names"] == "ok"
    assert reasons.reason_for(line, "saved") is None


def test_tensors_that_change_places_are_found_by_value(wrong_mapping):
    wrong_mapping("mixtral", [wb.GroupWeightRename(["k_proj", "v_proj"], ["v_proj", "k_proj"])])
    line = line_of("MixtralModel", quick=True)
    assert (line["names"], line["library"]) == ("ok", "ok")
    assert line["values"]["code"] == "values"
    assert "layers.0.self_attn.k_proj.weight" in line["values"]["read otherwise than the library reads"]


def test_a_file_that_is_not_read_is_found(wrong_mapping):
    wrong_mapping("mixtral", [wb.WeightRenaming("^model.norm", "model.final_norm")])
    line = line_of("MixtralForCausalLM", by_value="none", quick=True)
    assert line["library"]["code"] == "as the library reads it"
    assert [check for _, check in totals.differing([line])] != []


# ---- children ----


def crash():
    ctypes.string_at(0)


def swell():
    return len(bytearray(40 * 2**30))


def test_a_child_that_hangs_crashes_or_swells_is_an_outcome(monkeypatch):
    monkeypatch.setattr(children, "MEMORY_BYTES", 32 * 2**30)  # this process holds more than the sweep's does
    work = {"fine": lambda: {"answer": 42}, "crash": crash, "swell": swell, "hang": lambda: time.sleep(60)}
    found = dict(children.run_each(work, lambda name: work[name](), jobs=2, seconds=3))
    assert found == {"fine": {"answer": 42}, "crash": "signal 11", "swell": "memory", "hang": "hang"}


def test_a_long_answer_comes_whole():
    assert dict(children.run_each([7], lambda item: "x" * 10**6)) == {7: "x" * 10**6}


def test_no_child_is_left_behind():
    before = own_children()
    for _ in children.run_each([1, 2, 3], lambda item: time.sleep(item - 1), jobs=3):
        assert own_children() > before
        break
    assert own_children() == before


def own_children() -> set[str]:
    return {child for task in Path("/proc/self/task").glob("*/children") for child in task.read_text().split()}


# ---- the file ----

WITH = {"transformers": "5.23.0", "source": "a"}
FINE = {"class": "One", "family": "f", "built": "ok", "saved": "ok", "head": "none"}
WRONG = {**FINE, "class": "Two", "saved": {"code": "differs", "counts": {"ours": 2}, "ours": ["a", "b"]}}
NOT_BUILT = {"class": "Three", "family": "f", "built": "ImportError: no | such"}


def test_a_sweep_goes_on_where_it_was_and_begins_anew_with_another_source(tmp_path):
    path = tmp_path / "sweep.jsonl"
    assert lines.begin(path, WITH) == []
    lines.append(path, FINE)
    with path.open("a") as file:
        file.write('{"class": "cut o')
    assert lines.begin(path, WITH) == [FINE]
    lines.append(path, WRONG)
    assert lines.done(lines.begin(path, WITH)) == {("f", "One"), ("f", "Two")}
    assert lines.begin(path, {**WITH, "source": "b"}) == []


def test_lines_that_are_well_can_be_kept(tmp_path):
    path = tmp_path / "sweep.jsonl"
    lines.begin(path, WITH)
    for line in (FINE, WRONG, NOT_BUILT):
        lines.append(path, line)
    assert lines.begin(path, {**WITH, "transformers": "5.24.0"}, sweep.is_well) == []
    lines.append(path, FINE)
    lines.append(path, WRONG)
    later = {**WITH, "transformers": "5.24.0", "source": "b"}
    assert lines.begin(path, later, sweep.is_well) == [FINE]
    assert lines.load(path) == (later, [FINE])


def test_the_source_is_part_of_what_a_sweep_was_made_with():
    assert lines.stamp()["transformers"] == transformers.__version__
    assert lines.stamp() == lines.stamp()


def test_totals_and_page_name_what_differs(tmp_path):
    path = tmp_path / "sweep.jsonl"
    lines.begin(path, WITH)
    for line in (FINE, WRONG, NOT_BUILT):
        lines.append(path, line)
    counted = dict(row.split(maxsplit=1) for row in totals.table([FINE, WRONG, NOT_BUILT]))
    assert counted["built"].split() == ["2", "of", "3", "1", "not", "built"]
    assert counted["saved"].split() == ["1", "of", "2", "1", "differs"]
    text = "\n".join(page.page([page.Sweep(*lines.load(path))]))
    assert "| saved | 1 of 2 |" in text
    assert "| Two | saved | ? | not looked at yet: differs 2 ours |" in text
    assert r"| Three | ImportError: no \| such |" in text


def test_a_reason_speaks_of_its_classes_and_checks(monkeypatch):
    reason = reasons.Reason(("T*",), ("saved",), "theirs", "It writes a name that nobody reads.", "differs", '"a"')
    monkeypatch.setattr(reasons, "REASONS", (reason,))
    assert reasons.reason_for(WRONG, "saved") == reason
    assert reasons.reason_for({**WRONG, "class": "Four"}, "saved") is None
    assert reasons.reason_for({**WRONG, "saved": {"code": "raw", "said": "a"}}, "saved") is None
    assert reasons.reason_for({**WRONG, "saved": {"code": "differs", "ours": ["b"]}}, "saved") is None


def test_every_reason_is_of_a_class_that_is_there():
    known = {each.name for each in classes.names()}
    for reason in reasons.REASONS:
        assert set(reason.checks) <= set(checks.CHECKS)
        for pattern in reason.classes:
            assert "*" in pattern or pattern in known, pattern


def test_the_command_writes_lines_and_goes_on(tmp_path, monkeypatch, capsys):
    path = tmp_path / "lines.jsonl"
    monkeypatch.setattr(sweep, "be_quiet", lambda: None)  # it is, for good
    command = ["sweep.py", "--only", "starcoder2", "--values", "none", "--out", str(path), "--jobs", "2"]
    for number, count in (("1", 1), ("2", 3)):
        monkeypatch.setattr("sys.argv", [*command, "--number", number])
        assert sweep.main() == 0
        assert f"built         {count} of     {count}" in capsys.readouterr().out
    names = [json.loads(line).get("class") for line in path.read_text().splitlines()[1:]]
    assert "Starcoder2Model" in names
    assert len(set(names)) == 3
