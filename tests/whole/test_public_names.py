"""The public names: sorted, what the package offers, documented where they stand and in docs/api.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

import pytest
from conftest import ROOT
from rooms import read_modules, room_of

import weighbridge as wb

MODULES = read_modules()


def test_public_names_are_sorted() -> None:
    assert list(wb.__all__) == sorted(wb.__all__)


def test_public_names_are_what_the_package_offers() -> None:
    """`dir()` shows `__all__`; what else stands there is private or a sub-module."""
    offered = {name for name in dir(wb) if not name.startswith("_")}
    submodules = {room_of(name) for name in MODULES}
    assert offered - submodules - {"annotations", "TYPE_CHECKING"} <= set(wb.__all__)
    assert [name for name in wb.__all__ if not hasattr(wb, name)] == []


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
