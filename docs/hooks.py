"""Links of the documents to the code: checked by tests, and led to the line of the symbol when pages are built.

In a document ``[`Segments.windows`](../../speechnar/decode/segments.py)`` names a file and, between backticks, a symbol
of it; methods stand behind their class.
"""

import ast
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://github.com/speechnar/speechnar/blob/main/"
LINK = re.compile(r"!?\[(?P<text>[^\]\[]*)\]\((?P<target>[^)\s]+)\)")
_FENCE = re.compile(r"^( *)(`{3,}|~{3,}).*?^\1\2[^\S\n]*$", re.DOTALL | re.MULTILINE)
_SYMBOL = re.compile(r"`([A-Za-z_][\w.]*)(?:\(\))?`")


@dataclass(frozen=True)
class Link:
    """A link of a document of this repository."""

    text: str
    target: str

    @property
    def symbol(self) -> str | None:
        """The symbol that a link to a Python file names; None if it names none."""
        match = _SYMBOL.fullmatch(self.text)
        is_code = self.target.endswith(".py") and match is not None and not self.text.strip("`").endswith(".py")
        return match[1] if match and is_code else None


def links(markdown: str) -> Iterator[Link]:
    """Yield the links and pictures of a document that do not stand in code."""
    for match in LINK.finditer(_FENCE.sub("", markdown)):
        yield Link(match["text"], match["target"])


@lru_cache
def lines_of(path: Path) -> dict[str, int]:
    """Return the line of each class, function, method, field and constant of a Python file."""
    found: dict[str, int] = {}

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found.setdefault(prefix + child.name, child.lineno)
                if isinstance(child, ast.ClassDef):
                    visit(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.Assign | ast.AnnAssign):
                for target in child.targets if isinstance(child, ast.Assign) else [child.target]:
                    if isinstance(target, ast.Name):
                        found.setdefault(prefix + target.id, child.lineno)

    visit(ast.parse(path.read_text(encoding="utf-8")), "")
    return found


def line_of(path: Path, symbol: str) -> int | None:
    """Return where ``symbol`` is defined in a file, None if nowhere."""
    return lines_of(path).get(symbol.removeprefix(f"{path.stem}."))


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Lead links that leave docs/ to the repository, those of symbols to their lines."""
    folder = posixpath.dirname(page.file.src_uri)

    def lead(match: re.Match[str]) -> str:
        link = Link(match["text"], match["target"])
        path = posixpath.normpath(posixpath.join("docs", folder, link.target.partition("#")[0]))
        if "://" in link.target or path.startswith("docs/") or link.target.startswith(("#", "mailto:")):
            return match[0]
        line = line_of(ROOT / path, link.symbol) if link.symbol else None
        return (
            f"{'!' if match[0].startswith('!') else ''}[{link.text}]({REPOSITORY}{path}{f'#L{line}' if line else ''})"
        )

    return LINK.sub(lead, markdown)
