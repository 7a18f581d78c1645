"""Fuzzing of all that reads files: each input is read, or refused by an `InputError` in one line.

    python fuzz/loading.py -max_total_time=60

runs it under atheris (the extra `fuzz`), with the options of libFuzzer. `tests/test_fuzz.py` uses
the same targets.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

import uncollapse as uc
from uncollapse._utils.errors import InputError
from uncollapse._utils.parameters import check_parameters
from uncollapse.cli.settings import read_settings
from uncollapse.data import read_file

MAX_SENTENCE = 1000
SMALL: dict[str, Any] = {
    "latent_dim": 2,
    "hidden": (4,),
    "max_epochs": 1,
    "random_state": 0,
    "device": "cpu",
    "verbose": False,
}
LSTMS = {"hidden_dim": 4, "embedding_dim": 3, "encoder_hidden_dim": 4, "encoder_embedding_dim": 3}
SENTENCES = ["the cat sat", "the dog sat", "a dog ran", "a cat ran"] * 5
YAML = (
    b"latent_dim: 3\nhidden: [8, 8]\ninverse_lipschitz: 1.5\n"
    b"family: {gaussian: {scale: 0.5}}\nverbose: false\n"
)
WORDS = b"latent_dim=3\nhidden=8,8"


class Target(NamedTuple):
    """One way by which files get into the library.

    Attributes:
        seed: bytes that can be read.
        write: function that writes bytes into a folder.
        read: function that reads them from there.
    """

    seed: bytes
    write: Callable[[Path, bytes], Any]
    read: Callable[[Path], Any]


def write_runs(folder: Path) -> None:
    """Write a small run of each kind of model."""
    X = np.random.default_rng(0).normal(size=(20, 4))
    uc.VAE(**SMALL).fit(X).save(folder / "VAE")
    uc.MixtureVAE(n_components=2, warmup_epochs=0, **SMALL).fit(X).save(folder / "MixtureVAE")
    uc.SequenceVAE(**SMALL, **LSTMS).fit(SENTENCES).save(folder / "SequenceVAE")


def targets(runs: Path) -> dict[str, Target]:
    """Return all targets by name.

    Args:
        runs: folder of `write_runs`.
    """
    X = np.arange(12.0).reshape(6, 2)
    table = b"a,b,kind\n1,2.5,u\n3,4,v\n5,-6e3,u\n"
    text = "\n".join(SENTENCES).encode()
    found = {
        name: _file(name, seed)
        for name, seed in {"x.npy": _npy(X), "x.txt": text, "x.txt.gz": gzip.compress(text)}.items()
    }
    found["x.npz"] = _file("x.npz", _npz({"X.npy": _npy(X), "y.npy": _npy(np.arange(6))}))
    found["examples of x.npz"] = Target(
        _npy(X), lambda folder, part: _write_npz(folder, {"X.npy": part}), _read("x.npz")
    )
    found["labels of x.npz"] = Target(
        _npy(np.arange(6)),
        lambda folder, part: _write_npz(folder, {"X.npy": _npy(X), "y.npy": part}),
        _read("x.npz"),
    )
    found["content of x.txt.gz"] = Target(
        text,
        lambda folder, content: (folder / "x.txt.gz").write_bytes(gzip.compress(content, 1)),
        _read("x.txt.gz"),
    )
    found["x.csv"] = _file("x.csv", table, labels="kind")
    found["unlabeled x.csv"] = _file("x.csv", b"1.5,2\n3,4\n")
    found["c.yaml"] = Target(
        YAML, lambda folder, content: (folder / "c.yaml").write_bytes(content), _configure
    )
    found["KEY=VALUE"] = Target(
        WORDS, lambda folder, content: (folder / "words").write_bytes(content), _override
    )
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        pass
    else:
        found["x.parquet"] = _file("x.parquet", _parquet(X))
    for kind in ("VAE", "MixtureVAE", "SequenceVAE"):
        for name in ("model.json", "model.safetensors", "history.csv"):
            found[f"{name} of {kind}"] = _part_of_run(runs / kind, name)
    return found


def check(target: Target, folder: Path, content: bytes) -> str | None:
    """Let a target read bytes in an empty folder, whose parent may not change.

    Returns:
        The message with which they were refused, or None.

    Raises:
        AssertionError: if a file has changed, or the message is not one line.
        Exception: any error of the target but `InputError`.
    """
    target.write(folder, content)
    before = snapshot(folder.parent)
    sentence = refusal(lambda: target.read(folder))
    assert snapshot(folder.parent) == before, "reading has changed files"
    return sentence


def refusal(read: Callable[[], Any]) -> str | None:
    """Return the message with which input was refused, or None."""
    try:
        read()
    except InputError as error:
        sentence = str(error)
        assert "\n" not in sentence, sentence
        assert 10 < len(sentence) < MAX_SENTENCE, sentence
        return sentence
    return None


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Return the paths in a folder, with the content of files."""
    paths = sorted(folder.rglob("*"))
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


def _read(name: str, labels: str | None = None) -> Callable[[Path], Any]:
    return lambda folder: read_file(folder / name, labels)


def _file(name: str, seed: bytes, labels: str | None = None) -> Target:
    return Target(
        seed, lambda folder, content: (folder / name).write_bytes(content), _read(name, labels)
    )


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _npz(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def _write_npz(folder: Path, members: dict[str, bytes]) -> None:
    (folder / "x.npz").write_bytes(_npz(members))


def _parquet(X: np.ndarray) -> bytes:
    import pandas as pd

    buffer = io.BytesIO()
    pd.DataFrame(X, columns=["a", "b"]).to_parquet(buffer)
    return buffer.getvalue()


def _configure(folder: Path) -> None:
    check_parameters(uc.VAE, read_settings(folder / "c.yaml", []))


def _override(folder: Path) -> None:
    """Read each line as a setting of the command line."""
    words = (folder / "words").read_bytes().decode("utf-8", "surrogateescape").splitlines()
    check_parameters(uc.SequenceVAE, read_settings(None, words))


def _part_of_run(run: Path, name: str) -> Target:
    """Return the target that replaces one file of a run."""

    def write(folder: Path, content: bytes) -> None:
        for path in run.iterdir():
            (folder / path.name).write_bytes(content if path.name == name else path.read_bytes())

    seed = (run / name).read_bytes()
    return Target(
        json.dumps(json.loads(seed)).encode() if name == "model.json" else seed, write, uc.load
    )


def functions_of(*packages: str) -> list[FunctionType]:
    """Return the imported functions and methods of these packages, for the fuzzer to follow."""
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] in packages]
    members = [value for module in modules for value in vars(module).values()]
    classes = [value for value in members if isinstance(value, type)]
    values = [*members, *(value for owner in classes for value in vars(owner).values())]
    return [
        value
        for value in values
        if isinstance(value, FunctionType) and value.__module__.split(".")[0] in packages
    ]


def main() -> None:
    """Run the fuzzer until its options end it, or it has found something."""
    try:
        import atheris
    except ImportError:
        sys.exit("error: fuzzing needs atheris: pip install 'uncollapse[fuzz]'")
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="uncollapse-fuzz-") as scratch:
        runs, corpus, place = (Path(scratch) / name for name in ("runs", "corpus", "place"))
        write_runs(runs)
        corpus.mkdir()
        all_targets = list(targets(runs).values())
        for index, target in enumerate(all_targets):
            (corpus / str(index)).write_bytes(bytes([index]) + target.seed)

        def one(data: bytes) -> None:
            if data:
                with tempfile.TemporaryDirectory(prefix="place-", dir=place) as folder:
                    check(all_targets[data[0] % len(all_targets)], Path(folder), data[1:])

        place.mkdir()
        for function in functions_of("uncollapse", "yaml", "zipfile", "numpy"):
            atheris.instrument_func(function)
        atheris.Setup([*sys.argv, f"-artifact_prefix={os.getcwd()}/", str(corpus)], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
