"""Registries: which mapping a name has."""

from __future__ import annotations

import threading

import pytest
import torch

import weighbridge as wb
from weighbridge import testing
from weighbridge.api import functions as api
from weighbridge.studies.lint import lint

NORMS = [wb.WeightRenaming("gamma", "weight")]
OTHER = [wb.WeightRenaming("beta", "bias")]


@pytest.fixture
def registry() -> wb.Registry:
    return wb.Registry(use_entry_points=False)


def test_the_class_name_wins_over_the_model_type(registry):
    """Two classes of one model type have mappings of their own, and nothing leaks from one into the other."""
    registry.register("detr", NORMS)
    registry.register("DetrForSegmentation", OTHER)
    assert registry.find("DetrForSegmentation", "detr").transforms == tuple(OTHER)
    assert registry.find("DetrForObjectDetection", "detr").transforms == tuple(NORMS)


def test_a_mapping_takes_the_name_it_is_registered_under_unless_it_has_one(registry):
    assert registry.register("llava", NORMS).name == "llava"
    assert registry.register("other", wb.Mapping(NORMS, name="own")).name == "own"
    assert registry.find("llava") == registry.register("llava", NORMS, overwrite=True)


def test_a_taken_name_is_refused_unless_it_is_to_be_replaced(registry):
    registry.register("llava", NORMS)
    for taken in (lambda: registry.register("llava", OTHER), lambda: registry.alias("llava", "llava")):
        with pytest.raises(wb.RegistryError, match="mapping-exists"):
            taken()
    assert registry.find("llava").transforms == tuple(NORMS)
    registry.register("llava", OTHER, overwrite=True)
    assert registry.find("llava").transforms == tuple(OTHER)


def test_no_mapping_and_the_identity_are_different_answers(registry):
    registry.register("gpt2", [])
    assert len(registry.find("gpt2")) == 0
    with pytest.raises(wb.RegistryError) as caught:
        registry.find("gpt3")
    assert caught.value.code == "mapping-not-found"
    assert "gpt2" in caught.value.got
    assert isinstance(caught.value, LookupError)


def test_an_alias_follows_what_it_stands_for(registry):
    registry.register("llava", NORMS)
    registry.alias("vipllava", "llava")
    registry.alias("third", "vipllava")
    registry.register("llava", OTHER, overwrite=True)
    assert registry.find("vipllava").transforms == registry.find("third").transforms == tuple(OTHER)
    assert list(registry) == ["llava", "third", "vipllava"]
    with pytest.raises(wb.RegistryError, match="mapping-not-found"):
        registry.alias("x", "absent")
    with pytest.raises(wb.RegistryError, match="mapping-exists"):
        registry.alias("llava", "third", overwrite=True)


def test_an_alias_can_be_replaced_by_a_mapping_of_its_own(registry):
    registry.register("llava", NORMS)
    registry.alias("vipllava", "llava")
    registry.register("vipllava", OTHER, overwrite=True)
    assert registry.find("llava").transforms == tuple(NORMS)
    assert registry.find("vipllava").transforms == tuple(OTHER)


def test_a_copy_changes_on_its_own(registry):
    registry.register("llava", NORMS)
    twin = registry.copy()
    twin.register("extra", OTHER)
    assert "extra" in twin
    assert "extra" not in registry
    assert "llava" in twin
    assert 3 not in twin


def test_the_default_registry_is_one_of_many():
    wb.register("TestsOnlyModel", NORMS)
    try:
        assert "TestsOnlyModel" in wb.default_registry
        header = wb.Header({"norm.gamma": wb.TensorSpec("F32", (2,))})
        assert list(wb.plan(header, "TestsOnlyModel").target) == ["norm.weight"]
    finally:
        wb.default_registry._mappings.pop("TestsOnlyModel")


def test_many_threads_register_each_name_once(registry):
    refused = []

    def register_all():
        for number in range(50):
            try:
                registry.register(f"name{number}", NORMS)
            except wb.RegistryError:
                refused.append(number)

    threads = [threading.Thread(target=register_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(registry)) == 50
    assert len(refused) == 150


def test_what_is_no_mapping_is_not_registered(registry):
    with pytest.raises(wb.MappingError):
        registry.register("x", [3])
    assert "x" not in registry


def test_a_path_stands_for_the_mapping_in_it_wherever_one_is_taken(tmp_path, monkeypatch, registry):
    monkeypatch.setattr(api, "default_registry", registry)
    path = tmp_path / "norms.yaml"
    path.write_text("transforms: [{rename: gamma, to: weight}]\n")
    assert wb.register("Norms", str(path)).transforms == wb.register("norms", path).transforms == (NORMS[0],)
    header = wb.Header({"norm.gamma": wb.TensorSpec("F32", (4,))})
    assert list(wb.plan(header, path).target) == ["norm.weight"]
    assert not lint(str(path), header).findings
    testing.weighbridge_check(path, header)("coverage")
    assert testing.keys(str(path)) is not None
    with pytest.raises(wb.MappingError) as caught:
        wb.Mapping(str(path))
    assert (caught.value.code, "load_mapping" in caught.value.hint) == ("mapping-invalid", True)


def test_a_misspelt_path_names_the_files_that_are_there(tmp_path):
    (tmp_path / "norms.yaml").write_text("transforms: [{rename: gamma, to: weight}]\n")
    for name, code in (("norms.yamll", "mapping-not-found"), ("norm.yaml", "mapping-file")):
        with pytest.raises(wb.WeighbridgeError) as caught:
            wb.plan({"a": torch.ones(2)}, str(tmp_path / name))
        assert (caught.value.code, "nearest: norms.yaml" in caught.value.got) == (code, True)


def test_convert_says_which_of_its_arguments_are_swapped(tmp_path):
    with pytest.raises(wb.WeighbridgeError) as caught:
        wb.convert({"a": torch.ones(2)}, tmp_path / "fix.yaml", str(tmp_path / "out"))
    assert (caught.value.code, caught.value.expected) == ("usage", "SOURCE DESTINATION MAPPING")
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_a_mapping_is_told_how_to_have_none():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with pytest.raises(wb.RegistryError) as caught:
        wb.load(model, model.state_dict())
    assert (caught.value.code, "give [] as the mapping" in caught.value.hint) == ("mapping-not-found", True)
    assert wb.load(model, model.state_dict(), []).fates()["target"] == {"filled": 2}


def test_a_name_says_where_it_comes_from(registry):
    registry.provide(["llava", "detr"], lambda name: wb.Mapping(), lambda name: f"package.{name}")
    registry.register("detr", NORMS, overwrite=True)
    registry.alias("vipllava", "llava")
    assert registry.origin("llava") == ("built in", "package", "package.llava")
    assert registry.origin("detr") == ("registered", "", "")
    assert registry.origin("vipllava") == ("registered", "", "llava")
    assert registry.copy().origin("llava") == registry.origin("llava")
    with pytest.raises(wb.RegistryError) as caught:
        registry.origin("nowhere")
    assert caught.value.code == "mapping-not-found"


def test_a_loader_stands_for_the_module_of_its_mappings(registry):
    registry.provide(["llava"], lambda name: wb.Mapping())
    assert registry.origin("llava").place == __name__
