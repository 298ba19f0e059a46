"""The documents are true: links lead somewhere, symbols exist, snippets run, the README stays one screen."""

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from docs import hooks
from speechnar.cli import main as cli

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAPERS = sorted((ROOT / "docs/papers").glob("*.md"))
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]
BLOCK = re.compile(r"(?:<!-- not run: (?P<reason>[^>]+) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Snippet:
    page: Path
    language: str
    code: str
    reason: str | None
    """Why it is not run."""


def snippets_of(page: Path) -> list[Snippet]:
    text = page.read_text(encoding="utf-8")
    return [Snippet(page, m["language"], m["code"], m["reason"]) for m in BLOCK.finditer(text)]


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page):
    for link in hooks.links(page.read_text(encoding="utf-8")):
        if "://" in link.target:
            assert link.target.startswith("https://"), link
            continue
        path, _, anchor = link.target.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists() and target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors_of(target), link
        if link.symbol:
            assert hooks.line_of(target, link.symbol), f"{link.target} defines no {link.symbol}"


@pytest.mark.parametrize("page", PAPERS, ids=lambda page: page.stem)
def test_a_paper_is_mapped_to_symbols_in_order(page):
    text = page.read_text(encoding="utf-8")
    symbols = [link for link in hooks.links(text) if link.symbol]
    assert len(symbols) >= 15 and "## Differences" in text
    table = text.partition("| --- |")[2].partition("\n\n")[0]
    keys = [section_key(row.split("|")[1]) for row in table.splitlines()[1:]]
    numbered = [key for key in keys if key]
    assert numbered == sorted(numbered), "sections stand in the paper's order"


def section_key(cell: str) -> tuple[int, ...]:
    """Return III-B2 as (3, 2, 2), 2.3 as (2, 3), and nothing of other names."""
    first = re.match(r"\s*(?:(I{1,3}|IV|V)(?:-([A-F])(\d)?)?|(\d)(?:\.(\d))?)(?=[ ,|]|$)", cell)
    if not first:
        return ()
    roman, letter, number, major, minor = first.groups()
    if major:
        return (int(major), int(minor or 0))
    return (("I", "II", "III", "IV", "V").index(roman) + 1, ord(letter or "@") - ord("@"), int(number or 0))


def test_error_based_sampling_is_found_at_once():
    head = (ROOT / "docs/papers/cass-nat.md").read_text(encoding="utf-8")[:1500]
    assert "**Error-based sampling alignment** is [`sample_segments`](../../speechnar/decode/esa.py)" in head


def test_every_page_is_in_the_navigation():
    # Theme and plugins are not needed to read it.
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

    def pages(entry) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        for below in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
            yield from pages(below)

    assert sorted(pages(config["nav"])) == sorted(
        path.relative_to(ROOT / "docs").as_posix() for path in PAGES if path.is_relative_to(ROOT / "docs")
    )


def test_a_symbol_has_its_line():
    path = ROOT / "docs/hooks.py"
    line = hooks.line_of(path, "Link.symbol")
    assert path.read_text(encoding="utf-8").splitlines()[line - 1].strip() == "def symbol(self) -> str | None:"
    assert hooks.line_of(path, "hooks.LINK") and not hooks.line_of(path, "absent")
    page = argparse.Namespace(file=argparse.Namespace(src_uri="papers/x.md"))
    led = hooks.on_page_markdown(
        "[`errors.py`](../../speechnar/errors.py) [`AudioError`](../../speechnar/errors.py) [here](x.md)", page=page
    )
    line = hooks.line_of(ROOT / "speechnar/errors.py", "AudioError")
    url = f"{hooks.REPOSITORY}speechnar/errors.py"
    assert led == f"[`errors.py`]({url}) [`AudioError`]({url}#L{line}) [here](x.md)"


def test_the_readme_is_one_screen():
    text = README.read_text(encoding="utf-8")
    assert len(text.encode()) < 6000 and text.count("\n") < 110
    examples = [snippet.code for snippet in snippets_of(README) if snippet.language == "python"]
    assert len(examples) == 4 and all(len(code.splitlines()) <= 4 for code in examples)


# Snippets.

MAKE_TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def commands_of(snippet: Snippet) -> list[list[str]]:
    lines = snippet.code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


SHELL = [s for page in PAGES for s in snippets_of(page) if s.language in ("sh", "bash")]
PYTHON_PAGES = [page for page in PAGES if any(s.language == "python" and not s.reason for s in snippets_of(page))]
SHELL_PAGES = [page for page in PAGES if any(s.page == page and not s.reason for s in SHELL)]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_exist(page):
    """Those of ours with these options; others are make's targets, extras that pip knows, files that are there."""
    folder = ROOT
    for snippet in (s for s in SHELL if s.page == page):
        for program, *arguments in commands_of(snippet):
            if program == "speechnar":
                cli.parse_arguments(cli.build_parser(arguments), arguments)
            elif program == "make":
                assert set(arguments) <= MAKE_TARGETS
            elif program == "cd":
                folder = ROOT / arguments[0]
                assert folder.is_dir()
            elif program.startswith("./"):
                assert (folder / program).is_file()
            elif program == "python":
                assert (ROOT / f"{arguments[1].replace('.', '/')}.py").is_file()
            elif program == "pip":
                check_extras(arguments[-1])
            else:
                assert program in (".venv/bin/pre-commit", "git"), program


def check_extras(requirement: str) -> None:
    match = re.fullmatch(r"\.(?:\[([\w,]+)\])?", requirement)
    assert match, requirement
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in (match[1] or "").split(","):
        assert not extra or re.search(rf"^{extra} = \[", text, re.MULTILINE), extra


def test_what_is_not_run_says_why():
    for page in PAGES:
        for snippet in snippets_of(page):
            assert snippet.language in ("python", "sh", "bash", "text", "yaml", "") and snippet.reason != ""
            for path in re.findall(r"tests/[\w./]+", snippet.reason or ""):
                assert (ROOT / path).exists(), f"{page.name}: {path}, which is said to run it, does not exist"
            if snippet.language == "python":
                compile(snippet.code, str(page), "exec")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    """A folder with the recordings that the documents name, spoken by the shipped voices."""
    from speechnar import Synthesizer

    folder = tmp_path_factory.mktemp("recordings")
    talk = Synthesizer.load("ljspeech-tts", device="cpu").synthesize("Hello there. How are you today?", seed=7)
    for name in ("talk.flac", "talk.wav"):
        talk.save(folder / name)
    Synthesizer.load("fsdd-tts", device="cpu").synthesize("four two seven", seed=7).save(folder / "reference.wav")
    return folder


@pytest.fixture
def beside(recordings, tmp_path, monkeypatch) -> Path:
    for path in recordings.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow  # with the shipped models, as a reader gets them
@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.name)
def test_python_runs(page, beside, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    names: dict[str, object] = {"__name__": page.stem}
    for snippet in snippets_of(page):
        if snippet.language == "python" and not snippet.reason:
            exec(compile(snippet.code, str(page), "exec"), names)


@pytest.mark.slow  # likewise
@pytest.mark.parametrize("page", SHELL_PAGES, ids=lambda page: page.name)
def test_commands_run(page, beside, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for snippet in (s for s in SHELL if s.page == page and not s.reason):
        for program, *arguments in commands_of(snippet):
            if program == "speechnar":
                assert cli.main([*arguments, "-q"]) == 0, (arguments, capsys.readouterr().err)


@pytest.mark.slow  # needs the extra docs, which the rest does without
def test_pages_are_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert "decode/esa.py#L" in (tmp_path / "papers/cass-nat/index.html").read_text(encoding="utf-8")
