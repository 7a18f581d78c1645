r"""Evaluation of the Brenier map of an input convex network, near the cost of its products.

With the skip weights of all layers stacked into one matrix A, and A B its restriction to the p
coordinates that v has,

    s       = A B v + b                                  all layers at once
    s_l    += W_l z_l,            z_{l+1} = h_l(s_l)      l = 1 ... k-1
    d_l     = h_l'(s_l) c_l,      c_{l-1} = W_l' d_l      down from c_{k-1} = w
    f(B v)  = A' d + a + L B v

Two evaluators compute it. `closed_form` consists of differentiable operations, for transforms,
compilers and exporters. A `torch.autograd.Function` serves ordinary training; its backward pass is
a tangent pass and a reverse pass written out, in place where possible.

Non-negative weights are squares of parameters called roots, times min(1, 256 / width). With plain
squares, a step of Adam would change the weights of a layer of thousands by a multiple of their
size.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from itertools import compress
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from uncollapse._utils.autocast import without_autocast
from uncollapse.maps.embedding import add_embedded, embed, first, last, project, restrict

LEAK = 0.2  # W21's alpha
FREE_WIDTH = 256  # up to this width weights are plain squares
# Squares below this count as 0 in products. Training lets useless roots fall for ever, and
# products with a few percent of subnormal numbers take five times as long on Intel's processors.
NEGLIGIBLE = 1e-30
# Sizes of the two buffers that a thread keeps. Allocators keep smaller ones themselves, and larger
# ones would be too much to hold.
SCRATCH = range(2**18, 2**22)


def squared_leaky(s: Tensor) -> Tensor:
    """Return max(alpha s, s)^2, the activation of layer 0.

    It is convex but not monotone, hence valid only on an affine function.
    """
    return s * F.leaky_relu(s, LEAK**2)


def squared_leaky_derivative(s: Tensor) -> Tensor:
    """Return the slope of `squared_leaky`."""
    return 2 * F.leaky_relu(s, LEAK**2)


def smooth_leaky(s: Tensor) -> Tensor:
    """Return alpha s + (1 - alpha) log(1 + exp(s)), the activation above layer 0.

    It is convex and increasing, with a continuous slope.
    """
    return LEAK * s + (1 - LEAK) * F.softplus(s, threshold=50)


def smooth_leaky_derivative(s: Tensor) -> Tensor:
    """Return the slope of `smooth_leaky`."""
    return LEAK + (1 - LEAK) * torch.sigmoid(s)


class Weights(NamedTuple):
    """The parameters of an input convex network of k layers.

    Attributes:
        skip: A, shape (sum of widths, t).
        bias: b, shape (sum of widths,).
        linear: a, shape (t,).
        root_output: square root of w, shape (last width,).
        roots: square roots of W_1 ... W_{k-1}, each of shape (width above, width below).
    """

    skip: Tensor
    bias: Tensor
    linear: Tensor
    root_output: Tensor
    roots: tuple[Tensor, ...]

    @property
    def widths(self) -> list[int]:
        """Widths of the layers, from the first."""
        above = [root.shape[0] for root in self.roots]
        return [self.skip.shape[0] - sum(above), *above]


def squared(root: Tensor) -> Tensor:
    """Return the non-negative weights of a root, whose last dimension is the width below.

    Negligible squares count as 0 in value but not in derivatives.
    """
    squares = root.square()
    squares = squares - squares.detach() + F.threshold(squares.detach(), NEGLIGIBLE, 0.0)
    return squares if root.shape[-1] <= FREE_WIDTH else squares * share(root)


def share(root: Tensor) -> float:
    """Return the factor of the squares of a root."""
    return min(1.0, FREE_WIDTH / root.shape[-1])


def brenier_map(v: Tensor, basis: Tensor | None, strength: float, weights: Weights) -> Tensor:
    """Return grad G(B v) + L B v, shape (*batch, t), for v of shape (*batch, p).

    Under autocast, matrix products have its type except those of the L term, and the sum has the
    type of the weights.

    Args:
        v: input coordinates, of the weights' type.
        basis: `matrix` of an `Embedding` B; None pads v with zeros.
        strength: L.
        weights: parameters of G.
    """
    if v.is_meta or _is_transformed():
        return closed_form(v, basis, strength, weights)
    if v.ndim != 2:
        value = brenier_map(v.reshape(-1, v.shape[-1]), basis, strength, weights)
        return value.view(*v.shape[:-1], weights.skip.shape[1])
    *single, roots = weights
    kind, device = v.dtype, v.device.type
    if kind == torch.float32 and torch.is_autocast_enabled(device):
        kind = torch.get_autocast_dtype(device)
    with without_autocast(v):  # operations in place would not follow autocast; `kind` does
        if not torch.is_grad_enabled():
            return _evaluate(v, basis, strength, weights, kind, keep=False)[0]
        result: Tensor = _BrenierMap.apply(v, basis, strength, kind, *single, *roots)
        return result


def closed_form(v: Tensor, basis: Tensor | None, strength: float, weights: Weights) -> Tensor:
    """Compute `brenier_map` by differentiable operations alone."""
    lowest, *above = preactivations(v, basis, weights)
    cotangent = squared(weights.root_output)
    deltas = []
    for s, root in zip(reversed(above), reversed(weights.roots), strict=True):
        deltas.append(smooth_leaky_derivative(s) * cotangent)
        cotangent = deltas[-1] @ squared(root)
    deltas.append(squared_leaky_derivative(lowest) * cotangent)
    gradient = F.linear(torch.cat(deltas[::-1], -1), weights.skip.T) + weights.linear
    return gradient + strength * embed(v, basis, weights.skip.shape[1])


def preactivations(v: Tensor, basis: Tensor | None, weights: Weights) -> list[Tensor]:
    """Return s_0 ... s_{k-1} at B v."""
    lowest, *above = torch.split(
        F.linear(v, restrict(weights.skip, basis, v.shape[-1]), weights.bias), weights.widths, -1
    )
    layers, activation = [lowest], squared_leaky
    for root, s in zip(weights.roots, above, strict=True):
        layers.append(s + F.linear(activation(layers[-1]), squared(root)))
        activation = smooth_leaky
    return layers


def _is_transformed() -> bool:
    """Return whether a compiler, an exporter, a transform or forward-mode autodiff is at work."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


def _evaluate(
    v: Tensor,
    basis: Tensor | None,
    strength: float,
    weights: Weights,
    kind: torch.dtype,
    keep: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the value, and the tensors that the backward pass needs.

    Factors go into the matrix products: `squares` are W_l without their share, `half_slope` is
    h_0' / 2, and `c[0]` holds 2 c_0. s_l is overwritten by z_1 in layer 0, and above by its
    sigmoid, from which h_l' and h_l'' follow.
    """
    widths, n, shares = weights.widths, len(weights.roots), [share(root) for root in weights.roots]
    squares = _significant_squares(weights.roots, kind)
    c = [squared(weights.root_output).to(kind)]
    a = weights.skip.to(kind)
    buffer = F.linear(v.to(kind), restrict(a, basis, v.shape[1]), weights.bias.to(kind))
    s = buffer.split_with_sizes(widths, 1)
    half_slope = F.leaky_relu(s[0], LEAK**2)
    z = [s[0].mul_(half_slope)]
    for layer in range(1, n + 1):
        s[layer].addmm_(z[-1], squares[layer - 1].T, alpha=shares[layer - 1])
        if layer < n:
            z.append(smooth_leaky(s[layer]))
        s[layer].sigmoid_()
    deltas = _scratch("deltas", buffer) if keep else buffer
    d = deltas.split_with_sizes(widths, 1)
    for layer in range(n, 0, -1):
        _slope(s[layer], out=d[layer]).mul_(c[0])
        factor = shares[layer - 1] * (2 if layer == 1 else 1)
        # With beta = 0 the first argument only gives the shape.
        below = torch.addmm(s[layer - 1], d[layer], squares[layer - 1], beta=0, alpha=factor)
        c.insert(0, below)
    if not n:
        c[0].mul_(2)
    torch.mul(half_slope, c[0], out=d[0])
    value = torch.mm(deltas, a).to(v.dtype).add_(weights.linear)
    add_embedded(value, v, basis, strength)
    return value, (half_slope, *z, *s[1:], *c)


class _BrenierMap(torch.autograd.Function):
    """`brenier_map` of rows with a backward pass by hand; names are those of `_evaluate`."""

    @staticmethod
    def forward(
        ctx: Any,
        v: Tensor,
        basis: Tensor | None,
        strength: float,
        kind: torch.dtype,
        *parameters: Tensor,
    ) -> Tensor:
        skip, bias, linear, root_output, *roots = parameters
        weights = Weights(skip, bias, linear, root_output, tuple(roots))
        value, state = _evaluate(v, basis, strength, weights, kind, keep=True)
        ctx.strength, ctx.kind, ctx.widths = strength, kind, weights.widths
        ctx.save_for_backward(v, basis, *parameters, *state)
        return value

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        with without_autocast(g):
            # Grad mode is on for second derivatives, and cotangents are batched under
            # `is_grads_batched`.
            is_batched = torch._C._dispatch_keys(g).has("Batched")
            # The inputs that are tensors are all but the strength and the type.
            n_tensors = len(ctx.needs_input_grad) - 2
            inputs, state = ctx.saved_tensors[:n_tensors], ctx.saved_tensors[n_tensors:]
            if torch.is_grad_enabled() or _is_transformed() or is_batched:
                return _differentiate(ctx, inputs, g)
            return _backward(ctx, inputs, state, g)


def _backward(ctx: Any, inputs: Any, state: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    kind, n, needed = ctx.kind, len(ctx.widths) - 1, ctx.needs_input_grad
    half_slope, *state = state
    v, basis, skip, _, _, root_output, *roots = inputs
    z, c = state[: max(n, 1)], state[-n - 1 :]
    sigma = state[len(z) - 1 :]  # indexed from 1, as layer 0 has no sigmoid
    squares, shares = _significant_squares(roots, kind), [share(root) for root in roots]
    a, low_g, wants_weights = skip.to(kind), g.to(kind), any(needed[4:])

    # The tangent pass in the direction g: t_l is the change of s_l, and e_l that of z_{l+1}, halved
    # in layer 0. Temporaries use the memory of d, because fresh memory costs more than arithmetic.
    buffer = torch.mm(low_g, a.T, out=_scratch("tangents", low_g, (len(g), len(a))))
    deltas = _scratch("deltas", buffer)
    t, d = buffer.split_with_sizes(ctx.widths, 1), deltas.split_with_sizes(ctx.widths, 1)
    e = torch.mul(half_slope, t[0], out=d[0])
    for layer in range(1, n + 1):
        t[layer].addmm_(e, squares[layer - 1].T, alpha=shares[layer - 1] * (2 if layer == 1 else 1))
        e = _slope(sigma[layer], out=d[layer]).mul_(t[layer])
    output_bar = e.sum(0).mul_(root_output).mul_((2 if n else 4) * share(root_output))

    # The reverse pass: r_l overwrites t_l, and q_l is W_{l+1}' r_{l+1} without the share of W.
    q: Tensor | None = None
    roots_bar: list[Tensor | None] = [None] * n
    for layer in range(n, 0, -1):
        r = t[layer].mul_(c[layer] * (1 - LEAK))
        _sigmoid_backward(r, sigma[layer], grad_input=r)
        if q is not None:
            r.addcmul_(_slope(sigma[layer]), q, value=shares[layer])
        _slope(sigma[layer], out=d[layer]).mul_(c[layer])
        if wants_weights:
            factor = 2 * shares[layer - 1]
            root_bar = torch.addmm(squares[layer - 1], r.T, z[layer - 1], beta=0, alpha=factor)
            root_bar.addmm_(d[layer].T, d[layer - 1], alpha=factor * (2 if layer == 1 else 1))
            roots_bar[layer - 1] = root_bar.mul_(roots[layer - 1])
        q = torch.mm(r, squares[layer - 1], out=d[layer - 1])
    _leaky_backward(t[0].mul_(c[0]), half_slope, LEAK**2, False, grad_input=t[0])
    if q is not None:
        t[0].addcmul_(half_slope, q, value=2 * shares[0])

    v_bar = basis_bar = None
    if needed[0]:
        v_bar = (buffer @ restrict(a, basis, v.shape[1])).to(g.dtype)
        v_bar.add_(project(g, basis, v.shape[1]), alpha=ctx.strength)
    if not (wants_weights or needed[1]):
        return v_bar, *[None] * (len(needed) - 1)
    torch.mul(half_slope, c[0], out=d[0])
    skip_bar = deltas.T @ low_g
    if basis is None:
        first(skip_bar, v.shape[1]).addmm_(buffer.T, v.to(kind))
    else:
        (n_rows, n_directions), reached = basis.shape, buffer.T @ v.to(kind)  # the cotangent of A B
        along = first(reached, n_directions)
        first(skip_bar, n_rows).addmm_(along, basis.T.to(kind))
        n_rest = v.shape[1] - n_directions
        last(skip_bar, n_rest).add_(last(reached, n_rest))
        if needed[1]:
            basis_bar = (first(a, n_rows).T @ along).to(g.dtype)
            basis_bar.add_(first(g, n_rows).T @ first(v, n_directions), alpha=ctx.strength)
    return v_bar, basis_bar, None, None, skip_bar, buffer.sum(0), g.sum(0), output_bar, *roots_bar


_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_leaky_backward = torch.ops.aten.leaky_relu_backward.grad_input


_kept = threading.local()


def _scratch(name: str, like: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    """Return memory that the next call with this name on this thread reuses.

    Memory new to a process costs more, page by page, than the arithmetic on it; on GPUs the
    allocator keeps it. The memory is uninitialized, but 0 in half precision: products of oneDNN in
    AMX read past the rows of a view, and garbage that is not finite, times 0, gives NaN
    (https://github.com/uxlfoundation/oneDNN/issues/5717).
    """
    shape = tuple(like.shape) if shape is None else shape
    size = math.prod(shape)
    if type(like) is not Tensor or like.device.type != "cpu" or size not in SCRATCH:
        found = like.new_empty(shape)
    else:
        flat: Tensor | None = getattr(_kept, name, None)
        if flat is None or flat.dtype != like.dtype or len(flat) < size:
            with torch.inference_mode(False):  # else it could not be written to outside
                flat = torch.empty(size, dtype=like.dtype)
            setattr(_kept, name, flat)
        found = flat[:size].view(shape)
    return found.zero_() if like.dtype.itemsize < 4 else found


def _significant_squares(roots: Iterable[Tensor], kind: torch.dtype) -> list[Tensor]:
    """Return W_l without their share, in the type of the products; negligible entries are 0."""
    return [torch.threshold_(root.square(), NEGLIGIBLE, 0.0).to(kind) for root in roots]


def _slope(sigma: Tensor, out: Tensor | None = None) -> Tensor:
    """Return h_l' above layer 0."""
    return torch.add(sigma.new_full((), LEAK), sigma, alpha=1 - LEAK, out=out)


def _differentiate(ctx: Any, inputs: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    """Compute the backward pass of `closed_form` by differentiable operations."""
    v, basis, *parameters = inputs
    with torch.enable_grad():
        # Without aliases, the dependence of one input on another would be counted twice: here and
        # by the caller.
        v, basis = v.view_as(v), basis if basis is None else basis.view_as(basis)
        skip, bias, linear, root_output, *roots = parameters = [
            tensor.view_as(tensor) for tensor in parameters
        ]
        weights = Weights(skip, bias, linear, root_output, tuple(roots))
        value = closed_form(v, basis, ctx.strength, weights)
        tensors: list[Any] = [v, basis, None, None, *parameters]
        wanted = list(compress(tensors, ctx.needs_input_grad))
        found = iter(torch.autograd.grad(value, wanted, g, create_graph=True))
    return tuple(next(found) if is_needed else None for is_needed in ctx.needs_input_grad)
