"""An endpoint's budget -> whether one more request may be sent in this process."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict

from framework.core.problems import Interrupted
from framework.endpoints.endpoint import Endpoint

RESUME = "answers so far are kept: the same command goes on from there"
"""What a user is told whenever asking ends before its end."""


class Budget:
    """What was spent of an endpoint's budget; safe in threads."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._most_requests = endpoint.max_requests
        self._most_tokens = endpoint.max_total_tokens
        self._num_requests = self._num_tokens = 0
        self._lock = threading.Lock()

    def spend_request(self) -> None:
        """Counts a request before it is sent.

        Raises:
            Interrupted: the budget is spent.
        """
        with self._lock:
            if self._most_requests is not None and self._num_requests >= self._most_requests:
                raise Interrupted(f"max_requests {self._most_requests:,} are spent", hint=RESUME)
            if self._most_tokens is not None and self._num_tokens >= self._most_tokens:
                raise Interrupted(f"max_total_tokens {self._most_tokens:,} are spent", hint=RESUME)
            self._num_requests += 1

    def spend_tokens(self, count: int) -> None:
        """Counts the tokens of an answer."""
        with self._lock:
            self._num_tokens += count


_BUDGETS: dict[str, Budget] = {}
_LOCK = threading.Lock()


def budget_of(endpoint: Endpoint) -> Budget:
    """The one budget of this process for these settings: all parts of the data share it."""
    with _LOCK:
        key = json.dumps(asdict(endpoint), sort_keys=True)
        return _BUDGETS.setdefault(key, Budget(endpoint))
