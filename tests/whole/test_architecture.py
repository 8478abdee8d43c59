"""The structure of the source: which room uses which, no circles, names and sizes of folders, what an import loads.

The table of rooms and what reads the imports are in tests/rooms.py, which the picture of the rooms is made with, too.
Each rule is a function from source text to complaints, so that it can also be shown something wrong.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

import pytest
from rooms import (
    AT_THE_ROOT,
    FOLDER,
    ROOMS,
    circles,
    describe,
    description_complaints,
    direction_complaints,
    import_map,
    imports_of,
    named_rooms,
    promise_complaints,
    read_modules,
    relative_imports,
    room_arrows,
    room_of,
    used_rooms,
)

MODULES = read_modules()
ARROWS = import_map(MODULES)

HEAVY = {"torch", "numpy", "transformers", "rich", "typer", "yaml", "pydantic"}
"""Packages that `import weighbridge` must not load."""

MAX_FOLDER_MODULES = 16


# Import direction


def test_modules_import_what_their_room_may_use() -> None:
    assert direction_complaints(ARROWS) == []


SMALL = {
    "weighbridge": "",
    "weighbridge._version": "",
    "weighbridge.base": "",
    "weighbridge.base.errors": "",
    "weighbridge.planning": "",
    "weighbridge.planning.plan": "",
    "weighbridge.api": "",
    "weighbridge.api.functions": "",
    "weighbridge.loading": "",
}
"""A package of a few empty modules."""


def complaints_about(name: str, source: str) -> list[str]:
    """What is wrong with the small package when one module has this text."""
    return direction_complaints(import_map(SMALL | {name: source}))


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("base.errors", "from weighbridge.planning.plan import Plan", "imports weighbridge.planning.plan"),
        ("base.errors", "import weighbridge.planning.plan", "imports weighbridge.planning.plan"),
        ("base.errors", "from weighbridge import planning", "imports weighbridge.planning"),
        ("base.errors", "from weighbridge.planning import plan", "imports weighbridge.planning.plan"),
        ("base.errors", "from weighbridge.planning import *", "imports weighbridge.planning"),
        ("base.errors", "def f():\n    from weighbridge.planning import Plan", "imports weighbridge.planning"),
        ("base.errors", "if TYPE_CHECKING:\n    import weighbridge.planning", "imports weighbridge.planning"),
        ("base.errors", "importlib.import_module('weighbridge.planning')", "imports weighbridge.planning"),
        ("planning.plan", "from weighbridge import Mapping", "imports weighbridge"),
        ("planning.plan", "import weighbridge as wb", "imports weighbridge"),
        ("planning.plan", "from weighbridge.api import functions", "imports weighbridge.api.functions"),
        ("api.functions", "from weighbridge.loading import loaded_plan", "imports weighbridge.loading"),
        ("loading", "from weighbridge.planning.plan import Plan", "imports weighbridge.planning.plan"),
        ("_version", "from weighbridge.base.errors import CODES", "imports weighbridge.base.errors"),
        ("planning.plan", "import weighbridge.nowhere", "imports weighbridge.nowhere, which is not there"),
        ("planning.plan", "import weighbridge.base.no", "imports weighbridge.base.no, which is not there"),
        ("nowhere.x", "", "lies in no room"),
    ],
)
def test_direction_check_can_fail(name: str, source: str, complaint: str) -> None:
    assert complaints_about(f"weighbridge.{name}", source) == [f"weighbridge.{name} {complaint}"]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("planning.plan", "from weighbridge.base.errors import CODES\nimport json, weighbridge.base"),
        ("planning.plan", "from weighbridge._version import __version__"),
        ("planning", "from weighbridge.planning.plan import Plan"),
        ("api.functions", "def f():\n    from weighbridge.planning import plan"),
        ("loading", "from weighbridge.api.functions import plan"),
        ("base.errors", "import json, weighbridged\nfrom weighbridges.planning import plan"),
    ],
)
def test_direction_check_accepts_what_is_allowed(name: str, source: str) -> None:
    assert complaints_about(f"weighbridge.{name}", source) == []


def test_imports_are_those_of_modules() -> None:
    """A name that is a module is that module; any other is taken from the package's own `__init__`."""
    modules = {"weighbridge.base", "weighbridge.base.errors"}
    assert imports_of("from weighbridge.base import errors, CODES", modules) == modules
    assert imports_of("from weighbridge.base.errors import CODES", modules) == {"weighbridge.base.errors"}


def test_table_has_no_room_for_nothing_and_none_that_uses_a_later_one() -> None:
    assert [room for room in (*ROOMS, *AT_THE_ROOT) if room not in {room_of(name) for name in MODULES}] == []
    order = tuple(ROOMS)
    for number, room in enumerate(order):
        assert set(used_rooms(room)) <= set(order[:number])
        assert list(used_rooms(room)) == sorted(used_rooms(room), key=order.index)


def test_arrows_between_rooms_are_those_of_their_modules() -> None:
    arrows = {"weighbridge.api.functions": {"weighbridge.base", "weighbridge.api", "weighbridge._version"}}
    assert room_arrows(arrows) == {("api", "base")}


@pytest.mark.parametrize("name", MODULES)
def test_module_imports_by_its_full_name(name: str) -> None:
    assert relative_imports(MODULES[name]) == []


def test_relative_import_check_can_fail() -> None:
    assert relative_imports("from . import plan\nfrom ..base import errors\nimport json") == [
        "from . import plan",
        "from ..base import errors",
    ]


# Circles


def test_no_module_leads_back_to_itself() -> None:
    assert circles(ARROWS) == []


@pytest.mark.parametrize(
    ("arrows", "found"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"a"}}, ["a -> a"]),
        ({"a": {"b"}, "b": {"a"}, "c": {"d"}, "d": {"c"}}, ["a -> b -> a", "c -> d -> c"]),
        ({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"b"}}, ["a -> b -> c -> a"]),
        ({"a": {"b"}, "b": {"c", "gone"}, "c": {"b"}}, ["b -> c -> b"]),
    ],
)
def test_circle_check_can_fail(arrows: dict[str, set[str]], found: list[str]) -> None:
    assert circles(arrows) == found


def test_circle_check_sees_imports_in_functions() -> None:
    late = "def f():\n    from weighbridge.planning.plan import Plan"
    early = "from weighbridge.base.errors import CODES"
    arrows = import_map(SMALL | {"weighbridge.base.errors": late, "weighbridge.planning.plan": early})
    assert circles(arrows) == ["weighbridge.base.errors -> weighbridge.planning.plan -> weighbridge.base.errors"]


# What a room says of itself


@pytest.mark.parametrize("room", ROOMS)
def test_room_says_what_comes_in_what_goes_out_and_what_it_may_use(room: str) -> None:
    assert description_complaints(room, MODULES[f"weighbridge.{room}"]) == []


ALGEBRA = '"""Copies.\n\nComes in: a. Goes out: b,\nand c. Or d.\nMay use: base. Within,\nall.\n\nMore.\n"""'


def test_description_is_read() -> None:
    assert describe(ALGEBRA) == ("Copies.", "a", "b, and c. Or d", "base")
    assert description_complaints("algebra", ALGEBRA) == []


@pytest.mark.parametrize(
    ("source", "complaints"),
    [
        ("", [f"algebra does not say “{label}:”" for label in ("Comes in", "Goes out", "May use")]),
        (ALGEBRA.replace("Goes out: b,", "b,"), ["algebra does not say “Goes out:”"]),
        (ALGEBRA.replace("base", "base, pattern"), ["algebra says “May use: base, pattern”, and not base"]),
        (ALGEBRA.replace("base", "what it likes"), ["algebra says “May use: what it likes”, and not base"]),
        (ALGEBRA.replace("base", "no other room"), ["algebra says “May use: no other room”, and not base"]),
        (ALGEBRA.replace("base", "base to pattern"), ["algebra says “May use: base to pattern”, and not base"]),
    ],
)
def test_description_check_can_fail(source: str, complaints: list[str]) -> None:
    assert description_complaints("algebra", source) == complaints


PACKAGES_IN_ROOMS = [name for name in MODULES if name.count(".") > 1 and any(n.startswith(f"{name}.") for n in MODULES)]


@pytest.mark.parametrize("name", PACKAGES_IN_ROOMS)
def test_package_in_a_room_keeps_to_the_list_that_it_gives(name: str) -> None:
    assert promise_complaints(name, MODULES[name], ARROWS) == []


def test_promise_check_can_fail() -> None:
    package, module, other = (f"weighbridge.storage.{name}" for name in ("places", "places.paths", "formats.inventory"))
    arrows = {module: {other, "weighbridge.base.errors"}}
    complaint = f"{module} imports {other}, which {package} does not list"
    assert promise_complaints(package, '"""May use: base."""', arrows) == [complaint]
    assert promise_complaints(package, '"""May use: base, storage.formats."""', arrows) == []
    assert named_rooms("everything but the command's own `app`", "cli") is None


# Folders and names


def crowded_folders(names: Iterable[str]) -> list[str]:
    """Say which folders hold too many modules, by the modules' paths."""
    counts = Counter(str(PurePosixPath(name).parent) for name in names)
    return [f"{folder} holds {count} modules" for folder, count in counts.items() if count > MAX_FOLDER_MODULES]


def repeated_names(names: Iterable[str]) -> list[str]:
    """Say which names of modules and folders stand in more than one place, by the modules' paths."""
    paths = [PurePosixPath(name) for name in names]
    folders = {folder for path in paths for folder in path.parents if folder.name}
    counts = Counter([path.stem for path in paths if path.stem != "__init__"] + [folder.name for folder in folders])
    return [f"{name} stands {count} times" for name, count in sorted(counts.items()) if count > 1]


def paths_of_modules() -> list[str]:
    """The path of each module of the package."""
    return [path.relative_to(FOLDER).as_posix() for path in sorted(FOLDER.rglob("*.py"))]


def test_no_folder_is_crowded() -> None:
    assert crowded_folders(paths_of_modules()) == []


def test_crowded_folder_check_can_fail() -> None:
    assert crowded_folders(f"a/m{number}.py" for number in range(17)) == ["a holds 17 modules"]
    assert crowded_folders(f"{number % 2}/m{number}.py" for number in range(32)) == []


def test_every_name_stands_once() -> None:
    assert repeated_names(paths_of_modules()) == []


def test_repeated_name_check_can_fail() -> None:
    found = repeated_names(["a/__init__.py", "a/x.py", "b/__init__.py", "b/x.py", "b/a.py"])
    assert found == ["a stands 2 times", "x stands 2 times"]


# What an import loads


def heavy_modules_after(statement: str) -> set[str]:
    """Names of the heavy packages that are loaded in a new interpreter after `statement`."""
    script = f"{statement}\nimport sys\nprint(*sorted({HEAVY!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(result.stdout.split())


def test_import_loads_nothing_heavy() -> None:
    assert heavy_modules_after("import weighbridge") == set()


def test_import_check_can_fail() -> None:
    assert "numpy" in heavy_modules_after("import numpy")
