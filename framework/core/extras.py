"""Optional packages: present, or a message that names the extra which brings them."""

from __future__ import annotations

import importlib.util

from framework.core.problems import Problem


def missing_extra(module: str, extra: str, *, key: str) -> list[Problem]:
    """One problem when `module` is not installed, none when it is; imports nothing."""
    if importlib.util.find_spec(module) is not None:
        return []
    return [
        Problem(
            key=key,
            what=f"needs the package {module!r}, which is not installed",
            hint=f"pip install 'framework[{extra}]'",
        )
    ]
