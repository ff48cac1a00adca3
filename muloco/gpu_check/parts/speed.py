"""Speed of training the paper's 150M flavor on one GPU."""

from muloco.gpu_check.row import Part, Row

MEMORY_GIB = 40

PART = Part(
    "speed",
    "speed of the 150M flavor: MuLoCo, Muon, AdamW, torchtitan's own trainer; a profile",
    (
        Row(
            name="speed_muloco",
            what="150M, bf16, compiled, 64 x 2048 tokens a step, MuLoCo with K = 1: ms, tokens/s, MFU, memory",
            where=("training/trainer.py",),
            command="`muloco train config/ddp/muon.py --model.flavor 150M --compile.enable True` with one worker",
            check="speed:muloco_one",
            seconds=60,
            limit=200,
            alone=True,
            memory_gib=MEMORY_GIB,
        ),
        Row(
            name="speed_adamw",
            what="the same with AdamW and without outer steps",
            where=("training/trainer.py",),
            command="`muloco train config/ddp/adamw.py --model.flavor 150M --compile.enable True`",
            check="speed:adamw",
            seconds=30,
            limit=150,
            alone=True,
            memory_gib=MEMORY_GIB,
        ),
        Row(
            name="speed_torchtitan",
            what="torchtitan's own trainer and AdamW, on the same model, data and batch, with its defaults",
            where=("benchmarks/plain_torchtitan.py",),
            command="`python benchmarks/plain_torchtitan.py config/ddp/adamw.py --model.flavor 150M`",
            check="speed:torchtitan",
            seconds=35,
            limit=150,
            alone=True,
            memory_gib=MEMORY_GIB,
        ),
        Row(
            name="speed_muon",
            what="the same with Muon and without outer steps",
            where=("training/trainer.py",),
            command="`muloco train config/ddp/muon.py --model.flavor 150M --compile.enable True`",
            check="speed:muon",
            seconds=30,
            limit=150,
            alone=True,
            memory_gib=MEMORY_GIB,
        ),
        Row(
            name="profile",
            what="where the device's time goes in one step of that training",
            where=("training/trainer.py",),
            command="`torch.profiler` around `train_step`",
            check="speed:profile",
            seconds=30,
            limit=150,
            alone=True,
            memory_gib=MEMORY_GIB,
        ),
    ),
)
