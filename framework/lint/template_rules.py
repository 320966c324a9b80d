"""A conversation's renderings -> what is wrong with the template that made them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from framework.chat.survival import dropped_messages, find_text
from framework.chat.tokens import Rendered, common_length
from framework.core.samples import Conversation, Message, RowError
from framework.lint.template_case import Case, Fault, said
from framework.lint.template_probes import PARAMETER, TOOL

RULES = {
    "refused": "the template refuses or fails on a conversation that it should render",
    "generation_prompt": "an answer is served after another text than it is trained after",
    "no_generation_prompt": "the prompt ends before the header of the answer, which is trained",
    "earlier_turn_changes": "an earlier turn is rendered differently when later ones follow",
    "thinking_stripped": "thinking of earlier turns is left out when later ones follow",
    "tokens_merge": "tokens of prompt and answer merge into others",
    "stop_missing": "an answer ends without a token that stops generation",
    "stop_appended": "the template leaves the answer open, the recipe's stop token is appended",
    "stop_not_in_settings": "answers end with a token at which the model's settings don't stop",
    "stop_not_trained": "the token that ends an answer is not among the trained ones",
    "text_after_stop": "the answer goes on after a token at which a server stops",
    "prompt_trained": "text that is not the assistant's is trained",
    "double_bos": "the rendering begins with BOS twice",
    "repeated_bos": "BOS stands inside the rendering",
    "tokenizer_adds_bos": "template and tokenizer both write BOS",
    "no_bos": "the template leaves out the BOS with which the tokenizer begins a text",
    "split_special_token": "what looks like a special token is several tokens",
    "system_dropped": "a system message is not in the rendering",
    "default_system": "a system message that nobody wrote is put in",
    "date_dependent": "the rendering changes with the date",
    "content_dropped": "a user's or assistant's text is not in the rendering",
    "content_changed": "a text is rendered differently inside",
    "content_trimmed": "whitespace around a text is left out",
    "content_repeated": "a text is rendered more than once",
    "messages_reordered": "messages are rendered in another order",
    "thinking_dropped": "thinking is not in the rendering",
    "tools_dropped": "the tools are not in the rendering",
    "tool_calls_dropped": "a tool call is not in the rendering",
    "tool_results_dropped": "a tool's result is not in the rendering",
    "argument_unused": "a template argument that the template does not read",
    "serving_differs": "transformers renders or tokenizes the prompt differently",
    "unproven": "the mask can't be proven, for another reason",
    "bad_row": "a row does not fit its format",
    "unused": "nothing in the recipe is rendered by a chat template",
}
"""Every rule, and what it finds."""

NOTES = frozenset(
    {
        "stop_appended",
        "stop_not_in_settings",
        "repeated_bos",
        "tokenizer_adds_bos",
        "no_bos",
        "default_system",
        "date_dependent",
        "content_trimmed",
        "unused",
    }
)
"""What is good to know and may be meant; everything else is a problem."""

_MERGED_ANSWER = "write `data.turns: each`, which trains each answer exactly as it is served"
_OWN_TEMPLATE = "write a `tokenizer.chat_template` "
_ROLE = re.compile(r"assistant|model\b|chatbot|response", re.IGNORECASE)


def conversation_faults(case: Case) -> Iterator[Fault]:
    """What is wrong with how answers follow prompts, and turns each other.

    Raises:
        RowError: the template refuses the conversation.
    """
    for index in case.answers:
        yield from _prompt_faults(case, index)
        # What is not there at all has no end.
        if case.is_said(index):
            yield from _later_faults(case, index)
            yield from _stop_faults(case, index)


# ---- where answers begin


def _prompt_faults(case: Case, index: int) -> Iterator[Fault]:
    prompt, bare, own = case.prompt(index), case.until(index), case.until(index + 1)
    if not own.startswith(prompt):
        yield _differs(case, index)
        return
    lead = own[len(prompt) : case.first(index)]
    message = case.conversation.messages[index]
    short = prompt == bare and lead.strip() and not message.reasoning
    if not message.tool_calls and (short or _ROLE.search(lead)):
        yield Fault(
            rule="no_generation_prompt",
            what=f"the prompt before {case.called(index)} ends with {prompt[-20:]!r}; "
            f"{lead[:40]!r} is trained as if the model had to say it",
            hint="let the template write it where `add_generation_prompt` is true",
            trained=(own, len(prompt)),
            served=(prompt, len(prompt)),
        )
    last = index + 1 == len(case.messages)
    full = Rendered.of(case.full, case.vocabulary)
    if not last and case.full.startswith(prompt) and not full.agreement(prompt).whole:
        yield Fault(
            rule="tokens_merge",
            what=f"tokens merge across the start of {case.called(index)}, behind {prompt[-10:]!r}",
            hint=_MERGED_ANSWER,
            trained=(case.full, len(prompt)),
            served=(prompt, len(prompt)),
        )


def _differs(case: Case, index: int) -> Fault:
    prompt, bare, own = case.prompt(index), case.until(index), case.until(index + 1)
    same = common_length(own, prompt)
    if same < common_length(bare, prompt):
        return Fault(
            rule="earlier_turn_changes",
            what=f"the turns before {case.called(index)} change once it follows: "
            f"{prompt[same:][:40]!r} becomes {own[same:][:40]!r}",
            hint=_MERGED_ANSWER,
            trained=(own, same),
            served=(prompt, same),
        )
    return Fault(
        rule="generation_prompt",
        what=f"{case.called(index)} is served after {prompt[same:][:40]!r}, in training "
        f"{own[same:][:40]!r} stands there",
        hint="let `add_generation_prompt` write exactly what stands before an answer, "
        "or write `tokenizer.template_arguments` that make both equal",
        trained=(own, same),
        served=(prompt, same),
    )


# ---- what later turns do to earlier ones


def _later_faults(case: Case, index: int) -> Iterator[Fault]:
    own, full, end = case.until(index + 1), case.full, case.end(index)
    same = common_length(own, full)
    if same == len(own):
        return
    trained, served = (full, same), (own, same)
    change = f"{own[same:][:40]!r} becomes {full[same:][:40]!r}"
    if same < end:
        thinking = case.conversation.messages[index].reasoning.strip()
        stripped = thinking and thinking in own and thinking not in full
        yield Fault(
            rule="thinking_stripped" if stripped else "earlier_turn_changes",
            what=f"{case.called(index)} changes when later turns follow: {change}",
            hint=_MERGED_ANSWER,
            trained=trained,
            served=served,
        )
        return
    stop = _closing_end(case, index)
    if same < stop:
        yield Fault(
            rule="stop_missing",
            what=f"{case.called(index)} loses its end when later turns follow: {change}",
            hint=_OWN_TEMPLATE + "that ends every answer with a stop token",
            trained=trained,
            served=served,
        )


def _closing_end(case: Case, index: int) -> int:
    """Character at which the token that ends an answer ends; where its text ends without one."""
    own, end = case.until(index + 1), case.end(index)
    tail = case.vocabulary.encode(own[end:])
    wanted = case.stops.ids or case.stops.closing
    for token, (_, last) in zip(tail.ids, tail.offsets, strict=True):
        if token in wanted:
            return end + last
    return end


# ---- where answers end


def _stop_faults(case: Case, index: int) -> Iterator[Fault]:
    own, end = case.until(index + 1), case.end(index)
    head = case.vocabulary.encode(own[len(case.prompt(index)) : end])
    tail = case.vocabulary.encode(own[end:])
    early = next((token for token in head.ids if token in case.stops.ids), None)
    places = [place for place, token in enumerate(tail.ids) if token in case.stops.ids]
    rest = own[end + tail.offsets[places[0]][1] :] if places else ""
    if early is not None or _visible(case, rest):
        stop = early if early is not None else tail.ids[places[0]]
        yield Fault(
            rule="text_after_stop",
            what=f"{case.called(index)} goes on after {case.vocabulary.text_of(stop)!r}, at which "
            f"a server stops: {own[end - 10 :][:40]!r}",
            hint="take it out of `tokenizer.stop_tokens`, or write another template",
            trained=(own, end),
        )
    elif not places:
        yield from _open_end(case, index, own, end, tail.ids)


def _open_end(case: Case, index: int, own: str, end: int, tail: list[int]) -> Iterator[Fault]:
    closing = next((token for token in reversed(tail) if token in case.stops.closing), None)
    if closing is not None:
        name = case.vocabulary.text_of(closing)
        yield Fault(
            rule="stop_not_in_settings",
            what=f"answers end with {name!r}, at which the model's generation settings don't "
            "stop; the trained model's will",
            hint=f'write `tokenizer.stop_tokens: ["{name}"]`, and let other servers stop there too',
            trained=(own, end),
        )
        return
    after = case.stops.after(case.conversation.messages[index])
    following = case.vocabulary.encode(case.full[len(own) :]).ids[:1]
    if after is None or (following and following[0] not in case.stops.ids):
        yield Fault(
            rule="stop_missing",
            what=f"{case.called(index)} ends without a token that stops generation: its "
            f"rendering ends with {own[-20:]!r}",
            hint=_OWN_TEMPLATE + "that ends every answer with a stop token",
            trained=(own, end),
        )
    elif after == case.stops.written:
        yield Fault(
            rule="stop_appended",
            what=f"the template leaves {case.called(index)} open; "
            f"{case.vocabulary.text_of(after)!r} is appended to train where to stop",
            hint="let the template write it after every answer",
            trained=(own, end),
        )


def _visible(case: Case, text: str) -> bool:
    """Whether there is more than whitespace and special tokens."""
    return bool(case.vocabulary.special_text(case.vocabulary.special).sub("", text).strip())


# ---- what is left out


def dropped_faults(case: Case) -> Iterator[Fault]:
    """What a probe's conversation says and its rendering does not, or twice, or elsewhere."""
    full = case.full
    position = 0
    for index, message in enumerate(case.conversation.messages):
        if message.content and message.content == message.content.strip():
            yield from _content_faults(case, index, message, position)
            if message.role != "system":
                position = max(position, full.find(message.content))
        if message.role == "assistant":
            yield from _answer_faults(case, index, message)
    if case.conversation.tools and not (TOOL in full and PARAMETER in full):
        yield _dropped(case, "tools_dropped", "the tools", TOOL)


def _content_faults(case: Case, index: int, message: Message, position: int) -> Iterator[Fault]:
    count = case.full.count(message.content)
    if not count:
        yield _dropped(case, rule_of(message), case.called(index), message.content)
    elif count > 1:
        yield Fault(
            rule="content_repeated",
            what=f"the text of {case.called(index)} is rendered {count} times",
            hint=_OWN_TEMPLATE + "that writes it once",
            trained=(case.full, case.full.rfind(message.content)),
        )
    elif message.role != "system" and case.full.find(message.content) < position:
        yield Fault(
            rule="messages_reordered",
            what=f"{case.called(index)} is rendered before the message that it follows",
            hint=_OWN_TEMPLATE + "that keeps the order of messages",
            trained=(case.full, case.full.find(message.content)),
        )


def _answer_faults(case: Case, index: int, message: Message) -> Iterator[Fault]:
    own = case.until(index + 1)
    if message.reasoning and message.reasoning not in own:
        yield _dropped(
            case, "thinking_dropped", f"the thinking of {case.called(index)}", message.reasoning
        )
    said_now = own[case.first(index) :] if message.tool_calls else ""
    for call in message.tool_calls:
        if not all(find_text(text, said_now, 0) for text in said(message)):
            called = f"the call of {call.name!r} in {case.called(index)}"
            yield _dropped(case, "tool_calls_dropped", called, call.name)


def _dropped(case: Case, rule: str, called: str, text: str) -> Fault:
    return Fault(
        rule=rule,
        what=f"the template drops {called}: {text[:40]!r} is not in the rendering",
        hint=_OWN_TEMPLATE + "that has a place for it, or refuses it with `raise_exception`",
        trained=(case.full, len(case.full)),
    )


def rule_of(message: Message) -> str:
    """The rule that a message breaks when its text is missing."""
    if message.role in {"system", "tool"}:
        return {"system": "system_dropped", "tool": "tool_results_dropped"}[message.role]
    return "content_dropped"


def dropped_row_faults(case: Case) -> Iterator[Fault]:
    """What a row's conversation says and its rendering does not."""
    for index in dropped_messages(case.conversation, case.template):
        message = case.conversation.messages[index]
        yield _dropped(case, rule_of(message), case.called(index), message.content.strip())
    for index in case.answers:
        message, own = case.conversation.messages[index], case.until(index + 1)
        begin = len(case.prompt(index)) if own.startswith(case.prompt(index)) else 0
        if find_text(message.reasoning, own, begin) is None:
            thinking = message.reasoning.strip()
            called = f"the thinking of {case.called(index)}"
            yield _dropped(case, "thinking_dropped", called, thinking)
        for call in message.tool_calls:
            if find_text(call.name, own, begin) is None:
                called = f"the call of {call.name!r} in {case.called(index)}"
                yield _dropped(case, "tool_calls_dropped", called, call.name)
    for tool in case.tools:
        function = tool.get("function", tool)
        name = function.get("name") if isinstance(function, dict) else None
        if isinstance(name, str) and name not in case.full:
            yield _dropped(case, "tools_dropped", f"the tool {name!r}", name)


# ---- what contents become


def content_faults(case: Case) -> Iterator[Fault]:
    """Texts that are rendered without their whitespace, or differently."""
    for index, message in enumerate(case.conversation.messages):
        text, bare = message.content, message.content.strip()
        if not bare or text in case.full or "think>" in text:
            continue
        place = case.full.find(bare)
        if place >= 0:
            yield Fault(
                rule="content_trimmed",
                what=f"whitespace around the text of {case.called(index)} is left out: "
                f"it is written {_ends(text)}",
                hint="trim the data if that is meant, or write another template",
                trained=(case.full, place),
            )
        elif find_text(bare, case.full, 0) is None and bare.split()[0] in case.full:
            same = max(range(len(bare) + 1), key=lambda n: n if bare[:n] in case.full else -1)
            place = case.full.find(bare[:same]) + same
            yield Fault(
                rule="content_changed",
                what=f"the text of {case.called(index)} is rendered differently: "
                f"{bare[same:][:20]!r} becomes {case.full[place:][:20]!r}",
                hint=_OWN_TEMPLATE + "that writes contents as they are",
                trained=(case.full, place),
            )


def _ends(text: str) -> str:
    return repr(text) if len(text) <= 40 else f"{text[:15]!r}...{text[-15:]!r}"


# ---- masks


def mask_faults(case: Case, *, probe: bool) -> Iterator[Fault]:
    """What the encoder refuses; for a probe also what it should not have trained."""
    try:
        documents = case.chat.conversation(case.conversation)
    except RowError as error:
        last = case.answers[-1] if case.answers else len(case.messages)
        place = len(case.prompt(last)) if case.answers else 0
        yield Fault(
            rule="unproven",
            what=error.what,
            hint=error.hint,
            trained=(case.full, min(place, len(case.full))),
        )
        return
    if not probe or case.chat.train_on != {"assistant"}:
        return
    ends = case.stops.ids | case.stops.closing | {case.stops.written}
    for document in documents:
        edges = zip(document.trained, (*document.trained[1:], False), strict=True)
        for place, (trained, following) in enumerate(edges):
            if trained and not following and document.tokens[place] not in ends:
                yield _wrong_end(case, document.tokens[place])
        spoken = [
            t for t, trained in zip(document.tokens, document.trained, strict=True) if trained
        ]
        yield from _leaks(case, case.vocabulary.decode(spoken), case.conversation)


def _wrong_end(case: Case, token: int) -> Fault:
    return Fault(
        rule="stop_not_trained",
        what=f"the trained part of an answer ends with {case.vocabulary.text_of(token)!r}, at "
        "which no server stops",
        hint=_OWN_TEMPLATE + "that ends every answer with a stop token",
        trained=(case.full, len(case.full)),
    )


def _leaks(case: Case, spoken: str, conversation: Conversation) -> Iterator[Fault]:
    for index, message in enumerate(conversation.messages):
        if message.role != "assistant" and message.content.strip() in spoken:
            yield Fault(
                rule="prompt_trained",
                what=f"the text of {case.called(index)} is trained",
                hint=_OWN_TEMPLATE + "that writes it before the prompt's end",
                trained=(case.full, max(case.full.find(message.content.strip()), 0)),
            )
