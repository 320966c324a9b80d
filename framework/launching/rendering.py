"""A template of this folder and values -> the text of a file."""

from __future__ import annotations

import json
import shlex
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """The file that a template describes; filters make any value safe where it stands.

    `quoted` makes words of a shell, `json` a value of YAML.
    """
    environment = Environment(
        loader=PackageLoader("framework.launching", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  shells and YAML, not HTML
    )
    environment.filters["quoted"] = _quoted
    environment.filters["json"] = json.dumps
    return environment.get_template(template).render(**values)


def _quoted(value: str | list[str]) -> str:
    return shlex.quote(value) if isinstance(value, str) else shlex.join(value)
