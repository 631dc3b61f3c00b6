"""A hook of MkDocs that adds the pages that are written from the code: components, commands and run files.

It also lists plugins, components and the pages of the lecture in the navigation, and shows the lecture's formulas.
"""

from __future__ import annotations

from typing import Any

from kgen.backend.selection import load_backend

load_backend()  # before the modules that import Keras

from command_page import command_page  # noqa: E402
from component_pages import FOLDER, component_pages  # noqa: E402
from copied_pages import ROOT, copied_images, copied_pages, plugin_folders, relinked  # noqa: E402
from formulas import with_mathml  # noqa: E402
from python_page import python_page  # noqa: E402
from run_file_page import run_file_pages  # noqa: E402

from kgen.plugins.discovery import registry  # noqa: E402
from kgen.plugins.registry import KINDS  # noqa: E402

LANGUAGES = {"English": "en", "中文": "zh"}
"""The languages of the lecture, and their folders in `docs/lecture/`."""


def generated_pages() -> dict[str, str]:
    """The text of every generated page, by its path in the documentation."""
    return component_pages() | command_page() | run_file_pages() | python_page() | copied_pages()


def on_config(config: Any) -> Any:
    """Lists the plugins, the kinds of components and the pages of the lecture in the navigation."""
    spaces = sorted({kind.origin.namespace for kind in registry().kinds.values()})
    kinds = [{f"{kind.capitalize()}s": f"{FOLDER}/{kind}.md"} for kind in KINDS]
    parts = [{f"Parts of {name}": f"{FOLDER}/of-{name}.md"} for name in spaces]
    plugins = [{folder.name: f"plugins/{folder.name}.md"} for folder in plugin_folders()]
    lists: dict[str, Any] = {
        "Plugins": ["plugins/index.md", *plugins],
        "Components": [f"{FOLDER}/index.md", *kinds, *parts],
        "Lecture": ["lecture/index.md", *({title: _lecture(folder)} for title, folder in LANGUAGES.items())],
    }
    _fill(config["nav"], lists)
    return config


def _lecture(language: str) -> list[str]:
    return sorted(path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob(f"docs/lecture/{language}/*.md"))


def _fill(nav: Any, lists: dict[str, Any]) -> None:
    """Replaces the entries of the navigation that are in `lists`."""
    for entry in nav:
        for title, below in entry.items() if isinstance(entry, dict) else ():
            if title in lists:
                entry[title] = lists[title]
            elif isinstance(below, list):
                _fill(below, lists)


def on_files(files: Any, config: Any) -> Any:
    """Adds the generated pages."""
    from mkdocs.structure.files import File

    for path, text in generated_pages().items():
        files.append(File.generated(config, path, content=text))
    for path, image in copied_images().items():
        files.append(File.generated(config, path, abs_src_path=str(image)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Makes the links of a page in `docs/` to other files of the repository lead to the pages that show these.

    On the pages of the lecture, it also replaces formulas by MathML.
    """
    own = page.file.src_uri
    if page.file.generated_by:
        return markdown
    text = relinked(markdown, f"docs/{own}", own)
    return with_mathml(text) if own.startswith("lecture/") else text
