"""Metrics and spans into memory, by the names that operators know."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    NumberDataPoint,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, StatusCode

from webkit_core import Telemetry


class Providers:
    """A pair of providers, and what they have been told so far."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._exporter = InMemorySpanExporter()
        self.meter_provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.tracer_provider.get_tracer("embedder")

    # --- metrics

    def metrics(self) -> dict[str, Metric]:
        """Every metric that has a number, by name."""
        data = self._reader.get_metrics_data()
        return {
            metric.name: metric
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def numbers(self, name: str, key: str | None = None) -> dict[Any, float]:
        """A counter's or gauge's numbers by its one attribute, or under None."""
        return {
            attribute(point, key): point.value
            for point in self._points(name)
            if isinstance(point, NumberDataPoint)
        }

    def number(self, name: str) -> float:
        """The number of a counter or gauge that has no attributes."""
        return self.numbers(name)[None]

    def times(self, name: str, key: str | None = None) -> dict[Any, tuple[int, float]]:
        """A histogram's count and sum by its one attribute, or under None."""
        return {
            attribute(point, key): (point.count, point.sum)
            for point in self._points(name)
            if isinstance(point, HistogramDataPoint)
        }

    def _points(self, name: str) -> list[Any]:
        metric = self.metrics().get(name)
        return [] if metric is None else list(metric.data.data_points)

    # --- spans

    def spans(self, name: str) -> list[ReadableSpan]:
        """The spans of that name that have ended, in the order of their ends."""
        return [span for span in self.all_spans() if span.name == name]

    def span(self, name: str) -> ReadableSpan:
        """The one span of that name."""
        (span,) = self.spans(name)
        return span

    def all_spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()


class Collecting(Providers):
    """The telemetry on a pair of providers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.telemetry = Telemetry(self.meter_provider, self.tracer_provider)


def attribute(point: Any, key: str | None) -> Any:
    """The value of the one attribute that a point has."""
    found = dict(point.attributes or {})
    assert set(found) == ({key} if key else set())
    return found[key] if key else None


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def context_of(span: ReadableSpan) -> SpanContext:
    context = span.get_span_context()
    assert context is not None
    return context


def hangs_below(span: ReadableSpan, parent: ReadableSpan) -> bool:
    """Whether the one is a child of the other, in one trace."""
    return (
        span.parent is not None
        and span.parent.span_id == context_of(parent).span_id
        and context_of(span).trace_id == context_of(parent).trace_id
    )


def failed_with(span: ReadableSpan) -> str | None:
    """What a span says went wrong; None when nothing did."""
    if span.status.status_code is not StatusCode.ERROR:
        return None
    return span.status.description
