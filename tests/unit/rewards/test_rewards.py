"""What each reward says of answers whose worth is known."""

from __future__ import annotations

import json
import math

import pytest

from framework.core.problems import RunFailed, UserError
from framework.core.rollouts import Answer, Prompt
from framework.core.samples import Message
from framework.data_sources import reasoning_gym as gym
from framework.online.scoring import Scoring, reward_names
from framework.recipe.resolve import resolve
from framework.rewards.exact_match import ExactMatch
from framework.rewards.json_schema import JsonSchema
from framework.rewards.length import Length
from framework.rewards.math_verify import MathVerify
from framework.rewards.reasoning_gym import ReasoningGym
from framework.rewards.regular_expression import RegularExpression


def answer(text: str, num_tokens: int = 3, truncated: bool = False, **columns: object) -> Answer:
    asked = (Message(role="user", content="How much?"),)
    prompt = Prompt(identifier="t:1", tokens=(1, 2), messages=asked, columns=columns)
    return Answer(prompt=prompt, tokens=(7,) * num_tokens, text=text, truncated=truncated)


def scores(reward, *answers: Answer) -> list[float]:
    return list(reward.start("cpu")(answers))


@pytest.mark.parametrize(
    ("settings", "right", "wrong"),
    [
        ({}, ("42", " 42\n"), ("4", "42.", "forty-two")),
        ({"compare": "starts_with"}, ("42", "42 of them"), ("it is 42",)),
        ({"compare": "contains"}, ("it is 42", "42"), ("4 2",)),
    ],
)
def test_exact_match_says_whether_the_answer_is_the_right_one(settings, right, wrong):
    reward = ExactMatch(**settings)
    assert scores(reward, *(answer(text, answer=42) for text in right)) == [1.0] * len(right)
    assert scores(reward, *(answer(text, answer=42) for text in wrong)) == [0.0] * len(wrong)


def test_exact_match_takes_any_of_several_right_answers_and_capitals_if_told_to():
    reward = ExactMatch(column="wanted", ignore_case=True)
    wanted = ["Paris", "the City of  Light"]
    found = scores(reward, *(answer(t, wanted=wanted) for t in ("paris", "The city of light", "x")))
    assert found == [1.0, 1.0, 0.0]


def test_length_falls_from_one_on_both_sides():
    reward = Length(at_least=4, at_most=8)
    found = scores(reward, *(answer("", num_tokens=n) for n in (0, 2, 4, 8, 12, 16, 20)))
    assert found == [0.0, 0.5, 1.0, 1.0, 0.5, 0.0, 0.0]
    assert scores(Length(at_most=2, unit="words"), answer("one two"), answer("a b c")) == [1.0, 0.5]
    assert scores(Length(at_most=2, unit="characters"), answer("abc")) == [0.5]


def test_a_pattern_is_found_across_lines_and_its_group_is_compared():
    shape = RegularExpression(pattern=r"<think>.+</think>\s*\d+", whole=True)
    assert scores(shape, answer("<think>a\nb</think> 5\n"), answer("5")) == [1.0, 0.0]
    right = RegularExpression(pattern="<answer>(?P<answer>.*?)</answer>", column="answer")
    said = [answer(f"so <answer> {n} </answer>", answer=5) for n in (5, 6)]
    assert scores(right, *said) == [1.0, 0.0]


def test_a_pattern_that_takes_forever_ends_the_run_instead_of_hanging(monkeypatch):
    monkeypatch.setattr("framework.rewards.regular_expression._SECONDS", 0.2)
    with pytest.raises(RunFailed, match=r"needs more than 0.2 s in the answer"):
        scores(RegularExpression(pattern="(a|aa)+$"), answer("a" * 60 + "b"))


SCHEMA = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ('{"n": 5}', 1.0),
        ('```json\n{"n": 5}\n```', 1.0),
        ('{"n": "five"}', 0.25),
        ("[]", 0.25),
        ('{"n": 5} and more', 0.0),
        ('{"n": NaN}', 0.0),
        ("[" * 100_000, 0.0),
        ("", 0.0),
    ],
)
def test_json_is_held_against_its_schema(text, score):
    assert scores(JsonSchema(schema=SCHEMA, any_json=0.25), answer(text)) == [score]


def test_a_schema_that_names_an_address_is_refused_and_nothing_is_fetched(write_online):
    remote = {"$ref": "https://example.invalid/schema.json"}
    path = write_online("grpo", rewards=[{"type": "json_schema", "schema": remote}])
    with pytest.raises(UserError, match=r"refers to 'https://example.invalid/schema.json'"):
        resolve(path)


@pytest.mark.parametrize(
    ("wanted", "text", "score"),
    [
        ("1/2", r"So it is $\frac{1}{2}$.", 1.0),
        (r"\frac{1}{2}", "0.5", 1.0),
        ("42", r"\boxed{42}", 1.0),
        ("42", r"\boxed{41}", 0.0),
        ("x^2 + 2x + 1", "$(x+1)^2$", 1.0),
        ("42", "no idea", 0.0),
    ],
)
def test_results_are_compared_as_mathematics(wanted, text, score):
    assert scores(MathVerify(), answer(text, answer=wanted)) == [score]


@pytest.mark.parametrize("task", ["basic_arithmetic", "arc_1d", "rearc"])
def test_a_task_of_reasoning_gym_is_made_from_its_seed_and_verified_by_its_own_rule(task):
    source = gym.ReasoningGym(task=task, num_rows=3, seed=5)
    rows = [row for _, row in source.rows()]
    again = [row for _, row in gym.ReasoningGym(task=task, num_rows=3, seed=5).rows()]
    other = [row for _, row in gym.ReasoningGym(task=task, num_rows=3, seed=6).rows()]
    assert rows == again
    assert [row["prompt"] for row in rows] != [row["prompt"] for row in other]
    assert [number for number, _ in source.rows(start=3)] == [3]
    # What is kept of a row is JSON.
    kept = [json.loads(json.dumps(row)) for row in rows]
    right = [answer(row["answer"], **row) for row in kept]
    assert scores(ReasoningGym(), *right) == [1.0] * 3
    wrong = [answer("?", **row) for row in kept]
    assert max(scores(ReasoningGym(), *wrong)) < 0.5
    tagged = [answer(f"Well: <answer>{row['answer']}</answer>", **row) for row in kept]
    assert scores(ReasoningGym(tag="answer"), *tagged) == [1.0] * 3


def test_an_unknown_task_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match=r"did you mean .basic_arithmetic."):
        list(gym.ReasoningGym(task="basic_arithmetics").rows())


def test_rewards_are_weighted_added_and_told_apart():
    rewards = (Length(at_most=2), Length(at_most=6, weight=0.5), ExactMatch(weight=2.0))
    assert reward_names(rewards) == ["length_1", "length_2", "exact_match"]
    scoring = Scoring.start(rewards, "cpu")
    said = [answer("5", num_tokens=3, answer=5), answer("6", num_tokens=2, answer=5)]
    assert scoring.total(said) == [0.5 + 0.5 + 2.0, 1.0 + 0.5 + 0.0]
    assert scoring.latest["length_1"] == [0.5, 1.0]


@pytest.mark.parametrize("said", [[1.0], [1.0, math.nan], [1.0, math.inf], [1.0, 2.0, 3.0]])
def test_a_reward_that_is_not_one_finite_number_for_each_answer_ends_the_run(said):
    scoring = Scoring(scorers={"own": lambda answers: said}, weights={"own": 1.0})
    with pytest.raises(RunFailed, match="the reward 'own' gives"):
        scoring.total([answer("a"), answer("b")])


CONFLICTS = [
    ([{"type": "length"}], "rewards every length alike"),
    ([{"type": "length", "at_least": 5, "at_most": 4}], "4 is less than at_least 5"),
    ([{"type": "regular_expression", "pattern": "("}], "is no regular expression"),
    (
        [{"type": "regular_expression", "pattern": "a", "column": "answer"}],
        "has no group `answer`",
    ),
    ([{"type": "json_schema"}], "is missing"),
    ([{"type": "json_schema", "schema": {"type": "objekt"}}], "is no JSON Schema"),
    ([], "nothing says which answers are good"),
]


@pytest.mark.parametrize(("rewards", "message"), CONFLICTS)
def test_rewards_that_mean_nothing_are_refused_by_check(rewards, message, write_online):
    with pytest.raises(UserError) as caught:
        resolve(write_online("grpo", rewards=rewards))
    assert message in str(caught.value)
    assert all(problem.hint for problem in caught.value.problems) or "JSON Schema" in message


class Beside:
    """A reward that computes elsewhere, and writes down what it is asked."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.sent: list[float] = []

    def __call__(self, answers):
        self.begin(answers)
        return self.end()

    def begin(self, answers):
        self.seen.append(" ".join(answer.text for answer in answers))
        self.sent = [float(len(answer.text)) for answer in answers]

    def end(self):
        self.seen.append("end")
        return self.sent


def test_a_reward_that_computes_elsewhere_has_the_first_answers_while_more_are_drawn():
    beside = Beside()
    scoring = Scoring(scorers={"own": beside}, weights={"own": 2.0})
    first, second = [answer("a"), answer("bb")], [answer("ccc")]
    scoring.tell(first)
    assert beside.seen == ["a bb"]
    scoring.tell(second)
    assert beside.seen == ["a bb", "end", "ccc"]
    assert scoring.total([*first, *second]) == [2.0, 4.0, 6.0]
    assert beside.seen == ["a bb", "end", "ccc", "end"]


def test_what_it_was_told_does_not_count_for_other_answers():
    beside = Beside()
    scoring = Scoring(scorers={"own": beside}, weights={"own": 1.0})
    scoring.tell([answer("a"), answer("bb")])
    assert scoring.total([answer("dddd")]) == [4.0]
    assert beside.seen == ["a bb", "end", "dddd", "end"]
