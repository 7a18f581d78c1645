"""Matrix products that keep their precision, for what a constant hangs on."""

from __future__ import annotations

import torch
from torch import Tensor


def exact_product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right in the precision of `left`, whatever autocast or TF32 allow elsewhere."""
    kind = left.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        with torch.autocast(kind, enabled=False):
            return exact_product(left, right)
    if left.dtype == torch.float32 and _float32_products_are_rounded():
        return (left.double() @ right.double()).float()
    return left @ right.to(left.dtype)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _float32_products_are_rounded() -> bool:
    """Whether products of float32 may be computed in TF32 or bfloat16."""
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # set by torch's newer names, which the older ones do not read
        return True
