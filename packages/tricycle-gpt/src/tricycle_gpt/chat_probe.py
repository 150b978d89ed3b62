"""A chat template of someone else's, run once, where it can do no harm.

Jinja's sandbox keeps a template from Python's attributes, and bounds neither time nor memory: two
loops within each other run for minutes, and one format fills any memory.  So a template renders a
probe in a process of its own, which gets SECONDS and BYTES, and whose answer is cut at LONGEST.
It is never given anything of the user's.
"""

import json
import subprocess
import sys
from functools import cache

SECONDS = 10
BYTES = 1 << 29
LONGEST = 100_000  # characters of a template, and of what it writes


def rendered(
    template: str, messages: list[dict[str, str]], where: str, begin: str = "", end: str = ""
) -> str:
    """What a Jinja template makes of a conversation.

    where       what messages begin with
    begin, end  the tokens that begin and end a text

    Raises ValueError for a template that fails, that takes too long, or is too long; ImportError
    where jinja2 is not installed.
    """
    if len(template) > LONGEST:
        raise ValueError(f"the chat template of {where} has {len(template):,} characters: too many")
    probe = json.dumps(messages)
    return _rendered(template, probe, where, begin, end)


@cache
def _rendered(template, probe, where, begin, end):
    asked = {
        "template": template,
        "messages": json.loads(probe),
        "bos_token": begin,
        "eos_token": end,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-P", __file__],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=6 * SECONDS,  # of the clock, on a machine that does other things too
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"the chat template of {where} does not come to an end") from None
    if done.returncode == 3:
        raise ImportError(
            "chat templates need jinja2, to be recognised; install it with the extra: "
            "tricycle-gpt[chat]"
        )
    if done.returncode or len(done.stdout) > LONGEST:
        why = done.stderr.strip().splitlines()[-1:] or ["it takes too much time or memory"]
        raise ValueError(f"the chat template of {where} cannot be used: {why[0]:.200}")
    return json.loads(done.stdout)


def main() -> None:
    """In the process of its own: read a template and a conversation, write the text."""
    try:
        import resource
    except ImportError:  # Windows: the clock alone
        pass
    else:
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    try:
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        sys.exit(3)
    asked = json.load(sys.stdin)
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _refuse
    found = environment.from_string(asked.pop("template")).render(**asked)
    print(json.dumps(found[: LONGEST + 1]), end="")


def _refuse(message):
    raise ValueError(f"{message!s:.200}")


if __name__ == "__main__":
    main()
