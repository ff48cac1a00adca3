"""Muon for matrices, and other rules for the rest, as a torch optimizer."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from muloco.optim.rule_optimizer import RuleOptimizer


class Muon(RuleOptimizer):
    """Muon, for matrices. With momentum M, gradient G and parameter X of shape `[fan_out, fan_in]`:

        M <- momentum * M + G
        U  = G + momentum * M if nesterov else M
        X <- X * (1 - lr * weight_decay)
        X <- X - lr * scale * orthogonalize(U)

    A group with another `"algorithm"` is stepped by that rule instead: `normuon` for matrices, `adamw` and `lion` for
    parameters of any shape (docs/optimizers.md).

    Parameters may be DTensors: the full matrix is then orthogonalized, by one of the ranks of their mesh, and the state
    is sharded as its parameter is, except that every rank has all numbers of a buffer with one a row
    (docs/muon-with-fsdp.md). All ranks of a mesh must step the same parameters, with a gradient on all of them or on
    none, in the same order; else collectives wait until their group's timeout.

    State of a parameter: the buffers that `muloco.optim.rules` names, such as `momentum_buffer` (muon), of its shape,
    dtype and layout. A step is correct wherever the momentum is finite.

    Args:
        params: a module or (name, parameter) pairs, which are sorted into groups: hidden matrices, stacks of experts
            and routers to muon; embeddings, head, norms, biases and the rest to adamw, norms and biases without weight
            decay (`describe_groups()` lists them). Convolutions without groups go to muon if a module is given, and
            fused projections are split that its types tell. Or parameters, all for muon. Or groups, see below.
        lr: learning rate, a float or a tensor of one element, which a CUDA graph needs on the device.
        momentum: of rules for matrices, in [0, 1).
        nesterov: rules for matrices look one momentum step ahead.
        weight_decay: decoupled, multiplied by lr without the scale of `adjust_lr`.
        adjust_lr: scale of the steps of rules for matrices, a name in `LR_SCALES`: `spectral_norm` sqrt(fan_out /
            fan_in), `rms_norm` 0.2 sqrt(max(fan_out, fan_in)), or `none`.
        orthogonalization: a name in `PRESETS`.
        steps: orthogonalization steps; None for the preset's own number.
        betas: of adamw and lion, each in [0, 1).
        beta2: of normuon, in [0, 1).
        eps: of adamw and normuon, added to the root.
        cautious_weight_decay: decay only what the step does not move away from zero.
        process_group: ranks that hold copies of the parameters that are not DTensors, with equal gradients at every
            step, as under DistributedDataParallel; they share the work. None: each rank does all of it.
        symmetric_products: how muon computes symmetric matrix products: `triton` computes one triangle, on a CUDA
            device; `matmul` computes all elements; `auto` uses whichever is faster on a GPU when a shape first occurs,
            and `matmul` elsewhere and where several ranks may compute the same matrix. `auto` may choose differently
            when a run is repeated, and results then differ by rounding. See
            `muloco.optim.symmetric.symmetric_product`.
        role_of, split, per_head: by regular expressions that are searched for in the names of the parameters, of which
            the first that matches decides: another role; `split` and `per_head` of the group, see below.

    A group may have every option of the constructor that its algorithm uses, except `process_group`,
    `symmetric_products` and `role_of`, and

        algorithm: a name in `muloco.optim.rules`. Default: by `role`, or by `use_muon` (True or False, as in Keller
            Jordan's optimizers), else muon.
        role: `matrix` or `router` (muon), `embedding`, `head`, `scalar` or `other` (adamw), which `describe_groups()`
            shows; together with an algorithm, any label. Scalars (norms and biases) have no weight decay unless the
            group sets it.
        layout: for matrices. A matrix is `[fan_out, fan_in]`; `transposed`: `[fan_in, fan_out]`, as transformers'
            Conv1D has it (known in a module). More than three dimensions are a convolution, one row for each output;
            three need `stacked` (the last two are matrices, as of experts), `stacked_transposed` (they are [fan_in,
            fan_out]) or `flatten` (the first is the rows), which more may have too.
        split: for matrices, the rows (outputs) of each of the matrices in a fused projection, in order. The pattern
            repeats to the end of the rows: with [1, 1] they alternate. Each matrix is stepped by itself.
        per_head: for matrices, the rows of an attention head, each of which is stepped by itself; with `split`, also
            one number for each part.
        lr_factor: times lr; 1 by default.
        fused, foreach: for adamw, as in torch.optim.AdamW; fused by default on an accelerator.

    Raises:
        ValueError: a parameter that its algorithm does not take or that is given twice, an unknown key or name, an
            option in a group whose algorithm does not use it, a number out of range or not finite, or a process group
            without this rank; also from `add_param_group` and `load_state_dict`, which then leave the optimizer as it
            was. From `step`: a sparse gradient, or a plain one of a DTensor; nothing has changed then. Also from
            `step`: `symmetric_products` is `triton`, which cannot run on this device.
        TypeError: an unknown keyword.

    Source: MuLoCo (arXiv 2505.23725), whose inner optimizer has these defaults; Keller Jordan, "Muon: An optimizer for
    hidden layers in neural networks" (2024); `rms_norm` is from "Muon is Scalable for LLM Training" (arXiv 2502.16982).
    """

    def __init__(
        self, params: nn.Module | Iterable[Any], lr: float | Tensor = 0.02, *, weight_decay: float = 0.0, **options: Any
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay}, options)
