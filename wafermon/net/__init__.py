"""Sockets: the event loop, the server that reads the wire, the admin HTTP server."""

from wafermon.net.admin import AdminServer, Page, Query, Response
from wafermon.net.listener import TcpAddress, UnixAddress
from wafermon.net.loop import EventLoop, Timer
from wafermon.net.server import Listen, Outlet, Server

__all__ = [
    "AdminServer",
    "EventLoop",
    "Listen",
    "Outlet",
    "Page",
    "Query",
    "Response",
    "Server",
    "TcpAddress",
    "Timer",
    "UnixAddress",
]
