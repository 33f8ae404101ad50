"""How a server is reached, and as whom."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

import grpc

from fresco._drawing import Retries

Pem = bytes | str | os.PathLike[str]  # the text itself, or where its file is
Token = str | Callable[[], str]


@dataclasses.dataclass(frozen=True)
class TLS:
    """Whom to trust, and who one is. PEM, as bytes or as a file's path."""

    ca: Pem | None = None  # who has signed the server's certificate; None: the authorities that gRPC comes with
    certificate: Pem | None = None  # one's own, where the server asks for one (mTLS)
    key: Pem | None = dataclasses.field(default=None, repr=False)  # of that
    server_name: str | None = None  # that the server's certificate is for; None: the address's host

    def credentials(self) -> grpc.ChannelCredentials:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key: both or none")
        return grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.certificate))


def _read(pem: Pem | None) -> bytes | None:
    return pem if pem is None or isinstance(pem, bytes) else pathlib.Path(pem).read_bytes()


@dataclasses.dataclass(frozen=True)
class Connection:
    """What a client is told when it is made; checked here, so that mistakes are heard of at once."""

    address: str
    token: Token | None = dataclasses.field(repr=False)
    tls: TLS | None  # None: plain text
    tenant: str | None
    timeout: float | None
    retries: Retries

    @staticmethod
    def make(address: str, token: Token | None, tls: bool | TLS | None, tenant: str | None, timeout: float | None, retries: Retries | None,
             plaintext_token: bool) -> Connection:
        if tenant is not None and not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", tenant):
            raise ValueError(f"tenant: expected 1 to 64 letters, digits, '-', '_' or '.', got {tenant!r}")
        secured = TLS() if tls is True else tls or None
        if token is not None and secured is None and not plaintext_token and not _is_here(address):
            raise ValueError(f"the token would cross the network to {address} in plain text: pass tls=True, or plaintext_token=True where "
                             "something else secures the way")
        return Connection(address, token, secured, tenant, timeout, retries or Retries())

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Of each call. The token is asked for anew, so that it may change."""
        pairs = []
        if self.token is not None:
            token = self.token if isinstance(self.token, str) else self.token()
            if not re.fullmatch(r"[!-~]+", token):
                raise ValueError("token: expected letters, digits and signs without spaces")  # without saying it
            pairs.append(("authorization", f"Bearer {token}"))
        if self.tenant is not None:
            pairs.append(("fresco-tenant", self.tenant))
        return tuple(pairs)

    def options(self) -> list[tuple[str, Any]]:
        """Of the channel."""
        options: list[tuple[str, Any]] = [
            # A server that went and came back is found again at once, not in minutes.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 1000),
            ("grpc.max_reconnect_backoff_ms", 1000),
            # One that vanished without a word is noticed while a call is open.
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            # Retries are _drawing.py's: gRPC's own would repeat a request without its Retrying event.
            ("grpc.enable_retries", 0),
        ]
        if _is_here(self.address):
            options.append(("grpc.enable_http_proxy", 0))  # nobody's proxy stands on the way to this machine
        if self.tls is not None and self.tls.server_name is not None:
            options.append(("grpc.ssl_target_name_override", self.tls.server_name))
        return options


def _is_here(address: str) -> bool:
    """Whether calls to it stay on this machine."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = address.split("/")[-1].rsplit(":", 1)[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
