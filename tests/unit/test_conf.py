"""Every configuration file parses and instantiates, alone and under every overlay; a typo is refused."""

from pathlib import Path

import pytest
from lightning.pytorch import LightningModule

from llds.cli import build_cli
from llds.errors import LLDSError
from llds.losses import GSPOLoss
from llds.modules import SearchAgentModule

ROOT = Path(__file__).parents[2]
OVERLAYS = sorted((ROOT / "conf" / "ablations").glob("*.yaml"))
RECIPES = [ROOT / "conf" / "base.yaml", ROOT / "conf" / "quickstart.yaml"]
MODEL = ["--model.policy", "llds:quickstart/policy"]


def instantiate(*args: str) -> SearchAgentModule:
    """Build module, data module, callbacks and trainer as `llds fit` does, without running."""
    module = build_cli([*map(str, args)], run=False).model
    assert isinstance(module, LightningModule)
    return module


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_every_overlay_instantiates_on_every_recipe_with_an_override(recipe: Path, overlay: Path) -> None:
    module = instantiate(
        "--config", recipe, "--config", overlay, *MODEL, "--model.optimization.learning_rate", "3e-5"
    )
    assert module.optimization.learning_rate == 3e-5


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_an_overlay_is_short_and_says_how_to_run_it_and_what_it_tests(overlay: Path) -> None:
    lines = overlay.read_text().splitlines()
    assert len(lines) <= 15
    assert lines[0] == f"# llds fit -c conf/quickstart.yaml -c conf/ablations/{overlay.name}"
    assert lines[1].startswith("# Hypothesis: ")
    assert "callbacks" not in overlay.read_text()
