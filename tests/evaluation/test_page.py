"""`report.html`: it holds what the rows hold, stands alone, and shows hostile text as text."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_report import PROBES, write_run

from xalign_jax.errors import UserError
from xalign_jax.evaluation import parallel
from xalign_jax.evaluation.encode import row
from xalign_jax.evaluation.probes import ParallelText
from xalign_jax.interfaces import Column
from xalign_jax.records.pictures import Drawn, Histogram, Links, Points
from xalign_jax.reports.page.heat import scale_of, short
from xalign_jax.reports.page.page import write_page
from xalign_jax.reports.page.sheets import Place, sheets
from xalign_jax.reports.page.svg import limits, ticks
from xalign_jax.reports.tables import number
from xalign_jax.runtime.logs import write_pictures, write_results, write_shown

HOSTILE = '<script>alert("x")</script>'
VOID = {"meta", "br", "img", "input"}
SETTINGS = {"class": "Mexa", "pooling": "weighted", "sentences": 100, "files": [["en", "texts/en.txt"]]}


class Page(HTMLParser):
    """Tags, text and attributes of a page; fails where tags do not match."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.words.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.words)


def measured(metric: str, value, language=None, level=None, step: int = 10, probe: str = "mexa", **about) -> dict:
    one = row(probe, metric, 0.0, 100, language=language, level=level) | {"value": value, "settings": SETTINGS}
    return {"stage": "pretrain", "step": step, "seed": 0, **one, **about}


def directory(folder: Path, rows: list[dict], shown: dict | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    environment = {"recipe_name": "toy", "seed": 3, "vocabulary_fingerprint": "v1"}
    (folder / "environment.json").write_text(json.dumps(environment))
    write_results(folder, rows)
    if shown is not None:
        write_shown(folder, shown)
    return folder


def all_kinds() -> list[dict]:
    """Rows by level and language, pairs of all languages, values without levels, controls, steps, missing values."""
    rows = []
    for at, language in enumerate(("de", "fr", "hi")):
        for level in range(4):
            value = 0.111 + 0.2 * level + 0.013 * at
            ends = {"low": value - 0.0503, "high": value + 0.0507}
            rows.append(measured("mexa", value, f"en->{language}", level, **ends))
            rows.append(measured("mexa", value / 2, f"en->{language}", level, step=5))
            rows.append(measured("mexa", 0.021 + 0.001 * at, f"en->{language}", level, control="shuffled"))
    names = ("en", "de", "fr", "hi")
    for a, source in enumerate(names):
        for b, target in enumerate(names):
            if a != b:
                rows.append(measured("cka", (a - b) / 7, f"{source}->{target}", 2, probe="cka"))
    rows += [measured("bits", 1.234 + at, language, probe="lm") for at, language in enumerate(names)]
    rows += [measured("bits", 9.87, language, probe="lm", control="untrained") for language in names]
    rows.append(measured("accuracy", 0.4567, "hi", probe="knowledge", split="heldout"))
    rows.append(measured("chance", 0.25, probe="knowledge"))
    return rows


SHOWN = {
    "mexa": {
        "title": "MEXA",
        "meaning": "Share of sentences that find their translation.",
        "by_level": True,
        "columns": {"mexa": Column("MEXA", headline=True)._asdict()},
    },
    "lm": {"title": "Language model", "columns": {"bits": Column("bits/byte", True, best="lowest")._asdict()}},
}


def test_every_value_is_on_the_page(tmp_path):
    rows = all_kinds()
    page = Page(write_page(directory(tmp_path, rows, SHOWN)))
    for each in rows:
        assert number(each["value"]) in page.text, each
        if each.get("low"):
            assert f"{number(each['low'])} – {number(each['high'])}" in page.text
    for words in ("toy, seed 3", "Share of sentences that find", "n = 100", "pooling: weighted", "controls: shuffled"):
        assert words in page.text
    assert "95 %, bootstrap" in page.text and "no control" in page.text and "no interval was recorded" in page.text
    assert "source ↓ target →" in page.text and "Over training at level 3, the best" in page.text
    assert "chance: 0.250" in page.text


def test_the_page_stands_alone(tmp_path):
    write_pictures(directory(tmp_path, all_kinds(), SHOWN), pictures())
    page = Page(write_page(tmp_path))
    assert not {"link", "img", "iframe", "object", "embed", "base", "audio", "video"} & {*page.tags}
    assert not re.search(r"https?:|url\(|@import|src=", page.source)
    assert all(value.startswith("#") for _, name, value in page.attributes if name == "href")
    places = {value for _, name, value in page.attributes if name == "id"}
    assert {value[1:] for _, name, value in page.attributes if name == "href"} <= places


def pictures(word: str = "Katze", language: str = "hi") -> list[Drawn]:
    shown = [
        Points("Map", "n = 3, level 7", [0.0, 1.0, None], [2.0, 3.0, 1.0], ["en", language, "en"], [0, 0, 1]),
        Histogram("Cosines", "n = 5, level 7", [-1, 0, 1], {"translations": [1, 4], language: [0, 0]}),
        Links("Words", "level 7", ["eine", word], ["बिल्ली", "猫"], [(0, 1, 0.9)], [(0, 1, 1), (1, 0, 0)]),
    ]
    return [Drawn("pretrain", 10, "parallel_text", SETTINGS, one) for one in shown]


def test_pictures_are_drawn_from_their_newest_step(tmp_path):
    older = Drawn(
        "pretrain", 5, "parallel_text", SETTINGS, Histogram("Cosines", "level 1", [0, 1], {"old series": [7]})
    )
    write_pictures(directory(tmp_path, []), [*pictures(), older])
    page = Page(write_page(tmp_path))
    for words in ("Map", "Points without a finite place: 1.", "translations (5)", "बिल्ली", "猫", "n = 5, level 7"):
        assert words in page.text
    assert "old series" not in page.source
    assert {("td", "class", "sure"), ("td", "class", "possible"), ("td", "title", "eine – 猫, 0.9, sure")} <= {
        *page.attributes
    }


def test_hostile_text_is_text(tmp_path):
    rows = [measured("mexa", 0.5, language, level) for language in (HOSTILE, f"en->{HOSTILE}") for level in (0, 1)]
    rows += [measured(HOSTILE, 0.5, "en\u202ede", probe=HOSTILE, control=HOSTILE, stage=HOSTILE, split=HOSTILE)]
    rows += [measured("f1", None, "en", probe="other", reason=HOSTILE, settings=SETTINGS | {HOSTILE: HOSTILE})]
    shown = {"mexa": SHOWN["mexa"] | {"title": HOSTILE, "meaning": HOSTILE}}
    shown["mexa"]["columns"] = {"mexa": Column(HOSTILE, headline=True)._asdict()}
    write_pictures(directory(tmp_path, rows, shown), pictures(HOSTILE, HOSTILE))
    (tmp_path / "environment.json").write_text(json.dumps({"recipe_name": HOSTILE, "vocabulary_fingerprint": HOSTILE}))
    page = Page(write_page(tmp_path))
    assert page.tags.count("script") == 1 and "alert" not in page.source.split("<script>")[1].split("</script>")[0]
    assert html.escape(HOSTILE) in page.source and HOSTILE in page.text
    assert "\u202e" not in page.source and "\\u202e" in page.text


def test_missing_values_say_why(tmp_path):
    rows = [measured("mexa", 0.5, "en->de", level) for level in (0, 1)]
    rows.append(measured("mexa", None, "en->fr", 0, reason="needs 10 sentences, there are 3"))
    rows.append(measured("mexa", float("nan"), "en->fr", 1))
    page = Page(write_page(directory(tmp_path, rows)))
    assert "No value for 1 of the rows (en->fr, level 0): needs 10 sentences, there are 3" in page.text
    assert "no value: not finite: nan" in page.text and page.text.count("n/a") == 2
    # Older files may hold the constant itself.
    rows = json.loads((tmp_path / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps([each | {"value": float("nan")} for each in rows]))
    assert "no value: nan" in Page(write_page(tmp_path)).text


def test_older_directories_have_a_page(tmp_path):
    folder = write_run(tmp_path / "run", "prealign", 1)
    (folder / "probes.json").unlink()
    page = Page(write_page(folder))
    assert "settings were not recorded" in page.text and "Word retrieval" in page.text
    for each in json.loads((folder / "results.json").read_text()):
        assert number(each["value"]) in page.text
    assert "pretrain_lm" in page.text  # a curve of the loss
    for name in ("results.json", "metrics.jsonl", "config.gin", "environment.json"):
        (folder / name).unlink()
    assert "No probe has run yet" in Page(write_page(folder)).text


def test_damage_gives_one_line(tmp_path):
    folder = directory(tmp_path, all_kinds())
    (folder / "pictures.json").write_text('[{"kind": "film"}]')
    with pytest.raises(UserError, match=r"pictures\.json is not what a run wrote \(picture 1 has no 'stage'\)"):
        write_page(folder)


def test_the_best_level_follows_the_columns_direction():
    rows = [measured("bits", value, "en", level, probe="lm") for level, value in enumerate((3.0, 1.0, 1.0, 2.0))]
    for best, level in (("highest", 0), ("lowest", 1), ("", 0)):
        columns = {"bits": Column("bits", best=best)._asdict()}
        (sheet,) = sheets(rows, {"lm": {"title": "lm", "columns": columns}})
        assert sheet.best_level == level


def test_values_of_other_settings_and_other_texts_stand_apart():
    rows = [measured("mexa", 0.1, "en->de", 0, data="a"), measured("mexa", 0.2, "en->de", 0, data="b")]
    rows.append(measured("mexa", 0.3, "en->de", 0, settings=SETTINGS | {"sentences": 50}))
    rows.append(measured("mexa", 0.4, "en->fr", 0, settings=SETTINGS | {"files": [["en", "elsewhere/en.txt"]]}))
    first, second = sheets(rows, {})
    assert [first.named, second.named] == ["sentences = 100", "sentences = 50"]
    assert {place.language: found["value"] for place, found in first.newest.items()} == {
        "en->de (data a)": 0.1,
        "en->de (data b)": 0.2,
        "en->fr": 0.4,
    }
    assert second.newest[Place("en->de", 0, None)]["value"] == 0.3


def test_every_probe_and_measure_says_what_it_means():
    tables = [one for one in PROBES if hasattr(one, "rows")] + [getattr(parallel, name) for name in parallel.__all__]
    for table in tables:
        meaning = table.shown()["meaning"]
        # The measures of parallel text speak for the probe.
        assert table is ParallelText or re.fullmatch(r"[A-Z].{30,}\.", meaning), table
        assert all(column["best"] in ("highest", "lowest", "") for column in table.shown()["columns"].values())


def test_forty_four_languages_fit(tmp_path):
    names = [f"l{at:02}" for at in range(44)]
    rows = [measured("mexa", at / 50, f"en->{name}", level) for at, name in enumerate(names) for level in range(13)]
    page = Page(write_page(directory(tmp_path, rows)))
    table = page.source.split('<table class="cells">')[1].split("</table>")[0]
    found = re.findall(r"<th>(l\d\d)</th>", table)
    assert found == sorted(names, reverse=True)
    assert table.count("<td") == 13 * (44 + 1)
    assert "mean of 44" in page.text


@pytest.mark.parametrize(
    ("value", "text"), [(0.874, ".87"), (1.0, "1"), (0.0, ".00"), (-0.256, "-.26"), (3.14, "3.1"), (42.6, "43")]
)
def test_short_numbers(value, text):
    assert short(value) == text


def test_scales():
    assert scale_of([0.1, 0.9])[:2] == (0.0, 1.0)
    assert scale_of([0.91, 0.95])[:2] == (0.91, 0.95)
    assert scale_of([-0.5, 0.2])[:2] == (-0.5, 0.5)
    assert scale_of([0.5, 0.5]).colour(0.5) == scale_of([0.1, 0.9]).colour(0.5)
    assert limits([1.0, 2.0], [1000.0]) == limits([1.0, 2.0])
    assert limits([0.1, 0.7], [0.01]) == (0.0, 1.0)
    assert ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(0, 12, 8) == [0, 2, 4, 6, 8, 10, 12]
