"""The error codes: each that is raised is known, each that is known is used, and docs/errors.md has a row for each."""

from __future__ import annotations

import ast
import re

from conftest import ROOT
from rooms import read_modules

from weighbridge.base import errors
from weighbridge.base.errors import CODES

ERROR_CLASSES = {
    name
    for name, value in vars(errors).items()
    if not name.startswith("_") and isinstance(value, type) and issubclass(value, Exception)
}


def raised_codes(source: str) -> set[str]:
    """Codes that are given, as a literal, to one of the package's error classes."""
    return {
        node.args[0].value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).rpartition(".")[2] in ERROR_CLASSES
        and node.args
        and isinstance(node.args[0], ast.Constant)
    }


def literals(source: str) -> set[str]:
    """All string literals of a module."""
    return {n.value for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def sources_but_errors() -> list[str]:
    """The text of every module but the one that lists the codes."""
    return [source for name, source in read_modules().items() if name != errors.__name__]


def test_raised_codes_are_known() -> None:
    assert set().union(*map(raised_codes, sources_but_errors())) - set(CODES) == set()


def test_raised_codes_check_can_fail() -> None:
    assert raised_codes('raise PlanError("no-such-code", "text")') == {"no-such-code"}


def test_every_code_is_used() -> None:
    used = set().union(*map(literals, sources_but_errors()))
    assert sorted(set(CODES) - used) == []


def test_docstrings_name_known_codes() -> None:
    """What stands behind `Raises` is a code; a code in backticks has a hyphen and an error class before it."""
    lines = (line for text in sources_but_errors() for line in text.splitlines())
    raises = [line for line in lines if re.match(rf"\s+({'|'.join(ERROR_CLASSES)}): `", line)]
    named = {code for line in raises for code in re.findall(r"`([a-z]+(?:-[a-z0-9]+)+)`", line)}
    assert named - set(CODES) == set()


def table_rows(page: str) -> dict[str, tuple[str, ...]]:
    """Rows of a page's tables whose first cell is a code, by that code."""
    rows = (line.strip().strip("|").split(" | ") for line in page.splitlines() if line.startswith("| `"))
    return {cells[0].strip().strip("`"): tuple(cell.strip() for cell in cells[1:]) for cells in rows}


def test_every_code_is_in_the_docs() -> None:
    """One row for each code, in the same order, with its meaning, its usual cause and something to do about it."""
    rows = table_rows((ROOT / "docs" / "errors.md").read_text("utf-8"))
    assert {code: cells[0] for code, cells in rows.items()} == CODES
    assert list(rows) == list(CODES)
    assert [code for code, cells in rows.items() if len(cells) != 3 or not all(cells)] == []
