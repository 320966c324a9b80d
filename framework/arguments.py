"""Arguments that several verbs take, as typer declares them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from framework.core import consent

RecipePath = Annotated[Path, typer.Argument(help="The recipe's YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="key=value sets a key, +key=value adds one or appends to a list."),
]
AllowedEnvironment = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-env",
        envvar=consent.VARIABLES,
        help="Variable that ${oc.env:NAME}, api_key_env or token_env may read; may be repeated.",
    ),
]
AllowedUrls = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-url", help="Address that rows may be sent to; this machine's own always may."
    ),
]
PeerTimeout = Annotated[
    float,
    typer.Option(
        min=1,
        envvar="FRAMEWORK_PEER_TIMEOUT",
        help="Seconds that a process of several may be silent, or keep the others waiting.",
    ),
]
RunPath = Annotated[Path, typer.Argument(help="The `output.dir` of a run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
