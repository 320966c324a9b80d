"""What a recipe's text becomes, and what is said when it can't become anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from framework.api import check
from framework.core.problems import Problem, UserError
from framework.recipe.resolve import resolve, resolve_with_origins

MINIMAL = """\
model:
  source: owner/model
data:
  train:
    - source: owner/rows
output:
  dir: runs/x
"""


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "recipe.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def problems_of(path: Path, *overrides: str, allow=()) -> tuple[Problem, ...]:
    with pytest.raises(UserError) as caught:
        resolve(path, overrides, allow)
    return caught.value.problems


def test_the_minimal_recipe_gets_every_default(write):
    recipe = resolve(write(MINIMAL))
    assert recipe.model.source.repo == "owner/model"
    assert recipe.trainer.global_batch_size == 16
    assert type(recipe.trainer.method).__name__ == "SFT"
    assert type(recipe.adapter).__name__ == "Full"


def test_every_problem_is_reported_at_once_with_line_and_column(write):
    path = write(
        """\
modle:
  source: owner/model
data:
  train:
    - source: owner/rows
      format: mesages
  packing: maybe
trainer:
  learning_rate: fast
  optimizer: {type: adamw, beta1: 1.5}
"""
    )
    found = {(problem.line, problem.column, problem.key) for problem in problems_of(path)}
    assert found == {
        (1, 1, "modle"),
        (1, 1, "model"),
        (1, 1, "output"),
        (6, 15, "data.train[0].format"),
        (7, 12, "data.packing"),
        (9, 18, "trainer.learning_rate"),
        (10, 35, "trainer.optimizer.beta1"),
    }


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("trainer: {learning_rat: 1.0}", "did you mean 'learning_rate'?"),
        ("trainer: {type: stf}", "did you mean 'sft'?"),
        ("trainer: {lr: 1.0}", "write it as trainer.learning_rate"),
        ("trainer: {per_device_train_batch_size: 1}", "did you mean 'micro_batch_size'?"),
        ("learning_rate: 1.0", "write it as trainer.learning_rate"),
        ("load_in_4bit: true", "write model.quantization: bitsandbytes_4bit"),
        ("model: {source: a/b, dtype: bflot16}", "did you mean 'bfloat16'?"),
        ("trainer: {lr_scheduler_type: cosin}", "did you mean 'cosine'?"),
        ("trainer: {seed: '3'}", "write 3 without quotes"),
        ("output: {dir: 3}", "put it in quotes: '3'"),
        ("output: runs/x", "write `output: {dir: runs/x}`"),
        ("trainer: dpo", "write `trainer: {type: dpo}`"),
        ("data: {train: rows.jsonl}", "write [{source: rows.jsonl}]"),
        ("data: {train: [rows.jsonl]}", "write {source: rows.jsonl}"),
    ],
)
def test_hints_name_what_to_write(write, line, hint):
    key = line.split(":", maxsplit=1)[0]
    kept = [part for part in ("model", "data", "output") if part != key]
    sections = {
        "model": "model: {source: a/b}",
        "data": "data: {train: [{source: a/b}]}",
        "output": "output: {dir: x}",
    }
    text = "\n".join([line, *(sections[part] for part in kept)])
    assert [problem.hint for problem in problems_of(write(text))] == [hint]


def test_a_text_for_the_trainer_is_told_its_keys_as_recipes_write_them(write):
    (problem,) = problems_of(write(MINIMAL + "trainer: fast\n"))
    assert problem.hint.startswith("its keys are: type, global_batch_size, ")


def test_a_folder_without_a_dot_before_it_is_told_how_paths_are_written(write, tmp_path):
    (tmp_path / "runs" / "first" / "final").mkdir(parents=True)
    path = write(MINIMAL.replace("owner/model", "runs/first/final"))
    (problem,) = problems_of(path)
    assert (problem.line, problem.key) == (2, "model.source")
    assert problem.what == "'runs/first/final' is a folder here, but is not written as a path"
    assert problem.hint == "write ./runs/first/final"


def test_a_name_of_the_hub_that_is_a_folder_here_too_is_not_guessed(write, tmp_path):
    (tmp_path / "owner" / "model").mkdir(parents=True)
    (problem,) = problems_of(write(MINIMAL))
    assert problem.what == "'owner/model' is a file or folder here, and could be meant for `hub`"
    assert problem.hint == "write ./owner/model, or {type: hub, repo: owner/model}"
    spelt_out = MINIMAL.replace("source: owner/model", "source: {type: hub, repo: owner/model}")
    assert resolve(write(spelt_out)).model.source.repo == "owner/model"


def test_a_data_file_is_a_path_without_a_dot_before_it(write, tmp_path):
    row = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
    (tmp_path / "rows.jsonl").write_text(row + "\n", encoding="utf-8")
    recipe = resolve(write(MINIMAL.replace("owner/rows", "rows.jsonl")))
    assert recipe.data.train[0].source.path == str(tmp_path / "rows.jsonl")


def test_yaml_11_traps_are_warned_about(write):
    resolved = resolve_with_origins(
        write(MINIMAL + ["trainer:\n  seed: 012\n  max_steps: 1:30\n", ": x\n"][0])
    )
    assert resolved.recipe.trainer.seed == 10
    assert resolved.recipe.trainer.max_steps == 90
    assert [(warning.line, warning.key) for warning in resolved.warnings] == [
        (9, "trainer.seed"),
        (10, "trainer.max_steps"),
    ]


def test_the_word_no_is_explained_where_it_is_refused(write):
    with pytest.raises(UserError) as caught:
        resolve(write(MINIMAL + "trainer: {seed: no}\n"))
    assert "YAML 1.1 reads no as false" in str(caught.value.warnings[0])


def test_a_scientific_number_without_a_dot_is_a_number(write):
    assert (
        resolve(write(MINIMAL + "trainer: {learning_rate: 1e-3}\n")).trainer.learning_rate == 1e-3
    )


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
def test_numbers_that_are_none_are_refused(write, value):
    found = problems_of(write(MINIMAL + f"trainer: {{learning_rate: {value}}}\n"))
    assert [problem.key for problem in found] == ["trainer.learning_rate"]


class TestExtends:
    def test_the_extending_file_wins_and_mappings_are_merged(self, write):
        write(MINIMAL + "trainer: {learning_rate: 0.5, seed: 1}\n", "base.yaml")
        recipe = resolve(write("extends: base.yaml\ntrainer: {seed: 2}\n"))
        assert (recipe.trainer.learning_rate, recipe.trainer.seed) == (0.5, 2)

    def test_another_component_drops_the_fields_of_the_one_before(self, write):
        write(MINIMAL + "trainer: {optimizer: {type: adamw, beta1: 0.5}}\n", "base.yaml")
        child = "extends: base.yaml\ntrainer: {optimizer: {type: sgd, momentum: 0.9}}\n"
        assert resolve(write(child)).trainer.optimizer.momentum == 0.9

    def test_a_circle_is_named(self, write):
        write("extends: recipe.yaml\n", "base.yaml")
        found = problems_of(write("extends: base.yaml\n"))
        assert "recipe.yaml -> base.yaml -> recipe.yaml" in found[0].what

    def test_a_missing_file_is_reported_where_it_is_named(self, write):
        write(MINIMAL, "base.yaml")
        found = problems_of(write("\nextends: bas.yaml\n"))
        assert (found[0].line, found[0].key) == (2, "extends")
        assert "base.yaml" in found[0].hint

    def test_problems_are_placed_in_the_file_that_wrote_them(self, write, tmp_path):
        write(MINIMAL + "trainer: {sed: 1}\n", "base.yaml")
        found = problems_of(write("extends: base.yaml\ntracking: {log_step: 1}\n"))
        assert [(Path(one.file).name, one.line) for one in found] == [
            ("base.yaml", 8),
            ("recipe.yaml", 2),
        ]

    def test_paths_are_relative_to_the_file_that_writes_them(self, write, tmp_path):
        folder = tmp_path / "bases"
        folder.mkdir()
        (folder / "rows.jsonl").write_text("")
        (folder / "base.yaml").write_text(MINIMAL.replace("owner/rows", "rows.jsonl"))
        recipe = resolve(write("extends: bases/base.yaml\n"))
        assert recipe.data.train[0].source.path == str(folder / "rows.jsonl")

    @pytest.mark.parametrize("written", ["chatml", "{{ messages }}", "mine.jinja"])
    def test_only_a_template_file_is_a_path(self, write, tmp_path, written):
        write("{{ messages }}", "mine.jinja")
        recipe = resolve(write(MINIMAL + f"tokenizer: {{chat_template: '{written}'}}\n"))
        is_file = written.endswith(".jinja")
        expected = str(tmp_path / written) if is_file else written
        assert recipe.tokenizer.chat_template == expected


class TestOverrides:
    def test_keys_items_and_components_can_be_set(self, write):
        recipe = resolve(
            write(MINIMAL),
            [
                "trainer.seed=7",
                "data.train.0.rows=:10",
                "data.train[0].format=alpaca",
                "trainer.optimizer=sgd",
                "trainer.optimizer.momentum=0.5",
            ],
        )
        assert recipe.trainer.seed == 7
        assert recipe.data.train[0].rows == ":10"
        assert type(recipe.data.train[0].format).__name__ == "Alpaca"
        assert recipe.trainer.optimizer.momentum == 0.5

    def test_a_field_can_be_added_to_a_component_that_is_written_as_a_plain_string(self, write):
        recipe = resolve(write(MINIMAL), ["model.source.revision=abc"])
        assert (recipe.model.source.repo, recipe.model.source.revision) == ("owner/model", "abc")

    def test_plus_appends_to_a_list(self, write):
        recipe = resolve(write(MINIMAL), ["+data.train={source: owner/more}"])
        assert [dataset.source.repo for dataset in recipe.data.train] == [
            "owner/rows",
            "owner/more",
        ]

    @pytest.mark.parametrize(
        ("override", "what"),
        [
            ("trainer.sede=1", "is not a key here"),
            ("trainer.seed", "is not an override"),
            ("data.train.3.rows=:1", "is a list with items 0 to 0"),
            ("+output.dir=x", "the key is there already"),
            ("trainer.seed=[1", "not valid YAML"),
            ("model.source.revisoin=1", "is not a key here"),
        ],
    )
    def test_a_wrong_override_is_placed_on_the_command_line(self, write, override, what):
        found = problems_of(write(MINIMAL), "trainer.max_steps=3", override)
        assert found[0].file == "command line"
        assert found[0].line == 2
        assert what in found[0].what or "is not a key" in found[0].what


class TestInterpolation:
    def test_another_key_and_a_default_can_be_referred_to(self, write):
        text = MINIMAL.replace("runs/x", "runs/${trainer.seed}-${trainer.max_steps}")
        recipe = resolve(write(text + "trainer: {max_steps: 5}\n"))
        assert recipe.output.dir == "runs/42-5"

    def test_an_unknown_key_is_reported_in_place(self, write):
        found = problems_of(write(MINIMAL.replace("runs/x", "${trainer.sede}")))
        assert [(one.line, one.key) for one in found] == [(7, "output.dir")]

    def test_a_circle_is_reported(self, write):
        found = problems_of(write(MINIMAL.replace("runs/x", "${output.dir}")))
        assert found[0].key == "output.dir"

    @pytest.mark.parametrize("resolver", ["oc.create", "oc.deprecated", "shell", "oc.dict.keys"])
    def test_other_resolvers_are_refused(self, write, resolver):
        found = problems_of(write(MINIMAL.replace("runs/x", f"${{{resolver}:x}}")))
        assert f"resolver '{resolver}' is not allowed" in found[0].what

    def test_the_environment_is_read_only_where_the_user_allows_it(self, write, monkeypatch):
        monkeypatch.setenv("RUN_NAME", "mine")
        path = write(MINIMAL.replace("runs/x", "${oc.env:RUN_NAME}"))
        assert "--allow-env RUN_NAME" in problems_of(path)[0].hint
        assert resolve(path, (), ["RUN_NAME"]).output.dir == "mine"


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("", 1, "a recipe is a mapping"),
        ("- a\n- b\n", 1, "a recipe is a mapping"),
        ("model: [\n", 2, "not valid YAML"),
        ("model: a\n\tdata: b\n", 2, "not valid YAML"),
        (MINIMAL + "model: {source: x/y}\n", 8, "written twice; first on line 1"),
        ("model: !!python/object/apply:os.system [ls]\n", 1, "is not allowed"),
        ("model: &a\n  source: *a\n", 0, "nested more than"),
        ("1: x\n" + MINIMAL, 1, "is not a key here"),
        ("[1, 2]: x\n" + MINIMAL, 1, "a key must be plain text"),
    ],
)
def test_broken_text_is_a_problem_and_never_a_traceback(write, text, line, what):
    found = problems_of(write(text))
    assert any(problem.line == line and what in problem.what for problem in found), found


def test_an_alias_bomb_is_refused_quickly(write):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "more than" in problems_of(write("\n".join(lines)))[0].what


def test_bytes_that_are_not_utf8_are_placed(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"model:\n  source: \xff\n")
    found = problems_of(path)
    assert (found[0].line, "not UTF-8" in found[0].what) == (2, True)


def test_a_missing_recipe_names_the_one_that_was_meant(write, tmp_path):
    write(MINIMAL, "lora.yaml")
    assert "lora.yaml" in problems_of(tmp_path / "lara.yaml")[0].hint


@pytest.mark.parametrize(
    ("extra", "key"),
    [
        ("trainer: {max_steps: 3, num_train_epochs: 2}", "trainer.max_steps"),
        ("trainer: {warmup_steps: 3, warmup_ratio: 0.1}", "trainer.warmup_steps"),
        ("trainer: {global_batch_size: 16, micro_batch_size: 3}", "trainer.micro_batch_size"),
        ("trainer: {type: pretrain}", "data.train[0].format"),
        (
            "trainer: {on_nan: skip, optimizer_in_backward: true, max_grad_norm: null, "
            "micro_batch_size: 16}",
            "trainer.on_nan",
        ),
        (
            "trainer: {loss_spike: {then: skip}}\nstrategy: deepspeed",
            "trainer.loss_spike.then",
        ),
        ("evaluation: {early_stopping: {patience: 2}}", "evaluation.early_stopping"),
        ("evaluation: {evaluators: [exact_match]}", "evaluation.evaluators"),
        ("evaluation: {every_steps: 5}", "evaluation.every_steps"),
        ("checkpoint: {every_steps: 5, every_epochs: 1}", "checkpoint.every_steps"),
        ("checkpoint: {every_steps: 4, keep_every: 6}", "checkpoint.keep_every"),
        ("checkpoint: {keep_best: {}}", "checkpoint.keep_best"),
        ("data: {train: [{source: a/b}], dry_run: true}", "data.dry_run"),
        ("evaluation: {max_new_tokens: 9}", ""),
        (
            "data: {train: [{source: a/b}], eval: [{source: c/d}]}\n"
            "evaluation: {early_stopping: {}}",
            "evaluation.early_stopping",
        ),
        ("adapter: {type: lora, corda_method: kpm}", "adapter.corda_method"),
        ("adapter: {type: lora, init_lora_weights: corda, eva_rho: 1.5}", "adapter.eva_rho"),
        ("adapter: {type: lora, init_num_samples: 9}", "adapter.init_num_samples"),
        ("adapter: {type: lora, init_lora_weights: eva, init_num_samples: 9, eva_rho: 1.5}", ""),
        ("adapter: {type: lora, corda_method: ipm}", ""),
        ("data: {train: [{source: a/b}]}", ""),
    ],
)
def test_conflicts_between_settings_are_found(write, extra, key):
    text = (
        MINIMAL
        if not extra.startswith("data")
        else MINIMAL.split("data:", maxsplit=1)[0] + "output: {dir: x}\n"
    )
    path = write(f"{text}{extra}\n")
    if not key:
        resolve(path)  # the control: the same text without a conflict is good
        return
    assert [problem.key for problem in problems_of(path)] == [key]
    assert all(problem.line and problem.hint for problem in problems_of(path))


PLAIN = "data: {train: [{source: a/b, format: {type: prompt_completion, chat: false}}], %s}\n"
TEXT = "trainer: {type: pretrain}\ndata: {train: [{source: a/b, format: completion}], %s}\n"
RATED = "trainer: {type: %s}\ndata: {train: [{source: a/b, format: preference}], packing: false, "
CLASSES = (
    "trainer: {type: classifier, labels: [a, b]}\n"
    "data: {train: [{source: a/b, format: classification}], packing: false, %s}\n"
)


@pytest.mark.parametrize(
    ("rows", "setting", "is_refused"),
    [
        (PLAIN, "train_on: [user]", True),
        (PLAIN, "turns: each", True),
        (PLAIN, "reasoning: strip", True),
        (PLAIN, "reasoning: final", True),
        (PLAIN, "train_on: [assistant]", False),
        (PLAIN.replace("[{", "[{source: c/d}, {"), "reasoning: strip", False),
        (PLAIN.replace("{type: prompt_completion, chat: false}", "auto"), "turns: each", False),
        (TEXT, "train_on: [user]", True),
        (TEXT, "turns: last", True),
        (TEXT, "reasoning: final", True),
        (TEXT.replace("completion", "auto"), "turns: last", True),
        (RATED % "dpo" + "%s}", "train_on: [user]", True),
        (RATED % "dpo" + "%s}", "turns: last", False),
        (RATED % "dpo" + "%s}", "reasoning: final", False),
        (RATED % "reward" + "%s}", "reasoning: final", True),
        (RATED % "reward" + "%s}", "reasoning: strip", False),
        (CLASSES, "turns: last", True),
        (CLASSES, "reasoning: strip", False),
    ],
)
def test_what_is_trained_is_chosen_where_there_is_a_choice(write, rows, setting, is_refused):
    path = write("model: {source: owner/model}\noutput: {dir: x}\n" + rows % setting)
    if not is_refused:
        resolve(path)
        return
    (problem,) = problems_of(path)
    assert problem.key == f"data.{setting.partition(':')[0]}"
    assert "changes nothing about" in problem.what
    assert problem.hint.startswith("leave it out")


def test_a_file_that_is_not_there_is_found_before_anything_is_loaded(write, tmp_path):
    (tmp_path / "train.jsonl").write_text("{}")
    path = write(MINIMAL.replace("owner/rows", "trian.jsonl"))
    (problem,) = problems_of(path)
    assert (problem.line, problem.key) == (5, "data.train[0].source.path")
    assert f"did you mean {tmp_path / 'train.jsonl'}?" in problem.hint


@pytest.mark.parametrize("extra", ["", "trainer: {micro_batch_size: 2}"])
def test_eager_attention_is_refused_where_documents_would_mix(write, extra):
    text = MINIMAL.replace("owner/model", "owner/model\n  attention: eager") + extra
    keys = [problem.key for problem in problems_of(write(text))]
    assert keys == ["data.packing"] + (["trainer.micro_batch_size"] if extra else [])


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("+data.split={eval: 0.1, sed: 4}", "did you mean 'seed'"),
        ("+data.streaming={buffer_row: 3}", "did you mean 'buffer_rows'"),
        ("+evaluation.early_stopping={patiense: 3}", "did you mean 'patience'"),
    ],
)
def test_a_misspelt_key_of_a_section_that_may_be_left_out_is_found(write_recipe, override, meant):
    problems = check(write_recipe(), [override])
    assert any(meant in problem.hint for problem in problems), problems


def test_a_section_that_is_switched_on_says_how_to_write_its_defaults(write_recipe):
    (problem,) = check(write_recipe(), ["+data.streaming=true"])
    assert problem.hint.startswith("write `streaming: {}` for its defaults; its keys are: ")


@pytest.mark.parametrize("key", ["data.train.0.source", "model.source"])
def test_a_path_with_a_name_that_no_file_can_have_is_refused(write_recipe, key):
    with pytest.raises(UserError, match="a name in this path has more than 255 bytes"):
        resolve(write_recipe(), [f"{key}=./{'x' * 300}.jsonl"])
