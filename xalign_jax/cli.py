"""The `xalign` command: parses, then calls. Heavy imports wait until a command needs them."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xalign_jax.errors import RunError, UserError

FLOATS = ("float32", "bfloat16", "float16")
DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 3

EPILOG = "Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 interrupted and resumable."


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    options, bindings = _parse(sys.argv[1:] if argv is None else list(argv))
    try:
        code = options.call(options, bindings)
    except UserError as error:
        print(f"xalign: {error}", file=sys.stderr)
        code = USAGE
    except RunError as error:
        print(f"xalign: {error}", file=sys.stderr)
        code = FAILED
    sys.exit(code)


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Options, and the gin bindings given as `--gin.NAME=VALUE`."""
    bindings = [arg.removeprefix("--gin.") for arg in argv if arg.startswith("--gin.")]
    options = _parser().parse_args([arg for arg in argv if not arg.startswith("--gin.")])
    return options, bindings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("xalign", description="Cross-lingual alignment in pretraining.", epilog=EPILOG)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, call: object, help: str, gin: bool, model_dir: bool) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help, epilog=EPILOG)
        sub.set_defaults(call=call)
        if gin:
            sub.add_argument("--gin_file", action="append", required=True, metavar="FILE", help="repeatable")
            sub.add_argument("--gin.NAME=VALUE", dest="_", help="a gin binding or macro; repeatable")
        if model_dir:
            kind = str if name == "train" else Path  # `train` also writes to gs://
            sub.add_argument("--model_dir", type=kind, required=True, metavar="DIR")
        return sub

    train = command("train", _train, "Train a recipe, or continue it.", gin=True, model_dir=True)
    train.add_argument(
        "--extend", action="store_true", help="allow more steps of the last stage, if its learning rate goes on"
    )
    train.add_argument("--coordinator", metavar="HOST:PORT", help="process 0's address, where nothing else says it")
    train.add_argument("--processes", type=int, metavar="N", help="how many processes there are; 1 = run alone")
    train.add_argument("--process_id", type=int, metavar="I", help="this process's number")
    evaluate = command("evaluate", _evaluate, "Run probes on a checkpoint.", gin=True, model_dir=True)
    evaluate.add_argument("--step", type=int, help="the checkpoint's step; default: the newest")
    compare = command("compare", _compare, "One table and plots from several runs.", gin=False, model_dir=False)
    compare.add_argument("model_dirs", type=Path, nargs="+", metavar="DIR")
    compare.add_argument("--output", type=Path, required=True, metavar="DIR")
    imported = command("import", _import, "Make a model directory of a Hugging Face model.", gin=False, model_dir=True)
    imported.add_argument("--source", type=Path, required=True, metavar="DIR", help="config.json and safetensors")
    imported.add_argument("--dtype", default="float32", choices=FLOATS, help="of the parameters")
    imported.add_argument("--overwrite", action="store_true", help="replace an imported model")
    export = command("export", _export, "Write a model for transformers, and check it.", gin=False, model_dir=True)
    export.add_argument("--output", type=Path, required=True, metavar="DIR")
    export.add_argument("--step", type=int, help="the checkpoint's step; default: the newest")
    export.add_argument("--dtype", default="float32", choices=FLOATS, help="of the files")
    export.add_argument("--overwrite", action="store_true", help="replace an exported model")
    export.add_argument("--params", default="model", help='"model", or "momentum:<stream>" for a momentum encoder')
    export.add_argument("--sentence_encoder", choices=("mean", "first", "pooler"), help="for sentence-transformers")
    export.add_argument("--level", type=int, help="of the sentence encoder; default: the last")
    export.add_argument("--normalize", action="store_true", help="sentence vectors of unit length")
    compiled = command("compile", _compile, "What a recipe's steps need on a machine, here or not.", True, False)
    compiled.add_argument("--topology", required=True, metavar="NAME", help='"v5e:16x16", "cpu:8" (simulated) or "gpu"')
    compiled.add_argument("--num_slices", type=int, default=1, metavar="K", help="slices of that topology; default 1")
    compiled.add_argument("--output", type=Path, metavar="FILE", help="also write what is found as JSON")
    data = command("data", _data, "Prepare, preview or count a recipe's text.", gin=True, model_dir=False)
    data.add_argument("action", choices=("prepare", "preview", "stats"))
    return parser


def _recipe(options: argparse.Namespace, bindings: list[str]) -> tuple:
    """(Recipe, Runtime) of the command line; imports every room that registers configurables with gin."""
    from xalign_jax import config
    from xalign_jax.recipe import Recipe, Runtime

    register()
    return tuple(config.load(options.gin_file, bindings, (Recipe, Runtime)))


def register() -> None:
    """Import every room that registers configurables with gin."""
    import xalign_jax.data.facts
    import xalign_jax.data.feeds
    import xalign_jax.data.lexicon
    import xalign_jax.data.store
    import xalign_jax.data.vocabulary
    import xalign_jax.evaluation
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
    import xalign_jax.training.optimizers  # noqa: F401


def _start_jax(precision: str) -> None:
    import logging

    import jax

    from xalign_jax.data.store import cache_dir

    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs what it also raises
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    jax.config.update("jax_default_matmul_precision", precision)


def _train(options: argparse.Namespace, bindings: list[str]) -> int:
    from xalign_jax.evaluation import report
    from xalign_jax.runtime import distributed, failures, storage
    from xalign_jax.training.loop import Interrupted, Run

    distributed.initialize(options.coordinator, options.processes, options.process_id)
    with failures.together():
        recipe, runtime = _recipe(options, bindings)
        _start_jax(runtime.matmul_precision)
        model_dir = storage.model_directory(options.model_dir)
        run = Run(recipe, runtime, model_dir, Path(options.gin_file[-1]).stem, options.extend)
        try:
            run.train()
        except Interrupted:
            print("xalign: interrupted; the same command continues from here", file=sys.stderr)
            return INTERRUPTED
        if distributed.is_main():
            with storage.as_local(model_dir) as folder:
                print(report.report(folder))
    return DONE


def _evaluate(options: argparse.Namespace, bindings: list[str]) -> int:
    from xalign_jax import config
    from xalign_jax.evaluation import report
    from xalign_jax.recipe import Evaluation, Recipe, Runtime, as_json, located
    from xalign_jax.training import directory, evaluate

    register()
    if not (options.model_dir / "config.gin").is_file():
        raise UserError(f"--model_dir={options.model_dir}: no config.gin there; is it a model directory?")
    own = str(options.model_dir / "config.gin")
    (recipe,) = config.load([own], [], (Recipe,))
    # The run's Runtime, but for what is said of it here: this may be another machine.
    evaluation, runtime, bound = config.load([own, *options.gin_file], bindings, (Evaluation, Runtime, Recipe))
    if located(bound) != located(recipe):
        shown = directory.differences(as_json(located(recipe)), as_json(located(bound)))
        raise UserError(f"--model_dir={options.model_dir}: a run's recipe stays what it is, but {shown}")
    _start_jax(runtime.matmul_precision)
    evaluate.evaluate(recipe, runtime, options.model_dir, evaluation.probes, options.step)
    print(report.report(options.model_dir))
    return DONE


def _import(options: argparse.Namespace, bindings: list[str]) -> int:
    from xalign_jax.interop.importing import import_model
    from xalign_jax.runtime.sharding import make_mesh

    import_model(options.source, options.model_dir, make_mesh((1, -1, 1)), options.dtype, options.overwrite)
    print(f"{options.model_dir}: a recipe that includes {options.model_dir}/model.gin continues from it")
    return DONE


def _export(options: argparse.Namespace, bindings: list[str]) -> int:
    from xalign_jax.interop.exporting import export_model
    from xalign_jax.interop.sentence_encoder import SentenceEncoder
    from xalign_jax.interop.verify import verify
    from xalign_jax.runtime.sharding import make_mesh

    _start_jax("highest")
    mesh = make_mesh((1, -1, 1))
    encoder = None
    if options.sentence_encoder:
        encoder = SentenceEncoder(options.sentence_encoder, options.level, options.normalize)
    exported = export_model(
        options.model_dir, options.output, mesh, options.step, options.dtype, options.overwrite, options.params, encoder
    )
    print(f"{options.output}: written")
    print(verify(options.output, exported, _sample_texts(options.model_dir, exported.tokenizer), options.dtype))
    return DONE


def _sample_texts(model_dir: Path, tokenizer: Any) -> list[Any]:
    """Token ids of some validation texts of the run in each of its languages; of an imported model's, a text of ours."""
    import numpy as np

    if tokenizer.vocabulary.kind == "ids":
        return [np.flatnonzero(~tokenizer.special)[:64]]
    if not (model_dir / "config.gin").is_file():
        return tokenizer.encode([" ".join((sys.modules["xalign_jax"].__doc__ or "xalign").split()), EPILOG])
    from xalign_jax import config
    from xalign_jax.recipe import Recipe
    from xalign_jax.training import plan

    register()
    (recipe,) = config.load([str(model_dir / "config.gin")], [], (Recipe,))
    plan.prepare_data(recipe)
    prepared = plan.load_data(recipe)
    found = []
    for mixture in plan.mixtures(recipe):
        for member in prepared.members(mixture, "validation"):
            tokens, offsets = member.tokens[0], member.offsets[0]
            texts = [tokens[a:b] for a, b in itertools.pairwise(offsets[:4])]
            found += [tokenizer.clone(text, member.k) for text in texts]
    return found


def _compare(options: argparse.Namespace, bindings: list[str]) -> int:
    from xalign_jax.evaluation import report

    print(report.compare(options.model_dirs, options.output))
    return DONE


def _compile(options: argparse.Namespace, bindings: list[str]) -> int:
    import json

    import jax

    from xalign_jax.scale import compile, report, topology

    recipe, runtime = _recipe(options, bindings)
    jax.config.update("jax_default_matmul_precision", runtime.matmul_precision)
    machine = topology.find(options.topology, options.num_slices)
    found = []
    for program in compile.programs(recipe, runtime, machine):
        found.append(report.report(program, machine, runtime))
        print(report.table(found[-1]), flush=True)
    if options.output is not None:
        options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    too_large = [report.advice(one) for one in found if one["memory"]["fits"] is False]
    if too_large:
        raise RunError("; ".join(too_large))
    return DONE


def _data(options: argparse.Namespace, bindings: list[str]) -> int:
    from xalign_jax.data import inspect
    from xalign_jax.training import plan

    recipe, _ = _recipe(options, bindings)
    plan.check(recipe)
    plan.prepare_data(recipe)
    prepared = plan.load_data(recipe)
    if options.action == "prepare":
        return DONE
    feeds = {n: f for stage in plan.plan(recipe, prepared) for n, f in stage.feeds.items()}
    if options.action == "preview":
        for name, feed in feeds.items():
            batch = feed.rows(feed.first_step, slice(0, feed.count))
            print(inspect.preview(name, batch, feed.feed.languages, prepared))
    else:
        print(inspect.stats(prepared, {name: feed.feed for name, feed in feeds.items()}))
    return DONE


if __name__ == "__main__":
    main()
