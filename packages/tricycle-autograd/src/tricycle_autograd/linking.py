"""A fault of numba's that makes wrong machine code, and its cure.

When numba has compiled a helper, it makes machine code of it at once.  Then it copies the helper's
code into each kernel that calls it (it *links* the two), and compiles the two as one.  But LLVM,
the compiler underneath, rewrites code while it makes machine code of it, in place, into a form
that is close to the processor and must not be optimised again.  There a place in memory,

    offset + address            a sum of two integers

has become the pointer `offset`, moved on by `address`.  Where the second optimisation finds out
that the offset is 0, it sees something stored at address 0, which no correct program does, and
removes it.  So the matrix product lost what packing stores, on processors for which LLVM chooses
this form (Haswell to Rocket Lake), and only where kernels came from the cache: in the process that
compiles a kernel its helpers are called where they are.

The cure: keep a copy of each helper's code from before machine code is made of it, and link that.

Seen with numba 0.66 to 0.68 (LLVM 22).  LLVM's name for the rewriting is CodeGenPrepare, and it
calls such a pointer "sunkaddr": a test looks for this word in everything that is linked.
"""

MAKE_MACHINE_CODE = "_finalize_final_module"  # the method of numba's that does
MENDED = "_tricycle_links_before_lowering"  # set on numba's class


def link_before_lowering() -> None:
    """Have numba link helpers as they were before machine code was made of them.

    It changes numba for the whole process; called a second time it does nothing.  Raises
    RuntimeError for a numba whose insides are not the known ones.
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
    """A copy of a module that several callers may hold; None if no function is defined in it."""
    from llvmlite.binding import Linkage

    kept = module.clone()
    defined = [function for function in kept.functions if not function.is_declaration]
    for function in defined:
        if function.linkage == Linkage.external:
            function.linkage = "linkonce_odr"
    return kept if defined else None
