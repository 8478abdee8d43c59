"""What a measured process does: `python -m bench.child ACTION ARGUMENT...`.

plan LAYERS DENSE_LAYERS TARGET REPEATS    compile a plan REPEATS times, print the seconds of each as JSON;
TARGET is 1 to prove the plan against a target's header, 0 to have none
convert SOURCE DESTINATION                 fuse the experts
revert SOURCE DESTINATION                  undo that, by the receipt
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

import weighbridge as wb
from bench.inventories import DeepSeek, deepseek, deepseek_mapping, moe_mapping

if TYPE_CHECKING:
    import torch

SHARD_SIZE = "1GB"


def plan(sizes_json: str, has_target: str, repeats: str) -> None:
    sizes = DeepSeek(*json.loads(sizes_json))
    source, fused, mapping = deepseek(sizes), deepseek(sizes, fused=True), deepseek_mapping()
    target = fused if has_target == "1" else None
    seconds = []
    for _ in range(int(repeats)):
        start = time.perf_counter()
        made = wb.plan(source, mapping, target)
        seconds.append(time.perf_counter() - start)
    if not (made.is_exact and made.source.specs == source.specs and made.target.specs == fused.specs):
        raise SystemExit("the plan is not the one that was expected")
    print(json.dumps(seconds))


def convert(source: str, destination: str) -> None:
    wb.convert(source, destination, moe_mapping(), max_shard_size=SHARD_SIZE)


def revert(source: str, destination: str) -> None:
    wb.revert(source, destination)


def load(source: str) -> torch.nn.Module:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    start = time.perf_counter()
    with torch.device("meta"):
        model: torch.nn.Module = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source))
    wb.load(model, source, moe_mapping())
    print(json.dumps([time.perf_counter() - start]))
    return model


def from_pretrained(source: str) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    start = time.perf_counter()
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(source)
    print(json.dumps([time.perf_counter() - start]))
    return model


def compare(source: str) -> None:
    first, second = load(source).state_dict(), from_pretrained(source).state_dict()
    wrong = set(first) ^ set(second)
    # As bytes: the pattern holds values that are not numbers, and those do not equal themselves.
    wrong |= {key for key in first.keys() & second.keys() if not _is_same(first[key], second[key])}
    if wrong:
        raise SystemExit(f"{len(wrong)} tensors differ, such as {min(wrong)}")


def _is_same(first: torch.Tensor, second: torch.Tensor) -> bool:
    import torch

    same_kind = (first.dtype, first.shape) == (second.dtype, second.shape)
    return same_kind and torch.equal(first.view(torch.uint8), second.view(torch.uint8))


ACTIONS = {action.__name__: action for action in (plan, convert, revert, load, from_pretrained, compare)}

if __name__ == "__main__":
    ACTIONS[sys.argv[1]](*sys.argv[2:])
