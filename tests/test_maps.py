"""Convexity, monotonicity and closed forms, in float64 and at extreme weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from uncollapse.errors import InputError
from uncollapse.maps import EMBEDDINGS, ICNN, BrenierMap, InverseLipschitzDecoder, MLPDecoder, PrincipalDirections, ZeroPadding

widths = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)
constants = st.floats(0, 100)
stretches = st.floats(0.01, 100)
seeds = st.integers(0, 2**20)
dims = st.integers(1, 5)


def stretched(module, factor):
    """The module in float64, its parameters multiplied: far from any initialisation."""
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(factor).add_(torch.randn_like(parameter) * 0.1 * factor)
    return module.requires_grad_(False)


def normals(*shape):
    return torch.randn(*shape, dtype=torch.double)


@settings(max_examples=60, deadline=None)
@given(dims, widths, stretches, seeds, st.floats(0, 1))
def test_icnn_is_convex(dim, hidden, stretch, seed, weight):
    torch.manual_seed(seed)
    icnn = stretched(ICNN(dim, hidden), stretch)
    u, v = 10 * normals(2, 50, dim)
    chord = weight * icnn(u) + (1 - weight) * icnn(v)
    rounding = 1e-10 * (1 + chord.abs() + icnn(u).abs() + icnn(v).abs())
    assert (icnn(weight * u + (1 - weight) * v) <= chord + rounding).all()


@settings(max_examples=60, deadline=None)
@given(dims, widths, constants, stretches, seeds)
def test_brenier_map_is_strongly_monotone(dim, hidden, constant, stretch, seed):
    torch.manual_seed(seed)
    f = stretched(BrenierMap(dim, hidden, constant), stretch)
    u, v = normals(2, 50, dim)
    f_u, f_v = f(u), f(v)
    gain = ((f_u - f_v) * (u - v)).sum(-1)
    rounding = 1e-11 * (f_u.norm(dim=-1) + f_v.norm(dim=-1)) * (u - v).norm(dim=-1)
    assert (gain >= constant * (u - v).square().sum(-1) - rounding).all()


@settings(max_examples=40, deadline=None)
@given(dims, widths, constants, stretches, seeds)
def test_jacobian_is_symmetric_with_eigenvalues_above_the_constant(dim, hidden, constant, stretch, seed):
    torch.manual_seed(seed)
    f = stretched(BrenierMap(dim, hidden, constant), stretch)
    jacobian = torch.func.jacrev(f)(normals(dim))
    size = 1 + jacobian.abs().max()
    assert torch.allclose(jacobian, jacobian.T, rtol=0, atol=1e-10 * size)
    assert torch.linalg.eigvalsh(jacobian).min() >= constant - 1e-10 * size


@pytest.mark.parametrize("shape", [(), (256,)])
@pytest.mark.parametrize("hidden", [(7,), (7, 5), (6, 8, 4)])
def test_closed_form_is_the_gradient_of_the_potential(shape, hidden):
    torch.manual_seed(0)
    f = BrenierMap(3, hidden, 0.7).double()
    u = normals(*shape, 3).requires_grad_()
    (expected,) = torch.autograd.grad(f.potential(u).sum(), u)
    assert torch.allclose(f(u), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", EMBEDDINGS.values())
def test_embeddings_are_isometric_and_projections_undo_them(kind):
    torch.manual_seed(0)
    embedding = kind(2, 5).double()
    embedding.adapt(normals(50, 5).numpy())
    basis = embedding(torch.eye(2, dtype=torch.double)).T
    assert torch.allclose(basis.T @ basis, torch.eye(2, dtype=torch.double), atol=1e-12)
    weight = normals(4, 5)
    assert torch.allclose(embedding.project(weight), weight @ basis, atol=1e-12)


@pytest.mark.parametrize("kind", EMBEDDINGS.values())
def test_map_after_an_embedding_is_the_map_of_the_embedded_vector(kind):
    torch.manual_seed(0)
    f, embedding = BrenierMap(5, (8, 6), 0.3).double(), kind(2, 5).double()
    embedding.adapt(normals(50, 5).numpy())
    v = normals(10, 2)
    assert torch.allclose(f(v, embedding), f(embedding(v)), atol=1e-12)


def test_principal_directions_are_those_of_the_data():
    data = normals(4000, 3) * torch.tensor([1.0, 5.0, 3.0])
    embedding = PrincipalDirections(2, 3).double()
    embedding.adapt(data.numpy())
    assert torch.allclose(embedding.basis.abs(), torch.eye(3, dtype=torch.double)[:, [1, 2]], atol=0.1)


def test_principal_directions_of_fewer_rows_than_directions_are_still_isometric():
    embedding = PrincipalDirections(4, 6).double()
    embedding.adapt(normals(2, 6).numpy())
    assert torch.allclose(embedding.basis.T @ embedding.basis, torch.eye(4, dtype=torch.double), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(0, 3),
    widths,
    st.tuples(constants, constants),
    stretches,
    seeds,
    st.sampled_from(list(EMBEDDINGS)),
)
def test_decoder_is_inverse_lipschitz(latent_dim, extra, hidden, pair, stretch, seed, kind):
    torch.manual_seed(seed)
    constant = pair[0] if extra == 0 else pair
    decoder = InverseLipschitzDecoder(latent_dim, latent_dim + extra, hidden, constant, EMBEDDINGS[kind]).double()
    decoder.adapt(normals(30, latent_dim + extra).numpy())
    stretched(decoder, stretch)
    z, other = normals(2, 50, latent_dim)
    eta, eta_other = decoder(z), decoder(other)
    rounding = 1e-11 * (eta.norm(dim=-1) + eta_other.norm(dim=-1))
    assert ((eta - eta_other).norm(dim=-1) >= decoder.constant * (z - other).norm(dim=-1) - rounding).all()


def test_constants_compose():
    assert InverseLipschitzDecoder(2, 5, (4,), 1.5).constant == 2.25
    assert InverseLipschitzDecoder(2, 5, (4,), (0.5, 3.0)).constants == (0.5, 3.0)
    assert InverseLipschitzDecoder(2, 5, (4,), (0.5, 3.0)).constant == 1.5
    assert InverseLipschitzDecoder(5, 5, (4,), 1.5).constant == 1.5
    assert MLPDecoder(2, 5, (4,)).constant == 0


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: InverseLipschitzDecoder(5, 3), "latent_dim <= natural dimension"),
        (lambda: InverseLipschitzDecoder(3, 3, inverse_lipschitz=(1.0, 2.0)), "one number"),
        (lambda: InverseLipschitzDecoder(2, 3, inverse_lipschitz=(1.0, 2.0, 3.0)), "got 3 for 2"),
        (lambda: BrenierMap(3, inverse_lipschitz=-1.0), "finite constants >= 0"),
        (lambda: BrenierMap(3, inverse_lipschitz=float("nan")), "finite constants >= 0"),
        (lambda: BrenierMap(0), "positive dimension"),
        (lambda: ICNN(2, ()), "positive hidden widths"),
        (lambda: ZeroPadding(3, 2), "in_dim <= out_dim"),
    ],
)
def test_impossible_maps_are_refused(build, words):
    with pytest.raises(InputError, match=words):
        build()


@pytest.mark.parametrize("width", [1, 16, 512])
@pytest.mark.parametrize("depth", [1, 2, 9])
def test_maps_start_at_unit_size(width, depth):
    torch.manual_seed(0)
    output = BrenierMap(8, (width,) * depth)(torch.randn(2000, 8))
    assert 0.3 < output.std() < 3
    assert output.mean(0).abs().max() < 0.5


@pytest.mark.parametrize(
    ("decoder", "latent_dim"),
    [(InverseLipschitzDecoder(2, 5, (8, 8), 0.5), 2), (InverseLipschitzDecoder(5, 5, (8,)), 5), (MLPDecoder(2, 5), 2)],
)
def test_decoders_start_where_they_are_told(decoder, latent_dim):
    eta = torch.arange(5.0)
    decoder.start_at(eta)
    assert torch.allclose(decoder(torch.zeros(latent_dim)), eta, atol=1e-5)


def test_maps_work_under_transforms_and_without_gradients():
    torch.manual_seed(0)
    decoder = InverseLipschitzDecoder(2, 4, (6, 6), 0.5).double()
    z = normals(3, 2)
    with torch.inference_mode():
        plain = decoder(z)
    assert torch.allclose(torch.func.vmap(decoder)(z), plain)
    assert torch.func.jacrev(decoder)(z[0]).shape == (4, 2)
    exported = torch.export.export(decoder, (z,))
    assert torch.allclose(exported.module()(z), plain)
