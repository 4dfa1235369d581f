"""Ray cluster of several nodes on this machine, for jobs in processes of their own; nodes can be killed and drained."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import psutil
import ray
from ray.cluster_utils import Cluster

RAY = Path(sys.executable).with_name("ray")
NODES = 2
DRAIN_S = 15
"""Notice of a drained node."""


class Nodes:
    """A head without work and nodes of one CPU each."""

    def __enter__(self) -> Self:
        os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(NODES)]
        ray.init(address=self.cluster.address, log_to_driver=False)
        return self

    def __exit__(self, *_: object) -> None:
        ray.shutdown()
        self.cluster.shutdown()

    @property
    def address(self) -> str:
        return self.cluster.address

    def train_workers(self) -> list[psutil.Process]:
        """List the processes of Ray Train's workers on all nodes."""
        return [
            process
            for process in psutil.Process().children(recursive=True)
            if process.is_running() and "ray::RayTrainWorker" in " ".join(process.cmdline())
        ]

    def kill_worker(self) -> None:
        """Kill a worker of the run."""
        self.train_workers()[-1].send_signal(signal.SIGKILL)

    def kill_node(self) -> None:
        """Kill the node of a worker, and add another one."""
        node = self._node_of(self.train_workers()[-1])
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.append(self.cluster.add_node(num_cpus=1))

    def drain_node(self) -> None:
        """Give notice of the end of a worker's node, add another one, and end the first when its time is over."""
        node = self._node_of(self.train_workers()[-1])
        words = ["--node-id", node.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        words += ["--address", self.address, "--deadline-remaining-seconds", str(DRAIN_S)]
        subprocess.run([str(RAY), "drain-node", *words], check=True, capture_output=True)
        self.nodes.append(self.cluster.add_node(num_cpus=1))
        time.sleep(DRAIN_S)
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def _node_of(self, process: psutil.Process) -> ray._private.node.Node:
        """Find the node whose raylet started a process."""
        ancestors = {parent.pid for parent in process.parents()}
        for node in self.nodes:
            if any(raylet.process.pid in ancestors for raylet in node.all_processes["raylet"]):
                return node
        raise RuntimeError(f"no node has process {process.pid}")
