"""An OpenAI-compatible HTTP server and a chat page, over any engine. Needs no torch."""

from smidgen.serving.server import running, serve
from smidgen.serving.settings import ServerError, ServerSettings

__all__ = ["ServerError", "ServerSettings", "running", "serve"]
