"""A gate lets only those through who know the secret of the run: it listens on an address that others reach, and leads
to a port on loopback. A tunnel is the other end: a port on loopback that leads to a gate.

torch's store and torchft's servers let everyone in who reaches them. Where workers are on several machines, these
servers listen on loopback alone, behind gates. Each connection begins with a challenge in both directions, by
HMAC-SHA256 over two random numbers; then its bytes are passed on as they are. They are neither encrypted nor signed.

    gate -> tunnel:  HELLO, 32 random bytes
    tunnel -> gate:  32 random bytes, tag "tunnel" over both
    gate -> tunnel:  tag "gate" over both, once the port behind the gate has accepted

This file is also a program, which a worker starts beside itself (see `muloco.outer.network`): connections must go on
while Python code of the worker does not let another thread run, or else the lighthouse takes the worker for dead. It
needs nothing but Python, so that it starts at once. It reads the secret in hex and then commands, a line each, from its
standard input, answers each with a line, and ends when its input does or its parent has gone.

    gate HOST PORT           leads from a free port of HOST to the local PORT; answers that free port
    tunnel HOST PORT         leads from a free local port to the gate at PORT of HOST; answers that free port
    close HOST PORT          closes this tunnel for new connections
    check HOST PORT          goes through that gate, once
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
"""Connections to a gate that have not shown that they know the secret; the oldest of more is closed."""
CHUNK_BYTES = 2**16
LOOPBACK = "127.0.0.1"


class Gate:
    """Leads from an address that others reach to a port on loopback.

    Args:
        target: the port on loopback.
        secret: that those who come in must know.
    """

    def __init__(self, target: int, secret: bytes):
        self._target = target
        self._secret = secret
        self._waiting: dict[asyncio.Task | None, None] = {}
        self.port = 0

    async def open(self, host: str, port: int = 0) -> asyncio.Server:
        """Listens on an address from now on; port 0: a free one, see `port`.

        Raises:
            OSError: it cannot listen there.
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
        """
        Raises:
            OSError: the other side does not know the secret, or nothing listens at the target.
            EOFError: the other side has gone.
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
    """Connects to what is behind a gate.

    Raises:
        OSError: there is no gate, it does not know the secret or does not open; the message says which.
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
    """Listens on a free port of loopback, and leads each connection through the gate at `host:port`. Where the gate
    does not open, the connection is closed, and the reason is written to the standard error, once in a row."""
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
    """Passes bytes in both directions until both have ended, or one side has failed."""
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
    """Lets the system notice within a minute that the machine at the other end has gone."""
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
