"""Which dict of a torch file holds the weights.

A training script saves a dict of what it likes: the weights one or more levels down, and beside them counters, states
of optimizers and of random numbers, settings. Every dict that has tensors is a candidate, however deep it lies. Set
aside are the states of optimizers (a dict of `state` and `param_groups`, as every one of torch's writes it), what
stands under the name of a part of the training, and dicts whose every tensor is a random state, or a number of the
training, by its name. If one candidate is left, it is the only possible choice. If more are left, or where another one
is wanted, an entry names it: `ckpt.pt::model`, with a dot between levels.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, Final

from weighbridge.base.errors import CheckpointError
from weighbridge.base.json_text import join_keys, shorten
from weighbridge.storage.formats.pickles import Made
from weighbridge.storage.formats.torch_pickles import (
    UNSAFE_HINT,
    Stored,
    Strange,
    describe,
    items_of,
    read_tensor,
)

MAX_DEPTH: Final = 32
"""How many levels of dicts and lists are looked through."""

_SHOWN: Final = 8
_HOLDERS: Final = (dict, list, tuple, Made)
_PARTS: Final = re.compile(
    r"(.*[._ -])?(optim(i[sz]ers?)?|callbacks|loops|rng|random[._ -](states?|generators?))"
    r"([._ -](states?|dicts?|all|cpu|cuda|gpu|torch|numpy|python|[a-z]|\d+))*",
    re.I,
)
"""Names of the parts of a training."""
_NUMBERS: Final = re.compile(
    r"(.*[._ -])?(loss(es)?|acc(uracy)?\d?|prec\d?|metrics?|scores?|steps?|epochs?|iter(ation)?s?|lr|seed|best|"
    r"psnr|ssim|fid|m?iou|m?ap|auc|f1|ppl|perplexity)([._ -].*)?",
    re.I,
)
"""Names of the numbers of a training."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A dict that has tensors.

    Args:
        path: The names on the way to it; none for the outermost one.
        tensors: Its tensors by key.
    """

    path: tuple[str, ...]
    tensors: dict[Any, Stored | Strange]

    @property
    def name(self) -> str:
        """The entry that chooses it."""
        return ".".join(self.path)

    @property
    def is_aside(self) -> bool:
        """Whether its names say that it holds no weights."""
        return any(map(_PARTS.fullmatch, self.path)) or all(
            type(key) is str and _is_of_training(key, tensor) for key, tensor in self.tensors.items()
        )


def _is_of_training(key: str, tensor: Stored | Strange) -> bool:
    """Tell whether a tensor is a random state, or a number that is named like one of a training."""
    is_number = isinstance(tensor, Stored) and prod(tensor.shape) == 1
    return _PARTS.fullmatch(key) is not None or (is_number and _NUMBERS.fullmatch(key) is not None)


def choose(value: Any, entry: str | None) -> Candidate:
    """Choose the dict of weights in what a pickle says.

    Args:
        value: The pickle's value.
        entry: Which dict is meant: names with dots between them, or nothing for the outermost one; None to choose.

    Raises:
        CheckpointError: `checkpoint-ambiguous`, whose hint is an entry, `checkpoint-not-found` for an entry that is not
            there, `pickle-invalid` and `pickle-unsafe` where there are no tensors; without the place.
    """
    found = list(_candidates(value, ()))
    if entry is None:
        kept = [one for one in found if not one.is_aside] or found
    else:
        path, inner = _follow(value, entry, found)
        inside = list(_candidates(inner, path))
        kept = [one for one in inside if one.path == path] or [one for one in inside if not one.is_aside] or inside
    if not kept:
        raise _nothing(value if entry is None else inner)
    if len(kept) > 1:
        raise _ambiguous(kept)
    return kept[0]


def _candidates(value: Any, path: tuple[str, ...]) -> Iterator[Candidate]:
    """Yield the dicts that have tensors, the outer ones first, and each once."""
    waiting = deque([(value, path)])
    seen: set[int] = set()
    while waiting:
        value, path = waiting.popleft()
        items = _children(value)
        if id(value) in seen or not items or _is_optimizer(items):
            continue
        seen.add(id(value))
        found = {key: tensor for key, one in items.items() if (tensor := read_tensor(one)) is not None}
        if found and items_of(value) is not None:
            yield Candidate(path, found)
        if len(path) < MAX_DEPTH:
            inside = ((key, one) for key, one in items.items() if isinstance(one, _HOLDERS) and key not in found)
            waiting += [(one, (*path, _text(key))) for key, one in inside]


def _children(value: Any) -> dict[Any, Any]:
    """Return what stands in a dict by its names, and in a list by its numbers."""
    return dict(enumerate(value)) if type(value) in (list, tuple) else items_of(value) or {}


def _text(key: object) -> str:
    """Return a key as text; those that are no name have none of their own."""
    return key if isinstance(key, str) else str(key) if isinstance(key, int) and abs(key) < 2**63 else "?"


def _is_optimizer(items: dict[Any, Any]) -> bool:
    return items_of(items.get("state")) is not None and type(items.get("param_groups")) is list


def _follow(value: Any, entry: str, found: list[Candidate]) -> tuple[tuple[str, ...], Any]:
    """Find the value that an entry names; a key may hold dots itself."""
    ways = list(_ways(value, entry, ())) if entry else [((), value)]
    if not ways:
        hint = f"choose one of the dicts that hold tensors, such as {found[0].name}" if found else ""
        got = join_keys([one.name for one in found if one.path], _SHOWN) or "no dict of tensors below the outermost one"
        raise CheckpointError("checkpoint-not-found", f"there is no entry {shorten(entry)}", got=got, hint=hint)
    if len(ways) > 1:
        got = " and ".join(" in ".join(map(shorten, reversed(path))) for path, _ in ways[:_SHOWN])
        raise CheckpointError("checkpoint-ambiguous", f"the entry {shorten(entry)} can be read in two ways", got=got)
    return ways[0]


def _ways(value: Any, entry: str, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, one in _children(value).items():
        text = _text(key)
        if entry == text:
            yield (*path, text), one
        elif entry.startswith(text + "."):
            yield from _ways(one, entry[len(text) + 1 :], (*path, text))


def _ambiguous(kept: list[Candidate]) -> CheckpointError:
    names = [shorten(one.name) if one.path else "the outermost dict" for one in kept[:_SHOWN]]
    more = f" and {len(kept) - _SHOWN} more" if len(kept) > _SHOWN else ""
    return CheckpointError(
        "checkpoint-ambiguous",
        "more than one dict of this file holds tensors",
        expected="one, or the name of the one that is meant",
        got=", ".join(names) + more,
        hint=next(one.name for one in kept if one.path),
    )


def _nothing(value: Any) -> CheckpointError:
    """Return the error for a value in which there is no dict of tensors."""
    children = _children(value)
    made = next((name for one in (value, *children.values()) if (name := _made_by(one))), "")
    if made:
        got = f"the code of {made}"
        return CheckpointError("pickle-unsafe", "the pickle holds more than tensors", got=got, hint=UNSAFE_HINT)
    if items_of(value) is None:
        got = "a tensor" if read_tensor(value) is not None else f"a {type(value).__name__}"
        return CheckpointError("pickle-invalid", "this is no dict of tensors", got=got)
    got = join_keys(map(_text, children)) or "an empty dict"
    return CheckpointError("pickle-invalid", "there are no weights in this file", got=got)


def _made_by(value: Any) -> str:
    return describe(value) if read_tensor(value) is None else ""


def notes_on(value: Any, chosen: Candidate) -> list[str]:
    """Say which dict was chosen, and what was left aside: what code would make is named, and was not run."""
    inside = _listed(_left(value, (*chosen.path, ""), len(chosen.path), chosen))
    if not chosen.path:
        return [f"no tensors, left aside: {inside}"] if inside else []
    beside = (_listed(_left(value, chosen.path, depth, None)) for depth in range(len(chosen.path)))
    left = ", ".join(filter(None, [*beside, inside]))
    return [f"the tensors are those of {shorten(chosen.name)}" + (f"; left aside: {left}" if left else "")]


def _left(value: Any, path: tuple[str, ...], depth: int, chosen: Candidate | None) -> Iterator[tuple[str, str]]:
    """Yield what stands beside a path at one of its levels: its name, and what it is where that must be said."""
    for name in path[:depth]:
        value = next(one for key, one in _children(value).items() if _text(key) == name)
    for key, one in _children(value).items():
        if _text(key) != path[depth] and (chosen is None or key not in chosen.tensors):
            made = _made_by(one)
            yield ".".join((*path[:depth], _text(key))), f"{made}, not run" if made else ""


def _listed(left: Iterator[tuple[str, str]]) -> str:
    found = sorted(left, key=lambda pair: not pair[1])
    texts = [shorten(name) + (f" ({made})" if made else "") for name, made in found[:_SHOWN]]
    return ", ".join(texts) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
