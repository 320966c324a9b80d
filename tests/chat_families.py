"""Tokenizers and template files of real model families, built without any download."""

# ruff: noqa: RUF001 - DeepSeek writes its special tokens with a fullwidth bar

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from framework.chat.encoder import ChatEncoder, chat_encoder
from framework.core.samples import Conversation, Message, ToolCall
from framework.recipe.schema import Data
from framework.recipe.schema import Tokenizer as TokenizerSettings

CORPUS = """What is the capital of France? The capital of France is Paris.

Below is an instruction. Write a response, assistant; the user asked the system for a tool.
\n\n\n{"name": "weather", "arguments": {"city": "Paris"}}\n\n<think>\n\n</think>\n\n"""

CHATML = ("<|im_start|>", "<|im_end|>")
LLAMA3 = (
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
)
GEMMA = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>")
PHI = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
COHERE = (
    "<BOS_TOKEN>",
    "<|START_OF_TURN_TOKEN|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|USER_TOKEN|>",
    "<|CHATBOT_TOKEN|>",
    "<|SYSTEM_TOKEN|>",
    "<|START_RESPONSE|>",
    "<|END_RESPONSE|>",
)
DEEPSEEK = (
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁outputs▁begin｜>",
    "<｜tool▁outputs▁end｜>",
    "<｜tool▁output▁begin｜>",
    "<｜tool▁output▁end｜>",
)
GLM = ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
HARMONY = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>")
MISTRAL = ("<s>", "</s>", "[INST]", "[/INST]")

MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'user' %}{{ '[INST] ' + message.content + ' [/INST]' }}"
    "{% elif message.role == 'assistant' %}{{ ' ' + message.content + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}"
    "{% endfor %}"
)


def template_folder() -> Path:
    """The folder of TRL's template files."""
    spec = importlib.util.find_spec("trl")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "chat_templates"


def template_text(name: str) -> str:
    """One of TRL's template files."""
    return (template_folder() / f"{name}.jinja").read_text(encoding="utf-8")


LINE_BREAKS_TOGETHER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How the tokenizers of Llama 3, Qwen and later cut text: a run of line breaks stays whole."""


@functools.cache
def _byte_level(together: bool) -> str:
    tokenizer = Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(Regex(LINE_BREAKS_TOGETHER), behavior="isolated")
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Sequence(
            [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        if together
        else pre_tokenizers.ByteLevel(add_prefix_space=False)
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([CORPUS] * 4, trainer)
    return tokenizer.to_str()


def byte_level_tokenizer(
    special: tuple[str, ...],
    eos: str = "<|endoftext|>",
    bos: str | None = None,
    *,
    together: bool = True,
) -> PreTrainedTokenizerFast:
    """A small tokenizer; cuts text as Llama 3 does, or as GPT-2 without `together`."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_byte_level(together)),
        eos_token=eos,
        bos_token=bos,
        extra_special_tokens=list(special),
    )


@dataclass(frozen=True, kw_only=True)
class Family:
    """What a model's files say about its tokens."""

    special: tuple[str, ...]
    eos: str
    bos: str | None = None
    generation_stops: tuple[str, ...] = ()
    """Further tokens in generation_config's `eos_token_id`."""

    def encoder(self, template: str, **choices: object) -> ChatEncoder:
        """An encoder for the family's tokenizer and a template's text."""
        return encoder(
            byte_level_tokenizer(self.special, self.eos, self.bos),
            template,
            generation_stops=self.generation_stops,
            **choices,
        )


FAMILIES = {
    "chatml": Family(special=CHATML, eos="<|im_end|>"),
    "llama3": Family(special=LLAMA3, eos="<|eot_id|>", bos="<|begin_of_text|>"),
    "gemma": Family(special=GEMMA, eos="<eos>", bos="<bos>", generation_stops=("<end_of_turn>",)),
    "phi3": Family(special=PHI, eos="<|endoftext|>", generation_stops=("<|end|>",)),
    "cohere": Family(special=COHERE, eos="<|END_OF_TURN_TOKEN|>", bos="<BOS_TOKEN>"),
    "deepseek": Family(special=DEEPSEEK, eos=DEEPSEEK[1], bos=DEEPSEEK[0]),
    "glm": Family(
        special=GLM, eos="<|endoftext|>", generation_stops=("<|user|>", "<|observation|>")
    ),
    "gptoss": Family(special=HARMONY, eos="<|return|>", generation_stops=("<|call|>",)),
    "mistral": Family(special=MISTRAL, eos="</s>", bos="<s>"),
}

MISTRAL_V7 = (
    "[INST]",
    "[/INST]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_CALLS]",
    "[TOOL_RESULTS]",
    "[TOOL_CONTENT]",
    "[/TOOL_RESULTS]",
)
GRANITE = ("<|start_of_role|>", "<|end_of_role|>", "<|tool_call|>")
PLAIN = Family(special=(), eos="</s>", bos="<s>")
NAMED = {
    "alpaca": PLAIN,
    "chatml": FAMILIES["chatml"],
    "command_r": FAMILIES["cohere"],
    "deepseek": FAMILIES["deepseek"],
    "falcon3": Family(special=(), eos="<|endoftext|>"),
    "gemma": FAMILIES["gemma"],
    "gemma3": FAMILIES["gemma"],
    "glm4": FAMILIES["glm"],
    "granite": Family(special=GRANITE, eos="<|end_of_text|>"),
    "llama2": PLAIN,
    "llama3": FAMILIES["llama3"],
    "llama3.1": FAMILIES["llama3"],
    "mistral": Family(special=MISTRAL_V7, eos="</s>", bos="<s>"),
    "olmo2": Family(special=(), eos="<|endoftext|>", bos="<|endoftext|>"),
    "openchat": Family(special=(), eos="<|end_of_turn|>", bos="<s>"),
    "phi3": FAMILIES["phi3"],
    "phi4": Family(special=("<|im_start|>", "<|im_sep|>"), eos="<|im_end|>"),
    "qwen2.5": FAMILIES["chatml"],
    "qwen3": FAMILIES["chatml"],
    "tulu3": PLAIN,
    "vicuna": PLAIN,
    "zephyr": PLAIN,
}
"""The tokens of the family that each of our own templates is for."""


def encoder(
    tokenizer: PreTrainedTokenizerFast,
    template: str | None,
    *,
    generation_stops: tuple[str, ...] = (),
    stop_tokens: tuple[str, ...] = (),
    template_arguments: dict[str, object] | None = None,
    train_on: tuple[str, ...] = ("assistant",),
    turns: str = "all",
    reasoning: str = "keep",
) -> ChatEncoder:
    """An encoder as a recipe would make it."""
    settings = TokenizerSettings(
        chat_template=template,
        stop_tokens=stop_tokens,
        template_arguments=template_arguments or {},
    )
    data = Data(train=(), train_on=train_on, turns=turns, reasoning=reasoning)
    stops = [tokenizer.convert_tokens_to_ids(token) for token in generation_stops]
    return chat_encoder(tokenizer, settings, data, stops)


def _user(text: str) -> Message:
    return Message(role="user", content=text)


def _assistant(text: str, **more: object) -> Message:
    return Message(role="assistant", content=text, **more)


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Where."}},
            "required": ["city"],
        },
    },
}
CALL = ToolCall(name="weather", arguments={"city": "Paris"}, identifier="call00001")

SCENARIOS = {
    "single": Conversation(messages=(_user("Capital of France?"), _assistant("Paris."))),
    "multi": Conversation(
        messages=(
            _user("Capital of France?"),
            _assistant("Paris."),
            _user("Of Italy?"),
            _assistant("Rome."),
        )
    ),
    "system": Conversation(
        messages=(
            Message(role="system", content="Be brief."),
            _user("Capital of France?"),
            _assistant("Paris."),
        )
    ),
    "tools": Conversation(
        messages=(
            _user("Weather?"),
            _assistant("", tool_calls=(CALL,)),
            Message(role="tool", content="sunny", tool_call_id="call00001", name="weather"),
            _assistant("It is sunny."),
        ),
        tools=(WEATHER,),
    ),
    "thinking": Conversation(
        messages=(_user("Capital of France?"), _assistant("Paris.", reasoning="I know it.")),
    ),
    "thinking_multi": Conversation(
        messages=(
            _user("Capital of France?"),
            _assistant("Paris.", reasoning="I know it."),
            _user("Of Italy?"),
            _assistant("Rome.", reasoning="That too."),
        ),
    ),
}


def trained_spans(chat: ChatEncoder, conversation: Conversation) -> list[list[str]]:
    """The text of every trained stretch, for every document of the conversation."""
    documents = []
    for document in chat.conversation(conversation):
        spans: list[list[int]] = []
        before = False
        for token, trained in zip(document.tokens, document.trained, strict=True):
            if trained and not before:
                spans.append([])
            if trained:
                spans[-1].append(token)
            before = trained
        documents.append([chat.vocabulary.decode(span) for span in spans])
    return documents
