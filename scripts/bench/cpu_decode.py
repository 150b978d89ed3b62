"""How fast does a GPT write on the CPU, beside PyTorch and beside what memory allows?

    hatch run compat:bench cpu_decode.py [gpt2|shakespeare] [--rounds 7]

Greedy decoding with a cache, one text, 64 tokens after a prompt of 32: ours with float32 and
with weights of 8 bits, torch eager, and torch.compile with a static cache, as processes that take
turns; all but those must write the same ids.  Memory allows one token for each time that the
weights can be read: their bytes ÷ the measured read bandwidth.  A prompt of half the window goes
through in one pass, compared with a plain forward pass.
"""

import argparse
import os
import tempfile
from pathlib import Path
from statistics import median

from decode_recipe import CONFIGURATIONS, TOKENS
from taking_turns import Worker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configuration", nargs="?", choices=CONFIGURATIONS, default="gpt2")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each process")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(options, str(Path(folder, "weights.npz")))


def compare(options, weights):
    threads = {
        "TRICYCLE_NUM_THREADS": str(options.threads),
        "OMP_NUM_THREADS": str(options.threads),
    }
    ours = Worker(
        "ours", "decode_ours.py", options.configuration, "float32", weights, environment=threads
    )
    ours.ask("write", TOKENS)  # the weights are written down by then
    int8 = Worker(
        "int8", "decode_ours.py", options.configuration, "int8", weights, environment=threads
    )
    peers = [
        Worker(
            f"torch {mode}",
            "decode_torch.py",
            options.configuration,
            mode,
            options.threads,
            weights,
            environment=threads,
        )
        for mode in ("eager", "compile")
    ]
    workers = [ours, int8, *peers]
    ids = {worker.name: worker.ask("write", TOKENS)["ids"] for worker in workers}
    for peer in peers:
        assert ids[peer.name] == ids["ours"], f"{peer.name} writes something else"

    seconds = {worker.name: [] for worker in workers}
    widths = []
    for _ in range(options.rounds):
        for worker in workers:
            seconds[worker.name].append(worker.ask("write", TOKENS)["seconds"])
        widths.append(ours.ask("bandwidth")["bytes"])
    for name, times in seconds.items():
        print(f"{name:14} {median(times) * 1e3:7.2f} ms a token, {1 / median(times):6.0f} tokens/s")
    for name in ("torch eager", "torch compile", "int8"):
        pairs = zip(seconds[name], seconds["ours"], strict=True)
        print(f"{name + ' ÷ ours':22} {median(theirs / mine for theirs, mine in pairs):.2f}")
    allowed = [ours.ask("size")["bytes"] / width for width in widths]
    share = median(least / mine for least, mine in zip(allowed, seconds["ours"], strict=True))
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


if __name__ == "__main__":
    main()
