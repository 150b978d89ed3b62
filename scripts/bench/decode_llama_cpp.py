"""A process of cpu_decode.py: llama.cpp writes greedily, through the package xllamacpp.

    python decode_llama_cpp.py FILE.gguf THREADS FOLDER

Its own clock tells the times.  Obeys lines on its standard input (see taking_turns.py).
"""

import json
import sys
from pathlib import Path

import xllamacpp
from taking_turns import obey

prompt = json.loads((Path(sys.argv[3]) / "recipe.json").read_text())["prompt"]
parameters = xllamacpp.CommonParams()
parameters.model.path = sys.argv[1]
parameters.n_ctx = 512
parameters.n_parallel = 1
parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = int(sys.argv[2])
parameters.warmup, parameters.verbosity = False, -1
server = xllamacpp.Server(parameters)


def write(n):
    """As decode_ours.py's, but for the text in place of ids: this interface has none."""
    question = {
        "prompt": prompt,
        "n_predict": int(n) + 1,
        "temperature": 0,
        "cache_prompt": False,
    }
    answer = server.handle_completions(question)
    times = answer["timings"]
    return {
        "prompt": times["prompt_ms"] / 1e3,
        "seconds": times["predicted_ms"] / 1e3 / int(n),
        "text": answer["choices"][0]["text"],
    }


obey(write)
