"""Sockets: the event loop, the server that reads the wire, the admin HTTP server."""

from wafermon.net.admin import AdminServer, Page, Request, Response
from wafermon.net.door import Listen
from wafermon.net.gate import Gate
from wafermon.net.inherited import Inherited
from wafermon.net.listener import Address, TcpAddress, UnixAddress
from wafermon.net.lockout import Lockout
from wafermon.net.loop import EventLoop, Timer
from wafermon.net.server import Outlet, Server
from wafermon.net.workers import Workers

__all__ = [
    "Address",
    "AdminServer",
    "EventLoop",
    "Gate",
    "Inherited",
    "Listen",
    "Lockout",
    "Outlet",
    "Page",
    "Request",
    "Response",
    "Server",
    "TcpAddress",
    "Timer",
    "UnixAddress",
    "Workers",
]
