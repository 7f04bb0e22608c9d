"""Checkpoints by Orbax: parameters and the rest of the state as two items of one step, atomic and asynchronous."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from xalign_jax.errors import UserError
from xalign_jax.runtime import distributed
from xalign_jax.runtime.storage import is_remote, writing

DELETED = "deleted"  # a folder that old steps are moved into before they go, lest half of one be taken for a whole
SLICE_BYTES = 1 << 20  # every shape and place of a slice is compiled at the first save: not for less
COMMIT_FILE = ocp.options.AtomicityOptions(mode=ocp.options.AtomicityMode.COMMIT_FILE)  # objects cannot be renamed


class Checkpoints:
    """The checkpoints of one model directory.

    A step holds `params` (so that evaluation and export restore nothing else), `rest` (optimiser state and memory)
    and `about` (JSON). A step becomes visible only when it is whole.
    """

    def __init__(self, directory: str | Path | epath.Path, keep: int | None = None) -> None:
        directory = epath.Path(directory)
        self._trains = keep is not None  # whoever only reads, while a run may be writing, deletes nothing
        self._what = f"{directory}: a checkpoint (the newest whole one stays)"
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            enable_async_checkpointing=keep is not None,
            async_options=ocp.options.AsyncOptions(barrier_sync_fn=_barrier),
            todelete_subdir=None if is_remote(directory) else DELETED,
            atomicity_options=COMMIT_FILE if is_remote(directory) else None,
        )
        place = directory if is_remote(directory) else directory.absolute()
        self._manager = ocp.CheckpointManager(place, options=options, handler_registry=_handlers())

    def latest(self) -> int | None:
        """The newest whole step, or None."""
        return self._manager.latest_step()

    def save(self, step: int, params: Any, rest: Any, about: dict[str, Any]) -> None:
        """Start saving a step, after the one before; arrays may be donated afterwards.

        Raises:
          RunError: this step, or the one before, could not be written. So do `wait` and `close`.
        """
        items = {
            "params": ocp.args.PyTreeSave(params),
            "rest": ocp.args.PyTreeSave({"step": step, **rest}),
            "about": ocp.args.JsonSave(about),
        }
        self.wait()
        with writing(self._what):
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def restore(self, step: int, params: Any, rest: Any) -> tuple[Any, Any]:
        """Restore into trees of ShapeDtypeStruct with shardings, whatever mesh the step was saved on.

        Raises:
          UserError: the checkpoint holds arrays of other names or shapes.
        """
        items = {"params": ocp.args.StandardRestore(params), "rest": ocp.args.StandardRestore({"step": 0, **rest})}
        found = self._restored(step, ocp.args.Composite(**items))
        return found["params"], {name: value for name, value in found["rest"].items() if name != "step"}

    def about(self, step: int) -> dict[str, Any]:
        """What was saved about a step."""
        return self._restored(step, ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]

    def restore_params(self, step: int, params: Any) -> Any:
        """Restore the parameters alone."""
        return self._restored(step, ocp.args.Composite(params=ocp.args.StandardRestore(params)))["params"]

    def params_metadata(self, step: int) -> Any:
        """The tree of the parameters saved at a step; its leaves have `shape` and `dtype`."""
        self._require(step)
        return self._manager.item_metadata(step)["params"].tree

    def restore_part(self, step: int, rest: Any) -> Any:
        """Restore a part of the state besides the parameters: a tree with some of its branches."""
        restore_args = ocp.checkpoint_utils.construct_restore_args(rest)
        part = ocp.args.PyTreeRestore(item=rest, restore_args=restore_args, partial_restore=True)
        return self._restored(step, ocp.args.Composite(rest=part))["rest"]

    def _require(self, step: int) -> None:
        if step not in self._manager.all_steps():
            raise UserError(f"{self._manager.directory}: no checkpoint of step {step}; there are {self.steps()}")

    def _restored(self, step: int, args: ocp.args.Composite) -> Any:
        self._require(step)
        try:
            return self._manager.restore(step, args=args)
        except (ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"{self._manager.directory}/{step}: the checkpoint does not match the recipe's model or vocabulary: {reason}"
            ) from error

    def steps(self) -> list[int]:
        """All whole steps, oldest first."""
        return sorted(self._manager.all_steps())

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

    A process whose save has failed passes here while its exception is on the way, and must not wait: the others wait for
    it elsewhere.
    """
    if (failed := sys.exception()) is not None:
        raise failed
    if (client := distributed.client()) is not None:
        client.wait_at_barrier(key, timeout_ms)


def _handlers() -> Any:
    """Arrays lie on disk as they are: compression takes 8 % off float32 for twice the time and a copy in memory.

    Copies of a large array share out what is written of it; of a small one the first writes all.
    """
    kinds = ocp.type_handlers.create_type_handler_registry(
        (int, ocp.type_handlers.ScalarHandler()),
        (jax.Array, ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=SLICE_BYTES)),
    )
    arrays = ocp.PyTreeCheckpointHandler(use_compression=False, type_handler_registry=kinds)
    registry, checked = ocp.handlers.DefaultCheckpointHandlerRegistry(), ocp.StandardCheckpointHandler()
    for item in ("params", "rest"):
        registry.add(item, ocp.args.PyTreeSave, arrays)
        registry.add(item, ocp.args.PyTreeRestore, arrays)
        registry.add(item, ocp.args.StandardRestore, checked)
    registry.add("about", ocp.args.JsonSave)
    registry.add("about", ocp.args.JsonRestore)
    return registry


def abstract(tree: Any, shardings: Any) -> Any:
    """ShapeDtypeStructs with shardings, the form `Checkpoints.restore` wants."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)
