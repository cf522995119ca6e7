"""An MCP server, which mcp.yaml starts; any server of the Model Context Protocol may stand in its place."""

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("arithmetic")


@server.tool()
def add(a: float, b: float) -> str:
    """Adds two numbers."""
    return f"{a + b:.12g}"


@server.tool()
def subtract(a: float, b: float) -> str:
    """Subtracts the second number from the first."""
    return f"{a - b:.12g}"


@server.tool()
def multiply(a: float, b: float) -> str:
    """Multiplies two numbers."""
    return f"{a * b:.12g}"


@server.tool()
def divide(a: float, b: float) -> str:
    """Divides the first number by the second."""
    if b == 0:
        raise ToolError("A number cannot be divided by 0.")  # the model's mistake: it reads this
    return f"{a / b:.12g}"


server.run("stdio")
