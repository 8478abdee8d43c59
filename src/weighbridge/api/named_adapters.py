"""Open adapters whose tensors say all by their names, and say how those of the new ones are called."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from weighbridge.base.errors import PlanError
from weighbridge.mappings.lora.named_dialects import (
    DIALECTS,
    DIFFUSERS,
    KOHYA,
    METADATA,
    PEFT,
    Dialect,
    dialect_of,
    find_dialect,
)
from weighbridge.mappings.lora.peft_configs import Modules, PeftConfig, commonest
from weighbridge.planning.config_names.changes import changes_between
from weighbridge.planning.factors.adapted import Adapted
from weighbridge.planning.factors.adapter_steps import Moved
from weighbridge.planning.factors.adapter_tensors import Held, invalid
from weighbridge.planning.factors.named_modules import WEIGHT
from weighbridge.planning.factors.named_tensors import hold_named
from weighbridge.planning.factors.naming import Naming
from weighbridge.planning.factors.rectangles import IN, inexact

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


def naming_of(names: Names, held: Held, given: str | Mapping[str, str] | None) -> Naming | None:
    """Return how the tensors of a new adapter are called; None where they stay with PEFT, which has names for more.

    Args:
        names: How those of the old one are.
        held: What it holds.
        given: The option `adapter_prefix`.

    Raises:
        PlanError: `usage`.
    """
    parts = sorted({each.part for each in held.adapted.values()}) or list(names.configs)
    chosen = _chosen(parts, given)
    new = {part: chosen.get(part, part) for part in parts}
    dialects = {prefix: dialect_of(prefix) for prefix in new.values()}
    dialect = next(iter(dialects.values()))
    if dialect is None or any(each is not dialect for each in dialects.values()):
        every = "; ".join(f"{each.name}: {', '.join(each.parts)}" for each in (*DIALECTS, PEFT))
        raise PlanError("usage", "no one dialect has names that begin so", expected=every, got=", ".join(dialects))
    if len(set(new.values())) < len(new):
        raise PlanError("usage", "several parts of an adapter would have the same names", got=", ".join(new.values()))
    if dialect is names.dialect is PEFT:
        return None
    places = {part: (prefix, (*names.dialect.parts[part], *dialect.parts[prefix])) for part, prefix in new.items()}
    return Naming(dialect, places, _configured(names, held, dialect))


def _chosen(parts: Sequence[str], given: object) -> dict[str, str]:
    """Return what the names of some parts are to begin with, by what they begin with now."""
    if isinstance(given, str):
        if len(parts) > 1:
            hint = f"say it of each: adapter_prefix={{{', '.join(f'{part!r}: ...' for part in parts)}}}"
            raise PlanError("usage", "this adapter is of several parts of a pipeline", got=", ".join(parts), hint=hint)
        return dict.fromkeys(parts, given)
    chosen = {} if given is None else given
    if not isinstance(chosen, Mapping) or not all(isinstance(each, str) for pair in chosen.items() for each in pair):
        raise PlanError("usage", "adapter_prefix is a text, or a dict of texts", got=repr(given)[:200])
    strange = [part for part in chosen if part not in parts]
    if strange:
        what = "this adapter has no names that begin so"
        raise PlanError("usage", what, expected=", ".join(parts), got=", ".join(strange))
    return dict(chosen)


def _configured(names: Names, held: Held, dialect: Dialect) -> frozenset[str]:
    """Return the parts whose strengths a configuration is to say.

    All pipelines of diffusers look for one in the metadata; what is 1 need not be said there.
    """
    if dialect is KOHYA:
        return frozenset()
    if dialect is names.dialect:
        return frozenset(names.configs)
    strong = (each for each in held.adapted.values() if dialect is PEFT or each.strength.scaling != 1)
    return frozenset(names.configs) | frozenset(each.part for each in strong)


def say_strengths(names: Names, held: Held, naming: Naming, moved: Moved) -> dict[str, dict[str, Any]]:
    """Return what configurations say of the new parts, by what their names begin with.

    Args:
        names: How the tensors of the old adapter are called, and what its configurations say.
        held: What it holds.
        naming: How those of the new one are called.
        moved: Where the tensors go.

    Raises:
        PlanError: `adapter-inexact` for a new configuration that would say of all modules what holds of some.
    """
    made: dict[str, dict[str, Any]] = {}
    for part in sorted(naming.configured):
        prefix = naming.parts[part][0] if part in naming.parts else part
        own = [each for each in held.adapted.values() if each.part == part]
        config = names.configs.get(part)
        named = own if config is not None else ()
        old = {names.dialect.read(each.keys[IN]).module: each.strength for each in named}
        written = ((module, key) for (start, module), key in naming.modules.items() if start == prefix)
        new = {module: moved.linear[key.removesuffix(WEIGHT)] for module, key in written}
        said = config or commonest(new.values(), _roles(own))
        made[prefix] = said.follow(Modules(old, {}), Modules(new, {}), {})
    return made


def _roles(adapted: Sequence[Adapted]) -> set[str]:
    """Return what all modules have beside their factors."""
    found = [set(each.rows) for each in adapted]
    every = set[str]().union(*found)
    if any(each != every for each in found):
        raise inexact(
            f"some of the modules have a {', '.join(sorted(every))} beside their factors, and others have none"
        )
    return every


def follow_metadata(
    metadata: Mapping[str, str], names: Names, naming: Naming | None, said: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the metadata of a new adapter, in which the configurations name its modules, and what to say of that.

    Args:
        metadata: The metadata of the old one.
        names: How its tensors are called.
        naming: How those of the new one are called.
        said: What `say_strengths` gives.
    """
    before = metadata.get(METADATA, "{}") if names.dialect is DIFFUSERS else "{}"
    form = json.loads(before)
    kept = {name: value for name, value in form.items() if not name.startswith(tuple(names.configs))}
    for prefix, own in said.items() if naming is not None and naming.dialect is DIFFUSERS else ():
        kept |= {prefix + name: value for name, value in own.items()}
    if kept == form:
        return dict(metadata), ()
    after = json.dumps(kept, indent=2, sort_keys=True)
    made = {name: text for name, text in metadata.items() if name != METADATA} | ({METADATA: after} if kept else {})
    return made, tuple(str(change) for change in changes_between(METADATA, before, after))
