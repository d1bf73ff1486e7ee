"""What an operator decides about a server. The defaults are the safe ones."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from smidgen.runtime.errors import SmidgenError


class ServerError(SmidgenError):
    """A server's setting is impossible or unsafe."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where a server listens, whom it answers, and what it bounds."""

    host: str = "127.0.0.1"
    """Address to listen on; any but a loopback address needs `api_key`."""
    port: int = 8000
    """TCP port; 0 takes a free one."""
    api_key: str | None = field(default=None, repr=False)
    """What every request must carry as `Authorization: Bearer …`; None asks for nothing."""
    allowed_hosts: tuple[str, ...] = ()
    """Names that requests may call this server by in their Host header, beside its addresses and `localhost`."""
    cors_origins: tuple[str, ...] = ()
    """Origins (`https://example.org`) whose pages may call this server; none by default."""
    max_waiting: int = 64
    """Answers that may wait for a place in the engine's batch; more are refused with 429."""
    request_timeout: float = 300.0
    """Seconds from a request's arrival to the end of its answer."""
    drain_timeout: float = 30.0
    """Seconds that answers may still take when the server is told to end."""
    body_timeout: float = 30.0
    """Seconds that a client may take to send a request's body, or to take a piece of the answer."""
    max_body_bytes: int = 1 << 20
    """Largest body of a request."""
    max_choices: int = 4
    """Largest `n`."""

    def __post_init__(self) -> None:
        checks = [
            ("port", 0 <= self.port <= 65535, "0 (any free one) to 65535"),
            ("max_waiting", self.max_waiting >= 0, "0 or more"),
            ("request_timeout", self.request_timeout > 0, "more than 0 seconds"),
            ("drain_timeout", self.drain_timeout >= 0, "0 seconds or more"),
            ("body_timeout", self.body_timeout > 0, "more than 0 seconds"),
            ("max_body_bytes", self.max_body_bytes >= 1, "at least 1"),
            ("max_choices", self.max_choices >= 1, "at least 1"),
            ("cors_origins", "*" not in self.cors_origins, "the origins by name; any page could call the server"),
            ("allowed_hosts", "*" not in self.allowed_hosts, "the names; any page could rebind its own to this server"),
        ]
        for name, valid, remedy in checks:
            if not valid:
                raise ServerError(f"{name} = {getattr(self, name)!r}: use {remedy}")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable() and self.api_key):
            raise ServerError("api_key: use one or more printable ASCII characters")
        if self.api_key is None and not self.is_loopback:
            raise ServerError(
                f"host = {self.host!r}: others can reach this address, so an API key is required; set the variable "
                "SMIDGEN_API_KEY, name a file with --api-key-file, or listen on 127.0.0.1"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        address = ip_address(self.host)
        return self.host == "localhost" if address is None else address.is_loopback

    def serves_host(self, name: str) -> bool:
        """Whether a request may call this server `name` (lower case, without the port).

        A page of somebody else reaches a server here by letting its own *name* point to it (DNS rebinding); so names
        must be known, and addresses are safe.
        """
        if name == "localhost" or name in {allowed.lower() for allowed in self.allowed_hosts}:
            return True
        address = ip_address(name)
        if address is None:
            return name == self.host.lower()
        return address.is_loopback or not self.is_loopback


def ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that `text` spells, in brackets or not; None for a name."""
    try:
        return ipaddress.ip_address(text[1:-1] if text.startswith("[") and text.endswith("]") else text)
    except ValueError:
        return None
