"""Sort the tensors of an adapter: the weights that have factors, and the tensors that are saved whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from weighbridge.base.errors import PlanError
from weighbridge.base.keys import nearest
from weighbridge.base.specs import Header, Shape, TensorSpec
from weighbridge.mappings.lora.adapter_names import BASE_LAYER, Named, parameter_modules, read_name
from weighbridge.mappings.lora.peft_configs import CONFIG_NAME, RANK_MAJOR, PeftConfig
from weighbridge.mappings.lora.ranks import Strength
from weighbridge.planning.factors.adapted import Adapted, Factor
from weighbridge.planning.factors.rectangles import IN, OUT, Matrix


class Held(NamedTuple):
    """What an adapter holds of a model.

    Args:
        adapted: The weights with factors, by their names in the model.
        whole: The tensors that it saves whole, by their names in the model: their names in the file, and specs.
    """

    adapted: Mapping[str, Adapted]
    whole: Mapping[str, tuple[str, TensorSpec]]

    def specs(self) -> dict[str, TensorSpec]:
        """Return the specs of the adapter's tensors by their names in the file."""
        found = dict(self.whole.values())
        for each in self.adapted.values():
            found |= {key: factor.spec for key, factor in zip(each.keys, each.factors, strict=True)}
            found |= dict(each.rows.values())
        return found

    def strengths(self, *, parameters: bool) -> dict[str, Strength]:
        """Return how strong each module is, or each parameter that is no weight of a module of its own."""
        chosen = ((key, each) for key, each in self.adapted.items() if (each.kind == "parameter") == parameters)
        return {key if parameters else key.removesuffix(".weight"): each.strength for key, each in chosen}


class _Pair(NamedTuple):
    """The two factors of a module, as they are named, and what lies beside them."""

    keys: tuple[str, str]
    shapes: tuple[Shape, Shape]
    is_embedding: bool
    rows: dict[str, tuple[str, TensorSpec]]


def hold(header: Header, config: PeftConfig, base: Header | None = None, packing: str | None = None) -> Held:
    """Sort an adapter's tensors.

    Args:
        header: Their specs.
        config: The adapter's configuration.
        base: Specs of the model's weights, if they are known.
        packing: How the columns of B lie for experts, if it is declared.

    Raises:
        PlanError: `adapter-invalid` for factors that do not fit each other, the configuration, or the base;
            `adapter-packing`, `adapter-inexact`.
    """
    parts, whole = _sort(header)
    pairs = {module: _pair(module, found, header) for module, found in parts.items()}
    nested = _parameters(pairs, config)
    turned = _turned({key: pairs[module] for module, key in nested.items()}, config, base)
    adapted: dict[str, Adapted] = {}
    for module, pair in pairs.items():
        if module in nested:
            key = nested[module]
            adapted[key] = _parameter(key, pair, header, config, is_turned=turned[key], packing=packing)
        else:
            adapted[f"{module}.weight"] = _module(module, pair, header, config)
    _check_base(adapted, whole, base)
    return Held(adapted, whole)


def _sort(header: Header) -> tuple[dict[str, dict[str, tuple[Named, str]]], dict[str, tuple[str, TensorSpec]]]:
    """Sort tensors by the modules that they belong to, and what they are; or by their names in the model."""
    modules: dict[str, dict[str, tuple[Named, str]]] = {}
    whole: dict[str, tuple[str, TensorSpec]] = {}
    for key, spec in header.specs.items():
        named = read_name(key)
        if named.role != "whole":
            modules.setdefault(named.module, {})[named.role] = named, key
        elif whole.setdefault(named.module, (key, spec))[0] != key:
            raise invalid("a tensor of the model is saved twice", key, whole[named.module][0])
    return modules, whole


def _pair(module: str, parts: Mapping[str, tuple[Named, str]], header: Header) -> _Pair:
    lacking = [role for role in "AB" if role not in parts]
    if lacking:
        raise invalid("a factor of this module is missing", module, f"no lora_{lacking[0]}")
    (named, down), (other, up) = parts["A"], parts["B"]
    shapes = header[up].shape, header[down].shape
    if named.is_embedding != other.is_embedding or any(len(shape) != 2 for shape in shapes):
        got = f"A {list(shapes[IN])}, B {list(shapes[OUT])}"
        raise invalid("these are no two factors of one weight", module, got)
    rows = {role: (key, header[key]) for role, (_, key) in parts.items() if role not in "AB"}
    wrong = next((key for key, spec in rows.values() if spec.shape != (shapes[OUT][0],)), None)
    if wrong is not None:
        raise invalid("this tensor has not one entry for each output", wrong, str(list(header[wrong].shape)))
    return _Pair((up, down), shapes, named.is_embedding, rows)


def _experts(name: str, pair: _Pair, rank: int) -> int:
    """Return the number of experts that two factors are of: 1 for those of a plain weight."""
    total = pair.shapes[IN][0]
    if not 0 < rank <= total or total % rank or pair.shapes[OUT][1] != total:
        got = f"A {list(pair.shapes[IN])}, B {list(pair.shapes[OUT])}, rank {rank}"
        hint = f"take the {CONFIG_NAME} that was saved with these tensors"
        raise invalid("the factors and the rank of this module do not fit each other", name, got, hint)
    return total // rank


def _module(module: str, pair: _Pair, header: Header, config: PeftConfig) -> Adapted:
    strength = config.strength(module)
    if _experts(module, pair, strength.rank) != 1:
        got = f"A {list(pair.shapes[IN])}, rank {strength.rank}"
        raise invalid("this module has another rank than its configuration says", module, got)
    kind = "embedding" if pair.is_embedding else "linear"
    matrix = _matrix(pair, 1, is_turned=pair.is_embedding or config.is_turned)
    return _adapted(pair, header, kind, strength, matrix)


def _parameter(
    key: str, pair: _Pair, header: Header, config: PeftConfig, *, is_turned: bool, packing: str | None
) -> Adapted:
    strength = config.strength(key)
    members = _experts(key, pair, strength.rank)
    is_said = members > 1 and strength.rank > 1
    found = config.packing(key, packing) if is_said else RANK_MAJOR
    return _adapted(pair, header, "parameter", strength, _matrix(pair, members, is_turned=is_turned), found)


def _matrix(pair: _Pair, members: int, *, is_turned: bool) -> Matrix:
    outputs, inputs = pair.shapes[OUT][0], pair.shapes[IN][1]
    return Matrix(members, *((inputs, outputs) if is_turned else (outputs, inputs)), is_turned)


def _adapted(
    pair: _Pair, header: Header, kind: str, strength: Strength, matrix: Matrix, packing: str = RANK_MAJOR
) -> Adapted:
    factors = [Factor.of(axis, header[pair.keys[axis]].dtype, matrix, strength.rank, packing) for axis in (OUT, IN)]
    return Adapted(matrix, kind, pair.keys, (factors[OUT], factors[IN]), strength, pair.rows)


def _parameters(pairs: Mapping[str, _Pair], config: PeftConfig) -> dict[str, str]:
    """Return the parameter that each pair of factors belongs to which is of no module of its own."""
    owners = {module.replace(BASE_LAYER, "") for module in pairs}
    keys = [f"{owner}.{name}" for owner in owners for name in config.parameters_of(owner)]
    nested = {module: key for key, module in parameter_modules(keys).items()}
    known = {key.rpartition(".")[0] for key in keys}
    strange = [module for module in pairs if module not in nested and module.replace(BASE_LAYER, "") in known]
    lacking = [key for module, key in nested.items() if module not in pairs]
    nameless = [module for module in pairs if module.endswith(BASE_LAYER) and module not in nested]
    for module in (*strange, *lacking, *nameless):
        got = ", ".join(sorted(nested.values())[:4]) or "no target_parameters"
        raise invalid("the configuration names other parameters than have factors", module, got)
    return nested


def _turned(pairs: Mapping[str, _Pair], config: PeftConfig, base: Header | None) -> dict[str, bool]:
    """Tell which parameters have a row for each input: of experts, their shapes in the base say it.

    One class of modules has all of its parameters in one way, so that a square one follows the others.
    """
    found: dict[str, bool | None] = {}
    for key, pair in pairs.items():
        members = _experts(key, pair, config.strength(key).rank)
        found[key] = False if members == 1 else _turned_in_base(key, pair, members, base)
    said = {turned for turned in found.values() if turned is not None}
    if None in found.values() and len(said) != 1:
        where = next(key for key, turned in found.items() if turned is None)
        raise invalid("nothing says whether a row of this square weight is an input or an output", where, "")
    return {key: turned if turned is not None else said.copy().pop() for key, turned in found.items()}


def _turned_in_base(key: str, pair: _Pair, members: int, base: Header | None) -> bool | None:
    outputs, inputs = pair.shapes[OUT][0], pair.shapes[IN][1]
    if base is None:
        hint = "give the model that the adapter was trained on: base=... (--base)"
        what = "the shape of these experts is not known: a row may be an input or an output"
        raise invalid(what, key, "", hint)
    if key not in base:
        raise other_base(key, base)
    shape = base[key].shape
    ways = {(members, outputs, inputs): False, (members, inputs, outputs): True}
    if shape not in ways:
        raise other_base(key, base, f"{[members, outputs, inputs]} by the factors, {list(shape)} in the base")
    return ways[shape] if len(ways) > 1 else None


def _check_base(
    adapted: Mapping[str, Adapted], whole: Mapping[str, tuple[str, TensorSpec]], base: Header | None
) -> None:
    """Hold the modules of an adapter against the base."""
    for key, each in adapted.items() if base is not None else ():
        assert base is not None
        if key not in base:
            raise other_base(key, base)
        # A resized embedding is saved whole, and has the size that it has there.
        if key not in whole and base[key].shape != each.shape:
            raise other_base(key, base, f"{list(each.shape)} by the factors, {list(base[key].shape)} in the base")


def other_base(key: str, base: Header, got: str = "") -> PlanError:
    """Make the error for an adapter whose base is another one."""
    near = "" if got else ", ".join(nearest(key, list(base), 3))
    hint = "give the model that the adapter was trained on, under the names that its modules have in memory"
    return invalid("the adapter is of another base", key, got or f"nearest: {near or 'none'}", hint)


def invalid(what: str, where: str, got: str, hint: str = "") -> PlanError:
    """Make the error for an adapter whose files do not fit each other, or its base."""
    return PlanError("adapter-invalid", what, where=where, got=got, hint=hint)
