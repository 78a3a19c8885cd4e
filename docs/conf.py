"""How Sphinx builds the pages and the API: `make docs`, into build/docs, with warnings as errors.

Docstrings are plain text with `code` in single backticks and indented blocks; `to_rst` makes reStructuredText of that.
Before anything is read, docs/_generated (which git ignores) gets an API page for each package, and the pages that lie
elsewhere, with their links changed to fit.
"""

import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GENERATED = ROOT / "docs" / "_generated"
OUTSIDE = {ROOT / f"{name}.md": name for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")} | {
    ROOT / "infra" / "README.md": "infra",
    ROOT / "infra" / "tracking" / "README.md": "infra_tracking",
    ROOT / "infra" / "s3" / "README.md": "infra_s3",
}
"""Pages that do not lie in docs, with the names of their copies."""
LITERAL = re.compile(r" {2,}\S|.*\S {4,}\S")
"""A line of a docstring that is laid out by hand: indented, or in columns."""
sys.path.insert(0, str(ROOT))

import pipelines  # noqa: E402, F401  sets the variables of MLflow and Ray

project = "MPC"
author = copyright = "the MPC authors"
extensions = ["sphinx.ext.autodoc", "myst_parser"]
exclude_patterns = ["experiments/*.yaml"]
highlight_language = "text"
html_theme = "alabaster"
html_theme_options = {"description": "Image forgery localization at scale", "page_width": "1100px"}
html_copy_source = False
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_inherit_docstrings = False
autodoc_default_options = {"members": True, "show-inheritance": True, "exclude-members": "model_config"}
python_use_unqualified_type_names = True
os.environ.setdefault("OMP_NUM_THREADS", "1")


def _modules() -> dict[str, Path]:
    """The modules of the project, by docs/layers.py."""
    spec = importlib.util.spec_from_file_location("layers", ROOT / "docs" / "layers.py")
    assert spec
    assert spec.loader
    layers: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(layers)
    names: dict[str, Path] = layers.modules()
    return names


def write_pages() -> None:
    """Write the generated pages. A file that is current is left alone, so that Sphinx need not read it again."""
    packages: dict[str, list[str]] = {}
    for name, file in _modules().items():
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        packages.setdefault(package, []).append(name)
    texts = {"api.rst": _title("API") + "\n.. toctree::\n\n" + "".join(f"   {name}\n" for name in sorted(packages))}
    for package, names in packages.items():
        parts = [_title(package) if name == package else _title(name, "-") for name in sorted(names)]
        directives = [f"\n.. automodule:: {name}\n\n" for name in sorted(names)]
        texts[f"{package}.rst"] = "".join(
            f"{part}{directive}" for part, directive in zip(parts, directives, strict=True)
        )
    for page, name in OUTSIDE.items():
        texts[f"{name}.md"] = relinked(page.read_text(), page.parent)
    GENERATED.mkdir(exist_ok=True)
    for stale in {*GENERATED.iterdir()} - {GENERATED / name for name in texts}:
        stale.unlink()
    for name, text in texts.items():
        file = GENERATED / name
        if not file.exists() or file.read_text() != text:
            file.write_text(text)


def relinked(text: str, folder: Path) -> str:
    """A page of a folder with its links to other pages and files leading to where Sphinx finds them."""

    def link(match: re.Match[str]) -> str:
        target, mark, anchor = match[2].partition("#")
        file = (folder / target).resolve()
        if not target or not file.is_file():
            return match[0]
        inside = file.is_relative_to(ROOT / "docs")
        place = f"/{file.relative_to(ROOT / 'docs')}" if inside else os.path.relpath(file, GENERATED)
        return f"{match[1]}{f'/_generated/{OUTSIDE[file]}.md' if file in OUTSIDE else place}{mark}{anchor}"

    return re.sub(r"(\]\()([^)\s]+)", link, text)


def _title(text: str, line: str = "=") -> str:
    return f"{text}\n{line * len(text)}\n"


def to_rst(lines: list[str]) -> list[str]:
    """A docstring as reStructuredText: code in backticks as literals, what is laid out by hand as literal blocks."""
    out: list[str] = []
    block = False
    for number, line in enumerate(lines):
        following = next((later for later in lines[number:] if later.strip()), "")
        if block and not LITERAL.match(following):
            out.append("")
            block = False
        if LITERAL.match(line) and not block:
            out += ["", "::", ""]
            block = True
        out.append(f"    {line}" if block and line.strip() else _inline(line))
    return out


def _inline(line: str) -> str:
    """One line of prose: code as literals, and what reStructuredText would take for markup as it stands."""
    parts = line.split("`")
    for index, part in enumerate(parts):
        if index % 2 and index < len(parts) - 1 and part.strip() == part and part:
            parts[index] = f"``{part}``"
        else:
            tick = r"\`" if index % 2 else ""
            parts[index] = tick + re.sub(r"([*_|\\])", r"\\\1", part)
    return "".join(parts)


def _docstring(app: Any, what: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    if name.startswith(("mpc_model", "pipelines")):
        lines[:] = to_rst(lines)


def _source(app: Any, name: str, content: list[str]) -> None:
    if not name.startswith("_generated/"):
        content[0] = relinked(content[0], (ROOT / "docs" / name).parent)


def setup(app: Any) -> None:
    """What Sphinx calls first."""
    import mlflow.pyfunc  # noqa: F401  autodoc would import it with TYPE_CHECKING set, which it does not bear

    write_pages()
    app.connect("autodoc-process-docstring", _docstring)
    app.connect("source-read", _source)
