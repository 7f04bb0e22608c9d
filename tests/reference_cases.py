"""Every numeric reference case through the library's public functions: `compute` (README of the reference directory).

Nothing is written down twice: the formulas are the library's, this file names, pairs and subtracts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xalign_jax.alignment.extraction import above, alignment_probabilities, itermax, mutual_argmax, normalise
from xalign_jax.alignment.linear_maps import least_squares, procrustes, residual
from xalign_jax.alignment.losses import consistency_loss, pointer_loss, project, self_training_loss
from xalign_jax.objectives.parts.candidates import Ids
from xalign_jax.objectives.parts.contrast import infonce
from xalign_jax.objectives.parts.primitives import l2_normalize

Arrays = Mapping[str, np.ndarray]
ABSENT = 1_000_000
SPECIALS = (0, 101, 102)


def compute(case: str, arrays: Arrays) -> dict[str, Any]:
    """Every key and expected array of a group ("A", "B", "C", "E", "H") from its input arrays.

    float64 arrays are computed in float64, whatever the caller has set.
    """
    with jax.enable_x64(True):
        return _GROUPS[case](arrays)


def _own(rows: int) -> Ids:
    """Row i and row i are a pair; nothing is known of groups and texts."""
    return Ids(jnp.arange(rows), jnp.zeros((rows, 0), jnp.int32), jnp.zeros((rows, 0), jnp.int32))


def _xlco(arrays: Arrays) -> dict[str, Any]:
    queue = jnp.asarray(arrays["A_queue"])
    key, pairs = jnp.asarray(arrays["A_k"]), _own(len(arrays["A_q"]))
    queue_ids = _own(len(queue))._replace(own=jnp.full(len(queue), -2))

    def loss(query: jax.Array) -> jax.Array:
        return infonce(query, key, pairs, pairs, 0.25, in_batch=False, queue=queue, queue_ids=queue_ids).loss

    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(arrays["A_q"]))
    return {"A.xlco_sum_tau.25": float(value), "A_grad_q": np.asarray(gradient)}


def _word_alignment(arrays: Arrays) -> dict[str, Any]:
    similarity = jnp.asarray(arrays["B_S"])
    masks = [jnp.ones(size, bool) for size in similarity.shape]
    clamped, released = normalise(similarity, *masks), normalise(similarity, *masks, floor=None)
    window = _window(arrays["B_from"], arrays["B_to"], arrays["B_feat"].shape[1])
    masked, partner = arrays["B_mpos"], arrays["B_pos"]
    valid = (masked != ABSENT) & (partner != ABSENT)
    states = jnp.asarray(arrays["B_feat"])
    at = jnp.take_along_axis(states, jnp.where(valid, masked, 0)[..., None], axis=1)
    query = project(at, arrays["B_Wq"], arrays["B_bq"])
    pointer = pointer_loss(query, project(states, arrays["B_Wk"], arrays["B_bk"]), partner, window, valid)
    return {
        "B_pi": np.asarray(clamped.rows),
        "B_xi": np.asarray(clamped.columns),
        "B_pi_unclamped": np.asarray(released.rows),
        "B_xi_unclamped": np.asarray(released.columns),
        "B.n_nonpositive_entries": int(clamped.raised),
        "B.pi_clamped_vs_unclamped_max_abs_diff": float(jnp.max(jnp.abs(clamped.rows - released.rows))),
        "B.itermax_pairs": _pairs(itermax(clamped.rows, *masks)),
        "B.mutual_argmax_pairs": _pairs(mutual_argmax(clamped.rows, clamped.columns, *masks)),
        "B.pointer_loss_sum": float(pointer.loss),
        "B.pointer_count": int(pointer.terms),
        "B.pointer_n_correct": int(pointer.correct),
    }


def _window(start: np.ndarray, end: np.ndarray, length: int) -> jax.Array:
    positions = jnp.arange(length)
    return (positions >= start[:, None]) & (positions < end[:, None])


def _pairs(links: jax.Array) -> list[list[int]]:
    return np.argwhere(links).tolist()


def _translation_ranking(arrays: Arrays) -> dict[str, Any]:
    source, target = (l2_normalize(jnp.asarray(arrays[name])) for name in ("C_z1", "C_z2"))
    pairs = _own(len(source))

    def both_ways(temperature: float, **margin: Any) -> list[float]:
        contrast = jax.jit(lambda query, key: infonce(query, key, pairs, pairs, temperature, **margin))
        directions = ((source, target), (target, source))
        return [float(found.loss / found.positives) for found in (contrast(*vectors) for vectors in directions)]

    plain, dap = both_ways(0.05), both_ways(0.05, margin=0.3, margin_after_temperature=True)
    return {
        "C.dap_m0_fwd": plain[0],
        "C.dap_m0_both": sum(plain) / 2,
        "C.dap_m.3_code_fwd": dap[0],
        "C.dap_m.3_code_both": sum(dap) / 2,
        "C.labse_margin_inside_scale20_m.3_sum_both": sum(both_ways(1 / 20, margin=0.3)),
    }


def _awesome_align(arrays: Arrays) -> dict[str, Any]:
    masks = [jnp.asarray(~np.isin(arrays[name], SPECIALS)) for name in ("E_is", "E_it")]
    states = [jnp.asarray(arrays[name]) for name in ("E_hs", "E_ht")]
    by_source, by_target = alignment_probabilities(*states, *masks)
    so = self_training_loss(by_source, by_target, jnp.asarray(arrays["E_guide"])[:, 0], *masks)
    co = consistency_loss(by_source, by_target, *masks)
    return {
        "E.so": float(so / len(masks[0])),
        "E.co": float(co / len(masks[0])),
        "E.n_align_pairs_thr.001": int(above(by_source, by_target).sum()),
    }


def _linear_maps(arrays: Arrays) -> dict[str, Any]:
    source, target = arrays["H_X"], arrays["H_Y"]
    orthogonal, best = procrustes(source, target), least_squares(source, target)
    return {
        "H_proc": orthogonal,
        "H_lstsq": best,
        "H.procrustes_resid": residual(source, target, orthogonal),
        "H.lstsq_resid": residual(source, target, best),
    }


_GROUPS: dict[str, Callable[[Arrays], dict[str, Any]]] = {
    "A": _xlco,
    "B": _word_alignment,
    "C": _translation_ranking,
    "E": _awesome_align,
    "H": _linear_maps,
}
