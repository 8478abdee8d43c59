"""Find the modules of a model that an adapter's names mean, where these leave something open."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from weighbridge.base.errors import PlanError
from weighbridge.base.keys import NearKeys
from weighbridge.base.specs import Header
from weighbridge.mappings.lora.named_dialects import Dialect

WEIGHT: Final = ".weight"

Module = tuple[str, str]
"""A part of a pipeline and a module in it, as an adapter's names have them."""


def find_modules(dialect: Dialect, named: Collection[Module], base: Header | None) -> dict[Module, str]:
    """Return the module of a model that each name means.

    A model may have its modules under the name of their part, or without. Its own names tell which; without them, an
    adapter of several parts has their names before its modules', and one of a single part has not.

    Args:
        dialect: How the adapter's tensors are called.
        named: The modules as their names have them.
        base: Specs of the model's weights, if they are known.

    Raises:
        PlanError: `plan-failed`, with an `adapter-module` for each name that means no module, or several; or one for
            all of them where only a base could tell.

    Examples:
        >>> from weighbridge.base.specs import TensorSpec
        >>> from weighbridge.mappings.lora.named_dialects import KOHYA
        >>> base = Header({"mid_block.attn1.to_q.weight": TensorSpec("F16", (4, 4))})
        >>> find_modules(KOHYA, [("lora_unet_", "mid_block_attn1_to_q")], base)
        {('lora_unet_', 'mid_block_attn1_to_q'): 'mid_block.attn1.to_q'}
    """
    if base is None:
        return _without_base(dialect, named)
    known: dict[str, list[str]] = {}
    for key in base:
        if key.endswith(WEIGHT):
            module = key.removesuffix(WEIGHT)
            known.setdefault(dialect.spell(module), []).append(module)
    found = {each: _meant(dialect, each, known) for each in named}
    untold = {each: modules for each, modules in found.items() if len(modules) != 1}
    if untold:
        problems = list(_problems(dialect, untold, base))
        raise PlanError("plan-failed", "the modules that this adapter is for cannot be told", problems=problems)
    return {each: modules[0] for each, modules in found.items()}


def _without_base(dialect: Dialect, named: Collection[Module]) -> dict[Module, str]:
    if dialect.is_flat:
        raise PlanError(
            "adapter-module",
            "these names have underscores in the place of dots, and only the model tells which module each means",
            where="".join(min(named)),
            hint="give the model that the adapter was trained on: base=... (--base)",
        )
    is_one = len({part for part, _ in named}) == 1
    return {(part, module): module if is_one else part + module for part, module in named}


def _meant(dialect: Dialect, named: Module, known: dict[str, list[str]]) -> list[str]:
    """Return the modules that a name may mean."""
    part, module = named
    found: dict[str, None] = {}
    for place in dialect.parts[part]:
        spelt = dialect.spell(place) + module
        found |= dict.fromkeys(each for each in known.get(spelt, ()) if each.startswith(place))
    return list(found)


def _problems(dialect: Dialect, untold: Mapping[Module, list[str]], base: Header) -> Iterator[PlanError]:
    """Yield an error for each name that means no module, or several; the first ones have names like theirs."""
    spelt = {dialect.spell(key.removesuffix(WEIGHT)): key for key in base if key.endswith(WEIGHT)}
    like = NearKeys(spelt)
    for number, ((part, module), modules) in enumerate(untold.items()):
        if modules:
            what, got = "several modules of the model have this name", ", ".join(modules[:4])
            hint = "give a base that has only those modules which the adapter is for"
        else:
            near = [spelt[each] for each in like.find(module)] if number < PlanError.shown_problems else []
            what, got = "no module of the model has this name", f"nearest: {', '.join(near)}" if near else ""
            hint = "give the model that the adapter was trained on, under the names that its modules have in memory"
        yield PlanError("adapter-module", what, where=part + module, got=got, hint=hint)
