"""The example of each command's help, run as it is printed; and completion, asked for by a real shell."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import torch
import typer
from command import environment, run
from safetensors.torch import save_file
from typer.testing import CliRunner

import weighbridge as wb
from weighbridge.cli.app import app

EXPERTS: Final = 3


def published() -> dict[str, torch.Tensor]:
    """A Mixture-of-Experts model of one layer, under the names that it is published with."""
    dice = torch.Generator().manual_seed(5)
    shapes = {
        "model.embed_tokens.weight": (11, 4),
        "model.layers.0.input_layernorm.weight": (4,),
        "model.layers.0.mlp.gate.weight": (EXPERTS, 4),
        "model.norm.weight": (4,),
        "lm_head.weight": (11, 4),
    }
    shapes |= {f"model.layers.0.self_attn.{name}_proj.weight": (4, 4) for name in "qkvo"}
    shapes |= {f"model.layers.0.{name}.weight": (4,) for name in ("self_attn.q_norm", "self_attn.k_norm")}
    shapes["model.layers.0.post_attention_layernorm.weight"] = (4,)
    for number in range(EXPERTS):
        for name, shape in (("gate", (6, 4)), ("up", (6, 4)), ("down", (4, 6))):
            shapes[f"model.layers.0.mlp.experts.{number}.{name}_proj.weight"] = shape
    return {key: torch.randn(shape, generator=dice) for key, shape in shapes.items()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the examples read; each runs in a copy of it."""
    folder = tmp_path_factory.mktemp("examples")
    for name in ("model", "published"):
        (folder / name).mkdir()
        save_file(published(), folder / name / "model.safetensors", metadata={"format": "pt"})
        (folder / name / "config.json").write_text(
            '{"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"]}'
        )
    wb.convert(folder / "model", folder / "converted", "qwen3_moe")
    wb.revert(folder / "converted", folder / "back")
    for name in ("other", "wanted"):
        shutil.copytree(folder / "converted", folder / name)
    (folder / "fix.yaml").write_text("name: fix\ntransforms:\n  - rename: gamma\n    to: weight\n")
    return folder


class Wanted(NamedTuple):
    """What an example must come to.

    Args:
        printed: A regular expression for its output.
        makes: What it writes, relative to the folder; it is not there before.
    """

    printed: str
    makes: str = ""


EXAMPLES: Final = {
    "": Wanted(r"model\.embed_tokens\.weight"),
    "inspect": Wanted(r"model\.layers\.0\.mlp\.experts\.\{0\.\.2\}\.\{gate_proj,up_proj\}\.weight"),
    "detect": Wanted(r"^qwen3_moe: published layout"),
    "plan": Wanted(r"plan +qwen3_moe: 21 -> 14 tensors"),
    "explain": Wanted(r"model\.layers\.0\.mlp\.experts\.gate_up_proj\[2, 6:12, :\] <- "),
    "convert": Wanted(r"wrote +converted/: 14 tensors", "converted/model.safetensors"),
    "revert": Wanted(r"wrote +back/: 21 tensors", "back/model.safetensors"),
    "verify": Wanted(r"equal: 21 tensors"),
    "diff": Wanted(r"^equal: 14 equal"),
    "infer": Wanted(r"14 of 14 targets by 2 rules; run, and equal bit for bit", "mapping.yaml"),
    "new": Wanted(r"sketched +2 rules", "mapping.yaml"),
    "lint": Wanted(r"qwen3_moe: 2 rules, 21 real keys: clean"),
    "mapping": Wanted(r"^qwen3_moe "),
    "mapping list": Wanted(r"^qwen3_moe "),
    "mapping show": Wanted(r"MergeModulelist"),
    "mapping export": Wanted(r"qwen3_moe\.yaml", "qwen3_moe.yaml"),
    "mapping import": Wanted(r"name: fix"),
    "mapping schema": Wanted(r'"\$schema"'),
}
"""For each command, by its words."""


def commands(node: Any, words: str = "") -> Iterator[str]:
    """Yield the words of a command, and of all that are below it."""
    yield words
    if hasattr(node, "list_commands"):
        context = typer.Context(node)
        for name in node.list_commands(context):
            yield from commands(node.get_command(context, name), f"{words} {name}".strip())


def examples(words: str) -> list[str]:
    """Return the examples that a command's help prints, on a terminal that is wide enough for them."""
    ran = CliRunner().invoke(app, [*words.split(), "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert ran.exit_code == 0
    return re.findall(r"^ Example: (weighbridge .*?) *$", ran.stdout, re.MULTILINE)


def test_each_command_has_an_expectation() -> None:
    assert set(commands(typer.main.get_command(app))) == set(EXAMPLES)


@pytest.mark.parametrize("words", EXAMPLES)
def test_example_of_the_help_does_what_it_says(words: str, world: Path, tmp_path: Path) -> None:
    folder, wanted = tmp_path / "here", EXAMPLES[words]
    shutil.copytree(world, folder)
    if wanted.makes:
        shutil.rmtree(folder / wanted.makes.split("/")[0], ignore_errors=True)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found = examples(words)
    assert found
    for line in found:
        program, *arguments = shlex.split(line)
        assert program == "weighbridge"
        assert " ".join(arguments).startswith(words)
        ran = run(folder, *arguments)
        assert (ran.status, ran.err) == (0, "")
        assert re.search(wanted.printed, ran.out, re.MULTILINE), ran.out
    assert not wanted.makes or (folder / wanted.makes).is_file()
    assert {path: path.read_bytes() for path in before} == before


# Completion


@pytest.fixture
def path_with_command(tmp_path: Path) -> str:
    """A search path on which `weighbridge` is the command, as an installed package puts it there."""
    program = tmp_path / "bin" / "weighbridge"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m weighbridge "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return f"{program.parent}{os.pathsep}{os.environ['PATH']}"


COMPLETE = """
eval "$(_WEIGHBRIDGE_COMPLETE=source_bash weighbridge)"
function=$(complete -p weighbridge | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
COMP_WORDS=({words})
COMP_CWORD={last}
"$function" weighbridge
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("weighbridge ''", {"inspect", "convert", "mapping"}),
        ("weighbridge con", {"convert"}),
        ("weighbridge mapping ex", {"export"}),
        ("weighbridge convert --res", {"--resume"}),
        ("weighbridge plan model qwen3_", {"qwen3_moe"}),
    ],
)
def test_bash_completes_what_the_command_offers(
    words: str, offered: set[str], path_with_command: str, tmp_path: Path
) -> None:
    """The script that `--install-completion` installs is read by bash, and its function called like by the Tab key."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash, which this system lacks")
    script = COMPLETE.format(words=words, last=len(shlex.split(words)) - 1)
    ran = subprocess.run(
        [bash, "--norc", "-c", script],
        cwd=tmp_path,
        env=environment(PATH=path_with_command),
        capture_output=True,
        text=True,
        check=True,
    )
    found = set(ran.stdout.split())
    assert offered <= found
    assert ran.stderr == ""
    typed = shlex.split(words)[-1]
    assert all(word.startswith(typed) for word in found)
