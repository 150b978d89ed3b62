"""Command lines made from dataclasses: every field a flag, every flag in a TOML file too.

    python app --preset large --config my.toml --training.steps 500

A preset is a complete set of values.  The file changes some of them (it holds the same names, in
sections: [training], steps = 500), and flags win over both.  The parsing is tyro's.
"""

import argparse
import dataclasses
import sys
import tomllib
from pathlib import Path
from typing import Any, TypeVar

Settings = TypeVar("Settings")


def read_command_line(
    defaults: Settings,
    arguments: list[str] | None = None,
    description: str | None = None,
    presets: dict[str, Settings] | None = None,
) -> Settings:
    """Settings from the command line, and from the file named by --config if there is one.

    defaults   an instance of a frozen dataclass, which may hold others; it should have a field
               `config: Path | None` (and `preset`), so that these are in the help
    arguments  the words of the command line; sys.argv's by default
    presets    what --preset may name, to be used in place of `defaults`

    Ends the program with a message for words that do not fit, as command line programs do.
    """
    try:
        import tyro
    except ImportError as error:
        raise ImportError(
            "command lines need tyro; install it with the extra: tricycle-gpt[cli]"
        ) from error
    words = sys.argv[1:] if arguments is None else arguments
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    first.add_argument("--preset")
    named = first.parse_known_args(words)[0]
    try:
        if presets is not None and named.preset is not None:
            if named.preset not in presets:
                raise ValueError(f"no preset {named.preset!r}; there are {', '.join(presets)}")
            defaults = presets[named.preset]
        if named.config is not None:
            defaults = read_config(named.config, defaults)
        return tyro.cli(type(defaults), default=defaults, args=words, description=description)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


def read_config(path: str | Path, defaults: Settings) -> Settings:
    """A TOML file's values put into a dataclass; what it does not name stays as it was.

    Raises OSError if the file cannot be read, ValueError for what is not TOML, for a name that
    is not a field (it lists those there are) and for values of another type.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    return _put(defaults, values, str(path))


def _put(defaults: Any, values: dict[str, Any], where: str) -> Any:
    fields = {field.name: getattr(defaults, field.name) for field in dataclasses.fields(defaults)}
    changed: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            raise ValueError(f"{where}: there is no {name!r}; there are {', '.join(fields)}")
        old = fields[name]
        if dataclasses.is_dataclass(old):
            if not isinstance(value, dict):
                raise ValueError(f"{where}: {name} is a section, write [{name}]")
            changed[name] = _put(old, value, f"{where}, [{name}]")
        else:
            changed[name] = _as_type_of(old, value, f"{where}: {name}")
    return dataclasses.replace(defaults, **changed)


def _as_type_of(old, value, where):
    if isinstance(old, Path):
        return Path(value)
    # TOML writes 1 where a float is meant; a bool is an int to Python, but not to a person.
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if old is not None and type(value) is not type(old):
        raise ValueError(f"{where} should be {type(old).__name__}, as {old!r} is, got {value!r}")
    return value
