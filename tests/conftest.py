"""A tiny model and recipes around it, for every test that runs the real thing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import warm_start
from hypothesis import settings

# The same examples every time, however busy the machine: what a run finds, all find.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")

# Before anything imports a library that reads it.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

CHATML_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CITIES = {
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Norway": "Oslo",
    "Austria": "Vienna",
    "Greece": "Athens",
    "Portugal": "Lisbon",
    "Ireland": "Dublin",
}
NUM_TRAIN_ROWS = 16
NUM_EVAL_ROWS = 4


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests never see, or fill, the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def warm() -> Iterator[None]:
    """Whatever `warm_start.FRAMEWORK` starts begins at once."""
    with warm_start.server() as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv(warm_start.ADDRESS, address)
        yield


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `make_tiny_model`."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny_model"))


@pytest.fixture(scope="session")
def tiny_judge_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a head of one label, beside the tiny model's tokenizer."""
    import torch
    from transformers import AutoModelForSequenceClassification

    folder = tmp_path_factory.mktemp("judge")
    shutil.copytree(tiny_model_dir, folder, dirs_exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = AutoModelForSequenceClassification.from_pretrained(
            tiny_model_dir, num_labels=1, dtype=torch.float32
        )
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    return folder


def make_tiny_model(folder: Path) -> Path:
    """A random Llama with a byte-level tokenizer and ChatML, in Hugging Face layout."""
    import torch
    from transformers import (
        GenerationConfig,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
    )

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_byte_level_tokenizer(),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = CHATML_TEMPLATE
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    # What a published model has: the template inside tokenizer_config.json.
    settings = folder / "tokenizer_config.json"
    written = json.loads(settings.read_text(encoding="utf-8"))
    settings.write_text(json.dumps({**written, "chat_template": CHATML_TEMPLATE}), encoding="utf-8")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    return folder


@pytest.fixture
def write_recipe(tiny_model_dir: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes a recipe for the tiny model and returns its path.

    Keywords are recipe keys: a section (`trainer={"max_steps": 3}`) is merged into the default one,
    a dotted key (`**{"trainer.max_steps": 3}`) sets one value. Beside the recipe stand
    `train.jsonl` (16 conversations) and `eval.jsonl` (4); the run goes to `run`.
    """
    rows = [conversation(number) for number in range(NUM_TRAIN_ROWS + NUM_EVAL_ROWS)]
    write_rows(tmp_path / "train.jsonl", rows[:NUM_TRAIN_ROWS])
    write_rows(tmp_path / "eval.jsonl", rows[NUM_TRAIN_ROWS:])

    def write(name: str = "recipe.yaml", **overrides: Any) -> Path:
        import yaml

        values: dict[str, Any] = {
            "model": {"source": str(tiny_model_dir)},
            "data": {"train": [{"source": "./train.jsonl"}], "max_length": 128},
            "trainer": {"global_batch_size": 2, "max_steps": 3, "learning_rate": 1e-3},
            "output": {"dir": str(tmp_path / "run")},
        }
        for key, value in overrides.items():
            _merge(values, key.split("."), value)
        path = tmp_path / name
        path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        return path

    return write


@pytest.fixture
def write_online(write_recipe: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes a recipe for an online trainer; keywords are the trainer's keys.

    Beside the recipe stands `prompts.jsonl`: 8 prompts with the letters that an answer may begin
    with, of which there are so many that a random model finds some.
    """
    halves = {"first": "abcdefghijklm", "second": "nopqrstuvwxyz"}
    rows = [
        {"prompt": f"{name} half {number}", "answer": list(letters)}
        for number in range(4)
        for name, letters in halves.items()
    ]
    write_rows(tmp_path / "prompts.jsonl", rows)

    def write(method: str, data: Mapping[str, Any] = {}, **trainer: Any) -> Path:
        usual = {
            "rewards": [{"type": "exact_match", "compare": "starts_with"}],
            "max_new_tokens": 2,
            "global_batch_size": 16,
            "micro_batch_size": 16,
            "max_steps": 2,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
        }
        return write_recipe(
            **{
                "model.dtype": "float32",
                "data": {
                    "train": [{"source": "./prompts.jsonl", "format": "prompt_only"}],
                    "max_length": 64,
                    "packing": False,
                    **data,
                },
                "trainer": {"type": method, **usual, **trainer},
            }
        )

    return write


class ChatServer:
    """A running `tests/chat_server.py`: a real server process with a real model."""

    def __init__(self, model: Path, key: str = "") -> None:
        command = [sys.executable, str(Path(__file__).with_name("chat_server.py")), str(model)]
        command += ["--key", key] if key else []
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        self.base_url = f"{self.address}/v1"

    def fail(self, *faults: Mapping[str, Any]) -> None:
        """The next requests get these faults, one each."""
        self._talk("/faults", list(faults))

    def pause(self, seconds: float) -> None:
        """Every answer takes so much longer."""
        self._talk("/pause", seconds)

    def requests(self) -> list[dict[str, Any]]:
        """What was asked so far."""
        return self._talk("/requests")

    def ask(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a request that no code of ours sent."""
        return self._talk("/v1/chat/completions", body)

    def stop(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.wait()

    def _talk(self, path: str, value: Any = None) -> Any:
        data = None if value is None else json.dumps(value).encode()
        with urllib.request.urlopen(f"{self.address}{path}", data, timeout=60) as response:
            return json.load(response)


@pytest.fixture(scope="session")
def opinionated_model_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with larger weights, whose next token depends on all that it read."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("opinionated_model")
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(10)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def chat_server(opinionated_model_dir: Path) -> Iterator[ChatServer]:
    """A server for the tests of one module."""
    server = ChatServer(opinionated_model_dir)
    yield server
    server.stop()


Launch = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Starts the real `accelerate launch -m framework.train` in a fresh process.

    `launch(recipe, "trainer.seed=1", num_processes=2)`; its output goes to a pipe. Whatever is
    still alive when the test ends is killed, workers included.
    """
    started: list[subprocess.Popen[str]] = []

    def start(recipe: Path, *overrides: str, num_processes: int = 1) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1"]
        command += ["--mixed_precision", "no", "--dynamo_backend", "no"]
        command += ["--num_processes", str(num_processes), "--main_process_port", "0"]
        command += ["--multi_gpu"] if num_processes > 1 else ["--cpu"]
        command += ["-m", "framework.train", str(recipe), *overrides]
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def launched(warm: None) -> Callable[..., str]:
    """Trains in one process or several, demands success and returns the output."""

    def run(recipe: Path, *overrides: str, num_processes: int = 1) -> str:
        group = warm_start.run_group(["train", str(recipe), *overrides], num_processes)
        assert set(group.codes) == {0}, group.output
        return group.output

    return run


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def samples_of_steps(run_dir: Path) -> list[tuple[int, list[str]]]:
    """(Step, ids of its samples) of a run, without their losses, which processes add up in another
    order."""
    return [(row["step"], row["ids"]) for row in read_rows(run_dir / "samples.jsonl")]


def conversation(number: int) -> dict[str, Any]:
    """A row in the `messages` format."""
    country, city = list(CITIES.items())[number % len(CITIES)]
    return {
        "messages": [
            {"role": "system", "content": "Answer in one sentence."},
            {"role": "user", "content": f"Question {number}: what is the capital of {country}?"},
            {"role": "assistant", "content": f"The capital of {country} is {city}."},
        ]
    }


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """A JSON Lines file."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


def _byte_level_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [message["content"] for n in range(16) for message in conversation(n)["messages"]]
    tokenizer.train_from_iterator(["system user assistant\n", *texts], trainer)
    return tokenizer


def _merge(values: dict[str, Any], path: list[str], value: Any) -> None:
    first, *rest = path
    if rest:
        _merge(values.setdefault(first, {}), rest, value)
    elif isinstance(value, Mapping) and isinstance(values.get(first), dict):
        for key, inner in value.items():
            _merge(values[first], [key], inner)
    else:
        values[first] = value
