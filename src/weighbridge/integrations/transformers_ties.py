"""Which weights of one of transformers' models are one: what its classes declare, and what a checkpoint says of it.

A class declares ties in pairs. A checkpoint may hold some members of such a group with values of their own, and lack
others. Members with values are sorted by these; a member without takes the value that it is tied to most closely: by
the innermost model that declares the tie, and by any other tie before that of the output embedding, which is the one
that configurations switch off. Where that leaves two values, nobody knows.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any, Final, NamedTuple

import torch

from weighbridge.base.errors import PlanError
from weighbridge.base.specs import Header
from weighbridge.models.modules import module_header
from weighbridge.running.ties import Value, differs, how_to_drop

_LOG: Final = logging.getLogger("weighbridge")


class Bond(NamedTuple):
    """A pair of weights that a class declares to be one, and how far its word is from them.

    Args:
        distance: Sorts bonds, the closest first.
        key: One weight.
        twin: The other.
    """

    distance: tuple[int, bool]
    key: str
    twin: str


def declared_ties(model: Any) -> dict[str, str]:
    """Return the pairs that a model and the models inside it declare to be one, as the library keeps them."""
    return dict(getattr(model, "all_tied_weights_keys", None) or {})


def declared_bonds(model: Any) -> list[Bond]:
    """Return what a model and the models inside it declare to be one."""
    depth: dict[tuple[str, str], int] = {}
    outputs: set[str] = set()
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        own = declared_ties(module)
        depth |= {(prefix + key, prefix + twin): prefix.count(".") for key, twin in own.items()}
        outputs |= {f"{prefix}{name}" for name in _output_names(module)} if own else set()
    pairs = declared_ties(model).items()
    return [Bond((-depth[pair], not outputs.isdisjoint(pair)), *pair) for pair in pairs]


def _output_names(module: Any) -> Iterator[str]:
    """Yield the names of the weights of a model's output embedding."""
    try:
        output = module.get_output_embeddings()
    except (AttributeError, NotImplementedError, TypeError):
        return
    for path, inner in module.named_modules(remove_duplicate=False):
        if inner is output and output is not None:
            yield from (f"{path}.{name}" for name in inner._parameters)


def header_with_ties(model: Any, header: Header) -> Header:
    """Return the specs of a model that the library has not tied yet, with the ties that it will make.

    Args:
        model: The model.
        header: Its specs, as they are.
    """
    groups = _Groups(header.ties)
    for key, twin in declared_ties(model).items():
        if key in header and twin in header:
            groups.join(key, twin)
    return replace(header, ties=groups.as_ties())


class _Groups:
    """Keys that belong together, joined pair by pair."""

    def __init__(self, ties: Mapping[str, str]) -> None:
        self._above: dict[str, str] = {}
        for key, twin in ties.items():
            self.join(key, twin)

    def first(self, key: str) -> str:
        """Return the key that stands for a key's group."""
        while (above := self._above.setdefault(key, key)) != key:
            key = above
        return key

    def join(self, key: str, twin: str) -> None:
        """Let two groups be one."""
        self._above[self.first(twin)] = self.first(key)

    def as_ties(self) -> dict[str, str]:
        """Return the key that stands for its group, by each key of a group of two and more."""
        alike = self.members().values()
        return {key: keys[0] for keys in alike if len(keys) > 1 for key in keys}

    def members(self) -> dict[str, list[str]]:
        """Return the groups by the key that stands for each."""
        found: dict[str, list[str]] = {}
        for key in sorted(self._above):
            found.setdefault(self.first(key), []).append(key)
        return found


def split_ties(model: Any, differing: Iterable[list[list[Value]]]) -> dict[str, str]:
    """Split the groups of tied weights whose members a checkpoint holds with different values.

    Args:
        model: The library's model, which it has not tied yet.
        differing: For each such group, its classes of values.

    Returns:
        For each key that shares its value, the key that stands for all that share it.

    Raises:
        PlanError: `plan-failed`, with a `tie-differs` for each weight that the checkpoint lacks and that is tied to two
            values alike; and for two values of one parameter, which no class can untie.
    """
    header = module_header(model)
    bonds = [bond for bond in declared_bonds(model) if bond.key in header and bond.twin in header]
    ties, problems = join_bonds(bonds, header.ties, differing)
    if problems:
        raise PlanError("plan-failed", "tied tensors differ", problems=problems)
    return ties


def join_bonds(
    bonds: Iterable[Bond], ties: Mapping[str, str], differing: Iterable[list[list[Value]]]
) -> tuple[dict[str, str], list[PlanError]]:
    """Join weights by what is declared, the closest bonds first, but for those that hold different values.

    Args:
        bonds: What is declared.
        ties: Weights that are one parameter as it is.
        differing: As for `split_ties`.

    Returns:
        As `split_ties`, and what keeps it from being true.
    """
    groups = _Groups(ties)
    held: dict[str, list[Value]] = {}
    problems: list[PlanError] = []
    for classes in differing:
        for alike in classes:
            firsts = dict.fromkeys(groups.first(value.key) for value in alike)
            others = [held.setdefault(key, alike) for key in firsts]
            problems += [differs(other, alike) for other in others if other is not alike]
    for _, close in groupby(sorted(bonds), key=lambda bond: bond.distance):
        problems += _join_close([(bond.key, bond.twin) for bond in close], groups, held)
    return groups.as_ties(), problems


def _join_close(pairs: list[tuple[str, str]], groups: _Groups, held: dict[str, list[Value]]) -> Iterator[PlanError]:
    """Join what the bonds of one distance join: first what has no value, then this with the one value beside it."""

    def value_of(key: str) -> list[Value] | None:
        return held.get(groups.first(key))

    def join(key: str, twin: str) -> None:
        found = value_of(key) or value_of(twin)
        groups.join(key, twin)
        if found is not None:
            held[groups.first(key)] = found

    for pair in pairs:
        if value_of(pair[0]) is value_of(pair[1]):
            join(*pair)
    beside: dict[str, dict[str, list[Value]]] = {}
    for pair in pairs:
        for key, twin in (pair, pair[::-1]):
            found = value_of(twin)
            if value_of(key) is None and found is not None:
                beside.setdefault(groups.first(key), {})[groups.first(twin)] = found
    for key, near in beside.items():
        values = {id(found): found for found in near.values()}
        if len(values) > 1:
            yield _undecided(key, list(values.values()))
            continue
        for twin in near:
            join(key, twin)


def _undecided(key: str, values: list[list[Value]]) -> PlanError:
    return PlanError(
        "tie-differs",
        "this weight is not in the checkpoint, and is tied to weights that differ there",
        where=key,
        got=" against ".join(", ".join(value.key for value in alike[:3]) for alike in values),
        hint=how_to_drop(values[::-1]) or "give the checkpoint a tensor for this weight too",
    )


def settle_ties(model: Any, ties: Mapping[str, str], filled: Collection[str], declared: Mapping[str, str]) -> None:
    """Let weights be one parameter if, and only if, they are to be; the library goes by one pair at a time.

    Args:
        model: The loaded model.
        ties: For each key that shares its value, the key that stands for all that share it.
        filled: The weights that were loaded.
        declared: What the library's classes declare, as it was before the load.
    """
    classes: dict[str, list[str]] = {}
    for key in sorted({*declared, *declared.values()}):
        if _find(model, key) is not None:
            classes.setdefault(ties.get(key, key), []).append(key)
    owners: dict[int, str] = {}
    for keys in classes.values():
        owner = next((key for key in keys if key in filled), None)
        if owner is not None:
            _settle(model, owner, keys, owners)
    if hasattr(model, "all_tied_weights_keys"):
        model.all_tied_weights_keys = {
            key: twin for key, twin in declared.items() if _find(model, key) is _find(model, twin)
        }


def _settle(model: Any, owner: str, keys: list[str], owners: dict[int, str]) -> None:
    tensor = _find(model, owner)
    if owners.setdefault(id(tensor), owner) != owner:
        # Its values are put in afterwards, when every weight is proven.
        tensor = torch.nn.Parameter(tensor.detach().clone(), requires_grad=tensor.requires_grad)
        _hold(model, owner, tensor)
    for key in keys:
        if _find(model, key) is not tensor:
            _LOG.info("%s is tied to %s, whose value it has in the checkpoint", key, owner)
            _hold(model, key, tensor)


def _find(model: Any, key: str) -> Any:
    """Return a weight; None where a class declares a tie of a part that this model lacks."""
    try:
        slots, name = _slot(model, key)
    except AttributeError:
        return None
    return slots.get(name)


def _hold(model: Any, key: str, tensor: torch.Tensor) -> None:
    slots, name = _slot(model, key)
    slots[name] = tensor


def _slot(model: Any, key: str) -> tuple[dict[str, Any], str]:
    path, _, name = key.rpartition(".")
    module = model.get_submodule(path)
    return (module._parameters if name in module._parameters else module._buffers), name
