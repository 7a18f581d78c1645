"""Precision where a constant depends on it: exact products, and copies in float64."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from uncollapse._utils.autocast import without_autocast

Module = TypeVar("Module", bound=nn.Module)


def in_float64(module: Module) -> Module:
    """Return a frozen copy in float64, on the CPU if the module's device has no float64."""
    twin = copy.deepcopy(module).requires_grad_(False)
    if any(parameter.is_mps for parameter in twin.parameters()):
        twin = twin.cpu()
    return twin.double()


def points_for(module: nn.Module, points: Tensor) -> Tensor:
    """Return a copy of points, shape (*batch, p), as rows of the module's type on its device."""
    parameter = next(module.parameters())
    rows = points.detach().clone().reshape(-1, points.shape[-1])
    return rows.to(parameter.device).to(parameter.dtype)


def exact_product(left: Tensor, right: Tensor) -> Tensor:
    """Return left @ right in the precision of `left`, whatever autocast or TF32 allow."""
    with without_autocast(left):
        if left.dtype == torch.float32 and not left.is_mps and _float32_products_are_rounded():
            return (left.double() @ right.double()).float()
        return left @ right.to(left.dtype)


def _float32_products_are_rounded() -> bool:
    """Return whether products of float32 may be computed in TF32 or bfloat16."""
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # it was set by torch's newer names, which the old getter rejects
        return True


# The mark of torch.compiler.assume_constant_result, whose import of torch._dynamo takes seconds.
_float32_products_are_rounded._dynamo_marked_constant = True  # type: ignore[attr-defined]
