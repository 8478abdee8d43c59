"""What the library casts on loading: said, kept where its classes say so, and never infinite in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

import weighbridge as wb
from weighbridge.api import loaded_plan
from weighbridge.integrations import transformers as wbt

pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own, of which it has many


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A small T5, whose class keeps `wo` in F32 where the others become F16."""
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 12, "num_heads": 2, "num_layers": 1, "vocab_size": 16}
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes))
    model.save_pretrained(tmp_path / "small")
    return tmp_path / "small"


def test_what_a_class_keeps_in_f32_is_kept_and_the_rest_is_said_to_be_rounded(small: Path, caplog):
    ours = wbt.from_pretrained(transformers.T5ForConditionalGeneration, small, dtype=torch.float16)
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(small, dtype=torch.float16)
    for key, tensor in theirs.state_dict().items():
        assert ours.state_dict()[key].dtype == tensor.dtype, key
        assert ours.state_dict()[key].equal(tensor), key
    dtypes = {key: spec.dtype for key, spec in loaded_plan(ours).target.items()}
    assert {dtype for key, dtype in dtypes.items() if ".wo." in key} == {"F32"}
    assert {dtype for key, dtype in dtypes.items() if ".wo." not in key} == {"F16"}
    (said,) = [line for line in caplog.messages if "rounded from F32 to F16" in line]
    assert "wo.weight" not in said


def test_a_value_beyond_the_range_is_not_loaded_in_silence(small: Path, tmp_path: Path):
    model = transformers.T5ForConditionalGeneration.from_pretrained(small)
    model.shared.weight.data[3, 1] = 1e6
    model.save_pretrained(tmp_path / "large")
    with pytest.raises(wb.PlanError) as caught:
        wbt.from_pretrained(transformers.T5ForConditionalGeneration, tmp_path / "large", dtype=torch.float16)
    assert (caught.value.code, caught.value.where) == ("cast-overflow", "shared.weight")
    made = wbt.from_pretrained(
        transformers.T5ForConditionalGeneration, tmp_path / "large", dtype=torch.float16, allow_overflow=True
    )
    assert made.shared.weight[3, 1].isinf()
