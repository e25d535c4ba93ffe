"""Where metrics go, and ``GET /metrics``: the Prometheus text of them.

A provider that the embedder gives, or has set for the process, gets everything; so an
OTLP exporter set up the standard way does. Without one, the application has a provider
of its own. In either case the ``metrics`` extra puts a Prometheus reader on it.

Rules: without the extra nothing is collected and ``/metrics`` says what to install;
collecting reads ``/proc`` for every agent, so it does not happen on the event loop.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from opentelemetry import metrics
from opentelemetry.metrics import MeterProvider

from webkit_core import WebkitError

from .responses import NotImplementedHere

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

INSTALL: Final = "pip install 'webkit-asgi[metrics]'"

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"


class MetricsNotInstalled(NotImplementedHere):
    """The packages that make Prometheus text are not there."""

    code = "metrics_not_installed"

    def __str__(self) -> str:
        return f"/metrics needs packages that are not installed: {INSTALL}"


class MetricsNotReadable(NotImplementedHere):
    """The process's meter provider takes no reader."""

    code = "metrics_elsewhere"

    def __str__(self) -> str:
        return (
            "metrics go where this process's meter provider sends them, and it takes no"
            " Prometheus reader"
        )


class Metrics:
    """See the module.

    Args:
        meter_provider: the embedder's; None is the process's, or else one of our own.
    """

    def __init__(self, meter_provider: MeterProvider | None = None) -> None:
        self.provider = meter_provider or _global_provider()
        self._registry: CollectorRegistry | None = None
        self._problem: WebkitError = MetricsNotInstalled()
        try:
            from opentelemetry.exporter.prometheus import PrometheusMetricReader
            from opentelemetry.sdk.metrics import MeterProvider as OwnProvider
            from prometheus_client import CollectorRegistry, ProcessCollector
        except ImportError:
            return
        registry = CollectorRegistry()
        if self.provider is None:
            self.provider = OwnProvider(
                [
                    PrometheusMetricReader(
                        True, scope_info_enabled=False, registry=registry
                    )
                ]
            )
        elif isinstance(self.provider, OwnProvider):
            self.provider.add_metric_reader(
                PrometheusMetricReader(
                    True, scope_info_enabled=False, registry=registry
                )
            )
        else:
            self._problem = MetricsNotReadable()
            return
        ProcessCollector(registry=registry)
        self._registry = registry

    async def text(self) -> bytes:
        """Return what a Prometheus server reads.

        Raises:
            MetricsNotInstalled: the ``metrics`` extra is missing.
            MetricsNotReadable: the process's provider takes no reader.
        """
        if self._registry is None:
            raise self._problem
        from prometheus_client import generate_latest

        return await asyncio.to_thread(generate_latest, self._registry)


def _global_provider() -> MeterProvider | None:
    """Return the process's meter provider if somebody has set one."""
    provider = metrics.get_meter_provider()
    # The API's own providers lead nowhere: a proxy until one is set, and a no-op.
    of_the_api = type(provider).__module__.startswith("opentelemetry.metrics")
    return None if of_the_api else provider
