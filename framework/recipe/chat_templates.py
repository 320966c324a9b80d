"""What a recipe writes as chat template -> whether there is such a template."""

from __future__ import annotations

from pathlib import Path

from framework.core.problems import Problem, did_you_mean, nearest

TEMPLATE_FOLDER = Path(__file__).parent.parent / "templates"
"""Holds the named templates, each in a file of its name."""

TEMPLATE_KEY = "tokenizer.chat_template"
"""Where a recipe writes it."""


def template_names() -> tuple[str, ...]:
    """The templates that a recipe can name, sorted."""
    names = (file.name for file in TEMPLATE_FOLDER.iterdir())
    return tuple(sorted(name.removesuffix(".jinja") for name in names if name.endswith(".jinja")))


def is_jinja(written: str) -> bool:
    """Whether it is a template's text, no name and no path."""
    return "{{" in written or "{%" in written


def missing_template(written: str) -> Problem | None:
    """The problem of a name that no template has, or of a file that is not there."""
    if is_jinja(written):
        return None
    if written.endswith(".jinja"):
        path = Path(written)
        if path.is_file():
            return None
        return Problem(
            key=TEMPLATE_KEY,
            what=f"there is no file {written!r}",
            hint=_nearest_file(path)
            or f"a named template is one of: {', '.join(template_names())}",
        )
    if written in template_names():
        return None
    return Problem(
        key=TEMPLATE_KEY,
        what=f"there is no chat template {written!r}",
        hint=f"{did_you_mean(written, template_names())} (a file's path ends in `.jinja`)",
    )


def _nearest_file(path: Path) -> str:
    """Asks whether the named template of that name was meant, or a file beside it."""
    if path.stem in template_names():
        return f"did you mean the named template? write chat_template: {path.stem}"
    near = nearest(path.stem, [file.stem for file in path.parent.glob("*.jinja")])
    return f"did you mean {str(path.parent / near) + '.jinja'!r}?" if near else ""
