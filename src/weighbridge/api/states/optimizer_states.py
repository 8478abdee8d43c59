"""Find the states of an optimizer in a checkpoint: which tensor is of which weight.

    model.layers.0.weight                       a weight, under a prefix that all of them have
    optim.state.layers.0.weight.exp_avg         its states: each of the weight's shape, or a number
    optim.state.layers.0.weight.step
    optim.param_groups.layers.0.weight.lr       its settings, where they are numbers in tensors

These are the names that torch gives them (torch/distributed/checkpoint/state_dict.py), flattened or not. They are taken
for states only if each of them is of a weight that is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from weighbridge.base.specs import Header

_STATE: Final = "state"
_GROUPS: Final = "param_groups"


class State(NamedTuple):
    """What the tensors of one kind of state are called: what stands before the weight's name, and behind it."""

    folder: str
    name: str

    def key(self, weight: str) -> str:
        """Return the key of a weight's state."""
        return f"{self.folder}{weight}.{self.name}"


class Training(NamedTuple):
    """A checkpoint of weights and of the states of their optimizer.

    Args:
        prefixes: What stands before the names of weights, the shortest first; more than one where they are there more
            than once, as with a moving average.
        states: The kinds of state, each with the weights that have it.
        others: Keys of tensors that are neither.
        header: All tensors.
    """

    prefixes: tuple[str, ...]
    states: Mapping[State, Sequence[str]]
    others: tuple[str, ...]
    header: Header

    def weights(self, prefix: str) -> Header:
        """Return the header of the weights under a prefix, without it."""
        ours = {*self.others, *(state.key(weight) for state, weights in self.states.items() for weight in weights)}
        specs = self.header.specs.items()
        under = {key: spec for key, spec in specs if key.startswith(prefix) and key not in ours}
        return Header({key.removeprefix(prefix): spec for key, spec in under.items()}, self.header.metadata)


def find_training(header: Header) -> Training | None:
    """Tell whether a checkpoint holds the states of an optimizer, each of a weight that is there.

    Args:
        header: The checkpoint's header.

    Examples:
        >>> from weighbridge.base.specs import TensorSpec
        >>> keys = "model.w", "model.b", "optim.state.w.exp_avg", "optim.state.w.step"
        >>> found = find_training(Header({key: TensorSpec("F32", (2,)) for key in keys}))
        >>> found.prefixes, list(found.weights("model.")), [state.name for state in found.states]
        (('model.',), ['w', 'b'], ['exp_avg', 'step'])
    """
    states: dict[State, list[str]] = {}
    for state, weight in _read_states(header):
        states.setdefault(state, []).append(weight)
    wanted = {weight for weights in states.values() for weight in weights}
    if not wanted:
        return None
    taken = {state.key(weight) for state, weights in states.items() for weight in weights}
    folders = {state.folder for state in states}
    prefixes = _prefixes([key for key in header if key not in taken], wanted, folders)
    if not prefixes:
        return None
    others = tuple(key for key in header if key not in taken and not key.startswith(prefixes))
    return Training(prefixes, states, others, header)


def _read_states(header: Header) -> Iterator[tuple[State, str]]:
    """Yield every key that is one of a state by its name, as the kind of state and the weight."""
    folders = {folder for key in header if f".{_STATE}." in key and (folder := _folder(key))}
    if not folders:
        return
    starts = tuple(folder + part for folder in sorted(folders) for part in (f"{_STATE}.", f"{_GROUPS}."))
    for key in header:
        start = next((start for start in starts if key.startswith(start)), None)
        if start is not None:
            weight, _, name = key.removeprefix(start).rpartition(".")
            yield State(start, name), weight


def _folder(key: str) -> str:
    """Return what stands before the first `state` of a key that has a weight and a name behind it, with its dot."""
    parts = key.split(".")
    place = parts.index(_STATE) if _STATE in parts else 0
    return ".".join(parts[:place]) + "." if 0 < place < len(parts) - 2 else ""


def _prefixes(keys: Sequence[str], weights: set[str], folders: set[str]) -> tuple[str, ...]:
    """Return what stands before every one of some weights' names, in as many ways as there are.

    States do not lie among the weights: what stands before both is a part of a model that is called so.
    """
    there, first = set(keys), min(weights)
    ways = sorted({key.removesuffix(first) for key in keys if key == first or key.endswith(f".{first}")}, key=len)
    apart = [way for way in ways if not way or not any(folder.startswith(way) for folder in folders)]
    whole = [way for way in apart if all(way + weight in there for weight in weights)]
    return tuple(way for way in whole if not any(way != other and way.startswith(other) for other in whole))
