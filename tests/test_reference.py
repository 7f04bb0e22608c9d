"""Published losses and extraction rules: every number and array of the reference directory, at its tolerances."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from reference_cases import compute

FOLDER = Path(__file__).parents[2] / "shared" / "reference"
GROUPS = "ABCEH"
EXPECTED = ("A_grad_q", "B_pi", "B_xi", "B_pi_unclamped", "B_xi_unclamped", "H_proc", "H_lstsq")
# (relative, absolute); what is not here is exact.
TOLERANCES = {
    "A.xlco_sum_tau.25": (1e-10, 0),
    "A_grad_q": (0, 1e-10),
    "B_pi": (0, 1e-10),
    "B_xi": (0, 1e-10),
    "B_pi_unclamped": (1e-9, 0),
    "B_xi_unclamped": (1e-9, 0),
    "B.pi_clamped_vs_unclamped_max_abs_diff": (0, 1e-8),
    "B.pointer_loss_sum": (1e-5, 0),
    "C.dap_m0_fwd": (0, 1e-10),
    "C.dap_m0_both": (0, 1e-10),
    "C.dap_m.3_code_fwd": (0, 1e-7),
    "C.dap_m.3_code_both": (0, 1e-7),
    "C.labse_margin_inside_scale20_m.3_sum_both": (0, 1e-10),
    "E.so": (0, 1e-6),
    "E.co": (0, 1e-6),
    "H_proc": (0, 1e-9),
    "H_lstsq": (0, 1e-9),
    "H.procrustes_resid": (0, 1e-9),
    "H.lstsq_resid": (0, 1e-9),
}


@pytest.fixture(scope="module")
def reference() -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """Arrays and expected values of all groups."""
    if not FOLDER.is_dir():
        pytest.skip(f"no reference numbers in {FOLDER.name}/ beside the repository")
    with np.load(FOLDER / "cases.npz") as arrays:
        return dict(arrays), json.loads((FOLDER / "cases.json").read_text())


@pytest.mark.parametrize("group", GROUPS)
def test_every_value_of_the_group(reference, group):
    arrays, values = reference
    inputs = {name: array for name, array in arrays.items() if name[0] == group and name not in EXPECTED}
    wanted = {key: value for key, value in values.items() if key[0] == group}
    wanted |= {name: arrays[name] for name in EXPECTED if name[0] == group}
    found = compute(group, inputs)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        if key.endswith("_pairs"):
            assert set(map(tuple, found[key])) == set(map(tuple, value)), key
            continue
        relative, absolute = TOLERANCES.get(key, (0, 0))
        np.testing.assert_allclose(found[key], value, rtol=relative, atol=absolute, err_msg=key)


def test_no_group_is_left_out(reference):
    arrays, values = reference
    assert {name[0] for name in [*arrays, *values]} == set(GROUPS)
