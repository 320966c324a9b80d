"""The training loop: plan, data and model -> a trained model and the record of how it was made."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import torch
from accelerate import Accelerator

from framework.core.evaluation import Evaluation
from framework.core.problems import Interrupted, Problem, RunFailed, UserError
from framework.data.prepared import PreparedData
from framework.data.units import ids_of
from framework.engine.announce import announcement, described, planned
from framework.engine.batches import micro_batches
from framework.engine.checkpoint import (
    Progress,
    newest_checkpoint,
    read_progress,
    save_checkpoint,
)
from framework.engine.collectives import sum_over_processes
from framework.engine.console import TrainingDisplay
from framework.engine.evaluate import evaluation_loss
from framework.engine.feed import make_feed
from framework.engine.generate import TextGenerator
from framework.engine.parameter_groups import parameter_groups
from framework.engine.result import Result
from framework.engine.run_directory import RunDirectory
from framework.engine.stop import StopRequest, listen_for_stop
from framework.models.collate import on_device
from framework.models.load import Bundle
from framework.models.policy import CausalPolicy
from framework.planning.plan import Plan, Steps, make_steps


def fit(plan: Plan, data: PreparedData, bundle: Bundle, directory: RunDirectory) -> Result:
    """Trains, from the newest checkpoint if there is one.

    Raises:
        Interrupted: a signal asked for a stop; the state is saved.
        RunFailed: the loss is no longer a number.
    """
    run = _Run(plan, data, bundle, directory)
    with listen_for_stop() as stop:
        return run.to_the_end(stop)


class _Run:
    """What the loop's parts share; one instance, one run."""

    def __init__(
        self, plan: Plan, data: PreparedData, bundle: Bundle, directory: RunDirectory
    ) -> None:
        self.plan, self.data, self.bundle, self.directory = plan, data, bundle, directory
        self.recipe, self.trainer = plan.recipe, plan.recipe.trainer
        self.method = self.trainer.method
        num_units = data.train.num_units if data.stream is None else None
        self.steps: Steps = make_steps(self.recipe, num_units)
        self.feed = make_feed(data.stream or data.train, self.trainer)
        scaled = "fp16" if plan.autocast_dtype == "float16" else "no"
        self.accelerator: Accelerator = self.recipe.strategy.accelerator(scaled)
        _compare_worlds(plan, self.accelerator)
        groups = parameter_groups(bundle.model, self.trainer.weight_decay)
        optimizer = self.trainer.optimizer.build(groups, self.trainer.learning_rate)
        self.model, self.optimizer = self.accelerator.prepare(bundle.model, optimizer)
        # Accelerate would step a prepared scheduler once for each process; ours counts steps.
        self.scheduler = self.trainer.lr_scheduler_type.build(
            optimizer, self.steps.warmup_steps, self.steps.num_steps
        )
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.policy = CausalPolicy(self.model, plan.autocast_dtype)
        self.trackers = self.recipe.tracking.trackers if directory.is_main else ()
        self.progress = Progress()
        self.display = TrainingDisplay(
            self.steps.num_steps, plan.output_dir / "log.txt" if directory.is_main else None
        )

    # ---- the line

    def to_the_end(self, stop: StopRequest) -> Result:
        """Resume, measure, train, measure."""
        for line in announcement(self.plan, self.data, self.bundle, self.steps):
            self.display.say(line)
        self._resume()
        self.directory.write("preparation.json", described(self.data))
        self.directory.write("plan.json", planned(self.plan, self.bundle, self.steps))
        for tracker in self.trackers:
            settings = self.directory.read("settings.json")
            tracker.start(self.plan.output_dir.name, self.plan.output_dir, settings)
        try:
            before = self._evaluators("before")
            with self.display:
                self._train(stop)
            after = self._evaluators("after")
        finally:
            for tracker in self.trackers:
                tracker.finish()
        return Result(
            output_dir=self.plan.output_dir,
            num_steps=self.progress.step,
            training_seconds=self.progress.training_seconds,
            eval_loss=self.progress.eval_loss,
            before=before,
            after=after,
        )

    def _train(self, stop: StopRequest) -> None:
        self.model.train()
        while self.progress.step < self.steps.num_steps and not self._patience_ended():
            stopping = self._step(stop)
            done = self.progress.step
            last = done == self.steps.num_steps
            if last or (self.steps.evaluate_every and done % self.steps.evaluate_every == 0):
                self._evaluate()
            patience_ended = self._patience_ended()
            if last or stopping or patience_ended or done % self.steps.checkpoint_every == 0:
                self._save()
            if patience_ended:
                self.display.say(f"stopped early at step {done}: evaluation no longer improves")
            elif stopping and not last:
                raise Interrupted(
                    f"stopped by a signal after step {done}; the state is saved",
                    hint="start the same command again to go on",
                )

    def _step(self, stop: StopRequest) -> bool:
        """One optimizer step; True when some process was asked to stop."""
        started = time.monotonic()
        step = self.progress.step
        # Dropout is a function of (seed, step, rank), so a resumed run draws the same.
        torch.manual_seed(_mix(self.trainer.seed, step, self.accelerator.process_index))
        batches = self._batches(step)
        num_labels = sum(batch.labels.numel() for batch in batches)
        num_tokens = sum(batch.input_ids.numel() for batch in batches if batch.sample_ids)
        total_labels, total_tokens, num_stopping = sum_over_processes(
            self.accelerator, [num_labels, num_tokens, bool(stop)]
        )
        loss = torch.zeros((), device=self.accelerator.device)
        for index, batch in enumerate(batches):
            last = index == len(batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                part = self.method.loss(self.policy, None, batch)
                # Processes average their gradients; times their number it is the sum.
                scale = self.accelerator.num_processes / max(total_labels, 1)
                self.accelerator.backward(part.sum * scale)
            loss += part.sum.detach()
        mean_loss = sum_over_processes(self.accelerator, [loss])[0] / max(total_labels, 1)
        grad_norm = self._clip()
        self._refuse_nan(mean_loss, grad_norm)
        learning_rate = float(self.scheduler.get_last_lr()[0])
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        seconds = time.monotonic() - started
        self.progress.step += 1
        self.progress.num_tokens += int(total_tokens)
        self.progress.num_trained_tokens += int(total_labels)
        self.progress.training_seconds += seconds
        self._log(
            loss=mean_loss,
            grad_norm=grad_norm,
            learning_rate=learning_rate,
            tokens_per_second=total_tokens / seconds,
        )
        return num_stopping > 0

    # ---- parts of a step

    def _batches(self, step: int) -> list[Any]:
        batches = micro_batches(
            self.feed.global_batch(step),
            rank=self.accelerator.process_index,
            num_processes=self.accelerator.num_processes,
            micro_batch_size=self.trainer.micro_batch_size,
            global_batch_size=self.trainer.global_batch_size,
        )
        return [on_device(batch, self.accelerator.device) for batch in batches]

    def _clip(self) -> float:
        limit = self.trainer.max_grad_norm
        norm = self.accelerator.clip_grad_norm_(
            self.parameters, float("inf") if limit is None else limit
        )
        return float(norm) if norm is not None else 0.0

    def _refuse_nan(self, loss: float, grad_norm: float) -> None:
        scaled = self.plan.autocast_dtype == "float16"  # the scaler skips overflowing steps itself
        if _is_finite(loss) and (scaled or _is_finite(grad_norm)):
            return
        step = self.progress.step
        ids = ids_of(self.feed.global_batch(step))
        self.directory.append("samples.jsonl", {"step": step + 1, "ids": ids})
        raise RunFailed(
            f"step {step + 1}: loss is {loss}, gradient norm is {grad_norm}; "
            f"its samples: {', '.join(ids)}",
            hint="the step was not applied; look at these rows with `framework preview`, "
            "lower trainer.learning_rate, or write model.dtype: float32",
        )

    # ---- measuring

    def _log(self, **metrics: float) -> None:
        done = self.progress.step
        row = {
            "step": done,
            "epoch": self.feed.epoch(done),
            **metrics,
            "num_tokens": self.progress.num_tokens,
            "num_trained_tokens": self.progress.num_trained_tokens,
            "peak_rss_bytes": peak_rss_bytes(),
        }
        ids = ids_of(self.feed.global_batch(done - 1))
        self.directory.append("samples.jsonl", {"step": done, "ids": ids})
        self.display.step(row)
        if done % self.recipe.tracking.log_steps == 0 or done == self.steps.num_steps:
            self._record(row)

    def _record(self, row: Mapping[str, float]) -> None:
        self.directory.append("metrics.jsonl", row)
        shown = {name: value for name, value in row.items() if name != "step"}
        for tracker in self.trackers:
            tracker.log(int(row["step"]), shown)

    def _evaluate(self) -> None:
        if self.data.eval is not None:
            loss = evaluation_loss(
                self.accelerator,
                self.model,
                self.policy,
                self.method,
                self.data.eval,
                self.trainer.micro_batch_size,
            )
            self._note_eval_loss(loss)
            epoch = self.feed.epoch(self.progress.step)
            self._record({"step": self.progress.step, "epoch": epoch, "eval_loss": loss})
            self.display.say(f"step {self.progress.step}: evaluation loss {loss:.4f}")
        self._watch()

    def _note_eval_loss(self, loss: float) -> None:
        progress, stopping = self.progress, self.recipe.evaluation.early_stopping
        margin = stopping.min_delta if stopping else 0.0
        best = progress.best_eval_loss
        if best is None or loss < best - margin:
            progress.best_eval_loss = loss
            progress.evaluations_without_improvement = 0
        else:
            progress.evaluations_without_improvement += 1
        progress.eval_loss = loss

    def _patience_ended(self) -> bool:
        stopping = self.recipe.evaluation.early_stopping
        waited = self.progress.evaluations_without_improvement
        return stopping is not None and waited >= stopping.patience

    def _watch(self) -> None:
        """Answers to a few held-out rows, to watch the model learn."""
        evaluation = self.recipe.evaluation
        samples = self.data.test[: evaluation.num_generations]
        if not samples:
            return
        for index, answer in enumerate(self._generator(evaluation.max_new_tokens)(samples)):
            self.directory.append(
                "generations.jsonl",
                {"step": self.progress.step, "row": index, "answer": answer},
            )

    def _evaluators(self, when: str) -> list[Evaluation]:
        """The evaluators' findings; those from before training are kept over restarts."""
        name = f"evaluations_{when}.json"
        evaluators = self.recipe.evaluation.evaluators
        if when == "before" and self.progress.step:
            written = self.directory.read(name) or []
            # A resumed run may have other evaluators; the untrained model is gone by now.
            same = len(written) == len(evaluators)
            return [evaluation_from_json(one) for one in written] if same else []
        found: list[Evaluation] = []
        for evaluator in evaluators:
            self.display.say(f"{when} training: asking {evaluator.num_rows} held-out requests")
            generate = self._generator(evaluator.max_new_tokens)
            found.append(evaluator.evaluate(self.data.test[: evaluator.num_rows], generate))
        self.directory.write(name, [asdict(evaluation) for evaluation in found])
        return found

    def _generator(self, max_new_tokens: int) -> TextGenerator:
        return TextGenerator(
            accelerator=self.accelerator,
            model=self.accelerator.unwrap_model(self.model),
            tokenizer=self.data.tokenizer,
            chat=self.data.chat,
            end_token_ids=self.data.end_token_ids,
            max_new_tokens=max_new_tokens,
            autocast_dtype=self.plan.autocast_dtype,
        )

    # ---- saving

    def _save(self) -> None:
        self.accelerator.wait_for_everyone()
        strategy = self.recipe.strategy
        if self.directory.is_main:
            save_checkpoint(
                self.plan.output_dir / "checkpoints",
                self.progress,
                {"scheduler": self.scheduler.state_dict(), "feed": self.feed.state()},
                self.feed.fingerprint,
                lambda folder: strategy.save_state(
                    self.accelerator, self.model, self.optimizer, folder
                ),
                self.recipe.checkpoint.keep_last,
            )
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        from accelerate.utils import broadcast_object_list

        found: list[Any] = [None]
        if self.directory.is_main:
            path, warnings = newest_checkpoint(self.plan.output_dir / "checkpoints")
            for warning in warnings:
                self.display.say(f"warning: {warning}")
            found = [path]
        broadcast_object_list(found)
        path = found[0]
        self.directory.forget_after(0 if path is None else _step_of(path.name))
        if path is None:
            return
        self.progress, states = read_progress(path, self.feed.fingerprint)
        self.recipe.strategy.load_state(self.accelerator, self.model, self.optimizer, path)
        self.scheduler.load_state_dict(states["scheduler"])
        self.feed.restore(states["feed"], self.progress.step)
        self.display.resume_at(self.progress.step)


def evaluation_from_json(written: Mapping[str, Any]) -> Evaluation:
    """What `asdict` made of an evaluation, back."""
    from framework.core.evaluation import Answer

    answers = tuple(Answer(**answer) for answer in written["answers"])
    return Evaluation(metric=written["metric"], value=written["value"], answers=answers)


def peak_rss_bytes() -> int:
    """The most memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _compare_worlds(plan: Plan, accelerator: Accelerator) -> None:
    """Processes that don't know of each other would each train the whole recipe."""
    if accelerator.num_processes == plan.world.num_processes:
        return
    raise UserError(
        Problem(
            what=f"{plan.world.num_processes} processes were started, "
            f"{accelerator.num_processes} of them work together",
            hint="on a CPU: ACCELERATE_USE_CPU=true accelerate launch --multi_gpu "
            "--num_processes N ...",
        )
    )


def _mix(seed: int, step: int, rank: int) -> int:
    return (seed * 1_000_003 + step) * 65_537 + rank & (1 << 63) - 1


def _is_finite(value: float) -> bool:
    return value - value == 0.0


def _step_of(name: str) -> int:
    return int(name.rsplit("-", 1)[1])
