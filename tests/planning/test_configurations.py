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


ROPE = """
name: rope
transforms:
  - convert: q
    to: q
    with: [PermuteForRope: {num_heads: heads, subconfig_key: text_config}]
"""


@pytest.mark.parametrize(
    ("config", "target_config", "given", "heads"),
    [
        (None, None, ("--set", "text_config.heads=3"), 3),
        ({"text_config": {"heads": 2, "dim": 7}}, None, ("--set", "text_config.heads=3"), 3),
        ({"text_config": {"heads": 2}}, {"text_config": {"heads": 6}}, (), 6),
        ({"text_config": {"heads": 2}}, {"text_config": {"heads": 6}}, ("--set", "text_config.heads=1"), 1),
        ({"text_config": {"heads": 2}}, None, ("--config", "own.json", "--set", "text_config.heads=2"), 2),
    ],
)
def test_a_setting_is_laid_over_the_configuration(
    tmp_path: Path, config: object, target_config: object, given: tuple[str, ...], heads: int
):
    directory(tmp_path / "source", None)
    (tmp_path / "rope.yaml").write_text(ROPE)
    (tmp_path / "own.json").write_text('{"text_config": {"heads": 3}}')
    if config is not None:
        (tmp_path / "source" / "config.json").write_text(json.dumps(config))
    if target_config is not None:
        directory(tmp_path / "target", None)
        (tmp_path / "target" / "config.json").write_text(json.dumps(target_config))
        given = (*given, "--target", "target")
    arguments = "rope.yaml", *given, "--layout", "mapped"
    ran = run(tmp_path, "convert", "source", "out", *arguments)
    assert ran.status == 0, ran.err
    assert load_file(tmp_path / "out" / "model.safetensors")["q"].equal(permuted(heads))
    assert run(tmp_path, "revert", "out", "back", "--quiet").status == 0
    assert load_file(tmp_path / "back" / "model.safetensors")["q"].equal(WEIGHT)
    assert run(tmp_path, "plan", "source", *arguments).status == 0
    assert run(tmp_path, "plan", "source", *arguments, "--html", "page.html", "--quiet").status == 0
    explained = run(tmp_path, "explain", "source", arguments[0], "q", *arguments[1:])
    assert "fired" in explained.out, explained.err
    if target_config is None:
        assert run(tmp_path, "diff", "source", "out", "--through", *arguments).status == 0
        assert run(tmp_path, "diff", "source", "back", "--through", *arguments).status == int(heads != 1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("text_config.head=3",), ("no rule asks for this", "text_config.head; asked for: text_config.heads")),
        (("text_config.heads=3", "vocab_size=7"), ("no rule asks for this", "got       vocab_size\n")),
        (("heads",), ("this sets nothing", "'heads'")),
        (("=3",), ("this sets nothing", "'=3'")),
        (("text_config..heads=3",), ("this sets nothing", "'text_config..heads=3'")),
        (("text_config.heads=three",), ("this is no value", "'three'")),
        (("text_config.heads=NaN",), ("this is no value", "'NaN'")),
        (("text_config.heads=3", "text_config.heads=3"), ("two values for one name", "text_config.heads")),
        (("text_config={}", "text_config.heads=3"), ("two values for one name", "text_config.heads")),
        (("model_type.heads=3",), ("it leads nowhere @ model_type", "'small'")),
        (("text_config.heads=0",), ("operation-config", "0")),
    ],
)
def test_a_setting_that_says_nothing_is_refused(tmp_path: Path, given: tuple[str, ...], said: tuple[str, ...]):
    directory(tmp_path / "source", None)
    (tmp_path / "source" / "config.json").write_text('{"model_type": "small", "text_config": {"heads": 2}}')
    (tmp_path / "rope.yaml").write_text(ROPE)
    flags = [word for text in given for word in ("--set", text)]
    for command in (("convert", "source", "out", "rope.yaml"), ("explain", "source", "rope.yaml", "q")):
        ran = run(tmp_path, *command, *flags, "--layout", "mapped")
        assert ran.status in (2, 3)
        assert [part for part in said if part not in ran.err] == [], ran.err
    assert not (tmp_path / "out").exists()


def test_what_is_lacking_can_be_set_as_the_error_says(tmp_path: Path):
    directory(tmp_path / "source", None)
    (tmp_path / "source" / "config.json").write_text('{"text_config": {"dim": 2}}')
    (tmp_path / "rope.yaml").write_text(ROPE)
    lacking = run(tmp_path, "convert", "source", "out", "rope.yaml", "--layout", "mapped")
    assert "give --set text_config.heads=NUMBER" in lacking.err
    unread = "--config", "rope.yaml", "--set", "text_config.heads=2"
    assert run(tmp_path, "convert", "source", "out", "rope.yaml", *unread).status == 2
    (tmp_path / "source" / "config.json").write_text("{")
    broken = run(tmp_path, "convert", "source", "out", "rope.yaml", "--set", "text_config.heads=2")
    assert (broken.status, "cannot be read" in broken.err) == (2, True)
    assert run(tmp_path, "diff", "source", "source", "--set", "text_config.heads=2").status == 2
