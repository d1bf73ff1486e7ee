"""Errors in the shape that OpenAI's clients know: `{"error": {message, type, param, code}}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ApiError(Exception):
    """A request is answered with an error instead of a result."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        """`param`: the field that is wrong; `retry_after`: seconds after which trying again is sensible."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The response's body."""
        return {"error": {"message": self.message, "type": self._type, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> Mapping[str, str]:
        """The response's own headers."""
        headers = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers

    @property
    def _type(self) -> str:
        if self.status >= 500:
            return "server_error"
        return {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(
            self.status, "invalid_request_error"
        )


def invalid(param: str, problem: str, code: str | None = None) -> ApiError:
    """A 400 that names the field: `temperature: 3 is above 2`."""
    return ApiError(400, f"{param}: {problem}", param, code)
