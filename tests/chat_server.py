"""An OpenAI-compatible server around a real model, with real HTTP faults on request.

    python tests/chat_server.py MODEL_FOLDER [--key KEY]

Prints its port. Besides `/v1/chat/completions` it has `POST /faults` (a list; each of the next
requests takes one), `GET /requests` (what was asked, when, and whether it was answered) and
`POST /pause` (seconds that every answer takes longer).

Faults: {"status": 429, "retry_after": "1"}, {"hang": 5}, {"cut": true}, {"garbage": true},
{"echo_key": true}.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

LONGEST_GUIDED_TEXT = 12


class TooLongError(ValueError):
    """Request and answer don't fit into the model."""


class Model:
    """Generates one answer at a time."""

    def __init__(self, folder: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.lock = threading.Lock()

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """The response to a request."""
        prompt = self.tokenizer.apply_chat_template(
            body["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
        body = {"stop": "", **body}
        num_prompt, most = prompt.shape[1], body.get("max_tokens") or 64
        if num_prompt + 1 > self.model.config.max_position_embeddings:
            raise TooLongError(f"the request has {num_prompt} tokens")
        generator = torch.Generator().manual_seed(_seed(body))
        schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema")
        with self.lock, torch.inference_mode():
            first: list[dict[str, Any]] = []
            if body.get("logprobs"):
                first = self._likeliest(prompt, body["top_logprobs"])
            if schema is not None:
                text, tokens, ended = self._guided(prompt, schema, body, generator)
            else:
                tokens, ended = self._generate(prompt, most, body, generator)
                text = self._text(tokens)
                if body["stop"]:
                    text = text.partition(body["stop"])[0]
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "stop" if ended else "length",
            "logprobs": {"content": [{"token": "", "top_logprobs": first}]} if first else None,
        }
        usage = {"prompt_tokens": num_prompt, "completion_tokens": len(tokens)}
        usage["total_tokens"] = sum(usage.values())
        return {"object": "chat.completion", "choices": [choice], "usage": usage}

    def _logits(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model(ids).logits[0, -1].float()

    def _likeliest(self, ids: torch.Tensor, count: int) -> list[dict[str, Any]]:
        found = self._logits(ids).log_softmax(-1).topk(count)
        return [
            {"token": self.tokenizer.decode([token]), "logprob": value}
            for value, token in zip(found.values.tolist(), found.indices.tolist(), strict=True)
        ]

    def _pick(self, logits: torch.Tensor, body: dict[str, Any], generator: Any) -> int:
        temperature = body.get("temperature", 1.0)
        if temperature == 0:
            return int(logits.argmax())
        return int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))

    def _generate(
        self, ids: torch.Tensor, most: int, body: dict[str, Any], generator: Any
    ) -> tuple[list[int], bool]:
        """(tokens, whether the model ended by itself)."""
        tokens: list[int] = []
        while len(tokens) < most:
            token = self._pick(self._logits(ids), body, generator)
            if token == self.tokenizer.eos_token_id:
                return tokens, True
            tokens.append(token)
            if body["stop"] and body["stop"] in self._text(tokens):
                return tokens, True
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
        return tokens, False

    def _guided(
        self, ids: torch.Tensor, schema: dict[str, Any], body: dict[str, Any], generator: Any
    ) -> tuple[str, list[int], bool]:
        """An object of the schema: texts are generated, numbers of an `enum` chosen by the model's
        probabilities, everything else is given."""
        value: dict[str, Any] = {}
        written: list[int] = []
        for name, rule in schema["properties"].items():
            beginning = json.dumps(value)[:-1] + (", " if value else "") + f'"{name}": '
            at = torch.cat([ids, torch.tensor([self._encode(beginning)])], dim=1)
            if "enum" in rule:
                options = [self._encode(str(option))[0] for option in rule["enum"]]
                picked = self._pick(self._logits(at)[options], body, generator)
                value[name] = rule["enum"][picked]
                written.append(options[picked])
            else:
                tokens, _ = self._generate(at, LONGEST_GUIDED_TEXT, body, generator)
                value[name] = self._text(tokens)
                written += tokens
        return json.dumps(value), written, True

    def _text(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def _seed(body: dict[str, Any]) -> int:
    """The same request draws the same answer, another request or seed another one."""
    text = json.dumps([body.get("seed"), body["messages"]])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


class Server(ThreadingHTTPServer):
    """Holds the model and what was asked."""

    daemon_threads = True

    def __init__(self, model: Model, key: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.model = model
        self.key = key
        self.lock = threading.Lock()
        self.faults: list[dict[str, Any]] = []
        self.requests: list[dict[str, Any]] = []
        self.pause = 0.0


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        with self.server.lock:
            self._send(200, self.server.requests)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/faults":
            self.server.faults = body
            return self._send(200, {})
        if self.path == "/pause":
            self.server.pause = body
            return self._send(200, {})
        if self.path != "/v1/chat/completions":
            return self._send(404, {"error": {"message": "no such path"}})
        record = {"body": body, "start": time.monotonic(), "end": math.inf, "answered": False}
        with self.server.lock:
            self.server.requests.append(record)
            fault = self.server.faults.pop(0) if self.server.faults else {}
        authorization = self.headers.get("Authorization", "")
        if self.server.key and authorization != f"Bearer {self.server.key}":
            message = f"Incorrect API key provided: {authorization}"
            return self._send(401, {"error": {"message": message}})
        if fault:
            return self._fail(fault, authorization)
        try:
            time.sleep(self.server.pause)
            answer = self.server.model.complete(body)
        except TooLongError as error:
            return self._send(400, {"error": {"message": str(error)}})
        with self.server.lock:
            record["end"] = time.monotonic()
        self._send(200, answer)
        with self.server.lock:
            record["answered"] = True
        return None

    def _fail(self, fault: dict[str, Any], authorization: str) -> None:
        if "hang" in fault:
            time.sleep(fault["hang"])
            self.close_connection = True
        elif "cut" in fault:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            self.close_connection = True
        elif "garbage" in fault:
            self._send_bytes(200, b'{"choices": [{"mess')
        elif "echo_key" in fault:
            message = {"content": f"Score: 4, you sent {authorization}"}
            usage = {"total_tokens": 1}
            self._send(200, {"choices": [{"message": message}], "usage": usage})
        else:
            headers = {"Retry-After": fault["retry_after"]} if "retry_after" in fault else {}
            self._send(fault["status"], {"error": {"message": "as asked"}}, headers)

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        # JSON has no infinity.
        text = json.dumps(value).replace("Infinity", "1e300")
        self._send_bytes(status, text.encode(), headers)

    def _send_bytes(
        self, status: int, content: bytes, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        """Nothing: `/requests` tells."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--key", default="")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    server = Server(Model(str(Path(arguments.model))), arguments.key)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
