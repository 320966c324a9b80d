"""Libraries that do more on import than a run needs -> the same, when it is needed.

bitsandbytes decorates its functions with `torch.compile`
(https://github.com/bitsandbytes-foundation/bitsandbytes/blob/0.50.0/bitsandbytes/backends/default/ops.py),
which loads TorchInductor at once: 1.5 s of CPU, when the rest of bitsandbytes takes 0.1 s. peft
imports it wherever it is installed, whether anything is quantised or not.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

COMPILING = ("bitsandbytes",)
"""Packages that do so."""


def defer_compilation() -> None:
    """From now on those packages are imported so; again is harmless.

    What they have is what they would have otherwise, but that a function that nobody calls is never
    compiled.
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Of these packages alone; others are left to the other finders."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in COMPILING:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        with _compiled_when_called():
            super().exec_module(module)


@contextmanager
def without_importing_deepspeed() -> Iterator[None]:
    """Saving a model asks accelerate whether it is DeepSpeed's, which imports DeepSpeed where it is
    installed (https://github.com/huggingface/accelerate/blob/v1.15.0/src/accelerate/utils/other.py).

    While the context lasts that is asked only where DeepSpeed has been imported: else no model can
    be its.
    """
    from accelerate.utils import other

    is_installed = other.is_deepspeed_available
    other.is_deepspeed_available = lambda: "deepspeed" in sys.modules
    try:
        yield
    finally:
        other.is_deepspeed_available = is_installed


@contextmanager
def _compiled_when_called() -> Iterator[None]:
    import torch

    compile_now = torch.compile

    def compile_later(function: Callable[..., Any] | None = None, **settings: Any) -> Any:
        if function is None:
            return functools.partial(compile_later, **settings)

        @functools.cache
        def compiled() -> Callable[..., Any]:
            return compile_now(function, **settings)

        @functools.wraps(function)
        def called(*arguments: Any, **keywords: Any) -> Any:
            return compiled()(*arguments, **keywords)

        return called

    torch.compile = compile_later
    try:
        yield
    finally:
        torch.compile = compile_now
