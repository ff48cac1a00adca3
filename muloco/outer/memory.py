"""Memory that a sync needs beside the state that a worker holds between two syncs. Needs no torch."""


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
    """fp32 words per parameter that one worker holds at the peak of a sync, over what it holds between two syncs.

    Between syncs a worker holds parameters, gradients, inner state, anchor, outer state (PAPER 6.2) and, with error
    feedback, residuals. Gradients are freed behind every inner step. A round that runs while inner steps stand still
    writes the mean over the pseudogradient. A round beside inner steps needs both, since it may have to be
    tried again after the parameters have moved. New residuals stand beside the old ones until the round has committed.
    Buffers of fixed size, for the pieces that are exchanged at once (`muloco.outer.exchange`), come on top.

    Args:
        workers: K.
        sync_delay: tau, inner steps between sending a pseudogradient and applying the mean.
        compressed: whether the pseudogradients travel in anything but fp32.
        error_feedback: whether compression has error feedback.
        fragments: J, of equal size.
        in_process: whether the workers take turns in one process; the result is the mean over them. While one runs, the
            others wait in a round, or with its mean.
        gradients_stay: whether gradients cannot be freed, as CUDA graphs write them in place.
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
