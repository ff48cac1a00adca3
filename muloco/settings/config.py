"""What a user chooses: typed sections, every field of which can be overridden as `--section.field value`.

A field that is None is derived by `muloco.training.resolve`; set by hand it stays. Sizes called "sequences" are counted
over all workers unless said otherwise. Needs nothing but Python, so that `--help` and mistakes are answered at once.
"""

from dataclasses import dataclass, field
from typing import Literal

from muloco.settings.bounds import (
    Amount,
    Count,
    Momentum,
    Name,
    Names,
    NotNegative,
    Positive,
    Seconds,
    Seed,
    Share,
    SomeShare,
    Text,
)
from muloco.settings.compression import Compression
from muloco.settings.section import Section


@dataclass(kw_only=True, slots=True)
class Run(Section):
    name: Name | None = None
    """Folder of the run below `outputs`. Derived: name of the config file and the time."""
    outputs: Text = "outputs"
    """Folder that holds all run folders."""
    seed: Seed = 42
    """Seed of the initialization and of the order of the data."""


@dataclass(kw_only=True, slots=True)
class Model(Section):
    flavor: Text = "150M"
    """Size of the model, by its short or full name: tiny, small, laptop, 150M, 416M, 914M, 1.76B, 3.1B, 5B, 7.5B, 11B,
    15B. The first three are for laptops, the others are the paper's."""


@dataclass(kw_only=True, slots=True)
class Data(Section):
    """Text to train on; docs/data.md says more."""

    corpus: Text | tuple[Text, ...] = "embedded"
    """A file or folder (jsonl, txt, both also .gz and .zst; parquet), `hf:OWNER/NAME[:CONFIG][@SPLIT]` on the Hugging
    Face hub, or `embedded`: the sources of the running Python's standard library. Several make a mixture."""
    weights: tuple[Positive, ...] | None = None
    """Share of each source of a mixture in the sequences. None: by size, in tokens or, where streamed, in bytes."""
    text_field: Text = "text"
    """Field or column that holds the text."""
    tokenizer: Text = "embedded"
    """Folder with a Hugging Face tokenizer.json, or `embedded`: trained on the embedded corpus."""
    vocabulary: Count = 2048
    """Entries of the embedded tokenizer; at most the vocabulary of the model."""
    validation: Text | None = None
    """Source of the held-out set. None: about 5 % of the documents of the corpus, chosen by their hash."""
    predict_bos: bool = False
    """Whether the EOS of a document is an input whose label is the BOS of the next document, in training and in
    validation, as in the paper's stream. False: no label is of another document than its input."""
    strict: bool = False
    """Refuse broken records and empty files, instead of naming, counting and skipping them."""
    prepare: bool | None = None
    """Tokenize everything once before training, into a cache. False: read and tokenize while training (streaming).
    Derived: True, unless a source is on the hub."""
    shuffle_buffer: Count = 1024
    """Sequences that a rank holds to shuffle them, where it streams."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The names in `corpus`, be it one or several."""
        return (self.corpus,) if isinstance(self.corpus, str) else self.corpus


@dataclass(kw_only=True, slots=True)
class Training(Section):
    seq_len: Count = 2048
    """Length of a sequence in tokens."""
    global_batch_size: Count = 512
    """Sequences that all workers together take in one inner step (the paper's B)."""
    local_batch_size: Count = 16
    """Sequences in one forward pass of one rank; the rest of its share is accumulated."""
    tokens: Count | None = None
    """Token budget of all workers together. Derived: steps x batch where steps are given, else the paper's for the
    flavor (about 20 a parameter)."""
    steps: Count | None = None
    """Inner steps of each worker. Derived: token budget / tokens of a step. The last window may be a short one."""
    max_norm: Positive | None = 1.0
    """Largest gradient norm, larger ones are clipped; None: no clipping."""
    precision: Literal["bfloat16", "autocast", "float32"] | None = None
    """Precision of the forward and backward pass; parameters are stored, and gradients reduced, in float32. bfloat16:
    parameters and activations are cast (FSDP's mixed precision). autocast: only matrix products and attention are in
    bfloat16; embedding, norms and residual stream stay in float32. Derived, as in the paper: bfloat16 where parameters
    are sharded, else autocast."""
    disable_cuda_graphs: bool = False
    """Launch the kernels of the forward and backward pass one by one, instead of recording them into a CUDA graph and
    replaying it. A graph holds the memory of activations and gradients during other work, too. No graph is recorded
    without a CUDA device, for workers in one process, and with torch 2.11 (docs/performance.md)."""


@dataclass(kw_only=True, slots=True)
class Role(Section):
    rule: Literal["muon", "adamw", "lion"] | None = None
    """What steps these parameters. None: what optimizer.name says."""
    lr_factor: Positive = 1.0
    """Their learning rate, as a multiple of optimizer.lr."""
    weight_decay_factor: NotNegative = 1.0
    """Their weight decay, as a multiple of optimizer.weight_decay; it takes part in their learning rate."""


@dataclass(kw_only=True, slots=True)
class Optimizer(Section):
    """The inner optimizer of every worker."""

    name: Literal["AdamW", "Muon", "SGD", "GPA"] = "Muon"
    """Muon takes the matrices of the layers; embedding, head and norms go to AdamW at the same learning rate. AdamW and
    SGD take all. GPA is AdamW under primal averaging (docs/optimizers.md). Other mixtures of rules: by role, below."""
    lr: Positive = 0.02
    """Peak learning rate."""
    weight_decay: NotNegative | None = None
    """Decoupled weight decay. Derived by the paper's rule: (flavor's best at 512 sequences) x (B / K) / 512."""
    cautious_weight_decay: bool = False
    """Decay only what the step does not move away from zero."""
    beta1: Momentum = 0.9
    """First decay of AdamW and Lion."""
    beta2: Momentum = 0.99
    """Second decay of AdamW and Lion."""
    eps: Positive = 1e-8
    """Epsilon of AdamW."""
    mu: Momentum = 0.9
    """Momentum of Muon and of SGD."""
    mu_x: Momentum | None = None
    """GPA: how slowly the average follows. Derived: 0.9967^(32 / H), so that it averages over some H inner steps."""
    mu_y: SomeShare | None = None
    """GPA: how near to the average gradients are taken. Derived: 0.7."""
    nesterov: bool = False
    """Nesterov momentum in Muon and in SGD."""
    adjust_lr: Literal["spectral_norm", "rms_norm", "none"] = "spectral_norm"
    """Muon's factor on the learning rate: sqrt(out / in), 0.2 sqrt(max(out, in)), or 1."""
    orthogonalization: Literal["muloco", "quintic", "polar_express"] = "muloco"
    """Coefficients of Muon's orthogonalization: muloco, the paper's five steps; quintic, Keller Jordan's one
    polynomial; polar_express, the five steps of Polar Express."""
    orthogonalization_steps: Count | None = None
    """Steps of the orthogonalization: fewer use the first coefficients, more repeat the last ones. None: 5."""
    symmetric_products: Literal["auto", "triton", "matmul"] = "auto"
    """How Muon computes symmetric matrix products. triton: one triangle, which is mirrored; it needs CUDA devices.
    matmul: all elements. auto: whichever is faster on a GPU when a shape first occurs, and matmul elsewhere. A run on
    GPUs that is to be repeated bit by bit needs triton or matmul: auto may choose differently, and results then differ
    by rounding.
    """
    matrix: Role = field(default_factory=Role)
    """The matrices of the layers: attention and feed-forward."""
    embedding: Role = field(default_factory=Role)
    """The token embedding."""
    head: Role = field(default_factory=Role)
    """The output head."""
    scalar: Role = field(default_factory=Role)
    """The norms, which are vectors: adamw or lion."""

    def roles(self) -> dict[str, Role]:
        """The roles of parameters, by name."""
        return {"matrix": self.matrix, "embedding": self.embedding, "head": self.head, "scalar": self.scalar}


@dataclass(kw_only=True, slots=True)
class LRScheduler(Section):
    """The inner learning rate: linear warm-up, then cosine decay over the rest of the run."""

    warmup_steps: Amount = 500
    """Inner steps of linear warm-up."""
    total_steps: Count | None = None
    """Inner steps after which the inner learning rate, and an outer one with a schedule, reach their last values and
    stay there. Default: training.steps, so that a run that is extended follows the schedule of its new length."""
    min_lr_factor: Share = 0.1
    """Learning rate at the end, as a share of the peak."""


@dataclass(kw_only=True, slots=True)
class FaultTolerance(Section):
    """Workers: how many, when they agree, and how long they wait for each other."""

    semi_sync_method: Literal["diloco", "local_sgd", "gpa", "none"] | None = None
    """diloco: an outer step every `sync_steps`. local_sgd: the average of the parameters instead. gpa: primal
    averaging, whose z is averaged every `sync_steps` where there are several workers. none: plain training of a single
    worker. Derived: gpa with `optimizer.name` GPA, else diloco."""
    transport: Literal["torchft", "in_process"] = "torchft"
    """torchft: workers are processes that meet at a lighthouse. in_process: all workers take turns in one process (one
    for each of a worker's ranks), so that one device can study many of them."""
    group_size: Count = 1
    """Number of workers (K)."""
    min_replica_size: Count = 1
    """Fewest workers that may go on together when others are lost. All of them have to be there at the start."""
    restarts: Amount = 10
    """How often in a row a worker that was lost within a minute is started again, later and later; after that the
    others go on without it."""
    resumes: Amount = 3
    """How often in a row the run is resumed from its newest checkpoint after a failure that may pass, such as the loss
    of all workers. The count starts again with each new checkpoint."""
    replica_id: Amount = 0
    """Which worker this process belongs to, from 0; the launcher sets it."""
    sync_steps: Count = 30
    """Inner steps between two outer steps of a fragment (H)."""
    num_fragments: Count | None = None
    """Parts of the model that are synced one after the other (J), whole modules, balanced by size. Derived: 1, or as
    many as the next field has."""
    module_fqns_per_model_fragment: tuple[Names, ...] | None = None
    """The fragments' modules, with commas in between, such as `tok_embeddings,layers.0 layers.1,norm,lm_head`."""
    fragment_sync_delay: Amount = 0
    """Inner steps between sending a pseudogradient and applying the mean (tau); the exchange runs beside them."""
    fragment_update_alpha: Share = 0.0
    """Share of the local parameters that is kept when the anchor is merged into them, from 0 to 1."""
    process_group: Literal["auto", "gloo", "nccl"] = "auto"
    """What carries the outer exchange. auto: nccl where every rank has a CUDA device of its own, else gloo."""
    host: Text | None = None
    """Name or address under which other workers reach this one. None: loopback where the lighthouse is on loopback,
    else the name of the machine."""
    quorum_timeout_seconds: Seconds = 1800
    """How long a worker waits at a sync for the others to arrive; more than the slowest window may take longer."""
    straggler_timeout_seconds: Seconds = 1200
    """How long those who have arrived wait for one that is alive but late, before they go on without it."""
    heartbeat_timeout_seconds: Seconds = 3
    """After how long without a sign of life a worker counts as dead."""
    exchange_timeout_seconds: Seconds = 60
    """Time limit of each chunk of 16 MiB in an exchange between workers."""
    stall_timeout_seconds: Seconds = 300
    """How long an inner step may take before the worker is ended and started again, as it stands still; a step may
    always take 20 times as long as its usual one, and the first step, a validation or a checkpoint 12 times this long.
    """


@dataclass(kw_only=True, slots=True)
class OuterOptimizer(Section):
    """The step on the anchor (the global parameters), with the mean pseudogradient as gradient."""

    class_name: Literal["sgd", "adamw", "muon"] = "sgd"
    """sgd with momentum; adamw without weight decay; muon for matrices and adamw for the rest."""
    lr: Positive | None = None
    """Outer learning rate. Derived: 0.7; 1 with local_sgd."""
    momentum: Momentum | None = None
    """Outer momentum of sgd and muon. Derived: 0.6; 0 with local_sgd."""
    nesterov: bool = True
    """Nesterov momentum: theta -= lr (g + momentum buf) instead of theta -= lr buf."""
    beta1: Momentum = 0.9
    """First decay of adamw."""
    beta2: Momentum = 0.99
    """Second decay of adamw."""
    eps: Positive = 1e-8
    """Epsilon of adamw."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the outer learning rate falls over the run."""
    min_lr_factor: Share = 0.1
    """Outer learning rate at the end, as a share of `lr`, where it falls."""
    offload: bool = False
    """Keep anchor and outer state in pinned host memory instead of on the device."""


@dataclass(kw_only=True, slots=True)
class Parallelism(Section):
    """How one worker spreads over its ranks (processes, one a device)."""

    data_parallel_shard_degree: Count = 1
    """Ranks over which parameters are sharded (FSDP2)."""
    data_parallel_replicate_degree: Count = 1
    """Ranks over which parameters are replicated; with a shard degree above 1: HSDP."""
    tensor_parallel_degree: Count = 1
    """Ranks that share every matrix product and read the same data; it divides heads, feed-forward width, vocabulary
    and training.seq_len. Times the two degrees above: the ranks of a worker."""
    collective_timeout_seconds: Seconds = 600
    """Time limit of a collective between the ranks of a worker. It must be longer than a rank compiles or records a
    CUDA graph while the others wait for it. A worker with a rank that hangs ends after this time."""


@dataclass(kw_only=True, slots=True)
class ActivationCheckpoint(Section):
    mode: Literal["none", "selective", "full"] = "none"
    """What the backward pass computes again instead of keeping it: nothing, what is cheap in each layer (all but
    attention and every second matrix product), or each layer from its input on. Gradients stay the same."""


@dataclass(kw_only=True, slots=True)
class Compile(Section):
    enable: bool = False
    """torch.compile for the layers and the loss."""


@dataclass(kw_only=True, slots=True)
class Validation(Section):
    """Loss of the anchor on a fixed held-out set, the same for every worker and method. Workers share its batches."""

    freq: Count = 15
    """Inner steps between two validations. The anchor is also validated before the first and after the last step. The
    workers' own weights are validated at validated steps that end with an outer step."""
    sequences: Count = 1024
    """Held-out sequences of training.seq_len tokens; any number, independent of the ranks and their batches."""


@dataclass(kw_only=True, slots=True)
class Evaluation(Section):
    """lm-eval on the anchor while it is trained, zero-shot; docs/evaluation.md says more."""

    tasks: tuple[Text, ...] = ()
    """Tasks and groups of lm-eval or of your own; `paper`: those of the paper. None given: no evaluation."""
    at: tuple[int | float, ...] = (0.25, 0.5, 0.75, 1.0)
    """When: a number with a point is a share of the run (1.0: after the last step), one without is an inner step."""
    include_path: Text | None = None
    """Folder with tasks of your own, as lm-eval's YAML files."""
    limit: Count | None = None
    """Documents of each task. None: all."""
    batch_tokens: Count = 8192
    """Tokens in a batch of a rank, padding included."""


@dataclass(kw_only=True, slots=True)
class Metrics(Section):
    log_freq: Count = 10
    """Inner steps between two lines of metrics."""
    tensorboard: bool = True
    """Write TensorBoard events below the run folder."""
    wandb: bool = False
    """Report to Weights & Biases (`pip install wandb`; project by WANDB_PROJECT, mode by WANDB_MODE)."""


@dataclass(kw_only=True, slots=True)
class Checkpoint(Section):
    enable: bool = True
    """Write checkpoints."""
    interval: Count = 500
    """Inner steps between two checkpoints; besides, one after the last step."""
    keep: Amount = 2
    """How many of the newest checkpoints stay; 0: all."""
    asynchronous: bool = True
    """Write them while the training goes on, from a copy of the state in host memory. False: training waits."""
    initial: Text | None = None
    """Folder with the weights to start from at step 0, written by `muloco export --format hf`. None: drawn."""


@dataclass(kw_only=True, slots=True)
class Chaos(Section):
    """Faults on demand, to see for oneself what happens then; docs/fault-tolerance.md says more."""

    interval_seconds: Seconds | None = None
    """Seconds between two faults, each in one worker; longer than a worker needs to come back. None: no faults."""
    kinds: tuple[Literal["kill", "stop", "cut"], ...] = ("kill", "stop", "cut")
    """kill: kill -9. stop: it stands still. cut: it loses its connections to other workers."""
    stop_seconds: Seconds = 10
    """How long a stopped worker stands still."""
    seed: Seed = 0
    """Chooses the workers."""


@dataclass(kw_only=True, slots=True)
class Config(Section):
    """Everything that describes a run."""

    run: Run = field(default_factory=Run)
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    training: Training = field(default_factory=Training)
    optimizer: Optimizer = field(default_factory=Optimizer)
    lr_scheduler: LRScheduler = field(default_factory=LRScheduler)
    fault_tolerance: FaultTolerance = field(default_factory=FaultTolerance)
    outer_optimizer: OuterOptimizer = field(default_factory=OuterOptimizer)
    compression: Compression = field(default_factory=Compression)
    parallelism: Parallelism = field(default_factory=Parallelism)
    activation_checkpoint: ActivationCheckpoint = field(default_factory=ActivationCheckpoint)
    compile: Compile = field(default_factory=Compile)
    validation: Validation = field(default_factory=Validation)
    evaluation: Evaluation = field(default_factory=Evaluation)
    metrics: Metrics = field(default_factory=Metrics)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    chaos: Chaos = field(default_factory=Chaos)

    @property
    def workers(self) -> int:
        """K."""
        return self.fault_tolerance.group_size

    @property
    def syncs(self) -> bool:
        """Whether there is an outer loop. (Resolved configs know.)"""
        method = self.fault_tolerance.semi_sync_method
        return method != "none" and (method != "gpa" or self.workers > 1)

    @property
    def worker_processes(self) -> int:
        """Workers that are processes (or groups of ranks) of their own: K, or 1 that holds all."""
        return self.workers if self.fault_tolerance.transport == "torchft" else 1

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
