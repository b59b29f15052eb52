"""deploy/prometheus and deploy/grafana: Prometheus itself reads the rules, and each alert fires when it should, alone.

Every metric, label and value that they name is one of the endpoint's; every alert has its place in the runbook.
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from idsync import consent, ids, metrics
from idsync.outcomes import Outcome
from idsync.store.spool import Waiting
from tests.deploy.documents import RUNBOOK, anchors

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
RULES: list[dict[str, Any]] = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"][0]["rules"]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana" / "idsync.json").read_text())
# Prometheus' own, and blackbox_exporter's, which prometheus.yaml asks for
FOREIGN = {"up", "probe_success"}
VALUES: dict[str, set[str]] = {
    "outcome": {outcome.label for outcome in Outcome},
    "reason": set(ids.EXPLANATIONS),
    "signal": set(consent.DENIALS),
    "job": {"idsync", "idsync-readyz"},
}
WEEK = 7 * 24 * 60


def exposed() -> dict[str, set[str]]:
    """Each series' name with its labels, as /metrics shows them."""
    metrics.Metrics([])
    body, _ = metrics.expose(lambda: Waiting(0, 0.0, 0))
    samples = [sample for family in text_string_to_metric_families(body.decode()) for sample in family.samples]
    return {sample.name: set(sample.labels) for sample in samples}


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def expressions() -> list[str]:
    return [rule["expr"] for rule in RULES] + queries()


def promtool(*arguments: str | Path) -> str:
    told = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    return told.stdout


# --- what they name --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("expression", expressions())
def test_every_metric_label_and_value_exists(expression: str) -> None:
    known = exposed()
    named = set(re.findall(r"\b(idsync_\w+|up|probe_success)\b(?!-)", re.sub(r'"[^"]*"', "", expression)))
    assert named
    assert named <= known.keys() | FOREIGN
    labels = {label for name in named for label in known.get(name, set())} | {"instance", "job"}
    for grouped in re.findall(r"\b(?:by|on) ?\(([^)]*)\)", expression):
        assert {label.strip() for label in grouped.split(",")} <= labels
    for label, _, value in re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', expression):
        assert label in labels
        if not value.startswith("$"):
            assert set(value.split("|")) <= VALUES[label], value


def test_every_call_that_is_refused_or_lost_is_in_an_alert() -> None:
    watched = {
        value for rule in RULES for value in "|".join(re.findall(r'outcome=~?"([^"]*)"', rule["expr"])).split("|")
    }
    assert {outcome.label for outcome in Outcome if outcome.status >= 400} <= watched


def test_every_metric_is_on_the_dashboard() -> None:
    """A histogram by its buckets."""
    text = " ".join(queries())
    metrics.Metrics([])
    body, _ = metrics.expose(lambda: Waiting(0, 0.0, 0))
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", body.decode(), re.MULTILINE):
        assert (f"{name}_bucket" if kind == "histogram" else name) in text, name


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_every_alert_has_its_place_in_the_runbook(rule: dict[str, Any]) -> None:
    path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert ROOT / path == RUNBOOK
    assert anchor in anchors(RUNBOOK)
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"]["summary"]


def test_prometheus_can_read_them(tmp_path: Path) -> None:
    promtool("check", "rules", FOLDER / "alerts.yaml")
    promtool("check", "config", FOLDER / "prometheus.yaml")
    plain = [query.replace("$__rate_interval", "5m").replace("$data_source", ".*") for query in queries()]
    records = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(plain)]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": records}]}))
    promtool("check", "rules", tmp_path / "panels.yaml")


def test_the_dashboard_is_whole() -> None:
    assert DASHBOARD["uid"] == "idsync"
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(identifiers) == len(set(identifiers))
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z_]\w*)", json.dumps(DASHBOARD["panels"]))) - {"__rate_interval"}
    assert used == variables
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["title"]


# --- when they fire --------------------------------------------------------------------------------------------------

STORED = 'idsync_calls_total{instance="a", outcome="stored", data_source="crm"}'
READY = 'probe_success{instance="a", job="idsync-readyz"}'
# by series: what a healthy endpoint shows for a week and three hours, a value a minute
LONG = WEEK + 180
HEALTHY = {
    'up{instance="a", job="idsync"}': f"1x{LONG}",
    READY: f"1x{LONG}",
    STORED: f"0+600x{LONG}",
    'idsync_calls_total{instance="a", outcome="consent-denied", data_source="crm"}': f"0+200x{LONG}",
    'idsync_calls_total{instance="a", outcome="opted-out", data_source="crm"}': f"0+10x{LONG}",
    'idsync_calls_total{instance="a", outcome="customer-id-invalid", data_source="crm"}': f"0+5x{LONG}",
    'idsync_calls_total{instance="a", outcome="rate-limited", data_source="none"}': f"0+1x{LONG}",
    'idsync_calls_total{instance="a", outcome="failed", data_source="none"}': f"0x{LONG}",
    'idsync_denied_calls_total{instance="a", signal="tcf"}': f"0+199x{LONG}",
    'idsync_denied_calls_total{instance="a", signal="unreadable"}': f"0+1x{LONG}",
    'idsync_refused_ids_total{instance="a", reason="id-macro"}': f"0+5x{LONG}",
    'idsync_refused_ids_total{instance="a", reason="id-email"}': f"0x{LONG}",
    'idsync_spool_mappings{instance="a"}': f"0x{LONG}",
    'idsync_spool_age_seconds{instance="a"}': f"0x{LONG}",
    'idsync_spool_opt_outs{instance="a"}': f"0x{LONG}",
    'idsync_store_failures_total{instance="a"}': f"0x{LONG}",
    'idsync_queue_calls{instance="a"}': f"12x{LONG}",
    'idsync_call_seconds_bucket{instance="a", le="0.05"}': f"0+600x{LONG}",
    'idsync_call_seconds_bucket{instance="a", le="1"}': f"0+600x{LONG}",
    'idsync_call_seconds_bucket{instance="a", le="+Inf"}': f"0+600x{LONG}",
    'idsync_store_seconds_bucket{instance="a", le="0.05"}': f"0+600x{LONG}",
    'idsync_store_seconds_bucket{instance="a", le="1"}': f"0+600x{LONG}",
    'idsync_store_seconds_bucket{instance="a", le="+Inf"}': f"0+600x{LONG}",
}
CALLS = 'idsync_calls_total{{instance="a", outcome="{}", data_source="crm"}}'
NO_DENIALS: dict[str, str | None] = {'idsync_denied_calls_total{instance="a", signal="unreadable"}': f"0x{LONG}"}


class Trouble(NamedTuple):
    """`series` in place of, or beside, those of HEALTHY (None: missing); `at`, a minute. `also`: what goes with it."""

    series: dict[str, str | None]
    at: int = 120
    also: tuple[str, ...] = ()


def later(slope: int, then: int) -> str:
    """A counter that has grown by `slope` a minute, and for the last two hours and a half by `then`."""
    return f"0+{slope}x{WEEK + 29} {slope * (WEEK + 30)}+{then}x150"


TROUBLES = {
    "IdsyncDown": Trouble({'up{instance="a", job="idsync"}': "1x60 0x60"}),
    "IdsyncNotReady": Trouble({READY: "1x60 0x60"}),
    "IdsyncCallsLost": Trouble({CALLS.format("store-unavailable"): "0x60 0+1x60"}),
    "IdsyncSpoolAgeing": Trouble(
        {'idsync_spool_mappings{instance="a"}': "0x60 5x60", 'idsync_spool_age_seconds{instance="a"}': "0x60 0+60x60"},
        also=("IdsyncSpoolNotEmpty",),
    ),
    "IdsyncSpoolNotEmpty": Trouble({'idsync_spool_mappings{instance="a"}': "0x60 5x60"}),
    "IdsyncOptOutsWait": Trouble({'idsync_spool_opt_outs{instance="a"}': "0x60 1x60"}),
    "IdsyncSpoolUnreadable": Trouble({'idsync_spool_mappings{instance="a"}': None}),
    "IdsyncStoreFails": Trouble({'idsync_store_failures_total{instance="a"}': "0x110 0 2 2 2 4 4 4 6 6 6 8"}),
    "IdsyncNoCalls": Trouble({**{each: "1000000x120" for each in HEALTHY if "idsync_calls" in each}, **NO_DENIALS}),
    "IdsyncFewCalls": Trouble(
        {
            STORED: later(600, 60),
            CALLS.format("consent-denied"): later(200, 20),
            CALLS.format("opted-out"): later(10, 1),
            CALLS.format("customer-id-invalid"): later(5, 0),
            'idsync_calls_total{instance="a", outcome="rate-limited", data_source="none"}': later(1, 0),
            **NO_DENIALS,
        },
        at=LONG,
    ),
    "IdsyncCallsRefused": Trouble({CALLS.format("customer-id-invalid"): "0x60 0+100x60"}),
    "IdsyncCallsDenied": Trouble({CALLS.format("device-denied"): "0x60 0+100x60"}),
    "IdsyncRateLimited": Trouble({CALLS.format("rate-limited"): "0x60 0+100x60"}),
    "IdsyncConsentFell": Trouble({CALLS.format("consent-denied"): later(200, 600)}, at=LONG),
    "IdsyncConsentUnreadable": Trouble({'idsync_denied_calls_total{instance="a", signal="unreadable"}': "0+50x120"}),
    "IdsyncOptedOutSurge": Trouble({CALLS.format("opted-out"): later(10, 200)}, at=LONG),
    "IdsyncPersonalData": Trouble({'idsync_refused_ids_total{instance="a", reason="id-email"}': "0x100 0+1x20"}),
    "IdsyncQueueLong": Trouble({'idsync_queue_calls{instance="a"}': "12x60 3000x60"}),
    "IdsyncSlow": Trouble({'idsync_call_seconds_bucket{instance="a", le="0.05"}': "0+500x120"}),
    "IdsyncStoreSlow": Trouble({'idsync_store_seconds_bucket{instance="a", le="0.05"}': "0+500x120"}),
}


def scenario(name: str, trouble: Trouble, firing: tuple[str, ...]) -> dict[str, Any]:
    series = {**HEALTHY, **trouble.series}
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": each, "values": values} for each, values in series.items() if values],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": f"{trouble.at}m",
                "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in firing],
            }
        ],
    }


def test_each_alert_fires_in_its_trouble_and_no_other_does(tmp_path: Path) -> None:
    assert set(TROUBLES) == {rule["alert"] for rule in RULES}
    tests = [scenario("healthy", Trouble({}, at=LONG), ())]
    tests += [scenario(name, trouble, (name, *trouble.also)) for name, trouble in TROUBLES.items()]
    path = tmp_path / "tests.yaml"
    path.write_text(
        yaml.safe_dump({"rule_files": [str(FOLDER / "alerts.yaml")], "evaluation_interval": "10m", "tests": tests})
    )
    promtool("test", "rules", path)
