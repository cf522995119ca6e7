"""Train search agents with GRPO + LLDS on Lightning: see the collapse coming, understand it, keep training."""

__version__ = "0.1.0"
