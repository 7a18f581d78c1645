"""VAEs of two latent layers: z, then w given z, then x given w (W21 definition 4)."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from uncollapse._utils.errors import ParameterError
from uncollapse._utils.validation import check_count
from uncollapse.families import Family
from uncollapse.latent import CategoricalLayer, FamilyPosterior, Layer, draw
from uncollapse.maps import Decoder
from uncollapse.models.base import Latents
from uncollapse.models.composed import RowModel


class LayeredModel(RowModel):
    r"""p(z) EF(w|B1'z) p(x|w), the general LIDVAE of W21 (appendix B, definition 4), f_theta = 0.

    The decoder sees w, which stands where a `VAEModel` has its z: in `posterior`, in `Latents.z`,
    in `likelihood`. The layer below, z, is summed out of the prior exactly, and q(w, z|x) = q(w|x)
    p(z|w); `prior.expected` gives E[z|w].

    Injectivity: z -> p(w|z) is injective by construction, as B1 has full row rank and the family of
    w is minimal; so is w -> p(x|w) with an injective decoder. W21 proposition 3 composes the two to
    z -> p(x|z). As p(x|z) is an average over w, this needs a family of x that averages identify,
    such as the Gaussian and the Poisson: binary data of few columns can be the same for two z.

    Where the family of w has no reparameterised draws, q(w|x) learns by the score function, with
    the other draws of an example as the baseline (`objectives.negative_elbo`).

    Args:
        prior: of w: `CategoricalLayer` for z of K categories, `NormalLayer` for z in R^K.
        posterior: maps x to q(w|x): `FamilyPosterior` of the prior's family, or any Gaussian one
            for Gaussian w.
        decoder: maps w to natural parameters, before the link of the family.
        family: of x.
        n_draws: draws of w for each example in training, at least 2.

    Raises:
        InputError: if the posterior draws other values than the prior, there are too few draws, or
            as for `VAEModel`.

    >>> import torch
    >>> from uncollapse.families import Bernoulli, Gaussian
    >>> from uncollapse.maps import InverseLipschitzDecoder
    >>> prior = CategoricalLayer(Bernoulli(), top_dim=3, latent_dim=4)
    >>> from uncollapse.networks import PerceptronEncoder
    >>> posterior = FamilyPosterior(PerceptronEncoder(6, 4), Bernoulli(), 4)
    >>> decoder = InverseLipschitzDecoder(4, 6, inverse_lipschitz=0.5)
    >>> model = LayeredModel(prior, posterior, decoder, Gaussian(1.0))
    >>> model(torch.zeros(5, 6)).elbo.shape
    torch.Size([8, 5])
    """

    prior: Layer

    def __init__(
        self, prior: Layer, posterior: Any, decoder: Decoder, family: Family, n_draws: int = 8
    ) -> None:
        super().__init__(prior, posterior, decoder, family)
        check_count("n_draws", n_draws, at_least=2)
        _check_posterior(prior, posterior)
        self.n_draws = n_draws

    def latents(self, q: Any, noise: Float[Tensor, "*samples batch latent"]) -> Latents:
        """Draw w from any q(w|x) by the given noise."""
        w, log_q = draw(q, noise)
        # At draws that do not move with q, log q has a gradient of mean 0, which is only noise.
        kl = (log_q if q.has_rsample else log_q.detach()) - self.prior().log_prob(w)
        return Latents(q, w, kl, self._components(w), None if q.has_rsample else log_q)

    def noise(self, x: Float[Tensor, "batch data"]) -> Float[Tensor, "samples batch latent"]:
        """Draw standard normal noise, `n_draws` for each example."""
        return self.batch_context.normal(x, self.latent_dim, self.n_draws)

    def _components(self, w: Tensor) -> Tensor | None:
        """Return q(z|x) of a categorical z, in expectation over the draws of w."""
        if not isinstance(self.prior, CategoricalLayer):
            return None
        components = self.prior.expected(w)
        return components.flatten(0, -3).mean(0) if w.dim() > 2 else components


def _check_posterior(prior: Layer, posterior: Any) -> None:
    drawn = posterior.family.name if isinstance(posterior, FamilyPosterior) else "gaussian"
    if drawn != prior.family.name:
        raise ParameterError(
            f"a layered VAE expects a posterior of family {prior.family.name!r}, as its prior has, "
            f"got one of {drawn!r}: use FamilyPosterior with that family."
        )
