"""The sampler of the base install: the trainer's own model, keys and values kept between turns."""

from llds.samplers.transformers.sampler import TransformersSampler

__all__ = ["TransformersSampler"]
