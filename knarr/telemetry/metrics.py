"""Metrics for Prometheus: what was moved, verified, found and taken back, and whether the process is ready.

Labels stay few: the plan's name, the step's kind, the outcome. Never a run, a key or a value, nor a table's name: a
plan of a thousand tables would be a thousand series that are never freed.
"""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

REGISTRY: Final = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

# A partition is about 512 MiB, which takes some seconds; a small table takes milliseconds.
_SECONDS: Final = (0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600)
_MOST_NAMES: Final = 100

_partitions = Counter("knarr_partitions_copied", "Partitions committed on the target", ["plan"], registry=REGISTRY)
_rows = Counter("knarr_rows_copied", "Rows committed on the target", ["plan"], registry=REGISTRY)
_bytes = Counter("knarr_bytes_copied", "Bytes of COPY data committed on the target", ["plan"], registry=REGISTRY)
_seconds = Histogram(
    "knarr_copy_seconds", "Seconds from begin to commit of a partition", ["plan"], buckets=_SECONDS, registry=REGISTRY
)
_verified = Counter(
    "knarr_rows_verified", "Rows compared with what they should have become", ["plan"], registry=REGISTRY
)
_findings = Counter("knarr_findings", "Differences found by verification", ["plan"], registry=REGISTRY)
_steps = Counter("knarr_steps", "Steps that ended, by outcome", ["plan", "step", "outcome"], registry=REGISTRY)
_compensations = Counter(
    "knarr_compensations", "Compensations that ended, by outcome", ["plan", "step", "outcome"], registry=REGISTRY
)

_names: Final[dict[str, set[str]]] = {"plan": set(), "step": set()}
_names_lock: Final = threading.Lock()


def partition_copied(plan: str, rows: int, bytes: int, seconds: float) -> None:
    """One partition was committed on the target."""
    plan = _bounded("plan", plan)
    _partitions.labels(plan).inc()
    _rows.labels(plan).inc(rows)
    _bytes.labels(plan).inc(bytes)
    _seconds.labels(plan).observe(seconds)


def partition_verified(plan: str, rows: int, findings: int) -> None:
    """One partition was compared on both sides."""
    plan = _bounded("plan", plan)
    _verified.labels(plan).inc(rows)
    _findings.labels(plan).inc(findings)


def step_ended(plan: str, step: str, outcome: str) -> None:
    """A step ended: `done`, or the class of the error that it ended with. `step` is its kind, without a table."""
    _steps.labels(_bounded("plan", plan), _bounded("step", step), outcome).inc()


def compensation_ended(plan: str, step: str, outcome: str) -> None:
    """A compensation ended: `done`, `skipped`, or the class of the error that it ended with."""
    _compensations.labels(_bounded("plan", plan), _bounded("step", step), outcome).inc()


def _bounded(label: str, name: str) -> str:
    """The name, or `other` once a label has 100 of them: a series is never freed."""
    with _names_lock:
        known = _names[label]
        if name in known or len(known) < _MOST_NAMES:
            known.add(name)
            return name
    return "other"


class MetricsServer:
    """A running server; calling it stops it."""

    def __init__(self, server: ThreadingHTTPServer, thread: threading.Thread) -> None:
        self._server = server
        self._thread = thread
        self.port: Final[int] = server.server_address[1]

    def __call__(self) -> None:
        """Stops answering and frees the port. Twice is as once."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


def serve(port: int, *, host: str = "0.0.0.0", ready: Callable[[], str] = str) -> MetricsServer:
    """Answers GET /metrics and GET /healthz from a thread of its own, until the returned callable is called.

    Args:
        port: 0 takes a free one; see `.port` of what is returned.
        host: the address to listen on; all by default, as a scraper is on another machine.
        ready: gives the reason why this process is not ready, or an empty text; asked on each /healthz, which answers
            200 or, with the reason, 503.

    Raises:
        OSError: the port is taken.
    """

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._send(200, CONTENT_TYPE_LATEST, generate_latest(REGISTRY))
            elif path == "/healthz":
                reason = ready()
                self._send(503 if reason else 200, "text/plain; charset=utf-8", f"{reason or 'ready'}\n".encode())
            else:
                self._send(404, "text/plain; charset=utf-8", b"/metrics and /healthz are here\n")

        def _send(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """A scrape every few seconds is no news."""

    server = ThreadingHTTPServer((host, port), Answer)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="knarr-metrics", daemon=True)
    thread.start()
    return MetricsServer(server, thread)
