# Source this in a shell or a job script before running muloco:
#
#   source setup.sh
#
# It finds the checkout (MULOCO_PATH), makes the environment if there is none, activates it, and exports what a run needs.

MULOCO_PATH="$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")" && pwd)"
export MULOCO_PATH
[ -x "$MULOCO_PATH/.venv/bin/muloco" ] || "$MULOCO_PATH/install_dependencies.sh" || return 1
. "$MULOCO_PATH/.venv/bin/activate"
