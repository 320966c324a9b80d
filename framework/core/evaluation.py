"""What an evaluator found: a number and the answers it was counted from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One held-out request and what the model said."""

    prompt: str
    expected: str
    answer: str
    correct: bool


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An evaluator's result."""

    metric: str
    value: float
    answers: tuple[Answer, ...]
