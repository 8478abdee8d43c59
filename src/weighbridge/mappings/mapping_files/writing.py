"""Write a mapping as the canonical text of a mapping file: fields in a fixed order, nothing that is the default."""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from dataclasses import asdict
from inspect import signature
from typing import Any, Final

import yaml

from weighbridge.base.errors import MappingError
from weighbridge.mappings.exception_rules import RULE_KINDS
from weighbridge.mappings.mapping import Mapping, Part
from weighbridge.mappings.mapping_files.documents import MAX_BYTES
from weighbridge.mappings.mapping_files.nodes import read_plain
from weighbridge.mappings.transforms import GroupWeightRename, PrefixChange, Transform, WeightConverter, WeightRenaming
from weighbridge.operations.ops import OPERATIONS, Operation

MAX_WIDTH: Final = 88
"""Longest list or record, in characters, that stands on one line."""


def write_text(mapping: Mapping) -> str:
    """Return the text of a mapping.

    Raises:
        MappingError: `mapping-invalid` for what no file can say.
    """
    _check_writable(mapping)
    text: str = yaml.serialize(_node(form_of(mapping)), Dumper=_Dumper, width=float("inf"), allow_unicode=True)
    if len(text) > MAX_BYTES:
        raise MappingError("mapping-invalid", "this mapping is too large for a file", got=f"{len(text):,} characters")
    return text


def _check_writable(mapping: Mapping) -> None:
    """Refuse what the types of a mapping forbid and its constructor lets pass."""
    texts: list[object] = [mapping.name, mapping.base_prefix, *mapping.claims]
    for part in mapping.parts:
        texts += [part.path, part.config, *(text for pair in part.classes for text in pair)]
        if len(dict(part.classes)) != len(part.classes):
            raise MappingError("mapping-invalid", "a part has two classes for one model type", got=repr(part))
    for name in RULE_KINDS:
        texts += [text for rule in getattr(mapping, name) for text in (rule.pattern, rule.why, rule.scope)]
    strange = [text for text in texts if not isinstance(text, str)]
    if strange:
        raise MappingError("mapping-invalid", "this is no text", got=repr(strange[0]))
    if mapping.forward is not None:
        _check_writable(mapping.forward)


def form_of(mapping: Mapping) -> dict[str, Any]:
    """Return what a file says: plain values in the order of the file.

    Examples:
        >>> form_of(Mapping([WeightRenaming("gamma", "weight")], name="norms"))
        {'name': 'norms', 'transforms': [{'rename': 'gamma', 'to': 'weight'}]}
    """
    marked = tuple(transform for transform in mapping.transforms if transform in mapping.legacy)
    is_marked = marked == mapping.legacy
    form: dict[str, Any] = {
        "name": mapping.name,
        "base_prefix": mapping.base_prefix,
        "transforms": [_transform(rule, is_marked and rule in marked) for rule in mapping.transforms],
        **{name: [_rule(rule) for rule in getattr(mapping, name)] for name in RULE_KINDS},
        "parts": [_part(part) for part in mapping.parts],
        "claims": list(mapping.claims),
        "legacy": [] if is_marked else [_transform(rule, False) for rule in mapping.legacy],
        "forward": form_of(mapping.forward) if mapping.forward is not None else None,
    }
    return {name: value for name, value in form.items() if value or name == "transforms"}


def _transform(transform: Transform, is_legacy: bool) -> dict[str, Any]:
    form = _rewriting(transform)
    if transform.scope:
        form["scope"] = transform.scope
    if transform.if_wanted:
        form["if_wanted"] = True
    if is_legacy:
        form["legacy"] = True
    return form


def _rewriting(transform: Transform) -> dict[str, Any]:
    match transform:
        case WeightRenaming():
            return {"rename": _one_or_all(transform.source_patterns), "to": transform.target_patterns[0]}
        case GroupWeightRename():
            return {"group": dict(zip(transform.source_patterns, transform.target_patterns, strict=True))}
        case PrefixChange():
            names = {"add": "prefix_to_add", "remove": "prefix_to_remove", "model_prefix": "model_prefix"}
            given = {name: getattr(transform, attribute) for name, attribute in names.items()}
            return {"prefix": {name: value for name, value in given.items() if value is not None}}
        case WeightConverter():
            return {
                "convert": _one_or_all(transform.source_patterns),
                "to": _one_or_all(transform.target_patterns),
                "with": [_operation(operation) for operation in transform.operations],
            }


def _one_or_all(texts: tuple[str, ...]) -> str | list[str]:
    return texts[0] if len(texts) == 1 else list(texts)


_DEFAULTS: Final[MappingOf[str, MappingOf[str, Any]]] = {
    kind.__name__: {name: given.default for name, given in signature(kind).parameters.items()} for kind in OPERATIONS
}


def _operation(operation: Operation) -> str | dict[str, Any]:
    """Return an operation's name, with the arguments that say something: an axis always does."""
    return _named(operation.to_dict())


def _named(form: dict[str, Any]) -> str | dict[str, Any]:
    name = form.pop("operation")
    if isinstance(form.get("apply"), dict):
        form["apply"] = _named(form["apply"])
    unsaid = {argument for argument, default in _DEFAULTS[name].items() if default is None or default is False}
    given = {
        argument: value
        for argument, value in form.items()
        if value != {} and not (argument in unsaid and value is _DEFAULTS[name][argument])
    }
    return {name: given} if given else name


def _rule(rule: Any) -> str | dict[str, Any]:
    form = {
        name: value for name, value in asdict(rule).items() if name == "pattern" or (value != "" and value is not True)
    }
    return rule.pattern if len(form) == 1 else form


def _part(part: Part) -> dict[str, Any]:
    form = {"path": part.path, "config": part.config, "classes": dict(part.classes)}
    return {name: value for name, value in form.items() if value or name == "path"}


# YAML


class _Dumper(yaml.SafeDumper):
    """Sets lists in, below the name that holds them."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Begin a list or a record; a list is never as far left as its name."""
        super().increase_indent(flow, False)


def _node(value: Any, *, is_named: bool = False) -> yaml.Node:
    """Return the node of a value; a short list of single values, and a short named record of them, fit on one line."""
    if isinstance(value, dict):
        pairs = [(_text(name), _node(item, is_named=True)) for name, item in value.items()]
        return yaml.MappingNode(_tag("map"), pairs, flow_style=is_named and _is_short(value))
    if isinstance(value, list):
        return yaml.SequenceNode(_tag("seq"), list(map(_node, value)), flow_style=_is_short(value))
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float):
        return yaml.ScalarNode(_tag("float"), _decimal(value))
    kind = "null" if value is None else "bool" if isinstance(value, bool) else "int"
    return yaml.ScalarNode(_tag(kind), "null" if value is None else str(value).lower())


def _decimal(value: float) -> str:
    """Write a number with a point: without one, some readers of YAML take it for a text."""
    mantissa, _, exponent = repr(value).partition("e")
    mantissa = mantissa if "." in mantissa else f"{mantissa}.0"
    return f"{mantissa}e{exponent}" if exponent else mantissa


def _text(text: str) -> yaml.ScalarNode:
    """Return the node of a text, in quotes where one of YAML's readers would take it for something else."""
    style = "'" if read_plain(text) != text else None
    return yaml.ScalarNode(_tag("str"), text, style=style if text.isprintable() else '"')


def _tag(kind: str) -> str:
    return f"tag:yaml.org,2002:{kind}"


def _is_short(value: dict[str, Any] | list[Any]) -> bool:
    """Tell whether single values, or short lists of them, fit on one line."""
    width = 0
    for item in value.items() if isinstance(value, dict) else value:
        for part in item if isinstance(item, tuple) else (item,):
            if isinstance(part, dict) or (isinstance(part, list) and not (isinstance(item, tuple) and _is_short(part))):
                return False
            width += 2 + len(str(part))
    return width <= MAX_WIDTH
