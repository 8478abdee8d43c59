"""What the checks on drawn cases find, and what they share: a place in memory, comparisons, attempts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from drawn_checkpoints import Drawn, spec
from interpreter import Tensors
from strategies import raw

import weighbridge as wb

MEMORY_DISK = Path("/dev/shm")


class Find(NamedTuple):
    """What is wrong: its kind, in a word or two that a program can count, and what was seen."""

    kind: str
    said: str


Check = Callable[[Drawn, int], Find | None]


@contextmanager
def workplace() -> Iterator[Path]:
    """A directory in memory, where there is one."""
    base = MEMORY_DISK if MEMORY_DISK.is_dir() else None
    with tempfile.TemporaryDirectory(dir=base) as name:
        yield Path(name)


def difference(found: Tensors, wanted: Tensors) -> str:
    """Say in what two sets of tensors differ, bit by bit; empty if they do not."""
    if found.keys() != wanted.keys():
        return (
            f"only there {sorted(found.keys() - wanted.keys())[:4]}, missing {sorted(wanted.keys() - found.keys())[:4]}"
        )
    for key, tensor in wanted.items():
        if (found[key].dtype, found[key].shape) != (tensor.dtype, tensor.shape):
            return f"{key}: {spec(found[key])} for {spec(tensor)}"
        if raw(found[key]) != raw(tensor):
            return f"{key}: {found[key].tolist()} for {tensor.tolist()}"
    return ""


def attempt(work: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[Any, Find | None]:
    """Run something: its result, or the error of ours that it raises; any other error is a find."""
    try:
        return work(*arguments, **options), None
    except wb.WeighbridgeError as refused:
        return refused, None
    except Exception as crashed:
        return None, Find(f"raw {type(crashed).__name__}", repr(crashed)[:300])


# ---- small cases ----


def shrink(check: Check, drawn: Drawn, seed: int) -> tuple[Drawn, Find]:
    """Take rules and tensors away as long as a check gives a find of the same kind."""
    find = check(drawn, seed)
    assert find is not None
    for _ in range(20):
        for smaller in _smaller(drawn):
            again, crash = attempt(check, smaller, seed)
            if crash is None and isinstance(again, Find) and again.kind == find.kind:
                drawn, find = smaller, again
                break
        else:
            return drawn, find
    return drawn, find


def _smaller(drawn: Drawn) -> Iterator[Drawn]:
    rules, keys = drawn.mapping.transforms, list(drawn.tensors)
    for half in (keys[len(keys) // 2 :], keys[: len(keys) // 2]):
        if half and len(half) < len(keys):
            yield drawn._replace(tensors={key: drawn.tensors[key] for key in half})
    for number in range(len(rules)):
        yield drawn._replace(mapping=_with(drawn.mapping, (*rules[:number], *rules[number + 1 :])))
    for key in keys if len(keys) > 1 else ():
        yield drawn._replace(tensors={other: drawn.tensors[other] for other in keys if other != key})


def _with(mapping: wb.Mapping, rules: tuple[Any, ...]) -> wb.Mapping:
    return wb.Mapping(rules, name=mapping.name, drop=mapping.drop, carry=mapping.carry)


def show(drawn: Drawn) -> str:
    """Write a case as a mapping file and a list of tensors."""
    tensors = ", ".join(f"{key} {spec(tensor)}" for key, tensor in drawn.tensors.items())
    return f"{drawn.mapping.to_yaml()}tensors   {tensors}\nconfig    {drawn.config}\n"
