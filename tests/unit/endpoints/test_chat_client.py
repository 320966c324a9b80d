"""A real server answers, stumbles and hangs; every answer is asked and paid for once."""

from __future__ import annotations

import itertools
import json
import time

import pytest

from framework.core.cache import cache_directory
from framework.core.problems import Interrupted, Refused, RunFailed, UserError
from framework.endpoints.budget import budget_of
from framework.endpoints.chat_client import ChatClient, Unanswered
from framework.endpoints.endpoint import Endpoint

NUMBERS = itertools.count()


@pytest.fixture
def endpoint(chat_server):
    """`endpoint(max_retries=1)`: the server, with quick defaults."""
    chat_server.fail()
    chat_server.pause(0)

    def make(**settings):
        quick = {"max_tokens": 4, "timeout_seconds": 20.0}
        return Endpoint(base_url=chat_server.base_url, model="tiny", **{**quick, **settings})

    return make


def question(text=""):
    """A question that no other test has asked."""
    return [{"role": "user", "content": f"{text} {next(NUMBERS)}"}]


def asked(chat_server, messages):
    """How often the server was asked this."""
    return sum(one["body"]["messages"] == messages for one in chat_server.requests())


class TestAnswers:
    def test_an_answer_is_the_models_and_comes_from_the_cache_the_second_time(
        self, chat_server, endpoint
    ):
        messages = question()
        first = ChatClient(endpoint()).ask(messages)
        client = ChatClient(endpoint(max_concurrency=3, timeout_seconds=9.0))
        assert client.ask(messages) == first
        assert asked(chat_server, messages) == 1
        tally = client.tally()
        assert (tally["num_answers_from_cache"], tally["num_requests"]) == (1, 0)
        body = {"messages": messages, "temperature": 0.0, "max_tokens": 4, "seed": 0}
        theirs = chat_server.ask(body)
        assert theirs["choices"][0]["message"]["content"] == first.text
        assert theirs["usage"]["total_tokens"] == first.num_total_tokens

    @pytest.mark.parametrize(
        "other", [{"temperature": 0.7}, {"max_tokens": 5}, {"seed": 1}, {"extra": {"top_p": 0.5}}]
    )
    def test_another_parameter_is_another_request(self, chat_server, endpoint, other):
        messages = question()
        ChatClient(endpoint()).ask(messages)
        ChatClient(endpoint(**other)).ask(messages)
        assert asked(chat_server, messages) == 2

    def test_parameters_that_are_none_are_not_sent(self, chat_server, endpoint):
        ChatClient(endpoint(temperature=None, max_tokens=None, seed=None)).ask(question())
        body = chat_server.requests()[-1]["body"]
        assert set(body) == {"model", "messages"}

    def test_a_damaged_answer_in_the_cache_is_asked_again(self, chat_server, endpoint):
        messages = question("damaged")
        first = ChatClient(endpoint()).ask(messages)
        (file,) = [
            path
            for path in (cache_directory() / "answers").rglob("*.json")
            if messages[0]["content"] in path.read_text()
        ]
        file.write_text(file.read_text()[:20])
        assert ChatClient(endpoint()).ask(messages) == first
        assert asked(chat_server, messages) == 2

    def test_thinking_is_no_part_of_an_answers_words(self, endpoint):
        answer = ChatClient(endpoint()).ask(question())
        thought = type(answer)(
            text="<think>1 or 2?</think>\n3", finish_reason="stop", num_total_tokens=1
        )
        assert thought.words.strip() == "3"


class TestConcurrency:
    def test_requests_overlap_up_to_the_limit_and_results_keep_their_order(
        self, chat_server, endpoint
    ):
        chat_server.pause(0.3)
        before = len(chat_server.requests())
        client = ChatClient(endpoint(max_concurrency=4))
        started = time.monotonic()
        items = [question("order")[0]["content"] for _ in range(12)]
        results = list(
            client.each(iter(items), lambda item: client.ask([{"role": "user", "content": item}]))
        )
        seconds = time.monotonic() - started
        assert [item for item, _ in results] == items
        spans = [(one["start"], one["end"]) for one in chat_server.requests()[before:]]
        most = max(sum(start <= moment < end for start, end in spans) for moment, _ in spans)
        assert most == 4
        assert seconds < 12 * 0.3  # one after the other would take longer

    def test_items_are_read_at_most_two_rounds_ahead(self, endpoint):
        client = ChatClient(endpoint(max_concurrency=2))
        read = []

        def items():
            for number in range(50):
                read.append(number)
                yield number

        for number, _ in client.each(items(), lambda number: number):
            assert len(read) <= number + 4

    def test_equal_questions_under_way_are_asked_once(self, chat_server, endpoint):
        chat_server.pause(0.3)
        client = ChatClient(endpoint(max_concurrency=4))
        messages = question()
        answers = [
            answer for _, answer in client.each(iter(range(4)), lambda _: client.ask(messages))
        ]
        assert len({answer.text for answer in answers}) == 1
        assert asked(chat_server, messages) == 1
        assert client.tally()["num_answers_from_cache"] == 3


class TestFaults:
    @pytest.mark.parametrize(
        "fault", [{"status": 500}, {"status": 503}, {"cut": True}, {"garbage": True}]
    )
    def test_a_passing_fault_is_tried_again(self, chat_server, endpoint, fault):
        messages = question()
        chat_server.fail(fault, fault)
        client = ChatClient(endpoint(max_retries=2))
        assert client.ask(messages).num_total_tokens
        assert asked(chat_server, messages) == 3
        assert client.tally()["num_requests"] == 3

    def test_a_server_that_hangs_is_left_after_the_timeout(self, chat_server, endpoint):
        chat_server.fail({"hang": 3})
        messages = question()
        started = time.monotonic()
        ChatClient(endpoint(timeout_seconds=0.5)).ask(messages)
        assert time.monotonic() - started < 3
        assert asked(chat_server, messages) == 2

    def test_retry_after_is_obeyed(self, chat_server, endpoint):
        chat_server.fail({"status": 429, "retry_after": "2"})
        started = time.monotonic()
        ChatClient(endpoint()).ask(question())
        # Without the header the first pause is at most 0.75 s.
        assert time.monotonic() - started >= 2

    def test_a_wait_beyond_all_patience_ends_at_once(self, chat_server, endpoint):
        chat_server.fail({"status": 429, "retry_after": "86400"})
        with pytest.raises(RunFailed, match="status 429") as caught:
            ChatClient(endpoint()).ask(question())
        assert "goes on from there" in str(caught.value)

    def test_a_fault_that_stays_ends_with_what_it_was(self, chat_server, endpoint):
        messages = question()
        chat_server.fail({"status": 500}, {"status": 500}, {"status": 500})
        with pytest.raises(RunFailed, match=r"status 500: .*as asked.*attempt 2"):
            ChatClient(endpoint(max_retries=1)).ask(messages)
        assert asked(chat_server, messages) == 2

    def test_a_request_that_is_too_long_is_refused_by_itself(self, chat_server, endpoint):
        messages = question("long " * 600)
        with pytest.raises(Unanswered, match=r"status 400.*tokens"):
            ChatClient(endpoint()).ask(messages)
        assert asked(chat_server, messages) == 1

    def test_nobody_at_the_address_is_a_message_not_a_traceback(self):
        nobody = Endpoint(base_url="http://127.0.0.1:9/v1", model="x", max_retries=1)
        with pytest.raises(RunFailed, match="connection failed"):
            ChatClient(nobody).ask(question())

    def test_a_wrong_path_says_how_base_url_ends(self, chat_server):
        wrong = Endpoint(base_url=chat_server.address, model="x")
        with pytest.raises(RunFailed, match="often with `/v1`"):
            ChatClient(wrong).ask(question())

    def test_what_is_under_way_is_kept_when_another_request_ends_it(self, chat_server, endpoint):
        chat_server.fail({}, {"status": 404})  # one is under way when another one fails
        chat_server.pause(0.5)
        client = ChatClient(endpoint(max_concurrency=4))
        items = [question()[0]["content"] for _ in range(40)]

        def work(item):
            return client.ask([{"role": "user", "content": item}])

        with pytest.raises(RunFailed, match="status 404"):
            list(client.each(iter(items), work))
        sent = sum(asked(chat_server, [{"role": "user", "content": one}]) for one in items)
        assert 2 <= sent <= 4  # none was begun after the fault was known
        assert client.tally()["num_answers_asked"] == sent - 1


class TestBudget:
    def test_requests_end_at_the_budget_and_the_answers_are_kept(self, chat_server, endpoint):
        limited = endpoint(max_requests=3, max_concurrency=2)
        client = ChatClient(limited)
        items = [question()[0]["content"] for _ in range(8)]

        def work(item):
            return client.ask([{"role": "user", "content": item}])

        with pytest.raises(Interrupted, match="max_requests 3 are spent") as caught:
            list(client.each(iter(items), work))
        assert caught.value.exit_code == 75
        sent = [one for one in items if asked(chat_server, [{"role": "user", "content": one}])]
        assert len(sent) == 3
        again = ChatClient(endpoint())
        assert len([again.ask([{"role": "user", "content": one}]) for one in sent]) == 3
        assert again.tally()["num_requests"] == 0

    def test_retries_count(self, chat_server, endpoint):
        chat_server.fail({"status": 500}, {"status": 500})
        with pytest.raises(Interrupted):
            ChatClient(endpoint(max_requests=2, max_retries=5)).ask(question())

    def test_tokens_end_at_the_budget(self, endpoint):
        client = ChatClient(endpoint(max_total_tokens=60, max_concurrency=1))
        with pytest.raises(Interrupted, match="max_total_tokens 60"):
            for _ in range(20):
                client.ask(question())
        assert 60 <= client.tally()["num_total_tokens"] < 120

    def test_all_parts_of_the_data_share_one_budget(self, endpoint):
        limited = endpoint(max_requests=7777)
        assert budget_of(limited) is budget_of(endpoint(max_requests=7777))
        assert budget_of(limited) is not budget_of(endpoint(max_requests=7778))


class TestKey:
    KEY = "sk-test-0123456789abcdef"

    @pytest.fixture(scope="class")
    def locked_server(self, opinionated_model_dir):
        from conftest import ChatServer

        server = ChatServer(opinionated_model_dir, key=self.KEY)
        yield server
        server.stop()

    @pytest.fixture
    def locked(self, locked_server, monkeypatch):
        monkeypatch.setenv("CHAT_TEST_KEY", self.KEY)
        monkeypatch.setenv("FRAMEWORK_ALLOW_ENV", "CHAT_TEST_KEY")
        url = locked_server.base_url
        return Endpoint(base_url=url, model="tiny", max_tokens=4, api_key_env="CHAT_TEST_KEY")

    def files_with_the_key(self):
        files = [path for path in cache_directory().rglob("*") if path.is_file()]
        assert files
        return [path for path in files if self.KEY.encode() in path.read_bytes()]

    def test_the_key_opens_the_server_and_is_in_no_file(self, locked):
        assert ChatClient(locked).ask(question()).num_total_tokens
        assert self.files_with_the_key() == []

    def test_a_server_that_repeats_the_key_gets_it_into_no_file_and_no_answer(
        self, locked, locked_server
    ):
        locked_server.fail({"echo_key": True})
        answer = ChatClient(locked).ask(question())
        assert answer.text == "Score: 4, you sent Bearer ***"
        assert self.files_with_the_key() == []

    def test_a_wrong_key_is_not_shown(self, locked, monkeypatch):
        monkeypatch.setenv("CHAT_TEST_KEY", "sk-wrong-9876543210")
        with pytest.raises(RunFailed, match="status 401") as caught:
            ChatClient(locked).ask(question())
        assert "sk-wrong" not in str(caught.value)

    def test_without_consent_nothing_is_sent(self, locked, locked_server, monkeypatch):
        monkeypatch.delenv("FRAMEWORK_ALLOW_ENV")
        before = len(locked_server.requests())
        with pytest.raises(Refused, match="--allow-env CHAT_TEST_KEY"):
            ChatClient(locked).ask(question())
        assert len(locked_server.requests()) == before

    def test_an_unset_variable_is_named(self, locked, monkeypatch):
        monkeypatch.setenv("CHAT_TEST_KEY", "")
        with pytest.raises(UserError, match="CHAT_TEST_KEY"):
            ChatClient(locked).ask(question())

    def test_what_answers_depend_on_is_all_that_names_prepared_data(self, locked):
        assert "CHAT_TEST_KEY" not in repr(locked)
        assert json.dumps(locked.parameters, sort_keys=True) == (
            '{"max_tokens": 4, "model": "tiny", "seed": 0, "temperature": 0.0}'
        )
