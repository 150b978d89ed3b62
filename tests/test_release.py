"""The packages are released together: one version, one licence, one Python, exact pins."""

import importlib.util
import re
import shutil
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECTS = sorted((ROOT / "packages").glob("*/pyproject.toml"))


def projects(root: Path = ROOT) -> dict[str, dict]:
    """The [project] table of each package, by the package's name."""
    paths = (root / "packages").glob("*/pyproject.toml")
    tables = [tomllib.loads(path.read_text())["project"] for path in paths]
    return {table["name"]: table for table in tables}


def requirements(project: dict) -> list[str]:
    extras = project.get("optional-dependencies", {}).values()
    return project.get("dependencies", []) + [name for names in extras for name in names]


def versions(root: Path = ROOT) -> set[str]:
    """Every version found: each package's own, and each that one pins another to."""
    found = set()
    for name, project in projects(root).items():
        found.add(project["version"])
        for requirement in requirements(project):
            # An extra may ask for another extra of the same package: no version there.
            if requirement.startswith("tricycle") and not requirement.startswith(f"{name}["):
                pin = re.fullmatch(r"tricycle-[a-z]+(\[.*\])?==(.*)", requirement)
                assert pin, f"{name} needs {requirement}: siblings are pinned with =="
                found.add(pin.group(2))
    return found


@pytest.fixture(scope="module")
def release():
    spec = importlib.util.spec_from_file_location("release", ROOT / "scripts" / "release.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copy(tmp_path):
    """What a release touches, in a folder of its own."""
    for path in PYPROJECTS:
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True)
        shutil.copy(path, target)
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 9.8.7\n")
    return tmp_path


def test_a_release_rewrites_the_version_and_the_pins(release):
    before = (
        'version = "0.1.0"\n'
        'requires-python = ">=3.11"\n'
        'dependencies = ["numpy>=2.0", "tricycle-nn==0.1.0"]\n'
        'mkl = ["tricycle-nn[mkl]==0.1.0"]\n'
    )
    assert release.rewrite(before, "0.2.0") == (
        'version = "0.2.0"\n'
        'requires-python = ">=3.11"\n'
        'dependencies = ["numpy>=2.0", "tricycle-nn==0.2.0"]\n'
        'mkl = ["tricycle-nn[mkl]==0.2.0"]\n'
    )


def test_there_are_five_packages_named_after_their_folders():
    assert sorted(projects()) == [path.parent.name for path in PYPROJECTS]
    assert len(PYPROJECTS) == 5


def test_all_packages_have_one_version_and_pin_each_other_to_it():
    assert len(versions()) == 1


def test_no_source_repeats_the_version_where_a_release_would_not_find_it():
    for path in (ROOT / "packages").glob("*/src/**/*.py"):
        assert not re.search(r"(?m)^(__version__|VERSION) = ", path.read_text()), path


def test_a_release_leaves_one_version_everywhere(release, copy):
    release.release(copy, "9.8.7")
    assert versions(copy) == {"9.8.7"}


def test_all_packages_ask_for_the_same_python_and_licence():
    assert {project["requires-python"] for project in projects().values()} == {">=3.11"}
    assert {project["license"] for project in projects().values()} == {"MIT"}


def test_every_package_carries_the_same_licence():
    licence = (ROOT / "LICENSE").read_bytes()
    assert licence.startswith(b"MIT License")
    for path in PYPROJECTS:
        assert (path.parent / "LICENSE").read_bytes() == licence, path.parent


def test_the_changelog_tells_of_this_version():
    (version,) = versions()
    assert re.search(rf"(?m)^## {re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text())


def test_a_release_needs_a_version_that_looks_like_one(release, copy):
    with pytest.raises(ValueError, match="expected a version such as 1.2.0 or 1.2.0rc1, got '2'"):
        release.release(copy, "2")


def test_a_release_needs_a_changelog(release, copy):
    with pytest.raises(ValueError, match="CHANGELOG.md has no section '## 9.8.8'"):
        release.release(copy, "9.8.8")


def test_windows_is_not_asked_for_what_has_no_wheel_there():
    asked = [name for project in projects().values() for name in requirements(project)]
    mpich = [name for name in asked if name.startswith("mpich")]
    assert mpich
    assert all("platform_system != 'Windows'" in name for name in mpich)
