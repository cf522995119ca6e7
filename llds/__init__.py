"""Train search agents with GRPO + LLDS on Lightning: see the collapse coming, understand it, keep training.

To follow a prompt to a gradient, read these files in this order; ``tests/unit/test_walk.py`` holds them to it:

1. ``llds/data/loader.py``: `PromptLoader` yields the prompts of an iteration as a `RolloutBatch`.
2. ``llds/callbacks/rollout/callback.py``: `RolloutCallback.on_train_batch_start` rolls them out and makes tensors.
3. ``llds/rollout/collect.py``: `RolloutCollector.begin` runs all episodes of the iteration side by side.
4. ``llds/rollout/episode.py``: `run_episode` lets the policy act and the tools answer, turn by turn.
5. ``llds/batches/policy_batch.py``: `collate` makes tensors of the trajectories, with the mask of what was sampled.
6. ``llds/modules/search_agent.py``: `SearchAgentModule.prepare` adds advantages and scores; `training_step` trains.
7. ``llds/modules/updates.py``: `PolicyUpdate.run` makes the optimizer steps, by mini-batches and micro-batches.
8. ``llds/modules/objective.py``: `Objective.loss` adds the terms up; the formula of each is in ``llds/losses/``.

What they call beside that (other ranks, weights of the sampler, overlap, over-sampling, checks, metrics) has a name
that says what it does, and need not be entered.
"""

__version__ = "0.1.0"
