"""Patterns of the keys and tokens that programs hand out."""

from __future__ import annotations

import re

_LEFT = r"(?<![A-Za-z0-9_-])"
_RIGHT = r"(?![A-Za-z0-9_-])"


def _token(body: str) -> re.Pattern[str]:
    """A token of its own: nothing that could belong to it stands before or behind."""
    return re.compile(_LEFT + body + _RIGHT)


SECRETS = {
    "PRIVATE_KEY": re.compile(
        r"-----BEGIN (?:[A-Z]{2,10} ){0,2}PRIVATE KEY(?: BLOCK)?-----"
        r"(?:[\s\S]{0,10000}?-----END (?:[A-Z]{2,10} ){0,2}PRIVATE KEY(?: BLOCK)?-----"
        r"|[A-Za-z0-9+/=\s]{0,10000})"
    ),
    "URL_CREDENTIALS": re.compile(
        r"(?<![A-Za-z])[A-Za-z][A-Za-z0-9+.-]{1,19}://([^\s/:@\"'<>]{1,64}:[^\s/@\"'<>]{1,256})@(?=\S)"
    ),
    "JWT": _token(r"eyJ[A-Za-z0-9_-]{10,4096}\.eyJ[A-Za-z0-9_-]{10,8192}\.[A-Za-z0-9_-]{16,2048}"),
    "MODEL_API_KEY": _token(r"sk-(?:[a-z]{2,8}-[A-Za-z0-9_-]{20,250}|[A-Za-z0-9]{32,64})"),
    "AWS_KEY": _token(r"(?:AKIA|ASIA|AROA|AIDA)[A-Z2-7]{16}"),
    "AWS_SECRET": re.compile(
        r"(?i:aws[a-z_ .-]{0,20}secret[a-z_ .-]{0,20})[\"']?\s{0,3}[:=]\s{0,3}[\"']?"
        r"([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])"
    ),
    "GITHUB_TOKEN": _token(r"(?:gh[pousr]_[A-Za-z0-9]{36,251}|github_pat_[A-Za-z0-9_]{60,251})"),
    "GITLAB_TOKEN": _token(r"gl(?:pat|dt|rt|ptt)-[A-Za-z0-9_-]{20,64}"),
    "SLACK_TOKEN": re.compile(
        _LEFT
        + r"(?:xox[abeoprs]-[A-Za-z0-9-]{10,250}|xapp-\d-[A-Za-z0-9-]{10,250})"
        + _RIGHT
        + r"|https://hooks\.slack\.com/services/[A-Za-z0-9/]{20,100}"
    ),
    "GOOGLE_KEY": _token(r"AIza[A-Za-z0-9_-]{35}"),
    "HUGGING_FACE_TOKEN": _token(r"hf_[A-Za-z0-9]{34,64}"),
    "STRIPE_KEY": _token(r"(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,250}"),
    "NPM_TOKEN": _token(r"npm_[A-Za-z0-9]{36}"),
    "PYPI_TOKEN": _token(r"pypi-AgEI[A-Za-z0-9_-]{50,1000}"),
    "SENDGRID_KEY": _token(r"SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{32,64}"),
}
"""Kind -> pattern; its group, where it has one, is the secret itself. Every repetition is bounded,
so that a search takes linear time."""

_SIGNS = re.compile(
    r"PRIVATE KEY|://|eyJ|sk-|A[KSRI][IO][AD]|(?i:aws)|gh[pousr]_|github_pat_|gl(?:pat|dt|rt|ptt)-"
    r"|xox|xapp|slack|AIza|hf_|[srp]k_|npm_|pypi-|SG\."
)


def may_hold_secrets(text: str) -> bool:
    """Whether it is worth searching for all of them; one quick pass."""
    return _SIGNS.search(text) is not None
