#!/usr/bin/env bash
# Makes the environment that muloco runs in: a virtual environment in .venv (or $VENV) with the pinned dependencies.
# Needs python 3.11 or newer; no sudo. Uses uv where it is installed, else python's own venv and pip.
#
#   ./install_dependencies.sh            what a run needs, and what the tests and the linter need
#   ./install_dependencies.sh --runtime  what a run needs
#
# PYTHON=/path/to/python3.12 chooses the Python. pip's own settings (PIP_INDEX_URL, ...) hold, so a machine without a
# GPU can take torch from an index of CPU builds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

extras="[dev]"
for option in "$@"; do
    case "$option" in
        --runtime) extras="" ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
        *) echo "install_dependencies.sh: unknown option $option; try --help" >&2; exit 2 ;;
    esac
done

venv="${VENV:-.venv}"
torch="$(sed -n 's/^ *"\(torch==[^"]*\)".*/\1/p' pyproject.toml)"

usable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
python=""
for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if usable "$candidate"; then python="$candidate"; break; fi
done
if [ -z "$python" ]; then
    echo "install_dependencies.sh: muloco needs python 3.11 or newer; install one or name it: PYTHON=... $0" >&2
    exit 1
fi

quiet=""
[ -t 1 ] || quiet="--quiet"  # a terminal shows the progress of downloads
if command -v uv >/dev/null 2>&1; then
    [ -x "$venv/bin/python" ] || uv venv --quiet --seed --python "$python" "$venv"
    pip=(uv pip install $quiet --python "$venv/bin/python")
else
    if [ ! -x "$venv/bin/python" ] && ! "$python" -m venv "$venv"; then
        echo "install_dependencies.sh: $python has no venv; on Debian and Ubuntu: apt-get install python3-venv" >&2
        exit 1
    fi
    pip=("$venv/bin/python" -m pip install $quiet --disable-pip-version-check)
fi

echo "installing muloco and its dependencies into $venv ($("$python" --version))"
"${pip[@]}" "$torch"  # first and alone: nothing else may choose another build of it
"${pip[@]}" --editable ".$extras"
"$venv/bin/python" -c 'import muloco, torch; print(f"muloco {muloco.__version__} with torch {torch.__version__}")'
