"""A cheap HTTP client: many requests at once in one thread, and what became of each."""

import asyncio
import json
import socket
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
MOST_LINE_BYTES = 64 << 20


@dataclass
class Outcome:
    """`state`: "finished"; "refused", before it began, with a time to come again; "aborted", after
    it began or without such a time; "invalid", the request's own fault; "lost", no answer."""

    state: str = "lost"
    status: int = 0
    why: str = ""
    began: float = 0.0  # monotonic
    head: float = 0.0  # seconds until the answer's head
    ttft: float = 0.0
    gaps: list = field(default_factory=list)  # between tokens
    retry_after: str | None = None
    cached_tokens: int = 0
    usage: dict = field(default_factory=dict)
    tries: int = 1

    @property
    def took(self):
        return self.ttft + sum(self.gaps)


class Client:
    def __init__(self, url, key=""):
        parts = urlsplit(url)
        self.host, self.port, self.key = parts.hostname, parts.port, key

    def head(self, path, length):
        return (
            f"POST {path} HTTP/1.0\r\nHost: {self.host}\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {self.key}\r\nContent-Length: {length}\r\n"
            "\r\n"
        ).encode()

    async def open(self, path, body, receive_buffer=None):
        """Sends it; returns (reader, writer). `body` is a document, or bytes that are sent as they
        are. With a `receive_buffer` in bytes nothing more than that is taken before it is read."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        reader, writer = await asyncio.open_connection(
            self.host, self.port, limit=receive_buffer or MOST_LINE_BYTES
        )
        if receive_buffer:
            writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer
            )
        writer.write(self.head(path, len(data)))
        writer.write(data)
        return reader, writer

    async def send(self, path, body, timeout=60):
        """One request, read to its end."""
        out = Outcome(began=time.monotonic())
        writer = None
        try:
            async with asyncio.timeout(timeout):
                reader, writer = await self.open(path, body)
                await self._read(reader, out)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as e:
            out.why = f"{out.why} {e!r}".strip()
            out.state = "aborted" if out.status == 200 else "lost"
        finally:
            if writer:
                writer.close()
        return out

    async def _read(self, reader, out):
        status = await reader.readline()
        if not status:
            out.why = "the connection was closed without an answer"
            return
        out.status = int(status.split()[1])
        out.head = time.monotonic() - out.began
        while (line := await reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().partition(":")
            if name.lower() == "retry-after":
                out.retry_after = value.strip()
        if out.status != 200:
            out.why = (await reader.read()).decode(errors="replace")
            refused = out.status in (429, 503) and out.retry_after
            # What was running when it was ended is no refusal, whatever its status.
            if refused and "memory_shed" not in out.why:
                out.state = "refused"
            else:
                out.state = "invalid" if out.status in (400, 401, 404, 408, 413) else "aborted"
            return
        out.state, out.why = "aborted", "the answer was cut off"
        last = out.began
        async for line in reader:
            if line.startswith(b"data: [DONE]"):
                out.state, out.why = "finished", ""
                return
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                if "error" in event:
                    out.why = str(event["error"])
                    return
                out.usage = event.get("usage") or out.usage
                details = out.usage.get("prompt_tokens_details") or {}
                out.cached_tokens = details.get("cached_tokens", out.cached_tokens)
                choices = event.get("choices") or []
                if choices and (choices[0].get("text") or choices[0].get("delta", {}).get("content")):
                    now = time.monotonic()
                    if out.ttft:
                        out.gaps.append(now - last)
                    else:
                        out.ttft = now - out.began
                    last = now
            elif line.startswith(b"{"):  # in one piece
                event = json.loads(line)
                out.state, out.why = "finished", ""
                return

    async def send_until_taken(self, path, body, patience=60, timeout=60):
        """Comes again as long as it is refused, when it is told to."""
        until = time.monotonic() + patience
        tries = 0
        while True:
            out = await self.send(path, body, timeout)
            tries += 1
            out.tries = tries
            if out.state != "refused" or time.monotonic() >= until:
                return out
            await asyncio.sleep(min(2.0, float(out.retry_after)))


def quantile(values, q):
    """Nearest rank; 0 of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0
