"""What a `Watch` found as Prometheus metrics, at http://127.0.0.1:PORT/metrics.

The gauges are read off the watch when somebody asks; nothing is probed for a scrape. Does not know how a
server is watched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from deploy import ports
from deploy.watch import SERVING, STATES, Watch

__all__ = ["HealthCollector", "serve_metrics"]

ADDRESS = "127.0.0.1"
_LABELS = ("url", "model", "engine")


class HealthCollector(Collector):
    """Turns the latest findings of one watch into metrics; all carry the labels url, model and engine."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def collect(self) -> Iterator[Metric]:
        watch = self._watch
        who = (watch.client.url, watch.model or "", watch.server)
        yield self._gauge("up", "Whether the server serves: it is up, or busy.", who, watch.state in SERVING)
        state = GaugeMetricFamily(
            "portside_health_state", "1 for the state the server is in.", labels=(*_LABELS, "state")
        )
        for name in STATES:
            state.add_metric((*who, name), float(name == watch.state))
        yield state
        yield from self._rungs(who)
        probes = CounterMetricFamily(
            "portside_health_probes", "Looks at the server.", labels=(*_LABELS, "kind", "result")
        )
        for (kind, serving), count in sorted(watch.probes.items()):
            probes.add_metric((*who, kind, "serving" if serving else "failing"), count)
        yield probes
        if watch.last_success is not None:
            words = "When the server was last seen up, in seconds since 1970."
            yield self._gauge("last_success_timestamp_seconds", words, who, watch.last_success)
        if watch.traffic.running is not None:
            words = "Requests in progress and waiting, as the engine tells."
            yield self._gauge("requests_running", words, who, watch.traffic.running)

    def _rungs(self, who: tuple[str, str, str]) -> Iterator[Metric]:
        labels = (*_LABELS, "rung")
        ok = GaugeMetricFamily(
            "portside_health_rung_ok", "1: passed, 0: failed; rungs not judged are left out.", labels=labels
        )
        seconds = GaugeMetricFamily(
            "portside_health_rung_seconds", "What the rung took the last time.", labels=labels
        )
        for rung in self._watch.rungs.copy().values():
            if rung.ok is not None:
                ok.add_metric((*who, rung.name), float(rung.ok))
                seconds.add_metric((*who, rung.name), rung.seconds)
        yield ok
        yield seconds

    @staticmethod
    def _gauge(name: str, words: str, who: tuple[str, str, str], value: float) -> Metric:
        gauge = GaugeMetricFamily(f"portside_health_{name}", words, labels=_LABELS)
        gauge.add_metric(who, float(value))
        return gauge


@contextlib.contextmanager
def serve_metrics(watch: Watch, port: int) -> Iterator[str]:
    """Serve the metrics on this machine and yield their URL (port 0: any free one).

    Raises `EngineFailed` for a port that is taken.
    """
    port = port or ports.free_port(ADDRESS)
    ports.require_bindable(ADDRESS, port)
    registry = CollectorRegistry()
    registry.register(HealthCollector(watch))
    server, thread = start_http_server(port, addr=ADDRESS, registry=registry)
    try:
        yield f"http://{ADDRESS}:{port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
