"""The scikit-learn face: estimators that fit, transform, sample, score, save and load."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import pandas as pd
import torch
from pydantic import Field, InstanceOf
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from uncollapse import models
from uncollapse.diagnostics.information import inverse_lipschitz_for
from uncollapse.diagnostics.likelihood import importance_log_likelihood
from uncollapse.errors import InputError
from uncollapse.families import FAMILIES, Family, Gaussian, get_family
from uncollapse.inputs import FLOATS, check_count, check_resolution, finite_floats, one_sentence
from uncollapse.interrupts import deferred_interrupt
from uncollapse.latent import DiagonalGaussian, StandardNormal
from uncollapse.maps import EMBEDDINGS, POTENTIALS, InverseLipschitzDecoder, MLPDecoder
from uncollapse.maps.embedding import MAX_PRINCIPAL_ROWS
from uncollapse.models import observe_rows, to_device
from uncollapse.noise import derived_seed, seeded
from uncollapse.objectives import elbo
from uncollapse.parameters import Count, NotBool, PositiveFloat, check_parameters
from uncollapse.progress import spinner
from uncollapse.runs import Settings, damaged, read_history, read_settings, read_weights, write_run

ROWS_AT_ONCE = 1000
# Numbers held at once where statistics of many columns are made of few, such as one-hot codes.
VALUES_AT_ONCE = 2**22
MAX_PRINCIPAL_VALUES = 2**27
DEFAULT_CONSTANT = 0.5
MAX_CONSTANT = 1e6  # far beyond use, and far from the limits of float32
HISTORY_COLUMNS = ("epoch", "loss", "reconstruction", "kl", "seconds")

Constant = Annotated[float, NotBool, Field(ge=0, le=MAX_CONSTANT, allow_inf_nan=False)]


class VAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A variational autoencoder whose latents cannot collapse, as a scikit-learn transformer.

    With `inverse_lipschitz` a number or several, the decoder is made of Brenier maps and moves its natural parameters at least
    that much when z moves: IL-LIDVAE (K23 definition 4.1), and LIDVAE (W21 definition 3) at 0. With None it is a multilayer
    perceptron: the ordinary VAE (Kingma & Welling 2014).

    Args:
        latent_dim: number of latent units; at most the number of natural parameters (of most families, the number of features),
            unless `inverse_lipschitz` is None.
        inverse_lipschitz: L for every map; one for each, such as (L1, L2) where latent_dim is below the number of natural
            parameters; or None. Families with a link (see `family`) take 0 or None. "auto" is what `min_information` asks for, or
            else 0.5, or 0 under a link.
        min_information: nats that the mutual information I(x; z) of the model is guaranteed to reach, whatever it learns (see
            `uc.information_floor`); for family "gaussian".
        family: of p(x|z), by its name or as a `uc.families.Family` such as ``Gaussian(scale=2.0)``, which in a configuration file
            is ``{gaussian: {scale: 2.0}}``. "gaussian" (one learned scale), "bernoulli", "continuous_bernoulli", "poisson" and
            ``{categorical: {n_categories: V}}`` keep any constant; "heteroscedastic_gaussian", "exponential", "beta" and
            ``{negative_binomial: {dispersion: r}}`` have a link from the decoder's output to natural parameters, which keeps only
            that the decoder is injective.
        embedding: where the last map begins: "principal" lays its inputs along the leading principal directions of the data,
            "padding" along the first features, as in both papers, "learned" along directions that are trained. Without effect
            for an ordinary decoder, and where latent_dim is the number of natural parameters.
        potential: the convex functions that the maps are gradients of: "icnn", input convex networks, or "ridge", sums of ridges,
            with one layer of as many units as `hidden` has in all. Without effect for an ordinary decoder.
        lipschitz: upper constants, for every map or one for each, which keep latents from spreading without limit; they need
            potential="ridge". None sets no limit.
        between: dimensions of further maps between the first and the last (W21 appendix B), none below the one before.
        hidden: widths of the hidden layers of the encoder, and of the ordinary decoder or each map of the injective one.
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
        inverse_lipschitz_: the constants in force, one for each map; None for an ordinary decoder.

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
            Constant | tuple[Constant, ...] | Literal["auto"] | None,
            Field(description="a number from 0 to 1e6 for every map, one for each, None for an ordinary decoder, or 'auto'"),
        ] = "auto",
        min_information: Annotated[PositiveFloat | None, Field(description="a positive number of nats, or None")] = None,
        family: Annotated[
            str | dict[str, dict[str, Any]] | InstanceOf[Family],
            Field(description="the name of a family, or one with its arguments, such as {gaussian: {scale: 1.0}}"),
        ] = "gaussian",
        embedding: Annotated[
            Literal["principal", "padding", "learned"], Field(description="'principal', 'padding' or 'learned'")
        ] = "principal",
        potential: Annotated[Literal["icnn", "ridge"], Field(description="'icnn' or 'ridge'")] = "icnn",
        lipschitz: Annotated[
            PositiveFloat | tuple[PositiveFloat, ...] | None,
            Field(description="a positive number for every map, one for each, or None"),
        ] = None,
        between: Annotated[tuple[Count, ...], Field(description="a list of dimensions, which may be empty")] = (),
        hidden: Annotated[tuple[Count, ...], Field(min_length=1, description="a list of one or more positive widths")] = (256, 256),
        max_epochs: Count = 50,
        batch_size: Count = 100,
        learning_rate: PositiveFloat = 1e-3,
        random_state: Annotated[
            Annotated[int, NotBool, Field(ge=0, lt=2**32)] | InstanceOf[np.random.RandomState] | None,
            Field(description="a seed (an integer from 0 to 2^32 - 1), a RandomState, or None"),
        ] = None,
        device: Annotated[Literal["auto", "cpu", "cuda", "mps"], Field(description="one of auto, cpu, cuda, mps")] = "auto",
        verbose: Annotated[bool, Field(strict=True, description="true or false")] = True,
    ) -> None:
        self.latent_dim = latent_dim
        self.inverse_lipschitz = inverse_lipschitz
        self.min_information = min_information
        self.family = family
        self.embedding = embedding
        self.potential = potential
        self.lipschitz = lipschitz
        self.between = between
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
            InputError: if a parameter or the data cannot be used. What was fitted before is left as it was.
            NonFiniteLossError: if training meets a loss that is not finite; the estimator then holds the last good state.
            KeyboardInterrupt: after Ctrl-C; the estimator then holds what it has learned so far.
        """
        del y
        parameters = check_parameters(type(self), self.get_params(deep=False))
        parameters["device"] = resolve_device(parameters["device"])
        with spinner("preparing", parameters["verbose"]):
            rows = self._read_training_rows(X, get_family(parameters["family"]))
            random_state = parameters["random_state"]
            seed = random_state if isinstance(random_state, int) else int(check_random_state(random_state).randint(2**31))
            _check_memory(parameters, rows.shape[1])
            with seeded(derived_seed(seed, "initialisation")):
                model = build_vae(parameters, rows.shape[1])
            adapt(model, rows)
        with deferred_interrupt():  # what belongs to one fit is taken over as one
            with one_sentence():
                validate_data(self, X, skip_check_array=True, reset=True)  # takes down the features
            self._train(model, rows, parameters, seed)
        return self

    def _read_training_rows(self, X: Any, family: Family) -> np.ndarray:
        with one_sentence():
            given = check_array(X, dtype=FLOATS, ensure_all_finite=False, estimator=self, input_name="X")
        rows = finite_floats(given, "X")
        check_resolution(given, rows)
        if len(rows) < 2:
            raise InputError(f"training expects at least 2 rows, got n_samples={len(rows)}: give more data.")
        family.check(rows)
        if not family.is_observed(rows):
            warnings.warn(
                f"X holds values strictly between 0 and 1: family {family.name!r} takes them for probabilities of a 1 and draws "
                "them anew at each step (dynamic binarisation).",
                UserWarning,
                stacklevel=3,
            )
        return rows

    def _train(self, model: models.VAE, rows: np.ndarray, parameters: dict[str, Any], seed: int) -> None:
        from uncollapse.training.engine import train

        history: list[tuple[float, ...]] = []
        try:
            train(
                model,
                elbo,
                torch.as_tensor(rows),
                max_epochs=parameters["max_epochs"],
                batch_size=parameters["batch_size"],
                learning_rate=parameters["learning_rate"],
                seed=seed,
                history=history,
                device=parameters["device"],
                verbose=parameters["verbose"],
            )
        finally:  # what has been learned is kept, whatever ended the training
            self.seed_ = seed
            self.parameters_ = parameters
            self.model_ = model.eval().requires_grad_(False)
            self.history_ = pd.DataFrame(history, columns=list(HISTORY_COLUMNS)).astype({"epoch": int})

    def transform(self, X: Any) -> np.ndarray:
        """Posterior means E[z|x], shape (n, latent_dim), float32.

        Values that a family of discrete data would draw (grey levels under "bernoulli") go to the encoder as they are.
        """
        return self._in_batches(self.check_rows(X), lambda x: self.model_.posterior(x).mean)

    def inverse_transform(self, Z: Any) -> np.ndarray:
        """Means E[x|z], shape (n, n_features), float32; under "categorical", whose codes have no mean, the most probable codes.

        Raises:
            InputError: if Z is not of shape (n, latent_dim) or not finite.
        """
        check_is_fitted(self)
        with one_sentence():
            given = check_array(Z, dtype=FLOATS, ensure_all_finite=False, input_name="Z")
        codes = finite_floats(given, "Z")
        if codes.shape[1] != self._n_features_out:
            raise InputError(f"Z expects {self._n_features_out} columns, one for each latent unit, got {codes.shape[1]}.")
        return self._in_batches(codes, lambda z: self.model_.likelihood(z).mean)

    def reconstruct(self, X: Any) -> np.ndarray:
        """`inverse_transform` at the posterior means of X, shape (n, n_features), float32."""
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
        check_count("n_samples", n_samples)
        with seeded(check_random_state(random_state).randint(2**31)):
            codes = self.model_.prior().sample((n_samples,)).cpu().numpy()
            return self._in_batches(codes, lambda z: self.model_.likelihood(z).sample())

    def score_samples(self, X: Any, n_importance: int = 64) -> np.ndarray:
        """log p(x) of each row in nats, estimated by importance weighting (Burda et al. 2016), shape (n,), float32.

        The draws belong to the row, so that a row's score does not depend on the others. Grey levels under "bernoulli" are
        binarised once, by draws that belong to the row as well.

        Args:
            X: shape (n, n_features).
            n_importance: draws of z for each row; the estimate rises to log p(x) with it.
        """
        check_count("n_importance", n_importance)
        given = self.check_rows(X)
        rows = observe_rows(self.model_.family, given)
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
        if ESTIMATORS.get(type(self).__name__) is not type(self):
            raise InputError(
                f"saving expects one of {', '.join(ESTIMATORS)}, got {type(self).__name__}: save its model_ with torch."
            )
        family = get_family(self.parameters_["family"])
        if type(family) is not FAMILIES.get(family.name):
            raise InputError(
                f"saving expects a family of {', '.join(FAMILIES)}, got {family!r}: another could not be loaded again."
            )
        random_state = self.parameters_["random_state"]
        names = getattr(self, "feature_names_in_", None)
        settings = Settings(
            estimator=type(self).__name__,
            parameters={
                **self.parameters_,
                "family": family.spec,
                "random_state": random_state if isinstance(random_state, int) else None,
            },
            n_features=self.n_features_in_,
            feature_names=None if names is None else names.tolist(),
            seed=self.seed_,
        )
        write_run(Path(folder), settings, self.model_.state_dict(), self.history_, overwrite)
        return Path(folder)

    @property
    def inverse_lipschitz_(self) -> tuple[float, ...] | None:
        """The constants in force, one for each map; None for an ordinary decoder."""
        check_is_fitted(self, "model_")
        decoder = self.model_.decoder
        return decoder.constants if isinstance(decoder, InverseLipschitzDecoder) else None

    @property
    def _n_features_out(self) -> int:
        return int(self.model_.prior().event_shape[0])

    def check_rows(self, X: Any) -> np.ndarray:
        """X as float32 rows that the fitted model accepts.

        Raises:
            InputError: if X has other columns than in `fit`, is not finite, or lies outside the family's support.
        """
        check_is_fitted(self)
        with one_sentence():
            given = validate_data(self, X, reset=False, dtype=FLOATS, ensure_all_finite=False)
        rows = finite_floats(given, "X")
        self.model_.family.check(rows)
        return rows

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
    """An untrained model from an estimator's checked parameters.

    Raises:
        InputError: if the parameters do not suit the number of features.
    """
    latent_dim, hidden = parameters["latent_dim"], parameters["hidden"]
    family = get_family(parameters["family"]).fresh(n_features)
    natural_dim = family.natural_dim(n_features)
    constants = _constants(parameters, family, natural_dim)
    if constants is not None and latent_dim > natural_dim:
        which = "" if natural_dim == n_features else f", which are {natural_dim} natural parameters under family {family.name!r}"
        raise InputError(
            f"an injective decoder expects latent_dim <= natural dimension, got latent_dim={latent_dim} with "
            f"n_features={n_features}{which}: use latent_dim <= {natural_dim}, or inverse_lipschitz=None for an ordinary decoder."
        )
    decoder = (
        MLPDecoder(latent_dim, natural_dim, hidden)
        if constants is None
        else InverseLipschitzDecoder(
            latent_dim,
            natural_dim,
            hidden,
            constants,
            EMBEDDINGS[parameters["embedding"]],
            math.inf if parameters["lipschitz"] is None else parameters["lipschitz"],
            POTENTIALS[parameters["potential"]],
            parameters["between"],
        )
    )
    posterior = DiagonalGaussian(n_features, latent_dim, hidden, family.features)
    return models.VAE(StandardNormal(latent_dim), posterior, decoder, family)


def _constants(parameters: Mapping[str, Any], family: Family, natural_dim: int) -> float | tuple[float, ...] | None:
    """The inverse Lipschitz constants that the parameters ask for; None for an ordinary decoder."""
    given, nats = parameters["inverse_lipschitz"], parameters["min_information"]
    if given is None and (parameters["lipschitz"] is not None or parameters["between"]):
        raise InputError(
            "lipschitz and between are for injective decoders, got inverse_lipschitz=None: give a constant, or neither."
        )
    if nats is None:
        return given if given != "auto" else DEFAULT_CONSTANT if family.fills_space else 0.0
    if given != "auto":
        raise InputError(f"min_information sets the constants itself, got inverse_lipschitz={given} as well: give one of the two.")
    if type(family) is not Gaussian:
        instead = "set inverse_lipschitz instead" if family.fills_space else "its link would undo any constant"
        raise InputError(
            f"min_information expects family 'gaussian', the one for which a floor on I(x; z) is known, got {family.name!r}: "
            f"{instead}, and estimate the model's information by uc.diagnose on its own samples."
        )
    if parameters["between"]:
        raise InputError(
            f"min_information expects one map or two, for which its floor is proved, got between={parameters['between']}: leave "
            "between out, or set inverse_lipschitz instead."
        )
    total = inverse_lipschitz_for(nats, parameters["latent_dim"])
    constant = total if parameters["latent_dim"] == natural_dim else math.sqrt(total)
    if constant > MAX_CONSTANT:
        raise InputError(f"min_information={nats:g} takes constants of {constant:.3g}, beyond {MAX_CONSTANT:g}: ask for less.")
    return constant


def _check_memory(parameters: Mapping[str, Any], n_features: int) -> None:
    """Refuse what cannot be trained in this machine's memory, before the operating system ends the process for asking."""
    if not hasattr(os, "sysconf"):
        return
    try:
        with torch.device("meta"):
            n_parameters = sum(parameter.numel() for parameter in build_vae(parameters, n_features).parameters())
    except RuntimeError as error:  # more than can be counted
        raise InputError(f"hidden={parameters['hidden']} is too wide ({error}): use fewer or narrower layers.") from None
    needed = 4 * 4 * n_parameters  # float32: parameters, gradients and Adam's two moments
    if parameters["lipschitz"] is not None:  # the products of all directions of a ridge sum, and their gradients
        needed += 2 * 4 * sum(parameters["hidden"]) ** 2
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise InputError(
            f"training a model with latent_dim={parameters['latent_dim']} and hidden={parameters['hidden']} takes "
            f"{needed / 2**30:.3g} GiB, and this machine has {there / 2**30:.3g}: use fewer or narrower layers."
        )


@torch.no_grad()
def adapt(model: models.VAE, rows: np.ndarray) -> None:
    """Start a model at the data: the decoder at the mean of their statistics, the encoder at their location and scale."""
    family = model.family
    family.adapt(rows)
    mean, deviation = _moments(family.features, rows)
    model.posterior.adapt(mean, deviation or 1.0)
    some = _some_rows(rows, family.natural_dim(rows.shape[1]))
    model.decoder.adapt(family.sufficient(torch.as_tensor(some)).numpy())
    start = family.unlink(family.natural(_mean(family.sufficient, rows)))
    model.decoder.start_at(start.float())


def _mean(function: Callable[[torch.Tensor], torch.Tensor], rows: np.ndarray) -> torch.Tensor:
    """The mean over rows of a function of rows, in float64."""
    return sum((piece.sum(0) for piece in _pieces(function, rows)), torch.zeros((), dtype=torch.float64)) / len(rows)


def _moments(function: Callable[[torch.Tensor], torch.Tensor], rows: np.ndarray) -> tuple[torch.Tensor, float]:
    """The mean over rows of a function of rows, and the root mean square deviation of its columns, in float64."""
    mean = _mean(function, rows)
    variance = sum((piece - mean).square().mean(1).sum() for piece in _pieces(function, rows)) / len(rows)
    return mean, float(variance) ** 0.5


def _pieces(function: Callable[[torch.Tensor], torch.Tensor], rows: np.ndarray) -> Iterator[torch.Tensor]:
    """A function of rows, of so many at a time as memory can hold."""
    width = function(torch.as_tensor(rows[:1])).shape[1]
    n = max(1, VALUES_AT_ONCE // width)
    return (function(torch.as_tensor(rows[start : start + n], dtype=torch.float64)) for start in range(0, len(rows), n))


def _some_rows(rows: np.ndarray, width: int) -> np.ndarray:
    """As many random rows as principal directions of statistics of this width need."""
    n = min(MAX_PRINCIPAL_ROWS, max(1, MAX_PRINCIPAL_VALUES // width))
    return rows if len(rows) <= n else rows[np.random.default_rng(0).permutation(len(rows))[:n]]


def load(folder: str | Path) -> VAE:
    """A fitted estimator from the folder that `save` wrote. Nothing in the folder can be executed.

    Raises:
        InputError: if the folder holds no saved model, a damaged one, or one of a newer version.
    """
    folder = Path(folder)
    settings = read_settings(folder)
    if settings.estimator not in ESTIMATORS:
        raise damaged(folder, f"there is no estimator {settings.estimator!r}")
    estimator_class = ESTIMATORS[settings.estimator]
    try:
        parameters = check_parameters(estimator_class, settings.parameters)
        with torch.device("meta"):  # shapes without memory, until the file has been found to hold the same
            model = build_vae(parameters, settings.n_features)
    except (InputError, RuntimeError) as error:
        raise damaged(folder, str(error)) from None
    model.load_state_dict(read_weights(folder, model.state_dict()), assign=True)
    if not model.decoder.is_sound():
        raise damaged(folder, "the decoder's embedding is not isometric, so that its constant would be untrue")
    if not model.family.is_sound():
        raise damaged(folder, "the family's scale is not the one that was set, or not positive")
    parameters["device"] = parameters["device"] if parameters["device"] in available_devices() else "auto"
    estimator = estimator_class(**parameters)
    estimator.parameters_, estimator.seed_ = parameters, settings.seed
    estimator.history_ = read_history(folder, HISTORY_COLUMNS)
    estimator.n_features_in_ = settings.n_features
    if settings.feature_names is not None:
        estimator.feature_names_in_ = np.array(settings.feature_names, dtype=object)
    estimator.model_ = model.to(resolve_device(parameters["device"])).eval().requires_grad_(False)
    return estimator
