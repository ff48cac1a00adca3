"""The sizes of the paper's Llama, by the paper's names and by short aliases. Needs nothing but Python.

The paper's models (arXiv 2505.23725) are one family: width 256 k, 1.5 k layers, heads of 128, so 3 layers for every 256
of width, and a SwiGLU feed-forward of 2.75 widths. The laptop sizes keep the proportions and shrink the vocabulary to
that of the embedded tokenizer.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from muloco.model.architecture import Flavor

NAME = "paper_llama"
PAPER_VOCABULARY = 128_256
LAPTOP_VOCABULARY = 2048
NORM_EPS = 1e-6
ROPE_THETA = 500_000


@dataclass(frozen=True, kw_only=True)
class PaperLlama(Flavor):
    """The dimensions of one model, in elements."""

    architecture: str = NAME
    width: int
    layers: int
    heads: int
    vocabulary: int = PAPER_VOCABULARY

    @property
    def name(self) -> str:
        return f"llama3-w{self.width}-d{self.layers}-h{self.heads}_qk_torch-rmsnorm_pa_pf"

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        square, up, norm = (self.width, self.width), (self.feed_forward_width, self.width), (self.width,)
        layer: dict[str, tuple[int, ...]] = {
            **{f"attention.qkv_linear.{name}.weight": square for name in ("wq", "wk", "wv")},
            "attention.wo.weight": square,
            **{f"attention.{name}.weight": (self.head_width,) for name in ("q_norm", "k_norm")},
            "feed_forward.w1.weight": up,
            "feed_forward.w2.weight": up[::-1],
            "feed_forward.w3.weight": up,
            **{
                f"{name}.weight": norm
                for name in ("attention_norm", "ffn_norm", "post_attention_norm", "post_ffn_norm")
            },
        }
        table = (self.vocabulary, self.width)
        layers = {f"layers.{index}.{name}": shape for index in range(self.layers) for name, shape in layer.items()}
        return {"tok_embeddings.weight": table, **layers, "norm.weight": norm, "lm_head.weight": table}

    @property
    def divided(self) -> Mapping[str, int]:
        return {
            f"heads of flavor {self.alias}": self.heads,
            f"hidden units of its feed-forward (flavor {self.alias})": self.feed_forward_width,
            f"entries of its vocabulary (flavor {self.alias})": self.vocabulary,
        }

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def feed_forward_width(self) -> int:
        return 11 * self.width // 4


FLAVORS = (
    PaperLlama(alias="tiny", width=64, layers=2, heads=2, vocabulary=LAPTOP_VOCABULARY),
    PaperLlama(alias="small", width=128, layers=2, heads=2, vocabulary=LAPTOP_VOCABULARY),
    PaperLlama(alias="laptop", width=256, layers=3, heads=2, vocabulary=LAPTOP_VOCABULARY),
    PaperLlama(alias="150M", width=512, layers=6, heads=4, paper_steps=2880, adamw_decay=1e-3),
    PaperLlama(alias="416M", width=1024, layers=12, heads=8, paper_steps=8160),
    PaperLlama(alias="914M", width=1536, layers=18, heads=12, paper_steps=17520),
    PaperLlama(alias="1.76B", width=2048, layers=24, heads=16, paper_steps=33600, muon_decay=1e-3, adamw_decay=1e-3),
    PaperLlama(alias="3.1B", width=2560, layers=30, heads=20, paper_steps=58560, muon_decay=1e-3, adamw_decay=1e-3),
    # The paper has steps for the next three and trains none of them: its weight decay for 3.1B
    PaperLlama(alias="5B", width=3072, layers=36, heads=24, paper_steps=94560, muon_decay=1e-3, adamw_decay=1e-3),
    PaperLlama(alias="7.5B", width=3584, layers=42, heads=28, paper_steps=143760, muon_decay=1e-3, adamw_decay=1e-3),
    PaperLlama(alias="11B", width=4096, layers=48, heads=32, paper_steps=208320, muon_decay=1e-3, adamw_decay=1e-3),
    PaperLlama(alias="15B", width=4608, layers=54, heads=36, paper_steps=290640, muon_decay=1e-4, adamw_decay=1e-4),
)
