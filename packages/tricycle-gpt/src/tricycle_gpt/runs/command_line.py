"""Command lines made from dataclasses: every field a flag, every flag in a TOML file too.

    python app --preset large --config my.toml --training.steps 500

A preset is a complete set of values.  The file changes some of them (it holds the same names, in
sections: [training], steps = 500), and flags win over both.  The parsing is tyro's.

A field named like a word of Python's has an underscore behind it, `from_`; its flag and its name in
a file have none.
"""

import argparse
import dataclasses
import io
import json
import os
import re
import sys
import tomllib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tricycle_autograd.gpu import NoGPUError
from tricycle_gpt.runs.standard_streams import steadfast_streams

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
    presets    what --preset, or else `preset` in the file, may name, to be used in place of
               `defaults`

    Ends the program with a message for words that do not fit, as command line programs do.
    """
    return read_command_line_of_run(defaults, arguments, description, presets)[0]


def read_command_line_of_run(
    defaults: Settings,
    arguments: list[str] | None = None,
    description: str | None = None,
    presets: dict[str, Settings] | None = None,
    began_with: str | None = None,
    fixed: Sequence[str] = (),
) -> tuple[Settings, set[str]]:
    """The same for a program whose runs can be resumed, and which names of settings were given.

    began_with  the name of the file in a run's folder that holds the settings it began with.  Where
                a run is resumed (`resume`) and that file is in its `folder`, its values take the
                preset's place: a flag that was given then need not be given again, and the preset
                of `defaults` means the one it began with
    fixed       settings that a resumed run cannot change: it ends with a message if they differ

    Returns the settings, and those that a flag or the file of --config names, as "training.steps".
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
    first.add_argument("--folder", type=Path)
    first.add_argument("--resume", action=argparse.BooleanOptionalAction)
    flags = first.parse_known_args(words)[0]
    try:
        values = {} if flags.config is None else _read_toml(flags.config)
        base, begun = defaults, None
        if presets is not None:
            preset = values.get("preset") if flags.preset is None else flags.preset
            # In a list, because what stands in the file may be a list itself.
            if preset is not None and preset not in list(presets):
                raise ValueError(f"no preset {preset!r}; there are {', '.join(presets)}")
            base = defaults if preset is None else presets[preset]
            if began_with is not None:
                before = _first_of(flags.folder, values, base, "folder") / began_with
                if _first_of(flags.resume, values, base, "resume") and before.is_file():
                    base = begun = _read_begun(before, presets)
        settings = tyro.cli(
            type(defaults),
            default=_put(base, values, str(flags.config)),
            args=words,
            description=description,
            config=(tyro.conf.DisallowNone,),  # None is for what is not given
        )
        if begun is not None:
            settings = _as_begun(settings, begun, defaults, fixed)
        return settings, _names_in_flags(words) | _names_in_file(values)
    except OSError as error:
        sys.exit(f"error: {_what_failed(error)}")
    except ValueError as error:
        sys.exit(f"error: {error}")


def flag(name: str) -> Any:
    """What `Annotated` is given for a field whose flag is called otherwise: flag("from").

    None, which changes nothing, where tyro is not installed: read_command_line will say so.
    """
    try:
        import tyro
    except ImportError:
        return None
    return tyro.conf.arg(name=name)


def read_config(path: str | Path, defaults: Settings) -> Settings:
    """A TOML file's values put into a dataclass; what it does not name stays as it was.

    Raises OSError if the file cannot be read, ValueError for what is not TOML, for a name that
    is not a field (it lists those there are) and for values of another type.
    """
    return _put(defaults, _read_toml(Path(path)), str(path))


def from_toml(text: str, defaults: Settings) -> Settings:
    """What to_toml made, put into a dataclass; what it does not name stays as it was.

    Raises ValueError as read_config does.
    """
    return _put(defaults, tomllib.loads(text), "these settings")


def with_named(settings: Settings, asked: Settings, section: str, names: set[str]) -> Settings:
    """A dataclass with those fields of another one of its kind that were named.

    settings, asked  two values of a section: what was chosen, and what the command line gave
    names            of settings, "section.field": see read_command_line_of_run
    """
    fields = [f.name for f in dataclasses.fields(settings) if f"{section}.{f.name}" in names]  # type: ignore[arg-type]
    return dataclasses.replace(settings, **{name: getattr(asked, name) for name in fields})  # type: ignore[type-var]


def as_flags(settings: Any, defaults: Any, *sections: str) -> str:
    """The flags that make some sections of a dataclass from those of another one."""
    flags = []
    for section in sections:
        now, before = getattr(settings, section), getattr(defaults, section)
        for field in dataclasses.fields(now):
            value, name = getattr(now, field.name), field.name.replace("_", "-")
            if value == getattr(before, field.name):
                continue
            if isinstance(value, bool):
                flags.append(f"--{section}.{'' if value else 'no-'}{name}")
            else:
                flags.append(f"--{section}.{name} {value}")
    return " ".join(flags)


def to_toml(settings: Any) -> str:
    """A dataclass as TOML that --config reads back; what is None is left out, as TOML has none."""
    values = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    sections = {name: value for name, value in values.items() if dataclasses.is_dataclass(value)}
    lines = [
        f"{_spoken(name)} = {_as_toml(value)}"
        for name, value in values.items()
        if value is not None and name not in sections
    ]
    for name, section in sections.items():
        lines += ["", f"[{name}]", to_toml(section).rstrip("\n")]
    return "\n".join(lines) + "\n"


def _spoken(name):
    """A field's name as its flag and a file have it."""
    return name.removesuffix("_")


def _as_toml(value):
    if isinstance(value, tuple):
        return f"[{', '.join(map(_as_toml, value))}]"
    if isinstance(value, bool | int | float):
        return str(value).lower()
    return json.dumps(str(value), ensure_ascii=False)  # TOML's texts are written as JSON's


def say(text: str) -> None:
    """Tell the user: on standard error, for standard output is for what a model writes."""
    print(text, file=sys.stderr, flush=True)


def end_politely(
    main: Callable[[], None], farewell: str = "stopped", unheard: bool = False
) -> None:
    """Run a program's main(); what a user can cause ends it with a message, not a traceback.

    farewell  what to say after Ctrl-C
    unheard   go on where standard output and error lead nowhere any more (`… | head -2`): what the
              program leaves matters more than what it says

    Where standard output cannot show every character (a terminal in latin-1, a pipe in ASCII),
    question marks stand for the others.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        with steadfast_streams() if unheard else nullcontext():
            main()
    except KeyboardInterrupt:
        sys.exit(f"\n{farewell}")
    except BrokenPipeError:  # nobody reads on: no error, and nothing more to write at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except OSError as error:
        sys.exit(f"error: {_what_failed(error)}")
    except MemoryError as error:
        sys.exit(f"error: not enough memory for this batch or model: {error}")
    except (ValueError, IndexError, FloatingPointError, NoGPUError) as error:
        sys.exit(f"error: {error}")
    except ImportError as error:
        if error.name is not None:  # Python's own; ours say which extra to install
            raise
        sys.exit(f"error: {error}")


def _what_failed(error):
    """An OSError without its number: "notes.txt: No such file or directory"."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


def _first_of(flag, values, defaults, name):
    """A setting from its flag, or else from the file's values, or else the default."""
    if flag is not None:
        return flag
    value = values.get(name, getattr(defaults, name))
    return Path(value) if isinstance(value, str) else value


def _read_begun(path, presets):
    """A run's config.toml, upon the preset that it names."""
    values = _read_toml(path)
    preset = values.get("preset")
    if preset not in list(presets):
        raise ValueError(
            f"{path} should name a preset, one of {', '.join(presets)}, got {preset!r}: the file "
            "is damaged. Remove it, and give the settings that the run began with again"
        )
    return _put(presets[preset], values, str(path))


def _as_begun(settings, begun, defaults, fixed):
    """Settings of a resumed run, with those that are fixed as they were when it began."""
    if settings.preset == defaults.preset:
        settings = dataclasses.replace(settings, preset=begun.preset)
    for name in fixed:
        now, was = getattr(settings, name), getattr(begun, name)
        flag = _spoken(name).replace("_", "-")
        if not _are_alike(now, was):
            raise ValueError(
                f"the run in {settings.folder} was begun with --{flag} {was}, not {now}: leave "
                f"--{flag} out, or choose another folder"
            )
        settings = dataclasses.replace(settings, **{name: was})
    return settings


def _are_alike(a, b):
    """Whether two values are equal, or two words the same path, as my_texts and my_texts/ are."""
    words = isinstance(a, str) and isinstance(b, str)
    return a == b or (words and Path(a).resolve() == Path(b).resolve())


def _names_in_flags(words):
    flags = [word[2:].partition("=")[0] for word in words if word.startswith("--")]
    names = {flag.replace("-", "_") for flag in flags}
    # --training.no-recompute names training.recompute.
    return names | {re.sub(r"(^|\.)no_(\w+)$", r"\1\2", name) for name in names}


def _names_in_file(values):
    """{"folder", "training.steps", …} of a file's values in sections."""
    names = set()
    for name, value in values.items():
        names |= {f"{name}.{inner}" for inner in value} if isinstance(value, dict) else {name}
    return names


def _read_toml(path):
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors begin with a BOM
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from error


def _put(defaults: Any, values: dict[str, Any], where: str) -> Any:
    kinds = get_type_hints(type(defaults))
    changed: dict[str, Any] = {}
    named = {_spoken(name): name for name in kinds}
    for spoken, value in values.items():
        if spoken not in named:
            raise ValueError(f"{where}: there is no {spoken!r}; there are {', '.join(named)}")
        name = named[spoken]
        if dataclasses.is_dataclass(kinds[name]):
            if not isinstance(value, dict):
                raise ValueError(f"{where}: {name} is a section, write [{name}]")
            changed[name] = _put(getattr(defaults, name), value, f"{where}, [{name}]")
        else:
            changed[name] = _fit(value, kinds[name], f"{where}: {name}")
    return dataclasses.replace(defaults, **changed)


def _fit(value, kind, where):
    """A value that TOML knows, as the type that a field wants."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    for wanted in kinds:
        if wanted is Path and isinstance(value, str):
            return Path(value)
        # TOML writes 1 where a float is meant; a bool is an int to Python, but not to a person.
        if wanted is float and type(value) is int:
            return float(value)
        if wanted == tuple[str, ...] and isinstance(value, list):
            return tuple(_fit(item, str, where) for item in value)
        if get_origin(wanted) is Literal and value in get_args(wanted):
            return value
        if type(value) is wanted:
            return value
    raise ValueError(f"{where} should be {' or '.join(map(_in_words, kinds))}, got {value!r}")


def _in_words(kind):
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    words = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a text",
        Path: "a path in quotes",
        tuple[str, ...]: "a list of texts",
        type(None): "left out",
    }
    return words[kind]
