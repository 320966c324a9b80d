"""Chat template -> the text of a conversation, always rendered in Jinja's sandbox."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import jinja2.meta

from framework.core.outline import Outline, OutlineEnvironment, Unread, outline_of
from framework.core.problems import Problem, UserError
from framework.core.samples import Conversation, Message, RowError, ToolCall
from framework.core.sandbox import (
    FAILURES,
    BoundedEnvironment,
    TemplateRefuses,
    clock,
    compile_template,
    raise_exception,
    render_bounded,
)
from framework.core.template_bounds import TemplateExceeds
from framework.recipe.chat_templates import (
    TEMPLATE_FOLDER,
    TEMPLATE_KEY,
    is_jinja,
    missing_template,
    template_names,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MOST_OUTLINES = 1024
_LONGEST_OUTLINED = 10_000
"""Characters of all messages together: what is longer is rendered within the template's bounds."""

TemplateMessage = dict[str, Any]
"""A message as templates read it: the OpenAI shape."""


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """A template and the variables that every rendering gets."""

    text: str
    text_with_tools: str = ""
    """Used where the conversation has tools; empty: `text`."""
    variables: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Those of the variables that the recipe wrote."""
    remembers: bool = False
    """Every rendering is kept until `forget`: encoder and proof ask for the same ones."""

    def render(
        self,
        messages: Sequence[TemplateMessage],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        add_generation_prompt: bool,
    ) -> str:
        """The text that a server would make of the same request.

        Raises:
            RowError: the template refuses these messages, or fails on them; quotes it.
            UserError: it takes more time or memory than any real template.
        """
        if not self.remembers:
            return self._render(messages, tools, add_generation_prompt)
        key = (add_generation_prompt, messages, tools)
        for known, text in self._rendered:
            if known == key:
                return text
        text = self._render(messages, tools, add_generation_prompt)
        self._rendered.append((key, text))
        return text

    def forget(self) -> None:
        """Ends a row. Rows may be equal and still not the same, as 1 and true are in Python."""
        self._rendered.clear()

    @functools.cached_property
    def _rendered(self) -> list[tuple[tuple[object, ...], str]]:
        return []

    def _render(
        self,
        messages: Sequence[TemplateMessage],
        tools: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
    ) -> str:
        plain = None if tools else _plain_messages(messages)
        if plain is None:
            return self._rendering(messages, tools, add_generation_prompt)
        roles, texts = plain
        kind = (add_generation_prompt, roles)
        if kind not in self._outlines:
            rendering = self._rendering(messages, tools, add_generation_prompt)
            if len(self._outlines) == _MOST_OUTLINES:
                self._outlines.clear()
            self._outlines[kind] = self._outline(roles, texts, add_generation_prompt, rendering)
            return rendering
        outline = self._outlines[kind]
        if outline is None:
            return self._rendering(messages, tools, add_generation_prompt)
        return outline.filled(texts)

    @functools.cached_property
    def _outlines(self) -> dict[tuple[bool, tuple[str, ...]], Outline | None]:
        """What is written around messages of these roles; None where it depends on their texts."""
        return {}

    def _outline(
        self,
        roles: Sequence[str],
        texts: Sequence[str],
        add_generation_prompt: bool,
        rendering: str,
    ) -> Outline | None:
        messages = [{"role": role, "content": Unread.of(place)} for place, role in enumerate(roles)]
        compiled = _compiled(self.text, _outline_environment())
        found = outline_of(compiled, self._all_variables(messages, (), add_generation_prompt))
        return found if found is not None and found.filled(texts) == rendering else None

    def _all_variables(
        self,
        messages: Sequence[TemplateMessage],
        tools: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
    ) -> dict[str, Any]:
        return {
            **self.variables,
            "messages": messages,
            "tools": tools or None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }

    def _rendering(
        self,
        messages: Sequence[TemplateMessage],
        tools: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
    ) -> str:
        compiled = _compiled((tools and self.text_with_tools) or self.text, _environment())
        variables = self._all_variables(messages, tools, add_generation_prompt)
        try:
            return render_bounded(compiled, variables)
        except TemplateExceeds as error:
            raise _excessive(error) from None
        except TemplateRefuses as error:
            raise RowError(
                f"the chat template refuses this conversation: {error.message!r}",
                hint="change the conversation, or write another `tokenizer.chat_template`",
            ) from None
        except FAILURES as error:
            raise RowError(
                f"the chat template fails on this conversation: {type(error).__name__}: {error}",
                hint="change the conversation, or write another `tokenizer.chat_template`",
            ) from None


def load_template(
    written: str | None,
    tokenizer: PreTrainedTokenizerBase,
    arguments: Mapping[str, Any] | None = None,
) -> ChatTemplate | None:
    """The template that a recipe means; None when neither recipe nor tokenizer has one.

    `written` is Jinja text, a path that ends in `.jinja`, or a name of `template_names()`; None
    takes the tokenizer's own. Templates see the tokenizer's special tokens and, before these,
    `arguments`.

    Raises:
        UserError: no such name or file, or the text is not Jinja.
    """
    texts = _texts(written, tokenizer)
    if texts is None:
        return None
    for text in texts:
        _check_syntax(text)
    arguments = arguments or {}
    return ChatTemplate(
        text=texts[0],
        text_with_tools=texts[1],
        variables={**tokenizer.special_tokens_map, **arguments},
        arguments=arguments,
    )


def served_template(
    template: ChatTemplate, special_tokens: Collection[str] = ()
) -> str | dict[str, str]:
    """The template as a tokenizer keeps it, so that any server renders what was trained.

    The recipe's arguments become its defaults; those that replace a variable of
    `special_tokens`, which every server sets, become fixed.
    """
    lines = ""
    for name, value in template.arguments.items():
        if name.isidentifier():  # no template can read another
            fixed = f"{{%- set {name} = {json.dumps(value, ensure_ascii=False)} -%}}"
            default = f"{{%- if {name} is not defined %}}{fixed}{{%- endif -%}}"
            lines += fixed if name in special_tokens else default
    if not template.text_with_tools:
        return lines + template.text
    return {"default": lines + template.text, "tool_use": lines + template.text_with_tools}


def template_variables(template: ChatTemplate) -> frozenset[str]:
    """Every name that the template may read from outside."""
    trees = map(_environment().parse, (template.text, template.text_with_tools))
    names = (jinja2.meta.find_undeclared_variables(tree) for tree in trees)
    return frozenset().union(*names)


def template_origin(written: str | None) -> str:
    """What to call the template that a recipe means: its name, its file, or where its text is."""
    if written is None:
        return "the tokenizer's own"
    return "written in the recipe" if is_jinja(written) else written


def template_messages(conversation: Conversation) -> list[TemplateMessage]:
    """The messages as templates read them."""
    return [_template_message(message) for message in conversation.messages]


def template_tools(conversation: Conversation) -> list[Mapping[str, Any]]:
    """The tools as templates read them."""
    return [_plain(tool) for tool in conversation.tools]


def _template_message(message: Message) -> TemplateMessage:
    rendered: TemplateMessage = {"role": message.role, "content": message.content}
    if message.reasoning:
        # gpt-oss templates know it as `thinking`; transformers passes it under both names too.
        rendered["reasoning_content"] = rendered["thinking"] = message.reasoning
    if message.tool_calls:
        rendered["tool_calls"] = [_template_call(call) for call in message.tool_calls]
    if message.tool_call_id:
        rendered["tool_call_id"] = message.tool_call_id
    if message.name:
        rendered["name"] = message.name
    return rendered


def _template_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": _plain(call.arguments)}
    identifier = {"id": call.identifier} if call.identifier else {}
    return {"type": "function", **identifier, "function": function}


def _plain(value: Any) -> Any:
    """JSON types only: a template must never reach methods of richer objects."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if type(value) in {str, int, float, bool, type(None)} else str(value)


def _texts(written: str | None, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str] | None:
    """The template's text without and with tools."""
    if written is None:
        own = tokenizer.chat_template
        if isinstance(own, dict):
            default = own.get("default") or next(iter(own.values()))
            return default, own.get("tool_use", "")
        return (own, "") if own else None
    if is_jinja(written):
        return written, ""
    missing = missing_template(written)
    if missing:
        raise UserError(missing)
    if written.endswith(".jinja"):
        return _read(Path(written)), ""
    return (TEMPLATE_FOLDER / f"{written}.jinja").read_text(encoding="utf-8"), ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            Problem(
                what=f"the chat template {str(path)!r} cannot be read: {error}",
                hint=f"write the path of a text file, or one of: {', '.join(template_names())}",
                key=TEMPLATE_KEY,
            )
        ) from None


def _check_syntax(text: str) -> None:
    try:
        _compiled(text, _environment())
    except jinja2.TemplateSyntaxError as error:
        raise UserError(
            Problem(
                what=f"line {error.lineno} of the chat template is not Jinja: {error.message}",
                hint=f"correct it, or write one of: {', '.join(template_names())}",
                key=TEMPLATE_KEY,
            )
        ) from None


def _excessive(error: TemplateExceeds) -> UserError:
    return UserError(
        Problem(
            what=f"the chat template {error}",
            hint=f"correct it, or write one of: {', '.join(template_names())}",
            key=TEMPLATE_KEY,
        )
    )


@functools.lru_cache(maxsize=32)
def _compiled(text: str, environment: BoundedEnvironment) -> jinja2.Template:
    try:
        return compile_template(environment, text)
    except TemplateExceeds as error:
        raise _excessive(error) from None


@functools.cache
def _environment() -> BoundedEnvironment:
    environment = BoundedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = clock(datetime.now().astimezone())
    return environment


@functools.cache
def _outline_environment() -> OutlineEnvironment:
    environment = OutlineEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals = _environment().globals  # with the same moment in it
    return environment


def _plain_messages(
    messages: Sequence[TemplateMessage],
) -> tuple[tuple[str, ...], list[str]] | None:
    """(roles, texts) of messages that have nothing else; None where one has, or they are long."""
    roles: list[str] = []
    texts: list[str] = []
    length = 0
    for message in messages:
        if tuple(message) != ("role", "content"):
            return None
        role, text = message.values()
        if type(role) is not str or type(text) is not str:
            return None
        roles.append(role)
        texts.append(text)
        length += len(text)
    return None if length > _LONGEST_OUTLINED else (tuple(roles), texts)


def rendering_clock() -> Any:
    """The `strftime_now` that templates are given."""
    return _environment().globals["strftime_now"]
