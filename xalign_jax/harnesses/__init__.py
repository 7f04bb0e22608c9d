"""Our models as models of other evaluation harnesses, without an export: `lm_eval` and `mteb` (extra: eval)."""
