"""What torch calls a tensor and is no dense memory: refused by name, or read as what it is, and never a crash."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.testing._internal.two_tensor import TwoTensor

import weighbridge as wb
from weighbridge.algebra.copies import Copy, Loop
from weighbridge.algebra.rereading import reread
from weighbridge.models.holdings import take_stock
from weighbridge.models.modules import module_header
from weighbridge.storage.formats.tensor_kinds import Kind, kind_of
from weighbridge.storage.formats.torch_tensors import bytes_of, put_elements, read_bytes, row_major, tie_of


@pytest.fixture(scope="module", autouse=True)
def process_group() -> Iterator[None]:
    """A group of one process, so that distributed tensors are real ones."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def numbers(*shape: int) -> torch.Tensor:
    return torch.arange(1.0, 1.0 + torch.Size(shape).numel()).reshape(shape)


def code_of(function: Callable[[], object]) -> str:
    with pytest.raises(wb.WeighbridgeError) as caught:
        function()
    return caught.value.code


def distributed(tensor: torch.Tensor) -> DTensor:
    return distribute_tensor(tensor, init_device_mesh("cpu", (1,)), [Shard(0)])


def sharded_model(device: str = "cpu") -> torch.nn.Module:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2, device=device), torch.nn.LayerNorm(2, device=device))
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    return model


def fake() -> torch.Tensor:
    with FakeTensorMode():
        return torch.zeros(2, 3)


def quantised() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has deprecated them, files have them
        return torch.quantize_per_tensor(numbers(2, 3), 0.5, 0, torch.qint8)


def jagged() -> torch.Tensor:
    return torch.nested.nested_tensor([numbers(2), numbers(3)], layout=torch.jagged)


def nested() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a prototype, torch says
        return torch.nested.nested_tensor([numbers(2), numbers(3)])


def within_vmap() -> torch.Tensor:
    caught = []
    torch.func.vmap(lambda tensor: caught.append(tensor) or tensor)(numbers(2, 3))
    return caught[0]


STRANGE: dict[str, tuple[Callable[[], torch.Tensor], str, str]] = {
    "DTensor": (lambda: distributed(numbers(2, 3)), "a DTensor", ".full_tensor()"),
    "replicated DTensor": (
        lambda: distribute_tensor(numbers(2, 3), init_device_mesh("cpu", (1,)), [Replicate()]),
        "a DTensor",
        ".full_tensor()",
    ),
    "meta DTensor": (lambda: distributed(numbers(2, 3).to("meta")), "a DTensor", ".full_tensor()"),
    "parameter of a DTensor": (lambda: torch.nn.Parameter(distributed(numbers(2, 3))), "a DTensor", ".full_tensor()"),
    "TwoTensor": (lambda: TwoTensor(numbers(2, 3), numbers(2, 3)), "a TwoTensor", "plain tensor"),
    "fake": (fake, "a FakeTensor", "FakeTensorMode"),
    "jagged": (jagged, "a NestedTensor", ".unbind()"),
    "nested": (nested, "a nested tensor", ".unbind()"),
    "uninitialised parameter": (torch.nn.UninitializedParameter, "an UninitializedParameter", "run the model once"),
    "uninitialised buffer": (torch.nn.parameter.UninitializedBuffer, "an UninitializedBuffer", "run the model once"),
    "sparse": (lambda: numbers(3, 3).to_sparse(), "torch.sparse_coo", ".to_dense()"),
    "compressed": (lambda: numbers(3, 3).to_sparse_csr(), "torch.sparse_csr", ".to_dense()"),
    "mkldnn": (lambda: numbers(3, 3).to_mkldnn(), "torch._mkldnn", ".to_dense()"),
    "quantised": (quantised, "a quantised tensor, torch.qint8", ".dequantize()"),
    "functional": (lambda: torch._to_functional_tensor(numbers(2)), "a functional tensor", "functionalize"),
    "zeros without memory": (lambda: torch._efficientzerotensor(3), "without memory", ".clone()"),
    "within vmap": (within_vmap, "without a storage", "torch.func"),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning")
@pytest.mark.parametrize("name", STRANGE)
def test_b1_what_has_no_dense_memory_is_refused_by_name(name: str) -> None:
    make, what, hint = STRANGE[name]
    tensor = make()
    with pytest.raises(wb.WeighbridgeError) as caught:
        wb.open({"plain": numbers(2), "strange": tensor})
    error = caught.value
    assert error.code == "tensor-unsupported"
    assert what in error.got
    assert hint in error.hint
    assert error.where.endswith("strange")
    assert tie_of(tensor) is None
    assert code_of(lambda: bytes_of(tensor)) == code_of(lambda: row_major(tensor)) == "tensor-unsupported"


@pytest.mark.parametrize("name", ["TwoTensor", "fake", "jagged", "quantised"])
def test_b1_strange_buffer_of_a_model_is_refused_by_its_key(name: str) -> None:
    model = torch.nn.Linear(3, 2)
    model.register_buffer("strange", STRANGE[name][0]())
    for attempt in (
        lambda: module_header(model),
        lambda: wb.open(model),
        lambda: wb.load(model, {"weight": numbers(2, 3)}, []),
        lambda: wb.save(model, "nowhere", []),
        lambda: wb.plan(numbers_by_key(), [], target=model),
    ):
        with pytest.raises(wb.WeighbridgeError) as caught:
            attempt()
        assert caught.value.code == "tensor-unsupported"
        assert "strange" in caught.value.where


def numbers_by_key() -> dict[str, torch.Tensor]:
    return {"0.weight": numbers(2, 3), "0.bias": numbers(2), "1.weight": numbers(2), "1.bias": -numbers(2)}


def test_b1_lazy_module_is_refused_until_it_has_run() -> None:
    model = torch.nn.LazyLinear(2)
    assert code_of(lambda: wb.load(model, {"weight": numbers(2, 3), "bias": numbers(2)}, [])) == "tensor-unsupported"
    model(numbers(1, 3))
    wb.load(model, {"weight": numbers(2, 3), "bias": numbers(2)}, [])
    assert model.weight.equal(numbers(2, 3))


def test_b1_fsdp2_model_is_refused_wherever_it_would_be_read(tmp_path: Path) -> None:
    """In the process itself: where an address was taken before, this ended it. To load or save it is another matter."""
    model = sharded_model()
    assert isinstance(model[0].weight, DTensor)
    plan = wb.plan(numbers_by_key(), [])
    wb.convert(numbers_by_key(), tmp_path / "source", [])
    attempts: dict[str, Callable[[], object]] = {
        "open": lambda: wb.open(model),
        "open its state": lambda: wb.open(model.state_dict()),
        "verify": lambda: wb.verify(model, numbers_by_key()),
        "verify with a file": lambda: wb.verify(tmp_path / "source", model),
        "plan": lambda: wb.plan(model.state_dict(), []),
        "plan it": lambda: wb.plan(model, []),
        "back": lambda: plan.inverse().state_dict(model),
        "diff": lambda: wb.diff(numbers_by_key(), model),
        "detect": lambda: wb.detect(model),
    }
    assert {name: code_of(attempt) for name, attempt in attempts.items()} == dict.fromkeys(
        attempts, "tensor-unsupported"
    )


def test_a10_meta_fsdp2_model_keeps_its_dtensors() -> None:
    model = sharded_model("meta")
    wb.load(model, numbers_by_key(), [])
    assert isinstance(model[0].weight, DTensor)
    assert isinstance(model[0].weight, torch.nn.Parameter)
    assert model[0].weight.full_tensor().equal(numbers(2, 3))


def test_b1_hint_for_a_dtensor_can_be_followed() -> None:
    model = sharded_model()
    whole = {key: tensor.full_tensor() for key, tensor in model.state_dict().items()}
    found = wb.plan(whole, []).state_dict()
    assert all(found[key].equal(tensor.full_tensor()) for key, tensor in model.state_dict().items())


class Answering(torch.Tensor):
    """A subclass with dense memory, that answers for its attributes with code of its own."""

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), kwargs=None):
        raise RuntimeError("this is not to be asked")


def test_b1_subclass_with_memory_of_its_own_is_read_without_its_code() -> None:
    tensor = numbers(2, 3).as_subclass(Answering)
    assert type(tensor) is Answering
    found = wb.plan({"a": tensor}, []).state_dict()["a"]
    assert type(found) is torch.Tensor
    assert found.equal(numbers(2, 3))


def test_kinds_that_are_read() -> None:
    complex_one = numbers(2).to(torch.complex64)
    assert kind_of(torch.nn.Parameter(numbers(2))) is Kind.PLAIN
    assert kind_of(numbers(2, 3).t()) is Kind.PLAIN
    assert kind_of(complex_one.conj()) is kind_of(complex_one.conj().imag) is Kind.LAZY
    assert kind_of(torch.zeros(2, device="meta")) is Kind.META
    with torch.inference_mode():
        assert kind_of(torch.zeros(2)) is Kind.PLAIN


# Conjugated and negated views


def complex_numbers() -> torch.Tensor:
    return torch.complex(numbers(2, 3), -numbers(2, 3))


def test_g4_conjugated_view_is_not_tied_to_what_it_is_a_view_of() -> None:
    p = complex_numbers()
    held = wb.open({"p": p, "q": p.conj(), "r": p.conj(), "same": p[:]})
    assert held.header.ties == {"r": "q", "same": "p"}
    found = wb.plan(held, []).state_dict()
    assert found["q"].equal(p.conj().resolve_conj())
    assert found["p"].equal(p)
    assert not found["q"].is_conj()


def test_g4_negated_view_is_not_tied_to_what_it_is_a_view_of() -> None:
    p = complex_numbers()
    imaginary, negative = torch.view_as_real(p)[..., 1], p.conj().imag
    assert negative.is_neg()
    assert imaginary.data_ptr() == negative.data_ptr()
    held = wb.open({"a": imaginary, "b": negative})
    assert held.header.ties == {}
    found = wb.plan(held, []).state_dict()
    assert found["a"].equal(-found["b"])
    assert found["b"].equal(numbers(2, 3))


class Conjugated(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("p", complex_numbers())
        self.register_buffer("q", self.p.conj())


def test_g4_conjugated_buffer_is_no_tie_of_a_model() -> None:
    model = Conjugated()
    assert module_header(model).ties == {}
    assert len({id(place.slots) for place in take_stock(model).places.values()}) == 2
    with pytest.raises(wb.PlanError) as caught:
        wb.load(model, {"p": complex_numbers()}, [])
    assert [problem.code for problem in caught.value.problems] == ["target-missing"]


def test_g4_conjugated_buffer_is_saved_as_its_own_elements(tmp_path: Path) -> None:
    model = Conjugated()
    wb.save(model, tmp_path / "out", [])
    found = wb.open(tmp_path / "out")
    assert found.tensor("q").equal(model.q.resolve_conj())
    assert not wb.verify(model, {"p": model.p, "q": model.p})
    assert wb.verify(model, tmp_path / "out")


@pytest.mark.parametrize("view", [lambda t: t.conj(), lambda t: t.conj().t(), lambda t: t.t().conj()[1:]])
def test_g4_file_of_a_conjugated_tensor_holds_its_elements(tmp_path: Path, view: Callable) -> None:
    tensor = view(complex_numbers())
    torch.save({"a": tensor}, tmp_path / "a.pt")
    for place in (tmp_path / "a.pt", {"a": tensor}):
        assert wb.plan(place, []).state_dict()["a"].equal(tensor.resolve_conj())


# Bools


def odd_bools() -> torch.Tensor:
    """Bools whose bytes are any numbers."""
    return torch.tensor([[0, 1, 2], [255, 128, 0]], dtype=torch.uint8).view(torch.bool)


def raw(tensor: torch.Tensor) -> list:
    return tensor.view(torch.uint8).tolist()


@pytest.mark.parametrize("view", [lambda t: t, lambda t: t.t(), lambda t: t[:, ::2], lambda t: t[:1].expand(4, 3)])
def test_g6_bytes_of_bools_are_kept(tmp_path: Path, view: Callable) -> None:
    source = view(odd_bools())
    wanted = [list(map(int, row)) for row in raw(source)]
    assert raw(wb.plan({"a": source}, []).state_dict()["a"]) == wanted
    turned = wb.Mapping([wb.WeightConverter("a", "b", [wb.Transpose(0, 1)])], name="turned")
    assert raw(wb.plan({"a": source}, turned).state_dict()["b"]) == [list(row) for row in zip(*wanted, strict=True)]
    wb.convert({"a": source}, tmp_path / "out", [])
    assert raw(wb.open(tmp_path / "out").tensor("a")) == wanted
    assert wb.verify({"a": source}, tmp_path / "out")


def test_g6_bools_are_loaded_byte_for_byte_into_any_strides(tmp_path: Path) -> None:
    wb.convert({"mask": odd_bools()}, tmp_path / "file", [])
    turned = odd_bools().view(torch.uint8).t().contiguous().t().view(torch.bool)
    for place in ({"mask": odd_bools()}, {"mask": turned}, tmp_path / "file"):
        model = torch.nn.Module()
        model.register_buffer("mask", torch.zeros(3, 2, dtype=torch.bool).t())
        assert not model.mask.is_contiguous()
        wb.load(model, place, [])
        assert raw(model.mask) == raw(odd_bools())


def test_g6_primitives_keep_bytes() -> None:
    target = torch.zeros(3, 2, dtype=torch.bool).t()
    put_elements(target, odd_bools())
    assert raw(target) == raw(odd_bools())
    assert bytes_of(odd_bools().t()).tobytes() == bytes([0, 255, 1, 128, 2, 0])


# Storages that were freed


@pytest.mark.parametrize("size_bytes", [0, 4, 64 * 64 * 4 - 1])
def test_g7_freed_storage_is_an_error(tmp_path: Path, size_bytes: int) -> None:
    tensor = numbers(64, 64)
    turned, end = tensor.t(), tensor[63:]
    tensor.untyped_storage().resize_(size_bytes)
    model = torch.nn.Linear(64, 64, bias=False)
    model.weight.data = tensor
    attempts: dict[str, Callable[[], object]] = {
        "open": lambda: wb.open({"a": tensor}),
        "a transposed view": lambda: wb.open({"a": turned}),
        "the end of it": lambda: wb.open({"a": end}),
        "model": lambda: wb.save(model, tmp_path / "out", []),
        "load": lambda: wb.load(model, {"weight": numbers(64, 64)}, []),
        "bytes": lambda: bytes_of(tensor),
    }
    assert {name: code_of(attempt) for name, attempt in attempts.items()} == dict.fromkeys(attempts, "tensor-bounds")


def test_g7_part_that_still_lies_in_its_storage_is_read() -> None:
    tensor = numbers(64, 64)
    first = tensor[:1]
    tensor.untyped_storage().resize_(64 * 4)
    assert wb.plan({"a": first}, []).state_dict()["a"].equal(numbers(64, 64)[:1])


@pytest.mark.parametrize("view", [lambda t: t, lambda t: t.t()])
def test_g7_storage_that_is_freed_after_planning_is_an_error(tmp_path: Path, view: Callable) -> None:
    tensor = numbers(64, 64)
    plan = wb.plan({"a": view(tensor)}, [])
    checkpoint = plan.binding.source
    tensor.untyped_storage().resize_(0)
    buffer = bytearray(8)
    assert code_of(plan.state_dict) == "tensor-bounds"
    assert code_of(lambda: plan.write(tmp_path / "out")) == "tensor-bounds"
    assert code_of(lambda: checkpoint.read("a", 0, memoryview(buffer))) == "tensor-bounds"
    assert code_of(lambda: checkpoint.tensor("a")) == "tensor-bounds"


# Memory of any strides


VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "whole": lambda t: t,
    "transposed": lambda t: t.transpose(0, 2),
    "permuted": lambda t: t.permute(1, 2, 0),
    "every other": lambda t: t[::2, 1:, ::3],
    "expanded": lambda t: t[:, :1].expand(6, 4, 7),
    "one element": lambda t: t[2, 3, 4],
    "a row": lambda t: t[2, 3],
    "overlapping": lambda t: t.as_strided((5, 6, 3), (2, 1, 7)),
    "no element": lambda t: t[:, :0],
    "an axis of one": lambda t: t[:, :1].transpose(0, 1),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.complex64, torch.float8_e5m2])
@pytest.mark.parametrize("name", VIEWS)
def test_g13_any_interval_of_bytes_is_read_from_any_strides(name: str, dtype: torch.dtype) -> None:
    tensor = VIEWS[name](numbers(6, 5, 7).to(dtype))
    wanted = bytes_of(tensor.clone(memory_format=torch.contiguous_format)).tobytes()
    for start in range(0, len(wanted), 3):
        for stop in {start, start + 1, start + 11, len(wanted)}:
            found = bytearray(min(stop, len(wanted)) - start)
            read_bytes(tensor, start, memoryview(found))
            assert bytes(found) == wanted[start:stop]


@pytest.mark.parametrize("name", VIEWS)
def test_g13_steps_read_any_strides(tmp_path: Path, name: str) -> None:
    tensor = VIEWS[name](numbers(6, 5, 7))
    assert wb.plan({"a": tensor}, []).state_dict()["a"].equal(tensor)
    wb.convert({"a": tensor}, tmp_path / "same", [], memory_budget=256)
    assert wb.open(tmp_path / "same").tensor("a").equal(tensor)
    if tensor.dim() == 3:
        rules = [wb.WeightConverter("a", "b", [wb.Transpose(0, 1)])]
        assert wb.plan({"a": tensor}, rules).state_dict()["b"].equal(tensor.transpose(0, 1))
        wb.convert({"a": tensor}, tmp_path / "turned", rules, memory_budget=256)
        assert wb.open(tmp_path / "turned").tensor("b").equal(tensor.transpose(0, 1))
    cast = wb.plan({"a": tensor}, [], dtype="bfloat16").state_dict()["a"]
    assert cast.equal(tensor.to(torch.bfloat16))


def test_g13_what_falls_into_too_many_pieces_is_read_in_sections(tmp_path: Path) -> None:
    """Rows of 1,201 cut through rows of 1,213."""
    tensor = torch.arange(1201 * 1213, dtype=torch.int32).to(torch.int16).reshape(1213, 1201).t()
    rules = [wb.WeightConverter("a", "b", [wb.Reshape((1213, 1201)), wb.Transpose(0, 1)])]
    wanted = tensor.reshape(1213, 1201).t()
    with pytest.raises(wb.LayoutError):
        reread(Copy(0, 0, 0, (Loop(1201, 1, 1213), Loop(1213, 1201, 1))), tensor.shape, tensor.stride())
    assert wb.plan({"a": tensor}, rules).state_dict()["b"].equal(wanted)
    wb.convert({"a": tensor}, tmp_path / "out", rules, memory_budget=2**20)
    assert wb.open(tmp_path / "out").tensor("b").equal(wanted)


MEASURED = """
import resource, sys, torch
import weighbridge as wb

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

view, out = eval(sys.argv[1]), sys.argv[2]
small = torch.ones(256, 128)
wb.convert({"a": view(small)}, out + "/warm", [], memory_budget=2**22)
wb.verify({"a": view(small)}, out + "/warm")
large = torch.ones(6144, 4096)
before = peak()
wb.convert({"a": view(large)}, out + "/out", [], memory_budget=2**22)
same = wb.verify({"a": view(large)}, out + "/out")
print(bool(same), peak() - before)
"""
"""Converts and compares a tensor of 96 MiB that does not lie dense, within 4 MiB; prints what came on top."""


@pytest.mark.parametrize(
    "view",
    [
        "lambda t: t.t()",
        "lambda t: t[:, ::2].t()",
        "lambda t: t[:1].expand(*t.shape)",
        "lambda t: t.view(torch.complex64).conj()",
    ],
)
def test_g13_memory_of_any_strides_keeps_within_the_budget(tmp_path: Path, view: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", MEASURED, view, str(tmp_path)], capture_output=True, text=True, check=True
    )
    same, extra = ran.stdout.split()
    assert same == "True"
    assert int(extra) < 24 * 2**20


def test_g13_tensor_beyond_all_memory_is_an_error_with_a_code(tmp_path: Path) -> None:
    plan = wb.plan({"a": torch.zeros(1).expand(2**50)}, [])
    assert code_of(plan.state_dict) == "budget-too-small"
    assert code_of(lambda: next(plan.stream())) == "budget-too-small"
    assert code_of(lambda: plan.write(tmp_path / "out")) == "destination-no-room"
