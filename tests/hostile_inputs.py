"""Inputs that somebody made to mislead: files, texts, names and directories, each drawn from a seed.

An attack writes what it needs into an empty folder, and gives a line that describes it and what is to be run on it.
Nothing here imports torch; what it runs may.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from hostile_changes import (
    Chance,
    Run,
    change_bytes,
    change_json,
    look_at,
    plan_it,
    safetensors,
    table,
    text_of,
)
from hostile_directories import strange_directory

import weighbridge as wb
from weighbridge.api import plan_revert


class Attack(NamedTuple):
    """How an input is made, and whether what runs on it needs torch."""

    make: Callable[[Chance, Path], tuple[str, Run]]
    with_torch: bool = False


# ---- files ----


def header(chance: Chance, folder: Path) -> tuple[str, Run]:
    path = folder / "model.safetensors"
    if chance.random() < 0.5:
        content = change_bytes(chance, safetensors(table(), 72))
    else:
        content = safetensors(change_json(chance, table()), 72)
    path.write_bytes(content)
    return f"file of {len(content)} bytes, {content[:160]!r}", lambda: look_at(path)


def index(chance: Chance, folder: Path) -> tuple[str, Run]:
    names = {"a.0.w": "m-00001-of-00002.safetensors", "a.1.w": "m-00002-of-00002.safetensors"}
    for key, name in names.items():
        (folder / name).write_bytes(safetensors(table((key,)), 24))
    form = change_json(chance, {"metadata": {"total_size": 48}, "weight_map": names})
    content = text_of(form) if chance.random() < 0.7 else change_bytes(chance, text_of(form))
    (folder / "m.safetensors.index.json").write_bytes(content)
    return f"index {content[:200]!r}", lambda: look_at(folder)


def inventory(chance: Chance, folder: Path) -> tuple[str, Run]:
    from weighbridge.storage.formats.inventory import inventory_text

    specs = {key: wb.TensorSpec("F32", (2, 3)) for key in ("a.0.w", "a.1.w", "b")}
    form = json.loads(inventory_text(wb.Header(specs, {"format": "pt"}, {"a.1.w": "a.0.w"})))
    content = text_of(change_json(chance, form))
    path = folder / "header.json"
    path.write_bytes(content if chance.random() < 0.8 else change_bytes(chance, content))
    return f"inventory {content[:300]!r}", lambda: plan_it(path)


def torch_file(chance: Chance, folder: Path) -> tuple[str, Run]:
    import torch

    stream = BytesIO()
    shared = torch.arange(6.0)
    state: Any = {"a.0.w": shared.view(2, 3), "a.1.w": shared[2:].view(2, 2).T, "n": torch.zeros(3, dtype=torch.bool)}
    state = chance.choice((state, {"model": state, "epoch": 3}, {"model": {"enc": state}, "rng": torch.ones(2)}))
    is_zip = chance.random() < 0.7
    torch.save(state, stream, _use_new_zipfile_serialization=is_zip)
    content = stream.getvalue()
    content = _change_zip(chance, content) if is_zip and chance.random() < 0.7 else change_bytes(chance, content)
    path = folder / "model.bin"
    path.write_bytes(content)
    return f"torch file of {len(content)} bytes", lambda: look_at(path)


def _change_zip(chance: Chance, content: bytes) -> bytes:
    """Change one member of an archive, whose sum is right again afterwards."""
    made, source = BytesIO(), zipfile.ZipFile(BytesIO(content))
    names = source.namelist()
    victim = chance.choice([name for name in names if name.endswith("data.pkl")] * 3 + names)
    with zipfile.ZipFile(made, "w") as target:
        for name in names:
            held = source.read(name)
            target.writestr(name, change_bytes(chance, held) if name == victim else held)
    return made.getvalue()


# ---- texts ----


def _converted(folder: Path) -> Path:
    (folder / "in").mkdir()
    (folder / "in" / "model.safetensors").write_bytes(safetensors(table(), 72))
    rules = [
        wb.WeightRenaming("gamma", "weight"),
        wb.WeightConverter("a.*.w", "a.w", [wb.MergeModulelist(0), wb.Transpose(1, 2)]),
    ]
    return wb.convert(folder / "in", folder / "out", rules, digests=True, sync=False)


def receipt(chance: Chance, folder: Path) -> tuple[str, Run]:
    out = _converted(folder)
    path = out / "weighbridge.json"
    kind = chance.random()
    if kind < 0.9:
        content = text_of(change_json(chance, json.loads(path.read_text())))
        path.write_bytes(content if kind < 0.7 else change_bytes(chance, content))
    else:
        path.unlink()
        chance.choice((lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero"), path.mkdir))()
    rules = [wb.WeightRenaming("gamma", "weight")]
    runs: list[Run] = [
        lambda: wb.revert(out, folder / "back", sync=False),
        lambda: wb.revert(out, folder / "back", lossy=True, sync=False),
        lambda: wb.verify(out),
        lambda: wb.convert(out, folder / "back", rules, reverse=True, sync=False),
        lambda: str(plan_revert(out).report),
    ]
    return "receipt", chance.choice(runs)


def plan_text(chance: Chance, folder: Path) -> tuple[str, Run]:
    rules = [wb.WeightRenaming("gamma", "weight"), wb.WeightConverter("a.*.w", "a.w", [wb.MergeModulelist(0)])]
    source = wb.Header({key: wb.TensorSpec("F32", (2, 3)) for key in ("a.0.w", "a.1.w", "norm.gamma")})
    content = text_of(change_json(chance, json.loads(wb.plan(source, rules).to_json())))

    def run() -> None:
        plan = wb.Plan.from_json(content)
        str(plan.report)
        plan.inverse(lossy=True)
        plan.to_html()

    return f"plan {content[:300]!r}", run


MAPPING = r"""name: mine
base_prefix: model
transforms:
  - rename: ^language_model\.model
    to: model.language_model
  - rename: layers.{i:int}.norm.gamma
    to: layers.{i+1}.norm.weight
  - convert: [experts.*.gate.weight, experts.*.up.weight]
    to: experts.gate_up
    with: [MergeModulelist: {dim: 0}, Concatenate: {dim: 1}]
  - group: {norm0: norm1, norm1: norm2}
  - prefix: {add: model}
drop:
  - {pattern: "{any:**}.inv_freq", why: it is computed}
"""


def mapping_file(chance: Chance, folder: Path) -> tuple[str, Run]:
    path = folder / "fix.yaml"
    if chance.random() < 0.5:
        path.write_bytes(change_bytes(chance, MAPPING.encode()))
    else:
        from weighbridge.mappings.mapping_files import read_mapping

        form = read_mapping(MAPPING).to_dict()
        path = folder / "fix.json"
        path.write_bytes(text_of(change_json(chance, form)))
    keys = ("language_model.model.layers.3.norm.gamma", "experts.0.up.weight", "experts.0.gate.weight", "x.inv_freq")
    source = wb.Header({key: wb.TensorSpec("F32", (2, 3)) for key in keys})
    return f"mapping {path.read_bytes()[:200]!r}", lambda: plan_it(source, wb.load_mapping(path))


# ---- names ----


def odd_key(chance: Chance) -> str:
    """A name that is long, has many segments or numbers, or is made of characters with a meaning elsewhere."""
    big = (300_000_000, 2**31, 2**64, 10**25)
    size = chance.choice((30, 300, 1500, 4000))
    makers: list[Callable[[], str]] = [
        lambda: f"model.experts.{chance.choice(big)}.w",
        lambda: ".".join(["7"] * size),
        lambda: ".".join(["a"] * size) + ".w",
        lambda: "a" * size * 100,
        lambda: "." * size,
        lambda: "layers.00012.w",
        lambda: "a\ue001\uf000.\ue400b",
        lambda: "".join(chance.choice("a.0{}*\\^$é\n\0 ") for _ in range(chance.randrange(1, 40))),
        lambda: ".".join(str(chance.randrange(10**9)) for _ in range(size)),
    ]
    return chance.choice(makers)()


ODD_RULES: tuple[Callable[[], Any], ...] = (
    lambda: wb.WeightConverter("experts.*.w", "experts.w", [wb.MergeModulelist(0)]),
    lambda: wb.WeightConverter("experts.*.w", "experts.w", [wb.Concatenate(0)]),
    lambda: wb.WeightConverter("w", "experts.*.w", [wb.SplitModulelist(0)]),
    lambda: wb.WeightRenaming("experts.{i:int}.w", "experts.w"),
    lambda: wb.WeightRenaming("{a:**}.{b:**}.{c:**}.w", "{c}.{b}.{a}.w"),
    lambda: wb.WeightRenaming("{a:**}.{b:**}.{c:**}.{d:**}.{e:**}.z", "{c}.{b}.{a}.{d}.{e}.z"),
    lambda: wb.WeightRenaming("(.+)(.+)(.+)x", r"\1\2\3y"),
    lambda: wb.WeightRenaming("a.{i:int}", "b.{i+256}"),
    lambda: wb.WeightRenaming("{i:int}.{j:int}", "{j}.{i}"),
    lambda: wb.PrefixChange(prefix_to_add="model"),
    lambda: wb.PrefixChange(prefix_to_remove="model"),
    lambda: wb.GroupWeightRename(["a", "w"], ["w", "a"]),
)


def key_names(chance: Chance, folder: Path) -> tuple[str, Run]:
    keys = [odd_key(chance) for _ in range(chance.changes(1, 2, 5))] or ["model.w"]
    if chance.random() < 0.1:
        keys += [f"unlike{chance.random()}.{n}" for n in range(2000)]
    specs = {key: wb.TensorSpec("F32", (2, 3)) for key in keys}
    rules = [make() for make in dict.fromkeys(chance.choice(ODD_RULES) for _ in range(chance.changes(1, 2, 3)))]
    wanted = {f"other.{key[:50]}": spec for key, spec in specs.items()} | {"model.experts.w": specs[keys[0]]}
    has_target = chance.random() < 0.4

    def run() -> None:
        source = wb.Header(specs)
        try:
            plan = wb.plan(source, rules, wb.Header(wanted)) if has_target else plan_it(source, rules)
        except wb.PlanError as refused:
            str(refused)
        else:
            plan.inverse(lossy=True)
        str(wb.detect(source))

    shown = [key if len(key) < 60 else f"{key[:30]}… ({len(key)} characters)" for key in keys[:5]]
    return f"keys {shown} rules {rules}", run


def many_axes(chance: Chance, folder: Path) -> tuple[str, Run]:
    """A shape of many axes, or of axes that come to nothing."""
    axes = chance.choice((100, 10_000, 300_000))
    shape = chance.choice(([1] * axes, [2**40] * 3, [0] + [2**62] * 4, [1] * axes + [6]))
    size = 24 if shape[-1] == 6 else 4
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, size if 0 not in shape else 0]}
    path = folder / "model.safetensors"
    path.write_bytes(safetensors({"w": entry}, entry["data_offsets"][1]))
    rule = chance.choice((wb.Reshape((-1,)), wb.Interleave(0), wb.SplitModulelist(0), wb.Transpose(0, 1)))
    star = ".*" if isinstance(rule, wb.SplitModulelist) else ""
    return f"a shape of {len(shape)} axes, {rule}", lambda: plan_it(path, [wb.WeightConverter("w", f"v{star}", [rule])])


ATTACKS: dict[str, Attack] = {
    "header": Attack(header),
    "index": Attack(index),
    "inventory": Attack(inventory),
    "torch file": Attack(torch_file, with_torch=True),
    "receipt": Attack(receipt, with_torch=True),
    "plan": Attack(plan_text),
    "mapping file": Attack(mapping_file),
    "key names": Attack(key_names),
    "many axes": Attack(many_axes),
    "strange directory": Attack(strange_directory, with_torch=True),
}
"""Every kind of input by its name."""
