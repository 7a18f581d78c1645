"""Adapter of scvi-tools (Gayoso et al. 2022), https://scvi-tools.org."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from uncollapse._utils.errors import DataError, ParameterError, one_line
from uncollapse.adapters.base import AdaptedModel
from uncollapse.latent import StandardNormal, diagonal_normal
from uncollapse.models import LatentModel

# Covariates follow the counts in a row, in this order, if the model uses them.
COVARIATES = ("batch", "labels", "extra_continuous_covs", "extra_categorical_covs", "size_factor")
CATEGORICAL = ("batch", "labels", "extra_categorical_covs")
LOADED_ROWS_AT_ONCE = 1024
MODELS = ("SCVI", "LinearSCVI")


class SCVIModel(LatentModel):
    """scVI as p(z) p(x|z, s) with covariates s and the observed library size.

    A row holds counts, then covariates.

    Args:
        module: of an scvi.model.SCVI.
        widths: number of columns of the counts and of each covariate.
    """

    def __init__(self, module: Any, widths: dict[str, int]) -> None:
        super().__init__()
        self.module = module
        self.widths = widths
        self.prior = StandardNormal(self.latent_dim).to(self.placement)

    @property
    def latent_dim(self) -> int:
        return int(self.module.n_latent)

    def posterior(self, x: Tensor) -> Distribution:
        q = self.module.inference(**self.module._get_inference_input(self._tensors(x)))["qz"]
        return diagonal_normal(q.loc, q.scale)

    def log_likelihood(
        self, x: Float[Tensor, "batch *data"], z: Float[Tensor, "*samples batch latent"]
    ) -> Float[Tensor, "*samples batch"]:
        rows = x.expand(*z.shape[:-1], -1).reshape(-1, x.shape[-1])
        log_p: Tensor = self._given(rows, z.reshape(-1, self.latent_dim)).log_prob(
            rows[:, : self.widths["X"]]
        )
        return log_p.sum(-1).reshape(z.shape[:-1])

    def expected(self, x: Tensor, z: Tensor) -> Tensor:
        """Return E[x|z, s] with the covariates and library sizes of the rows."""
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


def adapt(model: Any) -> AdaptedModel:
    """Return a model of scvi-tools in the form that diagnoses read; its data are an AnnData.

    Raises:
        ParameterError: if z is not the only latent variable, as with a latent library size.
    """
    name = type(model).__name__
    if name not in MODELS:
        raise ParameterError(
            f"diagnoses of scvi-tools models expect one of {', '.join(MODELS)}, got {name}: give "
            "an object with prior(), posterior(x) and likelihood(z) instead."
        )
    if not model.module.use_observed_lib_size:
        raise ParameterError(
            f"{name} has a latent library size. Train it with use_observed_lib_size=True."
        )

    def batches(X: Any) -> Iterator[np.ndarray]:
        return (_row(tensors)[0] for tensors in _load(model, X))

    _, widths = _row(next(iter(_load(model, model.adata))))
    return AdaptedModel(
        name,
        SCVIModel(model.module, widths),
        read=lambda X: np.concatenate(list(batches(X))),
        batches=batches,
    )


def _load(model: Any, X: Any) -> Any:
    try:
        adata = model._validate_anndata(X)
    except (AttributeError, ValueError, KeyError) as error:
        raise DataError(
            f"an SCVI expects AnnData like those of its training: {one_line(error)}"
        ) from None
    return model._make_data_loader(adata=adata, batch_size=LOADED_ROWS_AT_ONCE)


def _row(tensors: dict[str, Tensor]) -> tuple[np.ndarray, dict[str, int]]:
    """Return counts and covariates side by side, and the number of columns of each."""
    parts = {key: tensors[key] for key in ("X", *COVARIATES) if tensors.get(key) is not None}
    rows = torch.cat([part.float() for part in parts.values()], -1).numpy()
    return rows, {key: part.shape[-1] for key, part in parts.items()}
