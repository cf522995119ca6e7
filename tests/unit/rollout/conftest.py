"""The tokenizer of these tests."""

from tests.tag_tokenizer import tokenizer

__all__ = ["tokenizer"]
