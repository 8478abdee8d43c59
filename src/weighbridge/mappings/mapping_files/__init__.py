"""Mapping files: a mapping as YAML, pleasant to write by hand, and the way back.

    documents      the text of a file, and how an error shows a place in it
    nodes          YAML to a tree that knows where each part stands; what YAML would read as something else is an error
    mapping_forms  what a file may say, as pydantic models
    complaints     what a model refuses, said in the words of the file
    rule_building  models to transforms and rules; their errors get the file, the line and the column
    includes       files and registered mappings that a file includes
    reading        all of that, one after the other
    writing        a mapping as the canonical text
    schema         the JSON schema of a file, for editors

The YAML is that of PyYAML's scanner (YAML 1.1, https://yaml.org/spec/1.1/), but for its types: a value is a text, a
whole number in decimal, `true`, `false` or `null`. Nothing here loads YAML or pydantic before a file is read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeGuard

from weighbridge.base.errors import MappingError
from weighbridge.base.json_text import JsonError, check_characters, parse_json
from weighbridge.mappings.mapping import Mapping, TextForm, use_text_form

__all__ = ["YAML_SUFFIXES", "is_mapping_file", "json_schema", "load_mapping", "read_mapping", "write_mapping"]

YAML_SUFFIXES = (".yaml", ".yml")
"""How the names of YAML mapping files end."""


def is_mapping_file(place: object) -> TypeGuard[str | Path]:
    """Tell whether a place is named as a mapping file is: `.yaml`, `.yml` or `.json`.

    Examples:
        >>> [is_mapping_file(name) for name in ("fix.yaml", Path("fix.json"), "qwen3_moe")]
        [True, True, False]
    """
    return isinstance(place, str | Path) and str(place).endswith((*YAML_SUFFIXES, ".json"))


def load_mapping(path: str | Path) -> Mapping:
    """Read a mapping file.

    Args:
        path: A `.yaml` or `.yml` file, or a `.json` file with what `Mapping.to_dict` gives.

    Returns:
        The mapping, with what it includes.

    Raises:
        MappingError: `mapping-file`, with the line and the column; `mapping-invalid`, `mapping-duplicate-rule`.
        PatternError: `pattern-syntax`, `pattern-reference`.
        LayoutError: `operation-argument`.
        RegistryError: `mapping-not-found` for an included name.
    """
    place = Path(path).expanduser()
    if place.name.endswith(YAML_SUFFIXES):
        from weighbridge.mappings.mapping_files.reading import read_file

        return read_file(place)
    if place.name.endswith(".json"):
        return _from_json(place)
    expected = "a name that ends in .yaml, .yml or .json"
    raise MappingError("mapping-file", "this is no mapping file", where=str(path), expected=expected)


def read_mapping(text: str) -> Mapping:
    """Read the text of a YAML mapping file; one that includes other files has to be a file itself.

    Raises:
        WeighbridgeError: As `load_mapping`.

    Examples:
        >>> read_mapping("transforms: [{rename: gamma, to: weight}]").transforms[0].target_patterns
        ('weight',)
    """
    from weighbridge.mappings.mapping_files.reading import read_text

    return read_text(text)


def write_mapping(mapping: Mapping) -> str:
    """Return a mapping as the text of a YAML file, from which `read_mapping` makes an equal one.

    Raises:
        MappingError: `mapping-invalid` for what no file can say.
    """
    from weighbridge.mappings.mapping_files.writing import write_text

    try:
        check_characters([json.dumps(mapping.to_dict(), ensure_ascii=False)])
    except JsonError as error:
        raise MappingError("mapping-invalid", "a mapping file cannot hold this text", got=str(error)) from None
    return write_text(mapping)


use_text_form(TextForm(write_mapping, read_mapping))


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a YAML mapping file, for editors."""
    from weighbridge.mappings.mapping_files.schema import build_schema

    return build_schema()


def _from_json(path: Path) -> Mapping:
    from weighbridge.mappings.mapping_files.documents import read_bytes

    try:
        form = parse_json(read_bytes(path))
    except JsonError as problem:
        raise MappingError("mapping-file", "this file is no JSON", where=str(path), got=str(problem)) from None
    if not isinstance(form, dict) or "transforms" not in form:
        is_plan = isinstance(form, dict) and {"mapping", "steps"} <= form.keys()
        raise MappingError(
            "mapping-file",
            "this file holds a plan, which is no mapping" if is_plan else "this file holds no mapping",
            where=str(path),
            expected='an object with "transforms"',
            hint='give the mapping that it was made with, which is its "mapping"' if is_plan else "",
        )
    return Mapping.from_dict(form)
