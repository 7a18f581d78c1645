"""Arguments and options that several commands share, and the files that they name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from uncollapse._utils.errors import FileError

if TYPE_CHECKING:
    from uncollapse import data


def output(help_text: str, default: str | bool = True) -> Any:
    """Return the option --output, with its default in words where the data decide it."""
    return Option("--output", "-o", help=help_text, show_default=default)


DataSource = Annotated[
    str,
    Argument(
        metavar="DATA",
        help="A .npy, .npz, .csv, .parquet, .txt or .txt.gz file, a folder of .parquet files, or "
        "the name of a data set.",
    ),
]
Labels = Annotated[
    str | None, Option(help="Column (or array of an .npz) of labels, kept out of the data.")
]
RunFolder = Annotated[Path, Argument(metavar="RUN", help="Folder written by `uncollapse fit`.")]
Split = Annotated[
    str, Option(help="Split of a named data set: train, test or, for text, validation.")
]
Model = Annotated[
    str | None,
    Option(
        "--model",
        "-m",
        help="VAE, MixtureVAE or SequenceVAE.",
        show_default="SequenceVAE for documents, else VAE",
    ),
]
Config = Annotated[
    Path | None,
    Option("--config", "-c", help="YAML file with settings; KEY=VALUE overrides it."),
]
Resume = Annotated[bool, Option("--resume", help="Resume an interrupted run.")]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace existing files.")]
RAY_HELP = (
    "Address of a Ray cluster whose machines share the folders; 'local' for all of this machine; "
    "'none' to train one model after the other."
)


def read_data(source: str, split: str, labels: str | None) -> data.Data:
    """Read a file or a part of a named data set, with a spinner on the terminal."""
    from uncollapse import data
    from uncollapse._utils.progress import spinner

    with spinner(f"reading {source}"):
        return data.load(source, split, labels)


def check_reports(run: Path, reports: Sequence[Path], overwrite: bool) -> None:
    """Check that reports can be written and replace no file that a run needs."""
    from uncollapse._utils.files import check_writable, resolved
    from uncollapse._utils.run_folders import OWN_FILES

    own = {resolved(run / name) for name in OWN_FILES}
    for path in reports:
        if resolved(path) in own:
            raise FileError(f"{path} belongs to the run. Choose another path for the report.")
        check_writable(path, overwrite)
