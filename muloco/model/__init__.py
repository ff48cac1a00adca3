"""Models: the registered architectures, their flavors by name, and the model that each flavor describes."""

from typing import TYPE_CHECKING

from muloco.model.flavors import flavor as get_flavor
from muloco.model.flavors import flavors

if TYPE_CHECKING:
    from torch import nn

    from muloco._torchtitan import ModelSpec

__all__ = ["build", "flavors", "spec"]


def spec(flavor: str, *, seq_len: int, dense: bool = False, autocast: bool = False) -> "ModelSpec":
    """Returns torchtitan's specification of a flavor: the config of the model, and how its trainer parallelizes it.

    Args:
        flavor: a name or alias of `flavors()`.
        seq_len: longest sequence, in tokens, that the rotary embedding is prepared for.
        dense: attention takes dense masks on every device, not only on the CPU.
        autocast: matrix products and attention are computed in bf16, and the rest in the dtype of the parameters.

    Raises:
        ValueError: unknown flavor; the message names the nearest one.
    """
    size = get_flavor(flavor)
    return size.record.spec(size, seq_len=seq_len, dense=dense, autocast=autocast)


def build(flavor: str, device: str = "meta", *, seq_len: int = 2048, dense: bool = False) -> "nn.Module":
    """Builds the model of a flavor: initialized, or on the device `meta` with shapes alone.

    Args:
        flavor, seq_len: as in `spec`.
        device: `meta`, or where the parameters (fp32) are to live.
        dense: attention takes dense masks (bool [B, 1, L, L], True where a query sees a key) on every device; without,
            only on the CPU.

    Returns:
        a module; `model(tokens, positions, attention_masks)` maps int64 [B, L] to logits [B, L, vocabulary], with
        `positions` int64 [B, L] restarting at 0 at each document and masks from `model.get_attention_masks(positions)`.

    Raises:
        ValueError: as `spec`.
    """
    import torch

    with torch.device("meta"):
        model = spec(flavor, seq_len=seq_len, dense=dense).model.build()
    if torch.device(device).type != "meta":
        model.to_empty(device=device)
        with torch.no_grad():
            model.init_states()
    return model
