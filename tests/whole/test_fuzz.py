"""The fuzzer finds what is there to be found: crashes, hangs, memory, raw errors, and wrong values, made small."""

from __future__ import annotations

import ctypes
import resource
import subprocess
import sys
import time
from collections import Counter
from itertools import islice

import finds
import hostile
import judging
import pytest
from conftest import ROOT
from drawn_mappings import draw
from fuzz import Server, kind_of
from hostile_inputs import ATTACKS, Attack

import weighbridge as wb


def refuse():
    wb.open("/nowhere/at/all")


def crash():
    ctypes.string_at(0)


def swell():
    return bytearray(40 * 2**30)


def stumble():
    return {}["no such key"]


def work():
    while True:
        pass


@pytest.mark.parametrize(
    ("run", "wanted"),
    [
        (list, "fine"),
        (refuse, "refused"),
        (crash, "signal 11"),
        (swell, "memory"),
        (stumble, "raw KeyError"),
        (lambda: time.sleep(1.2), "fine"),
        (lambda: time.sleep(60), "hang"),
        (work, "hang"),
    ],
    ids=["fine", "refused", "crash", "memory", "raw", "slow machine", "waiting", "working"],
)
def test_a_child_is_judged_by_how_it_ends(run, wanted, monkeypatch):
    """Its own seconds count: on a busy machine an input of 0.2 s was called a hang."""
    monkeypatch.setattr(hostile, "SECONDS", 1)
    monkeypatch.setattr(hostile, "WAITED_SECONDS", 6)
    monkeypatch.setattr(hostile, "MEMORY_BYTES", 32 * 2**30)  # this process holds more than the fuzzer's does
    monkeypatch.setitem(ATTACKS, "mine", Attack(lambda chance, folder: ("an input", run)))
    verdict = hostile.judge("mine", 0, 1000)
    assert (verdict["input"], verdict["verdict"]) == ("an input", wanted)
    assert bool(kind_of("mine", verdict)) == (wanted not in ("fine", "refused"))
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if not attack.with_torch])
def test_every_kind_of_input_is_made_and_made_again(name):
    server = Server()
    try:
        first, again = (server.ask(name, 8, changes=1) for _ in range(2))
    finally:
        server.stop()
    assert first["verdict"] != "the fuzzer is wrong", first["said"]
    assert (first["input"], first["verdict"]) == (again["input"], again["verdict"])
    assert first["peak_mb"] < 200


def test_wrong_values_are_found_and_made_small(monkeypatch):
    """The interpreter forgets every transposition: most finds need one rule and one tensor."""
    real = judging.interpret

    def forgetful(mapping, *arguments, **options):
        kept = [rule for rule in mapping if not any(type(o) is wb.Transpose for o in getattr(rule, "operations", ()))]
        return real(wb.Mapping(kept, drop=mapping.drop, carry=mapping.carry), *arguments, **options)

    monkeypatch.setattr(judging, "interpret", forgetful)
    found = ((seed, judging.judge_result(draw(seed))) for seed in range(1000))
    seeds = [seed for seed, find in islice(found, 60) if find is not None and find.kind == "wrong"]
    shrunk = [finds.shrink(judging.judge_result, draw(seed), seed) for seed in seeds]
    assert {find.kind for _, find in shrunk} == {"wrong"}
    sizes = [(len(small.mapping), len(small.tensors)) for small, _ in shrunk]
    assert Counter(sizes).most_common(1)[0][0] == (1, 1)


def test_the_command_counts_what_it_tried():
    command = [sys.executable, ROOT / "tests" / "fuzz.py", "--seconds", "1", "--only", "result,plan", "--seed", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {line.split()[-1] for line in done.stdout.splitlines() if line.startswith("   ")} == {"plan", "result"}
