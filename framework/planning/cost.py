"""Operations, bytes and devices -> ranges of time and money."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from framework.planning.devices import Cluster
from framework.planning.traffic import Transfer


@dataclass(frozen=True, kw_only=True)
class Calls:
    """Number of operations that are started."""

    products: float = 0.0
    """Matrix products and attention."""
    others: float = 0.0

    def plus(self, more: Calls, times: float = 1.0) -> Calls:
        """These and, so many times, those."""
        return Calls(
            products=self.products + times * more.products,
            others=self.others + times * more.others,
        )


@dataclass(frozen=True, kw_only=True)
class Cost:
    """From a good run to a poor one; None where nobody knows."""

    step_seconds: tuple[float, float] | None
    seconds: tuple[float, float] | None
    """Of all steps, without loading, evaluation and checkpoints."""
    tokens_per_second: tuple[float, float] | None
    """Over all devices."""
    dollars: tuple[float, float] | None


UNKNOWN = Cost(step_seconds=None, seconds=None, tokens_per_second=None, dollars=None)


def run_cost(
    cluster: Cluster,
    dtype: str,
    *,
    operations_per_step: float,
    calls_per_step: Calls,
    tokens_per_step: float,
    transfers: Sequence[Transfer],
    num_steps: int | None,
) -> Cost:
    """What a run takes on these devices.

    At best communication hides behind computation, at worst it comes after it.

    Args:
        dtype: of products, or `tf32`.
        operations_per_step: of one device.
        calls_per_step: the same.
        tokens_per_step: over all devices.
        num_steps: None where it isn't known.
    """
    device = cluster.device
    peak = device.peak_tflops.get(dtype, math.nan) * 1e12
    if not math.isfinite(peak):
        return UNKNOWN
    sent = sum(one.sent_bytes for one in transfers)
    speed = cluster.slowest_gbs * 1e9
    communication = sent / speed if speed else (math.inf if sent else 0.0)
    if not math.isfinite(communication):
        return UNKNOWN
    poor, good = device.efficiency
    least, most = _call_seconds(cluster, calls_per_step)
    fast = max(operations_per_step / (peak * good) + least, communication)
    slow = operations_per_step / (peak * poor) + most + communication
    seconds = None if num_steps is None else (fast * num_steps, slow * num_steps)
    dollars = None
    if seconds is not None and device.price is not None:
        hours = [one / 3600 * cluster.num_devices for one in seconds]
        dollars = (hours[0] * device.price[0], hours[1] * device.price[1])
    return Cost(
        step_seconds=(fast, slow),
        seconds=seconds,
        tokens_per_second=(tokens_per_step / slow, tokens_per_step / fast),
        dollars=dollars,
    )


def _call_seconds(cluster: Cluster, calls: Calls) -> tuple[float, float]:
    """What starting the operations takes; 0 where devices compute meanwhile."""
    each = cluster.call_seconds
    if each is None:
        return 0.0, 0.0
    least, most = (
        calls.products * product + calls.others * other
        for product, other in zip(each.product, each.other, strict=True)
    )
    return least, most
