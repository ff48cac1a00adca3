"""PowerSGD against its algorithm in fp64, and what it knows from round to round: committed, dropped, saved."""

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from muloco.outer.codecs import build_codec
from muloco.outer.codecs.channel import Channel, Encoder
from muloco.outer.codecs.compression import Compression
from muloco.outer.in_process import InProcessGroup
from muloco.runs import safe_reader

from ..faults import Died, Faulty, die_in_process, lose_contact
from ..toy import Case, Result, restore, save, start, train, train_in_process, walk
from ..workers import run_workers
from .codec_examples import gaussian

RANK = 2
CODEC = build_codec("powersgd", rank=RANK)
COMPRESSION = Compression(codec=build_codec("powersgd", rank=1), error_feedback=True)
CASE = Case(workers=3, interval=3, steps=12, lr=0.7)


def rounds(pieces: list[torch.Tensor]) -> list[torch.Tensor]:
    """Pieces of one place, round after round, as they are decoded."""
    state = CODEC.first_state(pieces[0].shape, pieces[0].device)[None]
    decoded = []
    for piece in pieces:
        payload, state = CODEC.encode_from([piece], state)
        decoded.append(CODEC.decode(payload[0], piece.shape))
    return decoded


def test_rounds_follow_the_algorithm() -> None:
    """Algorithm 1 with one worker: the projection on the range of M Q, and Q = M^T P for the next round. What a round
    decodes depends on the span of Q alone, so a QR decomposition serves as well."""
    pieces = [gaussian(30, 20, seed=seed) for seed in range(4)]
    right = CODEC.first_state((30, 20), torch.device("cpu")).view(RANK, 20).t().double()
    for piece, decoded in zip(pieces, rounds(pieces), strict=True):
        left, _ = torch.linalg.qr(piece.double() @ right)
        right = piece.double().t() @ left
        torch.testing.assert_close(decoded.double(), left @ right.t(), rtol=1e-4, atol=1e-5)


def test_warm_starts_reach_the_best_matrix_of_that_rank() -> None:
    """Eckart and Young: the singular vectors of the greatest singular values."""
    values = torch.tensor([8.0, 4.0, 1.0, 0.5])
    left, right = (torch.linalg.qr(gaussian(size, 4, seed=size))[0] for size in (40, 30))
    piece = left @ values.diag() @ right.t()
    best = left[:, :RANK] @ values[:RANK].diag() @ right[:, :RANK].t()
    decoded = rounds([piece] * 12)
    assert (decoded[0] - best).norm() > 1e-2
    torch.testing.assert_close(decoded[-1], best, rtol=0, atol=1e-4)


@pytest.mark.parametrize("rank", [4, 8, 16])
@pytest.mark.parametrize(
    "piece",
    [torch.ones(64, 48), torch.block_diag(torch.ones(32, 24), torch.ones(32, 24)), torch.eye(64, 2) @ torch.ones(2, 48)]
    + [gaussian(64, columns) @ gaussian(columns, 48) for columns in (1, 3)]
    + [torch.ones(64, 48) + 1e-7 * gaussian(64, 48)],
    ids=["ones", "blocks", "two rows", "rank 1", "rank 3", "noise"],
)
def test_a_piece_of_a_lower_rank_is_decoded_as_it_is(piece: torch.Tensor, rank: int) -> None:
    """Directions that are there but once are not sent several times."""
    codec = build_codec("powersgd", rank=rank)
    states = codec.first_state(piece.shape, piece.device)[None]
    for _ in range(4):
        payloads, states = codec.encode_from([piece], states)
        error = (codec.decode(payloads[0], piece.shape) - piece).norm() / piece.norm()
        assert error < 1e-2


@pytest.mark.parametrize("shape", [(7,), (), (3, 4), (0, 5)], ids=str)
def test_what_factors_would_not_make_smaller_travels_as_it_is(shape: tuple[int, ...]) -> None:
    piece = gaussian(*shape)
    assert torch.equal(CODEC.decode(CODEC.encode(piece), shape), piece)
    assert CODEC.payload_bytes(shape) == 4 * piece.numel() and CODEC.state_elements(shape) == 0


@pytest.mark.parametrize("value", [0.0, float("nan"), 3e38])
def test_a_piece_without_directions_leaves_the_state_alone(value: float) -> None:
    state = CODEC.first_state((9, 8), torch.device("cpu"))[None]
    _, after = CODEC.encode_from([torch.full((9, 8), value)], state)
    assert torch.equal(after, state)


def test_a_state_is_kept_once_the_round_commits_and_dropped_where_it_does_not_fit() -> None:
    encoder, piece = Encoder(None), gaussian(30, 20)
    first = encoder.encode(CODEC, [piece], [7])
    encoder.begin()
    assert torch.equal(encoder.encode(CODEC, [piece], [7]), first), "tried again from the same state"
    encoder.commit()
    encoder.begin()
    assert not torch.equal(encoder.encode(CODEC, [piece], [7]), first), "warm"
    encoder.commit()
    encoder.begin()
    assert torch.equal(encoder.encode(CODEC, [piece], [8]), first), "another place"
    encoder.commit()
    assert encoder.dropped_states == 1
    encoder.begin()
    encoder.encode(CODEC, [piece[:, :10]], [8])
    encoder.commit()
    assert encoder.dropped_states == 2, "another size"
    encoder.begin()
    encoder.encode(CODEC, [piece], [9])
    encoder.begin()
    encoder.encode(CODEC, [piece], [8])
    encoder.commit()
    assert set(encoder.states) == {8}, "the attempt before, which failed, had another piece"
    encoder.clear()
    assert torch.equal(encoder.encode(CODEC, [piece], [8]), first)


def test_a_round_that_fails_and_a_worker_that_goes() -> None:
    """The first is tried again from the same states. The second changes the parts, and the survivors drop the states of
    parts that they no longer own, and agree."""
    calm = train_in_process(CASE, compression=COMPRESSION)

    def with_fault(point: str, act) -> list[Result | None]:
        group = InProcessGroup(3)

        def work(worker: int) -> Result | None:
            transport = group.transport(worker)
            transport = Faulty(transport, 6, point, act) if worker == 1 else transport
            try:
                return train(CASE, worker, transport, compression=COMPRESSION)
            except Died:
                return None

        return run_workers(group, work)

    for ours, expected in zip(with_fault("exchange 3", lose_contact), calm, strict=True):
        assert ours.digests == expected.digests
    first, _, second = with_fault("exchange 3", die_in_process)
    assert first.digests == second.digests != calm[0].digests
    channels = [result.loop.fragments[0].channel for result in (first, second)]
    assert sum(channel.sent.dropped_states for channel in channels) > 0
    assert all(channel.sent.states for channel in channels)


def test_saved_and_restored_it_goes_on_to_the_bit() -> None:
    """With a fragment in flight; without the states it would not."""
    case = Case(workers=2, fragments=2, interval=4, steps=11, delay=1, alpha=0.5)
    whole, group, stop = train_in_process(case, compression=COMPRESSION), InProcessGroup(2), 6

    def saving(worker: int) -> tuple:
        parameters = start()
        loop = case.loop(parameters, group.transport(worker), worker, compression=COMPRESSION)
        loop.start(0)
        walk(loop, parameters, worker, range(1, stop + 1), case.steps)
        return save(loop, parameters)

    states = run_workers(group, saving)

    def going_on(group: InProcessGroup, forget: bool, worker: int) -> list[int]:
        parameters = {name: torch.full_like(tensor, 9.0) for name, tensor in start().items()}
        loop = case.loop(parameters, group.transport(worker), worker, compression=COMPRESSION)
        restore(states[worker], loop, parameters)
        for fragment in loop.fragments if forget else ():
            fragment.channel.sent.states = {}
        loop.start(stop)
        return walk(loop, parameters, worker, range(stop + 1, case.steps + 1), case.steps).digests

    later = [sync.digest for at, sync in whole[0].syncs if at > stop]
    for forget in (False, True):
        again = InProcessGroup(2)
        for digests in run_workers(again, partial(going_on, again, forget)):
            assert (digests == later) is not forget


def test_states_are_those_of_a_fragment_and_need_no_error_feedback() -> None:
    tensors = {"w": torch.empty(30, 20), "norm": torch.empty(30)}
    channel = Channel(Compression(codec=CODEC, dense=frozenset(["norm"])), tensors)
    assert channel.stateful and channel.residuals(torch.device("cpu")) == {}
    channel.sent.encode(CODEC, [gaussian(30, 20)], [0])
    channel.commit()
    other = Channel(Compression(codec=CODEC, dense=frozenset(["norm"])), tensors)
    other.load_codec_states(channel.codec_states(), torch.device("cpu"))
    assert torch.equal(other.sent.states[0], channel.sent.states[0])
    assert not Channel(Compression(codec=build_codec("bf16")), tensors).stateful


def test_states_in_a_part_of_a_checkpoint_are_read_as_data(tmp_path: Path) -> None:
    channel = Channel(Compression(codec=CODEC), {"w": torch.empty(30, 20)})
    channel.sent.encode(CODEC, [gaussian(30, 20)], [0])
    channel.commit()
    dcp.save({"outer_rank_0": {"codecs_0": channel.codec_states()}}, checkpoint_id=tmp_path, no_dist=True)
    room = {"outer_rank_0": {"codecs_0": Channel(Compression(codec=CODEC), {"w": torch.empty(30, 20)}).codec_states()}}
    safe_reader.check(tmp_path)
    safe_reader.load(room, tmp_path, no_dist=True)
    assert room["outer_rank_0"]["codecs_0"] == channel.codec_states()
