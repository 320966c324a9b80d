"""Kind of sample -> what messages call it."""

from __future__ import annotations

from collections.abc import Mapping

from framework.core.samples import (
    Classified,
    Completion,
    Conversation,
    Document,
    Preference,
    PromptOnly,
    Sample,
    Scored,
    StepwiseSupervision,
    Tokenized,
    UnpairedPreference,
)

_IN_WORDS: Mapping[type[Sample], str] = {
    Conversation: "conversations",
    Completion: "prompt and completion",
    Document: "raw text",
    Tokenized: "token ids",
    Preference: "preferences",
    UnpairedPreference: "rated answers",
    PromptOnly: "prompts without answers",
    StepwiseSupervision: "rated steps",
    Classified: "classes",
    Scored: "scores",
}


def words_for(kind: type[Sample]) -> str:
    """What formats make and trainers learn from."""
    return _IN_WORDS.get(kind, kind.__name__)
