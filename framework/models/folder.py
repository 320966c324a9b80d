"""Folder -> what keeps it from being a loadable model in Hugging Face layout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from framework.core.problems import Problem, UserError

WANTED_FILES = (
    "*.json",
    "*.safetensors",
    "*.jinja",
    "*.txt",
    "*.model",
    "*.tiktoken",
)
"""What a fetch takes: weights as safetensors, configuration, tokenizer. Never pickles or code."""

UNWANTED_FILES = ("*/*", "consolidated*.safetensors")
"""Of those, what is not taken: other formats in subfolders, the same weights a second time."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tekken.json",
)
PICKLED_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def config_problems(folder: Path, key: str = "") -> tuple[Problem, ...]:
    """What keeps its configuration from being read."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        return (
            Problem(
                key=key,
                what=f"model folder {str(folder)!r} {what}",
                hint="write a folder with config.json, *.safetensors and a tokenizer, "
                "or a Hub name such as `owner/name`",
            ),
        )
    endless = tuple(endless_files(folder, key))
    if endless or (folder / "config.json").is_file():
        return endless
    return (
        Problem(
            key=key,
            what=f"model folder {str(folder)!r} has no config.json",
            hint=_adapter_hint(folder) or "copy it from the model's repository",
        ),
    )


def endless_files(folder: Path, key: str = "") -> Iterator[Problem]:
    """A problem if something in the folder is neither file nor folder: whoever reads a pipe or a
    device may wait, or read, for ever."""
    names = sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.exists() and not entry.is_file() and not entry.is_dir()
    )
    if names:
        yield Problem(
            key=key,
            file="" if key else str(folder),
            what=f"the folder {str(folder)!r} holds {names[0]!r}, which is no file",
            hint="remove it: pipes and devices have no place there",
        )


def has_weights(folder: Path) -> bool:
    """Whether there are weights that can be loaded."""
    return any(folder.glob("*.safetensors"))


def has_tokenizer(folder: Path) -> bool:
    """Whether there are files of a tokenizer."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def folder_problems(folder: Path, key: str = "") -> tuple[Problem, ...]:
    """Everything that is missing from the folder; empty when it can be loaded."""
    problems = list(config_problems(folder, key))
    if not folder.is_dir():
        return tuple(problems)
    if not has_weights(folder):
        problems.append(_no_weights(folder, key))
    if not has_tokenizer(folder):
        problems.append(
            Problem(
                key=key,
                what=f"model folder {str(folder)!r} has no tokenizer",
                hint="save it there with `tokenizer.save_pretrained(folder)`",
            )
        )
    return tuple(problems)


def checked_folder(folder: Path) -> Path:
    """The folder itself.

    Raises:
        UserError: it can't be loaded, with everything that is missing.
    """
    problems = folder_problems(folder, key="model.source")
    if problems:
        raise UserError(problems)
    return folder


def _adapter_hint(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return (
            "this folder holds an adapter: put it into its model with `framework merge RUN -o "
            "FOLDER` and name that, or name the model that it was trained on"
        )
    return ""


def _no_weights(folder: Path, key: str) -> Problem:
    pickled = sorted(path.name for pattern in PICKLED_WEIGHTS for path in folder.glob(pattern))
    gguf = sorted(path.name for path in folder.glob("*.gguf"))
    if pickled:
        return Problem(
            key=key,
            what=f"model folder {str(folder)!r} holds its weights only as pickles ({pickled[0]}), "
            "which can run code when they are opened",
            hint="convert it once with `model.save_pretrained(folder)` where you trust it",
        )
    if gguf:
        return Problem(
            key=key,
            what=f"model folder {str(folder)!r} has no *.safetensors",
            hint=f"name the file itself: `{folder / gguf[0]}`",
        )
    return Problem(
        key=key,
        what=f"model folder {str(folder)!r} has no weights (*.safetensors)",
        hint="a model is a folder with config.json, *.safetensors and a tokenizer",
    )
