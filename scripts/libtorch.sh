#!/bin/sh
# Installs libtorch into .libtorch/ from the PyTorch wheel, with the user's own pip settings.
#
#   scripts/libtorch.sh          install if missing
#   LIBTORCH=/path make demo     use that libtorch instead
#
# On a machine without an NVIDIA GPU three wheels are enough: torch itself and two small CUDA libraries that
# libtorch_cpu is linked against. Whole wheels stay in .libtorch.part/ until the installation is in place, so an
# interrupted run fetches only the rest; pip can't go on with half a wheel. The folder appears under its final name
# by one rename.
set -eu

# tch 0.24 is bound to exactly this version of PyTorch.
TORCH_VERSION=2.11.0
ROOT=$(cd "$(dirname "$0")/.." && pwd)
TARGET=$ROOT/.libtorch
PART=$ROOT/.libtorch.part

say() { printf 'libtorch: %s\n' "$*" >&2; }
fail() { say "error: $1"; say "help: $2"; exit 4; }
installed() { [ "$(cat "$TARGET/version" 2>/dev/null)" = "$TORCH_VERSION" ]; }

if [ -n "${LIBTORCH:-}" ]; then
    [ -d "$LIBTORCH/include" ] && [ -e "$LIBTORCH/lib/libtorch_cpu.so" ] ||
        fail "LIBTORCH is \`$LIBTORCH\`, which has no include/ and lib/libtorch_cpu.so" \
             "point it at the torch folder of a PyTorch $TORCH_VERSION, or unset it to install one here"
    say "using LIBTORCH=$LIBTORCH"
    exit 0
fi
if installed; then
    exit 0
fi

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] ||
    fail "no pinned libtorch for $(uname -s) $(uname -m)" "set LIBTORCH to the torch folder of a PyTorch $TORCH_VERSION"
command -v python3 >/dev/null || fail "python3 not found" "install python3 with pip, or set LIBTORCH"
python3 -m pip --version >/dev/null 2>&1 || fail "python3 has no pip" "install it (python3-pip), or set LIBTORCH"

mkdir -p "$PART/wheels"
if command -v flock >/dev/null; then
    # The lock is the kernel's: it ends with this script and what it started.
    exec 9>"$PART/lock"
    flock -n 9 || { say "another run installs it; waiting"; flock 9; }
    if installed; then
        rm -rf "$PART"
        exit 0
    fi
    mkdir -p "$PART/wheels"
else
    say "there is no flock here: don't run this twice at once"
fi
trap 'say "stopped; whole wheels are kept in .libtorch.part"; exit 130' INT TERM

say "installing PyTorch $TORCH_VERSION's libtorch into .libtorch (0.5 GB; 1.6 GB while installing)"
LOG=$PART/pip.log
WHEELS=

# fetch REQUIREMENT SIZE WHEEL SHA256: leaves a verified wheel in .libtorch.part/wheels
fetch() {
    wheel=$PART/wheels/$3
    WHEELS="$WHEELS $3"
    if [ -f "$wheel" ] && echo "$4  $wheel" | sha256sum -c --status; then
        say "have $1 from an earlier run"
        return
    fi
    say "fetching $1 ($2)"
    rm -rf "$wheel" "$PART/tmp" "$LOG"
    mkdir "$PART/tmp"
    # The wheel is only unpacked, never imported: any Python may fetch the one for CPython 3.11. Its name ends in
    # -PYTHON-ABI-PLATFORM[.PLATFORM...].whl.
    tags=${3%.whl}
    platform=${tags##*-}
    tags=${tags%-*}
    quiet=--quiet
    [ ! -t 2 ] || quiet=
    TMPDIR=$PART/tmp python3 -m pip download $quiet --log "$LOG" --disable-pip-version-check --no-deps \
        --only-binary=:all: --python-version 311 --implementation cp --abi "${tags##*-}" \
        --platform "${platform%%.*}" --dest "$PART/wheels" "$1" >&2 || give_up "$1"
    [ -f "$wheel" ] || fail "pip fetched another file than $3" "remove .libtorch.part and run the same command again"
    echo "$4  $wheel" | sha256sum -c --status ||
        { rm -f "$wheel"; fail "$3 has another SHA-256 than the pinned $4" "check the package index that pip is set to"; }
}

# Says why pip failed, by what it logged.
give_up() {
    again="then run the same command again; whole wheels are kept in .libtorch.part"
    said() { grep -q -E "$1" "$LOG" 2>/dev/null; }
    if said 'No space left on device'; then
        fail "the disk is full" "free 1.6 GB where $ROOT lies, $again"
    elif said 'ConnectionError|Connection refused|Name or service|name resolution|timed out|ProxyError|SSLError'; then
        fail "can't reach the package index to fetch $1" \
             "check the network and \`python3 -m pip config list\`, $again; or set LIBTORCH"
    elif said 'No matching distribution'; then
        fail "pip finds no wheel of $1 for Linux x86_64" \
             "an old pip passes it over: update it; check \`python3 -m pip config list\`, $again; or set LIBTORCH"
    fi
    fail "pip could not download $1" "see above; mend it, $again; or set LIBTORCH"
}

fetch "torch==$TORCH_VERSION" "531 MB" torch-2.11.0-cp311-cp311-manylinux_2_28_x86_64.whl \
    7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a
fetch nvidia-cuda-runtime==13.0.96 "2 MB" \
    nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl \
    7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
fetch nvidia-cuda-cupti==13.0.85 "11 MB" nvidia_cuda_cupti-13.0.85-py3-none-manylinux_2_25_x86_64.whl \
    4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8

say "unpacking"
rm -rf "$PART/tree"
# The names of the wheels have no blanks.
python3 - "$PART" $WHEELS <<'PY' || fail "the wheels could not be unpacked" "free 1 GB of disk space and run the same command again"
import os, shutil, sys, zipfile

part, wheels = sys.argv[1], sys.argv[2:]
# libtorch_cpu needs these; the CUDA kernels (libtorch_cuda, 1.1 GB with its libraries) stay out.
libraries = {"libc10.so", "libgomp.so.1", "libtorch.so", "libtorch_cpu.so", "libtorch_global_deps.so",
             "libshm.so", "libcudart.so.13", "libcupti.so.13"}
for wheel in wheels:
    with zipfile.ZipFile(os.path.join(part, "wheels", wheel)) as archive:
        for member in archive.namelist():
            base = os.path.basename(member)
            if member.startswith("torch/include/") and base:
                target = os.path.join(part, "tree", member[len("torch/"):])
            elif base in libraries:
                target = os.path.join(part, "tree", "lib", base)
            else:
                continue
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with archive.open(member) as source, open(target, "wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
PY
printf '%s\n' "$TORCH_VERSION" >"$PART/tree/version"
sync
rm -rf "$TARGET"
mv "$PART/tree" "$TARGET"
rm -rf "$PART"
say "installed in .libtorch"
