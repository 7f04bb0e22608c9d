"""Checkpoints by Orbax: parameters and the rest of the state as two items of one step, atomic and asynchronous."""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from etils import epath

from xalign_jax.errors import UserError, one_line
from xalign_jax.runtime import checksums
from xalign_jax.runtime.cluster import distributed
from xalign_jax.runtime.storage import is_remote, move, writing

DELETED = "deleted"  # a folder that old steps are moved into before they go: half of one would be taken for a whole
DAMAGED = "damaged"  # a folder that damaged steps are moved into
SLICE_BYTES = 1 << 20  # every shape and place of a slice is compiled at the first save: not for less
COMMIT_FILE = ocp.options.AtomicityOptions(mode=ocp.options.AtomicityMode.COMMIT_FILE)  # objects cannot be renamed

T = TypeVar("T")


class Damaged(UserError):
    """A checkpoint that is there, but is not what was saved; the line names it."""


class Checkpoints:
    """The checkpoints of one model directory.

    A step holds `params` (so that evaluation and export restore nothing else), `rest` (optimiser state and memory)
    and `about` (JSON). A step becomes visible only when it is whole. Disks and people damage files later, so `about`
    records every array's shape, dtype and checksum, and nothing is handed out that differs from this record.
    """

    def __init__(self, directory: str | Path | epath.Path, keep: int | None = None) -> None:
        directory = epath.Path(directory)
        self._trains = keep is not None  # a command that only reads, while a run may be writing, removes nothing
        self._what = f"{directory}: a checkpoint (the newest whole one stays)"
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            enable_async_checkpointing=self._trains,
            cleanup_tmp_directories=self._trains,
            async_options=ocp.options.AsyncOptions(barrier_sync_fn=_barrier),
            todelete_subdir=None if is_remote(directory) else DELETED,
            atomicity_options=COMMIT_FILE if is_remote(directory) else None,
        )
        place = directory if is_remote(directory) else directory.absolute()
        try:
            self._manager = ocp.CheckpointManager(place, options=options, handler_registry=_handlers())
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{place}: the steps there cannot be listed ({one_line(error)}); "
                "if a file */_CHECKPOINT_METADATA is damaged, remove it: no step needs it"
            ) from error
        self._reader = ocp.CompositeCheckpointHandler(handler_registry=_handlers())  # the manager's waits for all

    def steps(self) -> list[int]:
        """All steps, oldest first, as process 0 sees them; every process must call it."""
        return json.loads(distributed.exchange("steps", json.dumps(sorted(self._manager.all_steps())))[0])

    def newest(self, restore: Callable[[int], T], tell: bool = True) -> tuple[int, T] | None:
        """(step, what `restore` gives) of the newest whole step; None if there is no step at all.

        If `tell`, a line on stderr names each newer step that is damaged. A run that trains moves it out of the way of
        the step that it will save there; it deletes nothing, because a step that could not be read today may be
        readable tomorrow.

        Raises:
          UserError: there are steps, and all are damaged.
        """
        damaged: dict[int, Damaged] = {}
        for step in reversed(self.steps()):
            try:
                found = restore(step)
            except Damaged as error:
                damaged[step] = error
                continue
            for old, why in damaged.items():
                moved = f"; moved to {self._set_aside(old)}" if self._trains else ""
                if tell and distributed.is_main():
                    print(f"xalign: {why}{moved}; step {step} is used in its place", file=sys.stderr)
            return step, found
        if damaged:
            place = self._manager.directory
            raise UserError(
                f"{'; '.join(map(str, damaged.values()))}; no whole step is left: bring one back, or remove {place}"
            )
        return None

    def _set_aside(self, step: int) -> epath.Path:
        """Move a damaged step to where no step is looked for; every process must call it."""
        place = self._manager.directory
        aside = place / DAMAGED / str(step)
        if distributed.is_main():
            with writing(str(aside)):
                move(place / str(step), aside)
        distributed.wait_for_all("damaged")
        self._manager.reload()
        return aside

    def save(self, step: int, params: Any, rest: Any, about: dict[str, Any]) -> None:
        """Start saving a step, after the one before; arrays may be donated afterwards.

        Raises:
          RunError: this step, or the one before, could not be written. So do `wait` and `close`.
        """
        arrays = {item: _described(tree) for item, tree in (("params", params), ("rest", rest))}
        record = json.loads(json.dumps({"step": step, **about, "arrays": arrays}))  # as it will be read
        items = {
            "params": ocp.args.PyTreeSave(params),
            "rest": ocp.args.PyTreeSave({"step": step, **rest}),
            "about": ocp.args.JsonSave({**record, "digest": _digest(record)}),
        }
        self.wait()
        with writing(self._what):
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def about(self, step: int) -> dict[str, Any]:
        """What was saved about a step.

        Raises:
          Damaged: it cannot be read, or differs from what was saved. So do `restore` and `restore_part`.
        """
        if step not in self.steps():
            raise UserError(f"{self._manager.directory}: no checkpoint of step {step}; there are {self.steps()}")
        record = self._read(step, about=ocp.args.JsonRestore())["about"]
        digest = record.pop("digest", None) if isinstance(record, dict) else ""
        # Checkpoints of the first versions have a stage and a recipe alone.
        whole = record.keys() == {"stage", "recipe"} if digest is None else digest == _digest(record)
        if not whole:
            raise self._damaged(step, "about/metadata is not what was saved")
        if record.get("step", step) != step:
            raise self._damaged(step, f"it holds step {record['step']}")
        return record

    def restore(self, step: int, params: Any, rest: Any) -> tuple[Any, Any]:
        """Restore into trees of ShapeDtypeStruct with shardings, whatever mesh the step was saved on.

        Raises:
          UserError: the checkpoint holds arrays of other names or shapes.
        """
        return self.restore_part(step, "params", (), params), self.restore_part(step, "rest", (), rest)

    def restore_part(self, step: int, item: str, path: Sequence[str], tree: Any) -> Any:
        """Restore a branch, the one at `path`, of "params" or "rest"; `tree` as for `restore`.

        Raises:
          UserError: the branch holds arrays of other names or shapes than `tree`.
        """
        recorded = self.about(step).get("arrays", {}).get(item)
        prefix = "".join(f"{name}/" for name in path)
        saved = tree
        if recorded is not None:
            there = {name: about for name, about in recorded.items() if name.startswith(prefix)}
            self._compare_shapes(step, there, checksums.named(tree, prefix))
            dtypes = iter(there[name][1] for name in checksums.named(tree, prefix))
            saved = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, next(dtypes), sharding=x.sharding), tree)
        whole = functools.reduce(lambda branch, name: {name: branch}, reversed(path), saved)
        args = ocp.args.PyTreeRestore(
            item=whole, restore_args=ocp.checkpoint_utils.construct_restore_args(whole), partial_restore=True
        )
        found = functools.reduce(lambda branch, name: branch[name], path, self._read(step, **{item: args})[item])
        for name, array in checksums.named(found, prefix).items():
            if not isinstance(array, jax.Array):  # Orbax leaves out what its metadata do not mention
                raise self._damaged(step, f"{item}/{name} is missing")
        if recorded is not None:
            for name, checksum in checksums.checksums(found, prefix).items():
                if checksum != there[name][2]:
                    raise self._damaged(step, f"{item}/{name} is not what was saved")
        return jax.tree.map(lambda x, wanted: x.astype(wanted.dtype), found, tree)

    def _damaged(self, step: int, wrong: str) -> Damaged:
        return Damaged(f"{self._manager.directory}/{step} is damaged: {wrong}")

    def _compare_shapes(self, step: int, there: dict[str, Any], here: dict[str, Any]) -> None:
        for name in sorted(there.keys() | here.keys()):
            old = str(there[name][0]) if name in there else "absent"
            new = str(list(here[name].shape)) if name in here else "absent"
            if old != new:
                raise UserError(
                    f"{self._manager.directory}/{step}: the checkpoint does not match the recipe's model or vocabulary: "
                    f"{name} is {old} there, {new} here"
                )

    def _read(self, step: int, **args: Any) -> Any:
        """Restore items of a step; every process must call it, and all raise Damaged if one cannot read its part."""
        found, wrong = None, ""
        try:
            found = self._reader.restore(self._manager.directory / str(step), args=ocp.args.Composite(**args))
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise  # says nothing about the files
        except Exception as error:  # Orbax, TensorStore, JSON and file systems each have errors of their own
            wrong = f"{', '.join(args)} cannot be read ({one_line(error)})"
        for said in distributed.exchange("read", wrong):
            if said:
                raise self._damaged(step, said)
        return found

    def wait(self) -> None:
        """Return once what was being saved is whole on disk, and old steps are gone."""
        with writing(self._what):
            self._manager.wait_until_finished()
            if self._trains and jax.process_index() == 0:
                (self._manager.directory / DELETED).rmtree(missing_ok=True)

    def close(self) -> None:
        """Finish and let go."""
        self.wait()
        with writing(self._what):
            self._manager.close()


def _barrier(key: str, timeout_ms: int) -> None:
    """Wait for every process at a point of a save in the background.

    A process whose save has failed passes here while its exception is on the way, and must not wait: the others wait
    for it elsewhere.
    """
    if (failed := sys.exception()) is not None:
        raise failed
    if (client := distributed.client()) is not None:
        client.wait_at_barrier(key, timeout_ms)


def _described(tree: Any) -> dict[str, Any]:
    """Name -> [shape, dtype, checksum] of each array."""
    found = checksums.checksums(tree)
    return {name: [list(x.shape), x.dtype.name, found[name]] for name, x in checksums.named(tree).items()}


def _digest(record: Any) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _handlers() -> Any:
    """Arrays lie on disk as they are: compression takes 8 % off float32 for twice the time and a copy in memory.

    Copies of a large array share out what is written of it; of a small one the first writes all.
    """
    kinds = ocp.type_handlers.create_type_handler_registry(
        (int, ocp.type_handlers.ScalarHandler()),
        (jax.Array, ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=SLICE_BYTES)),
    )
    arrays = ocp.PyTreeCheckpointHandler(use_compression=False, type_handler_registry=kinds)
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    for item in ("params", "rest"):
        registry.add(item, ocp.args.PyTreeSave, arrays)
        registry.add(item, ocp.args.PyTreeRestore, arrays)
    registry.add("about", ocp.args.JsonSave)
    registry.add("about", ocp.args.JsonRestore)
    return registry


def abstract(tree: Any, shardings: Any) -> Any:
    """ShapeDtypeStructs with shardings, the form `Checkpoints.restore` wants."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)
