"""The sinks, one a file; queueing and retrying come free from `wafermon.delivery`."""

from wafermon.backends.console import ConsoleBackend
from wafermon.backends.dial import ClientTls
from wafermon.backends.file import FileBackend
from wafermon.backends.forward import ForwardBackend
from wafermon.backends.http import HttpBackend
from wafermon.backends.memory import MemoryBackend
from wafermon.backends.null import NullBackend
from wafermon.backends.store import StoreBackend
from wafermon.backends.store_query import Store

__all__ = [
    "ClientTls",
    "ConsoleBackend",
    "FileBackend",
    "ForwardBackend",
    "HttpBackend",
    "MemoryBackend",
    "NullBackend",
    "Store",
    "StoreBackend",
]
