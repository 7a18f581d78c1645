"""The evaluator of Brenier maps: one mathematics, whoever asks for it. float64 wherever values are
compared."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from uncollapse.maps import (
    EMBEDDINGS,
    BrenierMap,
    InverseLipschitzDecoder,
    LearnedDirections,
    RidgeSum,
    network,
)
from uncollapse.maps.network import Weights, brenier_map, closed_form, squared

DEPTHS = [(7,), (7, 5), (6, 8, 4), (3, 4, 5, 6)]


def arguments(widths, in_dim, dim, basis_shape):
    """Random inputs of the evaluator, of no special size or sign, all of which want gradients."""
    torch.manual_seed(0)
    new = lambda *shape: torch.randn(*shape, dtype=torch.double).requires_grad_()  # noqa: E731
    basis = torch.linalg.qr(new(*basis_shape).detach())[0].requires_grad_() if basis_shape else None
    roots = tuple(new(above, below) for below, above in pairwise(widths))
    return (
        new(5, in_dim),
        basis,
        Weights(new(sum(widths), dim), new(sum(widths)), new(dim), new(widths[-1]), roots),
    )


def tensors_of(v, basis, weights):
    *single, roots = weights
    return [tensor for tensor in (v, basis, *single, *roots) if tensor is not None]


def of_tensors(basis):
    """The evaluator as a function of what `tensors_of` lists."""

    def f(v, *tensors):
        rest = list(tensors)
        b = rest.pop(0) if basis is not None else None
        skip, bias, linear, root_output, *roots = rest
        return brenier_map(v, b, 0.7, Weights(skip, bias, linear, root_output, tuple(roots)))

    return f


@pytest.fixture(
    params=[(3, 3, None), (2, 5, None), (2, 5, (5, 2)), (4, 7, (4, 2))],
    ids=["identity", "padding", "basis", "basis and context"],
)
def case(request):
    return request.param


@pytest.mark.parametrize("widths", [*DEPTHS, (300, 270, 290)])
def test_hand_written_backward_is_that_of_the_closed_form(widths, case):
    v, basis, weights = arguments(widths, *case)
    with torch.no_grad():
        for root in weights.roots:
            root.mul_(3 / root.shape[-1])  # or wide layers would saturate those above
    value, expected = brenier_map(v, basis, 0.7, weights), closed_form(v, basis, 0.7, weights)
    assert type(value.grad_fn).__name__ == "_BrenierMapBackward"
    assert torch.allclose(value, expected, rtol=1e-12, atol=1e-12)
    cotangent = torch.randn_like(value)
    found = torch.autograd.grad(value, tensors_of(v, basis, weights), cotangent)
    wanted = torch.autograd.grad(expected, tensors_of(v, basis, weights), cotangent)
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-10)


class Factors(TorchDispatchMode):
    """What goes into matrix products."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (
            torch.ops.aten.mm,
            torch.ops.aten.addmm,
            torch.ops.aten.addmm_,
        ):
            self.seen += [tensor.clone() for tensor in args[-2:]]
        return function(*args, **kwargs or {})


def test_roots_that_have_fallen_to_nothing_leave_no_subnormal_factors():
    torch.manual_seed(0)
    f = BrenierMap(3, hidden=(8, 8, 8), inverse_lipschitz=0.5)
    with torch.no_grad():
        for name, root in f.named_parameters():
            if "root" in name:
                root.view(-1)[::2] = 1e-21
    u = torch.randn(4, 3, requires_grad=True)
    weights = f.convex.weights
    with Factors() as factors:
        f(u).square().sum().backward()
        with torch.no_grad():
            f(u)
        closed_form(u.detach(), None, 0.5, weights)
    assert len(factors.seen) > 25
    smallest = min(tensor[tensor != 0].abs().min() for tensor in factors.seen)
    assert smallest >= torch.finfo(torch.float32).smallest_normal

    with torch.no_grad():
        f.convex.root_weights[0].view(-1)[0] = torch.nan
        assert f(u).isnan().any()  # and what is no number is not taken for nothing


def test_a_weight_that_counts_as_nothing_has_the_derivatives_of_a_square():
    roots = torch.tensor([0.0, 1e-21, 1e-3], requires_grad=True)
    assert squared(roots).tolist() == [0.0, 0.0, pytest.approx(1e-6)]
    first = torch.autograd.grad(squared(roots).sum(), roots, create_graph=True)[0]
    assert torch.equal(first, 2 * roots)
    assert torch.autograd.grad(first.sum(), roots)[0].tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("widths", DEPTHS)
@pytest.mark.parametrize("only", ["v", "basis", "skip", "linear", "roots"])
def test_backward_gives_whatever_is_asked_for(widths, only):
    v, basis, weights = arguments(widths, 2, 5, (5, 2))
    chosen = {
        "v": [v],
        "basis": [basis],
        "skip": [weights.skip],
        "linear": [weights.linear],
        "roots": list(weights.roots),
    }[only]
    if not chosen:
        pytest.skip("one layer has no inner weights")
    for tensor in tensors_of(v, basis, weights):
        tensor.requires_grad_(any(tensor is one for one in chosen))
    cotangent = torch.randn(5, 5, dtype=torch.double)
    found = torch.autograd.grad(brenier_map(v, basis, 0.7, weights), chosen, cotangent)
    wanted = torch.autograd.grad(closed_form(v, basis, 0.7, weights), chosen, cotangent)
    assert all(
        torch.allclose(one, other, rtol=1e-10, atol=1e-10)
        for one, other in zip(found, wanted, strict=True)
    )


@pytest.mark.parametrize("widths", DEPTHS)
def test_gradients_are_those_of_finite_differences(widths, case):
    v, basis, weights = arguments(widths, *case)

    torch.autograd.gradcheck(of_tensors(basis), tensors_of(v, basis, weights))


@pytest.mark.parametrize("widths", DEPTHS)
def test_second_derivatives_are_there(widths, case):
    v, basis, weights = arguments(widths, *case)
    cotangent = torch.randn(5, case[1], dtype=torch.double)

    def second(evaluator):
        (first,) = torch.autograd.grad(
            evaluator(v, basis, 0.7, weights), v, cotangent, create_graph=True
        )
        return torch.autograd.grad(
            first.square().sum(), [v, weights.skip, weights.root_output], allow_unused=True
        )

    for one, other in zip(second(brenier_map), second(closed_form), strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)


def test_second_derivatives_are_those_of_finite_differences(case):
    v, basis, weights = arguments((4, 3), *case)

    torch.autograd.gradgradcheck(of_tensors(basis), tensors_of(v, basis, weights))


def test_inputs_that_depend_on_each_other_are_counted_once():
    """First gradients are the same whether or not a graph of them is made."""
    torch.manual_seed(0)
    f = BrenierMap(3, (6, 6), 0.5).double()
    u = torch.randn(5, 3, dtype=torch.double)
    _, _, weights = arguments((4, 4, 4), 3, 3, False)
    tied = weights._replace(roots=(weights.roots[0],) * 2)

    def gradients(create_graph):
        twice = torch.autograd.grad(
            f(f(u)).sin().sum(), list(f.parameters()), create_graph=create_graph
        )
        shared = torch.autograd.grad(
            brenier_map(u, None, 0.5, tied).sin().sum(), tied.roots[0], create_graph=create_graph
        )
        return *twice, *shared

    for one, other in zip(gradients(False), gradients(True), strict=True):
        assert torch.allclose(one, other, rtol=1e-9)


def test_backward_may_be_batched():
    torch.manual_seed(0)
    f = BrenierMap(3, (6, 5), 0.5).double()
    u = torch.randn(3, dtype=torch.double)
    expected = torch.func.jacrev(f)(u)
    assert torch.allclose(torch.autograd.functional.jacobian(f, u, vectorize=True), expected)
    v = u.clone().requires_grad_()
    (rows,) = torch.autograd.grad(f(v), v, torch.eye(3, dtype=torch.double), is_grads_batched=True)
    assert torch.allclose(rows, expected)


def test_forward_mode_reaches_parameters():
    torch.manual_seed(0)
    f = BrenierMap(3, (6, 5), 0.5).double().requires_grad_(False)
    u, tangent = torch.randn(4, 3, dtype=torch.double), torch.ones(3, dtype=torch.double)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(f.convex.linear.detach().clone(), tangent)
        moved = torch.func.functional_call(f, {"convex.linear": dual}, (u,))
        assert torch.allclose(
            torch.autograd.forward_ad.unpack_dual(moved).tangent, tangent.expand(4, 3)
        )


def test_shapes_alone_leave_no_trace():
    f, u = BrenierMap(3, (6, 5), 0.5), torch.randn(4, 3)
    expected = f(u)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert f(torch.randn(4, 3)).shape == (4, 3)
    assert torch.equal(f(u), expected)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (0,)])
def test_any_batch_shape(shape):
    torch.manual_seed(0)
    f = BrenierMap(3, (6, 5), 0.5).double()
    u = torch.randn(*shape, 3, dtype=torch.double)
    assert f(u).shape == u.shape
    assert torch.allclose(f(u).reshape(-1, 3), f(u.reshape(-1, 3)))


MAPS = {
    "one map": lambda: InverseLipschitzDecoder(3, 3, (6, 5), 0.5),
    **{
        f"two maps, {name}": lambda kind=kind: InverseLipschitzDecoder(2, 4, (6, 5), 0.5, kind)
        for name, kind in EMBEDDINGS.items()
    },
    "three maps": lambda: InverseLipschitzDecoder(2, 5, (6,), 0.5, intermediate_dims=(3,)),
    "ridges between constants": lambda: InverseLipschitzDecoder(
        2, 4, (6,), 0.5, lipschitz=2.0, potential=RidgeSum
    ),
}


@pytest.fixture(params=MAPS.values(), ids=MAPS.keys())
def decoder(request):
    torch.manual_seed(0)
    return request.param().double()


def test_maps_under_every_transform(decoder):
    z = torch.randn(4, decoder.latent_dim, dtype=torch.double)
    expected = decoder(z).detach()
    tangent = torch.randn_like(z)
    with torch.no_grad():
        assert torch.allclose(decoder(z), expected)
    with torch.inference_mode():
        assert torch.allclose(decoder(z), expected)
    assert torch.allclose(torch.vmap(decoder)(z), expected)
    by_rows = torch.autograd.functional.jacobian(decoder, z[0])
    for jacobian in (torch.func.jacrev(decoder)(z[0]), torch.func.jacfwd(decoder)(z[0])):
        assert torch.allclose(jacobian, by_rows, atol=1e-12)
    assert torch.allclose(torch.func.vmap(torch.func.jacrev(decoder))(z)[0], by_rows, atol=1e-12)
    assert torch.allclose(
        torch.func.jvp(decoder, (z,), (tangent,))[1][0], by_rows @ tangent[0], atol=1e-12
    )
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(z, tangent)
        moved = torch.autograd.forward_ad.unpack_dual(decoder(dual)).tangent
    assert torch.allclose(moved[0], by_rows @ tangent[0], atol=1e-12)
    hessian = torch.func.hessian(lambda z: decoder(z).sum())(z[0])
    assert torch.allclose(
        hessian, torch.autograd.functional.hessian(lambda z: decoder(z).sum(), z[0]), atol=1e-10
    )


def test_maps_export_with_any_batch(decoder):
    z = torch.randn(4, decoder.latent_dim, dtype=torch.double)
    exported = torch.export.export(
        decoder, (z,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
    )
    more = torch.randn(9, decoder.latent_dim, dtype=torch.double)
    assert torch.allclose(exported.module()(more), decoder(more))


@pytest.mark.slow
@pytest.mark.parametrize("name", MAPS)
def test_maps_compile_as_one_graph_and_train_alike(name):
    """Each as one graph; to machine code, which takes long, one of each kind of potential."""
    torch.manual_seed(0)
    decoder = MAPS[name]()
    z = torch.randn(40, decoder.latent_dim)
    torch._dynamo.reset()
    backend = "inductor" if name in ("one map", "ridges between constants") else "aot_eager"
    compiled = torch.compile(decoder, fullgraph=True, backend=backend)

    def gradients(module):
        return torch.autograd.grad(module(z).square().sum(), list(decoder.parameters()))

    assert torch.allclose(compiled(z), decoder(z), atol=1e-5)
    for one, other in zip(gradients(compiled), gradients(decoder), strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))


@pytest.mark.extra
@pytest.mark.parametrize("name", MAPS)
def test_maps_run_in_onnx(name, tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra: pip install 'uncollapse[onnx]'")
    onnxruntime = pytest.importorskip(
        "onnxruntime", reason="needs the extra: pip install 'uncollapse[onnx]'"
    )
    torch.manual_seed(0)
    decoder = MAPS[name]().eval()
    if isinstance(decoder.embedding, LearnedDirections):
        expected, decoder.embedding = (
            decoder(torch.ones(1, decoder.latent_dim)),
            decoder.embedding.fixed(),
        )
        assert torch.allclose(decoder(torch.ones(1, decoder.latent_dim)), expected, atol=1e-6)
    path = tmp_path / "decoder.onnx"
    z = torch.randn(4, decoder.latent_dim)
    torch.onnx.export(
        decoder,
        (z,),
        path,
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path)
    more = torch.randn(9, decoder.latent_dim)
    (found,) = session.run(None, {session.get_inputs()[0].name: more.numpy()})
    assert abs(found - decoder(more).detach().numpy()).max() < 1e-5


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_autocast_keeps_the_constant_exact(decoder, kind):
    """With all weights of the potentials at 0 what is left is the L term, which bfloat16 would
    round in the third digit."""
    decoder = copy.deepcopy(decoder).float()
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if "embedding" not in name:
                parameter.zero_()
    z = torch.randn(50, decoder.latent_dim).to(kind)  # an encoder under autocast gives bfloat16
    expected = decoder(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = decoder(z)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-7)
    assert torch.allclose(found.norm(dim=1), decoder.constant * z.float().norm(dim=1), rtol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(torch.vmap(decoder)(z), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("embedding", EMBEDDINGS.values())
def test_autocast_trains_alike(embedding):
    torch.manual_seed(0)
    decoder = InverseLipschitzDecoder(4, 16, (64, 32, 32), 0.5, embedding)
    z, target = torch.randn(200, 4), torch.randn(200, 16)

    def gradients(forward, backward):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=forward):
            loss = nn.functional.mse_loss(decoder(z), target)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=backward):
            return torch.autograd.grad(loss, list(decoder.parameters()))

    exact = gradients(False, False)
    for where in [(True, False), (True, True), (False, True)]:
        for low, high in zip(gradients(*where), exact, strict=True):
            assert low.dtype == torch.float32
            assert (low - high).norm() < 0.03 * high.norm()


def test_what_memory_held_before_does_not_reach_products_in_bfloat16(monkeypatch):
    """On processors with AMX, products of views read beyond their rows, and NaN times zero is NaN:
    every other training met one."""
    torch.manual_seed(0)
    decoder, z = InverseLipschitzDecoder(4, 16, (47, 35), 0.5), torch.randn(4096, 4)
    shape = (len(z), 47 + 35)
    held = torch.full((math.prod(shape),), float("nan"), dtype=torch.bfloat16)
    for name in ("deltas", "tangents"):
        monkeypatch.setattr(network._kept, name, held.clone(), raising=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = decoder(z)
    gradients = torch.autograd.grad(value.square().mean(), list(decoder.parameters()))
    assert all(found.isfinite().all() for found in (value, *gradients))
    network._kept.deltas.fill_(float("nan"))
    assert not network._scratch("deltas", held, shape).any()  # on whatever processor


def test_autocast_does_not_mind_operations_that_insist_on_float32(monkeypatch):
    """On a GPU softplus is one of them; here it is made one."""
    softplus = nn.functional.softplus

    def insisting(s, **options):
        return softplus(s.float() if torch.is_autocast_enabled("cpu") else s, **options)

    monkeypatch.setattr(nn.functional, "softplus", insisting)
    torch.manual_seed(0)
    f, u = BrenierMap(3, (8, 8, 8), 0.5), torch.randn(10, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = f(u)
    assert torch.allclose(value, f(u), atol=0.05)


def test_inputs_take_the_type_of_the_parameters():
    f = BrenierMap(3, (8, 8), 0.5)
    for kind in (torch.float64, torch.float32, torch.bfloat16):
        u = torch.randn(4, 3).to(kind)
        assert f(u).dtype == torch.vmap(f)(u).dtype == torch.float32


def test_reduced_precision_of_products_leaves_the_embedding_exact():
    torch.manual_seed(0)
    embedding = EMBEDDINGS["principal"](40, 60)
    embedding.initialize_from_data(torch.randn(300, 60).numpy())
    v = torch.randn(100, 40)
    exact = (v.double() @ embedding.basis.double().T).float()
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert torch.allclose(embedding(v), exact, rtol=1e-6, atol=1e-7)
        assert torch.allclose(embedding.project(embedding(v)), v, rtol=1e-5, atol=1e-6)
    finally:
        torch.set_float32_matmul_precision(before)
