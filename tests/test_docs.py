"""Every code block of the documentation runs.

Blocks of one page share their names, in order, and run in an empty directory. A `python` block must run without an
error; a `pycon` block (with `>>>`) must print what it says. A block under `<!-- no-run: reason -->` needs what
a test has not, such as a large download; it must still compile.
"""

from __future__ import annotations

import doctest
import re
import traceback
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(
    r"^(?:<!-- no-run: (?P<reason>[^\n]+?) -->\n+)?(?P<indent>[ ]*)```(?P<kind>python|pycon)[^\n]*\n"
    r"(?P<body>.*?)^(?P=indent)```[ ]*$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """One block of code: what it is, why it does not run (or nothing), its first line's number, its text."""

    kind: str
    reason: str
    line: int
    text: str


def blocks(page: str) -> list[Block]:
    """Return the Python blocks of a Markdown page."""
    found = []
    for match in FENCE.finditer(page):
        line = page.count("\n", 0, match.start("body")) + 1
        indent = len(match["indent"])
        text = "".join(row[indent:] or "\n" for row in match["body"].splitlines(keepends=True))
        found.append(Block(match["kind"], match["reason"] or "", line, text))
    return found


def run_block(block: Block, name: str, names: dict[str, object]) -> None:
    """Run one block; a failure shows the page and the line."""
    if block.kind == "pycon":
        test = doctest.DocTestParser().get_doctest(block.text, names, name, name, block.line - 1)
        if not block.reason:
            doctest.DebugRunner(optionflags=doctest.ELLIPSIS).run(test, clear_globs=False)
            names.update(test.globs)
        return
    code = compile("\n" * (block.line - 1) + block.text, name, "exec")
    if not block.reason:
        exec(code, names)


def run_page(page: str, name: str) -> None:
    """Run the blocks of a page one after the other, with shared names."""
    names: dict[str, object] = {"__name__": "__docs__"}
    for block in blocks(page):
        try:
            run_block(block, name, names)
        except Exception as problem:
            pytest.fail(f"{name}, block at line {block.line}:\n" + "".join(traceback.format_exception(problem)))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_page_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(path.read_text("utf-8"), str(path.relative_to(ROOT)))


@pytest.mark.parametrize(
    "page",
    [
        "```python\nraise ValueError('no')\n```",
        "```python\nx = 1\n```\n\n```python\nassert x == 2\n```",
        "```pycon\n>>> 1 + 1\n3\n```",
        "- in a list\n\n    ```python\n    1 / 0\n    ```",
        "<!-- no-run: needs a download -->\n```python\nthis is no Python\n```",
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


def test_every_block_is_seen() -> None:
    """No page opens a Python fence that the pattern passes over."""
    for path in PAGES:
        page = path.read_text("utf-8")
        assert len(re.findall(r"^ *```(?:python|pycon|py)\b", page, re.MULTILINE)) == len(blocks(page)), path.name
