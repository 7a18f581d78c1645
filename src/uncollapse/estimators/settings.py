"""Arguments of the estimators: their names, types, defaults and documentation, each written once.

This module imports neither torch nor scikit-learn, so that the command line can refuse a wrong
argument before anything heavy is loaded.
"""

import inspect
import re
import textwrap
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import AfterValidator, Field

from uncollapse import families
from uncollapse._utils.errors import ParameterError
from uncollapse._utils.parameters import (
    MAX_LAYERS,
    Count,
    Flag,
    Natural,
    NotBool,
    PositiveFloat,
    ProperShare,
    Widths,
    accepted_values,
    check_parameters,
)

MAX_CONSTANT = 1e6  # as in uncollapse.maps, whose import would load torch
RENAMED = {"between": "intermediate_dims"}  # arguments that saved runs hold under their old names


def _with_method(name: str) -> AfterValidator:
    """Accept objects that have a method, without importing the class that defines it."""

    def check(value: Any) -> Any:
        if isinstance(value, type | ModuleType) or not hasattr(value, name):
            raise ValueError(f"expected an object with a method {name}")
        return value

    return AfterValidator(check)


DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Specification = dict[str, dict[str, Any]]
_Constant = Annotated[float, NotBool, Field(ge=0, le=MAX_CONSTANT, allow_inf_nan=False)]
Constants = Annotated[
    _Constant | tuple[_Constant, ...] | Literal["auto"] | None,
    Field(
        description="a number from 0 to 1e6 for every map, one for each, None for an ordinary "
        "decoder, or 'auto'"
    ),
]
Nats = Annotated[PositiveFloat | None, Field(description="a positive number of nats, or None")]
FamilyLike = Annotated[
    str | Specification | Annotated[Any, _with_method("for_features")],
    Field(
        description="the name of a family, or one with its arguments, such as {gaussian: {scale: "
        "1.0}}"
    ),
]
ObjectiveLike = Annotated[
    str | Specification | None,
    Field(
        description="the name of an objective, or one with its arguments, such as {free_bits: "
        "{nats: 0.5}}, or None"
    ),
]
StrategyLike = Annotated[
    str | Specification | None,
    Field(
        description="the name of a strategy, or one with its arguments, such as {lagging: {every: "
        "15}}, or None"
    ),
]
UpperConstants = Annotated[
    PositiveFloat | tuple[PositiveFloat, ...] | None,
    Field(description="a positive number for every map, one for each, or None"),
]
Dimensions = Annotated[
    tuple[Count, ...],
    Field(
        max_length=MAX_LAYERS, description="a list of dimensions, which may be empty, at most 100"
    ),
]
Components = Annotated[
    int, NotBool, Field(ge=2, le=10_000, description="an integer from 2 to 10,000")
]
Layers = Annotated[int, NotBool, Field(ge=1, le=MAX_LAYERS, description="an integer from 1 to 100")]
RandomState = Annotated[
    Annotated[int, NotBool, Field(ge=0, lt=2**32)] | Annotated[Any, _with_method("randint")] | None,
    Field(description="a seed (an integer from 0 to 2^32 - 1), a RandomState, or None"),
]


@dataclass(kw_only=True, eq=False)
class RuntimeSettings:
    """Settings that say where a fit runs, and not which model it fits.

    Args:
        random_state: seed of everything that is random in training; the fitted estimator holds it
            as `seed_`.
        device: kind of device; "auto" takes a GPU where there is one. A loaded model moves to the
            same kind of device if the machine has it.
        devices: number of devices that train together, each in its own process, or "auto" for all
            GPUs. They share each batch, so that the steps are those of one device. `score_samples`
            divides its rows among as many devices, in one process.
        num_nodes: number of machines, each with that many devices, on which the same program was
            started, for example by torchrun.
        parallel_strategy: Lightning's strategy for several processes; "auto" is "ddp".
        verbose: show progress bars in a terminal.
    """

    random_state: RandomState = None
    device: DeviceName = "auto"
    devices: Count | Literal["auto"] = 1
    num_nodes: Count = 1
    parallel_strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true"] = "auto"
    verbose: Flag = True


RUNTIME_ARGUMENTS = tuple(field.name for field in fields(RuntimeSettings))


@dataclass(kw_only=True, eq=False)
class EstimatorSettings(RuntimeSettings):
    """Settings that all estimators share.

    Args:
        latent_dim: number of latent units; at most the number of natural parameters (for most
            families, the number of features), unless `inverse_lipschitz` is None.
        inverse_lipschitz: inverse Lipschitz constant L of every map; one for each map, such as
            (L1, L2) where latent_dim is below the number of natural parameters; or None for an
            ordinary decoder. Families with a link (see `family`) take 0 or None. "auto" is the
            constant that `min_information` requires, or else 0.5; 0 under a link; 5 with
            `annealing`. `target_kl` adjusts it.
        annealing: lower the constants during training (K23 section 5.3): by 15% whenever the
            constant of the first map, estimated from a batch, is within 10% of its bound. Start
            from a high constant.
        target_kl: target for KL(q(z|x) || p(z)), in nats: the constants are adjusted
            during training until it is reached. Targets below the KL that a decoder without
            constants reaches are unreachable.
        hidden: widths of the hidden layers of the ordinary decoder, or of each map of the injective
            one.
        objective: loss to minimize: None for the negative ELBO, or another by its name or as
            ``{name: arguments}``, such as ``{"free_bits": {"nats": 0.5}}``: "elbo" with `beta` and
            `warmup_steps`, "cyclical", "free_bits", "importance_weighted",
            "latent_reconstruction", "gradient_penalty" or "quotient_penalty" (see `uc.objectives`).
        strategy: training of the posterior: None for "joint", which trains encoder and decoder
            together; "lagging", which trains the encoder ahead, with `max_steps` and `every`; or
            "semi_amortized", which refines the posterior of every example, also after training,
            with `n_steps`, `learning_rate`, `momentum` and `clip` (see `uc.strategies`).
        max_epochs: passes over the data.
        batch_size: number of rows in a batch.
        learning_rate: highest learning rate of Adam. It rises over the first 2% of the steps and
            falls to 0 along half a cosine.
        precision: "float32", or "bfloat16" for the products in training except those of last
            layers.
    """

    latent_dim: Count = 2
    inverse_lipschitz: Constants = "auto"
    annealing: Flag = False
    target_kl: Nats = None
    hidden: Widths = (256, 256)
    objective: ObjectiveLike = None
    strategy: StrategyLike = None
    max_epochs: Count = 50
    batch_size: Count = 100
    learning_rate: PositiveFloat = 1e-3
    precision: Literal["float32", "bfloat16"] = "float32"


@dataclass(kw_only=True, eq=False)
class VAESettings(EstimatorSettings):
    """Settings of `VAE`, a model of rows.

    Args:
        min_information: lower bound, in nats, that the model guarantees for its mutual information
            I(x; z) whatever it learns (see `uc.information_floor`); for family "gaussian" and a
            prior with fixed scales.
        family: family of p(x|z), by its name or as a `uc.families.Family` such as
            ``Gaussian(scale=2.0)``, in a configuration file ``{gaussian: {scale: 2.0}}``.
            "gaussian" (one learned scale), "bernoulli", "continuous_bernoulli", "poisson" and
            ``{categorical: {n_categories: V}}`` keep any constant; "heteroscedastic_gaussian",
            "exponential", "beta" and ``{negative_binomial: {dispersion: r}}`` map the decoder's
            output to natural parameters by a link, which keeps the decoder injective but no
            constant.
        posterior: "gaussian", or "realnvp" for a Gaussian transformed by two affine couplings.
        embedding: directions along which the last map places its inputs: "principal" for the
            leading principal directions of the data, "padding" for the first features, as in both
            papers, "learned" for trained directions. No effect for an ordinary decoder, or where
            latent_dim is the number of natural parameters.
        potential: convex functions that the maps are gradients of: "icnn" for input convex
            networks, "ridge" for sums of ridge functions with one layer of sum(hidden) units. No
            effect for an ordinary decoder.
        lipschitz: upper Lipschitz constants, for every map or one for each, which bound the spread
            of the latents; they need potential="ridge". None sets no bound.
        intermediate_dims: dimensions of further maps between the first and the last (W21 appendix
            B), in non-decreasing order.
        encoder_hidden: widths of the encoder's hidden layers; those of `hidden` if None.
    """

    min_information: Nats = None
    family: FamilyLike = "gaussian"
    posterior: Literal["gaussian", "realnvp"] = "gaussian"
    embedding: Literal["principal", "padding", "learned"] = "principal"
    potential: Literal["icnn", "ridge"] = "icnn"
    lipschitz: UpperConstants = None
    intermediate_dims: Dimensions = ()
    encoder_hidden: Widths | None = None


@dataclass(kw_only=True, eq=False)
class MixtureSettings(VAESettings):
    """Settings of `MixtureVAE`.

    Args:
        n_components: number of components c.
        prior: p(z|y). "separated" learns means that stay at least `separation` apart, with scales
            fixed at 1; "unit" fixes the means at the unit vectors (K23's B1'y) and the scales at 1,
            for c <= latent_dim; "learned" learns means and scales, as in the code of both papers,
            and "full" means and full covariances (W21 section 2.2), which nothing keeps apart.
        separation: least distance between two means of prior "separated", in standard deviations
            of a component.
        inference: "marginal" sums the component out of the prior and runs the decoder once;
            "enumerate" sums the bound over components, with q(y|x) and q(z|x, y), as both papers
            do, and runs the decoder c times. Objective "free_bits" needs "enumerate", strategy
            "semi_amortized" needs "marginal".
        warmup_epochs: epochs, out of `max_epochs`, in which the model has a standard normal prior;
            "auto" is a quarter of them, and none for prior "unit". The learning rate falls to 0 in
            these epochs, and once more in the rest.
        target_kl: target KL of z and its component together, in nats: the constants are adjusted
            during training until it is reached.
        max_epochs: passes over the data, warm-up included.
    """

    n_components: Components = 2
    prior: Literal["separated", "unit", "learned", "full"] = "separated"
    separation: PositiveFloat = 2**0.5
    inference: Literal["marginal", "enumerate"] = "marginal"
    warmup_epochs: Natural | Literal["auto"] = "auto"


@dataclass(kw_only=True, eq=False)
class SequenceSettings(EstimatorSettings):
    """Settings of `SequenceVAE`.

    Args:
        latent_dim: number of latent units.
        inverse_lipschitz: inverse Lipschitz constant L of every map; one for each of the two, such
            as (L1, L2) (there is only one where `context` is "additive" and latent_dim is that of
            the log-odds); or None for an ordinary decoder. "auto" is 0.5, and 5 with `annealing`.
            `target_kl` adjusts it.
        context: how z and the state h of the decoder's LSTM are combined. "joint" sends [z; h]
            through the maps, as in both papers. "additive" sends z through them and adds a linear
            map of h: the same constant holds for every history, the maps are evaluated once per
            document instead of once per symbol, and small corpora are predicted better. No effect
            for an ordinary decoder.
        level: symbols that strings are split into: a "word" between white space, or a "character".
            Arrays of tokens are taken as they are.
        min_count: symbols that occur less often are replaced by the unknown symbol.
        max_vocabulary: largest number of known symbols; the most frequent ones are kept.
        max_length: largest number of symbols in a document.
        posterior: Gaussian computed by an LSTM that reads the document, from its last state
            ("lstm"), or from the mean of its states ("pooled-lstm": pooling, a remedy for collapse;
            Long et al. 2019).
        committed_rate: least KL in nats that the prior, a chain over symbols, adds for each further
            symbol; every symbol then has latent_dim units of its own: the delta-VAE (Razavi et al.
            2019). `transform` then returns, and `inverse_transform` takes, the z of all symbols one
            after the other, (max_length + 1) * latent_dim numbers. None gives each document one z.
        embedding_dim: dimension of the decoder's embeddings of symbols.
        hidden_dim: dimension of the decoder's LSTM.
        encoder_embedding_dim: dimension of the encoder's embeddings; `embedding_dim` if None.
        encoder_hidden_dim: dimension of the encoder's LSTM; `hidden_dim` if None.
        n_layers: number of layers of both LSTMs.
        hidden: widths of the hidden layers of each map.
        word_dropout: share of the preceding symbols that are hidden from the LSTM in training
            (Bowman et al. 2016).
        max_epochs: passes over the data. The model of the epoch with the best ELBO on held-out
            documents is kept, for every `objective`; with `target_kl`, the best of the epochs that
            have reached it.
        batch_size: number of documents in a batch.
    """

    latent_dim: Count = 32
    context: Literal["joint", "additive"] = "joint"
    level: Literal["word", "character"] = "word"
    min_count: Count = 2
    max_vocabulary: Count = 20_000
    max_length: Count = 200
    posterior: Literal["lstm", "pooled-lstm"] = "lstm"
    committed_rate: Nats = None
    embedding_dim: Count = 128
    hidden_dim: Count = 256
    encoder_embedding_dim: Count | None = None
    encoder_hidden_dim: Count | None = None
    n_layers: Layers = 1
    word_dropout: ProperShare = 0.0
    max_epochs: Count = 20
    batch_size: Count = 32


Kind = TypeVar("Kind", bound=EstimatorSettings)
SETTINGS: dict[str, type[EstimatorSettings]] = {
    "VAE": VAESettings,
    "MixtureVAE": MixtureSettings,
    "SequenceVAE": SequenceSettings,
}


def check_settings(estimator: str, given: Mapping[str, Any]) -> EstimatorSettings:
    """Return the validated settings of an estimator, with defaults for those that are not given.

    Args:
        estimator: its name, a key of `SETTINGS`.
        given: values by name.

    Raises:
        ParameterError: if there is no such estimator or setting, or a value is not accepted.
    """
    if estimator not in SETTINGS:
        raise ParameterError(f"model expects one of {', '.join(SETTINGS)}, got {estimator!r}.")
    return validate(SETTINGS[estimator], given)


def validate(kind: type[Kind], given: Mapping[str, Any]) -> Kind:
    """Return validated settings of one class, with defaults for those that are not given."""
    return kind(**check_parameters(kind, given))


class Setting(NamedTuple):
    """One argument of an estimator.

    Attributes:
        name: its name.
        type: its annotation, without what restricts its values.
        accepts: accepted values, in words.
        default: its default.
        help: its documentation, on one line.
    """

    name: str
    type: Any
    accepts: str
    default: Any
    help: str


def list_settings(estimator: str) -> list[Setting]:
    """List the arguments of an estimator, its own before those that all estimators share."""
    kind = SETTINGS[estimator]
    hints, full = typing.get_type_hints(kind), typing.get_type_hints(kind, include_extras=True)
    texts = argument_help(kind)
    return [
        Setting(name, hints[name], accepted_values(full[name]), getattr(kind, name), text)
        for name, text in texts.items()
    ]


def argument_help(kind: type) -> dict[str, str]:
    """Documentation of each argument of a settings class, from its docstring and those of its
    bases."""
    texts: dict[str, str] = {}
    for each in kind.__mro__:
        section = inspect.cleandoc(each.__dict__.get("__doc__") or "").partition("Args:\n")[2]
        for name, text in re.findall(r"^    (\w+): ((?:.|\n {8})+)", section, re.MULTILINE):
            texts.setdefault(name, " ".join(text.split()))
    return texts


def document_arguments(text: str, kind: type) -> str:
    """Insert the documentation of all arguments of a settings class into an estimator's docstring,
    before its attributes."""
    before, heading, after = inspect.cleandoc(text).partition("Attributes:\n")
    arguments = "\n".join(
        textwrap.fill(f"{name}: {text}", 96, initial_indent=" " * 4, subsequent_indent=" " * 8)
        for name, text in argument_help(kind).items()
    )
    return f"{before}Args:\n{arguments}\n\n{heading}{after}"


def current_names(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a saved run under the names that they have now."""
    return {RENAMED.get(name, name): value for name, value in saved.items()}


def to_dict(settings: EstimatorSettings) -> dict[str, Any]:
    """Return settings by name."""
    return {field.name: getattr(settings, field.name) for field in fields(settings)}


def to_json(settings: EstimatorSettings) -> dict[str, Any]:
    """Return settings by name, a family as its specification."""
    found = to_dict(settings)
    if "family" in found:
        found["family"] = families.get_family(found["family"]).spec
    return found
