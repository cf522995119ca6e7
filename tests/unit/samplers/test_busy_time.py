"""The clock runs while anybody is inside, once for all of them."""

import threading
import time

from llds.samplers.busy_time import BusyTime


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
