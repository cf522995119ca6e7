"""Fingerprints, receipts and the shared buffer: no changed bit goes unnoticed, and memory stays bounded."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from llds.errors import WeightUpdateError
from llds.samplers.vllm import weight_update as weight_update
from llds.samplers.vllm.fingerprint import fingerprint
from llds.samplers.vllm.weight_update import (
    SentWeights,
    SharedBuffer,
    batches,
    check_cache_reset,
    check_receipt,
    read_chunk,
)

SHAPES = [(), (0,), (1,), (7,), (3, 5), (1024, 8), (1000, 33)]


def example(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_equal_tensors_have_equal_fingerprints_wherever_they_lie(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    value = example(shape, dtype)
    strided = torch.stack([value, value], dim=-1)[..., 0]
    assert fingerprint(value) == fingerprint(value.clone()) == fingerprint(strided)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_piece_of_a_packed_buffer_has_its_tensors_fingerprint(dtype: torch.dtype) -> None:
    value = example((1024, 9), dtype)
    before = torch.zeros(3 * dtype.itemsize, dtype=torch.uint8)  # not a multiple of 8 bytes
    packed = torch.cat([before, value.view(-1).view(torch.uint8)])
    piece = packed[len(before) :].view(dtype).view(value.shape)
    assert fingerprint(piece) == fingerprint(value)


@pytest.mark.parametrize("place", [0, 4097, 8191, -1])
def test_a_flipped_bit_changes_the_fingerprint(place: int) -> None:
    value = example((1000, 33), torch.float32)
    for bit in (0, 7, 31):
        other = value.clone()
        other.view(-1).view(torch.int32)[place] ^= 1 << bit if bit < 31 else -(2**31)
        assert fingerprint(other) != fingerprint(value)


def test_order_shape_and_dtype_change_the_fingerprint() -> None:
    value = example((64, 512), torch.float32)
    rows, columns = value.roll(1, 0), value.roll(2, 1)
    swapped = value.clone()
    swapped[0, :2], swapped[5, 2:4] = value[5, 2:4], value[0, :2]
    others = [rows, columns, swapped, value.view(512, 64), value.view(torch.int32), torch.zeros(64, 512)]
    assert len({fingerprint(other) for other in (value, *others)}) == 7


def sent(**tensors: torch.Tensor) -> SentWeights:
    record = SentWeights("float32")
    assert len(list(record.stream(tensors.items()))) == len(tensors)
    return record


def receipt(record: SentWeights, version: int = 3, **changes: object) -> dict[str, object]:
    return {"version": version, "tensors": dict(record.fingerprints), "unloaded": []} | changes


def test_a_receipt_of_everything_passes() -> None:
    record = sent(a=torch.ones(3), b=torch.zeros(2))
    check_receipt("the engine", record, 3, receipt(record))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tensors": {}}, "2 tensors did not arrive \\(a\\)"),
        ({"tensors": {"a": "x", "b": "y"}}, "2 tensors differ"),
        ({"unloaded": ["head.weight"]}, "no tensor came for 1 of its parameters \\(head.weight\\)"),
        ({"version": 2}, "it holds version 2"),
    ],
)
def test_a_receipt_that_lacks_something_names_it(changes: dict[str, object], reason: str) -> None:
    record = sent(a=torch.ones(3), b=torch.zeros(2))
    with pytest.raises(WeightUpdateError, match=reason):
        check_receipt("the engine", record, 3, receipt(record, **changes))  # type: ignore[arg-type]


def test_a_cache_that_was_not_forgotten_is_an_error() -> None:
    check_cache_reset("the engine", True)
    with pytest.raises(WeightUpdateError, match="prefix cache"):
        check_cache_reset("the engine", False)


def test_weights_leave_in_the_engines_data_type() -> None:
    record = SentWeights("bfloat16")
    value, count = torch.randn(4), torch.arange(3)
    out = dict(record.stream([("w", value), ("n", count)]))
    assert torch.equal(out["w"], value.bfloat16())
    assert torch.equal(out["n"], count)
    assert record.fingerprints["w"] == fingerprint(value.bfloat16())


def test_tensors_cross_the_buffer_unchanged_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_update, "_BUFFER_BYTES", 4096)
    tensors = {f"t{n}": example(shape, dtype) for n, shape in enumerate(SHAPES) for dtype in (torch.bfloat16,)}
    tensors["large"] = example((200, 200), torch.float32)  # larger than the buffer
    buffer = SharedBuffer()
    arrived = {}
    chunks = 0
    for entries in buffer.chunks(tensors.items()):
        chunks += 1
        arrived |= dict(read_chunk(buffer.path, json.loads(json.dumps(entries))))
    size = os.stat(buffer.path).st_size
    buffer.close()
    assert chunks > 2
    assert size <= 200 * 200 * 4 + 64
    assert {name: fingerprint(value) for name, value in arrived.items()} == {
        name: fingerprint(value) for name, value in tensors.items()
    }


def test_an_engine_of_this_process_gets_copies_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_update, "_BUFFER_BYTES", 4096)
    shared = torch.zeros(2000)  # a trainer that hands every tensor out in the same memory

    def stream() -> Iterator[tuple[str, torch.Tensor]]:
        for number, size in enumerate((500, 500, 24, 1, 2000, 3)):
            yield str(number), shared[:size].fill_(number)

    found = list(batches(stream()))
    # bytes: 2,000 + 2,000 + 96 = 4,096 fill a batch; 8,000 are one by themselves
    assert [[name for name, _ in batch] for batch in found] == [["0", "1", "2"], ["3"], ["4"], ["5"]]
    assert all((value == int(name)).all() for batch in found for name, value in batch)
    assert list(batches([])) == []


@pytest.mark.slow
def test_another_process_reads_the_buffer_and_nothing_is_left_of_it() -> None:
    buffer = SharedBuffer()
    (entries,) = buffer.chunks([("w", torch.arange(5.0))])
    code = "from llds.samplers.vllm.weight_update import read_chunk; "
    code += f"print(dict(read_chunk({buffer.path!r}, {entries!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "tensor([0., 1., 2., 3., 4.])" in done.stdout
    path = buffer.path
    buffer.close()
    buffer.close()
    assert not os.path.exists(path)
