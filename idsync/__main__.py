"""The command line: `python -m idsync`. Answers are JSON on stdout; everything else goes to stderr."""

import functools
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import click

from idsync import config, holdings, ids, job, persons, signature, tag
from idsync import migrate as migration
from idsync.cli import always_json, command, group, start
from idsync.completion import configured
from idsync.decision import MID_DPID
from idsync.errors import MappingsMissing, StoreUnavailable, UsageError
from idsync.persons import Person
from idsync.service import milliseconds_now, open_spool
from idsync.settings import Endpoint, Settings
from idsync.store import open_store
from idsync.store.base import Count, MappingStore
from idsync.store.spool import Spool, Waiting

_STORE_URL = "IDSYNC_STORE__URL"
_CSV_HELP = "All that a file names: columns data_source and customer_id, or uuid; - for standard input."


def _data_sources(settings: Settings) -> list[str]:
    return [source.name for source in settings.data_sources]


cli = group("idsync", "Receives customer-ID syncs from a website and keeps them; see also `python -m reconcile`.")


@command(cli, "python -m idsync serve --config idsync.toml --bind 0.0.0.0:8000 --workers 2")
@click.option("--bind", metavar="HOST:PORT", help="Where to listen; unix:PATH too. Default: endpoint.bind.")
@click.option("--workers", type=click.IntRange(1, 256), metavar="N", help="Processes. Default: endpoint.workers.")
@click.option(
    "--gunicorn-conf",
    "limits",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Limits and time-outs. Default: deploy/gunicorn.conf.py.",
)
def serve(config_path: Path | None, bind: str | None, workers: int | None, limits: Path | None) -> None:
    """Serve the endpoint in the foreground. SIGTERM lets calls in flight finish, SIGHUP replaces the workers."""
    from idsync import server  # noqa: PLC0415  gunicorn's import is a tenth of a second that no other command needs

    settings = config.load(config_path)
    if bind is not None and not _is_bind(bind):
        raise click.BadParameter("must be HOST:PORT or unix:PATH", param_hint="--bind")
    signature.read_all(settings.data_sources)
    _try_store(settings)
    server.run(
        settings,
        bind=bind or settings.endpoint.bind,
        workers=workers or settings.endpoint.workers,
        limits=limits or server.LIMITS,
    )


def _who(*, storable: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Whom a command is about, as `people`. `storable`: see `persons.customer`."""

    def asking(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def asked(
            config_path: Path | None,
            data_source: str | None,
            customer_id: str | None,
            uuid: str | None,
            csv: Path | None,
        ) -> None:
            settings = config.load(config_path)
            if csv is not None and not (data_source or uuid):
                people = persons.read_csv(settings, csv, storable=storable)
            elif uuid is not None and not data_source and csv is None:
                people = [persons.device(uuid)]
            elif data_source is not None and customer_id is not None and uuid is None and csv is None:
                people = [persons.customer(settings, data_source, customer_id, storable=storable)]
            else:
                raise click.UsageError("give DATA_SOURCE and CUSTOMER_ID, or --uuid, or --csv")
            function(config_path, settings, people, one=csv is None)

        for option in (
            click.option("--csv", type=click.Path(path_type=Path), metavar="FILE", help=_CSV_HELP),
            click.option("--uuid", metavar="UUID", help="A device, in place of a customer."),
            click.argument("customer_id", required=False),
            click.argument("data_source", required=False, shell_complete=configured(_data_sources)),
        ):
            asked = option(asked)
        return asked

    return asking


@command(cli, "python -m idsync lookup crm user-4711")
@always_json
@_who(storable=False)
def lookup(config_path: Path | None, settings: Settings, people: Sequence[Person], *, one: bool) -> None:
    """All that is held of a customer or a device, and since when it is opted out.

    DATA_SOURCE is a name of the configuration, a DPID or an integration code.
    """
    now = milliseconds_now()
    with _opened(settings) as store, _spool_there(settings) as spool:
        found = holdings.find(settings, store, spool, people, now)
    told = job.ask(settings, config_path, "erase", "--find", lines=_lines(people))
    _print({**found[0], "job": told.answer} if one else {"people": found, "job": told.answer})
    told.settle()


@command(cli, "python -m idsync opt-out crm user-4711", name="opt-out")
@always_json
@_who(storable=True)
def opt_out(_config_path: Path | None, settings: Settings, people: Sequence[Person], *, one: bool) -> None:
    """Store nothing more of a customer, with the device last linked to it, or of a device; and remove what is stored.

    It holds on every worker at once, for ever, until `opt-in`. DATA_SOURCE: see `lookup`.
    """
    with _opened(settings) as store:
        removed = holdings.opt_out(store, people, milliseconds_now())
    answer = {"opted_out": len(people), "mappings_removed": removed}
    _print({**people[0].as_dict(), **answer} if one else answer)


@command(cli, "python -m idsync opt-in crm user-4711", name="opt-in")
@always_json
@_who(storable=True)
def opt_in(_config_path: Path | None, settings: Settings, people: Sequence[Person], *, one: bool) -> None:
    """Reverse an opt-out, when the person asks for it. DATA_SOURCE: see `lookup`.

    A device that went along with a customer comes back with it. A browser that opted out before it had a UUID holds
    that in its cookie, which is the visitor's to clear.
    """
    with _opened(settings) as store:
        reversed_ = store.opt_in(persons.all_customers(people), persons.all_uuids(people))
    _print({**people[0].as_dict(), "opted_in": reversed_} if one else {"opted_in": reversed_})


@command(cli, "python -m idsync erase crm user-4711")
@always_json
@_who(storable=False)
def erase(config_path: Path | None, settings: Settings, people: Sequence[Person], *, one: bool) -> None:
    """Remove a customer or a device from store, spool, the job's files and folders that it has delivered to, and leave
    an opt-out behind.

    DATA_SOURCE: see `lookup`. With --csv, the rows of a file of requests. Can be repeated.
    """
    with _opened(settings) as store, _spool_there(settings) as spool:
        removed, scrubbed = holdings.erase(store, spool, people, milliseconds_now())
    told = job.ask(settings, config_path, "erase", lines=_lines(people))
    rest = {"store_scrubbed": scrubbed, "job": told.answer}
    _print({**removed[0], **rest} if one else {"people": removed, **rest})
    told.settle()


@command(cli, "python -m idsync stats | jq .mappings")
@always_json
def stats(config_path: Path | None) -> None:
    """Customers and mappings of each data source, and in all; and the spool of this host's endpoint."""
    settings = config.load(config_path)
    now = milliseconds_now()
    with _opened(settings) as store:
        counts = {dpid: count for dpid, count in store.count(now).items() if dpid != MID_DPID}
        opt_outs = Counter(token.partition(":")[0] for token in store.opt_outs())
    _print({**_statistics(settings, counts, opt_outs), "spool": _spooled(settings, now)})


@command(cli, "python -m idsync sweep")
@always_json
def sweep(config_path: Path | None) -> None:
    """Remove what is past its time: mappings, and with `python -m reconcile sweep` what the job keeps. Run it daily.

    A mapping is invisible from that moment, swept or not.
    """
    settings = config.load(config_path)
    with _opened(settings) as store:
        removed = store.sweep(milliseconds_now())
    told = job.ask(settings, config_path, "sweep")
    _print({"removed": removed, "job": told.answer})
    told.settle()


@command(cli, "python -m idsync migrate sqlite:///var/idsync.db redis://10.0.0.7:6379/0")
@always_json
@click.argument("from_url", metavar="FROM")
@click.argument("to_url", metavar="TO")
@click.option(
    "--from-config",
    type=click.Path(path_type=Path),
    help="The configuration that FROM was used with, where [store] has other buckets, replicas, password or TLS.",
)
def migrate(config_path: Path | None, from_url: str, to_url: str, from_config: Path | None) -> None:
    """Copy all mappings and opt-outs from one store to another, while endpoints go on using both.

    FROM and TO are like store.url; env:NAME takes it from a variable, as a URL with a password should not stand in a
    command. Run it, let every endpoint and the job use TO, and run it once more for what was written to FROM meanwhile.
    It can be repeated. Exit status 1 if the target lacks anything.
    """
    used = ((from_config or config_path, from_url), (config_path, to_url))
    old, new = (config.load(path, os.environ | {_STORE_URL: _resolved(url)}) for path, url in used)
    if old.store.url == new.store.url:
        raise UsageError("FROM and TO are one store", mend="name two")
    now = milliseconds_now()
    with _opened(old) as source, _opened(new) as target:
        source.check()
        target.check()
        total = sum(count.mappings for count in source.count(now).values())
        hidden = not sys.stderr.isatty()
        with click.progressbar(length=total, label="mappings", file=sys.stderr, hidden=hidden) as bar:
            copied = migration.migrate(source, target, now, bar.update)
        opt_outs = len(target.opt_outs())
    names = {source.dpid: source.name for source in new.data_sources}
    rows = [{"name": names.get(dpid), "dpid": dpid, **each._asdict()} for dpid, each in copied.items()]
    missing = sum(each.missing for each in copied.values())
    _print({"data_sources": rows, "missing": missing, "opt_outs": opt_outs})
    if missing:
        raise MappingsMissing(
            f"the target lacks {missing:,} mappings of the source",
            mend="see that store.devices_per_customer is not lower there; then run it again",
        )


@command(cli, "python -m idsync sign crm user-4711 --valid-for 10m")
@always_json
@click.argument("data_source", shell_complete=configured(_data_sources))
@click.argument("customer_id")
@click.option("--uuid", default="", metavar="UUID", help="The d_uuid that the call will carry. Default: none.")
@click.option("--valid-for", default="10m", metavar="TIME", help="90s, 10m, 2h or 7d, the longest. Default: 10m.")
def sign(config_path: Path | None, data_source: str, customer_id: str, uuid: str, valid_for: str) -> None:
    """Sign a sync call with the first key of the data source; the website does the same, see deploy/signing/."""
    source = persons.source_of(config.load(config_path), data_source, customer_id)
    if uuid and not ids.is_uuid(uuid):
        raise click.BadParameter(f"must be {ids.UUID_DIGITS} decimal digits", param_hint="--uuid")
    if source.signing_keys_file is None:
        raise UsageError(f'data source "{source.name}" has no signing keys', mend="give it signing_keys_file")
    keys = signature.read_keys(source.signing_keys_file)
    expires = milliseconds_now() // 1000 + _seconds(valid_for)
    d_sig = signature.sign(keys, source.dpid, customer_id, uuid, expires)
    query = signature.query(source.dpid, customer_id, uuid, d_sig)
    _print({"d_sig": d_sig, "expires": expires, "query": query})


@command(cli, "python -m idsync tag crm > tag.html", name="tag")
@click.argument("data_source", shell_complete=configured(_data_sources))
@click.option("--email", is_flag=True, help="Also the image for a mail, in which the mail system fills in the ID.")
def website_tag(config_path: Path | None, data_source: str, email: bool) -> None:
    """The HTML for the website, as it is: put it on every page. DATA_SOURCE is a name of the configuration, or a DPID.

    What else the site must see to goes to stderr.
    """
    settings = config.load(config_path)
    endpoint, source = settings.endpoint, persons.data_source(settings, data_source)
    if reason := tag.refusal(source):
        raise UsageError(f'data source "{source.name}" {reason}', mend="name another one")
    if tag.has_script(source):
        click.echo(tag.snippet(endpoint, source))
        click.echo(f"a Content-Security-Policy of the site must allow: {tag.policy(endpoint)}", err=True)
    elif not email:
        mend = 'say where the site shows the ID, such as placement = { kind = "cookie", name = "crm_id" }'
        raise UsageError(f'data source "{source.name}" has no placement', mend=mend)
    if email:
        click.echo(tag.mail_image(endpoint, source))
        field = f"the mail system's field, percent-encoded, goes in place of {tag.MAIL_PLACEHOLDER}"
        click.echo(f"{field}; left unfilled, the call is refused", err=True)


# --- parts -----------------------------------------------------------------------------------------------------------


def _resolved(url: str) -> str:
    name = url.removeprefix("env:")
    if name == url:
        return url
    if name not in os.environ:
        raise UsageError(f"there is no environment variable {name}", mend="set it to the store's URL")
    return os.environ[name]


def _is_bind(text: str) -> bool:
    pattern = next(part.pattern for part in Endpoint.model_fields["bind"].metadata if hasattr(part, "pattern"))
    return re.search(pattern, text) is not None


def _try_store(settings: Settings) -> None:
    """Stops for a store or spool that can never work; only warns of a store that is away: hence the spool."""
    with closing(open_spool(settings)) as spool:
        spool.check()
    try:
        with _opened(settings) as store:
            store.check()
    except StoreUnavailable as error:
        problem = config.mask(error.problem)
        click.echo(f"idsync: {problem}; calls go to the spool, /readyz tells when the store is there", err=True)


@contextmanager
def _opened(settings: Settings) -> Iterator[MappingStore]:
    with closing(open_store(settings.store)) as store:
        yield store


def _seconds(text: str) -> int:
    match = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", text)
    seconds = int(match[1]) * {"s": 1, "m": 60, "h": 3_600, "d": 86_400}[match[2]] if match else 0
    if not 0 < seconds <= signature.MAX_VALID_SECONDS:
        raise click.BadParameter("must be 90s, 10m, 2h or the like, 7d at most", param_hint="--valid-for")
    return seconds


def _lines(people: Sequence[Person]) -> list[dict[str, object]]:
    """As the reconciler reads them."""
    customers = persons.all_customers(people)
    lines: list[dict[str, object]] = [{"dpid": dpid, "customer_id": customer_id} for dpid, customer_id in customers]
    lines += [{"uuid": uuid} for uuid in persons.all_uuids(people)]
    return lines


def _statistics(settings: Settings, counts: Mapping[int, Count], opt_outs: Mapping[str, int]) -> dict[str, object]:
    """Every data source of the settings, then the DPIDs that are in the store alone, with no name."""
    names: dict[int, str | None] = {source.dpid: source.name for source in settings.data_sources}
    held = {*counts, *(int(dpid) for dpid in opt_outs if dpid.isdigit())} - {MID_DPID}
    names |= {dpid: None for dpid in sorted(held) if dpid not in names}
    nothing = Count(0, 0)
    rows = [
        {"name": name, "dpid": dpid, **counts.get(dpid, nothing)._asdict(), "opt_outs": opt_outs.get(str(dpid), 0)}
        for dpid, name in names.items()
    ]
    return {
        "data_sources": rows,
        "customers": sum(count.customers for count in counts.values()),
        "mappings": sum(count.mappings for count in counts.values()),
        "opt_outs": {"customers": sum(opt_outs.values()) - opt_outs.get("uuid", 0), "devices": opt_outs.get("uuid", 0)},
    }


def _spooled(settings: Settings, now: int) -> dict[str, object]:
    with _spool_there(settings) as spool:
        return (spool.waiting(now) if spool else Waiting(0, 0.0, 0))._asdict()


@contextmanager
def _spool_there(settings: Settings) -> Iterator[Spool | None]:
    """The spool of this host's endpoint; None where none has run here, as a look should not make the file."""
    if not settings.endpoint.spool.exists():
        yield None
        return
    with closing(open_spool(settings)) as spool:
        yield spool


def _print(answer: Mapping[str, object]) -> None:
    click.echo(json.dumps(answer, ensure_ascii=False))


if __name__ == "__main__":
    start(cli)
