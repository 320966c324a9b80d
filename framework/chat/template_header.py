"""Chat template -> what its first comment declares, such as the special tokens it is made of."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from framework.chat.template import ChatTemplate
from framework.chat.tokens import Vocabulary
from framework.core.problems import Problem, UserError

_FIRST_COMMENT = re.compile(r"\{#-?(.*?)-?#\}", re.DOTALL)
_VARIABLES = frozenset({"bos_token", "eos_token"})


@dataclass(frozen=True, kw_only=True)
class TemplateHeader:
    """The lines `name: value` of a template's first comment."""

    declares: bool
    """Whether there is a line `special tokens`; without it nothing else counts."""
    special_tokens: tuple[str, ...] = ()
    """Texts that have to be one token each for the template to work."""
    tool_tokens: tuple[str, ...] = ()
    """The same, needed only where there are tools."""
    writes_bos: bool = False
    """Whether `bos_token` is among the special tokens."""
    default_system: str = ""
    """What stands in the place of a system message that nobody wrote."""
    trims: bool = False
    """Whether whitespace around contents is left out."""
    repeats_bos: bool = False
    """Whether BOS belongs elsewhere than at the start."""


@functools.lru_cache(maxsize=32)
def template_header(text: str) -> TemplateHeader:
    """What the template's text declares about itself."""
    found = _FIRST_COMMENT.search(text)
    lines = (line.partition(":") for line in found.group(1).splitlines()) if found else ()
    written = {name.strip(): value.strip() for name, colon, value in lines if colon}
    if "special tokens" not in written:
        return TemplateHeader(declares=False)
    special = written["special tokens"].split()
    return TemplateHeader(
        declares=True,
        special_tokens=tuple(one for one in special if one not in {*_VARIABLES, "none"}),
        tool_tokens=tuple(written.get("tool tokens", "").split()),
        writes_bos="bos_token" in special,
        default_system=written.get("default system", ""),
        trims=written.get("contents", "").startswith("trimmed"),
        repeats_bos="bos" in written,
    )


def split_tokens(texts: tuple[str, ...], vocabulary: Vocabulary) -> tuple[str, ...]:
    """Those of the texts that are not one token of the tokenizer."""
    return tuple(text for text in texts if len(vocabulary.encode(text).ids) != 1)


def check_special_tokens(template: ChatTemplate | None, vocabulary: Vocabulary) -> None:
    """Proves that the special tokens a template declares are tokens.

    Raises:
        UserError: some are not; the model would read and write them letter by letter.
    """
    if template is None:
        return
    missing = split_tokens(template_header(template.text).special_tokens, vocabulary)
    if missing:
        raise UserError(
            Problem(
                key="tokenizer.chat_template",
                what="the template is made of special tokens that this tokenizer does not have: "
                + " ".join(missing),
                hint=add_tokens_hint(missing),
            )
        )


def add_tokens_hint(missing: tuple[str, ...]) -> str:
    """The line that adds them."""
    listed = ", ".join(f'"{text}"' for text in missing)
    return f"write `tokenizer.add_tokens: [{listed}]`, or the template of the tokenizer's family"
