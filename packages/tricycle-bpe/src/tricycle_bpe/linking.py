"""A fault of numba's that makes wrong machine code, and its cure.

numba makes machine code of a helper as soon as it is compiled, and while LLVM, the compiler
underneath, does so, it rewrites the helper's code in place into a form that must not be optimised
again: `offset + address` becomes the pointer `offset`, moved on by `address`. Then numba links the
rewritten code into the kernels that call the helper, and compiles the two as one. Where the
offset turns out to be 0, what is stored at that place is taken for a store at address 0, and
removed.

The cure: keep a copy of each helper's code from before machine code is made of it, and link that.
tricycle_autograd has the same file: each of the two packages stands alone.
"""

MAKE_MACHINE_CODE = "_finalize_final_module"  # the method of numba's that does
MENDED = "_tricycle_links_before_lowering"  # set on numba's class


def link_before_lowering() -> None:
    """Have numba link helpers as they were before machine code was made of them.

    It changes numba for the whole process; called a second time it does nothing.

    raises   RuntimeError for a numba whose insides are not the known ones
    """
    import numba
    from numba.core.codegen import CPUCodeLibrary

    make_machine_code = getattr(CPUCodeLibrary, MAKE_MACHINE_CODE, None)
    if make_machine_code is None or not hasattr(CPUCodeLibrary, "_get_module_for_linking"):
        raise RuntimeError(
            f"numba {numba.__version__} links kernels in a way that is not known here, and they "
            'could compute wrong numbers; install one that is: pip install "numba<0.69"'
        )
    if hasattr(CPUCodeLibrary, MENDED):
        return

    def keep_and_make_machine_code(library):
        kept = _for_linking(library._final_module)
        make_machine_code(library)
        if kept is not None and library._shared_module is None:  # not None: loaded from the disk
            library._shared_module = kept

    setattr(CPUCodeLibrary, MAKE_MACHINE_CODE, keep_and_make_machine_code)
    setattr(CPUCodeLibrary, MENDED, True)


def _for_linking(module):
    """Copy a module so that several callers may hold it; None if no function is defined in it."""
    from llvmlite.binding import Linkage

    kept = module.clone()
    defined = [function for function in kept.functions if not function.is_declaration]
    for function in defined:
        if function.linkage == Linkage.external:
            function.linkage = "linkonce_odr"
    return kept if defined else None
