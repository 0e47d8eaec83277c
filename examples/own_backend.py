"""A backend of your own: a class with `write`; queue, retries, bisection, metrics come free.

    python3 examples/own_backend.py
"""

from wafermon.delivery import Backend, DeadLetters, Pipeline, Retry, Route
from wafermon.errors import PermanentError, RetryableError
from wafermon.flow import Router, Rule
from wafermon.message import Batch
from wafermon.wire import encode


class Table(Backend):
    """Keeps one number a lot; down at first, and particular about what it takes."""

    def __init__(self):
        self.rows = {}
        self.attempts = 0

    def open(self):
        self.attempts += 1
        if self.attempts < 3:
            raise RetryableError("the database is starting")  # tried again with back-off

    def write(self, batch):
        rows = {}
        for message in batch.messages:
            if "lot" not in message["data"]:
                raise PermanentError("no lot")  # the guilty line alone becomes a dead letter
            rows[message["data"]["lot"]] = message["data"]["value"]
        self.rows.update(rows)  # whole or not at all

    def close(self):
        print(f"{len(self.rows)} rows: {self.rows}")


class Show(Backend):
    """Where the dead letters go here."""

    def write(self, batch):
        print("dead letter:", batch.raw.decode().strip())


def main():
    table = Table()
    dead = DeadLetters(Show())
    dead.start()
    route = Route("table", table, retry=Retry(initial=0.01), dead_letter=dead.refused)
    metric = {"v": 1, "src": "tester", "ts": 1700000000000, "type": "metric"}
    data = [{"lot": "L1", "value": 0.97}, {"value": 0.5}, {"lot": "L2", "value": 0.91}]
    with Pipeline(Router({"*": [Rule("table")]}), {"table": route}) as pipeline:
        pipeline.submit(Batch(b"".join(encode({**metric, "data": one}) for one in data)))
    dead.stop(timeout=5)
    return table.rows, route.dead_lettered


if __name__ == "__main__":
    main()
