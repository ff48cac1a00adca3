"""The model."""

from dataclasses import dataclass

from muloco.settings.bounds import Text
from muloco.settings.section import Section


@dataclass(kw_only=True, slots=True)
class Model(Section):
    flavor: Text = "150M"
    """Size of the model, by its short or full name: tiny, small, laptop, 150M, 416M, 914M, 1.76B, 3.1B, 5B, 7.5B, 11B,
    15B. The first three are for laptops, the others are the paper's."""
