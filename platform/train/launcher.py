"""Ray Train: one function on every worker, restarted from the newest checkpoint when a worker or its node is lost."""

import contextlib
import json
import logging
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import ray
import ray.train
import torch.distributed as dist
from ray.exceptions import RayError, TaskCancelledError
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    CheckpointUploadMode,
    FailureConfig,
    LoggingConfig,
    Result,
    RunConfig,
    ScalingConfig,
    ValidationConfig,
)
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util import get_node_ip_address

from fireedit.platform import storage
from fireedit.platform.cluster import quiet_ray_data
from fireedit.platform.console import say
from fireedit.platform.train import checkpoints
from fireedit.platform.train.loop import DivergedError
from fireedit.platform.train.runs import Run
from fireedit.platform.train.session import Control, StopFile, Write, tell_stop
from fireedit.platform.train.validation import Validate, attempt, record_failure
from fireedit.platform.train.workers import WorkersConfig, active_workers

Loop = Callable[["RaySession", dict[str, Any]], None]
"""Trains on one worker."""


class RaySession:
    """Session of a worker of Ray Train.

    Args:
        run: name and folder of the run.
        passes: forward passes of a step on all workers together.
    """

    def __init__(self, run: Run, keep: int, passes: int):
        context = ray.train.get_context()
        self.run, self.keep = run, keep
        self.rank, found = context.get_world_rank(), context.get_world_size()
        self.workers = active_workers(found, passes)
        self.idle = self.rank >= self.workers
        self._has_idle = self.workers < found
        if self._has_idle:
            _regroup(self.rank, self.workers)
            if self.rank == 0:
                say(
                    f"{found - self.workers} of {found} workers are idle: the {passes} passes of a step go evenly into "
                    f"{self.workers}"
                )
        if not self.idle:
            self.control = Control()
            self._stop_file = StopFile(run.stop)
        self._written = threading.Event()
        self._written.set()

    def latest(self) -> str | None:
        if self.rank == 0:  # one more than Ray keeps, which may not know the newest yet
            checkpoints.remove_others(self.run.folder, self.keep + 1)
        return self.control.first(checkpoints.latest(self.run.folder) if self.rank == 0 else None)

    def save(self, step: int, write: Write, row: Mapping[str, float], validate: bool = False) -> None:
        self._written = written = threading.Event()
        address = checkpoints.path_of(self.run.folder, step)
        name = checkpoints.name_of(step)

        def upload(_: Checkpoint, __: str) -> Checkpoint:
            write(address)
            written.set()
            files = ray.train.get_context().get_storage()
            return Checkpoint(files.build_checkpoint_path_from_name(name), files.storage_filesystem)

        self._tell_idle("report", name)
        ray.train.report(
            dict(row),
            checkpoint=Checkpoint.from_directory(tempfile.gettempdir()),  # not read: `upload` writes the checkpoint
            checkpoint_dir_name=name,
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=False,
            checkpoint_upload_fn=upload,
            validation=validate,
        )

    def stop_reason(self) -> str:
        return "the stop file" if self._stop_file.found else ""

    def leaves_soon(self) -> bool:
        self._tell_idle("preemption")
        return ray.train.get_preemption_info() is not None

    def wait(self) -> None:
        self._written.wait()
        self.control.barrier()

    def close(self) -> None:
        """End the session, and the idle workers' with it."""
        self._stop_file.close()
        self._tell_idle("end")

    def serve_idle(self) -> None:
        """Take part in Ray's barriers on an idle worker until the others end."""
        while (message := broadcast_from_rank_zero(None))[0] != "end":
            if message[0] == "report":
                ray.train.report({}, checkpoint_dir_name=message[1], checkpoint_upload_mode=CheckpointUploadMode.ASYNC)
            else:
                ray.train.get_preemption_info()

    def _tell_idle(self, *message: str) -> None:
        """Send idle workers the name of Ray's next barrier, of which they are a part."""
        if self._has_idle:
            broadcast_from_rank_zero(message)


def launch(
    loop: Loop,
    config: Mapping[str, Any],
    workers: WorkersConfig,
    run: Run,
    *,
    keep: int,
    passes: int,
    validate: Validate | None = None,
    validation_resources: Mapping[str, float] | None = None,
) -> Result:
    """Run `loop(session, config)` on every worker and wait for it; an interrupted run resumes.

    SIGTERM or Ctrl-C asks the workers to save and end; a second one ends this process at once.

    Args:
        run: folder that takes checkpoints and reports.
        keep: complete checkpoints that are kept.
        passes: forward passes of a step on all workers together.
        validate: runs in a task of its own beside training, on checkpoints that the loop saves for it; it may fail.
        validation_resources: CPUs and GPUs of that task.
    Raises:
        DivergedError: of the loop, which is not restarted for it.
    """
    validation = None
    if validate is not None:
        on_checkpoint = _on_checkpoint(validate, validation_resources or {}, run)
        validation = ValidationConfig(on_checkpoint, ray_remote_kwargs={"num_cpus": 0})
    trainer = TorchTrainer(
        _on_worker(loop, run, keep, passes),  # type: ignore[arg-type]  # its result is that of Train's second version
        train_loop_config=dict(config),
        torch_config=TorchConfig(backend="nccl" if workers.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers.count,  # type: ignore[arg-type]  # mypy sees the class of Train's first version
            use_gpu=workers.gpus > 0,
            resources_per_worker=workers.bundle,
            elastic_resize_monitor_interval_s=workers.resize_every_s,  # type: ignore[call-arg]
        ),
        run_config=RunConfig(  # type: ignore[call-arg]
            name=run.name,
            storage_path=run.parent,
            failure_config=FailureConfig(max_failures=workers.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=keep),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
        validation_config=validation,
    )
    storage.remove_file(run.stop)  # of an earlier sitting
    _forget_removed(run)
    with _stopping(run):
        result = _in_thread(trainer.fit)
    if result.return_value:  # type: ignore[attr-defined]
        raise DivergedError(result.return_value)  # type: ignore[attr-defined]
    return result


def _on_worker(loop: Loop, run: Run, keep: int, passes: int) -> Callable[[dict[str, Any]], str]:
    """Wrap the loop so that a worker prints the loop's lines only, without Ray's reports.

    Training that diverges ends with the error's message as its result: Ray would restart workers that raise it.
    """

    def quiet_loop(config: dict[str, Any]) -> str:
        quiet_ray_data()
        logging.getLogger().setLevel(logging.WARNING)  # Ray Train logs every report to the root logger
        session, diverged = RaySession(run, keep, passes), ""
        if session.idle:
            session.serve_idle()
        else:
            try:
                loop(session, config)
            except DivergedError as error:
                diverged = str(error)
            session.close()
        return diverged

    return quiet_loop


def _on_checkpoint(validate: Validate, resources: Mapping[str, float], run: Run) -> Callable[..., dict[str, float]]:
    """Wrap a validation so that it gets the checkpoint's address, with the options of the run's, and ends no training.

    Ray Train counts an exception of its task as a failed validation, but a task that is killed, maybe for want of
    memory, makes it restart the workers or give up. The validation is therefore a task of that task.
    """
    options: dict[str, Any] = {"num_cpus": resources.get("CPU", 0), "num_gpus": resources.get("GPU", 0)}

    def validate_checkpoint(checkpoint: Checkpoint) -> dict[str, float]:
        address = storage.join(run.folder, checkpoint.path.rsplit("/", 1)[-1])
        task = ray.remote(max_retries=0, **options)(attempt).options(name="validation")
        try:
            return ray.get(task.remote(validate, run, address))
        except TaskCancelledError:  # with the run; the next sitting begins it again
            raise
        except RayError as error:
            return record_failure(run, address, error)

    return validate_checkpoint


def _regroup(rank: int, active: int) -> None:
    """Make the process group anew of the first `active` workers; the others leave it."""
    address = [None if rank else _free_address()]
    dist.broadcast_object_list(address)
    backend = dist.get_backend()
    dist.destroy_process_group()
    if rank < active:
        dist.init_process_group(backend, init_method=f"tcp://{address[0]}", rank=rank, world_size=active)


def _free_address() -> str:
    host = get_node_ip_address()
    with socket.socket() as probe:
        probe.bind((host, 0))
        return f"{host}:{probe.getsockname()[1]}"


def _forget_removed(run: Run) -> None:
    """Remove Ray's list of checkpoints if one of them is gone, as after a sitting without Ray: Ray would not start."""
    path = storage.join(run.folder, "checkpoint_manager_snapshot.json")
    if storage.exists(path):
        listed = json.loads(storage.read_bytes(path))["checkpoint_results"]
        present = storage.names(run.folder)
        if any(checkpoint["checkpoint_dir_name"] not in present for checkpoint in listed):
            storage.remove_file(path)


@contextlib.contextmanager
def _stopping(run: Run) -> Iterator[None]:
    """Turn a first SIGTERM or Ctrl-C into the run's stop file, in a main thread; a second one has its usual effect."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def stop(*_: object) -> None:
        restore()
        tell_stop(run.stop)

    handlers.update({number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)})
    try:
        yield
    finally:
        restore()


def _in_thread(function: Callable[[], Result]) -> Result:
    """Call a function in a thread that dies with the process: in a main one Ray would take Ctrl-C for an abortion."""
    called = Future[Result]()

    def call() -> None:
        try:
            called.set_result(function())
        except BaseException as error:
            called.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return called.result()
