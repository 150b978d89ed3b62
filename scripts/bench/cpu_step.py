"""Is a training step on the CPU faster than PyTorch's, and does it need less memory?

    hatch run compat:bench cpu_step.py a|b|c|d [--dropout 0.2] [--rounds 20] [--threads 2]

Three processes take turns with a block of a few steps each: ours, torch eager, torch.compile.
Models (see step_recipe.py): a nanoGPT's for a laptop, b a Shakespeare GPT of 11 million
parameters, c GPT-2 with 124 million, d b with Llama's blocks.  A step is forward, loss, backward,
clipping, AdamW; ours through the public API, `model.loss(ids, targets)`, and for some rounds also
with `cross_entropy(model(ids), targets)`, whose cost is printed.

Printed are the medians and quartiles of the ratios of each round, theirs ÷ ours (above 1: ours is
faster), the ratios of the shortest steps, peak memory, and how busy the machine was with other
things.  With the same weights and batch, the loss and every gradient must agree.

Peak memory is the kernel's count of resident pages (VmHWM), code and libraries included: since
the process began, and again from after the warm-up on.
"""

import argparse
import os
import tempfile
import time
from dataclasses import replace
from statistics import median, quantiles

from step_recipe import CONFIGURATIONS, describe
from taking_turns import Worker

LOGITS_ROUNDS = 5
MOST_DIFFERENCE = 1e-4  # of a gradient, relative to the largest of its parameter
BUSY = 0.1  # cores used by others: from here on a block counts as disturbed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configuration", choices=CONFIGURATIONS)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each process")
    options = parser.parse_args()
    config, batch, block = CONFIGURATIONS[options.configuration]
    print(describe(replace(config, dropout=options.dropout), batch), flush=True)

    workers = start_workers(options)
    shortest = {worker.name: warm_up(worker) for worker in workers}
    round_seconds = block * sum(shortest.values())
    logits_seconds = LOGITS_ROUNDS * 2 * block * shortest["ours"]
    expected = options.rounds * round_seconds + logits_seconds
    print(
        f"{options.rounds} rounds of {block} steps each: about {expected / 60:.1f} minutes, and "
        "less than one for comparing gradients",
        flush=True,
    )
    times = take_turns(workers, options.rounds, block)
    peaks = {worker.name: worker.ask("memory")["peak"] for worker in workers}
    compare_gradients(workers)
    report(workers, times)
    for worker in workers:
        print(
            f"{worker.name:14} peak memory {worker.peak_before:7.0f} MB since it began, "
            f"{peaks[worker.name]:7.0f} MB after the warm-up "
            f"({peaks[worker.name] / peaks['torch eager']:.2f} of eager)"
        )
    print_cost_of_logits(workers[0], block)
    for worker in workers:
        worker.end()


def start_workers(options):
    arguments = (options.configuration, options.dropout)
    threads = {
        "TRICYCLE_NUM_THREADS": str(options.threads),
        "OMP_NUM_THREADS": str(options.threads),
    }
    return [
        Worker("ours", "step_ours.py", *arguments, environment=threads),
        *[
            Worker(
                f"torch {mode}",
                "step_torch.py",
                *(*arguments, options.threads, mode),
                environment=threads,
            )
            for mode in ("eager", "compile")
        ],
    ]


def warm_up(worker):
    """Compile, touch memory; the seconds of the shortest step."""
    start = time.perf_counter()
    seconds = worker.ask("steps", 3)["seconds"]
    worker.peak_before = worker.ask("memory")["peak"]
    worker.ask("forget_memory")
    library = worker.ask("library")["library"]
    print(
        f"{worker.name:14} {library}; ready after {time.perf_counter() - start:.0f} s", flush=True
    )
    worker.others.clear()
    return min(seconds)


def take_turns(workers, rounds, block):
    """Seconds of each step: times[name][round]."""
    times = {worker.name: [] for worker in workers}
    for i in range(rounds):
        # Each begins a third of the rounds: none always follows the same one.
        for worker in workers[i % len(workers) :] + workers[: i % len(workers)]:
            times[worker.name].append(worker.ask("steps", block)["seconds"])
    return times


def report(workers, times):
    for worker in workers:
        steps = [1e3 * seconds for block in times[worker.name] for seconds in block]
        disturbed = sum(others > BUSY for others in worker.others[: len(times["ours"])])
        print(
            f"{worker.name:14} median {median(steps):8.1f} ms a step, shortest {min(steps):8.1f}; "
            f"others used over {BUSY} cores in {disturbed} of {len(times['ours'])} blocks"
        )
    modes = {name: times[name] for name in ("torch eager", "torch compile")}
    # The better of torch's modes is the one with the smaller median.
    modes["better torch"] = min(modes.values(), key=lambda t: median(map(median, t)))
    for name, theirs in modes.items():
        ratios = [median(t) / median(o) for t, o in zip(theirs, times["ours"], strict=True)]
        low, _, high = quantiles(ratios, n=4)
        minima = min(map(min, theirs)) / min(map(min, times["ours"]))
        print(
            f"{name + ' ÷ ours':22} median {median(ratios):.2f}, quartiles {low:.2f} to "
            f"{high:.2f}; of the shortest steps {minima:.2f}"
        )


def compare_gradients(workers):
    with tempfile.TemporaryDirectory() as folder:
        ours = workers[0].ask("gradients", folder)["loss"]
        for worker in workers[1:]:
            theirs = worker.ask("gradients", folder)
            print(
                f"{worker.name:14} loss {theirs['loss']:.6f}, ours {ours:.6f}; largest difference "
                f"of a gradient {theirs['difference']:.1e} ({theirs['where']})"
            )
            assert abs(theirs["loss"] - ours) < 1e-4 * ours, "the losses differ"
            assert theirs["difference"] < MOST_DIFFERENCE, "the gradients differ"


def print_cost_of_logits(ours, block):
    ratios = []
    ours.ask("steps_of_logits", 1)
    for _ in range(LOGITS_ROUNDS):
        apart, together = (
            median(ours.ask(how, block)["seconds"]) for how in ("steps_of_logits", "steps")
        )
        ratios.append(apart / together)
    print(f"cross_entropy(model(ids), targets) takes {median(ratios):.2f} of model.loss's step")


if __name__ == "__main__":
    main()
