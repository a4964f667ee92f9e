"""What README.md and docs/ say works: their code is run, their commands are parsed and resolved, their files exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from ungated.lab import compare
from ungated.lab.cli import app, main
from ungated.lab.commands.options import name_and_settings
from ungated.lab.reports.documents import PARTS, begin, with_tables
from ungated.lab.reports.measured import comparison
from ungated.lab.reports.records import by_settings, load_results
from ungated.lab.reports.study_summary import studies_page
from ungated.lab.training.recipe import load_recipe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

#: Commands that are run as they stand: they need no data that is not built in, and take seconds.
RUN_AS_THEY_STAND = ("ungated data list", "ungated report")


def blocks(language: str) -> list[str]:
    """The fenced code of one language, from all pages."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [block for page in PAGES for block in pattern.findall(page.read_text(encoding="utf-8"))]


def shell_lines() -> list[str]:
    """Every command of the sh blocks, and of the README's table of commands."""
    lines = [line.partition("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    lines = [re.sub(r"^(?:[A-Z_]+=\S+ )+", "", line) for line in lines]  # settings of the environment
    lines += re.findall(r"^\| `(ungated [^`]*)`", README, re.MULTILINE)
    lines += [f"ungated {words}" for words in re.findall(r"-m ungated ([^`]*)`", README)]
    return [*filter(None, lines)]


def lines_of(program: str) -> list[str]:
    return sorted({line for line in shell_lines() if line.split()[0] == program})


def test_no_command_is_of_a_kind_that_nothing_checks() -> None:
    assert {line.split()[0] for line in shell_lines()} == {"make", "pip", "ungated"}


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.splitlines()[0])
def test_python_runs(block: str, tmp_path: Path) -> None:
    script = tmp_path / "readme.py"
    script.write_text(block, encoding="utf-8")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def parsed(line: str) -> tuple[str, dict[str, Any]]:
    """The command's name and its arguments, as the command line reads them; nothing is run."""
    command: Any = typer.main.get_command(app)
    context: Any = None
    words, name = shlex.split(line)[1:], "ungated"
    while hasattr(command, "commands"):
        context = command.make_context(name, list(words), parent=context)
        name, words = words[0], words[1:]
        assert name in command.commands, f"{line}: there is no command {name}"
        command = command.commands[name]
    return name, command.make_context(name, words, parent=context).params


@pytest.mark.parametrize("line", lines_of("ungated"))
def test_ungated_commands_are_understood(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, arguments = parsed(line)
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text("What a person reads here is tried. " * 20, encoding="utf-8")
    own = {kind: arguments.get(kind) for kind in ("text", "midi", "csv")}
    if name in ("train", "show"):
        dataset, settings = name_and_settings(arguments["words"], **own)
        if dataset is not None:
            load_recipe(dataset, arguments["cell"], settings)
    if name == "compare":
        for block in blocks("python"):
            if named := re.match(r"# (\w+\.py)\n", block):
                Path(named[1]).write_text(block, encoding="utf-8")
        dataset, settings = name_and_settings(arguments["words"])
        assert dataset is not None
        if arguments["parameters"] is not None:
            settings.append(f"model.parameters={arguments['parameters']}")
        plan = compare.plan(dataset, arguments["cells"] or (), overrides=settings)
        assert len({recipe.model.parameters for recipe in plan.recipes}) == 1


@pytest.mark.parametrize("line", RUN_AS_THEY_STAND)
def test_light_commands_run(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line in lines_of("ungated")
    monkeypatch.chdir(tmp_path)  # it may write here, and reads what the repository keeps
    Path("results").symlink_to(ROOT / "results")
    assert main(shlex.split(line)[1:]) == 0
    assert capsys.readouterr().out.strip()


def test_the_table_has_every_command() -> None:
    command: Any = typer.main.get_command(app)
    ours = {
        f"{name} {inner}" if hasattr(sub, "commands") else name
        for name, sub in command.commands.items()
        for inner in getattr(sub, "commands", [""])
    }
    shown = {" ".join(line.split()[1:3]) for line in lines_of("ungated")}
    for entry in ours:
        assert any(line == entry or line.split()[0] == entry for line in shown), f"README lacks ungated {entry}"


@pytest.mark.parametrize("line", lines_of("make"))
def test_make_knows_its_targets(line: str) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(
        ["make", "--dry-run", *line.split()[1:]], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", lines_of("pip"))
def test_pip_installs_what_there_is(line: str) -> None:
    import tomllib

    words = shlex.split(line)
    assert words[:2] == ["pip", "install"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for word in words[2:]:
        if named := re.fullmatch(r"\.\[(.*)\]", word):
            assert set(named[1].split(",")) <= set(extras)
        elif not word.startswith("-"):
            assert (ROOT / word).exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [target for target in re.findall(r"\]\(([^)#]+)", text) if "://" not in target]
    tree = re.findall(r"^((?:src|docs|results|tests)/\S*)  ", text, re.MULTILINE)
    named = re.findall(r"`((?:src|docs|tests)/[a-z_/.]+)`", text)
    for target in (*links, *tree, *named):
        place = page.parent if target in links else ROOT
        assert (place / target).exists(), f"{page.name} names {target}"


WITH_TABLES = [page for page in PAGES if any(begin(part) in page.read_text(encoding="utf-8") for part in PARTS)]


@pytest.mark.parametrize("page", WITH_TABLES, ids=lambda page: page.name)
def test_tables_are_what_the_files_say(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert with_tables(text, ROOT / "results", ROOT / "benchmarks") == text, "run: make tables"


def test_a_row_that_differs_from_what_is_published_is_explained() -> None:
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    found = [comparison(group) for group in by_settings(load_results(ROOT / "results").values())]
    missing = {row.name for row in found if row.beyond and f"- **{row.name}**" not in text}
    assert not missing, "docs/results.md should say in a line each why they differ"


def test_page_of_studies_is_what_the_files_say() -> None:
    page = (ROOT / "results" / "studies" / "README.md").read_text(encoding="utf-8")
    assert studies_page(ROOT / "results") == page, "run: ungated report STUDY --collect"
