"""What workers have begun and not done."""

from pipelines.inference.begun import Begun


def test_what_was_begun_and_not_done_is_counted() -> None:
    begun = Begun()
    assert begun.begin("a") == (0, 0)
    assert begun.begin("b", alone=True) == (0, 0)
    assert begun.begin("a") == (1, 0)
    assert begun.begin("b", alone=True) == (1, 1)
    assert begun.begin("b", alone=True) == (2, 2)
    begun.end("b")
    assert begun.begin("b", alone=True) == (0, 0)
