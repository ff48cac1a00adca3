"""DiLoCo at 416M with quantized pseudogradients and error feedback."""

from config import base
from muloco.training.config import Config


def config() -> Config:
    raise base.not_yet("compression of the pseudogradients", instead="config/diloco/2x_4gpu_diloco.py")
