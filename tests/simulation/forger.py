"""Somebody in the network who reads, changes, copies and repeats what others send, but does not hold the secret."""

from collections import deque
from collections.abc import Callable
from typing import Any

from muloco.outer.protocol.authentication import NONCE_BYTES, TAG_BYTES
from tests.simulation.world import World

HOWS = {
    "entries": ("replayed", "swapped", "damaged", "invented"),
    "messages": ("forged", "replayed", "crossed"),
    "requests": ("path", "address", "nonce", "tag"),
    "answers": ("status", "body", "short", "tag", "replayed"),
}
"""How each kind of bytes is forged."""
RESTORED_SECONDS = 0.02
"""Longest time until a forged entry is replaced by the right one again, if it is."""
KEPT = 64


class ForgedBytes(bytearray):
    """Bytes that arrive at a member of a group and are not those that were sent."""


class ForgedParts(tuple[Any, ...]):
    """A request or an answer that is not the one that was sent."""


class Forger:
    """Forges what it is told to; see `HOWS`.

    Args:
        world: where it is.
    """

    def __init__(self, world: World):
        self._world = world
        self.listens = False
        """Whether it keeps what it reads, to repeat it later."""
        self.requests: dict[str, list[str]] = {}
        """How the next requests of a machine are forged."""
        self.answers: dict[str, list[str]] = {}
        """How the next answers to a machine are forged."""
        self._entries_until, self._entries_how = -1.0, ""
        self._quorums: dict[tuple[str, str], dict[tuple[str, str], bytes]] = {}
        """The entries of each quorum, as their authors have written them."""
        self._copied: dict[tuple[str, str], tuple[str, str]] = {}
        """The quorum whose entries are repeated in another one."""
        self._messages: dict[tuple[str, int, int], deque[tuple[int, bytes]]] = {}
        """What each member of a group has received, with its senders, by length."""
        self._asked: deque[tuple[str, tuple[str, bytes, bytes]]] = deque(maxlen=KEPT)
        self._answered: deque[tuple[str, tuple[Any, ...]]] = deque(maxlen=KEPT)

    def forge_entries(self, how: str, seconds: float) -> None:
        """From now on, and for some seconds, entries in all stores are forged."""
        self._entries_until, self._entries_how = self._world.now + seconds, how

    def entry(self, store: str, key: str, data: bytes, write: Callable[[str, bytes], None]) -> None:
        """Writes an entry, or a forged one.

        Args:
            store: its address.
            key: ends with the kind of the entry and the rank of its author.
            data: the entry.
            write: writes it.
        """
        if not self.listens:
            return write(key, data)
        prefix, kind, rank = key.rsplit("/", 2)
        quorum = store, prefix
        self._quorums.setdefault(quorum, {})[kind, rank] = data
        forged = self._entry(quorum, kind, rank, data) if self._world.now < self._entries_until else data
        write(key, forged)
        if forged != data:
            self._world.tell("a forger", f"has put another entry into the place of {key} at {store}")
            if self._entries_how != "replayed" and self._world.random.random() < 0.4:
                self._world.at(self._world.random.uniform(0.0, RESTORED_SECONDS), lambda: write(key, data))

    def _entry(self, quorum: tuple[str, str], kind: str, rank: str, data: bytes) -> bytes:
        random, written = self._world.random, self._quorums[quorum]
        match self._entries_how:
            case "replayed":
                earlier = [other for other in self._quorums if other != quorum]
                if quorum not in self._copied and earlier:  # the newest one of those with the most members
                    self._copied[quorum] = max(reversed(earlier), key=lambda other: len(self._quorums[other]))
                return self._quorums[self._copied[quorum]].get((kind, rank), data) if earlier else data
            case "swapped" if random.random() < 0.5:
                others = [entry for (its, author), entry in written.items() if its == kind and author != rank]
                return others[0] if others else data
            case "damaged" if random.random() < 0.5:
                return bytes(self._flipped(data))
            case "invented" if random.random() < 0.5:
                start = random.randbytes(NONCE_BYTES if kind == "nonce" else 2 * TAG_BYTES).hex().encode()
                first, space, rest = data.partition(b" ")
                return start + space + rest if kind == "nonce" else first + space + start
        return data

    def message(self, how: str, way: tuple[str, int, int], data: bytearray) -> bytearray:
        """Returns what arrives at a member of a group in the place of some bytes.

        Args:
            how: `damaged`: a high bit of a word is another one; `forged`: any bit; `replayed`: earlier bytes of the
                same length; `crossed`: those of another member; empty: nothing is changed.
            way: the group, the member that sends, and the one that receives.
            data: the bytes.
        """
        others: list[bytes] = []
        if self.listens:
            group, sender, receiver = way
            heard = self._messages.setdefault((group, receiver, len(data)), deque(maxlen=KEPT))
            if how in ("replayed", "crossed"):
                own = how == "replayed"
                others = [old for who, old in heard if (who == sender) is own and old != data]
            heard.append((sender, bytes(data)))
        if how == "damaged":
            data = ForgedBytes(data)
            data[min(len(data) - 1, self._world.random.randrange(len(data)) | 3)] ^= 0x40
        elif others:
            data = ForgedBytes(self._world.random.choice(others if how == "replayed" else others[-2:]))
        elif how in HOWS["messages"]:
            data = ForgedBytes(self._flipped(data))
        return data

    def request(self, machine: str, address: str, message: tuple[str, bytes, bytes]) -> tuple[str, bytes, bytes]:
        """Returns the request that arrives at an address."""
        if not self.listens:
            return message
        how = self._next(self.requests, machine)
        forged = self.forged_request(how, address, message) if how else message
        if not isinstance(message, ForgedParts):
            self._asked.append((address, message))
        return forged

    def forged_request(self, how: str, address: str, message: tuple[str, bytes, bytes]) -> ForgedParts:
        """Returns a request that nobody who holds the secret has sent to this address."""
        path, nonce, tag = message
        elsewhere = [asked for other, asked in self._asked if other != address]
        self._world.tell("a forger", f"forges a request for {path} at {address}: another {how}")
        match how:
            case "path":
                kind, _, name = path.removeprefix("/").partition("/")
                return ForgedParts((f"/{'state' if kind == 'round' else 'round'}/{name}", nonce, tag))
            case "address" if elsewhere:
                return ForgedParts(elsewhere[-1])
            case "nonce":
                return ForgedParts((path, self._world.random.randbytes(NONCE_BYTES), tag))
        return ForgedParts((path, nonce, bytes(self._flipped(tag))))

    def pesters(self) -> list[tuple[str, ForgedParts]]:
        """Returns requests, each with an address, that nobody who holds the secret has made."""
        return [
            (address, self.forged_request(self._world.random.choice(HOWS["requests"]), address, message))
            for address, message in dict(self._asked).items()
        ]

    def answer(self, machine: str, path: str, answer: Any) -> Any:
        """Returns the answer that arrives at the machine that has asked for a path."""
        if not self.listens or not isinstance(answer, tuple):
            return answer
        how = self._next(self.answers, machine)
        forged = self._forged_answer(how, path, answer) if how else answer
        self._answered.append((path, answer))
        return forged

    def _forged_answer(self, how: str, path: str, answer: tuple[Any, ...]) -> ForgedParts:
        status, length, tag, body = answer
        alike = [told for asked, told in self._answered if asked == path]
        self._world.tell("a forger", f"forges an answer for {path}: {how}")
        match how:
            case "status":
                return ForgedParts((200 if status == 404 else 404, length, tag, body))
            case "body":
                return ForgedParts((status, length, tag, bytes(self._flipped(body))))
            case "short":
                return ForgedParts((status, length, tag, body[:-1]))
            case "replayed" if alike or self._answered:
                return ForgedParts((alike or [told for _, told in self._answered])[-1])
        return ForgedParts((status, length, bytes(self._flipped(tag)), body))

    def _next(self, orders: dict[str, list[str]], machine: str) -> str:
        left = orders.get(machine)
        return left.pop(0) if left else ""

    def _flipped(self, data: bytes | bytearray) -> bytearray:
        """Returns the bytes with another bit somewhere."""
        flipped, random = bytearray(data), self._world.random
        if flipped:
            flipped[random.randrange(len(flipped))] ^= 1 << random.randrange(8)
        return flipped
