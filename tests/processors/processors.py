"""Processors for which numba can make machine code here, and which of them this machine can run.

numba makes code for the processor that it finds; NUMBA_CPU_NAME and NUMBA_CPU_FEATURES name
another.  Two kinds of targets:

    by LLVM's name      with the features that LLVM gives to it
    as machines say     a name with the features that such machines report: where one of the
                        others is missing here, it is left out
"""

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass

AT_LEAST = 8  # targets that every machine must be able to run


@dataclass(frozen=True)
class Target:
    """A processor.

    name      what it is called here
    cpu       LLVM's name for it
    lanes     float32 numbers in a register, as gemm_tile would find there
    needed    features without which its code cannot run
    reported  all the features such machines report, of those that matter; None: as LLVM has them
    """

    name: str
    cpu: str
    lanes: int
    needed: frozenset[str]
    reported: frozenset[str] | None = None

    def runs_on(self, features: dict[str, bool]) -> bool:
        """Whether a machine with these features can run its code."""
        return all(features.get(feature, False) for feature in self.needed)

    @property
    def multiplies_and_adds_at_once(self) -> bool:
        """Whether it has fused multiply-add."""
        return "fma" in self.needed or self in ARM_TARGETS

    def settings(self, features: dict[str, bool]) -> dict[str, str]:
        """Environment variables that have numba make code for it, on a machine with these."""
        listed = ""
        if self.reported is not None:
            listed = ",".join(
                ("+" if features[name] and name in self.reported else "-") + name
                for name in sorted(features)
            )
        return {
            "NUMBA_CPU_NAME": self.cpu,
            "NUMBA_CPU_FEATURES": listed,
            "TRICYCLE_VECTOR_LANES": str(self.lanes),
        }


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


V2 = _set("sse3 ssse3 sse4.1 sse4.2 popcnt cx16 sahf")
AVX = V2 | _set("avx")
V3 = AVX | _set("avx2 bmi bmi2 f16c fma lzcnt movbe")
V4 = V3 | _set("avx512f avx512cd avx512bw avx512dq avx512vl")
VNNI = V4 | _set("avx512vnni")
ICE = VNNI | _set("avx512ifma avx512vbmi avx512vbmi2 avx512bitalg avx512vpopcntdq")
ZEN = V3 | _set("sse4a")
ZEN_4 = ICE | ZEN | _set("avx512bf16 gfni vaes vpclmulqdq")
ALDER = V3 | _set("avxvnni gfni vaes vpclmulqdq")
SAPPHIRE = ICE | ALDER | _set("avx512bf16 avx512fp16")

BASE = V2 | _set("64bit cmov cx8 fxsr mmx sse sse2 crc32 xsave")
SANDY_SAYS = BASE | _set("avx pclmul aes xsaveopt")
IVY_SAYS = SANDY_SAYS | _set("f16c fsgsbase rdrnd")
HASWELL_SAYS = IVY_SAYS | V3 | _set("invpcid")
SKYLAKE_SAYS = HASWELL_SAYS | _set("adx prfchw rdseed clflushopt xsavec xsaves")
SKYLAKE_SP_SAYS = SKYLAKE_SAYS | V4 | _set("clwb")
ICE_SAYS = SKYLAKE_SP_SAYS | ICE | _set("gfni vaes vpclmulqdq sha rdpid")
SAPPHIRE_SAYS = ICE_SAYS | SAPPHIRE
ZEN_SAYS = SKYLAKE_SAYS | _set("sse4a clzero sha")
ZEN_2_SAYS = ZEN_SAYS | _set("clwb rdpid wbnoinvd")
ZEN_4_SAYS = ZEN_2_SAYS | ZEN_4
MASKED = "without AVX-512"  # as many hired machines are set up: LLVM's name for them stays

# The order is that of choosing: first what was wrong once (issue: products from the cache as
# garbage), and of everything something.
X86_TARGETS = [
    Target("Skylake-SP", "skylake-avx512", 16, V4, SKYLAKE_SP_SAYS),
    Target("Ice Lake-SP", "icelake-server", 16, ICE, ICE_SAYS),
    Target("Zen 4", "znver4", 16, ZEN_4, ZEN_4_SAYS),
    Target("x86-64-v4", "x86-64-v4", 16, V4),
    Target("haswell", "haswell", 8, V3),
    Target("Haswell Xeon", "haswell", 8, V3, HASWELL_SAYS),
    Target("Sandy Bridge", "sandybridge", 4, AVX, SANDY_SAYS),
    Target("Skylake client", "skylake", 8, V3, SKYLAKE_SAYS),
    Target("Zen 2", "znver2", 8, ZEN, ZEN_2_SAYS),
    Target(f"Skylake-SP {MASKED}", "skylake-avx512", 8, V3, SKYLAKE_SAYS | _set("clwb")),
    Target(f"Ice Lake-SP {MASKED}", "icelake-server", 8, V3, ICE_SAYS - ICE | V3),
    Target("x86-64-v2", "x86-64-v2", 4, V2),
    Target("Cascade Lake", "cascadelake", 16, VNNI, SKYLAKE_SP_SAYS | VNNI),
    Target("Cooper Lake", "cooperlake", 16, VNNI, SKYLAKE_SP_SAYS | VNNI | _set("avx512bf16")),
    Target("Tiger Lake", "tigerlake", 16, ICE, ICE_SAYS),
    Target("Rocket Lake", "rocketlake", 16, ICE, ICE_SAYS),
    Target("Sapphire Rapids", "sapphirerapids", 16, ICE, SAPPHIRE_SAYS),
    Target("Emerald Rapids", "emeraldrapids", 16, ICE, SAPPHIRE_SAYS),
    Target("Granite Rapids", "graniterapids", 16, ICE, SAPPHIRE_SAYS),
    Target("Zen 5", "znver5", 16, ZEN_4, ZEN_4_SAYS | _set("avxvnni movdiri movdir64b")),
    Target(f"Cascade Lake {MASKED}", "cascadelake", 8, V3, SKYLAKE_SAYS | _set("clwb")),
    Target(f"Sapphire Rapids {MASKED}", "sapphirerapids", 8, V3, ICE_SAYS - ICE | V3),
    Target("Alder Lake", "alderlake", 8, V3, SKYLAKE_SAYS | ALDER),
    Target("Gracemont", "gracemont", 8, V3, SKYLAKE_SAYS | ALDER),
    Target("Broadwell", "broadwell", 8, V3, HASWELL_SAYS | _set("adx prfchw rdseed")),
    Target("Ivy Bridge", "ivybridge", 4, AVX | _set("f16c"), IVY_SAYS),
    Target("Zen", "znver1", 8, ZEN, ZEN_SAYS),
    Target("Zen 3", "znver3", 8, ZEN, ZEN_2_SAYS | _set("vaes vpclmulqdq invpcid")),
    Target("nehalem", "nehalem", 4, V2),
    Target("sandybridge", "sandybridge", 4, AVX),
    Target("broadwell", "broadwell", 8, V3),
    Target("skylake", "skylake", 8, V3),
    Target("x86-64-v3", "x86-64-v3", 8, V3),
    Target("znver1", "znver1", 8, ZEN),
    Target("znver2", "znver2", 8, ZEN),
    Target("znver3", "znver3", 8, ZEN | _set("vaes vpclmulqdq")),
    Target("alderlake", "alderlake", 8, ALDER),
    Target("skylake-avx512", "skylake-avx512", 16, V4),
    Target("cascadelake", "cascadelake", 16, VNNI),
    Target("cooperlake", "cooperlake", 16, VNNI | _set("avx512bf16")),
    Target("icelake-server", "icelake-server", 16, ICE | _set("gfni vaes vpclmulqdq")),
    Target("tigerlake", "tigerlake", 16, ICE | _set("gfni vaes vpclmulqdq avx512vp2intersect")),
    Target("rocketlake", "rocketlake", 16, ICE | _set("gfni vaes vpclmulqdq")),
    Target("sapphirerapids", "sapphirerapids", 16, SAPPHIRE),
    Target("emeraldrapids", "emeraldrapids", 16, SAPPHIRE),
    Target("graniterapids", "graniterapids", 16, SAPPHIRE),
    Target("znver4", "znver4", 16, ZEN_4),
    Target("znver5", "znver5", 16, ZEN_4 | _set("avxvnni avx512vp2intersect")),
]
ARM_FIRST = "generic cortex-a35 cortex-a53 cortex-a57 cortex-a72 cortex-a73 exynos-m3 kryo"
ARM_LATER = _set("lse rdm fullfp16 dotprod")
ARM_TARGETS = [
    *(Target(name, name, 4, frozenset()) for name in ARM_FIRST.split()),
    Target("neoverse-n1", "neoverse-n1", 4, ARM_LATER),
    Target("neoverse-v1", "neoverse-v1", 4, ARM_LATER | _set("sve bf16 i8mm")),
]


def runnable(features: dict[str, bool], machine: str | None = None) -> Iterator[Target]:
    """The targets whose code a machine with these features can run, in the order of choosing.

    machine   what platform.machine() says there; of this machine if None
    """
    arm = (machine or platform.machine()).lower() in ("aarch64", "arm64")
    for target in ARM_TARGETS if arm else X86_TARGETS:
        if target.runs_on(features):
            yield target


def chosen(features: dict[str, bool]) -> list[Target]:
    """AT_LEAST of them; all, where TRICYCLE_TEST_LONG is 1."""
    found = list(runnable(features))
    return found if os.environ.get("TRICYCLE_TEST_LONG") == "1" else found[:AT_LEAST]
