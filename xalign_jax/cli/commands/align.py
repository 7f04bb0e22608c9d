"""`xalign align`: link the words of parallel files, and make dictionaries of the links."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xalign_jax.cli.arguments import Commands, add_command, named, path, two_languages
from xalign_jax.cli.exits import DONE
from xalign_jax.errors import UserError

if TYPE_CHECKING:
    from xalign_jax.alignment.scores import Calibration
    from xalign_jax.data.text.linked import Gold, Pair
    from xalign_jax.evaluation.aligning.pairs import Aligner, Alignment
    from xalign_jax.evaluation.aligning.run import Texts
    from xalign_jax.reports.alignment_grid import Grid

_NEURAL = ("argmax", "itermax", "match", "softmax", "ot")
_TRAINED = {"marked": "MarkedWords", "spans": "MarkedSpans"}  # a run with this objective has the head
_LEXICAL = ("ibm1", "ibm1-diagonal", "diagonal")
_PICTURES = (".png", ".svg", ".pdf")
_SYMMETRISATIONS = ("intersection", "union", "forward", "backward", "grow-diag-final-and")


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = add_command(commands, "align", run, "Link the words of parallel files, and make dictionaries.")
    parser.add_argument("--model", type=path, metavar="DIR", help="a Hugging Face folder or a model directory")
    parser.add_argument("--step", type=int, metavar="N", help="the checkpoint's step; default: the newest")
    for side in ("source", "target"):
        parser.add_argument(f"--{side}", type=named, required=True, metavar="FILE", help="a sentence on each line")
    method = f"{', '.join(_NEURAL)}; {', '.join(_TRAINED)}, with a head that gold links trained; without a model {', '.join(_LEXICAL)}; default itermax"
    methods = (*_NEURAL, *_TRAINED, *_LEXICAL)
    parser.add_argument("--method", default="itermax", choices=methods, metavar="NAME", help=method)
    parser.add_argument("--level", type=int, metavar="N", help="whose states are compared; default: two thirds up")
    how = f"how directions are joined: {', '.join(_SYMMETRISATIONS)}; default intersection"
    parser.add_argument("--symmetrise", default="intersection", choices=_SYMMETRISATIONS, metavar="NAME", help=how)
    parser.add_argument("--centre", action="store_true", help="subtract each side's mean state (first 2,048 pairs)")
    threshold = "of softmax, default 0.001, of marked, default 0.5, and of spans, default 0.4"
    projected = "multiply states with the projection that recipes/light_aligner.gin trained, at its level"
    parser.add_argument("--projected", action="store_true", help=projected)
    parser.add_argument("--threshold", type=float, metavar="P", help=threshold)
    parser.add_argument("--regularisation", type=float, default=0.1, metavar="R", help="of ot; default 0.1")
    words = "where words end: at spaces, or also where ICU finds borders in scripts without spaces"
    parser.add_argument("--words", default="spaces", choices=("spaces", "icu"), help=words)
    parser.add_argument("--least_link", type=float, default=0.0, metavar="P", help="drop links less probable than this")
    parser.add_argument("--output", type=path, metavar="FILE", help="links, in Pharaoh format; default: printed")
    parser.add_argument("--jsonl", action="store_true", help="write JSON lines with words and probabilities instead")
    parser.add_argument("--dictionary", type=path, metavar="FILE", help="a TSV file of translations, with counts")
    parser.add_argument("--least_count", type=int, default=2, metavar="N", help="links of a translation; default 2")
    least = "share of a translation among its source word's links; default 0.1"
    parser.add_argument("--least_probability", type=float, default=0.1, metavar="P", help=least)
    parser.add_argument("--gold", type=named, metavar="FILE", help="gold links: 2-3 is sure, 2p3 possible; scored")
    parser.add_argument("--gold_base", type=int, choices=(0, 1), help="the gold file's first word; default 0")
    parser.add_argument("--picture", type=path, metavar="FILE", help="a picture (.png, .svg) of the first sentences")
    parser.add_argument("--calibration", type=path, metavar="FILE", help="a file that --fit_calibration wrote")
    parser.add_argument("--fit_calibration", type=path, metavar="FILE", help="calibrate probabilities on --gold")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the model's products")
    maps = "a folder that xalign map wrote: states go through the maps of --languages"
    parser.add_argument("--maps", type=path, metavar="DIR", help=maps)
    parser.add_argument("--languages", type=named, metavar="NAMES", help="of source and target, such as en,de")
    tokens = "tokens of each side in a batch; default: 512 on CPUs, 32768 on accelerators"
    parser.add_argument("--batch_tokens", type=int, metavar="N", help=tokens)


def run(options: argparse.Namespace, bindings: list[str]) -> int:
    """Check all input, align it, and say what was found."""
    from xalign_jax.evaluation.aligning.run import Texts, Wanted, align_files, check
    from xalign_jax.reports.alignment_grid import draw_grids
    from xalign_jax.runtime import storage

    _check_options(options, bindings)
    for option in ("output", "dictionary", "picture", "fit_calibration"):
        if file := getattr(options, option):
            if not file.absolute().parent.is_dir():
                raise UserError(f"--{option}={file}: no such folder")
            storage.check_writable(f"--{option}", file.absolute().parent)
    wanted = Wanted(
        least_link=options.least_link,
        output=options.output,
        jsonl=options.jsonl,
        dictionary=options.dictionary,
        least_count=options.least_count,
        least_probability=options.least_probability,
        gold=options.gold,
        gold_base=options.gold_base,
        calibration=options.fit_calibration,
    )
    texts = Texts(options.source, options.target, options.words)
    total = check(texts, wanted)
    summary = align_files(lambda: _aligner(options, texts), texts, wanted, total)
    if options.picture:
        draw_grids([_grid(*shown) for shown in summary.shown], options.picture)
    # Standard output belongs to the links, unless they go to a file.
    for line in summary.lines:
        print(line, file=sys.stderr)
    return DONE


def _grid(pair: Pair, alignment: Alignment, gold: Gold | None) -> Grid:
    """A sentence pair as a picture shows it."""
    from xalign_jax.reports.alignment_grid import Grid

    links = dict(zip(alignment.links, alignment.probabilities, strict=True))
    return Grid(pair.source, pair.target, links, None if gold is None else {*gold.sure, *gold.possible})


def _check_options(options: argparse.Namespace, bindings: list[str]) -> None:
    """Refuse options that mean nothing together, before anything is loaded."""
    if bindings:
        raise UserError(f"--gin.{bindings[0]}: xalign align reads no gin files")
    if options.method in _LEXICAL:
        given = [
            name
            for name in ("model", "level", "centre", "step", "maps", "projected")
            if getattr(options, name) not in (None, False)
        ]
        if given:
            raise UserError(f"--{given[0]}: --method={options.method} uses no model; leave one of the two out")
    elif options.method in _TRAINED:
        _check_trained(options)
    elif options.model is None:
        raise UserError(f"--model: --method={options.method} needs one; without a model use --method=ibm1")
    if options.projected and (options.level is not None or options.maps):
        name = "maps" if options.level is None else "level"
        raise UserError(f"--{name}: --projected reads states as the projection was trained; leave one of the two out")
    if bool(options.maps) != bool(options.languages):
        raise UserError("--maps and --languages: each needs the other, such as --maps=maps/ --languages=en,de")
    if options.fit_calibration and not options.gold:
        raise UserError("--fit_calibration: needs --gold, the links on which probabilities are calibrated")
    if options.fit_calibration and options.calibration:
        raise UserError("--calibration: --fit_calibration starts from raw probabilities; leave one of the two out")
    if options.gold_base is not None and not options.gold:
        raise UserError("--gold_base: means nothing without --gold")
    if options.picture and options.picture.suffix not in _PICTURES:
        raise UserError(f"--picture={options.picture}: its name must end in {', '.join(_PICTURES)}")
    if options.batch_tokens is not None and options.batch_tokens < 1:
        raise UserError(f"--batch_tokens={options.batch_tokens}: at least 1")


def _check_trained(options: argparse.Namespace) -> None:
    """Refuse options that a trained head leaves nothing to do for."""
    method, objective = options.method, _TRAINED[options.method]
    if options.model is None:
        raise UserError(f"--model: --method={method} needs the model directory of a run that trained {objective}")
    for name, plain in (
        ("level", None),
        ("centre", False),
        ("maps", None),
        ("projected", False),
        ("symmetrise", "intersection"),
    ):
        if getattr(options, name) != plain:
            raise UserError(f"--{name}: --method={method} links words as they were trained; leave --{name} out")


def _aligner(options: argparse.Namespace, texts: Texts) -> Aligner:
    """The aligner of the command line; it loads the model or estimates one."""
    from xalign_jax.data.lexicon.model1 import TENSION, estimate
    from xalign_jax.evaluation.aligning.lexical import DiagonalAligner, LexicalAligner, as_words
    from xalign_jax.evaluation.aligning.run import read_calibration

    if options.method == "diagonal":
        return DiagonalAligner(options.symmetrise)
    calibration = read_calibration(options.calibration) if options.calibration else None
    if options.method in _LEXICAL:
        tension = TENSION if options.method == "ibm1-diagonal" else 0.0
        model = estimate(lambda: as_words(texts.pairs()), tension=tension)
        return LexicalAligner(model, options.symmetrise, calibration)
    return _trained(options, calibration) if options.method in _TRAINED else _neural(options)


def _trained(options: argparse.Namespace, calibration: Calibration | None) -> Aligner:
    """The aligner by a trained head. The run's record says how it was trained."""
    from xalign_jax.api import load, start_jax
    from xalign_jax.evaluation.aligning.marked import JUDGES, MarkedAligner

    judge = JUDGES[options.method]
    stream = _stream(options.model, _TRAINED[options.method], judge.head)
    start_jax("highest" if options.dtype == "float32" else "default")
    loaded = load(options.model, options.step, options.dtype)
    level = stream["objective"]["level"]
    return MarkedAligner(
        loaded.model,
        loaded.tokenizer,
        stream["feed"]["marker"],
        loaded.model.num_layers if level is None else level,
        judge,
        threshold=options.threshold,
        spaced=options.words == "spaces",
        calibration=calibration,
        batch_tokens=options.batch_tokens,
        name=options.model.name,
    )


def _stream(model: Path, objective: str, recipe: str) -> dict[str, Any]:
    """The stream of a run that trained an objective. Raises UserError if none did."""
    from xalign_jax.records.files import stream_of

    if (stream := stream_of(model, objective)) is None:
        raise UserError(f"--model={model}: no run there that trained {objective}; train recipes/{recipe}.gin")
    return stream


def _neural(options: argparse.Namespace) -> Aligner:
    """The aligner by a model's states."""
    from xalign_jax.alignment.methods import Extraction
    from xalign_jax.alignment.partners import HEAD
    from xalign_jax.alignment.scores import RAW
    from xalign_jax.api import load, start_jax
    from xalign_jax.evaluation.aligning.neural import CALIBRATION, NeuralAligner, Way, default_level
    from xalign_jax.evaluation.aligning.run import read_calibration
    from xalign_jax.evaluation.language_maps import LanguageMaps

    calibration = RAW if options.fit_calibration else CALIBRATION
    if options.calibration:
        calibration = read_calibration(options.calibration)
    start_jax("highest" if options.dtype == "float32" else "default")
    loaded = load(options.model, options.step, options.dtype)
    level, projection = options.level, None
    if options.projected:
        level = _stream(options.model, "LightAligner", "light_aligner")["objective"]["level"]
        projection = loaded.model.heads[HEAD]["projection"]
    level = default_level(loaded.model) if level is None else level
    threshold = 1e-3 if options.threshold is None else options.threshold
    extraction = Extraction(options.method, options.symmetrise, threshold, options.regularisation)
    return NeuralAligner(
        loaded.model,
        loaded.tokenizer,
        [Way(level, extraction, options.centre)],
        spaced=options.words == "spaces",
        calibration=calibration,
        batch_tokens=options.batch_tokens,
        maps=LanguageMaps.load(options.maps) if options.maps else None,
        languages=two_languages(options.languages) if options.languages else None,
        projection=projection,
        name=options.model.name,
    )
