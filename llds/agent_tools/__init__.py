"""Agent tools: what the policy can call while it answers a question."""

from llds.agent_tools.base import AgentTool

__all__ = ["AgentTool"]
