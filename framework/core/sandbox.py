"""A template from a stranger -> text, within bounds of time and memory that no template escapes.

Jinja's sandbox keeps a template from Python's inside; it does not keep it from running forever or
from filling the memory. Here every loop, call, filter and comparison is counted, and now and then
the clock is read; whatever makes a value larger than its parts is asked first how large. So each
single step is short, and the clock stops what takes too many of them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox
from jinja2 import nodes
from jinja2.compiler import CodeGenerator
from jinja2.parser import Parser
from jinja2.runtime import LoopContext, Macro
from jinja2.utils import Namespace

from framework.core.template_bounds import (
    BOUNDED,
    FILTERS,
    METHODS,
    OPERATORS,
    TEMPLATE_CHARACTERS,
    WIDTH,
    TemplateExceeds,
    add_up,
    formatted,
    joined,
    made,
    meter,
    shown,
    step,
    taken,
    weigh,
)


class TemplateRefuses(jinja2.TemplateError):
    """The template called `raise_exception`."""


FAILURES = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What a rendering may end in, apart from `TemplateExceeds`."""


class _PublicNamespace(Namespace):
    """Jinja's `namespace()`, with which a template could otherwise store hidden attributes."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a template may not set {name!r}")
        super().__setitem__(name, value)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` renders as what it encloses."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares a mutable set

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _CountingCode(CodeGenerator):
    """Jinja's compiler, which writes a call of ours where a template could take long."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._repeated: set[int] = set()

    def visit_For(self, node: nodes.For, frame: Any) -> None:  # noqa: N802
        self._repeated.add(id(node.body))
        super().visit_For(node, frame)

    def macro_body(self, node: Any, frame: Any) -> Any:
        self._repeated.add(id(node.body))
        return super().macro_body(node, frame)

    def blockvisit(self, nodes: Iterable[nodes.Node], frame: Any) -> None:
        if id(nodes) in self._repeated:
            self.writeline("environment.step()")
        super().blockvisit(nodes, frame)

    def visit_Compare(self, node: nodes.Compare, frame: Any) -> None:  # noqa: N802
        constant = isinstance(node.expr, nodes.Const) or all(
            isinstance(operand.expr, nodes.Const) for operand in node.ops
        )
        if constant:
            super().visit_Compare(node, frame)
        else:
            self.write("(environment.step() or ")
            super().visit_Compare(node, frame)
            self.write(")")

    def _output_child_pre(self, node: Any, frame: Any, finalize: Any) -> None:
        if frame.eval_ctx.volatile or frame.eval_ctx.autoescape:
            super()._output_child_pre(node, frame, finalize)

    def _output_child_post(self, node: Any, frame: Any, finalize: Any) -> None:
        if frame.eval_ctx.volatile or frame.eval_ctx.autoescape:
            super()._output_child_post(node, frame, finalize)

    def visit_Add(self, node: nodes.Add, frame: Any) -> None:  # noqa: N802
        parts: list[nodes.Node] = [node.right]
        while isinstance(node.left, nodes.Add):
            node = node.left
            parts.append(node.right)
        parts.append(node.left)
        self.write("environment.add_up(")
        for part in reversed(parts):
            self.visit(part, frame)
            self.write(", ")
        self.write(")")

    def visit_Concat(self, node: nodes.Concat, frame: Any) -> None:  # noqa: N802
        self.write("environment.concat((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_Filter(self, node: nodes.Filter, frame: Any) -> None:  # noqa: N802
        self._wrapped("made", super().visit_Filter, node, frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Any) -> None:  # noqa: N802
        if isinstance(node.arg, nodes.Const):
            super().visit_Getitem(node, frame)
        else:
            self._wrapped("taken", super().visit_Getitem, node, frame)

    def visit_Test(self, node: nodes.Test, frame: Any) -> None:  # noqa: N802
        if node.args:
            self.write("(environment.step() or ")
            super().visit_Test(node, frame)
            self.write(")")
        else:
            super().visit_Test(node, frame)

    def visit_List(self, node: nodes.List, frame: Any) -> None:  # noqa: N802
        self._container(super().visit_List, node, node.items, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Any) -> None:  # noqa: N802
        if node.ctx == "load":
            self._container(super().visit_Tuple, node, node.items, frame)
        else:
            super().visit_Tuple(node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Any) -> None:  # noqa: N802
        items = [part for item in node.items for part in (item.key, item.value)]
        self._container(super().visit_Dict, node, items, frame)

    def _container(
        self, visit: Callable[..., None], node: Any, items: Sequence[nodes.Node], frame: Any
    ) -> None:
        if all(isinstance(item, nodes.Const) for item in items):
            visit(node, frame)
        else:
            self._wrapped("weigh", visit, node, frame)

    def _wrapped(self, name: str, visit: Callable[..., None], node: Any, frame: Any) -> None:
        self.write(f"environment.{name}(")
        visit(node, frame)
        self.write(")")


_DICT_ATTRIBUTES = frozenset(dir(dict))
_LOOP_ATTRIBUTES = frozenset({"first", "last", "index", "index0", "previtem", "nextitem", "length"})


_ABOUT_JINJA = frozenset({"filter", "test"})
"""Tests of whether there is a filter or a test of some name."""


def _refused(name: str) -> Callable[..., Any]:
    def refused(*args: object, **kwargs: object) -> None:
        raise jinja2.exceptions.SecurityError(f"a template may not call {name}")

    return refused


class BoundedEnvironment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Jinja's sandbox with the bounds of this module; what is read most, it finds at once."""

    code_generator_class = _CountingCode
    intercepted_binops = frozenset(OPERATORS)
    concat = staticmethod(joined)
    step = staticmethod(step)
    add_up = staticmethod(add_up)
    made = staticmethod(made)
    taken = staticmethod(taken)
    weigh = staticmethod(weigh)

    def __init__(self, **options: Any) -> None:
        # Jinja would work out what is constant while it compiles, before anything is counted.
        super().__init__(
            optimized=False,
            finalize=shown,
            extensions=[_Generation, jinja2.ext.loopcontrols],
            **options,
        )
        self.filters = dict(FILTERS)
        # What is left out is there nonetheless: no template may do here other than where served.
        known = {name: _refused(name) for name in self.globals}
        allowed = {"dict": dict, "namespace": _PublicNamespace, "range": self.globals["range"]}
        self.globals = {**known, **allowed}
        self.tests = {name: test for name, test in self.tests.items() if name not in _ABOUT_JINJA}
        self.binop_table.update(OPERATORS)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """The same as Jinja's: an attribute before an item, and nothing that begins with `_`."""
        if type(obj) is dict and attribute in obj and attribute not in _DICT_ATTRIBUTES:
            return obj[attribute]
        if type(obj) is LoopContext and attribute in _LOOP_ATTRIBUTES:
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """The sandbox's `format`, bounded."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        return functools.partial(formatted, value.__self__, wrapped)

    def call(self, context: Any, called: Any, *args: Any, **kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Calls a function or method for a template."""
        owner = getattr(called, "__self__", None)
        allowed = METHODS.get(type(owner))
        if allowed is None:
            if isinstance(called, Macro) and (called.catch_varargs or called.catch_kwargs):
                weigh((*args, *kwargs.values()))
            return made(super().call(context, called, *args, **kwargs))
        kwargs.pop("_loop_vars", None)  # what Jinja passes to macros
        kwargs.pop("_block_vars", None)
        if called.__name__ not in allowed:
            written = f"{type(owner).__name__}.{called.__name__}"
            raise jinja2.exceptions.SecurityError(f"a template may not call {written}")
        if called.__name__ in BOUNDED and type(owner) is str:
            return made(BOUNDED[called.__name__](owner, *args, **kwargs))
        return made(called(*args, **kwargs))


def compile_template(environment: BoundedEnvironment, text: str) -> jinja2.Template:
    """The template of a text.

    Raises:
        TemplateSyntaxError: it is none.
        TemplateExceeds: it is longer, or more deeply nested, than any real one.
    """
    meter.reset()
    if len(text) > TEMPLATE_CHARACTERS:
        raise TemplateExceeds(f"has more than {TEMPLATE_CHARACTERS:,} characters")
    try:
        compiled = environment.from_string(text)
    except (RecursionError, MemoryError, SyntaxError):
        raise TemplateExceeds("is nested too deeply") from None
    # Jinja chains two mappings here and walks through the chain at every rendering.
    compiled.globals = dict(compiled.globals)
    return compiled


def render_bounded(template: jinja2.Template, variables: Mapping[str, Any]) -> str:
    """The template's text.

    Raises:
        TemplateExceeds: it takes too much time or memory.
        Exception: one of `FAILURES`.
    """
    meter.reset()
    try:
        # What Jinja's own `render` does, without copying the variables another time.
        context = template.new_context({**template.globals, **variables}, shared=True)
        return joined(template.root_render_func(context))
    except MemoryError:
        raise TemplateExceeds("needs more memory than there is") from None


def raise_exception(message: str) -> None:
    """What templates call to refuse a conversation."""
    raise TemplateRefuses(message)


def clock(now: datetime) -> Callable[[str], str]:
    """One moment for all renderings: midnight may not fall between two of the same row."""

    def strftime_now(pattern: str) -> str:
        if len(pattern) > WIDTH or re.search(r"\d{3}", pattern):
            raise ValueError("the pattern of a time is too long")
        return now.strftime(pattern)

    return strftime_now
