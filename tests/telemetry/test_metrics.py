"""Metrics: what is counted, and the server that tells."""

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from knarr.telemetry import metrics
from knarr.telemetry.metrics import MetricsServer, serve


def get(server: MetricsServer, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture
def reasons() -> list[str]:
    """Why the process is not ready; empty when it is."""
    return []


@pytest.fixture
def server(reasons: list[str]) -> Iterator[MetricsServer]:
    running = serve(0, host="127.0.0.1", ready=lambda: ", ".join(reasons))
    yield running
    running()


def value(text: str, sample: str) -> float:
    return next((float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{sample} ")), 0.0)


def test_what_happened_is_counted_by_plan(server: MetricsServer) -> None:
    before = get(server, "/metrics")[1]
    metrics.partition_copied("shop-v2", rows=1000, bytes=52_000, seconds=0.3)
    metrics.partition_copied("shop-v2", rows=1, bytes=52, seconds=70.0)
    metrics.partition_verified("shop-v2", rows=1001, findings=2)
    metrics.step_ended("shop-v2", "copy", "done")
    metrics.step_ended("shop-v2", "copy", "TransientError")
    metrics.compensation_ended("shop-v2", "remove rows", "done")
    after = get(server, "/metrics")[1]

    def grown(sample: str) -> float:
        return value(after, sample) - value(before, sample)

    plan = '{plan="shop-v2"}'
    assert grown(f"knarr_partitions_copied_total{plan}") == 2
    assert grown(f"knarr_rows_copied_total{plan}") == 1001
    assert grown(f"knarr_bytes_copied_total{plan}") == 52_052
    assert grown(f"knarr_copy_seconds_count{plan}") == 2
    assert grown('knarr_copy_seconds_bucket{le="0.5",plan="shop-v2"}') == 1
    assert grown(f"knarr_rows_verified_total{plan}") == 1001
    assert grown(f"knarr_findings_total{plan}") == 2
    assert grown('knarr_steps_total{outcome="done",plan="shop-v2",step="copy"}') == 1
    assert grown('knarr_steps_total{outcome="TransientError",plan="shop-v2",step="copy"}') == 1
    assert grown('knarr_compensations_total{outcome="done",plan="shop-v2",step="remove rows"}') == 1
    assert "process_resident_memory_bytes" in after


def test_labels_stay_few_however_many_names_there_are(server: MetricsServer) -> None:
    for number in range(300):
        metrics.step_ended("many-steps", f"step {number}", "done")
    text = get(server, "/metrics")[1]
    # Of this plan: what ran before in this process has left its own.
    series = [line for line in text.splitlines() if line.startswith("knarr_steps_total{") and "many-steps" in line]
    assert len(series) <= 110
    assert value(text, 'knarr_steps_total{outcome="done",plan="many-steps",step="other"}') >= 200


def test_readiness_says_why_not(server: MetricsServer, reasons: list[str]) -> None:
    assert get(server, "/healthz") == (200, "ready\n")
    reasons.append("no connection to Temporal")
    assert get(server, "/healthz") == (503, "no connection to Temporal\n")


def test_what_is_not_there_says_what_is(server: MetricsServer) -> None:
    status, text = get(server, "/secrets")
    assert status == 404
    assert "/metrics" in text


def test_a_stopped_server_frees_its_port_and_can_be_stopped_again() -> None:
    running = serve(0, host="127.0.0.1")
    running()
    running()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", running.port)) != 0


def test_a_taken_port_is_an_error_at_the_start(server: MetricsServer) -> None:
    with pytest.raises(OSError, match="in use"):
        serve(server.port, host="127.0.0.1")
