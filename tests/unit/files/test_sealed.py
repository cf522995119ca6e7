"""Files that are whole or not there, sealed ones, and folders with a list of checksums."""

import hashlib
import random
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from llds.errors import CheckpointError, DataError
from llds.files import check_whole, damage_of_folder, file_hash, write_atomically, write_manifest, write_sealed

CONTENT = {"state_dict": {"policy.weight": torch.arange(3000.0)}, "search_agent": {"iteration": 1}}


def sealed(path: Path) -> Path:
    with write_sealed(path) as file:
        torch.save(CONTENT, file)  # type: ignore[arg-type]
    return path


def unsealed(path: Path) -> Path:
    torch.save(CONTENT, path)
    return path


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def is_refused(path: Path) -> bool:
    try:
        check_whole(path)
    except CheckpointError:
        return True
    return False


@contextmanager
def largest_file(count: int) -> Iterator[None]:
    """Writing more bytes to one file fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_sealed_file_is_one_that_plain_torch_loads(tmp_path: Path) -> None:
    path = sealed(tmp_path / "x.ckpt")
    check_whole(path)
    for options in ({}, {"mmap": True}):
        loaded = torch.load(path, weights_only=True, **options)
        assert torch.equal(loaded["state_dict"]["policy.weight"], CONTENT["state_dict"]["policy.weight"])
    assert [one.name for one in tmp_path.iterdir()] == ["x.ckpt"]


def test_none_of_200_files_with_one_flipped_bit_passes(tmp_path: Path) -> None:
    content, draw = sealed(tmp_path / "x.ckpt").read_bytes(), random.Random(0)
    passed = []
    for number, bit in enumerate(draw.sample(range(len(content) * 8), 200)):
        path = tmp_path / f"{number}.pt"
        path.write_bytes(flipped(content, bit))
        passed += [] if is_refused(path) else [bit]
    assert passed == []


def test_no_flipped_bit_of_the_seal_itself_passes(tmp_path: Path) -> None:
    content, path = sealed(tmp_path / "x.ckpt").read_bytes(), tmp_path / "y.pt"
    for bit in range((len(content) - 21) * 8, len(content) * 8):
        path.write_bytes(flipped(content, bit))
        assert is_refused(path), bit


@pytest.mark.parametrize("make", [sealed, unsealed])
def test_zeros_in_the_place_of_weights_are_found_with_and_without_a_seal(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    content = make(tmp_path / "x.ckpt").read_bytes()
    assert not is_refused(tmp_path / "x.ckpt")
    for start in (2000, 6000):
        path = tmp_path / f"{start}.pt"
        path.write_bytes(content[:start] + bytes(4096) + content[start + 4096 :])
        assert is_refused(path)


def test_a_file_without_a_seal_that_passes_has_the_same_weights(tmp_path: Path) -> None:
    content, path = unsealed(tmp_path / "x.ckpt").read_bytes(), tmp_path / "y.pt"
    for bit in random.Random(0).sample(range(len(content) * 8), 100):
        path.write_bytes(flipped(content, bit))
        if not is_refused(path):  # between the records of an archive are bytes that nobody reads
            with suppress(RuntimeError):  # torch may refuse it
                loaded = torch.load(path, weights_only=True)
                assert torch.equal(loaded["state_dict"]["policy.weight"], CONTENT["state_dict"]["policy.weight"])


def test_the_next_older_whole_checkpoint_is_named(tmp_path: Path) -> None:
    paths = [sealed(tmp_path / f"iteration-{number}.ckpt") for number in (1, 2, 3)]
    for path in paths[1:]:
        path.write_bytes(flipped(path.read_bytes(), 9999))
    with pytest.raises(CheckpointError, match=f"got {paths[2]}, which is damaged: .* --ckpt_path {paths[0]} "):
        check_whole(paths[2])
    paths[0].unlink()
    with pytest.raises(CheckpointError, match="There is no older one beside it"):
        check_whole(paths[2])


def test_the_parts_of_a_folder_are_checked_each_by_one_rank(tmp_path: Path) -> None:
    folder = tmp_path / "iteration-1.ckpt" / "checkpoint"
    folder.mkdir(parents=True)
    parts = [sealed(folder / f"{name}.pt") for name in "abc"]
    check_whole(folder.parent)
    parts[1].write_bytes(flipped(parts[1].read_bytes(), 9999))
    check_whole(folder.parent, (0, 2))
    with pytest.raises(CheckpointError, match=r"in b\.pt, its checksum is"):
        check_whole(folder.parent, (1, 2))


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = sealed(tmp_path / "x.ckpt")
    before = path.read_bytes()
    with largest_file(5000), pytest.raises(OSError, match="File too large"):
        sealed(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_as_it_was_written_is_named(tmp_path: Path) -> None:
    assert damage_of_folder(tmp_path) == ""  # a folder of another program has no list
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes(name.encode() * 100)
    write_manifest(tmp_path)
    assert damage_of_folder(tmp_path) == ""
    (tmp_path / "model.safetensors").write_bytes(b"Model.safetensors" * 100)
    assert damage_of_folder(tmp_path) == "model.safetensors is not as it was written, by its checksum"
    (tmp_path / "config.json").unlink()
    assert damage_of_folder(tmp_path) == "config.json is missing"
    (tmp_path / "checksums.json").write_text("{")
    assert damage_of_folder(tmp_path).startswith("its checksums.json is damaged")


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "made" / "x.jsonl"
    with write_atomically(path) as file:
        file.write("北京\n")
        assert not path.exists()
    assert path.read_text() == "北京\n"
    assert file_hash(path) == hashlib.sha256("北京\n".encode()).hexdigest()
    assert [one.name for one in path.parent.iterdir()] == ["x.jsonl"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_is_interrupted_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "x").write_text("old")

    def write_half() -> None:
        with write_atomically(tmp_path / "x") as file:
            file.write("new")
            raise error

    with pytest.raises(error):
        write_half()
    assert (tmp_path / "x").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_place_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"Expected to write .*file/x, got"), write_atomically(tmp_path / "file" / "x"):
        pass
    with pytest.raises(DataError, match="Expected a readable file"):
        file_hash(tmp_path / "nowhere")
