"""No dependency's licence is unknown or binds users, and the document of licences tells of every exception."""

from __future__ import annotations

import re
from email.message import Message
from pathlib import Path

import licences
import pytest
import yaml

import xalign_jax

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "licences.md"


def _metadata(**fields):
    message = Message()
    for name, value in fields.items():
        message[name.replace("_", "-")] = value
    return message


def test_no_installed_dependency_binds_users():
    packages, _ = licences.required()
    names = {one.name for one in packages}
    assert {"jax", "numpy", "tensorflow", "seqio", "absl-py"} <= names  # direct and indirect ones
    assert [one for one in packages if licences.binds(one)] == []


@pytest.mark.parametrize(
    "fields, expected, allowed",
    [
        ({"License_Expression": "MIT OR GPL-3.0-only"}, "MIT OR GPL-3.0-only", True),
        ({"License_Expression": "MIT AND GPL-3.0-only"}, "MIT AND GPL-3.0-only", False),
        ({"License": "GPL-3.0"}, "GPL-3.0", False),
        ({"License": "Apache License  Version 2.0, January 2004 " + "x" * 99}, "Apache-2.0", True),
        ({"License": "x" * 99, "Classifier": "License :: OSI Approved :: MIT License"}, "MIT", True),
        ({"Classifier": "License :: OSI Approved :: GNU Affero"}, "GNU Affero", False),
        ({}, "", False),
    ],
)
def test_metadata_of_all_ages_is_read(fields, expected, allowed):
    found = licences.licence("one", _metadata(**fields))
    assert (found, licences.allowed(found)) == (expected, allowed)


def test_the_document_names_allowed_licences_and_exceptions():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert [
        name for name in (*licences.ALLOWED, *licences.EXCEPTIONS, "home-assistant-frontend") if name not in text
    ] == []


def test_the_citation_names_every_paper_whose_method_the_readme_lists():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (xalign_jax.__version__, "Apache-2.0")
    cited = {paper["url"]: paper["year"] for paper in citation["references"]}
    methods = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Methods")[2].partition("\n## ")[0]
    named = {url: int(year) for year, url in re.findall(r" (\d{4})\]\((https://aclanthology[^)]*)\)", methods)}
    assert len(named) == 3 and named.items() <= cited.items()
    for paper in citation["references"]:
        assert paper["url"] == f"https://aclanthology.org/{paper['doi'].partition('/v1/')[2]}/"
