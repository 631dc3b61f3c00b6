"""Files of the repository that are also pages of the site: the READMEs of plugins, the results, and others."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from markdown_text import anchor

ROOT = Path(__file__).parents[2]

OTHERS = {
    "benchmarks/RESULTS.md": "numbers/results.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "README.md": "index.md",
    "docs": "index.md",
}
"""Files of the repository, and the pages that show them."""

COPIED = ("benchmarks/RESULTS.md", "CONTRIBUTING.md", "CHANGELOG.md")

_LINK = r"\[(?P<text>[^\]]*)\]\((?!https?:|#|mailto:)(?P<path>[^)#\s]+)(?P<part>#[^)\s]*)?\)"

_CODE_OR_LINK = re.compile(rf"^```.*?^```|^ {{4}}[^\n]*|(?P<link>{_LINK})|`[^`\n]*`", re.MULTILINE | re.DOTALL)
"""A block of code, a line of code, a link, or code within a line."""


def plugin_folders() -> list[Path]:
    """The folders of the plugins in the repository."""
    return sorted(path.parent for path in ROOT.glob("plugins/*/README.md"))


def copied_pages() -> dict[str, str]:
    """The text of each page, by its path."""
    pages = {"plugins/index.md": _plugin_index()}
    for folder in plugin_folders():
        pages[f"plugins/{folder.name}.md"] = _copy(folder / "README.md", f"plugins/{folder.name}.md")
    for source in COPIED:
        pages[OTHERS[source]] = _copy(ROOT / source, OTHERS[source])
    return pages


def copied_images() -> dict[str, Path]:
    """The images of the plugins' READMEs, by their paths on the site."""
    images = (path for folder in plugin_folders() for path in sorted(folder.glob("docs/*.png")))
    return {f"plugins/{path.parents[1].name}/{path.name}": path for path in images}


def page_of(path: str) -> str | None:
    """The page or file of the site that shows a file of the repository; None if there is none."""
    if path in OTHERS:
        return OTHERS[path]
    if path.startswith("configs/") and path.endswith(".yaml"):
        return f"reference/run-files.md#{anchor(path.removeprefix('configs/').removesuffix('.yaml'))}"
    if found := re.fullmatch(r"plugins/(kgen-plugin-[a-z-]+)(/README\.md)?", path):
        return f"plugins/{found[1]}.md"
    if found := re.fullmatch(r"plugins/(kgen-plugin-[a-z-]+)/docs/(.+)", path):
        return f"plugins/{found[1]}/{found[2]}"
    return path.removeprefix("docs/") if path.startswith("docs/") else None


def relinked(text: str, source: str, page: str) -> str:
    """Replaces the links to files of the repository by links to the pages of the site. Code is left as it is.

    If no page shows a file, only the text of the link remains.

    Args:
        text: The text of a file.
        source: The path of that file in the repository.
        page: The path of its page on the site.
    """

    def replaced(found: re.Match[str]) -> str:
        if found["link"] is None:
            return found[0]
        target = page_of(posixpath.normpath(posixpath.join(posixpath.dirname(source), found["path"])))
        if target is None:
            return found["text"]
        path, _, own = target.partition("#")
        part = found["part"] or (f"#{own}" if own else "")
        return f"[{found['text']}]({posixpath.relpath(path, posixpath.dirname(page))}{part})"

    return _CODE_OR_LINK.sub(replaced, text)


def _copy(source: Path, page: str) -> str:
    return relinked(source.read_text(encoding="utf-8"), source.relative_to(ROOT).as_posix(), page)


def _plugin_index() -> str:
    lines = ["# Plugins", "", "Each plugin is a distribution of its own: `pip install kgen-plugin-NAME`.", ""]
    for folder in plugin_folders():
        text = (folder / "README.md").read_text(encoding="utf-8")
        first = next(part for part in text.split("\n\n")[1:] if not part.startswith(("!", "    ", "#")))
        summary = re.sub(_LINK, r"\g<text>", re.split(r"[.:] (?=[A-Z])", " ".join(first.split()))[0]).rstrip(".:")
        lines += [f"- [{folder.name}]({folder.name}.md): {summary}."]
    return "\n".join(lines) + "\n"
