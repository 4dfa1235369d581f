"""Files that deploy the platform: metrics and alerts that exist, clusters as AWS, Ray and KubeRay take them."""

import copy
import json
import os
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from fireedit.jobs.training.recipe import read_recipe
from fireedit.platform.cluster import HOST, LOOPBACK, read_variables
from fireedit.serve import metrics

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana.json").read_text())
ALERTS = [rule for group in yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
EXPORTED = {*metrics.COUNTERS, *metrics.GAUGES} | {
    f"{name}_{suffix}" for name in metrics.HISTOGRAMS for suffix in ("bucket", "count", "sum")
}
"""Names of our metrics in Prometheus, without Ray's prefix."""


@pytest.mark.parametrize("queries", [QUERIES, [rule["expr"] for rule in ALERTS]], ids=["dashboard", "alerts"])
def test_queries_name_metrics_that_are_exported(queries: list[str]) -> None:
    used = {name for query in queries for name in re.findall(r"\bray_(fireedit_\w+)", query)}
    assert used and used <= EXPORTED


def test_the_dashboard_shows_every_metric_and_takes_the_datasource_of_whoever_imports_it() -> None:
    shown = {name for name in EXPORTED if any(f"ray_{name}" in query for query in QUERIES)}
    families = (*metrics.COUNTERS, *metrics.GAUGES, *metrics.HISTOGRAMS)
    assert not [family for family in families if not any(name.startswith(family) for name in shown)]
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource"]
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {"${datasource}"}


def test_four_alerts_say_what_happened_and_what_to_do() -> None:
    assert len(ALERTS) == 4
    assert all(rule["annotations"].keys() == {"summary", "action"} and rule["for"] for rule in ALERTS)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool of Debian's package prometheus")
@pytest.mark.parametrize("command", ["check config --syntax-only prometheus.yml", "test rules alerts_test.yaml"])
def test_prometheus_takes_the_files_and_alerts_fire_as_in_their_examples(command: str) -> None:
    done = subprocess.run(["promtool", *command.split()], cwd=DEPLOY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


CLUSTER = yaml.safe_load((ROOT / "cluster.yaml").read_text())
TYPES = CLUSTER["available_node_types"]
KUBERAY = {path.stem: yaml.safe_load(path.read_text()) for path in (DEPLOY / "kuberay").glob("*.yaml")}
RAY_ENV, NODE_ENV = (read_variables(path) for path in (ROOT / "serve" / "ray.env", DEPLOY / "node.env"))


def test_the_cluster_file_is_what_ray_up_takes() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text())))
    starts = CLUSTER["head_start_ray_commands"] + CLUSTER["worker_start_ray_commands"]
    assert all("cd ~/fireedit-ray" in command for command in starts), "Ray must start inside the checkout"
    files = re.findall(r"\b(?:serve|deploy)/[\w.]+", " ".join(starts + CLUSTER["setup_commands"]))
    assert len(files) == 6 and all((ROOT / file).is_file() for file in files)


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Simulated AWS account with what cluster.yaml asks for: placeholders, and what is written for each."""
    import boto3
    from moto import mock_aws

    monkeypatch.setenv("HOME", str(tmp_path))  # takes Ray's new key for SSH
    mock = mock_aws()
    mock.start(reset=False)  # the state is also that of the fixture s3
    client, ec2 = boto3.client("ec2"), boto3.resource("ec2")
    boto3.client("iam").create_instance_profile(InstanceProfileName="fireedit")
    network = ec2.create_vpc(CidrBlock="10.0.0.0/16")
    group = ec2.create_security_group(GroupName="fireedit", Description="nodes", VpcId=network.id)
    yield {
        "ami-00000000000000000": client.register_image(Name="fireedit")["ImageId"],
        "subnet-00000000000000000": network.create_subnet(CidrBlock="10.0.0.0/24").id,
        "sg-00000000000000000": group.id,
        "iam::000000000000": "iam::123456789012",
    }
    mock.stop(remove_data=False)


def test_a_simulated_aws_starts_its_nodes_in_a_private_subnet(account: dict[str, str]) -> None:
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config

    text = (ROOT / "cluster.yaml").read_text()
    for placeholder, written in account.items():
        assert placeholder in text
        text = text.replace(placeholder, written)
    cluster = bootstrap_aws(prepare_config(yaml.safe_load(text)))
    aws = AWSNodeProvider(cluster["provider"], cluster["cluster_name"])
    started = {
        name: next(iter(aws.create_node(copy.deepcopy(node_type["node_config"]), {}, 1).values()))
        for name, node_type in cluster["available_node_types"].items()
    }
    kinds = {name: (node.instance_type, node.instance_lifecycle) for name, node in started.items()}
    assert kinds == {
        "head": ("m6i.2xlarge", None),
        "a100": ("p4de.24xlarge", None),
        "decoder": ("c6i.4xlarge", "spot"),
    }
    assert {node.subnet_id for node in started.values()} == {account["subnet-00000000000000000"]}


def test_the_gpu_nodes_have_an_efa_on_each_of_four_cards_and_share_the_others_network() -> None:
    gpu, head, decoder = (TYPES[name]["node_config"] for name in ("a100", "head", "decoder"))
    interfaces = gpu["NetworkInterfaces"]
    cards = [(each["InterfaceType"], each["NetworkCardIndex"], each["DeviceIndex"]) for each in interfaces]
    assert cards == [("efa", 0, 0), ("efa", 1, 1), ("efa", 2, 1), ("efa", 3, 1)]
    assert {each["SubnetId"] for each in interfaces} == set(head["SubnetIds"]) == set(decoder["SubnetIds"])
    assert all(each["Groups"] == head["SecurityGroupIds"] == decoder["SecurityGroupIds"] for each in interfaces)
    assert not {"SubnetIds", "SecurityGroupIds"} & gpu.keys(), "Ray takes them from the interfaces, or refuses"


def test_a_node_listens_on_the_network_and_keeps_the_rest_of_the_environment() -> None:
    assert (RAY_ENV[LOOPBACK], NODE_ENV[LOOPBACK]) == ("0", "1")
    assert RAY_ENV.keys() & NODE_ENV.keys() == {LOOPBACK}
    assert NODE_ENV["FIREEDIT_SCRATCH"] == "/scratch"


def stand_in(program: Path, text: str) -> None:
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)


def found_first(folder: Path) -> dict[str, str]:
    """Environment in which the programs of a folder are found before others of their name."""
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}


def test_scratch_is_one_raid_of_the_unused_nvme_disks_and_is_made_once(tmp_path: Path) -> None:
    """`sudo` and `lsblk` are stand-ins: a test has no disks to format."""
    done, scratch = tmp_path / "done", tmp_path / "scratch"
    disks = "/dev/nvme0n1 Amazon Elastic Block Store\n"
    disks += "".join(f"/dev/nvme{n}n1 Amazon EC2 NVMe Instance Storage\n" for n in (1, 2))
    programs = {"lsblk": f"cat <<'END'\n{disks}END", "sudo": f'echo "$@" >> {done}\n[ $1 != mkdir ] || "$@"'}
    for name, text in programs.items():
        stand_in(tmp_path / name, text)
    for _ in range(2):
        subprocess.run([DEPLOY / "scratch.sh", scratch], env=found_first(tmp_path), check=True)
    assert done.read_text().splitlines() == [
        f"mkdir {scratch}",
        "mdadm --create /dev/md0 --run --force --level=0 --raid-devices=2 /dev/nvme1n1 /dev/nvme2n1",
        "mkfs.ext4 -q -m 0 /dev/md0",
        f"mount -o noatime /dev/md0 {scratch}",
        f"chmod 1777 {scratch}/",
    ]


@contextmanager
def metadata_service(asked: list[str], notices: threading.Event) -> Iterator[str]:
    """Answer as EC2's metadata service does, with a spot notice once the event is set; gives the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.answer(200, b"a token")

        def do_GET(self) -> None:
            asked.append(f"{self.path} {self.headers['X-aws-ec2-metadata-token']}")
            notice = b'{"action": "terminate", "time": "2030-01-01T00:02:00Z"}'
            self.answer(*((200, notice) if notices.is_set() else (404, b"")))

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer((HOST, 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://{HOST}:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl, as every node has it")
def test_a_spot_notice_drains_the_node(tmp_path: Path) -> None:
    """`ray` is a stand-in that keeps its arguments, which Ray's own parser then reads."""
    from ray.scripts.scripts import drain_node

    stand_in(tmp_path / "ray", f'printf "%s\\n" "$@" > {tmp_path}/arguments')
    asked, notices = list[str](), threading.Event()
    with metadata_service(asked, notices) as url:
        environment = found_first(tmp_path) | {"AWS_EC2_METADATA_SERVICE_ENDPOINT": url}
        with subprocess.Popen(
            [DEPLOY / "spot_notice.sh", "0.1"], env=environment, stdout=subprocess.DEVNULL
        ) as watcher:
            while len(asked) < 3:
                assert watcher.poll() is None
            assert not (tmp_path / "arguments").exists(), "before the notice"
            notices.set()
    assert watcher.returncode == 0 and set(asked) == {"/latest/meta-data/spot/instance-action a token"}
    command, *arguments = (tmp_path / "arguments").read_text().splitlines()
    drain = drain_node.make_context(command, arguments).params
    assert command == "drain-node" and drain["node_id"] is None, "Ray takes the node it runs on"
    assert (drain["reason"], drain["deadline_remaining_seconds"]) == ("DRAIN_NODE_REASON_PREEMPTION", 110)


@pytest.mark.parametrize("name", sorted(KUBERAY))
def test_manifests_have_the_fields_of_kuberays_schema(name: str) -> None:
    import jsonschema

    schema = yaml.safe_load((ROOT / "tests" / "kuberay.yaml").read_text())
    jsonschema.Draft202012Validator(schema).validate(KUBERAY[name])


@pytest.mark.parametrize("name", sorted(KUBERAY))
def test_rays_autoscaler_reads_the_groups_of_the_manifests(name: str) -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    spec = KUBERAY[name]["spec"]
    cluster = spec.get("rayClusterSpec") or spec["rayClusterConfig"]
    config = _derive_autoscaling_config_from_ray_cr({"metadata": {"name": name, "namespace": "x"}, "spec": cluster})
    types = config["available_node_types"]
    assert types.pop("headgroup")["resources"]["CPU"] == 0
    expected = {"train": ("a100", 0, 2, {"CPU": 90, "GPU": 8}), "serve": ("cpu", 1, 4, {"CPU": 2})}
    group, least, most, resources = expected[name]
    assert (types[group]["min_workers"], types[group]["max_workers"]) == (least, most)
    assert types[group]["resources"].items() >= resources.items()


def test_the_ray_job_trains_a_recipe_that_its_groups_can_hold() -> None:
    spec = KUBERAY["train"]["spec"]
    python, job, *arguments = shlex.split(spec["entrypoint"])
    assert (python, job) == ("python", "jobs/train.py")
    recipe = read_recipe(arguments)
    assert recipe.run, "a cluster that is made anew resumes the run by its name"
    group = spec["rayClusterSpec"]["workerGroupSpecs"][0]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    for resource, name in (("GPU", "nvidia.com/gpu"), ("CPU", "cpu")):
        needed = sum(bundle.get(resource, 0) for bundle in recipe.bundles)
        assert needed <= group["maxReplicas"] * int(limits[name])


def test_the_ray_service_is_that_of_one_machine_on_all_addresses() -> None:
    served = yaml.safe_load(KUBERAY["serve"]["spec"]["serveConfigV2"])
    local = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text())
    assert served.pop("http_options") == local.pop("http_options") | {"host": "0.0.0.0"}
    assert served == local


def test_the_image_has_the_environment_and_the_python_that_the_platform_needs() -> None:
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    instructions = dict(line.split(" ", 1) for line in text.splitlines() if re.match("[A-Z]+ ", line))
    variables = dict(word.split("=", 1) for word in instructions["ENV"].split())
    assert variables == {name: RAY_ENV[name] for name in RAY_ENV.keys() - {"RAY_AUTH_MODE", LOOPBACK}}
    assert instructions["FROM"] == "python:3.12-slim" and instructions["USER"] == "1000"
    cluster = KUBERAY["train"]["spec"]["rayClusterSpec"]
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned and {cluster["rayVersion"], KUBERAY["serve"]["spec"]["rayClusterConfig"]["rayVersion"]} == {pinned[1]}
