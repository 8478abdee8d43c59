"""Resolution: which mapping each model inside a model gets, and where it is mounted."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

import weighbridge as wb
from weighbridge.mappings.mapping import Part
from weighbridge.models.resolve import find_mounts, resolve, resolve_config
from weighbridge.models.wrappers import layout_class, unwrap

NORMS = [wb.WeightRenaming("gamma", "weight")]
OTHER = [wb.WeightRenaming("^beta", "bias")]


def model_class(name: str, model_type: str = "", *, library: bool = True) -> Any:
    """Make a model class as the library has them: with a configuration and a base prefix, holding given sub-models."""

    def init(self: torch.nn.Module, **children: torch.nn.Module) -> None:
        torch.nn.Module.__init__(self)
        self.config = SimpleNamespace(model_type=model_type or None)
        for child_name, child in children.items():
            self.add_module(child_name, child)

    place = "transformers.models.toy" if library else "somebody.elses"
    return type(name, (torch.nn.Module,), {"__init__": init, "base_model_prefix": "model", "__module__": place})


ToyModel, ToyForClass = model_class("ToyModel", "toy"), model_class("ToyForClassification", "toy")
Tower, Wrapper = model_class("Tower", "tower"), model_class("Composite", "composite")


def registry(**mappings: Any) -> wb.Registry:
    made = wb.Registry(use_entry_points=False)
    made.provide(mappings, lambda name: mappings[name])
    return made


def places(model: torch.nn.Module, *registries: wb.Registry) -> list[tuple[str, str]]:
    return [(mount.path, mount.name) for mount in find_mounts(model, *registries)]


def test_the_class_name_wins_over_the_model_type():
    both = registry(ToyForClassification=OTHER, toy=NORMS)
    assert places(ToyForClass(), both) == [("", "ToyForClassification")]
    assert places(ToyModel(), both) == [("", "toy")]


def test_a_mapping_found_by_type_speaks_for_its_subtree():
    model = ToyForClass(model=ToyModel(inner=ToyModel()))
    assert places(model, registry(toy=NORMS)) == [("", "toy")]


def test_a_mapping_found_by_class_does_not_hide_models_of_its_type():
    model = ToyForClass(model=ToyModel())
    assert places(model, registry(ToyForClassification=OTHER, toy=NORMS)) == [
        ("", "ToyForClassification"),
        ("model", "toy"),
    ]


def test_a_mapping_found_by_type_does_not_hide_a_class_of_its_own():
    model = ToyForClass(model=ToyModel())
    assert places(model, registry(toy=NORMS, ToyModel=OTHER)) == [("", "toy"), ("model", "ToyModel")]


def test_a_mapping_can_claim_what_lies_inside():
    whole = wb.Mapping(NORMS, claims=["Tower"])
    assert places(Wrapper(tower=Tower()), registry(composite=whole, Tower=OTHER)) == [("", "composite")]


def test_siblings_each_get_their_own():
    model = Wrapper(left=Tower(), right=Tower(deep=Tower()))
    assert places(model, registry(tower=NORMS)) == [("left", "tower"), ("right", "tower")]


def test_the_same_module_in_two_places_gets_the_rules_in_both():
    shared = Tower()
    assert places(Wrapper(left=shared, right=shared), registry(tower=NORMS)) == [("left", "tower"), ("right", "tower")]


def test_an_anchor_in_a_sub_models_rule_is_the_start_of_its_own_keys():
    """And a sibling, a parent, and a name that only begins alike are not touched."""
    model = Wrapper(model=Tower(), model_b=ToyModel())
    rules = resolve(model, registry(tower=OTHER))
    keys = ("model.beta", "model.inner.beta", "model_b.beta", "beta")
    header = wb.Header({key: wb.TensorSpec("F32", (2,)) for key in keys})
    assert set(wb.plan(header, rules).target) == {"model.bias", "model.inner.beta", "model_b.beta", "beta"}


def test_the_root_comes_before_what_it_holds():
    rules = resolve(Wrapper(tower=Tower()), registry(tower=NORMS, composite=OTHER))
    assert [transform.scope for transform in rules] == ["", "tower"]
    assert rules.base_prefix == "model"


def test_a_root_rename_and_a_converter_of_a_sub_model_chain_on_one_key_both_ways():
    """The order that needs an interleaved list: the rename brings the keys to where the converter sees them."""
    fuse = wb.WeightConverter(["q_proj", "k_proj"], "qk_proj", [wb.Concatenate(dim=0)])
    move = wb.WeightRenaming("^old", "model.vlm")
    model = Wrapper(model=Wrapper(vlm=Tower()))
    rules = resolve(model, registry(composite=[move], tower=[fuse]))
    assert [transform.scope for transform in rules] == ["", "model.vlm"]
    source = wb.Header({"old.q_proj": wb.TensorSpec("F32", (2, 3)), "old.k_proj": wb.TensorSpec("F32", (2, 3))})
    plan = wb.plan(source, rules)
    assert dict(plan.target.specs) == {"model.vlm.qk_proj": wb.TensorSpec("F32", (4, 3))}
    assert set(wb.plan(plan.target, rules.inverse()).target) == set(source)


def test_custom_code_inherits_nothing_that_is_built_in():
    built_in = registry(tower=NORMS, Tower=OTHER)
    custom = model_class("Tower", "tower", library=False)()
    assert places(custom, built_in) == []
    assert resolve(custom, built_in).transforms == ()
    with pytest.raises(wb.RegistryError) as caught:
        resolve(custom, built_in, required=True)
    assert caught.value.code == "mapping-not-found"
    built_in.register("Tower", NORMS, overwrite=True)
    assert places(custom, built_in) == [("", "Tower")]


def test_registered_class_names_reach_plain_modules():
    class Plain(torch.nn.Module):
        pass

    made = wb.Registry(use_entry_points=False)
    made.register("Plain", NORMS)
    assert places(torch.nn.Sequential(Plain(), torch.nn.ReLU(), Plain()), made) == [("0", "Plain"), ("2", "Plain")]


def test_an_earlier_registry_speaks_for_a_type_in_the_place_of_later_ones():
    families, table = registry(toy=NORMS), registry(ToyModel=OTHER, tower=OTHER)
    model = ToyForClass(model=ToyModel(), tower=Tower())
    assert places(model, families, table) == [("", "toy"), ("tower", "tower")]


def test_resolution_is_computed_once_until_the_registry_changes():
    made, model = wb.Registry(use_entry_points=False), Tower()
    made.register("tower", [])
    first = resolve(model, made)
    assert resolve(model, made) is first
    made.register("Tower", NORMS)
    assert resolve(model, made).transforms == tuple(NORMS)


def test_resolution_does_not_keep_a_model_alive():
    import weakref

    model = Tower()
    resolve(model, registry(tower=NORMS))
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


def test_a_sub_models_exceptions_keep_to_its_own_weights():
    rule = wb.Initialise("^norm.weight", "never used")
    rules = resolve(Wrapper(tower=Tower()), registry(tower=wb.Mapping(initialise=[rule])))
    header = wb.Header({key: wb.TensorSpec("F32", (2,)) for key in ("tower.norm.weight", "tower.weight")})
    source = wb.Header({"tower.weight": wb.TensorSpec("F32", (2,))})
    assert [fated.key for fated in wb.plan(source, rules, target=header).initialised] == ["tower.norm.weight"]
    with pytest.raises(wb.PlanError):
        wb.plan(source, rules, target=wb.Header({**header.specs, "norm.weight": wb.TensorSpec("F32", (2,))}))


def test_a_configuration_alone_gives_the_same_rules_as_a_model():
    parts = [Part("left", "left_config"), Part("right", "right_config", (("tower", "Tower"),))]
    made = registry(composite=wb.Mapping(OTHER, parts=parts), tower=NORMS)
    config = {
        "model_type": "composite",
        "left_config": {"model_type": "tower"},
        "right_config": {"model_type": "tower"},
    }
    found = resolve_config(config, made)
    assert found.transforms == resolve(Wrapper(left=Tower(), right=Tower()), made).transforms
    assert resolve_config(SimpleNamespace(**config), made).transforms == found.transforms


trees = st.recursive(
    st.builds(dict),
    lambda inner: st.dictionaries(st.sampled_from(["a", "b", "model"]), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=1000, deadline=None)
@given(tree=trees, types=st.lists(st.sampled_from(["x", "y", "z"]), min_size=20, max_size=20))
def test_every_model_is_spoken_for_exactly_once(tree, types):
    """Law: with a mapping for each type, a model has its own if and only if no model around it is of its type."""
    remaining = iter(types * 3)
    kinds = {name: model_class(name.upper(), name) for name in "xyz"}

    def build(node: dict[str, Any]) -> torch.nn.Module:
        kind = kinds[next(remaining)]
        return kind(**{name: build(child) for name, child in node.items()})

    model = build(tree)
    found = dict(places(model, registry(x=NORMS, y=NORMS, z=NORMS)))
    for path, module in model.named_modules():
        above = [".".join(path.split(".")[:count]) for count in range(len(path.split(".")))] if path else []
        around = {model.get_submodule(outer).config.model_type for outer in above}
        assert (path in found) == (module.config.model_type not in around)


# Wrappers


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: torch.compile(model, backend="eager"),
        torch.nn.DataParallel,
        lambda model: torch.nn.DataParallel(torch.compile(model, backend="eager")),
    ],
    ids=["compiled", "data parallel", "both"],
)
def test_a_wrapped_model_resolves_as_the_model_inside(wrap):
    inner = Wrapper(tower=Tower(linear=torch.nn.Linear(2, 3)))
    made = registry(tower=NORMS, composite=OTHER)
    wrapped = wrap(inner)
    assert unwrap(wrapped) is inner
    assert resolve(wrapped, made) == resolve(inner, made)


def test_a_wrapped_model_is_loaded_and_saved_as_the_model_inside(tmp_path):
    inner = Tower(linear=torch.nn.Linear(2, 3, bias=False))
    state = {"beta.weight": torch.arange(6.0).reshape(3, 2)}
    wrapped = torch.nn.DataParallel(inner)
    wb.load(wrapped, state, [wb.WeightRenaming("beta", "linear")])
    assert torch.equal(inner.linear.weight, state["beta.weight"])
    assert list(wb.open(wb.save(wrapped, tmp_path / "out")).header) == ["beta.weight"]


def test_a_sub_model_that_is_compiled_alone_keeps_its_place():
    model = Wrapper(tower=torch.compile(Tower(), backend="eager"))
    assert places(model, registry(tower=NORMS)) == [("tower", "tower")]


@pytest.fixture
def one_process(tmp_path):
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_distributed_wrappers_resolve_as_the_model_inside(one_process):
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    made = registry(tower=NORMS, composite=OTHER)
    inner = Wrapper(tower=Tower(linear=torch.nn.Linear(2, 3)))
    rules = resolve(inner, made)
    assert resolve(DistributedDataParallel(inner), made) == rules

    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    sharded = Wrapper(tower=Tower(linear=torch.nn.Linear(2, 3)))
    fully_shard(sharded.tower, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    assert type(sharded).__name__ == "FSDPComposite"
    assert layout_class(sharded) is Wrapper
    assert resolve(sharded, made) == rules


def test_a_changed_tree_or_type_is_resolved_anew():
    """And an unchanged one is not: the answer is the same object."""
    known = registry(tower=NORMS, toy=OTHER)
    model = Wrapper(t=Tower())
    first = resolve(model, known)
    assert resolve(model, known) is first
    model.t = ToyModel()
    assert resolve(model, known).transforms == (wb.WeightRenaming("^beta", "bias", scope="t"),)
    model.t.config.model_type = "tower"
    assert resolve(model, known).transforms == first.transforms


def test_a_compiled_model_inside_a_model_has_the_keys_of_the_model():
    """Its tensors are named, and set, as if it were not compiled, and its rules are mounted there."""
    from weighbridge.models.modules import module_header, module_tensors

    class Inner(Tower):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(2))

    made = wb.Registry(use_entry_points=False)
    made.register("Inner", NORMS)
    model = Wrapper(t=Inner())
    model.t = torch.compile(model.t, backend="eager")
    assert list(module_header(model)) == list(module_tensors(model)) == ["t.weight"]
    wb.load(model, {"t.gamma": torch.tensor([3.0, 5.0])}, resolve(model, made))
    assert model.t._orig_mod.weight.tolist() == [3.0, 5.0]
