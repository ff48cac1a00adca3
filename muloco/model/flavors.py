"""Which sizes of the model exist, by the paper's names and by short aliases. Needs nothing but Python.

The paper's models are one family (PAPER 2.1): width 256 k, 1.5 k layers a 128-wide head, so 3 layers for every 256 of
width, heads of 128, a SwiGLU feed-forward of 2.75 widths. The laptop sizes keep the proportions and shrink the
vocabulary to that of the embedded tokenizer.
"""

from dataclasses import dataclass

from muloco.suggest import did_you_mean

PAPER_VOCABULARY = 128_256
LAPTOP_VOCABULARY = 2048
NORM_EPS = 1e-6
ROPE_THETA = 500_000


@dataclass(frozen=True, kw_only=True)
class Flavor:
    """The dimensions of one model. All counts are in parameters, all sizes in elements."""

    alias: str
    width: int
    layers: int
    heads: int
    vocabulary: int = PAPER_VOCABULARY
    muon_decay: float = 0.01
    """Weight decay that the paper found best for Muon at 512 sequences a step (PAPER 2.4)."""
    adamw_decay: float = 0.01
    """The same for AdamW."""
    paper_steps: int | None = None
    """Steps of 512 sequences of 2048 tokens in the paper's tables (PAPER 2.2, 11)."""

    @property
    def name(self) -> str:
        return f"llama3-w{self.width}-d{self.layers}-h{self.heads}_qk_torch-rmsnorm_pa_pf"

    @property
    def modules(self) -> list[str]:
        """Names of what the model consists of, in order."""
        return ["tok_embeddings", *(f"layers.{index}" for index in range(self.layers)), "norm", "lm_head"]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter by name, in no particular order."""
        square, up, norm = (self.width, self.width), (self.feed_forward_width, self.width), (self.width,)
        layer: dict[str, tuple[int, ...]] = {
            **{f"attention.qkv_linear.{name}.weight": square for name in ("wq", "wk", "wv")},
            "attention.wo.weight": square,
            **{f"attention.{name}.weight": (self.head_width,) for name in ("q_norm", "k_norm")},
            **{f"feed_forward.{name}.weight": up for name in ("w1", "w3")},
            "feed_forward.w2.weight": up[::-1],
            **{
                f"{name}.weight": norm
                for name in ("attention_norm", "post_attention_norm", "ffn_norm", "post_ffn_norm")
            },
        }
        table = (self.vocabulary, self.width)
        layers = {f"layers.{index}.{name}": shape for index in range(self.layers) for name, shape in layer.items()}
        return {"tok_embeddings.weight": table, **layers, "norm.weight": norm, "lm_head.weight": table}

    @property
    def token_budget(self) -> int:
        """Tokens to train on: the paper's where its tables have this size, else 20 a parameter."""
        return self.paper_steps * 512 * 2048 if self.paper_steps else 20 * self.parameters

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def feed_forward_width(self) -> int:
        return 11 * self.width // 4

    @property
    def matrix_parameters(self) -> int:
        """Parameters that Muon updates: q, k, v, o and the three feed-forward matrices of every layer."""
        return self.layers * (4 * self.width**2 + 3 * self.width * self.feed_forward_width)

    @property
    def parameters(self) -> int:
        """All parameters; the embedding and the head are not tied."""
        norms = self.layers * (4 * self.width + 2 * self.head_width) + self.width
        return self.matrix_parameters + 2 * self.vocabulary * self.width + norms


_FLAVORS = (
    Flavor(alias="tiny", width=64, layers=2, heads=2, vocabulary=LAPTOP_VOCABULARY),
    Flavor(alias="small", width=128, layers=2, heads=2, vocabulary=LAPTOP_VOCABULARY),
    Flavor(alias="laptop", width=256, layers=3, heads=2, vocabulary=LAPTOP_VOCABULARY),
    Flavor(alias="150M", width=512, layers=6, heads=4, paper_steps=2880, adamw_decay=1e-3),
    Flavor(alias="416M", width=1024, layers=12, heads=8, paper_steps=8160),
    Flavor(alias="914M", width=1536, layers=18, heads=12, paper_steps=17520),
    Flavor(alias="1.76B", width=2048, layers=24, heads=16, paper_steps=33600, muon_decay=1e-3, adamw_decay=1e-3),
    Flavor(alias="3.1B", width=2560, layers=30, heads=20, paper_steps=58560, muon_decay=1e-3, adamw_decay=1e-3),
    # The paper has steps for the next three and trains none of them: its weight decay for 3.1B
    Flavor(alias="5B", width=3072, layers=36, heads=24, paper_steps=94560, muon_decay=1e-3, adamw_decay=1e-3),
    Flavor(alias="7.5B", width=3584, layers=42, heads=28, paper_steps=143760, muon_decay=1e-3, adamw_decay=1e-3),
    Flavor(alias="11B", width=4096, layers=48, heads=32, paper_steps=208320, muon_decay=1e-3, adamw_decay=1e-3),
    Flavor(alias="15B", width=4608, layers=54, heads=36, paper_steps=290640, muon_decay=1e-4, adamw_decay=1e-4),
)


def flavors() -> list[str]:
    """Full names of all flavors, smallest first."""
    return [flavor.name for flavor in _FLAVORS]


def aliases() -> list[str]:
    """Short names of all flavors, smallest first."""
    return [flavor.alias for flavor in _FLAVORS]


def flavor(name: str) -> Flavor:
    """The flavor with this name or alias.

    Raises:
        ValueError: there is none; the message names a similar one, if there is one, and lists the aliases.
    """
    known = {key: flavor for flavor in _FLAVORS for key in (flavor.alias, flavor.name)}
    if name in known:
        return known[name]
    hint = " ".join(filter(None, (did_you_mean(name, known), f"the flavors are {', '.join(aliases())}")))
    raise ValueError(f"model.flavor: there is no flavor {name!r}; {hint}")
