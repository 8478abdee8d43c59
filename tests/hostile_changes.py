"""How good content becomes hostile, and what is then done with it."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

import weighbridge as wb

Run = Callable[[], object]

SAFE_BYTES = 1 << 22
"""Most that one tensor is read of, in bytes: its size is what the file says it is."""


class Chance(random.Random):
    """A source of chance that makes fewer changes than drawn, if told so: the same ones, up to there."""

    most_changes = 1000

    def changes(self, *counts: int) -> int:
        return min(self.choice(counts), self.most_changes)


# ---- changes ----


def nest(depth: int) -> Any:
    """Lists in lists."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def nasty(chance: Chance) -> Any:
    """A JSON value that nobody expects."""
    numbers = (0, -1, 1, 2**31, 2**53, 2**63 - 1, 2**64, 10**30, 1.5, 1e308, float("nan"), -0.0)
    texts = ("", "\0", "a" * 5000, "../../x", "/", "F32", "F4", "é\ud800", "{0..3}", "a.0.w", "99999999999999999999")
    others = (True, None, [], {}, [[]], {"": {}}, nest(chance.choice((10, 900, 5000))), [0] * 3000, {"a": 1})
    return chance.choice(chance.choice((numbers, texts, others)))


def change_json(chance: Chance, value: Any) -> Any:
    """Replace, remove, add or repeat something at a few places of a JSON value."""
    root = [value]
    for _ in range(chance.changes(1, 1, 1, 2, 3, 6)):
        places = list(_places(root))
        holder, at = places[min(int(chance.expovariate(1 / max(1, len(places) / 2))), len(places) - 1)]
        match chance.choice(("replace", "replace", "lose", "more", "twist")):
            case "lose" if holder is not root:
                del holder[at]
            case "more" if isinstance(holder, list):
                holder.insert(at, holder[at])
            case "more":
                holder[chance.choice((f"{at}x", "", "99999999999999999999", "../x", "a" * 6000))] = holder[at]
            case "twist" if isinstance(holder[at], int):
                holder[at] += chance.choice((1, -1, 2**32, -(2**40)))
            case _:
                holder[at] = nasty(chance)
    return root[0]


def _places(value: Any) -> Any:
    """Yield every place of a value: what holds it, and where."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for at, inner in list(pairs):
        yield value, at
        if not isinstance(inner, list) or len(inner) < 1000:
            yield from _places(inner) if _depth(inner) < 200 else ()


def _depth(value: Any) -> int:
    depth = 0
    while isinstance(value, list) and value:
        value, depth = value[0], depth + 1
    return depth


def text_of(value: Any) -> bytes:
    """Write JSON, however deep and strange."""
    try:
        keyed = json.dumps(value, skipkeys=True)
    except RecursionError:
        keyed = "[" * 100_000
    return keyed.encode("utf-8", "surrogatepass")


def change_bytes(chance: Chance, content: bytes) -> bytes:
    """Change, remove, insert, cut or repeat a few bytes."""
    made = bytearray(content)
    for _ in range(chance.changes(1, 1, 2, 4)):
        at = chance.randrange(len(made) + 1)
        match chance.choice(("change", "change", "lose", "insert", "cut", "double", "move")):
            case "change" if at < len(made):
                made[at] = chance.choice((0, 0xFF, 0x80, made[at] ^ 1, chance.randrange(256)))
            case "lose":
                del made[at : at + chance.choice((1, 4, 60))]
            case "insert":
                made[at:at] = chance.choice((b'"', b"{" * 2000, b"9" * 40, b"\0" * 9, b"[" * 20000, b",", b"\xff\xfe"))
            case "cut":
                del made[at:]
            case "double":
                made[at:at] = made[at : at + chance.randrange(1, 200)]
            case _:
                chunk = bytes(made[at : at + 8])
                made[at : at + 8] = struct.pack("<Q", chance.choice((2**63, 2**31, 1, 0, len(made))))[: len(chunk)]
    return bytes(made)


# ---- what is done with an input ----


def look_at(place: Any) -> None:
    """Open a checkpoint, read all of it, plan it, and say what it is."""
    checkpoint = wb.open(place)
    for key, spec in checkpoint.header.items():
        if 0 < spec.size_bytes < SAFE_BYTES:
            checkpoint.read(key, 0, memoryview(bytearray(spec.size_bytes)))
    plan_it(checkpoint)
    str(wb.detect(checkpoint))


def plan_it(source: Any, mapping: Any = ()) -> wb.Plan:
    """Plan, and print all that can be printed of a plan."""
    plan = wb.plan(source, mapping)
    str(plan.report)
    for key in [*plan.target][:3]:
        str(plan.explain(key))
    wb.Plan.from_json(plan.to_json())
    return plan


def safetensors(header: Any, size: int) -> bytes:
    head = header if isinstance(header, bytes) else text_of(header)
    return struct.pack("<Q", len(head)) + head + bytes(size)


def table(keys: tuple[str, ...] = ("a.0.w", "a.1.w", "norm.gamma")) -> dict[str, Any]:
    """A good header."""
    made: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for number, key in enumerate(keys):
        made[key] = {"dtype": "F32", "shape": [2, 3], "data_offsets": [24 * number, 24 * number + 24]}
    return made
