"""Registries: which mapping a name has."""

from __future__ import annotations

import threading

import pytest

import weighbridge as wb

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
