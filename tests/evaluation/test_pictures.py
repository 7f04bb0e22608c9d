"""Pictures of probes on their way to `pictures.json` and back."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Probe, ProbedRun
from xalign_jax.recipe import as_json
from xalign_jax.records.files import read_pictures, read_results
from xalign_jax.records.pictures import Drawn, Histogram, Links, Points
from xalign_jax.runtime.logs import write_pictures
from xalign_jax.training import run_directory
from xalign_jax.training.probing import run_probes

POINTS = Points("map", "n = 2", np.array([0.5, np.nan]), np.float32([1, 2]), ["en", "hi"], np.array([0, 0]))
BARS = Histogram("cosines", "level 3", np.linspace(-1, 1, 3), {"translations": np.array([1, 4])})
WORDS = Links("words", "", ("eine", "Katze"), ("बिल्ली", "एक"), [(0, 1, 0.123456789)], [(1, 0, True), (0, 1, False)])


@dataclasses.dataclass(frozen=True)
class Drawing(Probe):
    """A probe that draws some pictures and measures nothing."""

    size: int = 1
    name = "drawing"
    title = "Drawing"
    pictures = (BARS,)

    def rows(self, run):
        for picture in self.pictures:
            run.show(picture)
        return []


def drawn(step: int, picture=BARS, **settings) -> Drawn:
    return Drawn("pretrain", step, "drawing", settings, picture)


def test_pictures_come_back_as_plain_values(tmp_path):
    write_pictures(tmp_path, [drawn(5, picture, files=("a", "b")) for picture in (POINTS, BARS, WORDS)])
    text = (tmp_path / "pictures.json").read_text()
    json.loads(text, parse_constant=lambda constant: pytest.fail(constant))
    points, bars, words = (one.picture for one in read_pictures(tmp_path))
    assert points == Points("map", "n = 2", [0.5, None], [1, 2], ["en", "hi"], [0, 0])
    assert bars == Histogram("cosines", "level 3", [-1, 0, 1], {"translations": [1, 4]})
    assert words == Links("words", "", ["eine", "Katze"], ["बिल्ली", "एक"], [[0, 1, 0.123457]], [[1, 0, 1], [0, 1, 0]])
    text = (tmp_path / "pictures.json").read_text()
    write_pictures(tmp_path, read_pictures(tmp_path))
    assert (tmp_path / "pictures.json").read_text() == text
    assert read_pictures(tmp_path)[0][:4] == ("pretrain", 5, "drawing", {"files": ["a", "b"]})


def test_newer_pictures_replace_those_of_equal_identity(tmp_path):
    run_directory.add_pictures(tmp_path, [drawn(5, files=("a",)), drawn(10, files=("a",))])
    newer = BARS._replace(series={"translations": [9, 9]})
    run_directory.add_pictures(tmp_path, [drawn(5, newer, files=("a",)), drawn(5, newer, files=("b",))])
    found = [(one.step, one.settings["files"], one.picture.series["translations"]) for one in read_pictures(tmp_path)]
    assert found == [(10, ["a"], [1, 4]), (5, ["a"], [9, 9]), (5, ["b"], [9, 9])]


def test_a_restart_drops_pictures_of_later_steps(tmp_path):
    run_directory.add_pictures(tmp_path, [drawn(5), drawn(10)])
    run_directory.drop_results_past(tmp_path, 5)
    assert [one.step for one in read_pictures(tmp_path)] == [5]


def test_a_probe_without_pictures_writes_no_file(tmp_path):
    run_directory.add_pictures(tmp_path, [])
    assert read_pictures(tmp_path) == read_results(tmp_path) == []
    assert not [*tmp_path.iterdir()]


def test_pictures_know_their_probe_and_step():
    run = ProbedRun(SimpleNamespace(), SimpleNamespace(), 0, "pretrain", 7)
    rows, found = run_probes([Drawing(size=3)], run)
    assert rows == []
    assert [one[:3] for one in found] == [("pretrain", 7, "drawing")]
    assert found[0].settings == as_json(Drawing(size=3))
    assert found[0].picture == BARS


WRONG = [
    (POINTS._replace(x=[0.0]), "its columns have 1 and 2 values"),
    (BARS._replace(edges=[0, 0, 1]), "its edges do not ascend"),
    (BARS._replace(series={"a": [1]}), "'a' has 1 counts for 2 bins"),
    (WORDS._replace(links=[(2, 0, 0.5)]), r"the link \(2, 0\) is not of 2 x 2 words"),
]


@pytest.mark.parametrize(("picture", "message"), WRONG)
def test_a_picture_that_contradicts_itself_is_refused(tmp_path, monkeypatch, picture, message):
    monkeypatch.setattr(Drawing, "pictures", (picture,))
    run = ProbedRun(SimpleNamespace(), SimpleNamespace())
    with pytest.raises(UserError, match=f"Drawing shows a picture '{picture.title}', but {message}"):
        run_probes([Drawing()], run)
    write_pictures(tmp_path, [drawn(1, picture)])
    with pytest.raises(UserError, match=rf"pictures\.json is not what a run wrote \(picture 1: {message}\); bring it"):
        read_pictures(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entry: entry.pop("step"), r"\(picture 1 has no 'step'\)"),
        (lambda entry: entry.update(kind="film"), r"\(picture 1 is of kind 'film'\)"),
        (lambda entry: entry["picture"].pop("title"), r"\(picture 1 has no 'title'\)"),
        (lambda entry: entry["picture"].update(z=1), r"\(picture 1 has an unknown 'z'\)"),
        (lambda entry: entry["picture"].update(edges="wide"), r"\(picture 1\.edges is 'wide'\)"),
        (lambda entry: entry.update(picture=[]), r"\(\[0\]\.picture is '\[\]'\)"),
    ],
)
def test_damage_gives_one_line(tmp_path, change, message):
    write_pictures(tmp_path, [drawn(1)])
    entries = json.loads((tmp_path / "pictures.json").read_text())
    change(entries[0])
    (tmp_path / "pictures.json").write_text(json.dumps(entries))
    with pytest.raises(UserError, match=message):
        read_pictures(tmp_path)
    (tmp_path / "pictures.json").write_text("[\n{")
    with pytest.raises(UserError, match=r"pictures\.json:2: not JSON"):
        read_pictures(tmp_path)
