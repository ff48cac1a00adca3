"""Rows that measure speed: of a Muon step and of the codecs, compared with others, and of training the paper's 150M
flavor on one GPU."""

from functools import partial

from muloco.gpu_check.row import Part, Row

_Muon = partial(Row, module="muon", alone=True)
_Training = partial(Row, module="speed", seconds=30, alone=True, memory_gib=40)

MUON = Part(
    "muon",
    "speed of a Muon step at 416M, 150M and 1.76B, compared with torch's and other implementations",
    (
        *(
            _Muon(
                f"muon_{flavor.replace('.', '_')}",
                f"a Muon step on the matrices of {flavor}, compared with torch's Muon, other installed Muons, and "
                "AdamW",
                ("optim/whole_matrices.py", "optim/owners.py"),
                f"run `python benchmarks/muon.py --device cuda --flavor {flavor}`",
                seconds=seconds,
                memory_gib=memory_gib,
            )
            for flavor, seconds, memory_gib in (("416M", 18, 14), ("150M", 16, 6), ("1.76B", 20, 48))
        ),
        _Muon(
            "muon_batches",
            "speed of a Muon step for several numbers of matrices in a batch",
            ("optim/owners.py",),
            'run `python benchmarks/muon.py --device cuda` for several values of `BATCH_ELEMENTS["cuda"]`',
        ),
    ),
)

CODECS = Part(
    "codecs",
    "speed of the codecs, compared with a copy",
    (
        Row(
            "codec_rates",
            "speed of every kind of codec on the tensors of the 150M model, compared with a copy",
            ("outer/codecs/",),
            "run `python benchmarks/compression.py codecs --device cuda`",
            module="codecs",
            seconds=25,
            alone=True,
        ),
    ),
)

SPEED = Part(
    "speed",
    "training speed of the 150M flavor: MuLoCo, Muon, AdamW, torchtitan's own trainer; a profile",
    (
        _Training(
            "speed_muloco",
            "MuLoCo with K = 1 at 150M, bf16, compiled, 64 x 2048 tokens a step: ms, tokens/s, MFU, memory",
            ("training/trainer.py",),
            "run `muloco train config/diloco/2x_4gpu_muloco.py --model.flavor 150M --fault_tolerance.group_size 1 "
            "--parallelism.data_parallel_replicate_degree 1 --compile.enable True`",
            seconds=60,
        ),
        _Training(
            "speed_adamw",
            "training as in `speed_muloco`, with AdamW and without outer steps",
            ("training/trainer.py",),
            "run `muloco train config/ddp/adamw.py --model.flavor 150M --compile.enable True`",
        ),
        _Training(
            "speed_torchtitan",
            "torchtitan's own trainer with AdamW, on the model, data and batch of `speed_adamw`",
            ("benchmarks/plain_torchtitan.py",),
            "run `python benchmarks/plain_torchtitan.py config/ddp/adamw.py --model.flavor 150M`",
            seconds=35,
        ),
        _Training(
            "speed_muon",
            "training as in `speed_muloco`, with Muon and without outer steps",
            ("training/trainer.py",),
            "run `muloco train config/ddp/muon.py --model.flavor 150M --compile.enable True`",
        ),
        _Training(
            "profile",
            "a profile of the device's time in one step of `speed_muloco`",
            ("training/trainer.py",),
            "run `train_step` under `torch.profiler`",
        ),
    ),
)
