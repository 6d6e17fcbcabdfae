"""A TCP forwarder that delivers every byte later: slow_link.py HOST:PORT HOST:PORT DELAY_MS.

Delays each direction, keeps the order, and carries any number of connections. A delay, not a limit of
bandwidth: what was read at t is written at t + delay.
"""

import asyncio
import sys

BUFFERED = 4 * 1024 * 1024  # bytes on their way in one direction: more waits at the sender


async def forward(reader, writer, delay):
    on_their_way = asyncio.Queue()
    room = asyncio.Event()
    held = 0
    loop = asyncio.get_running_loop()

    async def deliver():
        nonlocal held
        while True:
            due, data = await on_their_way.get()
            await asyncio.sleep(max(0, due - loop.time()))
            if not data:
                break
            writer.write(data)
            await writer.drain()
            held -= len(data)
            room.set()
        if writer.can_write_eof():
            writer.write_eof()

    delivery = asyncio.create_task(deliver())
    try:
        while not delivery.done():
            data = await reader.read(65536)
            held += len(data)
            on_their_way.put_nowait((loop.time() + delay, data))
            if not data:
                break
            while held > BUFFERED:
                room.clear()
                await room.wait()
        await delivery
    except OSError:
        pass
    finally:
        delivery.cancel()
        writer.close()


async def serve(listen, target, delay):
    async def connected(reader, writer):
        try:
            far_reader, far_writer = await asyncio.open_connection(*target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(
            forward(reader, far_writer, delay), forward(far_reader, writer, delay)
        )

    server = await asyncio.start_server(connected, *listen)
    print("listening", flush=True)
    await server.serve_forever()


def address(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


if __name__ == "__main__":
    asyncio.run(serve(address(sys.argv[1]), address(sys.argv[2]), float(sys.argv[3]) / 1000))
