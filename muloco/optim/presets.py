"""Coefficients of the orthogonalization, by name. Imports no torch."""

from muloco.optim.rule import lookup

Triple = tuple[float, float, float]

SAFETY = 1.02  # factor on the norm in Polar Express

PRESETS: dict[str, tuple[Triple, ...]] = {
    # Steep at first, then flat. The per-step triples of MuLoCo's Muon (arXiv 2505.23725).
    "muloco": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
    # One triple with the greatest slope at zero (Keller Jordan's Muon).
    "quintic": ((3.4445, -4.7750, 2.0315),) * 5,
    # Each step is optimal for the range that the previous one leaves: the five of the paper's code, which are those of
    # "The Polar Express" (arXiv 2505.16932) for five steps, cushion 2 and X / (1.02 |X|). The 1.02 is in the first.
    "polar_express": (
        (8.156554524902461 / SAFETY, -22.48329292557795 / SAFETY**3, 15.878769915207462 / SAFETY**5),
        (4.042929935166739, -2.808917465908714, 0.5000178451051316),
        (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
        (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
        (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
    ),
}
"""Coefficients (a, b, c) of each step X <- a X + b (X X^T) X + c (X X^T)^2 X on X / |X|, by name.

The range in which singular values of 0.009 of the norm and above end, that of 0.001 and above, and the largest value of
any step on [0, 1] (in exact arithmetic):

    muloco         0.977 to 1.032    0.474 to 1.146    1.28
    quintic        0.681 to 1.135    0.470 to 1.203    1.21
    polar_express  0.858 to 1.142    0.846 to 1.142    1.99

Rounded steps stay bounded, however many, as long as none exceeds its bound by more than 2 % (quintic: 4 %): beyond that
the next polynomial leaves the range in which it turns back. Rounding in bfloat16 has exceeded a bound by 1.4 % at most,
over spectra with one dominant direction of 0.05 to 1 of the norm, of low rank and of condition 1e6, with 1 to 10 steps.
`tests/optim/test_newton_schulz.py` checks both.
"""


def coefficients(preset: str = "muloco", steps: int | None = None) -> tuple[Triple, ...]:
    """The triple of each step of a preset. `steps` says how many, None: the preset's own number. Fewer take its first
    triples, more repeat its last one.

    Raises:
        ValueError: unknown preset, or steps is not a positive integer.
    """
    triples = lookup(PRESETS, preset, "orthogonalization preset")
    if steps is None:
        return triples
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a positive integer or None, not {steps!r}")
    return triples[:steps] + triples[-1:] * (steps - len(triples))
