#!/usr/bin/env python3
"""Compiles digest.cu to digest.ptx, and states in CODE.md what GPUs make of it.

    python3 src/device/cuda/build.py           writes both files
    python3 src/device/cuda/build.py --check   fails if they are not what the source gives

No GPU, CUDA installation or host compiler is needed: NVRTC, ptxas and nvdisasm come from PyPI, in the
versions and with the hashes of requirements.txt, into target/cuda-tools (Linux on x86-64, 135 MB). The
kernel must compile for every architecture below without spilling registers.
"""

import ctypes
import hashlib
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
TOOLS = HERE.parents[2] / "target" / "cuda-tools"

# From Turing (the oldest that this compiler supports) to Blackwell. The PTX targets the first.
ARCHITECTURES = [75, 80, 86, 89, 90, 100, 120]

# The oldest version of the PTX language with all features of the kernel, for older drivers.
PTX_VERSION = "7.0"

# The maximum number of instructions for 64 bytes on an H100.
MAX_INSTRUCTIONS = 1420


def tools():
    """The folder with the compiler, which is fetched unless it is there."""
    requirements = HERE / "requirements.txt"
    place = TOOLS / hashlib.sha256(requirements.read_bytes()).hexdigest()[:16]
    if not place.is_dir():
        TOOLS.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=TOOLS) as temporary:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
            pip += ["--no-deps", "--only-binary=:all:", "--require-hashes"]
            subprocess.run([*pip, "--dest", temporary, "-r", requirements], check=True)
            unpacked = pathlib.Path(temporary, "tools")
            for wheel in pathlib.Path(temporary).glob("*.whl"):
                with zipfile.ZipFile(wheel) as archive:
                    archive.extractall(unpacked)
            for program in unpacked.glob("nvidia/cu13/bin/*"):
                program.chmod(0o755)
            unpacked.rename(place)
    return place / "nvidia" / "cu13"


def compile_to_ptx(cuda, source):
    """The PTX of a source file, by NVRTC."""
    # NVRTC looks this library up by its bare name, and finds it if it is loaded.
    ctypes.CDLL(cuda / "lib" / "libnvrtc-builtins.so.13.0", ctypes.RTLD_GLOBAL)
    nvrtc = ctypes.CDLL(cuda / "lib" / "libnvrtc.so.13")
    program, size = ctypes.c_void_p(), ctypes.c_size_t()

    def text(name):
        getattr(nvrtc, f"nvrtcGet{name}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(nvrtc, f"nvrtcGet{name}")(program, buffer)
        return buffer.value.decode()

    name = source.name.encode()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.read_bytes(), name, 0, None, None)
    options = [f"--gpu-architecture=compute_{ARCHITECTURES[0]}".encode(), b"--std=c++17"]
    failed = nvrtc.nvrtcCompileProgram(
        program, len(options), (ctypes.c_char_p * len(options))(*options)
    )
    log = text("ProgramLog")
    if failed or log.strip():
        sys.exit(f"{source}:\n{log}")
    ptx = text("PTX")
    # Comments name the compiler; the version line names the compiler's newest language.
    ptx = re.sub(r"^//.*\n", "", ptx, flags=re.MULTILINE)
    ptx, replaced = re.subn(r"(?m)^\.version .*$", f".version {PTX_VERSION}", ptx)
    assert replaced == 1
    return ptx.lstrip()


def assemble(cuda, ptx, architecture):
    """Registers, and the instructions in the order of the code, labels between them."""
    with tempfile.TemporaryDirectory() as temporary:
        source, object_file = pathlib.Path(temporary, "digest.ptx"), pathlib.Path(temporary, "cubin")
        source.write_text(ptx)
        ptxas = [cuda / "bin" / "ptxas", "-v", f"-arch=sm_{architecture}", source, "-o", object_file]
        said = subprocess.run(ptxas, check=True, capture_output=True, text=True).stderr
        spills = sum(int(count) for count in re.findall(r"(\d+) bytes spill", said))
        stack = sum(int(count) for count in re.findall(r"(\d+) bytes stack", said))
        if spills or stack or "warning" in said:
            sys.exit(f"sm_{architecture}: the kernel spills, or ptxas warns:\n{said}")
        registers = int(re.search(r"Used (\d+) registers", said)[1])
        disassemble = [cuda / "bin" / "nvdisasm", "-c", object_file]
        code = subprocess.run(disassemble, check=True, capture_output=True, text=True).stdout
    lines = re.findall(r"^(\.L_x_\d+):|^\s+/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", code, re.MULTILINE)
    return registers, [label + ":" if label else instruction for label, instruction in lines]


def main_loop(code):
    """The instructions that hash 64 bytes, without those for a block's end inside them.

    The loop is the code between a branch backwards and its target that holds the most rotations;
    in it, what loads single bytes is not on the way of a whole chunk.
    """
    at = {line[:-1]: index for index, line in enumerate(code) if line.endswith(":")}
    loops = []
    for index, line in enumerate(code):
        target = re.search(r"BRA(?:\.\S+)? .*\(?(\.L_x_\d+)\)?", line)
        if target and at[target[1]] < index:
            loops.append(code[at[target[1]] : index + 1])
    inner = [loop for loop in loops if count(loop)["SHF"] > 400]
    loop = min(inner, key=len)
    blocks, current = [], []
    for line in loop:
        if line.endswith(":"):
            blocks, current = [*blocks, current], []
        else:
            current.append(line)
            if "BRA" in line:
                blocks, current = [*blocks, current], []
    blocks.append(current)
    whole = [block for block in blocks if not any(".U8" in line for line in block)]
    return [line for block in whole for line in block]


def count(code):
    """How many instructions there are of each kind."""
    kinds = {}
    for line in code:
        if not line.endswith(":"):
            kind = re.sub(r"^@!?U?P\w+ ", "", line).split()[0].split(".")[0]
            kinds[kind] = kinds.get(kind, 0) + 1
    return kinds | {kind: 0 for kind in ("SHF", "LOP3", "IADD3", "IMAD", "PRMT") if kind not in kinds}


def describe(cuda, ptx):
    """CODE.md: what the assembler makes of the PTX."""
    rows = []
    for architecture in ARCHITECTURES:
        registers, code = assemble(cuda, ptx, architecture)
        loop = count(main_loop(code))
        total = sum(loop.values())
        kinds = [loop.pop(kind) for kind in ("SHF", "LOP3", "IADD3", "IMAD", "PRMT")]
        cells = [f"sm_{architecture}", registers, 0, total, *kinds, sum(loop.values())]
        rows.append("| " + " | ".join(str(cell) for cell in cells) + " |")
        if architecture == 90 and total > MAX_INSTRUCTIONS:
            sys.exit(f"sm_90: {total} instructions for 64 bytes, {MAX_INSTRUCTIONS} are allowed")
    return f"""\
# What GPUs make of the kernel

Written by `build.py`, which also checks it: `digest.ptx` assembled for each architecture, and the
instructions that hash 64 bytes of a whole chunk (one compression of SHA-256 in the main loop). A GPU's
integer units set the limit, so this is the speed, but for the clock and the number of multiprocessors.

| architecture | registers | bytes spilled | instructions for 64 bytes | SHF | LOP3 | IADD3 | IMAD | PRMT | others |
|---|---|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}
"""


def main():
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        sys.exit(__doc__)
    cuda = tools()
    ptx = compile_to_ptx(cuda, HERE / "digest.cu")
    for name, text in {"digest.ptx": ptx, "CODE.md": describe(cuda, ptx)}.items():
        path = HERE / name
        if not check:
            path.write_text(text)
        elif not path.is_file() or path.read_text() != text:
            sys.exit(f"{path} is not what digest.cu gives: run {pathlib.Path(__file__).name}")


main()
