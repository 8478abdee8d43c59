"""What a model refuses, said in the words of the file, with the place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping as MappingOf
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from weighbridge.base.errors import MappingError
from weighbridge.base.nearby import close_names
from weighbridge.mappings.mapping_files.documents import Document
from weighbridge.mappings.mapping_files.mapping_forms import (
    OPERATION_NAMES,
    TRANSFORM_FIELDS,
    WRONG,
    InitialiseForm,
    MappingForm,
    OperationForm,
    PartForm,
    PrefixForm,
    RuleForm,
    SingleForm,
)
from weighbridge.mappings.mapping_files.nodes import Node, Record, Scalar, Sequence

_EXPECTED: Final[MappingOf[str, str]] = {
    "string_type": "a text",
    "string_too_short": "a text that is not empty",
    "bool_type": "true or false",
    "list_type": "a list",
    "too_short": "at least one",
    "dict_type": "fields, each with its value",
    "model_type": "fields, each with its value",
    "union_tag_invalid": "a transform of its own: nothing can be included here",
    "union_tag_not_found": "a transform, which has one of " + ", ".join(f"{name}:" for name in TRANSFORM_FIELDS),
}
"""What was expected, by the type of the error (https://docs.pydantic.dev/latest/errors/validation_errors/)."""


def complaints(document: Document, root: Node, refused: ValidationError) -> Iterator[MappingError]:
    """Yield an error for each thing that a model refuses.

    Args:
        document: The file.
        root: What was checked.
        refused: The model's own error.
    """
    for single in refused.errors(include_url=False):
        yield _complaint(document, root, single)


def _complaint(document: Document, root: Node, single: MappingOf[str, Any]) -> MappingError:
    node, owner, name = _find(root, single["loc"])
    if single["type"] == "extra_forbidden":
        key = owner.keys.get(name, node) if isinstance(owner, Record) else node
        return _unknown_field(document, key, name, _known_names(single["loc"]))
    if single["type"] == "missing":
        what = f"`{name}` is missing here"
        return document.complain(node.place, what, expected=f"{name}: and its value")
    expected = single["ctx"]["expected"] if single["type"] == WRONG else _EXPECTED.get(single["type"], single["msg"])
    what = single["msg"] if single["type"] == WRONG else f"this is not {expected.partition(',')[0].partition(':')[0]}"
    return document.complain(node.place, what, expected=expected, hint=_hint(node, expected, single["type"]))


def _hint(node: Node, expected: str, kind: str) -> str:
    if "text" in expected and isinstance(node, Scalar) and not isinstance(node.value, str | None):
        return f"quote it, if a text is meant: '{node.text}'"
    if kind == "union_tag_not_found" and isinstance(node, Record):
        near = [match for name in node.items for match in close_names(name, TRANSFORM_FIELDS)]
        return f"did you mean {near[0]}:" if near else ""
    return ""


def _find(root: Node, location: tuple[Any, ...]) -> tuple[Node, Node, str]:
    """Follow a location as far as it leads: the last node, the one that holds it, and the location's last name.

    A location has steps that the file has not: for the kind of a transform, and for a list that one value stands for.
    """
    node = owner = root
    for step in location:
        below = _step(node, step)
        if below is not None:
            owner, node = node, below
    return node, owner, str(location[-1]) if location else ""


def _step(node: Node, step: int | str) -> Node | None:
    """Return what a node holds under a step of a location, or None for a step that the file has not."""
    if isinstance(node, Record):
        return node.items.get(str(step))
    if isinstance(node, Sequence) and isinstance(step, int) and step < len(node.items):
        return node.items[step]
    return None


def _unknown_field(document: Document, key: Node, name: str, known: list[str]) -> MappingError:
    is_operation = bool(known) and set(known) <= set(OPERATION_NAMES)
    near = close_names(name, known) or close_names(name.lower(), known)
    return document.complain(
        key.place,
        f"there is no operation {name}" if is_operation else f"there is no field `{name}` here",
        expected="one of " + ", ".join(known) if known else "no fields",
        hint=f"did you mean {near[0]}" if near else "",
    )


_RECORDS: Final[MappingOf[str, type[BaseModel]]] = {
    "drop": RuleForm,
    "carry": RuleForm,
    "initialise": InitialiseForm,
    "refuse": RuleForm,
    "parts": PartForm,
    "prefix": PrefixForm,
    "with": OperationForm,
    "apply": SingleForm,
    "forward": MappingForm,
    **{f"={name}": form for name, form in TRANSFORM_FIELDS.items()},
}
"""For each step of a location that leads to records: their model."""


def _known_names(location: tuple[Any, ...]) -> list[str]:
    """Return the fields that a record has, by the location of one that it has not."""
    model: type[BaseModel] = MappingForm
    for step in location[:-1]:
        if isinstance(step, int):
            continue
        if model in (OperationForm, SingleForm):
            annotation = model.model_fields[step].annotation
            model = annotation if isinstance(annotation, type) else model
        else:
            model = _RECORDS.get(str(step), model)
    return [field.alias or name for name, field in model.model_fields.items()]
