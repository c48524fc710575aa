import gc

from initlint.model.collector import collector_paused


def test_the_collector_goes_on_after_an_error() -> None:
    try:
        with collector_paused():
            assert not gc.isenabled()
            raise LookupError
    except LookupError:
        pass
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with collector_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
