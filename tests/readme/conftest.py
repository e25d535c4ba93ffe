"""The servers of the integration tests, for the README's programs."""

from __future__ import annotations

from tests.integration.conftest import anyio_backend, model_env

__all__ = ("anyio_backend", "model_env")
