"""The record of the paper's Llama (arXiv 2505.23725). Needs torch only to build a model."""

from typing import TYPE_CHECKING

from muloco.model.architecture import Architecture
from muloco.model.architectures.paper_llama.flavors import FLAVORS, NAME, PaperLlama
from muloco.model.architectures.paper_llama.huggingface import FORM

if TYPE_CHECKING:
    from muloco._torchtitan import ModelSpec


def _spec(flavor: PaperLlama, *, seq_len: int, dense: bool, autocast: bool) -> "ModelSpec":
    from muloco.model.architectures.paper_llama.network import spec

    return spec(flavor, seq_len=seq_len, dense=dense, autocast=autocast)


ARCHITECTURE = Architecture(
    name=NAME,
    flavors=FLAVORS,
    spec=_spec,
    roles={
        "matrix": r"^layers\.\d+\.(attention\.(qkv_linear\.(wq|wk|wv)|wo)|feed_forward\.w[123])\.weight$",
        "embedding": r"^tok_embeddings\.weight$",
        "head": r"^lm_head\.weight$",
        "scalar": r"norm\.weight$",
    },
    huggingface=FORM,
)
