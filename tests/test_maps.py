"""Convexity, monotonicity and closed forms, in float64 and at extreme weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning

from uncollapse._utils.errors import InputError
from uncollapse.maps import (
    EMBEDDINGS,
    ICNN,
    POTENTIALS,
    BrenierMap,
    InverseLipschitzDecoder,
    LearnedDirections,
    PrincipalDirections,
    RidgeSum,
    ZeroPadding,
)
from uncollapse.maps.network import preactivations, smooth_leaky, squared_leaky
from uncollapse.networks import MLPDecoder

widths = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)
constants = st.floats(0, 100)
stretches = st.floats(0.01, 100)
seeds = st.integers(0, 2**20)
dims = st.integers(1, 5)


def stretched(module, factor):
    """The module in float64, its parameters multiplied: far from any initialization."""
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(factor).add_(torch.randn_like(parameter) * 0.1 * factor)
    return module.requires_grad_(False)


def normals(*shape):
    return torch.randn(*shape, dtype=torch.double)


@settings(max_examples=60, deadline=None)
@given(dims, widths, stretches, seeds, st.floats(0, 1), st.sampled_from(list(POTENTIALS.values())))
def test_potentials_are_convex(dim, hidden, stretch, seed, weight, kind):
    torch.manual_seed(seed)
    potential = stretched(kind(dim, hidden), stretch)
    u, v = 10 * normals(2, 50, dim)
    chord = weight * potential(u) + (1 - weight) * potential(v)
    rounding = 1e-10 * (1 + chord.abs() + potential(u).abs() + potential(v).abs())
    assert (potential(weight * u + (1 - weight) * v) <= chord + rounding).all()


@settings(max_examples=60, deadline=None)
@given(dims, widths, constants, stretches, seeds, st.sampled_from(list(POTENTIALS.values())))
def test_brenier_map_is_strongly_monotone(dim, hidden, constant, stretch, seed, kind):
    torch.manual_seed(seed)
    f = stretched(BrenierMap(dim, hidden, constant, potential=kind), stretch)
    u, v = normals(2, 50, dim)
    f_u, f_v = f(u), f(v)
    gain = ((f_u - f_v) * (u - v)).sum(-1)
    rounding = 1e-11 * (f_u.norm(dim=-1) + f_v.norm(dim=-1)) * (u - v).norm(dim=-1)
    assert (gain >= constant * (u - v).square().sum(-1) - rounding).all()


@settings(max_examples=40, deadline=None)
@given(dims, widths, constants, stretches, seeds)
def test_jacobian_is_symmetric_with_eigenvalues_above_the_constant(
    dim, hidden, constant, stretch, seed
):
    torch.manual_seed(seed)
    f = stretched(BrenierMap(dim, hidden, constant), stretch)
    jacobian = torch.func.jacrev(f)(normals(dim))
    size = 1 + jacobian.abs().max()
    assert torch.allclose(jacobian, jacobian.T, rtol=0, atol=1e-10 * size)
    assert torch.linalg.eigvalsh(jacobian).min() >= constant - 1e-10 * size


@settings(max_examples=60, deadline=None)
@given(dims, widths, constants, st.floats(1e-3, 100), stretches, seeds)
def test_eigenvalues_lie_between_both_constants(dim, hidden, low, gap, stretch, seed):
    torch.manual_seed(seed)
    f = stretched(BrenierMap(dim, hidden, low, low + gap, RidgeSum), stretch)
    spectrum = torch.linalg.eigvalsh(torch.func.vmap(torch.func.jacrev(f))(5 * normals(20, dim)))
    rounding = 1e-10 * (low + gap)
    assert spectrum.min() >= low - rounding
    assert spectrum.max() <= low + gap + rounding


def test_upper_constant_is_reached_where_directions_do_not_overlap():
    f = BrenierMap(3, (3,), 0.5, 2.0, RidgeSum).double()
    with torch.no_grad():
        f.convex.directions.copy_(torch.eye(3) * 7)
        f.convex.bias.fill_(1e4)  # where the ridges' curvature is 1
        f.convex.root_weight.fill_(1e4)
    assert torch.allclose(
        torch.func.jacrev(f)(normals(3)), 2.0 * torch.eye(3, dtype=torch.double), atol=1e-6
    )


@pytest.mark.parametrize("shape", [(), (256,)])
@pytest.mark.parametrize("hidden", [(7,), (7, 5), (6, 8, 4)])
@pytest.mark.parametrize("kind", [(ICNN, float("inf")), (RidgeSum, float("inf")), (RidgeSum, 3.0)])
def test_closed_form_is_the_gradient_of_the_potential(shape, hidden, kind):
    torch.manual_seed(0)
    f = BrenierMap(3, hidden, 0.7, kind[1], kind[0]).double()
    u = normals(*shape, 3).requires_grad_()
    (expected,) = torch.autograd.grad(f.potential(u).sum(), u)
    assert torch.allclose(f(u), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", EMBEDDINGS.values())
def test_embeddings_are_isometric_and_projections_undo_them(kind):
    torch.manual_seed(0)
    embedding = kind(2, 5).double()
    embedding.initialize_from_data(normals(50, 5).numpy())
    basis = embedding(torch.eye(2, dtype=torch.double)).T
    assert torch.allclose(basis.T @ basis, torch.eye(2, dtype=torch.double), atol=1e-12)
    weight = normals(4, 5)
    assert torch.allclose(embedding.project(weight), weight @ basis, atol=1e-12)


@pytest.mark.parametrize("kind", EMBEDDINGS.values())
def test_map_after_an_embedding_is_the_map_of_the_embedded_vector(kind):
    torch.manual_seed(0)
    f, embedding = BrenierMap(5, (8, 6), 0.3).double(), kind(2, 5).double()
    embedding.initialize_from_data(normals(50, 5).numpy())
    v = normals(10, 2)
    assert torch.allclose(f(v, embedding), f(embedding(v)), atol=1e-12)


@pytest.mark.parametrize(
    ("in_dim", "context_dim", "out_dim", "n_rows"), [(5, 2, 9, 4), (5, 3, 5, 2), (4, 1, 9, 6)]
)
def test_a_context_goes_to_the_last_coordinates_and_the_rest_along_directions_among_the_first(
    monkeypatch, in_dim, context_dim, out_dim, n_rows
):
    monkeypatch.setattr("uncollapse.maps.embedding.MAX_ROWS_BESIDE_CONTEXT", n_rows)
    torch.manual_seed(0)
    embedding = PrincipalDirections(in_dim, out_dim, context_dim).double()
    assert embedding.matrix.shape == (n_rows, in_dim - context_dim)
    embedding.initialize_from_data(normals(50, out_dim).numpy())
    basis = embedding(torch.eye(in_dim, dtype=torch.double)).T
    assert torch.allclose(basis.T @ basis, torch.eye(in_dim, dtype=torch.double), atol=1e-12)
    assert torch.equal(
        basis[-context_dim:, -context_dim:], torch.eye(context_dim, dtype=torch.double)
    )
    assert not basis[n_rows:, :-context_dim].any()
    assert not basis[:-context_dim, -context_dim:].any()
    weight = normals(4, out_dim)
    assert torch.allclose(embedding.project(weight), weight @ basis, atol=1e-12)
    v = normals(10, in_dim)
    for f in (
        BrenierMap(out_dim, (8, 6), 0.3).double(),
        BrenierMap(out_dim, (8,), 0.3, potential=RidgeSum).double(),
    ):
        assert torch.allclose(f(v, embedding), f(embedding(v)), atol=1e-12)


def test_directions_are_among_the_coordinates_that_there_are_data_of():
    data = (
        torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 5, 2, 3])
    ).numpy()
    short, whole = (PrincipalDirections(2, 6) for _ in range(2))
    short.initialize_from_data(
        torch.randn(50, 6, generator=torch.Generator().manual_seed(1)).numpy()
    )
    short.initialize_from_data(data)  # nothing is left of what was before
    whole.initialize_from_data(torch.nn.functional.pad(torch.as_tensor(data), (0, 2)).numpy())
    assert torch.equal(short.matrix[4:], torch.zeros(2, 2))
    assert torch.allclose(short.matrix.abs(), whole.matrix.abs(), atol=1e-5)
    assert short.matrix[1].abs().max() > 0.9


def test_learned_directions_know_no_context():
    with pytest.raises(InputError, match="learned directions expect no context"):
        LearnedDirections(3, 5, 1)


def test_principal_directions_are_those_of_the_data():
    data = normals(4000, 3) * torch.tensor([1.0, 5.0, 3.0])
    embedding = PrincipalDirections(2, 3).double()
    embedding.initialize_from_data(data.numpy())
    assert torch.allclose(
        embedding.basis.abs(), torch.eye(3, dtype=torch.double)[:, [1, 2]], atol=0.1
    )


@pytest.mark.parametrize("kind", [PrincipalDirections, LearnedDirections])
def test_directions_are_those_of_most_variance_in_comparison_with_the_noise(kind):
    """A signal along one direction, in noise that drowns it in two columns: the best direction is
    N^-1 times the signal's."""
    torch.manual_seed(0)
    direction = torch.tensor([1.0, 1.0, 1.0, 0.0]).double()
    noise = torch.tensor([0.5, 1.0, 5.0, 9.0]).double()
    data = normals(20_000, 1) * direction + normals(20_000, 4) * noise
    embedding = kind(1, 4).double()
    embedding.initialize_from_data(data.numpy(), 3 * noise.numpy())
    expected = direction / noise**2
    assert torch.allclose(embedding.matrix[:, 0].abs(), expected / expected.norm(), atol=0.02)
    embedding.initialize_from_data(data.numpy())
    assert embedding.matrix[3, 0].abs() > 0.99


def test_learned_directions_start_at_the_principal_ones_and_stay_orthonormal():
    torch.manual_seed(0)
    data = (normals(4000, 6) * torch.arange(1.0, 7.0)).numpy()
    learned, principal = LearnedDirections(3, 6).double(), PrincipalDirections(3, 6).double()
    for embedding in (learned, principal):
        embedding.initialize_from_data(data)
    assert torch.allclose(learned.matrix, principal.matrix, atol=1e-12)
    optimizer = torch.optim.Adam(learned.parameters(), lr=0.3)
    for _ in range(20):
        optimizer.zero_grad()
        learned(normals(10, 3)).pow(3).sum().backward()
        optimizer.step()
    assert torch.allclose(
        learned.matrix.T @ learned.matrix, torch.eye(3, dtype=torch.double), atol=1e-12
    )
    assert not torch.allclose(learned.matrix, principal.matrix, atol=0.1)


def test_principal_directions_of_fewer_rows_than_directions_are_still_isometric():
    embedding = PrincipalDirections(4, 6).double()
    embedding.initialize_from_data(normals(2, 6).numpy())
    assert torch.allclose(
        embedding.basis.T @ embedding.basis, torch.eye(4, dtype=torch.double), atol=1e-12
    )


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4).map(sorted),
    widths,
    st.lists(st.tuples(st.floats(0, 20), st.floats(0.01, 20)), min_size=4, max_size=4),
    stretches,
    seeds,
    st.sampled_from(list(EMBEDDINGS)),
    st.booleans(),
)
def test_decoder_keeps_its_constants(stack, hidden, pairs, stretch, seed, kind, limited):
    torch.manual_seed(seed)
    latent_dim, *between, natural_dim = stack if len(stack) > 1 else stack * 2
    n_maps = 1 if not between and latent_dim == natural_dim else len(between) + 2
    lower = [low for low, _ in pairs[:n_maps]]
    upper = [low + gap if limited else float("inf") for low, gap in pairs[:n_maps]]
    potential = RidgeSum if limited else ICNN
    decoder = InverseLipschitzDecoder(
        latent_dim, natural_dim, hidden, lower, EMBEDDINGS[kind], upper, potential, between
    ).double()
    decoder.initialize_from_data(normals(30, natural_dim).numpy())
    stretched(decoder, stretch)
    z, other = normals(2, 50, latent_dim)
    eta, eta_other = decoder(z), decoder(other)
    moved, distance = (eta - eta_other).norm(dim=-1), (z - other).norm(dim=-1)
    rounding = 1e-10 * (eta.norm(dim=-1) + eta_other.norm(dim=-1))
    assert (moved >= decoder.constant * distance - rounding).all()
    assert (moved <= decoder.upper_constant * distance + rounding).all()


def test_constants_compose():
    assert InverseLipschitzDecoder(2, 5, (4,), 1.5).constant == 2.25
    assert InverseLipschitzDecoder(2, 5, (4,), (0.5, 3.0)).constants == (0.5, 3.0)
    assert InverseLipschitzDecoder(2, 5, (4,), (0.5, 3.0)).constant == 1.5
    assert InverseLipschitzDecoder(5, 5, (4,), 1.5).constant == 1.5
    assert (
        InverseLipschitzDecoder(2, 5, (4,), (0.5, 3.0, 2.0), intermediate_dims=(4,)).constant == 3.0
    )
    assert InverseLipschitzDecoder(5, 5, (4,), 2.0, intermediate_dims=(5,)).constant == 8.0
    assert (
        InverseLipschitzDecoder(
            2, 5, (4,), 0.5, lipschitz=(2.0, 3.0), potential=RidgeSum
        ).upper_constant
        == 6.0
    )
    assert InverseLipschitzDecoder(2, 5, (4,), 0.5).upper_constant == float("inf")
    assert MLPDecoder(2, 5, (4,)).constant == 0


def test_floor_is_claimed_for_one_map_or_two():
    assert InverseLipschitzDecoder(2, 5, (4,), 1.5).information_constant == 2.25
    assert InverseLipschitzDecoder(5, 5, (4,), 1.5).information_constant == 1.5
    assert (
        InverseLipschitzDecoder(2, 5, (4,), 1.5, intermediate_dims=(3,)).information_constant
        is None
    )


@pytest.mark.parametrize("dims", [(2, (), 5), (3, (), 3), (2, (3, 3), 5)])
def test_decoder_is_its_first_map_and_the_rest(dims):
    latent_dim, between, natural_dim = dims
    decoder = InverseLipschitzDecoder(
        latent_dim, natural_dim, (6,), 0.5, intermediate_dims=between
    ).double()
    z = normals(7, latent_dim)
    assert torch.equal(decoder.rest(decoder.first(z)), decoder(z))
    assert decoder.first_constant == 0.5
    assert not torch.equal(decoder.first(z), z)


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
        (lambda: InverseLipschitzDecoder(3, 5, intermediate_dims=(2,)), "do not decrease"),
        (lambda: BrenierMap(3, (4,), 1.0, 1.0, RidgeSum), "more than inverse_lipschitz=1"),
        (lambda: BrenierMap(3, (4,), 1.0, float("nan"), RidgeSum), "more than inverse_lipschitz=1"),
        (lambda: BrenierMap(3, (4,), 1.0, 2.0), "Use RidgeSum"),
        (lambda: BrenierMap(3, (4,)).inverse(torch.zeros(3)), "inverse_lipschitz > 0"),
        (lambda: BrenierMap(1001, (4,), 1.0).logabsdet(torch.zeros(1001)), "use jacobian_extremes"),
        (lambda: BrenierMap(4, (4,))(torch.ones(3, 2)), "points of 4 coordinates, got 2"),
        (
            lambda: InverseLipschitzDecoder(4, 6, (4,))(torch.ones(3, 2)),
            "points of 4 coordinates, got 2",
        ),
        (
            lambda: BrenierMap(2, (4,), 1.0).inverse(torch.tensor([[1.0, float("nan")]])),
            "finite points",
        ),
    ],
)
def test_impossible_maps_are_refused(build, words):
    with pytest.raises(InputError, match=words):
        build()


@pytest.mark.parametrize("dims", [(1, 1), (8, 8), (4, 64)])
@pytest.mark.parametrize("width", [1, 2, 16, 256])
@pytest.mark.parametrize("depth", [1, 2, 9])
def test_layers_and_maps_start_at_unit_size(width, depth, dims):
    torch.manual_seed(0)
    f = BrenierMap(dims[1], (width,) * depth)
    f.convex.reset_parameters(dims[0])
    v = torch.randn(2000, dims[0])
    layers = preactivations(v, None, f.convex.weights)
    activations = [squared_leaky(layers[0]), *map(smooth_leaky, layers[1:])]
    assert width < 16 or all(0.75 < (s - s.mean(0)).square().mean().sqrt() < 1.3 for s in layers)
    value = f(v, ZeroPadding(*dims))
    for output in (*layers, *activations, value):
        assert 0.3 < (output - output.mean(0)).square().mean().sqrt() < 3
    assert value.mean(0).square().mean().sqrt() < 0.3


@pytest.mark.parametrize("width", [1, 2, 16, 512])
@pytest.mark.parametrize("upper", [10.0, 100.0, 1e4, float("inf")])
def test_ridges_start_at_unit_size(width, upper):
    torch.manual_seed(0)
    output = BrenierMap(8, (width,), 0.0, upper, RidgeSum)(torch.randn(4000, 8))
    assert 0.3 < output.std() < 3


@pytest.mark.parametrize("kind", POTENTIALS.values())
@pytest.mark.parametrize("width", [1, 64, 1024])
@pytest.mark.parametrize("depth", [1, 2, 9])
@pytest.mark.parametrize("low_precision", [False, True], ids=["float32", "bfloat16"])
def test_values_and_gradients_are_finite_far_out(kind, width, depth, low_precision):
    if width == 1024:
        depth = min(depth, 2)
    torch.manual_seed(0)
    f = BrenierMap(3, (width,) * depth, 0.5, potential=kind)
    for scale in (0.0, 1.0, 1e4):
        u = (scale * torch.randn(5, 3)).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=low_precision):
            value = f(u)
        assert value.isfinite().all()
        gradients = torch.autograd.grad(value.mean(), [u, *f.parameters()])
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_inverse_finds_the_point_again():
    torch.manual_seed(0)
    f = BrenierMap(64, (128, 128), 0.1).double()
    u = normals(100, 64)
    assert (f.inverse(f(u)) - u).norm(dim=1).max() < 1e-8
    assert f.inverse(f(u[0])).shape == (64,)
    assert f.inverse(f(u).float()).dtype == torch.float32


@settings(max_examples=40, deadline=None)
@given(
    dims,
    widths,
    st.floats(0.05, 100),
    st.floats(0.01, 3),
    seeds,
    st.sampled_from(list(POTENTIALS.values())),
)
def test_inverse_of_any_map_at_any_point(dim, hidden, constant, stretch, seed, kind):
    torch.manual_seed(seed)
    f = stretched(BrenierMap(dim, hidden, constant, potential=kind), stretch)
    y = 10 * normals(10, dim)
    assert ((f(f.inverse(y, tol=1e-9)) - y).norm(dim=1) <= 1e-9 * y.norm(dim=1).clamp(min=1)).all()


def test_questions_are_answered_in_inference_mode_and_under_autocast():
    torch.manual_seed(0)
    decoder = InverseLipschitzDecoder(3, 6, (16, 16), 0.5)
    z = torch.randn(5, 3)
    eta, answers = decoder(z).detach(), (decoder.jacobian_extremes(z), decoder.logabsdet(z))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        inside = z + 0
        assert torch.equal(decoder.jacobian_extremes(inside).smallest, answers[0].smallest)
        assert torch.equal(decoder.logabsdet(inside), answers[1])
        assert torch.allclose(decoder.inverse(eta + 0), z, atol=1e-5)


def test_rounding_does_not_look_like_a_broken_constant():
    torch.manual_seed(0)
    f = BrenierMap(20, (64, 64), 0.05)
    with torch.no_grad():
        for parameter in f.parameters():
            parameter.mul_(10)
    assert f.jacobian_extremes(torch.randn(20, 20)).smallest.min() >= 0.05 - 1e-6


@pytest.mark.parametrize("kind", EMBEDDINGS.values())
@pytest.mark.parametrize("between", [(), (3,)])
def test_decoders_are_inverted_on_their_range(kind, between):
    torch.manual_seed(0)
    decoder = InverseLipschitzDecoder(2, 5, (16, 16), 0.5, kind, intermediate_dims=between).double()
    decoder.initialize_from_data(normals(50, 5).numpy())
    z = normals(20, 2)
    assert (decoder.inverse(decoder(z)) - z).norm(dim=1).max() < 1e-8


def test_inverse_says_when_it_does_not_converge():
    torch.manual_seed(0)
    f = stretched(BrenierMap(5, (16, 16), 0.1), 3.0)
    with pytest.warns(
        ConvergenceWarning, match=r"did not converge for \d+ of 10 points.*Raise max_iter"
    ):
        f.inverse(f(normals(10, 5)), max_iter=1)


def test_the_last_step_counts():
    f = BrenierMap(3, (4,), 0.5).double()
    with torch.no_grad():
        for parameter in f.parameters():
            parameter.zero_()
    y = normals(5, 3)
    assert torch.allclose(f.inverse(y, max_iter=1), 2 * y)  # a warning would be an error


def test_extremes_are_those_of_the_dense_jacobian():
    torch.manual_seed(0)
    f = BrenierMap(4, (16, 16), 0.5).double()
    u = normals(2, 3, 4)
    smallest, largest, exact = f.jacobian_extremes(u)
    spectrum = torch.linalg.eigvalsh(torch.func.vmap(torch.func.vmap(torch.func.jacrev(f)))(u))
    assert exact
    assert torch.allclose(smallest, spectrum[..., 0])
    assert torch.allclose(largest, spectrum[..., -1])
    assert torch.allclose(f.logabsdet(u), spectrum.log().sum(-1))


def test_extremes_of_a_decoder_are_singular_values():
    torch.manual_seed(0)
    decoder = InverseLipschitzDecoder(3, 6, (16,), 0.5, PrincipalDirections).double()
    z = normals(5, 3)
    values = torch.linalg.svdvals(torch.func.vmap(torch.func.jacrev(decoder))(z))
    assert torch.allclose(decoder.jacobian_extremes(z).smallest, values[:, -1])
    assert torch.allclose(decoder.jacobian_extremes(z).largest, values[:, 0])
    assert torch.allclose(decoder.logabsdet(z), values.log().sum(1))


def test_extremes_beyond_dense_jacobians_are_bounds_from_inside(monkeypatch):
    torch.manual_seed(0)
    f = BrenierMap(30, (64, 64), 0.5).double()
    decoder = InverseLipschitzDecoder(10, 30, (64,), 0.5).double()
    u, z = normals(2, 30), normals(2, 10)
    dense = f.jacobian_extremes(u), decoder.jacobian_extremes(z)
    monkeypatch.setattr("uncollapse.maps.jacobian.MAX_DENSE", 5)
    for exact, iterated in zip(
        dense, (f.jacobian_extremes(u), decoder.jacobian_extremes(z)), strict=True
    ):
        assert (exact.exact, iterated.exact) == (True, False)
        assert (iterated.smallest >= exact.smallest - 1e-9).all()
        assert (iterated.largest <= exact.largest + 1e-9).all()
        assert torch.allclose(iterated.smallest, exact.smallest, rtol=1e-2)
        assert torch.allclose(iterated.largest, exact.largest, rtol=1e-3)
    assert f.jacobian_extremes(u[:0]).smallest.shape == (0,)


@pytest.mark.parametrize(
    ("decoder", "latent_dim"),
    [
        (InverseLipschitzDecoder(2, 5, (8, 8), 0.5), 2),
        (InverseLipschitzDecoder(5, 5, (8,)), 5),
        (MLPDecoder(2, 5), 2),
    ],
)
def test_decoders_start_where_they_are_told(decoder, latent_dim):
    eta = torch.arange(5.0)
    decoder.start_at(eta)
    assert torch.allclose(decoder(torch.zeros(latent_dim)), eta, atol=1e-5)
