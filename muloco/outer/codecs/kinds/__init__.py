"""The kinds of codec, one file each. Every file in this folder is imported by `muloco.outer.codecs`, which registers
its codecs. Methods import torch themselves, since settings and help need nothing but Python."""
