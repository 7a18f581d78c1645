"""The scikit-learn face: estimators that fit, transform, sample, score, save and load."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import pandas as pd
import torch
from pydantic import Field, InstanceOf
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from uncollapse import models
from uncollapse._version import __version__
from uncollapse.diagnostics.likelihood import importance_log_likelihood, observe_rows, to_device
from uncollapse.errors import InputError
from uncollapse.families import Family, get_family
from uncollapse.files import new_folder
from uncollapse.latent import DiagonalGaussian, StandardNormal
from uncollapse.maps import EMBEDDINGS, InverseLipschitzDecoder, MLPDecoder
from uncollapse.objectives import elbo
from uncollapse.parameters import check_parameters

FORMAT = 1  # of saved models; rises when an older version could not read what is written
WEIGHTS_FILE, SETTINGS_FILE, HISTORY_FILE = "model.safetensors", "model.json", "history.csv"
ROWS_AT_ONCE = 1000

Count = Annotated[int, Field(ge=1, description="a positive integer")]
Constant = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class VAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A variational autoencoder whose latents cannot collapse, as a scikit-learn transformer.

    With `inverse_lipschitz` a number or a pair, the decoder is made of Brenier maps and moves its natural parameters at least
    that much when z moves: IL-LIDVAE (K23 definition 4.1), and LIDVAE (W21 definition 3) at 0. With None it is a multilayer
    perceptron: the ordinary VAE (Kingma & Welling 2014).

    Args:
        latent_dim: number of latent units; at most the number of features, unless `inverse_lipschitz` is None.
        inverse_lipschitz: L for every map, (L1, L2) for the two maps where latent_dim < n_features, or None.
        family: "gaussian" (one learned scale), "bernoulli", "continuous_bernoulli", or a `uc.families.Family` such as
            ``Gaussian(scale=2.0)``, which in a configuration file is ``{gaussian: {scale: 2.0}}``.
        embedding: where the two maps meet: "principal" lays the latents along the leading principal directions of the data,
            "padding" along the first features, as in both papers. Without effect where there is one map or none.
        hidden: widths of the hidden layers of the encoder and of each map of the decoder.
        max_epochs: passes over the data.
        batch_size: rows in a step.
        learning_rate: of Adam.
        random_state: seed of everything that is random in training. The seed in force is `seed_`.
        device: "auto" takes a GPU where there is one. A loaded model goes to the same kind of device if the machine has it.
        verbose: show progress bars where there is a terminal.

    Attributes:
        model_: the trained `uncollapse.models.VAE`.
        history_: the training, a row for each epoch: epoch, loss, reconstruction and kl in nats per example, seconds.
        n_features_in_: number of features seen in `fit`.
        feature_names_in_: their names, where X had some.
        seed_: the seed that was used.

    >>> import numpy as np, uncollapse as uc
    >>> X = np.random.default_rng(0).normal(size=(500, 5))
    >>> vae = uc.VAE(latent_dim=2, inverse_lipschitz=1.0, max_epochs=2, random_state=0).fit(X)
    >>> vae.transform(X).shape, vae.sample(3).shape
    ((500, 2), (3, 5))
    """

    def __init__(
        self,
        latent_dim: Count = 2,
        inverse_lipschitz: Annotated[
            Constant | tuple[Constant, Constant] | None,
            Field(description="a finite number >= 0 for every map, a pair (L1, L2) of them, or None for an ordinary decoder"),
        ] = 0.5,
        family: Annotated[
            str | dict[str, dict[str, Any]] | InstanceOf[Family],
            Field(description="the name of a family, or one with its arguments, such as {gaussian: {scale: 1.0}}"),
        ] = "gaussian",
        embedding: Annotated[Literal["principal", "padding"], Field(description="'principal' or 'padding'")] = "principal",
        hidden: Annotated[tuple[Count, ...], Field(min_length=1, description="a list of one or more positive widths")] = (256, 256),
        max_epochs: Count = 50,
        batch_size: Count = 100,
        learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False, description="a positive finite number")] = 1e-3,
        random_state: Annotated[
            Annotated[int, Field(ge=0, lt=2**32)] | InstanceOf[np.random.RandomState] | None,
            Field(description="a seed (an integer from 0 to 2^32 - 1), a RandomState, or None"),
        ] = None,
        device: Annotated[Literal["auto", "cpu", "cuda", "mps"], Field(description="one of auto, cpu, cuda, mps")] = "auto",
        verbose: Annotated[bool, Field(description="true or false")] = True,
    ) -> None:
        self.latent_dim = latent_dim
        self.inverse_lipschitz = inverse_lipschitz
        self.family = family
        self.embedding = embedding
        self.hidden = hidden
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on X, shape (n, n_features) with n >= 2. y is ignored.

        Raises:
            InputError: if a parameter or the data cannot be used.
            NonFiniteLossError: if training meets a loss that is not finite; the estimator then holds the last good state.
            KeyboardInterrupt: after Ctrl-C; the estimator then holds what it has learned so far.
        """
        del y
        parameters = check_parameters(type(self), self.get_params(deep=False))
        parameters["device"] = resolve_device(parameters["device"])
        rows = self._read(X, reset=True)
        family = get_family(parameters["family"])
        _check_training_rows(family, rows)
        random_state = parameters["random_state"]
        seed = random_state if isinstance(random_state, int) else check_random_state(random_state).randint(2**31)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = build_vae(parameters, rows.shape[1])
        adapt(model, rows)
        self.seed_: int = int(seed)
        self._train(model, rows, parameters)
        return self

    def _train(self, model: models.VAE, rows: np.ndarray, parameters: Mapping[str, Any]) -> None:
        from uncollapse.training.engine import HISTORY_COLUMNS, train

        history: list[dict[str, float]] = []
        try:
            train(
                model,
                elbo,
                torch.as_tensor(rows),
                max_epochs=parameters["max_epochs"],
                batch_size=parameters["batch_size"],
                learning_rate=parameters["learning_rate"],
                seed=self.seed_,
                history=history,
                device=parameters["device"],
                verbose=parameters["verbose"],
            )
        finally:  # what has been learned is kept, whatever ended the training
            self.model_ = model.eval().requires_grad_(False)
            self.history_ = pd.DataFrame(history, columns=list(HISTORY_COLUMNS)).astype({"epoch": int})

    def transform(self, X: Any) -> np.ndarray:
        """Posterior means E[z|x], shape (n, latent_dim), float32.

        Values that a family of discrete data would draw (grey levels under "bernoulli") go to the encoder as they are.
        """
        return self._in_batches(self.check_rows(X), lambda x: self.model_.posterior(x).mean)

    def inverse_transform(self, Z: Any) -> np.ndarray:
        """Means E[x|z], shape (n, n_features), float32.

        Raises:
            InputError: if Z is not of shape (n, latent_dim) or not finite.
        """
        check_is_fitted(self)
        codes = _as_floats(Z, "Z")
        if codes.shape[1] != self._n_features_out:
            raise InputError(f"Z expects {self._n_features_out} columns, one for each latent unit, got {codes.shape[1]}.")
        return self._in_batches(codes, lambda z: self.model_.likelihood(z).mean)

    def reconstruct(self, X: Any) -> np.ndarray:
        """Means of p(x|z) at the posterior means of X, shape (n, n_features), float32."""
        return self.inverse_transform(self.transform(X))

    def sample(self, n_samples: int = 1, random_state: Any = None) -> np.ndarray:
        """Draws of x from the model, shape (n_samples, n_features), float32.

        Args:
            n_samples: how many.
            random_state: a seed or a RandomState; None draws anew at each call.

        Raises:
            InputError: if `n_samples` is not positive.
        """
        check_is_fitted(self)
        if n_samples < 1:
            raise InputError(f"n_samples expects a positive integer, got {n_samples}.")
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(check_random_state(random_state).randint(2**31))
            z = self.model_.prior().sample((n_samples,))
            draws: np.ndarray = self.model_.likelihood(z).sample().cpu().numpy()
        return draws

    def score_samples(self, X: Any, n_importance: int = 64) -> np.ndarray:
        """log p(x) of each row in nats, estimated by importance weighting (Burda et al. 2016), shape (n,), float32.

        The draws belong to the row, so that a row's score does not depend on the others. Grey levels under "bernoulli" are
        binarised once, by draws that belong to the row as well.

        Args:
            X: shape (n, n_features).
            n_importance: draws of z for each row; the estimate rises to log p(x) with it.
        """
        rows = observe_rows(self.model_.family, self.check_rows(X))
        return importance_log_likelihood(self.model_, rows, n_importance, self.verbose)

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of `score_samples`, in nats per example. y is ignored."""
        del y
        return float(self.score_samples(X).mean(dtype=np.float64))

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Save to a folder: the weights as safetensors, all else as JSON and CSV. `uc.load` reads it back.

        Raises:
            InputError: if the folder exists and `overwrite` is False, or cannot be written.
        """
        check_is_fitted(self)
        folder = Path(folder)
        with new_folder(folder, overwrite) as scratch:
            save_file({name: value.contiguous() for name, value in self.model_.state_dict().items()}, scratch / WEIGHTS_FILE)
            (scratch / SETTINGS_FILE).write_text(json.dumps(self._settings(), indent=2) + "\n", encoding="utf-8")
            self.history_.to_csv(scratch / HISTORY_FILE, index=False)
        return folder

    def _settings(self) -> dict[str, Any]:
        parameters = check_parameters(type(self), self.get_params(deep=False))
        parameters["family"] = get_family(parameters["family"]).spec
        if not isinstance(parameters["random_state"], int):
            parameters["random_state"] = None
        names = getattr(self, "feature_names_in_", None)
        return {
            "format": FORMAT,
            "version": __version__,
            "estimator": type(self).__name__,
            "parameters": parameters,
            "n_features": self.n_features_in_,
            "feature_names": None if names is None else names.tolist(),
            "seed": self.seed_,
        }

    @property
    def _n_features_out(self) -> int:
        return int(self.model_.prior().event_shape[0])

    def check_rows(self, X: Any) -> np.ndarray:
        """X as float32 rows that the fitted model accepts.

        Raises:
            InputError: if X has other columns than in `fit`, is not finite, or lies outside the family's support.
        """
        check_is_fitted(self)
        rows = self._read(X, reset=False)
        self.model_.family.check(rows)
        return rows

    def _read(self, X: Any, reset: bool) -> np.ndarray:
        try:
            rows = validate_data(self, X, reset=reset, dtype=[np.float64, np.float32], ensure_all_finite=False)
        except ValueError as error:
            raise InputError(f"{error}{_remedy(str(error))}") from None
        return _finite_floats(rows, "X")

    def _in_batches(self, rows: np.ndarray, function: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray:
        pieces = [rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE)]
        with torch.inference_mode():
            return np.concatenate([function(to_device(self.model_, piece)).cpu().numpy() for piece in pieces])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


ESTIMATORS: dict[str, type[VAE]] = {"VAE": VAE}


def available_devices() -> list[str]:
    """The kinds of device that this machine has, the fastest first."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return [name for name, is_there in there.items() if is_there]


def resolve_device(device: str) -> str:
    """The kind of device to use: the fastest for "auto".

    Raises:
        InputError: if this machine has no such device.
    """
    available = available_devices()
    if device == "auto":
        return available[0]
    if device not in available:
        raise InputError(f"device expects one that this machine has ({', '.join(available)}), got {device!r}: use 'auto'.")
    return device


def build_vae(parameters: Mapping[str, Any], n_features: int) -> models.VAE:
    """An untrained model from an estimator's checked parameters."""
    latent_dim, hidden, constants = parameters["latent_dim"], parameters["hidden"], parameters["inverse_lipschitz"]
    decoder = (
        MLPDecoder(latent_dim, n_features, hidden)
        if constants is None
        else InverseLipschitzDecoder(latent_dim, n_features, hidden, constants, EMBEDDINGS[parameters["embedding"]])
    )
    posterior = DiagonalGaussian(n_features, latent_dim, hidden)
    return models.VAE(StandardNormal(latent_dim), posterior, decoder, get_family(parameters["family"]))


def adapt(model: models.VAE, rows: np.ndarray) -> None:
    """Start a model at the data: the decoder at their mean, the encoder at their location and scale."""
    mean = torch.as_tensor(rows.mean(0, dtype=np.float64), dtype=torch.float32)
    deviation = float(np.sqrt(rows.var(axis=0, dtype=np.float64).mean()))
    model.family.adapt(rows)
    model.posterior.adapt(mean, deviation or 1.0)
    model.decoder.adapt(rows)
    model.decoder.start_at(model.family.natural(mean))


def load(folder: str | Path) -> VAE:
    """A fitted estimator from the folder that `save` wrote. Nothing in the folder can be executed.

    Raises:
        InputError: if the folder holds no saved model, a damaged one, or one of a newer version.
    """
    folder = Path(folder)
    settings = _read_settings(folder)
    try:
        estimator_class = ESTIMATORS[settings["estimator"]]
        parameters = check_parameters(estimator_class, settings["parameters"])
        estimator = estimator_class(**{**settings["parameters"], "hidden": parameters["hidden"]})
        model = build_vae(parameters, settings["n_features"])
        model.load_state_dict(load_file(folder / WEIGHTS_FILE))
        estimator.history_ = pd.read_csv(folder / HISTORY_FILE)
        estimator.n_features_in_ = settings["n_features"]
        if settings["feature_names"] is not None:
            estimator.feature_names_in_ = np.array(settings["feature_names"], dtype=object)
        estimator.seed_ = settings["seed"]
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{folder} holds a damaged model ({reason}): fit and save it again.") from None
    device = parameters["device"] if parameters["device"] in available_devices() else "auto"
    estimator.model_ = model.to(resolve_device(device)).eval().requires_grad_(False)
    return estimator


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS_FILE
    if not path.is_file():
        raise InputError(
            f"{folder} holds no saved model: expected a folder that `save` or `uncollapse fit` wrote, with {SETTINGS_FILE}."
        )
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        newer = settings["format"] > FORMAT
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}): it may be damaged; fit and save the model again.") from None
    if newer:
        raise InputError(
            f"{folder} was saved by uncollapse {settings.get('version')} in format {settings['format']}, and this is "
            f"{__version__}, which reads formats up to {FORMAT}: pip install --upgrade uncollapse."
        )
    return dict(settings)


def _as_floats(values: Any, name: str) -> np.ndarray:
    try:
        array = check_array(values, dtype=[np.float64, np.float32], ensure_all_finite=False, input_name=name)
    except ValueError as error:
        raise InputError(f"{error}{_remedy(str(error))}") from None
    return _finite_floats(array, name)


def _finite_floats(array: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        floats = array.astype(np.float32)
    bad = ~np.isfinite(floats)
    if bad.any():
        row, column = (int(index) for index in np.argwhere(bad)[0])
        raise InputError(
            f"{name} expects finite numbers, got {int(np.isnan(floats).sum())} NaN and {int(np.isinf(floats).sum())} infinite "
            f"(inf) values, the first in row {row}, column {column}: drop or impute those rows."
        )
    return floats


def _check_training_rows(family: Family, rows: np.ndarray) -> None:
    if len(rows) < 2:
        raise InputError(f"training expects at least 2 rows, got n_samples={len(rows)}: give more data.")
    family.check(rows)
    if not family.is_observed(rows):
        warnings.warn(
            f"X holds values strictly between 0 and 1: family {family.name!r} takes them for probabilities of a 1 and draws them "
            "anew at each step (dynamic binarisation).",
            UserWarning,
            stacklevel=3,
        )


def _remedy(message: str) -> str:
    if "is expecting" in message:
        return ": give the same columns as in fit."
    if "could not convert" in message:
        return ": encode text as numbers, or drop those columns."
    return ""
