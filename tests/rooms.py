"""The rooms of the source, which may use which, and what the imports of its modules say of that.

`tests/whole/test_architecture.py` holds the source to it, and `docs/architecture_picture.py` draws it. Both read the
text of the modules and import none of them, so that an import counts wherever it stands: at the top of a module, in a
function, or under `TYPE_CHECKING`. There are no exceptions.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping, Set
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
PACKAGE: Final = "weighbridge"
FOLDER: Final = ROOT / "src" / PACKAGE

EVERY_ROOM_BEFORE: Final = "every room before it"

ROOMS: Final[dict[str, tuple[str, ...] | str]] = {
    "base": (),
    "pattern": ("base",),
    "algebra": ("base",),
    "operations": ("base", "pattern", "algebra"),
    "mappings": ("base", "pattern", "operations"),
    "storage": ("base",),
    "planning": ("base", "pattern", "algebra", "operations", "mappings", "storage"),
    "reporting": ("base", "algebra", "mappings", "planning"),
    "running": ("base", "algebra", "mappings", "storage", "planning"),
    "models": ("base", "algebra", "mappings", "storage", "planning", "running"),
    "studies": EVERY_ROOM_BEFORE,
    "api": EVERY_ROOM_BEFORE,
    "integrations": EVERY_ROOM_BEFORE,
    "testing": EVERY_ROOM_BEFORE,
    "cli": EVERY_ROOM_BEFORE,
}
"""Each sub-package, in the order in which data flows, and those whose modules its own may import."""

AT_THE_ROOT: Final[dict[str, tuple[str, ...]]] = {
    "_version": (),
    "loading": ("api",),  # the earlier place of a public name
    "__init__": tuple(ROOMS),
    "__main__": ("cli",),
}
"""Each module that lies in no room, and the rooms that it may use. All may use the version, and none the others."""


# What a module imports


def read_modules(folder: Path = FOLDER) -> dict[str, str]:
    """Return the text of each module of the package by its dotted name; a package's own is its `__init__`."""
    return {module_name(path.relative_to(folder)): path.read_text("utf-8") for path in sorted(folder.rglob("*.py"))}


def module_name(path: Path) -> str:
    """Return the dotted name of a module by its path in the package."""
    return ".".join((PACKAGE, *path.with_suffix("").parts)).removesuffix(".__init__")


def import_map(modules: Mapping[str, str]) -> dict[str, set[str]]:
    """Return, for each module, the modules of the package that it imports."""
    return {name: imports_of(source, modules) for name, source in modules.items()}


def imports_of(source: str, modules: Collection[str]) -> set[str]:
    """Return the modules of the package that a module imports, wherever in it the import stands.

    A name that is taken from a package is the module of that name where there is one, else the package's `__init__`
    is meant. Importing `a.b.c` is no use of the `__init__` of `a`, of which nothing is taken.
    """
    found = {name for node in ast.walk(ast.parse(source)) for name in named_modules(node, modules)}
    return {name for name in found if name.split(".")[0] == PACKAGE}


def named_modules(node: ast.AST, modules: Collection[str]) -> Iterator[str]:
    """Yield the names of the modules that a statement imports, or a call of `import_module` with a text."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        inside = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name if name in modules else node.module for name in inside)
    elif isinstance(node, ast.Call) and _called(node.func) in ("import_module", "__import__"):
        yield from (text.value for text in node.args[:1] if isinstance(text, ast.Constant))


def _called(function: ast.expr) -> str:
    """Return the last name of what is called."""
    return str(getattr(function, "attr", getattr(function, "id", "")))


def relative_imports(source: str) -> list[str]:
    """Return the imports of a module that begin with a dot."""
    nodes = ast.walk(ast.parse(source))
    return [ast.unparse(node) for node in nodes if isinstance(node, ast.ImportFrom) and node.level > 0]


# Which room may use which


def room_of(module: str) -> str:
    """Return the room that a module lies in; for a module at the root, its own name.

    Examples:
        >>> room_of("weighbridge.storage.formats.inventory"), room_of("weighbridge._version"), room_of("weighbridge")
        ('storage', '_version', '__init__')
    """
    return [*module.split("."), "__init__"][1]


def used_rooms(room: str) -> tuple[str, ...]:
    """Return the rooms that a room or a module at the root may use, besides itself and the version."""
    uses = ROOMS[room] if room in ROOMS else AT_THE_ROOT[room]
    return tuple(ROOMS)[: tuple(ROOMS).index(room)] if isinstance(uses, str) else uses


def direction_complaints(arrows: Mapping[str, Set[str]]) -> list[str]:
    """Say which imports the table of rooms does not allow."""
    complaints = [f"{name} lies in no room" for name in arrows if room_of(name) not in {*ROOMS, *AT_THE_ROOT}]
    for name, room in ((name, room_of(name)) for name in arrows if room_of(name) in {*ROOMS, *AT_THE_ROOT}):
        allowed = {*used_rooms(room), room, "_version"}
        complaints += [
            f"{name} imports {other}" + ("" if other in arrows else ", which is not there")
            for other in sorted(arrows[name])
            if room_of(other) not in allowed or other not in arrows
        ]
    return complaints


def room_arrows(arrows: Mapping[str, Set[str]]) -> set[tuple[str, str]]:
    """Return each pair of a room and another one that it uses."""
    pairs = {(room_of(name), room_of(other)) for name, others in arrows.items() for other in others}
    return {(room, used) for room, used in pairs if room != used and room in ROOMS and used in ROOMS}


# Circles


def circles(arrows: Mapping[str, Set[str]]) -> list[str]:
    """Return a shortest circle for each knot of modules that all lead to each other, as text."""
    behind = {name: reachable(arrows, name) for name in arrows}
    knots = {frozenset(other for other in behind[name] if name in behind[other]) for name in arrows}
    return [" -> ".join(shortest_circle(arrows, min(knot))) for knot in sorted(knots - {frozenset()}, key=min)]


def reachable(arrows: Mapping[str, Set[str]], start: str) -> set[str]:
    """Return what a module imports, what that imports, and so on."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = arrows.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found & set(arrows)


def shortest_circle(arrows: Mapping[str, Set[str]], start: str) -> list[str]:
    """Return a shortest way along imports from a module to itself, with the module at both ends."""
    ways = [[start]]
    for way in ways:
        for name in sorted(arrows[way[-1]] & set(arrows)):
            if name == start:
                return [*way, start]
            if all(name not in other for other in ways):
                ways.append([*way, name])
    raise ValueError(f"{start} is in no circle")


# What a room says of itself


class Description(NamedTuple):
    """What the docstring of a package says: what it is, what comes in, what goes out, what it may use."""

    summary: str
    comes_in: str
    goes_out: str
    may_use: str


def describe(source: str) -> Description:
    """Read the docstring of a package; what it does not say is empty, and what it may use is one sentence."""
    text = ast.get_docstring(ast.parse(source)) or ""
    summary, *_ = text.split("\n\n")
    said = {
        label: re.search(rf"\b{label}: (.*?)\.?(?= (?:Comes in|Goes out|May use):|\n\n|\s*\Z)", joined(text), re.DOTALL)
        for label in ("Comes in", "Goes out", "May use")
    }
    comes_in, goes_out, may_use = (match[1] if match else "" for match in said.values())
    return Description(joined(summary), comes_in, goes_out, may_use.partition(". ")[0])


def joined(text: str) -> str:
    """Return a text with each of its paragraphs on one line."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text)


def named_rooms(may_use: str, room: str) -> tuple[str, ...] | None:
    """Return the rooms or packages that a text says may be used; None where it is no list of such.

    Examples:
        >>> named_rooms("base, storage.places", "storage.formats")
        ('base', 'storage.places')
        >>> named_rooms("base to algebra", "operations"), named_rooms("no other room", "base")
        (('base', 'pattern', 'algebra'), ())
    """
    order = tuple(ROOMS)
    first, _, last = may_use.partition(" to ")
    if may_use == "no other room":
        return ()
    if may_use == EVERY_ROOM_BEFORE:
        return order[: order.index(room)]
    if first in order and last in order:
        return order[order.index(first) : order.index(last) + 1]
    names = tuple(may_use.split(", "))
    return names if all(name.split(".")[0] in order for name in names) else None


def description_complaints(room: str, source: str) -> list[str]:
    """Say what the docstring of a room's `__init__` does not say, or says otherwise than the table of rooms."""
    said = describe(source)
    labels = {"Comes in": said.comes_in, "Goes out": said.goes_out, "May use": said.may_use}
    complaints = [f"{room} does not say “{label}:”" for label, text in labels.items() if not text]
    if said.may_use and named_rooms(said.may_use, room) != used_rooms(room):
        complaints.append(f"{room} says “May use: {said.may_use}”, and not {', '.join(used_rooms(room)) or 'nothing'}")
    return complaints


def promise_complaints(package: str, source: str, arrows: Mapping[str, Set[str]]) -> list[str]:
    """Say which modules of a package within a room import what is not in the list that the package gives."""
    listed = named_rooms(describe(source).may_use, room_of(package))
    if listed is None:
        return []  # it makes no list
    allowed = [package, f"{PACKAGE}._version", *(f"{PACKAGE}.{name}" for name in listed)]
    return [
        f"{name} imports {other}, which {package} does not list"
        for name in sorted(arrows)
        if is_inside(name, package)
        for other in sorted(arrows[name])
        if not any(is_inside(other, place) for place in allowed)
    ]


def is_inside(module: str, package: str) -> bool:
    """Say whether a module is a package, or lies in it."""
    return module == package or module.startswith(f"{package}.")
