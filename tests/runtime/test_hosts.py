"""Processes that meet: what one dies of all die of, within seconds, in one line."""

from __future__ import annotations

import os
import socket

import pytest
from forks import Fork
from runtime import hosts
from waiting import wait_until

from xalign_jax.runtime.cluster import failures

SECONDS = 60  # from the first end to the last; about 5 on a machine that has nothing else to do


def meet(scenario, processes, directory):
    """Exit codes and standard errors of the processes of a scenario."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    running = [
        Fork(hosts.main, [scenario, coordinator, str(processes), str(own), str(directory)], environment)
        for own in range(processes)
    ]
    try:
        wait_until(lambda: any(process.poll() is not None for process in running))
        errors = [process.communicate(timeout=SECONDS)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    return [process.returncode for process in running], errors


def test_processes_that_do_not_agree_say_what_differs_and_where(tmp_path):
    codes, errors = meet("agree", 3, tmp_path)
    assert codes == [2, 2, 2]
    for said in errors:
        assert "Recipe.stages[0].peak is 0.1 on process 0" in said
        assert "0.3 on process 1" in said and "Recipe.stages[0].warmup is 5" in said
        assert "peak is 0.2" not in said and "Traceback" not in said


def test_a_user_error_of_one_process_ends_all_with_its_code(tmp_path):
    codes, errors = meet("user_error", 2, tmp_path)
    assert codes == [2, 2]
    assert errors[1].splitlines()[-1] == "xalign: Stream.batch_size = 7: no"
    assert (
        errors[0].splitlines()[-1]
        == f"xalign: process 1 ({socket.gethostname()}) ended the run: Stream.batch_size = 7: no"
    )


def test_what_nobody_foresaw_in_the_process_that_holds_the_store(tmp_path):
    codes, errors = meet("zero_division", 2, tmp_path)
    assert codes == [1, 1]
    assert "Traceback" in errors[0]
    assert "process 0" in errors[1] and "ZeroDivisionError: division by zero" in errors[1]


def test_a_hang_becomes_stacks_and_an_error_everywhere(tmp_path):
    codes, errors = meet("hang", 2, tmp_path)
    assert codes == [4, 4]
    assert "in where_it_hangs" in errors[0]
    assert all("no step finished for 1 s (Runtime.watchdog_seconds)" in said for said in errors)


def test_sigterm_in_one_process_stops_all_at_one_step(tmp_path):
    codes, _ = meet("stop", 2, tmp_path)
    assert codes == [3, 3]
    first, second = (int((tmp_path / f"stopped-{own}").read_text()) for own in range(2))
    assert first == second >= 3


def test_a_model_directory_that_not_every_process_sees(tmp_path):
    codes, errors = meet("blind", 2, tmp_path)
    assert codes == [2, 2]
    assert all("process 1 of 2 does not see what process 0 writes there" in said for said in errors)


def test_a_process_that_dies_without_a_word_is_named(tmp_path):
    codes, errors = meet("killed", 3, tmp_path)
    assert codes == [4, -9, 4]
    assert all("process 1 died or lost its network" in errors[own] for own in (0, 2))


def test_a_stall_of_process_0_is_no_silence_of_the_others(monkeypatch):
    class Failed(Exception):
        pass

    def fail(cause, code):
        raise Failed(cause)

    monkeypatch.setattr(failures, "fail", fail)
    heard = {0: ("", 0.0), 1: ("", 0.0)}
    for minute in range(20):  # it wakes once a minute, and process 1 between
        failures._find_the_dead([(f"{failures.ALIVE}/{own:06d}", str(minute)) for own in range(2)], heard, 60)
    beats = [(f"{failures.ALIVE}/{own:06d}", beat) for own, beat in enumerate((failures.OVER, "19"))]
    failures._find_the_dead(beats, heard, 60)  # before process 1 could beat again
    with pytest.raises(Failed, match="process 1 died or lost its network: silent for 15 s"):
        for _ in range(20):
            failures._find_the_dead(beats, heard, failures.POLL_SECONDS)
