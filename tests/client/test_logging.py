"""The handler for the standard `logging`."""

import logging
import logging.config
import logging.handlers
import queue
import time

import pytest

from wafermon.client import CLOSED, THREAD_NAME, Client
from wafermon.contrib.logging import Handler


@pytest.fixture
def logger():
    one = logging.Logger("loader.parse")
    yield one
    for handler in list(one.handlers):
        handler.close()


def test_levels_and_text(listen, logger):
    listener = listen()
    logger.addHandler(Handler("a", **listener.where))
    before = int(time.time() * 1000)
    logger.critical("%d of %s", 1, "x")
    for level in (41, 40, 39, 30, 20, 10, 5):
        logger.log(level, "x")
    logger.handlers[0].close()
    listener.wait(lambda it: it.ended == 1)
    events = listener.of("event")
    assert [event["data"]["level"] for event in events] == (
        ["fatal", "error", "error", "warn", "warn", "info", "debug", "debug"]
    )
    assert events[0]["data"] == {
        "level": "fatal",
        "msg": "1 of x",
        "ctx": {"logger": "loader.parse"},
    }
    assert before <= events[0]["ts"] <= time.time() * 1000
    assert len(listener.of("goodbye")) == 1


def test_extra_and_traceback(listen, logger):
    listener = listen()
    logger.addHandler(Handler("a", **listener.where))
    logger.addHandler(logging.handlers.BufferingHandler(9))
    thing = object()
    try:
        raise ValueError("bad lot")
    except ValueError:
        logger.exception("failed", extra={"lot": "L1", "rows": [1, 2], "thing": thing})
    logger.error("none", exc_info=True)
    logger.error("stack", stack_info=True)
    assert logger.handlers[0].client.close() == 0
    first, second, third = (event["data"]["ctx"] for event in listener.of("event", 3))
    text = first.pop("exc_info")
    assert text.startswith("Traceback")
    assert text.endswith("ValueError: bad lot")
    assert first == {"logger": "loader.parse", "lot": "L1", "rows": [1, 2], "thing": str(thing)}
    assert second == third == {"logger": "loader.parse"}


def test_within_a_span(listen, logger):
    listener = listen()
    with Client("a", **listener.where) as client:
        logger.addHandler(Handler(client=client))
        with client.span("x") as span:
            logger.info("within")
        logger.handlers[0].flush()
        logger.handlers[0].close()
        assert client.state != CLOSED  # not the handler's own
        client.log_event("info", "goes on")
    assert [one.get("sid") for one in listener.of("event", 2)] == [span.sid, None]


def test_dict_config(listen):
    listener = listen()
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {
            "sidecar": {
                "class": "wafermon.contrib.logging.Handler",
                "src": "db-loader",
                "level": "INFO",
                "buffer_messages": 10,
                **listener.where,
            }
        },
        "loggers": {"wafermon-test": {"level": "DEBUG", "handlers": ["sidecar"]}},
    }
    logging.config.dictConfig(config)
    logger = logging.getLogger("wafermon-test")
    logger.debug("not this")
    logger.info("this")
    handler = logger.handlers.pop()
    handler.close()
    listener.wait(lambda it: it.ended == 1)
    assert listener.messages() == ["this"]
    assert listener.frames()[0]["src"] == "db-loader"


def test_behind_a_queue(listen):
    """QueueHandler and QueueListener: the time is that of the record."""
    listener = listen()
    handler = Handler("a", **listener.where)
    waiting = queue.Queue()
    behind = logging.handlers.QueueListener(waiting, handler)
    record = logging.makeLogRecord({"msg": "x", "created": 12.345, "levelno": 20, "name": "n"})
    logging.handlers.QueueHandler(waiting).handle(record)
    behind.start()
    behind.stop()
    handler.close()
    assert listener.of("event", 1)[0]["ts"] == 12345


def test_own_thread_is_ignored(listen):
    handler = Handler("a", **listen().where)
    handler.handle(logging.makeLogRecord({"msg": "x", "threadName": THREAD_NAME}))
    assert not handler.client._sender.queue
    handler.close()


def test_never_raises(listen, logger, capsys):
    logger.addHandler(Handler("a", **listen().where))
    logger.info("%d", "no number")  # what logging does of it: a note on stderr
    logger.info("\ud800")
    logger.info("x", extra={"deep": {"a": object()}})
    assert logger.handlers[0].client.refused == 2
    assert "no number" in capsys.readouterr().err


@pytest.mark.parametrize("options", [{}, {"src": "a", "client": 1}, {"client": 1, "port": 2}])
def test_bad_arguments(options):
    with pytest.raises(ValueError, match="give src"):
        Handler(**options)
