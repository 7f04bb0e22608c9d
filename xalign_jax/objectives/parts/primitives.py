"""Pieces that objectives share: token cross-entropy and pooling. Sums, never means; float32; global over the mesh."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from xalign_jax.arrays import ROW_AXES, join_rows, split_rows
from xalign_jax.target import device_count, platform

WIDTH_AXIS, VOCABULARY_AXIS = "fsdp", "tensor"

# Logits held at once by default: per device, in elements.
CHUNK_ELEMENTS = {"cpu": 2**21}
CHUNK_ELEMENTS_ACCELERATOR = 2**26


def rows_on_mesh() -> tuple[jax.sharding.AbstractMesh, tuple[str, ...], int]:
    """The mesh in context, its axes over which rows are spread, and over how many devices they spread them."""
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
    """Sums over tokens, float32 scalars: weighted cross-entropy, and weights of the targets that no logit exceeds."""

    loss: jax.Array
    correct: jax.Array


def predict_tokens(
    h: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    targets: jax.Array,
    weights: jax.Array,
    chunk: int | None = None,
) -> Prediction:
    """Cross-entropy of the targets under softmax(h_i weight^T + bias), and how many are predicted; only the first has
    a gradient.

    Only (chunk, V) logits exist at a time, and the gradient is made beside them in the forward pass: three products,
    where recomputing logits in the backward pass takes four. Products take inputs of h's dtype and accumulate in
    float32; the softmax is float32. Right with the rows of `weight` sharded over devices.

    Args:
      h: (N,D) states. weight: (V,D) rows of the head. bias: (V,) or None.
      targets: (N,) int32. weights: (N,) float32, 0 = ignored.
      chunk: tokens at a time; None = a size that suits the backend.
    """
    if chunk is None:
        elements = CHUNK_ELEMENTS.get(platform(), CHUNK_ELEMENTS_ACCELERATOR)
        chunk = max(1, elements * device_count() // weight.shape[0])
    pieces = max(1, -(-h.shape[0] // chunk))
    return Prediction(*_cross_entropy(pieces, h, weight, bias, targets, weights.astype(_exact(h))))


def _exact(h: jax.Array) -> Any:
    """The dtype of sums: float32, of float64 states float64."""
    return jnp.promote_types(h.dtype, jnp.float32)


def matmul(a: jax.Array, b: jax.Array, precision: Any = None) -> jax.Array:
    """a @ b accumulated and returned in float32, of float64 arrays in float64."""
    return jnp.matmul(a, b, preferred_element_type=jnp.promote_types(a.dtype, jnp.float32), precision=precision)


def _logits(h: jax.Array, weight: jax.Array, bias: jax.Array | None) -> jax.Array:
    logits = matmul(h, weight.T)
    return logits if bias is None else logits + bias


def _target_logit(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(n,) logits at the targets and the one-hot (n,V) bool; by comparison, which sharded vocabularies allow."""
    hit = jnp.arange(logits.shape[1], dtype=targets.dtype) == targets[:, None]
    return jnp.sum(jnp.where(hit, logits, 0.0), axis=1), hit


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cross_entropy(pieces: int, h: Any, weight: Any, bias: Any, targets: Any, weights: Any) -> Any:
    weight = weight.astype(h.dtype)

    def piece(totals: Any, rows: tuple[jax.Array, ...]) -> tuple[Any, None]:
        x, target, w = rows
        logits = _logits(x, weight, bias)
        at_target = _target_logit(logits, target)[0]
        loss = jax.nn.logsumexp(logits, axis=1) - at_target
        hits = at_target >= jnp.max(logits, axis=1)
        return (totals[0] + jnp.sum(w * loss), totals[1] + jnp.sum(w * hits)), None

    rows = tuple(split_rows(a, pieces) for a in (h, targets, weights))
    return jax.lax.scan(piece, (jnp.zeros((), _exact(h)),) * 2, rows)[0]


def _cross_entropy_forward(pieces: int, h: Any, weight: Any, bias: Any, targets: Any, weights: Any) -> Any:
    """On a mesh each device sums over its own rows and adds up what all found once, whatever the pieces."""
    mesh, axes, ways_of_rows = rows_on_mesh()
    own = _Axes(
        rows=axes,
        width=WIDTH_AXIS if mesh.shape.get(WIDTH_AXIS, 1) > 1 else None,
        vocabulary=VOCABULARY_AXIS if mesh.shape.get(VOCABULARY_AXIS, 1) > 1 else None,
    )
    ways = [ways_of_rows]
    ways += [mesh.shape.get(axis, 1) if axis else 1 for axis in (own.vocabulary, own.width)]
    if math.prod(ways) == 1 or any(n % way for n, way in zip((h.shape[0], *weight.shape), ways, strict=True)):
        return _local_cross_entropy(pieces, _Axes(), h, weight, bias, targets, weights)
    rows, table, column = PartitionSpec(axes), PartitionSpec(own.vocabulary, own.width), PartitionSpec(own.vocabulary)
    return jax.shard_map(
        functools.partial(_local_cross_entropy, pieces, own),
        in_specs=(rows, table, column, rows, rows),
        out_specs=((PartitionSpec(), PartitionSpec()), (rows, table, column, rows)),
        check_vma=False,  # sums are equal on all devices by psum
    )(h, weight, bias, targets, weights)


class _Axes(NamedTuple):
    """Mesh axes over which rows, the width and the vocabulary of a head are spread."""

    rows: tuple[str, ...] = ()
    width: str | None = None
    vocabulary: str | None = None


def _local_cross_entropy(
    pieces: int, axes: _Axes, h: jax.Array, weight: jax.Array, bias: Any, targets: jax.Array, weights: jax.Array
) -> Any:
    """Sums of all devices; of this device's rows and part of the head the gradients, and each row's loss."""
    cast = weight.astype(h.dtype)
    if axes.width:
        cast = jax.lax.all_gather(cast, axes.width, axis=1, tiled=True)
    if axes.vocabulary:
        targets = targets - jax.lax.axis_index(axes.vocabulary).astype(targets.dtype) * weight.shape[0]
    add, most = (functools.partial(all_of, axis_name=axes.vocabulary) if axes.vocabulary else _same
                 for all_of in (jax.lax.psum, jax.lax.pmax))  # fmt: skip

    def piece(carry: Any, rows: tuple[jax.Array, ...]) -> Any:
        total, correct, d_weight, d_bias = carry
        x, target, w = rows
        logits = _logits(x, cast, bias)
        high = most(jnp.max(logits, axis=1, keepdims=True))
        unnormalised = jnp.exp(logits - high)
        normaliser = add(jnp.sum(unnormalised, axis=1, keepdims=True))
        at_target, hit = _target_logit(logits, target)
        at_target = add(at_target)
        loss = (jnp.log(normaliser) + high)[:, 0] - at_target
        d_logits = unnormalised * (w[:, None] / normaliser) - jnp.where(hit, w[:, None], 0.0)
        if d_bias is not None:
            d_bias = d_bias + jnp.sum(d_logits, axis=0)
        d_logits = d_logits.astype(x.dtype)
        d_weight = d_weight + matmul(d_logits.T, x)
        carry = (total + jnp.sum(w * loss), correct + jnp.sum(w * (at_target >= high[:, 0])), d_weight, d_bias)
        return carry, (add(matmul(d_logits, cast)).astype(x.dtype), loss)

    rows = tuple(split_rows(a, pieces) for a in (h, targets, weights))
    empty_bias = None if bias is None else jnp.zeros(bias.shape, _exact(h))
    zero = jnp.zeros((), _exact(h))
    start = (zero, zero, jnp.zeros(cast.shape, _exact(h)), empty_bias)
    (total, correct, d_weight, d_bias), (d_h, losses) = jax.lax.scan(piece, start, rows)
    others = axes.rows
    if axes.width:
        # By a leading axis of their own: a sum scattered along its columns XLA for TPU may make whole on every chip.
        columns = d_weight.reshape(d_weight.shape[0], jax.lax.axis_size(axes.width), -1)
        d_weight = jax.lax.psum_scatter(columns.swapaxes(0, 1), axes.width)
        others = tuple(axis for axis in axes.rows if axis != axes.width)
    d_weight = jax.lax.psum(d_weight, others)
    total, correct, d_bias = jax.lax.psum((total, correct, d_bias), axes.rows)
    gradients = (join_rows(d_h, h.shape[0]), d_weight.astype(weight.dtype), d_bias, join_rows(losses, h.shape[0]))
    return (total, correct), gradients


def _same(x: jax.Array) -> jax.Array:
    return x


def _cross_entropy_backward(pieces: int, gradients: Any, g: tuple[jax.Array, jax.Array]) -> Any:
    d_h, d_weight, d_bias, losses = jax.tree.map(lambda a: (a * g[0]).astype(a.dtype), gradients)
    return d_h, d_weight, d_bias, None, losses


_cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def l2_normalize(x: jax.Array) -> jax.Array:
    """x / |x| along the last axis, at least float32; zero vectors stay 0."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))
