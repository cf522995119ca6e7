"""What estimators of advantages need of the rollout: that the reward says it, or the information gain of actions.

Information gain: how much likelier an action's observation made the gold answer (IGPO, arXiv 2510.14967).
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llds.batches import PolicyBatch
from llds.losses import Advantages
from llds.losses.advantages.parts import GAIN
from llds.modules import SearchAgentModule
from llds.rewards import Reward, SumOfRewards
from llds.types import WHOLE, Trajectory


def check_estimator_of(estimator: Advantages | None, reward: Reward) -> None:
    """Refuse a reward that does not say what the estimator of advantages needs."""
    if estimator is not None:
        parts = reward.parts if isinstance(reward, SumOfRewards) else {WHOLE: reward}
        says = {name: type(part).score_turns is not Reward.score_turns for name, part in parts.items()}
        estimator.check_reward({name: reward.part_weights.get(name, 1.0) if says[name] else None for name in parts})


def with_gain(batch: PolicyBatch, trajectories: Sequence[Trajectory], agent: SearchAgentModule) -> PolicyBatch:
    """The batch with the information gain of actions as a part of the reward, where the estimator reads it.

    Every rank must call: the policy scores.

    Args:
        batch: Of the trajectories, with the parts of their reward.
        trajectories: Finished.
        agent: Has the estimator and the policy.
    """
    opening = agent.advantages.answer_opening if agent.advantages else None
    if opening is None or batch.reward_parts is None:
        return batch
    gains = torch.full(batch.reward_parts.turn_values[:, 0].shape, torch.nan)
    rows = [(row, turns) for row, one in enumerate(trajectories) for turns in range(len(one.turns))]
    if any(turns for _, turns in rows):
        scored = answers_after([(trajectories[row], turns) for row, turns in rows], agent.tokenizer, opening)
        beliefs = dict(zip(rows, _likelihoods(scored, agent).tolist(), strict=True))
        for row, turns in rows:
            if turns:
                gains[row, turns - 1] = beliefs[row, turns] - beliefs[row, turns - 1]
    return replace(batch, reward_parts=batch.reward_parts.joined(GAIN, gains))


def _likelihoods(batch: PolicyBatch, agent: SearchAgentModule) -> Tensor:
    """Geometric mean of the probabilities of each row's answer tokens, ``[R]``."""
    mask = batch.action_mask
    log_probs = agent.score(agent.policy, batch.to(agent.device)).to(mask.device)
    return ((log_probs * mask).sum(1) / mask.sum(1)).exp()


def answers_after(
    histories: Sequence[tuple[Trajectory, int]], tokenizer: PreTrainedTokenizerBase, opening: str
) -> PolicyBatch:
    """The first gold answer after each history, as what a policy scores: its tokens are the action.

    Args:
        histories: A trajectory, and how many of its turns are past.
        tokenizer: The policy's tokenizer.
        opening: Text before the answer.
    """
    encode = tokenizer.encode
    before = encode(opening, add_special_tokens=False)
    rows = []
    for trajectory, turns in histories:
        history = list(trajectory.prompt.prompt_ids)
        for turn in trajectory.turns[:turns]:
            history += [*turn.action_ids, *turn.observation_ids]
        rows.append(([*history, *before], encode(trajectory.prompt.golden_answers[0], add_special_tokens=False)))
    shape = (len(rows), max(len(start) + len(answer) for start, answer in rows))
    ids, attention = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    index = torch.full(shape, -1)
    for row, (start, answer) in enumerate(rows):
        end = len(start) + len(answer)
        ids[row, :end] = torch.tensor([*start, *answer])
        attention[row, :end] = 1
        index[row, len(start) : end] = 0
    nothing = torch.zeros(len(rows))
    return PolicyBatch(
        input_ids=ids,
        attention_mask=attention,
        action_index=index,
        answer_mask=index >= 0,
        behavior_log_probs=torch.zeros(shape),
        rewards=nothing,
        correct=nothing > 0,
        advantages=nothing,
        groups=torch.arange(len(rows)),
    )
