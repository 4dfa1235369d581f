"""README and docs name every folder, link to files that exist, and hold commands that parse."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MAX_README_LINES = 130
BLOCK, INLINE = re.compile(r"^```\n(.*?)^```", re.M | re.S), re.compile(r"`([^`\n]+)`")


def commands(page: Path) -> list[list[str]]:
    """Commands of code blocks and of inline code, as words, without comments and continuation lines."""
    text = page.read_text()
    lines = [line for block in BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    lines += INLINE.findall(BLOCK.sub("", text))
    starts = ("python jobs/", "ray job submit", "make ", "serve deploy", "ray start --head &&")
    return [shlex.split(line, comments=True) for line in lines if line.startswith(starts)]


COMMANDS = [(page.name, words) for page in PAGES for words in commands(page)]


def test_readme_is_short_and_names_every_folder() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= MAX_README_LINES
    sources = [path for room in ("platform", "models", "jobs", "serve") for path in (ROOT / room).rglob("*.py")]
    folders = {path.parent.relative_to(ROOT) for path in sources}
    pages = "".join(page.read_text() for page in PAGES)
    assert not [str(folder) for folder in folders if f"{folder}/" not in pages]
    assert not [str(folder) for folder in folders if len(folder.parts) == 1 and f"{folder}/" not in readme]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_point_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    local = [target for target in targets if not target.startswith("http")]
    assert not [target for target in local if not (page.parent / target).exists()]


@pytest.mark.parametrize("page, words", COMMANDS, ids=[f"{page}: {shlex.join(words)}" for page, words in COMMANDS])
def test_commands_parse(page: str, words: list[str]) -> None:
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M)
        return
    if words[0] in ("serve", "ray") and "--" not in words:
        assert (ROOT / words[-1]).is_file()
        return
    words = words[words.index("python") + 1 :]
    assert (ROOT / words[0]).is_file()
    job = Path(words[0]).stem
    module = "fireedit.jobs.training.recipe" if job == "train" else f"fireedit.jobs.{job}"
    parser = importlib.import_module(module).build_parser()
    subcommands = any(action.nargs == "A..." for action in parser._actions)
    if "--help" in words:
        assert parser.format_help()
    elif subcommands:
        parser.parse_args(words[1:])
    else:
        parser.parse_intermixed_args(words[1:])
