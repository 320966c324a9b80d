"""The conversations that a template is asked about, whatever the data holds."""

from __future__ import annotations

from dataclasses import dataclass

from framework.core.samples import Conversation, Message, ToolCall

QUESTION, ANSWER = "qzxfirstxzq", "qzxreplyxzq"
SECOND_QUESTION, SECOND_ANSWER = "qzxsecondxzq", "qzxagainxzq"
SYSTEM, LATER_SYSTEM = "qzxsystemxzq", "qzxlaterxzq"
THOUGHT, SECOND_THOUGHT = "qzxthoughtxzq", "qzxmusingxzq"
TOOL, PARAMETER, VALUE, RESULT = "qzxtoolxzq", "qzxparameterxzq", "qzxvaluexzq", "qzxresultxzq"
IDENTIFIER = "call00001"
"""Nine letters and digits, as Mistral demands."""
SPACED = f"  {QUESTION}  two\n\n\tthree <b> & 'four' \"five\" ü\n "
SPACED_ANSWER = f"\n {ANSWER}  two\n\n\tthree <b> & 'four' \"five\" ü \n"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A conversation made of texts that no template contains."""

    name: str
    conversation: Conversation
    parts: frozenset[str] = frozenset()
    """What a template or the data may lack: `turns`, `system`, `later_system`, `thinking`,
    `tools`."""
    refusable: bool = False
    """Whether a template may refuse it aloud."""


def parts_of(conversation: Conversation) -> frozenset[str]:
    """Which of the parts that probes have a conversation has too."""
    messages = conversation.messages
    answers = [message for message in messages if message.role == "assistant"]
    systems = [index for index, message in enumerate(messages) if message.role == "system"]
    has = {
        "turns": len(answers) > 1,
        "system": 0 in systems,
        "later_system": any(systems),
        "thinking": any(one.reasoning or "<think>" in one.content for one in answers),
        "tools": bool(conversation.tools) or any(one.tool_calls for one in answers),
    }
    return frozenset(part for part, present in has.items() if present)


def _user(content: str) -> Message:
    return Message(role="user", content=content)


def _assistant(content: str, reasoning: str = "", *calls: ToolCall) -> Message:
    return Message(role="assistant", content=content, reasoning=reasoning, tool_calls=calls)


_TOOLS = (
    {
        "type": "function",
        "function": {
            "name": TOOL,
            "description": "Tells the weather.",
            "parameters": {
                "type": "object",
                "properties": {PARAMETER: {"type": "string", "description": "Where."}},
                "required": [PARAMETER],
            },
        },
    },
)
_SYSTEM = Message(role="system", content=SYSTEM)
_CALL = _assistant("", "", ToolCall(name=TOOL, arguments={PARAMETER: VALUE}, identifier=IDENTIFIER))
_RESULT = Message(role="tool", content=RESULT, tool_call_id=IDENTIFIER, name=TOOL)
_FIRST = (_user(QUESTION), _assistant(ANSWER))
_NEXT = (_user(SECOND_QUESTION), _assistant(SECOND_ANSWER))
_THOUGHT = (_user(QUESTION), _assistant(ANSWER, THOUGHT))


def _probe(name: str, *messages: Message, tools: bool = False, refusable: bool = True) -> Probe:
    conversation = Conversation(messages=messages, tools=_TOOLS if tools else ())
    return Probe(
        name=name,
        conversation=conversation,
        parts=parts_of(conversation),
        refusable=refusable,
    )


PROBES = (
    _probe("one turn", *_FIRST, refusable=False),
    _probe("two turns", *_FIRST, *_NEXT, refusable=False),
    _probe("system message", _SYSTEM, *_FIRST),
    _probe("system message, two turns", _SYSTEM, *_FIRST, *_NEXT),
    _probe(
        "system message between turns",
        *_FIRST,
        Message(role="system", content=LATER_SYSTEM),
        *_NEXT,
    ),
    _probe("thinking", *_THOUGHT),
    _probe(
        "thinking, two turns",
        *_THOUGHT,
        _user(SECOND_QUESTION),
        _assistant(SECOND_ANSWER, SECOND_THOUGHT),
    ),
    _probe("tools", *_FIRST, tools=True),
    _probe("tool call", _user(QUESTION), _CALL, _RESULT, _assistant(ANSWER), tools=True),
    _probe("tool call at the end", _user(QUESTION), _CALL, tools=True),
    _probe(
        "system message, tool call, two turns",
        _SYSTEM,
        _user(QUESTION),
        _CALL,
        _RESULT,
        _assistant(ANSWER),
        *_NEXT,
        tools=True,
    ),
    _probe("spaces and signs", _user(SPACED), _assistant(SPACED_ANSWER)),
)
