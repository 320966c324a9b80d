"""Questions to an endpoint -> its answers, several at once, each asked and paid for only once."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

from framework.core.consent import is_loopback
from framework.core.problems import RunFailed, UserError
from framework.endpoints.answers import Answer, find_answer, keep_answer, request_key
from framework.endpoints.budget import RESUME, budget_of
from framework.endpoints.endpoint import Endpoint

if TYPE_CHECKING:
    import httpx2

Item = TypeVar("Item")
Result = TypeVar("Result")

LONGEST_PAUSE_SECONDS = 60.0
LONGEST_RETRY_AFTER_SECONDS = 600.0
SHORTEST_HIDDEN_KEY = 8
"""A shorter key is not searched for in answers: it would be found in ordinary words."""

_PASSING = {408, 409, 425, 429}
_OF_THIS_REQUEST = {400, 413, 422}


class Unanswered(Exception):
    """The server refuses this one request, for example because it is too long."""


class _Passing(Exception):
    """May be gone at the next attempt."""

    def __init__(self, what: str, wait_seconds: float | None = None) -> None:
        super().__init__(what)
        self.wait_seconds = wait_seconds


class _Stopped(Exception):
    """Nobody waits for answers any more."""


class ChatClient:
    """Asks one endpoint; its methods may be called from several threads."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._failure: UserError | None = None
        self._budget = budget_of(endpoint)
        self._under_way: dict[str, Future[Answer]] = {}
        self._connection: tuple[httpx2.Client, str] | None = None
        self._num_cached = self._num_asked = self._num_requests = self._num_total_tokens = 0

    def tally(self) -> dict[str, int]:
        """What was asked so far."""
        return {
            "num_answers_from_cache": self._num_cached,
            "num_answers_asked": self._num_asked,
            "num_requests": self._num_requests,
            "num_total_tokens": self._num_total_tokens,
        }

    def each(
        self, items: Iterator[Item], work: Callable[[Item], Result]
    ) -> Iterator[tuple[Item, Result]]:
        """(item, what `work` makes of it) in order; `work` runs in `max_concurrency` threads.

        Reads at most two rounds of items ahead. When one fails, those that are being asked are
        waited for, so that their answers are kept, and no other is asked.
        """
        ahead = 2 * self.endpoint.max_concurrency
        waiting: deque[tuple[Item, Future[Result]]] = deque()
        pool = ThreadPoolExecutor(self.endpoint.max_concurrency, thread_name_prefix="endpoint")
        try:
            for item in items:
                waiting.append((item, pool.submit(work, item)))
                if len(waiting) == ahead:
                    yield _first(waiting)
            while waiting:
                yield _first(waiting)
        except BaseException:
            self._stop.set()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def ask(self, messages: Sequence[Mapping[str, str]], **parameters: Any) -> Answer:
        """The answer, from the cache when this was asked before.

        Args:
            messages: `role` and `content` of each.
            parameters: keys of the request, in place of the endpoint's own.

        Raises:
            Unanswered: the server refuses this request.
            Interrupted: the budget is spent.
            RunFailed: the server doesn't answer, or refuses every request.
            Refused: the user did not allow to send anything to this address.
        """
        body = {**self.endpoint.parameters, "messages": list(messages), **parameters}
        key = request_key(self.endpoint.url, body)
        with self._lock:
            others = self._under_way.get(key)
            future = self._under_way.setdefault(key, Future())
        if others is not None:
            self._count(cached=1)
            return others.result()
        try:
            answer = self._answer(key, body)
        except Exception as error:
            if isinstance(error, UserError):
                self._failure = self._failure or error
                self._stop.set()
            future.set_exception(error)
            raise
        else:
            future.set_result(answer)
            return answer
        finally:
            with self._lock:
                del self._under_way[key]

    def _answer(self, key: str, body: Mapping[str, Any]) -> Answer:
        found = find_answer(key)
        if found is not None:
            self._count(cached=1)
            return found
        answer = self._asked(key, body)
        keep_answer(key, self.endpoint.url, body, answer)
        self._count(asked=1)
        return answer

    # ---- attempts

    def _asked(self, key: str, body: Mapping[str, Any]) -> Answer:
        num_attempts = self.endpoint.max_retries + 1
        for attempt in range(num_attempts):
            self._go_on_unless_stopped()
            self._budget.spend_request()
            self._count(requests=1)
            try:
                return self._post(body)
            except _Passing as fault:
                last = attempt + 1 == num_attempts
                too_long = (fault.wait_seconds or 0) > LONGEST_RETRY_AFTER_SECONDS
                if last or too_long:
                    what = f"{self.endpoint.url}: {fault} (attempt {attempt + 1})"
                    raise RunFailed(what, hint=RESUME) from fault
                self._stop.wait(_pause_seconds(key, attempt, fault.wait_seconds))
        raise AssertionError("the last attempt returns or raises")

    def _go_on_unless_stopped(self) -> None:
        if self._stop.is_set():
            # Whoever waits for this answer is told why there is none.
            raise self._failure or _Stopped

    def _post(self, body: Mapping[str, Any]) -> Answer:
        import httpx2

        client, key = self._connected()
        try:
            response = client.post(self.endpoint.url, json=dict(body))
            text = response.text
        except httpx2.TimeoutException as error:
            raise _Passing(f"no answer in {self.endpoint.timeout_seconds:g} s") from error
        except httpx2.TransportError as error:
            raise _Passing(f"the connection failed: {error or type(error).__name__}") from error
        except httpx2.DecodingError as error:
            raise _Passing(f"the answer can't be unpacked: {error}") from error
        if len(key) >= SHORTEST_HIDDEN_KEY:
            # A server that repeats what it was sent must not get the key into a file.
            text = text.replace(key, "***")
        if response.status_code != 200:
            self._raise_for_status(response.status_code, text, response.headers)
        return self._read(text)

    def _raise_for_status(self, status: int, text: str, headers: Mapping[str, str]) -> None:
        what = f"status {status}: {' '.join(text.split())[:300]}"
        if status in _PASSING or status >= 500:
            raise _Passing(what, _retry_after_seconds(headers.get("retry-after")))
        if status in _OF_THIS_REQUEST:
            raise Unanswered(what)
        hint = RESUME
        if status in {401, 403}:
            hint = "write the variable that holds the key: `api_key_env: NAME`"
        elif status == 404:
            hint = "`base_url` ends before `/chat/completions`, often with `/v1`; or the server "
            hint += "has no such `model`"
        raise RunFailed(f"{self.endpoint.url}: {what}", hint=hint)

    def _read(self, text: str) -> Answer:
        try:
            answer = _parsed(json.loads(text))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise _Passing(f"not a chat completion: {' '.join(text.split())[:200]!r}") from error
        if answer.num_total_tokens is not None:
            self._budget.spend_tokens(answer.num_total_tokens)
            with self._lock:
                self._num_total_tokens += answer.num_total_tokens
        elif self.endpoint.max_total_tokens is not None:
            raise RunFailed(
                f"{self.endpoint.url} doesn't say how many tokens it used, so max_total_tokens "
                "can't be kept",
                hint="write max_requests instead",
            )
        return answer

    def _connected(self) -> tuple[httpx2.Client, str]:
        import httpx2

        with self._lock:
            if self._connection is None:
                key = self.endpoint.key()
                client = httpx2.Client(
                    headers={"Authorization": f"Bearer {key}"} if key else {},
                    timeout=self.endpoint.timeout_seconds,
                    limits=httpx2.Limits(max_connections=self.endpoint.max_concurrency),
                    # A proxy would carry rows off this machine, which nobody was asked about.
                    trust_env=not is_loopback(self.endpoint.url),
                )
                self._connection = (client, key)
            return self._connection

    def _count(self, *, cached: int = 0, asked: int = 0, requests: int = 0) -> None:
        with self._lock:
            self._num_cached += cached
            self._num_asked += asked
            self._num_requests += requests


def _first(waiting: deque[tuple[Item, Future[Result]]]) -> tuple[Item, Result]:
    item, future = waiting.popleft()
    return item, future.result()


def _parsed(value: Any) -> Answer:
    """
    Raises:
        ValueError, LookupError, TypeError, AttributeError: it is no chat completion.
    """
    choice = value["choices"][0]
    text = choice["message"]["content"] or ""
    if not isinstance(text, str):
        raise TypeError("content is not text")
    text.encode()  # half a surrogate pair can't be written, nor tokenized
    first: Mapping[str, float] = {}
    tokens = (choice.get("logprobs") or {}).get("content") or []
    if tokens:
        first = {one["token"]: float(one["logprob"]) for one in tokens[0]["top_logprobs"]}
    total = (value.get("usage") or {}).get("total_tokens")
    return Answer(
        text=text,
        finish_reason=str(choice.get("finish_reason") or "stop"),
        num_total_tokens=None if total is None else int(total),
        first_token=first,
    )


def _pause_seconds(key: str, attempt: int, wanted: float | None) -> float:
    """Doubles from half a second on; requests that failed together don't come back together."""
    if wanted is not None:
        return wanted
    spread = 0.5 + int(key[:4], 16) / 0x10000
    return min(0.5 * 2**attempt * spread, LONGEST_PAUSE_SECONDS)


def _retry_after_seconds(written: str | None) -> float | None:
    """Seconds, from a number or a date; None when the header is absent or neither."""
    if written is None:
        return None
    try:
        return max(0.0, float(written))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(written)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
