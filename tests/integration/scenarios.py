"""One training that has everything which can go wrong on several ranks; the same for one process and for two.

Three prompts and four trajectories each, one prompt per optimizer step, so that two ranks share prompts and
trajectories unevenly; micro-batches of one row; a trajectory that fails, so that one rank runs short; clipping that
acts; gradient checkpointing; reference and scoring forwards between the steps.
"""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from llds.batches import PolicyBatch
from llds.callbacks import LLDProbe
from llds.errors import SamplerError
from llds.losses import KLPenalty
from llds.modules import Optimization, PolicyOutput, SearchAgentModule
from llds.rollout import Oversampling
from llds.strategies import rank, world_size
from llds.types import Trajectory
from tests.runs import FirstIsRight, Run, answers, by_iteration, make_run, scripted


class AdamWAgent(SearchAgentModule):
    """The agent as it is; counts the tokens of every micro-batch that it trains on."""

    lengths_seen: list[int]

    def forward(self, batch: PolicyBatch) -> PolicyOutput:
        """Count, and go on."""
        counted = int(batch.lengths.sum()) if bool(batch.action_mask.any()) else 0
        self.lengths_seen = [*self.__dict__.get("lengths_seen", []), counted]
        return super().forward(batch)


class SGDAgent(AdamWAgent):
    """With plain gradient descent, whose steps are as large as the gradient: no error of a scale can hide."""

    def configure_optimizers(self) -> dict[str, Any]:
        """SGD instead of AdamW."""
        configured = super().configure_optimizers()
        optimizer = torch.optim.SGD([value for value in self.policy.parameters() if value.requires_grad], lr=0.5)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        return {"optimizer": optimizer, "lr_scheduler": configured["lr_scheduler"] | {"scheduler": schedule}}


class PoisonedAgent(AdamWAgent):
    """In the second iteration, what the last rank computes is not finite."""

    def forward(self, batch: PolicyBatch) -> PolicyOutput:
        """Spoil the log-probabilities, or their gradient alone."""
        output = super().forward(batch)
        if self.iteration != 1 or rank() != world_size() - 1:
            return output
        if len(self.lengths_seen) % 2:
            return output._replace(log_probs=output.log_probs * float("nan"))
        output.log_probs.register_hook(lambda gradient: gradient * float("inf"))
        return output


class SecondIsHopeless(FirstIsRight):
    """The second prompt of an iteration has no signal."""

    def __call__(self, trajectory: Trajectory) -> float:
        """Score."""
        return super().__call__(trajectory) * (trajectory.index // 4 != 1)


OVERSAMPLED: dict[str, Any] = {"rollout": {"oversampling": Oversampling(max_factor=1.4), "reward": SecondIsHopeless()}}
"""One prompt more than the three of the batch, which leaves one of two ranks without any in that round."""


class GoesBack(pl.Callback):
    """After the third iteration, goes back to the checkpoint of the second and makes the third's updates again.

    Attributes:
        gaps: Largest differences of weights: the checkpoint's to those then, the second third's to the first's.
        steps: Optimizer steps and learning rate of the schedule, before and after.
    """

    def __init__(self) -> None:
        self.gaps: list[float] = []
        self.steps: list[tuple[int, float]] = []
        self._kept: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: SearchAgentModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the weights; in the end, compare."""
        self._keep(pl_module)
        if pl_module.iteration != 3:
            return
        self.steps.append(_scheduled(trainer))
        for _ in range(2):  # the second time from a state that was itself gone back to
            pl_module.roll_back(next((Path(trainer.default_root_dir) / "checkpoints").glob("*2.ckpt")))
            self.steps.append(_scheduled(trainer))
            self._keep(pl_module)
            pl_module.iteration -= 1
            pl_module.policy_update().run(batch.policy_batch)
            pl_module.iteration += 1
            self._keep(pl_module)
            _, second, third, restored, again = self._kept
            self.gaps += [_gap(second, restored), _gap(third, again)]
            del self._kept[3:]

    def _keep(self, pl_module: SearchAgentModule) -> None:
        self._kept.append({name: value.clone() for name, value in pl_module.policy.weights()})


def _scheduled(trainer: pl.Trainer) -> tuple[int, float]:
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    return int(scheduler.last_epoch), float(trainer.optimizers[0].param_groups[0]["lr"])


def _gap(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    return max(float((value - theirs[name]).abs().max()) for name, value in ours.items())


def script(iteration: int, trajectory: int, turn: int) -> str | Exception:
    """Search and answer; in the second iteration a trajectory fails; some answers are long."""
    if (iteration, trajectory) == (1, 5):
        return SamplerError("engine down")
    text = answers(iteration, trajectory, turn)
    return text.replace("demonym", "demonym " * (trajectory % 3 + 1))


def falling() -> Optimization:
    """Settings of the optimizer with a learning rate that another step would show in."""
    return Optimization(learning_rate=1e-3, schedule="linear", mini_batch_size=1, micro_batch_size=4)


def scenario(
    folder: Path, agent: type[SearchAgentModule], *callbacks: pl.Callback, is_cut_fine: bool = False, **changes: Any
) -> Run:
    """Build the training, in micro-batches of a trajectory and with gradient checkpointing where it is cut fine."""
    micro = 1 if is_cut_fine else 4
    optimization = Optimization(
        learning_rate=1e-3, mini_batch_size=1, micro_batch_size=micro, max_grad_norm=0.05, max_nonfinite_steps=9
    )
    module = {"optimization": optimization, "gradient_checkpointing": is_cut_fine, "kl_penalty": KLPenalty(0.1)}
    settings: dict[str, Any] = {"iterations": 3, "sampler": scripted(script), "agent": agent} | changes
    settings["module"] = module | changes.get("module", {})
    run = make_run(folder, *callbacks, **settings)
    run.data.batch_size, run.data.eval_batch_size = 3, 5
    return run


def probed(folder: Path, **changes: Any) -> list[float]:
    """Change per token of each probed question, after an iteration."""
    probe = LLDProbe(1, questions=3, rollouts=4, source="train")
    scenario(folder, AdamWAgent, probe, iterations=1, sampler=None, **changes).fit()
    assert probe.last is not None
    assert probe.last.iteration == 1
    return probe.last.changes


def logged(run: Run) -> dict[str, dict[str, float]]:
    """The metrics of each iteration, without times; rank 0 has them."""
    if rank() != 0:
        return {}
    return {
        iteration: {key: float(value) for key, value in row.items()}
        for iteration, row in by_iteration(run.folder).items()
    }


def evaluate(run: Run) -> list[tuple[str, str]]:
    """Test the policy of the last checkpoint; the questions in the order in which they were counted."""
    path = sorted((run.folder / "checkpoints").iterdir())[-1]
    run.trainer.test(run.module, run.data, ckpt_path=str(path), verbose=False)
    return [(one.prompt_id, one.answer or "") for one in run.module.evaluation.questions]
