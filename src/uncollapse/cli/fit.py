"""`uncollapse fit`."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uncollapse._utils.errors import LostDataError, NonFiniteLossError
from uncollapse._utils.processes import is_first_process
from uncollapse._utils.signals import deferred_interrupt
from uncollapse.cli import options
from uncollapse.cli.endings import describe_interruption, fail
from uncollapse.cli.settings import check_settings, read_settings

if TYPE_CHECKING:
    from uncollapse._utils.run_folders import Unfinished
    from uncollapse.data import Data
    from uncollapse.estimators import Estimator

Settings = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings, for example: inverse_lipschitz=1.5 hidden=512,512 family=bernoulli",
    ),
]
Output = Annotated[
    Path | None, options.output("Folder of the run.", "runs/ and the name of the data")
]


def fit(
    data: options.DataSource,
    settings: Settings = None,
    model: options.Model = None,
    config: options.Config = None,
    output: Output = None,
    split: options.Split = "train",
    labels: options.Labels = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Train a VAE and save it as a run. Ctrl-C saves what has been learned so far.

    The checkpoint is kept beside the run, in a folder whose name ends in .unfinished.
    After any interruption, the same command with --resume gives the same model as an uninterrupted
    training.
    """
    given = read_settings(config, settings)
    check_settings(given, model)  # before torch is imported and data are read
    from uncollapse._utils.run_folders import Unfinished

    train = options.read_data(data, split, labels)
    unfinished = Unfinished(output or Path("runs") / train.name)
    if is_first_process() and not unfinished.begin(resume, overwrite):
        typer.echo(f"{unfinished.run} is complete: there is nothing to resume")
        return
    estimator = _new_estimator(model, train, given)
    size = "documents" if train.is_text else f"rows, {train.X.shape[1]:,} features"
    with deferred_interrupt():  # a second Ctrl-C must not cost what the first one saves
        # Whoever reads this line may send a signal at once.
        typer.echo(f"training on {data}: {len(train.X):,} {size}")
        stop = _train(estimator, train, unfinished.folder)
        saved = _save(estimator, unfinished, stop)
    if saved != unfinished.run:
        fail(
            f"{unfinished.run} could not be written. The trained model is in {saved}: move it to "
            "its place.",
            1,
        )
    if stop is not None:
        _end_early(estimator, saved, stop)
    words = ["uncollapse", "diagnose", str(saved), data, *(["--labels", labels] if labels else [])]
    last = estimator.history_.iloc[-1]
    typer.echo(
        f"{int(last['epoch']) + 1} epochs in {last['seconds']:.1f} s, seed {estimator.seed_}: "
        f"loss {last['loss']:.2f}, KL {last['kl']:.2f} nats per example\n"
        f"saved in {saved}; next: {shlex.join(words)}"
    )


def _new_estimator(model: str | None, train: Data, given: dict[str, Any]) -> Estimator:
    from uncollapse._utils.parameters import check_parameters
    from uncollapse.estimators import Estimator

    kind = Estimator.registry[model or ("SequenceVAE" if train.is_text else "VAE")]
    return kind(**check_parameters(kind, {**train.defaults, **given}))


def _train(estimator: Estimator, train: Data, state: Path) -> BaseException | None:
    """Train, and return what ended the training early, if there is a model to save."""
    try:
        estimator.fit(train.table(), checkpoint=state)
    except (KeyboardInterrupt, NonFiniteLossError, LostDataError) as error:
        if not hasattr(estimator, "model_"):
            raise
        return error
    return None


def _save(estimator: Estimator, unfinished: Unfinished, stop: BaseException | None) -> Path:
    """Save a run in its place or, where that has become impossible, in a temporary folder."""
    try:
        estimator.save(unfinished.run, overwrite=True)
        unfinished.end(isinstance(stop, KeyboardInterrupt | LostDataError))
        return unfinished.run
    except Exception as error:
        typer.echo(f"note: {error}", err=True)
        return estimator.save(Path(tempfile.mkdtemp(prefix="uncollapse-")) / "run")


def _end_early(estimator: Estimator, saved: Path, stop: BaseException) -> None:
    """End with a sentence that says why the training stopped, and where its model is."""
    if isinstance(stop, NonFiniteLossError):
        raise NonFiniteLossError(f"{stop} The last good state is saved in {saved}.")
    if isinstance(stop, LostDataError):
        raise LostDataError(f"{stop} The model so far is in {saved}; --resume continues with it.")
    how, code = describe_interruption(type(stop))
    fail(
        f"{how} in epoch {len(estimator.history_) - 1}; the model is in {saved}, and --resume "
        "continues with it",
        code,
    )
