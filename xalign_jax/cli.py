"""The `xalign` command: parses, then calls. Heavy imports wait until a command needs them."""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from xalign_jax.errors import RunError, UserError

FLOATS = ("float32", "bfloat16", "float16")
DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 3

INTERRUPTED_LINE = "xalign: interrupted; the same command continues from here"
EPILOG = "Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 interrupted and resumable."


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    interrupted = _interrupts()
    try:
        options, bindings = _parse(sys.argv[1:] if argv is None else list(argv))
        code = options.call(options, bindings)
    except BaseException as error:
        if interrupted:  # whatever exception a library has made of it
            _end_interrupted()
        if not isinstance(error, UserError | RunError):
            raise
        print(f"xalign: {error}", file=sys.stderr)
        code = USAGE if isinstance(error, UserError) else FAILED
    sys.exit(code)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the command line in one line; options are written in full."""

    def __init__(self, prog: str | None = None, **options: Any) -> None:
        super().__init__(prog, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Exit with the code of bad usage."""
        shown = " ".join(message.split())
        self.exit(USAGE, f"{self.prog}: {shown[:400]} (see {self.prog} --help)\n")


def _path(text: str) -> Path:
    """The value of an option that names a file or a folder; an unset variable of the shell names none."""
    return Path(_named(text))


def _named(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("names nothing")
    return text


def _interrupts() -> list[int]:
    """A list that is no longer empty once SIGINT has come, which raises KeyboardInterrupt wherever the command is.

    An import is ended at once instead: modules written in C print exceptions, or hide them. Training replaces this by its
    own handler. A process that was started with SIGINT ignored goes on ignoring it.
    """
    came: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        came.append(number)
        while frame is not None:
            if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
                _end_interrupted()
            frame = frame.f_back
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    return came


def _end_interrupted() -> NoReturn:
    """Say so and end at once: threads of libraries that are half loaded would print traces on the way out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print(INTERRUPTED_LINE, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Options, and the gin bindings given as `--gin.NAME=VALUE`."""
    bindings = [arg.removeprefix("--gin.") for arg in argv if arg.startswith("--gin.")]
    parser = _parser()
    for binding in bindings:
        if "=" not in binding:
            parser.error(f"--gin.{binding}: no value; write --gin.NAME=VALUE without spaces around =")
    return parser.parse_args([arg for arg in argv if not arg.startswith("--gin.")]), bindings


def _parser() -> argparse.ArgumentParser:
    import xalign_jax

    parser = _Parser("xalign", description="Cross-lingual alignment in pretraining.", epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"xalign {xalign_jax.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, call: object, help: str, gin: bool, model_dir: str = "") -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help, epilog=EPILOG)
        sub.set_defaults(call=call)
        if gin:
            sub.add_argument(
                "--gin_file",
                action="append",
                required=True,
                metavar="FILE",
                help="a gin file, here or packaged; repeatable",
            )
            sub.add_argument("--gin.NAME=VALUE", action="store_true", help="a gin binding or macro; repeatable")
        if model_dir:
            kind = _named if name == "train" else _path  # `train` also writes to gs://
            sub.add_argument("--model_dir", type=kind, required=True, metavar="DIR", help=model_dir)
        return sub

    train = command("train", _train, "Train a recipe, or continue it.", True, "the run's folder, made if need be")
    train.add_argument(
        "--extend", action="store_true", help="allow more steps of the last stage, if its learning rate goes on"
    )
    train.add_argument("--coordinator", metavar="HOST:PORT", help="process 0's address, where nothing else says it")
    train.add_argument("--processes", type=int, metavar="N", help="how many processes there are; 1 = run alone")
    train.add_argument("--process_id", type=int, metavar="I", help="this process's number")
    evaluate = command("evaluate", _evaluate, "Run probes on a checkpoint.", True, "the run's folder")
    evaluate.add_argument("--step", type=int, metavar="N", help="the checkpoint's step; default: the newest")
    compare = command("compare", _compare, "One table and plots from several runs.", False)
    compare.add_argument("model_dirs", type=_path, nargs="+", metavar="DIR", help="the folder of a run")
    compare.add_argument("--output", type=_path, required=True, metavar="DIR", help="where tables and plots go")
    _add_interop(command)
    compiled = command("compile", _compile, "What a recipe's steps need on a machine, here or not.", True)
    compiled.add_argument("--topology", required=True, metavar="NAME", help='"v5e:16x16", "cpu:8" (simulated) or "gpu"')
    compiled.add_argument("--num_slices", type=int, default=1, metavar="K", help="slices of that topology; default 1")
    compiled.add_argument("--output", type=_path, metavar="FILE", help="also write what is found as JSON")
    data = command("data", _data, "Prepare, preview or count a recipe's text.", True)
    data.add_argument("action", choices=("prepare", "preview", "stats"), help="what to do with the text")
    listed = command("list", _list, "What gin files may name, a line each.", False)
    listed.add_argument("kind", choices=("recipes", "probes", "objectives", "parametrizations"), help="what to list")
    command("show", _show_recipe, "A recipe with every value resolved, as one gin file.", True)
    return parser


def _add_interop(command: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands that read and write the files of other libraries."""
    imported = command(
        "import", _import, "Make a model directory of a Hugging Face model.", False, "the folder to make"
    )
    imported.add_argument("--source", type=_path, required=True, metavar="DIR", help="has config.json and safetensors")
    imported.add_argument(
        "--module", action="append", default=[], metavar="NAME", help="a Python module that registers an architecture"
    )
    imported.add_argument("--dtype", default="float32", choices=FLOATS, help="dtype of the parameters; default float32")
    imported.add_argument("--overwrite", action="store_true", help="replace an imported model")
    export = command("export", _export, "Write a model for transformers, and check it.", False, "the run's folder")
    export.add_argument("--output", type=_path, required=True, metavar="DIR", help="where the model's files go")
    export.add_argument("--step", type=int, metavar="N", help="the checkpoint's step; default: the newest")
    export.add_argument("--dtype", default="float32", choices=FLOATS, help="dtype of the files; default float32")
    export.add_argument("--overwrite", action="store_true", help="replace an exported model")
    export.add_argument("--params", default="model", help='"model", or "momentum:<stream>" for a momentum encoder')
    export.add_argument("--sentence_encoder", choices=("mean", "first", "pooler"), help="for sentence-transformers")
    export.add_argument("--level", type=int, metavar="N", help="the sentence encoder's block; default: the last")
    export.add_argument("--normalize", action="store_true", help="sentence vectors of unit length")


def _recipe(options: argparse.Namespace, bindings: list[str]) -> tuple:
    """(Recipe, Runtime) of the command line; imports every room that registers configurables with gin."""
    from xalign_jax import config
    from xalign_jax.recipe import Recipe, Runtime

    register()
    return tuple(config.load(options.gin_file, bindings, (Recipe, Runtime)))


def register() -> None:
    """Import every room that registers configurables with gin."""
    import xalign_jax.data.feeds.windows
    import xalign_jax.data.lexicon.facts
    import xalign_jax.data.lexicon.lexicon
    import xalign_jax.data.store.store
    import xalign_jax.data.tokens.vocabulary
    import xalign_jax.evaluation.probes
    import xalign_jax.models.bert
    import xalign_jax.models.gpt_neox
    import xalign_jax.models.llama
    import xalign_jax.models.xlm_roberta
    import xalign_jax.objectives.causal_lm
    import xalign_jax.objectives.masked_lm
    import xalign_jax.objectives.translation_ranking
    import xalign_jax.objectives.word_contrast
    import xalign_jax.objectives.word_distance
    import xalign_jax.objectives.xlco
    import xalign_jax.parametrizations.low_rank
    import xalign_jax.parametrizations.selection
    import xalign_jax.parametrizations.tied_rows
    import xalign_jax.training.optimizers  # noqa: F401


def _start_jax(precision: str) -> None:
    import logging

    import jax

    from xalign_jax.data.store.store import cache_dir

    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs what it also raises
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    jax.config.update("jax_default_matmul_precision", precision)


def _train(options: argparse.Namespace, bindings: list[str]) -> int:
    from xalign_jax.reports import report
    from xalign_jax.runtime import storage
    from xalign_jax.runtime.cluster import distributed, failures
    from xalign_jax.training.train import Interrupted, Run

    distributed.initialize(options.coordinator, options.processes, options.process_id)
    with failures.together():
        recipe, runtime = _recipe(options, bindings)
        _start_jax(runtime.matmul_precision)
        model_dir = storage.model_directory(options.model_dir)
        run = Run(recipe, runtime, model_dir, Path(options.gin_file[-1]).stem, options.extend)
        try:
            run.train()
        except Interrupted:
            print(INTERRUPTED_LINE, file=sys.stderr)
            return INTERRUPTED
        if distributed.is_main():
            with storage.as_local(model_dir) as folder:
                print(report.report(folder))
    return DONE


def _evaluate(options: argparse.Namespace, bindings: list[str]) -> int:
    from xalign_jax import config
    from xalign_jax.recipe import Evaluation, Recipe, Runtime, as_json, located
    from xalign_jax.reports import report
    from xalign_jax.runtime import storage
    from xalign_jax.training import evaluate, run_directory

    register()
    storage.check_writable("--model_dir", options.model_dir)
    own, fixed = evaluate.configuration(options.model_dir)
    (recipe,) = config.load([own], fixed, (Recipe,))
    if not fixed:
        run_directory.check_config(options.model_dir, recipe)
    # The run's Runtime, but for what is said of it here: this may be another machine.
    evaluation, runtime, bound = config.load(
        options.gin_file, [*fixed, *bindings], (Evaluation, Runtime, Recipe), base=[own]
    )
    if located(bound) != located(recipe):
        shown = run_directory.differences(as_json(located(recipe)), as_json(located(bound)))
        raise UserError(f"--model_dir={options.model_dir}: a run's recipe stays what it is, but {shown}")
    _start_jax(runtime.matmul_precision)
    evaluate.evaluate(recipe, runtime, options.model_dir, evaluation.probes, options.step)
    print(report.report(options.model_dir))
    return DONE


def _import(options: argparse.Namespace, bindings: list[str]) -> int:
    from xalign_jax import gin_files
    from xalign_jax.interop.importing import import_model
    from xalign_jax.runtime import storage
    from xalign_jax.runtime.sharding import make_mesh

    storage.check_writable("--model_dir", options.model_dir)
    for module in options.module:
        gin_files.import_module(module, f"--module={module}")
    import_model(options.source, options.model_dir, make_mesh((1, -1, 1)), options.dtype, options.overwrite)
    print(f"{options.model_dir}: a recipe that includes {options.model_dir}/model.gin continues from it")
    return DONE


def _export(options: argparse.Namespace, bindings: list[str]) -> int:
    from xalign_jax.interop.exporting import export_model
    from xalign_jax.interop.sentence_encoder import SentenceEncoder
    from xalign_jax.interop.verify import verify
    from xalign_jax.runtime import storage
    from xalign_jax.runtime.sharding import make_mesh

    storage.check_writable("--output", options.output)
    _start_jax("highest")
    mesh = make_mesh((1, -1, 1))
    encoder = None
    if options.sentence_encoder:
        encoder = SentenceEncoder(options.sentence_encoder, options.level, options.normalize)
    exported = export_model(
        options.model_dir, options.output, mesh, options.step, options.dtype, options.overwrite, options.params, encoder
    )
    print(f"{options.output}: written")
    print(verify(options.output, exported, _validation_texts(options.model_dir, exported.tokenizer), options.dtype))
    return DONE


def _validation_texts(model_dir: Path, tokenizer: Any) -> Any:
    """Token ids of some validation texts of the run in each of its languages, or why there are none: nothing is prepared."""
    from xalign_jax import config
    from xalign_jax.data.corpus import Corpus
    from xalign_jax.data.store.store import open_stores, open_tokenizer
    from xalign_jax.interop.verify import Missing
    from xalign_jax.recipe import Recipe
    from xalign_jax.training import stages

    if not (model_dir / "config.gin").is_file():
        return Missing("an imported model has none")
    register()
    found = []
    try:
        (recipe,) = config.load([str(model_dir / "config.gin")], [], (Recipe,))
        mixtures = stages.mixtures(recipe)
        tasks = list(dict.fromkeys(task for mixture in mixtures for task in mixture.tasks))
        stores = {task: open_stores(recipe.vocabulary, task, tasks=tasks) for task in tasks}
        if open_tokenizer(recipe.vocabulary, tasks).base_fingerprint != tokenizer.base_fingerprint:
            return Missing("prepared with another vocabulary since")
        for mixture in mixtures:
            for member in Corpus(tokenizer, stores, None, None).members(mixture, "validation"):
                tokens, offsets = member.tokens[0], member.offsets[0]
                texts = [tokens[a:b] for a, b in itertools.pairwise(offsets[:4])]
                found += [tokenizer.clone(text, member.k) for text in texts]
    except UserError as error:
        return Missing(str(error))
    return found or Missing("the run has none")


def _compare(options: argparse.Namespace, bindings: list[str]) -> int:
    from xalign_jax.reports import report
    from xalign_jax.runtime import storage

    storage.check_writable("--output", options.output)
    print(report.compare(options.model_dirs, options.output))
    return DONE


def _compile(options: argparse.Namespace, bindings: list[str]) -> int:
    import json

    import jax

    from xalign_jax.runtime import storage
    from xalign_jax.scale import compile, report, topology

    if options.output is not None:
        storage.check_writable("--output", options.output.parent)
    recipe, runtime = _recipe(options, bindings)
    jax.config.update("jax_default_matmul_precision", runtime.matmul_precision)
    machine = topology.find(options.topology, options.num_slices)
    found = []
    for program in compile.programs(recipe, runtime, machine):
        found.append(report.report(program, machine, runtime))
        print(report.table(found[-1]), flush=True)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    too_large = [report.advice(one) for one in found if one["memory"]["fits"] is False]
    if too_large:
        raise RunError("; ".join(too_large))
    return DONE


def _list(options: argparse.Namespace, bindings: list[str]) -> int:
    from xalign_jax import catalogue

    register()
    _show(catalogue.lines(options.kind))
    return DONE


def _show_recipe(options: argparse.Namespace, bindings: list[str]) -> int:
    from xalign_jax import config

    print(config.dump(*_recipe(options, bindings)).strip())
    return DONE


def _data(options: argparse.Namespace, bindings: list[str]) -> int:
    from xalign_jax.data import preview
    from xalign_jax.training import stages

    recipe, _ = _recipe(options, bindings)
    stages.check(recipe)
    stages.prepare_data(recipe)
    if options.action == "stats":
        return _stats(recipe)
    corpus = stages.load_data(recipe)
    if options.action == "prepare":
        _show(preview.words(corpus))
        return DONE
    for stage in stages.plan(recipe, corpus):
        for name, feed in stage.feeds.items():
            batch = feed.batch(feed.first_step, slice(0, feed.count))
            print(preview.preview(name, batch, feed.feed.languages, corpus))
    return DONE


def _stats(recipe: Any) -> int:
    """Shows what there is before it asks for what may be lacking: words of the dictionary, enough of them for the facts."""
    from xalign_jax.data import corpus, preview
    from xalign_jax.training import stages

    data = corpus.open_texts(recipe.vocabulary, stages.mixtures(recipe))
    _show(preview.texts(data))
    if recipe.lexicon is not None:
        data = data.with_lexicon(recipe.lexicon)
        _show([*preview.words(data), *preview.coverage(data)])
    if recipe.facts is not None and corpus.tells_facts(stages.mixtures(recipe)):
        data = data.with_facts(recipe.facts)
        _show(preview.facts(data))
    _show(
        preview.packing({name: feed.feed for stage in stages.plan(recipe, data) for name, feed in stage.feeds.items()})
    )
    return DONE


def _show(lines: Sequence[str]) -> None:
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    main()
