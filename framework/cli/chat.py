"""`framework chat`: talk to a trained model, or to the one it started from."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from framework.arguments import AllowedEnvironment

if TYPE_CHECKING:
    from torch import dtype as torch_dtype

    from framework.runs.switched import SwitchedModel
    from framework.runs.trained import FinishedRun

SWITCH = "/adapter"


def run(
    run_dir: Annotated[
        Path | None,
        typer.Argument(help="The `output.dir` of a run; may be left out with --adapter."),
    ] = None,
    adapter: Annotated[
        list[Path] | None,
        typer.Option(
            help="A run's LoRA adapter, or its folder, over the same base; may be repeated. "
            "`/adapter NAME` switches, `/adapter none` leaves the base, and begins anew."
        ),
    ] = None,
    base: Annotated[bool, typer.Option(help="Talk to the model before training.")] = False,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="0: always the likeliest.")] = 0.0,
    allow_env: AllowedEnvironment = None,
) -> None:
    """Talk to a model in the terminal; an empty line or Ctrl-D ends."""
    import torch

    from framework.chat.answer_text import answer_text
    from framework.chat.encoder import chat_encoder
    from framework.core.samples import Conversation, Message
    from framework.models.tokenizer import padding_id

    finished = _opened(run_dir, adapter or [], allow_env or [])
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    # What fitted a GPU in the training's dtype may not fit it in float32.
    dtype = torch.float32 if device == "cpu" else finished.computed_in
    talking = _Talking(finished, adapter or [], dtype, device, with_base=base)
    recipe = finished.recipe
    chat = chat_encoder(finished.tokenizer, recipe.tokenizer, recipe.data)
    settings: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        settings = {"do_sample": True, "temperature": temperature}
    beginning = [] if system is None else [Message(role="system", content=system)]
    messages = [*beginning]
    while said := _ask():
        if said.split()[0] == SWITCH:
            print(talking.switch(said.removeprefix(SWITCH).strip()), flush=True)
            messages = [*beginning]
            continue
        messages.append(Message(role="user", content=said))
        open_answer = Message(role="assistant", content="")
        prompt = chat.prompt(Conversation(messages=(*messages, open_answer)))
        with torch.inference_mode(), talking.model() as model:
            output = model.generate(
                input_ids=torch.tensor([prompt], device=model.device),
                **settings,
                max_new_tokens=max_new_tokens,
                eos_token_id=finished.end_token_ids(),
                pad_token_id=padding_id(finished.tokenizer),
                streamer=_streamer(finished.tokenizer),
            )
        text = answer_text(finished.tokenizer, output[0, len(prompt) :].tolist())
        messages.append(Message(role="assistant", content=text))


class _Talking:
    """The model that answers, and what `/adapter` does to it."""

    def __init__(
        self,
        finished: FinishedRun,
        adapters: list[Path],
        dtype: torch_dtype,
        device: str,
        *,
        with_base: bool,
    ) -> None:
        from framework.runs.switched import NONE, adapter_folder, load_switched

        self._plain: Any = None
        self._switched: SwitchedModel | None = None
        if not adapters:
            load = finished.base_model if with_base else finished.trained_model
            self._plain = load(dtype, device)
            return
        # The run's own comes first; it may be one of those that are named.
        folders = dict.fromkeys([finished.final, *map(adapter_folder, adapters)])
        unique = {folder.resolve(): folder for folder in reversed(folders)}
        ordered = list(reversed(unique.values()))
        self._switched = load_switched(finished, ordered, dtype, device)
        if with_base:
            self._switched.switch(NONE)
        print(self._state())

    @contextmanager
    def model(self) -> Iterator[Any]:
        """As it was chosen."""
        if self._switched is None:
            yield self._plain
            return
        with self._switched.answering() as model:
            yield model

    def switch(self, name: str) -> str:
        """What to say of it; an empty name changes nothing."""
        from framework.core.problems import UserError

        if self._switched is None:
            return "there is one model here; start with --adapter to have several"
        try:
            if name:
                self._switched.switch(name)
        except UserError as error:
            return str(error)
        return self._state()

    def _state(self) -> str:
        assert self._switched is not None
        from framework.runs.switched import NONE

        names = ", ".join((*self._switched.names, NONE))
        return f"adapter: {self._switched.chosen} (of {names})"


def _opened(
    run_dir: Path | None, adapters: list[Path], allowed_environment: list[str]
) -> FinishedRun:
    from framework.core.heads import head_of
    from framework.core.problems import UserError
    from framework.runs.switched import adapter_folder
    from framework.runs.trained import FinishedRun

    if run_dir is None and not adapters:
        raise UserError("there is nothing to talk to", hint="give the `output.dir` of a run")
    path = run_dir or adapter_folder(adapters[0]).parent
    finished = FinishedRun.open(path, allowed_environment)
    if head_of(finished.recipe) is not None:
        raise UserError(
            f"the model of {str(finished.path)!r} gives numbers, and says nothing",
            hint="load its `final/` with transformers' "
            "AutoModelForSequenceClassification, or ...ForTokenClassification",
        )
    return finished


def _ask() -> str:
    if sys.stdin.isatty():
        print("> ", end="", flush=True)
    return sys.stdin.readline().strip()


def _streamer(tokenizer: Any) -> Any:
    from transformers import TextStreamer

    return TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
