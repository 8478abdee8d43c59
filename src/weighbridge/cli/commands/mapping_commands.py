"""The commands on mappings themselves: list, show, export, import, schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from weighbridge.base.errors import WeighbridgeError
from weighbridge.base.keys import counted
from weighbridge.cli.command_options import MappingArgument
from weighbridge.cli.mapping_argument import load_argument
from weighbridge.cli.printing import Output, reporting, write_new
from weighbridge.cli.shared_options import spread
from weighbridge.mappings.exception_rules import RULE_KINDS
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.mapping_files import json_schema, load_mapping as load_file, write_mapping
from weighbridge.mappings.one_way import one_way_reason
from weighbridge.mappings.registry import Registry, default_registry
from weighbridge.mappings.transforms import describe

_HELP = "List, show and write mappings; check and normalise mapping files.\n\nExample: weighbridge mapping list"

app = typer.Typer(name="mapping", no_args_is_help=True, help=_HELP, add_completion=False)

TransformersOption = Annotated[
    bool, typer.Option("--transformers", help="Look names up in the table of the installed transformers.")
]
NewFileOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="FILE", help="Write into this new file: .yaml, or .json for the JSON form."),
]


@app.command("list")
@spread
def list_mappings(output: Output, transformers: TransformersOption = False) -> None:
    """List the names that MAPPING can be, with the package and the module that each comes from.

    Example: weighbridge mapping list
    """
    with reporting(output):
        rows = list(_names(_registry() if transformers else default_registry))
        name_width, origin_width = (max((len(row[field]) for row in rows), default=0) for field in ("name", "origin"))
        lines = (
            f"{row['name']:<{name_width}}  {row['origin']:<{origin_width}}  {row['module']}".rstrip() for row in rows
        )
        output.give(lambda: {"mappings": rows}, lines)


@app.command()
@spread
def show(mapping: MappingArgument, output: Output, transformers: TransformersOption = False) -> None:
    """Say what a mapping does, rule by rule, and whether it has a way back.

    Example: weighbridge mapping show qwen3_moe
    """
    with reporting(output):
        found = _find(mapping, transformers)
        output.give(found.to_dict, _lines(found))


@app.command()
@spread
def export(
    mapping: MappingArgument,
    output: Output,
    out: NewFileOption = None,
    transformers: TransformersOption = False,
) -> None:
    """Write a mapping as a mapping file: a registered one, one of a Python file, or one of the transformers table.

    Example: weighbridge mapping export qwen3_moe -o qwen3_moe.yaml
    """
    with reporting(output):
        _give(output, _find(mapping, transformers), out)


@app.command("import")
@spread
def import_file(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A mapping file: .yaml, .yml or .json.")],
    output: Output,
    out: NewFileOption = None,
) -> None:
    """Check a mapping file, and print it in its normal form: what it includes put in, defaults left out.

    Example: weighbridge mapping import fix.yaml
    """
    with reporting(output):
        _give(output, load_file(file), out)


@app.command()
@spread
def schema(output: Output) -> None:
    """Print the JSON schema of mapping files, by which an editor completes and checks them.

    Example: weighbridge mapping schema
    """
    with reporting(output):
        form = json_schema()
        output.give(lambda: form, json.dumps(form, indent=2).split("\n"))


def _registry() -> Registry:
    from weighbridge.integrations.transformers import registry  # it loads the library, which is slow

    return registry()


def _find(text: str, transformers: bool) -> Mapping:
    return _registry().find(text) if transformers else load_argument(text)


def _names(registry: Registry) -> Iterator[dict[str, str]]:
    """Yield each name with the package that offers it, and the module."""
    for name in sorted(registry):
        kind, package, place = registry.origin(name)
        module = f"alias of {place}" if kind == "registered" and place else place
        yield {"name": name, "kind": kind, "origin": package or kind, "module": module}


def _give(output: Output, mapping: Mapping, out: Path | None) -> None:
    """Print a mapping as a file, or write it into one."""
    text = write_mapping(mapping)
    if out is None:
        output.give(mapping.to_dict, text.rstrip("\n").split("\n"))
        return
    if out.suffix not in (".yaml", ".yml", ".json"):
        expected = "a name that ends in .yaml, .yml or .json"
        raise WeighbridgeError("usage", "--out: this is no name of a mapping file", expected=expected, got=str(out))
    write_new(out, json.dumps(mapping.to_dict(), indent=2) if out.suffix == ".json" else text)
    output.give(lambda: {"file": str(out), **mapping.to_dict()}, [f"wrote     {out}: {counted(len(mapping), 'rule')}"])


def _lines(mapping: Mapping) -> Iterator[str]:
    """Yield what `show` prints."""
    yield f"name      {mapping.name or '(none)'}"
    if mapping.base_prefix:
        yield f"prefix    {mapping.base_prefix}, of head models only"
    yield f"rules     {len(mapping):,}"
    for number, transform in enumerate(mapping, 1):
        when = "  (old files only)" if transform in mapping.legacy else ""
        yield f"  {number}  {describe(transform, full=True)}{when}"
    for kind in RULE_KINDS:
        yield from (f"{kind:<9} {_rule(rule)}" for rule in getattr(mapping, kind))
    yield from (f"part      {_part(part)}" for part in mapping.parts)
    if mapping.claims:
        yield f"claims    {', '.join(mapping.claims)}"
    yield f"way back  {_way_back(mapping)}"


def _rule(rule: Any) -> str:
    scope = f" in {rule.scope}" if rule.scope else ""
    unsaved = "" if getattr(rule, "saved", True) else ", not saved"
    return f"{rule.pattern}{scope}{unsaved}" + (f": {rule.why}" if rule.why else "")


def _part(part: Any) -> str:
    classes = ", ".join(f"{model_type}: {name}" for model_type, name in part.classes)
    return f"{part.path}" + (f" by {part.config}" if part.config else "") + (f" ({classes})" if classes else "")


def _way_back(mapping: Mapping) -> str:
    if mapping.forward is not None:
        return f"recorded: {mapping.forward.name or 'the mapping that this is the inverse of'}"
    kept = [(number, rule) for number, rule in enumerate(mapping, 1) if rule not in mapping.legacy]
    reasons = [f"rule {number}: {reason}" for number, rule in kept if (reason := one_way_reason(rule))]
    return f"only by a recorded plan; {reasons[0]}" if reasons else "each rule has an inverse"
