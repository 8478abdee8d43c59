"""What a mapping file may say, as pydantic models; the JSON schema for editors is made from them, too.

The models only look at the shape of a file: which fields there are, and of what type. What a pattern or an operation
means is checked where transforms are made of them. A field has the API's name where the API has one. The models of
operations are made from the operations themselves, so that a new one is known here at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from inspect import Parameter, getdoc, signature
from typing import Annotated, Any, Final

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    WithJsonSchema,
    create_model,
)
from pydantic_core import PydanticCustomError

from weighbridge.operations.chosen_parts import On, Single
from weighbridge.operations.movements import Rearrange
from weighbridge.operations.ops import OPERATIONS
from weighbridge.operations.values import ARGUMENT_KINDS

WRONG: Final = "wrong-value"
"""Type of the errors that say themselves what was expected."""


class Form(BaseModel):
    """A record of which all fields are known."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _one_or_more(value: object) -> object:
    """Let a single value stand for a list of one."""
    return [value] if isinstance(value, str | dict) else value


Text = Annotated[str, Field(min_length=1)]

_Listed: Final = BeforeValidator(_one_or_more, json_schema_input_type=Text | Annotated[list[Text], Field(min_length=1)])

Patterns = Annotated[list[Text], Field(min_length=1), _Listed]
"""A key pattern, or several."""


# Operations


def _fits(kinds: list[tuple[Callable[[object], bool], str]]) -> Callable[[object], Any]:
    """Make the check of an argument: one of the kinds that the operation takes."""

    def check(value: object) -> Any:
        given = tuple(value) if isinstance(value, list) else value
        if not any(fits(given) for fits, _ in kinds):
            expected = " or ".join(name for _, name in kinds)
            raise PydanticCustomError(WRONG, "this is another kind of argument", {"expected": expected})
        return value

    return check


_SCHEMAS: Final[dict[str, dict[str, Any]]] = {
    "int": {"type": "integer"},
    "bool": {"type": "boolean"},
    "str": {"type": "string"},
    "Element": {"type": ["number", "string"]},
    "Size": {"type": ["integer", "string"]},
    "tuple[int, ...]": {"type": "array", "items": {"type": "integer"}},
    "tuple[Size, ...]": {"type": "array", "items": {"type": ["integer", "string"]}},
    "tuple[int, int, int]": {"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 3},
    "tuple[str, ...]": {"type": "array", "items": {"type": "string"}},
    "None": {"type": "null"},
}
"""The JSON schema of each of `ARGUMENT_KINDS`."""


def _argument(kinds: list[str]) -> Any:
    schemas = [_SCHEMAS[kind] for kind in kinds]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    return Annotated[Any, PlainValidator(_fits([ARGUMENT_KINDS[kind] for kind in kinds])), WithJsonSchema(schema)]


def _arguments_form(operation: type[Any]) -> type[Form]:
    """Make the model of one operation's arguments."""
    if operation is Rearrange:
        return RearrangeForm
    defaults = {name: given.default for name, given in signature(operation).parameters.items()}
    found: dict[str, Any] = {}
    for field in fields(operation):
        name = field.name.removeprefix("is_")
        default = defaults[name]
        required = default is Parameter.empty
        found[name] = (_argument(str(field.type).split(" | ")), Field(... if required else default))
    first_line = (getdoc(operation) or "").partition("\n")[0]
    return create_model(operation.__name__, __base__=Form, __doc__=first_line, **found)


class RearrangeForm(Form):
    """Split, permute and join axes by a pattern of their names."""

    pattern: str = Field(description="The axes before and after, such as (h two d) c -> (two h d) c")
    lengths: dict[str, _argument(["int", "str"])] = Field(  # type: ignore[valid-type]
        default={}, description="Sizes of named axes, or names of the configuration's values for them"
    )


OPERATION_NAMES: Final = tuple(operation.__name__ for operation in OPERATIONS)


def _named_alone(value: object) -> object:
    """Let a name alone stand for an operation without arguments."""
    if isinstance(value, str):
        return {value: {}}
    if isinstance(value, dict) and len(value) != 1:
        raise PydanticCustomError(WRONG, "an entry is one operation", {"expected": "one name in each item of the list"})
    return value


def _one_of(form: Any) -> BeforeValidator:
    """Let an entry be one operation of a model, or the name alone."""
    name = Annotated[str, Field(json_schema_extra={"enum": list(form.model_fields)})]
    return BeforeValidator(_named_alone, json_schema_input_type=name | form)


_FORMS: Final[dict[str, Any]] = {
    operation.__name__: (_arguments_form(operation), None) for operation in OPERATIONS if operation is not On
}
_SINGLE: Final = [operation.__name__ for operation in OPERATIONS if issubclass(operation, Single)]

SingleForm: Any = create_model(
    "SingleForm",
    __base__=Form,
    __doc__="One operation on single tensors: its name, with its arguments.",
    **{name: _FORMS[name] for name in _SINGLE},
)


class OnForm(Form):
    """Apply an operation to some of the tensors alone: of the sources, or of the parts that one was cut into."""

    parts: _argument(["tuple[int, ...]"]) = Field(description="Numbers of the tensors, from 0")  # type: ignore[valid-type]
    apply: Annotated[SingleForm, _one_of(SingleForm)] = Field(description="What is done to them")


OperationForm: Any = create_model(
    "OperationForm",
    __base__=Form,
    __doc__="One operation: its name, with its arguments.",
    **{name: _FORMS.get(name, (OnForm, None)) for name in OPERATION_NAMES},
)

Operation = Annotated[OperationForm, _one_of(OperationForm)]
Operations = Annotated[
    list[Operation],
    Field(min_length=1),
    BeforeValidator(_one_or_more, json_schema_input_type=Operation | Annotated[list[Operation], Field(min_length=1)]),
]


# Transforms

Scope = Annotated[str, Field(description="Path of the sub-module whose keys this sees; empty for all keys")]
Legacy = Annotated[bool, Field(description="Whether only old files need this; the inverse leaves it out")]

IfWanted = Annotated[
    bool, Field(description="Leave a key alone whose new name the target lacks, where it has the one without this rule")
]


class RenameForm(Form):
    """WeightRenaming: give keys that match another name."""

    rename: Patterns = Field(description="One pattern or several alternatives; a key may match only one of them")
    to: Text = Field(description="What replaces the matched part of the key")
    scope: Scope = ""
    if_wanted: IfWanted = False
    legacy: Legacy = False


class ConvertForm(Form):
    """WeightConverter: turn tensors into others by operations."""

    convert: Patterns = Field(description="Patterns of the tensors that are read, in the operations' order")
    to: Patterns = Field(description="Patterns of the tensors that are written, in the operations' order")
    operations: Operations = Field(alias="with", description="What to do, first to last")
    scope: Scope = ""
    if_wanted: IfWanted = False
    legacy: Legacy = False


class PrefixForm(Form):
    """What a prefix change does: give `add` or `remove`."""

    add: Text | None = Field(default=None, description="Dotted path to put in front of every key that lacks it")
    remove: Text | None = Field(default=None, description="Dotted path to take away from every key that has it")
    model_prefix: str | None = Field(
        default=None, description="Dotted path below the scope after which the prefix stands"
    )


class PrefixChangeForm(Form):
    """PrefixChange: add a prefix to every key in scope, or remove it."""

    prefix: PrefixForm
    scope: Scope = ""
    if_wanted: IfWanted = False
    legacy: Legacy = False


class GroupForm(Form):
    """GroupWeightRename: rename several names at once; no pair sees what another pair wrote."""

    group: Annotated[dict[Text, Text], Field(min_length=1)] = Field(description="Old patterns, each with its new one")
    scope: Scope = ""
    if_wanted: IfWanted = False
    legacy: Legacy = False


class IncludeForm(Form):
    """Put in what another mapping says, at this place."""

    include: Text = Field(description="A file (./other.yaml) below the folder of the first file, or a registered name")
    scope: Scope = ""


TRANSFORM_FIELDS: Final[dict[str, type[Form]]] = {
    "rename": RenameForm,
    "convert": ConvertForm,
    "prefix": PrefixChangeForm,
    "group": GroupForm,
    "include": IncludeForm,
}
"""The field by which a transform is known, with its model."""


def _kind(value: object) -> str | None:
    return next((f"={name}" for name in TRANSFORM_FIELDS if isinstance(value, dict) and name in value), None)


TransformForm = RenameForm | ConvertForm | PrefixChangeForm | GroupForm | IncludeForm
OneTransform = Annotated[
    Annotated[RenameForm, Tag("=rename")]
    | Annotated[ConvertForm, Tag("=convert")]
    | Annotated[PrefixChangeForm, Tag("=prefix")]
    | Annotated[GroupForm, Tag("=group")]
    | Annotated[IncludeForm, Tag("=include")],
    Discriminator(_kind),
]
OwnTransform = Annotated[
    Annotated[RenameForm, Tag("=rename")]
    | Annotated[ConvertForm, Tag("=convert")]
    | Annotated[PrefixChangeForm, Tag("=prefix")]
    | Annotated[GroupForm, Tag("=group")],
    Discriminator(_kind),
]


# Declared exceptions, parts, and the whole


class RuleForm(Form):
    """A declared exception: the keys that it is for, and its name in reports."""

    pattern: str = Field(description="Key pattern")
    why: str = Field(default="", description="The rule's name in reports; the pattern by default")
    scope: Scope = ""


class InitialiseForm(RuleForm):
    """A target that nothing fills."""

    saved: bool = Field(default=True, description="Whether a model that is saved writes these tensors")


def _pattern_alone(value: object) -> object:
    """Let a pattern alone stand for a rule."""
    return {"pattern": value} if isinstance(value, str) else value


def _rules(kind: Any) -> Any:
    one = Annotated[kind, BeforeValidator(_pattern_alone, json_schema_input_type=str | kind)]
    return Annotated[list[one], BeforeValidator(_one_or_more, json_schema_input_type=one | list[one])]


Rules: Any = _rules(RuleForm)


class PartForm(Form):
    """A sub-model that follows a mapping of its own."""

    path: str = Field(description="Dotted path of the sub-model")
    config: str = Field(default="", description="Name of its configuration within the model's")
    classes: dict[str, str] = Field(default={}, description="For each model type the class that it has in this place")


class MappingForm(Form):
    """A mapping of weighbridge: how one layout of a model's weights becomes another."""

    name: str = Field(default="", description="What reports call this mapping")
    base_prefix: str = Field(default="", description="Prefix of a head model's keys that those of its base model lack")
    transforms: list[OneTransform] = Field(default=[], description="What is done, in order")
    drop: Rules = Field(default=[], description="Sources that are left out")
    carry: Rules = Field(default=[], description="Sources that pass through under their own name")
    initialise: _rules(InitialiseForm) = Field(default=[], description="Targets that nothing fills")  # type: ignore[valid-type]
    refuse: Rules = Field(default=[], description="Sources that must have a place")
    parts: list[PartForm] = Field(default=[], description="Sub-models with mappings of their own")
    claims: Annotated[list[str], BeforeValidator(_one_or_more, json_schema_input_type=str | list[str])] = Field(
        default=[], description="Class names and model types that this mapping also speaks for"
    )
    legacy: list[OwnTransform] = Field(
        default=[], description="Transforms that only old files need, where `legacy: true` cannot say which"
    )
    forward: MappingForm | None = Field(default=None, description="The mapping that this one is the inverse of")
