"""`framework chat`: talk to a trained model, or to the one it started from."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from framework.arguments import RunPath


def run(
    run_dir: RunPath,
    base: Annotated[bool, typer.Option(help="Talk to the model before training.")] = False,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="0: always the likeliest.")] = 0.0,
) -> None:
    """Talk to a model in the terminal; an empty line or Ctrl-D ends."""
    import torch

    from framework.chat.encoder import chat_encoder
    from framework.core.samples import Conversation, Message
    from framework.models.tokenizer import padding_id
    from framework.models.trained import FinishedRun

    finished = FinishedRun.open(run_dir)
    model: Any = (finished.base_model if base else finished.trained_model)(torch.float32)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    recipe = finished.recipe
    chat = chat_encoder(finished.tokenizer, recipe.tokenizer, recipe.data)
    settings: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        settings = {"do_sample": True, "temperature": temperature}
    messages = [] if system is None else [Message(role="system", content=system)]
    while said := _ask():
        messages.append(Message(role="user", content=said))
        open_answer = Message(role="assistant", content="")
        prompt = chat.prompt(Conversation(messages=(*messages, open_answer)))
        with torch.inference_mode():
            output = model.generate(
                input_ids=torch.tensor([prompt], device=model.device),
                **settings,
                max_new_tokens=max_new_tokens,
                eos_token_id=finished.end_token_ids(),
                pad_token_id=padding_id(finished.tokenizer),
                streamer=_streamer(finished.tokenizer),
            )
        text = finished.tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True)
        messages.append(Message(role="assistant", content=str(text)))


def _ask() -> str:
    if sys.stdin.isatty():
        print("> ", end="", flush=True)
    return sys.stdin.readline().strip()


def _streamer(tokenizer: Any) -> Any:
    from transformers import TextStreamer

    return TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
