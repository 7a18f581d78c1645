"""`python -m benchmarks.maps`: speed of Brenier maps.

They are compared with a textbook implementation, a perceptron of the same size, and their bare
matrix products.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

from benchmarks.rivals import Stack, Textbook, bare_products, mlp
from benchmarks.timing import Step, interleaved_medians, peak_mib, print_row

SEED = 0


@dataclass(frozen=True)
class Size:
    """Dimensions of the maps, widths of their layers, and rows of a step."""

    dims: tuple[int, ...]
    hidden: tuple[int, ...]
    batch: int


SIZES = {
    "toy": Size((2,), (10, 10), 100),
    "image-100": Size((64, 784), (512, 512), 100),
    "image-1000": Size((64, 784), (512, 512), 1000),
    "text-1003": Size((1056, 1003), (1024, 1024), 320),
    "text-20000": Size((1056, 20_000), (1024, 1024), 320),
}
# Image-like decoders of growing width, for the plot of the cost.
GROWTH = {
    f"width-{width}": Size((64, 784), (width, width), 1000)
    for width in (64, 128, 256, 512, 1024, 2048)
}


def contestants(
    size: Size, compiled: bool, device: str
) -> tuple[dict[str, nn.Module], Stack, Tensor]:
    """Return the modules that are measured, the maps alone, and the input."""
    torch.manual_seed(SEED)
    with torch.device(device):
        stack = Stack(list(size.dims), size.hidden)
        modules: dict[str, nn.Module] = {
            "ours": stack,
            "textbook": Textbook(stack),
            "mlp": mlp(size.dims[0], size.dims[-1], _count(stack)),
        }
        if compiled:
            modules["ours, compiled"] = torch.compile(stack)
        return modules, stack, torch.randn(size.batch, size.dims[0])


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def training_step(module: nn.Module, z: Tensor) -> Step:
    """Return a forward pass and a backward pass to all parameters and the input."""
    z = z.clone().requires_grad_()
    wanted = [z, *(parameter for parameter in module.parameters() if parameter.requires_grad)]
    with torch.no_grad():
        cotangent = torch.randn_like(module(z))
    return lambda: torch.autograd.grad(module(z), wanted, cotangent)


def forward_only(module: nn.Module, z: Tensor) -> Step:
    """Return a forward pass in inference mode with frozen parameters.

    The textbook differentiates once, which needs gradients.
    """
    frozen = copy.deepcopy(module).requires_grad_(False)
    mode = torch.no_grad if isinstance(module, Textbook) else torch.inference_mode

    def step() -> Tensor:
        with mode():
            value: Tensor = frozen(z)
            return value

    return step


def main(
    sizes: Annotated[
        str,
        typer.Option(
            help="Comma-separated names, or 'growth' for the cost against the number of parameters."
        ),
    ] = ",".join(SIZES),
    seconds: Annotated[float, typer.Option(help="Time for each group of interleaved runs.")] = 20.0,
    compiled: Annotated[bool, typer.Option(help="Measure the compiled maps as well.")] = False,
    device: str = "cpu",
) -> None:
    """Print one JSON line for each module and kind of step."""
    chosen = GROWTH if sizes == "growth" else {name: SIZES[name] for name in sizes.split(",")}
    kinds: dict[str, Callable[[nn.Module, Tensor], Step]] = {
        "training step": training_step,
        "forward": forward_only,
    }
    for name, size in chosen.items():
        modules, stack, z = contestants(size, compiled, device)
        counts = {label: _count(module) for label, module in modules.items()}
        for kind, build in kinds.items():
            steps = {label: build(module, z) for label, module in modules.items()}
            peaks = {label: peak_mib(step, device) for label, step in steps.items()}
            steps["bare products"] = bare_products(
                stack, size.batch, backward=kind == "training step"
            )
            for label, median in interleaved_medians(steps, seconds, device).items():
                print_row(
                    benchmark="maps",
                    size=name,
                    batch=size.batch,
                    kind=kind,
                    contestant=label,
                    milliseconds=round(1000 * median, 4),
                    peak_mib=round(peaks[label], 2) if label in peaks else None,
                    n_parameters=counts.get(label, counts["ours"]),
                    seed=SEED,
                    device=device,
                )


if __name__ == "__main__":
    typer.run(main)
