"""The store of edits: who sees what, for how long, and who runs an edit whose gateway has died."""

import asyncio
import time
from typing import Any

import pytest

from fireedit.serve import store as store_module
from fireedit.serve.fields import Form
from fireedit.serve.store import LEASE_S, OVERHEAD_BYTES, EditsConfig, EditStore, News, Order, Report


class Clock:
    now = 1.7e9

    def __call__(self) -> float:
        return self.now


def order(id: str = "a", owner: str = "ann", nbytes: int = 0) -> Order:
    return Order(id, owner, Form({}, {"image": [bytes(nbytes)]}), 60.0, "request")


def report(id: str = "a", position: int | None = None, step: int = 1, **more: Any) -> Report:
    return Report(id, position, step, 10, **more)


def make(*orders: Order, **config: Any) -> tuple[EditStore, Clock]:
    store = EditStore(EditsConfig(**config), clock := Clock())
    for each in orders:
        assert store.add(each, "g1", 2, 10)
    return store, clock


def news(store: EditStore, id: str = "a", owner: str = "ann", version: int = -1, partials: int = 0) -> News | None:
    return asyncio.run(store.news(id, owner, version, partials))


def status(store: EditStore, id: str = "a") -> str | None:
    found = news(store, id)
    return found and found.state.status


def test_an_edit_goes_from_queued_to_completed() -> None:
    store, clock = make()
    state = store.add(order(), "g1", 2, 10)
    assert state is not None and state.body() == {
        "object": "edit",
        "id": "a",
        "status": "queued",
        "created_at": int(clock.now),
        "expires_at": int(clock.now) + 3600,
        "queue_position": 2,
        "step": 0,
        "steps": 10,
        "error": None,
    }
    assert store.report("g1", [report(position=1, step=0)]) == ["run"]
    found = news(store)
    assert found and (found.state.status, found.state.queue_position) == ("queued", 1)
    store.report("g1", [report(step=3)])
    found = news(store)
    assert found and (found.state.status, found.state.queue_position, found.state.step) == ("running", None, 3)
    assert store.result("a", "ann") == b""
    clock.now += 100
    store.finish("g1", report(step=10), b"{}")
    found = news(store)
    assert found and (found.state.status, found.state.step) == ("completed", 10)
    assert found.state.expires_at == int(clock.now) + 3600 and store.result("a", "ann") == b"{}"


def test_a_failed_edit_keeps_its_error() -> None:
    store, _ = make(order())
    store.finish("g1", report(), b"", error := {"message": "no", "type": "t", "param": None, "code": "c"})
    found = news(store)
    assert found and (found.state.status, found.state.error) == ("failed", error)


def test_only_the_key_that_made_an_edit_sees_it() -> None:
    store, _ = make(order())
    assert news(store, owner="bob") is store.cancel("a", "bob") is store.result("a", "bob") is news(store, "b") is None
    assert status(store) == "queued"


def test_a_canceled_edit_stops_and_a_finished_one_is_removed() -> None:
    store, _ = make(order("a", nbytes=500), order("b"))
    canceled = store.cancel("a", "ann")
    assert canceled and canceled.status == "canceled" and store.nbytes == 2 * OVERHEAD_BYTES
    assert store.report("g1", [report("a"), report("b")]) == ["stop", "run"]
    assert store.finish("g1", report("a"), b"late") == "stop" and store.result("a", "ann") == b""
    assert store.cancel("a", "ann") == canceled and status(store, "a") is None
    assert store.report("g1", [report("a")]) == ["stop"], "its gateway may still run it"


def test_results_expire_and_edits_that_run_do_not() -> None:
    store, clock = make(order("a"), order("b"), keep_s=100.0)
    store.finish("g1", report("a"), b"{}")
    for _ in range(10):
        clock.now += 20
        store.report("g1", [report("b")])
    assert status(store, "a") is None and status(store, "b") == "running"
    store.add(order("c"), "g1", 0, 1)
    assert store.nbytes == 2 * OVERHEAD_BYTES
    clock.now += 101
    assert status(store, "b") is None, "nobody has run or claimed it"


def test_the_oldest_finished_edits_make_room() -> None:
    store, _ = make(*(order(id, nbytes=4_000) for id in "abc"), max_bytes=20_000)
    for id in "bca":
        store.finish("g1", report(id), bytes(4_000))
    assert store.add(order("d", nbytes=9_000), "g1", 0, 1)
    assert [status(store, id) for id in "abcd"] == ["completed", None, "completed", "queued"]
    store.finish("g1", report("d"), bytes(15_000))
    assert [status(store, id) for id in "abcd"] == [None, None, None, "completed"]


def test_unfinished_edits_leave_no_room_for_more() -> None:
    store, _ = make(*(order(id, nbytes=8_000) for id in "ab"), max_bytes=20_000)
    assert store.add(order("c", nbytes=8_000), "g1", 0, 1) is None
    store.finish("g1", report("a"), bytes(30_000))
    found = news(store)
    assert found and found.state.error and found.state.error["code"] == "result_too_large"
    assert store.add(order("c", nbytes=8_000), "g1", 0, 1)


def test_an_edit_whose_gateway_has_died_is_claimed_once() -> None:
    store, clock = make(order())
    clock.now += LEASE_S - 1
    store.report("g1", [report(partials=(b"1", b"2"))])
    clock.now += LEASE_S - 1
    assert store.claim("a", "g2") is None and (found := news(store)) and not found.is_orphan
    clock.now += 2
    assert (found := news(store)) and found.is_orphan
    assert store.claim("a", "g2") == order() and store.claim("a", "g3") is None
    assert store.report("g1", [report()]) == ["stop"] and store.finish("g1", report(), b"late") == "stop"
    assert store.report("g2", [report(partials=(b"1",))]) == ["run"]
    store.report("g2", [report(partials=(b"2", b"3"), first=1)])
    assert (found := news(store, partials=2)) and found.partials == [b"3"]
    store.release("a", "g2")
    assert store.report("g2", [report()]) == ["stop"] and store.claim("a", "g3") == order()


def test_a_report_that_comes_twice_changes_nothing() -> None:
    store, _ = make(order())
    for _ in range(2):
        store.report("g1", [report(partials=(b"1", b"2"))])
        store.report("g1", [report(step=2, partials=(b"3",), first=2)])
    assert (found := news(store)) and list(found.partials) == [b"1", b"2", b"3"]


def test_whoever_follows_an_edit_hears_of_a_change_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        store, _ = make(order())
        monkeypatch.setattr(store_module, "WAIT_S", 30.0)
        found = await store.news("a", "ann")
        waiting = asyncio.create_task(store.news("a", "ann", found.version if found else 0))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        store.report("g1", [report(step=4)])
        begun, after = time.monotonic(), await waiting
        assert after and after.state.step == 4 and time.monotonic() - begun < 5
        monkeypatch.setattr(store_module, "WAIT_S", 0.05)
        assert await store.news("a", "ann", after.version) == after

    asyncio.run(main())


def test_an_edit_that_is_told_twice_is_kept_once_as_it_is() -> None:
    store, _ = make(order("a", nbytes=500))
    taken = store.nbytes
    assert store.finish("g1", report("a"), b"done") == "run"
    state = store.add(order("a", nbytes=500), "g1", 2, 10)
    assert state is not None and state.status == "completed" and store.result("a", "ann") == b"done"
    assert store.nbytes < taken
