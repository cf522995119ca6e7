"""What is no checkpoint is named for what it is."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llds.cli.training.checkpoint_path import check_checkpoint, errors_of_damage
from llds.errors import CheckpointError, ConfigurationError

GOOD = {"state_dict": {"policy.weight": torch.zeros(3000)}, "search_agent": {"iteration": 1}}


def saved(path: Path, content: object = GOOD) -> Path:
    torch.save(content, path)
    return path


def cut(path: Path) -> None:
    whole = saved(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")


def folder_with(name: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.mkdir()
        if name.endswith("/"):
            (path / name).mkdir()
        elif name:
            (path / name).write_text("{}")

    return make


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no such file"),
    "random bytes": (lambda path: path.write_bytes(bytes(range(256)) * 9), "a file that is none"),
    "empty": (lambda path: path.touch(), "an empty file"),
    "pipe": (os.mkfifo, "a device or a pipe"),
    "lfs pointer": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n"),
        "a Git-LFS pointer instead of the file itself. Fetch it: git lfs pull",
    ),
    "cut off": (cut, "a file that was cut off after"),
    "another zip": (zipped, "a file that is damaged or none"),
    "weights alone": (lambda path: saved(path, {"a": torch.zeros(2)}), "a file of torch that llds did not write"),
    "a list": (lambda path: saved(path, [1]), "a file of torch that llds did not write"),
    "objects": (
        lambda path: saved(path, GOOD | {"own": Path("x")}),
        "a file with an object of pathlib.PosixPath in it, and loading such a file can run code that it brings. If you "
        "trust who wrote it: --weights_only false.",
    ),
    "empty folder": (folder_with(""), "a folder that is none"),
    "model folder": (folder_with("config.json"), "the folder of a model. Measure a model with --model.policy"),
    "run folder": (
        folder_with("checkpoints/"),
        "the folder of a run. Name a file in it, or use --trainer.default_root",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_no_checkpoint_is_said_in_one_line(name: str, tmp_path: Path) -> None:
    make, found = CASES[name]
    path = tmp_path / "x.ckpt"
    make(path)
    with pytest.raises(ConfigurationError) as raised:
        check_checkpoint(path)
    message = str(raised.value)
    assert message.startswith(f"Expected `ckpt_path` to be a checkpoint or `last`, got {path}: {found}")
    assert "\n" not in message


def test_best_is_no_word_of_llds() -> None:
    with pytest.raises(ConfigurationError, match="llds keeps the latest checkpoints, none as the best"):
        check_checkpoint(Path("best"))


def test_checkpoints_of_files_and_of_zero3_pass(tmp_path: Path) -> None:
    check_checkpoint(saved(tmp_path / "x.ckpt"))
    parts = tmp_path / "y.ckpt" / "checkpoint"
    parts.mkdir(parents=True)
    (parts / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt").touch()
    check_checkpoint(tmp_path / "y.ckpt")


class _Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.touch, (self.path,)


def test_nothing_that_a_checkpoint_brings_is_run(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.ckpt", GOOD | {"callbacks": _Hostile(tmp_path / "ran")})
    with pytest.raises(ConfigurationError, match="--weights_only false"):
        check_checkpoint(path)
    assert not (tmp_path / "ran").exists()
    check_checkpoint(path, weights_only=False)
    assert (tmp_path / "ran").exists()  # so the file would have


def test_weights_that_are_damaged_are_said_when_they_are_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.ckpt")
    content = bytearray(path.read_bytes())
    start = content.index(b"x/data/0") - 30  # the header of the weights' record
    content[start : start + 4] = b"\xff" * 4
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=f"got {path}, which is damaged"):
        check_checkpoint(path)
    with pytest.raises(ConfigurationError, match=f"got {path}: a file that is damaged"), errors_of_damage(str(path)):
        torch.load(path, weights_only=False)


def test_other_errors_pass_as_they_are() -> None:
    for path in ("x.ckpt", None):
        with pytest.raises(RuntimeError, match="elsewhere"), errors_of_damage(path):
            raise RuntimeError("elsewhere")
