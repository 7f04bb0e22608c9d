"""Checkpoints by Orbax, atomic and asynchronous. A step has the parameters and the rest of the state as two items."""

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

# Old steps are moved into this folder before deletion, so that a half-deleted one is never taken for a complete one.
DELETED = "deleted"
DAMAGED = "damaged"  # damaged steps are moved into this folder
SLICE_BYTES = 1 << 20  # slicing compiles one program for each shape and sharding: only worth it above this size
COMMIT_FILE = ocp.options.AtomicityOptions(mode=ocp.options.AtomicityMode.COMMIT_FILE)  # objects cannot be renamed

T = TypeVar("T")


class Damaged(UserError):
    """A checkpoint that exists but differs from the one that was saved. The line names it."""


class Checkpoints:
    """The checkpoints of one model directory.

    A step holds `params` (so that evaluation and export restore nothing else), `rest` (optimiser state and memory) and
    `about` (JSON). A step becomes visible only when it is complete. Files may be damaged later, so `about` records the
    shape, dtype and checksum of every array. An array that differs from this record is never returned.

    Args:
      keep: number of steps to keep, for a run that trains; None only reads, and then nothing is ever removed.
    Raises:
      UserError: the directory's steps cannot be listed.
    """

    def __init__(self, directory: str | Path | epath.Path, keep: int | None = None) -> None:
        directory = epath.Path(directory)
        self._trains = keep is not None  # a command that only reads removes nothing, because a run may be writing
        self._what = f"{directory}: a checkpoint (the newest whole one stays)"
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            enable_async_checkpointing=self._trains,
            cleanup_tmp_directories=self._trains,
            async_options=ocp.options.AsyncOptions(barrier_sync_fn=_barrier),
            todelete_subdir=None if is_remote(directory) else DELETED,
            atomicity_options=COMMIT_FILE if is_remote(directory) else None,
        )
        # Orbax wants absolute paths.
        place = directory if is_remote(directory) else directory.absolute()
        try:
            self._manager = ocp.CheckpointManager(place, options=options, handler_registry=_handlers())
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{place}: the steps there cannot be listed ({one_line(error)}); "
                "if a file */_CHECKPOINT_METADATA is damaged, remove it: no step needs it"
            ) from error
        # A reader of its own, because the manager's reader waits for all processes.
        self._reader = ocp.CompositeCheckpointHandler(handler_registry=_handlers())

    def steps(self) -> list[int]:
        """All steps, the oldest first, as process 0 sees them. Every process must call this function."""
        return json.loads(distributed.exchange("steps", json.dumps(sorted(self._manager.all_steps())))[0])

    def newest(self, restore: Callable[[int], T], tell: bool = True) -> tuple[int, T] | None:
        """The newest undamaged step and the result of `restore` for it; None if there is no step at all.

        A run that trains moves damaged steps away, because it will save a step of the same number. It does not delete
        them: a step that cannot be read today may be readable tomorrow.

        Args:
          restore: restores a step; it raises Damaged if the step is damaged.
          tell: print a line on stderr for each newer step that is damaged.
        Raises:
          UserError: there are steps, and all of them are damaged.
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
        """Move a damaged step to the folder of damaged ones. Every process must call this function."""
        place = self._manager.directory
        aside = place / DAMAGED / str(step)
        if distributed.is_main():
            with writing(str(aside)):
                move(place / str(step), aside)
        distributed.wait_for_all("damaged")
        self._manager.reload()
        return aside

    def save(self, step: int, params: Any, rest: Any, about: dict[str, Any]) -> None:
        """Start saving a step, once the one before is saved. The arrays may be donated afterwards.

        Raises:
          RunError: this step or the one before could not be written. `wait` and `close` raise it too.
        """
        # The record of all arrays is made before they are written, while they are still in memory.
        arrays = {item: _described(tree) for item, tree in (("params", params), ("rest", rest))}
        record = json.loads(json.dumps({"step": step, **about, "arrays": arrays}))  # as JSON will be read back
        items = {
            "params": ocp.args.PyTreeSave(params),
            "rest": ocp.args.PyTreeSave({"step": step, **rest}),
            "about": ocp.args.JsonSave({**record, "digest": _digest(record)}),
        }
        self.wait()
        with writing(self._what):
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def about(self, step: int) -> dict[str, Any]:
        """The JSON that was saved with a step.

        Raises:
          UserError: there is no such step.
          Damaged: the step cannot be read, or differs from the one that was saved. `restore` and `restore_part` raise
            it too.
        """
        if step not in self.steps():
            raise UserError(f"{self._manager.directory}: no checkpoint of step {step}; there are {self.steps()}")
        record = self._read(step, about=ocp.args.JsonRestore())["about"]
        digest = record.pop("digest", None) if isinstance(record, dict) else ""
        # Checkpoints of the first versions have no digest: they hold only a stage and a recipe.
        whole = record.keys() == {"stage", "recipe"} if digest is None else digest == _digest(record)
        if not whole:
            raise self._damaged(step, "about/metadata is not what was saved")
        if record.get("step", step) != step:
            raise self._damaged(step, f"it holds step {record['step']}")
        return record

    def restore(self, step: int, params: Any, rest: Any) -> tuple[Any, Any]:
        """The arrays of a step, for trees of ShapeDtypeStruct with shardings. The mesh may differ from the saving one.

        Raises:
          UserError: the checkpoint holds arrays of other names or shapes.
          Damaged: see `about`.
        """
        return self.restore_part(step, "params", (), params), self.restore_part(step, "rest", (), rest)

    def restore_part(self, step: int, item: str, path: Sequence[str], tree: Any) -> Any:
        """The branch at `path` of item "params" or "rest"; `tree` as for `restore`.

        Raises:
          UserError: the branch holds arrays of other names or shapes than `tree`.
          Damaged: see `about`.
        """
        # Restore in the dtypes that were saved, so that checksums can be compared, and convert afterwards.
        recorded = self.about(step).get("arrays", {}).get(item)
        prefix = "".join(f"{name}/" for name in path)
        saved = tree
        if recorded is not None:
            # Compare names and shapes before reading: Orbax would fail with messages of its own.
            there = {name: about for name, about in recorded.items() if name.startswith(prefix)}
            self._compare_shapes(step, there, checksums.named(tree, prefix))
            dtypes = iter(there[name][1] for name in checksums.named(tree, prefix))
            saved = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, next(dtypes), sharding=x.sharding), tree)
        # Orbax wants a tree from the item's root: put the branch under the names of its path, and take it out again.
        whole = functools.reduce(lambda branch, name: {name: branch}, reversed(path), saved)
        args = ocp.args.PyTreeRestore(
            item=whole, restore_args=ocp.checkpoint_utils.construct_restore_args(whole), partial_restore=True
        )
        found = functools.reduce(lambda branch, name: branch[name], path, self._read(step, **{item: args})[item])
        for name, array in checksums.named(found, prefix).items():
            if not isinstance(array, jax.Array):  # Orbax leaves out arrays that its metadata lack
                raise self._damaged(step, f"{item}/{name} is missing")
        if recorded is not None:
            for name, checksum in checksums.checksums(found, prefix).items():
                if checksum != there[name][2]:
                    raise self._damaged(step, f"{item}/{name} is not what was saved")
        return jax.tree.map(lambda x, wanted: x.astype(wanted.dtype), found, tree)

    def _damaged(self, step: int, wrong: str) -> Damaged:
        return Damaged(f"{self._manager.directory}/{step} is damaged: {wrong}")

    def _compare_shapes(self, step: int, there: dict[str, Any], here: dict[str, Any]) -> None:
        """Raise UserError for the first array that the checkpoint (`there`) and the model (`here`) have differently."""
        for name in sorted(there.keys() | here.keys()):
            old = str(there[name][0]) if name in there else "absent"
            new = str(list(here[name].shape)) if name in here else "absent"
            if old != new:
                raise UserError(
                    f"{self._manager.directory}/{step}: the checkpoint does not match the recipe's model or "
                    f"vocabulary: {name} is {old} there, {new} here"
                )

    def _read(self, step: int, **args: Any) -> Any:
        """Items of a step. Every process must call this function; all raise Damaged if one cannot read its part."""
        found, wrong = None, ""
        try:
            found = self._reader.restore(self._manager.directory / str(step), args=ocp.args.Composite(**args))
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise  # not the fault of the files
        except Exception as error:  # Orbax, TensorStore, JSON and file systems raise different exceptions
            wrong = f"{', '.join(args)} cannot be read ({one_line(error)})"
        for said in distributed.exchange("read", wrong):
            if said:
                raise self._damaged(step, said)
        return found

    def wait(self) -> None:
        """Return once the last step is completely on disk, and old steps are deleted."""
        with writing(self._what):
            self._manager.wait_until_finished()
            if self._trains and jax.process_index() == 0:
                (self._manager.directory / DELETED).rmtree(missing_ok=True)

    def close(self) -> None:
        """Wait, and release the directory."""
        self.wait()
        with writing(self._what):
            self._manager.close()


def _barrier(key: str, timeout_ms: int) -> None:
    """Wait for every process at a point of a background save.

    Orbax also calls this function in a process whose save has failed, while it handles the exception. Such a process
    must not wait here, because the others wait for it elsewhere.
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
    """Orbax's handlers of the three items.

    Arrays are not compressed: compression would save 8 % of float32 at twice the time and a copy in memory. The
    replicas of a large array each write a part of it; a small array is written by its first replica.
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
    """ShapeDtypeStructs with shardings, as `Checkpoints.restore` needs them."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)
