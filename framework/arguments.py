"""Arguments that several verbs take, as `framework.command_line` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from framework.command_line import Argument, Option
from framework.core import consent

RecipePath = Annotated[Path, Argument(help="The recipe's YAML file.")]
Overrides = Annotated[
    list[str] | None,
    Argument(help="key=value sets a key, +key=value adds one or appends to a list."),
]
AllowedEnvironment = Annotated[
    list[str] | None,
    Option(
        environment=consent.VARIABLES,
        help="Variable that ${oc.env:NAME}, api_key_env or token_env may read; may be repeated.",
    ),
]
AllowedUrls = Annotated[
    list[str] | None,
    Option(help="Address that rows may be sent to; this machine's own always may."),
]
PeerTimeout = Annotated[
    float,
    Option(
        at_least=1,
        environment="FRAMEWORK_PEER_TIMEOUT",
        help="Seconds that a process of several may be silent, or keep the others waiting.",
    ),
]
RunPath = Annotated[Path, Argument(help="The `output.dir` of a run.")]
AsJson = Annotated[bool, Option(name="--json", help="Print JSON.")]
