"""The notebooks as pages, with the outputs that they hold."""

from __future__ import annotations

import base64
import json
from pathlib import Path


def pages(folder: Path) -> dict[str, str | bytes]:
    """{path in the site: page or picture} of every notebook of a folder."""
    found: dict[str, str | bytes] = {}
    for path in sorted(folder.glob("*.ipynb")):
        parts, pictures = [], 0
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            text = "".join(cell["source"])
            parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
            for output in cell.get("outputs", ()):
                data = output.get("data", {})
                if "image/png" in data:
                    picture = f"{path.stem}_{pictures}.png"
                    pictures += 1
                    found[f"notebooks/{picture}"] = base64.b64decode(data["image/png"])
                    parts.append(f"![The figure that the lines above draw]({picture})")
                else:
                    printed = "".join(output.get("text") or data["text/plain"]).rstrip()
                    parts.append(f"```text\n{printed}\n```")
        note = f"*This page is the notebook `notebooks/{path.name}` of the repository, with what it printed and drew.*"
        found[f"notebooks/{path.stem}.md"] = "\n\n".join([parts[0], note, *parts[1:]]) + "\n"
    return found
