"""A module or function and a known one -> whether they compute the same, being the same code.

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
    code = _code(type(module).forward, 0)
    return code is not None and code == _code(known.forward, 0)


def is_same_function(function: object, known: object) -> bool:
    """Whether both are plain functions of the same instructions, and so are those they call."""
    code = _code(function, 1)
    return code is not None and code == _code(known, 1)


def _code(function: object, depth: int) -> tuple[object, ...] | None:
    """Instructions and what they refer to, for functions so deep their instructions too.

    None of what refers to an outer function, as decorated functions do.
    """
    if not isinstance(function, FunctionType) or function.__code__.co_freevars:
        return None
    code = function.__code__
    referred = [function.__globals__.get(name) for name in code.co_names]
    if depth:
        referred = [_code(one, depth - 1) or one for one in referred]
    # Without the sentence that documents it, which is a constant too.
    constants = [one for one in code.co_consts if one != function.__doc__]
    return code.co_code, code.co_names, code.co_varnames, tuple(constants), tuple(referred)
