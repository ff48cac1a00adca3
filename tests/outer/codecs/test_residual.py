"""What error feedback keeps: only what has committed, through changes of the members, saved and restored."""

from datetime import timedelta
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from muloco.outer.codecs import build_codec
from muloco.outer.codecs.channel import Encoder
from muloco.outer.codecs.compression import Compression
from muloco.outer.in_process import InProcessGroup
from muloco.sharding import local, shard_like

from ..compressed_reference import CompressedRounds, Feedback, diloco
from ..faults import Died, Faulty, die_in_process, lose_contact
from ..toy import SHAPES, Case, Result, drift, restore, save, start, train, train_in_process, walk
from ..workers import run_workers

CODEC = build_codec("statistical", bits=2)
COMPRESSION = Compression(codec=CODEC, error_feedback=True)
CASE = Case(workers=3, interval=3, steps=12, lr=0.7)


def reference(shapes: list[tuple]) -> CompressedRounds:
    return CompressedRounds(shapes, [CODEC] * len(shapes), "reselect", Feedback())


def with_faults(case: Case, points: dict[int, tuple], compression: Compression = COMPRESSION) -> list[Result | None]:
    """Trains; `points[worker]` is the (step, point, act) of its fault. None for those who died."""
    group = InProcessGroup(case.workers)

    def work(worker: int) -> Result | None:
        transport = group.transport(worker)
        if worker in points:
            transport = Faulty(transport, *points[worker])
        try:
            return train(case, worker, transport, compression=compression)
        except Died:
            return None

    return run_workers(group, work)


def assert_same_residuals(ours: Result, theirs: Result, what: object = "") -> None:
    for kind, tensors in theirs.loop.snapshot(own=True).residuals.items():
        for name, value in tensors.items():
            assert torch.equal(ours.loop.snapshot(own=True).residuals[kind][name], value), f"{what} {kind} {name}"


@pytest.mark.parametrize("reduce", ["reselect", "gather", "requantize"])
@pytest.mark.parametrize("delay", [0, 1])
def test_a_round_that_fails_is_tried_again_from_the_old_residual(delay: int, reduce: str) -> None:
    """Wherever contact is lost: the run ends as if nothing had been."""
    case = CASE.with_(delay=delay)
    compression = Compression(codec=CODEC, error_feedback=True, reduce=reduce)
    calm = train_in_process(case, compression=compression)
    for point in ("exchange 0", "exchange 2", "exchange 3")[: 3 if reduce == "reselect" else 2]:
        results = with_faults(case, {1: (6 - delay, point, lose_contact)}, compression)
        for ours, expected in zip(results, calm, strict=True):
            assert [sync.attempts for _, sync in ours.syncs] == [1, 2, 1, 1], point
            assert ours.digests == expected.digests, point
            assert_same_residuals(ours, expected, point)


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_when_a_worker_goes_elements_that_change_their_owner_lose_what_was_left(victim: int) -> None:
    """Its last round is tried again by the survivors, who own other parts then."""
    expected = reference([*SHAPES.values()])
    anchor = diloco(
        expected,
        start(),
        drift,
        workers=3,
        interval=3,
        steps=12,
        lr=0.7,
        momentum=0.9,
        present=lambda step: [k for k in range(3) if k != victim or step < 6],
    )
    results = with_faults(CASE, {victim: (6, "exchange 3", die_in_process)})
    assert results[victim] is None
    for worker, result in enumerate(results):
        if result is None:
            continue
        for name, value in anchor.items():
            torch.testing.assert_close(result.parameters[name], value, rtol=1e-5, atol=1e-5, msg=name)
        for kind, vectors in (("sent", expected.sent), ("owned", expected.owned)):
            left = torch.cat([tensor.flatten() for tensor in result.loop.snapshot(own=True).residuals[kind].values()])
            torch.testing.assert_close(left, vectors[worker], rtol=1e-4, atol=1e-5, msg=kind)
        channel = result.loop.fragments[0].channel
        assert channel.sent.residual.dropped == 0
        assert channel.owned.residual.dropped == expected.dropped[worker]
    lost = sum(count for worker, count in expected.dropped.items() if worker != victim)
    assert (lost > 0) == (victim != 1), "the parts beside one in the middle only grow"


def test_elements_keep_what_is_left_of_them_when_pieces_change() -> None:
    encoder = Encoder((1.0, 1.0, 1.0))
    residual = encoder.residual
    nothing = build_codec("topk", fraction=1e-9)  # sends one element of a piece
    whole = torch.tensor([9.0, 1, 2, 3, 4, 5, 6, 7])
    encoder.encode(nothing, [whole], [10])
    assert not residual.to_vector(30, whole.device).any(), "not before the commit"
    encoder.commit()
    assert residual.to_vector(30, whole.device)[10:18].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    encoder.begin()
    (payload,) = encoder.encode(nothing, [torch.zeros(4)], [12])  # 12 to 15 are still encoded here, and 18 is new
    assert nothing.decode(payload, (4,)).tolist() == [0, 0, 0, 5]
    encoder.encode(nothing, [torch.tensor([8.0])], [18])
    encoder.commit()
    assert residual.dropped == 4, "10, 11, 16 and 17"
    assert residual.to_vector(19, whole.device)[10:].tolist() == [0, 0, 2, 3, 4, 0, 0, 0, 0]


def test_a_retry_forgets_the_attempt_before() -> None:
    encoder, codec = Encoder((0.9, 1.0, 1.0)), build_codec("linear", bits=1)
    first = encoder.encode(codec, [torch.tensor([1.0, 2.0, 4.0])], [0])
    encoder.begin()
    assert torch.equal(encoder.encode(codec, [torch.tensor([1.0, 2.0, 4.0])], [0]), first)
    encoder.begin()
    encoder.commit()
    assert not encoder.residual.to_vector(3, first.device).any()


@pytest.mark.parametrize("reduce", ["reselect", "gather", "requantize"])
def test_saved_and_restored_at_any_step(reduce: str) -> None:
    """Streaming with overlap, mid-window and with a fragment in flight: the run goes on to the bit."""
    case = Case(workers=2, fragments=2, interval=4, steps=11, delay=1, alpha=0.5)
    options = {"compression": Compression(codec=CODEC, error_feedback=True, reduce=reduce, dense=frozenset(["norm"]))}
    whole, group = train_in_process(case, **options), InProcessGroup(2)

    def saving(worker: int) -> list[tuple]:
        parameters = start()
        loop = case.loop(parameters, group.transport(worker), worker, **options)
        loop.start(0)
        states = []
        for step in range(1, case.steps):
            walk(loop, parameters, worker, [step], case.steps)
            states.append(save(loop, parameters))
        return states

    states = run_workers(group, saving)
    assert any(left.count_nonzero() for left in states[0][5][0].residuals["sent"].values())
    for step in range(1, case.steps):
        again = InProcessGroup(2)

        def work(worker: int, step=step, again=again) -> Result:
            parameters = {name: torch.full_like(tensor, 9.0) for name, tensor in start().items()}
            loop = case.loop(parameters, again.transport(worker), worker, **options)
            restore(states[worker][step - 1], loop, parameters)
            loop.start(step)
            return walk(loop, parameters, worker, range(step + 1, case.steps + 1), case.steps)

        for result, expected in zip(run_workers(again, work), whole, strict=True):
            later = [sync.digest for at, sync in expected.syncs if at > step]
            assert result.digests == later, step
            assert_same_residuals(result, expected, step)


def test_a_worker_that_begins_with_the_anchor_has_nothing_left() -> None:
    loop = train_in_process(CASE, compression=COMPRESSION)[0].loop

    def is_left() -> bool:
        residuals = loop.snapshot(own=True).residuals
        return any(left.count_nonzero() for kind in residuals.values() for left in kind.values())

    assert is_left()
    loop.restore(loop.snapshot(own=False), own=False)
    assert not is_left()


def test_without_error_feedback_nothing_is_kept() -> None:
    result = train_in_process(CASE, compression=Compression(codec=CODEC))[0]
    assert result.loop.snapshot(own=True).residuals == {}


def check_shards(rank: int, store: str, world: int) -> None:
    """Two workers as threads in every rank: each rank exchanges its shards, as pieces of their own."""
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    mesh = init_device_mesh("cpu", (world,))
    case = CASE.with_(workers=2)

    def distribute(values: dict) -> dict:
        return {
            name: distribute_tensor(value.clone(), mesh, [Shard(0) if value.ndim else Replicate()], src_data_rank=None)
            for name, value in values.items()
        }

    like = distribute(start())

    def sharded(worker: int, step: int) -> dict:
        return {name: shard_like(change, like[name]) for name, change in drift(worker, step).items()}

    def work(group: InProcessGroup, worker: int) -> tuple[dict, list[int]]:
        parameters = distribute(start())
        loop = case.loop(parameters, group.transport(worker), worker, compression=COMPRESSION)
        loop.start(0)
        digests = []
        for step in range(1, case.steps + 1):
            for name, change in sharded(worker, step).items():
                local(parameters[name]).add_(change)
            digests += [sync.digest for sync in loop.after_inner_step(step, last=step == case.steps)]
        return {name: local(tensor) for name, tensor in parameters.items()}, digests

    group = InProcessGroup(2)
    (first, digests), (second, others) = run_workers(group, partial(work, group))
    assert digests == others and len(digests) == 4
    begin = {name: local(tensor) for name, tensor in distribute(start()).items()}
    expected = diloco(
        reference([tuple(tensor.shape) for tensor in begin.values()]),
        begin,
        sharded,
        **{"workers": 2, "interval": case.interval, "steps": case.steps, "lr": case.lr, "momentum": case.momentum},
    )
    for name, value in expected.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-5, msg=f"rank {rank}, {name}")
    dist.destroy_process_group()


def test_shards_are_pieces(spawn_ranks) -> None:
    spawn_ranks(check_shards, 2, 2)
