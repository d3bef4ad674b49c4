"""submit, watch and cancel against a real Redis."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import click.testing
import pytest
import structlog
from click.testing import CliRunner

from dynsvc.algorithms import Catalog
from dynsvc.cli import main
from dynsvc.demo.order import viewer_order
from dynsvc.kue import JobStore, connect
from dynsvc.regions import Region
from tests.support.redis import RedisProcess

pytestmark = pytest.mark.services

ALGORITHMS = Path(__file__).parents[2] / "algorithms"
LIMIT_S = 20.0
KIND = "analysisJob"


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


class Kue:
    """A Kue of the test's own, and the commands that see it."""

    def __init__(self, server: RedisProcess, jobs: JobStore, head: str) -> None:
        self.jobs, self.head = jobs, head
        self.env = {"DYNSVC_ORDERS__REDIS__PORT": str(server.port), "DYNSVC_KUE_HEAD": head}

    def invoke(self, *args: str) -> click.testing.Result:
        return CliRunner().invoke(main, args, env=self.env)

    def claimed(self, token: str = "worker-1", **options: int) -> str:
        job_id = self.jobs.create(KIND, {}, **options)
        assert self.jobs.claim(job_id, [KIND], token)
        return job_id


@pytest.fixture
def own_kue(redis_server: RedisProcess) -> Iterator[Kue]:
    head = f"{uuid.uuid4().hex[:8]}:"
    with closing(connect(redis_server.settings)) as client:
        yield Kue(redis_server, JobStore(client, head), head)


@pytest.fixture
def order_file(tmp_path: Path) -> Path:
    algorithm = Catalog.load(ALGORITHMS).algorithms["nuclei"]
    region = Region(x_px=10, y_px=20, width_px=300, height_px=200)
    path = tmp_path / "order.json"
    document = {"type": KIND, "data": viewer_order(algorithm, "C1", region, None)}
    path.write_text(json.dumps(document | {"options": {"priority": "high", "attempts": 3}}))
    return path


def meanwhile(act: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


def wait_for(reached: Callable[[], bool]) -> None:
    give_up = time.monotonic() + LIMIT_S
    while not reached():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_submit_saves_the_documents_data_and_options_and_prints_the_id(
    own_kue: Kue, order_file: Path
) -> None:
    result = own_kue.invoke("submit", str(order_file))
    assert result.exit_code == 0, result.output
    job = own_kue.jobs.read(result.stdout.strip())
    assert job is not None
    assert json.loads(job.data_text) == json.loads(order_file.read_text())["data"]
    assert (job.type, job.is_waiting, job.priority, job.max_attempts) == (KIND, True, -10, 3)


def test_options_of_the_command_win_over_those_of_the_document(own_kue: Kue, order_file: Path) -> None:
    result = own_kue.invoke("submit", str(order_file), "--priority=4", "--attempts=1", "--type=order")
    job = own_kue.jobs.read(result.stdout.strip())
    assert job is not None
    assert (job.type, job.priority, job.max_attempts) == ("order", 4, 1)


def test_a_type_that_no_bridge_takes_is_warned_of(own_kue: Kue, order_file: Path) -> None:
    result = own_kue.invoke("submit", str(order_file), "--type=quip_composite_cwl")
    assert result.exit_code == 0
    assert "warning: bridges with these settings take analysisJob, order" in result.stderr


def test_a_bad_order_is_saved_only_by_force(own_kue: Kue, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text('{"data": {"order": {}}}')
    assert own_kue.invoke("submit", str(path)).exit_code == 2
    assert own_kue.jobs.counts([KIND]).waiting == 0
    result = own_kue.invoke("submit", str(path), "--force")
    assert result.exit_code == 0
    assert "sent all the same" in result.stderr
    assert own_kue.jobs.counts([KIND]).waiting == 1


def test_watch_follows_progress_and_log_to_a_good_end(own_kue: Kue) -> None:
    job_id = own_kue.claimed()

    def work() -> None:
        own_kue.jobs.progressing(job_id, "worker-1", 50, log=["half of it"]).run()
        own_kue.jobs.complete(job_id, "worker-1", {"objects": 3})

    thread = meanwhile(work)
    result = own_kue.invoke("watch", job_id)
    thread.join(LIMIT_S)
    assert result.exit_code == 0
    assert "half of it" in result.output
    assert "upload_zip" in result.output
    assert f"order {job_id} is complete" in result.output


def test_watch_ends_with_status_1_and_the_error_of_a_failed_order(own_kue: Kue) -> None:
    job_id = own_kue.claimed()
    own_kue.jobs.fail(job_id, "worker-1", "OutOfMemory: nuclei was ended", message="x")
    result = own_kue.invoke("watch", job_id)
    assert result.exit_code == 1
    assert "OutOfMemory: nuclei was ended" in result.output


def test_watch_ends_with_status_2_when_the_order_disappears(own_kue: Kue) -> None:
    job_id = own_kue.claimed()
    thread = meanwhile(lambda: own_kue.jobs.remove(job_id))
    assert own_kue.invoke("watch", job_id).exit_code == 2
    thread.join(LIMIT_S)
    assert own_kue.invoke("watch", "999999").exit_code == 2


def test_watch_gives_up_after_its_time_limit_and_says_that_the_order_goes_on(own_kue: Kue) -> None:
    result = own_kue.invoke("watch", own_kue.claimed(), "--timeout=0.2")
    assert result.exit_code == 3
    assert "it goes on" in result.output


def test_watch_goes_on_through_a_retry(own_kue: Kue) -> None:
    job_id = own_kue.claimed(attempts=2)
    own_kue.jobs.progressing(job_id, "worker-1", 50).run()

    def retry() -> None:
        own_kue.jobs.fail(job_id, "worker-1", "PeerUnavailable: away", message="x")
        own_kue.jobs.claim(job_id, [KIND], "worker-2")
        own_kue.jobs.complete(job_id, "worker-2", None)

    thread = meanwhile(retry)
    result = own_kue.invoke("watch", job_id)
    thread.join(LIMIT_S)
    assert result.exit_code == 0, result.output


def test_submit_with_wait_ends_as_watch_does(own_kue: Kue, order_file: Path) -> None:
    def work() -> None:
        wait_for(lambda: own_kue.jobs.counts([KIND]).waiting == 1)
        job = own_kue.jobs.claim_next(KIND, "worker-1")
        assert job
        own_kue.jobs.fail(job.id, "worker-1", "InvalidOrder: no", message="no")
        job = own_kue.jobs.claim_next(KIND, "worker-1")
        while job:
            own_kue.jobs.fail(job.id, "worker-1", "InvalidOrder: no", message="no")
            job = own_kue.jobs.claim_next(KIND, "worker-1")

    thread = meanwhile(work)
    result = own_kue.invoke("submit", str(order_file), "--wait", "--timeout=20")
    thread.join(LIMIT_S)
    assert result.exit_code == 1
    assert "InvalidOrder: no" in result.output


def test_cancel_removes_a_waiting_and_a_running_order(own_kue: Kue) -> None:
    for job_id in (own_kue.jobs.create(KIND, {}), own_kue.claimed()):
        result = own_kue.invoke("cancel", job_id, "--reason=wrong slide")
        assert result.exit_code == 0
        assert "wrong slide" in result.output
        assert own_kue.jobs.read(job_id) is None
    assert own_kue.jobs.counts([KIND]) == own_kue.jobs.counts(["nothing"])


@pytest.mark.parametrize("running", [True, False])
def test_cancel_can_keep_the_record_as_failed_whatever_attempts_are_left(own_kue: Kue, running: bool) -> None:
    job_id = own_kue.claimed(attempts=3) if running else own_kue.jobs.create(KIND, {}, attempts=3)
    result = own_kue.invoke("cancel", job_id, "--keep-record", "--reason=wrong slide")
    assert result.exit_code == 0, result.output
    job = own_kue.jobs.read(job_id)
    assert job is not None
    assert job.is_failed
    assert (job.error or "").startswith(f"Cancelled: order {job_id}: cancelled by ")
    assert (job.error or "").endswith("wrong slide")
    assert not own_kue.jobs.owns(job_id, "worker-1")


@pytest.mark.parametrize("options", [[], ["--keep-record"]])
def test_cancel_leaves_an_ended_order_as_it_is(own_kue: Kue, options: list[str]) -> None:
    job_id = own_kue.claimed()
    own_kue.jobs.complete(job_id, "worker-1", None)
    result = own_kue.invoke("cancel", job_id, *options)
    assert result.exit_code == 1
    assert f"order {job_id} had ended before" in result.output
    job = own_kue.jobs.read(job_id)
    assert job is not None
    assert job.is_done


@pytest.mark.parametrize("order_id", ["999999", "no-id", "1|2", "9" * 200])
def test_cancel_names_an_order_that_is_not_there(own_kue: Kue, order_id: str) -> None:
    result = own_kue.invoke("cancel", order_id)
    assert result.exit_code == 2
    assert "error: order" in result.stderr
