"""Prompts of a step -> the model's own answers, and what it learns from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from accelerate import Accelerator
from torch import Tensor

from framework.core.batch import Policy
from framework.core.protocols.strategies import Spread
from framework.core.protocols.training import Online
from framework.core.rollouts import Prompt
from framework.core.spans import span
from framework.data.prepared import PreparedData
from framework.data.store import Store
from framework.distributed.collectives import sum_over_processes
from framework.engine.feed import Feed
from framework.engine.passes import Passed, with_penalty
from framework.engine.reference import separate_model
from framework.online.bench import Workbench
from framework.online.prompts import read_prompt
from framework.online.sampling import Sampler
from framework.online.scoring import Scoring
from framework.planning.plan import Plan
from framework.recipe.cadence import is_saved
from framework.runs.run_directory import RunDirectory


class AnswerPasses:
    """What is trained is what the model answers, as rewards judge it."""

    def __init__(
        self,
        plan: Plan,
        data: PreparedData,
        method: Online,
        accelerator: Accelerator,
        spread: Spread,
        policy: Policy,
        reference: Policy | None,
        feed: Feed,
        directory: RunDirectory,
    ) -> None:
        self.accelerator, self.method, self.feed = accelerator, method, feed
        self.directory = directory
        self.trainer = plan.recipe.trainer
        self.spread = spread
        self.bench = Workbench(
            accelerator=accelerator,
            model=spread.model,
            policy=policy,
            reference=reference,
            reference_model=separate_model(reference, spread.plain),
            tokenizer=data.tokenizer,
            end_token_ids=data.end_token_ids,
            scoring=Scoring.start(method.rewards, str(accelerator.device)),
            autocast_dtype=plan.autocast_dtype,
            global_batch_size=self.trainer.global_batch_size,
            micro_batch_size=_answers_of_a_pass(plan),
            folder=plan.output_dir / ".online",
            seed=self.trainer.seed,
        )
        self.learner = method.learner(self.bench)
        self.answered = -1
        """The batch of prompts that `learner` holds answers to."""

    def backward(self, step: int, penalty: Tensor | None) -> Passed:
        """See `Passes`."""
        rolled: Mapping[str, float] = {}
        number = step // self.method.num_iterations
        if number != self.answered:
            prompts = self._prompts(step)
            with span("answers"):
                rolled = self.learner.roll_out(prompts)
            self.answered = number
            self._show(step)
        num_passes = self.learner.num_passes
        total = 0.0
        for index in range(num_passes):
            last = index == num_passes - 1
            with self.spread.one_pass(last=last):
                with span("loss"):
                    loss = self.learner.loss(index)
                with span("backward"):
                    self.spread.backward(with_penalty(loss, penalty if last else None), last=last)
            total += float(loss.detach())
        answers = self.learner.answers
        num_said = sum(len(answer.tokens) for answer in answers)
        num_asked = sum(len(answer.prompt.tokens) for answer in answers)
        losses, said, asked = sum_over_processes(self.accelerator, [total, num_said, num_asked])
        return Passed(
            means={
                "loss": losses / self.accelerator.num_processes,
                **rolled,
                **self.learner.metrics(),
            },
            num_tokens=said + asked,
            num_trained_tokens=said,
            num_passes=num_passes,
        )

    def evaluate(self, store: Store) -> Mapping[str, float]:
        """The mean rewards of answers to held-out prompts, sampled as in training; `loss` is minus
        the mean reward."""
        rank, size = self.accelerator.process_index, self.accelerator.num_processes
        mine = range(rank, store.num_samples, size)
        prompts = [read_prompt(store.sample_id(one), store.features(one)) for one in mine]
        sampler = Sampler(
            bench=self.bench,
            sampling=self.method.sampling,
            max_new_tokens=self.method.max_new_tokens,
        )
        answers = sampler(prompts)
        self.bench.scoring.total(answers)
        means = self.bench.scoring.means(self.accelerator, answers)
        return {"loss": -means["reward"], **means}

    def can_save(self, num_steps: int, every: int) -> bool:
        """Only after the last step on a batch of answers, which no checkpoint keeps."""
        return is_saved(num_steps, every, self.method.num_iterations)

    def close(self) -> None:
        """See `Passes`."""
        self.learner.close()

    @span("data")
    def _prompts(self, step: int) -> Sequence[Prompt]:
        """Those of this process, each as often as it answers it."""
        units = self.feed.global_batch(step)
        prompts = [
            read_prompt(name, features)
            for unit in units
            for name, features in zip(unit.sample_ids, unit.features, strict=True)
        ]
        asked = [one for one in prompts for _ in range(self.method.num_generations)]
        share = len(asked) // self.accelerator.num_processes
        first = self.accelerator.process_index * share
        return asked[first : first + share]

    def _show(self, step: int) -> None:
        """The first answers of the step, to watch the model learn."""
        scores = self.bench.scoring.latest
        for row, answer in enumerate(self.learner.answers[: self.method.num_shown]):
            shown = {
                "step": step + 1,
                "id": answer.prompt.identifier,
                "answer": answer.text,
                "truncated": answer.truncated,
                "rewards": {name: numbers[row] for name, numbers in scores.items()},
            }
            self.directory.append("answers.jsonl", shown)


def _answers_of_a_pass(plan: Plan) -> int:
    number = plan.pass_size.num_units
    assert number is not None, "how long answers will be is not known"
    return number
