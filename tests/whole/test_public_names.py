"""The public names: sorted, what the package offers, documented where they stand and in docs/api.md."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import pytest
from conftest import ROOT
from rooms import read_modules, room_of

import weighbridge as wb
from weighbridge import api

MODULES = read_modules()


def test_public_names_are_sorted() -> None:
    assert list(wb.__all__) == sorted(wb.__all__)


def test_public_names_are_what_the_package_offers() -> None:
    """`dir()` shows `__all__`; what else stands there is private or a sub-module."""
    offered = {name for name in dir(wb) if not name.startswith("_")}
    submodules = {room_of(name) for name in MODULES}
    assert offered - submodules - {"annotations", "TYPE_CHECKING"} <= set(wb.__all__)
    assert [name for name in wb.__all__ if not hasattr(wb, name)] == []
    with pytest.raises(AttributeError, match=r"'weighbridge' has no attribute 'plam'"):
        wb.plam  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("package", [wb, api], ids=["weighbridge", "weighbridge.api"])
def test_public_names_come_from_where_the_types_say(package: Any) -> None:
    """What a type checker reads, and what is loaded when a name is asked for, are the same."""
    tree = ast.parse(MODULES[package.__name__])
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module != "typing"]
    said = {name.name: node.module for node in imports for name in node.names if name.asname is None}
    assert said.pop("__version__", "weighbridge._version") == "weighbridge._version"
    assert said == {
        name: f"{package.__name__}.{place}" for place, names in package._PLACES.items() for name in names.split()
    }
    assert {*said} == {*package.__all__} - {"__version__"}


def test_a_name_is_loaded_when_it_is_asked_for() -> None:
    code = "import sys, weighbridge as wb; wb.Header; print(*(name for name in sys.modules if 'weighbridge' in name))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "weighbridge.base.specs" in ran.stdout.split()
    assert not [name for name in ran.stdout.split() if name.startswith(("weighbridge.planning", "weighbridge.api"))]


def test_a_mapping_is_written_and_read_with_nothing_else_loaded() -> None:
    code = (
        "import weighbridge as wb; m = wb.Mapping([wb.WeightRenaming('a', 'b')]); print(m == m.from_yaml(m.to_yaml()))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"


@pytest.mark.parametrize("name", sorted(wb.__all__))
def test_public_name_is_documented(name: str) -> None:
    value = getattr(wb, name)
    if callable(value):
        text = value.__doc__ or ""
        assert text.strip(), f"{name} has no docstring"
        assert not text.startswith(f"{name}("), f"{name} has only the docstring that dataclass made"


def undocumented(source: str) -> list[str]:
    """Names of the public functions, classes and methods of a module that have no docstring."""
    found = []

    def visit(body: Iterable[ast.stmt], prefix: str) -> None:
        for node in body:
            is_definition = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            if not is_definition or node.name.startswith("_"):
                continue
            is_overload = any("overload" in ast.unparse(mark) for mark in node.decorator_list)
            if ast.get_docstring(node) is None and not is_overload:
                found.append(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{prefix}{node.name}.")

    tree = ast.parse(source)
    if ast.get_docstring(tree) is None:
        found.append("the module")
    visit(tree.body, "")
    return found


@pytest.mark.parametrize("name", MODULES)
def test_module_documents_its_public_names(name: str) -> None:
    assert undocumented(MODULES[name]) == []


def test_documentation_check_can_fail() -> None:
    assert undocumented("class A:\n    def f(self): ...\n    def _g(self): ...") == ["the module", "A", "A.f"]


def test_public_names_are_in_the_docs() -> None:
    """Each has its entry in docs/api.md, and nothing else has."""
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    entries = re.findall(r"^::: weighbridge\.(?:\w+\.)*(\w+)$", page, re.MULTILINE)
    assert sorted(entries) == sorted(name for name in wb.__all__ if not name.startswith("_"))
