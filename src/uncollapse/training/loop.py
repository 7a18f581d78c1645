"""The training loop: how a model is trained, step by step and epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from uncollapse._utils.errors import DataError, InputError, NonFiniteLossError
from uncollapse._utils.progress import progress_bar
from uncollapse._utils.random import derived_seed, seeded
from uncollapse._utils.signals import INTERRUPTS, deferred_interrupt
from uncollapse.models import BatchContext, LatentModel
from uncollapse.objectives import Loss
from uncollapse.strategies import Joint, Strategy
from uncollapse.training.batches import Batches
from uncollapse.training.best import Best, LastGood, constants_of
from uncollapse.training.budget import Budget, Meter
from uncollapse.training.observers import Observer, Step
from uncollapse.training.processes import (
    Share,
    SharedBatch,
    all_true,
    death_of_process,
    hardware_of,
    is_death_of_process,
    largest,
    start_fabric,
)

WARMUP_SHARE = 0.02  # share of all steps in which the learning rate rises
COLUMNS = ("epoch", "loss", "reconstruction", "kl", "seconds", "evaluations", "validation")
ObjectiveFunction = Callable[[Any, Tensor, int], Loss]


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How long and how fast a model is trained.

    Attributes:
        max_epochs: passes over the rows. With a budget, training may take more or fewer, and
            schedules are stretched to fit.
        learning_rate: Adam's highest learning rate; it rises over the first 2% of the steps and
            falls to 0 along half a cosine.
        seed: decides all random numbers. The global generators are restored at the end.
        budget: overrides `max_epochs`: training ends once it is used up.
        step_offset: steps of earlier phases of the same fit, which schedules count as well.
        hardware: arguments of Lightning's Fabric: accelerator, devices, num_nodes, strategy and
            precision; the model's own device and type if not given.
        verbose: whether to show a progress bar on a terminal.
    """

    max_epochs: int
    learning_rate: float
    seed: int
    budget: Budget | None = None
    step_offset: int = 0
    hardware: Mapping[str, Any] | None = None
    verbose: bool = True


class Training:
    """A training under way, as strategies and observers see it.

    Args:
        model: trained in place; it stays on the device that it was trained on.
        objective: maps the model, rows as the likelihood sees them and the number of the step to
            the `Loss` to minimize. Parameters of its own are trained as well.
        batches: rows to learn from.
        settings: length and learning rate.
        strategy: how the posterior is trained beside the joint steps.
        observers: act between steps and epochs, in this order.
        history: gains a row at the end of each epoch: its number, counted on from the rows that are
            there; the means of the loss, of -E log p(x|z) and of the KL, in nats per example; the
            seconds and the evaluations of the decoder since the start.

    Attributes:
        epochs_done: whole epochs.
        batches_done: batches of the running epoch.
        steps_done: steps in all.
        rows_seen: rows of the running epoch.
        stopped_by: the signal that ended the training; 0 if none has.
    """

    def __init__(
        self,
        model: Any,
        objective: ObjectiveFunction,
        batches: Batches,
        settings: LoopSettings,
        strategy: Strategy | None = None,
        observers: Sequence[Observer] = (),
        history: list[tuple[float, ...]] | None = None,
    ) -> None:
        self.model: LatentModel = model
        self.objective = objective
        self.batches = batches
        self.settings = settings
        self.strategy = strategy or Joint()
        self.last_good = LastGood()
        self.observers = [self.last_good, *observers]
        self.history = [] if history is None else history
        self.earlier_history = list(self.history)  # of earlier phases of the same fit
        self.n_steps = settings.max_epochs * batches.n_batches
        self.meter = Meter()
        self.parameters: list[nn.Parameter] = []
        self.n_processes = 1
        self.epochs_done = self.batches_done = self.steps_done = self.rows_seen = 0
        self.stopped_by = 0
        self.rows: Tensor | None = None  # of the last step

    def run(self) -> None:
        """Train until the last epoch, the end of the budget, or a signal."""
        settings = self.settings
        with (
            deferred_interrupt() as self.interrupt,
            seeded(settings.seed),
            progress_bar("training", self.n_steps, settings.verbose) as self.advance,
            self.meter.counting(self.model, settings.budget),
        ):
            self._set_up()
            for observer in self.observers:
                observer.begin(self)
            while not self.is_over:
                self._run_epoch()
            for observer in self.observers:
                observer.end(self)

    def _set_up(self) -> None:
        self.fabric = start_fabric(self.settings.hardware or hardware_of(self.model))
        self.device, self.n_processes = self.fabric.device, self.fabric.world_size
        self.model.train()
        self.wrapped_loss = self.fabric.setup_module(_LossModule(self.model, self.objective))
        self.parameters = list(self.wrapped_loss.parameters())
        adam = torch.optim.Adam(self.parameters, lr=self.settings.learning_rate, fused=True)
        self.optimizer: Any = self.fabric.setup_optimizers(adam)
        self.totals = torch.zeros(3, device=self.device)
        self.strategy.begin(self)
        self.meter.restart(0, 0.0)  # setting up is no training

    def _run_epoch(self) -> None:
        """Take the steps of an epoch, or those that are left of it."""
        if not self.batches_done:
            # Draws depend on the seed and the epoch alone; a resumed epoch continues its own.
            torch.manual_seed(derived_seed(self.settings.seed, "draws", self.epochs_done))
            self.totals, self.rows_seen = torch.zeros_like(self.totals), 0
        for rows in self.batches.batches(self.epochs_done, self.batches_done):
            self._take_step(rows)
            if self.stopped_by or self.is_spent:
                break
        self._end_epoch()

    def _take_step(self, rows: Tensor) -> None:
        """Compute the loss on a batch, and move the parameters along its gradient."""
        share = Share.from_rank(len(rows), self.fabric.global_rank, self.n_processes)
        self.model.batch_context = SharedBatch(share) if self.n_processes > 1 else BatchContext()
        self.rows = self.fabric.to_device(share.take(rows))
        self.optimizer.param_groups[0]["lr"] = self.learning_rate
        with self.fabric.autocast():
            self.strategy.before_step(self, self.rows)
            x = self.model.observe_anew(self.rows)
            loss, reconstruction, kl, z = self.wrapped_loss(x, self.step)
        self._check_loss(loss)
        for observer in self.observers:
            observer.before_update(self)

        self.optimizer.zero_grad()
        # Processes average their gradients, so that each weighs its own by its share of the rows.
        self.fabric.backward(loss * (share.weight * self.n_processes))
        self.strategy.after_backward(self)
        self.optimizer.step()
        self.model.batch_context = BatchContext()

        means = torch.stack((loss.detach(), reconstruction, kl))
        if self.n_processes > 1:
            # One collective operation, as each of them costs as much as the step of a small model.
            both = torch.cat((means.double() * share.weight, self.meter.own(self.device)))
            distributed.all_reduce(both)
            means = both[:3].to(means)
            self.meter.add_up(both[3:], self.n_processes)
        self.totals += share.total * means
        self.rows_seen += share.total
        self.steps_done += 1
        self.batches_done += 1
        self.stopped_by = largest(self.interrupt(), self.fabric)
        for observer in self.observers:
            observer.after_step(self, Step(means[0], means[2], z))
        last = self.history[-1] if self.history else None
        note = f"  loss {last[1]:.2f}, KL {last[3]:.2f} nats" if last else ""
        self.advance(f"epoch {self.epoch}{note}", self.progress)

    def _end_epoch(self) -> None:
        """Check the parameters, and write the epoch's row of the history."""
        if not self.rows_seen:
            raise DataError(f"epoch {self.epoch} had no rows. Give batches that can be read again.")
        if not self.is_finite:
            raise _NonFiniteError(f"a parameter became non-finite in epoch {self.epoch}")
        is_last = self.settings.budget is None and self.epochs_done + 1 == self.settings.max_epochs
        if is_last or self.stopped_by or self.is_spent:
            self._check_last_step()
        self.strategy.after_epoch(self)
        means = (self.totals / self.rows_seen).tolist()
        seconds, evaluations = self.earlier_history[-1][4:6] if self.earlier_history else (0.0, 0)
        used = seconds + self.meter.seconds, int(evaluations) + self.meter.evaluations
        self.history.append((self.epoch, *means, *used))
        self.epochs_done, self.batches_done = self.epochs_done + 1, 0
        for observer in self.observers:
            observer.after_epoch(self)

    def _check_last_step(self) -> None:
        """Check the update of the last step by computing the loss once more.

        The loss of the next step checks every other update. Where there is a best epoch, training
        ends with its parameters instead.
        """
        if any(isinstance(observer, Best) and observer.tensors for observer in self.observers):
            return
        evaluations = self.meter.evaluations
        rows = self.random_batch() if self.rows is None else self.rows
        with torch.no_grad():
            loss = self.objective(self.model, self.model.observe_anew(rows), self.step).value
        self._check_loss(loss, f"after step {self.steps_done - 1}, the last")
        self.meter.evaluations = evaluations  # a check is no training

    def _check_loss(self, loss: Tensor, where: str | None = None) -> None:
        if not all_true(loss.isfinite(), self.fabric):
            batch = f"at step {self.steps_done}, batch {self.batches_done} of epoch {self.epoch}"
            raise _NonFiniteError(f"the loss became {loss.item()} {where or batch}")

    @property
    def epoch(self) -> int:
        """Number of the running epoch, counted on from the history that was there."""
        return len(self.earlier_history) + self.epochs_done

    @property
    def progress(self) -> float:
        """Position in the schedules, in steps: the steps taken, or the used share of the budget
        times all steps."""
        budget = self.settings.budget
        return self.steps_done if budget is None else self.meter.share(budget) * self.n_steps

    @property
    def step(self) -> int:
        """Number of the step that schedules follow."""
        return self.settings.step_offset + int(self.progress)

    @property
    def rate_share(self) -> float:
        """Current learning rate as a share of the highest one."""
        return learning_rate_share(self.progress, self.n_steps)

    @property
    def learning_rate(self) -> float:
        """Current learning rate."""
        return self.settings.learning_rate * self.rate_share

    @property
    def is_spent(self) -> bool:
        """Whether the budget is used up."""
        return self.settings.budget is not None and self.progress >= self.n_steps

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do: epochs or budget are used up, or a signal has come."""
        if self.settings.budget is None:
            return bool(self.stopped_by) or self.epochs_done >= self.settings.max_epochs
        return bool(self.stopped_by) or self.is_spent

    @property
    def is_finite(self) -> bool:
        """Whether all parameters are finite."""
        return all(bool(parameter.isfinite().all()) for parameter in self.parameters)

    def loss(self, batch: Tensor) -> Tensor:
        """Compute the loss on rows, for a strategy; training ends if it is not finite."""
        found = self.objective(self.model, self.model.observe_anew(batch), self.step).value
        self._check_loss(found)
        return found

    def random_batch(self) -> Tensor:
        """Draw one of the batches of the epoch, for a strategy."""
        return self.batches.random_batch(self.epochs_done).to(self.device)

    def metrics(self) -> dict[str, float]:
        """Return the last row of the history by name, the learning rate and the constants."""
        constants = enumerate(constants_of(self.model), 1)
        return {
            **dict(zip(COLUMNS[1:], self.history[-1][1:], strict=False)),
            "learning_rate": self.learning_rate,
            **{f"inverse_lipschitz_{number}": constant for number, constant in constants},
        }


def train(training: Training) -> None:
    """Run a training, and leave its model in the best or the last good state.

    Raises:
        NonFiniteLossError: if a loss or a parameter is not finite. The model is back at the best
            epoch, or at the start of the last epoch that began with a finite loss, and the history
            ends there.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once the running step has ended. The model keeps
            what it has learned.
        InputError: if the hardware or the saved state cannot be used, or another process has died.
    """
    try:
        training.run()
    except _NonFiniteError as error:
        state = _go_back(training)
        if not training.stopped_by:
            raise NonFiniteLossError(_explain(training, str(error), state)) from None
    except InputError:  # lost data or a full disk: what has been learned is kept, if it is finite
        if not training.is_finite:
            _go_back(training)
        raise
    except RuntimeError as error:
        if not is_death_of_process(error, training.n_processes):
            raise
        raise death_of_process(error, training.n_processes, training.epoch) from None
    finally:
        training.model.batch_context = BatchContext()
    if training.stopped_by:
        raise INTERRUPTS[training.stopped_by]


class _NonFiniteError(Exception):
    """A loss or a parameter that is not finite."""


class _LossModule(nn.Module):
    """Computes the loss of a model; a module, so that Fabric and DDP can wrap it."""

    def __init__(self, model: LatentModel, objective: ObjectiveFunction) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, x: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the loss, and detached: the mean -log p(x|z), the mean KL and the draws of z."""
        loss, terms = self.objective(self.model, x, step)
        reconstruction, kl = -terms.log_px_z.mean(), terms.latents.kl.mean()
        return loss, reconstruction.detach(), kl.detach(), terms.latents.z.detach()


def learning_rate_share(step: float, n_steps: int) -> float:
    """Return the share of the learning rate at a step: a linear rise to 1, then half a cosine to 0.

    >>> [round(learning_rate_share(step, 100), 3) for step in (0, 1, 2, 51, 99, 150)]
    [0.5, 1.0, 0.999, 0.484, 0.0, 0.0]
    """
    rise = min(1.0, (step + 1) / (WARMUP_SHARE * n_steps))
    return rise * (1 + math.cos(math.pi * min(1.0, step / n_steps))) / 2


def _go_back(training: Training) -> str:
    """Load the best or the last good state, and return a description of it for messages."""
    best = next((o for o in training.observers if isinstance(o, Best) and o.tensors), None)
    (best or training.last_good).put_back(training.model)
    whole = max(training.last_good.n_epochs, best.n_epochs if best else 0)
    n_epochs = len(training.earlier_history) + whole
    del training.history[n_epochs:]
    return f"{'the best of ' if best else ''}{n_epochs} whole epochs"


def _explain(training: Training, problem: str, state: str) -> str:
    rate = training.settings.learning_rate
    remedy = f"learning_rate (now {rate:g})" if training.steps_done else "inverse_lipschitz"
    return (
        f"{problem}. The model is in its state after {state}. Lower {remedy}, or look for extreme "
        "values in the data."
    )
