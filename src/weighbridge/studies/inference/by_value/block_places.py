"""Say by the words of a name where in its block a tensor stands: norms before attention, after it, before the MLP.

Letter by letter names mislead: `attention_norm` is `input_layernorm`, and not `post_attention_layernorm`. What they
agree in is the place: first, second, before, after, and the block they are named after.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Final

_WORDS: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")

_LEAVES: Final = frozenset({"weight", "bias", "gamma", "beta", "scale", "kernel"})
"""Last segments, which name no module."""

_ATTENTION: Final = frozenset({"attention", "attn", "sa", "mixer"})
_CROSS: Final = frozenset({"cross", "crossattention", "encoder", "encdec", "xattn", "ca", "multihead"})
_MLP: Final = frozenset({"mlp", "ffn", "ff", "feed", "feedforward", "ffw", "fc", "dense", "moe", "experts"})
_BEFORE: Final = frozenset({"pre", "before", "input", "in"})
_AFTER: Final = frozenset({"post", "after", "output", "out", "final", "last"})
_ORDINALS: Final = {"first": 1, "second": 2, "third": 3, "fourth": 4}

_SAME: Final = {
    "attention": "attn",
    "query": "q",
    "key": "k",
    "value": "v",
    "layernorm": "norm",
    "layrnorm": "norm",
    "ln": "norm",
    "rmsnorm": "norm",
    "batchnorm": "norm",
    "bn": "norm",
    "embeddings": "embed",
    "embedding": "embed",
    "ffn": "mlp",
    "feedforward": "mlp",
    "visual": "vision",
    "gamma": "weight",
    "scale": "weight",
    "kernel": "weight",
    "beta": "bias",
}
"""Words that layouts have for one thing, each with the word that it is compared as."""


@cache
def words_of(name: str) -> tuple[str, ...]:
    """Return the words of a name, in small letters, without a last one that names no module.

    Examples:
        >>> words_of("attention.output.LayerNorm.weight"), words_of("ln_1.bias"), words_of("norm1")
        (('attention', 'output', 'layer', 'norm'), ('ln', '1'), ('norm', '1'))
    """
    segments = name.split(".")
    kept = segments[:-1] if len(segments) > 1 and segments[-1] in _LEAVES else segments
    return tuple(word.lower() for word in _WORDS.findall(".".join(kept)))


def leaf_of(name: str) -> str:
    """Return the last segment of a name, in the word that layouts with others for it are compared by.

    Examples:
        >>> leaf_of("ln.gamma"), leaf_of("ln.running_mean")
        ('weight', 'running_mean')
    """
    leaf = name.rpartition(".")[2]
    return _SAME.get(leaf, leaf)


def place_in_block(name: str) -> float | None:
    """Return a number by which tensors of a block can be ordered; None where the words say nothing of it.

    Args:
        name: The part of a key after the last index, that of the block.

    Examples:
        >>> names = ["attention_norm", "post_attention_layernorm", "ffn_norm", "final_layer_norm"]
        >>> places = [place_in_block(name) for name in names]
        >>> places == sorted(places), place_in_block("foo")
        (True, None)
    """
    words = words_of(name)
    numbers = [int(word) for word in words if word.isdigit()] + [_ORDINALS[word] for word in words if word in _ORDINALS]
    block = _block(frozenset(words))
    after, before = not _AFTER.isdisjoint(words), not _BEFORE.isdisjoint(words)
    if block is not None:
        return block + 0.5 * after - 0.3 * before
    if numbers:
        return float(numbers[-1])
    if before and not after:
        return -1.0
    if after and not before:
        return 3.0 if words[-1] != "after" else 2.0
    return None


def _block(words: frozenset[str]) -> float | None:
    if not words.isdisjoint(_MLP):
        return 2.0
    if words.isdisjoint(_ATTENTION):
        return None
    return 0.0 if words.isdisjoint(_CROSS) else 1.0


def telling_words(name: str, *, with_place: bool) -> frozenset[str]:
    """Return the words of a name, those of one meaning as one; without those that say a place, if so wished."""
    places = frozenset() if with_place else _ATTENTION | _CROSS | _MLP | _BEFORE | _AFTER | _ORDINALS.keys()
    return frozenset(_SAME.get(word, word) for word in words_of(name) if word not in places)


def ranks(places: Iterable[float | None]) -> dict[float, float]:
    """Spread places over 0 to 1 in their order; none where they do not differ.

    Examples:
        >>> ranks([0.5, None, 2.0])
        {0.5: 0.0, 2.0: 1.0}
    """
    known = sorted({place for place in places if place is not None})
    return {place: number / (len(known) - 1) for number, place in enumerate(known)} if len(known) > 1 else {}
