"""An agent with a tool of its own. Copy this file and calculator.yaml to begin one of yours."""

from llds.agent_tools import AgentTool, CalculatorTool
from llds.modules import SearchAgentModule


class CalculatorAgent(SearchAgentModule):
    """Computes: what the model writes as ``<calculate>17 * 23</calculate>`` is answered with ``391``."""

    def configure_agent_tools(self) -> list[AgentTool]:
        """The tools of the configuration, and the calculator. A tool is one class: see `CalculatorTool`."""
        return [*super().configure_agent_tools(), CalculatorTool()]
