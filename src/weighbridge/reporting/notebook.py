"""Show the head of a report in a notebook."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Final

NOTEBOOK_HINT: Final = "<code>plan.to_html()</code> gives a page with both layouts, every rule and every tensor."


def escape(text: str) -> str:
    """Escape text for HTML; what UTF-8 cannot hold is spelled out."""
    return html.escape(text.encode("utf-8", "backslashreplace").decode())


def summary_html(lines: Iterable[str]) -> str:
    """Return a small table for a notebook: what the printed report begins with.

    A notebook keeps every output in its file, so this has neither the trees nor a script.

    Args:
        lines: Lines of a report; what follows the first empty one is left out.
    """
    rows = []
    for line in lines:
        if not line:
            break
        rows.append((line[:10].rstrip(), line[10:]))
    cells = "".join(_summary_row(*row) for row in rows)
    return f"<table>{cells}</table><p><small>{NOTEBOOK_HINT}</small></p>"


def _summary_row(name: str, text: str) -> str:
    head = f'<th style="text-align:left;vertical-align:top">{escape(name)}</th>'
    return f'<tr>{head}<td style="text-align:left">{escape(text)}</td></tr>'
