"""The bench of cures: every stabilizer of GRPO on the same collapse (`python -m tools.experiments.cures`)."""
