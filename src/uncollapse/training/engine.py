"""The engine: Lightning minimises an objective over rows in memory."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler

from uncollapse.errors import NonFiniteLossError
from uncollapse.interrupts import deferred_interrupt
from uncollapse.models import VAE
from uncollapse.noise import derived_seed, seeded
from uncollapse.objectives import Loss, elbo
from uncollapse.progress import progress_bar
from uncollapse.strategies import Joint, Strategy
from uncollapse.training.annealing import AfterStep
from uncollapse.training.budget import Budget, Meter

SECONDS, EVALUATIONS = 4, 5  # their places in a row of a history
WARMUP_SHARE = 0.02  # of the steps, in which the learning rate rises
POOLED_BATCHES = 50  # batches whose rows are sorted by length together


def train(
    model: VAE,
    objective: Callable[[VAE, Tensor, int], Loss],
    data: Tensor,
    *,
    max_epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    history: list[tuple[float, ...]],
    strategy: Strategy | None = None,
    budget: Budget | None = None,
    steps_before: int = 0,
    after_step: AfterStep | None = None,
    lengths: Tensor | None = None,
    validation: Tensor | None = None,
    watched: np.ndarray | None = None,
    callbacks: Sequence[pl.Callback] = (),
    device: str = "cpu",
    verbose: bool = True,
) -> None:
    """Minimise an objective by Adam. The model is trained in place and stays on the device that it was trained on.

    Args:
        model: what to train.
        objective: what to minimise; a function of the model, a batch, and the number of the step, `steps_before` included. Where it
            has parameters, they are trained as well.
        data: all rows, shape (n, data_dim).
        max_epochs: passes over the data; with a budget, what schedules are made for.
        batch_size: rows in a step.
        learning_rate: of Adam, at its highest; it rises over the first 2% of the steps, and falls to 0 along half a cosine.
        seed: decides the order of the rows and all draws. The global generators are left as they were.
        history: gains a row at the end of each epoch: its number, counted on from those that are there; the means over its batches
            of the loss, of -E log p(x|z) and of the KL, in nats per example; the seconds since the start of the first, and the
            evaluations of the decoder; and, with `validation`, the negative ELBO on those rows.
        strategy: what is done about the posterior beside the steps; nothing if not given.
        budget: goes over `max_epochs`: training ends once it is used up, and all that follows the number of the step follows the
            share that is used.
        steps_before: those of a training that this one goes on with.
        after_step: called with the number of each step, the share of the learning rate in force, and its terms, once the parameters
            have moved.
        lengths: of the rows, where they are sequences: batches are of rows of similar length, so that filling up costs little.
        validation: rows by whose ELBO the best epoch is found, whatever the objective is. The model ends as it was after that
            epoch, whatever ended the training. Where constants are adjusted to a wanted KL, epochs that have not got it are none
            of the best.
        watched: rows that the strategy may look at, as the family observes them.
        callbacks: of Lightning, which must leave the model alone.
        device: torch's name of the kind of device.
        verbose: show a progress bar where there is a terminal.

    Raises:
        NonFiniteLossError: if a loss or a parameter is not finite. The model is back at the best epoch, or without `validation` at
            the start of the last epoch that began with a finite loss, and the history ends there.
        KeyboardInterrupt: after Ctrl-C, once the running step has ended. The model keeps what it has learned.
    """
    loader = row_loader(data, batch_size, seed, lengths)
    held_out = None if validation is None else torch.split(validation, batch_size)
    strategy = strategy or Joint()
    training = Training(
        model, objective, loader, learning_rate, seed, history, max_epochs, steps_before, budget, strategy, after_step, held_out
    )
    strategy.begin(training, watched)
    with (
        _quiet_lightning(),
        deferred_interrupt() as interrupted,
        seeded(seed),
        progress_bar("training", training.n_steps, verbose) as advance,
        training.meter.counting(model),
    ):
        trainer = pl.Trainer(
            max_epochs=max_epochs if budget is None else -1,
            accelerator={"cuda": "gpu"}.get(device, device),
            devices=1,
            callbacks=[_Watch(advance, interrupted), *callbacks],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(training, loader)
    model.to(trainer.strategy.root_device)  # Lightning has taken it off
    training.restore_best()
    if interrupted():
        raise KeyboardInterrupt


class _Snapshot(NamedTuple):
    """A model at one moment."""

    loss: float
    state: dict[str, Tensor]
    constants: tuple[float, ...]


class Training(pl.LightningModule):
    """A model and its objective as Lightning wants to see them."""

    def __init__(
        self,
        model: VAE,
        objective: Callable[[VAE, Tensor, int], Loss],
        loader: DataLoader[Tensor],
        learning_rate: float,
        seed: int,
        history: list[tuple[float, ...]],
        max_epochs: int,
        steps_before: int,
        budget: Budget | None,
        strategy: Strategy,
        after_step: AfterStep | None,
        held_out: Sequence[Tensor] | None,
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.loader = loader
        self.learning_rate = learning_rate
        self.seed = seed
        self.history = history
        self.n_steps = max_epochs * len(loader)
        self.steps_before = steps_before
        self.budget = budget
        self.meter = Meter()
        self.strategy = strategy
        self.batches: list[list[int]] | None = None  # of the epoch, where the strategy asks for some
        self.after_step = after_step
        self.held_out = held_out
        self.best = _Snapshot(math.inf, {}, ())  # by the bound on what was held out
        self.epochs_before = len(history)
        self.start = time.perf_counter() - (history[-1][SECONDS] if history else 0.0)
        self.evaluations_before = int(history[-1][EVALUATIONS]) if history else 0
        self.good_epochs = 0
        self.good = _Snapshot(math.nan, {}, ())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.learning_rate, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: self.rate_share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def epoch(self) -> int:
        """The number of the epoch, counted on from those of the history that was there."""
        return self.epochs_before + self.current_epoch

    @property
    def step(self) -> int:
        """The number of the step that schedules go by, counted on as well."""
        return self.steps_before + int(self.place)

    @property
    def place(self) -> float:
        """How far training has come, in steps of `max_epochs`, whether it is steps that are counted or what they use up."""
        return self.global_step if self.budget is None else self.meter.share(self.budget) * self.n_steps

    @property
    def rate_share(self) -> float:
        """The share of the learning rate in force."""
        return learning_rate_share(self.place, self.n_steps)

    @property
    def is_over(self) -> bool:
        """Whether the budget is used up."""
        return self.budget is not None and self.place >= self.n_steps

    def loss(self, batch: Tensor) -> Tensor:
        """The loss on rows, as `Stage` has it."""
        return self._evaluate(batch).value

    def random_batch(self) -> Tensor:
        """One of the batches of the epoch, as `Stage` has it."""
        if self.batches is None:
            assert isinstance(self.loader.sampler, EpochBatches)
            self.batches = list(self.loader.sampler)
        rows: Tensor = self.loader.dataset[self.batches[int(torch.randint(len(self.batches), ()))]]
        return rows.to(self.device)

    def sample_rows(self, n: int) -> np.ndarray:
        """At most so many rows, of those that are held out if there are some."""
        rows = self.loader.dataset.data if self.held_out is None else torch.cat(list(self.held_out))  # type: ignore[attr-defined]
        order = np.random.default_rng(0).permutation(len(rows))[:n]
        return np.asarray(rows[order].cpu().numpy())

    def on_train_epoch_start(self) -> None:
        # Draws depend on the seed and the epoch alone, so that a run can be resumed at any epoch.
        torch.manual_seed(derived_seed(self.seed, "draws", self.current_epoch))
        self.sums = torch.zeros(3, device=self.device)
        self.rows_seen = 0
        self.batches = None

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        self.batch_index = batch_index
        self.strategy.before_step(self, batch)
        loss, terms = self._evaluate(batch)
        if self.rows_seen == 0:
            self._keep_state()
        self.last_batch, self.last_terms = batch, terms
        self.sums += len(batch) * torch.stack((loss, -terms.log_px_z.mean(), terms.latents.kl.mean())).detach()
        self.rows_seen += len(batch)
        return loss

    def _evaluate(self, batch: Tensor) -> Loss:
        found = self.objective(self.model, self.model.family.observe(batch), self.step)
        if not found.value.isfinite():
            where = f"at step {self.global_step}, batch {self.batch_index} of epoch {self.epoch}"
            self._fail(f"the loss became {found.value.item()} {where}")
        return found

    def on_after_backward(self) -> None:
        self.strategy.after_backward(self)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.after_step is not None:
            self.after_step(self.global_step, self.rate_share, self.last_terms)

    def on_train_epoch_end(self) -> None:
        if not all(parameter.isfinite().all() for parameter in self.model.parameters()):
            self._fail(f"a parameter became non-finite in epoch {self.epoch}, by step {self.global_step}")
        self.strategy.after_epoch(self)
        means = (self.sums / self.rows_seen).tolist()
        row = (self.epoch, *means, time.perf_counter() - self.start, self.evaluations_before + self.meter.evaluations)
        if self.held_out is None:
            self.history.append(row)
            return
        loss = self._validate(self.held_out)
        self.history.append((*row, loss))
        if loss < self.best.loss and (self.after_step is None or self.after_step.settled(means[-1])):
            self.best = self._snapshot(loss)

    @torch.no_grad()
    def _validate(self, batches: Sequence[Tensor]) -> float:
        """The negative ELBO on rows that training does not see, at the same draws each time."""
        self.model.eval()
        with seeded(derived_seed(self.seed, "validation")):
            observed = (self.model.family.observe(batch.to(self.device)) for batch in batches)
            losses = [elbo(self.model, batch, self.n_steps).value * len(batch) for batch in observed]
        self.model.train()
        return float(torch.stack(losses).sum()) / sum(map(len, batches))

    def restore_best(self) -> None:
        """Take the model back to the best epoch, if one was looked for."""
        if self.best.state:
            self._restore(self.best)

    def on_train_end(self) -> None:
        # The parameters that the last step left have not been tried yet, but on what was held out.
        if self.held_out is not None:
            return
        with torch.no_grad():
            loss, _ = self.objective(self.model, self.model.family.observe(self.last_batch), self.step)
        if not loss.isfinite():
            self._fail(f"the loss became {loss.item()} after step {self.global_step - 1}, the last")

    def _keep_state(self) -> None:
        """Remember the state at the start of an epoch, which has just given a finite loss."""
        self.good_epochs = self.current_epoch
        self.good = self._snapshot(math.nan)

    def _snapshot(self, loss: float) -> _Snapshot:
        state = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        return _Snapshot(loss, state, self.model.decoder.constants)

    def _restore(self, snapshot: _Snapshot) -> None:
        self.model.load_state_dict(snapshot.state)
        self.model.decoder.set_constants(snapshot.constants)

    def _fail(self, what: str) -> None:
        del self.history[self.epochs_before + self.good_epochs :]
        n_epochs = self.epochs_before + self.good_epochs
        if self.best.state:
            self._restore(self.best)
        elif self.good.state:
            self._restore(self.good)
        raise NonFiniteLossError(
            f"{what}. The model is in its state after {'the best of ' if self.best.state else ''}{n_epochs} whole epochs. "
            f"Lower learning_rate (now {self.learning_rate:g}), or look for extreme values in the data."
        )


def learning_rate_share(step: float, n_steps: int) -> float:
    """The share of the learning rate at a step: up to 1 along a line, then down to 0 along half a cosine.

    >>> [round(learning_rate_share(step, 100), 3) for step in (0, 1, 2, 51, 99)]
    [0.5, 1.0, 0.999, 0.484, 0.0]
    """
    return min(1.0, (step + 1) / (WARMUP_SHARE * n_steps)) * (1 + math.cos(math.pi * step / n_steps)) / 2


class _Watch(pl.Callback):
    """Between steps: move the progress bar, and stop where Ctrl-C was pressed."""

    def __init__(self, advance: Callable[[str, float], None], interrupted: Callable[[], bool]) -> None:
        self.advance = advance
        self.interrupted = interrupted

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Training)
        last = pl_module.history[-1] if pl_module.history else None
        so_far = f"  loss {last[1]:.2f}, KL {last[3]:.2f} nats" if last else ""
        shown = "".join(f", {name} {float(value):.3g}" for name, value in trainer.progress_bar_metrics.items())
        self.advance(f"epoch {trainer.current_epoch + 1}{so_far}{shown}", pl_module.place)
        if pl_module.is_over or self.interrupted():
            trainer.should_stop = True


class Rows(Dataset[Tensor]):
    """Rows of a tensor, a batch of them fetched by one indexing operation."""

    def __init__(self, data: Tensor) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, indices: list[int]) -> Tensor:
        return self.data[indices]


class EpochBatches(BatchSampler):
    """Batches of indices in an order that depends on the seed and the epoch alone.

    Where rows have lengths, a batch holds rows of similar length: the rows of many batches are sorted, and cut into batches, which
    come in random order.
    """

    sampler: DistributedSampler[int]
    lengths: Tensor | None = None

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        if self.lengths is None:
            yield from super().__iter__()
            return
        order = torch.tensor(list(self.sampler))
        whole, rest = order.tensor_split([len(order) // self.batch_size * self.batch_size])
        pools = torch.split(whole, POOLED_BATCHES * self.batch_size)
        by_length = [pool[self.lengths[pool].argsort(stable=True)] for pool in pools]
        pieces = [*(batch for pool in by_length for batch in torch.split(pool, self.batch_size)), rest]
        batches = [piece for piece in pieces if len(piece)]
        chance = torch.Generator().manual_seed(derived_seed(self.sampler.seed, "batches", self.sampler.epoch))
        yield from (batches[index].tolist() for index in torch.randperm(len(batches), generator=chance))


def row_loader(data: Tensor, batch_size: int, seed: int, lengths: Tensor | None = None) -> DataLoader[Tensor]:
    """Batches of rows in random order, of similar length where there are lengths."""
    rows, seed = Rows(data), derived_seed(seed, "order")
    order: DistributedSampler[int] = DistributedSampler(rows, num_replicas=1, rank=0, seed=seed)
    # A generator of its own keeps the loader from drawing on the global one, which belongs to the model.
    generator = torch.Generator().manual_seed(seed)
    batches = EpochBatches(order, batch_size, drop_last=False)
    batches.lengths = lengths
    return DataLoader(rows, sampler=batches, batch_size=None, generator=generator)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Hold back Lightning's banners, tips and advice on loader processes."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        logger.setLevel(level)
