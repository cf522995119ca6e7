"""A file of trajectories: gzipped JSONL, one trajectory a line, under its name only when it is complete."""

import gzip
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from llds.batches import RolloutBatch
from llds.batches.loss_inputs import trajectory_advantages
from llds.types import Trajectory, Turn


@dataclass(frozen=True)
class TrajectoryUpdate:
    """What the iteration's updates did to a trajectory.

    Attributes:
        advantage: It was trained on with.
        log_prob_changes: Log-likelihood of each action token minus that before the updates, in nats; None where it was
            not measured.
    """

    advantage: float
    log_prob_changes: list[float] | None


class TrajectoryFile:
    """Writes trajectories as they come.

    Args:
        path: The file; its folder is made where it is missing.
        tokenizer: Makes text of the ids.

    Attributes:
        count: Trajectories written so far.
    """

    def __init__(self, path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        self.path = path
        self.tokenizer = tokenizer
        self.count = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._partial = path.with_name(f".partial-{path.name}")
        self._file = gzip.open(self._partial, "wt", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 (kept)

    def write(self, trajectories: Iterable[Trajectory], updates: Mapping[int, TrajectoryUpdate] | None = None) -> None:
        """Append trajectories.

        Args:
            trajectories: Their episodes have ended.
            updates: By the identity (``id``) of the trajectory, for those that were trained on.
        """
        for trajectory in trajectories:
            record = trajectory_record(trajectory, self.tokenizer, (updates or {}).get(id(trajectory)))
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
            self.count += 1

    def close(self, name: str | None = None) -> Path:
        """Give the file its name, and return the path.

        Args:
            name: Another name than planned, for a file that is not complete.
        """
        self._file.close()
        path = self.path.with_name(name or self.path.name)
        os.replace(self._partial, path)
        return path


def trajectory_updates(batch: RolloutBatch) -> dict[int, TrajectoryUpdate]:
    """What the updates saw of the trajectories that were trained on, by their identity.

    Their changes are those that earlier steps made, before the step on the trajectory itself.
    """
    tensors, after = batch.policy_batch, batch.updated_log_probs
    if tensors is None or tensors.old_log_probs is None or after is None:
        return {}
    changes = (after - tensors.old_log_probs).cpu()
    masks, advantages = tensors.action_mask.cpu(), trajectory_advantages(tensors).tolist()
    return {
        id(trajectory): TrajectoryUpdate(advantages[row], changes[row][masks[row]].tolist())
        for row, trajectory in enumerate(batch.trained)
    }


def trajectory_record(
    trajectory: Trajectory, tokenizer: PreTrainedTokenizerBase, update: TrajectoryUpdate | None = None
) -> dict[str, Any]:
    """A trajectory as JSON-ready values: question, outcome, prompt, and each turn as text and as ids.

    Args:
        trajectory: Its episode has ended.
        tokenizer: Makes text of the ids.
        update: What was trained on it: adds its advantage and, where it was measured, to each turn the text of each
            token and the change of its log-likelihood.
    """
    prompt = trajectory.prompt
    turns = [_turn_record(turn, tokenizer) for turn in trajectory.turns]
    record = trajectory.describe() | {
        "sampling": asdict(trajectory.sampling),
        "prompt": tokenizer.decode(list(prompt.prompt_ids)),
        "prompt_ids": prompt.prompt_ids,
        "prompt_document_ids": prompt.document_ids,
        "turns": turns,
    }
    if update is not None:
        record["advantage"] = round(update.advantage, 6)
        if update.log_prob_changes is not None:
            _add_changes(turns, update.log_prob_changes, tokenizer)
    return record


def _add_changes(turns: list[dict[str, Any]], changes: Sequence[float], tokenizer: PreTrainedTokenizerBase) -> None:
    start = 0
    for turn in turns:
        end = start + len(turn["action_ids"])
        turn["action_tokens"] = _pieces(turn["action_ids"], tokenizer)
        turn["log_prob_changes"] = [round(value, 6) for value in changes[start:end]]
        start = end


def _pieces(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text of each token: what it adds to the one before, as some tokenizers drop a space at the beginning."""
    before = tokenizer.batch_decode([[token] for token in ids])
    pairs = [ids[at - 1 : at + 1] for at in range(1, len(ids))]
    both = tokenizer.batch_decode(pairs) if pairs else []  # of no pair, it would return one empty text
    return before[:1] + [pair.removeprefix(first) for first, pair in zip(before, both, strict=False)]


def _turn_record(turn: Turn, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    calls = [{"name": call.name, "arguments": dict(call.arguments)} for call in turn.action.calls]
    return {
        "action": tokenizer.decode(turn.action_ids),
        "kind": turn.action.kind,
        "name": turn.action.name,
        "content": turn.action.content,
        "stop_reason": turn.stop_reason,
        "action_ids": turn.action_ids,
        "behavior_log_probs": [round(value, 6) for value in turn.behavior_log_probs],
        "observation": tokenizer.decode(turn.observation_ids),
        "observation_ids": turn.observation_ids,
        "observation_is_cut": turn.observation_is_cut,
        "document_ids": turn.document_ids,
        "tool_s": round(turn.tool_s, 4),
        "tool_errors": turn.tool_errors,
        **({"calls": calls} if calls else {}),
        **({"rewards": turn.rewards} if turn.rewards else {}),
        **({"reason": turn.action.reason} if turn.action.reason else {}),
    }
