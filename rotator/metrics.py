"""What a monitoring system reads at ``/metrics``: the standings of the daemon, as Prometheus' text format."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from rotator import __version__
from rotator.keys.keyring import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client import Metric

    from rotator.daemon import Standing

__all__ = ["CONTENT_TYPE", "Metrics"]


class Metrics:
    """Counts nothing itself: every scrape tells what the standings say at that moment. No label holds a kid."""

    def __init__(self, standings: Mapping[str, Standing]) -> None:
        self._standings = standings
        # Not the global registry: a process that embeds us keeps its own metrics to itself.
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def exposition(self) -> bytes:
        """The scrape."""
        return generate_latest(self._registry)

    def describe(self) -> Iterator[Metric]:
        """Nothing in advance: the registry need not ask the standings."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Every metric, as of now."""
        info = GaugeMetricFamily("rotator_info", "The version that runs.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield from self._counters()
        yield from self._gauges()

    def _counters(self) -> Iterator[Metric]:
        ticks = CounterMetricFamily("rotator_ticks", "Ticks by result (ok, failed).", labels=["keyset", "result"])
        steps = CounterMetricFamily("rotator_steps", "Steps done, by name.", labels=["keyset", "step"])
        failures = CounterMetricFamily("rotator_failures", "Failed ticks by kind of error.", labels=["keyset", "kind"])
        for name, standing in self._standings.items():
            for result in ("ok", "failed"):
                ticks.add_metric([name, result], standing.results[result])
            for step, count in standing.steps.copy().items():
                steps.add_metric([name, step], count)
            for kind, count in standing.failures.copy().items():
                failures.add_metric([name, kind], count)
        yield from (ticks, steps, failures)

    def _gauges(self) -> Iterator[Metric]:
        since = GaugeMetricFamily(
            "rotator_seconds_since_success", "Since the last good tick; absent before the first.", labels=["keyset"]
        )
        last = GaugeMetricFamily("rotator_last_success_timestamp_seconds", "The last good tick.", labels=["keyset"])
        failing = GaugeMetricFamily("rotator_failed_ticks_in_a_row", "0: the last tick was good.", labels=["keyset"])
        keys = GaugeMetricFamily("rotator_keys", "Keys in the ledger, by stage.", labels=["keyset", "stage"])
        due = GaugeMetricFamily(
            "rotator_next_change_timestamp_seconds", "When time makes a step due.", labels=["keyset"]
        )
        foreign = GaugeMetricFamily(
            "rotator_foreign_keys", "Keys that somebody else put into the public documents.", labels=["keyset"]
        )
        clock = GaugeMetricFamily(
            "rotator_clock_fault", "1: this clock and the store's differ by more than clock_skew.", labels=["keyset"]
        )
        now = time.monotonic()
        for name, standing in self._standings.items():
            failing.add_metric([name], standing.failed_in_a_row)
            if standing.succeeded is None or standing.succeeded_at is None:
                continue
            since.add_metric([name], now - standing.succeeded)
            last.add_metric([name], standing.succeeded_at.timestamp())
            for stage in Stage:
                keys.add_metric([name, stage], standing.stages[stage])
            if standing.due is not None:
                due.add_metric([name], standing.due.timestamp())
            foreign.add_metric([name], standing.foreign)
            clock.add_metric([name], float(standing.clock_fault is not None))
        yield from (since, last, failing, keys, due, foreign, clock)
