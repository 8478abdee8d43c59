"""Where the sizes that operations read from a configuration come from: given, the target's, or the source's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command import run
from safetensors.torch import load_file, save_file

import weighbridge as wb

RULES = [wb.WeightConverter("q", "q", [wb.PermuteForRope()])]
WEIGHT = torch.arange(48.0).reshape(12, 4)


def permuted(heads: int) -> torch.Tensor:
    """What the operation does, in torch."""
    return WEIGHT.view(heads, 12 // heads // 2, 2, 4).transpose(1, 2).reshape(12, 4)


def directory(path: Path, heads: int | None) -> Path:
    path.mkdir()
    save_file({"q": WEIGHT}, path / "model.safetensors")
    if heads is not None:
        (path / "config.json").write_text(json.dumps({"num_attention_heads": heads}))
    return path


def test_a_configuration_is_read_from_a_file_or_a_directory(tmp_path: Path):
    bare, other = directory(tmp_path / "bare", None), directory(tmp_path / "other", 3)
    (tmp_path / "settings.json").write_text('{"num_attention_heads": 2}')
    for given, heads in ((tmp_path / "settings.json", 2), (str(other), 3), ({"num_attention_heads": 6}, 6)):
        for place in (bare, {"q": WEIGHT}):
            plan = wb.plan(place, RULES, config=given)
            assert plan.state_dict()["q"].equal(permuted(heads))
            assert plan.inverse().state_dict(plan.state_dict())["q"].equal(WEIGHT)
    model = torch.nn.Module()
    model.q = torch.nn.Parameter(torch.zeros(12, 4))
    wb.load(model, bare, RULES, config=tmp_path / "settings.json", layout="mapped")
    assert model.q.detach().equal(permuted(2))


def test_that_of_a_target_comes_before_that_of_the_source(tmp_path: Path):
    source, target = directory(tmp_path / "source", 2), directory(tmp_path / "target", 3)
    for place in (target, str(target), wb.open(target)):
        assert wb.plan(source, RULES, place, layout="mapped").state_dict()["q"].equal(permuted(3))
    for place in (None, directory(tmp_path / "bare", None), target / "model.safetensors"):
        plan = wb.plan(source, RULES, place, layout="mapped")
        assert plan.state_dict()["q"].equal(permuted(2)), place


@pytest.mark.parametrize("text", ["[1]", "{", ""])
def test_what_is_no_configuration_is_refused(text: str, tmp_path: Path):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(wb.WeighbridgeError) as caught:
        wb.plan({"q": WEIGHT}, RULES, config=tmp_path / "settings.json")
    assert (caught.value.code, caught.value.where) == ("usage", str(tmp_path / "settings.json"))
    with pytest.raises(wb.CheckpointError) as absent:
        wb.plan({"q": WEIGHT}, RULES, config=tmp_path / "absent.json")
    assert absent.value.code == "checkpoint-not-found"


def test_the_command_takes_one(tmp_path: Path):
    directory(tmp_path / "bare", None)
    (tmp_path / "settings.json").write_text('{"num_attention_heads": 2}')
    (tmp_path / "maps.py").write_text(
        "import weighbridge as wb\nROPE = [wb.WeightConverter('q', 'q', [wb.PermuteForRope()])]\n"
    )
    lacking = run(tmp_path, "plan", "bare", "maps.py:ROPE")
    assert "or give --config" in lacking.err
    given = "maps.py:ROPE", "--config", "settings.json"
    assert run(tmp_path, "convert", "bare", "out", *given, "--quiet").status == 0
    assert load_file(tmp_path / "out" / "model.safetensors")["q"].equal(permuted(2))
    assert run(tmp_path, "diff", "bare", "out", "--through", *given, "--layout", "mapped").status == 0
    assert run(tmp_path, "plan", "bare", *given, "--html", "plan.html", "--quiet").status == 0
