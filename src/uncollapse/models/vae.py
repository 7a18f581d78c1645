"""The variational autoencoder."""

from uncollapse.models.composed import RowModel


class VAEModel(RowModel):
    """p(z) p(x|z) with the approximate posterior q(z|x) (Kingma & Welling 2014).

    Args:
        prior: called without arguments, returns p(z) over R^latent_dim.
        posterior: maps x to q(z|x).
        decoder: maps z to natural parameters, before the link of the family.
        family: maps natural parameters to p(x|z).

    Raises:
        InputError: if the decoder has a positive inverse Lipschitz constant that the link of the
            family would undo.
    """
