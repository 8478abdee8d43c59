"""Sort the tensors of an adapter that says all by their names: which weights have factors, and how strong ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.base.forms.elements import element_value
from weighbridge.base.specs import Header
from weighbridge.mappings.lora.named_dialects import METADATA, Dialect
from weighbridge.mappings.lora.peft_configs import PeftConfig
from weighbridge.mappings.lora.ranks import Strength
from weighbridge.planning.factors.adapted import Adapted, Scalar
from weighbridge.planning.factors.adapter_tensors import Held, Pair, check_base, invalid, module_of, pair_of
from weighbridge.planning.factors.named_modules import WEIGHT, Module, find_modules
from weighbridge.planning.factors.rectangles import IN

_ALPHA: Final = "alpha"


def hold_named(
    header: Header,
    dialect: Dialect,
    read: Callable[[str], bytes],
    configs: Mapping[str, PeftConfig],
    base: Header | None = None,
) -> Held:
    """Sort an adapter's tensors.

    Args:
        header: Their specs.
        dialect: How they are called.
        read: Gives the bytes of a tensor; those that say alpha are read.
        configs: The configurations of PEFT in the metadata, by the part that each is of.
        base: Specs of the model's weights, if they are known.

    Raises:
        PlanError: `adapter-module`; `adapter-invalid` for factors that do not fit each other, a configuration, or the
            base; `adapter-inexact`; `plan-failed`, with several of these.
    """
    modules = _sort(dialect, header)
    found = find_modules(dialect, list(modules), base)
    adapted: dict[str, Adapted] = {}
    problems: list[WeighbridgeError] = []
    for named, keys in modules.items():
        try:
            key = found[named] + WEIGHT
            if key in adapted:
                raise invalid("a module has two pairs of factors", found[named], "".join(named))
            adapted[key] = _adapted(named, keys, header, read, configs.get(named[0]))
        except PlanError as problem:
            problems.append(problem)
    if problems:
        raise problems[0] if len(problems) == 1 else PlanError("plan-failed", _UNREAD, problems=problems)
    check_base(adapted, {}, base)
    if not dialect.is_flat:
        _refuse_some(adapted)
    return Held(adapted, {})


def _refuse_some(adapted: Mapping[str, Adapted]) -> None:
    """Refuse an alpha for some modules alone: diffusers takes that of most of them for the others, others take 1."""
    for part in {each.part for each in adapted.values()}:
        own = [each for each in adapted.values() if each.part == part]
        lacking = [each for each in own if each.alpha is None]
        if 0 < len(lacking) < len(own):
            what = "some modules have an alpha, and what it is for others is not said"
            raise invalid(what, min(each.keys[IN] for each in lacking), f"{len(lacking):,} of {len(own):,} have none")


_UNREAD: Final = "the tensors of this adapter do not fit each other"


def _sort(dialect: Dialect, keys: Iterable[str]) -> dict[Module, dict[str, str]]:
    """Sort tensors by the modules that they belong to, and what they are."""
    modules: dict[Module, dict[str, str]] = {}
    for key in keys:
        part, module, role = dialect.read(key)
        other = modules.setdefault((part, module), {}).setdefault(role, key)
        if other != key:
            raise invalid("two tensors have the same part in one module", key, other)
    return modules


def _adapted(
    named: Module, keys: Mapping[str, str], header: Header, read: Callable[[str], bytes], config: PeftConfig | None
) -> Adapted:
    part, module = named
    where = part + module
    pair = pair_of(where, {role: key for role, key in keys.items() if role != _ALPHA}, header)
    alpha = _scalar(keys[_ALPHA], header, read) if _ALPHA in keys else None
    if config is not None and alpha is not None:
        raise invalid("alpha is said twice", alpha.key, f"{METADATA} has a configuration of this part, too")
    strength = config.strength(module) if config is not None else _strength(pair, alpha)
    made = module_of(where, pair, header, strength)
    return Adapted(
        made.matrix, made.kind, made.keys, made.factors, strength, made.rows, made.window, part=part, alpha=alpha
    )


def _scalar(key: str, header: Header, read: Callable[[str], bytes]) -> Scalar:
    spec = header[key]
    if spec.numel != 1:
        raise invalid("alpha is one number", key, str(list(spec.shape)))
    return Scalar(key, spec, read(key))


def _strength(pair: Pair, alpha: Scalar | None) -> Strength:
    """Return the strength that a tensor says; without one, the factors are multiplied by 1."""
    rank = pair.shapes[IN][0]
    if alpha is None:
        return Strength(rank, rank)
    value = element_value(alpha.element, alpha.spec.dtype)
    if isinstance(value, str):
        raise invalid("alpha is no number", alpha.key, value)
    return Strength(rank, value)
