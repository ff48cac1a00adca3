"""Tables of the paper from which every run follows."""

# PAPER 2.2: steps by batch in sequences, for the six sizes that the paper trained
SIZES = ("150M", "416M", "914M", "1.76B", "3.1B", "15B")
STEPS = {
    32: (46080, 130560, None, None, None, 4650240),
    64: (23040, 65280, 140160, 268800, 468480, 2325120),
    128: (11520, 32640, 70080, 134400, 234240, 1162560),
    256: (5760, 16320, 35040, 67200, 117120, 581280),
    512: (2880, 8160, 17520, 33600, 58560, 290640),
    1024: (1440, 4080, 8760, 16800, 29280, 145320),
    2048: (720, 2040, 4380, 8400, 14640, 72660),
    4096: (360, 1020, 2190, 4200, 7320, 36330),
    8192: (None, None, None, 2100, 3660, 18165),
    16384: (None, None, None, None, None, 9082),
}
# PAPER 11: steps at 512 sequences of the sizes that are in the published map and were not trained
UNTRAINED_STEPS = {"5B": 94560, "7.5B": 143760, "11B": 208320}
# PAPER 2.4: weight decay at 512 sequences and K = 1
DECAYS = {"Muon": (0.01, 0.01, 0.01, 0.001, 0.001, 1e-4), "AdamW": (0.001, 0.01, 0.01, 0.001, 0.001, 1e-4)}
