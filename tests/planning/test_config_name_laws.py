"""Law N1: configurations say of new names what they said of the old ones, by the matchers of their readers.

What each dialect means is said here once more, by the readers' own functions where they are at hand (transformers,
fnmatch), and else after their documented rules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, NamedTuple

import pytest
from form_values import places_of, replaced
from hypothesis import given, settings, strategies as st
from transformers.integrations.hqq import name_to_linear_tag
from transformers.quantizers.quantizers_utils import should_convert_module

import weighbridge as wb
from weighbridge.base.errors import WeighbridgeError
from weighbridge.mappings.schemes import dialects
from weighbridge.mappings.schemes.dialects import DIALECTS
from weighbridge.mappings.schemes.quantisation import FORMATS, names_in
from weighbridge.planning.config_names.moved_modules import MovedModules, moved_modules
from weighbridge.planning.config_names.named_places import follow_config, read_config

LAYERS = 3
EXPERTS = 2
IN_LAYER = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.gate", "mlp.up", "norm")
FUSED = "model.layers.{}.attn.qkv"
QKV = [f"attn.{name}.weight" for name in "qkv"]


class Movement(NamedTuple):
    """Rules, the modules that they are for, and what becomes of each."""

    rules: list[wb.WeightRenaming | wb.WeightConverter]
    modules: list[str]
    becomes: Callable[[str], list[str]]


def of_layers(names: Sequence[str]) -> list[str]:
    return ["head", "model.embed", *(f"model.layers.{layer}.{name}" for layer in range(LAYERS) for name in names)]


def replacing(old: str, *new: str) -> Callable[[str], list[str]]:
    """Replace what the expression matches of a module's name."""
    return lambda module: list(dict.fromkeys(re.sub(old, each, module) for each in new))


PLAIN = of_layers(IN_LAYER)
WITH_EXPERTS = of_layers([*IN_LAYER, *(f"mlp.experts.{number}.{name}" for number in range(EXPERTS) for name in "ab")])
MOVEMENTS = {
    "rename": Movement([wb.WeightRenaming("attn.q", "attention.wq")], PLAIN, replacing(r"attn\.q$", "attention.wq")),
    "put below": Movement([wb.WeightRenaming("^model", "outer.model")], PLAIN, replacing("^model", "outer.model")),
    "exchange": Movement(
        [wb.GroupWeightRename(["mlp.gate", "mlp.up"], ["mlp.up", "mlp.gate"])],
        PLAIN,
        lambda m: [m[:-4] + "up" if m.endswith("gate") else m[:-2] + "gate" if m.endswith("mlp.up") else m],
    ),
    "fuse": Movement(
        [wb.WeightConverter(QKV, "attn.qkv.weight", [wb.Concatenate(0)])],
        PLAIN,
        replacing(r"attn\.[qkv]$", "attn.qkv"),
    ),
    "split": Movement(
        [wb.WeightConverter("attn.o.weight", ["attn.o1.weight", "attn.o2.weight"], [wb.Chunk(0)])],
        PLAIN,
        replacing(r"attn\.o$", "attn.o1", "attn.o2"),
    ),
    "stack": Movement(
        [
            wb.WeightConverter(f"mlp.experts.*.{name}.weight", f"mlp.experts.{name}_proj", [wb.MergeModulelist(0)])
            for name in ("a", "b")
        ],
        WITH_EXPERTS,
        replacing(r"experts\.\d\.[ab]$", "experts"),
    ),
    "fold a norm": Movement(
        [wb.WeightRenaming("norm.weight", "attn.q.norm_weight")],
        PLAIN,
        lambda m: [] if m.endswith("norm") else [m],
    ),
    "nothing": Movement([], PLAIN, lambda m: [m]),
}


class Twin(NamedTuple):
    """A dialect: where entries stand in a configuration, and what a reader makes of them for a module."""

    said: Callable[[Any], dict[str, Any]]
    reads: Callable[[Any, str], Any]
    entries: Callable[[str], list[str]]
    is_object: bool = False


def member(method: str, *path: str) -> Callable[[Any], dict[str, Any]]:
    def said(value: Any) -> dict[str, Any]:
        for name in reversed(path):
            value = {name: value}
        return {"quantization_config": {"quant_method": method, **value}}

    return said


def compressed_tensors(entries: list[str], module: str) -> bool:
    """The rules of `match_name`: an expression behind `re:` matches at the start; all else is a whole name."""
    return any(re.match(e[3:], module) is not None if e[:3] == "re:" else e == module for e in entries)


def gptqmodel(dynamic: dict[str, Any], module: str) -> Any:
    """The rules of `dynamic_get`: the first that matches at the start."""
    for pattern, value in dynamic.items():
        if re.match(pattern[2:] if pattern[:2] in ("+:", "-:") else pattern, module):
            return False if pattern.startswith("-:") else value
    return None


def torchao(table: dict[str, Any], module: str) -> Any:
    """The precedence of `FqnToConfig`: parameter, module, first expression that matches all of either, default."""
    for name in (f"{module}.weight", module):
        if name in table:
            return "none" if table[name] is None else table[name]
    for name in (f"{module}.weight", module):
        for key, value in table.items():
            if key.startswith("re:") and re.fullmatch(key[3:], name):
                return value
    return table.get("_default")


def suffixes(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[at:]) for at in range(len(parts))]


def numbered(module: str) -> str:
    return re.sub(r"\.\d+(?=\.)", ".*", module)


def expressions(module: str) -> list[str]:
    last = re.escape(module.rpartition(".")[2])
    escaped = re.sub(r"\\\.\d+\\\.", r"\\.\\d+\\.", re.escape(module))
    return [escaped, escaped + "$", f".*{last}", f".*\\.{last}$", f"{re.escape(module.rpartition('.')[0])}.*"]


def patterns(module: str) -> list[str]:
    return [numbered(module), *expressions(module)]


TWINS = {
    "TRANSFORMERS": Twin(
        member("fp8", "modules_to_not_convert"),
        lambda entries, module: not should_convert_module(module, entries),
        lambda module: [
            module,
            module.rpartition(".")[0] or module,
            *suffixes(module),
            numbered(module),
            *expressions(module),
        ],
    ),
    "ENDING": Twin(
        member("fp8", "modules_to_convert"),
        lambda entries, module: any(module.endswith(entry) for entry in entries),
        suffixes,
    ),
    "COMPRESSED_TENSORS": Twin(
        member("compressed-tensors", "ignore"),
        compressed_tensors,
        lambda module: [module, "Linear", *(f"re:{each}" for each in expressions(module))],
    ),
    "WILDCARDS": Twin(
        member("modelopt", "exclude_modules"),
        lambda entries, module: any(fnmatchcase(module, entry) for entry in entries),
        lambda module: [module, numbered(module), f"{module}*", f"*{module.rpartition('.')[2]}", module[:-1] + "?"],
    ),
    "EXACT": Twin(
        lambda value: {"quantization": {"bits": 4, "group_size": 32, **value}},
        lambda table, module: table.get(module),
        lambda module: [module],
        is_object=True,
    ),
    "PART": Twin(
        member("awq", "modules_to_not_convert"),
        lambda entries, module: any(entry in module for entry in entries),
        lambda module: [*suffixes(module), module[:-1]],
    ),
    "SEGMENTS": Twin(
        member("gptq", "modules_in_block_to_quantize"),
        lambda entries, module: any(f".{module}".endswith(f".{entry}") for entry in entries),
        suffixes,
    ),
    "GPTQ": Twin(
        member("gptq", "dynamic"),
        gptqmodel,
        lambda module: [sign + each for sign in ("+:", "-:", "") for each in expressions(module)],
        is_object=True,
    ),
    "TORCHAO": Twin(
        member("torchao", "quant_type", "default", "_data", "fqn_to_config"),
        torchao,
        lambda module: [module, f"{module}.weight", "_default", *(f"re:{each}" for each in expressions(module))],
        is_object=True,
    ),
    "TAGS": Twin(
        member("hqq", "skip_modules"),
        lambda entries, module: name_to_linear_tag(module) in entries,
        lambda module: [name_to_linear_tag(module)],
    ),
    "BLOCKS": Twin(
        member("gptq", "block_name_to_quantize"),
        lambda entry, module: f"{module}.".startswith(f"{entry}."),
        lambda module: ["model.layers"],
    ),
}


@cache
def moved_in(movement: str) -> MovedModules | None:
    """Return what a plan of the movement makes of the modules."""
    rules, modules, _ = MOVEMENTS[movement]
    return moved_modules(wb.plan(header_of(modules), rules))


def header_of(modules: Sequence[str]) -> wb.Header:
    return wb.Header({f"{m}.weight": wb.TensorSpec("BF16", (4,) if m.endswith("norm") else (4, 6)) for m in modules})


def followed(moved: MovedModules | None, config: dict[str, Any]) -> tuple[str, list[WeighbridgeError]]:
    """Return the text of a configuration for the target, and what cannot be said."""
    text, problems = json.dumps(config, indent=2), list[WeighbridgeError]()
    read = read_config("config.json", text)
    return (text if moved is None or read is None else follow_config(read, moved, problems)), problems


@pytest.mark.parametrize("movement", MOVEMENTS)
@pytest.mark.parametrize("dialect", TWINS)
@settings(max_examples=25)
@given(data=st.data())
def test_what_is_said_of_a_module_is_said_of_what_it_becomes(movement: str, dialect: str, data: st.DataObject) -> None:
    """Law N1; where it cannot hold, parts of one have different entries, or no entry would mean just these."""
    _, modules, becomes = MOVEMENTS[movement]
    twin = TWINS[dialect]
    drawn = data.draw(st.lists(st.sampled_from(modules), min_size=1, max_size=4, unique=True))
    entries: Any = list(dict.fromkeys(data.draw(st.sampled_from(twin.entries(module))) for module in drawn))
    if twin.is_object:
        entries = {entry: {"bits": data.draw(st.sampled_from([4, 8]))} for entry in entries}
    if dialect == "BLOCKS":
        entries = entries[0]
    config = twin.said(entries)
    text, problems = followed(moved_in(movement), config)
    origins: dict[str, list[str]] = {}
    for module in modules:
        for target in becomes(module):
            origins.setdefault(target, []).append(module)
    said = {target: [twin.reads(entries, part) for part in parts] for target, parts in origins.items()}
    mixed = {target for target, parts in said.items() if any(part != parts[0] for part in parts)}
    codes = {problem.code for problem in problems}
    assert ("names-mixed" in codes) == bool(mixed)
    assert not mixed or any(target in str(problems[0]) for target in mixed)
    if problems:
        assert codes <= {"names-mixed", "names-unmapped"}
        assert json.loads(text) == config
        assert mixed or dialect in WITHOUT_WORDS or means_only_new(twin, entries, modules, origins)
        return
    new = entries_in(text, config, entries)
    wanted = {target: parts[0] for target, parts in said.items()}
    assert {target: twin.reads(new, target) for target in origins} == wanted
    if {target: twin.reads(entries, target) for target in origins} == wanted:
        assert text == json.dumps(config, indent=2)


WITHOUT_WORDS = ("BLOCKS", "ENDING", "PART", "SEGMENTS", "TAGS")
"""Dialects in which no entry may mean just one module."""


def means_only_new(twin: Twin, entries: Any, modules: Sequence[str], targets: Iterable[str]) -> bool:
    """Tell whether one entry by itself means something in the target, and nothing in the source."""
    alone = [{key: value} for key, value in entries.items()] if twin.is_object else [[entry] for entry in entries]

    def means(entry: Any, names: Iterable[str]) -> bool:
        return any(twin.reads(entry, name) not in (None, False) or "-:" in str(entry) for name in names)

    return any(means(entry, targets) and not means(entry, modules) for entry in alone)


def entries_in(text: str, config: Any, entries: Any) -> Any:
    """Return what stands in a text where a configuration has its entries."""
    new = json.loads(text)
    while config != entries:
        name = next(name for name, value in config.items() if isinstance(value, dict | list) or value == entries)
        new, config = new[name], config[name]
        if isinstance(entries, dict) and entries.items() <= config.items():
            return {key: value for key, value in new.items() if key not in ("bits", "group_size", "quant_method")}
    return new


METHODS = [name.replace("fp8_block", "fp8").replace("_", "-") for name in FORMATS]


def test_each_dialect_has_a_twin_and_each_format_says_where_it_names_modules() -> None:
    assert {id(getattr(dialects, name)) for name in TWINS} == {id(dialect) for dialect in DIALECTS}
    used = {id(names.dialect) for method in METHODS for names in names_in(method)}
    assert used == {id(dialect) for dialect in DIALECTS}


EVERYWHERE = {
    "quant_method": "",
    "ignore": ["head"],
    "exclude_modules": ["mo*"],
    "modules_to_not_convert": ["head"],
    "llm_int8_skip_modules": ["head"],
    "skip_modules": ["head"],
    "config_groups": {"a": {"targets": ["Linear"], "weights": {}}},
    "dynamic": {"+:.*q": {"bits": 4}},
    "modules_in_block_to_quantize": [["attn.q"]],
    "block_name_to_quantize": "model.layers",
    "quantized_layers": {"head": {}},
    "quant_type": {"default": {"_data": {"fqn_to_config": {"head": None}}}},
    "bits": 4,
    "head": {"bits": 8},
}
"""Names wherever any format has some."""


@settings(max_examples=150)
@given(data=st.data())
def test_no_configuration_is_a_crash(data: st.DataObject) -> None:
    """What stands where names should, but is none, stays, or is an error with a code."""
    said = EVERYWHERE | {"quant_method": data.draw(st.sampled_from(METHODS))}
    odd = st.sampled_from(
        [None, True, 0, 1.5, "", "text", "re:(", "(", [], [1], [[]], [[["head"]]], [None], {}, {"": {}}]
    )
    changed = replaced(said, data.draw(st.sampled_from(places_of(said))), data.draw(odd))
    for config in ({"quantization_config": changed}, {"quantization": changed}):
        text, problems = followed(moved_in(data.draw(st.sampled_from(sorted(MOVEMENTS)))), config)
        assert {problem.code for problem in problems} <= {"names-mixed", "names-unmapped"}
        assert json.loads(text).keys() == config.keys()
