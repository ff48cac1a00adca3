"""The model, and batch, length and precision of its training."""

from dataclasses import dataclass
from typing import Literal

from muloco.errors import UserError
from muloco.model.flavors import in_words
from muloco.settings.annotations import Common, Count, MayChange, Positive, Text
from muloco.settings.section import Origins, Section

Precision = Literal["bfloat16", "autocast", "float32"]


@dataclass(kw_only=True, slots=True)
class Model(Section):
    flavor: Text = "150M"


_SIZES = f"{in_words()}. Those that are named by a number of parameters are the paper's."
Model.__doc__ = f"The model.\n\nArgs:\n    flavor: Size of the model, by its short or full name: {_SIZES}"


@dataclass(kw_only=True, slots=True)
class Training(Section):
    seq_len: Count = 2048
    """Length of a sequence in tokens."""
    global_batch_size: Count = 512
    """Sequences that all workers together take in one inner step (the paper's B)."""
    local_batch_size: MayChange[Count] = 16
    """Sequences in one forward pass of one rank; the rest of its share is accumulated."""
    tokens: Count | None = None
    """Token budget of all workers together. Derived: steps x batch if steps are given, else the paper's budget for the
    flavor (about 20 tokens a parameter)."""
    steps: Common[Count | None] = None
    """Inner steps of each worker. Derived: token budget / tokens of a step. The last window may be shorter than the
    others."""
    max_norm: Positive | None = 1.0
    """Norm to which larger gradients are clipped; None: no clipping."""
    precision: Precision | None = None
    """Precision of the forward and backward pass; parameters are stored, and gradients reduced, in float32. bfloat16:
    parameters and activations are cast (FSDP's mixed precision). autocast: only matrix products and attention are in
    bfloat16; embedding, norms and residual stream stay in float32. Derived, as in the paper: bfloat16 where parameters
    are sharded, else autocast."""
    disable_cuda_graphs: MayChange[bool] = False
    """Launch the kernels of the forward and backward pass one by one, instead of recording them into a CUDA graph and
    replaying it. A graph keeps the memory of activations and gradients even while other work runs. No graph is recorded
    without a CUDA device, for workers in one process, and with torch 2.11 (docs/performance.md)."""

    titan: MayChange[Text | None] = None
    """Python file with a function titan(config), which may change torchtitan's own config before training begins
    (docs/torchtitan.md). A config file that defines titan names itself here."""
    titan_sha256: Common[Text | None] = None
    """SHA-256 of that file, which is the same on all workers. Derived from the file; a resume compares it."""

    def complete(self, token_budget: int, source: str, origins: Origins) -> None:
        """Derives the length of the run: steps from a budget of tokens, and tokens from the steps. `token_budget` holds
        where neither is given, and `source` says in words whose budget it is.

        Raises:
            UserError: both are given and do not agree.
        """
        step = f"{self.global_batch_size:,} sequences x {self.seq_len:,} tokens"
        if self.steps is None:
            budget, source = (token_budget, source) if self.tokens is None else (self.tokens, "in training.tokens")
            self.steps = max(1, budget // self.tokens_per_step)
            origins["training.steps"] = f"{budget:,} tokens {source} / ({step})"
        elif self.tokens is not None and self.tokens != self.steps * self.tokens_per_step:
            raise UserError(
                f"training.steps {self.steps} and training.tokens {self.tokens} do not agree: at "
                f"{self.tokens_per_step} tokens a step, {self.steps} steps are "
                f"{self.steps * self.tokens_per_step} tokens; give only one of the two"
            )
        if self.tokens != self.steps * self.tokens_per_step:
            rounded = "" if self.tokens is None else f"; {self.tokens:,} were given"
            self.tokens = self.steps * self.tokens_per_step
            origins["training.tokens"] = f"{self.steps:,} steps x {step}{rounded}"

    @property
    def tokens_per_step(self) -> int:
        """Tokens that all workers together take in one inner step."""
        return self.global_batch_size * self.seq_len


@dataclass(kw_only=True, slots=True)
class ResolvedTraining(Training):
    tokens: Count
    steps: Count
    precision: Precision
