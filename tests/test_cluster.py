"""The cluster files hold what README.md says of them, and Ray's own validation takes them. Offline; starts nothing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).parent.parent
FILES = ("gpu.yaml", "local.yaml")
START = ("head_start_ray_commands", "worker_start_ray_commands")


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((REPO / "cluster" / name).read_text())


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` makes of a file before it speaks to a provider. Raises what it would."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(copy.deepcopy(config))
    validate_config(config)
    return config


@pytest.mark.parametrize("name", FILES)
def test_ray_takes_the_file(name):
    config = prepared(read(name))
    assert set(read(name)) <= set(config)
    assert config["head_node_type"] in config["available_node_types"]


@pytest.mark.parametrize("name", FILES)
def test_a_mistyped_key_is_refused(name):
    import jsonschema

    config = read(name)
    config["setup_comands"] = config.pop("setup_commands")
    with pytest.raises(jsonschema.ValidationError, match="setup_comands"):
        prepared(config)


def test_gpu_workers_are_spot_and_come_from_zero_while_the_head_runs_no_work():
    config = prepared(read("gpu.yaml"))
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0} and head["max_workers"] == 0
    assert types
    for worker in types.values():
        assert worker["min_workers"] == 0 < worker["max_workers"] <= config["max_workers"]
        assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert worker["resources"]["GPU"] >= 1
        assert worker["node_config"]["ImageId"] == head["node_config"]["ImageId"]  # one Python and one glibc


def test_a_local_cluster_is_all_its_machines():
    config = prepared(read("local.yaml"))
    (node,) = config["available_node_types"].values()
    assert node["min_workers"] == node["max_workers"] == len(config["provider"]["worker_ips"])


def test_both_set_up_their_machines_alike():
    gpu, local = map(read, FILES)
    for key in ("file_mounts", "setup_commands"):
        assert gpu[key] == local[key]


@pytest.mark.parametrize("name", FILES)
def test_what_a_machine_is_sent_is_in_the_repository(name):
    for target, source in read(name)["file_mounts"].items():
        assert (REPO / source).is_file(), f"{target}: {source}"


@pytest.mark.parametrize("name", FILES)
def test_ray_starts_as_its_launcher_wants_and_opens_its_dashboard_to_loopback_alone(name):
    head, worker = (read(name)[key] for key in START)
    assert head[0] == worker[0] == "ray stop"
    assert "--head" in head[1] and "--autoscaling-config=~/ray_bootstrap_config.yaml" in head[1]
    assert "--dashboard-host=127.0.0.1" in head[1]
    assert "--address=$RAY_HEAD_IP:6379" in worker[1] and "--port=6379" in head[1]
    for command in (head[1], worker[1]):
        assert command.startswith("ulimit -n 65536;")
