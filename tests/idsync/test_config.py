"""The configuration: every fault at once, each with key and value; overrides; secrets."""

from pathlib import Path

import pytest

from idsync import config, ids
from idsync.errors import ConfigError
from idsync.settings import MAX_TRAIT_DIGITS, S3Destination, Settings

GOOD = """
partner = "acme"
[store]
url = "sqlite:///var/idsync.db"
[privacy]
gdpr_default = "does-not-apply"
[[data_sources]]
name = "crm"
dpid = 12345
[[feeds]]
name = "crm-daily"
data_source = "crm"
inputs = "inbox/crm-*.csv"
id_column = "customer_id"
signals = ["gender"]
destination = "local"
[[destinations]]
name = "local"
kind = "directory"
path = "var/delivered"
[[destinations]]
name = "aam-1"
kind = "s3"
environment = "production"
"""
BASE = Path("/srv/idsync")


def parse(text: str = GOOD, **environ: str) -> Settings:
    return config.parse(text, environ=environ, base=BASE, source="idsync.toml")


def faults(text: str = GOOD, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, **environ)
    assert caught.value.exit_status == 2
    assert str(caught.value).startswith(f"idsync.toml: {len(caught.value.faults)} fault")
    return list(caught.value.faults)


def test_relative_paths_are_relative_to_the_file() -> None:
    settings = parse()
    assert settings.store.url == "sqlite:////srv/idsync/var/idsync.db"
    assert settings.feeds[0].inputs == "/srv/idsync/inbox/crm-*.csv"
    assert config.parse(GOOD, environ={}, base=Path("/srv/a[1]*")).feeds[0].inputs == "/srv/a[[]1][*]/inbox/crm-*.csv"
    assert settings.destinations[0] == settings.destination("local")
    assert settings.reconcile.state_dir == BASE / "var/reconcile"
    assert parse(GOOD.replace("sqlite:///var", "sqlite:////data")).store.url == "sqlite:////data/idsync.db"


def test_all_faults_are_told_at_once() -> None:
    text = (
        GOOD.replace('gdpr_default = "does-not-apply"', "vendor_id = 0")
        .replace("dpid = 12345", "dpid = 0\nintegratio_code = 7")
        .replace('data_source = "crm"', 'data_source = "crmm"')
        .replace(
            'destination = "local"',
            'destination = "nowhere"\nuser_id = "idfa"\nmode = "overwrite"\nchanges_only = true',
        )
        .replace('environment = "production"', 'enviroment = "production"')
        + '[[destinations]]\nname = "local"\nkind = "scp"\n[endpont]\nbind = "x"\n'
    )
    assert faults(text.replace('partner = "acme"\n', "")) == [
        "privacy.gdpr_default: missing",
        "privacy.vendor_id = 0: must be greater than or equal to 1",
        "data_sources[0].dpid = 0: must be greater than or equal to 1",
        'data_sources[0].integratio_code = 7: unknown key; did you mean "integration_code"?',
        'feeds[0].changes_only = true: needs mode = "sync"',
        'destinations[1].enviroment = "production": unknown key; did you mean "environment"?',
        'destinations[2].kind = "scp": must be directory, s3, ftp, ftps or sftp',
        'endpont = {…}: unknown key; did you mean "endpoint"?',
        'destinations[2].name = "local": the same as in destinations[0]',
        'feeds[0].data_source = "crmm": no such data source; did you mean "crm"?',
        'feeds[0].destination = "nowhere": no such destination; known here: aam-1, local',
        'feeds[0].user_id = "idfa": no such data source; known here: crm, customer-id, uuid',
        'partner: missing; destinations[1] of kind "s3" puts it in front of every key',
        'destinations[1].bucket: missing; give it, or environment = "production" or "beta"',
    ]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("sqlite:///var/idsync.db", "postgres://x", "must start with sqlite:///"),
        ("sqlite:///var/idsync.db", "sqlite://var/idsync.db", "a sqlite URL is"),
        ("sqlite:///var/idsync.db", "redis://u:hush@h:6379", "a password in the file"),
        ('signals = ["gender"]', "", "sends nothing"),
        ('signals = ["gender"]', 'signals = ["a\\"b"]', "feeds[0].signals[0]"),
        ('signals = ["gender"]', 'signals = ["customer_id"]', "an ID is never sent as data"),
        (
            'signals = ["gender"]',
            'signals = "gender"',
            'feeds[0].signals = "gender": must be a list, written as ["a", "b"], or with numbers as [1, 2]',
        ),
        ("[[feeds]]", "[feeds]", "feeds = {…}: must be a list, one table for each member, headed [[feeds]]"),
        (
            'signals = ["gender"]',
            "constant_traits = [24, 1000000000000000000]",
            "feeds[0].constant_traits[1] = 1000000000000000000: must have at most 18 digits",
        ),
        (
            'signals = ["gender"]',
            'rules = [{ column = "a", present = true, trait = 1000000000000000000 }]',
            "feeds[0].rules[0].trait = 1000000000000000000: must have at most 18 digits",
        ),
        ('id_column = "customer_id"', 'id_column = "customer_id"\nunmatched = "emit"', "have no UUID"),
        ('id_column = "customer_id"', 'id_column = "customer_id"\ncompression = "pgp"', "needs the table [pgp]"),
        ('id_column = "customer_id"', 'id_column = "customer_id"\nmax_rejected = 2', "less than or equal to 1"),
        ("inbox/crm-*.csv", "s3://BUCKET", "must be a glob of local files, or s3://"),
        ('kind = "directory"\n', "", "destinations[0].kind: missing"),
        (
            'environment = "production"',
            'environment = "production"\nrole_arn = "arn:x"',
            'role_arn = "arn:x": String should match',
        ),
        ("[privacy]", '[endpoint]\nredirect_hosts = ["https://x"]\n[privacy]', "must be a lower-case host"),
        ("[privacy]", '[endpoint]\npublic_url = "sync.example.com"\n[privacy]', "scheme and host only"),
        ("[privacy]", '[endpoint]\ncookie_domain = ".example.com"\n[privacy]', "endpoint.cookie_domain"),
        ("[privacy]", '[endpoint]\ncookie_domain = "192.0.2.1"\n[privacy]', "endpoint.cookie_domain"),
        ("[privacy]", '[endpoint]\ncookie_domain = "example"\n[privacy]', "endpoint.cookie_domain"),
        ("[privacy]", '[endpoint]\ncookie_name = "a b"\n[privacy]', "endpoint.cookie_name"),
        ("[privacy]", '[endpoint]\ncors_origins = ["https://www.example.com/"]\n[privacy]', "as browsers send it"),
        ("[privacy]", '[endpoint]\ncors_origins = ["https://www.example.com:443"]\n[privacy]', "as browsers send it"),
        ("[privacy]", '[endpoint]\ncors_origins = ["https://WWW.example.com"]\n[privacy]', "as browsers send it"),
        ("[privacy]", '[endpoint]\ncors_origins = ["*"]\n[privacy]', "as browsers send it"),
        ("[privacy]", '[endpoint]\ncors_origins = ["null"]\n[privacy]', "as browsers send it"),
        ("[privacy]", '[reconcile]\nmemory_limit = "lots"\n[privacy]', "must be a size"),
        ("[[data_sources]]", '[[data_sources]]\nname = "web"\ndpid = 12345\n[[data_sources]]', "the same as in"),
        ("dpid = 12345", 'dpid = 12345\nformat = "hashed"', "must be 'any' or 'hashed-email'"),
        ("dpid = 12345", 'dpid = 12345\nunchecked = ["cards"]', "'email', 'phone' or 'card'"),
        ("dpid = 12345", 'dpid = 12345\nnational_ids = ["us", "uk"]', 'national_ids[1] = "uk": must be one of at, be'),
        ("dpid = 12345", 'dpid = 20915\nformat = "hashed-email"', "whose IDs are never hashed"),
        ("dpid = 12345", 'dpid = [20915]\nformat = "hashed-email"', "data_sources[0].dpid"),
    ],
)
def test_each_kind_of_fault_names_its_place(old: str, new: str, fault: str) -> None:
    assert any(fault in found for found in faults(GOOD.replace(old, new)))


def test_a_data_source_says_what_its_ids_must_be_like() -> None:
    (source,) = parse().data_sources
    assert source.id_rules == ids.DEFAULT_RULES
    assert source.id_rules is source.id_rules  # made once: it is asked for on every call
    asked = 'dpid = 12345\nformat = "hashed-email"\nunchecked = ["card", "phone"]\nnational_ids = ["us"]'
    (source,) = parse(GOOD.replace("dpid = 12345", asked)).data_sources
    reasons = [reason for reason, _ in source.id_rules.checks]
    assert reasons == ["id-sentinel", "id-macro", "id-email", "id-national-id"]
    assert ids.customer_id_fault("4711", source.id_rules) == "id-not-hashed-email"
    assert ids.customer_id_fault("536-90-4399", source.id_rules) == "id-national-id"
    of_devices = GOOD.replace("dpid = 12345", "dpid = 20915").replace(
        "id_column", 'user_id = "customer-id"\ntarget = 21\nid_column'
    )
    (source,) = parse(of_devices).data_sources
    assert ids.customer_id_fault("4711", source.id_rules) == ids.DEVICE_ID_SHAPE


def test_global_device_data_sources_have_a_code_that_is_everybodys() -> None:
    assert parse().sources_by_code == {}
    devices = "".join(
        f'[[data_sources]]\nname = "device-{dpid}"\ndpid = {dpid}\n{code}\n'
        for dpid, code in ((20914, 'integration_code = "droid"'), (20915, ""), (121963, ""))
    )
    found = {code: source.dpid for code, source in parse(GOOD + devices).sources_by_code.items()}
    assert found == {"DSID_20914": 20914, "droid": 20914, "DSID_20915": 20915}


def test_an_override_of_the_dpid_is_held_against_the_format() -> None:
    text = GOOD.replace("dpid = 12345", 'dpid = 12345\nformat = "hashed-email"')
    assert "20915 is a global device data source" in faults(text, IDSYNC_DATA_SOURCES__CRM__DPID="20915")[0]


def test_a_file_that_is_no_toml_or_not_there(tmp_path: Path) -> None:
    assert "not valid TOML" in faults("partner = ")[0]
    with pytest.raises(ConfigError, match="no such file"):
        config.load(tmp_path / "missing.toml", {})
    with pytest.raises(ConfigError, match="can't be read"):
        config.load(tmp_path, {})


def test_the_file_is_named_by_option_then_environment(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.toml").write_text(GOOD.replace('"acme"', f'"{name}"'))
    environ = {"IDSYNC_CONFIG": str(tmp_path / "two.toml")}
    assert config.load(tmp_path / "one.toml", environ).partner == "one"
    assert config.load(None, environ).partner == "two"


def test_any_value_can_come_from_the_environment() -> None:
    settings = parse(
        IDSYNC_PARTNER="other",
        IDSYNC_STORE__URL="redis://user:hush@host:6379/0",
        IDSYNC_STORE__MAPPING_TTL_DAYS="7",
        IDSYNC_ENDPOINT__REDIRECT_HOSTS='["a.example", ".b.example"]',
        IDSYNC_DESTINATIONS__AAM_1__BUCKET="mine",
        IDSYNC_FEEDS__0__TARGET="21",
    )
    assert (settings.partner, settings.store.mapping_ttl_days) == ("other", 7)
    assert settings.store.url == "redis://user:hush@host:6379/0"
    assert settings.endpoint.redirect_hosts == ("a.example", ".b.example")
    bucket = settings.destination("aam-1")
    assert isinstance(bucket, S3Destination)
    assert bucket.bucket == "mine"
    assert settings.feeds[0].target == 21


def test_overrides_that_fit_nowhere_are_faults_but_not_what_kubernetes_sets() -> None:
    found = faults(
        IDSYNC_ENDPONT__BIND="x",
        IDSYNC_STORE__ULR="x",
        IDSYNC_DESTINATIONS__NOBODY__BUCKET="x",
        IDSYNC_FEEDS="x",
        IDSYNC_PARTNER__X="x",
        IDSYNC_PORT="tcp://10.0.0.1:80",
        IDSYNC_SERVICE_HOST="10.0.0.1",
    )
    assert found[0] == '$IDSYNC_DESTINATIONS__NOBODY__BUCKET: no member is called "nobody"; known here: aam_1, local'
    assert found[1] == '$IDSYNC_ENDPONT__BIND: there is no table "endpont"; did you mean "endpoint"?'
    assert any('"partner" is a value' in fault for fault in found)
    assert any('store.ulr = "x": unknown key; did you mean "url"?' in fault for fault in found)


def test_a_variable_of_a_member_where_there_is_none() -> None:
    text = GOOD[: GOOD.index("[[feeds]]")]
    assert faults(text, IDSYNC_FEEDS__DAILY__TARGET="21") == [
        '$IDSYNC_FEEDS__DAILY__TARGET: no member is called "daily"; there is none'
    ]


def test_a_fault_of_a_value_from_the_environment_names_its_variable() -> None:
    found = faults(
        IDSYNC_STORE__BUCKETS="many",
        IDSYNC_FEEDS__CRM_DAILY__SIGNALS="gender",
        IDSYNC_FEEDS__CRM_DAILY__CONSTANT_TRAITS="[24, 1000000000000000000]",
        IDSYNC_FEEDS__0__DESTINATION="nowhere",
        IDSYNC_ENDPOINT="{ bind = 1, cookie_nam = 'a' }",
        IDSYNC_ENDPOINT__BIND="[]",
    )
    assert found == [
        '$IDSYNC_STORE__BUCKETS: store.buckets = "many": must be a valid integer, unable to parse string as an integer',
        "$IDSYNC_ENDPOINT__BIND: endpoint.bind = []: must be a valid string",
        '$IDSYNC_ENDPOINT: endpoint.cookie_nam = "a": unknown key; did you mean "cookie_name"?',
        '$IDSYNC_FEEDS__CRM_DAILY__SIGNALS: feeds[0].signals = "gender": must be a list, written as ["a", "b"], or with'
        " numbers as [1, 2]",
        "$IDSYNC_FEEDS__CRM_DAILY__CONSTANT_TRAITS: feeds[0].constant_traits[1] = 1000000000000000000: must have at"
        " most 18 digits",
        '$IDSYNC_FEEDS__0__DESTINATION: feeds[0].destination = "nowhere": no such destination; known here: aam-1,'
        " local",
    ]


def test_a_fault_of_a_key_with_a_like_name_is_not_the_variables() -> None:
    text = GOOD.replace("[privacy]", "[reconcile]\nstate_dir_ = 1\n[privacy]")
    (fault,) = faults(text, IDSYNC_RECONCILE__STATE_DIR="var")
    assert fault.startswith("reconcile.state_dir_ = 1: unknown key")


def test_the_longest_trait_passes() -> None:
    text = GOOD.replace('signals = ["gender"]', f"constant_traits = [{'9' * MAX_TRAIT_DIGITS}]")
    assert parse(text).feeds[0].constant_traits == (10**MAX_TRAIT_DIGITS - 1,)


def test_a_password_that_has_no_use_is_an_unknown_key_and_not_shown() -> None:
    assert faults(IDSYNC_DESTINATIONS__LOCAL__PASSWORD="hush") == [
        "$IDSYNC_DESTINATIONS__LOCAL__PASSWORD: destinations[0].password: unknown key; known here: kind, name, path"
    ]


def test_no_fault_shows_a_password() -> None:
    for text in faults(IDSYNC_STORE__URL="rediss://user:hush@host:bad", IDSYNC_STORE__BUCKETS="0"):
        assert "hush" not in text
    assert config.mask("can't reach redis://user:hush@host:1/0, nor rediss://:hush@other") == (
        "can't reach redis://user:***@host:1/0, nor rediss://:***@other"
    )
