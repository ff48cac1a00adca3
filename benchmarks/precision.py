"""How far the gradients of training.precision bfloat16 and autocast are from those of float32.

    python benchmarks/precision.py [--flavor 150M] [--sequences 1] [--seq-len 512]

It takes one batch of the embedded corpus, the model at initialization, and torchtitan's FSDP2 on one rank. The error is
the norm of the difference of all gradients, as a share of the norm of the float32 gradients. bf16 products on a CPU may
be summed in another order than on a GPU; both round their inputs and results alike.
"""

import argparse
import sys

import torch

from muloco._torchtitan import CompileConfig, ParallelDims, ParallelismConfig, TrainingConfig, device_type
from muloco.data.held_out import HeldOutDataLoader
from muloco.data.prepare import prepare
from muloco.model import spec as model_spec
from muloco.model.architectures.paper_llama.flavors import LAPTOP_VOCABULARY
from muloco.settings.config import Config
from muloco.settings.data import ResolvedData
from muloco.sharding import gather
from muloco.training.worker import store_of_single_rank

WAYS = ("float32", "bfloat16", "autocast")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flavor", default="150M")
    parser.add_argument("--sequences", type=int, default=1)
    parser.add_argument("--seq-len", type=int, default=512)
    options = parser.parse_args()
    store = store_of_single_rank(Config())
    torch.distributed.init_process_group("gloo" if device_type() == "cpu" else "nccl")
    inputs, labels = batch(options.sequences, options.seq_len)
    found = {way: gradients(way, options.flavor, inputs, labels) for way in WAYS}
    sys.stdout.write(f"flavor {options.flavor}, {options.sequences} x {options.seq_len} tokens, {device_type()}\n")
    for way in WAYS[1:]:
        off = torch.stack([(found[way][name] - exact).norm() for name, exact in found["float32"].items()]).norm()
        share = off / torch.stack([exact.norm() for exact in found["float32"].values()]).norm()
        sys.stdout.write(f"{way:>9}: {share:.2%}\n")
    torch.distributed.destroy_process_group()
    del store


def batch(sequences: int, seq_len: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    embedded = ResolvedData(prepare=True, vocabulary=LAPTOP_VOCABULARY)
    data = prepare(embedded, held_out_sequences=sequences, seq_len=seq_len)
    loader = HeldOutDataLoader.Config(folders=(str(data.held_out[0].folder),), sequences=sequences).build(
        dp_world_size=1, dp_rank=0, tokenizer=None, seq_len=seq_len, local_batch_size=sequences
    )
    inputs, labels = next(iter(loader))
    return {name: tensor.to(device_type()) for name, tensor in inputs.items()}, labels.to(device_type())


def gradients(way: str, flavor: str, inputs: dict[str, torch.Tensor], labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """The full gradients in fp32, by name, from the same initialization and batch."""
    parallelism = ParallelismConfig(spmd_backend="partial_dtensor")
    spec = model_spec(flavor, seq_len=labels.shape[1], autocast=way == "autocast")
    with torch.device("meta"):
        model = spec.model.build()
    model = spec.parallelize_fn(
        model,
        parallel_dims=ParallelDims.from_config(parallelism, 1),
        training=TrainingConfig(mixed_precision_param="bfloat16" if way == "bfloat16" else "float32"),
        parallelism=parallelism,
        compile_config=CompileConfig(enable=False),
        ac_config=None,
        dump_folder="",
    )
    model.to_empty(device=device_type())
    torch.manual_seed(42)
    with torch.no_grad():
        model.init_states()
    logits = model(inputs["input"], inputs["positions"], model.get_attention_masks(inputs["positions"]))
    torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten()).backward()
    return {name: gather(parameter.grad) for name, parameter in model.named_parameters()}


if __name__ == "__main__":
    main()
