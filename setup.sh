# Source this in bash or zsh before running muloco, from any folder; job scripts do:
#
#   source setup.sh
#
# It finds the checkout, or takes the one that MULOCO_PATH names; exports MULOCO_PATH; activates its environment (.venv,
# or $VENV); and passes WANDB_API_KEY and HF_TOKEN on to the workers if you have set them. Logins that `wandb login` and
# `hf auth login` have stored need nothing: the two find them by themselves. It installs nothing.
# shellcheck shell=bash

if [ -z "${BASH_VERSION:-}${ZSH_VERSION:-}" ]; then
    echo "setup.sh: source it in bash or zsh; this shell is neither (a job script starts with #!/bin/bash)" >&2
    return 1 2>/dev/null || exit 1
fi
case "${ZSH_VERSION:+${ZSH_EVAL_CONTEXT:-}}" in
    "") [ "${BASH_SOURCE[0]:-}" != "$0" ] ;; # in bash
    *file*) true ;;
    *) false ;;
esac || {
    echo "setup.sh: it only has an effect when sourced: source $0" >&2
    exit 1
}

_muloco_setup() { # this file
    local own root venv
    own="$(CDPATH='' cd -- "$(dirname -- "$1")" >/dev/null && pwd)" || return 1
    root="${MULOCO_PATH:-$own}"
    if [ ! -f "$root/muloco/cli.py" ] || [ ! -f "$root/install_dependencies.sh" ]; then
        echo "setup.sh: MULOCO_PATH=$root is no checkout of muloco (no muloco/cli.py there); unset it or set it to $own" >&2
        return 1
    fi
    root="$(CDPATH='' cd -- "$root" >/dev/null && pwd)" || return 1
    [ "$root" -ef "$own" ] || echo "setup.sh: taking the checkout in MULOCO_PATH=$root, not $own" >&2

    venv="${VENV:-.venv}"
    case "$venv" in
        /*) ;;
        *) venv="$root/$venv" ;;
    esac
    if [ ! -x "$venv/bin/muloco" ]; then
        echo "setup.sh: muloco is not installed in $venv; run first: $root/install_dependencies.sh --runtime" >&2
        return 1
    fi
    # shellcheck disable=SC1091
    . "$venv/bin/activate" || return 1
    export MULOCO_PATH="$root"

    # an empty one is as good as none
    if [ -n "${WANDB_API_KEY:-}" ]; then export WANDB_API_KEY; else unset WANDB_API_KEY; fi
    if [ -n "${HF_TOKEN:-}" ]; then export HF_TOKEN; else unset HF_TOKEN; fi
}

if _muloco_setup "${BASH_SOURCE[0]:-$0}"; then
    unset -f _muloco_setup
else
    unset -f _muloco_setup
    return 1
fi
