"""Every code block of the documentation runs.

Blocks of one page share their names, in order, and run in an empty directory. A `python` block must run without an
error; a `pycon` block (with `>>>`) must print what it says, and so must each command (after `$`) of a `console` block,
where `...` stands for anything. A block with a `title="name"` is a file of that name. A block under
`<!-- no-run: reason -->` needs what a test has not, such as a large download; it must still compile.
"""

from __future__ import annotations

import ast
import doctest
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from xml.etree import ElementTree

import pytest
from conftest import ROOT
from forked import COMMAND, forks
from rooms import ROOMS, read_modules

import weighbridge

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OWN_TEST = {"docs/command.md": ("console",)}
"""Kinds of blocks that a page's own test runs."""

FENCE = re.compile(
    r"^(?:<!-- no-run: (?P<reason>[^\n]+?) -->\n+)?(?P<indent>[ ]*)"
    r"```(?P<kind>python|pycon|console|\w+(?= title=))(?: title=\"(?P<title>[^\"\n]+)\")?[^\n]*\n"
    r"(?P<body>.*?)^(?P=indent)```[ ]*$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """One block of code: what it is, why it does not run (or nothing), its first line's number, its text, its file."""

    kind: str
    reason: str
    line: int
    text: str
    title: str = ""


def blocks(page: str) -> list[Block]:
    """Return the Python blocks of a Markdown page."""
    found = []
    for match in FENCE.finditer(page):
        line = page.count("\n", 0, match.start("body")) + 1
        indent = len(match["indent"])
        text = "".join(row[indent:] or "\n" for row in match["body"].splitlines(keepends=True))
        found.append(Block(match["kind"], match["reason"] or "", line, text, match["title"] or ""))
    return found


def run_block(block: Block, name: str, names: dict[str, object]) -> None:
    """Run one block; a failure shows the page and the line."""
    if block.title:
        Path(block.title).write_text(block.text, encoding="utf-8")
        return
    if block.kind == "console":
        run_commands(block)
        return
    if block.kind == "pycon":
        test = doctest.DocTestParser().get_doctest(block.text, names, name, name, block.line - 1)
        if not block.reason:
            doctest.DebugRunner(optionflags=doctest.ELLIPSIS).run(test, clear_globs=False)
            names.update(test.globs)
        return
    code = compile("\n" * (block.line - 1) + block.text, name, "exec")
    if not block.reason:
        exec(code, names)


def run_commands(block: Block) -> None:
    """Run the commands of a block, `weighbridge` or `pytest`; each must print what stands below it."""
    packages = str(Path(weighbridge.__file__).parents[1])
    environment = {
        **{name: text for name, text in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")},
        "COLUMNS": "80",
        "PYTHONPATH": packages,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_ADDOPTS": "-p _weighbridge_pytest -p no:cacheprovider",
    }
    for shown in [] if block.reason else re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        line, _, expected = shown.partition("\n")
        command = shlex.split(line)
        assert command[0] in ("weighbridge", "pytest"), f"{command[0]} is none of the programs that a page may run"
        printed = print_of(command, environment)
        is_same = doctest.OutputChecker().check_output(expected, printed, doctest.ELLIPSIS)
        assert is_same, f"$ {line}\n{printed}\nand not\n{expected}"


def print_of(command: list[str], environment: dict[str, str]) -> str:
    """Run a program, and return what it prints; pytest reads what it imports, so that it is started afresh."""
    module, *words = command
    if module == "weighbridge":
        return forks(COMMAND).run(module, words, Path.cwd(), environment, as_one=True).out.decode()
    line = [sys.executable, "-m", module, *words]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run(line, env=environment, **streams, text=True, check=False).stdout


@contextmanager
def own_modules() -> Iterator[None]:
    """Forget the modules that were imported inside, so that another page can have files of the same names."""
    before = set(sys.modules)
    try:
        yield
    finally:
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None) or ""
            if Path(file).is_relative_to(Path.cwd()):
                del sys.modules[name]


def run_page(page: str, name: str) -> None:
    """Run the blocks of a page one after the other, with shared names."""
    names: dict[str, object] = {"__name__": "__docs__"}
    for block in blocks(page):
        if block.kind in OWN_TEST.get(name, ()):
            continue
        try:
            run_block(block, name, names)
        except Exception as problem:
            pytest.fail(f"{name}, block at line {block.line}:\n" + "".join(traceback.format_exception(problem)))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_page_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with own_modules():
        run_page(path.read_text("utf-8"), str(path.relative_to(ROOT)))


@pytest.mark.parametrize(
    "page",
    [
        "```python\nraise ValueError('no')\n```",
        "```python\nx = 1\n```\n\n```python\nassert x == 2\n```",
        "```pycon\n>>> 1 + 1\n3\n```",
        "- in a list\n\n    ```python\n    1 / 0\n    ```",
        "<!-- no-run: needs a download -->\n```python\nthis is no Python\n```",
        "```console\n$ weighbridge --version\nweighbridge of yesterday\n```",
        "```console\n$ rm -r .\n```",
    ],
)
def test_failing_block_fails(page: str) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"page\.md, block at line \d"):
        run_page(page, "page.md")


def test_failure_names_the_line() -> None:
    with pytest.raises(pytest.fail.Exception, match=r'File "page.md", line 4'):
        run_page("# Page\n\n```python\n1 / 0\n```", "page.md")


def test_blocks_share_their_names() -> None:
    run_page(
        "```python\nx = 1\n```\n\n```pycon\n>>> x + 1\n2\n>>> y = 3\n```\n\n```python\nassert y == 3\n```", "page.md"
    )


def test_block_that_is_not_run_has_no_effect() -> None:
    run_page("<!-- no-run: needs a download -->\n\n```python\nraise ValueError\n```", "page.md")


def test_block_with_a_title_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with own_modules():
        run_page(
            '```python title="made.py"\nx = 1\n```\n\n```python\nimport made\nassert made.x == 1\n```\n\n'
            '```yaml title="made.yaml"\na: 1\n```\n\n```console\n$ weighbridge --version\nweighbridge ...\n```\n',
            "page.md",
        )
    assert (tmp_path / "made.yaml").read_text("utf-8") == "a: 1\n"
    assert "made" not in sys.modules


def test_every_block_is_seen() -> None:
    """No page opens a fence of these kinds that the pattern passes over."""
    opened = re.compile(r"^ *```(?:python|pycon|py|console|\w+ title=)", re.MULTILINE)
    for path in PAGES:
        page = path.read_text("utf-8")
        assert len(opened.findall(page)) == len(blocks(page)), path.name


def load_script(name: str) -> ModuleType:
    """Load a script of the documentation as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_terminal_picture_is_what_the_command_prints() -> None:
    """The committed picture is what its script makes of the command as it is now."""
    made = load_script("terminal_picture").picture()
    assert made == (ROOT / "docs" / "terminal.svg").read_text("utf-8"), "run: python docs/terminal_picture.py"
    assert len(made.encode()) < 60_000
    assert tempfile.gettempdir() not in made
    assert ElementTree.fromstring(made).tag.endswith("svg")


def test_picture_and_table_of_the_rooms_are_what_the_imports_say() -> None:
    """And another import, another module or another word of a room makes another picture or another table."""
    script = load_script("architecture_picture")
    modules = read_modules()
    made, page = script.picture(modules), (ROOT / "docs" / "architecture.md").read_text("utf-8")
    assert made == (ROOT / "docs" / "architecture.svg").read_text("utf-8"), "run: make rooms"
    assert page == script.page(page, modules), "run: make rooms"
    assert ElementTree.fromstring(made).tag.endswith("svg")
    assert [room for room in ROOMS if f">{room}</text>" not in made] == []
    assert list(script.WORDS) == list(ROOMS)
    name = "weighbridge.storage.opening"
    assert made.count("<circle") + 1 == script.picture(
        modules | {name: "import weighbridge.pattern.parse\n" + modules[name]}
    ).count("<circle")
    assert made != script.picture(modules | {"weighbridge.storage.more": ""})
    assert page != script.page(page, modules | {"weighbridge.storage": '"""Other words."""'})


def missing_from_source(page: str, modules: dict[str, str]) -> list[str]:
    """Say which files and names in a page's tables of what to open and read are not there."""
    missing = []
    for path, names in re.findall(r"^\| `([\w/]+\.py)` \| ((?:`[\w.]+`(?:, )?)+) \|", page, re.MULTILINE):
        source = modules.get("weighbridge." + path.removesuffix(".py").replace("/", "."))
        found = defined_names(ast.parse(source)) if source is not None else set()
        missing += [f"{path}: {name}" for name in re.findall(r"`([\w.]+)`", names) if name not in found]
    return missing


def defined_names(tree: ast.Module) -> set[str]:
    """The names of a module's functions and classes, and of the classes' methods after theirs."""
    kinds = ast.FunctionDef | ast.ClassDef
    return {node.name for node in tree.body if isinstance(node, kinds)} | {
        f"{owner.name}.{node.name}"
        for owner in tree.body
        if isinstance(owner, ast.ClassDef)
        for node in owner.body
        if isinstance(node, kinds)
    }


def test_the_way_of_one_tensor_leads_through_what_is_there() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    assert missing_from_source(page, read_modules()) == []
    assert len(re.findall(r"^\| `[\w/]+\.py` \|", page, re.MULTILINE)) > 30


def test_the_check_of_that_way_can_fail() -> None:
    page = "| open | and read | then |\n|---|---|---|\n| `a/b.py` | `f`, `C.g`, `C.h` | x |\n| `a/c.py` | `f` | y |\n"
    modules = {"weighbridge.a.b": "def f(): ...\nclass C:\n    def g(self): ..."}
    assert missing_from_source(page, modules) == ["a/b.py: C.h", "a/c.py: f"]
