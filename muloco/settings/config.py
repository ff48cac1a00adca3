"""The choices of a user: typed sections, every field of which can be overridden as `--section.field value`.

A field that is None is derived by `muloco.resolve`; a value that is set by hand stays. Sizes called "sequences" are
counted over all workers unless said otherwise. Needs nothing but Python, so that `--help` and mistakes are answered at
once.
"""

from dataclasses import dataclass, field

from muloco.settings.annotations import Common, MayChange
from muloco.settings.compression import Compression
from muloco.settings.data import Data, ResolvedData
from muloco.settings.evaluation import Evaluation, Validation
from muloco.settings.fault_tolerance import Chaos, FaultTolerance, ResolvedFaultTolerance
from muloco.settings.optimizer import LRScheduler, Optimizer, ResolvedOptimizer
from muloco.settings.outer import OuterOptimizer, ResolvedOuterOptimizer
from muloco.settings.parallelism import ActivationCheckpoint, Compile, Parallelism
from muloco.settings.run import Checkpoint, Metrics, ResolvedRun, Run
from muloco.settings.section import Section
from muloco.settings.training import Model, ResolvedTraining, Training


@dataclass(kw_only=True, slots=True)
class Config(Section):
    """Everything that describes a run."""

    run: Run = field(default_factory=Run)
    model: Common[Model] = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    training: Training = field(default_factory=Training)
    optimizer: Optimizer = field(default_factory=Optimizer)
    lr_scheduler: LRScheduler = field(default_factory=LRScheduler)
    fault_tolerance: FaultTolerance = field(default_factory=FaultTolerance)
    outer_optimizer: Common[OuterOptimizer] = field(default_factory=OuterOptimizer)
    compression: Common[Compression] = field(default_factory=Compression)
    parallelism: Parallelism = field(default_factory=Parallelism)
    activation_checkpoint: MayChange[ActivationCheckpoint] = field(default_factory=ActivationCheckpoint)
    compile: MayChange[Compile] = field(default_factory=Compile)
    validation: Validation = field(default_factory=Validation)
    evaluation: MayChange[Evaluation] = field(default_factory=Evaluation)
    metrics: MayChange[Metrics] = field(default_factory=Metrics)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    chaos: MayChange[Chaos] = field(default_factory=Chaos)

    @property
    def workers(self) -> int:
        """Number of workers, K."""
        return self.fault_tolerance.group_size

    @property
    def worker_processes(self) -> int:
        """Number of worker processes (or groups of ranks): K, or 1 if one process holds all workers."""
        return self.workers if self.fault_tolerance.transport == "torchft" else 1

    @property
    def ranks_per_worker(self) -> int:
        """Number of processes of one worker."""
        of_model = self.parallelism.tensor_parallel_degree * self.parallelism.pipeline_parallel_degree
        return self.data_parallel_ranks * of_model

    @property
    def data_parallel_ranks(self) -> int:
        """Ranks of one worker, or groups of ranks that share the work on a sequence, that read different data."""
        return self.parallelism.data_parallel_shard_degree * self.parallelism.data_parallel_replicate_degree

    @property
    def tokens_per_step(self) -> int:
        """Tokens that all workers together take in one inner step."""
        return self.training.tokens_per_step


@dataclass(kw_only=True, slots=True)
class ResolvedConfig(Config):
    """A config in which everything is decided (`muloco.resolve`). A None has a meaning, such as no clipping."""

    run: ResolvedRun
    data: ResolvedData
    training: ResolvedTraining
    optimizer: ResolvedOptimizer
    fault_tolerance: ResolvedFaultTolerance
    outer_optimizer: ResolvedOuterOptimizer

    @property
    def syncs(self) -> bool:
        """Whether there is an outer loop."""
        method = self.fault_tolerance.semi_sync_method
        return method != "none" and (method != "gpa" or self.workers > 1)

    @property
    def schedule_steps(self) -> int:
        """Inner steps over which the learning rates fall; after them they stay as they are."""
        return self.lr_scheduler.total_steps or self.training.steps
