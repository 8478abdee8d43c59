"""Why an outcome is not "ok", as data: each entry was looked at, and says whose it is to mend.

Whose is one of

    ours      weighbridge should do better
    theirs    the library's table, or its class, is wrong or incomplete; ours is right, or there is no right
    neither   both are right, and differ for a reason
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Final, Literal, NamedTuple

from sweeping.totals import kind_of


class Reason(NamedTuple):
    """Why some outcomes of some classes are what they are.

    Args:
        classes: Names of classes, with `*` for any letters.
        checks: Names of checks.
        whose: Whose it is to mend.
        why: What happens, in a sentence or two.
        code: The code of the outcome; empty for any.
        says: A regular expression for what stands in the outcome; empty for anything.
    """

    classes: tuple[str, ...]
    checks: tuple[str, ...]
    whose: Literal["ours", "theirs", "neither"]
    why: str
    code: str = ""
    says: str = ""


REASONS: Final = (
    Reason(
        ("*",),
        ("names",),
        "neither",
        "A new model is saved as its class is published: its tower has `vision_model.` or `text_model.` before its "
        "names. The library leaves that out, and reads both.",
        code="differs",
        says=r'"ours": \["([\w.]*\.)?(vision|text)_model\.embeddings\.',
    ),
    Reason(
        ("ColQwen2ForRetrieval",),
        ("names",),
        "neither",
        "Published as `vlm.model.language_model.`; the library leaves the inner `model.` out, and reads both.",
        code="differs",
    ),
    Reason(
        ("Qwen2_5_VL*", "Qwen2VL*", "Qwen2_5Omni*"),
        ("names",),
        "neither",
        "Published with `model.` before the names of the language model, and no `language_model.`; of the base class "
        "the library writes its own names, and reads both.",
        code="differs",
        says=r'"ours": \["(\w+\.)?model\.embed_tokens',
    ),
    Reason(
        ("AltCLIPTextModel", "ConditionalDetr*coder", "Detr*coder", "Qwen3VLMoeTextModel"),
        ("saved",),
        "neither",
        "A part of a model, saved alone. The names that it has inside a published model are read by us alone, so "
        'it is saved as the library does; `layout="published"` gives the others.',
        code="as the library saves it",
    ),
    Reason(
        ("AltCLIPModel", "ViTMAEForPreTraining", "ViTMSNForImageClassification"),
        ("library",),
        "theirs",
        "The library writes names that no published file has (see below). They are read by its own rules, and go back.",
        code="as the library reads it",
    ),
    Reason(
        ("AltCLIPModel",),
        ("names",),
        "theirs",
        "The library's rule `layer -> layers` is meant for the text tower; saving renames the vision tower as well. "
        "Ours are the published names.",
    ),
    Reason(
        ("Qwen3VLMoe*",),
        ("names", "values"),
        "theirs",
        "The library transposes experts on loading, and leaves them as they are on saving, since their shape is the "
        "model's then. Ours are transposed back, as they are published.",
        says="shapes|experts",
    ),
    Reason(
        ("ViTMAEForPreTraining", "ViTMSN*"),
        ("names",),
        "theirs",
        "The library's reverse gives names that no published file has: `decoder_encoder.layer` for `decoder_layers`, "
        "or no `vit.` before the base model's. Ours are the published ones.",
        code="differs",
    ),
    Reason(
        ("ViTMSNForImageClassification",),
        ("base",),
        "theirs",
        "The library's own file has the blocks without `vit.` before them and all else with it. As the base model's "
        "file either half could be meant: an error that says so. The class itself reads the file.",
        code="layout-ambiguous",
    ),
    Reason(
        ("OlmoHybrid*", "Molmo2*"),
        ("names", "values"),
        "theirs",
        "The library cuts a joined tensor into equal parts on saving, though the parts are not equal. Ours have the "
        "sizes that the configuration says.",
        says=r"conv1d|embedding",
    ),
    Reason(
        ("Dory*",),
        ("names", "values"),
        "theirs",
        "The library joins the two halves of a layer on loading and does not part them on saving. Ours are the "
        "published names.",
    ),
    Reason(
        ("OpenAIGPTDoubleHeadsModel",),
        ("base",),
        "theirs",
        "The library saves the embedding under the head's name alone, which the base model does not have.",
        code="incomplete",
        says="tokens_embed",
    ),
    Reason(
        ("MarianMTModel",),
        ("base",),
        "theirs",
        "The file has no position tables, which are computed. The class says so, and its base class does not: there "
        "they are named as weights that nothing fills.",
        code="incomplete",
        says="embed_positions",
    ),
    Reason(
        ("PixioBackbone",),
        ("head", "base"),
        "theirs",
        "The library's rule `encoder. -> pixio.` is written for whole models; with the bare names of a backbone two "
        "last norms would come to one name, or two readings fit: an error that says so.",
        says="layout-ambiguous|target-collision",
    ),
    Reason(
        ("SwinBackbone",),
        ("base",),
        "neither",
        "A backbone's file has no last norm, since a backbone never uses it; Swin itself does.",
        code="incomplete",
        says="layernorm",
    ),
    Reason(
        ("Inkling2*",),
        ("saved", "names", "library", "again", "head", "base", "values"),
        "ours",
        "The library has operations for this family that weighbridge does not understand (`Inkling2UnpadVocab`, "
        "`Inkling2LoopMergeMessageQueries`): what they make is refused, and all else works.",
        says="is_not_understood|experts|plan-failed",
    ),
    Reason(
        ("ShieldGemma2ForImageClassification",),
        ("names",),
        "theirs",
        "The library puts `model.` before its names twice on saving. Ours are the published names.",
        code="differs",
    ),
)


def reason_for(line: Mapping[str, Any], check: str) -> Reason | None:
    """Return the first entry that speaks of a class's outcome."""
    outcome = line[check]
    for reason in REASONS:
        is_asked = check in reason.checks and reason.code in ("", kind_of(outcome))
        is_meant = is_asked and any(fnmatchcase(line["class"], pattern) for pattern in reason.classes)
        if is_meant and re.search(reason.says, json.dumps(outcome)):
            return reason
    return None
