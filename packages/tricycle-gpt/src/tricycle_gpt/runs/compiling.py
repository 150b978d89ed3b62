"""Which kernels training will need, so that they can be compiled two at a time.

`kernels_gpt2.txt` and `kernels_llama.txt` hold a line for each kernel that a training step of a
GPT with such blocks asks for, in that order, as tricycle_autograd.compiling puts it.  They only
say what to begin early: a kernel that is missing there is compiled when it is needed, and one
that is there for nothing costs a second, once.  `scripts/list_kernels.py` writes them.
"""

from importlib.resources import files

from tricycle_autograd.compiling import expect


def expect_training_kernels(block: str) -> None:
    """Have the kernels for training GPTs of such blocks ("gpt2" or "llama") compiled ahead,
    should any of them be missing on this machine."""
    expect(
        files("tricycle_gpt.runs").joinpath(f"kernels_{block}.txt").read_text("utf-8").splitlines()
    )
