"""The kinds of codec, one file each. A file that is put here is imported by `muloco.outer.codecs`, and so registers its
codecs; what computes with torch is imported inside their methods, as settings and help need nothing but Python."""
