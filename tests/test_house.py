"""The house rules: who may import whom, sizes of files and functions, what a wheel contains, every recipe parses."""

from __future__ import annotations

import sys
from pathlib import Path

import imports
import prose
import pytest
from house import FILE_LINES, FOLDERS, FUNCTION_LINES, ROOT, sources

from xalign_jax import cli, config
from xalign_jax.recipe import Recipe

GIN_FILES = sorted((ROOT / "gin").rglob("*.gin"))
# Some recipes leave text to the user.
PAIR = [
    'TEXT = "lines:en=en.txt,de=de.txt"',
    'LANGUAGES = ("en", "de")',
    'RATES = {"en": 0.88, "de": 0.10, "facts": 0.02}',
    'DICTIONARY = ("en-de.tsv",)',
]
TEXTS = ['TASKS = ("tsv:en=en.tsv,de=de.tsv",)', 'VOCABULARY = "xlmr/"']
SHAPE = [f"Llama.{name} = 8" for name in ("layers", "width", "heads", "kv_heads", "mlp_width", "head_dim")]
NO_FACTS = [*PAIR, 'RATES = {"en": 0.9, "de": 0.1}']
FROM_USERS = {f"prealign_{size}": PAIR for size in ("pair_tiny", "plus_pair_tiny")}
FROM_USERS |= {f"prealign_{size}": NO_FACTS for size in ("150m", "400m", "1_3b")}
FROM_USERS |= {"joint_pair_tiny": PAIR, "held_pair_tiny": PAIR, "infoxlm_base": TEXTS, "infoxlm_large": TEXTS}
DECODER = ["Recipe.model = @Llama()", "Recipe.vocabulary = @Vocabulary()", *SHAPE, TEXTS[0]]
FROM_USERS |= dict.fromkeys(("continue_lora", "afp", "cross_lingual_mapping"), DECODER)
MIDDLE = [*DECODER, "LEVEL = 4"]
FROM_USERS |= dict.fromkeys(("mid_align", "mid_align_turns"), MIDDLE)
ENCODER = ["Recipe.model = @XLMRoberta()", "Recipe.vocabulary = @Vocabulary()", TEXTS[0]]
ENCODER += [f"XLMRoberta.{name} = 8" for name in ("layers", "width", "heads", "mlp_width")]
FROM_USERS |= dict.fromkeys(("camlm", "btmlm", "transport", "infoxlm_encoder"), ENCODER)
FROM_USERS |= {"towards_static": [*ENCODER, 'VECTORS = {"en": "en.vec", "de": "de.vec"}']}
BERT = [f"Bert.{name} = 8" for name in ("layers", "width", "heads", "mlp_width", "max_length", "types")]
ON_PAIRS = ["Recipe.model = @Bert()", "Recipe.vocabulary = @Vocabulary()", *BERT, 'PAIRS = ("pairs:en=a.en,de=a.de",)']
FROM_USERS |= dict.fromkeys(("align_bitext", "align_words", "light_aligner", "xlm_align"), ON_PAIRS)
GOLD = ['SOURCE = "a.en"', 'TARGET = "a.de"', 'GOLD = "a.gold"']
MARKED = [*ON_PAIRS[:-1], *GOLD]
FROM_USERS |= dict.fromkeys(("marked_words", "marked_spans"), MARKED)
FROM_USERS |= {"linear_words": [*ON_PAIRS, 'PAIR = ("en", "de")']}
IMPORTED = [*DECODER[:-1], 'PAIRS = ("tsv:en=en.tsv,de=de.tsv",)']
ON_IMPORTED = ("new_language", "new_language_tokens", "short_texts", "msimcse_pairs", "dap", "prompted_pairs")
FROM_USERS |= {name: IMPORTED for name in ON_IMPORTED}
RECIPES = sorted((ROOT / "gin" / "recipes").glob("*.gin"))

# Third-party package -> the only rooms or files that may import it.
PREPARATION = "xalign_jax/preparing.py"  # runs in a process of its own
PREPARING = {"tasks", PREPARATION}
ONLY_IN = {
    "tensorflow": PREPARING,
    "tensorflow_datasets": PREPARING,
    "tensorflow_text": PREPARING,
    "seqio": PREPARING,
    "clu": PREPARING,
    "torch": {"interop"},
    "transformers": {"interop"},
    "sentence_transformers": {"interop"},
    "flax": {"models"},
    "lm_eval": {"harnesses"},
    "mteb": {"harnesses"},
}


IMPORTS = imports.read(ROOT)


def _other(found: list[imports.Import]) -> list[imports.Import]:
    """Imports that run: those for annotations do not."""
    return [one for one in found if not one.types]


def test_rooms_import_only_what_lies_below_them():
    ordered = imports.allowed("cli") | {"cli"}
    unknown = {one.room for one in IMPORTS} - ordered
    assert not unknown, f"no rule says what these may import: {sorted(unknown)}"
    wrong = _other(imports.not_drawn(IMPORTS))
    assert not wrong, "\n".join(map(str, wrong))


def test_neither_rooms_nor_modules_import_each_other_in_a_circle():
    for circles in (imports.room_circles, imports.module_circles):
        for members, between in circles(_other(IMPORTS)):
            raise AssertionError("\n  ".join([" <-> ".join(members), *map(str, between)]))


def test_circles_and_arrows_are_found_wherever_the_import_stands(tmp_path: Path):
    """A small checkout with a circle through a function and an annotation, and an arrow that climbs."""
    files = {
        "xalign_jax/__init__.py": "",
        "xalign_jax/cli.py": "from xalign_jax.training import train",
        "xalign_jax/training/__init__.py": "",
        "xalign_jax/training/train.py": "from . import step\nfrom xalign_jax.models.model import Model",
        "xalign_jax/training/step.py": "def f():\n    from .train import run",
        "xalign_jax/models/__init__.py": "",
        "xalign_jax/models/model.py": "if TYPE_CHECKING:\n    import xalign_jax.training.step",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = imports.read(tmp_path)
    upward = [str(one) for one in imports.not_drawn(found) if imports.is_upward(one)]
    assert upward == ["xalign_jax/models/model.py:2 imports xalign_jax.training.step (for annotations)"]
    ((rooms, _),) = imports.room_circles(found)
    ((modules, between),) = imports.module_circles(found)
    assert rooms == ["models", "training"] and len(between) == 4
    assert modules == [f"xalign_jax.{name}" for name in ("models.model", "training.step", "training.train")]
    assert imports.layers({"a": ["b", "c"], "b": ["c"], "c": ["b"]}) == [["a"], ["b", "c"]]


def test_sentences_are_counted_in_text_and_in_code(tmp_path: Path):
    """Neither tables, code, headings nor addresses are sentences."""
    long = " ".join(["word"] * 31)
    (tmp_path / "a.md").write_text(
        f"# {long}\n\n| {long} |\n|---|\n\nShort. `{long}` too.\nOf rows\nnone.\n\n- {long}\n\n```\n{long}\n```\n"
    )
    found = prose.sentences(tmp_path / "a.md")
    assert [(one.line, one.words) for one in found] == [(6, 1), (6, 2), (7, 3), (10, 31)]
    assert [one.line for one in found if one.begins_with_of] == [7]
    (tmp_path / "a.py").write_text(
        f'"""{long}\n\nArgs:\n  a: one.\n  b: two\n    more.\n\n    code\n"""\n# a\n# b\nx = 1  # c\n'
    )
    assert [(one.line, one.words) for one in prose.sentences(tmp_path / "a.py")] == [
        *((1, 31), (3, 1), (4, 2), (5, 3)),
        *((10, 2), (12, 1)),
    ]


def test_heavy_packages_are_imported_only_where_they_belong():
    wrong = []
    for found in (one for one in IMPORTS if not one.types):
        allowed = ONLY_IN.get(found.module.split(".")[0])
        if allowed is not None and not {found.room, found.path} & allowed:
            wrong.append(str(found))
        if found.path == PREPARATION and allowed is not None and not found.lazy:
            wrong.append(f"{found} outside a function")
        if found.module.split(".")[0] == "tasks":
            wrong.append(f"{found}: tasks are imported as xalign_jax.tasks only")
    assert not wrong, "\n".join(wrong)


def test_the_command_line_imports_nothing_heavy_before_it_is_needed():
    light = {*sys.stdlib_module_names}
    for found in IMPORTS:
        if found.room in ("cli", "api") and not found.kind:
            own = found.module in ("xalign_jax.errors", "xalign_jax.api") or found.module.startswith("xalign_jax.cli")
            assert own or found.module.split(".")[0] in light, found


def test_files_and_functions_stay_short():
    """Explanations cost nothing: neither comments nor docstrings count."""
    long = []
    for source in sources(ROOT, *FOLDERS):
        long += [f"{source.place}: {len(source.code)} lines of code"] if len(source.code) > FILE_LINES else []
        long += [str(function) for function in source.functions() if function.lines > FUNCTION_LINES]
    assert not long, "\n".join(sorted(long))


def test_gin_holds_no_python():
    assert not list((ROOT / "gin").rglob("*.py"))


def test_no_recipe_repeats_anothers_lines():
    """A line that two recipes need stands in a file of `gin/parts/`, which both include."""
    places: dict[str, list[str]] = {}
    for path in [*RECIPES, *sorted((ROOT / "gin" / "parts").glob("*.gin"))]:
        for line in {*path.read_text(encoding="utf-8").split("\n")}:
            if line[:1].isalpha() and not line.startswith("include "):
                places.setdefault(line.partition("  #")[0], []).append(path.stem)
    repeated = [f"{line} ({', '.join(files)})" for line, files in places.items() if len(files) > 1]
    assert not repeated, "\n".join(repeated)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_say_the_command_what_it_costs_and_what_to_expect(path: Path):
    header = path.read_text(encoding="utf-8").partition("\ninclude ")[0]
    assert "#   xalign train --gin_file=" in header and f" --gin_file=recipes/{path.name} --model_dir=" in header
    assert "\n# Cost: " in header and "\n# Expect: " in header


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_parse(path: Path):
    cli.register()
    (recipe,) = config.load([str(path.relative_to(ROOT / "gin"))], FROM_USERS.get(path.stem, []), (Recipe,))
    assert all(stage.steps > 0 for stage in recipe.stages)
