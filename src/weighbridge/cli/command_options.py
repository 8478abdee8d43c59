"""The arguments and options of the commands that make a plan, each described once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from shlex import join, quote
from typing import Annotated, Any, Final

import typer

from weighbridge import api
from weighbridge.api import Plan
from weighbridge.api.settings import Settings
from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.base.json_text import JsonError, parse_json
from weighbridge.cli.adapter_options import (
    BaseOption,
    BlockDiagonalOption,
    PackingOption,
    PrefixOption,
    read_prefixes,
)
from weighbridge.cli.mapping_argument import load_argument
from weighbridge.cli.shared_options import EntryOption
from weighbridge.cli.wording import PANEL
from weighbridge.mappings.exception_rules import Carry, Drop, Initialise
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.registry import default_registry
from weighbridge.planning.casts.dtype_policies import ALL, TARGET, read_policy
from weighbridge.planning.names.selections import selected_rules
from weighbridge.planning.plan_options import REFINE
from weighbridge.storage import Checkpoint


def mapping_names(incomplete: str) -> list[str]:
    """Complete a mapping's name; a shell completes paths where no name fits."""
    return [name for name in default_registry if name.startswith(incomplete)]


MappingArgument = Annotated[
    str,
    typer.Argument(
        metavar="MAPPING",
        help="A registered name, path.yaml, path.py:NAME, or path.json.",
        autocompletion=mapping_names,
    ),
]
NoMappingArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[MAPPING]",
        help="A registered name, path.yaml, path.py:NAME, or path.json; without it, no tensor takes another name.",
        autocompletion=mapping_names,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A size that the configuration has not, or otherwise, such as num_attention_heads=8; may be given again.",
        rich_help_panel=PANEL,
    ),
]


_EXCEPTIONS: Final = {"drop": Drop, "carry": Carry, "initialise": Initialise}


class LayoutMode(StrEnum):
    """How the reading of a checkpoint's layout is chosen."""

    AUTO = "auto"
    MAPPED = "mapped"
    AS_IS = "as is"


def _pattern_option(flag: str, what: str) -> Any:
    return typer.Option(flag, metavar="PATTERN", help=f"{what}; may be given again.", rich_help_panel=PANEL)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What a plan is made from beside the source and the mapping; see `weighbridge.planning.plan_options.Options`."""

    target: Annotated[
        str | None,
        typer.Option(metavar="PLACE", help="A checkpoint whose layout is wanted.", rich_help_panel=PANEL),
    ] = None
    partial: Annotated[
        bool,
        typer.Option("--partial", help="Accept what is missing and what is left over.", rich_help_panel=PANEL),
    ] = False
    drop: Annotated[list[str], _pattern_option("--drop", "Leave these sources out")] = field(default_factory=list)
    carry: Annotated[list[str], _pattern_option("--carry", "Pass these sources through")] = field(default_factory=list)
    initialise: Annotated[list[str], _pattern_option("--initialise", "Let nothing fill these targets")] = field(
        default_factory=list
    )
    dtype: Annotated[
        list[str],
        typer.Option(
            metavar="[PATTERN=]DTYPE",
            help="Cast floats to it, or to the 'target' ones, and codes to numbers; or PATTERN=DTYPE, again and again.",
            rich_help_panel=PANEL,
        ),
    ] = field(default_factory=list)
    allow_overflow: Annotated[
        bool,
        typer.Option("--allow-overflow", help="Let values beyond a dtype's range be infinite.", rich_help_panel=PANEL),
    ] = False
    config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="The configuration that sizes are read from, as a config.json.", rich_help_panel=PANEL
        ),
    ] = None
    settings: SetOption = None
    no_companions: Annotated[
        bool,
        typer.Option(
            "--no-companions", help="Move what belongs to quantised weights by its own names.", rich_help_panel=PANEL
        ),
    ] = False
    no_config_names: Annotated[
        bool,
        typer.Option("--no-config-names", help="Leave names in the configuration as they are.", rich_help_panel=PANEL),
    ] = False
    refine: Annotated[
        bool,
        typer.Option(
            "--refine", help="Make blocks of quantised weights finer, where a rule cuts them.", rich_help_panel=PANEL
        ),
    ] = False
    layout: Annotated[LayoutMode, typer.Option(help="How to read the source's layout.", rich_help_panel=PANEL)] = (
        LayoutMode.AUTO
    )
    base_prefix: Annotated[
        str,
        typer.Option(metavar="PREFIX", help="Prefix that only head models have.", rich_help_panel=PANEL),
    ] = ""
    base: BaseOption = None
    block_diagonal: BlockDiagonalOption = False
    lora_b_layout: PackingOption = None
    adapter_prefix: PrefixOption = field(default_factory=list)
    reverse: Annotated[
        bool, typer.Option("--reverse", help="Use the inverse of the mapping.", rich_help_panel=PANEL)
    ] = False
    entry: EntryOption = None

    def mapping(self, text: str | None) -> Mapping:
        """Load the mapping that an argument names, reversed if that was asked for; one without rules for None.

        Raises:
            WeighbridgeError: `usage`, and all that `load_argument` raises.
        """
        if text is None and self.reverse:
            raise WeighbridgeError("usage", "--reverse needs the mapping whose inverse is meant")
        if text is None and self.layout is LayoutMode.MAPPED:
            what, hint = "--layout mapped needs the mapping that is meant", "name the MAPPING, or leave out --layout"
            raise WeighbridgeError("usage", what, hint=hint)
        mapping = load_argument(text) if text is not None else Mapping()
        return mapping.inverse() if self.reverse else mapping

    @contextmanager
    def naming(self, source: str, mapping: str | None) -> Iterator[None]:
        """Put what was typed into a hint to explain a key, so that it can be typed as it is printed."""
        try:
            yield
        except PlanError as problem:
            if mapping is None and "SOURCE MAPPING" in problem.hint:
                problem.hint = "name the MAPPING that leads to the target; without one, no tensor takes another name"
                raise
            command = f"{quote(source)} {quote(mapping or '')}"
            problem.hint = problem.hint.replace("SOURCE MAPPING", command).replace("--target TARGET", self._typed())
            raise

    def _typed(self) -> str:
        given = [("--target", [self.target or ""])]
        given += [(f"--{name}", getattr(self, name)) for name in ("drop", "carry", "initialise")]
        given += [("--base-prefix", [self.base_prefix])] if self.base_prefix else []
        given += [("--config", [self.config])] if self.config is not None else []
        given += [("--set", self.settings or [])]
        given += [("--entry", [self.entry])] if self.entry is not None else []
        return join(
            [
                *(word for flag, texts in given for text in texts for word in (flag, text)),
                *["--reverse"][: self.reverse],
            ]
        )

    def open(self, source: str, *, direct: bool = False) -> Checkpoint:
        """Open the source."""
        return api.open(source, direct=direct, entry=self.entry, config=self._config())

    def make_plan(self, source: Any, mapping: Mapping, only: list[str] | None = None) -> Plan:
        """Compile the plan, and restrict it to the targets that `only` names.

        Raises:
            WeighbridgeError: `usage`, and all that `weighbridge.plan` raises.
        """
        source = self.open(source) if isinstance(source, str) else source
        made = api.plan(source, mapping, target=self.target, **self.arguments())
        return made.restrict(only) if only else made

    def arguments(self) -> dict[str, Any]:
        """Return the options by the names that `weighbridge.plan` has for them.

        Raises:
            WeighbridgeError: `usage`.
        """
        given = {name: getattr(self, name) for name in ("partial", "allow_overflow", "base_prefix")}
        given |= {name: selected_rules(kind, getattr(self, name)) for name, kind in _EXCEPTIONS.items()}
        given |= {"companions": self._companions(), "config_names": not self.no_config_names}
        adapter: dict[str, Any] = {"base": self.base, "block_diagonal": self.block_diagonal}
        adapter |= {"lora_B_layout": self.lora_b_layout, "adapter_prefix": read_prefixes(self.adapter_prefix)}
        given |= {name: value for name, value in adapter.items() if value}
        dtype = dtype_option(self.dtype)
        if self.target is None and dtype is not None and TARGET in dtype.values():
            what, hint = "--dtype target: there is no target", "give it as --target PLACE, or name the dtype"
            raise WeighbridgeError("usage", what, hint=hint)
        return {"layout": self.layout.value, "dtype": dtype, "config": self._config(), **given}

    def _companions(self) -> bool | str:
        if self.refine and self.no_companions:
            what = "--refine and --no-companions: scales go with their weights, or by their own names"
            raise WeighbridgeError("usage", what)
        return REFINE if self.refine else not self.no_companions

    def _config(self) -> Any:
        settings = set_option(self.settings or ())
        return Settings(settings, self.config) if settings else self.config


def set_option(texts: Sequence[str]) -> dict[str, Any]:
    """Read what is set of the configuration, each a name, an equals sign, and a JSON value.

    Raises:
        WeighbridgeError: `usage`.

    Examples:
        >>> set_option(["num_attention_heads=8", "text_config.kinds=[1, 2]"])
        {'num_attention_heads': 8, 'text_config.kinds': [1, 2]}
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not all(name.split(".")):
            expected = "NAME=VALUE, such as num_attention_heads=8 or text_config.head_dim=64"
            raise WeighbridgeError("usage", "--set: this sets nothing", expected=expected, got=repr(text))
        if any(f"{name}.".startswith(f"{other}.") or f"{other}.".startswith(f"{name}.") for other in found):
            raise WeighbridgeError("usage", "--set: two values for one name", where=name, got=repr(text))
        try:
            found[name] = parse_json(value.encode())
        except (JsonError, UnicodeEncodeError):
            expected = "JSON: a number, true or false, a list, or a text in double quotes"
            raise WeighbridgeError(
                "usage", "--set: this is no value", where=name, expected=expected, got=repr(value)
            ) from None
    return found


def dtype_option(texts: Sequence[str]) -> dict[str, str] | None:
    """Read what is said of dtypes, each a dtype, or a pattern with one behind its last equals sign.

    Raises:
        WeighbridgeError: `usage`.

    Examples:
        >>> dtype_option(["BF16", "A_log=F32"])
        {'**': 'BF16', 'A_log': 'F32'}
    """
    found: dict[str, str] = {}
    for text in texts:
        pattern, equals, dtype = text.rpartition("=")
        pattern = pattern if equals else ALL
        try:
            read_policy(dtype)
        except WeighbridgeError as problem:
            expected = problem.expected if problem.code == "usage" else f"{problem.expected}, target, keep"
            raise WeighbridgeError("usage", f"--dtype: {problem.what}", expected=expected, got=repr(dtype)) from None
        if pattern in found:
            raise WeighbridgeError("usage", "--dtype: two dtypes for one pattern", where=pattern, got=repr(text))
        found[pattern] = dtype
    return found or None
