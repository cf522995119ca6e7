"""The sampler of the base install: the trainer's own model, with a key-value cache between turns."""

from llds.samplers.transformers.sampler import TransformersSampler

__all__ = ["TransformersSampler"]
