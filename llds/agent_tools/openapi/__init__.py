"""Tools from an OpenAPI document: `tools` lists and calls them; the rest reads what the document says."""

from llds.agent_tools.openapi.tools import OpenAPITool, OpenAPITools

__all__ = ["OpenAPITool", "OpenAPITools"]
