"""Models to transforms and rules; an error of theirs gets the file, the line and the column."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

from weighbridge.base.errors import WeighbridgeError
from weighbridge.mappings.exception_rules import RULE_KINDS
from weighbridge.mappings.mapping import Mapping, Part
from weighbridge.mappings.mapping_files.documents import Document, Place
from weighbridge.mappings.mapping_files.mapping_forms import (
    ConvertForm,
    GroupForm,
    IncludeForm,
    MappingForm,
    PrefixChangeForm,
    RenameForm,
    TransformForm,
)
from weighbridge.mappings.mapping_files.nodes import Node, Record, Sequence, scalars
from weighbridge.mappings.transforms import (
    GroupWeightRename,
    PrefixChange,
    Transform,
    WeightConverter,
    WeightRenaming,
    describe,
)
from weighbridge.operations.ops import Operation, operation_from_dict

_Made = TypeVar("_Made")

Include = Callable[[str], Mapping]
"""Finds the mapping that a file includes, by the name of its file or by its own."""


@dataclass(slots=True)
class Builder:
    """Makes the mapping of one file, and collects all that is wrong on the way.

    Args:
        document: The file.
        include: Finds what it includes.
        problems: What was wrong so far.
    """

    document: Document
    include: Include
    problems: list[WeighbridgeError] = field(default_factory=list)

    def build(self, form: MappingForm, node: Node) -> Mapping | None:
        """Make a mapping of what a model holds; None if something is wrong."""
        before = len(self.problems)
        listed, old = _Listed(self), _Listed(self, may_repeat=True)
        listed.extend(form.transforms, _below(node, "transforms"))
        old.extend(form.legacy, _below(node, "legacy"))
        rules = {name: self._rules(name, form, node, listed.included) for name in RULE_KINDS}
        forward = self.build(form.forward, _below(node, "forward")) if form.forward is not None else None
        if len(self.problems) > before:
            return None
        own = [Part(part.path, part.config, tuple(part.classes.items())) for part in form.parts]
        return Mapping(
            listed.transforms,
            name=form.name,
            base_prefix=form.base_prefix,
            parts=[*own, *(part for mapping in listed.included for part in mapping.parts)],
            claims=[*form.claims, *(claim for mapping in listed.included for claim in mapping.claims)],
            legacy=[*listed.legacy, *old.transforms],
            forward=forward,
            **rules,
        )

    def _rules(self, name: str, form: MappingForm, node: Node, included: list[Mapping]) -> list[Any]:
        """Make the declared exceptions of one kind, the file's own before those of what it includes."""
        kind: Any = RULE_KINDS[name]
        below = _below(node, name)
        made = [
            self.attempt(partial(kind, **rule.model_dump()), _item(below, number))
            for number, rule in enumerate(getattr(form, name))
        ]
        return [*(rule for rule in made if rule is not None), *(r for m in included for r in getattr(m, name))]

    def attempt(self, make: Callable[[], _Made], node: Node) -> _Made | None:
        """Make something of a node; what is wrong with it is kept."""
        try:
            return make()
        except WeighbridgeError as problem:
            self.problems.append(placed(problem, self.document, node))
            return None


@dataclass(slots=True)
class _Listed:
    """The transforms of a list, as far as they are made.

    Args:
        builder: Makes them.
        may_repeat: Whether a transform may stand twice.
        transforms: In order, those that were included among them.
        legacy: Those of them that only old files need.
        included: The mappings that were included.
        places: Where each transform stands.
    """

    builder: Builder
    may_repeat: bool = False
    transforms: list[Transform] = field(default_factory=list)
    legacy: list[Transform] = field(default_factory=list)
    included: list[Mapping] = field(default_factory=list)
    places: dict[Transform, Place] = field(default_factory=dict)

    def extend(self, forms: Iterable[TransformForm], node: Node) -> None:
        """Make a list's transforms, and add them."""
        for number, form in enumerate(forms):
            self._add(form, _item(node, number))

    def _add(self, form: TransformForm, node: Node) -> None:
        if isinstance(form, IncludeForm):
            include = self.builder.include
            mapping = self.builder.attempt(lambda: include(form.include).scoped(form.scope), _below(node, "include"))
            if mapping is not None:
                self.included.append(mapping)
                self._append(mapping.transforms, node)
                self.legacy += mapping.legacy
            return
        transform = self.builder.attempt(lambda: make_transform(self.builder, form, node), node)
        if transform is not None:
            self._append([transform], node)
            self.legacy += [transform] if form.legacy else []

    def _append(self, transforms: Iterable[Transform], node: Node) -> None:
        document = self.builder.document
        for transform in transforms:
            if transform in self.places and not self.may_repeat:
                first = self.places[transform].line
                problem = document.complain(node.place, "this rule stands twice in one scope")
                because = f"line {first}: {describe(transform)}"
                parts = {**problem.to_dict(), "code": "mapping-duplicate-rule", "because": because}
                self.builder.problems.append(type(problem)(**parts))
            else:
                self.places[transform] = node.place
                self.transforms.append(transform)


def make_transform(builder: Builder, form: TransformForm, node: Node) -> Transform:
    """Make one transform.

    Raises:
        PatternError: `pattern-syntax`, `pattern-reference`.
        MappingError: `mapping-invalid`.
        LayoutError: `operation-argument`.
    """
    match form:
        case RenameForm():
            return WeightRenaming(form.rename, form.to, form.scope, form.if_wanted)
        case GroupForm():
            return GroupWeightRename(list(form.group), list(form.group.values()), form.scope, form.if_wanted)
        case PrefixChangeForm():
            change = form.prefix
            return PrefixChange(change.add, change.remove, change.model_prefix, form.scope, form.if_wanted)
        case ConvertForm():
            operations = _operations(builder, form, node)
            return WeightConverter(form.convert, form.to, operations, form.scope, form.if_wanted)
    raise AssertionError(f"no transform is made of {form!r}")


def _operations(builder: Builder, form: ConvertForm, node: Node) -> list[Operation]:
    below = _below(node, "with")
    made: list[Operation] = []
    for number, entry in enumerate(form.operations):
        try:
            made.append(operation_from_dict(_named(entry.model_dump(exclude_unset=True))))
        except WeighbridgeError as problem:
            raise placed(problem, builder.document, _item(below, number)) from None
    return made


def _named(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON form of an operation that a file has as its name with its arguments."""
    ((name, arguments),) = entry.items()
    inner = {"apply": _named(arguments["apply"])} if "apply" in arguments else {}
    return {"operation": name, **arguments, **inner}


def _below(node: Node, name: str) -> Node:
    """Return what a record has under a name, or the record itself."""
    return node.items.get(name, node) if isinstance(node, Record) else node


def _item(node: Node, number: int) -> Node:
    """Return an item of a list; a single value stands for a list of one."""
    return node.items[number] if isinstance(node, Sequence) else node


_PLACED: Final = re.compile(r".*:[0-9]+:[0-9]+")


def placed(problem: WeighbridgeError, document: Document, node: Node) -> WeighbridgeError:
    """Return an error with the file, the line and the column of its cause.

    Args:
        problem: An error about something that was made of the node; one from another file learns what includes that.
        document: The file.
        node: The node.
    """
    if _PLACED.fullmatch(problem.where):
        if problem.where.startswith(document.name + ":"):
            return problem
        chain = f"included at {document.where(node.place)}"
        return type(problem)(**{**problem.to_dict(), "because": "\n".join(filter(None, [problem.because, chain]))})
    place, is_shown = _cause(problem, node)
    parts: dict[str, Any] = {**problem.to_dict(), "where": document.where(place)}
    if is_shown or not problem.got:
        parts["got"] = document.show(place)
    if problem.where and problem.where not in document.show(place):
        parts["because"] = "\n".join(filter(None, [problem.where, problem.because]))
    return type(problem)(**parts)


def _cause(problem: WeighbridgeError, node: Node) -> tuple[Place, bool]:
    """Find the text that an error is about, and the column of its caret; tell whether the line shows what was found."""
    shown, _, caret = problem.got.partition("\n")
    for scalar in filter(lambda scalar: scalar.text, scalars(node)):
        if caret and scalar.text == shown:
            if scalar.inner:
                return scalar.place._replace(column=scalar.inner + len(caret) - 1), True
            return scalar.place, False
        if scalar.text in (shown, problem.where) or shown.endswith(" in " + scalar.text):
            return scalar.place, scalar.text == shown
    return node.place, False
