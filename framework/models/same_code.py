"""A module and a known class -> whether they compute the same, being the same code.

transformers writes the same code into the file of each architecture.
"""

from __future__ import annotations

from types import FunctionType

from torch.nn import Module


def has_code_of(module: Module, known: type[Module]) -> bool:
    """Whether the module's forward pass is the known class's, to the instruction, and nothing is
    hooked to it."""
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        return False
    code = _code(type(module))
    return code is not None and code == _code(known)


def _code(kind: type[Module]) -> tuple[object, ...] | None:
    """Instructions and what they refer to; None of what refers to an outer function, as decorated
    functions do."""
    function = kind.forward
    if not isinstance(function, FunctionType) or function.__code__.co_freevars:
        return None
    code, names = function.__code__, function.__globals__
    referred = tuple(names.get(name) for name in code.co_names)
    return code.co_code, code.co_names, code.co_varnames, code.co_consts, referred
