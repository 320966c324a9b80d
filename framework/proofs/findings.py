"""What a proof found wrong in encoded data, by a closed set of rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from framework.chat.tokens import Vocabulary
from framework.core.batch import Encoded
from framework.core.samples import RowError

RULES: Mapping[str, str] = {
    # One document, or the documents of one row.
    "documents": "a row becomes the documents that the recipe asks for",
    "mask_length": "every token is either trained or not",
    "first_token": "the first token, which nothing precedes, is not trained",
    "double_bos": "a document begins with one BOS at most",
    "tokens": "a document's tokens are those of its whole rendering, or of its text",
    "served_prompt": "what precedes a trained answer is the prompt that a server makes, in tokens",
    "start": "an answer is trained from the end of that prompt on, its first token included",
    "stop": "a trained answer ends in a trained token at which a server stops, and in the first",
    "missing_turn": "every selected message is trained, whole",
    "leak": "no token outside the selected messages is trained",
    "lost_text": "a trained message says all its thinking, content and calls, in order",
    "lost_context": "every message and tool that the model is to read is in the rendering",
    "thinking": "with `data.reasoning: final`, an answer is trained from the end of its thinking",
    # What an over-length policy made of a document.
    "piece_length": "no document is longer than `data.max_length`",
    "piece_tokens": "a shortened document is made of slices of the proven one, in order",
    "piece_leak": "a shortened document trains nothing that the proven one doesn't",
    "trained_twice": "no token is trained in two pieces",
    "lost_tokens": "a policy that doesn't truncate loses no token",
    "cut_answer": "an answer loses the token at which to stop only where that is counted",
    # The prepared arrays.
    "arrays": "the arrays of the store fit each other",
    "zero_trained": "every document trains something; a row that doesn't is listed",
    "split_document": "a document is whole and in one pack, which fits `data.max_length`",
    "counts": "the numbers of the report are those of the arrays",
    # The prepared data against its rows.
    "stale": "the data on disk is what the rows become now",
    "refused": "a row can be encoded, and its mask be proven",
}
"""Every rule, as what it demands."""

AROUND = 6
"""Tokens that are shown on each side of a place."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A rule that encoded data breaks."""

    rule: str
    """One of `RULES`."""
    detail: str
    """What is wrong, with the tokens around the place."""

    def __post_init__(self) -> None:
        assert self.rule in RULES, self.rule

    def __str__(self) -> str:
        return f"{self.rule}: {self.detail}"


class Disproven(RowError):
    """A row whose encoding breaks a rule; it is never trained."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(
            f"its encoding breaks the rule {finding}",
            "`framework preview` shows the row; write another `tokenizer.chat_template`, or "
            "leave such rows out: `data.on_bad_row: skip`",
        )
        self.finding = finding

    def __reduce__(self) -> tuple[type[Disproven], tuple[Finding]]:
        return Disproven, (self.finding,)


def around(document: Encoded, place: int, vocabulary: Vocabulary) -> str:
    """The tokens around a place as text; trained ones between ⟦ and ⟧."""
    parts: list[str] = []
    before = False
    for at in range(max(place - AROUND, 0), min(place + AROUND, len(document.tokens))):
        now = at < len(document.trained) and document.trained[at]
        if now != before:
            parts.append("⟦" if now else "⟧")
        parts.append(vocabulary.decode([document.tokens[at]]))
        before = now
    text = "".join(parts) + ("⟧" if before else "")
    return f"token {place}, in {text!r}"
