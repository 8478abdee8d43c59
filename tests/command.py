"""The command, run as a process by any test: in a folder, with pipes or a terminal; and what its page documents."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import ROOT
from forked import COMMAND, forks
from hypothesis import strategies as st
from safetensors.numpy import save_file

import weighbridge

PACKAGES = str(Path(weighbridge.__file__).parents[1])
PAGE = (ROOT / "docs" / "command.md").read_text("utf-8")
SEGMENTS = st.sampled_from(["0", "1", "2", "3", "10", "up", "down", "q,r", "{x}", "a\\b", "w"])

MAPPINGS = """
from weighbridge import Concatenate, Mapping, WeightConverter, WeightRenaming

FUSED = Mapping(
    [
        WeightRenaming("norm.gamma", "norm.weight"),
        WeightConverter(["q.weight", "k.weight"], "qk.weight", [Concatenate(dim=0)]),
    ],
    name="fused",
)
HALF = [WeightRenaming("norm.gamma", "norm.weight")]

def make():
    return HALF
"""


class Ran(NamedTuple):
    """What a run of the command left: its status and its two streams."""

    status: int
    out: str
    err: str

    @property
    def form(self) -> Any:
        return json.loads(self.out)


def environment(**changes: str) -> dict[str, str]:
    inherited = {name: text for name, text in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    search = os.pathsep.join(path for path in (PACKAGES, changes.pop("PYTHONPATH", "")) if path)
    return {**inherited, "TERM": "xterm-256color", "PYTHONPATH": search, **changes}


def run(folder: Path, *arguments: str, **changes: str) -> Ran:
    """Run the command with files for its streams, in which there must never be a control sequence.

    In an environment of its own it is started afresh; else it is a fork of one process, which all runs share.
    """
    if changes:
        command = [sys.executable, "-m", "weighbridge", *arguments]
        ended = subprocess.run(command, cwd=folder, env=environment(**changes), capture_output=True, check=False)
        status, out, err = ended.returncode, ended.stdout, ended.stderr
    else:
        status, _, out, err = forks(COMMAND).run("weighbridge", arguments, folder, environment())
    ran = Ran(status, out.decode(), err.decode())
    assert "\x1b" not in ran.out + ran.err
    assert "Traceback" not in ran.err
    return ran


def run_on_terminal(folder: Path, *arguments: str, **changes: str) -> Ran:
    """Run the command with one pseudo-terminal for both streams."""
    pty = pytest.importorskip("pty", reason="needs pseudo-terminals, which this system lacks")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "weighbridge", *arguments]
    with subprocess.Popen(command, cwd=folder, env=environment(**changes), stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        text = b"".join(_read_all(ours))
    os.close(ours)
    return Ran(process.returncode, text.decode(), "")


def _read_all(descriptor: int) -> Iterator[bytes]:
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:
            return
        if not part:
            return
        yield part


def documented(command: str) -> set[str]:
    """The members of a command's JSON document, as the page lists them."""
    row = re.search(rf"^\| `{command}`(?:, `revert`)? \| (.*?)(?: \(each .*)? \|$", PAGE, re.MULTILINE)
    assert row is not None
    return set(re.findall("`([a-z_]+)`", row[1]))


def tensors() -> dict[str, np.ndarray]:
    values = np.arange(55, dtype=np.float32)
    made = {"embed.weight": values.reshape(11, 5)}
    for i in range(3):
        made[f"layers.{i}.q.weight"] = values[:30].reshape(6, 5) + i
        made[f"layers.{i}.k.weight"] = values[:20].reshape(4, 5) - i
        made[f"layers.{i}.norm.gamma"] = values[:5].astype(np.float16)
    return made


def fill(folder: Path) -> Path:
    """Write a checkpoint and a file of mappings."""
    (folder / "model").mkdir()
    save_file(tensors(), folder / "model" / "model.safetensors", metadata={"format": "pt"})
    (folder / "model" / "config.json").write_text('{"hidden_size": 5}')
    (folder / "maps.py").write_text(MAPPINGS)
    return folder
