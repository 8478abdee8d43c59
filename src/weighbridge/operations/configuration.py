"""Read the numbers that operations take from a model's configuration: attributes or items, nested ones among them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

from weighbridge.base.errors import LayoutError
from weighbridge.base.nearby import close_names
from weighbridge.operations.values import Arguments, Size, brief, is_whole

_INDEXED: Final = re.compile(r"\[(\w+)\]")

ALIKE: Final = 0.45
"""How alike a near name must be: `n_head` is meant where `num_attention_heads` is looked for."""


@dataclass(frozen=True, slots=True)
class ConfigAt:
    """A configuration, and what was captured in a key: of ``heads[layer]`` the entry of that layer is read.

    Args:
        config: The configuration.
        indices: Captured indices by name.
    """

    config: object
    indices: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class UnreadConfig:
    """Stands for a configuration that is there, and that nobody can read: it matters only if a number is asked of it.

    Args:
        where: Its place.
        cause: What is wrong with it.
    """

    where: str
    cause: str


def read_config(config: object, name: str, default_to_text: bool = False) -> int:
    """Read a positive whole number from a configuration.

    Args:
        config: Attributes or items, with nested configurations.
        name: Name of the number; dots lead into nested configurations. ``heads[layer]`` is the entry of a list at the
            index that ``{layer:int}`` captured.
        default_to_text: Whether to look in the nested `text_config` for what is not here.

    Raises:
        LayoutError: `operation-config`.

    Examples:
        >>> read_config({"vision_config": {"num_heads": 16}}, "vision_config.num_heads")
        16
        >>> read_config({"n_head": 16}, "num_attention_heads")
        Traceback (most recent call last):
        ...
        weighbridge.LayoutError: operation-config: the configuration has no usable 'num_attention_heads'
          expected  a positive whole number
          got       nothing; nearest: n_head
          try       add num_attention_heads to the model's configuration, or pass config= with it
    """
    found = _find(config, name, default_to_text)
    if is_whole(found) and found >= 1:
        return int(found)
    raise LayoutError(
        "operation-config",
        f"the configuration has no usable {name!r}",
        expected="a positive whole number",
        got=_say_what_is_there(config, name, found),
        hint=_hint(config, name, found),
    )


def index_names(operations: Iterable[Arguments]) -> tuple[str, ...]:
    """Return what is captured in a key that some operations read lists of the configuration by.

    Examples:
        >>> from weighbridge.operations.movements import PermuteForRope
        >>> index_names([PermuteForRope(num_heads="text_config.heads[layer]")])
        ('layer',)
    """
    return tuple(dict.fromkeys(name for operation in operations for name in _indices_in(operation.to_dict())))


def _indices_in(form: object) -> Iterator[str]:
    if isinstance(form, str):
        yield from _INDEXED.findall(form)
    elif isinstance(form, Mapping):
        yield from (name for value in form.values() for name in _indices_in(value))
    elif isinstance(form, list | tuple):
        yield from (name for value in form for name in _indices_in(value))


def has_config(config: object, name: str) -> bool:
    """Tell whether a configuration says something of a name, whatever that is."""
    if isinstance(config, ConfigAt):
        return has_config(config.config, name)
    return name in config if isinstance(config, Mapping) else hasattr(config, name)


def read_size(config: object, size: Size) -> int:
    """Return a size; one that is named is read from a configuration.

    Raises:
        LayoutError: `operation-config`.

    Examples:
        >>> read_size({"text_config": {"heads": 3, "head_dim": 8}}, "heads*head_dim")
        24
    """
    if isinstance(size, int):
        return size
    return prod(read_config(config, name.strip(), default_to_text=True) for name in size.split("*"))


def read_sizes(config: object, sizes: tuple[Size, ...] | str) -> list[int]:
    """Return several sizes; one name in the place of all is that of a list in a configuration, or a product with one.

    Raises:
        LayoutError: `operation-config`.

    Examples:
        >>> read_sizes({"heads": [3, 4], "head_dim": 8}, "heads*head_dim"), read_sizes({"heads": 3}, ("heads", 5))
        ([24, 32], [3, 5])
    """
    if not isinstance(sizes, str):
        return [read_size(config, size) for size in sizes]
    lists: list[list[int]] = []
    factor = 1
    for name in map(str.strip, sizes.split("*")):
        found = _find(config, name, default_to_text=True)
        if isinstance(found, list | tuple):
            lists.append(_read_list(config, name, found))
        else:
            factor *= read_config(config, name, default_to_text=True)
    if len(lists) != 1:
        got = f"{len(lists)} lists in {sizes!r}"
        raise LayoutError("operation-config", "sizes are not those of one list", expected="one list", got=got)
    return [size * factor for size in lists[0]]


def _read_list(config: object, name: str, found: Sequence[object]) -> list[int]:
    numbers = [size for size in found if is_whole(size) and size >= 1]
    if not numbers or len(numbers) < len(found):
        raise LayoutError(
            "operation-config",
            f"the configuration has no usable {name!r}",
            expected="a list of positive whole numbers",
            got=brief(found),
            hint=_hint(config, name, found),
        )
    return numbers


def _find(config: object, name: str, default_to_text: bool = False) -> Any:
    """Follow a name into a configuration; of a list, take the entry that was captured."""
    if isinstance(config, ConfigAt):
        plain, _, index = name.removesuffix("]").partition("[")
        found = _find(config.config, plain, default_to_text)
        if not index or not isinstance(found, list | tuple):
            return None if index else found
        number = config.indices[index]
        return found[number] if number < len(found) else None
    found = _follow(config, name)
    return _follow(_look_up(config, "text_config"), name) if found is None and default_to_text else found


def _follow(config: object, name: str) -> Any:
    found: Any = config
    for part in name.split("."):
        found = _look_up(found, part)
    return found


def _look_up(config: object, name: str) -> Any:
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


def _say_what_is_there(config: object, name: str, found: object) -> str:
    if isinstance(config, ConfigAt):
        plain, _, index = name.removesuffix("]").partition("[")
        entries = _find(config.config, plain, default_to_text=True) if index else None
        if isinstance(entries, list | tuple):
            there = f"a list of {len(entries)}, and {index} is {config.indices[index]}"
            return there if found is None else brief(found)
        return _say_what_is_there(config.config, plain, entries if index else found)
    if config is None:
        return "no configuration"
    if isinstance(config, UnreadConfig):
        return f"{config.where}, which cannot be read: {config.cause}"
    if found is not None:
        return brief(found)
    near = _near_names(config, name)
    return f"nothing; nearest: {', '.join(near)}" if near else "nothing"


def _hint(config: object, name: str, found: object) -> str:
    if isinstance(config, ConfigAt):
        return _hint(config.config, name.partition("[")[0], found)
    if config is None:
        return "name the directory that has the model's config.json beside the weights, or pass config="
    if isinstance(config, UnreadConfig):
        return "put a whole config.json in its place, or pass config="
    change = f"add {name} to" if found is None else f"correct {name} in"
    return f"{change} the model's configuration, or pass config= with it"


def _near_names(config: object, name: str) -> list[str]:
    """Name the numbers of a configuration that may be the one that is looked for: here, or in one that is nested."""
    paths: dict[str, str] = {}
    for path in _paths(config):
        paths.setdefault(path.rpartition(".")[2], path)
    return [paths[leaf] for leaf in close_names(name.rpartition(".")[2], paths, 3, ALIKE)]


def _paths(config: object, depth: int = 3) -> Iterator[str]:
    """Yield the names of all positive whole numbers, those on top first."""
    named = config if isinstance(config, Mapping) else getattr(config, "__dict__", {})
    plain = {name: value for name, value in named.items() if isinstance(name, str) and not name.startswith("_")}
    yield from (name for name, value in plain.items() if is_whole(value) and value >= 1)
    if depth > 1:
        for name, value in plain.items():
            yield from (f"{name}.{path}" for path in _paths(value, depth - 1))
