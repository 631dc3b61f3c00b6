"""The pages of the documentation, and the examples on them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md"), *ROOT.glob("plugins/*/README.md")],
    key=lambda path: path.relative_to(ROOT).as_posix(),
)
"""All pages that are written by hand."""


def name_of(path: Path) -> str:
    """The path of a page in the repository."""
    return path.relative_to(ROOT).as_posix()


def read_page(name: str) -> str:
    """The text of a page, by its path in the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yields the language and the code of every block of a page. An indented block has the language "indented"."""
    language, lines = "", []
    for line in [*text.splitlines(), ""]:
        fence = re.fullmatch(r"```(\w*)", line)
        indented = line.startswith("    ") and language in ("", "indented")
        if language not in ("", "indented"):
            if fence:
                yield language, "".join(f"{line}\n" for line in lines)
                language, lines = "", []
            else:
                lines.append(line)
        elif indented:
            language = "indented"
            lines.append(line[4:])
        else:
            if lines:
                yield language, "".join(f"{line}\n" for line in lines)
            language, lines = (fence[1] or "text" if fence else ""), []


def examples(text: str, language: str, part: str = "") -> list[str]:
    """The blocks of a language on a page that contain a text."""
    return [block for found, block in blocks(text) if found == language and part in block]


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```|^ {4}.*?$", "", text, flags=re.DOTALL | re.MULTILINE)


def commands(text: str) -> Iterator[list[str]]:
    """Yields the arguments of every `kgen` in the blocks of commands of a page."""
    for language, block in blocks(text):
        line = ""
        for part in block.replace("\\\n", " ").splitlines() if language in ("indented", "sh", "bash") else ():
            line = f"{line} {part}" if line else re.sub(r"(^|\s)#\s.*", "", part)
            if not re.search(r"\bkgen ", line) or re.match(r"(error|from|import|def)\b", line):
                line = ""
            elif line.count("'") % 2 == line.count('"') % 2 == 0:  # else a quoted argument goes on in the next line
                lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
                lexer.whitespace_split = True
                yield from _split(list(lexer))
                line = ""


def _split(words: list[str]) -> Iterator[list[str]]:
    """Yields the arguments of every `kgen` in a line of the shell."""
    rest = words
    while rest:
        end = next((at for at, word in enumerate(rest) if word and set(word) <= set(";&|")), len(rest))
        command = [word for word in rest[:end] if word != "do" and not re.fullmatch(r"[A-Z_]+=.*", word)]
        if command and Path(command[0]).name == "kgen":
            yield command[1:]
        rest = rest[end + 1 :]
