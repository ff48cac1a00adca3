"""Checks of the machine and the account that a run is started from, before anything is started."""

import socket
from collections.abc import Mapping

from muloco.errors import UserError
from muloco.settings.config import ResolvedConfig


def check_surroundings(config: ResolvedConfig, environment: Mapping[str, str], *, here: bool) -> None:
    """Checks for problems on which the workers would otherwise fail again and again.

    Args:
        here: whether the workers run on this machine, and not on other nodes.

    Raises:
        UserError: a network interface or an address does not exist here, or there is no W&B login.
    """
    if here:
        present = [name for _, name in socket.if_nameindex()]
        chosen = environment.get("GLOO_SOCKET_IFNAME", "").split(",")
        if missing := [name for name in chosen if name and name not in present]:
            raise UserError(
                f"GLOO_SOCKET_IFNAME names {', '.join(missing)}, and this machine has no such network interface; it "
                f"has {', '.join(present)}"
            )
    if here and config.worker_processes > 1 and config.fault_tolerance.host is not None:
        _check_host(config.fault_tolerance.host)
    if config.metrics.wandb:
        _check_wandb()


def _check_host(host: str) -> None:
    try:
        addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, socket.AF_INET)}
    except OSError as error:
        raise UserError(f"fault_tolerance.host {host} is not a known name or address: {error}") from None
    for address in addresses:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((address, 0))
                return
            except OSError:
                continue
    raise UserError(
        f"fault_tolerance.host {host} ({', '.join(sorted(addresses))}) is not an address of this machine; leave it "
        "unset if all workers run here"
    )


def _check_wandb() -> None:
    import wandb  # it takes a second

    if wandb.setup().settings.mode not in ("online", "shared"):
        return
    try:
        known = wandb.login(prompt=False, verify=False)
    except wandb.Error as error:
        raise UserError(f"metrics.wandb: {error}") from None
    finally:
        wandb.teardown()
    if not known:
        raise UserError(
            "metrics.wandb: there is no login to Weights & Biases; run `wandb login`, set WANDB_API_KEY, or keep the "
            "metrics on this machine with WANDB_MODE=offline"
        )
