"""Act 2 of the demo: a mixture of experts, from one entry for each expert to the tensors that its model runs on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from demo_screen import Screen, file_hashes

import weighbridge as wb

if TYPE_CHECKING:
    import torch

MAPPING = wb.Mapping(
    [
        wb.WeightConverter(
            ["mlp.experts.*.gate_proj.weight", "mlp.experts.*.up_proj.weight"],
            "mlp.experts.gate_up_proj",
            [wb.MergeModulelist(dim=0), wb.Concatenate(dim=1)],
        ),
        wb.WeightConverter(
            "mlp.experts.*.down_proj.weight",
            "mlp.experts.down_proj",
            [wb.MergeModulelist(dim=0)],
        ),
    ],
    name="experts to fused",
)

SHARD_SIZE = "40KB"
"""Small, so that this small checkpoint comes in shards with an index."""


class MoeResult(NamedTuple):
    """What act 2 found; hashes are those of files by name.

    Args:
        untouched_difference: Largest absolute difference between the original's logits and a new model's, unloaded.
        converted_difference: The same after the converted file was loaded.
        mapped_difference: The same for a model that was loaded from the published files, through the mapping.
        equal: Whether both kinds of loaded logits are bit for bit those of the original.
        before: Of the published files.
        reverted: Of those which the converted checkpoint was reverted to.
        saved: Of those which were saved from the live model.
        saved_equal: Whether each saved tensor is that of the published files.
    """

    untouched_difference: float
    converted_difference: float
    mapped_difference: float
    equal: bool
    before: dict[str, str]
    reverted: dict[str, str]
    saved: dict[str, str]
    saved_equal: bool


def run_act(screen: Screen, work: Path) -> MoeResult:
    """Publish, convert, load, compare, revert and save back; `work` is an empty directory for the outputs."""
    import torch

    screen.title(
        "Act 2: a mixture of experts, there and back",
        "A small Qwen3-MoE with random weights, saved by transformers as such models are published: every expert "
        "by itself, in shards with an index. The running model wants all experts of a layer in two tensors.",
    )
    published = work / "published"
    original = new_model(seed=1)
    original.save_pretrained(published, max_shard_size=SHARD_SIZE)
    live, mapped = new_model(seed=2), new_model(seed=3)
    expected, untouched = logits(original), logits(live)

    plan = wb.plan(published, MAPPING, target=live)
    screen.text("The plan: what will happen, known before a byte moves", str(plan.report))
    fused = plan.write(work / "fused")
    wb.plan(fused, target=live).load_into(live)
    wb.load(mapped, published, MAPPING)
    loaded = logits(live), logits(mapped)
    differences = [float((found - expected).abs().max()) for found in (untouched, *loaded)]
    show_differences(screen, differences)

    reverted, saved = wb.revert(fused, work / "reverted"), wb.save(mapped, work / "saved")
    result = MoeResult(
        untouched_difference=differences[0],
        converted_difference=differences[1],
        mapped_difference=differences[2],
        equal=all(torch.equal(found, expected) for found in loaded),
        before=file_hashes(published),
        reverted=file_hashes(reverted),
        saved=file_hashes(saved),
        saved_equal=bool(wb.verify(published, saved)),
    )
    title = "The way back: reverted from the converted file, and saved from the running model"
    screen.hashes(title, result.before, reverted=result.reverted, saved=result.saved)
    return result


def show_differences(screen: Screen, differences: list[float]) -> None:
    """Show how far the logits of the other models are from the original's."""
    names = (
        "with its own random weights",
        "loaded from the converted file",
        "loaded from the published files, through the mapping",
    )
    shown = (f"{difference:.1e}" if difference else "0" for difference in differences)
    screen.table("Logits beside the original's", ["of a model", "largest difference"], zip(names, shown, strict=True))


def new_model(seed: int) -> Any:
    """Make a small model with random weights.

    It is made on the CPU and not on the meta device: it has rotary buffers that no checkpoint holds, and whose values
    its class computes when it is made.
    """
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(seed)
    config = Qwen3MoeConfig(
        vocab_size=101,
        hidden_size=32,
        moe_intermediate_size=12,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=6,
        num_experts_per_tok=2,
        max_position_embeddings=64,
    )
    return Qwen3MoeForCausalLM(config).eval()


def logits(model: Any) -> torch.Tensor:
    """Run a model on fixed token ids [2, 11]; return its logits [2, 11, vocabulary]."""
    import torch

    ids = (torch.arange(22) * 37 % 101).view(2, 11)
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids).logits
    return found
