"""Prefix trees and scores against one sequence at a time."""

import math
import random

import pytest
import torch
import torch.distributed as dist
from torch.nn.attention.flex_attention import create_block_mask

from muloco.evals.prefixes import into_batches, lay_out
from muloco.evals.scoring import Continuation, Scorer
from muloco.model import build

from ..run_on_disk import random_weights


def a_model() -> torch.nn.Module:
    model = build("tiny", "cpu", seq_len=64, dense=True)
    model.load_state_dict(random_weights())
    return model.eval()


def scorer(model: torch.nn.Module, *, batch_tokens: int = 256, ranks: dist.ProcessGroup | None = None) -> Scorer:
    return Scorer(model=model, device=torch.device("cpu"), batch_tokens=batch_tokens, longest=64, ranks=ranks)


def questions(count: int, seed: int = 0) -> list[Continuation]:
    """Several continuations of one context, of one token and more, contexts that begin alike, repeated questions."""
    draw = random.Random(seed)
    asked = []
    for _ in range(count):
        context = [draw.randrange(2048) for _ in range(draw.randint(1, 40))]
        for length in (1, 1, draw.randint(1, 12)):
            targets = [draw.randrange(2048) for _ in range(length)]
            asked.append(Continuation(tuple([*context, *targets][:-1]), tuple(targets)))
        other = [*context[:-1], draw.randrange(2048)]
        asked.append(Continuation((*other, 7), (7, 9)))
    return [*asked, asked[0]]


def alone(model: torch.nn.Module, one: Continuation) -> tuple[float, bool]:
    positions = torch.arange(len(one.inputs))[None]
    with torch.no_grad():
        masks = model.get_attention_masks(positions)
        logits = model(torch.tensor([one.inputs]), positions=positions, attention_masks=masks)[0]
    logs = logits[-len(one.targets) :].double().log_softmax(dim=1)
    wanted = torch.tensor(one.targets)
    return float(logs.gather(1, wanted[:, None]).sum()), bool((logs.argmax(dim=1) == wanted).all())


def test_a_node_sees_its_ancestors_and_itself() -> None:
    sequences = [(1, 2, 3, 4), (1, 2, 3, 5, 6), (1, 2, 9, 9), (1, 2, 3), (8,)]
    rows = lay_out(sequences, longest=100)
    assert sorted(number for row in rows for number in row.paths) == [0, 1, 2, 3, 4]
    assert sum(len(row.tokens) for row in rows) == 4 + 2 + 2 + 1, "a shared token is there once"
    for row in rows:
        above: list[set[int]] = [set() for _ in row.tokens]
        for number, path in row.paths.items():
            assert [row.tokens[node] for node in path] == list(sequences[number])
            assert [row.depths[node] for node in path] == list(range(len(path)))
            for depth, node in enumerate(path):
                above[node] |= set(path[: depth + 1])
        mask = row.mask(len(row.tokens) + 2)
        assert [set(line.nonzero().flatten().tolist()) for line in mask][: len(above)] == above
        assert mask[-1].nonzero().tolist() == [[len(row.tokens) + 1]]


def test_rows_and_batches_keep_to_their_limits() -> None:
    sequences = [one.inputs for one in questions(30)]
    rows = lay_out(list(dict.fromkeys(sequences)), longest=64)
    assert max(len(row.tokens) for row in rows) <= 64
    batches = into_batches(rows, tokens=100)
    assert sorted(map(id, (row for batch in batches for row in batch))) == sorted(map(id, rows))
    assert all(len(batch) == 1 or len(batch) * max(len(row.tokens) for row in batch) <= 100 for batch in batches)


@pytest.mark.parametrize("batch_tokens", [1, 200, 10_000])
def test_scores_are_those_of_one_sequence_at_a_time(batch_tokens: int) -> None:
    model, asked = a_model(), questions(12)
    asked.append(Continuation(asked[3].inputs, (int(_best(model, asked[3].inputs)),)))
    counted: list[int] = []
    found = scorer(model, batch_tokens=batch_tokens)(asked, counted.append)
    expected = [alone(model, one) for one in asked]
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert sum(greedy for _, greedy in found) == 1
    for (likelihood, _), (wanted, _) in zip(found, expected, strict=True):
        assert math.isclose(likelihood, wanted, rel_tol=2e-6)
    assert sum(counted) == len(asked)
    assert scorer(model)([]) == []


def test_a_model_that_is_trained_with_a_chunked_loss_scores_as_any_other() -> None:
    """Its own forward pass then leaves the head to the loss."""
    model, asked = a_model(), questions(4)
    expected = scorer(model)(asked)
    model._skip_lm_head = True
    assert scorer(model)(asked) == expected and model._skip_lm_head


def test_what_is_shared_is_computed_once() -> None:
    """Four answers of three tokens to a question of forty, and four of one token: 40 + 4 x 2 tokens."""
    model = a_model()
    tokens = []
    model.register_forward_pre_hook(lambda module, args: tokens.append(args[0].numel()))
    question = tuple(range(100, 140))
    three = [Continuation((*question, 200 + i, 300 + i), (200 + i, 300 + i, 5)) for i in range(4)]
    one = [Continuation(question, (400 + i,)) for i in range(4)]
    scorer(model)([*three, *one])
    assert tokens == [48]


def _best(model: torch.nn.Module, inputs: tuple[int, ...]) -> torch.Tensor:
    positions = torch.arange(len(inputs))[None]
    with torch.no_grad():
        masks = model.get_attention_masks(positions)
        return model(torch.tensor([inputs]), positions=positions, attention_masks=masks)[0, -1].argmax()


def check_ranks(rank: int, store: str) -> None:
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=3)
    model, asked = a_model(), questions(9, seed=1)
    found, expected = scorer(model, ranks=dist.group.WORLD)(asked), scorer(model)(asked)
    assert found == expected, [(a, b) for a, b in zip(found, expected, strict=True) if a != b][:3]
    assert scorer(model, ranks=dist.group.WORLD)(asked[:1]) == scorer(model)(asked[:1])
    dist.destroy_process_group()


def test_ranks_find_what_one_finds_to_the_last_bit(spawn_ranks) -> None:
    spawn_ranks(check_ranks, 3)


def test_a_block_mask_says_the_same() -> None:
    """What FlexAttention is given on GPUs."""
    (row,) = lay_out([(1, 2, 3, 4), (1, 2, 3, 5, 6)], longest=100)
    sees = row.mask(8)[None]
    block = create_block_mask(lambda b, h, q, k: sees[b, q, k], 1, None, 8, 8, device="cpu")
    built = torch.vmap(torch.vmap(block.mask_mod, (None, None, None, 0)), (None, None, 0, None))
    assert torch.equal(built(torch.tensor(0), torch.tensor(0), torch.arange(8), torch.arange(8)), sees[0])
