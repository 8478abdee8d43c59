"""Sort the tensors of an adapter: the weights that have factors, and the tensors that are saved whole."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import NamedTuple

from weighbridge.base.errors import PlanError
from weighbridge.base.keys import nearest
from weighbridge.base.specs import Header, Shape, TensorSpec
from weighbridge.mappings.lora.adapter_names import BASE_LAYER, PREFIX, Named, parameter_modules, read_name
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
            found |= {each.alpha.key: each.alpha.spec} if each.alpha is not None else {}
        return found

    def weights(self) -> dict[str, str]:
        """Return the tensor of the model that each of the adapter's tensors belongs to."""
        found = {name: key for key, (name, _) in self.whole.items()}
        for key, each in self.adapted.items():
            alpha = [each.alpha.key] if each.alpha is not None else []
            found |= dict.fromkeys([*each.keys, *(name for name, _ in each.rows.values()), *alpha], key)
        return found

    def strengths(self, *, parameters: bool) -> dict[str, Strength]:
        """Return how strong each module is, or each parameter that is no weight of a module of its own."""
        chosen = ((key, each) for key, each in self.adapted.items() if (each.kind == "parameter") == parameters)
        return {key if parameters else key.removesuffix(".weight"): each.strength for key, each in chosen}


class Pair(NamedTuple):
    """The two factors of a module, as they are named, and what lies beside them.

    Args:
        keys: Their names in the file: of B, and of A.
        shapes: Their shapes: [out, r], and [r, in] with the window of a convolution among the inputs.
        is_embedding: Whether the weight has an entry of the input in each row.
        rows: The tensors with an entry for each output, by what they are.
        window: The axes of a convolution behind its inputs.
    """

    keys: tuple[str, str]
    shapes: tuple[Shape, Shape]
    is_embedding: bool
    rows: dict[str, tuple[str, TensorSpec]]
    window: Shape = ()


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
    pairs = {module: _peft_pair(module, found, header) for module, found in parts.items()}
    nested = _parameters(pairs, config)
    turned = _turned({key: pairs[module] for module, key in nested.items()}, config, base)
    adapted: dict[str, Adapted] = {}
    for module, pair in pairs.items():
        if module in nested:
            key = nested[module]
            adapted[key] = _parameter(key, pair, header, config, is_turned=turned[key], packing=packing)
        else:
            adapted[f"{module}.weight"] = module_of(
                module, pair, header, config.strength(module), is_turned=config.is_turned
            )
    check_base(adapted, whole, base)
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


def pair_of(module: str, keys: Mapping[str, str], header: Header, *, is_embedding: bool = False) -> Pair:
    """Take the tensors of a module for its two factors, and what lies beside them.

    Args:
        module: What to call it.
        keys: Their names in the file, by what they are: ``A``, ``B``, and what has an entry for each output.
        header: Their specs.
        is_embedding: Whether the weight has an entry of the input in each row.

    Raises:
        PlanError: `adapter-invalid`.
    """
    lacking = [role for role in "AB" if role not in keys]
    if lacking:
        raise invalid("a factor of this module is missing", module, f"no lora_{lacking[0]}")
    up, down = header[keys["B"]].shape, header[keys["A"]].shape
    window = down[2:]
    if not len(up) == len(down) >= 2 or any(size != 1 for size in up[2:]) or (is_embedding and window):
        raise _no_pair(module, up, down)
    shapes = up[:2], (down[0], prod(down[1:]))
    rows = {role: (key, header[key]) for role, key in keys.items() if role not in "AB"}
    wrong = next((key for key, spec in rows.values() if spec.shape != up[:1]), None)
    if wrong is not None:
        raise invalid("this tensor has not one entry for each output", wrong, str(list(header[wrong].shape)))
    return Pair((keys["B"], keys["A"]), shapes, is_embedding, rows, window)


def _peft_pair(module: str, parts: Mapping[str, tuple[Named, str]], header: Header) -> Pair:
    kinds = {named.is_embedding for role, (named, _) in parts.items() if role in "AB"}
    keys = {role: key for role, (_, key) in parts.items()}
    if len(kinds) > 1:
        raise _no_pair(module, header[keys["B"]].shape, header[keys["A"]].shape)
    return pair_of(module, keys, header, is_embedding=True in kinds)


def _no_pair(module: str, up: Shape, down: Shape) -> PlanError:
    return invalid("these are no two factors of one weight", module, f"A {list(down)}, B {list(up)}")


def _experts(name: str, pair: Pair, rank: int) -> int:
    """Return the number of experts that two factors are of: 1 for those of a plain weight."""
    total = pair.shapes[IN][0]
    if not 0 < rank <= total or total % rank or pair.shapes[OUT][1] != total:
        got = f"A {list(pair.shapes[IN])}, B {list(pair.shapes[OUT])}, rank {rank}"
        hint = f"take the {CONFIG_NAME} that was saved with these tensors"
        raise invalid("the factors and the rank of this module do not fit each other", name, got, hint)
    return total // rank


def module_of(name: str, pair: Pair, header: Header, strength: Strength, *, is_turned: bool = False) -> Adapted:
    """Return the weight of a module with its factors.

    Args:
        name: What to call it.
        pair: Its factors.
        header: Their specs.
        strength: Its rank and alpha.
        is_turned: Whether a linear weight has a row for each input.

    Raises:
        PlanError: `adapter-invalid` for factors of another rank.
    """
    if _experts(name, pair, strength.rank) != 1:
        got = f"A {list(pair.shapes[IN])}, rank {strength.rank}"
        raise invalid("this module has another rank than its configuration says", name, got)
    kind = "embedding" if pair.is_embedding else "conv" if pair.window else "linear"
    matrix = _matrix(pair, 1, is_turned=pair.is_embedding or (is_turned and kind == "linear"))
    return _adapted(pair, header, kind, strength, matrix)


def _parameter(
    key: str, pair: Pair, header: Header, config: PeftConfig, *, is_turned: bool, packing: str | None
) -> Adapted:
    if pair.window:
        raise invalid("these are no two factors of experts", key, f"{list(header[pair.keys[IN]].shape)}")
    strength = config.strength(key)
    members = _experts(key, pair, strength.rank)
    is_said = members > 1 and strength.rank > 1
    found = config.packing(key, packing) if is_said else RANK_MAJOR
    return _adapted(pair, header, "parameter", strength, _matrix(pair, members, is_turned=is_turned), found)


def _matrix(pair: Pair, members: int, *, is_turned: bool) -> Matrix:
    outputs, inputs = pair.shapes[OUT][0], pair.shapes[IN][1]
    return Matrix(members, *((inputs, outputs) if is_turned else (outputs, inputs)), is_turned)


def _adapted(
    pair: Pair, header: Header, kind: str, strength: Strength, matrix: Matrix, packing: str = RANK_MAJOR
) -> Adapted:
    specs = [header[key] for key in pair.keys]
    made = [Factor.of(axis, specs[axis].dtype, matrix, strength.rank, packing) for axis in (OUT, IN)]
    factors = [factor._replace(spec=spec) for factor, spec in zip(made, specs, strict=True)]
    return Adapted(matrix, kind, pair.keys, (factors[OUT], factors[IN]), strength, pair.rows, pair.window, PREFIX)


def _parameters(pairs: Mapping[str, Pair], config: PeftConfig) -> dict[str, str]:
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


def _turned(pairs: Mapping[str, Pair], config: PeftConfig, base: Header | None) -> dict[str, bool]:
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


def _turned_in_base(key: str, pair: Pair, members: int, base: Header | None) -> bool | None:
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


def check_base(
    adapted: Mapping[str, Adapted], whole: Mapping[str, tuple[str, TensorSpec]], base: Header | None
) -> None:
    """Hold the modules of an adapter against the base.

    Raises:
        PlanError: `adapter-invalid`.
    """
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
