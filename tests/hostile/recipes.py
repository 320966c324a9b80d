"""Recipes that try to run code, to read what they may not, or to keep a machine busy."""

from __future__ import annotations

GOOD = """
model: {source: MODEL}
data: {train: [{source: ./train.jsonl}], max_length: 128}
trainer: {global_batch_size: 2, max_steps: 1, learning_rate: 1.0e-3}
output: {dir: ./run}
"""


def _with(line: str, instead_of: str = "output: {dir: ./run}") -> str:
    return GOOD.replace(instead_of, line)


def _laughs(levels: int, times: int) -> str:
    lines = (
        f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * times)}]"
        for level in range(1, levels)
    )
    return "\n".join(("a0: &a0 [lol]", *lines))


REFUSED = {
    "os.system": _with("output: !!python/object/apply:os.system ['touch canary']"),
    "subprocess": _with("output: !!python/object/apply:subprocess.run [[touch, canary]]"),
    "eval": _with('output: {dir: !!python/object/apply:eval [\'open("canary", "w")\']}'),
    "object/new": _with("output: !!python/object/new:os.system ['touch canary']"),
    "object": _with("output: !!python/object:pathlib.Path {_raw_paths: [canary]}"),
    "name": _with("output: !!python/name:os.system"),
    "module": _with("output: !!python/module:os"),
    "tuple": _with("output: {dir: !!python/tuple [a]}"),
    "a tag on a key": _with("!!python/object/apply:os.system ['touch canary']: 1"),
    "a tag of its own": "%TAG ! tag:yaml.org,2002:python/\n---\n"
    + _with("output: !object/apply:os.system ['touch canary']"),
    "a verbatim tag": _with("output: !<tag:yaml.org,2002:python/object/apply:os.system> [ls]"),
    "a constructor of Hydra": _with("output: {_target_: os.system, dir: touch canary}"),
    "a class path": _with("trainer: {type: os.system}", "trainer: {global_batch_size: 2"),
    "a file as a component": GOOD + "adapter: ./evil.py:Evil\n",
    "a dotted path as a component": GOOD + "adapter: evil.Evil\n",
    "an alias bomb": _laughs(30, 9),
    "a wide alias bomb": _laughs(4, 2000),
    "a list that is in itself": GOOD + "adapter: &a [*a]\n",
    "a mapping that is in itself": GOOD + "adapter: &a {b: *a}\n",
    "deep nesting": GOOD + "adapter: " + "[" * 20_000,
    "deep blocks": GOOD + "adapter:\n" + "".join(" " * n + "a:\n" for n in range(1, 900)),
    "more than 1 MiB": GOOD + "#" * (1 << 20),
    "itself": "extends: recipe.yaml" + GOOD,
    "a circle": "extends: circle.yaml" + GOOD,
    "a circle by a link": "extends: link.yaml" + GOOD,
    "a file without end": "extends: /dev/zero" + GOOD,
    "a file that is none": "extends: /dev/stdin" + GOOD,
    "a pipe": "extends: pipe" + GOOD,
    "a folder": "extends: .." + GOOD,
    "another system's file": "extends: /etc/passwd" + GOOD,
    "a path with a zero": 'extends: "a\\0b"' + GOOD,
    "the environment": _with("output: {dir: '${oc.env:SECRET_CANARY}'}"),
    "the environment, decoded": _with("output: {dir: '${oc.decode:${oc.env:SECRET_CANARY}}'}"),
    "the environment, by default": _with("output: {dir: '${oc.select:a,${oc.env:SECRET_CANARY}}'}"),
    "the environment, put together": _with(
        "output: {dir: \"${oc.decode:'$${trainer.type}'}\"}",
    ).replace("trainer: {", "trainer: {type: '{oc.env:SECRET_CANARY}', "),
    "the environment, by a name in pieces": _with(
        "output: {dir: '${oc.${trainer.type}:SECRET_CANARY}'}"
    ).replace("trainer: {", "trainer: {type: env, "),
    "the environment, by a variable in pieces": _with(
        "output: {dir: '${oc.env:${trainer.type}}'}"
    ).replace("trainer: {", "trainer: {type: SECRET_CANARY, "),
    "the environment, with blanks": _with("output: {dir: '${ oc.env : SECRET_CANARY }'}"),
    "another resolver": _with("output: {dir: '${oc.create:a}'}"),
    "an interpolation of itself": _with("output: {dir: '${output.dir}'}"),
    "an interpolation in a circle": _with("output: {dir: '${model.source}'}").replace(
        "MODEL", "'${output.dir}'"
    ),
    "an endless template": GOOD
    + "tokenizer:\n  chat_template: '{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% endfor %}{% endfor %}{{ messages }}'\n",
    "a template that grows": GOOD + "tokenizer: {chat_template: \"{{ 'x' * 10**10 }}\"}\n",
    "a pattern without end": GOOD + "adapter: {type: lora, target_modules: '(a+)+b'}\n",
    "a pattern for parameters": _with(
        "trainer: {parameter_groups: [{pattern: '(a|a)*b', weight_decay: 0}], global_batch_size: 2",
        "trainer: {global_batch_size: 2",
    ),
}
"""Every one is refused by `check`, `explain`, `plan`, `preview` and `train` alike."""

ESCAPED = "\x1b]0;owned\x07\x1b[2J"
"""What sets a terminal's title and wipes it."""
