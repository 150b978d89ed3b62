"""The front door: the two commands of README.md.

Its Python blocks run as tests of their own (see conftest.py); its test command is what `.ci/run`
runs.  Here: that the commands stand there, alone and complete, and that hatch knows them.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETUP = "python3 -m venv .venv && .venv/bin/pip install hatch && .venv/bin/hatch run "


def shell_commands() -> list[str]:
    """The lines of the first ```sh block."""
    block = re.search(r"(?ms)^```sh\n(.*?)^```$", (ROOT / "README.md").read_text())
    assert block, "README.md has no ```sh block"
    return block.group(1).splitlines()


def menu() -> dict[str, str]:
    """What `hatch run` can be asked for in the default environment."""
    return tomllib.loads((ROOT / "hatch.toml").read_text())["envs"]["default"]["scripts"]


def test_two_commands_lead_from_a_clone_to_verse_and_to_tests():
    assert shell_commands() == [SETUP + "train-shakespeare", SETUP + "test"]


def test_every_hatch_command_in_a_document_is_on_the_menu():
    documents = [
        *ROOT.glob("*.md"),
        *ROOT.glob("packages/*/*.md"),
        *ROOT.glob("packages/*/docs/*.md"),
    ]
    for path in documents:
        for name in re.findall(r"hatch run ([a-z][\w-]*)(?![\w:.-])", path.read_text()):
            assert name in menu(), f"{path} speaks of `hatch run {name}`"


def test_paths_on_the_menu_are_in_quotes_for_folders_with_a_blank():
    text = re.sub(r"(?m)^ *#.*", "", (ROOT / "hatch.toml").read_text())
    named = re.findall(r"\S*\{(?:root|env:HATCH_UV|env:VIRTUAL_ENV)\}\S*", text)
    assert len(named) > 10
    for word in named:
        assert re.fullmatch(r"[\w= ']*\"[^\" ]+\"[^\" ]*", word), f"{word} is not in quotes"


def test_what_the_menu_runs_exists():
    for name, commands in menu().items():
        for path in re.findall(r"\{root\}/([\w/.-]+)", str(commands)):
            assert (ROOT / path).exists(), f"`hatch run {name}` needs {path}"
