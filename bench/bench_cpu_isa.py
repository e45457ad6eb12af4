"""The instructions that scripts/bench cpu is held to (--isa): what the processor has, how every program is held back."""

import os
import platform
import re

AVX2 = {"avx2", "fma", "bmi1", "bmi2"}
AVX512 = AVX2 | {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
# the flags of Linux that a variant of the engine needs (kernels/cpu/isa.c), the least first
NEEDED = {"avx2": AVX2, "avx512": AVX512, "avx512bf16": AVX512 | {"avx512_vnni", "avx512_bf16"}}
# flags of what a processor may have beyond them that the libraries would use
MORE = {"avx2": {"avx512f", "avx_vnni", "avx_vnni_int8", "avx_ne_convert"}, "avx512": {"avx512_bf16", "avx512_fp16", "amx_tile"},
        "avx512bf16": {"avx512_fp16", "amx_tile"}}
# oneDNN's and MKL's names for them; with VNNI, "avx512" includes it
ONEDNN = {"avx2": "AVX2", "avx512": "AVX512_CORE", "avx512vnni": "AVX512_CORE_VNNI", "avx512bf16": "AVX512_CORE_BF16"}
MKL = {"avx2": "AVX2", "avx512": "AVX512", "avx512vnni": "AVX512_E1", "avx512bf16": "AVX512_E2"}


def processor_flags():
    with open("/proc/cpuinfo") as f:
        found = re.search(r"(?m)^(?:flags|Features)\s*: (.*)$", f.read())
    return set(found.group(1).split()) if found else set()


class Isa:
    """`asked` is the value of --isa, or None for whatever the processor has. ValueError if the processor lacks it."""

    def __init__(self, asked, build):
        flags = processor_flags()
        has = [name for name, needed in NEEDED.items() if needed <= flags]
        if asked and asked not in has:
            missing = " ".join(sorted(NEEDED[asked] - flags))
            raise ValueError(f"this processor cannot run {asked}, it lacks: {missing}")
        self.name = asked or (has[-1] if has else platform.machine())
        self.held = asked is not None and bool(MORE[asked] & flags)
        self.vnni = "avx512_vnni" in flags and self.name != "avx2"
        self.native_bfloat16 = self.name == "avx512bf16" or not self.held and bool({"amx_bf16", "bf16"} & flags)
        self.library = f"{build}/bench/hold_isa.so"
        self.hides = self.held and "cpuid_fault" in flags and os.path.exists(self.library)

    def environment(self):
        """Variables for every process that is measured: the libraries' own settings and the library that hides the rest."""
        if not self.held:
            return {}
        detailed = "avx512vnni" if self.name == "avx512" and self.vnni else self.name
        env = {"IA3_CPU_ISA": self.name, "ONEDNN_MAX_CPU_ISA": ONEDNN[detailed],
               "ATEN_CPU_CAPABILITY": "avx2" if self.name == "avx2" else "avx512",
               "MKL_ENABLE_INSTRUCTIONS": MKL[detailed],
               "CT2_FORCE_CPU_ISA": "AVX2" if self.name == "avx2" else "AVX512"}
        return dict(env, LD_PRELOAD=self.library, IA3_HOLD_ISA=self.name) if self.hides else env

    def why_not(self, dtype):
        """Why a peer is not measured in this type, or None. Without the instructions it takes minutes for a row."""
        if dtype == "bfloat16" and not self.native_bfloat16:
            return f"{self.name} has no instructions for bfloat16"
        return None

    def text(self):
        """What held which program back, in a sentence or two."""
        if not self.held:
            return f"Every program uses all instructions that the processor has; ia3's variant is {self.name}."
        if self.hides:
            return (f"Every program is held to {self.name}: by the libraries' own settings, and because CPUID shows its process"
                    " no more than that (hold_isa.c).")
        return (f"ia3, oneDNN, PyTorch, MKL and CTranslate2 are held to {self.name} by their own settings. onnxruntime has no such"
                " setting, and on this machine CPUID cannot be made to hide instructions (no flag cpuid_fault), so"
                " onnxruntime uses all that the processor has.")
