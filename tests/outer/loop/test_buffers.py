"""Buffers that training changes: workers average them at the syncs of the parameters around them."""

import threading
from collections.abc import Mapping
from datetime import timedelta
from functools import cache, partial

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from muloco.outer import NonFinitePseudogradient, Transport
from muloco.outer.codecs import build_codec
from muloco.outer.codecs.compression import Compression
from muloco.outer.in_process import InProcessGroup
from muloco.outer.loop.fragments import homes
from muloco.sharding import gather, local, shard_like

from .. import reference, toy
from ..faults import Died, Faulty, die_at
from ..joining import Worker
from ..over_torchft import connect, in_threads
from ..toy import FRAGMENTS, SHAPES, Case, Result, restore, save
from ..workers import run_workers

BUFFERS = {"layers.0.moe.bias": (4,), "layers.1.moe.bias": (3,), "norm.count": ()}
HOMES = {
    1: {"layers.0.moe.bias": 0, "layers.1.moe.bias": 0, "norm.count": 0},
    2: {"layers.0.moe.bias": 0, "layers.1.moe.bias": 1, "norm.count": 0},
    3: {"layers.0.moe.bias": 0, "layers.1.moe.bias": 1, "norm.count": 2},
}
CASE = Case(workers=2, fragments=3, interval=7, steps=16, delay=1, alpha=0.5)


def begin() -> dict[str, Tensor]:
    """Parameters and buffers with which every worker begins."""
    return toy.start() | {name: torch.full(shape, 0.125) for name, shape in BUFFERS.items()}


@cache
def drift(worker: int, step: int) -> dict[str, Tensor]:
    """What an inner step adds to parameters and buffers."""
    generator = torch.Generator().manual_seed(77 * worker + step)
    moved = {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in BUFFERS.items()}
    return toy.drift(worker, step) | moved


def loop_over(case: Case, values: Mapping[str, Tensor], transport: Transport, worker: int, **options):
    parameters = {name: values[name] for name in SHAPES}
    buffers = {name: values[name] for name in BUFFERS if name in values}
    return case.loop(parameters, transport, worker, buffers=buffers, **options)


def walk(loop, values: dict[str, Tensor], worker: int, steps, last: int) -> Result:
    result = Result(values, loop, [], [])
    for step in steps:
        for name, change in drift(worker, step).items():
            values[name] += change
        result.syncs += [(step, sync) for sync in loop.after_inner_step(step, last=step == last)]
        result.local.append({name: tensor.clone() for name, tensor in values.items()})
    return result


def train(case: Case, worker: int, transport: Transport, **options) -> Result:
    values = begin()
    loop = loop_over(case, values, transport, worker, **options)
    loop.start(0)
    return walk(loop, values, worker, range(1, case.steps + 1), case.steps)


def train_in_process(case: Case, **options) -> list[Result]:
    group = InProcessGroup(case.workers)
    return run_workers(group, lambda worker: train(case, worker, group.transport(worker), **options))


class Outer(reference.Nesterov):
    """Nesterov for the parameters; the buffers become their mean, whatever the rate."""

    def __call__(self, anchor: Mapping[str, Tensor], mean: Mapping[str, Tensor], lr: float) -> None:
        super().__call__(anchor, {name: value for name, value in mean.items() if name in SHAPES}, lr)
        for name in mean.keys() & BUFFERS.keys():
            anchor[name].sub_(mean[name])  # the mean of anchor - buffer


def expected(case: Case) -> reference.Outcome:
    fragments = [
        [*names, *(buffer for buffer in BUFFERS if HOMES[case.fragments][buffer] == index)]
        for index, names in enumerate(FRAGMENTS[case.fragments])
    ]
    return reference.diloco(
        begin(),
        drift,
        workers=case.workers,
        fragments=fragments,
        interval=case.interval,
        steps=case.steps,
        delay=case.delay,
        alpha=case.alpha,
        outer=Outer(case.momentum),
        lr=lambda step: case.lr,
    )


@pytest.mark.parametrize("fragments", HOMES)
def test_a_buffer_travels_with_the_parameters_around_it(fragments: int) -> None:
    assert homes(FRAGMENTS[fragments], BUFFERS) == HOMES[fragments]


def test_the_innermost_module_with_parameters_decides() -> None:
    fragments = [["head.weight", "layers.10.w"], ["layers.1.moe.w"], ["layers.1.w"]]
    buffers = ["layers.1.moe.router.bias", "layers.1.bias", "layers.10.bias", "layers.2.bias", "bias"]
    assert list(homes(fragments, buffers).values()) == [1, 1, 0, 0, 0]


@pytest.mark.parametrize(("fragments", "delay", "alpha"), [(1, 0, 0.0), (1, 3, 0.0), (2, 0, 0.25), (3, 1, 0.5)])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_buffers_become_the_mean(workers: int, fragments: int, delay: int, alpha: float) -> None:
    """Between syncs, at each and at the end, which comes in mid-window; all workers have the same bits."""
    case = CASE.with_(workers=workers, fragments=fragments, delay=delay, alpha=alpha)
    results, wanted = train_in_process(case), expected(case)
    toy.assert_equals_reference(results, wanted, case)
    for worker, result in enumerate(results):
        for step, values in enumerate(result.local):
            for name in BUFFERS:
                torch.testing.assert_close(
                    values[name].double(), wanted.local[step][worker][name], rtol=1e-5, atol=1e-5, msg=f"{step} {name}"
                )


def test_a_mean_is_weighted_by_inner_steps() -> None:
    """Worker 1 has one inner step in its window, worker 0 has three."""
    group, sent = InProcessGroup(2), {}

    def work(worker: int) -> dict[str, Tensor]:
        values = begin()
        loop = loop_over(
            CASE.with_(fragments=1, interval=3, delay=0, alpha=0.0), values, group.transport(worker), worker
        )
        loop.start(0)
        walk(loop, values, worker, [1, 2], 99)
        for name, change in drift(worker, 3).items():
            values[name] += change
        sent[worker] = {name: values[name].double() for name in BUFFERS}
        loop.fragments[0].window -= 2 * worker
        (sync,) = loop.after_inner_step(3)
        assert sync.weights == {0: 3, 1: 1}
        return values

    for values in run_workers(group, work):
        for name in BUFFERS:
            mean = (3 * sent[0][name] + sent[1][name]) / 4
            torch.testing.assert_close(values[name].double(), mean, rtol=0, atol=1e-7)


@pytest.mark.parametrize("lr", [0.7, 1.0])
def test_no_outer_optimizer_and_no_codec_touches_a_buffer(lr: float) -> None:
    """The buffers have the bits of a run without compression and with another outer optimizer."""
    plain = train_in_process(CASE)
    for reduce in ("reselect", "gather", "requantize"):
        feedback = reduce != "requantize"
        compression = Compression(codec=build_codec("ternary"), error_feedback=feedback, reduce=reduce)
        for result, other in zip(train_in_process(CASE.with_(lr=lr), compression=compression), plain, strict=True):
            assert all(torch.equal(result.parameters[name], other.parameters[name]) for name in BUFFERS), reduce
            assert not torch.equal(result.parameters["output.weight"], other.parameters["output.weight"])


def test_statistics_are_those_of_the_parameters() -> None:
    case = CASE.with_(alpha=0.0)
    for result, other in zip(train_in_process(case), toy.train_in_process(case), strict=True):
        for (_, sync), (_, plain) in zip(result.syncs, other.syncs, strict=True):
            assert sync.digest != plain.digest, "the digest is also that of the buffers"
            for name in ("own_square", "mean_square", "product"):
                assert getattr(sync, name) == pytest.approx(getattr(plain, name), rel=1e-5)


def test_a_sync_of_one_worker_changes_no_bit_of_a_buffer() -> None:
    (result,) = train_in_process(CASE.with_(workers=1, interval=3, delay=0))
    alone = begin()
    for step in range(1, CASE.steps + 1):
        for name in BUFFERS:
            alone[name] += drift(0, step)[name]
    assert all(torch.equal(result.parameters[name], alone[name]) for name in BUFFERS)


@pytest.mark.parametrize("workers", [2, 3])
def test_a_lighthouse_gives_the_same_bits(workers: int, lighthouse) -> None:
    case, address = CASE.with_(workers=workers), lighthouse(workers)

    def work(worker: int) -> Result:
        result = train(case, worker, connect(worker, address))
        result.loop.close()
        return result

    for met, alone in zip(in_threads(workers, work), train_in_process(case), strict=True):
        assert met.digests == alone.digests
        assert all(torch.equal(met.parameters[name], alone.parameters[name]) for name in met.parameters)


@pytest.mark.parametrize("delay", [0, 1])
def test_a_resume_from_any_step_continues_to_the_bit(delay: int) -> None:
    """In mid-window, and with a fragment in flight."""
    case = CASE.with_(delay=delay)
    whole, group = train_in_process(case), InProcessGroup(2)

    def states_of(worker: int) -> list[tuple]:
        values = begin()
        loop = loop_over(case, values, group.transport(worker), worker)
        loop.start(0)
        states = []
        for step in range(1, case.steps):
            walk(loop, values, worker, [step], case.steps)
            states.append(save(loop, values))
        return states

    states = run_workers(group, states_of)
    for step in range(1, case.steps):
        again = InProcessGroup(2)

        def resumed(worker: int, step: int = step, again: InProcessGroup = again) -> Result:
            values = {name: torch.full_like(tensor, 9.0) for name, tensor in begin().items()}
            loop = loop_over(case, values, again.transport(worker), worker)
            restore(states[worker][step - 1], loop, values)
            loop.start(step)
            return walk(loop, values, worker, range(step + 1, case.steps + 1), case.steps)

        for result, uninterrupted in zip(run_workers(again, resumed), whole, strict=True):
            assert result.digests == [sync.digest for at, sync in uninterrupted.syncs if at > step], step
            assert all(torch.equal(result.parameters[n], uninterrupted.parameters[n]) for n in result.parameters), step


def test_the_anchor_has_the_buffers_and_local_values_come_back() -> None:
    values = begin()
    loop = loop_over(CASE.with_(workers=1, fragments=1, alpha=0.5, delay=0), values, InProcessGroup(1).transport(0), 0)
    digest = loop.anchor_digest()
    walk(loop, values, 0, range(1, 4), 99)
    local_values = {name: tensor.clone() for name, tensor in values.items()}
    with loop.anchor_weights():
        assert all(torch.equal(values[name], tensor) for name, tensor in begin().items())
    assert all(torch.equal(values[name], tensor) for name, tensor in local_values.items())
    loop.fragments[0].anchor["norm.count"] += 1
    assert loop.anchor_digest() != digest


def test_a_killed_worker_comes_back_and_has_the_buffers_of_the_others(lighthouse) -> None:
    """It is killed in its second round and comes back as a new one, with initial values in its buffers."""
    case = CASE.with_(workers=2, fragments=2, interval=4, steps=24, delay=0)
    address = lighthouse(1, heartbeat_seconds=2.0)
    back, buffers = threading.Event(), [{name: begin()[name] for name in BUFFERS} for _ in range(3)]

    def before_sync(member: Worker, life: int) -> None:
        for name, change in drift(member.worker, member.step).items():
            if name in BUFFERS:
                buffers[life][name] += change
        if member.worker == 0 and member.step == 8:
            assert back.wait(60)

    def work(worker: int) -> list[Worker]:
        transport, life = connect(worker, address), worker
        if worker == 1:
            faulty = Faulty(transport, 4, "exchange 2", die_at(transport))
            with pytest.raises(Died):
                Worker(case, faulty, 1, buffers=buffers[1]).train(partial(before_sync, life=1))
            transport, life = connect(1, address), 2
            back.set()  # the others wait for a worker whose heartbeats they see
        member = Worker(case, transport, worker, buffers=buffers[life])
        member.train(partial(before_sync, life=life))
        member.loop.close()
        return [member]

    (stayed,), (came,) = in_threads(2, work)
    ((before, after),) = came.moves
    assert before == 0 and 4 <= after <= 8
    assert came.syncs == [sync for sync in stayed.syncs if sync[0] > after] and came.syncs
    assert [workers for _, workers, _ in came.syncs] == [[0, 1]] * len(came.syncs)
    for name in BUFFERS:
        assert torch.equal(buffers[0][name], buffers[2][name]) and not torch.equal(buffers[2][name], begin()[name])


def test_workers_with_other_buffers_refuse_each_other() -> None:
    """Their terms differ, as those of workers with other parameters do."""
    values, group = begin(), InProcessGroup(2)
    own, same = (loop_over(CASE, values, group.transport(0), 0).membership.terms for _ in range(2))
    assert own.differences(same) == {}
    del values["norm.count"]
    other = loop_over(CASE, values, group.transport(1), 1).membership.terms
    assert list(own.differences(other)) == ["digest of the fragments"]


def test_a_buffer_without_a_mean_is_refused() -> None:
    counts = {"layers.0.moe.tokens": torch.zeros(4, dtype=torch.int64)}
    with pytest.raises(ValueError, match=r"floating dtype have a mean; layers\.0\.moe\.tokens is of torch\.int64"):
        CASE.loop(toy.start(), InProcessGroup(2).transport(0), 0, buffers=counts)


def test_a_buffer_that_is_not_finite_stops_all_and_is_named() -> None:
    group, case = InProcessGroup(2), CASE.with_(delay=0)

    def work(worker: int) -> str:
        values = begin()
        loop = loop_over(case, values, group.transport(worker), worker)
        loop.start(0)
        if worker == 1:
            values["layers.1.moe.bias"][0] = torch.nan
        with pytest.raises(NonFinitePseudogradient) as stopped:
            walk(loop, values, worker, range(1, case.steps + 1), case.steps)
        return str(stopped.value)

    message = "sync after step 4: NaN or Inf in the pseudogradient of worker [1], fragment 1"
    assert run_workers(group, work) == [message, f"{message}; on worker 1 in layers.1.moe.bias"]


def check_ranks(rank: int, store: str, world: int) -> None:
    """Rows of the parameters are sharded, unevenly; buffers are whole on each rank, one of them as a DTensor."""
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    mesh = init_device_mesh("cpu", (world,))

    def place(name: str, value: Tensor) -> Tensor:
        if name in BUFFERS and name != "layers.1.moe.bias":
            return value
        rows = [Shard(0) if value.ndim and name in SHAPES else Replicate()]
        return distribute_tensor(value, mesh, rows, src_data_rank=None)

    def train_sharded(worker: int) -> dict[str, Tensor]:
        values = {name: place(name, value) for name, value in begin().items()}
        loop = loop_over(CASE, values, group.transport(worker), worker)
        loop.start(0)
        for step in range(1, CASE.steps + 1):
            for name, change in drift(worker, step).items():
                local(values[name]).add_(shard_like(change, values[name]))
            loop.after_inner_step(step, last=step == CASE.steps)
        return values

    group, whole = InProcessGroup(CASE.workers), train_in_process(CASE)
    for worker, values in enumerate(run_workers(group, train_sharded)):
        for name, wanted in whole[worker].parameters.items():
            assert torch.equal(gather(values[name]), wanted), f"worker {worker}, {name}"
        for name in BUFFERS:
            assert torch.equal(local(values[name]), whole[0].parameters[name]), f"rank {rank}, worker {worker}, {name}"
    dist.destroy_process_group()


def test_ranks_of_a_worker_hold_equal_buffers(spawn_ranks) -> None:
    spawn_ranks(check_ranks, 2, 2)
