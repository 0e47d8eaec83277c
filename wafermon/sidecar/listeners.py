"""From a configuration to listeners, with the secrets and certificates that these need."""

from __future__ import annotations

import pwd
from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional, Union

from wafermon.errors import ConfigError
from wafermon.net import Gate, Inherited, Listen, TcpAddress, UnixAddress, peer
from wafermon.sidecar import schema
from wafermon.sidecar.load import is_loopback
from wafermon.sidecar.secrets import Credentials
from wafermon.wire import Secret

if TYPE_CHECKING:
    from wafermon.net.tls import Tls


def listens(
    config: schema.Config,
    credentials: Optional[Credentials] = None,
    inherited: Optional[Inherited] = None,
) -> list[Listen]:
    """The TCP and the Unix listener, in this order; nothing is bound, secrets and certificates are
    read.

    Args:
        config: where they listen, and for whom.
        credentials: finds the files.
        inherited: sockets that are there already.

    Raises:
        ConfigError: with each file, user and certificate that cannot be used.
    """
    tcp, unix = config.sidecar.tcp, config.sidecar.unix
    credentials = credentials or Credentials()
    inherited = inherited or Inherited([])
    faults: list[str] = []
    made = [
        Listen(
            inherited.use(TcpAddress(tcp.host, tcp.port)),
            max_connections=tcp.max_connections,
            read_timeout=tcp.read_timeout,
            idle_timeout=tcp.idle_timeout,
            keepalive=tcp.keepalive,
            tls=_tls(tcp.tls, credentials, faults),
            secret=_secret("tcp", tcp.auth, credentials, faults),
            auth_timeout=tcp.auth.timeout if tcp.auth else 0.0,
        ),
        Listen(
            inherited.use(
                UnixAddress(unix.path, mode=unix.mode, owner=unix.owner, group=unix.group)
            ),
            max_connections=unix.max_connections,
            read_timeout=unix.read_timeout,
            idle_timeout=unix.idle_timeout,
            secret=_secret("unix", unix.auth, credentials, faults),
            auth_timeout=unix.auth.timeout if unix.auth else 0.0,
            allow_uids=_uids(unix.allow_uids, faults) if unix.allow_uids else None,
        ),
    ]
    if faults:
        raise ConfigError(faults)
    return made


def gate(config: schema.Config, credentials: Credentials) -> Gate:
    """Who the admin server answers; its token is read.

    Raises:
        ConfigError: the file of the token cannot be used.
    """
    health = config.sidecar.health
    try:
        token = None if health.token_file is None else credentials.secret(health.token_file)
    except ValueError as error:
        raise ConfigError([f"sidecar.health.token_file: {error}"]) from None
    return Gate(token, health.hosts if health.hosts or is_loopback(health.host) else None)


def _tls(
    settings: Optional[schema.Tls], credentials: Credentials, faults: list[str]
) -> Optional[Tls]:
    if settings is None:
        return None
    try:
        from wafermon.net.tls import Tls  # a Python without OpenSSL can do all the rest

        return Tls(
            credentials.path(settings.cert),
            None if settings.key is None else credentials.path(settings.key),
            None if settings.client_ca is None else credentials.path(settings.client_ca),
            handshake_timeout=settings.handshake_timeout,
        )
    except ImportError:
        faults.append("sidecar.tcp.tls: this Python was built without OpenSSL")
    except ValueError as error:
        faults.append(f"sidecar.tcp.tls.{error}")
    return None


def _secret(
    listener: str, settings: Optional[schema.Auth], credentials: Credentials, faults: list[str]
) -> Optional[Secret]:
    if settings is None:
        return None
    try:
        return Secret(credentials.secret(settings.secret_file))
    except ValueError as error:
        faults.append(f"sidecar.{listener}.auth.secret_file: {error}")
    return None


def _uids(users: Sequence[Union[str, int]], faults: list[str]) -> frozenset[int]:
    if not peer.KNOWS_USERS:
        faults.append("sidecar.unix.allow_uids: this system does not tell who connects")
    uids = set()
    for index, user in enumerate(users):
        try:
            uids.add(user if isinstance(user, int) else pwd.getpwnam(user).pw_uid)
        except KeyError:
            faults.append(f"sidecar.unix.allow_uids[{index}]: there is no user '{user}'")
    return frozenset(uids)
