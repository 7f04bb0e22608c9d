"""Runs the notebooks and keeps what they print and draw: `python notebooks/run.py [NAME.ipynb]` in the folder of the clone.

All cells of a notebook run in order, in one process and one namespace. They are plain Python without magic commands, so
no Jupyter is needed. A cell's outputs are its printed lines, the value of its last expression, and its figures.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def run(notebook: dict[str, Any], parameters: str | None = None) -> dict[str, Any]:
    """Run a notebook; returns its names.

    Args:
      notebook: as JSON says it (nbformat 4). Outputs of its cells are replaced.
      parameters: replaces the text of the cell that is tagged so, as papermill does; None = leave it.
    """
    import matplotlib

    matplotlib.use("agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            text = "".join(cell["source"])
            if parameters is not None and "parameters" in cell["metadata"].get("tags", ()):
                text = parameters
            cell["outputs"] = _outputs(text, cell["id"], names)
    return names


def _outputs(text: str, name: str, names: dict[str, Any]) -> list[dict[str, Any]]:
    """Run one cell; its outputs in the form of nbformat 4."""
    from matplotlib import pyplot

    tree = ast.parse(text)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, name, "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), name, "eval"), names)
    found: list[dict[str, Any]] = []
    if printed.getvalue():
        found.append({"output_type": "stream", "name": "stdout", "text": _lines(printed.getvalue())})
    for number in pyplot.get_fignums():
        drawn = io.BytesIO()
        pyplot.figure(number).savefig(drawn, format="png", dpi=80, metadata={"Software": None})
        data = {"image/png": base64.b64encode(drawn.getvalue()).decode()}
        found.append({"output_type": "display_data", "metadata": {}, "data": data})
    pyplot.close("all")
    if value is not None:
        data = {"text/plain": _lines(repr(value))}
        found.append({"output_type": "execute_result", "execution_count": None, "metadata": {}, "data": data})
    return found


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def main(names: Sequence[str]) -> None:
    """Run the named notebooks, or all of them, and write their outputs into them."""
    for path in [FOLDER / name for name in names] or sorted(FOLDER.glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        began = time.time(), time.process_time()
        run(notebook)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        wall, cpu = time.time() - began[0], time.process_time() - began[1]
        print(f"{path.name}: {wall:.0f} s, {cpu:.0f} s of CPU time")


if __name__ == "__main__":
    main(sys.argv[1:])
