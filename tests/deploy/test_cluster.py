"""deploy/cluster: manifests that Kubernetes takes, and that agree with the application, the image and each other.

No Kubernetes runs here. Each manifest is held against the schemas of Kubernetes; what would run in the pods is run in
test_cluster_pods and test_cluster_redis.
"""

import math
import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from idsync import config
from tests.deploy import commands
from tests.deploy.documents import anchors
from tests.deploy.test_container import CONTAINERFILE, instructions
from tests.deploy.test_monitoring import exposed
from tests.deploy.test_sizes import RULES

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "cluster"
README = FOLDER / "README.md"
VERSIONS = ("1.32", "1.37")  # the oldest that has all that is used here, and the newest known
BYTES_A_MAPPING = 55
FOR_SPARK = {"spark.yaml", "Containerfile.spark", "executor.sh", "requirements-spark.txt", "submit.py"}
NOT_APPLIED = {"kustomization.yaml", "prometheus-adapter.yaml", ".gitignore"} | FOR_SPARK
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
DOCUMENTS: list[dict[str, Any]] = [
    document for name in KUSTOMIZATION["resources"] for document in yaml.safe_load_all((FOLDER / name).read_text())
]
SETTINGS = config.load(FOLDER / "idsync.toml", environ={})


def named(kind: str) -> dict[str, dict[str, Any]]:
    return {document["metadata"]["name"]: document for document in DOCUMENTS if document["kind"] == kind}


def pods() -> dict[str, dict[str, Any]]:
    """The template of each kind of pod, by the name of what makes it."""
    found = {}
    for document in DOCUMENTS:
        spec = document.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            found[document["metadata"]["name"]] = spec["template"]
    return found


def labels() -> dict[str, dict[str, str]]:
    return {name: pod["metadata"]["labels"] for name, pod in pods().items()}


def container(name: str) -> dict[str, Any]:
    [only] = pods()[name]["spec"]["containers"]
    return dict(only)


def quantity(text: str) -> float:
    """Bytes."""
    return float(text[:-2]) * {"Mi": 1 << 20, "Gi": 1 << 30}[text[-2:]]


def figures() -> dict[str, int]:
    rows = re.findall(r"^#   (\w+)  +\S.*?  +([\d,]+)(?: |$)", (FOLDER / "idsync.toml").read_text(), re.MULTILINE)
    return {name: int(value.replace(",", "")) for name, value in rows}


# --- Kubernetes takes them -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_one_of_kubernetes(version: str) -> None:
    assert len(DOCUMENTS) > 20
    for document in DOCUMENTS:
        kubernetes_validate.validate(document, version, strict=True)


def test_the_kustomization_names_every_file() -> None:
    made = [
        pair
        for kind in ("configMapGenerator", "secretGenerator")
        for each in KUSTOMIZATION[kind]
        for pair in each["files"]
    ]
    sources = {pair.rpartition("=")[2] for pair in made}
    steps = README.read_text()
    for source in sources:
        assert (FOLDER / source).exists() or (source.startswith("secrets/") and source in steps), source
    files = {path.name for path in FOLDER.iterdir() if path.is_file()} - {"README.md"}
    assert files - NOT_APPLIED == {*KUSTOMIZATION["resources"], *(name for name in sources if "/" not in name)}


def test_two_of_a_kind_have_two_names() -> None:
    names = [(document["kind"], document["metadata"]["name"]) for document in DOCUMENTS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", pods())
def test_every_pod_is_fenced_in(name: str) -> None:
    spec, only = pods()[name]["spec"], container(name)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert only["resources"]["requests"].keys() == {"cpu", "memory"}
    assert quantity(only["resources"]["limits"]["memory"]) >= quantity(only["resources"]["requests"]["memory"])


@pytest.mark.parametrize("name", pods())
def test_what_a_pod_mounts_is_there(name: str) -> None:
    made = {
        kind: {each["name"] for each in KUSTOMIZATION[generator]}
        for kind, generator in (("configMap", "configMapGenerator"), ("secret", "secretGenerator"))
    }
    volumes = {volume["name"]: volume for volume in pods()[name]["spec"].get("volumes", [])}
    claims = named("StatefulSet").get(name, {}).get("spec", {}).get("volumeClaimTemplates", [])
    mounted = {mount["name"] for mount in container(name)["volumeMounts"]}
    assert mounted == volumes.keys() | {claim["metadata"]["name"] for claim in claims}
    for volume in volumes.values():
        if "configMap" in volume:
            assert volume["configMap"]["name"] in made["configMap"]
        if "secret" in volume:
            assert volume["secret"]["secretName"] in made["secret"]
            assert volume["secret"]["defaultMode"] == 0o440
        if "persistentVolumeClaim" in volume:
            assert volume["persistentVolumeClaim"]["claimName"] in named("PersistentVolumeClaim")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_spark_application_is_one_of_kubernetes_and_of_ours(version: str) -> None:
    documents = {each["kind"]: each for each in yaml.safe_load_all((FOLDER / "spark.yaml").read_text())}
    for document in documents.values():
        kubernetes_validate.validate(document, version, strict=True)
        assert document["metadata"]["namespace"] == KUSTOMIZATION["namespace"]
    job = documents["CronJob"]["spec"]
    assert job["concurrencyPolicy"] == "Forbid"
    template = job["jobTemplate"]["spec"]["template"]
    [driver] = template["spec"]["containers"]
    script = next(at for at, argument in enumerate(driver["args"]) if argument.endswith(".py"))
    assert (ROOT / driver["args"][script].removeprefix("/opt/idsync/")).exists()
    arguments = driver["args"][script + 1 :]
    commands.check("reconcile", arguments)
    assert arguments[:2] == ["run", SETTINGS.feeds[0].name]
    told = [argument.removeprefix("--conf=") for argument in driver["args"][:script] if argument.startswith("--conf=")]
    conf = dict(each.split("=", 1) for each in told)
    account = documents["ServiceAccount"]["metadata"]["name"]
    assert template["spec"]["serviceAccountName"] == documents["RoleBinding"]["subjects"][0]["name"] == account
    assert conf["spark.kubernetes.namespace"] == KUSTOMIZATION["namespace"]
    assert conf["spark.kubernetes.container.image"] == driver["image"]
    labels_there = {name: conf[f"spark.kubernetes.executor.label.{name}"] for name in template["metadata"]["labels"]}
    assert labels_there == template["metadata"]["labels"]
    state, claim = "spark.kubernetes.executor.volumes.persistentVolumeClaim.state", documents["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert conf[f"{state}.options.claimName"] == claim["metadata"]["name"]
    assert Path(conf[f"{state}.mount.path"]) in SETTINGS.reconcile.state_dir.parents
    overhead = float(conf["spark.executor.memoryOverhead"].removesuffix("g")) * (1 << 30)
    a_task = float(SETTINGS.reconcile.memory_limit.removesuffix("GB")) * 1e9
    assert overhead >= a_task * int(conf["spark.executor.cores"]) + 2e9
    assert SETTINGS.store.password_file is not None
    assert str(SETTINGS.store.password_file.parent) in conf.values()
    environ = {each["name"]: each.get("value") for each in driver["env"]}
    assert conf["spark.executorEnv.AWS_SHARED_CREDENTIALS_FILE"] == environ["AWS_SHARED_CREDENTIALS_FILE"]


# --- they agree with the application ---------------------------------------------------------------------------------

OURS = ["idsync", "reconcile-crm-daily", "idsync-sweep", "reconcile-sweep", "desk"]


@pytest.mark.parametrize("name", OURS)
def test_our_image_runs_a_command_that_exists(name: str) -> None:
    only, context = container(name), pods()[name]["spec"]["securityContext"]
    assert f" -t {only['image']} ." in (ROOT / "deploy" / "container" / "Containerfile").read_text()
    assert [each["name"] for each in KUSTOMIZATION["images"]] == [only["image"]]
    if name != "desk":
        program, *arguments = only["args"]
        commands.check(program, arguments)
    assert f"{context['runAsUser']}:{context['runAsGroup']}" in instructions("USER")
    mounts = {mount["mountPath"] for mount in only["volumeMounts"]}
    assert str(Path(re.findall(r"IDSYNC_CONFIG=(\S+)", CONTAINERFILE)[0]).parent) in mounts
    assert SETTINGS.store.password_file is not None
    for path in (SETTINGS.endpoint.spool, SETTINGS.reconcile.state_dir, SETTINGS.store.password_file):
        assert {str(parent) for parent in path.parents} & mounts, path
    assert instructions("VOLUME")[0] in mounts


def test_secrets_are_files_that_the_configuration_names() -> None:
    [files] = [each["files"] for each in KUSTOMIZATION["secretGenerator"] if each["name"] == "idsync"]
    keys = {Path(path).name for path in files}
    [mount] = [each["mountPath"] for each in container("idsync")["volumeMounts"] if each["name"] == "secrets"]
    given = {str(SETTINGS.store.password_file)} | {
        each["value"] for name in OURS for each in container(name).get("env", []) if "/secrets/" in each["value"]
    }
    assert given == {f"{mount}/{key}" for key in keys}
    assert "_PASSWORD" not in (FOLDER / "idsync.toml").read_text()


def test_every_feed_has_its_job_and_never_two_at_once() -> None:
    jobs = {name: document["spec"] for name, document in named("CronJob").items()}
    runs = [container(name)["args"][2] for name in jobs if container(name)["args"][:2] == ["reconcile", "run"]]
    assert runs == [feed.name for feed in SETTINGS.feeds]
    for name, job in jobs.items():
        assert job["concurrencyPolicy"] == "Forbid"
        assert job["timeZone"] == "Etc/UTC"
        policy = job["jobTemplate"]["spec"]["podFailurePolicy"]["rules"][0]
        assert policy["onExitCodes"] == {"containerName": container(name)["name"], "operator": "In", "values": [1, 2]}
        minute, hour, *days = job["schedule"].split()
        crontab = (ROOT / "deploy" / "container" / "crontab").read_text()
        assert re.search(
            rf"^{minute} {hour}(-\d+)? {re.escape(' '.join(days))} python -m {' '.join(container(name)['args'])}$",
            crontab,
            re.MULTILINE,
        )


def test_a_run_has_the_memory_that_it_may_take() -> None:
    limit = quantity(container("reconcile-crm-daily")["resources"]["limits"]["memory"])
    assert SETTINGS.reconcile.memory_limit.endswith("GB")
    assert limit >= float(SETTINGS.reconcile.memory_limit[:-2]) * 1e9 + 2e9 * 0.95


def test_the_endpoint_is_where_probes_services_and_prometheus_seek_it() -> None:
    endpoint, pod = container("idsync"), pods()["idsync"]
    [port] = endpoint["ports"]
    assert endpoint["args"][-1].rpartition(":")[2] == str(port["containerPort"])
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert endpoint[probe]["httpGet"] == {"path": "/healthz", "port": port["name"]}
    for name in ("idsync", "idsync-pods"):
        service = named("Service")[name]["spec"]
        assert service["selector"] == pod["metadata"]["labels"]
        assert service["ports"][0]["targetPort"] == port["name"]
    seek = {key.partition("/")[2]: value for key, value in pod["metadata"]["annotations"].items()}
    assert seek == {"scrape": "true", "port": str(port["containerPort"]), "path": "/metrics"}
    assert f"endpoint:-idsync:{port['containerPort']}" in (FOLDER / "front.sh").read_text().lower()
    assert named("StatefulSet")["idsync"]["spec"]["serviceName"] in named("Service")


def test_who_is_stopped_has_the_time_that_it_needs() -> None:
    limits = (ROOT / "deploy" / "gunicorn.conf.py").read_text()
    graceful = int(re.findall(r"^graceful_timeout = (\d+)", limits, re.MULTILINE)[0])
    patience = int(float(re.findall(r"else ([\d.]+)$", (FOLDER / "leave.py").read_text(), re.MULTILINE)[0]))
    assert pods()["idsync"]["spec"]["terminationGracePeriodSeconds"] >= patience + graceful


def test_calls_a_second_are_what_prometheus_adapter_makes_of_our_metric() -> None:
    [rule] = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    series = rule["seriesQuery"].partition("{")[0]
    assert series in exposed()
    scaler = named("HorizontalPodAutoscaler")["idsync"]["spec"]
    [metric] = [each["pods"] for each in scaler["metrics"]]
    assert metric["metric"]["name"] == rule["name"]["as"]
    assert int(metric["target"]["averageValue"]) == 2000 * SETTINGS.endpoint.workers
    assert scaler["minReplicas"] == figures()["hosts"]
    query = rule["metricsQuery"].replace("<<.Series>>", series).replace("<<.LabelMatchers>>", 'pod="idsync-0"')
    told = subprocess.run(
        ["promtool", "check", "rules", "/dev/stdin"],
        input=yaml.safe_dump(
            {"groups": [{"name": "g", "rules": [{"record": "r", "expr": query.replace("<<.GroupBy>>", "pod")}]}]}
        ),
        text=True,
        capture_output=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr


@pytest.mark.parametrize("kind", ["PodDisruptionBudget", "HorizontalPodAutoscaler"])
def test_what_guards_pods_finds_them(kind: str) -> None:
    for document in named(kind).values():
        if kind == "PodDisruptionBudget":
            assert document["spec"]["selector"]["matchLabels"] in labels().values()
        else:
            target = document["spec"]["scaleTargetRef"]
            assert target["name"] in named(target["kind"])
            assert "replicas" not in named(target["kind"])[target["name"]]["spec"]


# --- the network -----------------------------------------------------------------------------------------------------


def chosen(selector: dict[str, Any]) -> set[str]:
    """Which kinds of pods a selector finds."""
    found = set()
    for name, given in labels().items():
        fits = selector.get("matchLabels", {}).items() <= given.items()
        for each in selector.get("matchExpressions", []):
            assert each["operator"] == "In"
            fits = fits and given.get(each["key"]) in each["values"]
        if fits:
            found.add(name)
    return found


def ways(direction: str, peer: str) -> set[tuple[str, str, int]]:
    """Who may reach whom at which port: (who, whom, port), as the policies of one direction tell."""
    found = set()
    for document in named("NetworkPolicy").values():
        spec = document["spec"]
        for rule in spec.get(direction, []):
            others = {
                name for each in rule.get(peer, []) if "podSelector" in each for name in chosen(each["podSelector"])
            }
            for one in chosen(spec["podSelector"]):
                for other in others:
                    pair = (other, one) if direction == "ingress" else (one, other)
                    found |= {(*pair, each["port"]) for each in rule["ports"]}
    return found


def test_who_may_call_is_let_in_and_nobody_else() -> None:
    clients = {"idsync", "redis", "redis-create", "reconcile-crm-daily", "idsync-sweep", "reconcile-sweep", "desk"}
    wanted = {("front", "idsync", 8000), ("redis", "redis", 16379)} | {(name, "redis", 6379) for name in clients}
    assert ways("ingress", "from") == wanted
    assert ways("egress", "to") == wanted
    nobody = named("NetworkPolicy")["nobody"]["spec"]
    assert nobody == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_policies_name_ports_that_are_open() -> None:
    open_ports = {name: {each["containerPort"] for each in container(name).get("ports", [])} for name in pods()}
    for _, whom, port in ways("ingress", "from"):
        assert port in open_ports[whom]
    front = named("NetworkPolicy")["front"]["spec"]["ingress"][0]["ports"]
    assert {each["port"] for each in front} == open_ports["front"]


# --- how large -------------------------------------------------------------------------------------------------------


def test_the_arithmetic_is_right_and_is_that_of_the_settings() -> None:
    given = figures()
    rules = RULES | {
        "store": lambda of: BYTES_A_MAPPING * of["mappings"] / of["primaries"] / 1e6,
        "hosts": lambda of: max(3, math.ceil(of["calls_a_second"] / of["workers"] / 2000)),
    }
    del rules["workers"]
    assert {"spool", "maxmemory", "buckets", "hosts"} <= given.keys() & rules.keys()
    for name in given.keys() & rules.keys():
        assert given[name] == math.ceil(round(rules[name](given), 6)), name
    assert SETTINGS.store.buckets == given["buckets"]
    assert SETTINGS.endpoint.workers == given["workers"]
    assert SETTINGS.store.replicas == 1


def test_the_manifests_give_what_was_reckoned() -> None:
    given, endpoint, node = figures(), container("idsync"), container("redis")
    sets = {name: document["spec"] for name, document in named("StatefulSet").items()}

    def storage(name: str) -> float:
        [claim] = sets[name]["volumeClaimTemplates"]
        return quantity(claim["spec"]["resources"]["requests"]["storage"])

    environment = {each["name"]: each.get("value") for each in node["env"]}
    assert sets["redis"]["replicas"] == 2 * given["primaries"]
    assert int(endpoint["resources"]["requests"]["cpu"]) == given["workers"]
    assert quantity(endpoint["resources"]["requests"]["memory"]) >= given["endpoint_memory"] * 1e6
    assert storage("idsync") >= given["spool"] * 1e6
    assert environment["MAXMEMORY"] == f"{given['maxmemory']}mb"
    assert quantity(node["resources"]["limits"]["memory"]) >= given["redis_memory"] * 1e6
    assert storage("redis") >= given["redis_disk"] * 1e6
    [create] = [each.get("value") for each in container("redis-create")["env"] if each["name"] == "NODES"]
    assert create == str(2 * given["primaries"])


def test_a_redis_that_was_killed_waits_for_longer_than_a_failover_that_takes_two_votes() -> None:
    """A death is noticed after the time-out; a vote that failed is repeated after four of them."""
    node = (FOLDER / "redis-node.sh").read_text()
    [timeout] = re.findall(r"^cluster-node-timeout (\d+)", (FOLDER / "redis-cluster.conf").read_text(), re.MULTILINE)
    [longest] = re.findall(r"\$\{RETURN_SECONDS:-(\d+)\}", node)
    assert int(longest) >= 5 * int(timeout) / 1000 + 10


# --- its document ----------------------------------------------------------------------------------------------------


def test_the_readme_tells_of_commands_and_files_that_exist() -> None:
    text = README.read_text()
    told = list(commands.named_in(text))
    assert {arguments[0] for _, arguments in told} >= {"migrate", "erase", "stats"}
    for program, arguments in told:
        commands.check(program, arguments)
    for name in re.findall(r"\bdeploy/[\w./@-]+\w", text):
        assert (ROOT / name).exists() or name.startswith("deploy/cluster/secrets"), name
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if not target.startswith("https://"):
            name, _, anchor = target.partition("#")
            document = (FOLDER / name).resolve() if name else README
            assert document.exists(), target
            assert not anchor or anchor in anchors(document), target
    for path in FOLDER.iterdir():
        if path.is_file() and path != README:
            assert f"`{path.name}`" in text, path.name
