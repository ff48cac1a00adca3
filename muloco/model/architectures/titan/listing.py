"""Writes `sizes.py`, the table of the models that torchtitan comes with:

python -m muloco.model.architectures.titan.listing
"""

from pathlib import Path

from muloco._torchtitan import model_names, model_sizes, model_spec
from muloco.model.architectures.titan.flavors import Numbers
from muloco.model.architectures.titan.structure import structure_of

HEAD = '''"""The sizes of torchtitan's models. Needs nothing but Python.

Written by `python -m muloco.model.architectures.titan.listing`; a test compares it with the installed torchtitan.
"""

SIZES: dict[str, dict[str, tuple[int, int, int, int, bool, bool]]] = {
'''
MIDDLE = '''}
"""The `Numbers` of each size of each model."""
OBSTACLES: dict[str, str] = {
'''
END = '''}
"""The reason why a model cannot be trained here."""
'''
KNOWN_OBSTACLES = {
    "muse_glimmer": "needs torchtitan's SPMD backend spmd_types, which needs a newer torch than 2.13",
}
"""The reasons that cannot be found from a model's structure."""
Sizes = dict[str, dict[str, Numbers]]


def listed() -> tuple[Sizes, dict[str, str]]:
    """Returns the sizes of the models that the installed torchtitan comes with, and the reasons why models are left
    out, as `sizes.py` has them."""
    sizes: Sizes = {}
    obstacles = dict(KNOWN_OBSTACLES)
    for model in model_names():
        if model in obstacles:
            continue
        try:
            found = {size: structure_of(model_spec(model, size)).numbers for size in model_sizes(model)}
        except ModuleNotFoundError as error:
            obstacles[model] = f"needs the package {error.name}, which is not installed with muloco"
        except TypeError:
            obstacles[model] = "is no decoder of text"
        else:
            sizes[model] = found
    return sizes, dict(sorted(obstacles.items()))


def written() -> str:
    """Returns the text of `sizes.py`."""
    sizes, obstacles = listed()
    lines = [HEAD]
    for model, found in sizes.items():
        lines.append(f'    "{model}": {{\n')
        lines += [f'        "{size}": ({", ".join(map(_literal, of))}),\n' for size, of in found.items()]
        lines.append("    },\n")
    lines.append(MIDDLE)
    lines += [f'    "{model}": "{reason}",\n' for model, reason in obstacles.items()]
    return "".join([*lines, END])


def _literal(value: int) -> str:
    return str(value) if isinstance(value, bool) else f"{value:_}"


if __name__ == "__main__":
    Path(__file__).with_name("sizes.py").write_text(written(), encoding="utf-8")
