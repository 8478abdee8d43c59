"""Names from which rules lead to a weight, found by trying: whether one that no file gave can be saved at all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, product
from typing import Any

import torch
from interpreter import interpret

import weighbridge as wb

MOST_SEGMENTS = 4
MOST_TRIED = 20_000


def unled(ways: Sequence[Sequence[Any]], keys: Iterable[str], config: Any = None) -> list[str]:
    """Return the names to which no way leads from any name that is tried.

    Tried are all names, up to a number of segments and the shorter ones first, of the words that rules and names are
    made of, and an index. What a converter makes counts for nothing: it is made of other tensors.

    Args:
        ways: Lists of rules, each of which is run over every name.
        keys: Names of weights.
        config: The model's configuration.
    """
    return [key for key in keys if not any(_leads(way, _tried(way, key), key, config) for way in ways)]


def _leads(rules: Sequence[Any], names: Iterable[str], key: str, config: Any) -> bool:
    mapping, tensor = wb.Mapping(rules), torch.zeros(2, 2)
    for name in names:
        made = interpret(mapping, {name: tensor}, config=config)
        if key in made.tensors and key not in made.changed:
            return True
    return False


def _tried(rules: Sequence[Any], key: str) -> Iterator[str]:
    texts = [text for rule in rules for text in _texts(rule)]
    words = dict.fromkeys(
        [*key.split("."), *(word for text in texts for word in re.findall(r"[A-Za-z_]\w*", text)), "0"]
    )
    yield key
    yield from (f"{text}.{key}" for text in texts)
    counted = (product(words, repeat=count) for count in range(1, MOST_SEGMENTS + 1))
    yield from islice((".".join(segments) for each in counted for segments in each), MOST_TRIED)


def _texts(rule: Any) -> list[str]:
    names = ("scope", "prefix_to_add", "prefix_to_remove", "model_prefix")
    texts = [getattr(rule, name, None) for name in names]
    return [text for text in (*texts, *rule.source_patterns) if text]
