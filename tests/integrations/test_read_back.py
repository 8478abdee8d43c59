"""What we write, we read: a base model's file in a head model, saved, and loaded again, by us and by the library."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from corpus import Case, CrossLoad, build_model, cross_loads

import weighbridge as wb
from weighbridge.integrations import transformers as wbt

SMALL = {"vocab_size": 48, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT = transformers.BertConfig(**SMALL, max_position_embeddings=12, num_labels=3)
LLAMA = transformers.LlamaConfig(**SMALL, num_labels=3, pad_token_id=0)
GPT2 = transformers.GPT2Config(
    vocab_size=48, n_embd=16, n_layer=2, n_head=2, n_positions=12, num_labels=3, pad_token_id=0,
    bos_token_id=1, eos_token_id=2,
)  # fmt: skip
T5 = transformers.T5Config(vocab_size=48, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)

PAIRS: dict[str, tuple[Any, Any, Any]] = {
    "bert-classifier": (transformers.BertModel, transformers.BertForSequenceClassification, BERT),
    "bert-pretraining": (transformers.BertModel, transformers.BertForPreTraining, BERT),
    "gpt2-classifier": (transformers.GPT2Model, transformers.GPT2ForSequenceClassification, GPT2),
    "gpt2-tied-head": (transformers.GPT2Model, transformers.GPT2LMHeadModel, GPT2),
    "llama-classifier": (transformers.LlamaModel, transformers.LlamaForSequenceClassification, LLAMA),
    "llama-head": (transformers.LlamaModel, transformers.LlamaForCausalLM, LLAMA),
    "t5-encoder": (transformers.T5EncoderModel, transformers.T5ForConditionalGeneration, T5),
}


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in one.state_dict().items())


@pytest.mark.parametrize("pair", PAIRS)
def test_c1_a_base_models_file_in_a_head_model_is_read_back_once_it_is_saved(pair: str, tmp_path: Path) -> None:
    base, head, config = PAIRS[pair]
    torch.manual_seed(7)
    base(config).save_pretrained(tmp_path / "base")
    model = wbt.from_pretrained(head, tmp_path / "base", partial=True)
    saved = wbt.save_pretrained(model, tmp_path / "saved")
    assert equal(model, wbt.from_pretrained(head, saved))
    theirs, info = head.from_pretrained(saved, output_loading_info=True)
    assert not info["missing_keys"]
    assert equal(model, theirs)


def test_c1_a_prefix_that_no_key_of_the_file_had_is_no_part_of_new_names(tmp_path: Path) -> None:
    """The library takes `new.` from GTE's oldest files; with it before the new weights alone nothing could be saved."""
    base, head = (getattr(transformers, f"Gte{name}", None) for name in ("Model", "ForSequenceClassification"))
    if base is None or head is None:
        pytest.skip("needs a transformers with GteModel")
    config = transformers.GteConfig(**SMALL, max_position_embeddings=12, num_labels=3)
    base(config).save_pretrained(tmp_path / "base")
    model = wbt.from_pretrained(head, tmp_path / "base", partial=True)
    saved = wbt.save_pretrained(model, tmp_path / "saved")
    assert not any(key.startswith("new.") for key in wb.open(saved).header)
    assert equal(model, wbt.from_pretrained(head, saved))
    assert equal(model, head.from_pretrained(saved))


@pytest.mark.parametrize("pair", ["bert-classifier", "gpt2-classifier", "llama-head"])
def test_c1_the_same_holds_for_a_model_of_its_own(pair: str, tmp_path: Path) -> None:
    base, head, config = PAIRS[pair]
    base(config).save_pretrained(tmp_path / "base")
    model, again = head(config), head(config)
    wb.load(model, tmp_path / "base", partial=True)
    wb.load(again, wb.save(model, tmp_path / "saved"))
    assert equal(model, again)


def test_c1_a_published_file_of_bare_names_and_a_head_is_read_by_the_whole_key_set(tmp_path: Path) -> None:
    """`score.weight` beside bare names, as files of GPT-2 classifiers have it: no key alone says what it is."""
    model = transformers.GPT2ForSequenceClassification(GPT2)
    bare = {key.removeprefix("transformer."): value for key, value in model.state_dict().items()}
    plan = wb.plan(bare, "gpt2", model, base_prefix="transformer")
    assert plan.reading.endswith("with transformer. added")
    assert {step.targets[0] for step in plan.steps} == set(model.state_dict())
    back = plan.inverse(plan.state_dict()).state_dict()
    assert wb.verify(back, bare)


# ---- every family of the corpus: a head's file in its base model, and the other way round ----

LOADS = cross_loads() if os.environ.get("HYPOTHESIS_PROFILE") == "search" else cross_loads()[::16]
"""Pairs of classes; the search profile takes all of them."""


def written_by_the_library(load: CrossLoad, folder: Path) -> Path:
    """Save a model of a pair's second class, for the first one to load it."""
    torch.manual_seed(5)
    build_model(load.target_class, Case.named(load.source).path, own_config=True).save_pretrained(folder)
    return folder


@pytest.mark.corpus
@pytest.mark.filterwarnings("ignore")  # the library's own, of which it has many
@pytest.mark.parametrize("is_back", [False, True], ids=["there", "back"])
@pytest.mark.parametrize("load", LOADS, ids=lambda load: f"{load.source}-{load.target_class}")
def test_a_file_of_another_class_is_read_back_once_it_is_saved(load: CrossLoad, is_back: bool, tmp_path: Path) -> None:
    """By us strictly, from each layout that it can be saved in; from the published one by the library as well."""
    case = Case.named(load.source)
    kind = getattr(transformers, case.facts["class"] if is_back else load.target_class)
    path = written_by_the_library(load, tmp_path / "file") if is_back else case.path
    config = kind.config_class.from_pretrained(case.path)
    torch.manual_seed(7)
    try:
        model = wbt.from_pretrained(kind, path, config=config, partial=True)
    except wb.PlanError:
        pytest.skip("the two classes share nothing that can be loaded")
    for layout in (None, "as loaded", "as is"):
        saved = wbt.save_pretrained(model, tmp_path / str(layout), layout=layout, sync=False)
        assert equal(model, wbt.from_pretrained(kind, saved, config=config)), layout
    if load.avoidably_missing and not is_back:
        return  # the library does not read the published names of this class, whoever wrote them
    theirs, info = kind.from_pretrained(tmp_path / "None", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert equal(model, theirs)
