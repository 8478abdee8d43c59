"""A file that is the model already is loaded without a plan: that comes to the same, and is done nowhere else."""

from __future__ import annotations

import ast
import builtins
import filecmp
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rooms
import torch
import transformers
from corpus import Case, case_names, some_of
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import conversion_mapping
from transformers.core_model_loading import WeightRenaming

import weighbridge as wb
from weighbridge.integrations import transformers as wbt
from weighbridge.integrations.as_it_lies import unplanned_load
from weighbridge.mappings import known_tables, registered_names
from weighbridge.mappings.families import TEXTS_OF_RULES, load_family
from weighbridge.mappings.registry import default_registry
from weighbridge.models.without_plans import loaded_models
from weighbridge.pattern import Pattern
from weighbridge.storage.plain_directories import read_plain_directory

pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own, of which it has many

LLAMA = {"vocab_size": 17, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}
BERT = {"vocab_size": 17, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}


def made(name: str, **changes: Any) -> Any:
    """Make a small model of a class of the library."""
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    return kind(kind.config_class(**changes))


def llama(name: str = "LlamaForCausalLM", **changes: Any) -> Any:
    return made(name, **LLAMA, **HEADS, **changes)


MODELS: dict[str, Callable[[], Any]] = {
    "plain": llama,
    "tied": lambda: llama(tie_word_embeddings=True),
    "base": lambda: llama("LlamaModel"),
    "half": lambda: llama().to(torch.bfloat16),
    "gpt2": lambda: made("GPT2LMHeadModel", vocab_size=17, n_positions=5, n_embd=8, n_layer=1, n_head=2),
    "bert": lambda: made("BertForMaskedLM", **BERT, max_position_embeddings=5),
    "buffers": lambda: made(
        "ResNetModel", embedding_size=2, hidden_sizes=[2, 3], depths=[1, 1], layer_type="basic", num_channels=1
    ),
}
"""Classes that no rule is for, or none that sees a key: with ties and without, with buffers, with a family."""


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    monkeypatch.setattr(conversion_mapping, "_checkpoint_conversion_mapping_cache", None)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each model, as the library saves it."""
    place = tmp_path_factory.mktemp("saved")
    for name, make in MODELS.items():
        make().save_pretrained(place / name)
    llama().save_pretrained(place / "shards", max_shard_size=2000)
    assert len(list((place / "shards").glob("*.safetensors"))) > 1
    return {name: place / name for name in (*MODELS, "shards")}


@pytest.fixture
def copied(saved: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the plain one, to be changed."""
    return Path(shutil.copytree(saved["plain"], tmp_path / "copy"))


def class_of(path: Path) -> Any:
    return getattr(transformers, json.loads((path / "config.json").read_text())["architectures"][0])


def is_unplanned(model: Any) -> bool:
    """Tell whether a model was loaded without a plan, and nobody has asked for it since."""
    return callable(loaded_models._loaded[model])


def plan_of(model: Any) -> wb.Plan:
    """Return the plan that a model was loaded through, which is made now if it was not needed before."""
    plan = wb.loaded_plan(model)
    assert plan is not None
    return plan


def through_a_plan(path: Path) -> Any:
    """Load through a plan, as any argument of ours makes it."""
    return wbt.from_pretrained(class_of(path), path, config=transformers.AutoConfig.from_pretrained(path))


def mapped_places(path: Path) -> list[range]:
    """Return the addresses at which files below a path are mapped."""
    lines = (line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(path) in line)
    return [range(*(int(end, 16) for end in line[0].split("-"))) for line in lines]


def files_of(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def state_of(model: Any) -> dict[str, Any]:
    """Return what there is to say of a loaded model besides its values."""
    named = dict(model.named_parameters(remove_duplicate=False))
    return {
        "rules": model._weight_conversions,
        "ties": dict(model.all_tied_weights_keys),
        "one": {key: next(name for name in named if named[name] is each) for key, each in named.items()},
        "trained": {key: each.requires_grad for key, each in named.items()},
        "buffers": {key: (each.dtype, each.device) for key, each in model.named_buffers()},
        "mode": (model.training, model.name_or_path, model.dtype, model.config.to_dict()),
        "generation": model.generation_config.to_dict() if model.can_generate() else None,
    }


def assert_same(model: Any, planned: Any) -> None:
    """Check that two models are the same: values, what is one, and all that is kept of how they came."""
    ours, theirs = model.state_dict(), planned.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) and ours[key].dtype == theirs[key].dtype for key in theirs)
    assert state_of(model) == state_of(planned)


# ---- it comes to the same ----


@pytest.mark.parametrize("name", [*MODELS, "shards"])
@pytest.mark.parametrize("is_built", [False, True])
def test_a_load_without_a_plan_is_the_load_through_one(
    name: str, is_built: bool, saved: dict[str, Path], tmp_path: Path
) -> None:
    path = saved[name]
    if is_built:
        conversion_mapping.get_checkpoint_conversion_mapping("")
    model = wbt.from_pretrained(class_of(path), path)
    assert is_unplanned(model)
    assert (conversion_mapping._checkpoint_conversion_mapping_cache is not None) == is_built
    places = mapped_places(path)
    with safe_open(sorted(path.glob("*.safetensors"))[0], "pt") as file:
        weights = [model.get_parameter(key) for key in list(file.keys()) if key.endswith("weight")]
    assert all(any(weight.data_ptr() in place for place in places) for weight in weights)
    planned = through_a_plan(path)
    assert not is_unplanned(planned)
    assert_same(model, planned)
    if not is_built:
        for number, each in enumerate((model, planned)):
            wbt.save_pretrained(each, tmp_path / f"ours{number}")
            each.save_pretrained(tmp_path / f"theirs{number}")
        assert files_of(tmp_path / "ours0") == files_of(tmp_path / "ours1")
        assert files_of(tmp_path / "theirs0") == files_of(tmp_path / "theirs1")
        assert filecmp.cmp(
            sorted(path.glob("*.safetensors"))[0], sorted((tmp_path / "ours0").glob("*.safetensors"))[0], shallow=False
        )
    plan, other = plan_of(model), plan_of(planned)
    assert plan.to_json() == other.to_json()
    assert str(plan.report) == str(other.report)
    assert all(step.sources == step.targets and step.program.is_identity for step in plan.steps)


def test_a_plan_is_made_of_what_was_loaded_whatever_is_there_later(copied: Path) -> None:
    """The files are gone, the settings of the model are others, and somebody has registered a rule for its class."""
    other = through_a_plan(copied)
    model = wbt.from_pretrained(class_of(copied), copied)
    shutil.rmtree(copied)
    model.config.hidden_size, model.config.model_type = 99, "other"
    with registered("llama", [wb.WeightRenaming("q_proj", "k_proj")]):
        plan = plan_of(model)
    assert plan.to_json() == plan_of(other).to_json()


def test_what_is_registered_with_the_library_later_has_no_part_in_the_plan(
    saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = wbt.from_pretrained(class_of(saved["plain"]), saved["plain"])
    with registered_there("llama", monkeypatch):
        plan = plan_of(model)
    assert plan.hash == plan_of(through_a_plan(saved["plain"])).hash


def test_auto_classes_and_the_implementation_of_attention_change_nothing(saved: dict[str, Path]) -> None:
    model = wbt.from_pretrained(transformers.AutoModelForCausalLM, str(saved["plain"]), attn_implementation="eager")
    assert is_unplanned(model)
    assert model.config._attn_implementation == "eager"
    assert plan_of(model).is_exact


SEEN_BY_NOBODY = tuple(name for name in case_names() if name.startswith(("bert__", "gpt2__")))
"""The cases of the corpus whose classes nobody has rules for, but those for very old files."""


@pytest.mark.corpus
@pytest.mark.parametrize("name", dict.fromkeys([*SEEN_BY_NOBODY, *some_of(case_names(), 40)]))
def test_where_no_plan_is_made_the_plan_leaves_all_as_it_is(name: str, tmp_path: Path) -> None:
    case = Case.named(name)
    (tmp_path / "published").mkdir()
    for file in ("model.safetensors", "config.json"):
        shutil.copy(case.path / file, tmp_path / "published" / file)
    kind = getattr(transformers, case.facts["class"])
    published = wbt.from_pretrained(kind, tmp_path / "published")
    published.save_pretrained(tmp_path / "own", save_original_format=False)
    own = wbt.from_pretrained(kind, tmp_path / "own")
    assert is_unplanned(own) == (name in SEEN_BY_NOBODY)
    for model, path in ((published, tmp_path / "published"), (own, tmp_path / "own")):
        if is_unplanned(model):
            planned = wbt.from_pretrained(kind, path, config=transformers.AutoConfig.from_pretrained(path))
            plan, other = plan_of(model), plan_of(planned)
            assert plan.to_json() == other.to_json()
            assert all(step.sources == step.targets and step.program.is_identity for step in other.steps)
            assert_same(model, planned)


# ---- it is only done where it must be ----


class registered:
    """Registers a mapping for a while, as if it were for good."""

    def __init__(self, name: str, rules: list[Any]) -> None:
        self.name, self.rules = name, rules

    def __enter__(self) -> None:
        wb.register(self.name, self.rules, overwrite=True)

    def __exit__(self, *_: object) -> None:
        del default_registry._mappings[self.name]
        registered_names.REGISTERED.discard(self.name)


class registered_there:
    """Registers a rule with the library's own function for a while."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name = name
        monkeypatch.setattr(conversion_mapping, "USER_REGISTERED_MAPPINGS", set())

    def __enter__(self) -> None:
        rules = [WeightRenaming("never", "seen")]
        conversion_mapping.register_checkpoint_conversion_mapping(self.name, rules, overwrite=True)

    def __exit__(self, *_: object) -> None:
        conversion_mapping._checkpoint_conversion_mapping_cache = None


@pytest.mark.parametrize("name", ["LlamaModel", "llama", "LlamaMLP"])
def test_what_is_registered_is_asked(name: str, saved: dict[str, Path]) -> None:
    with registered(name, []):
        assert not is_unplanned(wbt.from_pretrained(class_of(saved["plain"]), saved["plain"]))
    assert is_unplanned(wbt.from_pretrained(class_of(saved["plain"]), saved["plain"]))


def test_an_alias_is_something_that_is_registered(saved: dict[str, Path]) -> None:
    default_registry.alias("LlamaModel", "bert")
    try:
        assert not is_unplanned(wbt.from_pretrained(class_of(saved["plain"]), saved["plain"]))
    finally:
        del default_registry._aliases["LlamaModel"]
        registered_names.REGISTERED.discard("LlamaModel")


def test_what_is_registered_with_the_library_is_asked(saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with registered_there("LlamaModel", monkeypatch):
        assert not is_unplanned(wbt.from_pretrained(class_of(saved["plain"]), saved["plain"]))


def test_a_table_of_a_text_that_was_not_read_here_is_asked(
    saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_tables, "KNOWN", {})
    model = wbt.from_pretrained(class_of(saved["plain"]), saved["plain"])
    assert not is_unplanned(model)
    assert_same(model, through_a_plan(saved["plain"]))


def test_a_table_that_somebody_has_changed_is_asked(saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def somebody_elses(*_: Any) -> Any:
        return {"legacy": []}

    changes: list[Callable[[Any], None]] = [
        lambda patch: patch.setitem(conversion_mapping._MODEL_TO_CONVERSION_PATTERN, "llama", "mixtral"),
        lambda patch: patch.setattr(conversion_mapping, "_build_checkpoint_conversion_mapping", somebody_elses),
        lambda patch: patch.setattr(transformers.modeling_utils, "get_model_conversion_mapping", lambda *_: []),
    ]
    for change in changes:
        with monkeypatch.context() as patch:
            patch.setattr(conversion_mapping, "_checkpoint_conversion_mapping_cache", None)
            change(patch)
            assert not is_unplanned(wbt.from_pretrained(class_of(saved["plain"]), saved["plain"]))


def test_a_class_that_the_table_has_rules_for_is_loaded_through_a_plan(tmp_path: Path) -> None:
    sizes = {"image_size": 4, "patch_size": 2, "hidden_size": 8, "intermediate_size": 12}
    made("ViTModel", **sizes, num_hidden_layers=1, num_attention_heads=2).save_pretrained(tmp_path / "vit")
    for name in ("published", "own"):
        model = wbt.from_pretrained(transformers.ViTModel, tmp_path / "vit")
        assert not is_unplanned(model), name
        model.save_pretrained(tmp_path / "vit", save_original_format=False)


def test_a_key_that_a_rule_for_old_files_sees_is_read_by_it(saved: dict[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copytree(saved["bert"], tmp_path / "old"))
    weights = load_file(path / "model.safetensors")
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = {re.sub("|".join(names), lambda found: names[found[0]], key): each for key, each in weights.items()}
    save_file(renamed, path / "model.safetensors", {"format": "pt"})
    model = wbt.from_pretrained(class_of(path), path)
    assert not is_unplanned(model)
    assert_same_values(model, wbt.from_pretrained(class_of(path), saved["bert"]))


def assert_same_values(model: Any, other: Any) -> None:
    states = model.state_dict(), other.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def as_quantised(path: Path) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"quantization": None}))


def as_link(path: Path) -> None:
    (path / "model.safetensors").rename(path.parent / "elsewhere.safetensors")
    (path / "model.safetensors").symlink_to(path.parent / "elsewhere.safetensors")


def with_metadata(path: Path) -> None:
    save_file(load_file(path / "model.safetensors"), path / "model.safetensors", {"format": "pt", "of": "mine"})


def with_both_ties(path: Path) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))


CHANGES: dict[str, Callable[[Path], Any]] = {
    "other weights beside": lambda path: (path / "pytorch_model.bin").write_bytes(b"x"),
    "more weights": lambda path: save_file({"a": torch.zeros(2)}, path / "more.safetensors"),
    "a folder": lambda path: (path / "original").mkdir(),
    "metadata": with_metadata,
    "both of a tie": with_both_ties,
    "quantised": as_quantised,
    "a link that leads out": as_link,
    "no weights": lambda path: (path / "model.safetensors").unlink(),
    "cut short": lambda path: os.truncate(path / "model.safetensors", 3000),
    "no configuration": lambda path: (path / "config.json").unlink(),
    "a weight too many": lambda path: change_weights(path, lambda found: found | {"more": torch.zeros(2)}),
    "a weight too few": lambda path: change_weights(path, lambda found: {**found, "lm_head.weight": None}),
    "another shape": lambda path: change_weights(path, lambda found: found | {"model.norm.weight": torch.zeros(9)}),
    "another dtype": lambda path: change_weights(path, lambda found: {key: each.half() for key, each in found.items()}),
    "one of another dtype": lambda path: change_weights(
        path, lambda found: found | {"model.norm.weight": found["model.norm.weight"].double()}
    ),
}
"""What makes a directory another one than the plainest."""


def change_weights(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    changed = change(load_file(path / "model.safetensors"))
    left = {key: each for key, each in changed.items() if each is not None}
    save_file(left, path / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("name", CHANGES)
def test_anything_else_goes_through_a_plan_as_it_does_without_this(name: str, copied: Path) -> None:
    CHANGES[name](copied)
    outcomes = []
    for load in (lambda: wbt.from_pretrained(transformers.LlamaForCausalLM, copied), planned_outcome(copied)):
        try:
            outcomes.append(load())
        except Exception as problem:
            outcomes.append((type(problem), str(problem)))
    model, planned = outcomes
    if isinstance(model, tuple):
        assert model == planned
        return
    assert not is_unplanned(model)
    assert_same(model, planned)
    assert plan_of(model).to_json() == plan_of(planned).to_json()


def planned_outcome(path: Path) -> Callable[[], Any]:
    """Return the load through a plan, whose only difference is that no way round it is looked for."""
    return lambda: wbt.from_pretrained(transformers.LlamaForCausalLM, path, copy=True)


def test_a_receipt_beside_the_weights_changes_nothing(saved: dict[str, Path], tmp_path: Path) -> None:
    wb.convert(saved["plain"], tmp_path / "out", [])
    assert (tmp_path / "out" / "weighbridge.json").is_file()
    model = wbt.from_pretrained(transformers.LlamaForCausalLM, tmp_path / "out")
    assert is_unplanned(model)
    assert plan_of(model).to_json() == plan_of(through_a_plan(tmp_path / "out")).to_json()


def test_another_dtype_than_that_of_the_file_goes_through_a_plan(saved: dict[str, Path]) -> None:
    model = wbt.from_pretrained(transformers.LlamaForCausalLM, saved["plain"], dtype=torch.bfloat16)
    assert not is_unplanned(model)
    assert model.dtype == torch.bfloat16


def test_who_listens_hears_of_the_plan(saved: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "weighbridge"):
        model = wbt.from_pretrained(transformers.LlamaForCausalLM, saved["plain"])
    assert not is_unplanned(model)
    assert any("planned" in record.message for record in caplog.records)


def test_a_file_that_changes_meanwhile_is_loaded_again(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was mapped may be half of one file and half of another one."""
    before = transformers.PreTrainedModel.eval
    changes = iter([1])

    def eval_late(model: Any) -> Any:
        for _ in changes:
            change_weights(copied, lambda found: {key: each + 1 for key, each in found.items()})
        return before(model)

    monkeypatch.setattr(transformers.PreTrainedModel, "eval", eval_late)
    model = wbt.from_pretrained(transformers.LlamaForCausalLM, copied)
    assert not is_unplanned(model)
    assert torch.equal(model.lm_head.weight, load_file(copied / "model.safetensors")["lm_head.weight"])


def test_a_weight_that_the_library_changes_is_put_back(
    saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = transformers.PreTrainedModel.eval

    def eval_late(model: Any) -> Any:
        with torch.no_grad():
            model.lm_head.weight.add_(1)
        return before(model)

    monkeypatch.setattr(transformers.PreTrainedModel, "eval", eval_late)
    model = wbt.from_pretrained(transformers.LlamaForCausalLM, saved["plain"])
    assert not is_unplanned(model)
    assert "lm_head.weight was changed after it was loaded" in caplog.text
    assert torch.equal(model.lm_head.weight, llama().lm_head.weight)


# ---- what it relies on ----


def test_the_known_table_is_that_of_the_installed_library() -> None:
    known = known_tables.read_known_table()
    assert known is not None, "write the names of this version's table down"
    built = conversion_mapping._build_checkpoint_conversion_mapping()
    assert {*known.names} == {*built} - {known_tables.LEGACY}
    assert known.patterns == known_tables.legacy_patterns(built)


def test_rules_of_families_see_no_key_without_their_texts() -> None:
    for name, texts in TEXTS_OF_RULES.items():
        mapping = load_family(name)
        rules = [*mapping.transforms, *mapping.legacy]
        patterns = [text for rule in rules for text in rule.source_patterns]
        assert all(
            Pattern.parse(pattern).text == pattern and any(text in pattern for text in texts) for pattern in patterns
        )
        assert not any(set(pattern) & set("*()[]{}|?+\\^$") for pattern in patterns)
        assert mapping.drop == mapping.carry == mapping.initialise == mapping.refuse == mapping.parts == ()


@pytest.mark.parametrize("name", ["plain", "shards"])
def test_a_plain_directory_opens_as_any_other(name: str, saved: dict[str, Path]) -> None:
    found, opened = read_plain_directory(saved[name]), wb.open(saved[name])
    assert found is not None
    ours = found.opened()
    for field in ("where", "header", "images", "index", "files", "extras", "notes", "opened", "places"):
        assert getattr(ours, field) == getattr(opened, field), field
    assert ours.header.specs == found.specs
    tensors, mapped = found.tensors(), opened.mapped()
    assert tensors is not None
    assert all(torch.equal(each, mapped.tensor(key)) for key, each in tensors.items())


HEAVY = ("pattern", "algebra", "operations", "planning", "running", "reporting", "studies", "api")


def test_no_plan_is_what_is_not_even_imported(saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither at the top of a module that is imported for such a load, nor in a function that runs in it."""
    modules = rooms.read_modules()
    arrows = {name: imported_at_once(source, modules) for name, source in modules.items()}
    asked: list[str] = []
    before = builtins.__import__

    def note(name: str, *args: Any, **options: Any) -> Any:
        asked.append(name)
        return before(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", note)
    model = wbt.from_pretrained(transformers.LlamaForCausalLM, saved["plain"])
    monkeypatch.undo()
    assert is_unplanned(model)
    first = {wbt.__name__, unplanned_load.__name__, *(name for name in asked if name.startswith("weighbridge"))}
    reached = {name for start in first for name in (start, *rooms.reachable(arrows, start))}
    assert len(reached) > len(first)
    assert not [name for name in reached if rooms.room_of(name) in HEAVY]


def imported_at_once(source: str, modules: dict[str, str]) -> set[str]:
    """Return the modules of the package that a module imports when it is imported itself, and the packages of these."""
    found: set[str] = set()

    def visit(body: list[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                found.update(name for name in rooms.named_modules(node, modules) if name.startswith("weighbridge"))
            elif isinstance(node, ast.If):
                visit(node.orelse if "TYPE_CHECKING" in ast.unparse(node.test) else [*node.body, *node.orelse])

    visit(ast.parse(source).body)
    return {part for name in found for part in parts_of(name) if part in modules}


def parts_of(name: str) -> Iterator[str]:
    segments = name.split(".")
    yield from (".".join(segments[:count]) for count in range(1, len(segments) + 1))
