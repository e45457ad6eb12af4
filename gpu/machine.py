"""Finds out what the machine has: GPU, toolkit, libraries, a Python with torch."""

import glob
import os
import re
import shutil
import subprocess
import tarfile
import tempfile

import runner

PROBE = """
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <jansson.h>
#include <oneapi/dnnl/dnnl.h>
#include <openssl/evp.h>
int main(void) { return json_object() == 0 || EVP_sha256() == 0 || dnnl_version() == 0; }
"""
LIBRARIES = ["-ldnnl", "-lsentencepiece", "-lpcre2-8", "-ljansson", "-lcrypto", "-lcmocka"]


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
    archive = f"{folder}/libraries.tar.xz"
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


def packed_build(folder):
    """Whether programs were packed (scripts/gpu-check --pack)."""
    return os.path.exists(f"{folder}/built.tar.xz")


def unpack_build(environment, folder):
    """Returns the folder of the packed programs, and what they were built of; the environment finds their libraries."""
    for name in ("built", "libraries"):
        with tarfile.open(f"{folder}/{name}.tar.xz") as tar:
            tar.extractall(f"{folder}/pack")
    prepend(environment, "LD_LIBRARY_PATH", os.path.abspath(f"{folder}/pack/lib"))
    with open(f"{folder}/pack/built/made-of") as f:
        return f"{folder}/pack/built", f.read().strip()


def find_nvcc():
    candidates = [os.environ.get("NVCC"), shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc",
                  *sorted(glob.glob("/usr/local/cuda-*/bin/nvcc"), reverse=True)]
    return next((c for c in candidates if c and os.path.exists(c)), None)


def _linkable(folders, links):
    """Folders with a libcublasLt.so to link. Python's packages contain it under its versioned name only, which the linker
    does not look for: it gets a link in `links`."""
    found = [d for d in folders if glob.glob(f"{d}/libcublasLt.so*")]
    if found and not any(os.path.exists(f"{d}/libcublasLt.so") for d in found):
        os.makedirs(links, exist_ok=True)
        link = f"{links}/libcublasLt.so"
        if os.path.lexists(link):
            os.remove(link)
        os.symlink(os.path.abspath(sorted(glob.glob(f"{found[0]}/libcublasLt.so.*"))[0]), link)
        found.append(os.path.abspath(links))
    return found


def use_toolkit(environment, nvcc, python, folder):
    """nvcc in the path; cuBLASLt of the toolkit, or of Python's packages where the toolkit has none. `folder` is for what
    has to be made."""
    roots = []
    if nvcc:
        home = os.path.dirname(os.path.dirname(os.path.realpath(nvcc)))
        prepend(environment, "PATH", os.path.dirname(nvcc))
        environment["NVCC"] = nvcc
        roots = [home, *glob.glob(f"{home}/targets/x86_64-linux")]
    complete = [r for r in roots if os.path.exists(f"{r}/include/cublasLt.h")]
    libraries = [d for r in roots for d in (f"{r}/lib64", f"{r}/lib") if glob.glob(f"{d}/libcublasLt.so*")]
    if not complete or not libraries:
        site = output_of([python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]) if python else ""
        extra = glob.glob(f"{site}/nvidia/cu1?") + glob.glob(f"{site}/nvidia/cublas")
        for root in (r for r in extra if os.path.exists(f"{r}/include/cublasLt.h")):
            prepend(environment, "CPATH", f"{root}/include")
        elsewhere = glob.glob("/opt/*/.venv/lib/python3*/site-packages/nvidia/cu1?") + ["/usr/lib/x86_64-linux-gnu"]
        roots += extra or elsewhere
    libraries = _linkable([d for r in roots for d in (f"{r}/lib64", f"{r}/lib")], f"{folder}/lib")
    if libraries:
        prepend(environment, "LIBRARY_PATH", *libraries)
        prepend(environment, "LD_LIBRARY_PATH", *libraries)


def architecture(nvcc, capability):
    """What CUDA_ARCHS should be for a GPU of this compute capability ("9.0"); "" leaves the default list, with code for
    later GPUs than nvcc knows."""
    if not re.fullmatch(r"\d+\.\d", capability or ""):
        return ""
    number = capability.replace(".", "")
    arch = f"sm_{number}"
    return arch if arch in output_of([nvcc, "--list-gpu-code"]).split() else ""


def find_python(step):
    """An interpreter with torch, transformers and peft, and their versions; (None, "") when there is none. The first
    import of torch on a machine takes its time."""
    check = ("import torch, transformers, peft; print('torch', torch.__version__ + ', transformers', "
             "transformers.__version__ + ', peft', peft.__version__ + ',', 'CUDA', torch.version.cuda)")
    candidates = [os.environ.get("PYTHON"), shutil.which("python3"), shutil.which("python"), "/opt/conda/bin/python3"]
    tried, limit = set(), 120
    for python in (c for c in candidates if c):
        same = output_of([python, "-c", "import os, sys; print(os.path.realpath(sys.executable), sys.prefix)"])
        if not same or same in tried:
            continue
        tried.add(same)
        versions = output_of([python, "-c", check], min(limit, step.left()))
        if versions:
            return python, versions.split("\n")[-1]
        limit = 30
    return None, ""


def _selection(device):
    """nvidia-smi's arguments for the GPU that CUDA calls "cuda:N" here."""
    number = int(device.partition(":")[2] or 0)
    visible = [v for v in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if v]
    return ["nvidia-smi", f"--id={visible[number] if number < len(visible) else number}"]


def gpu_facts(device):
    """What nvidia-smi says of the GPU, by name of the field; {} without one. Old ones do not know all fields, virtual
    GPUs do not tell them all."""
    facts = {}
    for field in ("name", "driver_version", "memory.total", "clocks.max.sm", "power.limit", "compute_cap"):
        line = output_of([*_selection(device), f"--query-gpu={field}", "--format=csv,noheader,nounits"]).split("\n")[0]
        if line and not re.search(r"N/A|not supported|not a valid", line, re.I):
            facts[field] = line.strip()
        elif field == "name":
            break
    return facts


def gpu_memory(device):
    """Bytes in use on the GPU, all processes together; None where nvidia-smi does not say."""
    line = output_of([*_selection(device), "--query-gpu=memory.used", "--format=csv,noheader,nounits"], 5)
    line = line.split("\n")[0].strip()
    return int(line) * 2**20 if re.fullmatch(r"\d+", line) else None


def watch_gpu(device, path):
    """A process that writes the GPU's clock, power and memory to a file twice a second; None where there is none."""
    command = [*_selection(device), "--query-gpu=timestamp,clocks.sm,clocks.mem,power.draw,temperature.gpu,memory.used",
               "--format=csv,nounits", "-lms", "500"]
    try:
        with open(path, "w") as f:
            return subprocess.Popen(command, stdout=f, stderr=subprocess.DEVNULL, start_new_session=True)
    except OSError:
        return None


def clocks(path):
    """"1980 to 1980 MHz, 250 to 690 W" of the samples with load, from watch_gpu's file."""
    samples = []
    with open(path) as f:
        for line in f:
            cells = [c.strip() for c in line.split(",")]
            if len(cells) == 6 and re.fullmatch(r"\d+", cells[1]) and re.fullmatch(r"[0-9.]+", cells[3]):
                samples.append((int(cells[1]), float(cells[3])))
    busy = [s for s in samples if s[1] > 200] or samples
    if not busy:
        return ""
    return (f"{min(s[0] for s in busy)} to {max(s[0] for s in busy)} MHz, {min(s[1] for s in busy):.0f} to "
            f"{max(s[1] for s in busy):.0f} W ({len(busy)} samples)")


def simulated(module):
    """Whether a module is the GPU that is simulated on the CPU (engine.mk's name for it)."""
    return bool(module) and "cuda_sim" in os.path.basename(module)


def room_for(needed):
    """A new folder with that many bytes of room, in memory if possible; None when there is no room."""
    for parent in ("/dev/shm", "/tmp", "build/gpu-check"):
        try:
            if shutil.disk_usage(parent).free > needed * 1.2:
                return tempfile.mkdtemp(prefix="ia3-load.", dir=parent)
        except OSError:
            continue
    return None
