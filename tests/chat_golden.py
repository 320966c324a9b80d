"""What is trained under the real templates of model families, or why it is refused."""

# ruff: noqa: RUF001 - DeepSeek writes its special tokens with a fullwidth bar

from __future__ import annotations

from chat_families import (
    FAMILIES,
    MISTRAL_TEMPLATE,
    SCENARIOS,
    template_text,
)

NO_TOOLS = "the template drops the tool 'weather'"
NO_TOOL_TURN = "the template drops the tool message (message 3)"
NO_CALL = "the template drops the call of tool 'weather' in message 2"
NO_THINKING = "the template strips the thinking of message 2"
TWO_ROLES = "Only user and assistant roles are supported!"
ALTERNATE = "Conversation roles must alternate"
CHANGES = "message 2 (assistant) changes when later turns are added"
MERGE = "tokens merge across the start of message 2"
THINK_PROMPT = "preceded by '<think>\\n', in training by ''"
NOT_STRING = "TypeError: can only concatenate str"

LATE = {NO_TOOL_TURN, ALTERNATE, TWO_ROLES}

Outcome = tuple[str, ...] | str
"""The trained stretches, or a part of the refusal."""


def plain(stop: str, **others: Outcome) -> dict[str, Outcome]:
    """A family that says just the answers, ended by `stop`, and knows no tools or thinking."""
    paris, rome = f"Paris.{stop}", f"Rome.{stop}"
    return {
        "single": (paris,),
        "multi": (paris, rome),
        "system": (paris,),
        "tools": NO_TOOLS,
        "thinking": NO_THINKING,
        "thinking_multi": NO_THINKING,
        **others,
    }


def thought(before: str, after: str, stop: str, call: str, empty: str) -> dict[str, Outcome]:
    """A family that keeps the thinking of every turn; `empty` is said where there is none."""
    return {
        "single": (f"{empty}Paris.{stop}",),
        "multi": (f"{empty}Paris.{stop}", f"{empty}Rome.{stop}"),
        "system": (f"{empty}Paris.{stop}",),
        "tools": (f"{empty}{call}", f"{empty}It is sunny.{stop}"),
        "thinking": (f"{before}I know it.{after}Paris.{stop}",),
        "thinking_multi": (
            f"{before}I know it.{after}Paris.{stop}",
            f"{before}That too.{after}Rome.{stop}",
        ),
    }


HERMES = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call><|im_end|>'
XML = (
    "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n"
    "</tool_call><|im_end|>"
)
LFM_CALL = "<|tool_call_start|>[weather(city='Paris')]<|tool_call_end|><|im_end|>"
LLAMA_CALL = '{"name": "weather", "parameters": {"city": "Paris"}}<|eot_id|>'
GLM_CALL = (
    "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n</tool_call>"
    "<|observation|>"
)
HARMONY_CALL = ' to=functions.weather<|channel|>commentary json<|message|>{"city": "Paris"}<|call|>'

CHATML_TOOLS = plain("<|im_end|>", tools=(HERMES, "It is sunny.<|im_end|>"))
GEMMA = plain("<end_of_turn>", system="System role not supported", tools=ALTERNATE)
GEMMA3 = plain("<end_of_turn>", tools=ALTERNATE)
PHI3 = plain("<|end|>", tools=NO_TOOL_TURN)
COHERE = plain("<|END_OF_TURN_TOKEN|>", tools=ALTERNATE)
COHERE2 = plain("<|END_RESPONSE|><|END_OF_TURN_TOKEN|>", tools=ALTERNATE)
LLAMA3_1 = plain("<|eot_id|>", tools=(LLAMA_CALL, "It is sunny.<|eot_id|>"))
QWEN3 = thought(
    "<think>\n", "\n</think>\n\n", "<|im_end|>", HERMES, empty="<think>\n\n</think>\n\n"
)
QWEN3_5 = thought("", "\n</think>\n\n", "<|im_end|>", XML, empty="\n</think>\n\n")
LFM2_5 = thought("<think>", "</think>", "<|im_end|>", LFM_CALL, empty="")
GLM = thought("\n<think>", "</think>\n", "<|user|>", GLM_CALL, empty="\n<think></think>\n")
HARMONY = thought(
    "<|channel|>analysis<|message|>",
    "<|end|><|start|>assistant<|channel|>final<|message|>",
    "<|return|>",
    "",
    empty="",
) | {
    "single": ("<|channel|>final<|message|>Paris.<|return|>",),
    "multi": (
        "<|channel|>final<|message|>Paris.<|return|>",
        "<|channel|>final<|message|>Rome.<|return|>",
    ),
    "system": ("<|channel|>final<|message|>Paris.<|return|>",),
    "tools": (HARMONY_CALL, "<|channel|>final<|message|>It is sunny.<|return|>"),
}
DEEPSEEK: dict[str, Outcome] = dict.fromkeys(SCENARIOS, THINK_PROMPT)

GOLDEN: dict[str, tuple[str, dict[str, Outcome]]] = {
    "qwen2_5": ("chatml", CHATML_TOOLS),
    "qwen2_5_training": ("chatml", CHATML_TOOLS),
    "qwen3_instruct_2507": ("chatml", CHATML_TOOLS),
    "qwen3_instruct_2507_training": ("chatml", CHATML_TOOLS),
    "qwen3": ("chatml", QWEN3),
    "qwen3_training": ("chatml", QWEN3),
    "qwen3_5_think": ("chatml", QWEN3_5),
    "qwen3_8": ("chatml", QWEN3_5),
    "qwen3_8_training": ("chatml", QWEN3_5),
    "lfm2": ("chatml", plain("<|im_end|>", tools=NO_CALL)),
    "lfm2_v2": ("chatml", plain("<|im_end|>", tools=(LFM_CALL, "It is sunny.<|im_end|>"))),
    "lfm2_2_5_v2": ("chatml", LFM2_5),
    "llama3": ("llama3", plain("<|eot_id|>")),
    "llama3_training": ("llama3", plain("<|eot_id|>")),
    "llama3_1": ("llama3", LLAMA3_1),
    "llama3_2": ("llama3", LLAMA3_1),
    "gemma": ("gemma", GEMMA),
    "gemma_training": ("gemma", GEMMA),
    "gemma3": ("gemma", GEMMA3),
    "gemma3_training": ("gemma", GEMMA3),
    "phi3": ("phi3", PHI3),
    "phi3_training": ("phi3", PHI3),
    "phi3_5": ("phi3", PHI3),
    "phi3_5_training": ("phi3", PHI3),
    "cohere": ("cohere", COHERE),
    "cohere_training": ("cohere", COHERE),
    "cohere2": ("cohere", COHERE2),
    "cohere2_training": ("cohere", COHERE2),
    "deepseekv3": ("deepseek", DEEPSEEK | {"tools": NOT_STRING}),
    "deepseekv3_training": (
        "deepseek",
        DEEPSEEK | {"tools": "preceded by '<think>\\n', in training by '<｜tool▁calls▁begin｜>"},
    ),
    "deepseek_r1_distill": ("deepseek", DEEPSEEK | {"tools": NO_TOOLS}),
    "deepseek_r1_distill_training": ("deepseek", DEEPSEEK | {"tools": NO_TOOLS}),
    "glm4moe": ("glm", GLM),
    "glm4moe_training": ("glm", GLM),
    "gptoss": ("gptoss", HARMONY),
    "gptoss_training": ("gptoss", HARMONY),
    "mistral": ("mistral", plain("</s>", system=TWO_ROLES, tools=TWO_ROLES)),
}

ONLY_EACH = {
    ("qwen3", "multi"): CHANGES,
    ("qwen3", "tools"): CHANGES,
    ("qwen3", "thinking_multi"): CHANGES,
    (
        "qwen3_5_think",
        "multi",
    ): "preceded by 'assistant\\n<think>\\n', in training by 'assistant\\n'",
    ("qwen3_5_think", "thinking_multi"): "preceded by 'assistant\\n<think>\\n', in training by",
    ("qwen3_5_think", "tools"): MERGE,
    ("qwen3_8", "multi"): MERGE,
    ("qwen3_8", "tools"): MERGE,
    ("qwen3_8_training", "multi"): MERGE,
    ("qwen3_8_training", "tools"): MERGE,
    ("lfm2_2_5_v2", "thinking_multi"): CHANGES,
    ("glm4moe", "thinking_multi"): CHANGES,
    ("glm4moe_training", "thinking_multi"): CHANGES,
    ("gptoss", "multi"): CHANGES,
    ("gptoss", "thinking_multi"): CHANGES,
    ("gptoss_training", "multi"): CHANGES,
    ("gptoss_training", "thinking_multi"): CHANGES,
}
"""Templates that render earlier turns differently: refused as a whole, provable turn by turn."""

CASES = [(name, scenario) for name in GOLDEN for scenario in SCENARIOS]
TRAINED = [case for case in CASES if not isinstance(GOLDEN[case[0]][1][case[1]], str)]


def family_encoder(name: str, **choices: object):
    text = MISTRAL_TEMPLATE if name == "mistral" else template_text(name)
    return FAMILIES[GOLDEN[name][0]].encoder(text, **choices)


def expected_text(name: str, text: str) -> str:
    # Only Mistral begins its answers with a space.
    return f" {text}" if name == "mistral" else text
