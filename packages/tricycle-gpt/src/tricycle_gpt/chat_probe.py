"""A chat template of someone else's, run once, where it can do no harm.

Jinja's sandbox keeps a template from Python's attributes, and bounds neither time nor memory: two
loops within each other run for minutes, and one format fills any memory.  So a template renders
probes in a process of its own, which gets SECONDS and BYTES, and of whose answers and complaints
no more than LONGEST is read.  It is never given anything of the user's.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache

SECONDS = 10
BYTES = 1 << 29
LONGEST = 100_000  # characters of a template, and of what it writes for one conversation
MOST_READ = 1 << 22  # bytes of all that the process writes


def rendered(
    template: str, messages: list[dict[str, str]], where: str, begin: str = "", end: str = ""
) -> str:
    """What a Jinja template makes of a conversation.

    where       what messages begin with
    begin, end  the tokens that begin and end a text

    Raises ValueError for a template that fails, that takes too long, or is too long; ImportError
    where jinja2 is not installed.
    """
    return text_of(rendered_all(template, [messages], where, begin, end)[0], where)


def rendered_all(
    template: str,
    conversations: Sequence[list[dict[str, str]]],
    where: str,
    begin: str = "",
    end: str = "",
) -> list[tuple[str, str]]:
    """What it makes of several, in one process: a text and "", or "" and why it refuses.

    Raises as `rendered` does, but for a template that refuses a conversation.
    """
    if len(template) > LONGEST:
        raise ValueError(f"the chat template of {where} has {len(template):,} characters: too many")
    return _rendered(template, json.dumps(conversations), where, begin, end)


def text_of(answer: tuple[str, str], where: str) -> str:
    """The text of an answer; ValueError, saying why, if the conversation was refused."""
    text, why = answer
    if why:
        raise ValueError(f"the chat template of {where} cannot be used: {why}")
    return text


@cache
def _rendered(template, probes, where, begin, end):
    given = {"bos_token": begin, "eos_token": end}
    asked = {"template": template, "conversations": json.loads(probes), "given": given}
    # Into files, not pipes: a pipe is read to its end, however long that is.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as complaints:
        try:
            done = subprocess.run(
                [sys.executable, "-P", __file__],
                input=json.dumps(asked).encode(),
                stdout=out,
                stderr=complaints,
                check=False,
                timeout=6 * SECONDS,  # of the clock, on a machine that does other things too
            )
        except subprocess.TimeoutExpired:
            raise ValueError(f"the chat template of {where} does not come to an end") from None
        for file in (out, complaints):
            file.seek(0)
        answers, said = out.read(MOST_READ + 1), complaints.read(MOST_READ)
    if done.returncode == 3:
        raise ImportError(
            "chat templates need jinja2, to be recognised; install it with the extra: "
            "tricycle-gpt[chat]"
        )
    if done.returncode or len(answers) > MOST_READ:
        lines = said.decode("utf-8", "replace").strip().splitlines()
        why = f"{lines[-1]:.200}" if lines else "it takes too much time or memory"
        raise ValueError(f"the chat template of {where} cannot be used: {why}")
    return [(text, why) for text, why in json.loads(answers)]


def main() -> None:
    """In the process of its own: read a template and conversations, write the texts."""
    try:
        import resource
    except ImportError:  # Windows: the clock alone
        pass
    else:
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        with suppress(ValueError, OSError):  # macOS refuses it
            resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MOST_READ, 2 * MOST_READ))
    try:
        answers = answers_of(**json.load(sys.stdin))
    except ImportError:
        sys.exit(3)
    print(json.dumps(answers), end="")


def answers_of(template, conversations, given):
    """What a template writes, or why it does not: see `rendered_all`.  Without any limit."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _refuse
    program = environment.from_string(template)
    fails = (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
    answers = []
    for messages in conversations:
        try:
            text = program.render(messages=messages, **given)
        except fails as error:
            answers.append(("", f"{type(error).__name__}: {error!s:.200}"))
            continue
        too_long = "it takes too much time or memory" if len(text) > LONGEST else ""
        answers.append(("" if too_long else text, too_long))
    return answers


def _refuse(message):
    raise ValueError(f"{message!s:.200}")


if __name__ == "__main__":
    main()
