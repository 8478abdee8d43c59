"""Arguments and options that commands share, each described once, and how a command takes groups of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import StrEnum
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, get_type_hints

import typer

from weighbridge.base.errors import WeighbridgeError
from weighbridge.storage import parse_size

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A directory, a safetensors or torch file, several ('rank_{r}.pt'), an index, an inventory, or an address"
        " of the like: hf://org/name, s3://bucket/prefix, https://host/path.",
    ),
]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Only these targets, such as 'model.layers.{0..3}.**'; may be given again."),
]
DestinationArgument = Annotated[
    str,
    typer.Argument(
        metavar="DESTINATION",
        help="The directory to make, a torch file, such as out.pth, or a folder of a store, s3://bucket/prefix;"
        " nothing may be there yet.",
    ),
]
NameOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Name of the new weight files, such as adapter_model.")
]
NoSyncOption = Annotated[
    bool, typer.Option("--no-sync", help="Do not wait for the disk: as fast, and as safe in a power failure, as cp.")
]


class Link(StrEnum):
    """What new files may have in common with those of the source."""

    NEVER = "never"
    SHARE = "share"
    HARD = "hard"


ShardSizeOption = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Largest size of a new file, by default 5GB; none for a single file."),
]
MemoryOption = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Size of the buffers held at a time, such as 256MB.")
]
LinkOption = Annotated[
    Link,
    typer.Option(help="Share the disk's blocks with the source's files; hard: also be one file where nothing changes."),
]


class Kind(StrEnum):
    """What a new directory is to hold."""

    SAFETENSORS = "safetensors"
    DCP = "dcp"


ToOption = Annotated[
    Kind, typer.Option("--to", help="Write safetensors files, or a distributed checkpoint for torch on any ranks.")
]
UnderOption = Annotated[
    str, typer.Option(metavar="NAME", help="With --to dcp: the dict that the tensors are to be in, such as model.")
]
DirectOption = Annotated[
    bool, typer.Option("--direct", help="Read past the page cache, so that a large source drives out nothing there.")
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on with what a stopped run left, and leave it if this one is stopped.")
]
DigestsOption = Annotated[
    bool, typer.Option("--digests", help="Record the SHA-256 of every tensor, for: weighbridge verify DESTINATION")
]
PartOption = Annotated[
    str | None,
    typer.Option(metavar="I/N", help="Write part I, from 0, of N that share the output; auto: as the launcher says."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class WritingOptions:
    """How a directory or a file is written, by `convert` and by `revert`; see `weighbridge.Plan.write`."""

    resume: ResumeOption = False
    no_sync: NoSyncOption = False
    link: LinkOption = Link.NEVER
    to: ToOption = Kind.SAFETENSORS
    under: UnderOption = ""
    part: PartOption = None

    def arguments(self) -> dict[str, Any]:
        """Return the options by the names that `Plan.write` has for them."""
        given = {name: getattr(self, name) for name in ("resume", "under", "part")}
        return {**given, "sync": not self.no_sync, "link": self.link.value, "to": self.to.value}


FullOption = Annotated[bool, typer.Option("--full", help="List everything; nothing is left out as too long.")]
EntryOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Which dict of a torch file is meant; as ckpt.pt::NAME in the path itself."),
]


def size_option(flag: str, text: str) -> int:
    """Read a size in bytes from an option.

    Args:
        flag: The option, for the error's text.
        text: A number of bytes, or one with KB, MB, GB or TB.

    Raises:
        WeighbridgeError: `usage`.

    Examples:
        >>> size_option("--memory", "256MB"), size_option("--memory", "4096")
        (256000000, 4096)
    """
    try:
        return parse_size(int(text) if text.isdecimal() else text)
    except WeighbridgeError as problem:
        raise WeighbridgeError(
            "usage", f"{flag}: this is no size", expected=problem.expected, got=problem.got
        ) from None


def spread(function: Callable[..., None]) -> Callable[..., None]:
    """Turn a function with option groups, each a dataclass, into one with a parameter for each of their fields.

    This is how several commands share their options: each field's type says what its option is called.
    """
    hints = get_type_hints(function, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}

    @wraps(function)
    def command(**given: Any) -> None:
        made = {
            name: kind(**{part.name: given.pop(part.name) for part in fields(kind)}) for name, kind in groups.items()
        }
        function(**given, **made)

    parameters: list[Parameter] = []
    for name, parameter in signature(function).parameters.items():
        if name in groups:
            parts = get_type_hints(groups[name], include_extras=True)
            parameters += [_parameter(part.name, parts[part.name], _default(part)) for part in fields(groups[name])]
        else:
            parameters.append(_parameter(name, hints[name], parameter.default))
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _parameter(name: str, annotation: Any, default: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _default(part: Field[Any]) -> Any:
    return part.default_factory() if part.default_factory is not MISSING else part.default
