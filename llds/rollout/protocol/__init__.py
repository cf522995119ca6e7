"""Protocols: everything that knows how a model writes a tool call or an answer, and how a result is put before it."""

from llds.rollout.protocol.base import ObservationText, Protocol, ShownPart, ToolAnnouncement
from llds.rollout.protocol.chat import ChatToolProtocol
from llds.rollout.protocol.tags import TagProtocol

__all__ = ["ChatToolProtocol", "ObservationText", "Protocol", "ShownPart", "TagProtocol", "ToolAnnouncement"]
