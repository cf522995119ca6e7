"""The event loop of the rollout, and the clock of its sampler."""

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from llds.samplers.busy_time import BusyTime
from llds.samplers.event_loop import BackgroundLoop


@pytest.fixture
def loop() -> Iterator[BackgroundLoop]:
    loop = BackgroundLoop()
    yield loop
    loop.close()


async def give(value: int) -> int:
    await asyncio.sleep(0)
    return value


def test_results_come_back_from_one_run_after_another(loop: BackgroundLoop) -> None:
    assert [loop.run(give(value)) for value in range(3)] == [0, 1, 2]


def test_it_runs_where_another_loop_runs_already(loop: BackgroundLoop) -> None:
    async def notebook() -> int:
        return loop.run(give(4))

    assert asyncio.run(notebook()) == 4


def test_an_error_cancels_what_else_runs_and_waits_for_its_end(loop: BackgroundLoop) -> None:
    ended: list[str] = []

    async def other() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            ended.append("other")

    tasks: list[asyncio.Task[None]] = []

    async def fail() -> None:
        tasks.append(asyncio.create_task(other()))
        await asyncio.sleep(0)
        raise KeyError("x")

    with pytest.raises(KeyError):
        loop.run(fail())
    assert ended == ["other"]
    assert loop.run(give(1)) == 1


def test_an_interrupt_ends_the_run_before_it_is_raised(loop: BackgroundLoop) -> None:
    ended: list[str] = []
    started = threading.Event()

    async def endless() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("endless")

    def interrupt() -> None:
        started.wait()
        time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        loop.run(endless())
    assert ended == ["endless"]
    assert loop.run(give(1)) == 1


def test_as_many_calls_run_in_threads_as_are_made(loop: BackgroundLoop) -> None:
    barrier = threading.Barrier(64)  # opens only when 64 threads are there at once

    async def all_at_once() -> list[int]:
        return await asyncio.gather(*(asyncio.to_thread(barrier.wait, 20) for _ in range(64)))

    assert sorted(loop.run(all_at_once())) == list(range(64))


def test_a_thread_serves_one_call_after_another_and_ends_with_the_loop() -> None:
    loop = BackgroundLoop()

    async def one_after_another() -> set[threading.Thread]:
        return {await asyncio.to_thread(threading.current_thread) for _ in range(50)}

    threads = loop.run(one_after_another())
    assert len(threads) == 1
    loop.close()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def test_threads_pass_on_errors(loop: BackgroundLoop) -> None:
    with pytest.raises(ZeroDivisionError):
        loop.run(asyncio.to_thread(lambda: 1 / 0))


def test_a_thread_that_hangs_does_not_hold_up_the_run(loop: BackgroundLoop) -> None:
    release = threading.Event()

    async def give_up() -> list[bool]:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(release.wait, 60), 0.05)
        return [thread.daemon for thread in threading.enumerate() if thread.name == "llds-tool"]

    assert loop.run(give_up()) == [True]  # it still hangs, and would not hold up the exit
    release.set()


def test_nothing_runs_after_close() -> None:
    loop = BackgroundLoop()
    loop.close()
    loop.close()
    coroutine = give(1)
    with pytest.raises(RuntimeError, match="closed"):
        loop.run(coroutine)
    coroutine.close()


def test_close_ends_what_still_runs() -> None:
    loop = BackgroundLoop()
    ended: list[str] = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("endless")

    tasks: list[asyncio.Task[None]] = []

    async def leave_behind() -> None:
        tasks.append(asyncio.create_task(endless()))
        await asyncio.sleep(0)

    loop.run(leave_behind())
    assert ended == []
    loop.close()
    assert ended == ["endless"]


@pytest.mark.slow
def test_a_thread_that_hangs_holds_up_neither_the_run_nor_the_exit() -> None:
    script = """
import asyncio, threading
from llds.samplers.event_loop import BackgroundLoop

async def hang():
    try:
        await asyncio.wait_for(asyncio.to_thread(threading.Event().wait), 0.05)
    except TimeoutError:
        return "gave up"

loop = BackgroundLoop()
print(loop.run(hang()))
loop.close()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == "gave up\n"
    assert done.stderr == ""


def test_overlapping_work_counts_once_and_pauses_do_not() -> None:
    clock = BusyTime()
    assert clock.seconds == 0

    def work() -> None:
        with clock:
            time.sleep(0.05)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    busy = clock.seconds
    assert 0.05 <= busy < 4 * 0.05 + 1  # sleeping side by side; a machine that is busy takes longer
    time.sleep(0.02)
    assert clock.seconds == busy
    with clock:
        with clock:
            pass
        inside = clock.seconds
        time.sleep(0.01)
        assert clock.seconds > inside  # still running
