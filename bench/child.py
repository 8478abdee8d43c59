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

import weighbridge as wb
from bench.inventories import DeepSeek, deepseek, deepseek_mapping, moe_mapping

SHARD_SIZE = "1GB"


def plan(layers: str, dense_layers: str, has_target: str, repeats: str) -> None:
    sizes = DeepSeek(layers=int(layers), dense_layers=int(dense_layers))
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


ACTIONS = {action.__name__: action for action in (plan, convert, revert)}

if __name__ == "__main__":
    ACTIONS[sys.argv[1]](*sys.argv[2:])
