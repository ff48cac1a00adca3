"""One rank of one worker, from its environment to the end of training."""

import contextlib
import copy
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from torch.distributed import TCPStore

from muloco.data.tokenizer import DocumentTokenizer
from muloco.files import whole_folder
from muloco.outer import StateLost
from muloco.outer.in_process import GroupEnded, InProcessGroup
from muloco.outer.wire.gate import LOOPBACK
from muloco.outer.wire.store import loopback_store
from muloco.runs.folder import RunFolder, unwritable, write_json
from muloco.runs.states import State, tell_state
from muloco.settings.config import Config, ResolvedConfig
from muloco.training.data import prepare_data
from muloco.training.environment import ATTEMPT, check_environment
from muloco.training.evaluation import MakeEvaluation
from muloco.training.pulse import show_stacks_on_request
from muloco.training.resuming import config_json, content_of, run_folder, way_on
from muloco.training.stop_request import StopRequest
from muloco.training.titan_config import trainer_config
from muloco.training.worker_log import thread_name

logger = logging.getLogger(__name__)


def run_worker(config: ResolvedConfig, *, chosen: Config, make_evaluation: MakeEvaluation | None = None) -> None:
    """Trains as worker `fault_tolerance.replica_id` of a resolved config, in the environment of torchrun or, without
    one, as its only rank. `chosen` is the config before it was resolved, for config.json. Without
    `make_evaluation` the anchor is not evaluated.

    Raises:
        UserError: the environment does not fit the config, or the run folder cannot be made.
        RuntimeError: training failed.
    """
    show_stacks_on_request()
    check_environment(config, os.environ)
    store = store_of_single_rank(config)
    os.environ.pop("TORCH_NCCL_ASYNC_ERROR_HANDLING", None)  # of torchrun; torchtitan sets its own and warns of others
    folder = run_folder(config)
    attempt = int(os.environ.get(ATTEMPT, "1"))
    in_process = config.worker_processes == 1
    workers = range(config.workers) if in_process else (config.fault_tolerance.replica_id,)
    try:
        if os.environ["RANK"] == "0":
            tell_state(folder, workers, attempt=attempt, state=State.PREPARING)
    except OSError as error:
        raise unwritable(error) from None
    data = prepare_data(config)
    if os.environ["RANK"] == "0":
        if not folder.config.exists():
            write_json(folder.config, config_json(chosen, config, content_of(data)))
        _keep_tokenizer(data.tokenizer_folder, folder)
    evaluation = None if make_evaluation is None else make_evaluation(config, data.tokenizer_folder)
    stop = StopRequest()
    stop.listen()
    group = InProcessGroup(config.workers) if in_process else None

    def train(config: ResolvedConfig) -> None:
        trainer = None
        try:
            first = not in_process or config.fault_tolerance.replica_id == 0  # in one process, one evaluation is enough
            trainer = trainer_config(
                config, folder, data, attempt=attempt, group=group, stop=stop, evaluation=evaluation if first else None
            ).build()
            trainer.train()
        except StateLost as lost:
            raise StateLost(f"{lost}; {way_on(folder)}") from None
        finally:
            if trainer is not None:
                trainer.close()

    try:
        if group is None or config.workers == 1:
            train(config)
        else:
            take_turns(config, group, train)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        del store


def _keep_tokenizer(tokenizer: Path, folder: RunFolder) -> None:
    """Copies the tokenizer into the run folder, where the model is of no use without it. Workers may do so at once."""
    if folder.tokenizer.exists():
        return
    with whole_folder(folder.tokenizer, shared=True) as draft:
        DocumentTokenizer(tokenizer).copy_to(draft)


def take_turns(config: ResolvedConfig, group: InProcessGroup, train: Callable[[ResolvedConfig], None]) -> None:
    """Trains all workers in this process, each in a thread. The first failure ends all of them, and is raised."""
    failures: list[BaseException] = []

    def run(worker: int) -> None:
        own = copy.deepcopy(config)
        own.fault_tolerance.replica_id = worker
        torch.autograd.set_multithreading_enabled(False)  # of each thread; torchtitan sets it for its first one
        with contextlib.suppress(GroupEnded), group.taking_turns(worker):
            try:
                train(own)
            except BaseException as error:
                failures.append(error)
                group.end()  # before the next worker has its turn
                raise GroupEnded from error

    threads = [
        threading.Thread(target=run, args=(worker,), name=thread_name(worker), daemon=True)
        for worker in range(group.size)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def store_of_single_rank(config: Config) -> TCPStore | None:
    """A worker of one rank needs no torchrun: this opens the store that torchrun would have, and sets what it would.

    The store takes a free port itself. To choose one here and let torch open it later would leave it to others
    meanwhile.
    """
    if "RANK" in os.environ:
        return None
    store = loopback_store()
    os.environ.update(
        RANK="0",
        LOCAL_RANK="0",
        WORLD_SIZE="1",
        MASTER_ADDR=LOOPBACK,
        MASTER_PORT=str(store.port),
        TORCHELASTIC_USE_AGENT_STORE="True",
        TORCHELASTIC_RESTART_COUNT="0",
    )
    return store
