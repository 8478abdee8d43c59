"""What is logged: a line for each stage, under one name, and nothing on the screen unless it is asked for."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import weighbridge as wb
from weighbridge.cli.printing import Output, reporting

PACKAGES = Path(wb.__file__).parents[1]
MAPPING = wb.Mapping([wb.PrefixChange(prefix_to_remove="inner"), wb.WeightRenaming("old", "new")], name="plain")
PLANNED = 'planned "plain": 2 -> 2 tensors, reading: mapped, exact'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A checkpoint of a linear layer."""
    path = tmp_path / "model.safetensors"
    save_file({"inner.weight": torch.ones(2, 3), "inner.bias": torch.ones(2)}, path)
    return path


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert all(name.startswith("weighbridge.") for name, _, _ in caplog.record_tuples)
    return [record.getMessage() for record in caplog.records]


def test_every_stage_gives_a_line(place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="weighbridge")
    out = wb.convert(place, tmp_path / "out", MAPPING, digests=True)
    assert wb.verify(out)
    wb.revert(out, tmp_path / "back")
    found = lines(caplog)
    assert found[:2] == [f"opened {place}: 2 tensors, 32 bytes", PLANNED]
    assert re.fullmatch(rf"writing {re.escape(str(out))}: \d+ bytes in 1 file", found[2])
    assert found[3:] == [
        f"wrote {out}",
        f"opened {out}: 2 tensors, 32 bytes",
        f'read the receipt {out / "weighbridge.json"} of mapping "plain"',
        found[6],
        *2
        * (
            f"opened {out}: 2 tensors, 32 bytes",
            f'read the receipt {out / "weighbridge.json"} of mapping "plain"',
        ),
        found[11],
        found[12],
        f"wrote {tmp_path / 'back'}",
    ]
    assert all(found[number].startswith("comparing 2 tensors, ") for number in (6, 11)), "what is reverted is verified"
    assert found[12].startswith(f"writing {tmp_path / 'back'}: ")


def test_loading_gives_a_line_and_its_rules_for_debugging(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="weighbridge")
    model = torch.nn.Linear(3, 2)
    wb.load(model, place, MAPPING, drop=["inner.bias"], initialise=["bias"])
    assert lines(caplog)[-4:] == [
        "rule 1 fired in 1 of 1 steps: PrefixChange(remove inner)",
        "rule 2 fired in 0 of 1 steps: WeightRenaming(old -> new)",
        f"loaded {place} into a Linear: 1 tensor, 24 bytes",
        'left as it is: bias, by "bias"',
    ]


def test_nothing_is_printed_by_default(place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wb.convert(place, tmp_path / "out", MAPPING)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert logging.getLogger("weighbridge").handlers == []


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        (Output(), ["careful"]),
        (Output(quiet=True), []),
        (Output(verbose=1), ["step", "careful"]),
        (Output(verbose=2), ["detail", "step", "careful"]),
        (Output(quiet=True, verbose=1), ["step", "careful"]),
    ],
)
def test_command_shows_what_was_asked_for(output: Output, shown: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("weighbridge")
    before = (logger.level, logger.propagate)
    with reporting(output):
        child = logging.getLogger("weighbridge.part")
        child.debug("detail")
        child.info("step")
        child.warning("%s", "careful")
    out, err = capsys.readouterr()
    assert (out, [re.sub(r"^ *\d+\.\d{3} s  ", "", line) for line in err.splitlines()]) == ("", shown)
    assert (logger.handlers, logger.level, logger.propagate) == ([], *before)


def test_log_lines_do_nothing_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with reporting(Output()):
        logging.getLogger("weighbridge").warning("a key: %s", "a\x1b[31m\nb")
    assert capsys.readouterr().err == "a key: a\\x1b[31m\\nb\n"


def test_verbose_command_answers_on_stdout_as_before(place: Path) -> None:
    (place.parent / "plain.json").write_text(json.dumps(MAPPING.to_dict()))
    command = [sys.executable, "-m", "weighbridge", "plan", place.name, "plain.json"]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGES)}
    plain, verbose = (
        subprocess.run(
            [*command, *options], cwd=place.parent, env=environment, capture_output=True, text=True, check=True
        )
        for options in ([], ["-v"])
    )
    assert (plain.stdout, plain.stderr) == (verbose.stdout, "")
    times, texts = zip(*(line.split(" s  ", 1) for line in verbose.stderr.splitlines()), strict=True)
    assert texts == ("opened model.safetensors: 2 tensors, 32 bytes", PLANNED)
    assert sorted(map(float, times)) == list(map(float, times))


def test_package_says_that_it_is_typed() -> None:
    assert (PACKAGES / "weighbridge" / "py.typed").is_file()
