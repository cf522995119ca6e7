"""One question under the probe: the change that an update on it makes, and the influence that explains it.

Left out on purpose: the choice and the rollouts of the questions (`llds.callbacks.probe`), how an update is tried
(`trial_update`), the arithmetic of the influence (`llds.probes`).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from llds.batches import PolicyBatch
from llds.batches.loss_inputs import trajectory_advantages, with_selection
from llds.losses.log_probs import HeadTokens
from llds.modules.objective import Objective
from llds.modules.search_agent import SearchAgentModule
from llds.probes.influence import head_influence
from llds.probes.record import ActionPlace, ProbedAction, ProbedQuestion, ProbedTrajectory
from llds.probes.trial_update import TrialUpdates
from llds.types import Trajectory


class QuestionProbe:
    """Probes questions from the module's present weights.

    Args:
        module: Has the policy.
        trials: Tries the updates.
    """

    def __init__(self, module: SearchAgentModule, trials: TrialUpdates) -> None:
        self.module = module
        self.trials = trials

    def measure(self, trajectories: Sequence[Trajectory], batch: PolicyBatch) -> ProbedQuestion:
        """Update on the question, measure, and take the update back.

        Args:
            trajectories: All of one question, some right and some wrong.
            batch: The same as tensors, with advantages.
        """
        before = self.trials.log_probs(batch)
        batch = replace(batch, old_log_probs=before)
        pulls = self._pulls(batch)
        with self.trials.updated(batch) as norms:
            change = (self.trials.log_probs(batch) - before).double()
        prompt = trajectories[0].prompt
        return ProbedQuestion(
            prompt_id=prompt.prompt_id,
            question=prompt.question,
            golden_answers=list(prompt.golden_answers),
            grad_norm=norms[0],
            trajectories=[self._trajectory(one, change[row], batch, row) for row, one in enumerate(trajectories)],
            actions=[
                self._action(trajectories[row], row, turn, change[row][batch.action_index[row] == turn], pull)
                for (row, turn), pull in zip(_correct_actions(batch), pulls.tolist(), strict=True)
            ],
        )

    @torch.no_grad()
    def _pulls(self, batch: PolicyBatch) -> Tensor:
        """Influence of each trajectory on each correct action, ``[A, B]``."""
        rows, columns = batch.action_mask.nonzero(as_tuple=True)
        numbers = torch.full_like(batch.action_index, -1)
        for number, (row, turn) in enumerate(_correct_actions(batch)):
            numbers[row][batch.action_index[row] == turn] = number
        head = self.module.policy.base_model.get_output_embeddings()
        tokens = HeadTokens(
            self._hidden(batch), batch.input_ids[rows, columns], head.weight, head.bias, self.module.temperature
        )
        return head_influence(tokens, policy_slopes(self.trials.trial.objective, batch), numbers[rows, columns], rows)

    def _hidden(self, batch: PolicyBatch) -> Tensor:
        """Hidden state before each action token, row by row, ``[N, H]``."""
        by_row: dict[int, Tensor] = {}
        for rows, micro_batch in self.trials.micro_batches(batch):
            with self.module.forward_context():
                hidden = self.module.policy.hidden_before_actions(micro_batch)
            lengths = micro_batch.action_mask.sum(1).tolist()
            by_row |= dict(zip(rows.tolist(), hidden.split(lengths), strict=True))
        return torch.cat([by_row[row] for row in range(len(batch))])

    def _trajectory(self, trajectory: Trajectory, change: Tensor, batch: PolicyBatch, row: int) -> ProbedTrajectory:
        decode = self.module.tokenizer.decode
        return ProbedTrajectory(
            reward=trajectory.reward,
            is_correct=trajectory.is_correct,
            advantage=float(trajectory_advantages(batch)[row]),
            tokens=int(batch.action_mask[row].sum()),
            change=float(change.sum()),
            answer=trajectory.answer,
            turns=[(str(decode(turn.action_ids)), str(decode(turn.observation_ids))) for turn in trajectory.turns],
        )

    def _action(self, trajectory: Trajectory, row: int, turn: int, change: Tensor, pulls: list[float]) -> ProbedAction:
        text = str(self.module.tokenizer.decode(trajectory.turns[turn].action_ids))
        return ProbedAction(row, turn, _place(trajectory, turn), len(change), text, float(change.sum()), pulls)


def policy_slopes(objective: Objective, batch: PolicyBatch) -> Tensor:
    """Weight of each action token in the gradient of the policy loss, where nothing has moved, row by row, ``[N]``.

    For GRPO the advantage over the lengths that the loss divides by. KL and LLDS are no part of theorem A.2.

    Args:
        objective: The loss.
        batch: All trajectories of a mini-batch, with advantages and old log-probabilities.
    """
    policy_loss = replace(objective, kl_penalty=None, llds_penalty=None, further=())
    batch = with_selection(batch, objective.selections)
    with torch.enable_grad():
        log_probs = cast(Tensor, batch.old_log_probs).clone().requires_grad_()
        policy_loss.loss(log_probs, batch, policy_loss.denominators(batch)).backward()
    assert log_probs.grad is not None  # noqa: S101 (the loss depends on it)
    return -log_probs.grad[batch.action_mask]


def _correct_actions(batch: PolicyBatch) -> list[tuple[int, int]]:
    """Row and turn of each action of the correct trajectories, in order."""
    right = batch.correct.nonzero()[:, 0].tolist()
    return [(row, turn) for row in right for turn in range(int(batch.action_index[row].max()) + 1)]


def _place(trajectory: Trajectory, turn: int) -> ActionPlace:
    if trajectory.turns[turn].action.kind == "answer":
        return "answer"
    return "first" if turn == 0 else "later"
