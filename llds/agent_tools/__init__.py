"""Agent tools: what the policy can call while it answers a question; `base` says how to add one."""

from llds.agent_tools.base import AgentTool, ToolContext
from llds.agent_tools.calculator import CalculatorTool
from llds.agent_tools.environment import EnvironmentFactory
from llds.agent_tools.function import FunctionTool
from llds.agent_tools.http import HTTPTool
from llds.agent_tools.mcp import MCPTools
from llds.agent_tools.openapi import OpenAPITools
from llds.agent_tools.python import PythonTool
from llds.agent_tools.search import SearchStatistics, SearchTool
from llds.agent_tools.web import WebSearchTool

__all__ = [
    "AgentTool",
    "CalculatorTool",
    "EnvironmentFactory",
    "FunctionTool",
    "HTTPTool",
    "MCPTools",
    "OpenAPITools",
    "PythonTool",
    "SearchStatistics",
    "SearchTool",
    "ToolContext",
    "WebSearchTool",
]
