"""Make docs/architecture.svg and the table in docs/architecture.md from the imports: `make rooms`.

It says which imports go against the table of rooms in tests/rooms.py, and whether modules lead back to themselves; then
it writes nothing.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from rooms import ROOMS, ROOT, circles, describe, direction_complaints, import_map, read_modules, room_arrows, room_of

PICTURE = ROOT / "docs" / "architecture.svg"
PAGE = ROOT / "docs" / "architecture.md"
TABLE = ("<!-- the table is made by docs/architecture_picture.py -->\n", "<!-- end of the table -->\n")

WORDS = {
    "base": "what all share",
    "pattern": "names of tensors",
    "algebra": "which element stands where",
    "operations": "what happens to a tensor",
    "mappings": "what people say",
    "storage": "files and directories",
    "planning": "what will happen",
    "reporting": "the same in words",
    "running": "moving bytes",
    "models": "torch models",
    "studies": "compare, infer, lint",
    "api": "the public functions",
    "integrations": "transformers",
    "testing": "laws for authors",
    "cli": "the command",
}


def main() -> int:
    """Write the picture and the table, or say what is wrong."""
    modules = read_modules()
    arrows = import_map(modules)
    complaints = [*direction_complaints(arrows), *(f"in a circle: {circle}" for circle in circles(arrows))]
    print(*complaints or [f"{len(modules)} modules, no import against the rooms, no circle"], sep="\n")
    if not complaints:
        PICTURE.write_text(picture(modules), encoding="utf-8")
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), modules), encoding="utf-8")
    return min(len(complaints), 1)


def page(text: str, modules: Mapping[str, str]) -> str:
    """Return the text of the page with its table made anew."""
    before, _, rest = text.partition(TABLE[0])
    return "".join([before, TABLE[0], *(f"{row}\n" for row in table(modules)), TABLE[1], rest.partition(TABLE[1])[2]])


def table(modules: Mapping[str, str]) -> Iterator[str]:
    """Yield the rows of the table of rooms, each in the words of its room's `__init__`."""
    yield "| room | what it is for | comes in | goes out | may use |"
    yield "|---|---|---|---|---|"
    for room in ROOMS:
        said = describe(modules[f"weighbridge.{room}"])
        yield f"| `{room}` | {said.summary.removesuffix('.')} | {said.comes_in} | {said.goes_out} | {said.may_use} |"


# The picture: rooms on a staircase, so that whatever is used stands above


STEP_X, STEP_Y = 46, 42
BOX_WIDTH, BOX_HEIGHT = 108, 28
MARGIN, INSET = 16, 18
TEXT_WIDTH = 200
TITLE = "The rooms of weighbridge in the order of the data's way; each uses only rooms above it"
STYLE = """\
text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: #3b4450 }
.name { font-weight: 700; fill: #0b1320 } .box { fill: #eef4f0; stroke: #2f7d5b; stroke-width: 1.2 }
.line { fill: none; stroke: #b3bec9; stroke-width: 1.2 } .head { fill: #7f8b97 } .use { fill: #2f7d5b }
@media (prefers-color-scheme: dark) {
  text { fill: #b9c3ce } .name { fill: #f0f4f8 } .box { fill: #16251e; stroke: #5cc49a }
  .line { stroke: #444c56 } .head { fill: #7d8792 } .use { fill: #5cc49a }
}"""


def picture(modules: Mapping[str, str]) -> str:
    """Return an SVG of the rooms and their arrows."""
    order = tuple(ROOMS)
    found = {(order.index(room), order.index(used)) for room, used in room_arrows(import_map(modules))}
    upwards = {(row, column) for row, column in found if column < row}
    sizes = Counter(map(room_of, modules))
    width = 2 * MARGIN + (len(order) - 1) * STEP_X + BOX_WIDTH + TEXT_WIDTH
    height = 2 * MARGIN + (len(order) - 1) * STEP_Y + BOX_HEIGHT
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title">',
            f'<title id="title">{TITLE}</title>',
            f"<style>\n{STYLE}\n</style>",
            *(element for row in range(len(order)) for element in draw_lines(row, upwards)),
            *(f'<circle class="use" cx="{pole(column)}" cy="{middle(row)}" r="4"/>' for row, column in sorted(upwards)),
            *(element for row, room in enumerate(order) for element in draw_room(row, room, sizes[room])),
            "</svg>\n",
        ]
    )


def pole(room: int) -> int:
    """Return where the line that leads up to a room stands."""
    return MARGIN + room * STEP_X + INSET


def middle(room: int) -> int:
    """Return the height of a room's middle, where the line to what it uses begins."""
    return MARGIN + room * STEP_Y + BOX_HEIGHT // 2


def draw_lines(room: int, arrows: Iterable[tuple[int, int]]) -> Iterator[str]:
    """Yield the line from a room to all that it uses, and the one with an arrowhead from all that use it."""
    users, used = [row for row, column in arrows if column == room], [column for row, column in arrows if row == room]
    left, bottom = MARGIN + room * STEP_X, middle(room) + BOX_HEIGHT // 2
    if used:
        yield f'<path class="line" d="M{left} {middle(room)}H{pole(min(used))}"/>'
    if users:
        yield f'<path class="line" d="M{pole(room)} {middle(max(users))}V{bottom + 4}"/>'
        yield f'<path class="head" d="M{pole(room)} {bottom}l4 8h-8z"/>'


def draw_room(row: int, room: str, modules: int) -> Iterator[str]:
    """Yield a room's box with its name, and beside it what it holds and how many modules."""
    left, y = MARGIN + row * STEP_X, middle(row)
    box = f'x="{left}" y="{y - BOX_HEIGHT // 2}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6"'
    yield f'<rect class="box" {box}/>'
    yield f'<text class="name" x="{left + BOX_WIDTH // 2}" y="{y + 4}" text-anchor="middle">{room}</text>'
    yield f'<text x="{left + BOX_WIDTH + 12}" y="{y + 4}">{WORDS[room]} · {modules} modules</text>'


if __name__ == "__main__":
    raise SystemExit(main())
