"""Observations as token ids: cut at their limit, and unable to smuggle in a token that only the policy may write.

Text escaping alone can be bypassed, so the guarantee is given on ids: no special token, and no token that is itself a
tag of the protocol, survives in the body of an observation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from llds.errors import ConfigurationError
from llds.rollout.protocol import ObservationText, Protocol

_REMEMBERED = 512
"""Texts whose tokens are remembered. Trajectories of a group often get the same observation, and a call of a tokenizer
costs 0.03 to 0.3 ms in which no tool call can begin."""

_MOST_CHARS_PER_TOKEN = 256
"""More than tokenizers have; their longest tokens are runs of about a hundred spaces."""


@dataclass(frozen=True)
class EncodedObservation:
    """Token ids of an observation.

    Attributes:
        token_ids: Opening, body and closing.
        is_cut: Whether the body was cut to fit the limit.
    """

    token_ids: list[int]
    is_cut: bool


class ObservationEncoder:
    """Encodes observations for one tokenizer and one set of tools.

    Args:
        tokenizer: The policy's tokenizer.
        protocol: The protocol, whose own tokens are forbidden in bodies.
        tool_names: Names of the agent's tools.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, protocol: Protocol, tool_names: Sequence[str] = ()) -> None:
        self.tokenizer = tokenizer
        self._shortest = protocol.shortest_observations(tool_names)
        own = protocol.own_tokens(tool_names)
        added = tokenizer.added_tokens_decoder.items()  # holds special tokens that `all_special_ids` leaves out
        self.forbidden_ids = set(tokenizer.all_special_ids)
        self.forbidden_ids |= {number for number, token in added if token.special or token.content in own}
        self._fixed = lru_cache(_REMEMBERED)(self._encode_fixed)
        self._body = lru_cache(_REMEMBERED)(self._encode_body)

    def check_limit(self, limit_tokens: int) -> None:
        """Raise a `ConfigurationError` unless every kind of observation fits, at least with an empty body."""
        for text in self._shortest:
            self.encode(text, limit_tokens)

    def encode(self, text: ObservationText, limit_tokens: int) -> EncodedObservation:
        """Encode an observation in at most ``limit_tokens`` tokens; the closing text is always kept.

        Raises:
            ConfigurationError: If not even opening and closing fit.
        """
        ids, closings = list(self._fixed(text.opening)), [self._fixed(closing) for _, closing in text.parts]
        frame = len(ids) + sum(map(len, closings))
        room, is_cut = limit_tokens - frame, False
        if room < 0:
            raise ConfigurationError(
                "Expected `rollout.limits.observation_tokens` (in evaluation `rollout.eval_limits.observation_tokens`) "
                f"to leave room for the protocol's own words in an observation ({frame} tokens), got "
                f"{limit_tokens}. Raise the limit."
            )
        for number, ((body_text, _), closing) in enumerate(zip(text.parts, closings, strict=True)):
            share = room // (len(closings) - number)  # several bodies share it; what one leaves is for those after it
            body = self._body(body_text[: limit_tokens * _MOST_CHARS_PER_TOKEN])  # of megabytes only the beginning
            is_cut |= len(body) > share
            ids += [*body[:share], *closing]
            room -= min(len(body), share)
        return EncodedObservation(ids, is_cut)

    def _encode_fixed(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _encode_body(self, text: str) -> list[int]:
        valid = text.encode("utf-8", "replace").decode()  # half a surrogate pair would make the tokenizer raise
        encoded = self.tokenizer.encode(valid, add_special_tokens=False, split_special_tokens=True)
        return [token for token in encoded if token not in self.forbidden_ids]
