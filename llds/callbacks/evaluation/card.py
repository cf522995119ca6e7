"""Making an evaluation card: every condition of an evaluation, read from the objects that set it.

Two runs whose cards agree were measured alike (`llds.evaluation.card_differences`).
"""

import os
import platform
import socket
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar, cast

import lightning.pytorch as pl

import llds
from llds.callbacks.retrieval import RetrievalCallback
from llds.callbacks.rollout.callback import RolloutCallback
from llds.data import PromptDataModule
from llds.files import redacted
from llds.modules import SearchAgentModule, hash_on_first_rank

_PACKAGES = ("torch", "lightning", "transformers", "vllm", "chromadb", "numpy")
_STAGES = {"validate": "validation", "test": "test", "predict": "predict"}
_Callback = TypeVar("_Callback", bound=pl.Callback)


def make_card(trainer: pl.Trainer, module: SearchAgentModule) -> dict[str, Any]:
    """The card of the evaluation that is ending, whole on the first rank. Collective: every rank must call.

    Args:
        trainer: Runs ``validate``, ``test`` or ``predict``.
        module: What was measured.
    """
    stage = str(trainer.state.fn.value) if trainer.state.fn else ""
    data = cast(PromptDataModule, trainer.datamodule)  # type: ignore[attr-defined]
    sources = data.describe()[_STAGES[stage]]
    card = {
        "created": {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "files": [str(source.pop("path")) for source in sources],  # what counts is what is in them
        },
        "stage": stage,
        "policy": _policy(trainer, module),
        "data": sources,
        "prompt": asdict(data.template),
        "protocol": {"class": _class_path(module.protocol)} | settings_of(module.protocol),
        "agent_tools": [tool.describe() for tool in module.agent_tools],
        "opening_tool": module.opening_tool.describe() if module.opening_tool else None,
        "retriever": _retriever(trainer),
        "rollout": _rollout(trainer),
        "numerics": {
            "dtype": module.policy_dtype,
            "attention": module.attention,
            "precision": str(trainer.precision),
        },
        "environment": _environment(trainer),
    }
    return cast(dict[str, Any], redacted(card))


def settings_of(component: object) -> dict[str, Any]:
    """Its public attributes: what it was set to, and nothing of what it found out, which may be no plain value."""
    return {name: value for name, value in vars(component).items() if not name.startswith("_")}


def policy_label(trainer: pl.Trainer, module: SearchAgentModule) -> str:
    """A short name of what is measured: the checkpoint, or the folder of the model."""
    path = trainer.ckpt_path or module.policy_path
    return Path(str(path).replace("llds:", "llds/").rstrip("/")).name.removesuffix(".ckpt")


def _policy(trainer: pl.Trainer, module: SearchAgentModule) -> dict[str, Any]:
    return {
        "model": module.policy_path,
        "checkpoint": str(trainer.ckpt_path) if trainer.ckpt_path else None,
        "iteration": module.iteration,
        "weights_sha256": hash_on_first_rank(module.policy.weights()),
        "module": _class_path(module),
    }


def _retriever(trainer: pl.Trainer) -> dict[str, Any] | None:
    callback = _find(trainer, RetrievalCallback)
    retriever = None if callback is None else callback.opened
    if retriever is None:  # or none that a tool asks, and so none that decides anything
        return None
    return {"class": _class_path(retriever), "fingerprint": retriever.fingerprint} | retriever.describe()


def _rollout(trainer: pl.Trainer) -> dict[str, Any]:
    callback = _find(trainer, RolloutCallback)
    if callback is None:
        return {}
    return {
        "sampling": asdict(callback.eval_sampling),
        "limits": asdict(callback.eval_limits),
        "tool_calls": asdict(callback.tool_calls),
        "sampler": _class_path(callback.sampler),
        "seed": callback.seed,
        "seed_everything": os.environ.get("PL_GLOBAL_SEED"),
    }


def _environment(trainer: pl.Trainer) -> dict[str, Any]:
    return {
        "llds": llds.__version__,
        **_git(Path(llds.__file__).parent),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "device": trainer.strategy.root_device.type,
        "ranks": trainer.world_size,
    }


def _git(folder: Path) -> dict[str, Any]:
    """Commit of the checkout that llds runs from, and whether its files differ from it; None when installed."""
    if _run_git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return {"git_commit": None, "git_dirty": None}
    return {
        "git_commit": _run_git(folder, "rev-parse", "HEAD"),
        "git_dirty": bool(_run_git(folder, "status", "--porcelain", "--", ".")),
    }


def _run_git(folder: Path, *args: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", folder, *args], capture_output=True, text=True, timeout=10, check=True)  # noqa: S603, S607
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _class_path(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _find(trainer: pl.Trainer, kind: type[_Callback]) -> _Callback | None:
    return next((callback for callback in trainer.callbacks if isinstance(callback, kind)), None)  # type: ignore[attr-defined]
