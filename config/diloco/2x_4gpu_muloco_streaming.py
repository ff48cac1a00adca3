"""Streaming MuLoCo at 416M: three fragments, synchronized one after the other."""

from config import base
from muloco.training.config import Config


def config() -> Config:
    raise base.not_yet("streaming (several fragments)", instead="config/diloco/2x_4gpu_muloco.py")
