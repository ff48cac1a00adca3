"""Memory that a sync needs above the state that a worker holds between two syncs. This module needs no torch."""


def sync_words(
    *,
    workers: int,
    sync_delay: int,
    compressed: bool,
    error_feedback: bool,
    fragments: int,
    in_process: bool,
    gradients_stay: bool = False,
) -> float:
    """Returns the peak memory of a sync above the memory between two syncs, of one worker, in fp32 words a parameter.

    Between syncs a worker holds parameters, gradients, inner state, anchor, outer state and, with error feedback,
    residuals. Gradients are freed after every inner step. At tau = 0 the mean overwrites the pseudogradient. At tau > 0
    a round needs both, since it may have to be repeated after the parameters have changed. New residuals are held in
    addition to the old ones until the round has committed. Buffers of fixed size for the exchange
    (`muloco.outer.protocol.exchange`) come on top.

    Args:
        workers: K.
        sync_delay: tau, inner steps between sending a pseudogradient and applying the mean.
        compressed: whether the pseudogradients are sent in another format than fp32.
        error_feedback: whether compression has error feedback.
        fragments: J, of equal size.
        in_process: whether all workers run in one process; the result is then the mean over them. While one runs, the
            others wait in a round, or hold its mean.
        gradients_stay: whether gradients cannot be freed, as with CUDA graphs, which write them in place.
    """
    mean = 1.0 if sync_delay and (workers > 1 or compressed) else 0.0
    residuals = 1 + 1 / workers if error_feedback else 0.0
    in_round = (1 + mean + residuals) / fragments
    if sync_delay and not in_process:
        return in_round
    waiting = in_round - (0.0 if gradients_stay else 1.0)
    running = max(waiting, 1 / fragments if sync_delay else 0.0)
    words = ((workers - 1) * waiting + running) / workers if in_process else running
    return max(0.0, words)
