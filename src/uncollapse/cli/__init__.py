"""The command line: a thin shell over the library. Heavy imports happen inside commands, so that
help answers at once."""

from __future__ import annotations

import io
import os
import shlex
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from uncollapse._utils.errors import (
    DEBUG_VARIABLE,
    FileError,
    InputError,
    LostDataError,
    NonFiniteLossError,
    ParameterError,
    brief,
    one_line,
)
from uncollapse._utils.processes import is_first_process
from uncollapse._utils.signals import INTERRUPTS, Interrupt, Terminated, raise_interrupts
from uncollapse._version import __version__

if TYPE_CHECKING:
    from uncollapse._utils.run_folders import Unfinished
    from uncollapse.diagnostics import Report
    from uncollapse.estimators import Estimator

MAX_SEEDS = 1000
EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_TERMINATED = 2, 130, 143

app = typer.Typer(
    name="uncollapse",
    help="Variational autoencoders whose latents cannot collapse, and the diagnosis of those that "
    "have.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(
    help="Named data sets: what there is, and fetching it.", no_args_is_help=True
)
app.add_typer(data_app, name="data")

DataArgument = Annotated[
    str,
    typer.Argument(
        help="A .npy, .npz, .csv, .parquet, .txt or .txt.gz file, a folder of .parquet files, or a "
        "named data set.",
        show_default=False,
    ),
]
LabelsOption = Annotated[
    str | None,
    typer.Option(
        help="Column (or array of an .npz) with labels; kept out of the data.", show_default=False
    ),
]
RunArgument = Annotated[
    Path, typer.Argument(help="Folder that `uncollapse fit` wrote.", show_default=False)
]
SplitOption = Annotated[
    str,
    typer.Option(help="Part of a named data set: train or test, or validation where it is text."),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="YAML file with the same keys; KEY=VALUE goes over it.",
        show_default=False,
    ),
]
ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on where this was interrupted; do nothing if it is done, begin if it has not "
        "begun.",
    ),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Allow what is already there to be replaced.")
]


def main() -> None:
    """Run the command line. Whatever goes wrong ends in one sentence, never in a traceback; bad
    input in exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may be no text
    warnings.showwarning = _show_each_once()
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("default", category=UserWarning, module="uncollapse")
    if not is_first_process():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    with raise_interrupts() as interrupt:
        _run(interrupt)


def _run(interrupt: Interrupt) -> NoReturn:
    try:
        code = app(standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # typer's answer to an interruption
            _fail(*_ending(INTERRUPTS.get(interrupt(), KeyboardInterrupt)))
        sys.exit(code)
    except InputError as error:
        _fail(str(error), EXIT_BAD_INPUT)
    except NonFiniteLossError as error:
        _fail(str(error), 1)
    except (KeyboardInterrupt, typer.Abort) as error:
        _fail(*_ending(type(error)))
    except MemoryError as error:
        _fail(
            f"this takes more memory than there is ({error}): use less data, fewer samples or a "
            "smaller model",
            1,
        )
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's own complaints about the command
            message = error.format_message()
            if not message:  # help was asked for by saying nothing, and has been printed
                sys.exit(EXIT_BAD_INPUT)
            _fail(f"{message} See uncollapse --help.", EXIT_BAD_INPUT)
        if os.environ.get(DEBUG_VARIABLE):
            raise
        _fail(
            f"unexpected {type(error).__name__}: {error} (set {DEBUG_VARIABLE}=1 to see where, and "
            "please report it)",
            1,
        )


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"uncollapse {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the page goes.")] = Path(
        "uncollapse-demo.html"
    ),
    seed: Annotated[int, typer.Option(help="Seed of all three trainings.")] = 0,
    overwrite: OverwriteOption = False,
) -> None:
    """Watch an ordinary VAE collapse, and an inverse-Lipschitz VAE not, on real data, in under a
    minute and a half."""
    from uncollapse.experiments.demo import run_demo

    reports = run_demo(output, seed, overwrite, tell=typer.echo)
    _print_comparison(reports)
    typer.echo(f"\nOpen {output.resolve()} in a browser.")


@app.command()
def doctor() -> None:
    """Print what a bug report needs, and test in a few seconds whether a small model trains as it
    must."""
    from uncollapse.experiments.doctor import SECTIONS, self_test

    for title, find in SECTIONS.items():
        facts = find()
        width = max(map(len, facts))
        typer.echo(
            "\n".join([title, *(f"  {name:<{width}}  {fact}" for name, fact in facts.items()), ""])
        )
    start = time.perf_counter()
    failure = self_test()
    if failure is not None:
        _fail(f"self-test: {failure}: please report this, with all of the above.", 1)
    typer.echo(f"self-test\n  ok, {time.perf_counter() - start:.1f} s")


@app.command()
def fit(
    data: DataArgument,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Arguments of the model. VAE: latent_dim, inverse_lipschitz, min_information, "
            "annealing, target_kl, family, "
            "posterior, objective, strategy, embedding, potential, lipschitz, intermediate_dims, hidden, "
            "encoder_hidden, max_epochs, "
            "batch_size, learning_rate, random_state, device, devices, num_nodes, "
            "parallel_strategy, precision, verbose. "
            "MixtureVAE: also n_components, prior, separation, inference, warmup_epochs. "
            "SequenceVAE: without min_information, "
            "family, embedding, potential, lipschitz, intermediate_dims, encoder_hidden, but with context, "
            "level, min_count, "
            "max_vocabulary, max_length, committed_rate, embedding_dim, hidden_dim, "
            "encoder_embedding_dim, encoder_hidden_dim, "
            "n_layers, word_dropout. "
            "For example: inverse_lipschitz=1.5 hidden=512,512 family=bernoulli",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="VAE, MixtureVAE or SequenceVAE.",
            show_default="SequenceVAE for documents, else VAE",
        ),
    ] = None,
    config: ConfigOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder of the run.",
            show_default="runs/ and the name of the data",
        ),
    ] = None,
    split: SplitOption = "train",
    labels: LabelsOption = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Train a VAE and save it as a run. Ctrl-C saves what has been learned so far.

    While it trains, its state is kept in a folder beside the run, whose name ends in .unfinished.
    After an interruption of any kind, the same command with --resume ends in the same model as if
    there had been none.
    """
    given = _read_settings(config, settings or [])
    from uncollapse._utils.parameters import check_parameters
    from uncollapse._utils.progress import spinner
    from uncollapse._utils.run_folders import Unfinished
    from uncollapse._utils.signals import deferred_interrupt
    from uncollapse.data import load
    from uncollapse.estimators import Estimator

    if model is not None and model not in Estimator.registry:
        raise ParameterError(
            f"--model expects one of {', '.join(Estimator.registry)}, got {model!r}."
        )
    _check_settings(
        [model] if model else ["VAE", "SequenceVAE"], given
    )  # before there is much to be read
    with spinner(f"reading {data}"):
        train = load(data, split, labels)
    kind = Estimator.registry[model or ("SequenceVAE" if train.is_text else "VAE")]
    run = output or Path("runs") / train.name
    unfinished = Unfinished(run)
    # Of the processes that train together, the first one writes.
    if is_first_process() and not unfinished.begin(resume, overwrite):
        typer.echo(f"{run} is complete: there is nothing to resume")
        return
    estimator = kind(**check_parameters(kind, {**train.defaults, **given}))
    stop: BaseException | None = None
    with deferred_interrupt():  # a second Ctrl-C must not cost what the first one saves
        what = "documents" if train.is_text else f"rows, {train.X.shape[1]:,} features"
        typer.echo(f"training on {data}: {len(train.X):,} {what}")
        try:
            estimator.fit(train.table(), checkpoint=unfinished.folder)
        except (KeyboardInterrupt, NonFiniteLossError, LostDataError) as error:
            if not hasattr(estimator, "model_"):  # nothing has been learned yet
                raise
            stop = error
        saved = _save(estimator, unfinished, isinstance(stop, KeyboardInterrupt | LostDataError))
    if saved != run:
        _fail(
            f"{run} could not be written; what was learned is in {saved}: move it to where it "
            "belongs",
            1,
        )
    if isinstance(stop, NonFiniteLossError):
        raise NonFiniteLossError(f"{stop} It was saved in {saved}.")
    if isinstance(stop, LostDataError):
        raise LostDataError(f"{stop} What was learned is in {saved}; --resume goes on with it.")
    if stop is not None:
        how, code = _ending(type(stop))
        _fail(
            f"{how} in epoch {len(estimator.history_)}; what was learned is in {saved}, and "
            "--resume goes on with it",
            code,
        )
    last = estimator.history_.iloc[-1]
    words = ["uncollapse", "diagnose", str(saved), data, *(["--labels", labels] if labels else [])]
    typer.echo(
        f"{int(last['epoch']) + 1} epochs in {last['seconds']:.1f} s, seed {estimator.seed_}: "
        f"loss {last['loss']:.2f}, KL {last['kl']:.2f} nats per example\nsaved in {saved}; next: "
        f"{shlex.join(words)}"
    )


def _check_settings(models: Sequence[str], given: dict[str, Any]) -> None:
    """If the settings suit none of these models, raise what is wrong with them for the one that
    knows most of their names."""
    from uncollapse._utils.parameters import check_parameters
    from uncollapse.estimators import Estimator

    errors: dict[str, InputError] = {}
    for model in models:
        try:
            check_parameters(Estimator.registry[model], given)
        except InputError as error:
            errors[model] = error
    if len(errors) == len(models):
        raise errors[
            max(
                models,
                key=lambda model: len(given.keys() & Estimator.registry[model]().get_params()),
            )
        ]


def _save(estimator: Estimator, unfinished: Unfinished, goes_on: bool) -> Path:
    """Save where it was meant to be, or, where that has become impossible, anywhere rather than
    nowhere."""
    try:
        estimator.save(unfinished.run, overwrite=True)
        unfinished.end(goes_on)
        return unfinished.run
    except Exception as error:
        typer.echo(f"note: {error}", err=True)
        return estimator.save(Path(tempfile.mkdtemp(prefix="uncollapse-")) / "run")


@app.command()
def compare(
    data: DataArgument,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Arguments of the models, as for `uncollapse fit`, each for those that know it "
            "and do not fix it themselves. "
            "For example: latent_dim=8 max_epochs=50",
            show_default=False,
        ),
    ] = None,
    models: Annotated[
        str | None,
        typer.Option(
            "--models",
            "-m",
            help="Names with commas between. VAE, beta-VAE, annealed-VAE, cyclical-VAE, "
            "free-bits-VAE, IWAE, LR-VAE, SA-VAE, "
            "Lagging-VAE; of rows also LIDVAE, IL-LIDVAE, GMVAE, LIDMVAE (or LIDGMVAE), "
            "IL-LIDMVAE; of documents also delta-VAE, "
            "LIDSVAE, IL-LIDSVAE; IL- ones with -annealed as well. The first one sets the budget.",
            show_default="eight of rows, seven of documents",
        ),
    ] = None,
    config: ConfigOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Where the page goes; the table goes beside it, as .csv.",
            show_default="compare- and the data",
        ),
    ] = None,
    labels: LabelsOption = None,
    n_importance: Annotated[
        int, typer.Option(min=1, help="Importance samples for each example.")
    ] = 64,
    overwrite: OverwriteOption = False,
) -> None:
    """Train models on one budget, and compare them on data that none has seen.

    Those are the test part of a named data set, or a fifth of a file. The first model takes its
    epochs. Every other one is trained twice: until it has evaluated the decoder as often, and until
    it has taken as many seconds. Ctrl-C writes what there is so far.
    """
    given = _read_settings(config, settings or [])
    from uncollapse._utils.progress import spinner
    from uncollapse._utils.signals import deferred_interrupt
    from uncollapse.diagnostics.comparison import Comparison, Entry
    from uncollapse.experiments.compare import contestants, describe, run_comparison, split

    with spinner(f"reading {data}"):
        train, test = split(data, labels)
    names = None if models is None else [name.strip() for name in models.split(",") if name.strip()]
    estimators = contestants(names, "text" if train.is_text else "table", given, train.defaults)
    page = output or Path(f"compare-{train.name}.html")
    if not page.name:
        raise ParameterError(
            f"--output expects the path of a page, such as compare.html, got {page}."
        )
    table = page.with_suffix(".csv")
    _check_pages(page, table, [Path(data), *([config] if config else [])], overwrite)
    notes = describe(data, train, test, estimators, given)
    typer.echo("\n".join(notes))
    entries: list[Entry] = []
    stop: BaseException | None = None
    try:
        for entry in run_comparison(
            estimators,
            train.table(),
            test.table(),
            test.labels,
            image_shape=test.image_shape,
            n_importance=n_importance,
        ):
            entries.append(entry)
            typer.echo(repr(entry))
    except (KeyboardInterrupt, Exception) as error:
        if not entries:
            raise
        stop = error
    found = Comparison(tuple(entries), notes)
    typer.echo(f"\n{found}")
    with deferred_interrupt():  # a second Ctrl-C must not cost what was found
        found.to_csv(table, overwrite)
        found.to_html(page, overwrite)
    typer.echo(f"\nwritten: {page}, {table}")
    if isinstance(stop, KeyboardInterrupt):
        how, code = _ending(type(stop))
        _fail(f"{how}; what was found by then is written", code)
    if stop is not None:
        raise stop


def _check_pages(page: Path, table: Path, sources: Sequence[Path], overwrite: bool) -> None:
    """Raise `InputError` for a page or a table that may not be written, before there is work to
    lose."""
    from uncollapse._utils.files import check_writable, resolved

    if page.suffix == ".csv":
        raise ParameterError(
            f"--output expects the path of a page, such as {page.with_suffix('.html')}, got "
            f"{page}: the table is its own."
        )
    for path in (page, table):
        if resolved(path) in {resolved(source) for source in sources}:
            raise FileError(
                f"{path} is what the comparison reads, and is not replaced: choose another "
                "--output."
            )
        check_writable(path, overwrite)


@app.command()
def diagnose(
    run: RunArgument,
    data: DataArgument,
    split: SplitOption = "test",
    labels: LabelsOption = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Where the page goes.", show_default="report.html in the run"),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(help="Where the numbers go.", show_default="report.json in the run"),
    ] = None,
    n_importance: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Importance samples for each example.",
            show_default="doubled until the NLL settles",
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Leave out what takes long: refined posteriors, annealing, the certificate.",
        ),
    ] = False,
    devices: Annotated[
        str,
        typer.Option(
            help="How many GPUs share the work, or auto for all of them; on the CPU, how many "
            "workers."
        ),
    ] = "1",
    resume: Annotated[bool, typer.Option("--resume", hidden=True)] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Report how much a model's latents say about data, and whether the model or the inference is
    to blame.
    """
    if resume:
        raise ParameterError(
            "a diagnosis cannot be resumed: it takes seconds to minutes and begins anew. Leave out "
            "--resume."
        )
    import uncollapse as uc
    from uncollapse._utils.files import check_writable, resolved
    from uncollapse._utils.progress import spinner
    from uncollapse.data import load

    estimator = uc.load(run)
    pages = [html or run / "report.html", json or run / "report.json"]
    if resolved(pages[0]) == resolved(pages[1]):
        raise ParameterError(f"--html and --json expect two files, got {pages[0]} for both.")
    _check_own_files(run, pages)
    for page in pages:
        check_writable(page, overwrite)
    with spinner(f"reading {data}"):
        part = load(data, split, labels)
    report = uc.diagnose(
        estimator,
        part.table(),
        part.labels,
        name=run.name,
        image_shape=part.image_shape,
        n_importance=n_importance,
        thorough=not quick,
        devices=int(devices) if devices.isdecimal() else devices,  # type: ignore[arg-type]
    )
    typer.echo(repr(report))
    report.to_html(pages[0], overwrite=True)
    report.to_json(pages[1], overwrite=True)
    typer.echo(f"\nwritten: {pages[0]}, {pages[1]}")


@app.command()
def certify(
    run: RunArgument,
    data: DataArgument,
    split: SplitOption = "test",
    labels: LabelsOption = None,
    json: Annotated[
        Path | None,
        typer.Option(
            help="Where the numbers go, example by example.",
            show_default="certificate.json in the run",
        ),
    ] = None,
    n_samples: Annotated[
        int, typer.Option(min=2, help="Draws of the latents from the prior.")
    ] = 64,
    n_importance: Annotated[
        int, typer.Option(min=10, help="Draws of the latents for the posterior of each example.")
    ] = 256,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Of the draws from the prior.")
    ] = 0,
    overwrite: OverwriteOption = False,
) -> None:
    """Compute what a decoder's constant guarantees on data: bounds that are theorems, beside what
    they bound."""
    import uncollapse as uc
    from uncollapse._utils.files import check_writable
    from uncollapse._utils.progress import spinner
    from uncollapse.data import load

    estimator = uc.load(run)
    path = json or run / "certificate.json"
    _check_own_files(run, [path])
    check_writable(path, overwrite)
    with spinner(f"reading {data}"):
        part = load(data, split, labels)
    certificate = uc.certify(
        estimator,
        part.table(),
        name=run.name,
        n_samples=n_samples,
        n_importance=n_importance,
        seed=seed,
    )
    typer.echo(repr(certificate))
    certificate.to_json(path, overwrite)
    typer.echo(f"\nwritten: {path}")


@app.command()
def sweep(
    data: DataArgument,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=V1,V2,...",
            help="Arguments of the model, as for `uncollapse fit`, with the values to try. A value "
            "that is a list itself stands in "
            "brackets. For example: inverse_lipschitz=0,.2,.5,1.5 latent_dim=16,64 "
            "hidden=[256],[512,512]. With --search also "
            "ranges: learning_rate=1e-4..1e-2",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        str, typer.Option(help="Each combination is trained with all of them: 0-4, or 0,3,7.")
    ] = "0",
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="VAE, MixtureVAE or SequenceVAE.",
            show_default="SequenceVAE for documents, else VAE",
        ),
    ] = None,
    min_kl: Annotated[
        float, typer.Option(help="The best has the lowest NLL at a KL of so many nats at least.")
    ] = 0.0,
    config: ConfigOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder of the results.",
            show_default="sweeps/ and the name of the data",
        ),
    ] = None,
    labels: LabelsOption = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Of a cluster of Ray's whose machines see the same folders; 'local' for all of "
            "this machine; 'none' for one trial "
            "after the other.",
            show_default="local where Ray is installed (pip install 'uncollapse[sweep]'), else "
            "none",
        ),
    ] = None,
    early_stopping: Annotated[
        bool,
        typer.Option(
            "--early-stopping", help="On Ray, stop trials that do not look promising (ASHA)."
        ),
    ] = False,
    search: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="On Ray, let Optuna choose N combinations, by what came of those before.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the results that are there.")
    ] = False,
) -> None:
    """Train a model with all combinations of values and seeds, and find the best under a stated
    rule.

    What is measured is measured on a fifth of the training data, which is held out, or on the
    validation part where there is one. Results are written as they come; after an interruption of
    any kind, the same command with --resume computes nothing twice.
    """
    from uncollapse._utils.progress import spinner
    from uncollapse.data import hold_out
    from uncollapse.experiments.sweep import sweep_data

    given = _read_settings(config, [])
    grid = dict(_read_override(setting, listed=True) for setting in settings or [])
    with spinner(f"reading {data}"):
        train, held_out = hold_out(data, labels)
    folder = output or Path("sweeps") / train.name
    with _resumable(folder):
        found = sweep_data(
            train,
            held_out,
            grid,
            model=model,
            seeds=_read_seeds(seeds),
            min_kl=min_kl,
            output=folder,
            resume=resume,
            ray=ray,
            stop_early=early_stopping,
            n_searched=search,
            settings={name: value for name, value in given.items() if name not in grid},
            tell=typer.echo,
        )
    typer.echo(f"\n{found}")
    if found.failures:
        _fail(
            f"{len(found.failures)} trials gave no result, and are due again with --resume: "
            f"{found.failures[0]}",
            1,
        )


def _read_seeds(text: str) -> list[int]:
    """Seeds as 0-4, or 0,3,7, or both."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        is_good = (
            first.isdecimal() and (last.isdecimal() or not dash) and len(first) + len(last) < 20
        )
        if not is_good or int(last or first) - int(first) >= MAX_SEEDS:
            raise ParameterError(
                f"--seeds expects whole numbers, such as 0-4 or 0,3,7, got {text!r}."
            )
        seeds += range(int(first), int(last or first) + 1)
    return seeds


@app.command()
def reproduce(
    experiment: Annotated[
        str,
        typer.Argument(
            help="k23-toy, k23-images, k23-text, w21-pinwheel, w21-images, w21-depth, "
            "w21-one-cluster, w21-text, w21-ppca "
            "or w21-gmm.",
            show_default=False,
        ),
    ],
    scale: Annotated[
        str,
        typer.Option(
            help="smoke (seconds), small (at most about ten minutes a run on 2 cores) or paper "
            "(the papers' sizes)."
        ),
    ] = "small",
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many, from 0 on.",
            show_default="1 for smoke, 3, or 10 where the paper has ten",
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")] = Path(
        "results"
    ),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the results that are there.")
    ] = False,
    ray: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Of a cluster of Ray's whose machines see the same folders; 'local' for all of "
            "this machine; 'none' for one trial "
            "after the other, whose seconds can be compared.",
        ),
    ] = "none",
) -> None:
    """Compute a figure or a table of the papers anew, beside the paper's numbers."""
    from uncollapse.experiments.papers import reproduce as compute

    with _resumable(output):
        found = compute(experiment, scale, seeds, output, resume, ray, tell=typer.echo)
    typer.echo(f"\n{found.fillna('').to_string(index=False)}")


def _check_own_files(run: Path, paths: list[Path]) -> None:
    """Raise `InputError` for a report in the place of what the run itself needs."""
    from uncollapse._utils.files import resolved
    from uncollapse._utils.run_folders import OWN_FILES

    own = {resolved(run / name) for name in OWN_FILES}
    if taken := own & {resolved(path) for path in paths}:
        raise FileError(
            f"{taken.pop()} belongs to the run itself: choose another path for the report."
        )


@data_app.command("list")
def list_data() -> None:
    """List the named data sets, and where each is."""
    from rich.console import Console
    from rich.table import Table

    from uncollapse.data import NAMED

    table = Table("name", "what it is", "where", box=None)
    for name, named in NAMED.items():
        table.add_row(name, named.description, named.whereabouts())
    Console().print(table)


@data_app.command("fetch")
def fetch_data(
    name: Annotated[str, typer.Argument(help="Name of a data set.", show_default=False)],
) -> None:
    """Download a data set, unless it is on this machine already."""
    from uncollapse.data import NAMED

    if name not in NAMED:
        raise ParameterError(f"there is no data set {name!r}: expected one of {', '.join(NAMED)}.")
    for path in NAMED[name].fetch():
        typer.echo(path)
    typer.echo(f"{name} is ready")


def _read_settings(config: Path | None, overrides: Sequence[str]) -> dict[str, Any]:
    from uncollapse._utils.files import check_readable

    settings: dict[str, Any] = {}
    if config is not None:
        check_readable(config, "configuration file")
        try:
            content = _parse_yaml(config.read_text(encoding="utf-8"))
        except Exception as error:  # YAML fails in many ways
            raise FileError(
                f"{config} is not valid YAML ({one_line(error)}): expected lines of `key: value`."
            ) from None
        if not isinstance(content, dict):
            raise FileError(
                f"{config} expects lines of `key: value`, got {type(content).__name__}."
            )
        settings |= {
            key if isinstance(key, str) else brief(key): value for key, value in content.items()
        }
    return settings | dict(_read_override(override) for override in overrides)


def _read_override(override: str, listed: bool = False) -> tuple[str, Any]:
    """A key and what it is set to; if `listed`, a list of such, or text with the ends of a
    range."""
    key, equals, text = override.partition("=")
    if not (key and equals and text):
        raise ParameterError(
            f"a setting expects KEY=VALUE, got {brief(override)}: for example "
            "inverse_lipschitz=1.5."
        )
    if listed and ".." in text:
        return key, text
    try:
        if listed:
            return key, [None if value == "None" else value for value in _parse_yaml(f"[{text}]")]
        as_list = f"[{text}]" if "," in text and text[0] not in "[{'\"" else text
        return key, None if text == "None" else _parse_yaml(as_list)
    except Exception:  # YAML fails in many ways
        raise ParameterError(
            f"the value of {key} cannot be read, got {brief(text)}: expected YAML, such as 1.5, "
            "null or [512, 512]."
        ) from None


def _parse_yaml(text: str) -> Any:
    """What YAML says, without references, of which a few lines can stand for more than memory can
    hold."""
    import yaml

    class PlainLoader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("references such as *name are not followed")
            return super().compose_node(parent, index)

    return yaml.load(text, PlainLoader)


def _print_comparison(reports: Sequence[Report]) -> None:
    from rich.console import Console
    from rich.table import Table

    from uncollapse.diagnostics.page import side_by_side

    table = Table("", *(report.name for report in reports), box=None)
    for label, cells in [("", [report.verdict for report in reports]), *side_by_side(reports)]:
        table.add_row(label, *cells)
    Console().print("\n", table)


def _show_each_once() -> Callable[..., None]:
    """What shows warnings, each once, however often a command trains."""

    @cache
    def show(sentence: str) -> None:
        typer.echo(f"note: {sentence}", err=True)

    return lambda message, *_, **__: show(str(message))


def _ending(kind: type[BaseException]) -> tuple[str, int]:
    """What to call an interruption, and the exit code that tells of it."""
    return (
        ("terminated", EXIT_TERMINATED)
        if issubclass(kind, Terminated)
        else ("interrupted", EXIT_INTERRUPTED)
    )


@contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """Say after an interruption what can be gone on with."""
    try:
        yield
    except KeyboardInterrupt as stop:
        how, code = _ending(type(stop))
        kept = f"what was found is in {folder}, and --resume goes on with it"
        _fail(f"{how}; {kept if folder.exists() else 'nothing was found yet'}", code)


def _fail(message: str, code: int) -> NoReturn:
    if not is_first_process():  # of those that train together, all of which say the same
        sys.exit(code)
    if code in (EXIT_INTERRUPTED, EXIT_TERMINATED):  # a further one would only spoil the way out
        for number in INTERRUPTS:
            signal.signal(number, signal.SIG_IGN)
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(code)
