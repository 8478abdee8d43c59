"""Checkpoint directories with something strange beside the weights: links, pipes, nests, huge files, odd names."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from hostile_changes import Chance, Run, look_at, safetensors, table

import weighbridge as wb


def strange_directory(chance: Chance, folder: Path) -> tuple[str, Run]:
    """A checkpoint with something strange beside it."""
    place, secret = folder / "model", folder / "secret"
    place.mkdir()
    secret.write_text("secret")
    (place / "model.safetensors").write_bytes(safetensors(table(), 72))
    said = [chance.choice(STRANGE)(chance, place, secret) for _ in range(chance.changes(1, 1, 2, 3))]
    out = folder / "out"

    def convert() -> None:
        wb.convert(place, out, [wb.WeightRenaming("gamma", "weight")], sync=False)
        held = [path for path in out.rglob("*") if path.is_file() and path.read_bytes() == b"secret"]
        assert not held, f"a file from outside was copied: {held[0].name}"
        wb.revert(out, folder / "back", sync=False)

    return f"directory with {', '.join(said)}", chance.choice((convert, convert, lambda: look_at(place)))


def _link(chance: Chance, place: Path, secret: Path) -> str:
    name = chance.choice(("config.json", "vocab.txt", "model.safetensors", "sub"))
    goal = chance.choice((str(secret), "../secret", ".", "..", "loop", "/dev/zero", "/dev/tty", "model.safetensors"))
    path = place / name
    if path.is_dir() and not path.is_symlink():
        return "nothing"
    path.unlink(missing_ok=True)
    path.symlink_to(goal)
    return f"link {name} -> {goal.replace(str(secret), 'SECRET')}"


def _blob(chance: Chance, place: Path, secret: Path) -> str:
    """The way a hub's cache lays links out, with one of them to the outside."""
    goal = chance.choice(("../home", str(secret.parent), "blobs"))
    (place.parent / "blobs").symlink_to(goal) if not (place.parent / "blobs").is_symlink() else None
    if (place / "config.json").is_dir():
        return "nothing"
    (place / "config.json").unlink(missing_ok=True)
    (place / "config.json").symlink_to("../blobs/secret")
    return f"config.json -> ../blobs/secret, blobs -> {goal.replace(str(secret.parent), 'PARENT')}"


def _special(chance: Chance, place: Path, secret: Path) -> str:
    name = chance.choice(("config.json", "model.safetensors.index.json", "weighbridge.json", "x.safetensors", "a.fifo"))
    path = place / name
    if path.exists() or path.is_symlink():
        return "nothing"
    kind = chance.choice(("fifo", "socket", "directory"))
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as server:
            here = Path.cwd()
            os.chdir(place)
            server.bind(name)
            os.chdir(here)
    return f"{kind} {name}"


def _deep(chance: Chance, place: Path, secret: Path) -> str:
    depth = chance.choice((20, 300, 1100))
    name = f"d{len(list(place.iterdir()))}"
    here = Path.cwd()
    os.chdir(place)
    for _ in range(depth):
        Path(name).mkdir()
        os.chdir(name)
    os.chdir(here)
    return f"{depth} nested directories"


def _large(chance: Chance, place: Path, secret: Path) -> str:
    name = chance.choice(("config.json", "model.safetensors.index.json", "optimizer.pt", "weighbridge.json"))
    path = place / name
    if path.exists() or path.is_symlink():
        return "nothing"
    path.touch()
    os.truncate(path, chance.choice((2**31, 2**40)))
    return f"{name} of {path.stat().st_size} bytes"


def _named(chance: Chance, place: Path, secret: Path) -> str:
    name = chance.choice(("weighbridge-partial.json", ".weighbridge", "a\nb", "weighbridge.json", "é" * 100, "x.json"))
    path = place / name
    if not path.exists() and not path.is_symlink():
        path.write_text("{}")
    return f"file {name!r}"


STRANGE = (_link, _link, _blob, _special, _special, _deep, _large, _named)
