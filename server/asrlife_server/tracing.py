"""Spans for OpenTelemetry, where a collector is named; nothing of the package is imported otherwise."""

from __future__ import annotations

from importlib.util import find_spec

from asrlife.errors import InputError


def check_installed() -> None:
    """Raise InputError where the package is missing."""
    for package in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.grpc"):
        try:
            there = find_spec(package)
        except ModuleNotFoundError:
            there = None
        if there is None:
            raise InputError("tracing.endpoint needs OpenTelemetry, which is not installed: pip install asrlife[otel]")
