"""The recipes of CONTRIBUTING.md: each is a change, applied to a copy and tested there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "tests" / "recipes"
FILES = {"activation": 5, "family": 3, "optimiser": 5, "sampler": 2}  # its test is one of them


def changed(recipe: str) -> list[str]:
    """The files that a recipe writes or changes."""
    return re.findall(r"(?m)^\+\+\+ b/(\S+)", (RECIPES / f"{recipe}.diff").read_text("utf-8"))


@pytest.mark.parametrize("recipe", FILES)
def test_a_recipe_is_applied_and_its_test_passes(recipe, tmp_path):
    shutil.copy(ROOT / "ARCHITECTURE.md", tmp_path)
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "packages", tmp_path / "packages", ignore=skipped)
    # -C1: of what is around a change one line has to be as it was.
    command = ["git", "apply", "-C1", str(RECIPES / f"{recipe}.diff")]
    # A copy below another repository would be taken for a part of it.
    alone = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    applied = subprocess.run(command, cwd=tmp_path, env=alone, capture_output=True, text=True)
    assert applied.returncode == 0, applied.stderr
    [test] = [path for path in changed(recipe) if "/tests/" in path]
    sources = [str(path) for path in sorted(tmp_path.glob("packages/*/src"))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sources), "NUMBA_DISABLE_JIT": "1"}
    environment.pop("CI", None)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", "-c", os.devnull, test],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_recipe_is_told_with_the_number_of_files_that_it_touches():
    told = dict(
        re.findall(
            r"\[`(\w+)\.diff`\]\(tests/recipes/\1\.diff\), (\w+) files",
            (ROOT / "CONTRIBUTING.md").read_text("utf-8").replace("\n", " "),
        )
    )
    words = {2: "two", 3: "three", 5: "five"}
    assert told == {recipe: words[len(changed(recipe))] for recipe in FILES}
    assert {path.stem for path in RECIPES.iterdir()} == set(FILES)
    assert {recipe: len(changed(recipe)) for recipe in FILES} == FILES
