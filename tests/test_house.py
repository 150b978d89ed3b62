"""The house itself: every package furnished alike, every name explained, every test a test."""

import ast
import doctest
import importlib
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = sorted((ROOT / "packages").iterdir())
NAMES = [path.name.replace("-", "_") for path in PACKAGES]
MODULES = [
    ".".join(path.relative_to(package / "src").with_suffix("").parts).removesuffix(".__init__")
    for package in PACKAGES
    for path in sorted((package / "src").rglob("*.py"))
    if path.stem != "__main__"
]


def files(*suffixes: str) -> list[Path]:
    """Our files with these suffixes, those in hidden and generated folders left out."""
    folders = ("packages", "apps", "tests", "scripts")
    found = [path for path in ROOT.iterdir() if path.is_file()]
    found += [path for name in folders for path in (ROOT / name).rglob("*") if path.is_file()]
    return sorted(path for path in found if path.suffix in suffixes)


# ---- Rooms ----


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_every_package_is_furnished(package):
    sources = package / "src" / package.name.replace("-", "_")
    for path in (package / "README.md", package / "LICENSE", sources / "py.typed"):
        assert path.is_file(), f"{path} is missing"
    assert list((package / "tests").glob("test_*.py")), f"{package.name} has no tests"
    assert not list((package / "tests").rglob("__init__.py")), "tests are not a package"
    assert (package / "README.md").read_text().startswith(f"# {package.name}\n")


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_exists_and_is_explained(name):
    package = importlib.import_module(name)
    assert package.__doc__, f"{name} has no docstring"
    assert package.__all__, f"{name} has no public names"
    for public in package.__all__:
        value = getattr(package, public)
        if inspect.isclass(value) or callable(value):
            assert inspect.getdoc(value), f"{name}.{public} has no docstring"


@pytest.mark.parametrize("name", NAMES)
def test_every_public_function_says_its_types(name):
    package = importlib.import_module(name)
    for public in package.__all__:
        function = inspect.unwrap(getattr(package, public))
        if inspect.isfunction(function):
            signature = inspect.signature(function)
            bare = [p.name for p in signature.parameters.values() if p.annotation is p.empty]
            assert not bare, f"{name}.{public}: no type for {', '.join(bare)}"


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is_and_its_examples_hold(module):
    module = importlib.import_module(module)
    assert module.__doc__, f"{module.__name__} has no docstring"
    assert doctest.testmod(module).failed == 0


def rooms_by_folder() -> dict[str, set[str]]:
    """The modules in each package and in each folder inside one: {"tricycle_gpt": {"model", …}}."""
    rooms: dict[str, set[str]] = {}
    for module in MODULES:
        folder, _, room = module.rpartition(".")
        is_folder = any(other.startswith(f"{module}.") for other in MODULES)
        if not is_folder:
            rooms.setdefault(folder, set()).add(room)
    return rooms


def test_architecture_names_every_room_and_no_other_and_stays_short():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named: dict[str, set[str]] = {}
    package = ""
    for first, rooms_of_row in re.findall(r"(?m)^\| ([\w.]*) ?\| (`.*?) \|", text):
        package = first or package  # named in the first of its rows
        named.setdefault(f"tricycle_{package}", set()).update(re.findall(r"\w+", rooms_of_row))
    assert named == rooms_by_folder()
    assert len(text.splitlines()) < 160


# ---- Tests that can fail ----


def checks_something(function: ast.AST, helpers: dict[str, ast.AST]) -> bool:
    """Whether a test asserts, expects an error, or calls something that does."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert | ast.Raise):
            return True
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).split(".")[-1]
            if re.match("_?(assert|check|raises|warns|fail)", name):
                return True
            if name in helpers:
                others = {n: helper for n, helper in helpers.items() if n != name}
                if checks_something(helpers[name], others):
                    return True
    return False


def idle_tests(source: str) -> list[str]:
    tree = ast.parse(source)
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    helpers = {name: node for name, node in functions.items() if not name.startswith("test_")}
    tests = (name for name in functions if name.startswith("test_"))
    return [name for name in tests if not checks_something(functions[name], helpers)]


def test_a_test_that_asserts_nothing_is_noticed():
    source = "def near(a): assert a\ndef test_one(): near(1)\ndef test_two(): print(2)\n"
    assert idle_tests(source) == ["test_two"]


def test_every_test_file_has_tests_and_every_test_can_fail():
    for path in files(".py"):
        if path.name.startswith("test_"):
            source = path.read_text()
            assert re.search(r"(?m)^def test_", source), f"{path} holds no test"
            assert not (idle := idle_tests(source)), f"{path}: {idle} assert nothing"


# ---- Numbers ----


def test_results_are_rows_of_one_table_and_each_names_its_command():
    lines = (ROOT / "scripts" / "bench" / "RESULTS.md").read_text().splitlines()
    rows = [i for i, line in enumerate(lines) if re.match(r"\| 20\d\d-\d\d-\d\d \|", line)]
    assert rows == list(range(rows[0], rows[0] + len(rows))), "the table is interrupted"
    benchmarks = {path.name for path in (ROOT / "scripts" / "bench").glob("*.py")}
    for i in rows:
        date, question, machine, command, result = lines[i].strip("| ").split(" | ")
        named = re.findall(r"\w+\.py", command)
        assert named or re.search("hatch run (train|test)", command), f"{question} names no command"
        assert set(named) <= benchmarks, f"{question} names {named}"


# ---- Words ----

# Beginnings of words that we spell the British way, in the spelling we do not use.  Foreign
# names (files, other libraries, their arguments) stay as they are; in prose they stand in
# `backticks`, and titles of papers in "quotes"; neither is read here.
AMERICAN = re.compile(
    r"(tokeni|optimi|initiali|normali|generali|speciali|seriali|randomi|summari|organi|recogni"
    r"|minimi|maximi|visuali|reali|utili|capitali|memori|paralleli|quanti|factori|emphasi"
    r"|standardi|customi|finali|equali|penali|categori|synchroni|vectori|discreti|regulari"
    r")z(e|a|i)"
    r"|analyz|color|behavior|neighbor|favor(?!i?te)|honor|labeled|labeling"
    r"|canceled|canceling|modeled|modeling|centered|\bgray",
    re.IGNORECASE,
)
FOREIGN = re.compile(
    r'`[^`]*`|"[^"]*"|tokenizer\w*\.json|pre_tokenizer|\btokenizers\b|\bTokenizer\b'
)


def american_words(prose: str) -> list[str]:
    return [match.group() for match in AMERICAN.finditer(FOREIGN.sub("", prose))]


def names_defined(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr


def prose_of(source: str) -> Iterator[str]:
    """The comments, docstrings and messages of a Python file."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.value


def test_both_spellings_are_told_apart():
    assert american_words("The optimizer's color") == ["optimize", "color"]
    assert not american_words(
        "the optimiser's colour, in `tokenizer_config.json` and tokenizer.json"
    )


def test_our_own_words_are_spelt_the_british_way():
    this_file = Path(__file__)
    for path in set(files(".py")) - {this_file}:
        source = path.read_text()
        for text in (*names_defined(ast.parse(source)), *prose_of(source)):
            assert not american_words(text), f"{path}: {text!r}"


def test_our_documents_are_spelt_the_british_way():
    for path in files(".md"):
        prose = re.sub(r"(?ms)^```.*?^```", "", path.read_text())
        assert not american_words(prose), f"{path}: {american_words(prose)}"


# English as no English speaker writes it: code is not a person, and what is no X is not an X.  What
# to write instead: "expected", "resumed", "the caller", "anything but X", "that many".
TRANSLATED = re.compile(
    r"\bforetold\b|\bgone on with\b|\bwhoever\b|\b(what|that) is no \w+"
    r"|\bas (often|many|much) as one likes\b|\bwhich is no \w+"
    r"|\bspeaks? for the\b|\bhear of\b",
    re.IGNORECASE,
)
ALREADY_ENGLISH = re.compile(r"\b(what|that|which) is no (longer|more|faster|\w+ than)\b")


def translated_words(prose: str) -> list[str]:
    return [found.group() for found in TRANSLATED.finditer(ALREADY_ENGLISH.sub("", prose))]


def test_sentences_that_read_as_translated_are_noticed():
    assert translated_words("ValueError for what is no matrix") == ["what is no matrix"]
    assert translated_words("Whoever wants to hear of it") == ["Whoever", "hear of"]
    assert not translated_words("what is no longer wanted")


def test_sources_read_like_the_chapters():
    sources = [path for path in files(".py") if "tests" not in path.relative_to(ROOT).parts]
    assert len(sources) > 100
    for path in sources:
        for text in prose_of(path.read_text(encoding="utf-8")):
            assert not (found := translated_words(text)), f"{path}: {found}"


def test_no_file_speaks_of_a_machine_or_leaves_a_note_to_self():
    # Folders of one particular machine, and promises instead of work.
    words = [f"/{name}/" for name in ("work", "root", "home")] + ["TO" + "DO", "FIX" + "ME"]
    for path in files(".py", ".md", ".toml", ".cu", ".cuh", ".txt", ".sh"):
        text = path.read_text()
        assert not [word for word in words if re.search(rf"(?<!\w){word}", text)], path
