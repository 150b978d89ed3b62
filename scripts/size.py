"""How much there is to read:  hatch run size

Lines of code without docstrings, comments and blank lines, per package and for its largest
files.  Size is a smell to notice, never a limit to squeeze under.
"""

import ast
import io
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SILENT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def lines_of_code(source: str) -> int:
    """The number of lines that hold something other than documentation."""
    documentation: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            string = node.body[0]
            documentation |= set(range(string.lineno, (string.end_lineno or string.lineno) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in SILENT:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - documentation)


def main() -> None:
    for package in sorted((ROOT / "packages").iterdir()):
        sizes = {
            path.name: lines_of_code(path.read_text()) for path in (package / "src").rglob("*.py")
        }
        print(f"{sum(sizes.values()):6,}  {package.name}, {len(sizes)} files")
        for name, size in sorted(sizes.items(), key=lambda item: -item[1])[:5]:
            print(f"        {size:6,}  {name}")


if __name__ == "__main__":
    main()
