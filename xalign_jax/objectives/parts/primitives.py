"""Pieces that objectives share: token cross-entropy, most probable tokens and unit vectors.

Losses are sums, never means, over the whole batch on all devices. They are float32, or float64 where the states are.

Shapes: N tokens in the global batch, of width D, and V rows of the head. Inside a loop, n are the tokens of a chunk.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from xalign_jax.arrays import ROW_AXES, join_rows, split_rows
from xalign_jax.matrix_product import product
from xalign_jax.target import device_count, platform

WIDTH_AXIS, VOCABULARY_AXIS = "fsdp", "tensor"

# How many logits a device holds at once by default.
CHUNK_ELEMENTS = {"cpu": 2**21}
CHUNK_ELEMENTS_ACCELERATOR = 2**26
FORWARD = 1 / 3  # of FLOPs: a pass without gradient takes 2 of the 6 for each weight and token
# A CPU's products of fewer tokens are slow, and each chunk rewrites the gradient of the whole head. So a CPU takes this
# many tokens together although their logits are more, up to a bound (benchmarks/decoder.py, masked_lm.py).
TOKENS_CPU, MOST_ELEMENTS_CPU = 256, 2**25


def rows_on_mesh() -> tuple[jax.sharding.AbstractMesh, tuple[str, ...], int]:
    """(the mesh in context, its axes along which rows lie, the number of devices along these axes)."""
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(axis for axis in ROW_AXES if axis in mesh.axis_names)
    return mesh, axes, math.prod(mesh.shape[axis] for axis in axes)


def token_cross_entropy(
    h: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    targets: jax.Array,
    weights: jax.Array,
    chunk: int | None = None,
) -> jax.Array:
    """sum_i weights_i * -log softmax(h_i weight^T + bias)[targets_i], float32 scalar: the loss of `predict_tokens`."""
    return predict_tokens(h, weight, bias, targets, weights, chunk).loss


class Prediction(NamedTuple):
    """Sums over tokens, float32 scalars.

    Attributes:
      loss: weighted cross-entropy.
      correct: sum of the weights of those tokens whose target has the largest logit.
    """

    loss: jax.Array
    correct: jax.Array


@jax.named_scope("cross_entropy")
def predict_tokens(
    h: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    targets: jax.Array,
    weights: jax.Array,
    chunk: int | None = None,
) -> Prediction:
    """Cross-entropy of the targets under softmax(h_i weight^T + bias), and how many targets are predicted.

    Only (chunk, V) logits exist at a time. The gradient is computed beside them in the forward pass. This takes three
    matrix products; a backward pass that recomputes the logits would take four. The inputs of the products have h's
    dtype; sums and the softmax are float32. `weight` may be sharded along both axes. Only `loss` has a gradient.

    Args:
      h: (N,D) states, float32, bfloat16 or float64.
      weight: (V,D) float32 rows of the head.
      bias: (V,) float32; None = no bias.
      targets: (N,) int32, from 0 to V - 1.
      weights: (N,) float32 or bool; a token of weight 0 is ignored.
      chunk: tokens at a time; None = a size that suits the backend.
    """
    if chunk is None:
        chunk = _chunk(weight.shape[0])
    pieces = max(1, -(-h.shape[0] // chunk))
    return Prediction(*_cross_entropy(pieces, h, weight, bias, targets, weights.astype(_exact(h))))


def best_tokens(h: jax.Array, weight: jax.Array, bias: jax.Array | None, excluded: jax.Array) -> jax.Array:
    """The token with the largest logit for each state: (N,) int32, without a gradient. Few logits exist at a time.

    Args:
      h, weight, bias: as in `predict_tokens`.
      excluded: (V,) bool, tokens that are never chosen.
    """
    weight = weight.astype(h.dtype)

    def piece(x: jax.Array) -> jax.Array:
        logits = _logits(x, weight, bias)
        return jnp.argmax(jnp.where(excluded, jnp.finfo(logits.dtype).min, logits), axis=1).astype(jnp.int32)

    pieces = max(1, -(-h.shape[0] // _chunk(weight.shape[0])))
    return join_rows(jax.lax.map(piece, split_rows(h, pieces)), h.shape[0])


def _chunk(vocabulary: int) -> int:
    """Tokens at a time, on all devices together."""
    elements = CHUNK_ELEMENTS.get(platform(), CHUNK_ELEMENTS_ACCELERATOR)
    chunk = max(1, elements * device_count() // vocabulary)
    if platform() != "cpu":
        return chunk
    return max(chunk, device_count() * min(TOKENS_CPU, MOST_ELEMENTS_CPU // vocabulary))


def _exact(h: jax.Array) -> np.dtype:
    """The dtype of sums: float32, or float64 for float64 states."""
    return jnp.promote_types(h.dtype, jnp.float32)


def _logits(h: jax.Array, weight: jax.Array, bias: jax.Array | None) -> jax.Array:
    """(n,D) x (D,V) -> (n,V) float32."""
    logits = product(h, weight, "nt")
    return logits if bias is None else logits + bias


def _target_logit(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """The logits (n,) at the targets; 0 for a target that is none of the columns, which another device has."""
    if _indexed():
        return jnp.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
    return jnp.sum(jnp.where(_hit(logits, targets), logits, 0.0), axis=1)


def _less_at_target(d_logits: jax.Array, targets: jax.Array, w: jax.Array) -> jax.Array:
    """d_logits (n,V) less the weights w (n,) at the targets."""
    if _indexed():
        return d_logits.at[jnp.arange(len(targets)), targets].add(-w)
    return d_logits - jnp.where(_hit(d_logits, targets), w[:, None], 0.0)


def _hit(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """The targets as one-hot rows (n,V) bool. A device that has a part of the vocabulary finds all False in the others."""
    return jnp.arange(logits.shape[1], dtype=targets.dtype) == targets[:, None]


def _indexed() -> bool:
    """Whether targets are indices: one CPU. Accelerators compare, which they do beside the other work on the logits."""
    return platform() == "cpu" and device_count() == 1


_Sums = tuple[jax.Array, jax.Array]  # loss, correct
_Gradients = tuple[jax.Array, jax.Array, jax.Array | None, jax.Array]  # of h, weight, bias and weights
_Carry = tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]  # loss, correct, gradients of weight and bias


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cross_entropy(
    pieces: int,
    h: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    targets: jax.Array,
    weights: jax.Array,
) -> _Sums:
    """(loss, correct) without a gradient. Where one is wanted, JAX calls `_cross_entropy_forward` instead."""
    weight = weight.astype(h.dtype)

    def piece(totals: _Sums, rows: tuple[jax.Array, ...]) -> tuple[_Sums, None]:
        # A chunk: states x (n,D), targets (n,), weights (n,).
        x, target, w = rows
        logits = _logits(x, weight, bias)
        at_target = _target_logit(logits, target)
        loss = jax.nn.logsumexp(logits, axis=1) - at_target
        # Equal where the target has the largest logit. A tie counts as predicted.
        hits = at_target >= jnp.max(logits, axis=1)
        return (totals[0] + jnp.sum(w * loss), totals[1] + jnp.sum(w * hits)), None

    # (N,..) -> (pieces,n,..). Rows that fill the last chunk have weight 0.
    rows = tuple(split_rows(a, pieces) for a in (h, targets, weights))
    return jax.lax.scan(piece, (jnp.zeros((), _exact(h)),) * 2, rows)[0]


def _cross_entropy_forward(
    pieces: int,
    h: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    targets: jax.Array,
    weights: jax.Array,
) -> tuple[_Sums, _Gradients]:
    """(loss, correct), and the gradients of the loss, which JAX keeps for `_cross_entropy_backward`.

    On a mesh, each device sums over its own rows. The devices add up their sums once, after the last piece.
    """
    mesh, axes, ways_of_rows = rows_on_mesh()
    own = _Axes(
        rows=axes,
        width=WIDTH_AXIS if mesh.shape.get(WIDTH_AXIS, 1) > 1 else None,
        vocabulary=VOCABULARY_AXIS if mesh.shape.get(VOCABULARY_AXIS, 1) > 1 else None,
    )
    # If a size does not divide by its devices, XLA places the computation.
    ways = [ways_of_rows]
    ways += [mesh.shape.get(axis, 1) if axis else 1 for axis in (own.vocabulary, own.width)]
    if math.prod(ways) == 1 or any(n % way for n, way in zip((h.shape[0], *weight.shape), ways, strict=True)):
        return _local_cross_entropy(pieces, _Axes(), h, weight, bias, targets, weights)
    # Places of (N,..) rows, of the head (V,D) and of its bias (V,).
    rows, table, column = PartitionSpec(axes), PartitionSpec(own.vocabulary, own.width), PartitionSpec(own.vocabulary)
    return jax.shard_map(
        functools.partial(_local_cross_entropy, pieces, own),
        in_specs=(rows, table, column, rows, rows),
        out_specs=((PartitionSpec(), PartitionSpec()), (rows, table, column, rows)),
        check_vma=False,  # sums are equal on all devices by psum
    )(h, weight, bias, targets, weights)


class _Axes(NamedTuple):
    """Mesh axes along which rows, the head's width and the head's vocabulary lie; none = one device has all."""

    rows: tuple[str, ...] = ()
    width: str | None = None
    vocabulary: str | None = None


def _local_cross_entropy(
    pieces: int,
    axes: _Axes,
    h: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    targets: jax.Array,
    weights: jax.Array,
) -> tuple[_Sums, _Gradients]:
    """The cross-entropy of this device's rows (N,D), with its part (V,D) of the head. N, V and D are a device's here.

    Returns:
      (loss, correct) over all devices, and the gradients of this device's states, head, bias and weights. The gradient
      of a token's weight is the token's loss.
    """
    cast = weight.astype(h.dtype)
    if axes.width:
        # The head is sharded along both axes. Bring its width together: every product below needs whole rows.
        cast = jax.lax.all_gather(cast, axes.width, axis=1, tiled=True)
    if axes.vocabulary:
        # Targets as row numbers of this device's part. A number outside of the part matches none of its rows.
        targets = targets - jax.lax.axis_index(axes.vocabulary).astype(targets.dtype) * weight.shape[0]
    # Sums and maxima over the parts of the vocabulary.
    add, most = (functools.partial(all_of, axis_name=axes.vocabulary) if axes.vocabulary else _same
                 for all_of in (jax.lax.psum, jax.lax.pmax))  # fmt: skip

    def piece(carry: _Carry, rows: tuple[jax.Array, ...]) -> tuple[_Carry, tuple[jax.Array, jax.Array]]:
        total, correct, d_weight, d_bias = carry
        x, target, w = rows
        # (n,D) x (D,V) -> (n,V) logits of this device's part of the vocabulary. The softmax is over all parts: their
        # common maximum (n,1) comes first, so that their sums of exp add up.
        logits = _logits(x, cast, bias)
        high = most(jnp.max(logits, axis=1, keepdims=True))
        unnormalised = jnp.exp(logits - high)
        normaliser = add(jnp.sum(unnormalised, axis=1, keepdims=True))
        # Exactly one part of the vocabulary has the target; the others add 0.
        at_target = add(_target_logit(logits, target))
        loss = (jnp.log(normaliser) + high)[:, 0] - at_target
        # d loss / d logits = w (softmax - one-hot), (n,V) float32.
        d_logits = _less_at_target(unnormalised * (w[:, None] / normaliser), target, w)
        if d_bias is not None:
            d_bias = d_bias + jnp.sum(d_logits, axis=0)
        # In the dtype of the states, as an ordinary backward pass has it; the products accumulate in float32.
        d_logits = d_logits.astype(x.dtype)
        d_weight = d_weight + product(d_logits, x, "tn")
        carry = (total + jnp.sum(w * loss), correct + jnp.sum(w * (at_target >= high[:, 0])), d_weight, d_bias)
        # d loss / d states (n,D): the sum of what each part of the vocabulary contributes.
        return carry, (add(product(d_logits, cast)).astype(x.dtype), loss)

    rows = tuple(split_rows(a, pieces) for a in (h, targets, weights))
    empty_bias = None if bias is None else jnp.zeros(bias.shape, _exact(h))
    zero = jnp.zeros((), _exact(h))
    start = (zero, zero, jnp.zeros(cast.shape, _exact(h)), empty_bias)
    (total, correct, d_weight, d_bias), (d_h, losses) = jax.lax.scan(piece, start, rows)
    others = axes.rows
    if axes.width:
        # (V,D) -> (width,V,D/width): each device sums and keeps its own columns. They get a leading axis, because XLA
        # for TPU may turn a sum scattered along columns into a full sum on every chip.
        columns = d_weight.reshape(d_weight.shape[0], jax.lax.axis_size(axes.width), -1)
        d_weight = jax.lax.psum_scatter(columns.swapaxes(0, 1), axes.width)
        others = tuple(axis for axis in axes.rows if axis != axes.width)
    # The axis "fsdp" holds both rows and the width, and its sum has been taken.
    d_weight = jax.lax.psum(d_weight, others)
    total, correct, d_bias = jax.lax.psum((total, correct, d_bias), axes.rows)
    gradients = (join_rows(d_h, h.shape[0]), d_weight.astype(weight.dtype), d_bias, join_rows(losses, h.shape[0]))
    return (total, correct), gradients


def _same(x: jax.Array) -> jax.Array:
    return x


def _cross_entropy_backward(
    pieces: int, gradients: _Gradients, g: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array | None, None, jax.Array]:
    # g[0] is d objective / d loss; the second output carries no gradient. Targets are integers and have none.
    d_h, d_weight, d_bias, losses = jax.tree.map(lambda a: (a * g[0]).astype(a.dtype), gradients)
    return d_h, d_weight, d_bias, None, losses


_cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def l2_normalize(x: jax.Array) -> jax.Array:
    """x / |x| along the last axis: (..., D) -> (..., D), at least float32. Zero vectors stay 0."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    # The floor stands inside the root, so that the gradient at 0 is finite.
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))


def cosines(a: jax.Array, b: jax.Array) -> jax.Array:
    """The cosine of each vector of `a` with that of `b`: (..., D) twice -> (...). Zero vectors have the cosine 0."""
    return jnp.sum(l2_normalize(a) * l2_normalize(b), axis=-1)


def distances(a: jax.Array, b: jax.Array, squared: float, cosine: float) -> jax.Array:
    """squared mean_j (a_j - b_j)^2 + cosine (1 - cos(a, b)) of two arrays (..., D), which are float32: -> (...)."""
    return squared * jnp.mean(jnp.square(a - b), axis=-1) + cosine * (1 - cosines(a, b))
