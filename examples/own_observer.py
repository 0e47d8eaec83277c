"""An observer of your own: it sees every batch as it passes, on the loop thread, before routing.

    python3 examples/own_observer.py
"""

from wafermon.backends import NullBackend
from wafermon.client import Client
from wafermon.delivery import Pipeline, Route
from wafermon.flow import Router, Rule
from wafermon.net import EventLoop, Listen, Server, TcpAddress
from wafermon.observe import Registry, family, render


class Yields:
    """Keeps the lowest yield of each tool. Plain numbers; the registry asks when it is scraped."""

    def __init__(self):
        self.lowest = {}

    def observe(self, batch, now):
        for message in batch.messages:
            data = message.get("data", {})
            if message["type"] == "metric" and data.get("name") == "yield":
                tool = data.get("tags", {}).get("tool", "unknown")
                self.lowest[tool] = min(data["value"], self.lowest.get(tool, 1.0))

    def collect(self):
        yield family("lowest_yield", "gauge", "Lowest yield of a tool.", self.lowest, "tool")


def main():
    yields, loop, registry = Yields(), EventLoop(), Registry()
    registry.register(yields.collect)
    pipeline = Pipeline(
        Router({"*": [Rule("null")]}),
        {"null": Route("null", NullBackend())},
        observers=[yields],
        call_soon=loop.call_soon,
    )
    with pipeline, Server([Listen(TcpAddress("127.0.0.1", 0))], pipeline, loop=loop) as server:
        host, _, port = server.addresses[0].rpartition(":")
        with Client("tester", host=host, port=int(port)) as client:
            for tool, value in (("EQP07", 0.97), ("EQP08", 0.99), ("EQP07", 0.93)):
                client.log_metric("yield", value, tags={"tool": tool})
    page = render(registry).decode()
    print(page, end="")
    return page


if __name__ == "__main__":
    main()
