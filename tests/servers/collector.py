"""A collector for OTLP over HTTP: keeps what it is sent, and waits for more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

WAIT_S = 30.0


class Collector:
    """What has arrived: the newest state of each metric, and every span."""

    def __init__(self) -> None:
        self.url = ""
        self.services: set[str] = set()
        self.metrics: dict[str, Metric] = {}
        self.spans: dict[str, list[Span]] = {}
        self._news = threading.Condition()

    def take(self, path: str, body: bytes) -> None:
        with self._news:
            if path == "/v1/metrics":
                for per_resource in ExportMetricsServiceRequest.FromString(
                    body
                ).resource_metrics:
                    self._note_service(per_resource.resource)
                    for scope in per_resource.scope_metrics:
                        self.metrics |= {
                            metric.name: metric for metric in scope.metrics
                        }
            else:
                assert path == "/v1/traces"
                for spans in ExportTraceServiceRequest.FromString(body).resource_spans:
                    self._note_service(spans.resource)
                    for scope_spans in spans.scope_spans:
                        for span in scope_spans.spans:
                            self.spans.setdefault(span.name, []).append(span)
            self._news.notify_all()

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until ``condition`` holds for what has arrived."""
        with self._news:
            arrived = self._news.wait_for(condition, WAIT_S)
            assert arrived, (self.metrics, self.spans)

    def point(self, name: str, **attributes: str) -> Any:
        """Return the newest point of a metric with those attributes; None without."""
        metric = self.metrics.get(name)
        if metric is None:
            return None
        data = getattr(metric, str(metric.WhichOneof("data")))
        for point in data.data_points:
            if attributes_of(point) == attributes:
                return point
        return None

    def number(self, name: str, **attributes: str) -> int | None:
        point = self.point(name, **attributes)
        return None if point is None else int(point.as_int)

    def _note_service(self, resource: Any) -> None:
        self.services.add(attributes_of(resource)["service.name"])


def attributes_of(thing: Any) -> dict[str, Any]:
    """Return the attributes of a span, a point or a resource."""
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value"))
        for pair in thing.attributes
    }


@contextmanager
def collecting() -> Iterator[Collector]:
    """Collect on a free loopback port."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            collector.take(self.path, self.rfile.read(length))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()
