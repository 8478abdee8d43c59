"""A mapping: an ordered, named tuple of transforms, with the exceptions that it declares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping as MappingOf
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from typing import Any, ClassVar, Final, NamedTuple

from weighbridge.base.errors import MappingError
from weighbridge.mappings.exception_rules import (
    RULE_KINDS,
    Carry,
    Drop,
    Initialise,
    Refuse,
    Rules,
    exception_rules,
    mounted,
)
from weighbridge.mappings.transforms import (
    TRANSFORMS,
    GroupWeightRename,
    PrefixChange,
    Transform,
    WeightConverter,
    WeightRenaming,
    describe,
    scoped,
)
from weighbridge.operations.ops import operation_from_dict


class Part(NamedTuple):
    """A sub-model that follows a mapping of its own: where it hangs, and how a configuration alone says what it is.

    Args:
        path: Dotted path of the sub-model below the model that the mapping is for.
        config: Name of its configuration within the model's (such as ``"vision_config"``); empty where it shares the
            model's own.
        classes: Pairs of a `model_type` and the class that a sub-model of that type has in this place, where that
            class has a mapping of its own.
    """

    path: str
    config: str = ""
    classes: tuple[tuple[str, str], ...] = ()


class TextForm(NamedTuple):
    """A text that says what a mapping says: what `Mapping.to_yaml` and `Mapping.from_yaml` do.

    Args:
        write: Returns the text of a mapping.
        read: Makes the mapping of a text.
    """

    write: Callable[[Mapping], str]
    read: Callable[[str], Mapping]


@dataclass(frozen=True, slots=True, init=False)
class Mapping:
    """Say how one layout becomes another: transforms in order, and the declared exceptions.

    Args:
        transforms: The transforms, in the order in which they run.
        name: What reports call this mapping.
        drop: `Drop` rules, or patterns.
        carry: `Carry` rules, or patterns.
        initialise: `Initialise` rules, or patterns.
        refuse: `Refuse` rules, or patterns.
        base_prefix: The prefix that the keys of a head model have and those of its base model lack (such as
            ``"model"``); a checkpoint of either kind then fits a target of the other.
        parts: Sub-models with mappings of their own, for those who have a configuration and no model.
        claims: Class names and model types that this mapping also speaks for: what is registered for them is not
            mounted on sub-models of this one.
        legacy: Those of the transforms that only old files need: the inverse leaves them out, so that a model which
            did not come from such a file is not saved as one.
        forward: The mapping that this one is the inverse of; set by `inverse`.

    Raises:
        MappingError: `mapping-invalid`, `mapping-duplicate-rule`.

    Examples:
        >>> mapping = Mapping([WeightRenaming("gamma", "weight"), WeightRenaming("beta", "bias")], name="norms")
        >>> [describe(transform) for transform in mapping.inverse()]
        ['WeightRenaming(bias -> beta)', 'WeightRenaming(weight -> gamma)']
        >>> mapping.scoped("encoder").transforms[0].scope
        'encoder'
    """

    transforms: tuple[Transform, ...]
    name: str
    drop: tuple[Drop, ...]
    carry: tuple[Carry, ...]
    initialise: tuple[Initialise, ...]
    refuse: tuple[Refuse, ...]
    base_prefix: str
    parts: tuple[Part, ...]
    claims: tuple[str, ...]
    legacy: tuple[Transform, ...]
    forward: Mapping | None

    _text_form: ClassVar[TextForm | None] = None

    def __init__(
        self,
        transforms: Iterable[Transform] = (),
        name: str = "",
        *,
        drop: Rules = (),
        carry: Rules = (),
        initialise: Rules = (),
        refuse: Rules = (),
        base_prefix: str = "",
        parts: Iterable[Part] = (),
        claims: Iterable[str] = (),
        legacy: Iterable[Transform] = (),
        forward: Mapping | None = None,
    ) -> None:
        listed = _check_transforms(transforms)
        values = {
            "transforms": listed,
            "name": name,
            "drop": exception_rules(Drop, drop),
            "carry": exception_rules(Carry, carry),
            "initialise": exception_rules(Initialise, initialise),
            "refuse": exception_rules(Refuse, refuse),
            "base_prefix": base_prefix,
            "parts": tuple(parts),
            "claims": tuple(claims),
            "legacy": tuple(legacy),
            "forward": forward,
        }
        for field_name, value in values.items():
            object.__setattr__(self, field_name, value)

    def __iter__(self) -> Iterator[Transform]:
        return iter(self.transforms)

    def __len__(self) -> int:
        return len(self.transforms)

    @property
    def renames(self) -> tuple[Transform, ...]:
        """The transforms that only rename, in order."""
        return tuple(transform for transform in self.transforms if not isinstance(transform, WeightConverter))

    @property
    def converters(self) -> tuple[WeightConverter, ...]:
        """The transforms that change tensors, in order."""
        return tuple(transform for transform in self.transforms if isinstance(transform, WeightConverter))

    def scoped(self, prefix: str) -> Mapping:
        """Mount every transform, and every part, under the sub-module at `prefix`."""
        return replace(
            self,
            transforms=tuple(scoped(transform, prefix) for transform in self.transforms),
            parts=tuple(part._replace(path=f"{prefix}.{part.path}" if prefix else part.path) for part in self.parts),
            legacy=tuple(scoped(transform, prefix) for transform in self.legacy),
            drop=tuple(mounted(rule, prefix) for rule in self.drop),
            carry=tuple(mounted(rule, prefix) for rule in self.carry),
            initialise=tuple(mounted(rule, prefix) for rule in self.initialise),
            refuse=tuple(mounted(rule, prefix) for rule in self.refuse),
            forward=self.forward.scoped(prefix) if self.forward is not None else None,
        )

    def inverse(self) -> Mapping:
        """Return the mapping back: the list reversed, each transform inverted.

        The inverse of a plan is exact and recorded; this one is derived. A plan made with it accepts a key only if the
        forward mapping brings it back (`inverse-unproven` otherwise).

        Raises:
            PatternError: `pattern-one-way`, with every rule that has no inverse.
            LayoutError: `operation-one-way`.
        """
        if self.forward is not None:
            return self.forward
        kept = (transform for transform in reversed(self.transforms) if transform not in self.legacy)
        transforms = tuple(transform.inverse() for transform in kept)
        name = f"inverse of {self.name}" if self.name else ""
        return Mapping(transforms, name=name, carry=self.carry, base_prefix=self.base_prefix, forward=self)

    def rule_name(self, number: int) -> str:
        """Name rule `number` (from 0) for a report."""
        transform = self.transforms[number]
        owner = f' of mapping "{self.name}"' if self.name else ""
        return f'rule {number + 1}{owner}, scope "{transform.scope}": {describe(transform)}'

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form of the mapping."""
        form: dict[str, Any] = {"name": self.name, "transforms": [transform_to_dict(t) for t in self.transforms]}
        for field_name in RULE_KINDS:
            rules = getattr(self, field_name)
            if rules:
                form[field_name] = [asdict(rule) for rule in rules]
        if self.base_prefix:
            form["base_prefix"] = self.base_prefix
        if self.parts:
            form["parts"] = [[part.path, part.config, dict(part.classes)] for part in self.parts]
        if self.claims:
            form["claims"] = list(self.claims)
        if self.legacy:
            form["legacy"] = [transform_to_dict(transform) for transform in self.legacy]
        return form | ({"forward": self.forward.to_dict()} if self.forward is not None else {})

    @staticmethod
    def from_dict(form: MappingOf[str, Any]) -> Mapping:
        """Read the JSON form of a mapping.

        Raises:
            MappingError: `mapping-invalid`.
        """
        try:
            rules = {
                field_name: [kind(**rule) for rule in form.get(field_name, ())]
                for field_name, kind in RULE_KINDS.items()
            }
            return Mapping(
                [transform_from_dict(transform) for transform in form["transforms"]],
                name=form.get("name", ""),
                base_prefix=form.get("base_prefix", ""),
                parts=[Part(path, config, tuple(classes.items())) for path, config, classes in form.get("parts", ())],
                claims=form.get("claims", ()),
                legacy=[transform_from_dict(transform) for transform in form.get("legacy", ())],
                forward=Mapping.from_dict(form["forward"]) if "forward" in form else None,
                **rules,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise MappingError("mapping-invalid", "this is no mapping", got=repr(problem)) from None

    def to_yaml(self) -> str:
        """Return the mapping as the text of a mapping file; `load_mapping` reads such a file."""
        return _text_form().write(self)

    @staticmethod
    def from_yaml(text: str) -> Mapping:
        """Read the text of a mapping file; errors are those of `load_mapping`."""
        return _text_form().read(text)


MappingLike = Mapping | Iterable[Transform]


def use_text_form(form: TextForm) -> None:
    """Say how mappings are written and read as text; `mapping_files`, which knows how, does so when it is imported."""
    Mapping._text_form = form


def _text_form() -> TextForm:
    """Return what writes and reads mapping files, whose libraries are loaded when the first one is asked for."""
    if Mapping._text_form is None:
        import_module(f"{__package__}.mapping_files")
    assert Mapping._text_form is not None
    return Mapping._text_form


def as_mapping(mapping: MappingLike) -> Mapping:
    """Return `mapping` itself, or the mapping that a list of transforms stands for.

    Raises:
        MappingError: `mapping-invalid`.
    """
    return mapping if isinstance(mapping, Mapping) else Mapping(mapping)


def _check_transforms(transforms: Any) -> tuple[Transform, ...]:
    if isinstance(transforms, str) or not isinstance(transforms, Iterable):
        hint = "weighbridge.load_mapping(path) reads a mapping file"
        raise MappingError("mapping-invalid", "transforms come as a list", got=repr(transforms), hint=hint)
    seen: set[Transform] = set()
    for transform in (listed := tuple(transforms)):
        if not isinstance(transform, TRANSFORMS):
            expected = ", ".join(kind.__name__ for kind in TRANSFORMS)
            raise MappingError("mapping-invalid", "this is no transform", expected=expected, got=repr(transform))
        if transform in seen:
            what, rule = "this rule stands twice in one scope", describe(transform)
            raise MappingError("mapping-duplicate-rule", what, where=rule, hint="remove one of the two")
        seen.add(transform)
    return listed


_FIELDS: Final[MappingOf[type[Any], tuple[str, ...]]] = {
    WeightRenaming: ("source_patterns", "target_patterns"),
    GroupWeightRename: ("source_patterns", "target_patterns"),
    PrefixChange: ("prefix_to_add", "prefix_to_remove", "model_prefix"),
    WeightConverter: ("source_patterns", "target_patterns"),
}


def transform_to_dict(transform: Transform) -> dict[str, Any]:
    """Return the JSON form of a transform."""
    form: dict[str, Any] = {"transform": type(transform).__name__}
    for name in _FIELDS[type(transform)]:
        value = getattr(transform, name)
        if value is not None:
            form[name] = list(value) if isinstance(value, tuple) else value
    if isinstance(transform, WeightConverter):
        form["operations"] = [operation.to_dict() for operation in transform.operations]
    flags = {"if_wanted": True} if transform.if_wanted else {}
    return form | ({"scope": transform.scope} if transform.scope else {}) | flags


def transform_from_dict(form: MappingOf[str, Any]) -> Transform:
    """Read the JSON form of a transform.

    Raises:
        MappingError: `mapping-invalid`.
    """
    kinds = {kind.__name__: kind for kind in TRANSFORMS}
    arguments = dict(form)
    kind = kinds.get(str(arguments.pop("transform", None)))
    if kind is None:
        raise MappingError("mapping-invalid", "unknown transform", expected=", ".join(kinds), got=repr(dict(form)))
    if "operations" in arguments:
        arguments["operations"] = [operation_from_dict(operation) for operation in arguments["operations"]]
    try:
        transform: Transform = kind(**arguments)
    except TypeError as problem:
        raise MappingError("mapping-invalid", str(problem), got=repr(dict(form))) from None
    return transform
