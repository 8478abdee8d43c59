"""Build hook of the documentation: the first page is the README, with its links bent to where they lead from here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Put the README in place of the first page's comment."""
    if page.file.src_uri != "index.md":
        return markdown
    return markdown.replace("<!-- README -->", from_here((ROOT / "README.md").read_text(encoding="utf-8")))


def from_here(readme: str) -> str:
    """Rewrite the README's relative links: to pages and pictures as from here, to other files as plain text."""
    readme = re.sub(r"\]\(docs/", "](", readme)
    other_file = (
        r"(?<!!)\[([^\]]+)\]\((?!https?://|#)(?![^)]*\.md\b)[^)]*\)|\[([^\]]+)\]\((?:CHANGELOG|CONTRIBUTING)\.md\)"
    )
    return re.sub(other_file, lambda link: link[1] or link[2], readme)
