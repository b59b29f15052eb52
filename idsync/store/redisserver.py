"""A Redis server or cluster in use: connections, what is tried again, what its errors mean, whether it is fit."""

import os
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    ConnectionError,
    MovedError,
    NoScriptError,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry

from idsync import config
from idsync.errors import StoreMisconfigured, StoreUnavailable
from idsync.store import scripts
from idsync.store.connections import Address, Command, Nodes, Patience, Tls, TooFewReplicas, tls_fault

META = "ids:meta"  # hash: the number of buckets, for ever
_CHECK = "ids:check"
_NO_SUCH_DATABASE = ("DB index", "SELECT is not allowed")  # which it will not get by waiting

_T = TypeVar("_T")


class RedisServer:
    """With `replicas`, so many of them must have acknowledged a write. `buckets` is what the store is to have."""

    def __init__(
        self,
        url: str,
        buckets: int,
        *,
        password: str | None,
        tls: Tls,
        replicas: int,
        persistence: bool,
        patience: Patience,
    ) -> None:
        self._url, self._buckets, self._password, self._tls = url, buckets, password, tls
        self._replicas, self._persistence, self._patience = replicas, persistence, patience
        self.is_cluster = "+cluster://" in url
        self._opened: tuple[int, Nodes] | None = None

    def read(self, commands: Sequence[Command]) -> list[Any]:
        """The answers, in order; the first that is an error is raised."""
        return self._send(self._nodes(), commands)

    def write(self, commands: Sequence[Command]) -> list[Any]:
        """The same, once enough replicas have it."""
        return self._send(self._nodes(), commands, self._replicas)

    def check(self) -> None:
        """Raises StoreMisconfigured or StoreUnavailable unless a write is durable right now."""
        self.agree(self.read([("HGET", META, "buckets")])[0])
        self._patiently(self._check_primaries)

    def agree(self, buckets: bytes | None) -> None:
        """Settle the number of buckets where there is none yet; refuse to work with another."""
        self._agree(self._nodes(), buckets)

    def rewrite(self) -> bool:
        """Have every primary write its append-only file anew; whether all of them began."""
        shares: dict[Address, Sequence[Command]] = {
            address: [("BGREWRITEAOF",)] for address in self._nodes().primaries(_CHECK)
        }
        told = self._nodes().exchange(shares)
        return not any(isinstance(answer, Exception) for answers in told.values() for answer in answers)

    def close(self) -> None:
        if self._opened is not None:
            self._opened[1].close()
            self._opened = None

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Around all that asks the server: its errors as ours, with the mend."""
        try:
            yield
        except AuthenticationError as error:
            raise StoreMisconfigured(
                f"store {self._shown}: {error}", mend="give the password by $IDSYNC_STORE__URL or store.password_file"
            ) from None
        except MovedError as error:
            if self.is_cluster:
                raise self._unavailable(error) from None
            raise StoreMisconfigured(
                f"store {self._shown}: is a node of a cluster", mend="let store.url start with redis+cluster://"
            ) from None
        except TooFewReplicas as error:
            raise StoreUnavailable(
                f"store {self._shown}: {error}", mend="see that the replicas run and keep up; then try again"
            ) from None
        except ResponseError as error:
            if not any(refusal in str(error) for refusal in _NO_SUCH_DATABASE):
                raise self._unavailable(error) from None
            raise StoreMisconfigured(
                f"store {self._shown}: {error}",
                mend="let store.url end in a database that this Redis has: /0 to /15, or as its setting databases says;"
                " in a cluster /0 alone",
            ) from None
        except (RedisError, OSError) as error:
            raise self._unavailable(error) from None

    # --- readiness -------------------------------------------------------------------------------------------------

    def _check_primaries(self) -> None:
        """INFO, not CONFIG, which services that run Redis for others forbid."""
        nodes = self._nodes()
        asked: list[Command] = [("INFO", "persistence"), ("INFO", "memory")]
        if nodes.cluster:
            asked.append(("CLUSTER", "INFO"))
        shares: dict[Address, Sequence[Command]] = {
            address: [*asked, ("INCR", key)] for address, key in nodes.primaries(_CHECK).items()
        }
        for (host, port), answers in nodes.exchange(shares, self._replicas).items():
            self._judge(f"{self._shown} ({host}:{port})" if nodes.cluster else self._shown, answers)

    def _judge(self, where: str, answers: Sequence[Any]) -> None:
        told: dict[str, str] = {}
        for answer in answers[:-1]:
            if isinstance(answer, Exception):
                raise answer
            told |= dict(line.split(":", 1) for line in answer.decode().splitlines() if ":" in line)
        if self._persistence and told.get("aof_enabled") != "1":
            raise StoreMisconfigured(
                f"store {where}: appendonly is off: a restart of Redis would lose answered calls",
                mend="set appendonly yes, as deploy/redis.conf does; for a service that keeps data in another way set "
                'store.persistence = "unchecked"',
            )
        if (policy := told.get("maxmemory_policy")) != "noeviction":
            raise StoreMisconfigured(
                f"store {where}: maxmemory-policy is {policy}: a full Redis would throw mappings away",
                mend="set maxmemory-policy noeviction, as deploy/redis.conf does",
            )
        if self._persistence and told.get("aof_last_write_status", "ok") != "ok":
            raise StoreUnavailable(
                f"store {where}: the last write to the append-only file failed",
                mend="see that the disk of Redis has room and no faults",
            )
        if (state := told.get("cluster_state", "ok")) != "ok":
            raise StoreUnavailable(
                f"store {where}: cluster_state is {state}", mend="see that every slot has a primary; then try again"
            )
        if isinstance(answers[-1], Exception):
            raise answers[-1]

    # --- commands --------------------------------------------------------------------------------------------------

    def _send(self, nodes: Nodes, commands: Sequence[Command], replicas: int = 0) -> list[Any]:
        """The answers, in order. Scripts that a server has not seen yet are sent whole."""
        answers = self._patiently(lambda: nodes.execute(commands, replicas))
        unknown = [at for at, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            whole = [("EVAL", scripts.BY_SHA[commands[at][1]], *commands[at][2:]) for at in unknown]
            for at, answer in zip(unknown, self._patiently(lambda: nodes.execute(whole, replicas)), strict=True):
                answers[at] = answer
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def _patiently(self, send: Callable[[], _T]) -> _T:
        """The one place where anything is tried again. Writes commute, so that sending them twice does no harm."""
        for pause in self._patience.pauses:
            try:
                return send()
            except AuthenticationError:
                raise
            except (ConnectionError, TimeoutError, ClusterDownError):
                time.sleep(pause)
        return send()

    # --- connection ------------------------------------------------------------------------------------------------

    def _nodes(self) -> Nodes:
        """This process's connections; a socket must not cross a fork."""
        if self._opened is None or self._opened[0] != os.getpid():
            nodes = self._connect()
            try:
                self._agree(nodes, self._send(nodes, [("HGET", META, "buckets")])[0])
            except BaseException:
                nodes.close()
                raise
            self._opened = os.getpid(), nodes
        return self._opened[1]

    def _agree(self, nodes: Nodes, buckets: bytes | None) -> None:
        """Settle the number of buckets where there is none yet; refuse to work with another.

        Written only where it is missing: a store that takes no writes, full or a replica, can still be read.
        """
        if buckets is None:
            settle = [("HSETNX", META, "buckets", self._buckets), ("HGET", META, "buckets")]
            buckets = self._send(nodes, settle, self._replicas)[1]
        made = int(buckets or self._buckets)
        if made != self._buckets:
            raise StoreMisconfigured(
                f"store {self._shown}: was made with {made} buckets, but store.buckets is {self._buckets}",
                mend=f"set store.buckets = {made}; it can't change while the store holds mappings",
            )

    def _connect(self) -> Nodes:
        options: dict[str, Any] = {
            "socket_connect_timeout": self._patience.connect,
            "socket_timeout": self._patience.answer,
            "retry": Retry(NoBackoff(), 0),  # `_patiently` does it
            "protocol": 2,  # nothing here needs the greeting of the third, a round trip more
            "password": self._password,
        }
        try:
            options |= parse_url(self._url.replace("+cluster://", "://"))  # type: ignore[no-untyped-call]
        except ValueError:  # its text may hold a piece of the password
            raise StoreMisconfigured(
                f"store {self._shown}: not a URL that can be read",
                mend="store.url is redis://host:6379/0 or the like; %-encode '/', ':' and '@' in a password",
            ) from None
        if self._url.startswith("rediss"):
            files = {"ssl_ca_certs": self._tls.ca, "ssl_certfile": self._tls.cert, "ssl_keyfile": self._tls.key}
            options |= {name: str(path) for name, path in files.items() if path}
        return Nodes(options, cluster=self.is_cluster, patience=self._patience)

    @property
    def _shown(self) -> str:
        """The URL without user and password, even where these hold characters that no URL should."""
        scheme, _, rest = self._url.partition("://")
        return f"{scheme}://{rest.rpartition('@')[2]}"

    def _unavailable(self, error: Exception) -> StoreUnavailable | StoreMisconfigured:
        problem = f"store {self._shown}: {config.mask(str(error))}"
        fault = tls_fault(error)
        if isinstance(fault, ssl.SSLCertVerificationError):
            return StoreMisconfigured(
                problem,
                mend="let store.tls_ca_file hold the authority that signed Redis' certificate, and let the host that "
                "store.url names (of a cluster: that each node announces) be in the certificate",
            )
        if fault:
            return StoreUnavailable(
                problem,
                mend="see that Redis speaks TLS on this port, and whether it wants a client certificate, "
                "store.tls_cert_file and store.tls_key_file",
            )
        return StoreUnavailable(problem, mend="see that Redis runs, takes writes and has memory left; then try again")
