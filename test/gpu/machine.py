"""What the machine has: GPU, toolkit, libraries, a Python with torch."""

import glob
import os
import re
import shutil
import tarfile
import tempfile

import runner

PROBE = """
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <oneapi/dnnl/dnnl.h>
#include <openssl/evp.h>
int main(void) { return json_object() == 0 || EVP_sha256() == 0 || dnnl_version() == 0; }
"""
LIBRARIES = ["-ldnnl", "-lsentencepiece", "-ljansson", "-lcrypto", "-lcmocka"]


def output_of(command, limit=20, environment=None):
    """What a command prints, or "" when it cannot run or fails."""
    try:
        status, text = runner.run(command, limit, environment)
    except (OSError, runner.Failure):
        return ""
    return text.strip() if status == 0 else ""


def prepend(environment, name, *paths):
    old = environment.get(name)
    environment[name] = ":".join([*paths, *([old] if old else [])])


def missing_library(environment):
    """Why a program with the libraries of the engine and its tests does not compile, link or run; "" when it does."""
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/probe.c", "w") as f:
            f.write(PROBE)
        with open(f"{folder}/header.cc", "w") as f:
            f.write("#include <sentencepiece_processor.h>\n")
        commands = [["g++", "-std=c++17", "-fsyntax-only", f"{folder}/header.cc"],
                    ["gcc", "-Wl,--no-as-needed", "-o", f"{folder}/probe", f"{folder}/probe.c", *LIBRARIES],
                    [f"{folder}/probe"]]
        problem = ""
        for command in commands:
            try:
                status, text = runner.run(command, 30, environment)
            except (OSError, runner.Failure) as error:
                status, text = 1, str(error)
            if status != 0:
                problem = text.strip().split("\n")[0] or f"{command[0]} fails"
                break
    return problem


def use_libraries(environment, folder):
    """Makes what the engine links available. Returns ("installed" or "packed" or None, what is missing)."""
    missing = missing_library(environment)
    if not missing:
        return "installed", ""
    archive = f"{folder}/pack.tar.gz"
    if not os.path.exists(archive):
        return None, f"{missing}; and nothing was packed (scripts/gpu-check --pack)"
    with tarfile.open(archive) as tar:
        tar.extractall(f"{folder}/pack")
    root = os.path.abspath(f"{folder}/pack")
    prepend(environment, "CPATH", f"{root}/include")
    prepend(environment, "LIBRARY_PATH", f"{root}/lib")
    prepend(environment, "LD_LIBRARY_PATH", f"{root}/lib")
    missing = missing_library(environment)
    return (None, missing) if missing else ("packed", "")


def find_nvcc():
    candidates = [os.environ.get("NVCC"), shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc",
                  *sorted(glob.glob("/usr/local/cuda-*/bin/nvcc"), reverse=True)]
    return next((c for c in candidates if c and os.path.exists(c)), None)


def use_toolkit(environment, nvcc, python):
    """nvcc in the path; cuBLASLt of the toolkit, or of torch's packages where the toolkit has none."""
    home = os.path.dirname(os.path.dirname(os.path.realpath(nvcc)))
    prepend(environment, "PATH", os.path.dirname(nvcc))
    environment["NVCC"] = nvcc
    roots = [home, *glob.glob(f"{home}/targets/x86_64-linux")]
    if not any(os.path.exists(f"{r}/include/cublasLt.h") for r in roots):
        site = output_of([python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]) if python else ""
        extra = glob.glob(f"{site}/nvidia/cu1?") + glob.glob(f"{site}/nvidia/cublas")
        for root in (r for r in extra if os.path.exists(f"{r}/include/cublasLt.h")):
            prepend(environment, "CPATH", f"{root}/include")
            roots.append(root)
    libraries = [d for r in roots for d in (f"{r}/lib64", f"{r}/lib") if glob.glob(f"{d}/libcublasLt.so*")]
    if libraries:
        prepend(environment, "LIBRARY_PATH", *libraries)
        prepend(environment, "LD_LIBRARY_PATH", *libraries)


def find_python():
    """An interpreter with torch, transformers and peft, and their versions; (None, "") when there is none."""
    check = ("import torch, transformers, peft; print('torch', torch.__version__ + ', transformers', "
             "transformers.__version__ + ', peft', peft.__version__ + ',', 'CUDA', torch.version.cuda)")
    candidates = [os.environ.get("PYTHON"), shutil.which("python3"), shutil.which("python"), "/opt/conda/bin/python3"]
    for python in dict.fromkeys(c for c in candidates if c):
        versions = output_of([python, "-c", check], 60)
        if versions:
            return python, versions.split("\n")[-1]
    return None, ""


def gpu_facts():
    """[name, driver, memory in MiB, ...] of the first GPU, or None."""
    query = "name,driver_version,memory.total,clocks.max.sm,power.limit,compute_cap"
    line = output_of(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]).split("\n")[0]
    return [field.strip() for field in line.split(",")] if line else None


def gpu_memory():
    """Bytes in use on the first GPU, all processes together; None where nvidia-smi does not say."""
    line = output_of(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"], 5).split("\n")[0]
    return int(line) * 2**20 if re.fullmatch(r"\d+", line.strip()) else None


def room_for(needed):
    """A new folder with that many bytes of room, in memory if possible; None when there is no room."""
    for parent in ("/dev/shm", "/tmp", "build/gpu-check"):
        try:
            if shutil.disk_usage(parent).free > needed * 1.2:
                return tempfile.mkdtemp(prefix="ia3-load.", dir=parent)
        except OSError:
            continue
    return None
