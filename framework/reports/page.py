"""Template and values -> one HTML page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from framework.reports import quantities


def render_page(template: str, values: Mapping[str, Any]) -> str:
    """The page of `framework/reports/TEMPLATE`; every value in it is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": quantities.count_text,
        "short_count": quantities.short_count,
        "share": quantities.share_text,
        "size": quantities.bytes_text,
        "duration": quantities.duration_text,
        "loss": quantities.loss_text,
    }
    return environment.get_template(template).render(values)
