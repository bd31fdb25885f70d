"""What `/metrics` says, in Prometheus' text format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from miil21k.serve.batching import ServedBatch
    from miil21k.serve.bodies import Buffer

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)


class Metrics:
    """The counters of one server, in a registry of their own.

    requests: answers to images by endpoint and code. latency: seconds from a request's head to its answer, likewise.
    images: rows by status. reading: seconds in which an image was decoded, resized and cropped. waiting: returns how
    many images wait. received: the bodies that are here. model: what `miil21k_model_info` says.
    """

    def __init__(self, waiting: Callable[[], int], received: Buffer, model: dict[str, str]) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "miil21k_requests",
            "Answers to images, by endpoint and HTTP status.",
            ["endpoint", "code"],
            registry=registry,
        )
        self.latency = Histogram(
            "miil21k_request_seconds",
            "From a request's head to its answer, by endpoint and HTTP status.",
            ["endpoint", "code"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.images = Counter("miil21k_images", "Rows, by their status.", ["status"], registry=registry)
        self.reading = Histogram(
            "miil21k_image_decode_seconds",
            "Reading one image: decode, resize, crop.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._waits = Histogram(
            "miil21k_image_wait_seconds",
            "An image that was read, until its batch began.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._sizes = Histogram("miil21k_batch_size", "Images in one forward pass.", buckets=_SIZES, registry=registry)
        self._computing = Histogram(
            "miil21k_batch_compute_seconds",
            "One batch: forward pass and label paths.",
            buckets=_SECONDS,
            registry=registry,
        )
        Gauge("miil21k_queue_images", "Images being read or waiting for the network.", registry=registry).set_function(
            waiting
        )
        Gauge("miil21k_received_bytes", "Bytes of bodies that are not yet answered.", registry=registry).set_function(
            lambda: received.held
        )
        Info("miil21k_model", "What answers.", registry=registry).info(model)
        for status in ("ok", "error"):
            self.images.labels(status)  # present before the first of them

    def batch(self, batch: ServedBatch) -> None:
        """Count one batch."""
        self._sizes.observe(batch.size)
        self._computing.observe(batch.seconds)
        for seconds in batch.waits:
            self._waits.observe(seconds)

    def text(self) -> bytes:
        """Return all metrics, of the type `CONTENT_TYPE`."""
        return generate_latest(self._registry)
