"""Draw figures as horizontal bars, grouped by row: an SVG file that needs nothing else and follows light or dark.

A bar is a median, the line across its end goes from the least to the greatest value, and the tick is the limit: the
figure's own, or the strictest of its ratios times the other figure's median. Figures of one row and unit share a scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final
from xml.sax.saxutils import escape

from bench.measure import Figure
from bench.report import format_value

WIDTH: Final = 800
LABEL_WIDTH: Final = 300
BAR_WIDTH: Final = 270
LINE: Final = 20
BAR: Final = 12
MAX_HEADING: Final = 118
TITLE: Final = "weighbridge, measured"
STYLE: Final = """
  :root { --paper: #ffffff; --ink: #1f2933; --soft: #6b7785; --ours: #2f7d8c; --other: #b4bfc9; --limit: #b4451f; }
  @media (prefers-color-scheme: dark) {
    :root { --paper: #1b2026; --ink: #e4e8ec; --soft: #9aa5b1; --ours: #58b3c4; --other: #5b6773; --limit: #f0875c; }
  }
  text { font: 12px system-ui, sans-serif; fill: var(--ink); }
  .title { font-size: 18px; font-weight: 600; }
  .row { font-size: 13px; font-weight: 600; }
  .name { font-size: 11px; }
  .soft { font-size: 11px; fill: var(--soft); }
  .paper { fill: var(--paper); }
  .ours { fill: var(--ours); }
  .other { fill: var(--other); }
  .over { fill: var(--limit); font-weight: 600; }
  .span { stroke: var(--ink); stroke-width: 1.2; }
  .limit { stroke: var(--limit); stroke-width: 2; }
"""


def picture(figures: Sequence[Figure], heading: Iterable[str]) -> str:
    """Draw figures as an SVG document.

    Args:
        figures: What to draw, in order; those of a row follow each other.
        heading: Lines below the title: the machine and the versions.
    """
    lines = [piece for line in heading for piece in _wrapped(line)]
    parts = [_text(16, 30, TITLE, "title")]
    parts += (_text(16, 50 + 15 * number, line, "soft") for number, line in enumerate(lines))
    y = 60 + 15 * len(lines)
    legend = (
        "bar: median · line: least to greatest · tick: limit · coloured: weighbridge · ×: ratio to the first beside it"
    )
    parts.append(_text(16, y, legend, "soft"))
    medians = {(figure.row, figure.name): figure.median for figure in figures}
    for row, group in groupby(figures, key=lambda figure: figure.row):
        y += 30
        parts.append(_text(16, y, row, "row"))
        listed = list(group)
        for figure in listed:
            y += LINE
            parts += _bar(figure, y, _scale(listed, figure.unit), medians)
    height = y + 24
    root = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
    paper = f'<rect class="paper" width="{WIDTH}" height="{height}"/>'
    return "\n".join([root, f"<title>{TITLE}</title>", f"<style>{STYLE}</style>", paper, *parts, "</svg>"]) + "\n"


def _wrapped(line: str) -> Iterator[str]:
    """Cut a line at commas so that each piece fits the picture."""
    piece = ""
    for word in line.split(", "):
        if piece and len(piece) + len(word) > MAX_HEADING:
            yield piece + ","
            piece = ""
        piece = f"{piece}, {word}" if piece else word
    yield piece


def _scale(figures: Iterable[Figure], unit: str) -> float:
    """Return how many pixels one unit is, for the figures of one row."""
    longest = max(max(figure.values) for figure in figures if figure.unit == unit)
    return BAR_WIDTH / longest if longest > 0 else 0.0


def _bar(figure: Figure, y: int, scale: float, medians: Mapping[tuple[str, str], float]) -> Iterator[str]:
    top, middle = y - BAR + 2, y - BAR / 2 + 2
    yield _text(LABEL_WIDTH - 8, y, figure.name, "name", anchor="end")
    kind = "ours" if figure.is_ours else "other"
    length = max(0.0, figure.median * scale)
    yield f'<rect class="{kind}" x="{LABEL_WIDTH}" y="{top}" width="{length:.1f}" height="{BAR}"/>'
    start, stop = (LABEL_WIDTH + max(0.0, value) * scale for value in (min(figure.values), max(figure.values)))
    yield f'<line class="span" x1="{start:.1f}" x2="{stop:.1f}" y1="{middle}" y2="{middle}"/>'
    limit = _limit(figure, medians)
    if limit is not None and limit * scale <= BAR_WIDTH:
        x = LABEL_WIDTH + limit * scale
        yield f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 2}" y2="{top + BAR + 2}"/>'
    words = [format_value(figure.median, figure.unit)]
    words += (f"{compared.ratio:.2f} ×" for compared in figure.comparisons[:1])
    words += [] if limit is None else [f"(limit {format_value(limit, figure.unit)})"]
    yield _text(LABEL_WIDTH + BAR_WIDTH + 8, y, " ".join(words), "value" if figure.is_within else "over")


def _limit(figure: Figure, medians: Mapping[tuple[str, str], float]) -> float | None:
    """Return the strictest limit of a figure in its own unit."""
    limits = [] if figure.limit is None else [figure.limit]
    for compared in figure.comparisons:
        other = medians.get((figure.row, compared.other))
        if compared.limit is not None and other is not None:
            limits.append(compared.limit * other)
    return min(limits, default=None)


def _text(x: float, y: float, text: str, kind: str, *, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
