"""A tool of its own: one class with one method. Copy this file and calculator.yaml to begin one of yours."""

from llds.agent_tools import AgentTool
from llds.agent_tools.calculator import calculate, format_number
from llds.types import ToolResult


class Calculator(AgentTool):
    """Computes: what the model writes as ``<calculate>17 * 23</calculate>`` is answered with ``391``."""

    name = "calculate"  # the tag
    description = "Computes arithmetic. Write numbers, + - * / and parentheses between the tags."

    async def run(self, argument: str) -> ToolResult:
        """Answer one call; a `ToolInputError` tells the model what it wrote wrong."""
        return ToolResult(format_number(calculate(argument)))
