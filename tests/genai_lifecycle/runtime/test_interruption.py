"""A swallowed or held Ctrl-C comes back at the next step, and the process's own handling is left as it was."""

from __future__ import annotations

import contextlib
import os
import signal
import threading

import pytest

from genai_lifecycle.runtime import interruption, progress


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, [])  # a call in which Python looks for signals


def test_a_swallowed_ctrl_c_is_raised_again_at_the_next_step():
    with pytest.raises(KeyboardInterrupt), interruption.remembered(), progress.steps("Work", 2) as advance:
        with contextlib.suppress(KeyboardInterrupt):
            press_ctrl_c()
        advance(1)
        pytest.fail("went on after Ctrl-C")


def test_a_swallowed_ctrl_c_is_raised_at_the_end_where_there_was_no_step():
    with pytest.raises(KeyboardInterrupt), interruption.remembered():
        with contextlib.suppress(KeyboardInterrupt):
            press_ctrl_c()


class Finalised:
    def __del__(self):
        press_ctrl_c()


def test_a_finaliser_does_not_swallow_it():
    with pytest.raises(KeyboardInterrupt), interruption.remembered():
        Finalised()
        interruption.deliver()
        pytest.fail("went on after Ctrl-C")


def test_it_waits_for_the_end_of_a_block_that_holds_it_and_is_raised_once():
    done = []
    with pytest.raises(KeyboardInterrupt), interruption.remembered():
        with contextlib.suppress(KeyboardInterrupt), interruption.held():
            with interruption.held():
                press_ctrl_c()
            done.append("all")
        done.append("the block was left")
        interruption.deliver()
        done.append("and what was to be tidied up")
    assert done == ["all", "the block was left", "and what was to be tidied up"]


def test_it_is_raised_in_the_main_thread_and_in_no_other():
    done = []

    def work() -> None:
        interruption.deliver()
        done.append("all")

    with pytest.raises(KeyboardInterrupt), interruption.remembered():
        Finalised()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert done == ["all"]
        interruption.deliver()
        pytest.fail("went on after Ctrl-C")


def test_the_third_is_raised_wherever_the_program_is():
    pressed = []
    with pytest.raises(KeyboardInterrupt), interruption.remembered(), interruption.held():
        for _ in range(9):
            pressed.append(1)
            press_ctrl_c()
    assert len(pressed) == interruption.LAST_WORD


def test_without_ctrl_c_nothing_is_raised_and_the_handler_is_put_back():
    before = signal.getsignal(signal.SIGINT)
    with interruption.remembered(), progress.steps("Work", 1) as advance:
        assert signal.getsignal(signal.SIGINT) is not before
        advance(1)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_new_run_knows_nothing_of_the_last_ones_ctrl_c():
    with pytest.raises(KeyboardInterrupt), interruption.remembered():
        press_ctrl_c()
    with interruption.remembered():
        interruption.check()


def test_another_thread_may_run_a_mode():
    failed = []

    def work() -> None:
        try:
            with interruption.remembered():
                interruption.check()
        except BaseException as exc:
            failed.append(exc)
            raise

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed
