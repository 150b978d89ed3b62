"""Processes that take turns: one works, the others wait for a line on their standard input.

What else goes on in the machine then hits all of them alike, and their ratios can be trusted
where their times cannot.  How much else that was is watched too: the processor time that all
others had while one worked.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")  # a second, in /proc


def obey(*commands):
    """In a process: run the named function for each line "NAME ARGUMENT ..." until there is none.

    What each returns, a dict, goes to the standard output as a line of JSON.
    """
    named = {command.__name__: command for command in commands}
    for line in sys.stdin:
        name, *arguments = line.split()
        print(json.dumps(named[name](*arguments)), flush=True)


class Worker:
    """A process that obeys.  `others` has, for each command, the cores that others used."""

    def __init__(self, name, script, *arguments, environment=None):
        self.name = name
        self.others = []
        path = Path(__file__).with_name(script)
        self.process = subprocess.Popen(
            [sys.executable, str(path), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | (environment or {}),
        )

    def ask(self, *command):
        """Send a command and wait for its answer.  RuntimeError if the process died of it."""
        busy, own, start = _busy_seconds(), self._own_seconds(), time.perf_counter()
        self.process.stdin.write(" ".join(map(str, command)) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name} died while it was asked for {command}")
        wall = time.perf_counter() - start
        others = _busy_seconds() - busy - (self._own_seconds() - own)
        self.others.append(max(0.0, others) / wall)
        return json.loads(answer)

    def end(self):
        self.process.stdin.close()
        self.process.wait()

    def _own_seconds(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


def _busy_seconds():
    """Processor seconds that were used in this machine since it started."""
    user, nice, system, _, _, irq, soft, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + soft + steal) / TICKS
