"""The engine: Lightning minimises an objective over rows."""

from __future__ import annotations

import atexit
import gc
import logging
import math
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, distributed, nn

from uncollapse._utils.errors import InputError, NonFiniteLossError, ParameterError, one_line
from uncollapse._utils.optimizers import optimizer_state, restore_optimizer
from uncollapse._utils.progress import progress_bar
from uncollapse._utils.random import derived_seed, seeded
from uncollapse._utils.sharding import Share, sharing
from uncollapse._utils.signals import INTERRUPTS, Interrupt, deferred_interrupt
from uncollapse.models import VAE
from uncollapse.objectives import Loss, elbo
from uncollapse.strategies import Joint, Strategy
from uncollapse.training.batches import Rows, random_rows
from uncollapse.training.budget import Budget, Meter
from uncollapse.training.constants import AfterStep
from uncollapse.training.log import JsonLines
from uncollapse.training.resume import Checkpoint

WARMUP_SHARE = 0.02  # of the steps, in which the learning rate rises
CHECKPOINT_SHARE = 0.02  # of the time, that writing down the state may take
GRACE_SECONDS = 10  # that a process waits at its end for those that have trained with it
COLUMNS = (
    "epoch",
    "loss",
    "reconstruction",
    "kl",
    "seconds",
    "evaluations",
    "validation",
)  # of a row of a history
SECONDS, EVALUATIONS = COLUMNS.index("seconds"), COLUMNS.index("evaluations")


def train(
    model: VAE,
    objective: Callable[[VAE, Tensor, int], Loss],
    rows: Rows,
    *,
    max_epochs: int,
    learning_rate: float,
    seed: int,
    history: list[tuple[float, ...]],
    strategy: Strategy | None = None,
    budget: Budget | None = None,
    steps_before: int = 0,
    after_step: AfterStep | None = None,
    validation: Tensor | None = None,
    watched: np.ndarray | None = None,
    callbacks: Sequence[pl.Callback] = (),
    loggers: Sequence[Any] = (),
    checkpoint: Checkpoint | None = None,
    phase: str = "training",
    hardware: Mapping[str, Any] | None = None,
    verbose: bool = True,
) -> None:
    """Minimise an objective by Adam. The model is trained in place and stays on the device that it
    was trained on.

    Args:
        model: what to train.
        objective: what to minimise; a function of the model, a batch, and the number of the step,
            `steps_before` included. Where it has parameters, they are trained as well.
        rows: what to learn from.
        max_epochs: passes over the rows; with a budget, what schedules are made for.
        learning_rate: of Adam, at its highest; it rises over the first 2% of the steps, and falls
            to 0 along half a cosine.
        seed: decides all draws. The global generators are left as they were.
        history: gains a row at the end of each epoch: its number, counted on from those that are
            there; the means over its batches of the loss, of -E log p(x|z) and of the KL, in nats
            per example; the seconds since the start of the first, and the evaluations of the
            decoder; and, with `validation`, the negative ELBO on those rows.
        strategy: what is done about the posterior beside the steps; nothing if not given.
        budget: goes over `max_epochs`: training ends once it is used up, and all that follows the
            number of the step follows the share that is used.
        steps_before: those of a training that this one goes on with.
        after_step: called with the number of each step, the share of the learning rate in force,
            and its KL and draws, once the parameters have moved.
        validation: rows by whose ELBO the best epoch is found, whatever the objective is. The model
            ends as it was after that epoch, whatever ended the training. Where constants are
            adjusted to a wanted KL, epochs that have not got it are none of the best.
        watched: rows that the strategy may look at, as the family observes them.
        callbacks: of Lightning, which must leave the model alone.
        loggers: of Lightning, which are told what the progress bar shows at the end of each epoch.
        checkpoint: where the state is written down, whenever that takes less than 2% of the time,
            and at the end. A state that is there is taken up first: what follows is the same, bit
            for bit, as if there had been no interruption.
        phase: what the state goes by there.
        hardware: arguments of Lightning's trainer: accelerator, devices, num_nodes, strategy,
            precision. Processes share a batch.
        verbose: show a progress bar where there is a terminal.

    Raises:
        NonFiniteLossError: if a loss or a parameter is not finite. The model is back at the best
            epoch, or without `validation` at the start of the last epoch that began with a finite
            loss, and the history ends there.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once the running step has ended. The model keeps
            what it has learned.
        InputError: if Lightning cannot use the hardware, the state cannot be read or written, or
            another process has died.
    """
    held_out = None if validation is None else torch.split(validation, rows.batch_size)
    saved = None if checkpoint is None else checkpoint.read(phase)
    training = Training(
        model,
        objective,
        rows,
        learning_rate,
        seed,
        history,
        max_epochs,
        steps_before,
        budget,
        strategy or Joint(),
        after_step,
        held_out,
        None if checkpoint is None else lambda state: checkpoint.write(phase, state),
    )
    training.strategy.begin(training, watched)
    if saved is not None:
        training.resume(saved)
    if saved is None or not saved["is_over"]:
        logs = [] if checkpoint is None else [JsonLines(checkpoint.open_log(len(history)))]
        try:
            _minimise(
                training,
                max_epochs,
                callbacks,
                [*logs, *loggers],
                hardware or {"accelerator": "cpu", "devices": 1},
                verbose,
            )
        # data that were lost, a disk that is full: what has been learned is kept, if it is any good
        except InputError:
            training.go_back_if_broken()
            raise
    training.restore_best()
    if training.stopped_by:
        raise INTERRUPTS[training.stopped_by]


def _minimise(
    training: Training,
    max_epochs: int,
    callbacks: Sequence[pl.Callback],
    loggers: Sequence[Any],
    hardware: Mapping[str, Any],
    verbose: bool,
) -> None:
    with (
        _quiet_lightning(),
        deferred_interrupt() as interrupt,
        seeded(training.seed),
        progress_bar("training", training.n_steps, verbose) as advance,
        training.meter.counting(training.model),
    ):
        try:
            trainer = pl.Trainer(
                max_epochs=max_epochs - training.epochs_done if training.budget is None else -1,
                callbacks=[_Watch(advance), *callbacks],
                logger=list(loggers) or False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
                **hardware,
            )
        except MisconfigurationException as error:
            raise ParameterError(f"Lightning cannot train on this hardware: {error}") from None
        training.interrupt = interrupt
        try:
            trainer.fit(training, _Feed(training))
        except RuntimeError as error:
            if trainer.world_size == 1 or not _is_loss_of_process(error):
                raise
            _forget_the_others()
            raise InputError(
                f"one of {trainer.world_size} processes that train together has died, in epoch "
                f"{training.epoch} "
                f"({one_line(error)}): find out why, such as too little memory, and go on from the "
                "last state (--resume)."
            ) from None
        device = trainer.strategy.root_device
    if trainer.world_size > 1:
        _release(trainer)
    training.model.to(device)  # Lightning has taken it off


def _is_loss_of_process(error: RuntimeError) -> bool:
    """Whether it came from the other end of a connection."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def _forget_the_others() -> None:
    """Keep Lightning from killing this process, too, before it has said what has happened."""
    for thread in threading.enumerate():
        if isinstance(thread, _ChildProcessObserver):
            thread._child_processes = []
    atexit.unregister(_leave)


def _release(trainer: pl.Trainer) -> None:
    """Let go of what holds on to the group of processes, and see to it that all leave the group
    together at the end.

    A group that ends while a wrapped model is alive, or before all others are ready, aborts.
    """
    trainer.strategy.model = None
    gc.collect()
    atexit.unregister(_leave)
    atexit.register(_leave)


def _leave() -> None:
    if not distributed.is_initialized():
        return
    with suppress(
        RuntimeError
    ):  # where another one has not come to its end, it is not to be waited for
        distributed.monitored_barrier(timeout=timedelta(seconds=GRACE_SECONDS))
    distributed.destroy_process_group()


class Batch(NamedTuple):
    """Rows for a step, and which of a batch they are where processes share it."""

    rows: Tensor
    share: Share | None


class _Feed:
    """The batches of the epochs that are left, or this process's share of them, as Lightning asks
    for them."""

    def __init__(self, training: Training) -> None:
        self.training = training

    def __iter__(self) -> Iterator[Batch]:
        training = self.training
        for rows in training.rows.batches(training.epochs_done, training.batches_done):
            yield training.share_out(rows)


class _Snapshot(NamedTuple):
    """A model at one moment."""

    loss: float
    state: dict[str, Tensor]
    constants: tuple[float, ...]


class Training(pl.LightningModule):
    """A model and its objective as Lightning wants to see them.

    Attributes:
        epochs_done: whole epochs, those of the training that this one takes up among them.
        batches_done: of the running epoch, as it was when this process began it.
        stopped_by: the signal that has ended it; 0 if none has.
        is_cut: whether that was within an epoch, whose state has been written down.
    """

    def __init__(
        self,
        model: VAE,
        objective: Callable[[VAE, Tensor, int], Loss],
        rows: Rows,
        learning_rate: float,
        seed: int,
        history: list[tuple[float, ...]],
        max_epochs: int,
        steps_before: int,
        budget: Budget | None,
        strategy: Strategy,
        after_step: AfterStep | None,
        held_out: Sequence[Tensor] | None,
        write: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.rows = rows
        self.learning_rate = learning_rate
        self.seed = seed
        self.history = history
        self.n_steps = max_epochs * rows.n_batches
        self.steps_before = steps_before
        self.budget = budget
        self.meter = Meter()
        self.strategy = strategy
        self.after_step = after_step
        self.held_out = held_out
        self.write = write
        self.interrupt = Interrupt()
        self.stopped_by, self.is_cut = 0, False
        self.best = _Snapshot(math.inf, {}, ())  # by the bound on what was held out
        self.epochs_before = len(history)
        self.seconds_before = history[-1][SECONDS] if history else 0.0
        self.evaluations_before = int(history[-1][EVALUATIONS]) if history else 0
        self.epochs_done = self.batches_done = self.steps_resumed = 0
        self.good_epochs = 0
        self.good = _Snapshot(math.nan, {}, ())
        self.saved: dict[str, Any] | None = None  # what the running epoch goes on with
        self.write_ended, self.write_took = time.perf_counter(), 0.0

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.learning_rate, fused=True)
        if self.saved is not None:
            restore_optimizer(optimizer, self.saved["optimizer"])
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: self.rate_share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def epoch(self) -> int:
        """The number of the epoch, counted on from those of the history that was there."""
        return self.epochs_before + self.epochs_done

    @property
    def steps_done(self) -> int:
        """Steps so far, those of the training that this one takes up among them."""
        return self.steps_resumed + self.global_step

    @property
    def step(self) -> int:
        """The number of the step that schedules go by, counted on as well."""
        return self.steps_before + int(self.place)

    @property
    def place(self) -> float:
        """How far training has come, in steps of `max_epochs`, whether it is steps that are counted
        or what they use up."""
        return (
            self.steps_done if self.budget is None else self.meter.share(self.budget) * self.n_steps
        )

    @property
    def rate_share(self) -> float:
        """The share of the learning rate in force."""
        return learning_rate_share(self.place, self.n_steps)

    @property
    def is_over(self) -> bool:
        """Whether the budget is used up."""
        return self.budget is not None and self.place >= self.n_steps

    def loss(self, batch: Tensor) -> Tensor:
        """The loss on rows, as `TrainingState` has it."""
        return self._evaluate(batch).value

    def random_batch(self) -> Tensor:
        """One of the batches of the epoch, as `TrainingState` has it."""
        return self.rows.random_batch(self.epochs_done).to(self.device)

    def share_out(self, rows: Tensor) -> Batch:
        """The rows of a batch that are this process's."""
        if self.trainer.world_size == 1:
            return Batch(rows, None)
        share = Share.of(len(rows), self.trainer.global_rank, self.trainer.world_size)
        return Batch(share.take(rows), share)

    def sample_rows(self, n: int) -> np.ndarray:
        """At most so many rows, of those that are held out if there are some."""
        return (
            self.rows.sample(n)
            if self.held_out is None
            else random_rows(torch.cat(list(self.held_out)), n)
        )

    def on_train_start(self) -> None:
        self.interrupt.listen()  # Lightning has begun to, and would end the process

    def on_train_epoch_start(self) -> None:
        # Draws depend on the seed and the epoch alone, or go on where they were.
        torch.manual_seed(derived_seed(self.seed, "draws", self.epochs_done))
        self.sums = torch.zeros(3, device=self.device)
        self.rows_seen = 0
        if self.saved is not None and self.batches_done:
            self._resume_epoch(self.saved)
        elif self.epochs_done:
            self._write_if_due()
        self.saved = None

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        self.batch_index = self.batches_done + batch_index
        with sharing(batch.share):
            self.strategy.before_step(self, batch.rows)
            loss, terms = self._evaluate(batch.rows)
        if self.rows_seen == 0:
            self._keep_state()
        self.last_rows, self.last_z = batch, terms.latents.z
        means = torch.stack((loss, -terms.log_px_z.mean(), terms.latents.kl.mean())).detach()
        n_rows, weight = len(batch.rows), 1.0
        if batch.share is not None:
            n_rows, weight = batch.share.total, batch.share.size / batch.share.total
            means *= weight
            distributed.all_reduce(means)
        self.last_kl = means[2]
        self.sums += n_rows * means
        self.rows_seen += n_rows
        return loss * (weight * self.trainer.world_size)

    def _evaluate(self, rows: Tensor) -> Loss:
        found = self.objective(self.model, self.model.family.observe(rows), self.step)
        if not self._everywhere(found.value.isfinite()):
            where = f"at step {self.steps_done}, batch {self.batch_index} of epoch {self.epoch}"
            self._fail(f"the loss became {found.value.item()} {where}")
        return found

    def _everywhere(self, true: Tensor) -> bool:
        """Whether it is true in all processes."""
        if self.trainer.world_size == 1:
            return bool(true)
        return bool(self.trainer.strategy.reduce_boolean_decision(bool(true)))

    def on_after_backward(self) -> None:
        self.strategy.after_backward(self)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.after_step is not None:
            with sharing(batch.share):
                self.after_step(self.steps_done, self.rate_share, float(self.last_kl), self.last_z)
        self.stopped_by = self._stopped()
        if self.stopped_by or self.is_over:
            self.trainer.should_stop = True
        if not self.trainer.is_last_batch:
            self.is_cut = bool(self.stopped_by)
            self._write_if_due(batch_idx + 1)

    def _stopped(self) -> int:
        number = self.interrupt()
        if self.trainer.world_size == 1:
            return number
        found = torch.tensor(number, device=self.device)
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return int(found)

    def on_train_epoch_end(self) -> None:
        if not self._is_sound:
            self._fail(
                f"a parameter became non-finite in epoch {self.epoch}, by step {self.steps_done}"
            )
        self.strategy.after_epoch(self)
        means = (self.sums / self.rows_seen).tolist()
        row = (
            self.epoch,
            *means,
            self.seconds_before + self.meter.seconds,
            self.evaluations_before + self.meter.evaluations,
        )
        if self.held_out is not None:
            loss = self._validate(self.held_out)
            row = (*row, loss)
            if loss < self.best.loss and (
                self.after_step is None or self.after_step.settled(means[-1])
            ):
                self.best = self._snapshot(loss)
        self.history.append(row)
        self._log(row)
        self.epochs_done, self.batches_done = self.epochs_done + 1, 0

    def _log(self, row: tuple[float, ...]) -> None:
        """Tell loggers what the progress bar shows, and what is in force."""
        if not self.loggers:
            return
        constants = {
            f"inverse_lipschitz_{index}": value
            for index, value in enumerate(self.model.decoder.constants, 1)
        }
        shown = {
            **dict(zip(COLUMNS, row, strict=False)),
            "learning_rate": self.learning_rate * self.rate_share,
            **constants,
        }
        self.log_dict(
            {name: torch.tensor(value, dtype=torch.float32) for name, value in shown.items()}
        )

    @torch.no_grad()
    def _validate(self, batches: Sequence[Tensor]) -> float:
        """The negative ELBO on rows that training does not see, at the same draws each time."""
        self.model.eval()
        with seeded(derived_seed(self.seed, "validation")):
            observed = (self.model.family.observe(batch.to(self.device)) for batch in batches)
            losses = [
                elbo(self.model, batch, self.n_steps).value * len(batch) for batch in observed
            ]
        self.model.train()
        return float(torch.stack(losses).sum()) / sum(map(len, batches))

    def restore_best(self) -> None:
        """Take the model back to the best epoch, if one was looked for."""
        if self.best.state:
            self._restore(self.best)

    def on_train_end(self) -> None:
        # The parameters that the last step left have not been tried yet, but on what was held out.
        evaluations = self.meter.evaluations
        if self.held_out is None:
            with torch.no_grad(), sharing(self.last_rows.share):
                observed = self.model.family.observe(self.last_rows.rows.to(self.device))
                loss, _ = self.objective(self.model, observed, self.step)
            if not self._everywhere(loss.isfinite()):
                self._fail(
                    f"the loss became {loss.item()} after step {self.steps_done - 1}, the last"
                )
        self.meter.evaluations = evaluations  # a look is not training
        if self.write is not None and not self.is_cut and self.trainer.is_global_zero:
            self.write(self.state(is_over=not self.stopped_by or self.place >= self.n_steps))

    def state(self, batches_done: int = 0, is_over: bool = False) -> dict[str, Any]:
        """All that a training must know that takes this one up.

        Args:
            batches_done: of the running epoch.
            is_over: whether nothing is left to do.
        """
        devices = (
            {"cuda": torch.cuda.get_rng_state(self.device)} if self.device.type == "cuda" else {}
        )
        optimizer = self.optimizers()
        return {
            "model": self.model.state_dict(),
            "constants": self.model.decoder.constants,
            "objective": self.objective.state_dict()
            if isinstance(self.objective, nn.Module)
            else {},
            "optimizer": optimizer_state(optimizer),  # type: ignore[arg-type]
            "strategy": self.strategy.state(),
            "generators": {"cpu": torch.get_rng_state(), **devices},
            "epochs_done": self.epochs_done,
            "batches_done": batches_done,
            "steps_done": self.steps_done,
            "sums": self.sums,
            "rows_seen": self.rows_seen,
            "seconds": self.meter.seconds,
            "evaluations": self.meter.evaluations,
            "history": self.history[self.epochs_before :],
            "best": self.best._asdict(),
            "good": self.good._asdict(),
            "good_epochs": self.good_epochs,
            "is_over": is_over,
        }

    def resume(self, saved: dict[str, Any]) -> None:
        """Take up a state, but for what belongs to the running epoch."""
        self.saved = saved
        self.model.load_state_dict(saved["model"])
        self.model.decoder.set_constants(saved["constants"])
        if isinstance(self.objective, nn.Module):
            self.objective.load_state_dict(saved["objective"])
        self.strategy.restore(saved["strategy"])
        self.epochs_done, self.batches_done = saved["epochs_done"], saved["batches_done"]
        self.steps_resumed = saved["steps_done"]
        self.meter = Meter(saved["evaluations"], saved["seconds"])
        self.history += [tuple(row) for row in saved["history"]]
        self.best, self.good = _Snapshot(**saved["best"]), _Snapshot(**saved["good"])
        self.good_epochs = saved["good_epochs"]

    def _resume_epoch(self, saved: dict[str, Any]) -> None:
        self.sums, self.rows_seen = saved["sums"].to(self.device), saved["rows_seen"]
        torch.set_rng_state(saved["generators"]["cpu"])
        if "cuda" in saved["generators"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(saved["generators"]["cuda"], self.device)

    def _write_if_due(self, batches: int = 0) -> None:
        """Write down the state, if that takes a small share of the time, or what has been learned
        would be lost."""
        if self.write is None or not self.trainer.is_global_zero:
            return
        start = time.perf_counter()
        if CHECKPOINT_SHARE * (start - self.write_ended) < self.write_took and not self.stopped_by:
            return
        self.write(self.state(self.batches_done + batches if batches else 0))
        self.write_ended = time.perf_counter()
        self.write_took = self.write_ended - start

    def _keep_state(self) -> None:
        """Remember the state at the start of an epoch, which has just given a finite loss."""
        self.good_epochs = self.epochs_done
        self.good = self._snapshot(math.nan)

    def _snapshot(self, loss: float) -> _Snapshot:
        state = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        return _Snapshot(loss, state, self.model.decoder.constants)

    def _restore(self, snapshot: _Snapshot) -> None:
        self.model.load_state_dict(snapshot.state)
        self.model.decoder.set_constants(snapshot.constants)

    @property
    def _is_sound(self) -> bool:
        """Whether all parameters are finite, those of the objective among them."""
        return all(bool(parameter.isfinite().all()) for parameter in self.parameters())

    def go_back_if_broken(self) -> None:
        """Take the model back to its last good state where a parameter is not finite, within an
        epoch that did not end."""
        if not self._is_sound:
            self._go_back()

    def _go_back(self) -> int:
        """Take model and history back to the last good state. Returns its whole epochs."""
        n_epochs = self.epochs_before + self.good_epochs
        del self.history[n_epochs:]
        if self.best.state:
            self._restore(self.best)
        elif self.good.state:
            self._restore(self.good)
        return n_epochs

    def _fail(self, what: str) -> None:
        n_epochs = self._go_back()
        remedy = (
            f"Lower learning_rate (now {self.learning_rate:g})"
            if self.steps_done
            else "Lower inverse_lipschitz"
        )
        raise NonFiniteLossError(
            f"{what}. The model is in its state after "
            f"{'the best of ' if self.best.state else ''}{n_epochs} whole epochs. "
            f"{remedy}, or look for extreme values in the data."
        )


def learning_rate_share(step: float, n_steps: int) -> float:
    """The share of the learning rate at a step: up to 1 along a line, then down to 0 along half a
    cosine, where it stays.

    >>> [round(learning_rate_share(step, 100), 3) for step in (0, 1, 2, 51, 99, 150)]
    [0.5, 1.0, 0.999, 0.484, 0.0, 0.0]
    """
    return (
        min(1.0, (step + 1) / (WARMUP_SHARE * n_steps))
        * (1 + math.cos(math.pi * min(1.0, step / n_steps)))
        / 2
    )


class _Watch(pl.Callback):
    """Between steps: move the progress bar."""

    def __init__(self, advance: Callable[[str, float], None]) -> None:
        self.advance = advance

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        assert isinstance(pl_module, Training)
        last = pl_module.history[-1] if pl_module.history else None
        so_far = f"  loss {last[1]:.2f}, KL {last[3]:.2f} nats" if last else ""
        shown = "".join(
            f", {name} {float(value):.3g}" for name, value in trainer.progress_bar_metrics.items()
        )
        self.advance(f"epoch {pl_module.epoch + 1}{so_far}{shown}", pl_module.place)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Hold back Lightning's banners, tips and advice on loader processes."""
    loggers = [logging.getLogger(f"lightning.{name}") for name in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
