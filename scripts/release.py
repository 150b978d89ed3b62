"""Give all five packages a new version:  python scripts/release.py 0.2.0

The packages are released together.  Each pyproject.toml holds the version, and packages that
stand on others pin them to exactly that version; this rewrites every one of these places and
nothing else.  CHANGELOG.md must already say what is new, in a section headed by the version.
Look at the difference with git, run the tests, commit, tag.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def rewrite(pyproject: str, version: str) -> str:
    """The text of a pyproject.toml with its own version and its pins on siblings replaced."""
    pyproject = re.sub(r'(?m)^version = "[^"]*"$', f'version = "{version}"', pyproject, count=1)
    return re.sub(r'"(tricycle-[a-z]+(?:\[[^\]]*\])?)==[^";]*', rf'"\1=={version}', pyproject)


def release(root: Path, version: str) -> list[Path]:
    """Rewrite every pyproject.toml below `root`; return the files."""
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", version):
        raise ValueError(f"expected a version such as 1.2.0 or 1.2.0rc1, got {version!r}")
    if not re.search(rf"(?m)^## {re.escape(version)}\b", (root / "CHANGELOG.md").read_text()):
        raise ValueError(f"CHANGELOG.md has no section '## {version}': write what is new first")
    paths = sorted((root / "packages").glob("*/pyproject.toml"))
    for path in paths:
        path.write_text(rewrite(path.read_text(), version))
    return paths


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/release.py VERSION")
    try:
        for path in release(ROOT, sys.argv[1]):
            print(path.relative_to(ROOT))
    except ValueError as error:
        sys.exit(str(error))
