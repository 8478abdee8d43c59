"""Open adapters whose tensors say all by their names, and say how those of the new ones are called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from weighbridge.base.errors import PlanError
from weighbridge.mappings.lora.named_dialects import DIALECTS, DIFFUSERS, METADATA, Dialect, dialect_of, find_dialect
from weighbridge.mappings.lora.peft_configs import Modules, PeftConfig, commonest
from weighbridge.planning.config_names.changes import changes_between
from weighbridge.planning.factors.adapter_steps import Moved
from weighbridge.planning.factors.adapter_tensors import Held, invalid
from weighbridge.planning.factors.named_modules import WEIGHT
from weighbridge.planning.factors.named_tensors import hold_named
from weighbridge.planning.factors.naming import Naming
from weighbridge.planning.factors.rectangles import IN

if TYPE_CHECKING:
    from weighbridge.base.specs import Header
    from weighbridge.storage.protocol import Checkpoint


class Names(NamedTuple):
    """How the tensors of an adapter are called, and what its metadata says of the parts of a pipeline."""

    dialect: Dialect
    configs: Mapping[str, PeftConfig]


def read_names(source: Checkpoint) -> Names | None:
    """Tell by the names of a checkpoint's tensors whether it is an adapter, and read its metadata.

    Raises:
        PlanError: `adapter-invalid`, `adapter-inexact`.
    """
    dialect = find_dialect(source.header)
    if dialect is None:
        return None
    said = source.header.metadata.get(METADATA) if dialect is DIFFUSERS else None
    return Names(dialect, _configs(dialect, said) if said is not None else {})


def _configs(dialect: Dialect, said: str) -> dict[str, PeftConfig]:
    try:
        form = json.loads(said)
    except (ValueError, RecursionError) as problem:
        raise invalid("the metadata of an adapter cannot be read", METADATA, str(problem)) from None
    if not isinstance(form, dict):
        raise invalid("what the metadata says of an adapter is a JSON object", METADATA, type(form).__name__)
    found: dict[str, PeftConfig] = {}
    for part in dialect.parts:
        own = {name.removeprefix(part): value for name, value in form.items() if name.startswith(part)}
        if own:
            found[part] = PeftConfig(own)
            found[part].check()
            PeftConfig({"peft_type": "LORA"} | own).refuse_variants()
    return found


def hold_names(source: Checkpoint, names: Names, base: Header | None) -> Held:
    """Sort the tensors of an adapter; see `hold_named`."""

    def read(key: str) -> bytes:
        raw = bytearray(source.header[key].size_bytes)
        source.read(key, 0, memoryview(raw))
        return bytes(raw)

    return hold_named(source.header, names.dialect, read, names.configs, base)


def refuse_prefix(given: object) -> None:
    """Refuse another beginning of names for an adapter of PEFT.

    Raises:
        PlanError: `usage`.
    """
    if given is not None:
        raise PlanError("usage", "an adapter of PEFT keeps the names that PEFT looks for", got="adapter_prefix")


def naming_of(names: Names, held: Held, given: str | Mapping[str, str] | None) -> Naming:
    """Return how the tensors of a new adapter are called.

    Args:
        names: How those of the old one are.
        held: What it holds.
        given: The option `adapter_prefix`.

    Raises:
        PlanError: `usage`.
    """
    parts = sorted({each.part for each in held.adapted.values()})
    if isinstance(given, str) and len(parts) > 1:
        hint = f"say it of each: adapter_prefix={{{', '.join(f'{part!r}: ...' for part in parts)}}}"
        raise PlanError("usage", "this adapter is of several parts of a pipeline", got=", ".join(parts), hint=hint)
    chosen = dict.fromkeys(parts, given) if isinstance(given, str) else dict(given or {})
    strange = [part for part in chosen if part not in parts]
    if strange:
        what = "this adapter has no names that begin so"
        raise PlanError("usage", what, expected=", ".join(parts), got=", ".join(strange))
    new = {part: chosen.get(part, part) for part in parts}
    dialects = {prefix: dialect_of(prefix) for prefix in new.values()}
    dialect = next(iter(dialects.values()))
    if dialect is None or any(each is not dialect for each in dialects.values()):
        every = "; ".join(f"{each.name}: {', '.join(each.parts)}" for each in DIALECTS)
        raise PlanError("usage", "no one dialect has names that begin so", expected=every, got=", ".join(dialects))
    if len(set(new.values())) < len(new):
        raise PlanError("usage", "several parts of an adapter would have the same names", got=", ".join(new.values()))
    places = {part: (prefix, (*names.dialect.parts[part], *dialect.parts[prefix])) for part, prefix in new.items()}
    return Naming(dialect, places, _configured(names, held) if dialect is DIFFUSERS else ())


def _configured(names: Names, held: Held) -> frozenset[str]:
    """Return the parts whose strengths diffusers is to read in the metadata: all of its pipelines look there."""
    if names.dialect is DIFFUSERS:
        return frozenset(names.configs)
    return frozenset(each.part for each in held.adapted.values() if each.strength.scaling != 1)


def follow_metadata(
    metadata: Mapping[str, str], names: Names, held: Held, naming: Naming, moved: Moved
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the metadata of a new adapter, in which the configurations name its modules, and what to say of that.

    Args:
        metadata: The metadata of the old one.
        names: How its tensors are called.
        held: What it holds.
        naming: How those of the new one are called.
        moved: Where the tensors go.
    """
    before = metadata.get(METADATA, "{}") if names.dialect is DIFFUSERS else "{}"
    form = json.loads(before)
    kept = {name: value for name, value in form.items() if not name.startswith(tuple(names.configs))}
    for part in sorted(naming.configured):
        prefix = naming.parts[part][0] if part in naming.parts else part
        own = [each for each in held.adapted.values() if each.part == part]
        old = {names.dialect.read(each.keys[IN]).module: each.strength for each in own}
        written = ((module, key) for (start, module), key in naming.modules.items() if start == prefix)
        new = {module: moved.linear[key.removesuffix(WEIGHT)] for module, key in written}
        config = names.configs.get(part) or commonest(new.values())
        said = config.follow(Modules(old, {}), Modules(new, {}), {})
        kept |= {prefix + name: value for name, value in said.items()}
    if kept == form:
        return dict(metadata), ()
    after = json.dumps(kept, indent=2, sort_keys=True)
    made = {name: text for name, text in metadata.items() if name != METADATA} | ({METADATA: after} if kept else {})
    return made, tuple(str(change) for change in changes_between(METADATA, before, after))
