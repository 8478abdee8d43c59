"""transformers: its table as our mappings, and its models loaded and saved through plans."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import corpus_cases

import weighbridge as wb
from weighbridge.integrations import transformers as wbt, transformers_mappings
from weighbridge.loading import loaded_plan
from weighbridge.mappings.registry import Registry
from weighbridge.mappings.transformers_table import (
    MOST_LAYERS,
    NOT_UNDERSTOOD,
    import_entry,
    import_operation,
    import_transform,
    registry,
)
from weighbridge.mappings.transforms import rename_key
from weighbridge.models.resolve import find_mounts, resolve
from weighbridge.running.devices import fill_tensors
from weighbridge.storage.formats.torch_tensors import bytes_of

transformers = pytest.importorskip("transformers", reason="needs the extra `transformers`")
core = pytest.importorskip("transformers.core_model_loading")

pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own, of which it has many
SIZES = {"5.23": (251, 1390), "5.24": (261, 1505)}
"""How many entries the table of each tested version has, and how many rules they have together."""

VERSION = ".".join(transformers.__version__.split(".")[:2])
understood = pytest.mark.skipif(VERSION not in SIZES, reason=f"needs transformers {' or '.join(SIZES)}")

NEEDS_A_PLACE = "ernie4_5_moe__Ernie4_5_MoeForCausalLM__use_bias"
"""The case whose checkpoint has tensors that no class of the library holds."""

PEER_DIFFERS = {"qwen2_vl__Qwen2VLModel", "mask2former__Mask2FormerModel"}
"""Cases that the library's table alone does not place; our families do."""


@pytest.fixture(autouse=True)
def _quiet():
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def case(corpus: Path, name: str) -> tuple[Path, Any]:
    path = corpus / "cases" / name
    return path, getattr(transformers, json.loads((path / "case.json").read_text())["class"])


def on_meta(path: Path, model_class: Any) -> Any:
    with torch.device("meta"):
        return model_class(transformers.AutoConfig.from_pretrained(path))


# The table


@understood
def test_every_entry_of_the_table_imports():
    table = registry()
    imported = {name: table.find(name) for name in table}
    assert (len(imported), sum(map(len, imported.values()))) == SIZES[VERSION]


def test_renames_stand_before_converters():
    for name in registry():
        kinds = [isinstance(rule, wb.WeightConverter) for rule in registry().find(name)]
        assert kinds == sorted(kinds)


def test_names_of_the_table_are_built_in_and_registered_ones_are_not(monkeypatch):
    module = __import__("transformers.conversion_mapping", fromlist=["_"])
    assert registry().is_built_in("mixtral")
    own = {**module._checkpoint_conversion_mapping_cache, "mine": [core.WeightRenaming("a", "b")]}
    monkeypatch.setattr(module, "_checkpoint_conversion_mapping_cache", own)
    monkeypatch.setattr(module, "USER_REGISTERED_MAPPINGS", {"mine"})
    assert not registry().is_built_in("mine")
    assert registry().find("mine").transforms == (wb.WeightRenaming(r"(\w*)a", r"\1b", if_wanted=True),)


def test_an_offset_becomes_part_of_the_target():
    theirs = core.Inkling2IndexOffsetWeightRename(r"attn_queries\.(\d+)", r"layers.\1.query", offset=1)
    ours = import_transform(theirs)
    assert rename_key(ours, "model.attn_queries.4") == "model.layers.5.query"
    assert rename_key(ours.inverse(), "model.layers.5.query") == "model.attn_queries.4"


def test_a_pattern_that_ends_inside_a_segment_keeps_the_rest():
    ours = import_transform(core.WeightRenaming(r"\.hc_pre\.hc_", ".hc_"))
    assert rename_key(ours, "layers.0.hc_pre.hc_fn.weight") == "layers.0.hc_fn.weight"


def test_a_pattern_that_begins_inside_a_segment_keeps_what_stands_before():
    ours = import_transform(core.WeightRenaming(r"(convolution|sconv)\.weight(?!_)", r"\1.conv1d.weight"))
    assert rename_key(ours, "layers.0.attn.k_sconv.weight") == "layers.0.attn.k_sconv.conv1d.weight"
    assert rename_key(ours, "layers.0.convolution.weight") == "layers.0.convolution.conv1d.weight"
    assert rename_key(ours, "layers.0.convolution.weight_proj") is None


def test_a_change_of_prefix_keeps_the_path_before_it():
    ours = import_transform(core.PrefixChange(prefix_to_add="language_model", model_prefix="model"))
    assert ours == wb.PrefixChange(prefix_to_add="language_model", model_prefix="model", if_wanted=True)


def test_groups_and_several_sources_stay_what_they_are():
    group = import_transform(core.GroupWeightRename(["norm0", "norm1"], ["norm1", "norm2"]))
    assert group == wb.GroupWeightRename([r"(\w*)norm0", r"(\w*)norm1"], [r"\1norm1", r"\1norm2"], if_wanted=True)
    several = import_transform(core.WeightRenaming([r"\.a\.x", r"\.b\.x"], ".c.x"))
    assert several == wb.WeightRenaming([r"\.a\.x", r"\.b\.x"], ".c.x", if_wanted=True)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("VisionFuseAndPermuteForRope", [wb.PermuteForRope("vision_config", ("q",), inverse=True), wb.Concatenate(0)]),
        ("VisionUnfuseAndPermuteForRope", [wb.Chunk(0), wb.PermuteForRope("vision_config", ("q",))]),
    ],
)
def test_an_operation_that_stands_for_two_becomes_two(theirs, ours):
    assert import_operation(getattr(core, theirs)(permute_layer_names=["q"])) == ours


def test_every_operation_of_the_library_is_known():
    """Those of the table; the ones for quantised formats live in other modules and never stand in it."""
    arguments = {"Conv3dToLinear": (3, (2, 4, 4)), "LinearToConv3d": (3, (2, 4, 4))}
    kinds = [kind for kind in core.ConversionOps.__subclasses__() if kind.__module__ == core.__name__]
    public = [kind for kind in kinds if not kind.__name__.startswith("_")]
    assert len(public) >= 13
    for kind in public:
        if kind.__name__ not in NOT_UNDERSTOOD:
            assert import_operation(kind(*arguments.get(kind.__name__, ())))


@pytest.mark.parametrize(
    "unknown", [import_transform, lambda thing: import_operation(thing)], ids=["transform", "operation"]
)
def test_h5_what_is_not_known_is_an_error_that_sends_nobody_to_another_version(unknown):
    with pytest.raises(wb.RegistryError) as caught:
        unknown(SimpleNamespace())
    assert caught.value.code == "integration-version"
    assert caught.value.got.startswith(f"{transformers.__version__}: ")
    assert "install" not in caught.value.hint


def of_the_library(name: str, kind: Any, *arguments: Any) -> Any:
    """Make a rule or an operation of a name that this version may not have."""
    made = type(name, (kind,), {"convert": None, "reverse_op": None})
    return made(*arguments)


def test_h5_an_operation_that_is_not_understood_waits_for_a_tensor_that_needs_it():
    """A vocabulary that is padded in the checkpoint, and not in the model."""
    cut = of_the_library("Inkling2UnpadVocab", core.ConversionOps)
    rules = [core.WeightRenaming(r"^llm\.", "model."), core.WeightConverter(r"head\.weight", "head.weight", [cut])]
    mapping = import_entry("padded", rules)
    model = {"model.norm.weight": torch.ones(3), "head.weight": torch.arange(21.0).view(7, 3)}
    assert wb.plan(dict(model), mapping, target=model).reading == "as is"
    there = {"llm.norm.weight": torch.ones(3), "head.weight": torch.arange(24.0).view(8, 3)}
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(there, mapping, target=model)
    assert "head.weight.Inkling2UnpadVocab_is_not_understood" in str(caught.value)
    tower = {"model.norm.weight": torch.ones(3)}
    assert wb.plan({"llm.norm.weight": torch.ones(3)}, mapping, target=tower).reading == "mapped"


def test_h5_two_blocks_of_a_checkpoint_are_one_layer():
    ours = import_transform(of_the_library("LayerPairCollapse", core.WeightRenaming, "layers", "layers"))
    for layer in (0, 1, 7, MOST_LAYERS - 1):
        names = {
            f"backbone.layers.{2 * layer}.mixer.q_proj.weight": f"backbone.layers.{layer}.self_attn.q_proj.weight",
            f"backbone.layers.{2 * layer + 1}.mixer.up_proj.weight": f"backbone.layers.{layer}.mlp.up_proj.weight",
            f"backbone.layers.{2 * layer}.attn_alpha": f"backbone.layers.{layer}.lambda_1",
            f"backbone.layers.{2 * layer + 1}.mlp_alpha": f"backbone.layers.{layer}.lambda_2",
        }
        for theirs, wanted in names.items():
            assert rename_key(ours, theirs) == wanted
            assert rename_key(ours.inverse(), wanted) == theirs
            if hasattr(core, "LayerPairCollapse"):
                assert core.LayerPairCollapse().rename_source_key(theirs)[0] == wanted


@pytest.mark.parametrize("version", ["5.15.1", "5.13.1", "4.57.6"])
def test_h5_an_older_version_is_named_before_anything_is_done(version, monkeypatch, tmp_path):
    model_class = transformers.BertModel  # a lazy module, which takes the place of another one when it is filled
    wb.plan({"a": torch.ones(2)}, []).write(tmp_path / "weights")
    monkeypatch.setattr(importlib.import_module("transformers"), "__version__", version)
    for call in (
        wbt.registry,
        lambda: wbt.resolve(torch.nn.Linear(2, 3)),
        lambda: wbt.from_pretrained(model_class, tmp_path / "weights"),
    ):
        with pytest.raises(wb.RegistryError) as caught:
            call()
        assert (caught.value.code, caught.value.got) == ("integration-version", version)
        assert caught.value.expected == "transformers 5.16 to 5.24"


def their_name(rules: list[Any], key: str) -> tuple[str, bool]:
    renames = [rule for rule in rules if isinstance(rule, core.WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, core.WeightConverter)]
    name, pattern = core.rename_source_key(key, renames, converters)
    return name, pattern is not None


def our_name(rules: wb.Mapping, key: str) -> tuple[str, bool]:
    is_converted = False
    for rule in rules:
        if isinstance(rule, wb.WeightConverter) and is_converted:
            continue
        name = rename_key(rule, key)
        is_converted |= name is not None and isinstance(rule, wb.WeightConverter)
        key = key if name is None else name
    return key, is_converted


@understood
@pytest.mark.corpus
def test_both_engines_give_every_key_the_same_name(corpus, monkeypatch):
    """All keys of all checkpoints of the corpus, and all keys of their models, by the table alone."""
    from transformers.conversion_mapping import get_model_conversion_mapping

    monkeypatch.setattr(transformers_mappings, "default_registry", wb.Registry(use_entry_points=False))
    compared = 0
    for name in corpus_cases():
        path, model_class = case(corpus, name)
        model = on_meta(path, model_class)
        theirs, ours = get_model_conversion_mapping(model), wbt.resolve(model)
        prefix = f"{model.base_model_prefix}." if model.base_model_prefix else ""
        is_base = not hasattr(model, model.base_model_prefix)  # the library takes the prefix off when it loads
        for key in [*wb.open(path).header, *model.state_dict()]:
            wanted, is_converted = their_name(theirs, key)
            wanted = wanted.removeprefix(prefix) if is_base else wanted
            assert our_name(ours, key) == (wanted, is_converted), (name, key)
            compared += 1
    assert compared > 23_000


@understood
@pytest.mark.corpus
def test_a_configuration_resolves_as_its_model(corpus):
    path, model_class = case(corpus, "llava__LlavaForConditionalGeneration")
    config = transformers.AutoConfig.from_pretrained(path)
    config.architectures = [model_class.__name__]
    assert wbt.resolve(config) == wbt.resolve(on_meta(path, model_class))


@understood
@pytest.mark.corpus
def test_families_go_before_the_table(corpus):
    path, model_class = case(corpus, "mixtral__MixtralForCausalLM")
    model, ours = on_meta(path, model_class), wb.Registry(use_entry_points=False)
    ours.provide(["mixtral"], lambda name: [wb.WeightRenaming("w1", "ours")])
    assert [mount.registry for mount in find_mounts(model, ours, registry())] == [ours]


# Loading and saving


def every_tensor(model: Any) -> dict[str, Any]:
    """All parameters and buffers, those that are not saved included: dtype, shape, bytes, gradient, and ties."""
    found, owner = {}, {}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for key, value in named:
        raw = bytes(bytes_of(value.detach().contiguous()))
        found[key] = value.dtype, value.shape, raw, value.requires_grad, owner.setdefault(id(value), key)
    return found


def assert_same_model(ours: Any, theirs: Any) -> None:
    mine, other = every_tensor(ours), every_tensor(theirs)
    assert mine.keys() == other.keys()
    assert [key for key in mine if mine[key] != other[key]] == []
    assert type(ours) is type(theirs)
    assert ours.config.to_dict() == theirs.config.to_dict()
    assert (ours.name_or_path, ours.training) == (theirs.name_or_path, theirs.training)
    if theirs.can_generate():
        assert ours.generation_config.to_dict() == theirs.generation_config.to_dict()


@understood
@pytest.mark.corpus
@pytest.mark.parametrize("name", [name for name in corpus_cases() if name != NEEDS_A_PLACE])
def test_a_model_is_the_librarys_own_and_goes_back_byte_for_byte(name, corpus, tmp_path):
    path, model_class = case(corpus, name)
    torch.manual_seed(5)
    theirs = model_class.from_pretrained(path)
    state = torch.get_rng_state()
    torch.manual_seed(5)
    ours = wbt.from_pretrained(model_class, path)
    assert torch.equal(torch.get_rng_state(), state)
    if name not in PEER_DIFFERS:
        assert_same_model(ours, theirs)
        assert str(ours._weight_conversions) == str(theirs._weight_conversions)
    out = wbt.save_pretrained(ours, tmp_path / "out")
    files = [file.name for file in path.glob("model*")]
    assert [name for name in files if (out / name).read_bytes() != (path / name).read_bytes()] == []
    assert json.loads((out / "config.json").read_text())["architectures"] == [model_class.__name__]


@understood
@pytest.mark.corpus
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, "auto", "bfloat16"], ids=str)
@pytest.mark.parametrize("name", ["deepseek_v3__DeepseekV3ForCausalLM", "voxtral__VoxtralForConditionalGeneration"])
def test_dtypes_follow_the_librarys_rules(name, dtype, corpus):
    """Classes that keep some of their weights in float32, whatever is asked for."""
    path, model_class = case(corpus, name)
    theirs = model_class.from_pretrained(path, dtype=dtype)
    assert_same_model(wbt.from_pretrained(model_class, path, dtype=dtype), theirs)
    if dtype is torch.bfloat16:
        assert len({value.dtype for value in theirs.parameters()} | {value.dtype for value in theirs.buffers()}) > 1


def mixture(place: Path) -> Any:
    """Save a small mixture of experts with the library, and return its class."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16, "vocab_size": 40, "head_dim": 8}
    counts = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "num_experts": 4}
    transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**sizes, **counts)).save_pretrained(place)
    return transformers.Qwen3MoeForCausalLM


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
def test_a_model_is_made_on_a_gpu(dtype, tmp_path):
    model_class = mixture(tmp_path)
    ours = wbt.from_pretrained(model_class, tmp_path, dtype=dtype, device="cuda")
    assert {value.device.type for value in [*ours.parameters(), *ours.buffers()]} == {"cuda"}
    assert_same_model(ours.cpu(), model_class.from_pretrained(tmp_path, dtype=dtype))
    assert loaded_plan(ours).report.is_exact == (dtype is None)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
def test_weights_are_made_on_a_device_before_the_library_takes_them(dtype, tmp_path, monkeypatch):
    """With the CPU as the device: what the library casts is made when it asks, everything else at once before."""
    from weighbridge.integrations import transformers_arguments, transformers_placing

    filled = []
    monkeypatch.setattr(transformers_arguments, "accelerator", torch.device)
    monkeypatch.setattr(transformers_placing, "AT_HAND", ())
    monkeypatch.setattr(
        transformers_placing, "fill_tensors", lambda wanted, *rest: filled.extend(wanted) or fill_tensors(wanted, *rest)
    )
    model_class = mixture(tmp_path)
    ours = wbt.from_pretrained(model_class, tmp_path, dtype=dtype, device="cpu")
    places = {value.data_ptr() for value in ours.state_dict().values()}
    assert {want.tensor.data_ptr() for want in filled} == (set() if dtype else places)
    assert_same_model(ours, model_class.from_pretrained(tmp_path, dtype=dtype))


@understood
@pytest.mark.corpus
@pytest.mark.parametrize("dtype", [None, "auto", torch.float32], ids=str)
def test_the_dtype_of_the_checkpoint_counts_where_the_configuration_has_none(dtype, corpus, tmp_path):
    from safetensors.torch import load_file, save_file

    path, model_class = case(corpus, "mixtral__MixtralForCausalLM")
    half = tmp_path / "half"
    half.mkdir()
    config = json.loads((path / "config.json").read_text())
    (half / "config.json").write_text(json.dumps({key: config[key] for key in config if "dtype" not in key}))
    state = {key: value.bfloat16() for key, value in load_file(path / "model.safetensors").items()}
    save_file(state, half / "model.safetensors", metadata={"format": "pt"})
    ours = wbt.from_pretrained(model_class, half, dtype=dtype)
    theirs = model_class.from_pretrained(half, dtype=dtype)
    assert ours.dtype == (torch.float32 if dtype is torch.float32 else torch.bfloat16)
    assert_same_model(ours, theirs)
    out = wbt.save_pretrained(ours, tmp_path / "out")
    if dtype is torch.float32:  # what a wider model has learnt since would be lost in the file's dtype
        saved = load_file(out / "model.safetensors")
        assert all(saved[key].dtype == dtype and saved[key].bfloat16().equal(state[key]) for key in state)
    else:
        assert (out / "model.safetensors").read_bytes() == (half / "model.safetensors").read_bytes()


@understood
@pytest.mark.corpus
def test_a_model_in_another_dtype_is_saved_in_it(corpus, tmp_path):
    path, model_class = case(corpus, "mixtral__MixtralForCausalLM")
    model = wbt.from_pretrained(model_class, path, dtype=torch.bfloat16)
    saved, source = wb.open(wbt.save_pretrained(model, tmp_path / "out")).header, wb.open(path).header
    assert {spec.dtype for spec in saved.specs.values()} == {"BF16"}
    assert {key: spec.shape for key, spec in saved.items()} == {key: spec.shape for key, spec in source.items()}


@understood
@pytest.mark.corpus
def test_an_auto_class_and_arguments_reach_the_library(corpus):
    path, model_class = case(corpus, "mixtral__MixtralForCausalLM")
    model = wbt.from_pretrained(transformers.AutoModelForCausalLM, path, attn_implementation="eager", use_cache=False)
    assert type(model) is model_class
    assert (model.config._attn_implementation, model.config.use_cache) == ("eager", False)
    assert loaded_plan(model).report


@understood
@pytest.mark.corpus
def test_a_model_that_was_never_loaded_is_saved_under_published_names(corpus, tmp_path):
    path, model_class = case(corpus, "mixtral__MixtralForCausalLM")
    out = wbt.save_pretrained(model_class(transformers.AutoConfig.from_pretrained(path)), tmp_path / "out")
    assert set(wb.open(out).header) == set(wb.open(path).header)


@understood
@pytest.mark.corpus
def test_tensors_without_a_home_are_an_error_before_anything_is_loaded(corpus):
    path, model_class = case(corpus, NEEDS_A_PLACE)
    with pytest.raises(wb.PlanError) as caught:
        wbt.from_pretrained(model_class, path)
    assert caught.value.codes == ("source-unplaced",)


@pytest.fixture
def without_head(corpus, tmp_path):
    """A checkpoint that lacks the head's weight, beside the class that wants it."""
    from safetensors.torch import load_file, save_file

    path, model_class = case(corpus, "mixtral__MixtralForCausalLM")
    state = load_file(path / "model.safetensors")
    del state["lm_head.weight"]
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    shutil.copy(path / "config.json", damaged)
    save_file(state, damaged / "model.safetensors", metadata={"format": "pt"})
    return damaged, model_class


@understood
@pytest.mark.corpus
def test_a_weight_that_would_be_random_is_an_error_unless_declared(without_head, tmp_path):
    path, model_class = without_head
    with pytest.raises(wb.PlanError) as caught:
        wbt.from_pretrained(model_class, path)
    assert caught.value.codes == ("target-missing",)
    torch.manual_seed(7)
    theirs = model_class.from_pretrained(path)
    for allowed in ({"partial": True}, {"initialise": "^lm_head"}):
        torch.manual_seed(7)
        ours = wbt.from_pretrained(model_class, path, **allowed)
        assert_same_model(ours, theirs)
    saved = wb.open(wbt.save_pretrained(ours, tmp_path / "out")).header
    assert set(saved) == {*wb.open(path).header, "lm_head.weight"}


@understood
@pytest.mark.corpus
@pytest.mark.parametrize("refused", ["quantization_config", "gguf_file"])
def test_arguments_without_a_plan_are_refused(refused, corpus):
    path, model_class = case(corpus, "mixtral__MixtralForCausalLM")
    with pytest.raises(wb.RegistryError) as caught:
        wbt.from_pretrained(model_class, path, **{refused: {"a": "b"}})
    assert caught.value.code == "integration-unsupported"
    assert refused in str(caught.value)


@understood
@pytest.mark.corpus
def test_a_weight_that_a_class_overwrites_is_put_back(corpus, monkeypatch, caplog):
    """The library's hook for missing weights, in a class that writes past the marks on those that were loaded."""
    path, model_class = case(corpus, "mixtral__MixtralForCausalLM")

    class Careless(model_class):
        def _initialize_weights(self, module, is_custom_code=False):
            if isinstance(module, torch.nn.Linear):
                module.weight.data.fill_(0.0)

    Careless.__name__ = model_class.__name__
    theirs = model_class.from_pretrained(path)
    with caplog.at_level("WARNING", logger="weighbridge"):
        ours = wbt.from_pretrained(Careless, path, mapping=wbt.resolve(on_meta(path, model_class)))
    key = "lm_head.weight"
    assert torch.equal(ours.state_dict()[key], theirs.state_dict()[key])
    assert key in caplog.text


@understood
@pytest.mark.corpus
def test_custom_code_gets_no_mapping_by_its_name(corpus):
    """Not even under the name of a class of the library; the library's own models inside it get theirs."""
    path, head = case(corpus, "mixtral__MixtralForCausalLM")
    for model_class, places in ((head, {"model", ""}), (transformers.MixtralModel, {""})):
        custom = type(model_class.__name__, (model_class,), {"__module__": "somebody.elses"})
        rules = wbt.resolve(on_meta(path, custom))
        assert {rule.scope for rule in rules} == places
        assert all(rule.scope or rule in rules.legacy for rule in rules)


@understood
@pytest.mark.corpus
def test_the_library_is_left_as_it_was(corpus):
    from transformers import modeling_utils

    before = modeling_utils.convert_and_load_state_dict_in_model
    path, model_class = case(corpus, "mixtral__MixtralForCausalLM")
    wbt.from_pretrained(model_class, path)
    with pytest.raises(wb.PlanError):
        wbt.from_pretrained(transformers.LlamaModel, path)
    assert modeling_utils.convert_and_load_state_dict_in_model is before


@pytest.mark.parametrize("change", [lambda weight: weight.add_(1), torch.nn.init.zeros_, lambda weight: weight.mul_(0)])
def test_a_weight_that_was_written_to_is_noticed_without_comparing_bytes(change):
    from weighbridge.integrations.transformers_loading import Pending

    source = {"weight": torch.arange(6.0)}
    plan = wb.plan(source, ())
    pending = Pending(plan.steps[0], "weight", wb.open(source))
    weight = torch.nn.Parameter(pending[...])
    assert pending.is_untouched(weight)
    with torch.no_grad():
        change(weight)
    assert not pending.is_untouched(weight)
    assert torch.equal(pending.make(), source["weight"])


DIFFERS = {"mask2former__Mask2FormerModel", "swin__SwinForImageClassification", "swin__SwinModel"}
"""Cases for which the library's own entry and our family give other plans; each family's file says why."""


def movement(path, model, mapping):
    """What a plan moves where; or the codes of the error that refuses it."""
    try:
        plan = wb.plan(path, mapping, target=model)
    except wb.PlanError as refused:
        return refused.codes or refused.code
    return {(step.sources, step.targets, step.program) for step in plan.steps if step.fate != "carried"}


@understood
@pytest.mark.corpus
def test_the_table_and_the_families_give_the_same_plans(corpus, monkeypatch):
    """On the whole corpus; where they differ, the family's file says what is wrong with the library's entry."""
    from weighbridge.mappings import families

    ours, theirs = {}, {}
    for name in sorted(path.name for path in (corpus / "cases").iterdir() if path.is_dir()):
        path, model_class = case(corpus, name)
        model = on_meta(path, model_class)
        ours[name] = movement(path, model, resolve(model))
        with monkeypatch.context() as patch:
            patch.setattr(transformers_mappings, "default_registry", Registry(use_entry_points=False))
            theirs[name] = movement(path, model, wbt.resolve(model))
    different = {name for name in ours if ours[name] != theirs[name]}
    assert different == DIFFERS
    for name in different:
        module = families.MODULES[name.partition("__")[0]]
        source = importlib.import_module(f"weighbridge.mappings.families.{module}").__doc__
        assert "library" in source, f"{module} does not say what is wrong with the library's entry for {name}"
