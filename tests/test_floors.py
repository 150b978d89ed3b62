"""Floors and doors: who may import whom, and what nobody may use.

    3   apps
    2   tricycle_gpt
    1   tricycle_nn
    0   tricycle_autograd          tricycle_bpe          tricycle_datasets

Imports point down only.  What a package imports from others it declares in its pyproject.toml;
what it declares as an extra it imports inside a function, so that the package works without.
All of this is read from the syntax trees; only the last test runs an import.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "tricycle_autograd": set(),
    "tricycle_bpe": set(),
    "tricycle_datasets": set(),
    "tricycle_nn": {"tricycle_autograd"},
    "tricycle_gpt": {"tricycle_autograd", "tricycle_nn"},
}
PACKAGES = sorted(MAY_IMPORT)
# Distributions whose import has another name.
IMPORT_NAMES = {
    "cuda_pathfinder": "cuda",
    "cupy_cuda12x": "cupy",
    "cupy_cuda13x": "cupy",
    "nvidia_ml_py": "pynvml",
}
EVERY_INTERFACE = ".".join("0000")  # so spelt that this file does not hold it
# Modules that execute what they load, and so must never see a file from elsewhere.
PICKLES = {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


def sources(package: str) -> list[Path]:
    folder = ROOT / "packages" / package.replace("_", "-") / "src" / package
    return sorted(folder.rglob("*.py"))


def all_python() -> list[Path]:
    folders = ("packages", "apps", "tests", "scripts")
    return [ROOT / "conftest.py", *(f for name in folders for f in (ROOT / name).rglob("*.py"))]


def imports(tree: ast.AST, lazy: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield (top-level module, whether the import waits for a call) for each absolute import."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0], lazy
        elif is_import_call(node):
            yield node.args[0].value.split(".")[0], lazy
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from imports(node, lazy or inside or is_for_type_checkers(node))


def is_import_call(node: ast.AST) -> bool:
    """importlib.import_module("a name"); other arguments cannot be read from here."""
    return (
        isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith("import_module")
        and isinstance(node.args[0], ast.Constant)
    )


def is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def declared(package: str) -> tuple[set[str], set[str]]:
    """The modules of a package's dependencies, and those of its extras."""
    path = ROOT / "packages" / package.replace("_", "-") / "pyproject.toml"
    project = tomllib.loads(path.read_text())["project"]
    extras = project.get("optional-dependencies", {})
    needed = project.get("dependencies", [])
    optional = [name for extra, names in extras.items() if extra != "test" for name in names]
    return {module_of(name) for name in needed}, {module_of(name) for name in optional}


def module_of(requirement: str) -> str:
    """
    >>> module_of("scipy-openblas64>=0.3.29")
    'scipy_openblas64'
    """
    name = re.match(r"[\w.-]+", requirement).group().replace("-", "_").lower()
    return IMPORT_NAMES.get(name, name)


def test_the_reader_of_imports_sees_them_all():
    tree = ast.parse(
        "import numpy.linalg, numba\n"
        "from . import tape\n"
        "def load():\n    from cupy.cuda import Device\n    importlib.import_module('torch')\n"
    )
    assert list(imports(tree)) == [
        ("numpy", False),
        ("numba", False),
        ("cupy", True),
        ("torch", True),
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_down_only(package):
    ours = {"tricycle", *PACKAGES}
    for path in sources(package):
        for module, _ in imports(ast.parse(path.read_text())):
            allowed = MAY_IMPORT[package] | {package}
            assert module not in ours or module in allowed, f"{path} imports {module}"


def inner_modules(source: str) -> list[str]:
    """Modules inside our packages that a source imports from, instead of from the package."""
    nodes = ast.walk(ast.parse(source))
    named = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return [name for name in named if name.split(".")[0] in PACKAGES and "." in name]


def test_an_import_from_inside_a_package_is_noticed():
    source = (
        "from tricycle_gpt import GPT\nfrom tricycle_gpt.model import GPT\nfrom os.path import join"
    )
    assert inner_modules(source) == ["tricycle_gpt.model"]


def test_apps_import_public_names_only():
    for path in (ROOT / "apps").rglob("*.py"):
        assert not (inner := inner_modules(path.read_text())), f"{path} imports from {inner}"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_it_declares(package):
    needed, optional = declared(package)
    allowed = needed | sys.stdlib_module_names | {package}
    for path in sources(package):
        for module, lazy in imports(ast.parse(path.read_text())):
            if module in allowed or (lazy and module in optional):
                continue
            where = "at the top of a file" if module in optional else "without declaring it"
            pytest.fail(f"{path} imports {module} {where}")


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_declares_only_what_it_imports(package):
    needed, _ = declared(package)
    used = {module for f in sources(package) for module, _ in imports(ast.parse(f.read_text()))}
    assert needed <= used, f"{package} declares {needed - used} and never imports it"


def test_nobody_imports_the_name_tricycle_alone():
    # That name on PyPI is another project's.
    for path in all_python():
        assert "tricycle" not in {module for module, _ in imports(ast.parse(path.read_text()))}, (
            path
        )


def test_nobody_loads_pickles():
    for path in all_python():
        used = {module for module, _ in imports(ast.parse(path.read_text()))} & PICKLES
        assert not used, f"{path} imports {used}"


def forbidden(node: ast.AST) -> str | None:
    """What is wrong with this node, or None."""
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
            return node.func.id
        for keyword in node.keywords:
            if keyword.arg in ("allow_pickle", "shell") and ast.unparse(keyword.value) != "False":
                return f"{keyword.arg}={ast.unparse(keyword.value)}"
    if isinstance(node, ast.ExceptHandler):
        if node.type is None:
            return "except: without a type"
        if "Exception" in re.findall(r"\w+", ast.unparse(node.type)):
            return "except Exception"
    if isinstance(node, ast.Constant) and EVERY_INTERFACE in str(node.value):
        return "the address of every network interface"
    return None


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)",
        "exec(text)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(line, shell=True)",
        f"serve(host='{EVERY_INTERFACE}')",
        "try: f()\nexcept Exception: pass",
        "try: f()\nexcept (OSError, Exception): pass",
        "try: f()\nexcept: pass",
    ],
)
def test_each_forbidden_thing_is_noticed(line):
    assert any(forbidden(node) for node in ast.walk(ast.parse(line)))


def test_allowed_things_are_let_through():
    allowed = "model.eval()\nnp.load(path, allow_pickle=False)\ntry: f()\nexcept OSError: pass"
    assert not any(forbidden(node) for node in ast.walk(ast.parse(allowed)))


NO_NARROWER = "except Exception:  # a MemoryError: numba knows no narrower word"


def test_no_file_does_a_forbidden_thing():
    faults = []
    for path in all_python():
        text = path.read_text().replace(NO_NARROWER, "except MemoryError:")
        faults += [
            f"{path}:{node.lineno}: {fault}"
            for node in ast.walk(ast.parse(text))
            if (fault := forbidden(node))
        ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_is_silent_and_light(package):
    heavy = {"numba", "llvmlite", "cupy", "mlflow", "matplotlib", "torch"}
    program = f"import sys, {package}; print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "[]\n", f"{package} prints or imports: {run.stdout}"
    assert run.stderr == ""
