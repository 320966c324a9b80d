"""Prompts that a model answers while it is trained, and its answers as rewards judge them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from framework.core.samples import Message
from framework.core.settings import setting

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn."""

    temperature: float = setting(1.0, above=0)
    """Logits are divided by it, in training too: what is learned is the distribution that answers.
    """
    top_p: float = setting(1.0, above=0, at_most=1)
    """Only the most probable tokens that together have this probability; 1: all."""
    top_k: int = setting(0, at_least=0)
    """Only so many of the most probable tokens; 0: all."""
    min_p: float = setting(0.0, at_least=0, below=1)
    """Only tokens that are at least so probable, as a share of the most probable one's."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What the model is asked."""

    identifier: str
    """Its sample id."""
    tokens: tuple[int, ...]
    """As a server would make them of the messages."""
    messages: tuple[Message, ...]
    columns: Mapping[str, Any]
    """The row's other columns, such as the right answer."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model said."""

    prompt: Prompt
    tokens: tuple[int, ...]
    """The token at which the model stopped included."""
    text: str
    """Without special tokens, the one at which it stopped among them."""
    truncated: bool
    """It was cut at the longest length before it stopped."""


class Scorer(Protocol):
    """A reward at work."""

    def __call__(self, answers: Sequence[Answer]) -> Sequence[float]:
        """One number for each answer, in order."""
        ...


@runtime_checkable
class ScorerBeside(Scorer, Protocol):
    """A reward that computes outside of this process, which draws more answers meanwhile."""

    def begin(self, answers: Sequence[Answer]) -> None:
        """Sends answers; those that were sent before have ended."""
        ...

    def end(self) -> Sequence[float]:
        """Waits for the numbers of what was sent last."""
        ...


class Learner(Protocol):
    """An algorithm at work: answers prompts, and learns from what it answered."""

    def roll_out(self, prompts: Sequence[Prompt]) -> Mapping[str, float]:
        """Answers each of them once (a prompt that is to be answered twice stands there twice) and
        holds what is to be learned. Returns metrics, over all processes.

        Args:
            prompts: those of this process.
        """
        ...

    @property
    def answers(self) -> Sequence[Answer]:
        """Those of the last call, in order."""
        ...

    @property
    def num_passes(self) -> int:
        """Forward passes over what is held, the same on every process."""
        ...

    def loss(self, index: int) -> Tensor:
        """float32 []: pass `index`'s part of this process's loss; the sum over the passes is the
        loss, whose mean over the processes is minimised."""
        ...

    def metrics(self) -> Mapping[str, float]:
        """Of all passes since the last call, over all processes."""
        ...

    def close(self) -> None:
        """The model is again as it was given, but for what it learned."""
        ...
