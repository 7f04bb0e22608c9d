"""Measures of cross-lingual alignment: pure functions of numpy arrays, for any model and without one.

Rows pair by position: row i of `source` translates row i of `target`. The caller encodes, pools and chooses a level.
Input for which a measure has no figure raises UserError with one line. Formulas stand in the docstrings.

| Measure | Function | Range, and which end is better |
| --- | --- | --- |
| Retrieval: cosine, margins, CSLS; xsim | `retrieval.retrieval`, `retrieval.xsim` | share, higher; percent wrong, lower |
| MEXA, NeuronXA | `mexa.mexa`, `mexa.neuronxa` | share, higher; compare equal n only |
| Mixed-language pools (LAReQA) | `pools.pool_retrieval` | mAP, higher; bias near `expected_bias` |
| Alignment, uniformity | `geometry.alignment`, `geometry.uniformity` | [0, 4] and [-8, 0], lower |
| Cosine gap, d', AUC | `geometry.gap` | higher; AUC .5 is chance |
| CKA, unbiased or biased, minibatches | `similarity.cka`, `similarity.minibatch_cka` | about [0, 1], higher |
| SVCCA | `similarity.svcca` | [0, 1], higher |
| Isomorphism | `isomorphism.relational_similarity`, `isomorphism.eigenvector_similarity` | [-1, 1], higher; 0 and up, lower |
| Language identifiability | `languages.identifiability` | share; near `chance` is neutral |
| Drift between checkpoints | `drift.drift` | four views, see `drift.Drift` |
| Concept clusters: CALIGN, COLAP | `clusters.calign`, `clusters.colap` | share, higher |
| Answer consistency, RankC | `consistency.answer_consistency` | share, higher |
| Bits per byte, information parity | `likelihood.bits_per_byte`, `likelihood.information_parity` | lower; 1 is parity |
| Lexicon induction, P@k | `lexicon_induction.lexicon_induction` | share, higher |
| Intervals; correlation with outside scores | `statistics.bootstrap_ratio`, `statistics.correlation` | with low and high end |

Controls belong beside every figure: untrained weights, level 0, and pairs moved by one row. Maps between spaces, and
centring as their baseline, are in `xalign_jax.alignment.maps`.
"""
