"""lm-evaluation-harness gives a model directory the scores that it gives the exported model under transformers."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import xalign_jax as xa
from xalign_jax.errors import UserError

lm_eval = pytest.importorskip("lm_eval", reason="extra eval")
pytest.importorskip("accelerate", reason="the harness's own class for transformers needs it: pip install 'lm-eval[hf]'")
pytest.importorskip("transformers")

from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from xalign_jax.harnesses.lm_eval import XalignLM  # noqa: E402

TASKS = Path(__file__).parent / "lm_eval_tasks"
NAMES = ["local_choice", "local_text", "local_continue"]


@pytest.fixture(scope="module")
def models(decoder):
    """(ours, the harness's for transformers), made once."""
    run, exported = decoder
    return XalignLM(str(run)), HFLM(pretrained=str(exported), device="cpu", dtype="float32", batch_size=3)


def asked(*args):
    """Requests as the harness makes them."""
    return [SimpleNamespace(args=one) for one in args]


def test_the_scores_of_three_kinds_of_tasks_are_equal(models):
    manager = TaskManager(include_path=str(TASKS), include_defaults=False)
    ours, theirs = (lm_eval.simple_evaluate(m, tasks=NAMES, task_manager=manager, bootstrap_iters=0) for m in models)
    for name in NAMES:
        metrics = {key: value for key, value in theirs["results"][name].items() if isinstance(value, float)}
        assert metrics
        for metric, value in metrics.items():
            assert ours["results"][name][metric] == pytest.approx(value, rel=1e-4, abs=1e-4), (name, metric)
        answers = [[sample["resps"] for sample in found["samples"][name]] for found in (ours, theirs)]
        for mine, other in zip(*answers, strict=True):
            assert str(mine) == str(other) or np.allclose(np.array(mine, float), np.array(other, float), atol=1e-3)
    assert ours["config"]["model_step"] == 0 and ours["config"]["model_num_parameters"] > 10_000


@pytest.mark.parametrize(
    "settings", [{}, {"add_bos_token": False}, {"prefix_token_id": 7}, {"max_length": 20}], ids=str
)
def test_log_probabilities_and_windows_are_those_of_the_harness(decoder, settings):
    """Contexts with spaces at the end, none at all, and too long ones."""
    run, exported = decoder
    theirs = HFLM(pretrained=str(exported), device="cpu", dtype="float32", batch_size=2, **settings)
    ours = XalignLM(run, **settings)
    pairs = [("The cat", " sleeps"), ("The cat  ", "sleeps"), ("", "alone"), ("ab " * 60, "c")]
    found, expected = ours.loglikelihood(asked(*pairs)), theirs.loglikelihood(asked(*pairs), disable_tqdm=True)
    np.testing.assert_allclose([one[0] for one in found], [one[0] for one in expected], atol=1e-4)
    assert [one[1] for one in found] == [one[1] for one in expected]
    # Not the same words again and again: where windows of one text are equal, the harness mixes up its cached logits.
    texts = asked(("short",), (" ".join(map(str, range(70))),), ("猫が好き",))
    expected = theirs.loglikelihood_rolling(texts, disable_tqdm=True)
    np.testing.assert_allclose(ours.loglikelihood_rolling(texts), expected, rtol=1e-5)
    assert [type(one) for one in expected] == [float] * 3 and ours.loglikelihood([]) == []


def test_continuations_end_at_stop_texts_and_too_long_contexts_lose_their_beginning(models):
    ours, theirs = models
    free = {"until": [], "max_gen_toks": 20}
    contexts = ["The cat", "a", "x y " * 40]
    whole = ours.generate_until(asked(*((text, free) for text in contexts)))
    # A stop text that occurs in one of the continuations, and not at its beginning.
    stop = next(part for text in whole for part in re.findall(r"(?<=.)[!-~]", text, re.DOTALL) if text[0] != part)
    for until in ([], [stop], stop):
        requests = asked(*((text, {"until": until, "max_gen_toks": 20}) for text in contexts))
        found = ours.generate_until(requests)
        assert found == theirs.generate_until(requests, disable_tqdm=True)
        assert all(stop not in text for text in found) or not until
    # Settings may differ from request to request.
    mixed = asked(("a", {"max_gen_toks": 3}), ("a", free), ("a", {"max_gen_toks": 3, "temperature": 0.0}))
    short, long, same = ours.generate_until(mixed)
    assert short == same and long.startswith(short) and len(short) < len(long)


def test_whatever_the_harness_cannot_use_is_one_line(decoder, encoder, tmp_path, models):
    for arguments, said in (
        ({"pretrained": str(encoder[0])}, r"run: a bidirectional model gives no probability .* needs a causal model"),
        ({"pretrained": str(tmp_path)}, "neither a model directory .* nor a Hugging Face folder"),
        ({"pretrained": ""}, "model_args: no model; write pretrained=DIR"),
        ({"pretrained": "gone"}, "gone: no such folder"),
        ({"peft": "x"}, "model_args peft=x: no such argument"),
        ({"max_length": 4000}, "model_args max_length=4000: 1 to 96"),
        ({"prefix_token_id": 5000}, r"prefix_token_id=5000: 0 to \d+"),
        ({"step": 3}, "step"),
        ({"dtype": "int8"}, "dtype = 'int8'"),
    ):
        with pytest.raises(UserError, match=said) as raised:
            XalignLM(**{"pretrained": str(decoder[0])} | arguments)
        assert "\n" not in str(raised.value)
    ours = models[0]
    for requests, said in (
        (
            asked(("a", {"max_gen_toks": 96})),
            "max_gen_toks=96: leaves no room for a context; the model reads 96 tokens",
        ),
        (asked(("a", {"num_beams": 4})), "generation_kwargs num_beams: not supported"),
    ):
        with pytest.raises(UserError, match=said):
            ours.generate_until(requests)
    with pytest.raises(UserError, match=r"request 0 \(counted from 0\): its continuation has no token"):
        ours.loglikelihood(asked(("a", "")))
    with pytest.raises(UserError, match="chat templates are not read"):
        ours.apply_chat_template([])


def test_a_loaded_model_and_the_name_of_the_model_work_too(decoder, models):
    class_of_name = lm_eval.api.registry.get_model("xalign")
    by_name = class_of_name.create_from_arg_string(
        f"pretrained={decoder[0]},max_length=50", {"batch_size": 1, "device": "cuda:0"}
    )
    given = XalignLM(xa.load(decoder[1]))
    # An imported vocabulary reads the name of bos as bos, which then stands there once.
    ids = given.tok_encode("x")
    assert given.tok_encode("<bos>x") == ids and ids[0] == given.prefix_token_id
    assert given.tok_encode("x", add_special_tokens=False) == ids[1:]
    request = asked(("The cat", " sleeps"))
    for model in (by_name, given):
        assert model.loglikelihood(request)[0][0] == pytest.approx(models[0].loglikelihood(request)[0][0], abs=1e-5)
