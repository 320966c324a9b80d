"""Losses and gradients of `grpo` and `rloo` are those of a plain TRL run on the same answers,
and their advantages are the papers'."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from accelerate import Accelerator
from preference_pairs import Gradients, assert_equal, gradients_of, moved, tokenizer_of
from transformers import AutoModelForCausalLM, TrainerCallback

from framework.core.rollouts import Answer, Prompt, Sampling
from framework.engine.reference import FrozenPolicy
from framework.models.load import load_weights
from framework.models.policy import CausalPolicy
from framework.online.bench import Workbench
from framework.online.scoring import Scoring
from framework.recipe.build import field_types
from framework.rewards.length import Length
from framework.rewards.regular_expression import RegularExpression
from framework.trainers.grpo import GRPO
from framework.trainers.rloo import RLOO

PROMPTS = ("What is the capital of France?", "Go.", "The capital of Norway is Oslo. And", "a b c")
NUM_GENERATIONS = 4
NUM_ANSWERS = len(PROMPTS) * NUM_GENERATIONS
MAX_NEW_TOKENS = 8
END_TOKEN_IDS = frozenset({2, *range(100, 160)})
"""So many that a random model ends about every second answer."""
TEMPERATURE = 0.8
LETTERS = "[a-m]"
REWARDS = (Length(at_least=6, weight=1.5), RegularExpression(pattern=LETTERS, weight=0.7))
SETTINGS: Mapping[str, Any] = {
    "num_generations": NUM_GENERATIONS,
    "max_new_tokens": MAX_NEW_TOKENS,
    "sampling": Sampling(temperature=TEMPERATURE),
}
LEARNING_RATE = 0.1
"""So large that many ratios of probabilities are clipped in the second step."""


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What two optimizer steps on the same answers were made of."""

    answers: Sequence[Answer]
    each: Sequence[tuple[float, Gradients]]
    """The loss and the gradients of each step."""
    metrics: Sequence[Mapping[str, float]] = ()


@pytest.fixture
def bench(tiny_model_dir, tmp_path) -> Callable[..., Workbench]:
    """What our learner works with; the policy is moved away from the reference."""

    def made(*, num_passes: int = 1, reference: bool = True) -> Workbench:
        torch.manual_seed(0)  # of the answers
        model = load_weights(tiny_model_dir, dtype="float32", attention="segmented_sdpa")
        held = load_weights(tiny_model_dir, dtype="float32", attention="segmented_sdpa")
        policy = moved(model, seed=3)
        return Workbench(
            accelerator=Accelerator(cpu=True),
            model=policy,
            policy=CausalPolicy(policy),
            reference=FrozenPolicy(held, None) if reference else None,
            reference_model=held if reference else None,
            tokenizer=tokenizer_of(tiny_model_dir),
            end_token_ids=END_TOKEN_IDS,
            scoring=Scoring.start(REWARDS, "cpu"),
            autocast_dtype=None,
            global_batch_size=NUM_ANSWERS,
            micro_batch_size=NUM_ANSWERS // num_passes,
            folder=tmp_path / "ours",
            seed=0,
        )

    return made


def asked(tokenizer: Any) -> list[Prompt]:
    return [
        Prompt(identifier=text, tokens=tuple(tokenizer(text)["input_ids"]), messages=(), columns={})
        for text in PROMPTS
        for _ in range(NUM_GENERATIONS)
    ]


def grpo(**settings: Any) -> GRPO:
    return GRPO(rewards=REWARDS, **SETTINGS, **settings)


def rloo(**settings: Any) -> RLOO:
    return RLOO(rewards=REWARDS, **SETTINGS, **settings)


def steps_of_ours(method: GRPO | RLOO, bench: Workbench, num_steps: int) -> Steps:
    model = bench.model
    learner = method.learner(bench)
    learner.roll_out(asked(bench.tokenizer))
    each: list[tuple[float, Gradients]] = []
    metrics: list[Mapping[str, float]] = []
    for _ in range(num_steps):
        model.zero_grad()
        total = 0.0
        for index in range(learner.num_passes):
            loss = learner.loss(index)
            loss.backward()
            total += loss.item()
        each.append((total, copied(model)))
        metrics.append(learner.metrics())
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.sub_(LEARNING_RATE * each[-1][1][name])
    learner.close()
    return Steps(answers=learner.answers, each=each, metrics=metrics)


def copied(model: Any) -> Gradients:
    return {name: gradient.clone() for name, gradient in gradients_of(model).items()}


# ---- plain TRL


def by_length(*, completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    return [min(len(one) / 6, 1.0) for one in completion_ids]


def by_letters(*, completions: Sequence[str], **_: Any) -> list[float]:
    return [float(any(letter in "abcdefghijklm" for letter in one)) for one in completions]


def steps_of_trl(
    kind: str, model_dir: Path, folder: Path, answers: Sequence[Answer], **settings: Any
) -> Steps:
    """A whole run of TRL's trainer, whose model says our answers when it is asked."""
    from datasets import Dataset
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.rloo_config import RLOOConfig
    from trl.trainer.rloo_trainer import RLOOTrainer

    config, kind_of_trainer = {
        "grpo": (GRPOConfig, GRPOTrainer),
        "rloo": (RLOOConfig, RLOOTrainer),
    }[kind]
    tokenizer = tokenizer_of(model_dir)
    model = moved(plain_model(model_dir), seed=3)
    model.generation_config.eos_token_id = sorted(END_TOKEN_IDS)
    given = {
        "output_dir": str(folder),
        "per_device_train_batch_size": NUM_ANSWERS,
        "gradient_accumulation_steps": 1,
        "num_generations": NUM_GENERATIONS,
        "num_iterations": 2,
        "max_steps": 2,
        "max_completion_length": MAX_NEW_TOKENS,
        "temperature": TEMPERATURE,
        "reward_weights": [1.5, 0.7],
        "shuffle_dataset": False,
        "optim": "sgd",
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        **settings,
    }
    gradients = KeptGradients()
    trainer = recording(kind_of_trainer)(
        model=model,
        reward_funcs=[by_length, by_letters],
        args=config(**given),
        train_dataset=Dataset.from_dict({"prompt": list(PROMPTS)}),
        processing_class=tokenizer,
        callbacks=[gradients],
    )
    model.generate = lambda input_ids, **_: said(input_ids, answers, tokenizer.pad_token_id)
    trainer.train()
    passes = given["gradient_accumulation_steps"]
    totals = [sum(trainer.losses[at : at + passes]) for at in range(0, len(trainer.losses), passes)]
    return Steps(answers=answers, each=list(zip(totals, gradients.each, strict=True)))


def recording(kind: Any) -> Any:
    """The trainer, which keeps the loss of each pass as Trainer divides it."""

    class Recording(kind):
        def training_step(self, *arguments: Any, **settings: Any) -> torch.Tensor:
            loss = super().training_step(*arguments, **settings)
            self.losses = [*getattr(self, "losses", []), loss.item()]
            return loss

    return Recording


class KeptGradients(TrainerCallback):
    """Keeps the gradients of each optimizer step."""

    def __init__(self) -> None:
        self.each: list[Gradients] = []

    def on_pre_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
        self.each.append(copied(model))


def said(input_ids: torch.Tensor, answers: Sequence[Answer], padding: int) -> torch.Tensor:
    rows: list[torch.Tensor] = []
    for row, answer in zip(input_ids, answers, strict=True):
        asked_for = answer.prompt.tokens
        assert row[-len(asked_for) :].tolist() == list(asked_for)
        missing = MAX_NEW_TOKENS - len(answer.tokens)
        rows.append(torch.cat([row, torch.tensor([*answer.tokens, *[padding] * missing])]))
    return torch.stack(rows)


GRPO_LIKE: Mapping[str, dict[str, Any]] = {
    "grpo": {"loss_type": "grpo", "beta": 0.1},
    "grpo, whole answers": {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    "grpo, bounded": {"loss_type": "grpo", "delta": 1.05, "beta": 0.1},
    "bnpo": {"loss_type": "bnpo"},
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28, "beta": 0.1},
    "dapo, no truncated answers": {"loss_type": "dapo", "mask_truncated_completions": True},
    "dapo, tokens of high entropy": {"loss_type": "dapo", "top_entropy_quantile": 0.4},
    "dapo, entropy": {"loss_type": "dapo", "entropy_coef": 0.1},
    "dapo, no far answers": {"loss_type": "dapo", "off_policy_mask_threshold": 0.001},
    "dapo, biased": {"loss_type": "dapo", "beta": 0.1, "use_bias_correction_kl": False},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.1, "scale_rewards": "batch"},
    "sapo": {"loss_type": "sapo", "sapo_temperature_neg": 1.3},
    "luspo": {"loss_type": "luspo", "importance_sampling_level": "sequence"},
    "vespo": {
        "loss_type": "vespo",
        "vespo_k_pos": 1.5,
        "multi_objective_aggregation": "normalize_then_sum",
    },
}
IN_TWO_PASSES = {"grpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"}
"""Cases whose loss doesn't depend on which answers share a forward pass; TRL shuffles them."""


def test_every_loss_that_a_recipe_can_name_is_compared():
    names = get_args(field_types(GRPO)["loss_type"])
    assert {settings["loss_type"] for settings in GRPO_LIKE.values()} == set(names)


@pytest.mark.parametrize("name", GRPO_LIKE)
def test_two_steps_of_grpo_on_the_same_answers_are_those_of_trl(
    name, bench, tiny_model_dir, tmp_path
):
    settings, num_passes = GRPO_LIKE[name], 2 if name in IN_TWO_PASSES else 1
    ours = steps_of_ours(grpo(num_iterations=2, **settings), bench(num_passes=num_passes), 2)
    theirs = steps_of_trl(
        "grpo",
        tiny_model_dir,
        tmp_path / "trl",
        ours.answers,
        per_device_train_batch_size=NUM_ANSWERS // num_passes,
        gradient_accumulation_steps=num_passes,
        **settings,
    )
    assert_steps_are_equal(ours, theirs)


RLOO_LIKE: Mapping[str, dict[str, Any]] = {
    "held near the reference": {"beta": 0.1},
    "one more bound": {"beta": 0.0, "epsilon_high": 0.28},
    "normalized": {"beta": 0.0, "normalize_advantages": True},
    "clipped": {"beta": 0.1, "reward_clip_range": (0.3, 1.5)},
    "no truncated answers": {"beta": 0.1, "mask_truncated_completions": True},
}


@pytest.mark.parametrize("name", RLOO_LIKE)
def test_two_steps_of_rloo_on_the_same_answers_are_those_of_trl(
    name, bench, tiny_model_dir, tmp_path
):
    settings = RLOO_LIKE[name]
    ours = steps_of_ours(rloo(num_iterations=2, **settings), bench(num_passes=2), 2)
    theirs = steps_of_trl(
        "rloo",
        tiny_model_dir,
        tmp_path / "trl",
        ours.answers,
        per_device_train_batch_size=NUM_ANSWERS // 2,
        gradient_accumulation_steps=2,
        **settings,
    )
    assert_steps_are_equal(ours, theirs)


def assert_steps_are_equal(ours: Steps, theirs: Steps) -> None:
    for one, other in zip(ours.each, theirs.each, strict=True):
        assert_equal(one, other)
    assert 2 < sum(answer.truncated for answer in ours.answers) < NUM_ANSWERS - 2
    moved_far = [row.get("clip_ratio", row.get("mean_weight", 0.5)) for row in ours.metrics]
    assert 0.05 < moved_far[1] < 0.95, "else the ratios of probabilities are not compared"


# ---- advantages, without TRL


def rewards_of(answers: Sequence[Answer]) -> tuple[torch.Tensor, torch.Tensor]:
    """[groups, answers] of each reward, over its weight."""
    lengths = by_length(completion_ids=[answer.tokens for answer in answers])
    letters = by_letters(completions=[answer.text for answer in answers])
    return torch.tensor(lengths).view(-1, NUM_GENERATIONS), torch.tensor(letters).view(
        -1, NUM_GENERATIONS
    )


def weighted(answers: Sequence[Answer]) -> torch.Tensor:
    lengths, letters = rewards_of(answers)
    return 1.5 * lengths + 0.7 * letters


def compared_in_groups(rewards: torch.Tensor) -> torch.Tensor:
    return rewards - rewards.mean(1, keepdim=True)


def gdpo(answers: Sequence[Answer]) -> torch.Tensor:
    """GDPO, 2601.05242: each reward normalized in its group, the sum in the batch."""
    lengths, letters = (
        compared_in_groups(one) / (one.std(1, keepdim=True) + 1e-4) for one in rewards_of(answers)
    )
    total = 1.5 * lengths + 0.7 * letters
    return (total - total.mean()) / (total.std() + 1e-4)


def divided(answers: Sequence[Answer], over: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    rewards = weighted(answers)
    return compared_in_groups(rewards) / (over(rewards) + 1e-4)


GRPO_ADVANTAGES: Mapping[str, tuple[dict[str, Any], Callable[[Sequence[Answer]], Any]]] = {
    # 2402.03300, section 4.1.2: (r - mean(r)) / std(r) in each group.
    "of the group": ({}, lambda found: divided(found, lambda one: one.std(1, keepdim=True))),
    "of the batch": (
        {"scale_rewards": "batch"},
        lambda found: divided(found, lambda one: one.std()),
    ),
    # 2503.20783: r - mean(r).
    "unscaled": ({"scale_rewards": "none"}, lambda found: compared_in_groups(weighted(found))),
    "each reward": ({"multi_objective_aggregation": "normalize_then_sum"}, gdpo),
}


@pytest.mark.parametrize("name", GRPO_ADVANTAGES)
def test_advantages_of_grpo_are_the_papers(name, bench, tiny_model_dir):
    """On the first step the gradient is that of -sum_i A_i log pi(answer i), over what it is
    averaged by."""
    settings, advantages = GRPO_ADVANTAGES[name]
    ours = steps_of_ours(grpo(loss_type="dr_grpo", **settings), bench(reference=False), 1)
    wanted = advantages(ours.answers) / (NUM_ANSWERS * MAX_NEW_TOKENS)
    assert_gradients_are(ours, policy_gradient(tiny_model_dir, ours.answers, wanted))


def left_out(rewards: torch.Tensor) -> torch.Tensor:
    """2402.14740, RLOO: each reward less the mean of the others to its prompt."""
    each = [
        [row[at] - torch.cat([row[:at], row[at + 1 :]]).mean() for at in range(len(row))]
        for row in rewards
    ]
    return torch.tensor(each)


RLOO_ADVANTAGES: Mapping[str, tuple[dict[str, Any], Callable[[Sequence[Answer]], Any]]] = {
    "left out": ({}, lambda found: left_out(weighted(found))),
    "clipped": (
        {"reward_clip_range": (0.3, 1.5)},
        lambda found: left_out(weighted(found).clamp(0.3, 1.5)),
    ),
    "normalized": (
        {"normalize_advantages": True},
        # Their mean is 0.
        lambda found: left_out(weighted(found)) / (left_out(weighted(found)).std() + 1e-4),
    ),
}


@pytest.mark.parametrize("name", RLOO_ADVANTAGES)
def test_advantages_of_rloo_leave_one_out(name, bench, tiny_model_dir):
    settings, advantages = RLOO_ADVANTAGES[name]
    ours = steps_of_ours(rloo(beta=0.0, **settings), bench(reference=False), 1)
    wanted = advantages(ours.answers) / NUM_ANSWERS
    assert_gradients_are(ours, policy_gradient(tiny_model_dir, ours.answers, wanted))


def test_rewards_of_rloo_are_less_the_divergence_of_each_answer(bench, tiny_model_dir):
    """2402.14740: r - beta log(pi / pi_ref), of the whole answer."""
    ours = steps_of_ours(rloo(beta=0.2), bench(), 1)
    policy = moved(plain_model(tiny_model_dir), seed=3)
    with torch.no_grad():
        divergence = probabilities(policy, ours.answers)
        divergence = divergence - probabilities(plain_model(tiny_model_dir), ours.answers)
    rewards = weighted(ours.answers) - 0.2 * divergence.view(-1, NUM_GENERATIONS)
    wanted = left_out(rewards) / NUM_ANSWERS
    assert_gradients_are(ours, policy_gradient(tiny_model_dir, ours.answers, wanted))


def plain_model(model_dir: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)


def probabilities(model: Any, answers: Sequence[Answer]) -> torch.Tensor:
    """log pi of each answer, each read alone, at the temperature."""
    found: list[torch.Tensor] = []
    for answer in answers:
        asked_for = len(answer.prompt.tokens)
        ids = torch.tensor([[*answer.prompt.tokens, *answer.tokens]])
        logs = (model(input_ids=ids).logits[0, asked_for - 1 : -1] / TEMPERATURE).log_softmax(-1)
        found.append(logs.gather(-1, ids[0, asked_for:, None]).sum())
    return torch.stack(found)


def policy_gradient(model_dir: Path, answers: Sequence[Answer], weights: torch.Tensor) -> Gradients:
    model = moved(plain_model(model_dir), seed=3)
    (-(weights.flatten() * probabilities(model, answers)).sum()).backward()
    return gradients_of(model)


def assert_gradients_are(ours: Steps, wanted: Gradients) -> None:
    loss, gradients = ours.each[0]
    assert_equal((loss, gradients), (loss, wanted))
