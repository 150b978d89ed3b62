"""Which kernels training will need, so that they can be compiled two at a time.

`kernels_gpt2.txt` and `kernels_llama.txt` hold a line for each kernel that a training step of a
GPT with such blocks asks for, in that order, as tricycle_autograd.compiling puts it.  They only
say what to begin early: a kernel that is missing there is compiled when it is needed, and one
that is there for nothing costs a second, once.  `scripts/list_kernels.py` writes them.
"""

from importlib.resources import files

from tricycle_autograd.compiling import expect


def expect_training_kernels(block: str) -> None:
    """Have the kernels for training GPTs with such blocks compiled ahead, should any be missing.

    block   the name of a family; one without a list has its kernels compiled when they are needed
    """
    listed = files("tricycle_gpt.runs").joinpath(f"kernels_{block}.txt")
    if listed.is_file():
        expect(listed.read_text("utf-8").splitlines())
