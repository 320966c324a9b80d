"""A sample of any type -> the row of a file, and the format that reads it as the same sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from framework.core.samples import (
    Classified,
    Completion,
    Conversation,
    Document,
    Message,
    Preference,
    PromptOnly,
    Sample,
    Scored,
    StepwiseSupervision,
    ToolCall,
    UnpairedPreference,
    Weighable,
)

FORMATS: Mapping[str, str] = {
    "Conversation": "messages",
    "Completion": "{type: prompt_completion, chat: false}",
    "Document": "completion",
    "Tokenized": "pretokenized",
    "Preference": "preference",
    "UnpairedPreference": "unpaired_preference",
    "PromptOnly": "prompt_only",
    "StepwiseSupervision": "stepwise",
    "Classified": "classification",
    "Scored": "regression",
}
"""Type of a sample -> what a recipe writes to read its rows."""

_NOT_TRAINED = -100
LOSS_WEIGHT = "loss_weight"
"""Column of the rows' weights, where the rows had some."""


def row_of(sample: Sample) -> dict[str, Any]:
    """The columns that the format in `FORMATS` reads."""
    match sample:
        case Conversation():
            columns = {"messages": _messages(sample.messages), **_tools(sample.tools)}
            return {**columns, **_weight(sample)}
        case Completion():
            return {"prompt": sample.prompt, "completion": sample.completion, **_weight(sample)}
        case Document():
            return {"text": sample.text, **_weight(sample)}
        case Preference():
            margin = {} if sample.margin is None else {"margin": sample.margin}
            answers = {name: _messages(vars(sample)[name]) for name in ("chosen", "rejected")}
            return {"prompt": _messages(sample.messages), **answers, **margin} | _tools(
                sample.tools
            )
        case UnpairedPreference():
            columns = {"completion": _messages(sample.completion), "label": sample.label}
            return {"prompt": _messages(sample.messages), **columns, **_tools(sample.tools)}
        case PromptOnly():
            prompt = {"prompt": _messages(sample.messages), **_tools(sample.tools)}
            return {**sample.columns, **prompt}
        case StepwiseSupervision():
            steps = {"completions": list(sample.steps), "labels": list(sample.labels)}
            return {"prompt": _messages(sample.messages), **steps}
        case Classified():
            return {**row_of(sample.content), "label": sample.label}
        case Scored():
            return {**row_of(sample.content), "score": sample.score}
    pairs = zip(sample.tokens, sample.trained, strict=True)
    labels = [token if is_trained else _NOT_TRAINED for token, is_trained in pairs]
    return {"input_ids": list(sample.tokens), "labels": labels, **_weight(sample)}


def _weight(sample: Weighable) -> dict[str, float]:
    """For `loss_weight_column`."""
    return {} if sample.weight is None else {LOSS_WEIGHT: sample.weight}


def _tools(tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"tools": list(tools)} if tools else {}


def _messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [_message(one) for one in messages]


def _message(message: Message) -> dict[str, Any]:
    written: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning:
        written["reasoning_content"] = message.reasoning
    if message.tool_calls:
        written["tool_calls"] = [_call(one) for one in message.tool_calls]
    for key in ("tool_call_id", "name"):
        if vars(message)[key]:
            written[key] = vars(message)[key]
    if message.train is not None:
        written["train"] = message.train
    return written


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": dict(call.arguments)}
    identifier = {"id": call.identifier} if call.identifier else {}
    return {**identifier, "type": "function", "function": function}
