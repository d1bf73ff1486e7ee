"""Bodies as compact JSON, and the responses that hold them."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def encode_json(body: Any) -> bytes:
    """A body as it is sent; refuses numbers that JSON does not have."""
    return _ENCODER.encode(body).encode("utf-8")


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A whole response of JSON."""
    return Response(encode_json(body), status, headers, "application/json")
