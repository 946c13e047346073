"""Runs the notebooks in this folder, and stores the outputs in their files.

    python docs/notebooks/run_notebooks.py

The code cells of a notebook run in plain Python, in this folder and in one namespace. The outputs of a cell are the
text that it prints, and the value of its last expression: a picture as JPEG, an object's HTML, or its text. A cell with
the tag `needs-NAME` keeps its outputs if the package NAME is not installed.
"""

import ast
import base64
import contextlib
import io
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
NEEDS = "needs-"

Cell = dict[str, Any]
"""A cell of a notebook, in nbformat 4.5."""


def read(path: Path) -> dict[str, Any]:
    """Return the document of a notebook."""
    document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return document


def run_cells(notebook: dict[str, Any]) -> Iterator[tuple[Cell, list[Cell]]]:
    """Run the code cells of a notebook in the current folder; yields each cell and its new outputs."""
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, 1):
        if all(find_spec(name) for name in needs(cell)):
            yield cell, _outputs("".join(cell["source"]), names, number)


def needs(cell: Cell) -> list[str]:
    """Return the packages that a cell needs beside those of fullconv."""
    return [tag.removeprefix(NEEDS) for tag in cell["metadata"].get("tags", []) if tag.startswith(NEEDS)]


def _outputs(code: str, names: dict[str, Any], number: int) -> list[Cell]:
    """Run a cell; returns its outputs."""
    tree, value = ast.parse(code), None
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, f"cell {number}", "exec"), names)  # noqa: S102 (our own notebook)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)  # noqa: S307
    outputs: list[Cell] = []
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        outputs.append({"name": "stdout", "output_type": "stream", "text": text})
    if value is not None:
        data = {"data": _shown(value), "execution_count": number, "metadata": {}, "output_type": "execute_result"}
        outputs.append(data)
    return outputs


def _shown(value: Any) -> dict[str, Any]:  # noqa: ANN401 (whatever a cell ends with)
    """Return a value as data by media type."""
    text = {"text/plain": repr(value).splitlines(keepends=True)}
    if hasattr(value, "_repr_html_"):
        return {"text/html": value._repr_html_().splitlines(keepends=True), **text}
    if hasattr(value, "_repr_jpeg_"):
        return {"image/jpeg": base64.b64encode(value._repr_jpeg_()).decode()}
    return text


def main() -> None:
    """Run the notebooks, and write their files."""
    with contextlib.chdir(FOLDER):
        for path in sorted(FOLDER.glob("*.ipynb")):
            notebook = read(path)
            for number, (cell, outputs) in enumerate(run_cells(notebook), 1):
                cell.update(outputs=outputs, execution_count=number)
            path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    main()
