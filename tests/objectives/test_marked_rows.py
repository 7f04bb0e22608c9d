"""Both objectives on marked rows: gradients are equal however rows are spread, and the level is checked."""

from __future__ import annotations

import pytest
from marked_cases import marked_batch, with_head
from objective_cases import assert_same_on_eight_devices
from sentence_cases import KEY, assert_same_in_parts

from xalign_jax.errors import UserError
from xalign_jax.objectives.marked_spans import MarkedSpans
from xalign_jax.objectives.marked_words import MarkedWords

both = pytest.mark.parametrize("kind", [MarkedWords, MarkedSpans])


@both
@pytest.mark.slow
def test_gradients_are_equal_on_eight_devices(model, params, kind):
    objective = kind(2)
    assert_same_on_eight_devices(objective, model, with_head(objective, model, params), marked_batch())


@both
@pytest.mark.slow
def test_gradients_are_equal_when_rows_go_in_parts(model, params, kind):
    objective = kind(2)
    assert_same_in_parts(objective, model, with_head(objective, model, params), marked_batch())


@both
def test_a_level_that_the_model_lacks_is_refused(model, kind):
    with pytest.raises(UserError, match=rf"{kind.__name__}.level = 3: the model has levels 0 to 2"):
        kind(3).init(KEY, model)
