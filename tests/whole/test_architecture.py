"""The structure of the source: which module imports which, what an import loads, sizes, public names, error codes.

Each rule is a function from source text to complaints, so that it can also be shown something wrong.
"""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from conftest import ROOT

import weighbridge as wb
from weighbridge.base import errors
from weighbridge.base.errors import CODES

PACKAGE = ROOT / "src" / "weighbridge"

ORDER = (
    "_version",
    "errors",
    "nearby",
    "hashes",
    "collecting",
    "workers",
    "batches",
    "specs",
    "forms",
    "spelling",
    "keys",
    "pattern",
    "copies",
    "sections",
    "coverage",
    "layout",
    "values",
    "rearrange",
    "groupings",
    "movements",
    "ops",
    "arity",
    "transforms",
    "mapping",
    "registry",
    "mapping_files",
    "finding",
    "files",
    "program",
    "plan",
    "tracing",
    "origins",
    "joining",
    "readings",
    "options",
    "problems",
    "fitting",
    "inverting",
    "planning",
    "diagrams",
    "membership",
    "unused",
    "render",
    "report_page",
    "restricting",
    "storage",
    "proof",
    "digests",
    "receipt",
    "verification",
    "execute",
    "pieces",
    "gather",
    "devices",
    "running",
    "differences",
    "contents",
    "comparing",
    "filling",
    "alongside",
    "output",
    "modules",
    "loading",
    "saving",
    "families",
    "resolve",
    "detection",
    "integrations",
    "lint",
    "inference",
    "api",
    "studies",
    "testing",
    "__init__",
    "cli",
    "__main__",
)
"""Modules and sub-packages in the order of data flow. Each imports only what stands above it (and its own package)."""

SHORTCUTS = {
    ("mapping", "mapping_files"),
    ("files", "storage"),
    ("plan", "proof"),
    ("plan", "render"),
    ("plan", "loading"),
    ("plan", "report_page"),
    ("render", "report_page"),
    ("plan", "restricting"),
    ("plan", "running"),
    ("plan", "output"),
}
"""Arrows against the order, in functions or under TYPE_CHECKING only: methods of a value that call a later stage."""

HEAVY = {"torch", "numpy", "transformers", "rich", "typer", "yaml", "pydantic"}
"""Packages that `import weighbridge` must not load."""

MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60
EXEMPT_FROM_SIZE = ("families",)
"""Sub-packages that are data, whose length follows from what they list."""


def module_paths() -> list[Path]:
    """All modules of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def unit_of(path: Path) -> str:
    """The row of `ORDER` that a file belongs to: its module, or the sub-package it lies in."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


# Import direction


def imported_units(tree: ast.AST, package: str = "weighbridge") -> Iterator[str]:
    """Yield the unit of each import from the package itself, wherever in the module it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            is_package = node.module == package
            modules = [alias.name for alias in node.names if is_package and alias.name in ORDER]
            names = [f"{package}.{module}" for module in modules] or [node.module]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{package}.<relative import>"]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == package:
                yield rest.partition(".")[0] or "__init__"


def is_shortcut_place(tree: ast.Module) -> list[ast.AST]:
    """Statements whose imports do not run when the module is imported: function bodies and `if TYPE_CHECKING`."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"))
    ]


def direction_complaints(unit: str, source: str) -> list[str]:
    """Say which imports of a module point the wrong way."""
    if unit not in ORDER:
        return [f"{unit} has no row in ORDER"]
    tree = ast.parse(source)
    late = {name for place in is_shortcut_place(tree) for name in imported_units(place)}
    deferred = {id(node) for place in is_shortcut_place(tree) for node in ast.walk(place)}
    at_import = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in deferred
        for name in imported_units(node)
    }
    return [
        f"{unit} imports {name}"
        for name in sorted(late | at_import)
        if name != unit
        and (name not in ORDER or ORDER.index(name) >= ORDER.index(unit))
        and not ((unit, name) in SHORTCUTS and name not in at_import)
    ]


@pytest.mark.parametrize("path", module_paths(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_only_earlier_ones(path: Path) -> None:
    assert direction_complaints(unit_of(path), path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("unit", "source", "complaint"),
    [
        ("errors", "from weighbridge.planning.plan import Plan", "errors imports plan"),
        ("errors", "import weighbridge.planning.plan", "errors imports plan"),
        ("errors", "from weighbridge import plan", "errors imports plan"),
        ("modules", "from weighbridge import Plan", "modules imports __init__"),
        ("errors", "def f():\n    from weighbridge.planning.plan import Plan", "errors imports plan"),
        ("errors", "if TYPE_CHECKING:\n    from weighbridge.planning.plan import Plan", "errors imports plan"),
        ("plan", "from weighbridge.reporting.explaining_plans import explain", "plan imports render"),
        ("plan", "from .specs import Header", "plan imports <relative import>"),
        ("specs", "from weighbridge.nowhere import x", "specs imports nowhere"),
        ("nowhere", "", "nowhere has no row in ORDER"),
    ],
)
def test_direction_check_can_fail(unit: str, source: str, complaint: str) -> None:
    assert direction_complaints(unit, source) == [complaint]


@pytest.mark.parametrize(
    ("unit", "source"),
    [
        ("plan", "from weighbridge.base.specs import Header"),
        ("plan", "def f():\n    from weighbridge.reporting.explaining_plans import explain"),
        ("storage", "from weighbridge.storage.files import open_file"),
        ("errors", "import json"),
    ],
)
def test_direction_check_accepts_what_is_allowed(unit: str, source: str) -> None:
    assert direction_complaints(unit, source) == []


def test_order_has_no_row_for_nothing() -> None:
    units = {unit_of(path) for path in module_paths()}
    assert [row for row in ORDER if row not in units] == []
    assert len(set(ORDER)) == len(ORDER)


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


# Public names


def test_public_names_are_sorted() -> None:
    assert list(wb.__all__) == sorted(wb.__all__)


def test_public_names_are_what_the_package_offers() -> None:
    """`dir()` shows `__all__`; what else stands there is private or a sub-module."""
    offered = {name for name in dir(wb) if not name.startswith("_")}
    submodules = {unit_of(path) for path in module_paths()}
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


@pytest.mark.parametrize("path", module_paths(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_documents_its_public_names(path: Path) -> None:
    assert undocumented(path.read_text("utf-8")) == []


def test_documentation_check_can_fail() -> None:
    assert undocumented("class A:\n    def f(self): ...\n    def _g(self): ...") == ["the module", "A", "A.f"]


def test_public_names_are_in_the_docs() -> None:
    """Each has its entry in docs/api.md, and nothing else has."""
    entries = re.findall(
        r"^::: weighbridge\.(?:api\.|studies\.)?(\w+)$", (ROOT / "docs" / "api.md").read_text("utf-8"), re.MULTILINE
    )
    assert sorted(entries) == sorted(name for name in wb.__all__ if not name.startswith("_"))


# Error codes

ERROR_CLASSES = {
    name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)
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
    return [path.read_text("utf-8") for path in module_paths() if path.name != "errors.py"]


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


# Sizes


def lines_of(node: ast.AST) -> int:
    """Length of a function in lines, without its docstring and without the functions inside it."""
    first = node.body[0]
    is_text = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    docstring = first.end_lineno - first.lineno + 1 if is_text else 0
    return node.end_lineno - node.lineno + 1 - docstring


def function_lengths(source: str) -> dict[str, int]:
    """Length of each function of a module, by name and line."""
    return {
        f"{node.name}:{node.lineno}": lines_of(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def sized_paths() -> list[Path]:
    """Modules that the size norms hold for."""
    return [path for path in module_paths() if unit_of(path) not in EXEMPT_FROM_SIZE]


def test_modules_are_short() -> None:
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text("utf-8").splitlines()) for path in sized_paths()}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_MODULE_LINES} == {}


def test_functions_are_short() -> None:
    lengths = {
        f"{path.relative_to(PACKAGE)}:{name}": lines
        for path in sized_paths()
        for name, lines in function_lengths(path.read_text("utf-8")).items()
    }
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FUNCTION_LINES} == {}
    assert statistics.median(lengths.values()) <= 8
    assert statistics.quantiles(lengths.values(), n=10)[-1] < 30


def test_function_lengths_leave_out_the_docstring() -> None:
    source = '''
    def f():
        """One.

        Two.
        """
        return 1
    '''
    assert function_lengths(dedent(source)) == {"f:2": 2}


# Text that must not be there

MACHINE_PATH = re.compile(r"""["'`\s(=](/home/|/Users/|/root/|/mnt/|/tmp/|[A-Z]:\\\\)\w""")


def machine_paths(text: str) -> list[str]:
    """Lines that hold a path of one machine."""
    return [line for line in text.splitlines() if MACHINE_PATH.search(" " + line)]


def strips_of_words(source: str) -> list[str]:
    """Calls of `lstrip` or `rstrip` with a word, which they take as a set of characters."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("lstrip", "rstrip")
        and any(re.search(r"[A-Za-z].", str(getattr(argument, "value", ""))) for argument in node.args)
    ]


def written_files() -> list[Path]:
    """Files that people write: source, examples, benchmarks, docs."""
    folders = (PACKAGE, ROOT / "examples", ROOT / "bench", ROOT / "docs")
    return [path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix in (".py", ".md")]


@pytest.mark.parametrize("path", written_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_file_names_no_path_of_a_machine(path: Path) -> None:
    assert machine_paths(path.read_text("utf-8")) == []


def test_machine_path_check_can_fail() -> None:
    assert len(machine_paths('open("/home/me/model")\nopen("out/home/model")')) == 1


@pytest.mark.parametrize("path", module_paths(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_strips_no_words(path: Path) -> None:
    assert strips_of_words(path.read_text("utf-8")) == []


def test_strip_check_can_fail() -> None:
    assert strips_of_words('a.lstrip("model.")\nb.rstrip("\\n")\nc.lstrip("0")') == ["a.lstrip('model.')"]
