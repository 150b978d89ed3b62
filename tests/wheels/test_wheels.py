"""What others install: each wheel, alone, in an empty environment, with only what it declares.

Each package is built the way an index gets it (source distribution, and the wheel from that),
installed into a new environment together with nothing but its declared dependencies, imported
there, and then its own tests, README and chapters run there, from a folder in which no source of
ours can be found.  Run with `hatch run test-wheels`; it takes as long as all packages' tests.
Where CI is set, tests marked `slow` are left out.
"""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# .ci/run has all tests run from the sources, too: here those that take seconds each can go.
CHOSEN = ["-m", "not slow"] if "CI" in os.environ else []
PACKAGES = sorted(path.name for path in (ROOT / "packages").iterdir())


def run(*command, **options) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # What is asked here is whether all is there: the packages' tests from the sources try more.
    environment["TRICYCLE_TEST_EXAMPLES"] = "10"
    return subprocess.run([str(part) for part in command], env=environment, **options)


def uv(*arguments, **options) -> None:
    program = os.environ.get("HATCH_UV") or shutil.which("uv")
    assert program, "uv was not found: run this with `hatch run test-wheels`"
    run(program, *arguments, "--quiet", **{"check": True, **options})


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> dict[str, Path]:
    """The five wheels, by package."""
    folder = tmp_path_factory.mktemp("wheels")
    for package in PACKAGES:
        uv("build", ROOT / "packages" / package, "--out-dir", folder)
    return {
        package: next(folder.glob(f"{package.replace('-', '_')}-*.whl")) for package in PACKAGES
    }


@pytest.fixture(scope="module")
def siblings(wheels, tmp_path_factory) -> Path:
    """A constraints file: whoever needs one of ours gets this build, and no index is asked."""
    path = tmp_path_factory.mktemp("siblings") / "constraints.txt"
    path.write_text("".join(f"{name} @ {wheel.as_uri()}\n" for name, wheel in wheels.items()))
    return path


@pytest.fixture
def environment(tmp_path_factory) -> Iterator[Path]:
    """A new virtual environment, for one test."""
    path = tmp_path_factory.getbasetemp() / "environment"
    uv("venv", path, "--python", sys.executable)
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_wheel_holds_the_package_its_types_and_its_licence(wheels, package):
    module = package.replace("-", "_")
    with zipfile.ZipFile(wheels[package]) as wheel:
        names = set(wheel.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        fields = Parser().parsestr(wheel.read(metadata).decode())
    information = metadata.removesuffix("/METADATA")
    assert {f"{module}/__init__.py", f"{module}/py.typed"} <= names
    assert f"{information}/licenses/LICENSE" in names
    assert {name.split("/")[0] for name in names} == {module, information}
    assert (fields["License-Expression"], fields["Requires-Python"]) == ("MIT", ">=3.11")
    sources = ROOT / "packages" / package / "src"
    for path in sources.rglob("*.*"):
        if "__pycache__" not in path.parts:
            assert path.relative_to(sources).as_posix() in names


@pytest.mark.parametrize("package", PACKAGES)
def test_the_command_for_a_checkout_in_its_readme_installs_a_package(package, environment):
    text = (ROOT / "packages" / package / "README.md").read_text(encoding="utf-8")
    (words,) = re.findall(r"(?m)^    pip install (packages/.*)$", text)
    python = environment / "bin" / "python"
    uv("pip", "install", "--python", python, *words.split(), cwd=ROOT)
    run(python, "-P", "-c", f"import {package.replace('-', '_')}", check=True)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_wheel_passes_its_own_tests_alone(wheels, siblings, environment, package, tmp_path):
    module = package.replace("-", "_")
    python = environment / "bin" / "python"

    def install(extra: str = "") -> None:
        requirement = f"{package}{extra} @ {wheels[package].as_uri()}"
        uv("pip", "install", "--python", python, "--constraint", siblings, requirement)

    # First without the tools for testing, which might bring what the package forgot to declare.
    install()
    program = f"import {module}; print({module}.__file__)"
    imported = run(python, "-c", program, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert imported.returncode == 0, f"{package} cannot be imported with only what it declares"
    assert Path(imported.stdout.strip()).is_relative_to(environment)

    install("[test]")
    folder = tmp_path / package
    folder.mkdir()
    shutil.copy(ROOT / "conftest.py", folder)
    shutil.copy(ROOT / ".pytest.toml", folder)
    for part in ("README.md", "docs", "tests"):
        original = ROOT / "packages" / package / part
        if original.is_dir():
            shutil.copytree(original, folder / part)
        elif original.exists():
            shutil.copy(original, folder)
    print(f"\n{package} {wheels[package].name}, alone:", flush=True)
    tests = run(python, "-P", "-m", "pytest", "--quiet", *CHOSEN, ".", cwd=folder)
    assert tests.returncode == 0, f"{package}'s own tests fail where only its wheel is installed"
