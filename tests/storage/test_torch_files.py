"""Torch files: what their pickles say, which dict of one holds the weights, and that none of their code is run."""

from __future__ import annotations

import argparse
import io
import json
import os
import pathlib
import pickle
import pickletools
import struct
import sys
import warnings
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import run
from hypothesis import given, settings, strategies as st
from torch.testing._internal.two_tensor import TwoTensor

import weighbridge as wb
from weighbridge.storage.formats.pickles import Bounded, Global, Made, read_pickle
from weighbridge.storage.formats.torch_pickles import forbidden


def numbers(*shape: int) -> torch.Tensor:
    return torch.arange(1.0, 1.0 + torch.Size(shape).numel()).reshape(shape)


WEIGHTS = {"w": numbers(2, 3), "b": numbers(2)}
OTHERS = {"w": -numbers(2, 3), "b": -numbers(2)}


def save(folder: Path, content: object, name: str = "ckpt.pt", **options: Any) -> Path:
    torch.save(content, folder / name, **options)
    return folder / name


def error_of(function: Callable[[], object]) -> wb.WeighbridgeError:
    with pytest.raises(wb.WeighbridgeError) as caught:
        function()
    return caught.value


def is_same(checkpoint: Any, tensors: dict[str, torch.Tensor]) -> bool:
    return set(checkpoint.header) == set(tensors) and all(checkpoint.tensor(key).equal(tensors[key]) for key in tensors)


# Which dict holds the weights


class Ema:
    """A class that stands beside the weights."""

    def __init__(self) -> None:
        self.decay = 0.99


def adam() -> dict[str, Any]:
    optimizer = torch.optim.Adam([torch.nn.Parameter(numbers(2))])
    optimizer.param_groups[0]["params"][0].grad = numbers(2)
    optimizer.step()
    return optimizer.state_dict()


CHOSEN: dict[str, tuple[dict[str, Any], str]] = {
    "two levels down": ({"model": {"enc": WEIGHTS}, "rng_state": torch.get_rng_state()}, "model.enc"),
    "many levels down": ({"a": {"b": {"c": {"d": {"e": WEIGHTS}}}}}, "a.b.c.d.e"),
    "in a list": ({"models": [WEIGHTS], "epoch": 3}, "models.0"),
    "beside a random state": ({"model": WEIGHTS, "rng_state": torch.get_rng_state()}, "model"),
    "beside random states": ({"model": WEIGHTS, "rng": {"cpu": torch.get_rng_state(), "cuda": [numbers(2)]}}, "model"),
    "beside a loss": ({"model_state_dict": WEIGHTS, "loss": torch.tensor(0.3)}, "model_state_dict"),
    "beside numbers": ({"net": WEIGHTS, "best_acc1": torch.tensor(71.2), "global_step": torch.tensor([5])}, "net"),
    "beside an optimizer": ({"state_dict": WEIGHTS, "opt": adam(), "lr": 0.1}, "state_dict"),
    "beside a named optimizer": (
        {"state_dict": WEIGHTS, "optimizer": {"w": {"exp_avg": numbers(2, 3)}}},
        "state_dict",
    ),
    "as Lightning writes it": (
        {
            "state_dict": OrderedDict(WEIGHTS),
            "optimizer_states": [adam()],
            "callbacks": {"ModelCheckpoint": {"best_k_models": {"a.ckpt": torch.tensor(1.0)}}},
            "loops": {"fit_loop": {"metrics": {"x": numbers(2)}}},
            "epoch": 7,
        },
        "state_dict",
    ),
    "in an OrderedDict": (OrderedDict(model=OrderedDict(WEIGHTS)), "model"),
    "in a defaultdict": ({"model": defaultdict(dict, WEIGHTS)}, "model"),
    "twice the same": ({"model": WEIGHTS, "module": WEIGHTS}, "model"),
    "in names with dots": ({"net.ema": WEIGHTS, "loss": torch.tensor(1.0)}, "net.ema"),
}


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", CHOSEN)
def test_a5_only_possible_dict_is_chosen_and_said(tmp_path: Path, name: str, is_zip: bool) -> None:
    content, chosen = CHOSEN[name]
    path = save(tmp_path, content, _use_new_zipfile_serialization=is_zip)
    checkpoint = wb.open(path)
    assert is_same(checkpoint, WEIGHTS)
    assert checkpoint.notes[0].startswith(f"the tensors are those of '{chosen}'")
    beside = [key for key in content if key != chosen.split(".")[0] and key != chosen]
    assert all(f"'{key}'" in checkpoint.notes[0] for key in beside)
    assert is_same(wb.open(f"{path}::{chosen}"), WEIGHTS)


AMBIGUOUS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "a moving average": ({"model": WEIGHTS, "ema": OTHERS}, ("model", "ema")),
    "generator and discriminator": ({"generator": OTHERS, "discriminator": WEIGHTS}, ("generator", "discriminator")),
    "a lone tensor": ({"temperature": numbers(1), "model": WEIGHTS}, ("", "model")),
    "a lone number that may be a weight": ({"logit_scale": torch.tensor(4.6), "encoder": WEIGHTS}, ("", "encoder")),
    "modules": ({"model": {"enc": WEIGHTS, "dec": OTHERS}}, ("model.enc", "model.dec")),
    "a list": ({"nets": [WEIGHTS, OTHERS]}, ("nets.0", "nets.1")),
    "another level": ({"model": WEIGHTS, "ema": {"state": {"module": OTHERS}}}, ("model", "ema.state.module")),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_c3_every_dict_of_several_can_be_chosen(tmp_path: Path, name: str) -> None:
    content, entries = AMBIGUOUS[name]
    path = save(tmp_path, content)
    error = error_of(lambda: wb.open(path))
    assert error.code == "checkpoint-ambiguous"
    hinted = error.hint.removeprefix("name the one that is meant: ")
    assert hinted in [f"{path}::{entry}" for entry in entries]
    wb.open(hinted)
    for entry in entries:
        value: Any = content
        for part in entry.split(".") if entry else ():
            value = value[int(part) if isinstance(value, list) else part]
        wanted = {key: tensor for key, tensor in value.items() if isinstance(tensor, torch.Tensor)}
        for found in (wb.open(path, entry=entry), wb.open(f"{path}::{entry}"), wb.open(Path(f"{path}::{entry}"))):
            assert is_same(found, wanted)


def test_c3_entry_is_looked_through(tmp_path: Path) -> None:
    path = save(tmp_path, {"model": {"net": WEIGHTS}, "ema": {"net": OTHERS}})
    assert is_same(wb.open(path, entry="ema"), OTHERS)
    assert wb.open(path, entry="ema").notes == ("the tensors are those of 'ema.net'; left aside: 'model'",)


def test_c3_entry_that_is_not_there_is_an_error_that_names_those_that_are(tmp_path: Path) -> None:
    path = save(tmp_path, {"model": WEIGHTS, "ema": OTHERS})
    for attempt in (lambda: wb.open(path, entry="nothing"), lambda: wb.open(f"{path}::model.w.x")):
        error = error_of(attempt)
        assert error.code == "checkpoint-not-found"
        assert "'ema', 'model'" in error.got


def test_c3_entry_that_can_be_read_in_two_ways_is_an_error(tmp_path: Path) -> None:
    path = save(tmp_path, {"a": {"b": WEIGHTS}, "a.b": OTHERS})
    assert error_of(lambda: wb.open(path, entry="a.b")).code == "checkpoint-ambiguous"


def test_c3_only_torch_files_have_entries(tmp_path: Path) -> None:
    wb.convert(WEIGHTS, tmp_path / "out", [])
    header = wb.open(tmp_path / "out").header
    for place in (tmp_path / "out", tmp_path / "out/model.safetensors", WEIGHTS, header):
        assert error_of(lambda place=place: wb.open(place, entry="model")).code == "usage"
    assert error_of(lambda: wb.open(f"{tmp_path}/out::model")).code == "usage"


def test_c3_path_that_is_there_has_no_entry(tmp_path: Path) -> None:
    path = save(tmp_path, {"model": WEIGHTS, "loss": torch.tensor(1.0)}, "a::model.pt")
    assert is_same(wb.open(path), WEIGHTS)
    assert is_same(wb.open(f"{path}::model"), WEIGHTS)
    assert error_of(lambda: wb.open(f"{tmp_path}/nowhere.pt::model")).code == "checkpoint-not-found"


def test_c3_directories_and_shards_have_entries(tmp_path: Path) -> None:
    for number, key in enumerate(WEIGHTS, start=1):
        content = {"model": {key: WEIGHTS[key]}, "ema": {key: OTHERS[key]}}
        save(tmp_path, content, f"pytorch_model-{number:05}-of-00002.bin")
    assert error_of(lambda: wb.open(tmp_path)).code == "checkpoint-ambiguous"
    assert is_same(wb.open(f"{tmp_path}::ema"), OTHERS)
    names = {key: f"pytorch_model-{number:05}-of-00002.bin" for number, key in enumerate(WEIGHTS, start=1)}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    assert is_same(wb.open(tmp_path, entry="model"), WEIGHTS)
    assert is_same(wb.open(f"{tmp_path}/pytorch_model.bin.index.json::model"), WEIGHTS)


def test_c3_entries_work_in_every_function(tmp_path: Path) -> None:
    path = save(tmp_path, {"model": WEIGHTS, "ema": OTHERS})
    assert wb.plan(f"{path}::ema", []).state_dict()["w"].equal(OTHERS["w"])
    assert wb.verify(f"{path}::ema", OTHERS)
    assert not wb.verify(f"{path}::ema", f"{path}::model")
    assert set(wb.plan(WEIGHTS, [], target=f"{path}::model").target) == set(WEIGHTS)
    wb.convert(f"{path}::ema", tmp_path / "out", [])
    assert wb.verify(tmp_path / "out", OTHERS)
    model = torch.nn.Module()
    model.register_buffer("w", torch.zeros(2, 3))
    model.register_buffer("b", torch.zeros(2))
    wb.load(model, f"{path}::model", [])
    assert model.w.equal(WEIGHTS["w"])


def test_a5_command_says_what_was_chosen(tmp_path: Path) -> None:
    save(tmp_path, {"model": {"enc": WEIGHTS}, "rng_state": torch.get_rng_state(), "args": argparse.Namespace(a=1)})
    (tmp_path / "map.yaml").write_text("name: same\ntransforms: []\n")
    note = "the tensors are those of 'model.enc'; left aside: 'args' (argparse.Namespace, not run), 'rng_state'"
    for arguments in (
        ("inspect", "ckpt.pt"),
        ("plan", "ckpt.pt", "map.yaml"),
        ("convert", "ckpt.pt", "out", "map.yaml"),
    ):
        ran = run(tmp_path, *arguments)
        assert ran.status == 0, ran.err
        assert f"note      {note}" in ran.out.splitlines()
    ran = run(tmp_path, "plan", "ckpt.pt", "map.yaml", "--json")
    assert note in json.loads(ran.out)["notes"]
    assert wb.verify(tmp_path / "out", WEIGHTS)


def test_c3_command_takes_an_entry_in_the_path_and_as_an_option(tmp_path: Path) -> None:
    save(tmp_path, {"model": WEIGHTS, "ema": OTHERS})
    (tmp_path / "map.yaml").write_text("name: same\ntransforms: []\n")
    refused = run(tmp_path, "convert", "ckpt.pt", "out", "map.yaml")
    assert refused.status not in (0, 1)
    assert "ckpt.pt::model" in refused.err
    assert run(tmp_path, "inspect", "ckpt.pt", "--entry", "ema").status == 0
    assert run(tmp_path, "plan", "ckpt.pt", "map.yaml", "--entry", "model").status == 0
    assert run(tmp_path, "explain", "ckpt.pt", "map.yaml", "b", "--entry", "ema").status == 0
    for number, source in enumerate((["ckpt.pt::ema"], ["ckpt.pt", "--entry", "ema"])):
        ran = run(tmp_path, "convert", source[0], f"out{number}", "map.yaml", *source[1:])
        assert ran.status == 0, ran.err
        assert wb.verify(tmp_path / f"out{number}", OTHERS)
    assert run(tmp_path, "verify", "ckpt.pt::ema", "out0").status == 0
    assert run(tmp_path, "verify", "ckpt.pt::model", "out0").status == 1


# What stands beside the weights


OPAQUE: dict[str, tuple[object, str]] = {
    "a namespace": (argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("a")), "argparse.Namespace"),
    "a number of numpy": (np.float64(0.5), "multiarray.scalar"),
    "an array of numpy": (np.zeros(3), "numpy."),
    "a path": (pathlib.PurePosixPath("a/b"), "pathlib"),
    "a class of one's own": (Ema(), "Ema"),
    "a set": ({1, 2}, "set"),
    "a module": (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    "a generator's state": (np.random.RandomState(3).get_state(), ""),
    "a dict of a class of one's own": (defaultdict(list), ""),
    "a dtype": (torch.float16, ""),
    "a device": (torch.device("cpu"), ""),
}


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("name", OPAQUE)
def test_c3_opaque_value_beside_the_weights_is_left_aside_and_named(tmp_path: Path, name: str, protocol: int) -> None:
    value, what = OPAQUE[name]
    for content in ({"model": WEIGHTS, "beside": value}, {**WEIGHTS, "beside": value}):
        path = save(tmp_path, content, pickle_protocol=protocol)
        checkpoint = wb.open(path)
        assert is_same(checkpoint, WEIGHTS)
        (note,) = checkpoint.notes
        assert "'beside'" in note
        assert what in note
        assert ("not run" in note) == bool(what)


def test_c3_settings_of_omegaconf_are_left_aside(tmp_path: Path) -> None:
    """As omegaconf writes them, which is not installed here: an object with a state, in which there are types."""
    config = make_class("omegaconf.dictconfig", "DictConfig")()
    config.__dict__ = {"_content": {"lr": make_class("omegaconf.nodes", "AnyNode")()}, "_metadata": Any}
    path = save(tmp_path, {"state_dict": WEIGHTS, "cfg": config})
    forget_classes("omegaconf")
    checkpoint = wb.open(path)
    assert is_same(checkpoint, WEIGHTS)
    assert "'cfg' (omegaconf.dictconfig.DictConfig, not run)" in checkpoint.notes[0]
    assert "omegaconf" not in sys.modules


def make_class(module: str, name: str) -> type:
    """Make a class that is found where it says, as long as it is not forgotten."""
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:end]), type(sys)(".".join(parts[:end])))
    made = type(name, (), {"__module__": module})
    setattr(sys.modules[module], name, made)
    return made


def forget_classes(root: str) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == root]:
        del sys.modules[name]


def test_c3_whole_model_is_refused_by_its_class(tmp_path: Path) -> None:
    for content in (torch.nn.Linear(2, 2), {"model": torch.nn.Linear(2, 2), "epoch": 3}):
        error = error_of(lambda content=content: wb.open(save(tmp_path, content)))
        assert error.code == "pickle-unsafe"
        assert "torch.nn.modules.linear.Linear" in error.got


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit, which writes such files
def test_c3_torchscript_archive_is_named(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "model.pt")
    error = error_of(lambda: wb.open(tmp_path / "model.pt"))
    assert error.code == "pickle-invalid"
    assert error.got == "a TorchScript archive"
    assert "state_dict()" in error.hint


def test_file_without_weights_says_what_it_holds(tmp_path: Path) -> None:
    path = save(tmp_path, {"epoch": 3, "optimizer": adam()})
    error = error_of(lambda: wb.open(path))
    assert (error.code, error.got) == ("pickle-invalid", "'epoch', 'optimizer'")
    assert set(wb.open(path, entry="optimizer.state.0").header) == {"step", "exp_avg", "exp_avg_sq"}


# No code is run


class Calling:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.called = function, arguments

    def __reduce__(self) -> tuple:
        return self.called


class Setting:
    """Runs code of its own when its state is set."""

    def __setstate__(self, state: object) -> None:
        Path("executed").mkdir()

    def __reduce__(self) -> tuple:
        return Setting, (), {"a": 1}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.system, ("touch executed",)),
        (os.mkdir, ("executed",)),
        (exec, ("open('executed', 'w')",)),
        (eval, ("open('executed', 'w')",)),
        (open, ("executed", "w")),
        (__import__, ("antigravity",)),
    ],
)
def test_c3_code_of_python_beside_the_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int, function: Callable, arguments: tuple
) -> None:
    monkeypatch.chdir(tmp_path)
    for is_zip in (True, False):
        content = {"model": WEIGHTS, "beside": [Calling(function, *arguments)]}
        path = save(tmp_path, content, pickle_protocol=max(2, protocol), _use_new_zipfile_serialization=is_zip)
        error = error_of(lambda path=path: wb.open(path))
        assert error.code == "pickle-unsafe"
        assert function.__name__ in error.got
    raw = pickle.dumps({"beside": Calling(function, *arguments)}, protocol)
    assert forbidden(read_pickle(Bounded(io.BytesIO(raw), len(raw))).globals) is not None
    assert not (tmp_path / "executed").exists()


def test_c3_code_of_other_packages_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"model": WEIGHTS, "beside": Setting(), "more": Calling(torch.save, WEIGHTS, "saved")}
    checkpoint = wb.open(save(tmp_path, content))
    assert is_same(checkpoint, WEIGHTS)
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "saved").exists()
    assert "'more' (torch.serialization.save, not run)" in checkpoint.notes[0]
    assert "Setting, not run" in checkpoint.notes[0]
    torch.load(tmp_path / "ckpt.pt", weights_only=False)
    assert (tmp_path / "executed").exists()  # elsewhere, the file does something
    assert (tmp_path / "saved").exists()


# What pickles say


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


def said(raw: bytes) -> Any:
    return read_pickle(Bounded(io.BytesIO(raw), len(raw))).value


@settings(max_examples=500)
@given(plain, st.integers(0, 5))
def test_plain_values_are_read_as_pickle_reads_them(value: object, protocol: int) -> None:
    raw = pickle.dumps(value, protocol)
    if b"_codecs" in raw or b"__builtin__" in raw:
        return  # bytes are made by code there
    assert said(raw) == value


@pytest.mark.parametrize("protocol", range(6))
def test_values_that_code_makes_are_said(protocol: int) -> None:
    shared = Ema()
    found = said(pickle.dumps([shared, shared, {3}, OrderedDict(a=1), Ema], protocol))
    assert isinstance(found[0], Made)
    assert found[0] is found[1]
    assert found[0].state == {"decay": 0.99}
    assert isinstance(found[2], Made)
    assert isinstance(found[3], Made)
    assert found[4] == Global(Ema.__module__, "Ema")


def test_pickle_that_holds_itself_is_read() -> None:
    value: list = []
    value.append(value)
    found = said(pickle.dumps(value))
    assert found[0] is found


HOSTILE: dict[str, bytes] = {
    "a deep key": b"}" + b")" + b"\x85" * 200_000 + b"Ns.",
    "a deep list": b"]" * 200_000 + b"a" * 199_999 + b".",
    "a deep name": b")" + b"\x85" * 200_000 + b"X\x01\x00\x00\x00a\x93.",
    "doubled a hundred times": b"]" + b"q\x00(h\x00h\x00l0(h\x00h\x00l" * 100 + b".",
    "a huge number in the memo": b"Nr\xff\xff\xff\xff.",
    "a text of four gigabytes": b"X\xff\xff\xff\xffabc.",
    "bytes beyond all memory": b"\x8e" + struct.pack("<Q", 2**62) + b"abc.",
    "an array beyond all memory": b"\x96" + struct.pack("<Q", 2**62) + b"abc.",
    "a number beyond all memory": b"\x8b" + struct.pack("<i", 2**31 - 1) + b"abc.",
    "a number of many digits": b"I" + b"9" * 100_000 + b"\n.",
    "nothing": b"",
    "no end": b"N",
    "nothing to end with": b".",
    "a mark alone": b"(0.",
    "marks that are left": b"((((N.",
    "a call of nothing": b"R.",
    "items of a number": b"K\x01(NNu.",
    "an odd number of items": b"}(NNNu.",
    "values into a number": b"K\x01Na.",
    "an extension": b"\x82\x01.",
    "a buffer": b"\x97.",
    "an unknown instruction": b"\xff.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickle_is_read_or_is_an_error(name: str) -> None:
    error = problem_with(HOSTILE[name])
    assert error is None or (error.code == "pickle-invalid" and error.got)


def problem_with(raw: bytes) -> wb.WeighbridgeError | None:
    try:
        said(raw)
    except wb.CheckpointError as error:
        return error
    return None


def test_hostile_value_beside_the_weights_costs_no_more_than_its_size(tmp_path: Path) -> None:
    """What holds itself, and what stands in itself twice, a hundred levels deep."""
    loop: dict = {"w": WEIGHTS["w"]}
    loop["loop"] = loop
    deep: Any = []
    for _ in range(100):
        deep = [deep, deep]
    path = save(tmp_path, {"model": WEIGHTS, "loss": torch.tensor(1.0), "deep": deep})
    assert is_same(wb.open(path), WEIGHTS)
    assert is_same(wb.open(save(tmp_path, loop)), {"w": WEIGHTS["w"]})


@settings(max_examples=1000)
@given(st.binary(max_size=60) | st.lists(st.sampled_from([op.code for op in pickletools.opcodes])).map("".join))
def test_any_bytes_are_read_or_are_an_error(raw: bytes | str) -> None:
    error = problem_with(raw.encode("latin-1") if isinstance(raw, str) else raw)
    assert error is None or error.code == "pickle-invalid"


# Tensors in files


DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.bool, torch.uint8),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu),
]


def of_dtype(dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(24 * dtype.itemsize, dtype=torch.uint8).view(dtype).view(4, 6)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_is_read_by_any_strides(tmp_path: Path, dtype: torch.dtype, is_zip: bool) -> None:
    whole = of_dtype(dtype)
    content = {
        "whole": whole,
        "turned": whole.t(),
        "part": whole[1:3, ::2],
        "one": whole[2, 3],
        "none": whole[:0],
        "parameter": torch.nn.Parameter(whole, requires_grad=dtype.is_floating_point and dtype.itemsize > 1),
        "buffer": torch.nn.Buffer(whole),
    }
    path = save(tmp_path, content, _use_new_zipfile_serialization=is_zip)
    found = wb.open(path)
    assert all(found.tensor(key).dtype == dtype for key in content)
    assert wb.verify(found, {key: tensor.detach() for key, tensor in content.items()})
    assert found.header.ties == {"parameter": "buffer", "whole": "buffer"}


def test_file_of_the_other_order_of_bytes_is_read(tmp_path: Path) -> None:
    """As a machine of the other order writes it."""
    whole = {str(dtype): of_dtype(dtype) for dtype in DTYPES}
    save(tmp_path, whole, "own.pt")
    with zipfile.ZipFile(tmp_path / "own.pt") as own, zipfile.ZipFile(tmp_path / "other.pt", "w") as other:
        numbered = dict(enumerate(whole.values()))
        for name in own.namelist():
            raw, number = own.read(name), name.rpartition("data/")[2]
            if name.endswith("byteorder"):
                raw = b"big" if sys.byteorder == "little" else b"little"
            elif number.isdecimal():
                tensor = numbered[int(number)]
                size = tensor.itemsize // (2 if tensor.is_complex() else 1)
                raw = np.frombuffer(raw, np.dtype(f"V{size}")).tobytes() if size == 1 else swapped(raw, size)
            other.writestr(name, raw)
    assert is_equal_to(wb.open(tmp_path / "other.pt"), whole)


def swapped(raw: bytes, size: int) -> bytes:
    return np.frombuffer(raw, np.uint8).reshape(-1, size)[:, ::-1].tobytes()


def is_equal_to(checkpoint: Any, tensors: dict[str, torch.Tensor]) -> bool:
    return bool(wb.verify(checkpoint, tensors))


def test_storage_of_an_old_file_may_be_a_part_of_another(tmp_path: Path) -> None:
    """As torch before 0.4 wrote views: the name of a storage says where in its root it lies."""
    stream = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(value, stream, protocol=2)

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            return value.name if isinstance(value, Named) else None

    view = Named(("storage", torch.FloatStorage, "7", "cpu", 6, ("8", 2, 3)))
    Pickler(stream, protocol=2).dump({"a": Calling(torch._utils._rebuild_tensor, view, 1, (2,), (1,))})
    pickle.dump(["7"], stream, protocol=2)
    stream.write(struct.pack("<q", 6) + numbers(6).numpy().tobytes())
    (tmp_path / "old.pt").write_bytes(stream.getvalue())
    assert wb.open(tmp_path / "old.pt").tensor("a").tolist() == [4, 5]


class Named:
    """A value outside of a pickle."""

    def __init__(self, name: tuple) -> None:
        self.name = name


def test_meta_tensor_in_a_file_has_a_spec_and_no_data(tmp_path: Path) -> None:
    path = save(tmp_path, {"a": torch.zeros(2, 3, device="meta"), **WEIGHTS})
    assert wb.open(path).header["a"] == wb.TensorSpec("F32", (2, 3))
    assert error_of(lambda: wb.plan(path, []).state_dict()).code == "data-missing"


def strange() -> dict[str, torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "a sparse tensor": numbers(3, 3).to_sparse(),
            "a quantised tensor": torch.quantize_per_tensor(numbers(3), 0.5, 0, torch.qint8),
            "a nested tensor": torch.nested.nested_tensor([numbers(2), numbers(3)], layout=torch.jagged),
            "a TwoTensor": TwoTensor(numbers(2), numbers(2)),
            "an UninitializedParameter": torch.nn.UninitializedParameter(),
        }


@pytest.mark.parametrize("name", ["sparse", "quantised", "nested", "TwoTensor", "UninitializedParameter"])
def test_b1_tensor_without_dense_memory_in_a_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    what, tensor = next((what, tensor) for what, tensor in strange().items() if name in what)
    error = error_of(lambda: wb.open(save(tmp_path, {"model": {**WEIGHTS, "odd": tensor}})))
    assert error.code == "tensor-unsupported"
    assert name in error.got
    assert "'odd'" in error.where
    assert is_same(wb.open(save(tmp_path, {"model": WEIGHTS, "other": {"x": tensor}}), entry="model"), WEIGHTS), what


# What a file claims


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("size", [2**29, 2**40])
def test_g13_small_file_that_claims_gigabytes_is_an_error(tmp_path: Path, size: int, is_zip: bool) -> None:
    path = save(tmp_path, {"w": torch.zeros(1).expand(size)}, _use_new_zipfile_serialization=is_zip)
    assert path.stat().st_size < 3000
    error = error_of(lambda: wb.open(path))
    assert error.code == "tensor-bounds"
    assert ".contiguous()" in error.hint


def test_g13_many_views_of_one_storage_that_claim_gigabytes_are_an_error(tmp_path: Path) -> None:
    storage = torch.zeros(2**20)
    content = {str(number): storage[number : number + 2**19] for number in range(100)}
    assert error_of(lambda: wb.open(save(tmp_path, content))).code == "tensor-bounds"
    tied = {str(number): storage for number in range(100)}
    assert len(wb.open(save(tmp_path, tied)).header.ties) == 99


def test_g13_mask_that_repeats_its_elements_is_read(tmp_path: Path) -> None:
    mask = torch.ones(1, 1, 64, dtype=torch.bool).expand(8, 64, 64)
    path = save(tmp_path, {"mask": mask, **WEIGHTS})
    assert wb.plan(path, []).state_dict()["mask"].equal(mask)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_g7_tensor_of_a_file_lies_within_its_storage(tmp_path: Path, is_zip: bool) -> None:
    path = save(tmp_path, {"a": torch.zeros(200), "b": torch.zeros(300)}, _use_new_zipfile_serialization=is_zip)
    raw = path.read_bytes()
    assert raw.count(b"K\xc8\x85") == 1
    path.write_bytes(raw.replace(b"K\xc8\x85", b"K\xc9\x85"))
    assert error_of(lambda: wb.open(path)).code == "pickle-invalid"
