"""Decoders stay finite through hundreds of rough steps, in float32 and under autocast."""

import pytest
import torch
from sklearn.datasets import load_digits

from uncollapse.estimators import VAE
from uncollapse.estimators.building import initialize_from_data
from uncollapse.estimators.settings import check_settings
from uncollapse.objectives import Elbo


@pytest.mark.slow
@pytest.mark.parametrize("low_precision", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("width", "depth", "arguments"),
    [
        (1, 9, {}),
        (64, 1, {"potential": "ridge", "lipschitz": 5.0}),
        (64, 2, {"embedding": "learned", "inverse_lipschitz": 5.0}),
        (64, 9, {}),
        (256, 3, {"inverse_lipschitz": 0.0}),
    ],
)
def test_hundreds_of_steps_at_a_high_learning_rate(width, depth, arguments, low_precision):
    data = load_digits().data.astype("float32")
    torch.manual_seed(0)
    settings = {"latent_dim": 16, "hidden": (width,) * depth, "inverse_lipschitz": 0.5, **arguments}
    model = VAE.build(check_settings("VAE", settings), data.shape[1])
    initialize_from_data(model, data)
    rows, optimizer = (
        torch.as_tensor(data),
        torch.optim.Adam(model.parameters(), lr=1e-2, fused=True),
    )
    for step in range(200):
        with torch.autocast("cpu", torch.bfloat16, enabled=low_precision):
            loss, _ = Elbo()(model, rows[torch.randint(len(rows), (100,))], step)
        assert loss.isfinite(), f"step {step}"
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    z = (1e4 * torch.randn(50, 16)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=low_precision):
        eta = model.decoder(z)
    gradients = torch.autograd.grad(eta.mean(), [z, *model.decoder.parameters()], allow_unused=True)
    assert eta.isfinite().all()
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)
