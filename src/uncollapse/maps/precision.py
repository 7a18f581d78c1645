"""Precision for what a constant hangs on: products that keep theirs, and copies in float64."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from uncollapse._utils.autocast import without_autocast

Module = TypeVar("Module", bound=nn.Module)


def in_float64(module: Module) -> Module:
    """A frozen copy in float64; on the CPU if the module's device has no float64."""
    twin = copy.deepcopy(module).requires_grad_(False)
    return (
        twin.cpu() if any(parameter.is_mps for parameter in twin.parameters()) else twin
    ).double()


def points_for(module: nn.Module, points: Tensor) -> Tensor:
    """Points, shape (*batch, p), as rows of the module's type on its device, as a copy of their
    own."""
    parameter = next(module.parameters())
    return (
        points.detach()
        .clone()
        .reshape(-1, points.shape[-1])
        .to(parameter.device)
        .to(parameter.dtype)
    )


def exact_product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right in the precision of `left`, whatever autocast or TF32 allow elsewhere."""
    with without_autocast(left):
        if left.dtype == torch.float32 and not left.is_mps and _float32_products_are_rounded():
            return (left.double() @ right.double()).float()
        return left @ right.to(left.dtype)


def _float32_products_are_rounded() -> bool:
    """Whether products of float32 may be computed in TF32 or bfloat16."""
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # set by torch's newer names, which the older ones do not read
        return True


# The mark of torch.compiler.assume_constant_result, whose import of torch._dynamo takes seconds.
_float32_products_are_rounded._dynamo_marked_constant = True  # type: ignore[attr-defined]
