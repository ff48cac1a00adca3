"""Which parameters and buffers are sent together, and after which inner steps."""

from collections.abc import Iterable, Mapping, Sequence

from muloco.suggest import did_you_mean

Fragment = tuple[str, ...]
"""Names of the parameters of a fragment, in the model's order."""


def by_number(sizes: Mapping[str, int], number: int) -> list[Fragment]:
    """Contiguous fragments of whole modules, the largest of which is as small as it can be.

    Args:
        sizes: elements (or bytes) of every parameter, by name and in the model's order. A module is what comes before
            and with the first number in a name (`layers.3`), or the first part of a name that has none (`norm`).
        number: fragments, J.

    Raises:
        ValueError: the model has fewer modules than fragments.
    """
    modules: dict[str, list[str]] = {}
    for name in sizes:
        modules.setdefault(module_of(name), []).append(name)
    if not 1 <= number <= len(modules):
        raise ValueError(f"{len(modules)} modules make 1 to {len(modules)} fragments, not {number}")
    groups = list(modules.values())
    bounds = _balanced([sum(sizes[name] for name in group) for group in groups], number)
    return [tuple(name for group in groups[start:stop] for name in group) for start, stop in bounds]


def by_modules(names: Sequence[str], modules: Sequence[Sequence[str]]) -> list[Fragment]:
    """The parameters below each list of module names.

    Args:
        names: of all parameters.
        modules: for every fragment the names of its modules, such as `[["tok_embeddings", "layers.0"], ["norm"]]`.

    Raises:
        ValueError: a name that is no module, a parameter in two fragments or in none.
    """
    owner: dict[str, int] = {}
    for index, fragment in enumerate(modules):
        for module in fragment:
            below = [name for name in names if name == module or name.startswith(f"{module}.")]
            if not below:
                known = sorted({module_of(name) for name in names})
                hint = did_you_mean(module, known) or f"there are {', '.join(known)}"
                raise ValueError(f"fragment {index} names {module!r}, which holds no parameter; {hint}")
            for name in below:
                if name in owner:
                    raise ValueError(f"{name} is in fragment {owner[name]} and again, by {module!r}, in {index}")
                owner[name] = index
    missing = [name for name in names if name not in owner]
    if missing:
        raise ValueError(f"{len(missing)} parameters are in no fragment, the first is {missing[0]}")
    return [tuple(name for name in names if owner[name] == index) for index in range(len(modules))]


def homes(fragments: Sequence[Sequence[str]], buffers: Iterable[str]) -> dict[str, int]:
    """Returns the index of the fragment with which each buffer is sent, by name: that of the first parameter in the
    innermost module around the buffer that has parameters.

    Args:
        fragments: names of the parameters of each, together at least one.
        buffers: names.
    """
    owner = {name: index for index, fragment in enumerate(fragments) for name in fragment}

    def home(buffer: str) -> int:
        around = buffer.split(".")
        while around:
            around.pop()
            prefix = "".join(f"{part}." for part in around)
            for name, index in owner.items():
                if name.startswith(prefix):
                    return index
        raise AssertionError("the whole model has parameters")

    return {buffer: home(buffer) for buffer in buffers}


def module_of(name: str) -> str:
    """`layers.3.attention.wo.weight` -> `layers.3`; `norm.weight` -> `norm`."""
    parts = name.split(".")
    number = next((index for index, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[: number + 1])


class Schedule:
    """When fragment i of J is due: its mean is applied at offset floor(H (i + 1) / J) of every cycle of H inner steps,
    and has been sent tau steps before (Streaming DiLoCo, arXiv 2501.18512).

    Args:
        sync_interval: H.
        fragments: J.
        delay: tau.

    Raises:
        ValueError: fewer inner steps than fragments; or tau is so long that two rounds would be in flight at once.
    """

    def __init__(self, *, sync_interval: int, fragments: int, delay: int = 0):
        if sync_interval < 1:
            raise ValueError(f"the sync interval must be at least 1 inner step; got {sync_interval}")
        if fragments < 1:
            raise ValueError(f"there must be at least 1 fragment; got {fragments}")
        if sync_interval < fragments:
            raise ValueError(f"{sync_interval} inner steps are too few for {fragments} fragments: one step each")
        self.offsets = [sync_interval * (index + 1) // fragments for index in range(fragments)]
        gap = min(later - sooner for sooner, later in zip([0, *self.offsets], self.offsets, strict=False))
        if not 0 <= delay < gap:
            raise ValueError(
                f"the delay must be from 0 to {gap - 1}, below the {gap} inner steps between two fragments; got {delay}"
            )
        self.delay = delay
        self._interval = sync_interval

    def due_after(self, step: int) -> int | None:
        """The fragment whose mean is applied after inner step `step` (from 1)."""
        offset = (step - 1) % self._interval + 1
        return self.offsets.index(offset) if offset in self.offsets else None

    def sent_after(self, step: int) -> int | None:
        """The fragment that is sent after inner step `step`."""
        return self.due_after(step + self.delay)


def _balanced(sizes: Sequence[int], number: int) -> list[tuple[int, int]]:
    """(start, stop) of `number` runs of at least one size each, with the least largest sum."""
    before = [0]
    for size in sizes:
        before.append(before[-1] + size)
    # largest[n][stop]: (least largest sum of n runs that end at stop, start of the last of them)
    largest: list[dict[int, tuple[int, int]]] = [{0: (0, 0)}]
    for runs in range(1, number + 1):
        largest.append(
            {
                stop: min((max(largest[-1][start][0], before[stop] - before[start]), start) for start in starts)
                for stop in range(runs, len(sizes) + 1)
                if (starts := [start for start in largest[-1] if start < stop])
            }
        )
    bounds, stop = [], len(sizes)
    for runs in range(number, 0, -1):
        start = largest[runs][stop][1]
        bounds.append((start, stop))
        stop = start
    return bounds[::-1]
