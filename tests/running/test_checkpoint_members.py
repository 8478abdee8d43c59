"""What every source of tensors declares, and what becomes of one of another make."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

import weighbridge as wb
from weighbridge.base.errors import CheckpointError
from weighbridge.running.sources import LayeredCheckpoint, PlannedCheckpoint
from weighbridge.storage import Checkpoint, open_checkpoint

MEMBERS = sorted(name for name in vars(Checkpoint) if not name.startswith("_"))
RULES = [wb.WeightConverter("old", "new", [wb.Transpose(0, 1)])]


class Foreign:
    """A checkpoint that somebody else has written: all members, and no base class of ours."""

    images, index, files, extras, notes = (), None, None, (), ()
    where = "elsewhere"
    is_serial = is_past_cache = False

    def __init__(self, tensors):
        self._tensors = tensors
        self.header = open_checkpoint(tensors).header

    def fingerprint(self):
        return []

    def check_unchanged(self):
        pass

    def extent(self, key):
        return None

    def held(self, key):
        return None

    def held_tensors(self):
        return ()

    def tensor(self, key):
        return self._tensors[key]

    def read(self, key, start_byte, buffer):
        buffer[:] = memoryview(self._tensors[key].numpy()).cast("B")[start_byte : start_byte + len(buffer)]


def test_foreign_checkpoint_is_read_like_any_other(tmp_path):
    old = torch.arange(6.0).reshape(2, 3)
    plan = wb.plan(Foreign({"old": old, "kept": old + 1}), RULES)
    wanted = {"new": old.t(), "kept": old + 1}
    for made in (plan.state_dict(), load_file(plan.write(tmp_path / "out") / "model.safetensors")):
        assert made.keys() == wanted.keys()
        assert all(torch.equal(made[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize(
    "name", [name for name in MEMBERS if name not in ("header", "tensor", "read", "check_unchanged")]
)
def test_half_a_checkpoint_is_refused_by_the_name_of_what_it_lacks(name):
    half = type("Half", (), {key: value for key, value in vars(Foreign).items() if key not in (name, "__dict__")})
    with pytest.raises(CheckpointError) as caught:
        wb.plan(half({"old": torch.zeros(2, 3)}), RULES)
    assert (caught.value.code, caught.value.where, caught.value.got) == ("checkpoint-not-found", "Half", f"no {name}")


def test_sources_in_layers_say_what_holds_of_one_of_them(tmp_path):
    old, other = torch.zeros(2, 3), torch.ones(4)
    save_file({"other": other}, tmp_path / "other.safetensors")
    plan = wb.plan({"old": old}, RULES)
    made = PlannedCheckpoint(plan, plan.checkpoint())
    read = open_checkpoint(tmp_path / "other.safetensors", direct=True)
    held = open_checkpoint({"other": other})
    assert (made.is_serial, read.is_serial, held.is_serial) == (True, False, False)
    assert (made.is_past_cache, read.is_past_cache, held.is_past_cache) == (False, True, False)
    first = LayeredCheckpoint(made, read, frozenset({"other"}))
    second = LayeredCheckpoint(made, held, frozenset({"other"}))
    assert (first.is_serial, first.is_past_cache, second.is_past_cache) == (True, True, False)
    assert (first.held("new"), first.held("other"), second.held("other")) == (None, None, other)
    assert [one is two for one, two in zip(first.held_tensors(), [old], strict=True)] == [True]
    assert [one is two for one, two in zip(second.held_tensors(), [old, other], strict=True)] == [True, True]
