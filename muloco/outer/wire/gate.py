"""Gates and tunnels: connections between machines that are open only to processes with the secret of the run.

A gate listens on an address that other machines can reach, and forwards to a port on loopback. A tunnel is the other
end: it listens on loopback, and forwards to a gate.

torch's store and torchft's servers accept every connection. If the workers are on several machines, these servers
therefore listen on loopback only, behind gates. Each connection begins with a challenge in both directions, by
HMAC-SHA256 over two random numbers. Afterwards its bytes are forwarded unchanged, neither encrypted nor authenticated.

    gate -> tunnel:  HELLO, 32 random bytes
    tunnel -> gate:  32 random bytes, tag "tunnel" over both
    gate -> tunnel:  tag "gate" over both, once the port behind the gate has accepted

This file is also a program, which a worker starts as a separate process (see `network.py`): if Python code of
the worker holds the interpreter lock, connections must still be served, or the lighthouse takes the worker for dead. It
needs only Python's standard library, so that it starts quickly. From its standard input it reads the secret in
hexadecimal and then one command a line, and it answers each command with a line. It ends when its input ends or when
its parent process has gone.

    gate HOST PORT           opens a gate on a free port of HOST to the local PORT; answers with the free port
    tunnel HOST PORT         opens a tunnel from a free local port to the gate at HOST:PORT; answers with the free port
    close HOST PORT          closes this tunnel for new connections
    check HOST PORT          connects once through that gate
"""

import asyncio
import contextlib
import hmac
import os
import secrets
import socket
import sys
from asyncio import StreamReader, StreamWriter

HELLO = b"muloco gate 1\n"
RANDOM_BYTES = TAG_BYTES = 32
HANDSHAKE_SECONDS = 10.0
"""Time limit of a connection and its handshake."""
WAITING = 128
"""Most connections to a gate that have not yet proved that they know the secret; beyond it the oldest is closed."""
CHUNK_BYTES = 2**16
LOOPBACK = "127.0.0.1"


class Gate:
    """Forwards connections from an address that others can reach to a port on loopback.

    Args:
        target: the port on loopback.
        secret: the secret that the other side of a connection must prove to know.
    """

    def __init__(self, target: int, secret: bytes):
        self._target = target
        self._secret = secret
        self._waiting: dict[asyncio.Task | None, None] = {}
        self.port = 0

    async def open(self, host: str, port: int = 0) -> asyncio.Server:
        """Begins to listen on an address. With port 0 it takes a free one, which is then in `port`.

        Raises:
            OSError: the address cannot be listened on.
        """
        server = await asyncio.start_server(self._serve, host, port)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        if len(self._waiting) >= WAITING and (oldest := next(iter(self._waiting))) is not None:
            oldest.cancel()
            del self._waiting[oldest]
        self._waiting[task] = None
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                inner = await self._admit(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):  # a stranger, or nothing listens at the target
            writer.transport.abort()
            return
        finally:
            self._waiting.pop(task, None)
        await _relay((reader, writer), inner)

    async def _admit(self, reader: StreamReader, writer: StreamWriter) -> tuple[StreamReader, StreamWriter]:
        """Runs the handshake and returns a connection to the target.

        Raises:
            OSError: the other side does not know the secret, or nothing listens at the target.
            EOFError: the other side has closed the connection.
        """
        own = secrets.token_bytes(RANDOM_BYTES)
        writer.write(HELLO + own)
        both = own + await reader.readexactly(RANDOM_BYTES)
        if not hmac.compare_digest(await reader.readexactly(TAG_BYTES), _tag(self._secret, b"tunnel", both)):
            raise PermissionError("wrong tag")
        inner = await asyncio.open_connection(LOOPBACK, self._target)
        writer.write(_tag(self._secret, b"gate", both))
        _keep_alive(writer)
        return inner


async def through_gate(host: str, port: int, secret: bytes) -> tuple[StreamReader, StreamWriter]:
    """Connects to the server behind a gate.

    Raises:
        OSError: there is no gate, the gate does not know the secret, or it refuses; the message says which.
    """
    where = f"{host}:{port}"
    writer = None
    try:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            if await reader.readexactly(len(HELLO)) != HELLO:
                raise ConnectionError(f"what listens at {where} is not a gate of muloco")
            both = await reader.readexactly(RANDOM_BYTES) + (own := secrets.token_bytes(RANDOM_BYTES))
            writer.write(own + _tag(secret, b"tunnel", both))
            if not hmac.compare_digest(await reader.readexactly(TAG_BYTES), _tag(secret, b"gate", both)):
                raise ConnectionError(f"the gate at {where} has another secret")
    except BaseException as error:
        if writer is not None:
            writer.transport.abort()
        if isinstance(error, EOFError):
            raise ConnectionError(
                f"the gate at {where} does not open: its secret is another one, or nothing listens behind it"
            ) from None
        if isinstance(error, TimeoutError):
            raise TimeoutError(f"no answer from {where} within {HANDSHAKE_SECONDS:g} s") from None
        raise
    _keep_alive(writer)
    return reader, writer


async def open_tunnel(host: str, port: int, secret: bytes) -> asyncio.Server:
    """Listens on a free port of loopback, and forwards each connection to the gate at `host:port`. If the gate refuses,
    the connection is closed and the reason is written to standard error; the same reason is not repeated in a row."""
    told = ""

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        nonlocal told
        try:
            outer = await through_gate(host, port, secret)
        except (OSError, asyncio.CancelledError) as error:
            writer.transport.abort()
            if isinstance(error, OSError) and told != (told := str(error)):
                sys.stderr.write(f"{told}\n")
            return
        told = ""
        await _relay((reader, writer), outer)

    return await asyncio.start_server(serve, LOOPBACK, 0)


async def _relay(one: tuple[StreamReader, StreamWriter], other: tuple[StreamReader, StreamWriter]) -> None:
    """Copies bytes in both directions until both have ended or one side has failed."""
    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(_copy(one[0], other[1]))
            both.create_task(_copy(other[0], one[1]))
        for _, writer in (one, other):
            writer.close()
    except* (OSError, asyncio.CancelledError):  # cancelled: the program ends
        pass
    finally:
        for _, writer in (one, other):
            if not writer.is_closing():
                writer.transport.abort()


async def _copy(reader: StreamReader, writer: StreamWriter) -> None:
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


def _tag(secret: bytes, who: bytes, both: bytes) -> bytes:
    return hmac.digest(secret, HELLO + who + b"\n" + both, "sha256")


def _keep_alive(writer: StreamWriter) -> None:
    """Makes the system notice within a minute that the machine at the other end has gone."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


async def _heed_commands(commands: StreamReader) -> None:
    secret = bytes.fromhex((await commands.readline()).decode())
    tunnels: dict[tuple[str, int], asyncio.Server] = {}
    gates: list[asyncio.Server] = []
    while line := await commands.readline():
        what, host, number = line.decode().split()
        port = int(number)
        answer = "done"
        try:
            if what == "gate":
                gate = Gate(port, secret)
                gates.append(await gate.open(host))
                answer = str(gate.port)
            elif what == "tunnel":
                tunnels[host, port] = server = await open_tunnel(host, port, secret)
                answer = str(server.sockets[0].getsockname()[1])
            elif what == "close":
                tunnels.pop((host, port)).close()
            elif what == "check":
                (await through_gate(host, port, secret))[1].transport.abort()
        except OSError as error:
            answer = f"failed: {' '.join(str(error).split())}"
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


async def _main(parent: int) -> None:
    commands = StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    work = asyncio.create_task(_heed_commands(commands))
    while not work.done() and os.getppid() == parent:  # the input stays open while a child of the parent lives
        await asyncio.wait([work], timeout=1)
    if work.done():
        work.result()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        asyncio.run(_main(int(sys.argv[1])))
    os._exit(0)  # connections end with the process that they served
