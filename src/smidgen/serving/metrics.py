"""What a server counts, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from smidgen.runtime.errors import MissingDependencyError

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self, num_open: Callable[[], int], batch_size: int) -> None:
        """num_open: answers that run or wait at the moment; batch_size: how many can run at once."""
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
        except ModuleNotFoundError:
            raise MissingDependencyError("prometheus-client", "serve", "the server") from None
        self._registry = CollectorRegistry(auto_describe=True)
        own: dict[str, Any] = {"registry": self._registry}
        self.requests = Counter("smidgen_requests", "Requests answered", ["route", "status"], **own)
        self.prompt_tokens = Counter("smidgen_prompt_tokens", "Tokens of prompts", **own)
        self.generated_tokens = Counter("smidgen_generated_tokens", "Tokens generated", **own)
        self.cancelled = Counter("smidgen_cancelled_requests", "Requests whose client went away", **own)
        self.first_token = Histogram(
            "smidgen_time_to_first_token_seconds",
            "From a request's arrival to its first token",
            buckets=_SECONDS,
            **own,
        )
        self.duration = Histogram(
            "smidgen_request_seconds", "From a generation's arrival to its end", buckets=_SECONDS, **own
        )
        running = Gauge("smidgen_running_answers", "Answers in the engine's batch", **own)
        running.set_function(lambda: min(num_open(), batch_size))
        waiting = Gauge("smidgen_waiting_answers", "Answers that wait for a place in the batch", **own)
        waiting.set_function(lambda: max(num_open() - batch_size, 0))

    def text(self) -> tuple[bytes, str]:
        """The figures, and their content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self._registry), CONTENT_TYPE_LATEST
