"""The configuration that a run keeps: whole, but for secrets."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from llds.cli.config.saved import SaveConfig


def test_no_secret_is_saved_with_a_run(tmp_path: Path) -> None:
    parser = LightningArgumentParser()
    for name in ("logger", "default_root_dir", "max_epochs"):
        parser.add_argument(f"--trainer.{name}", type=Any)
    command = ["fit", "--trainer.logger.api_key", "hunter2", "--trainer.max_epochs", "3"]
    logger = "--trainer.logger={api_key: hunter2, host: 'http://me:hunter2@host'}"
    config = parser.parse_args([logger, f"--trainer.default_root_dir={tmp_path}", "--trainer.max_epochs=3"])
    trainer: Any = SimpleNamespace(is_global_zero=True, default_root_dir=str(tmp_path))
    SaveConfig(parser, config, command).on_train_start(trainer, None)  # type: ignore[arg-type]
    text = (tmp_path / "config.yaml").read_text()
    assert "hunter2" not in text
    assert yaml.safe_load(text)["trainer"]["max_epochs"] == 3
    assert "--trainer.logger.api_key '(not written)' --trainer.max_epochs 3" in text.splitlines()[0]
