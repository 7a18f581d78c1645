"""Models of scvi-tools (Gayoso et al. 2022), https://scvi-tools.org."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from uncollapse._utils.errors import DataError, ParameterError
from uncollapse.adapters.base import AdaptedModel
from uncollapse.latent import StandardNormal
from uncollapse.models import LatentModel

# What stands beside the counts in a row, in this order, where the model uses it.
COVARIATES = ("batch", "labels", "extra_continuous_covs", "extra_categorical_covs", "size_factor")
CATEGORICAL = ("batch", "labels", "extra_categorical_covs")
ROWS_AT_ONCE = 1024
MODELS = ("SCVI", "LinearSCVI")


class SCVIModel(LatentModel):
    """p(z) p(x|z, s) of scVI, with covariates s and the observed library size. A row holds counts,
    then covariates.

    Args:
        module: the module of an scvi.model.SCVI.
        widths: columns of the counts, and of each covariate that there is.
    """

    def __init__(self, module: Any, widths: dict[str, int]) -> None:
        super().__init__()
        self.module = module
        self.widths = widths
        self.prior = StandardNormal(self.latent_dim).to(self.placement)

    @property
    def latent_dim(self) -> int:
        """Dimension of z."""
        return int(self.module.n_latent)

    def posterior(self, x: Tensor) -> Distribution:
        """q(z|x, s)."""
        q = self.module.inference(**self.module._get_inference_input(self._tensors(x)))["qz"]
        return Independent(Normal(q.loc, q.scale, validate_args=False), 1, validate_args=False)

    def log_likelihood(
        self, x: Float[Tensor, "batch *data"], z: Float[Tensor, "*samples batch latent"]
    ) -> Float[Tensor, "*samples batch"]:
        """log p(x|z, s) of each row, in nats."""
        rows = x.expand(*z.shape[:-1], -1).reshape(-1, x.shape[-1])
        log_p: Tensor = self._given(rows, z.reshape(-1, self.latent_dim)).log_prob(
            rows[:, : self.widths["X"]]
        )
        return log_p.sum(-1).reshape(z.shape[:-1])

    def expected(self, x: Tensor, z: Tensor) -> Tensor:
        """E[x|z, s], with the covariates and library sizes of rows."""
        mean: Tensor = self._given(x, z).mean
        return mean

    def _given(self, x: Tensor, z: Tensor) -> Any:
        tensors = self._tensors(x)
        seen = {
            "z": self.module.z_encoder.z_transformation(z),
            "library": tensors["X"].sum(1, keepdim=True).log(),
        }
        return self.module.generative(**self.module._get_generative_input(tensors, seen))["px"]

    def _tensors(self, x: Tensor) -> dict[str, Tensor]:
        parts = dict(zip(self.widths, torch.split(x, list(self.widths.values()), -1), strict=True))
        categories = {key: part.long() for key, part in parts.items() if key in CATEGORICAL}
        return {**parts, **categories}


def is_ours(model: Any) -> bool:
    """Whether it is a model of scvi-tools."""
    return any(kind.__module__.startswith("scvi.model.") for kind in type(model).__mro__)


def adapt_model(model: Any) -> AdaptedModel:
    """The model, ready to be diagnosed on an AnnData.

    Raises:
        InputError: if its latents are not z alone, as where the library size is another.
    """
    name = type(model).__name__
    if name not in MODELS:
        raise ParameterError(
            f"diagnoses of scvi-tools models expect one of {', '.join(MODELS)}, got {name}: give "
            "an object with prior(), "
            "posterior(x) and likelihood(z) instead."
        )
    if not model.module.use_observed_lib_size:
        raise ParameterError(
            f"diagnoses expect {name} with use_observed_lib_size=True, got a latent library size: "
            "z is not all there."
        )

    def batches(X: Any) -> Iterator[np.ndarray]:
        return (_row(tensors)[0] for tensors in _load(model, X))

    first = next(iter(_load(model, model.adata)))
    adapted = SCVIModel(model.module, _row(first)[1])
    return AdaptedModel(
        name, adapted, read=lambda X: np.concatenate(list(batches(X))), batches=batches
    )


def _load(model: Any, X: Any) -> Any:
    try:
        adata = model._validate_anndata(X)
    except (AttributeError, ValueError, KeyError) as error:
        raise DataError(
            f"an SCVI expects AnnData like those of its training: {' '.join(str(error).split())}"
        ) from None
    return model._make_data_loader(adata=adata, batch_size=ROWS_AT_ONCE)


def _row(tensors: dict[str, Tensor]) -> tuple[np.ndarray, dict[str, int]]:
    """Counts and covariates side by side, and how many columns each has."""
    parts = {
        "X": tensors["X"],
        **{key: tensors[key] for key in COVARIATES if tensors.get(key) is not None},
    }
    rows = torch.cat([part.float() for part in parts.values()], -1).numpy()
    return rows, {key: part.shape[-1] for key, part in parts.items()}
