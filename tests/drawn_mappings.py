"""Random mappings with every transform and operation, over checkpoints that most of their rules fit.

A rule is drawn from what the rules before it have made, so that it nearly always finds something: a piece of a name
becomes its pattern, tensors that could be joined become a converter's sources. Some rules are bent afterwards. Names
often stay as they are, shapes are often square.

    drawn = draw(seed)      a mapping, tensors, and a configuration
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from drawn_checkpoints import CONFIG, WORDS, Checkpoint, Drawn, Shape
from interpreter import Made, Tensors, interpret
from strategies import draw_keys, draw_layout, draw_rules, mapping as spelled, tensors_of

import weighbridge as wb


def draw(seed: int, rules: int | None = None) -> Drawn:
    """Draw a case; the same seed gives the same one.

    Args:
        seed: Any number.
        rules: How many rules to draw at most; any number up to 6 if it is left out.
    """
    chance = random.Random(seed)
    count = chance.randint(0, 6) if rules is None else rules
    kind = chance.random()
    if kind < 0.1:
        layout = draw_layout(seed, min(count, 3))
        return Drawn(layout.mapping, tensors_of(layout.tensors), None)
    if kind < 0.2:
        clashing = spelled(draw_rules(chance, count))
        return Drawn(clashing, tensors_of(draw_keys(chance, chance.randint(1, 6))), None)
    tensors = Checkpoint(chance).draw()
    config = CONFIG if chance.random() < 0.7 else None
    return Drawn(_Rules(chance, tensors, config).draw(count), tensors, config)


# ---- rules ----


class Piece(NamedTuple):
    """Part of a name that becomes a pattern: the scope, and the segments before, in, and behind it."""

    scope: str
    before: list[str]
    inside: list[str]
    behind: list[str]


class _Rules:
    """Draws rules one after the other, each from what those before it made."""

    def __init__(self, chance: random.Random, tensors: Tensors, config: dict[str, Any] | None) -> None:
        self.chance = chance
        self.tensors = tensors
        self.config = config
        self.rules: list[Any] = []
        self.made = Made()

    def draw(self, count: int) -> wb.Mapping:
        makers: list[Callable[[], Any]] = [self.rename] * 5 + [self.group, self.prefix, self.prefix, self.absent]
        makers += (
            [self.move] * 5 + [self.chain] * 2 + [self.join] * 2 + [self.merge, self.merge, self.cut, self.unmerge]
        )
        makers += [self.repeat] * 2 + [self.merge_equal] * 2 + [self.merge_grid, self.unmerge_grid, self.by_layer]
        makers += [self.pad] * 2 + [self.trim] * 2 + [self.insert_constant, self.remove_constant]
        self.made = interpret(wb.Mapping(), self.tensors)
        faulty = self.chance.choice((0.1, 0.1, 0.1, 1.0))
        for _ in range(count):
            rule = self.chance.choice(makers)() if self.made.tensors else None
            if rule is None or rule in self.rules:
                continue
            made = interpret(wb.Mapping([*self.rules, rule]), self.tensors, config=self.config)
            if not made.problems or self.chance.random() < faulty:
                self.rules.append(rule)
                self.made = made
        return wb.Mapping(self.rules, name="drawn", **self.declared())

    def declared(self) -> dict[str, Any]:
        """Now and then declare that something is dropped, or carried past the rules."""
        if self.chance.random() < 0.8:
            return {}
        key = self.chance.choice(list(self.tensors))
        pattern = re.sub(r"\b\d+\b", "{i:int}", key) if self.chance.random() < 0.5 else f"^{re.escape(key)}$"
        return {self.chance.choice(("drop", "carry")): [pattern.replace("\\_", "_")]}

    # names

    def name(self, fits: Callable[[torch.Tensor], bool] = lambda tensor: True, fresh: bool = False) -> str | None:
        """Choose a name of this moment; `fresh` ones have met no converter."""
        found = [
            name
            for name, tensor in self.made.tensors.items()
            if fits(tensor) and not (fresh and name in self.made.changed)
        ]
        return self.chance.choice(found) if found else None

    def piece(self, name: str, whole_end: bool = False) -> Piece:
        """Cut a name into a scope, what the pattern covers, and the rest."""
        parts = name.split(".")
        mount = self.chance.randint(1, len(parts) - 1) if len(parts) > 1 and self.chance.random() < 0.25 else 0
        inner = parts[mount:]
        stop = len(inner) if whole_end or self.chance.random() < 0.5 else self.chance.randint(1, len(inner))
        start = max(0, stop - self.chance.choice((1, 1, 2, 2, 3, 5)))
        return Piece(".".join(parts[:mount]), inner[:start], inner[start:stop], inner[stop:])

    def generalise(self, segments: Sequence[str]) -> tuple[list[str], list[str]]:
        """Replace some segments by captures; return both sides."""
        source, target, groups = [], [], 0
        for at, segment in enumerate(segments):
            if segment.isdigit() and self.chance.random() < 0.8:
                kinds = ("int", "group", "star", "shift", "padded", "halves", "few")
                kinds += () if self.config is None else ("moved",)
                kind = self.chance.choice(("unpadded", "group") if segment[0] == "0" and len(segment) == 2 else kinds)
            elif self.chance.random() < 0.12:
                kind = self.chance.choice(("word", "named", "choice", "part"))
            else:
                kind = "literal"
            groups += kind in ("group", "word", "choice")
            here, there = _spelled(kind, segment, at, groups)
            source.append(here)
            target.append(there)
        return source, target

    def reword(self, segments: list[str]) -> list[str]:
        """Change some of a target's words, or none."""
        changed = list(segments)
        words = [at for at, text in enumerate(changed) if re.fullmatch(r"\w+", text)]
        match self.chance.choice(("word", "word", "word", "known", "more", "less", "stay")):
            case "word" if words:
                changed[self.chance.choice(words)] = f"new{len(self.rules)}"
            case "known" if words:
                changed[self.chance.choice(words)] = self.chance.choice(WORDS)
            case "more":
                changed.insert(self.chance.randint(0, len(changed)), self.chance.choice(WORDS))
            case "less" if len(words) > 0 and len(changed) > 1:
                del changed[self.chance.choice(words)]
        return changed

    def sides(self, piece: Piece) -> tuple[str, str]:
        """Return a source and a target pattern for a piece of a name."""
        source, target = self.generalise(piece.inside)
        anchor = "^" if not piece.before and self.chance.random() < 0.5 else ""
        guard = ""
        if piece.before and not anchor and self.chance.random() < 0.1:
            guard = self.chance.choice((f"(?<!{re.escape(piece.before[-1])}\\.)", f"(?<={piece.before[-1]}\\.)"))
        end = "$" if not piece.behind and self.chance.random() < 0.3 else ""
        dot = self.chance.choice((".", ".", r"\."))
        text = dot.join(source)
        if dot == "." and re.search(r"\.\*(?!\.|$)", text + end.replace("$", "")):
            text = r"\.".join(source)
        return guard + anchor + text + end, ".".join(self.reword(target))

    # renames

    def rename(self) -> Any:
        name = self.name()
        piece = self.piece(name or "a")
        source, target = self.sides(piece)
        sources = [source]
        if self.chance.random() < 0.1:
            sources.append(self.sides(self.piece(self.name() or "a"))[0])
        return _made(wb.WeightRenaming, list(dict.fromkeys(sources)), target, scope=piece.scope)

    def absent(self) -> Any:
        """Rename what is not there to a name that is: a checkpoint which has the new name already."""
        piece = self.piece(self.name() or "a")
        old = [f"old_{text}" if at == len(piece.inside) - 1 else text for at, text in enumerate(piece.inside)]
        return _made(wb.WeightRenaming, ".".join(old), ".".join(piece.inside), scope=piece.scope)

    def group(self) -> Any:
        """Several names at once, often a cycle."""
        words = sorted({part for name in self.made.tensors for part in name.split(".") if not part.isdigit()})
        chosen = self.chance.sample(words, min(len(words), self.chance.choice((2, 2, 3))))
        turned = [*chosen[1:], chosen[0]] if self.chance.random() < 0.5 else [*chosen[1:], "last"]
        return _made(wb.GroupWeightRename, chosen, turned)

    def prefix(self) -> Any:
        parts = (self.name() or "a").split(".")
        scope = parts[0] if len(parts) > 2 and self.chance.random() < 0.3 else ""
        inner = parts[1:] if scope else parts
        if self.chance.random() < 0.5 and len(inner) > 1:
            return _made(wb.PrefixChange, prefix_to_remove=inner[0], scope=scope)
        mount = inner[0] if len(inner) > 1 and self.chance.random() < 0.2 else None
        added = self.chance.choice(("model", "pre", inner[0]))
        return _made(wb.PrefixChange, prefix_to_add=added, model_prefix=mount, scope=scope)

    # converters

    def convert(self, sources: list[str], targets: list[str], operations: list[Any], scope: str) -> Any:
        bent = [self.bend(operation) if self.chance.random() < 0.06 else operation for operation in operations]
        return _made(wb.WeightConverter, sources, targets, bent, scope=scope)

    def bend(self, operation: Any) -> Any:
        """Give an operation that does not fit."""
        odd = (wb.Transpose(0, 3), wb.Chunk(1), wb.PermuteForRope(num_heads=5), wb.Interleave(1), wb.Reshape((7, -1)))
        return self.chance.choice((*odd, operation))

    def move(self) -> Any:
        """Move the elements of each tensor by itself, more often than not under its own name."""
        name = self.name(fresh=True)
        if name is None:
            return None
        piece = self.piece(name, whole_end=True)
        source, target = self.generalise(piece.inside)
        target = target if self.chance.random() < 0.6 else self.reword(target)
        shape, dtype = tuple(self.made.tensors[name].shape), self.made.tensors[name].dtype
        operations = [self.movement(shape, dtype) for _ in range(self.chance.choice((1, 1, 2)))]
        end = "$" if self.chance.random() < 0.3 else ""
        return self.convert([_dotted(source) + end], [".".join(target)], operations, piece.scope)

    def movement(self, shape: Shape, dtype: torch.dtype) -> Any:
        chance, axes = self.chance, len(shape)
        if axes == 0:
            return wb.Reshape((1,), ())
        pool = [wb.Reshape((-1,), shape), wb.Interleave(chance.randrange(axes)), wb.PermuteForRope()]
        pool += [wb.PermuteForRope(num_heads=chance.choice((1, 2, 3, "num_key_value_heads")), inverse=True)]
        if axes > 1:
            pool += [wb.Transpose(0, 1), wb.Transpose(-1, -2), wb.Permute(tuple(chance.sample(range(axes), axes)))] * 2
        pool += [self.reorder(shape)] * 2
        if axes == 2:
            heads = chance.choice((2, "num_attention_heads"))
            pool += [wb.Rearrange("(h two) c -> (two h) c", two=heads), wb.Rearrange("a b -> (b a)")]
            pool += [wb.LinearToConv3d(3, (2, 1, 2))] * (9 if shape[1] == 12 else 1)
        if axes == 5:
            pool += [wb.Conv3dToLinear(3, (2, 1, 2))] * 6
        if dtype == torch.float32:
            pool += [wb.Cast("float64", "float32")]
        return chance.choice(pool)

    def reorder(self, shape: Shape) -> Any:
        """Put the parts of one axis in another order, some of them in stripes."""
        chance, axis = self.chance, self.chance.randrange(len(shape))
        count = chance.choice((1, 2, 2, 3))
        order = chance.sample(range(count), count)
        if chance.random() < 0.3:
            return wb.Reorder(axis, order, source_stripes=chance.choice((None, 1, 2)))
        stripes = [chance.choice((1, 1, 2, 3, "num_key_value_heads")) for _ in range(2)]
        cuts = sorted(chance.choices(range(1, max(2, shape[axis])), k=count - 1))
        sizes = [stop - start for start, stop in zip([0, *cuts], [*cuts, shape[axis]], strict=True)]
        named = [chance.choice((size, size, "num_attention_heads")) for size in sizes]
        return _made(wb.Reorder, axis, order, named, *stripes) or wb.Reorder(axis, order)

    def chain(self) -> Any:
        """Cut a tensor, move the elements of some parts or of all, and join them under one name."""
        chance, name = self.chance, self.name(lambda tensor: tensor.ndim > 0 and max(tensor.shape) > 1, fresh=True)
        if name is None:
            return None
        shape, dtype = list(self.made.tensors[name].shape), self.made.tensors[name].dtype
        axis = chance.choice([at for at, size in enumerate(shape) if size > 1])
        first, dim = chance.randint(1, shape[axis] - 1), chance.choice((axis, axis, axis - len(shape)))
        sizes = (first, shape[axis] - first)
        named = [chance.choice((size, size, "num_attention_heads")) for size in sizes]
        cut = wb.Chunk(dim, chunks=2) if len(set(sizes)) == 1 and chance.random() < 0.7 else wb.Split(dim, named)
        chosen = chance.choice(((0,), (1,), (0, 1)))
        part = (*shape[:axis], sizes[chosen[0]], *shape[axis + 1 :])
        inner = self.movement(part, dtype) if chance.random() < 0.3 else self.reorder(part)
        done = [inner if chance.random() < 0.2 else wb.On(chosen, inner)] if chance.random() < 0.9 else []
        join = wb.Concatenate(dim, sizes=sizes if chance.random() < 0.2 else None)
        piece = self.piece(name, whole_end=True)
        source, target = self.generalise(piece.inside)
        target = target if chance.random() < 0.6 else self.reword(target)
        return self.convert([_dotted(source)], [".".join(target)], [cut, *done, join], piece.scope)

    def siblings(self) -> list[str]:
        """Find names that differ in one word, and could be joined."""
        first = self.name(lambda tensor: tensor.ndim > 0, fresh=True)
        if first is None:
            return []
        parts = first.split(".")
        found = []
        for at in [at for at, part in enumerate(parts) if not part.isdigit()]:
            axes = self.made.tensors[first].ndim
            near = [name for name, tensor in self.made.tensors.items() if tensor.ndim == axes]
            alike = [name for name in near if _differ(name.split("."), parts) == [at]]
            found += [[first, *self.chance.sample(alike, min(len(alike), 2))]] if alike else []
        return self.chance.choice(found) if found else []

    def join(self) -> Any:
        """Concatenate tensors whose names differ in a word."""
        names = self.siblings()
        if not names:
            return None
        at = _differ(names[0].split("."), names[1].split("."))[0]
        start = max(0, at - self.chance.choice((0, 1, 2)))
        sources = [".".join(name.split(".")[start:]) for name in names]
        target = sources[0].split(".")
        stays = self.chance.random() < 0.3
        target[at - start] = target[at - start] if stays else "joined"
        axis = self.chance.randrange(self.made.tensors[names[0]].ndim)
        captured = [re.sub(r"(?<![^.])\d+(?![^.])", "{i:int}", text, count=1) for text in sources]
        sizes = tuple(self.made.tensors[name].shape[axis] for name in names)
        operation = wb.Concatenate(axis, sizes=sizes if self.chance.random() < 0.2 else None)
        wanted = re.sub(r"(?<![^.])\d+(?![^.])", "{i}", ".".join(target), count=1)
        more = [wb.Transpose(0, 1)] if self.chance.random() < 0.15 else []
        chosen = self.chance.randrange(len(names))
        inner = self.reorder(tuple(self.made.tensors[names[chosen]].shape)) if self.chance.random() < 0.2 else None
        some = [] if inner is None else [wb.On((chosen,), inner)]
        return self.convert(captured, [wanted], [*some, operation, *more], "")

    def merge(self) -> Any:
        """Stack tensors by an index in their names, or concatenate them by it."""
        indexed = [name for name in self.made.tensors if re.search(r"\.\d+\.", name) and name not in self.made.changed]
        if not indexed:
            return None
        parts = self.chance.choice(indexed).split(".")
        at = self.chance.choice([at for at, part in enumerate(parts[:-1]) if part.isdigit()])
        start = max(0, at - 1)
        tail = parts[at + 1 :]
        sources = [".".join([*parts[start:at], "*", *tail])]
        operations: list[Any] = [wb.MergeModulelist(self.chance.choice((0, 0, 1)))]
        others = [n.split(".") for n in self.made.tensors if _differ(n.split("."), parts) == [len(parts) - 1]]
        if others and self.chance.random() < 0.6:
            sources.append(".".join([*parts[start:at], "*", *self.chance.choice(others)[at + 1 :]]))
            operations.append(wb.Concatenate(self.chance.choice((0, 1, 2))))
            ernie = wb.ErnieFuseAndSplitTextVisionExperts(0, 1)
            if self.chance.random() < 0.4:
                return self.convert(sources, ["text.fused", "vision.fused"], [ernie], "")
        elif self.chance.random() < 0.3:
            operations = [wb.Concatenate(0)]
        return self.convert(sources, [".".join([*parts[start:at], *tail])], operations, "")

    def by_layer(self) -> Any:
        """Do something to a tensor of each layer with a number of its own, from a list of the configuration."""
        name = self.name(lambda tensor: tensor.ndim > 0, fresh=True)
        found = re.fullmatch(r"(?:.*\.)?layers\.\d+\.(.+)", name or "")
        if found is None:
            return None
        number, tail = "counts[layer]", found[1]
        moves = [wb.PermuteForRope(num_heads=number), wb.Reorder(0, (1, 0), source_stripes=number)]
        target = tail if self.chance.random() < 0.5 else f"{tail}_b"
        return self.convert(
            [f"layers.{{layer:int}}.{tail}"], [f"layers.{{layer}}.{target}"], [self.chance.choice(moves)], ""
        )

    def merge_grid(self) -> Any:
        """Merge tensors by two indices: stacked twice, joined between or afterwards, with sizes that fit or do not."""
        chance = self.chance
        cells = [name for name in self.made.tensors if ".cells." in name and name not in self.made.changed]
        found = [name for name in cells if re.search(r"grid\.\d+\.cells\.\d+\.\w+$", name)]
        if not found:
            return None
        leaf, dim = chance.choice(found).split(".")[-1], chance.choice((0, 0, 1, -1))
        sources = [f"grid.*.cells.*.{leaf}"]
        prefix = chance.choice(found).partition("grid.")[0]
        places = {tuple(map(int, re.findall(r"\d+", name[len(prefix) :]))) for name in found if name.startswith(prefix)}
        outers = sorted({place[0] for place in places if len(place) == 2})
        sizes = [sum(place[0] == outer for place in places) for outer in outers]
        pair = [f"grid.*.cells.*.{name}" for name in ("gate", "up")]
        stack, join = wb.MergeModulelist(0), wb.Concatenate(chance.choice((0, 1)))
        sources, operations = chance.choice((
            (sources, [stack, wb.MergeModulelist(dim)]),
            (sources, [stack, wb.MergeModulelist(dim), wb.Transpose(0, 1)]),
            (sources, [stack, wb.Concatenate(0, sizes=sizes if chance.random() < 0.7 else None)]),
            (sources, [wb.Concatenate(0)]),
            (sources, [wb.Reorder(0, (1, 0)), stack, wb.MergeModulelist(dim)]),
            (pair, [join, stack, wb.MergeModulelist(dim)]),
            (pair, [stack, join, wb.MergeModulelist(dim)]),
            (pair, [stack, wb.On((1,), wb.Transpose(1, 2)), stack, wb.Concatenate(1)]),
        ))  # fmt: skip
        return self.convert(sources, [chance.choice(("grid.all", f"grid_{len(self.rules)}"))], operations, "")

    def unmerge_grid(self) -> Any:
        """Take a tensor apart by two indices, or by one with a cut before or behind it."""
        chance, name = self.chance, self.name(lambda tensor: tensor.ndim > 2 and tensor.numel() > 0, fresh=True)
        if name is None:
            return None
        source, axis = ".".join(name.split(".")[-2:]), chance.choice((0, 0, 1))
        size = self.made.tensors[name].shape[0]
        first = chance.randint(1, max(1, size - 1))
        apart, two = wb.SplitModulelist(0), ["parts.*.cells.*.w", "parts.*.cells.*.v"]
        targets, operations = chance.choice((
            (two[:1], [wb.SplitModulelist(axis), apart]),
            (two[:1], [wb.Split(0, (first, size - first)), wb.SplitModulelist(axis)]),
            (two, [apart, wb.Chunk(axis), apart]),
            (["parts.*.w", "parts.*.v"], [apart, wb.Chunk(0)]),
            (["parts.*.w"], [apart, wb.Chunk(0, chunks=2), wb.On((1,), wb.Reorder(0, (1, 0))), wb.Concatenate(0)]),
        ))  # fmt: skip
        return self.convert([source], targets, operations, "")

    def cut(self) -> Any:
        """Divide a tensor among several names, one of which may be its own."""
        name = self.name(lambda tensor: tensor.ndim > 0 and max(tensor.shape) > 1, fresh=True)
        if name is None:
            return None
        shape = self.made.tensors[name].shape
        axis = self.chance.choice([at for at, size in enumerate(shape) if size > 1])
        parts = 2 if shape[axis] % 2 == 0 or self.chance.random() < 0.2 else shape[axis]
        source = self.piece(name, whole_end=True)
        here, there = self.generalise(source.inside)
        targets = [".".join([*there[:-1], f"{there[-1]}_{n}"]) for n in range(parts)]
        if self.chance.random() < 0.2:
            targets[0] = ".".join(there)
        first = self.chance.randint(1, shape[axis] - 1) if parts == 2 else 1
        sizes = (first, shape[axis] - first) if parts == 2 else (1,) * parts
        by = (wb.Chunk(axis), wb.Split(axis, sizes), wb.Split(axis), wb.Chunk(axis))
        return self.convert([_dotted(here)], targets, [self.chance.choice(by)], source.scope)

    def unmerge(self) -> Any:
        """Take a tensor, or several, apart: one for each index."""
        name = self.name(lambda tensor: tensor.ndim > 1, fresh=True)
        if name is None:
            return None
        names = self.siblings() if self.chance.random() < 0.3 else []
        names = names if names and all(self.made.tensors[each].ndim > 1 for each in names) else [name]
        sources = [".".join(each.split(".")[-2:]) for each in names]
        targets = [f"{text}.*.part" if self.chance.random() < 0.5 else f"parts.*.{text}" for text in sources]
        operation: Any = wb.SplitModulelist(self.chance.choice((0, 0, 1)))
        if len(names) == 1 and self.chance.random() < 0.3:
            operation = wb.Chunk(0, "parts") if self.chance.random() < 0.5 else wb.Split(0)
        if len(names) == 1 and self.chance.random() < 0.2:
            targets, operation = ["t.*.w", "v.*.w"], wb.ErnieSplitAndDecoupleTextVisionExperts(0, 1)
        return self.convert(sources, targets, [operation], "")

    # equal tensors

    def repeat(self) -> Any:
        """Make several equal tensors of one, under names of their own, by an index, or stacked."""
        name = self.name(fresh=True)
        if name is None:
            return None
        source = self.piece(name, whole_end=True)
        here, there = self.generalise(source.inside)
        times, alone = self.chance.choice((2, 2, 3)), ".".join(there)
        targets = [".".join([*there[:-1], f"{there[-1]}_{n}"]) for n in range(times)]
        match self.chance.choice(("names", "number", "index", "stack", "join")):
            case "names":
                targets[0] = alone if self.chance.random() < 0.5 else targets[0]
                operations: list[Any] = [wb.Repeat()]
            case "number":
                operations = [wb.Repeat(times)]
            case "index":
                targets, operations = [f"{alone}.*.part"], [wb.Repeat(self.chance.choice((times, times, None)))]
            case "stack":
                targets, operations = [alone], [wb.Repeat(times), wb.MergeModulelist(0)]
            case _:
                targets, operations = [alone], [wb.Repeat(times), wb.Concatenate(0)]
        moves = [wb.Transpose(0, 1)] if self.made.tensors[name].ndim == 2 and self.chance.random() < 0.3 else []
        return self.convert([_dotted(here)], targets, [*moves, *operations], source.scope)

    def merge_equal(self) -> Any:
        """Make one tensor of several, which are made equal for it, now and then but for one byte."""
        names = self.siblings() if self.chance.random() < 0.6 else self.numbered()
        if len(names) < 2 or not all(self.is_as_it_was(name) for name in names):
            return None
        keys = [self.made.sources[name][0] for name in names]
        for key in keys[1:]:
            self.tensors[key] = self.tensors[keys[0]].clone()
        if self.chance.random() < 0.1 and self.tensors[keys[1]].numel():
            raw = self.tensors[keys[1]].reshape(-1).view(torch.uint8)
            raw[self.chance.randrange(raw.numel())] ^= 1
        texts = [".".join(name.split(".")[-3:]) for name in names]
        times = self.chance.choice((None, len(names)))
        at = _differ(names[0].split("."), names[1].split("."))
        if len(at) == 1 and names[0].split(".")[at[0]].isdigit():
            parts = names[0].split(".")
            texts = [".".join([*parts[: at[0]], "*", *parts[at[0] + 1 :]])]
        return self.convert(texts, [f"same_{len(self.rules)}.weight"], [wb.MergeEqual(times)], "")

    # declared values

    def value(self, dtype: torch.dtype) -> Any:
        """Draw a value that a dtype has, now and then one that it has not."""
        if dtype.is_floating_point:
            return self.chance.choice((0, 0, 1, -2.5, "-0.0", "-inf", "nan", 2.0**-10, 1 / 3))
        return self.chance.choice((0, 0, 1, 77, 1.5, "nan"))

    def pad(self) -> Any:
        """Make a tensor longer, under its own name or another one."""
        name = self.name(lambda tensor: tensor.ndim > 0, fresh=True)
        if name is None:
            return None
        tensor, chance = self.made.tensors[name], self.chance
        axis = chance.randrange(tensor.ndim)
        there = tensor.shape[axis]
        before = chance.choice((None, there, there, "num_attention_heads"))
        sizes: dict[str, Any] = {"size": there + chance.choice((0, 1, 2, 5))}
        if chance.random() < 0.4:
            sizes = {"multiple_of": chance.choice((1, 3, 4, "parts*num_attention_heads"))}
        dim = chance.choice((axis, axis, axis - tensor.ndim))
        made = _made(wb.Pad, dim, **sizes, value=self.value(tensor.dtype), source_size=before)
        piece = self.piece(name, whole_end=True)
        source, target = self.generalise(piece.inside)
        target = target if chance.random() < 0.5 else self.reword(target)
        more = [wb.Transpose(0, 1)] if tensor.ndim == 2 and chance.random() < 0.2 else []
        return self.convert([_dotted(source)], [".".join(target)], [made, *more], piece.scope) if made else None

    def filled(self, name: str, axis: int, start: int, stop: int) -> Any:
        """Fill some rows of a source with one value, now and then but for one byte; return the value."""
        key = self.made.sources[name][0]
        whole = self.tensors[key].clone()
        value = (
            self.chance.choice((0, 0, 1, 3, "-0.0", "nan")) if whole.is_floating_point() else self.chance.choice((0, 1))
        )
        start, stop = (min(at, whole.shape[axis]) for at in (start, stop))
        part = whole.narrow(axis, start, stop - start)
        part.fill_(float(value) if isinstance(value, str) else value)
        if self.chance.random() < 0.1 and part.numel():
            part[(0,) * part.ndim] = 9
        self.tensors[key] = self.made.tensors[name] = whole
        return value

    def cuttable(self) -> tuple[str, int] | None:
        """Choose a tensor whose values may be set, and an axis of it that can be cut."""
        name = self.name(lambda tensor: tensor.ndim > 0 and max(tensor.shape) > 1, fresh=True)
        if name is None or not self.is_as_it_was(name):
            return None
        shape = self.made.tensors[name].shape
        return name, self.chance.choice([at for at, size in enumerate(shape) if size > 1])

    def trim(self) -> Any:
        """Cut off rows that hold one value."""
        found = self.cuttable()
        if found is None:
            return None
        (name, axis), chance = found, self.chance
        there = self.made.tensors[name].shape[axis]
        size = chance.randint(1, there - 1)
        before = {"source_size": chance.choice((None, there, "parts"))}
        if chance.random() < 0.3:
            before = {"multiple_of": chance.choice((there, there, 2, "parts"))}
        operation = wb.Trim(axis, size, value=self.filled(name, axis, size, there), **before)
        piece = self.piece(name, whole_end=True)
        source, target = self.generalise(piece.inside)
        more = [wb.Transpose(0, 1)] if self.made.tensors[name].ndim == 2 and chance.random() < 0.2 else []
        return self.convert([_dotted(source)], [".".join(self.reword(target))], [operation, *more], piece.scope)

    def insert_constant(self) -> Any:
        """Join tensors, with a part between them that none of them has."""
        names = self.siblings()
        if not names:
            return None
        first, chance = self.made.tensors[names[0]], self.chance
        axis, part = chance.randrange(first.ndim), chance.randint(0, len(names))
        shape = list(first.shape)
        shape[axis] = chance.choice((1, 2, shape[axis], "num_attention_heads"))
        operation = _made(wb.InsertConstant, part, shape, self.value(first.dtype))
        sizes = [self.made.tensors[name].shape[axis] for name in names]
        sizes.insert(part, shape[axis])
        join = wb.Concatenate(axis, sizes=sizes if chance.random() < 0.5 and isinstance(shape[axis], int) else None)
        sources = [".".join(name.split(".")[-2:]) for name in names]
        return self.convert(sources, [f"joined_{len(self.rules)}.weight"], [operation, join], "") if operation else None

    def remove_constant(self) -> Any:
        """Cut a tensor, and leave out a part that holds one value."""
        found = self.cuttable()
        if found is None:
            return None
        (name, axis), chance = found, self.chance
        shape = list(self.made.tensors[name].shape)
        first = chance.randint(1, shape[axis] - 1)
        part = [*shape[:axis], shape[axis] - first, *shape[axis + 1 :]]
        part[axis] = chance.choice((part[axis], part[axis], "parts"))
        operation = wb.RemoveConstant(1, part, self.filled(name, axis, first, shape[axis]))
        piece = self.piece(name, whole_end=True)
        here, there = self.generalise(piece.inside)
        cut = wb.Split(axis, (first, shape[axis] - first))
        return self.convert([_dotted(here)], [".".join(self.reword(there))], [cut, operation], piece.scope)

    def is_as_it_was(self, name: str) -> bool:
        """Tell whether a tensor may be replaced by another one: no converter has had it in its hands."""
        return name not in self.made.changed and len(self.made.sources[name]) == 1

    def numbered(self) -> list[str]:
        """Find all names that differ from one in an index."""
        indexed = [name for name in self.made.tensors if re.search(r"\.\d+\.", name) and name not in self.made.changed]
        if not indexed:
            return []
        parts = self.chance.choice(indexed).split(".")
        at = self.chance.choice([at for at, part in enumerate(parts[:-1]) if part.isdigit()])
        return [".".join(parts), *(name for name in indexed if _differ(name.split("."), parts) == [at])]


def _spelled(kind: str, segment: str, at: int, groups: int) -> tuple[str, str]:
    """Write one segment of a pattern, and what stands for it in the target."""
    match kind:
        case "int":
            return f"{{i{at}:int}}", f"{{i{at}}}"
        case "shift":
            return f"{{i{at}:int}}", f"{{i{at}+1}}"
        case "few":
            return f"{{i{at}:{int(segment)}|{int(segment) + 7}}}", f"{{i{at}+2}}"
        case "moved":
            return f"{{i{at}:int}}", f"{{i{at}+parts}}"
        case "padded":
            return f"{{i{at}:int}}", f"{{i{at}:02}}"
        case "unpadded":
            return f"{{i{at}:02}}", f"{{i{at}}}"
        case "halves":
            return f"{{i{at}:int}}", f"{{i{at}//2}}.{{i{at}%2}}"
        case "group":
            return r"(\d+)", f"\\{groups}"
        case "star":
            return "*", "*"
        case "word":
            return r"(\w+)", f"\\{groups}"
        case "named":
            return f"{{n{at}}}", f"{{n{at}}}"
        case "choice":
            return f"({segment}|other|q_proj)", f"\\{groups}"
        case "part" if "_" in segment:
            first = segment.split("_")[0]
            return f"{first}_{{p{at}}}", f"{first}_{{p{at}}}"
    return segment, segment


def _dotted(segments: Sequence[str]) -> str:
    text = ".".join(segments)
    return text if not re.search(r"\.\*(?!\.|$)", text) else r"\.".join(segments)


def _differ(one: Sequence[str], other: Sequence[str]) -> list[int]:
    """Places where two names differ; empty if they are not of one length."""
    if len(one) != len(other):
        return []
    return [at for at, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]]


def _made(kind: Any, *arguments: Any, **named: Any) -> Any:
    """Make a transform; None where the draw is none."""
    try:
        return kind(*arguments, **named)
    except wb.WeighbridgeError:
        return None
