"""Rows for the speed of training the paper's 150M flavor on one GPU."""

from muloco.gpu_check.row import Part, Row

MEMORY_GIB = 40

PART = Part(
    "speed",
    "training speed of the 150M flavor: MuLoCo, Muon, AdamW, torchtitan's own trainer; a profile",
    (
        Row(
            name="speed_muloco",
            what="MuLoCo with K = 1 at 150M, bf16, compiled, 64 x 2048 tokens a step: ms, tokens/s, MFU, memory",
            where=("training/trainer.py",),
            command="run `muloco train config/diloco/2x_4gpu_muloco.py --model.flavor 150M "
            "--fault_tolerance.group_size 1 --parallelism.data_parallel_replicate_degree 1 --compile.enable True`",
            check="speed:muloco_one",
            seconds=60,
            limit=200,
            alone=True,
            memory_gib=MEMORY_GIB,
        ),
        Row(
            name="speed_adamw",
            what="training as in `speed_muloco`, with AdamW and without outer steps",
            where=("training/trainer.py",),
            command="run `muloco train config/ddp/adamw.py --model.flavor 150M --compile.enable True`",
            check="speed:adamw",
            seconds=30,
            limit=150,
            alone=True,
            memory_gib=MEMORY_GIB,
        ),
        Row(
            name="speed_torchtitan",
            what="torchtitan's own trainer with AdamW, on the model, data and batch of `speed_adamw`",
            where=("benchmarks/plain_torchtitan.py",),
            command="run `python benchmarks/plain_torchtitan.py config/ddp/adamw.py --model.flavor 150M`",
            check="speed:torchtitan",
            seconds=35,
            limit=150,
            alone=True,
            memory_gib=MEMORY_GIB,
        ),
        Row(
            name="speed_muon",
            what="training as in `speed_muloco`, with Muon and without outer steps",
            where=("training/trainer.py",),
            command="run `muloco train config/ddp/muon.py --model.flavor 150M --compile.enable True`",
            check="speed:muon",
            seconds=30,
            limit=150,
            alone=True,
            memory_gib=MEMORY_GIB,
        ),
        Row(
            name="profile",
            what="a profile of the device's time in one step of `speed_muloco`",
            where=("training/trainer.py",),
            command="run `train_step` under `torch.profiler`",
            check="speed:profile",
            seconds=30,
            limit=150,
            alone=True,
            memory_gib=MEMORY_GIB,
        ),
    ),
)
