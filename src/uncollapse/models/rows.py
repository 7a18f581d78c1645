"""Rows of data on their way into a model."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from uncollapse.families import Family
from uncollapse.models.vae import VAE
from uncollapse.noise import RowNoise


def to_device(model: VAE, array: np.ndarray) -> Tensor:
    """The array as a tensor of the model's type, on its device."""
    parameter = next(model.parameters())
    return torch.as_tensor(np.ascontiguousarray(array)).to(parameter)


def observe_rows(family: Family, rows: np.ndarray) -> np.ndarray:
    """Data as the likelihood sees them, where chance decides by noise that belongs to the row."""
    if family.is_observed(rows):
        return rows
    uniform = RowNoise(rows, "observe").uniform(rows.shape[1:])
    return family.observe(torch.as_tensor(rows), torch.as_tensor(uniform)).numpy()
