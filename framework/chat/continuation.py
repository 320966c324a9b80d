"""A prompt and a continuation -> one conversation, of which only the continuation is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from framework.core.samples import Conversation, Message, Preference, UnpairedPreference


def continued(
    sample: Preference | UnpairedPreference,
    continuation: Sequence[Message],
    turns: Literal["all", "last", "each"],
) -> Conversation:
    """The sample's prompt and this continuation of it; every message says whether it is trained.

    Args:
        turns: `last` ends the conversation with its last answer and trains that alone.
    """
    answers = [at for at, message in enumerate(continuation) if message.role == "assistant"]
    if turns == "last":
        answers = answers[-1:]
        continuation = continuation[: answers[-1] + 1]
    prompt = [replace(message, train=False) for message in sample.messages]
    said = [
        replace(message, train=at in answers and message.train is not False)
        for at, message in enumerate(continuation)
    ]
    return Conversation(messages=(*prompt, *said), tools=sample.tools)
