"""The names of runs in tables and figures: from a resolved config to method, K and variant."""

import re
from dataclasses import dataclass, replace

from muloco.optim.rules import RULES
from muloco.settings.compression import Compression
from muloco.settings.config import ResolvedConfig
from muloco.settings.optimizer import Role

PAPER_SYNC_STEPS = 30
UNFRAGMENTED = "one fragment"
METHODS = ("DP Muon", "MuLoCo", "DP AdamW", "DiLoCo", "GPA")
"""Methods in the order of the tables; others come after them."""
_REDUCED = {"reselect": "", "gather": "gathered", "requantize": "requantized"}
"""Names of the ways to reduce in labels, in the order of the tables."""


@dataclass(frozen=True)
class CodecLabel:
    """The compression of a run, as tables and figures name it."""

    kind: str
    size: str = ""
    """How much is sent, as a column of a table: `4 bits`, `10 %`. Empty for a family of codecs."""
    details: str = ""
    """Other properties, such as `per row`, or how topk sends values."""
    reduce: str = "reselect"
    """How the mean is computed: `compression.reduce`."""
    error_feedback: bool = False

    @property
    def family(self) -> "CodecLabel":
        """Returns this label without the size."""
        return replace(self, size="")

    @property
    def amount(self) -> float:
        """The number in the size, to sort by."""
        return float(next(iter(re.findall(r"[\d.]+", self.size)), 0))

    @property
    def label(self) -> str:
        named = f"{self.kind} {self.size}".strip()
        extras = (_REDUCED[self.reduce], "error feedback" * self.error_feedback)
        return ", ".join(filter(None, (named, self.details, *extras)))


@dataclass(frozen=True)
class Variant:
    """A method as it stands in a row of a table. Learning rates and batch are not part of it: the best ones count."""

    method: str
    workers: int | None = None
    """K; None for the data-parallel baselines."""
    sync_steps: int = PAPER_SYNC_STEPS
    codec: CodecLabel | None = None
    fragments: int = 1
    delay: int = 0
    alpha: float = 0.0

    @property
    def streaming(self) -> str:
        """Fragments, delay and merge, as a column of a table."""
        parts = (
            f"J={self.fragments}" if self.fragments > 1 else "",
            f"tau={self.delay}" if self.delay else "",
            f"alpha={self.alpha:g}" if self.alpha else "",
        )
        return ", ".join(filter(None, parts)) or UNFRAGMENTED

    @property
    def rest(self) -> str:
        """Returns what differs from the paper's plain setting (H = 30, fp32, one fragment)."""
        parts = (
            f"H={self.sync_steps}" if self.sync_steps != PAPER_SYNC_STEPS else "",
            self.codec.label if self.codec else "",
            self.streaming if self.streaming != UNFRAGMENTED else "",
        )
        return ", ".join(filter(None, parts))

    @property
    def name(self) -> str:
        """Method and K, as the published tables call them."""
        return self.method if self.workers is None else f"{self.method} K={self.workers}"

    @property
    def label(self) -> str:
        return f"{self.name}, {self.rest}" if self.rest else self.name

    @property
    def key(self) -> tuple[str, str, str]:
        """Method, K and the rest, as the first columns of a row."""
        return self.method, "" if self.workers is None else str(self.workers), self.rest

    @property
    def order(self) -> tuple:
        """Sorts variants as the tables have them."""
        known = METHODS.index(self.method) if self.method in METHODS else len(METHODS)
        codec = self.codec or CodecLabel("")
        return (
            known,
            self.method,
            self.workers or 0,
            self.rest != "",
            self.sync_steps,
            codec.kind,
            codec.details,
            list(_REDUCED).index(codec.reduce),
            codec.error_feedback,
            codec.amount,
            self.fragments,
            self.delay,
            self.alpha,
        )

    def without(self, *fields: str) -> "Variant":
        """Returns this variant with the given fields as in the plain setting."""
        return replace(self, **{field: getattr(Variant(""), field) for field in fields})


def variant(config: ResolvedConfig) -> Variant:
    """The variant that a resolved config describes."""
    ft = config.fault_tolerance
    method = _method(config)
    if not config.syncs:
        return Variant(method) if ft.semi_sync_method == "none" else Variant(method, 1, ft.sync_steps)
    return Variant(
        method,
        config.workers,
        sync_steps=ft.sync_steps,
        codec=_codec(config.compression),
        fragments=ft.num_fragments,
        delay=ft.fragment_sync_delay,
        alpha=ft.fragment_update_alpha,
    )


def baseline(method: str) -> str:
    """The data-parallel baseline that a method is compared with: the one with its inner optimizer."""
    if method.startswith("DP "):
        return method
    if named := re.search(r"\((?!outer )(.*?)\)", method):
        return f"DP {named[1]}"
    if "other roles" in method:
        return f"DP {method}"
    return "DP Muon" if method.startswith("MuLoCo") else "DP AdamW"


def _method(config: ResolvedConfig) -> str:
    inner = _inner(config)
    how = config.fault_tolerance.semi_sync_method
    if how == "none":
        return f"DP {inner}"
    if how == "gpa":
        return inner
    if how == "local_sgd":
        return f"local SGD ({inner})"
    outer = "" if config.outer_optimizer.class_name == "sgd" else f" (outer {config.outer_optimizer.class_name})"
    return {"Muon": "MuLoCo", "AdamW": "DiLoCo"}.get(inner, f"DiLoCo ({inner})") + outer


def _inner(config: ResolvedConfig) -> str:
    """The inner optimizer: its name, or the label of the matrices' rule where only that is another than the name alone
    would have; with `, other roles` where other parameters or factors differ."""
    optimizer = config.optimizer
    roles = optimizer.roles()
    unusual = {name for name, role in roles.items() if role.rule != optimizer.usual_rule(name)}
    usual = Role()
    factors = (usual.lr_factor, usual.weight_decay_factor)
    if all((role.lr_factor, role.weight_decay_factor) == factors for role in roles.values()):
        if not unusual:
            return optimizer.name
        if unusual == {"matrix"} and optimizer.name != "GPA":
            return RULES[optimizer.matrix.rule].label
    return f"{optimizer.name}, other roles"


def _codec(compression: Compression) -> CodecLabel | None:
    if compression.kind == "none":
        return None
    codec = compression.codec()
    return CodecLabel(
        kind=codec.kind,
        size=codec.size,
        details=codec.details,
        reduce=compression.reduce,
        error_feedback=compression.error_feedback,
    )
