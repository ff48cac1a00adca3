"""Answers of other workers that are forged, changed on their way, or copies of earlier ones."""

import random
import socket
import threading
from collections.abc import Callable

from attacking.registry import Report, Verdict, attack
from attacking.scenes import Workshop

HOST = "127.0.0.1"


def _serve(answer: Callable[[bytes], bytes]) -> socket.socket:
    """A server on loopback that answers each request with `answer(request)`."""
    listener = socket.create_server((HOST, 0))

    def work() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # closed
            with connection:
                connection.settimeout(5)
                connection.sendall(answer(_until(connection, b"\r\n\r\n")))

    threading.Thread(target=work, daemon=True).start()
    return listener


def _until(connection: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data and (piece := connection.recv(65536)):
        data += piece
    return data


def _address(listener: socket.socket) -> str:
    return f"{HOST}:{listener.getsockname()[1]}"


@attack("ports", must="only an answer that a holder of the secret made to this request is accepted")
def forged_and_replayed_answers(workshop: Workshop, rng: random.Random) -> Report:
    """Answers a worker's question about a round with an earlier answer, a changed one, one of another key and a plain
    one; the real answer is the control."""
    from muloco.outer.protocol.authentication import Key
    from muloco.outer.wire.peers import COMMITTED, PeerServer, ask

    report, key, other = Report(), Key(rng.randbytes(32)), Key(rng.randbytes(32))
    server, foreign = PeerServer(HOST, key), PeerServer(HOST, other)
    for one in (server, foreign):
        one.say("round", COMMITTED)
    recorded: list[bytes] = []

    def relay(change: Callable[[bytes], bytes], to: PeerServer) -> Callable[[bytes], bytes]:
        def answer(request: bytes) -> bytes:
            host, _, port = to.address.rpartition(":")
            with socket.create_connection((host, int(port)), timeout=5) as connection:
                connection.sendall(request)
                whole = b""
                while piece := connection.recv(65536):
                    whole += piece
            recorded.append(whole)
            return change(whole)

        return answer

    try:
        if ask(server.address, "round", key=key, seconds=5) != COMMITTED:
            return Report.of(Verdict.LOST, "the control failed: the real answer is refused")
        plain = b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\ncommitted"
        answers = {
            "a changed answer": relay(lambda whole: whole.replace(b"committed", b"in doubt!"), server),
            "an answer that came through another address": relay(lambda whole: whole, server),
            "an answer of another key": relay(lambda whole: whole, foreign),
            "a copy of an earlier answer": lambda request: recorded[0] if recorded else b"",
            "a plain answer": lambda request: plain,
            "an answer without end": lambda request: plain.replace(b"9", b"999999999999"),
            "garbage": lambda request: rng.randbytes(300),
        }
        for name, answer in answers.items():
            listener = _serve(answer)
            found = ask(_address(listener), "round", key=key, seconds=3)
            listener.close()
            taken = found is not None
            report.add(Verdict.LOST if taken else Verdict.REFUSED, f"{name} was taken: {found}" if taken else "")
    finally:
        server.close()
        foreign.close()
    return report
