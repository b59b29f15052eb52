"""Reading the configuration: one TOML file, overrides from the environment, every fault at once.

`load` is the rim (file and environment); `parse` is pure and does the rest.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from idsync.errors import ConfigError
from idsync.ids import DEVICE_ID_SHAPES
from idsync.settings import Settings

CONFIG_VARIABLE = "IDSYNC_CONFIG"
DEFAULT_PATH = Path("idsync.toml")
_PREFIX = "IDSYNC_"
_URL_PASSWORD = re.compile(r"(://[^/@\s:]*:)[^@/\s]+@")
_SECRETS = {"password", "webhook_url", "smtp_password"}  # whose values are not shown
_KINDS = "directory, s3, ftp, ftps or sftp"


def load(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings of `path`, else of $IDSYNC_CONFIG, else of ./idsync.toml. Raises ConfigError with every fault."""
    path = path or Path(environ.get(CONFIG_VARIABLE) or DEFAULT_PATH)
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        raise ConfigError(str(path), ["no such file; name it with --config PATH or $IDSYNC_CONFIG"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [f"can't be read: {error}"]) from None
    return parse(text, environ=environ, base=path.absolute().parent, source=str(path))


def parse(text: str, *, environ: Mapping[str, str], base: Path, source: str = "configuration") -> Settings:
    """Settings out of TOML text and overrides; relative paths are taken from `base`."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(source, [f"not valid TOML: {error}"]) from None
    faults = list(_secret_faults(raw))
    origins: dict[str, str] = {}
    faults += _apply_environment(raw, environ, origins)
    raw.setdefault("reconcile", {})
    settings = None
    try:
        settings = Settings.model_validate(raw, context={"base": base})
    except ValidationError as error:
        faults += [_with_origin(_describe(fault, raw), origins) for fault in error.errors()]
    faults += [_with_origin(fault, origins) for fault in _cross_faults(raw)]
    if settings is None or faults:
        raise ConfigError(source, faults)
    return settings


def mask(text: str) -> str:
    """`text` with the password of any URL in it replaced by asterisks."""
    return _URL_PASSWORD.sub(r"\1***@", text)


# --- overrides -------------------------------------------------------------------------------------------------------


def _apply_environment(raw: dict[str, Any], environ: Mapping[str, str], origins: dict[str, str]) -> Iterator[str]:
    """Put IDSYNC_A__B values into `raw`; yields a fault for each variable that fits nowhere.

    `origins` takes the variable of each key that was set.

    Members of lists of tables are reached by name or number: IDSYNC_DESTINATIONS__AAM__BUCKET, IDSYNC_FEEDS__0__TARGET.
    Variables of one part that are no setting are passed over: Kubernetes puts IDSYNC_PORT and the like into the
    environment of every pod beside a service called idsync.
    """
    for variable in sorted(environ):
        if not variable.startswith(_PREFIX) or variable == CONFIG_VARIABLE:
            continue
        parts = variable.removeprefix(_PREFIX).lower().split("__")
        if len(parts) == 1 and parts[0] not in Settings.model_fields:
            continue
        try:
            table, location = _descend(raw, parts[:-1])
        except LookupError as error:
            yield f"${variable}: {error.args[0]}"
            continue
        table[parts[-1]] = _override_value(environ[variable])
        origins[_dotted([*location, parts[-1]])] = variable


def _descend(table: dict[str, Any], parts: list[str]) -> tuple[dict[str, Any], list[str | int]]:
    """The table that `parts` lead to, and where it is."""
    location: list[str | int] = []
    for depth, part in enumerate(parts):
        if isinstance(table, list):
            index = _list_member(table, part)
            table = table[index]
            location.append(index)
            continue
        if depth == 0 and part not in Settings.model_fields:
            raise LookupError(f'there is no table "{part}"{_did_you_mean(part, Settings.model_fields)}')
        is_list = depth == 0 and get_origin(Settings.model_fields[part].annotation) is tuple
        table = table.setdefault(part, [] if is_list else {})
        location.append(part)
        if not isinstance(table, dict | list):
            raise LookupError(f'"{part}" is a value, not a table')
    if isinstance(table, list):
        raise LookupError("names a list: add the member's name and key, as in IDSYNC_DESTINATIONS__AAM__BUCKET")
    return table, location


def _list_member(tables: list[Any], part: str) -> int:
    names = {
        index: _slug(str(table.get("name", index))) for index, table in enumerate(tables) if isinstance(table, dict)
    }
    for index, name in names.items():
        if part in {str(index), name}:
            return index
    raise LookupError(f'no member is called "{part}"{_did_you_mean(part, set(names.values()))}')


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "_", name.lower())


def _override_value(text: str) -> Any:
    if text[:1] in {"[", "{"}:
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            return text
    return text


# --- faults ----------------------------------------------------------------------------------------------------------


def _secret_faults(raw: dict[str, Any]) -> Iterator[str]:
    store = raw.get("store")
    if isinstance(store, dict) and isinstance(url := store.get("url"), str) and mask(url) != url:
        yield f'store.url = "{mask(url)}": a password in the file; use $IDSYNC_STORE__URL or store.password_file'
    for index, destination in enumerate(_tables(raw, "destinations")):
        if "password" in destination:
            variable = f"${_PREFIX}DESTINATIONS__{_slug(str(destination.get('name', index))).upper()}__PASSWORD"
            yield f"destinations[{index}].password: a password in the file; use {variable} or password_file"
    health = raw.get("health")
    for key in ("webhook_url", "smtp_password"):
        if isinstance(health, dict) and key in health:
            yield f"health.{key}: a secret in the file; use ${_PREFIX}HEALTH__{key.upper()} or {key}_file"


def _describe(fault: Any, raw: dict[str, Any]) -> str:
    """One line for one pydantic error: key, value, what is wrong."""
    location = [part for part in fault["loc"] if not _is_union_tag(part, fault["loc"])]
    key = _dotted(location)
    kind, value = fault["type"], fault["input"]
    shown = key if location and location[-1] in _SECRETS else f"{key} = {_show(value)}"
    if kind == "missing":
        return f"{key}: missing"
    if kind == "extra_forbidden":
        return f"{shown}: unknown key{_did_you_mean(str(location[-1]), _known_keys(location[:-1], raw))}"
    if kind == "union_tag_not_found":
        return f"{key}.kind: missing; use {_KINDS}"
    if kind == "union_tag_invalid":
        tag = value.get("kind") if isinstance(value, dict) else value
        return f"{key}.kind = {_show(tag)}: must be {_KINDS}"
    if kind == "tuple_type":
        return f"{shown}: must be a list, {_written(location, value)}"
    message = fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return f"{shown}: {message}"


def _written(location: list[Any], value: object) -> str:
    if len(location) == 1 or isinstance(value, dict):  # the lists outside of tables are all of tables
        return f"one table for each member, headed [[{'.'.join(part for part in location if isinstance(part, str))}]]"
    return 'written as ["a", "b"], or with numbers as [1, 2]'


def _with_origin(fault: str, origins: Mapping[str, str]) -> str:
    """A fault of a value from the environment names its variable: the file may hold another value, or none."""
    keys = [key for key in origins if fault.startswith(tuple(key + end for end in (" ", ":", ".", "[")))]
    return f"${origins[max(keys, key=len)]}: {fault}" if keys else fault


def _is_union_tag(part: object, location: tuple[object, ...]) -> bool:
    return location[0] == "destinations" and len(location) > 2 and part is location[2]  # noqa: PLR2004


def _dotted(location: list[Any]) -> str:
    key = ""
    for part in location:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
    return key


def _show(value: object) -> str:
    if isinstance(value, str):
        return f'"{mask(value)}"'
    if isinstance(value, bool):
        return str(value).lower()
    return "{…}" if isinstance(value, dict) else str(value)


def _did_you_mean(word: str, known: Mapping[str, Any] | set[str]) -> str:
    if not known:
        return "; there is none"
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f'; did you mean "{near[0]}"?' if near else f"; known here: {', '.join(sorted(known))}"


def _known_keys(location: list[Any], raw: dict[str, Any]) -> set[str]:
    """The keys of the model at `location`, found by walking the annotations beside the raw data."""
    models: list[type[BaseModel]] = [Settings]
    data: Any = raw
    for part in location:
        data = data[part]
        if isinstance(part, str):
            models = [found for model in models for found in _models_in(model.model_fields[part].annotation)]
    if isinstance(data, dict) and location[:1] == ["destinations"]:
        models = [model for model in models if data.get("kind") in get_args(model.model_fields["kind"].annotation)]
    return {key for model in models for key in model.model_fields}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _models_in(argument)]


def _cross_faults(raw: dict[str, Any]) -> Iterator[str]:
    """Faults between tables. Works on the raw data, so that they are told together with the faults inside tables."""
    yield from _store_faults(raw.get("store"))
    sources, feeds, destinations = (_tables(raw, key) for key in ("data_sources", "feeds", "destinations"))
    if not sources and "data_sources" in raw:
        yield "data_sources: empty; every ID belongs to a data source"
    for key, tables, unique in (
        ("data_sources", sources, ("name", "dpid", "integration_code")),
        ("feeds", feeds, ("name",)),
        ("destinations", destinations, ("name",)),
    ):
        for field in unique:
            yield from _repeats(key, tables, field)
    yield from _source_faults(sources)
    names = {str(source.get("name")) for source in sources}
    dpids = {str(source.get("name")): str(source.get("dpid")) for source in sources}
    for index, feed in enumerate(feeds):
        where = f"feeds[{index}]"
        if isinstance(name := feed.get("data_source"), str) and name not in names:
            yield f'{where}.data_source = "{name}": no such data source{_did_you_mean(name, names)}'
        targets = {str(destination.get("name")) for destination in destinations}
        if isinstance(name := feed.get("destination"), str) and name not in targets:
            yield f'{where}.destination = "{name}": no such destination{_did_you_mean(name, targets)}'
        yield from _feed_faults(where, feed)
        yield from _user_faults(where, feed, dpids)
        if feed.get("compression") == "pgp" and "pgp" not in raw:
            yield f'{where}.compression = "pgp": needs the table [pgp] with public_key_file'
    for index, destination in enumerate(destinations):
        if destination.get("kind") != "s3":
            continue
        if not raw.get("partner"):
            yield f'partner: missing; destinations[{index}] of kind "s3" puts it in front of every key'
        if not destination.get("bucket") and not destination.get("environment"):
            yield f'destinations[{index}].bucket: missing; give it, or environment = "production" or "beta"'


def _store_faults(store: Any) -> Iterator[str]:
    if not isinstance(store, dict) or not isinstance(url := store.get("url"), str):
        return
    for key in ("tls_ca_file", "tls_cert_file", "tls_key_file"):
        if key in store and not url.startswith("rediss"):
            yield f"store.{key}: store.url has no TLS; let it start with rediss:// or rediss+cluster://"
    if "tls_key_file" in store and "tls_cert_file" not in store:
        yield "store.tls_cert_file: missing; store.tls_key_file is the key of a certificate"
    if store.get("replicas") and url.startswith("sqlite"):
        yield f"store.replicas = {_show(store['replicas'])}: SQLite has none; it goes with a redis URL"


def _source_faults(sources: list[dict[str, Any]]) -> Iterator[str]:
    devices = {str(dpid) for dpid in DEVICE_ID_SHAPES}  # as text: an override from the environment is text, too
    for index, source in enumerate(sources):
        if (form := source.get("format", "any")) != "any" and str(source.get("dpid")) in devices:
            where = f"data_sources[{index}].format = {_show(form)}"
            yield f"{where}: {source['dpid']} is a global device data source, whose IDs are never hashed; leave it out"


def _feed_faults(where: str, feed: dict[str, Any]) -> Iterator[str]:
    if feed.get("kind") == "email-hashes":
        yield from _email_faults(where, feed)
        return
    for key in ("email_column", "email_data_source"):
        if key in feed:
            yield f'{where}.{key}: needs kind = "email-hashes"'
    if not any(feed.get(key) for key in ("signals", "trait_columns", "rules", "constant_traits")):
        yield f"{where}: sends nothing; give signals, trait_columns, rules or constant_traits"
    if feed.get("unmatched") == "emit" and feed.get("user_id", "uuid") != "customer-id":
        yield f'{where}.unmatched = "emit": unmatched records have no UUID; set user_id = "customer-id" or hold them'
    for field in ("signals", "trait_columns"):
        columns = feed.get(field)
        if isinstance(columns, list) and feed.get("id_column") in columns:
            yield f"{where}.{field}: holds the id_column {_show(feed['id_column'])}; an ID is never sent as data"


# What a feed of e-mail hashes has no use for: it sends no data, asks for no device, and has no removals.
_OF_DATA = (
    *("mode", "user_id", "dpid", "target", "devices", "unmatched", "held_days", "conflicts", "unsendable"),
    *("signals", "signal_keys", "constants", "constant_traits", "trait_columns", "rules", "known_traits_file"),
    *("changes_only", "vanished", "max_vanished", "optout_removals", "empty_overwrite"),
)


def _email_faults(where: str, feed: dict[str, Any]) -> Iterator[str]:
    for key in ("email_column", "email_data_source"):
        if not feed.get(key):
            yield f'{where}.{key}: missing; a feed of kind = "email-hashes" needs it'
    for key in _OF_DATA:
        if key in feed:
            yield f'{where}.{key} = {_show(feed[key])}: says nothing with kind = "email-hashes"; leave it out'
    if feed.get("compression") == "pgp":
        yield f'{where}.compression = "pgp": ID-sync files are sent plain or gzipped'
    if "email_column" in feed and feed["email_column"] == feed.get("id_column"):
        yield f"{where}.email_column = {_show(feed['email_column'])}: the same as id_column"


def _user_faults(where: str, feed: dict[str, Any], dpids: Mapping[str, str]) -> Iterator[str]:
    """Faults of whose IDs a feed sends; `dpids` of the data sources by name, as text."""
    own, emails = feed.get("data_source"), feed.get("email_data_source")
    if emails is not None and (str(emails) not in dpids or emails == own):
        told = "the feed's own" if emails == own else f"no such data source{_did_you_mean(str(emails), set(dpids))}"
        yield f"{where}.email_data_source = {_show(emails)}: {told}; name the one that holds the hashes"
    if feed.get("kind") == "email-hashes":
        return
    user_id = str(feed.get("user_id", "uuid"))
    named = user_id not in {"uuid", "customer-id"}
    if named and user_id == own:
        yield f'{where}.user_id = "{user_id}": the feed\'s own data source; set "customer-id"'
    elif named and user_id not in dpids:
        known = {"uuid", "customer-id", *dpids}
        yield f'{where}.user_id = "{user_id}": no such data source{_did_you_mean(user_id, known)}'
    dpid = str(feed.get("dpid") or dpids.get(user_id if named else str(own)))
    if dpid not in {str(device) for device in DEVICE_ID_SHAPES}:
        return
    if user_id == "uuid":
        yield (
            f'{where}.user_id = "uuid": {dpid} in the file\'s name is a global device data source, which has IDs of its'
            ' own; set "customer-id" or the name of a data source'
        )
    if not feed.get("target"):
        yield (
            f"{where}.target: missing; {dpid} in the file's name is a global device data source, and the file must say"
            " whose traits it brings"
        )


def _tables(raw: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = raw.get(key)
    return [member for member in value if isinstance(member, dict)] if isinstance(value, list) else []


def _repeats(key: str, tables: list[dict[str, Any]], field: str) -> Iterator[str]:
    seen: dict[str, int] = {}
    for index, table in enumerate(tables):
        if (value := table.get(field)) is None:
            continue
        first = seen.setdefault(str(value), index)
        if first != index:
            yield f"{key}[{index}].{field} = {_show(value)}: the same as in {key}[{first}]"
