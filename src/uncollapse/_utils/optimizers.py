"""The state of an optimizer as dictionaries of tensors, to be written down and taken up again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer


def optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """What it knows of each parameter, by the parameter's number."""
    return {str(index): state for index, state in optimizer.state_dict()["state"].items()}


def restore_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Take up what `optimizer_state` gave, of an optimizer of the same parameters."""
    by_number = {int(index): dict(of_parameter) for index, of_parameter in state.items()}
    optimizer.load_state_dict(
        {"state": by_number, "param_groups": optimizer.state_dict()["param_groups"]}
    )
