"""What the site is made of beside the pages of docs/: a page of every room's functions, and the notebooks.

    pip install 'ldm_jax[docs]' && mkdocs build --strict

A page api/ROOM.md has the signature and the docstring of each public function and class of the room's files, read from
their source: nothing is imported. Links to files of the repository beside docs/ lose their address, since the site has
no such files.
"""

import ast
import json
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE, NOTEBOOKS = ROOT / "ldm_jax", ROOT / "docs" / "notebooks"
ELSEWHERE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+[^)]+\)")  # a link that leaves docs/
FENCE = "~~~~"  # around docstrings, some of which hold ```


def on_files(files, config):
    """Adds the generated pages."""
    for name, text in (api() | notebooks()).items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    return ELSEWHERE.sub(r"\1", markdown.replace(".ipynb)", ".md)"))


def rooms() -> dict[str, list[Path]]:
    """{room: its files}, the loose ones of the package first, under ''."""
    found = {"": sorted(PACKAGE.glob("*.py"))}
    for folder in sorted({file.parent for file in PACKAGE.rglob("*.py")} - {PACKAGE}):
        found[str(folder.relative_to(PACKAGE))] = sorted(folder.glob("*.py"))
    return found


def api() -> dict[str, str]:
    """{'api/ROOM.md': its text} of every room, and of their list."""
    pages, listed = (
        {},
        ["# Reference", "", "Every public function and class, by room ([architecture](../architecture.md))."],
    )
    for room, files in rooms().items():
        name = room.replace("/", ".") or "root"
        pages[f"api/{name}.md"] = "\n".join(
            [f"# ldm_jax{'.' + name if room else ''}", "", *map(of_file, files)]
        )
        start = PACKAGE / room / "__init__.py"
        about = (ast.get_docstring(ast.parse(start.read_text())) if start.exists() else "") or ""
        listed.append(f"- [{name}]({name}.md): {' '.join(about.split(chr(10) + chr(10))[0].split())}")
    return pages | {"api/index.md": "\n".join([*listed[:3], "", *listed[3:]]) + "\n"}


def of_file(path: Path) -> str:
    """A section: the docstring of a module, and of each of its public functions, classes and their methods."""
    tree = ast.parse(path.read_text())
    parts = [f"## {path.stem}", "", quoted(ast.get_docstring(tree) or "")]
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        parts += [f"### {path.stem}.{node.name}", "", quoted(signature(node) + said(node))]
        for inner in node.body if isinstance(node, ast.ClassDef) else ():
            if (
                isinstance(inner, ast.FunctionDef)
                and not inner.name.startswith("_")
                and ast.get_docstring(inner)
            ):
                parts.append(quoted(signature(inner) + said(inner)))
    return "\n".join(parts)


def signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    """'def name(arguments) -> …', 'class name(bases)'."""
    if isinstance(node, ast.ClassDef):
        return f"class {node.name}({', '.join(map(ast.unparse, node.bases))})".replace("()", "")
    returned = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"def {node.name}({ast.unparse(node.args)}){returned}"
    return line if len(line) <= 100 else line.replace(", ", ",\n    ")


def said(node: ast.FunctionDef | ast.ClassDef) -> str:
    text = ast.get_docstring(node)
    return f"\n\n{text}" if text else ""


def quoted(text: str) -> str:
    return f"{FENCE}text\n{text}\n{FENCE}\n" if text else ""


def notebooks() -> dict[str, str]:
    """{'notebooks/NAME.md': its cells, with the texts that they printed}; pictures lie in the notebook alone."""
    return {f"notebooks/{path.stem}.md": of_notebook(path) for path in sorted(NOTEBOOKS.glob("*.ipynb"))}


def of_notebook(path: Path) -> str:
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            text = "".join(output.get("text", output.get("data", {}).get("text/plain", "")))
            picture = output.get("data", {}).get("image/png")
            if picture:
                parts.append(
                    f'<img src="data:image/png;base64,{"".join(picture).strip()}" alt="what the cell draws">'
                )
            elif text.strip():
                parts.append(quoted(text.rstrip()))
    return "\n\n".join(parts) + "\n"
