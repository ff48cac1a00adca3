"""The sizes of torchtitan's models. Needs nothing but Python.

Written by `python -m muloco.model.architectures.titan.listing`; a test compares it with the installed torchtitan.
"""

SIZES: dict[str, dict[str, tuple[int, int, int, int, bool, bool]]] = {
    "deepseek_v3": {
        "debugmodel": (2_048, 16_384, 33_014_016, 28_098_816, True, False),
        "16B": (102_400, 16_384, 15_706_484_224, 2_661_150_208, True, False),
        "236B": (102_400, 16_384, 235_741_434_880, 21_375_800_320, True, False),
        "671B": (129_280, 16_384, 671_026_404_352, 37_552_282_624, True, False),
    },
    "gpt_oss": {
        "debugmodel": (2_048, 131_072, 81_489_440, 46_003_744, False, False),
        "20b": (201_088, 131_072, 20_914_757_184, 4_187_440_704, False, False),
        "120b": (201_088, 131_072, 116_829_156_672, 5_711_982_912, False, False),
    },
    "kimi_k2_7": {
        "debugmodel": (2_048, 16_384, 33_014_016, 28_098_816, True, False),
        "moonlight-16B-A3B": (163_840, 8_192, 15_960_108_544, 2_914_774_528, True, False),
        "Kimi-VL-A3B": (163_840, 131_072, 15_960_108_544, 2_914_774_528, True, False),
        "Kimi-K2.5": (163_840, 262_144, 1_026_408_209_408, 32_861_477_888, True, False),
    },
    "llama3": {
        "debugmodel": (2_048, 131_072, 6_163_712, 6_163_712, True, False),
        "1B": (128_256, 131_072, 1_235_814_400, 1_235_814_400, True, True),
        "3B": (128_256, 131_072, 3_212_749_824, 3_212_749_824, True, True),
        "8B": (128_256, 131_072, 8_030_261_248, 8_030_261_248, True, False),
        "70B": (128_256, 131_072, 70_553_706_496, 70_553_706_496, True, False),
        "405B": (128_256, 131_072, 405_853_388_800, 405_853_388_800, True, False),
    },
    "qwen3": {
        "debugmodel": (2_048, 4_096, 31_987_968, 31_987_968, True, True),
        "debugmodel_non_fused_qkv": (2_048, 4_096, 31_987_968, 31_987_968, True, True),
        "0.6B": (151_936, 40_960, 596_049_920, 596_049_920, True, True),
        "1.7B": (151_936, 40_960, 1_720_574_976, 1_720_574_976, True, True),
        "4B": (151_936, 40_960, 4_022_468_096, 4_022_468_096, True, True),
        "8B": (151_936, 40_960, 8_190_735_360, 8_190_735_360, True, False),
        "14B": (151_936, 40_960, 14_768_307_200, 14_768_307_200, True, False),
        "32B": (151_936, 40_960, 32_762_123_264, 32_762_123_264, True, False),
        "debugmodel_moe": (2_048, 4_096, 315_758_848, 51_517_696, True, False),
        "30B-A3B": (151_936, 40_960, 30_532_122_624, 3_353_032_704, True, False),
        "235B-A22B": (151_936, 40_960, 235_093_634_560, 22_190_763_520, True, False),
    },
}
"""The `Numbers` of each size of each model."""
OBSTACLES: dict[str, str] = {
    "flux": "is no decoder of text",
    "muse_glimmer": "needs torchtitan's SPMD backend spmd_types, which needs a newer torch than 2.13",
    "qwen3_5": "needs the package fla, which is not installed with muloco",
}
"""The reason why a model cannot be trained here."""
