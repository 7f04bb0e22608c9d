"""The small encoder of `sentence_cases` and its parameters; tests of other models have fixtures of their own."""

from __future__ import annotations

import jax
import pytest
from sentence_cases import KEY, sentence_model


@pytest.fixture(scope="module")
def model():
    return sentence_model()


@pytest.fixture(scope="module")
def params(model):
    return {"model": jax.jit(model.init)(KEY), "heads": {}}
