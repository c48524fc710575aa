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


def test_what_stays_is_old_at_once() -> None:
    with collector_paused(stays=True):
        made = [[index] for index in range(10_000)]
    young = {id(item) for item in gc.get_objects(generation=0)}
    assert not young.intersection(map(id, made))


def test_what_was_frozen_stays_frozen() -> None:
    gc.freeze()
    try:
        count = gc.get_freeze_count()
        with collector_paused(stays=True):
            pass
        assert gc.get_freeze_count() == count
    finally:
        gc.unfreeze()
