"""Draw the copies of a step as small diagrams: which rows and columns of which tensor land where.

A tensor is drawn as a grid: the last axis that is cut runs across, the others run down. Each cell holds the letter of
the tensor on the other side, with the indices that tell it from its like; under the grid stands what the letters are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from string import ascii_lowercase
from typing import Final, NamedTuple

from weighbridge.algebra.copies import Copy, align, strides, swapped
from weighbridge.algebra.regions import Span, region_of, span_text
from weighbridge.base.errors import LayoutError
from weighbridge.base.keys import by_name, collapse
from weighbridge.base.specs import Shape, TensorSpec
from weighbridge.planning.steps import EQUAL_FATES, Step

MAX_ROWS: Final = 8
"""Rows of a grid that are drawn; the others are left out in the middle."""

MAX_COLUMNS: Final = 8
"""Columns of a grid that is drawn as one; more cells of a row stand below each other."""

WIDTH: Final = 100
"""Widest grid, in characters."""


class Cell(NamedTuple):
    """One part of a drawn tensor: where it lies, the key on the other side, and how that one's axes run."""

    spans: tuple[Span, ...]
    key: str
    axes: str


def axes_text(copy: Copy, source: Shape, target: Shape) -> str:
    """Say along which axes of the target a copy's source runs; empty where the order is the same or cannot be told.

    Examples:
        >>> from weighbridge.algebra.layout import Layout
        >>> axes_text(Layout.of(0, (2, 3)).transpose(0, 1).copies[0], (2, 3), (3, 2))
        'its axes 0, 1 along 1, 0'
    """
    pieces = _aligned([copy], target)
    pieces = [swapped(piece) for piece in _aligned([swapped(piece) for piece in pieces], source)]
    if len(pieces) != 1:
        return ""
    pairs = {
        (_axis(loop.source_stride, source), _axis(loop.target_stride, target))
        for loop in pieces[0].loops
        if loop.size > 1
    }
    ordered = sorted(pairs)
    if len(dict(ordered)) != len(ordered) or [b for _, b in ordered] == sorted(b for _, b in ordered):
        return ""
    return f"its axes {', '.join(str(a) for a, _ in ordered)} along {', '.join(str(b) for _, b in ordered)}"


def _aligned(copies: list[Copy], shape: Shape) -> list[Copy]:
    try:
        return align(copies, [*strides(shape), prod(shape)], limit=64)
    except LayoutError:
        return []


def _axis(stride: int, shape: Shape) -> int:
    steps = strides(shape)
    return next((axis for axis, size in enumerate(shape) if size > 1 and stride >= steps[axis]), len(shape) - 1)


def draw_step(step: Step, key: str) -> tuple[str, ...]:
    """Draw how a key of a step lies in the tensors on the other side.

    Args:
        step: The step.
        key: A target, which is drawn with its sources in it; or a source: the target that it goes to is drawn with the
            source's places in it. Where parts of one source go to several targets, it is the source that is drawn.

    Returns:
        Lines of text, no wider than `WIDTH` but for names; none for a tensor that passes whole and in order, for one
        whose parts are no boxes, and for a source of which several targets have equal parts.

    Examples:
        >>> from weighbridge.algebra.layout import Layout, concat
        >>> from weighbridge.planning.program import Output, Program
        >>> joined = concat([Layout.of(0, (2, 3)), Layout.of(1, (4, 3))], 0)
        >>> specs = TensorSpec("F32", (2, 3)), TensorSpec("F32", (4, 3))
        >>> step = Step(("q", "k"), ("qk",), Program(specs, (), (Output("F32", joined),)), "moved")
        >>> for line in draw_step(step, "qk"):
        ...     print(line)
        qk  F32 [6, 3]   axis 0 down
                ┌───┐
            0:2 │ a │
            2:6 │ b │
                └───┘
          a  q  F32 [2, 3]
          b  k  F32 [4, 3]
    """
    program = step.program
    if program.temporaries:
        return ()
    if key in step.targets:
        number = step.targets.index(key)
        cells, spec = _cells_of_target(step, number), program.targets[number].spec
        if cells and len(cells) == 1 and len(step.writes) > 1:
            slot = program.targets[number].layout.copies[0].source
            if slot >= len(step.sources):
                return ()
            return tuple(_draw(cells[0].key, program.sources[slot], _cells_of_source(step, slot), {key: spec}))
        return tuple(_draw(key, spec, cells, _others(step.slot_names, program.slots)))
    slot = step.sources.index(key)
    reached = [n for n, out in enumerate(program.outputs) if any(copy.source == slot for copy in out.layout.copies)]
    if len(reached) == 1 and reached[0] < len(step.targets):
        cells = _cells_of_target(step, reached[0])
        name, spec = step.targets[reached[0]], program.targets[reached[0]].spec
        return tuple(_draw(name, spec, cells, {key: program.sources[slot]}))
    if step.fate in EQUAL_FATES:
        return ()
    others = _others([*step.targets, *step.cut_names], [output.spec for output in program.outputs])
    return tuple(_draw(key, program.sources[slot], _cells_of_source(step, slot), others))


def _others(keys: Iterable[str], specs: Iterable[TensorSpec]) -> dict[str, TensorSpec]:
    return dict(zip(keys, specs, strict=True))


def _cells_of_target(step: Step, number: int) -> list[Cell] | None:
    """Return the parts of a target, or None where one of them is no box."""
    layout, names, slots = step.program.targets[number].layout, step.slot_names, step.program.slots
    cells = []
    for copy in layout.copies:
        region = region_of(copy, layout.shape, of_target=True)
        if region is None:
            return None
        text = axes_text(copy, slots[copy.source].shape, layout.shape) if copy.source < len(step.sources) else ""
        cells.append(Cell(region.spans, names[copy.source], text))
    return cells


def _cells_of_source(step: Step, slot: int) -> list[Cell] | None:
    """Return the parts of a source by the targets that they go to, or None where one of them is no box."""
    shape, cells = step.program.sources[slot].shape, []
    for target, output in zip([*step.targets, *step.cut_names], step.program.outputs, strict=True):
        for copy in output.layout.copies:
            if copy.source == slot:
                region = region_of(copy, shape, of_target=False)
                if region is None:
                    return None
                cells.append(Cell(region.spans, target, axes_text(swapped(copy), output.layout.shape, shape)))
    return cells


def _draw(key: str, spec: TensorSpec, cells: list[Cell] | None, others: dict[str, TensorSpec]) -> Iterator[str]:
    """Draw a tensor of boxes; only those of `others` are named."""
    if not cells or (len(cells) == 1 and not cells[0].axes):
        return
    cut = [axis for axis, size in enumerate(spec.shape) if any(cell.spans[axis] != (0, size) for cell in cells)]
    across = _across(cells, cut, len(spec.shape))
    down = tuple(axis for axis in cut if axis != across)
    words = [f"axis {across} across"] if across is not None else []
    words += [f"ax{'i' if len(down) == 1 else 'e'}s {', '.join(map(str, down))} down"] if down else []
    yield f"{key}  {spec}" + (f"   {', '.join(reversed(words))}" if words else "")
    marks = _marks(others)
    yield from _grid(cells, down, across, spec.shape, marks)
    yield from _legend(cells, others, marks)


def _across(cells: Sequence[Cell], cut: Sequence[int], rank: int) -> int | None:
    """Choose the axis that runs across: the last that is cut, of two or where it is the tensor's last."""
    if not cut or (len(cut) == 1 and (cut[0] != rank - 1 or rank == 1)):
        return None
    columns = {cell.spans[cut[-1]] for cell in cells}
    return cut[-1] if len(columns) <= MAX_COLUMNS else None


def _marks(others: dict[str, TensorSpec]) -> dict[str, str]:
    """Give each key a letter for its name, and the indices that tell it from keys of the same name."""
    marks: dict[str, str] = {}
    for number, keys in enumerate(by_name(others).values()):
        letter = ascii_lowercase[number % 26] * (1 + number // 26)
        split = [key.split(".") for key in keys]
        telling = [place for place in range(len(split[0])) if len({parts[place] for parts in split}) > 1]
        for key, parts in zip(keys, split, strict=True):
            marks[key] = letter + ",".join(parts[place] for place in telling)
    return marks


def _grid(
    cells: Sequence[Cell], down: tuple[int, ...], across: int | None, shape: Shape, marks: dict[str, str]
) -> Iterator[str]:
    """Yield the box with its cells, and the spans beside and above it."""
    table: dict[tuple[Span, ...], dict[Span, str]] = {}
    for cell in sorted(cells):
        column = (0, 0) if across is None else cell.spans[across]
        row = tuple(cell.spans[axis] for axis in down)
        table.setdefault(row, {})[column] = marks.get(cell.key, "·")
    columns = sorted({column for row in table.values() for column in row})
    titles = [":" if across is None else span_text(column, shape[across]) for column in columns]
    labels = [", ".join(span_text(span, shape[axis]) for span, axis in zip(row, down, strict=True)) for row in table]
    widths = [
        max(len(title), *(len(row.get(column, "")) for row in table.values()))
        for title, column in zip(titles, columns, strict=True)
    ]
    if across is None:
        widths = [max(len(text) for row in table.values() for text in row.values())]
    room = max(map(len, labels), default=0)
    if 4 + room + sum(width + 3 for width in widths) + 2 > WIDTH:
        yield "    too wide to draw"
        return
    if across is not None:
        yield " " * (room + 6) + "  ".join(f" {title:<{w}}" for title, w in zip(titles, widths, strict=True)).rstrip()
    lines = []
    for label, held in zip(labels, table.values(), strict=True):
        texts = (f" {held.get(column, ''):<{width}} " for column, width in zip(columns, widths, strict=True))
        lines.append(f"    {label:>{room}} │{'│'.join(texts)}│")
    yield " " * (room + 5) + "┌" + "┬".join("─" * (width + 2) for width in widths) + "┐"
    yield from _capped(lines, room)
    yield " " * (room + 5) + "└" + "┴".join("─" * (width + 2) for width in widths) + "┘"


def _capped(lines: list[str], room: int) -> Iterator[str]:
    """Leave rows out of a long grid: all but the first and last, and some of those with named cells."""
    named = [number for number, line in enumerate(lines) if set(line[room + 4 :]) - set("│· ")]
    kept = set(range(len(lines)))
    if len(lines) > MAX_ROWS:
        kept = {0, *named[: MAX_ROWS - 2], len(lines) - 1}
    last = -1
    for number in sorted(kept):
        if number > last + 1:
            yield f"    {'⋮':>{room}} │ {number - last - 1:,} more"
        yield lines[number]
        last = number


def _legend(cells: Sequence[Cell], others: dict[str, TensorSpec], marks: dict[str, str]) -> Iterator[str]:
    """Say what the letters stand for, and how the axes of those tensors run."""
    present = {cell.key: cell.axes for cell in cells}
    for keys in by_name(key for key in others if key in present).values():
        letter = "".join(char for char in marks[keys[0]] if char.isalpha())
        runs = dict.fromkeys(present[key] for key in keys)
        spec = others[keys[0]]
        yield f"  {letter}  {', '.join(collapse(keys))}  {spec}" + (f"   {next(iter(runs))}" if any(runs) else "")
