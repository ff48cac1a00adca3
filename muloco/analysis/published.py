"""Results that the paper (arXiv 2505.23725) and its project page have published, as data to stand beside measured ones.

Losses are final evaluation losses in nats a token, on data that is not public: only ratios, orders and exponents can be
compared. `exact` values were printed; the others are read off figures, with the error that their comment gives.
The comments name the figures in brackets. docs/paper.md shows them as tables (`make docs-tables`).
"""

SCALES = ("150M", "416M", "914M", "1.76B", "3.1B", "15B")

FINAL_LOSS: dict[str, dict[str, float]] = {  # exact (table of final losses)
    "DP Muon": dict(zip(SCALES, (3.124, 2.641, 2.402, 2.246, 2.128, 1.864), strict=True)),
    "DP AdamW": dict(zip(SCALES, (3.158, 2.682, 2.440, 2.266, 2.145, 1.887), strict=True)),
    "MuLoCo K=1": dict(zip(SCALES, (3.120, 2.638, 2.400, 2.238, 2.122, 1.884), strict=True)),
    "DiLoCo K=1": dict(zip(SCALES, (3.142, 2.650, 2.411, 2.265, 2.136, 1.891), strict=True)),
    "MuLoCo K=16": dict(zip(SCALES, (3.222, 2.713, 2.448, 2.291, 2.165, 1.917), strict=True)),
    "DiLoCo K=16": dict(zip(SCALES, (3.326, 2.808, 2.522, 2.348, 2.215, 1.906), strict=True)),
}

_FITTED = SCALES[:5]
DP_LOSS: dict[str, dict[str, float]] = {  # exact, one digit more (table of final losses)
    "DP Muon": dict(zip(_FITTED, (3.1240, 2.6408, 2.4016, 2.2456, 2.1277), strict=True)),
    "DP AdamW": dict(zip(_FITTED, (3.1582, 2.6816, 2.4398, 2.2661, 2.1445), strict=True)),
}

WORKER_LOSS: dict[str, dict[int, dict[str, float]]] = {  # within .001 (figure by K); K = 1 and 16 exact
    "MuLoCo": {
        1: {scale: FINAL_LOSS["MuLoCo K=1"][scale] for scale in _FITTED},
        2: dict(zip(_FITTED, (3.130, 2.6416, 2.4024, 2.2450, 2.1266), strict=True)),
        4: dict(zip(_FITTED, (3.1475, 2.651, 2.4102, 2.2538, 2.1389), strict=True)),
        8: dict(zip(_FITTED, (3.1766, 2.6595, 2.4256, 2.2730, 2.1544), strict=True)),
        16: {scale: FINAL_LOSS["MuLoCo K=16"][scale] for scale in _FITTED},
    },
    "DiLoCo": {
        1: {scale: FINAL_LOSS["DiLoCo K=1"][scale] for scale in _FITTED},
        2: dict(zip(_FITTED, (3.159, 2.6682, 2.4283, 2.2746, 2.1551), strict=True)),
        4: dict(zip(_FITTED, (3.1927, 2.6967, 2.4473, 2.2831, 2.1661), strict=True)),
        8: dict(zip(_FITTED, (3.2475, 2.7336, 2.4781, 2.3004, 2.1806), strict=True)),
        16: {scale: FINAL_LOSS["DiLoCo K=16"][scale] for scale in _FITTED},
    },
}

OVER_DP: dict[str, dict[int, dict[str, float]]] = {  # % above its own DP baseline, within .02 points (figure by K)
    "MuLoCo": {
        1: dict(zip(_FITTED, (-0.13, -0.10, -0.07, -0.36, -0.27), strict=True)),
        2: dict(zip(_FITTED, (0.186, 0.032, 0.032, -0.027, -0.053), strict=True)),
        4: dict(zip(_FITTED, (0.75, 0.39, 0.36, 0.37, 0.53), strict=True)),
        8: dict(zip(_FITTED, (1.683, 0.708, 1.00, 1.22, 1.255), strict=True)),
        16: dict(zip(_FITTED, (3.136, 2.752, 1.914, 2.033, 1.743), strict=True)),
    },
    "DiLoCo": {
        1: dict(zip(_FITTED, (-0.50, -1.165, -1.19, -0.06, -0.41), strict=True)),
        2: dict(zip(_FITTED, (0.03, -0.50, -0.47, 0.374, 0.494), strict=True)),
        4: dict(zip(_FITTED, (1.09, 0.563, 0.306, 0.75, 1.007), strict=True)),
        8: dict(zip(_FITTED, (2.828, 1.939, 1.572, 1.512, 1.683), strict=True)),
        16: dict(zip(_FITTED, (5.30, 4.70, 3.37, 3.62, 3.30), strict=True)),
    },
}

_BATCHES = (2**18, 2**19, 2**20, 2**21, 2**22, 2**23, 2**24)  # tokens


def _by_batch(*losses: float | None) -> dict[int, float]:
    return {batch: loss for batch, loss in zip(_BATCHES, losses, strict=True) if loss is not None}


LOSS_BY_BATCH: dict[str, dict[int, float]] = {  # 3.1B, tokens a step, within .001 (figure by batch)
    "DP Muon": _by_batch(2.1356, 2.1292, 2.1277, 2.1338, 2.1331, 2.1429, 2.1767),
    "MuLoCo K=1": _by_batch(2.1294, 2.1222, 2.1241, 2.1266, 2.1231, 2.1289, 2.1587),
    "MuLoCo K=2": _by_batch(None, 2.1312, 2.1277, 2.1321, 2.1353, 2.147, 2.1688),
    "MuLoCo K=4": _by_batch(None, 2.1451, 2.1389, 2.1404, 2.1431, 2.1481, 2.1801),
    "MuLoCo K=8": _by_batch(None, None, 2.1593, 2.1543, 2.1569, 2.1702, 2.1956),
    "MuLoCo K=16": _by_batch(None, None, None, 2.1746, 2.1627, 2.1735, 2.2163),
    "DP AdamW": _by_batch(2.1521, 2.1444, 2.1482, 2.1618, 2.1693, 2.2019, None),
    "DiLoCo K=1": _by_batch(2.1419, 2.1355, 2.1400, 2.1529, 2.1606, 2.1879, 2.2425),
    "DiLoCo K=2": _by_batch(None, 2.1556, 2.1550, 2.1721, 2.1768, 2.2081, None),
    "DiLoCo K=4": _by_batch(None, 2.1708, 2.1662, 2.1755, 2.1810, 2.2117, None),
    "DiLoCo K=8": _by_batch(None, 2.1974, 2.1806, 2.1888, 2.1975, 2.235, None),
    "DiLoCo K=16": _by_batch(None, None, 2.2154, 2.2142, 2.2194, None, None),
}

CRITICAL_BATCH: dict[str, dict[str, int]] = {  # tokens a step, within the grid's factor of 2 (CBS figures)
    "DP AdamW": {"1.76B": 2**20, "3.1B": 2**21},
    "DP Muon": dict(zip(_FITTED, (2**19, 2**20, 2**21, 2**22, 2**23), strict=True)),
    "DiLoCo K=1": {"914M": 2**21, "1.76B": 2**21, "3.1B": 2**21},
    "MuLoCo K=1": dict(zip(_FITTED, (2**19, 2**20, 2**22, 2**22, 2**23), strict=True)),
}
CRITICAL_BATCH_EXPONENT = {  # exact: of tokens trained on (CBS figures)
    "DP AdamW": 0.4580,
    "DP Muon": 0.9473,
    "DiLoCo K=1": 0.4744,
    "MuLoCo K=1": 0.9164,
}

IRREDUCIBLE = 1.7105  # exact (power laws)
EXPONENT: dict[str, float] = {  # exact: of compute in loss - IRREDUCIBLE (power laws)
    "DP Muon": -0.1990,
    "MuLoCo K=1": -0.2003,
    "MuLoCo K=2": -0.1999,
    "MuLoCo K=4": -0.1996,
    "MuLoCo K=8": -0.1978,
    "MuLoCo K=16": -0.1986,
    "DP AdamW": -0.1950,
    "DiLoCo K=1": -0.1989,
    "DiLoCo K=2": -0.1948,
    "DiLoCo K=4": -0.1943,
    "DiLoCo K=8": -0.1949,
    "DiLoCo K=16": -0.1911,
}

SYNC_INTERVAL_OVER_DP: dict[str, dict[int, float]] = {  # 416M, by H, within .05 points (figure by H)
    "DiLoCo": {15: 1.95, 30: 2.35, 60: 3.17, 120: 4.48, 240: 6.07},
    "MuLoCo": {15: 0.70, 30: 1.03, 60: 1.86, 120: 3.16, 240: 5.02},
}

COMPRESSED_LOSS: dict[str, dict[int, float]] = {  # 416M, K = 8, by bits, within .002; 32: fp32 (compression)
    "DiLoCo linear": {2: 3.123, 4: 2.7266, 8: 2.7224, 32: 2.7238},
    "DiLoCo linear EF": {2: 2.9422, 4: 2.7240, 8: 2.7245, 32: 2.7238},
    "MuLoCo linear": {2: 3.0473, 4: 2.6552, 8: 2.6477, 32: 2.6477},
    "MuLoCo linear EF": {2: 2.8218, 4: 2.6543, 8: 2.6513, 32: 2.6477},
    "DiLoCo statistical": {2: 2.7574, 4: 2.7257, 8: 2.7215, 32: 2.7238},
    "DiLoCo statistical EF": {2: 2.7502, 4: 2.7229, 8: 2.7210, 32: 2.7238},
    "MuLoCo statistical": {2: 2.6939, 4: 2.6505, 8: 2.6473, 32: 2.6477},
    "MuLoCo statistical EF": {2: 2.6741, 4: 2.6528, 8: 2.6516, 32: 2.6477},
}

_FRACTIONS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5)
TOPK_LOSS: dict[str, dict[float, float]] = {  # 416M, K = 8, by fraction kept, within .002 (compression)
    "DiLoCo": dict(zip(_FRACTIONS, (3.366, 3.223, 3.063, 2.963, 2.871, 2.788, 2.7435), strict=True)),
    "DiLoCo EF": dict(zip(_FRACTIONS, (3.164, 3.064, 2.940, 2.8695, 2.822, 2.753, 2.732), strict=True)),
    "MuLoCo": dict(zip(_FRACTIONS, (3.022, 2.966, 2.921, 2.841, 2.777, 2.708, 2.666), strict=True)),
    "MuLoCo EF": dict(zip(_FRACTIONS, (2.9045, 2.863, 2.798, 2.758, 2.7226, 2.682, 2.656), strict=True)),
}

STREAMING_LOSS = {"DiLoCo": 2.73, "MuLoCo": 2.65}  # 416M, J = 3, as without streaming (streaming)

COSINE: dict[str, dict[int, float]] = {  # of the mean pseudogradient of K workers with K = 1's, 416M (box plots)
    "AdamW": {2: 0.598, 4: 0.558, 8: 0.418, 16: 0.183},
    "Muon": {2: 0.716, 4: 0.659, 8: 0.538, 16: 0.406},
}
INTERFERENCE_GAP: dict[str, dict[int, float]] = {  # top 5 %, 416M; its definition was not published (box plots)
    "DiLoCo": {2: 19.5, 4: 26.2, 8: 49.2, 16: 70.4},
    "MuLoCo": {2: 9.3, 4: 7.0, 8: 5.5, 16: 4.65},
}

ZERO_SHOT = {"MuLoCo K=1": 66.96, "DP Muon": 66.80, "DiLoCo K=1": 66.94}  # exact: mean accuracy in %, 15B (zero-shot)

WALL_CLOCK: dict[str, dict[int, float]] = {  # hours at 15B by Gbit/s, read off a figure (wall clock)
    "DP Muon": {10: 508, 6400: 20.8},
    "DP AdamW": {10: 1013, 6400: 40.9},
    "DiLoCo K=1": {10: 2015, 6400: 81.6},
    "MuLoCo K=1": {10: 127.5, 6400: 5.2},
    "MuLoCo K=16": {10: 18.5, 6400: 9.8},
    "DiLoCo K=16": {10: 35, 6400: 19.4},
}
WALL_CLOCK_STEPS = {  # of those runs, exact (wall clock)
    "DP Muon": 72_660,
    "DP AdamW": 145_320,
    "DiLoCo K=1": 290_640,
    "MuLoCo K=1": 18_165,
    "MuLoCo K=16": 36_330,
    "DiLoCo K=16": 72_660,
}
WALL_CLOCK_COMPUTE_SECONDS = 0.973  # of an inner step in that figure, fitted (wall clock)
ISO_LOSS: dict[str, tuple[float, float]] = {  # 3.1B: DP AdamW's compute and sequential steps for the same loss over
    "MuLoCo K=1": (1.335, 4.7),  # the method's own, read off a figure (iso-loss figures)
    "DP Muon": (1.30, 3.9),
    "DiLoCo K=1": (1.20, 1.5),
}
