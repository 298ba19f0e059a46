"""What a server counts, for Prometheus to read."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LATENCY_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "speechnar_requests", "Requests by route, method and status.", ["route", "method", "status"],
            registry=self._registry,
        )  # fmt: skip
        self.audio_seconds = Counter(
            "speechnar_audio_seconds", "Seconds of audio heard or spoken.", ["task"], registry=self._registry
        )
        self.latency = Histogram(
            "speechnar_latency_seconds", "From a whole request to its whole answer.", ["task"],
            buckets=LATENCY_BUCKETS, registry=self._registry,
        )  # fmt: skip

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Show what ``value`` returns at the time of asking."""
        Gauge(name, text, registry=self._registry).set_function(value)

    def render(self) -> bytes:
        """Return the text form of the exposition format."""
        return generate_latest(self._registry)
