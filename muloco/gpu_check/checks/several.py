"""Checks that need several GPUs. In a rehearsal the processes share the CPU and exchange over gloo."""

import re

from muloco.gpu_check.bench import Bench, Figures, expect
from muloco.gpu_check.checks.gloo import figures_of_killed
from muloco.gpu_check.checks.laptop import STREAMING, figures_of_evaluation
from muloco.gpu_check.runs import Fields, expect_close_losses, train

BYTES_TOLERANCE = 1e-3
"""Relative difference allowed between the bytes sent in two runs: messages about the round vary in length."""


def nccl_two(bench: Bench) -> Figures:
    return train(bench, "nccl_two", "laptop/muloco", _over(bench, "nccl")).figures()


def nccl_streaming(bench: Bench) -> Figures:
    run = train(bench, "nccl_streaming", STREAMING, _over(bench, "nccl"))
    other = train(bench, "nccl_streaming_gloo", STREAMING, _over(bench, "gloo"))
    return {**run.figures(), **expect_close_losses(run, other)}


def nccl_four_bits(bench: Bench) -> Figures:
    run = train(bench, "nccl_four_bits", "laptop/muloco_4bit", _over(bench, "nccl"))
    other = train(bench, "nccl_four_bits_gloo", "laptop/muloco_4bit", _over(bench, "gloo"))
    sent, expected = run.total("bytes_sent"), other.total("bytes_sent")
    same = abs(sent - expected) / expected < BYTES_TOLERANCE
    expect(same, f"{sent:.0f} bytes were sent over NCCL, {expected:.0f} over gloo")
    return run.figures()


def nccl_killed(bench: Bench) -> Figures:
    return figures_of_killed(bench, "nccl_killed", _over(bench, "nccl"))


def nccl_offload(bench: Bench) -> Figures:
    fields = _over(bench, "nccl") | {"outer_optimizer.offload": "True"}
    return train(bench, "nccl_offload", STREAMING, fields).figures()


def muon_two_ranks(bench: Bench) -> Figures:
    return {"fsdp2_apart": _sharded_muon(bench, 1, 2), "copies_apart": _sharded_muon(bench, 2, 1)}


def muon_four_ranks(bench: Bench) -> Figures:
    return {"fsdp2_apart": _sharded_muon(bench, 1, 4), "hsdp_apart": _sharded_muon(bench, 2, 2)}


def eval_two_ranks(bench: Bench) -> Figures:
    return figures_of_evaluation(bench, "evaluated_by_two.json", *_launcher(2))


def tensor_parallel(bench: Bench) -> Figures:
    figures: Figures = {}
    for compiled in ("True", "False"):
        fields: Fields = {
            "fault_tolerance.group_size": "1",
            "parallelism.tensor_parallel_degree": "2",
            "parallelism.data_parallel_shard_degree": "2",
            "compile.enable": compiled,
        }
        run = train(bench, f"tensor_parallel_{compiled.lower()}", "laptop/muloco", fields)
        figures["compiled_loss" if compiled == "True" else "eager_loss"] = run.losses()[-1]
    return figures


def pipeline(bench: Bench) -> Figures:
    fields: Fields = {
        "fault_tolerance.group_size": "1",
        "parallelism.pipeline_parallel_degree": "2",
        "parallelism.data_parallel_shard_degree": "2",
    }
    return train(bench, "pipeline", "laptop/muloco", fields).figures()


def two_by_four(bench: Bench) -> Figures:
    fields: Fields = {"validation.sequences": "32", "training.global_batch_size": "128"}
    return train(bench, "two_by_four", "diloco/2x_4gpu_muloco", fields).figures()


def _over(bench: Bench, group: str) -> Fields:
    return {
        "fault_tolerance.process_group": bench.size(group, "gloo"),
        "fault_tolerance.sync_steps": bench.size("30", "6"),
    }


def _launcher(ranks: int) -> tuple[str, ...]:
    return ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}")


def _sharded_muon(bench: Bench, replicas: int, shards: int) -> float:
    words = ("-m", "muloco.gpu_check.sharded_muon", str(replicas), str(shards))
    said = bench.python(*_launcher(replicas * shards), *words)
    differences = re.findall(r"^apart: (\S+)$", said, flags=re.M)
    expect(bool(differences), "muloco.gpu_check.sharded_muon printed no difference")
    return float(differences[0])
