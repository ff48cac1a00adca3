"""What a user chooses: typed sections, every field of which can be overridden as `--section.field value`.

A field that is None is derived by `muloco.training.resolve`; set by hand it stays. Sizes called "sequences" are counted
over all workers unless said otherwise. Needs nothing but Python, so that `--help` and mistakes are answered at once.
"""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(kw_only=True)
class Run:
    name: str | None = None
    """Folder of the run below `outputs`. Derived: name of the config file and the time."""
    outputs: str = "outputs"
    """Folder that holds all run folders."""
    seed: int = 42
    """Seed of the initialization and of the order of the data."""


@dataclass(kw_only=True)
class Model:
    flavor: str = "150M"
    """Name or alias of a model size (`muloco.model.flavors()`)."""


@dataclass(kw_only=True)
class Data:
    """Text to train on; docs/data.md says more."""

    corpus: str | tuple[str, ...] = "embedded"
    """A file or folder (jsonl, txt, both also .gz and .zst; parquet), `hf:OWNER/NAME[:CONFIG][@SPLIT]` on the Hugging
    Face hub, or `embedded`: the sources of the running Python's standard library. Several make a mixture."""
    weights: tuple[float, ...] | None = None
    """Share of each source of a mixture in the sequences. None: by size, in tokens or, where streamed, in bytes."""
    text_field: str = "text"
    """Field or column that holds the text."""
    tokenizer: str = "embedded"
    """Folder with a Hugging Face tokenizer.json, or `embedded`: trained on the embedded corpus."""
    vocabulary: int = 2048
    """Entries of the embedded tokenizer; at most the vocabulary of the model."""
    validation: str | None = None
    """Source of the held-out set. None: about 5 % of the documents of the corpus, chosen by their hash."""
    strict: bool = False
    """Refuse broken records and empty files, instead of naming, counting and skipping them."""
    prepare: bool | None = None
    """Tokenize everything once before training, into a cache. False: read and tokenize while training (streaming).
    Derived: True, unless a source is on the hub."""
    shuffle_buffer: int = 1024
    """Sequences that a rank holds to shuffle them, where it streams."""

    def __post_init__(self) -> None:
        """JSON knows lists only."""
        self.corpus = self.corpus if isinstance(self.corpus, str) else tuple(self.corpus)
        self.weights = None if self.weights is None else tuple(self.weights)

    @property
    def sources(self) -> tuple[str, ...]:
        """The names in `corpus`, be it one or several."""
        return (self.corpus,) if isinstance(self.corpus, str) else self.corpus


@dataclass(kw_only=True)
class Training:
    seq_len: int = 2048
    """Length of a sequence in tokens."""
    global_batch_size: int = 512
    """Sequences that all workers together take in one inner step (the paper's B)."""
    local_batch_size: int = 16
    """Sequences in one forward pass of one rank; the rest of its share is accumulated."""
    tokens: int | None = None
    """Token budget of all workers together. Derived: steps x batch where steps are given, else the paper's for the
    flavor (about 20 a parameter)."""
    steps: int | None = None
    """Inner steps of each worker. Derived: token budget / tokens of a step. The last window may be a short one."""
    max_norm: float | None = 1.0
    """Largest gradient norm, larger ones are clipped; None: no clipping."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """What parameters are cast to in the forward and backward pass; they are stored and reduced in float32."""


@dataclass(kw_only=True)
class Optimizer:
    """The inner optimizer of every worker."""

    name: Literal["AdamW", "Muon", "SGD"] = "Muon"
    """Muon takes the matrices of the layers; embedding, head and norms go to AdamW at the same learning rate."""
    lr: float = 0.02
    """Peak learning rate."""
    weight_decay: float | None = None
    """Decoupled weight decay. Derived by the paper's rule: (flavor's best at 512 sequences) x (B / K) / 512."""
    beta1: float = 0.9
    """First decay of AdamW."""
    beta2: float = 0.99
    """Second decay of AdamW."""
    eps: float = 1e-8
    """Epsilon of AdamW."""
    mu: float = 0.9
    """Momentum of Muon and of SGD."""
    nesterov: bool = False
    """Nesterov momentum in Muon and in SGD."""
    adjust_lr: Literal["spectral_norm", "rms_norm", "none"] = "spectral_norm"
    """Muon's factor on the learning rate: sqrt(out / in), 0.2 sqrt(max(out, in)), or 1."""
    orthogonalization: Literal["muloco", "quintic", "polar_express"] = "muloco"
    """Coefficients of Muon's orthogonalization: the paper's five, Keller Jordan's one, or Polar Express's eight."""


@dataclass(kw_only=True)
class LRScheduler:
    """The inner learning rate: linear warm-up, then cosine decay over the rest of the run."""

    warmup_steps: int = 500
    """Inner steps of linear warm-up."""
    min_lr_factor: float = 0.1
    """Learning rate at the end, as a share of the peak."""


@dataclass(kw_only=True)
class FaultTolerance:
    """Workers: how many, and how they agree."""

    semi_sync_method: Literal["diloco", "none"] = "diloco"
    """diloco: an outer step every `sync_steps`. none: plain training of a single worker."""
    group_size: int = 1
    """Number of workers (K)."""
    sync_steps: int = 30
    """Inner steps between two outer steps (H)."""
    replica_id: int = 0
    """Which worker this process belongs to, from 0; the launcher sets it."""
    process_group: Literal["auto", "gloo", "nccl"] = "auto"
    """What carries the outer exchange. auto: nccl where every rank has a CUDA device of its own, else gloo."""
    quorum_timeout_seconds: float = 1800
    """How long a worker waits at a sync for the others to arrive; more than the slowest window may take longer."""
    exchange_timeout_seconds: float = 300
    """How long one collective of the outer exchange may take."""


@dataclass(kw_only=True)
class OuterOptimizer:
    """The step on the anchor (the global parameters), with the mean pseudogradient as gradient."""

    class_name: Literal["sgd"] = "sgd"
    lr: float = 0.7
    """Outer learning rate."""
    momentum: float = 0.6
    """Outer momentum."""
    nesterov: bool = True
    """Nesterov momentum: theta -= lr (g + momentum buf) instead of theta -= lr buf."""


@dataclass(kw_only=True)
class Parallelism:
    """How one worker spreads over its ranks (processes, one a device)."""

    data_parallel_shard_degree: int = 1
    """Ranks over which parameters are sharded (FSDP2)."""
    data_parallel_replicate_degree: int = 1
    """Ranks over which parameters are replicated; with a shard degree above 1: HSDP."""
    tensor_parallel_degree: int = 1
    """Ranks that share every matrix product and read the same data; it divides heads, feed-forward width, vocabulary
    and training.seq_len. Times the two degrees above: the ranks of a worker."""


@dataclass(kw_only=True)
class ActivationCheckpoint:
    mode: Literal["none", "selective", "full"] = "none"
    """What the backward pass computes again instead of keeping it: nothing, what is cheap in each layer (all but
    attention and every second matrix product), or each layer from its input on. Gradients stay the same."""


@dataclass(kw_only=True)
class Compile:
    enable: bool = False
    """torch.compile for the layers and the loss."""


@dataclass(kw_only=True)
class Validation:
    """Loss of the anchor on a fixed held-out set, the same for every worker and method."""

    freq: int = 15
    """Inner steps between two validations; besides, before the first and after the last step."""
    sequences: int = 1024
    """Held-out sequences, of training.seq_len tokens."""


@dataclass(kw_only=True)
class Metrics:
    log_freq: int = 10
    """Inner steps between two lines of metrics."""
    tensorboard: bool = True
    """Write TensorBoard events below the run folder."""
    wandb: bool = False
    """Report to Weights & Biases (`pip install wandb`; project by WANDB_PROJECT, mode by WANDB_MODE)."""


@dataclass(kw_only=True)
class Checkpoint:
    enable: bool = True
    """Write checkpoints."""
    interval: int = 500
    """Inner steps between two checkpoints; besides, one after the last step."""
    keep: int = 2
    """How many of the newest checkpoints stay; 0: all."""


@dataclass(kw_only=True)
class Config:
    """Everything that describes a run."""

    run: Run = field(default_factory=Run)
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    training: Training = field(default_factory=Training)
    optimizer: Optimizer = field(default_factory=Optimizer)
    lr_scheduler: LRScheduler = field(default_factory=LRScheduler)
    fault_tolerance: FaultTolerance = field(default_factory=FaultTolerance)
    outer_optimizer: OuterOptimizer = field(default_factory=OuterOptimizer)
    parallelism: Parallelism = field(default_factory=Parallelism)
    activation_checkpoint: ActivationCheckpoint = field(default_factory=ActivationCheckpoint)
    compile: Compile = field(default_factory=Compile)
    validation: Validation = field(default_factory=Validation)
    metrics: Metrics = field(default_factory=Metrics)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)

    @property
    def workers(self) -> int:
        """K."""
        return self.fault_tolerance.group_size

    @property
    def ranks_per_worker(self) -> int:
        """Processes of one worker."""
        return self.data_parallel_ranks * self.parallelism.tensor_parallel_degree

    @property
    def data_parallel_ranks(self) -> int:
        """Ranks of one worker, or groups of tensor-parallel ranks, that read different data."""
        return self.parallelism.data_parallel_shard_degree * self.parallelism.data_parallel_replicate_degree

    @property
    def tokens_per_step(self) -> int:
        """Tokens that all workers together take in one inner step."""
        return self.training.global_batch_size * self.training.seq_len
