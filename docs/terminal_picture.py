"""Make the picture of a terminal, docs/terminal.svg, by running the command: `python docs/terminal_picture.py`.

Each shown line is one that the command printed, whole; where lines are left out, the picture shows an ellipsis.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "terminal.svg"
COLUMNS = 110
LAYERS, EXPERTS = 2, 4

MAPPING = """\
name: fuse
transforms:
  - convert: [experts.*.w1, experts.*.w3]
    to: experts.w13
    with: [MergeModulelist: {dim: 0}, Concatenate: {dim: 1}]
  - convert: experts.*.w2
    to: experts.w2
    with: [MergeModulelist: {dim: 0}]
  - convert: [attn.wq, attn.wk, attn.wv]
    to: attn.wqkv
    with: [Concatenate: {dim: 0, sizes: [32, 8, 8]}]
"""


class Step(NamedTuple):
    """A command, and a pattern for the beginnings of the printed lines that the picture leaves out."""

    command: str
    left_out: str = "(?!)"  # no line


STEPS = (
    Step("weighbridge mapping show fuse.yaml"),
    Step(
        "weighbridge plan model fuse.yaml --target engine",
        r"bytes|memory|copies|hash|$|output|tok_|layers\S+(attn\.wo|norm|w2)\.|.*w2\.weight   rule",
    ),
    Step(
        "weighbridge explain model fuse.yaml layers.1.moe.experts.w13.weight --target engine",
        r"  rule [23]|      no|  layers\S+w13\.weight\[[123]|$",
    ),
    Step("weighbridge convert model fused fuse.yaml --target engine"),
    Step("weighbridge revert fused back"),
    Step("weighbridge verify model back"),
)


class Line(NamedTuple):
    """A line of the terminal: its text and its kind, `command`, `output` or `cut`."""

    text: str
    kind: str


def main() -> int:
    """Run the commands and write the picture."""
    PICTURE.write_text(picture(), encoding="utf-8")
    return 0


def picture() -> str:
    """Return the picture, made anew in a temporary directory; the same bytes at every call."""
    with tempfile.TemporaryDirectory() as folder:
        make_inputs(Path(folder))
        lines = [line for step in STEPS for line in session(step, Path(folder))]
    return draw(lines[:-1])  # no empty line at the end


def make_inputs(folder: Path) -> None:
    """Write a small model, a checkpoint with the layout that is wanted, and the mapping file."""
    import torch
    from safetensors.torch import save_file

    random = torch.Generator().manual_seed(0)
    model = {key: torch.randn(shape, generator=random) for key, shape in model_shapes()}
    for name, tensors in (("model", model), ("engine", fuse(model))):
        (folder / name).mkdir()
        save_file(tensors, folder / name / "model.safetensors", metadata={"format": "pt"})
    (folder / "fuse.yaml").write_text(MAPPING, encoding="utf-8")


def model_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the keys and shapes of the model."""
    yield "tok_embeddings.weight", (48, 16)
    for layer in range(LAYERS):
        for name, shape in (("wq", (32, 16)), ("wk", (8, 16)), ("wv", (8, 16)), ("wo", (16, 32))):
            yield f"layers.{layer}.attn.{name}.weight", shape
        yield f"layers.{layer}.norm.weight", (16,)
        for expert in range(EXPERTS):
            for name, shape in (("w1", (12, 16)), ("w2", (16, 12)), ("w3", (12, 16))):
                yield f"layers.{layer}.moe.experts.{expert}.{name}.weight", shape
    yield "output.weight", (48, 16)


def fuse(model: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the model in the layout that is wanted."""
    import torch

    fused = {key: tensor for key, tensor in model.items() if ".experts." not in key and ".attn.w" not in key}
    for layer in (f"layers.{number}" for number in range(LAYERS)):
        experts = [f"{layer}.moe.experts.{expert}" for expert in range(EXPERTS)]
        w13 = [torch.cat([model[f"{expert}.w1.weight"], model[f"{expert}.w3.weight"]]) for expert in experts]
        fused[f"{layer}.moe.experts.w13.weight"] = torch.stack(w13)
        fused[f"{layer}.moe.experts.w2.weight"] = torch.stack([model[f"{expert}.w2.weight"] for expert in experts])
        fused[f"{layer}.attn.wqkv.weight"] = torch.cat([model[f"{layer}.attn.w{n}.weight"] for n in "qkv"])
        fused[f"{layer}.attn.wo.weight"] = model[f"{layer}.attn.wo.weight"]
    return fused


def session(step: Step, folder: Path) -> Iterator[Line]:
    """Run one command there; yield its line, those of its output that are shown, and an empty one."""
    yield Line(step.command, "command")
    yield from shown(run(step.command, folder), step.left_out)
    yield Line("", "output")


def run(command: str, folder: Path) -> list[str]:
    """Return what the command prints; CalledProcessError if it fails."""
    own = {"COLUMNS": str(COLUMNS), "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8", "PYTHONPATH": str(ROOT / "src")}
    printed = subprocess.run(
        [sys.executable, "-m", *shlex.split(command)],
        cwd=folder,
        env={**os.environ, **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=True,
    ).stdout
    return printed.rstrip("\n").split("\n")


def shown(printed: Iterable[str], left_out: str) -> Iterator[Line]:
    """Yield the lines that the picture shows, one ellipsis for each run of others.

    Raises:
        ValueError: If a shown line is wider than the terminal.
    """
    before = ""
    for text in printed:
        kind = "cut" if re.match(left_out, text) else "output"
        if kind == "output" and len(text) > COLUMNS:
            raise ValueError(f"wider than {COLUMNS} columns: {text}")
        if kind == "output" or before != "cut":
            yield Line("…" if kind == "cut" else text, kind)
        before = kind


WIDTH, HEIGHT = 7.8, 16
"""The distance from one letter, and from one line, to the next, in pixels; the letters' size is in STYLE."""
MARGIN, BAR = 18, 34
TITLE = "A terminal: weighbridge plans a mapping, explains one tensor, converts a checkpoint and takes it back"
STYLE = """\
text { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; white-space: pre }
.window { fill: #ffffff; stroke: #d0d7de } .bar { fill: #f1f3f5 } .dot { fill: #c4cbd2 }
.output { fill: #3b4450 } .command { fill: #0b1320; font-weight: 700 } .prompt { fill: #2f7d5b; font-weight: 700 }
.cut { fill: #8b949e }
@media (prefers-color-scheme: dark) {
  .window { fill: #10151c; stroke: #30363d } .bar { fill: #1a212a } .dot { fill: #444c56 }
  .output { fill: #b9c3ce } .command { fill: #f0f4f8 } .prompt { fill: #5cc49a } .cut { fill: #6e7681 }
}"""


def draw(lines: list[Line]) -> str:
    """Return an SVG of a window with these lines."""
    width, height = round(2 * MARGIN + COLUMNS * WIDTH), BAR + 2 * MARGIN + len(lines) * HEIGHT - 4
    rows = [element for row, line in enumerate(lines) for element in draw_line(line, BAR + MARGIN + 9 + row * HEIGHT)]
    dots = [f'<circle class="dot" cx="{x}" cy="{BAR // 2}" r="5.5"/>' for x in (20, 38, 56)]
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title">',
            f'<title id="title">{TITLE}</title>',
            f"<style>\n{STYLE}\n</style>",
            f'<rect class="window" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="9"/>',
            f'<path class="bar" d="M1 {BAR}V10a9 9 0 0 1 9-9H{width - 10}a9 9 0 0 1 9 9V{BAR}z"/>',
            *dots,
            *rows,
            "</svg>\n",
        ]
    )


def draw_line(line: Line, y: int) -> Iterator[str]:
    """Yield the elements of a line of text; each letter has its column, whatever font there is."""
    if line.kind == "command":
        yield draw_text("$", "prompt", 0, y)
    if line.text:
        indent = len(line.text) - len(line.text.lstrip())
        yield draw_text(line.text.lstrip(), line.kind, indent + 2 * (line.kind == "command"), y)


def draw_text(text: str, kind: str, column: int, y: int) -> str:
    """Return a text that begins at a column, stretched to as many columns as it has letters."""
    place = f'x="{MARGIN + column * WIDTH:.1f}" y="{y}" textLength="{len(text) * WIDTH:.1f}"'
    return f'<text class="{kind}" {place} lengthAdjust="spacingAndGlyphs">{escape(text, quote=False)}</text>'


if __name__ == "__main__":
    raise SystemExit(main())
