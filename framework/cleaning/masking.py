"""Text -> the same text without what could be abused, for lists and messages that are kept."""

from __future__ import annotations

import re

from framework.cleaning.secrets import SECRETS, may_hold_secrets

LONGEST_EXCERPT = 160
"""Characters of a text that a list of findings shows."""

_READ = 4 * LONGEST_EXCERPT
"""Characters that are searched, so that nothing stands half in the excerpt and is overlooked."""

_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_NUMBERS = re.compile(r"(?:[A-Z]{2}\d{2}[ -]?)?(?:[A-Z0-9]{0,4}\d[ .()/-]{0,2}){7,40}")


def mask(text: str) -> str:
    """The first two characters, and a star for each of the others, at most twelve."""
    return text[:2] + "*" * min(len(text) - 2, 12)


def excerpt(text: str) -> str:
    """The beginning of a text on one line, without keys, addresses and long numbers."""
    shown = text[:_READ]
    if may_hold_secrets(shown):
        for pattern in SECRETS.values():
            shown = pattern.sub(lambda match: mask(match[0]), shown)
    for pattern in (_EMAIL, _NUMBERS):
        shown = pattern.sub(lambda match: mask(match[0]), shown)
    shown = " ".join(shown.split())
    if len(text) <= _READ and len(shown) <= LONGEST_EXCERPT:
        return shown
    return shown[:LONGEST_EXCERPT] + " ..."
