"""What ``llds export`` refuses; that it exports is shown in tests/integration."""

from pathlib import Path

import pytest
import torch

from llds.cli import main


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "config.yaml, which does not exist"),
        ("- a list", "got a file without `model.init_args.policy`"),
        ("model: {init_args: {}}", "got a file without `model.init_args.policy`"),
        ("model: {init_args: {policy: nowhere}}", "Expected `model.policy` to be a folder"),
    ],
)
def test_what_cannot_be_exported_is_one_line(config: str | None, message: str, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "iteration-000001.ckpt"
    checkpoint.parent.mkdir()
    torch.save({}, checkpoint)
    if config is not None:
        (tmp_path / "config.yaml").write_text(config)
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(checkpoint), str(tmp_path / "model")])
    text = str(stopped.value.code)
    assert text.startswith("llds: Expected ")
    assert message in text
    assert "\n" not in text
    assert not (tmp_path / "model").exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit, match="Expected FOLDER to be new or empty"):
        main(["export", "x.ckpt", str(tmp_path)])
