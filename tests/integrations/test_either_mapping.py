"""Files of both kinds: as they were published, and as the library writes them, which may be neither that nor plain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

import weighbridge as wb
from weighbridge.integrations import transformers as wbt
from weighbridge.integrations.transformers_choice import plan_by_either
from weighbridge.planning.compiling import compile_plan
from weighbridge.planning.plan_options import Options

VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
IMAGE = {"image_size": 16, "patch_size": 4}
TEXT = {"vocab_size": 40, "max_position_embeddings": 32, "project_dim": 12, "pad_token_id": 1}
DECODER = {"decoder_hidden_size": 20, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}

MODELS: dict[str, tuple[str, Any]] = {
    "altclip": (
        "AltCLIPModel",
        transformers.AltCLIPConfig(
            text_config=VIT | TEXT, vision_config=VIT | IMAGE | {"projection_dim": 12}, projection_dim=12
        ),
    ),
    "vit-msn-classifier": ("ViTMSNForImageClassification", transformers.ViTMSNConfig(**VIT, **IMAGE, num_labels=3)),
    "vit-mae": ("ViTMAEForPreTraining", transformers.ViTMAEConfig(**VIT, **IMAGE, **DECODER)),
}


def make(name: str) -> tuple[Any, Any]:
    class_name, config = MODELS[name]
    cls = getattr(transformers, class_name)
    torch.manual_seed(5)
    return cls, cls(config)


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in one.state_dict().items())


def notes(model: torch.nn.Module) -> str:
    plan = wb.loaded_plan(model)
    assert plan is not None
    return "\n".join(plan.notes)


@pytest.mark.parametrize("name", MODELS)
def test_c7_what_the_library_writes_is_read_and_goes_back(name: str, tmp_path: Path) -> None:
    cls, model = make(name)
    model.save_pretrained(tmp_path / "theirs")
    loaded = wbt.from_pretrained(cls, tmp_path / "theirs")
    assert equal(model, loaded)
    assert "read by the rules of the library itself, as the mapping" in notes(loaded)
    assert "read by the rules of the library itself" in str(wb.loaded_plan(loaded).report)  # type: ignore[union-attr]
    back = load_file(wbt.save_pretrained(loaded, tmp_path / "back") / "model.safetensors")
    assert wb.verify(back, load_file(tmp_path / "theirs" / "model.safetensors"))


@pytest.mark.parametrize("name", MODELS)
def test_c7_what_we_write_is_read_by_our_own_mapping(name: str, tmp_path: Path) -> None:
    cls, model = make(name)
    again = wbt.from_pretrained(cls, wbt.save_pretrained(model, tmp_path / "ours"))
    assert equal(model, again)
    if name != "vit-mae":  # there is no family of that type, so that both are the library's
        assert "read by the rules of the library itself" not in notes(again)


def test_c7_a_partial_load_takes_what_leaves_less_open(tmp_path: Path) -> None:
    cls, model = make("vit-msn-classifier")
    model.save_pretrained(tmp_path / "theirs")
    loaded = wbt.from_pretrained(cls, tmp_path / "theirs", partial=True)
    assert equal(model, loaded)
    assert "read by the rules of the library itself" in notes(loaded)


def test_c7_a_partial_load_that_ours_fits_needs_no_rules_of_the_library() -> None:
    """What ours leaves over is no reason to fail where the library's own rules do not fit at all."""
    ours, theirs = wb.Mapping([wb.WeightRenaming("^old", "new")]), wb.Mapping([wb.WeightRenaming("^old", "lost")])
    source = wb.Header({key: wb.TensorSpec("F32", (2,)) for key in ("old.w", "head.w")})
    target = wb.Header({"new.w": wb.TensorSpec("F32", (2,))})

    def plan_by(rules: Any, note: str = "") -> Any:
        return compile_plan(source, rules, target, options=Options(partial=True, layout="mapped"))

    plan = plan_by_either(plan_by, ours, lambda: theirs, target, is_partial=True)
    assert plan.step_of_target.keys() == {"new.w", "head.w"}


def test_c7_where_neither_fits_the_error_is_that_of_our_mapping(tmp_path: Path) -> None:
    _, model = make("altclip")
    model.save_pretrained(tmp_path / "theirs")
    with pytest.raises(wb.WeighbridgeError) as caught:
        wbt.from_pretrained(
            transformers.ViTMSNForImageClassification, tmp_path / "theirs", config=MODELS["vit-msn-classifier"][1]
        )
    assert 'the mapping "vit_msn" does not fit' in str(caught.value)


def test_c7_what_else_is_wrong_is_no_reason_to_ask_the_library(tmp_path: Path) -> None:
    """A mapping that somebody gives stands alone, too."""
    cls, model = make("altclip")
    model.save_pretrained(tmp_path / "theirs")
    with pytest.raises(wb.WeighbridgeError, match="plan-failed"):
        wbt.from_pretrained(cls, tmp_path / "theirs", mapping=wb.resolve(model))
