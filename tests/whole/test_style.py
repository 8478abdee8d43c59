"""The text of the source: how long modules and functions are, and what must not stand in them."""

from __future__ import annotations

import ast
import re
import statistics
from pathlib import Path
from textwrap import dedent

import pytest
from conftest import ROOT
from rooms import FOLDER, read_modules

MODULES = read_modules()

MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 40
MEDIAN_FUNCTION_LINES = 6
NINTH_DECILE_FUNCTION_LINES = 15

# Sizes


def lines_of(node: ast.AST) -> int:
    """Length of a function in lines, without its docstring."""
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


def is_data(source: str) -> bool:
    """Whether a module has no function and no class: its length follows from what it lists."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return not any(isinstance(node, kinds) for node in ast.walk(ast.parse(source)))


def long_modules(modules: dict[str, str]) -> list[str]:
    """Say which modules are too long, of those that do something."""
    lengths = {name: len(source.splitlines()) for name, source in modules.items() if not is_data(source)}
    return [f"{name} has {lines} lines" for name, lines in lengths.items() if lines > MAX_MODULE_LINES]


def long_functions(modules: dict[str, str]) -> list[str]:
    """Say which functions are too long."""
    lengths = {f"{name}:{place}": lines for name in modules for place, lines in function_lengths(modules[name]).items()}
    return [f"{place} has {lines} lines" for place, lines in lengths.items() if lines > MAX_FUNCTION_LINES]


def test_modules_are_short() -> None:
    assert long_modules(MODULES) == []


def test_functions_are_short() -> None:
    assert long_functions(MODULES) == []


def test_most_functions_are_shorter_still() -> None:
    """Their signature is counted."""
    lengths = [lines for source in MODULES.values() for lines in function_lengths(source).values()]
    assert statistics.median(lengths) <= MEDIAN_FUNCTION_LINES
    assert statistics.quantiles(lengths, n=10)[-1] <= NINTH_DECILE_FUNCTION_LINES


def test_size_checks_can_fail() -> None:
    statements, names = ["    x = 1"] * 40, "x = 1\n" * 401
    functions = {"m": "\n".join(["def f():", *statements]), "n": "\n".join(["def f():", *statements[1:]])}
    assert long_functions(functions) == ["m:f:1 has 41 lines"]
    assert long_modules({"m": f"{names}class A: ...", "data": names}) == ["m has 402 lines"]


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
    folders = (FOLDER, ROOT / "examples", ROOT / "bench", ROOT / "docs")
    return [path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix in (".py", ".md")]


@pytest.mark.parametrize("path", written_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_file_names_no_path_of_a_machine(path: Path) -> None:
    assert machine_paths(path.read_text("utf-8")) == []


def test_machine_path_check_can_fail() -> None:
    assert len(machine_paths('open("/home/me/model")\nopen("out/home/model")')) == 1


@pytest.mark.parametrize("name", MODULES)
def test_module_strips_no_words(name: str) -> None:
    assert strips_of_words(MODULES[name]) == []


def test_strip_check_can_fail() -> None:
    assert strips_of_words('a.lstrip("model.")\nb.rstrip("\\n")\nc.lstrip("0")') == ["a.lstrip('model.')"]
