"""What a formatter makes of a row: the typed samples between data files and trainers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]
"""One record of a data file, as its source read it."""


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """One call that an assistant makes."""

    name: str
    arguments: Mapping[str, Any]
    identifier: str = ""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: str
    """`system`, `user`, `assistant` or `tool`."""
    content: str
    reasoning: str = ""
    """The thinking that comes before `content`, for templates that render it."""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    """For role `tool`: the call that this message answers."""
    name: str = ""
    train: bool | None = None
    """Overrides the recipe's choice of trained turns for this message."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Turns to be rendered by a chat template."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    """JSON schemas of the tools that the assistant may call."""
    weight: float | None = None
    """How much it counts in the loss: 2 is as much as the sample twice. None: nobody said, 1."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A prompt and its continuation as plain text, without any template."""

    prompt: str
    completion: str
    weight: float | None = None
    """How much it counts in the loss: 2 is as much as the sample twice. None: nobody said, 1."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """Raw text, every token of which is trained."""

    text: str
    weight: float | None = None
    """How much it counts in the loss: 2 is as much as the sample twice. None: nobody said, 1."""


@dataclass(frozen=True, kw_only=True)
class Tokenized:
    """Text that is token ids already."""

    tokens: tuple[int, ...]
    trained: tuple[bool, ...]
    """Which tokens are trained; as many as there are tokens."""
    weight: float | None = None
    """How much it counts in the loss: 2 is as much as the sample twice. None: nobody said, 1."""


@dataclass(frozen=True, kw_only=True)
class Preference:
    """A prompt and two continuations, of which one is better."""

    messages: tuple[Message, ...]
    """The prompt: ends where the assistant is to answer."""
    chosen: tuple[Message, ...]
    """The better continuation; begins with an assistant turn."""
    rejected: tuple[Message, ...]
    """The worse one."""
    tools: tuple[Mapping[str, Any], ...] = ()
    margin: float | None = None
    """How much better, on the scale of whoever judged; None: nobody said."""

    def margins(self, weight: float) -> tuple[float, ...]:
        """The margin as a batch holds it: nothing where it has no weight.

        Raises:
            RowError: it has some, and the row no margin.
        """
        if not weight:
            return ()
        if self.margin is None:
            raise RowError(
                "has no 'margin', which `trainer.margin_weight` needs",
                "write one in every row, or leave out `margin_weight`",
            )
        return (self.margin,)


@dataclass(frozen=True, kw_only=True)
class UnpairedPreference:
    """A prompt, one continuation, and whether it is good."""

    messages: tuple[Message, ...]
    """The prompt: ends where the assistant is to answer."""
    completion: tuple[Message, ...]
    """The continuation; begins with an assistant turn."""
    label: bool
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class PromptOnly:
    """A prompt that the model is to answer by itself, and what judges of its answers need."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The row's other columns, such as the right answer."""


@dataclass(frozen=True, kw_only=True)
class StepwiseSupervision:
    """A prompt, the steps of an answer to it, and how good each is."""

    messages: tuple[Message, ...]
    steps: tuple[str, ...]
    labels: tuple[float, ...]
    """One for each step: 1 for a right one, 0 for a wrong one, or anything between."""


@dataclass(frozen=True, kw_only=True)
class Classified:
    """A conversation or a text, and the class it belongs to."""

    content: Conversation | Document
    label: str | int


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A conversation or a text, and the number that is to be predicted for it."""

    content: Conversation | Document
    score: float


Sample = (
    Conversation
    | Completion
    | Document
    | Tokenized
    | Preference
    | UnpairedPreference
    | PromptOnly
    | StepwiseSupervision
    | Classified
    | Scored
)

Weighable = Conversation | Completion | Document | Tokenized
"""Samples that may count more or less than others."""


@dataclass(frozen=True, kw_only=True)
class NumberedSample:
    """A sample and the row it was made from."""

    dataset: str
    """Name of its dataset, as in sample ids."""
    row: int
    """As its source counts, from 1."""
    sample: Sample


class RowError(ValueError):
    """A row does not fit its format; the message says what is missing and what to write.

    The reader of the row adds the file and the row number.
    """

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


class TooLong(RowError):
    """A sample has more tokens than the recipe allows; never skipped as a bad row is.

    Of several such rows, the hint of the longest is given for all.
    """

    def __init__(self, what: str, hint: str = "", *, num_tokens: int = 0) -> None:
        super().__init__(what, hint)
        self.num_tokens = num_tokens
        """What the sample becomes; 0 when unknown."""
