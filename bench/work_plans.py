"""What measured processes do with names and headers alone: compile a plan, or group keys as transformers does."""

from __future__ import annotations

import json
import time
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import weighbridge as wb
from bench.clock import run_timed
from bench.inventories import SCALE_BLOCK, DeepSeek, deepseek, deepseek_mapping, deepseek_weights

if TYPE_CHECKING:
    from transformers.core_model_loading import WeightConverter, WeightRenaming


def plan(touch_bytes: int, sizes_json: str, way: str, repeats: str) -> None:
    """Compile a plan: with a target, without, or with a configuration that makes groups of weights and their scales.

    Several times in one process, each timed.
    """
    sizes = DeepSeek(*json.loads(sizes_json))
    source, fused = deepseek(sizes), deepseek(sizes, fused=True)
    mapping = deepseek_weights() if way == "groups" else deepseek_mapping()
    target = fused if way == "target" else None
    said = {"quant_method": "fp8", "weight_block_size": [SCALE_BLOCK, SCALE_BLOCK]}
    config = {"quantization_config": said} if way == "groups" else None
    seconds: list[float] = []
    held: list[wb.Plan] = []

    def work() -> None:
        start = time.perf_counter()
        made = wb.plan(source, mapping, target, config=config)
        seconds.append(time.perf_counter() - start)
        held[:] = [made]

    _import_all(config)
    run_timed(*[work] * int(repeats), touch_bytes=touch_bytes)
    (made,) = held
    if not (made.is_exact and made.source.specs == source.specs and made.target.specs == fused.specs):
        raise SystemExit("the plan is not the one that was expected")
    print(json.dumps(seconds))


def _import_all(config: dict[str, Any] | None) -> None:
    """Plan two tensors by a rule of their own, so that what is imported on the way is there before the clock starts."""
    block = wb.TensorSpec("F8_E4M3", (SCALE_BLOCK, SCALE_BLOCK)), wb.TensorSpec("F32", (1, 1))
    few = wb.Header(dict(zip(("a.weight", "a.weight_scale_inv"), block, strict=True)))
    wb.plan(few, [wb.WeightRenaming("^a", "b")], config=config, companions=config is not None)


def cut(touch_bytes: int, sizes_json: str, processes: str, repeats: str) -> None:
    """Cut a plan to what one of some processes holds where each has its share of the rows, as FSDP2 deals them out."""
    source = deepseek(DeepSeek(*json.loads(sizes_json)))
    plan = wb.plan(source, deepseek_mapping())
    parts = {key: _rows_of(spec.shape, int(processes)) for key, spec in plan.target.items()}
    seconds: list[float] = []
    held: list[wb.Plan] = []

    def work() -> None:
        start = time.perf_counter()
        made = plan.cut(parts)
        seconds.append(time.perf_counter() - start)
        held[:] = [made]

    run_timed(*[work] * int(repeats), touch_bytes=touch_bytes)
    if any(held[0].target[key].shape != part.held for key, part in parts.items()):
        raise SystemExit("the plan is not cut to its parts")
    print(json.dumps(seconds))


def _rows_of(shape: tuple[int, ...], processes: int) -> wb.Part:
    """Return the second process's share of a tensor's rows."""
    rows = -(-shape[0] // processes)
    share = min(rows, shape[0]), min(2 * rows, shape[0])
    return wb.Part(shape, ((share,) if share[0] < share[1] else (), *(((0, size),) for size in shape[1:])))


def group(touch_bytes: int, sizes_json: str, repeats: str) -> None:
    """Rename and group the keys with the rules of transformers, and nothing else that it does while it loads."""
    import torch

    sizes = DeepSeek(*json.loads(sizes_json))
    source, fused = deepseek(sizes), deepseek(sizes, fused=True)
    # Its tables hold tensors of the model; which dtype and shape plays no part in grouping.
    wanted = dict.fromkeys(fused, torch.empty(1, device="meta"))
    seconds: list[float] = []
    held: list[dict[str, Any]] = []
    fusing_converters()  # imports the library

    def work() -> None:
        converters = fusing_converters()
        start = time.perf_counter()
        found = group_keys(list(source), converters, wanted)
        seconds.append(time.perf_counter() - start)
        held[:] = [found]

    run_timed(*[work] * int(repeats), touch_bytes=touch_bytes)
    (found,) = held
    collected = sum(len(tensors) for rule in found.values() for tensors in rule.collected_tensors.values())
    if found.keys() != fused.keys() or collected != len(source):
        raise SystemExit(f"{len(found)} targets from {collected} keys, not {len(fused)} from {len(source)}")
    print(json.dumps(seconds))


def fusing_converters() -> list[WeightConverter]:
    """Return the rules of `deepseek_mapping` as transformers writes them."""
    from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter

    rules = []
    for suffix, ending in (("weight", ""), ("weight_scale_inv", "_scale_inv")):
        halves = [f"mlp.experts.*.{name}_proj.{suffix}$" for name in ("gate", "up")]
        fusing = [MergeModulelist(dim=0), Concatenate(dim=1)]
        rules.append(WeightConverter(halves, f"mlp.experts.gate_up_proj{ending}", fusing))
        down = f"mlp.experts.*.down_proj.{suffix}$"
        rules.append(WeightConverter(down, f"mlp.experts.down_proj{ending}", [MergeModulelist(dim=0)]))
    return rules


def group_keys(
    keys: list[str], converters: list[WeightConverter], wanted: dict[str, Any]
) -> dict[str, WeightRenaming | WeightConverter]:
    """Do what the first loop of transformers' `convert_and_load_state_dict_in_model` does with each key.

    Left out are dtypes, devices and the reading of the tensors.
    """
    from transformers.core_model_loading import WeightRenaming, dot_natural_key, rename_source_key

    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    found: dict[str, WeightRenaming | WeightConverter] = {}
    for key in sorted(keys, key=dot_natural_key):
        renamed, pattern = rename_source_key(key, [], converters, "model", wanted)
        if renamed not in wanted and key in wanted:
            renamed, pattern = rename_source_key(key, [], [], "model", wanted)
        if renamed not in wanted:
            raise SystemExit(f"{key} has no place")
        if pattern is not None:
            rule = found.setdefault(renamed, deepcopy(by_pattern[pattern]))
        else:
            rule = found.setdefault(renamed, WeightRenaming(key, renamed))
            pattern = key
        rule.add_tensor(renamed, key, pattern, None)
    return found
