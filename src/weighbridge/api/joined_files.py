r"""Several files as one source, by a pattern for their paths.

    rank_{r}.pt                        every number that there is; one that is missing among them is an error
    consolidated.{r:00..07}.pth        these and no others: the last one can be missed, too
    layer_{i:02,04..10}-states.pt      these numbers
    rank_{r:0..world_size-1}.pt        as many as the configuration says
    {part:encoder|decoder}.pt          these names
    rank_{r}/model.safetensors         in folders

A part of a path is a pattern of the same language as keys have, over the whole name of a file or a folder. What stands
before a file's keys is its own path, from the first pattern on and without the ending, or what the caller says: a
pattern that is filled with what was captured. A path that is there as it is written is no pattern.
"""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, product
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple, TypeGuard

from weighbridge.api.configurations import config_near
from weighbridge.api.file_counts import Bound, bind_numbers, has_names
from weighbridge.base.errors import CheckpointError, WeighbridgeError
from weighbridge.base.file_names import SAFETENSORS_SUFFIX, TORCH_SUFFIXES
from weighbridge.base.json_text import join_keys
from weighbridge.base.spelling import exact_pattern, spell_numbers
from weighbridge.mappings.schemes.said import BESIDE, CONFIG
from weighbridge.models.model_sources import open_place
from weighbridge.pattern import Capture, Pattern
from weighbridge.storage.joined import JoinedCheckpoint, Part, join_checkpoints
from weighbridge.storage.lone_files import with_settings
from weighbridge.storage.opening import split_entry
from weighbridge.storage.places.directory import Extra, count_shards, list_names
from weighbridge.storage.places.extras import find_extras
from weighbridge.storage.protocol import Checkpoint
from weighbridge.storage.remote.addresses import is_address

_LOG: Final = logging.getLogger(__name__)

MOST_FILES: Final = 100_000
"""How many files a pattern may name."""

_SET: Final = re.compile(r"\{(\w+):(\d+(?:\.\.\d+)?(?:,\d+(?:\.\.\d+)?)*)\}")
_OF: Final = re.compile(r"\d[-_.]?of[-_.]?(\d+)")
_COUNTED: Final = re.compile(r"of[-_.]?\{(\w+)")
_SHOWN: Final = 5


class Found(NamedTuple):
    """A file that a pattern names.

    Args:
        path: The file, or the folder.
        name: Its path from the first pattern on.
        captures: What the pattern captured, by name.
    """

    path: Path
    name: str
    captures: dict[str, str]


def open_source(place: Any, *, direct: bool = False, entry: str | None = None, config: Any = None) -> Checkpoint:
    """Open whatever can be a source, several files among it; see `weighbridge.open`.

    Raises:
        CheckpointError: `index-mismatch` for files that are missing, or too many, `checkpoint-ambiguous` for files that
            give one key, or have one number, `checkpoint-not-found`; and as `open_place`.
        LayoutError: `operation-config` for a name of the configuration that it does not have.
        PatternError: `pattern-syntax`, `pattern-reference`.
    """
    if _are_prefixes(place):
        prefixes: dict[str, str | None] = {str(path): prefix for path, prefix in place.items()}
    elif _is_path(place) and _is_pattern(os.fspath(place)):
        prefixes = {os.fspath(place): None}
    else:
        opened = open_place(place, direct=direct, entry=entry)
        _warn_of_part(place)
        return with_settings(opened, _path_of(os.fspath(place)), (CONFIG, *BESIDE)) if _is_path(place) else opened
    bound = [(_bind(text, config), prefix) for text, prefix in prefixes.items()]
    joined = _join({each.text: prefix for each, prefix in bound}, entry)
    asked = frozenset[str]().union(*(each.asked for each, _ in bound))
    return open_place(replace(joined, asked=asked), direct=direct)


def _warn_of_part(place: Any) -> None:
    """Log a warning where one file was opened alone that is, by its name, one of several of a checkpoint."""
    name = _path_of(os.fspath(place)).name if _is_path(place) else ""
    count = count_shards(name)
    if count > 1:
        what = "%s is opened alone, and is by its name one of %s files: open their directory, or their index, for all"
        _LOG.warning(what, name, f"{count:,}")


def _bind(text: str, config: Any) -> Bound:
    """Put numbers in the place of a configuration's names, and refuse more files than it says."""
    if not has_names(text):
        return Bound(text)
    path = _path_of(text)
    bound = bind_numbers(text, config_near(config, Path(*path.parts[: _count_plain(path)])))
    _, _, found = _walk(_path_of(bound.any_text))
    more = [each.name for each in found if any(int(each.captures[name]) > stop for name, stop in bound.last.items())]
    if more:
        what = "there are more files than the configuration says"
        expected = ", ".join(f"{name} up to {stop}" for name, stop in bound.last.items())
        raise CheckpointError("index-mismatch", what, where=text, expected=expected, got=join_keys(sorted(more)))
    return bound


def _path_of(text: str) -> Path:
    return split_entry(Path(text).expanduser() if text.startswith("~/") else Path(text))[0]


def _is_path(place: Any) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(place, str | os.PathLike)


def _are_prefixes(place: Any) -> TypeGuard[Mapping[Any, str]]:
    is_mapping = isinstance(place, Mapping) and len(place) > 0
    return is_mapping and all(isinstance(prefix, str) for prefix in place.values())


def _is_pattern(path: Any) -> bool:
    is_path = isinstance(path, str) and "{" in path and not is_address(path)
    return is_path and not os.path.lexists(split_entry(Path(path))[0])


def _join(prefixes: Mapping[str, str | None], entry: str | None) -> JoinedCheckpoint:
    parts: list[Part] = []
    places: list[tuple[Path, list[Found]]] = []
    notes: list[str] = []
    for text, prefix in prefixes.items():
        path, named = split_entry(Path(text).expanduser() if text.startswith("~/") else Path(text))
        base, found = _find(path)
        places.append((base, found))
        notes += _say(found)
        parts += [
            Part(each.name, _prefix(each, prefix, text), open_place(each.path, entry=named if entry is None else entry))
            for each in found
        ]
    extras, left = _find_extras(places)
    return join_checkpoints(", ".join(prefixes), parts, extras, (*notes, *left))


def _find(path: Path) -> tuple[Path, list[Found]]:
    """Find the files that a path names, in the order of what is captured, and the folder that the patterns begin in."""
    base, patterns, found = _walk(path)
    if not found:
        raise CheckpointError(
            "checkpoint-not-found", "no file has a name of this pattern", where=str(path), got=_near(base)
        )
    if len(found) > MOST_FILES:
        expected, got = f"at most {MOST_FILES:,} files", f"{len(found):,}"
        raise CheckpointError("checkpoint-ambiguous", "too many files", where=str(path), expected=expected, got=got)
    _check_all_there(str(path), found, [capture for pattern in patterns for capture in pattern.captures])
    return base, sorted(found, key=lambda each: (tuple(map(_order, each.captures.values())), each.name))


def _walk(path: Path) -> tuple[Path, list[Pattern], list[Found]]:
    """Return the folder that the patterns of a path begin in, these, and all files that they name."""
    count = _count_plain(path)
    base, patterns = Path(*path.parts[:count]), [_parse(part) for part in path.parts[count:]]
    if os.path.lexists(path):
        patterns = [Pattern.parse(exact_pattern(path.name))]
    found = [Found(base, "", {})]
    for pattern in patterns:
        found = [inner for each in found for inner in _step(each, pattern)]
    return base, patterns, found


def _count_plain(path: Path) -> int:
    """Count the parts of a path before the first pattern; a part that is there as it is written is none."""
    for number, part in enumerate(path.parts):
        if "{" in part and not os.path.lexists(Path(*path.parts[: number + 1])):
            return number
    return len(path.parts) - 1


def _near(base: Path) -> str:
    return join_keys(list_names(base)) or "an empty directory" if base.is_dir() else f"no directory {base}"


def _parse(part: str) -> Pattern:
    """Read the pattern of one part of a path; a set of numbers becomes a choice between them."""
    if "{" not in part:
        return Pattern.parse(exact_pattern(part))
    return Pattern.parse("^" + _SET.sub(lambda match: f"{{{match[1]}:{'|'.join(_numbers(match[2]))}}}", part) + "$")


def _numbers(text: str) -> Iterator[str]:
    """Yield the numbers of a set; those of a range have zeros in front as its first one has."""
    for item in text.split(","):
        first, dots, last = item.partition("..")
        width = len(first) if first.startswith("0") else 0
        stop = int(last) if dots else int(first)
        if stop - int(first) >= MOST_FILES:
            raise WeighbridgeError("usage", "this names too many files", got=item)
        yield from (f"{number:0{width}}" for number in range(int(first), stop + 1))


def _step(each: Found, pattern: Pattern) -> Iterator[Found]:
    """Yield what a folder holds by a pattern; what is captured twice is the same text."""
    for name in list_names(each.path) if each.path.is_dir() else ():
        match = pattern.match(name, literal=True)
        if match is None:
            fault = pattern.near_fault(name, None)
            if fault:
                what, where = "the number in a file's name is written otherwise than the pattern says", str(each.path)
                raise CheckpointError("index-mismatch", what, where=f"{where}/{name}", got=fault)
            continue
        if all(each.captures.get(key, text) == text for key, text in match.captures.items()):
            yield Found(each.path / name, f"{each.name}/{name}".lstrip("/"), each.captures | match.captures)


def _order(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isdecimal() else (-1, text)


def _prefix(each: Found, given: str | None, pattern: str) -> str:
    """Return what stands before the keys of a file."""
    if given is None:
        name = PurePosixPath(each.name)
        has_ending = name.suffix in (*TORCH_SUFFIXES, SAFETENSORS_SUFFIX, ".json")
        return ".".join((name.with_suffix("") if has_ending else name).parts) + "."
    if not given:
        return ""
    template = Pattern.parse(given)
    filled = template.fill(each.captures)
    if filled is None:
        got = template.fault(each.captures)
        raise CheckpointError("index-mismatch", "a number cannot be written so", where=pattern, got=got)
    return filled.removesuffix(".") + "."


# Whether all are there


def _check_all_there(where: str, found: list[Found], captures: list[Capture]) -> None:
    """Refuse a set of files in which one is missing, or one number stands twice.

    Raises:
        CheckpointError: `index-mismatch`, `checkpoint-ambiguous`.
    """
    names = list(dict.fromkeys(capture.name for capture in captures))
    listed = {capture.name: capture.words for capture in captures if capture.words}
    told = set(_COUNTED.findall(where))
    numeric = [name for name in names if name not in listed and _is_numeric(where, name, found) and name not in told]
    _check_apart(where, found, names)
    apart: defaultdict[tuple[str, ...], set[tuple[str | int, ...]]] = defaultdict(set)
    counted = [name for name in names if name in listed or name in numeric]
    for each in found:
        rest = tuple(each.captures[name] for name in names if name not in counted)
        apart[rest].add(tuple(_value(each.captures[name], name in numeric) for name in counted))
    for there in apart.values():
        wanted = [
            listed[name] if name in listed else _whole_range(value[number] for value in there)
            for number, name in enumerate(counted)
        ]
        if prod(map(len, wanted)) > len(there):
            raise _missing(where, counted, wanted, there)
    if len(counted) == 1:
        _check_count(where, found)


def _is_numeric(where: str, name: str, found: list[Found]) -> bool:
    """Tell whether a capture holds numbers: all of them, or none."""
    texts = [each.captures[name] for each in found]
    numbers = [text for text in texts if text.isdecimal()]
    if numbers and len(numbers) < len(texts):
        others = sorted(set(texts) - set(numbers))
        what, got = "some of these files have a number there, and some have not", join_keys([*others, *numbers])
        hint = f"write {{{name}:int}} for the numbers alone"
        raise CheckpointError("checkpoint-ambiguous", what, where=f"{where}: {name}", got=got, hint=hint)
    return bool(numbers)


def _check_apart(where: str, found: list[Found], names: list[str]) -> None:
    """Refuse two files of one number, such as `rank_1` and `rank_01`."""
    first: dict[tuple[tuple[int, str], ...], Found] = {}
    for each in found:
        twin = first.setdefault(tuple(_order(each.captures[name]) for name in names), each)
        if twin is not each:
            got, what = f"{twin.name} and {each.name}", "two files have one number"
            raise CheckpointError("checkpoint-ambiguous", what, where=where, got=got)


def _value(text: str, is_number: bool) -> str | int:
    return int(text) if is_number else text


def _whole_range(values: Iterable[str | int]) -> range:
    """Return all numbers up to the largest: from 0 on, or from 1 if there is no 0."""
    present = {int(value) for value in values}
    return range(0 if 0 in present else 1, max(present) + 1)


def _missing(
    where: str, names: list[str], wanted: Sequence[Sequence[str | int]], there: set[tuple[str | int, ...]]
) -> CheckpointError:
    """Make the error for files that are missing; however many these are, few are looked for."""
    count = prod(map(len, wanted))
    every = product(*(values[: len(there) + _SHOWN] for values in wanted))
    missing = islice((values for values in every if values not in there), _SHOWN)
    said = "; ".join(", ".join(map("{}={}".format, names, values)) for values in missing)
    more = f" and {count - len(there) - _SHOWN} more" if count - len(there) > _SHOWN else ""
    return CheckpointError(
        "index-mismatch",
        "files are missing",
        where=where,
        expected=f"{count:,} files",
        got=f"{len(there):,}, without {said}{more}",
        hint=f"fetch what is missing, or say which there are, such as {{{names[0]}:0,2..5}}",
    )


def _check_count(where: str, found: list[Found]) -> None:
    """Compare the number of files with what their own names say, such as `rank_0_of_8`."""
    said = {int(match[1]) for each in found if (match := _OF.search(each.name))}
    if len(said) == 1 and said != {len(found)}:
        expected, got = f"{said.pop()}, as their names say", str(len(found))
        raise CheckpointError("index-mismatch", "files are missing", where=where, expected=expected, got=got)


def _say(found: list[Found]) -> Iterator[str]:
    """Say which files are read as one."""
    if len(found) == 1:
        return
    spelled = []
    for name in found[0].captures:
        texts = dict.fromkeys(each.captures[name] for each in found)
        is_number = all(text.isdecimal() for text in texts)
        numbers = spell_numbers(tuple(sorted({int(text) for text in texts}))) if is_number else ", ".join(texts)
        spelled.append(f"{name} is {numbers}")
    yield f"{len(found):,} files are read as one: {'; '.join(spelled)}"


def _find_extras(places: list[tuple[Path, list[Found]]]) -> tuple[tuple[Extra, ...], tuple[str, ...]]:
    """Find the files beside the weights, where these all lie in one folder."""
    bases = {base for base, _ in places}
    names = [each.name for _, found in places for each in found]
    if len(bases) > 1 or any("/" in name for name in names):
        return (), ()
    return find_extras(bases.pop(), names)
