"""Samples of prompts <-> what is prepared of them on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from framework.core.batch import Features
from framework.core.protocols.training import Chat, Reward
from framework.core.rollouts import Prompt
from framework.core.samples import Message, PromptOnly, RowError, Sample, ToolCall
from framework.online.scoring import reward_names


def prompt_features(sample: Sample, chat: Chat, rewards: Sequence[Reward]) -> list[Features]:
    """The prompt's tokens; as text, its messages and columns.

    Raises:
        RowError: the prompt can't be rendered, or a column is missing or nothing that JSON has.
    """
    assert isinstance(sample, PromptOnly)
    for name, reward in zip(reward_names(rewards), rewards, strict=True):
        for column in reward.needs_columns():
            if sample.columns.get(column) is None:
                raise RowError(
                    f"has no column {column!r}, which the reward {name} needs",
                    f"write another `column:` of the reward, or `columns: {{{column}: THE FILE'S "
                    "NAME}` of the dataset",
                )
    kept = {
        "messages": [asdict(message) for message in sample.messages],
        "columns": dict(sample.columns),
    }
    try:
        text = json.dumps(kept)
    except TypeError as error:
        raise RowError(
            f"a column can't be kept for the rewards: {error}",
            "write it as text, a number, a list or an object",
        ) from error
    return [Features(documents=(chat.prompt_only(sample),), text=text)]


def read_prompt(identifier: str, features: Features) -> Prompt:
    """What `prompt_features` wrote, back."""
    kept = json.loads(features.text)
    return Prompt(
        identifier=identifier,
        tokens=features.documents[0].tokens,
        messages=tuple(_message(one) for one in kept["messages"]),
        columns=kept["columns"],
    )


def _message(written: dict[str, object]) -> Message:
    calls = written.pop("tool_calls")
    assert isinstance(calls, list)
    return Message(**written, tool_calls=tuple(ToolCall(**call) for call in calls))  # pyright: ignore[reportArgumentType]
