"""llds in other people's trainers: a watch that warns, the signals that make it early, and LLDS itself.

`transformers` watches any Trainer of Hugging Face, `trl` adds LLDS and the signals of likelihood to TRL's GRPOTrainer,
`verl` is a logger and a policy loss of verl. They need no more of llds than `llds.losses`, `llds.metrics` and
`llds.monitor`, so no Lightning either: some of these trainers want other versions of its dependencies.
"""
