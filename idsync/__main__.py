"""The command line: `python -m idsync`. Answers are JSON on stdout; everything else goes to stderr."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from idsync import config, ids, signature, tag
from idsync.cli import command, group
from idsync.decision import MID_DPID
from idsync.errors import StoreUnavailable, UsageError
from idsync.service import milliseconds_now, open_spool
from idsync.settings import DataSource, Endpoint, Settings
from idsync.store import open_store
from idsync.store.base import Count, Device, MappingStore

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

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


@command(cli, "python -m idsync lookup crm user-4711")
@click.argument("data_source")
@click.argument("customer_id")
def lookup(config_path: Path | None, data_source: str, customer_id: str) -> None:
    """The devices of a customer, latest first. DATA_SOURCE is a name of the configuration, or a DPID."""
    settings = config.load(config_path)
    source = _data_source(settings, data_source)
    _check_customer_id(source, customer_id)
    with _opened(settings) as store:
        devices = store.devices(source.dpid, customer_id, milliseconds_now())
    _print(
        {
            "data_source": source.name,
            "dpid": source.dpid,
            "customer_id": customer_id,
            "devices": [_device(device) for device in devices],
        }
    )


@command(cli, "python -m idsync stats | jq .mappings")
def stats(config_path: Path | None) -> None:
    """Customers and mappings of each data source, and in all; and the spool of this host's endpoint."""
    settings = config.load(config_path)
    now = milliseconds_now()
    with _opened(settings) as store:
        counts = {dpid: count for dpid, count in store.count(now).items() if dpid != MID_DPID}
    _print({**_statistics(settings, counts), "spool": _spooled(settings, now)})


@command(cli, "python -m idsync sweep")
def sweep(config_path: Path | None) -> None:
    """Remove mappings past their lifetime; run it daily. They are invisible from that moment, swept or not."""
    with _opened(config.load(config_path)) as store:
        removed = store.sweep(milliseconds_now())
    _print({"removed": removed})


@command(cli, "python -m idsync sign crm user-4711 --valid-for 10m")
@click.argument("data_source")
@click.argument("customer_id")
@click.option("--uuid", default="", metavar="UUID", help="The d_uuid that the call will carry. Default: none.")
@click.option("--valid-for", default="10m", metavar="TIME", help="90s, 10m, 2h or 7d, the longest. Default: 10m.")
def sign(config_path: Path | None, data_source: str, customer_id: str, uuid: str, valid_for: str) -> None:
    """Sign a sync call with the first key of the data source; the website does the same, see deploy/signing/."""
    source = _data_source(config.load(config_path), data_source)
    _check_customer_id(source, customer_id)
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
@click.argument("data_source")
@click.option("--email", is_flag=True, help="Also the image for a mail, in which the mail system fills in the ID.")
def website_tag(config_path: Path | None, data_source: str, email: bool) -> None:
    """The HTML for the website, as it is: put it on every page. DATA_SOURCE is a name of the configuration, or a DPID.

    What else the site must see to goes to stderr.
    """
    settings = config.load(config_path)
    endpoint, source = settings.endpoint, _data_source(settings, data_source)
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


def _data_source(settings: Settings, text: str) -> DataSource:
    dpid = ids.parse_dpid(text)
    for source in settings.data_sources:
        if text == source.name or dpid == source.dpid:
            return source
    known = ", ".join(f"{source.name} ({source.dpid})" for source in settings.data_sources)
    raise UsageError(f'there is no data source "{text}"', mend=f"known here: {known}")


def _check_customer_id(source: DataSource, customer_id: str) -> None:
    try:
        customer_id.encode()
    except UnicodeEncodeError:
        raise UsageError("the customer ID is not valid UTF-8", mend="check the terminal's encoding") from None
    if reason := ids.customer_id_fault(customer_id, source.id_rules):
        raise UsageError(ids.EXPLANATIONS[reason], mend="the endpoint refuses such an ID, so none is stored")


def _seconds(text: str) -> int:
    match = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", text)
    seconds = int(match[1]) * {"s": 1, "m": 60, "h": 3_600, "d": 86_400}[match[2]] if match else 0
    if not 0 < seconds <= signature.MAX_VALID_SECONDS:
        raise click.BadParameter("must be 90s, 10m, 2h or the like, 7d at most", param_hint="--valid-for")
    return seconds


def _device(device: Device) -> dict[str, str]:
    seen = _EPOCH + timedelta(milliseconds=device.last_seen)
    return {"uuid": device.uuid, "last_seen": seen.isoformat(timespec="milliseconds").replace("+00:00", "Z")}


def _statistics(settings: Settings, counts: Mapping[int, Count]) -> dict[str, object]:
    """Every data source of the settings, then the DPIDs that are in the store alone, with no name."""
    names: dict[int, str | None] = {source.dpid: source.name for source in settings.data_sources}
    names |= {dpid: None for dpid in sorted(counts) if dpid not in names}
    nothing = Count(0, 0)
    rows = [{"name": name, "dpid": dpid, **counts.get(dpid, nothing)._asdict()} for dpid, name in names.items()]
    return {
        "data_sources": rows,
        "customers": sum(count.customers for count in counts.values()),
        "mappings": sum(count.mappings for count in counts.values()),
    }


def _spooled(settings: Settings, now: int) -> dict[str, object]:
    if not settings.endpoint.spool.exists():  # no endpoint has run here, and a look should not make the file
        return {"mappings": 0, "age_seconds": 0.0}
    with closing(open_spool(settings)) as spool:
        mappings, seconds = spool.waiting(now)
    return {"mappings": mappings, "age_seconds": seconds}


def _print(answer: Mapping[str, object]) -> None:
    click.echo(json.dumps(answer, ensure_ascii=False))


if __name__ == "__main__":
    cli(prog_name="python -m idsync")
