"""Rows for single components of muloco, which take seconds each, and for tests whose tensors a pytest plugin moves from
the CPU to the GPU."""

from functools import partial

from muloco.gpu_check.row import Part, Row

_Optimizer = partial(Row, module="optimizers")
_Payload = partial(Row, module="payloads")
_Stream = partial(Row, module="streams")
_Test = partial(Row, module="tests", seconds=45)

SMALL = Part(
    "small",
    "single components: kernels, codecs, streams, memory",
    (
        _Optimizer(
            "orthogonalize",
            "orthogonalization in bf16: singular values near 1 at any scale; zeros and NaN; the host never waits",
            ("optim/newton_schulz.py",),
            "run `pytest tests/optim` with its tensors moved to `cuda`",
        ),
        _Optimizer(
            "muon_rule",
            "ten steps of Muon and of NorMuon in bf16, of matrices and of a stack of fused ones, compared with fp64 on "
            "the CPU; the host never waits",
            ("optim/whole_matrices.py", "optim/fused.py", "optim/passes.py", "optim/kernels.py"),
            "run `pytest tests/optim` with its tensors moved to `cuda`",
        ),
        _Optimizer(
            "muon_graph",
            "a Muon step captured into a CUDA graph: replays change the parameters as eager steps do",
            ("optim/whole_matrices.py", "optim/owners.py"),
            "take a step of `muloco.pytorch.Muon` under `torch.cuda.graph`",
        ),
        _Optimizer(
            "symmetric_product",
            "the Triton kernel for symmetric products compared with fp64 matmul: bf16, fp32, odd shapes, batches",
            ("optim/symmetric.py", "optim/symmetric_kernel.py"),
            "compare `symmetric_product(x)` with `x @ x.mT`",
            seconds=25,
        ),
        _Optimizer(
            "gradient_watch",
            "the check for gradients that are not finite names the parameter and never makes the host wait",
            ("training/finite.py",),
            'call `observe` under `torch.cuda.set_sync_debug_mode("error")`',
        ),
        _Payload(
            "codec_bits",
            "codecs: the host never waits; payloads are reproducible, decode to the same bits as on the CPU, and are "
            "as accurate as the CPU's payloads",
            ("outer/codecs/",),
            "run `pytest tests/outer/codecs/test_codec_properties.py` with its tensors moved to `cuda`",
            seconds=20,
        ),
        _Payload(
            "codec_kernels",
            "the Triton kernels of the codecs compared with torch's operations on the GPU: decoded values and linear "
            "payloads to the last bit, other payloads by their error",
            ("outer/codecs/kernels.py",),
            "call `encode_pieces` and `decode_pieces` with and without `quantized.takes_kernels`",
            seconds=30,
        ),
        _Payload(
            "lloyd_max_repeats",
            "a large tensor has the same lloyd_max payload every time",
            ("outer/codecs/kinds/lloyd_max.py", "outer/codecs/fitting.py"),
            'call `build_codec("lloyd_max", bits=4).encode(x)` repeatedly',
        ),
        _Payload(
            "digests",
            "digests of tensors on the GPU equal those on the CPU",
            ("outer/loop/digest.py",),
            "call `digest` on the same tensors on both devices",
        ),
        _Payload(
            "seals",
            "sums for seals on the GPU equal those on the CPU",
            ("outer/protocol/seal.py",),
            "call `SecretHash.sums` on the same bytes on both devices",
        ),
        _Stream(
            "side_stream",
            "a round in its own thread and stream reads data written before it started, and its result is complete "
            "when it is taken",
            ("outer/loop/background.py",),
            "run `Pending` during matrix products on the main stream",
        ),
        _Payload(
            "staged_bytes",
            "payloads for gloo are copied to page-locked host memory and back without a change",
            ("outer/protocol/staging.py",),
            "pass tensors on the GPU through `Staging`",
        ),
        Row(
            "flex_attention",
            "FlexAttention with document masks, compiled, compared with dense masks: logits and gradients in bf16 "
            "and fp32",
            ("model/decoder.py", "model/attention.py"),
            "run `muloco train config/laptop/muloco.py --compile.enable True` on one GPU",
            module="attention",
            seconds=45,
        ),
        _Stream(
            "nccl_wait",
            "`wait()` of torchft's NCCL group returns before the data has arrived; `errored()` waits until it has",
            ("outer/wire/peer_group.py",),
            "call `alltoall_base(...).wait()` after launching a kernel that takes a second",
        ),
        _Stream(
            "rates",
            "speed of a copy, of bf16 matrix products and of copies to the host, to compare other rows with",
            (),
            "time `torch.mm` and `copy_` with CUDA events",
            alone=True,
        ),
        _Stream(
            "side_stream_memory",
            "reserved memory does not grow over 40 rounds during inner steps; number of streams",
            ("outer/loop/background.py",),
            "read `torch.cuda.memory_reserved()` while `Pending` is used repeatedly",
            alone=True,
        ),
        _Stream(
            "outer_step_memory",
            "peak memory of a sync above the memory between syncs: plain, offloaded, compressed",
            ("outer/loop/outer_loop.py", "outer/loop/fragment.py", "outer/protocol/exchange.py"),
            "read `torch.cuda.max_memory_allocated()` around `OuterLoop.after_inner_step`",
            alone=True,
        ),
    ),
)

TESTS = Part(
    "tests",
    "the tests of optimizers, codecs and gradients, with their tensors moved to the GPU",
    (
        _Test(
            "tests_optim",
            "the tests of the optimizers with their tensors on the GPU",
            ("optim/",),
            "run `python -m pytest -p muloco.gpu_check.on_device tests/optim/test_muon.py ...`",
        ),
        _Test(
            "tests_outer",
            "the tests of codecs, packing, residuals and digests with their tensors on the GPU",
            ("outer/codecs/", "outer/codecs/channel.py", "outer/loop/digest.py"),
            "run `python -m pytest -p muloco.gpu_check.on_device tests/outer/codecs/test_codecs.py ...`",
        ),
    ),
)
