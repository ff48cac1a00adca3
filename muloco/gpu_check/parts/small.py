"""Rows for single components of muloco, which take seconds each."""

from muloco.gpu_check.row import Part, Row

PART = Part(
    "small",
    "single components: kernels, codecs, streams, memory",
    (
        Row(
            name="orthogonalize",
            what="orthogonalization in bf16: singular values near 1 at any scale; zeros and NaN; the host never waits",
            where=("optim/newton_schulz.py",),
            command="run `pytest tests/optim` with its tensors moved to `cuda`",
            check="small:orthogonalize",
        ),
        Row(
            name="muon_rule",
            what="ten steps of Muon and of NorMuon in bf16 compared with fp64 on the CPU; the host never waits",
            where=("optim/whole_matrices.py", "optim/passes.py", "optim/kernels.py"),
            command="run `pytest tests/optim` with its tensors moved to `cuda`",
            check="small:muon_rule",
        ),
        Row(
            name="muon_graph",
            what="a Muon step captured into a CUDA graph: replays change the parameters as eager steps do",
            where=("optim/whole_matrices.py", "optim/owners.py"),
            command="take a step of `muloco.pytorch.Muon` under `torch.cuda.graph`",
            check="small:muon_graph",
        ),
        Row(
            name="symmetric_product",
            what="the Triton kernel for symmetric products compared with fp64 matmul: bf16, fp32, odd shapes, batches",
            where=("optim/symmetric.py", "optim/symmetric_kernel.py"),
            command="compare `symmetric_product(x)` with `x @ x.mT`",
            check="small:symmetric",
            seconds=25,
        ),
        Row(
            name="gradient_watch",
            what="the check for gradients that are not finite names the parameter and never makes the host wait",
            where=("training/finite.py",),
            command='call `observe` under `torch.cuda.set_sync_debug_mode("error")`',
            check="small:gradient_watch",
        ),
        Row(
            name="codec_bits",
            what="codecs: the host never waits; payloads are reproducible, decode to the same bits as on the CPU, and "
            "are as accurate as the CPU's payloads",
            where=("outer/codecs/",),
            command="run `pytest tests/outer/codecs/test_codec_properties.py` with its tensors moved to `cuda`",
            check="small:codec_bits",
            seconds=20,
        ),
        Row(
            name="codec_kernels",
            what="the Triton kernels of the codecs compared with torch's operations on the GPU: decoded values and "
            "linear payloads to the last bit, other payloads by their error",
            where=("outer/codecs/kernels.py",),
            command="call `encode_pieces` and `decode_pieces` with and without `quantized.takes_kernels`",
            check="small:codec_kernels",
            seconds=30,
        ),
        Row(
            name="lloyd_max_repeats",
            what="a large tensor has the same lloyd_max payload every time",
            where=("outer/codecs/kinds/lloyd_max.py", "outer/codecs/fitting.py"),
            command='call `build_codec("lloyd_max", bits=4).encode(x)` repeatedly',
            check="small:lloyd_max_repeats",
        ),
        Row(
            name="digests",
            what="digests of tensors on the GPU equal those on the CPU",
            where=("outer/loop/digest.py",),
            command="call `digest` on the same tensors on both devices",
            check="small:digests",
        ),
        Row(
            name="seals",
            what="sums for seals on the GPU equal those on the CPU",
            where=("outer/protocol/seal.py",),
            command="call `SecretHash.sums` on the same bytes on both devices",
            check="small:seals",
        ),
        Row(
            name="side_stream",
            what="a round in its own thread and stream reads data written before it started, and its result is "
            "complete when it is taken",
            where=("outer/loop/background.py",),
            command="run `Pending` during matrix products on the main stream",
            check="small:side_stream",
        ),
        Row(
            name="staged_bytes",
            what="payloads for gloo are copied to page-locked host memory and back without a change",
            where=("outer/wire/staging.py",),
            command="pass tensors on the GPU through `Staging`",
            check="small:staged_bytes",
        ),
        Row(
            name="flex_attention",
            what="FlexAttention with document masks, compiled, compared with dense masks: logits and gradients in "
            "bf16 and fp32",
            where=("model/decoder.py", "model/attention.py"),
            command="run `muloco train config/laptop/muloco.py --compile.enable True` on one GPU",
            check="attention:flex_attention",
            seconds=45,
            limit=150,
        ),
        Row(
            name="nccl_wait",
            what="`wait()` of torchft's NCCL group returns before the data has arrived; `errored()` waits until it has",
            where=("outer/wire/peer_group.py",),
            command="call `alltoall_base(...).wait()` after launching a kernel that takes a second",
            check="small:nccl_wait",
        ),
        Row(
            name="rates",
            what="speed of a copy, of bf16 matrix products and of copies to the host, to compare other rows with",
            where=(),
            command="time `torch.mm` and `copy_` with CUDA events",
            check="small:rates",
            alone=True,
        ),
        Row(
            name="side_stream_memory",
            what="reserved memory does not grow over 40 rounds during inner steps; number of streams",
            where=("outer/loop/background.py",),
            command="read `torch.cuda.memory_reserved()` while `Pending` is used repeatedly",
            check="small:side_stream_memory",
            alone=True,
        ),
        Row(
            name="outer_step_memory",
            what="peak memory of a sync above the memory between syncs: plain, offloaded, compressed",
            where=("outer/loop/outer_loop.py", "outer/loop/fragment.py", "outer/protocol/exchange.py"),
            command="read `torch.cuda.max_memory_allocated()` around `OuterLoop.after_inner_step`",
            check="small:outer_step_memory",
            alone=True,
        ),
    ),
)
