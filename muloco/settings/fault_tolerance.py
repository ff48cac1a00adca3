"""Workers: how many, when they sync, how long they wait for each other, and faults on demand."""

from dataclasses import dataclass
from typing import Literal

from muloco.errors import UserError
from muloco.settings.annotations import Amount, Common, Count, MayChange, Names, Seconds, Seed, Share, Text
from muloco.settings.section import Origins, Section

Method = Literal["diloco", "local_sgd", "gpa", "none"]


@dataclass(kw_only=True, slots=True)
class FaultTolerance(Section):
    """Workers: their number, when they sync, and how long they wait for each other."""

    semi_sync_method: Common[Method | None] = None
    """diloco: an outer step every `sync_steps`. local_sgd: the average of the parameters instead. gpa: primal
    averaging, whose z is averaged every `sync_steps` where there are several workers. none: plain training of a single
    worker. Derived: gpa with `optimizer.name` GPA, else diloco."""
    transport: MayChange[Literal["torchft", "in_process"]] = "torchft"
    """torchft: workers are processes that meet at a lighthouse. in_process: all workers take turns in one process (one
    for each of a worker's ranks), so that one device can study many of them."""
    group_size: Count = 1
    """Number of workers (K)."""
    min_replica_size: MayChange[Count] = 1
    """Fewest workers that may train together after others are lost. At the start, all workers are waited for during
    straggler_timeout_seconds; then this many are enough."""
    restarts: MayChange[Amount] = 10
    """How often in a row a worker that is lost within a minute of its start is restarted, after longer and longer
    pauses; after that the others go on without it."""
    resumes: MayChange[Amount] = 3
    """How often in a row the run is resumed from its newest checkpoint after a failure that may pass, such as the loss
    of all workers. The count starts again with each new checkpoint."""
    replica_id: MayChange[Amount] = 0
    """Which worker this process belongs to, from 0; the launcher sets it."""
    sync_steps: Count = 30
    """Inner steps between two outer steps of a fragment (H)."""
    num_fragments: Count | None = None
    """Number of parts of the model that are synced one after the other (J): whole modules, balanced by size. Derived:
    1, or the number of fragments in module_fqns_per_model_fragment."""
    module_fqns_per_model_fragment: tuple[Names, ...] | None = None
    """The modules of each fragment, separated by commas, such as `tok_embeddings,layers.0 layers.1,norm,lm_head`."""
    fragment_sync_delay: Amount = 0
    """Inner steps between sending a pseudogradient and applying the mean (tau); the exchange runs in parallel with
    them."""
    fragment_update_alpha: Share = 0.0
    """Share of the local parameters that is kept when the anchor is merged into them, from 0 to 1."""
    process_group: MayChange[Literal["auto", "gloo", "nccl"]] = "auto"
    """What carries the outer exchange. auto: nccl where every rank has a CUDA device of its own, else gloo."""
    host: MayChange[Text | None] = None
    """Name or address under which other workers reach this one. None: loopback where the lighthouse is on loopback,
    else the name of the machine."""
    quorum_timeout_seconds: MayChange[Seconds] = 1800
    """How long a worker waits at a sync for enough others. It must be longer than the slowest worker may need for a
    window."""
    straggler_timeout_seconds: MayChange[Seconds] = 1200
    """How long the workers that have arrived wait for one that is alive but late, before they go on without it."""
    heartbeat_timeout_seconds: MayChange[Seconds] = 3
    """Seconds without a heartbeat after which a worker counts as dead."""
    exchange_timeout_seconds: MayChange[Seconds] = 60
    """Time limit of each chunk of 16 MiB in an exchange between workers."""
    stall_timeout_seconds: MayChange[Seconds] = 300
    """How long an inner step may take before the worker counts as stalled, and is ended and restarted. A step may
    always take 20 times as long as usual; the first step, a validation and a checkpoint may take 12 times this limit.
    """

    def complete(self, origins: Origins) -> None:
        """Derives the number of fragments.

        Raises:
            UserError: the settings of this section cannot be combined.
        """
        modules = self.module_fqns_per_model_fragment
        if modules == ():
            raise UserError(
                "fault_tolerance.module_fqns_per_model_fragment names no fragment; leave it out for num_fragments"
            )
        if modules is None:
            self.derive("num_fragments", 1, "the whole model is synced at once", origins)
        else:
            self.derive("num_fragments", len(modules), "entries of module_fqns_per_model_fragment", origins)
            if len(modules) != self.num_fragments:
                raise UserError(
                    f"fault_tolerance.num_fragments is {self.num_fragments}, module_fqns_per_model_fragment has "
                    f"{len(modules)}"
                )
        if not 0 <= self.replica_id < self.group_size:
            raise UserError(
                f"fault_tolerance.replica_id must be from 0 to group_size - 1 = {self.group_size - 1}; "
                f"got {self.replica_id}"
            )
        if self.semi_sync_method == "none" and self.group_size > 1:
            raise UserError(
                f"fault_tolerance.semi_sync_method none never syncs, but there are {self.group_size} workers; choose "
                "diloco or local_sgd, or group_size 1 with data-parallel ranks (parallelism.data_parallel_*_degree)"
            )
        if self.min_replica_size > self.group_size:
            raise UserError(
                f"fault_tolerance.min_replica_size {self.min_replica_size} is more than the group_size "
                f"{self.group_size}"
            )
        if self.transport == "in_process" and self.process_group == "nccl":
            raise UserError(
                "fault_tolerance.process_group nccl joins processes; with transport in_process leave it auto"
            )


@dataclass(kw_only=True, slots=True)
class ResolvedFaultTolerance(FaultTolerance):
    semi_sync_method: Method
    num_fragments: Count


@dataclass(kw_only=True, slots=True)
class Chaos(Section):
    """Fault injection, to try out recovery; docs/fault-tolerance.md says more."""

    interval_seconds: Seconds | None = None
    """Seconds between two faults, each in one worker. It should be longer than a worker needs to come back. None: no
    faults."""
    kinds: tuple[Literal["kill", "stop", "cut"], ...] = ("kill", "stop", "cut")
    """kill: kill -9. stop: the process is stopped for a while. cut: it loses its connections to other workers."""
    stop_seconds: Seconds = 10
    """How long a stopped worker stands still."""
    seed: Seed = 0
    """Seed of the choice of the workers."""

    def check(self) -> None:
        """Raises UserError if there is no kind of fault."""
        if not self.kinds:
            raise UserError("chaos.kinds names no kind of fault; there are kill, stop and cut")
