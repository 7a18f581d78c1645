"""The VAE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uncollapse import models
from uncollapse._utils.parameters import Count, PositiveFloat, Widths
from uncollapse.estimators.arguments import (
    Constants,
    Device,
    Devices,
    Dimensions,
    EmbeddingName,
    EncoderWidths,
    FamilyLike,
    Flag,
    Nats,
    ObjectiveLike,
    ParallelStrategy,
    PosteriorName,
    PotentialName,
    Precision,
    RandomState,
    StrategyLike,
    UpperConstants,
)
from uncollapse.estimators.base import Estimator
from uncollapse.estimators.building import build_decoder, build_family, encoder_widths
from uncollapse.latent import POSTERIORS, StandardNormal


class VAE(Estimator):
    """A variational autoencoder whose latents cannot collapse, as a scikit-learn transformer.

    With `inverse_lipschitz` a number or several, the decoder is made of Brenier maps and moves its
    natural parameters at least that much when z moves: IL-LIDVAE (K23 definition 4.1), and LIDVAE
    (W21 definition 3) at 0. With None it is a multilayer perceptron: the ordinary VAE (Kingma &
    Welling 2014).

    Args:
        latent_dim: number of latent units; at most the number of natural parameters (of most
            families, the number of features), unless `inverse_lipschitz` is None.
        inverse_lipschitz: L for every map; one for each, such as (L1, L2) where latent_dim is below
            the number of natural parameters; or None. Families with a link (see `family`) take 0 or
            None. "auto" is what `min_information` asks for, or else 0.5, or 0 under a link; with
            `annealing` 5. `target_kl` sets it itself.
        min_information: nats that the mutual information I(x; z) of the model is guaranteed to
            reach, whatever it learns (see `uc.information_floor`); for family "gaussian".
        annealing: lower the constants during training (K23 section 5.3): by 15% whenever the
            constant of the first map, as a batch shows it, comes within 10% of its bound. Begin
            high.
        target_kl: nats that the KL of the posterior from the prior shall have: the constants rise
            in training until it has them. A KL that a decoder without constants exceeds cannot be
            had.
        family: of p(x|z), by its name or as a `uc.families.Family` such as ``Gaussian(scale=2.0)``,
            which in a configuration file is ``{gaussian: {scale: 2.0}}``. "gaussian" (one learned
            scale), "bernoulli", "continuous_bernoulli", "poisson" and ``{categorical:
            {n_categories: V}}`` keep any constant; "heteroscedastic_gaussian", "exponential",
            "beta" and ``{negative_binomial: {dispersion: r}}`` have a link from the decoder's
            output to natural parameters, which keeps only that the decoder is injective.
        posterior: "gaussian", or "realnvp" for a Gaussian sent through two affine couplings.
        objective: what training minimises: None for the negative ELBO, or another one by its name
            or as ``{name: arguments}``, such as ``{"free_bits": {"nats": 0.5}}``: "elbo" with
            `beta` and `warmup_steps`, "cyclical", "free_bits", "importance_weighted",
            "latent_reconstruction", "gradient_penalty" or "quotient_penalty" (see `uc.objectives`).
        strategy: how posteriors are found: None for "joint", the encoder trained beside the
            decoder; "lagging", ahead of it, with `max_steps` and `every`; or "semi_amortized",
            refined for every example, ever after as well, with `n_steps`, `learning_rate`,
            `momentum` and `clip` (see `uc.strategies`).
        embedding: where the last map begins: "principal" lays its inputs along the leading
            principal directions of the data, "padding" along the first features, as in both papers,
            "learned" along directions that are trained. Without effect for an ordinary decoder, and
            where latent_dim is the number of natural parameters.
        potential: the convex functions that the maps are gradients of: "icnn", input convex
            networks, or "ridge", sums of ridges, with one layer of as many units as `hidden` has in
            all. Without effect for an ordinary decoder.
        lipschitz: upper constants, for every map or one for each, which keep latents from spreading
            without limit; they need potential="ridge". None sets no limit.
        between: dimensions of further maps between the first and the last (W21 appendix B), none
            below the one before.
        hidden: widths of the hidden layers of the ordinary decoder, or of each map of the injective
            one.
        encoder_hidden: those of the encoder; the same if None.
        max_epochs: passes over the data.
        batch_size: rows in a step.
        learning_rate: of Adam, at its highest; it rises over the first 2% of the steps, and falls
            to 0 along half a cosine.
        random_state: seed of everything that is random in training. The seed in force is `seed_`.
        device: "auto" takes a GPU where there is one. A loaded model goes to the same kind of
            device if the machine has it.
        devices: how many of the kind train together, in a process each, or "auto" for all GPUs;
            each batch is shared out, so that the steps are those of one device. `score_samples`
            shares its rows among as many, in one process.
        num_nodes: machines with so many devices each, on which the same program is started, by
            torchrun for example.
        parallel_strategy: Lightning's, of several processes: "auto" for "ddp", or
            "ddp_find_unused_parameters_true".
        precision: "float32", or "bfloat16" for products in training, but those of last layers.
        verbose: show progress bars where there is a terminal.

    Attributes:
        model_: the trained `uncollapse.models.VAE`.
        history_: the training, a row for each epoch: epoch, loss, reconstruction and kl in nats per
            example, and, since the start, seconds and evaluations of the decoder.
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
        inverse_lipschitz: Constants = "auto",
        min_information: Nats = None,
        annealing: Flag = False,
        target_kl: Nats = None,
        family: FamilyLike = "gaussian",
        posterior: PosteriorName = "gaussian",
        objective: ObjectiveLike = None,
        strategy: StrategyLike = None,
        embedding: EmbeddingName = "principal",
        potential: PotentialName = "icnn",
        lipschitz: UpperConstants = None,
        between: Dimensions = (),
        hidden: Widths = (256, 256),
        encoder_hidden: EncoderWidths = None,
        max_epochs: Count = 50,
        batch_size: Count = 100,
        learning_rate: PositiveFloat = 1e-3,
        random_state: RandomState = None,
        device: Device = "auto",
        devices: Devices = 1,
        num_nodes: Count = 1,
        parallel_strategy: ParallelStrategy = "auto",
        precision: Precision = "float32",
        verbose: Flag = True,
    ) -> None:
        self.latent_dim = latent_dim
        self.inverse_lipschitz = inverse_lipschitz
        self.min_information = min_information
        self.annealing = annealing
        self.target_kl = target_kl
        self.family = family
        self.posterior = posterior
        self.objective = objective
        self.strategy = strategy
        self.embedding = embedding
        self.potential = potential
        self.lipschitz = lipschitz
        self.between = between
        self.hidden = hidden
        self.encoder_hidden = encoder_hidden
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.random_state = random_state
        self.device = device
        self.devices = devices
        self.num_nodes = num_nodes
        self.parallel_strategy = parallel_strategy
        self.precision = precision
        self.verbose = verbose

    @staticmethod
    def _build(parameters: Mapping[str, Any], n_features: int) -> models.VAE:
        """An untrained model from checked parameters.

        Raises:
            InputError: if the parameters do not suit the number of features.
        """
        latent_dim = parameters["latent_dim"]
        family = build_family(parameters, n_features)
        decoder = build_decoder(parameters, family, n_features)
        posterior = POSTERIORS[parameters["posterior"]](
            n_features, latent_dim, encoder_widths(parameters), family.features
        )
        return models.VAE(StandardNormal(latent_dim), posterior, decoder, family)
