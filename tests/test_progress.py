"""Progress is shown where somebody watches, after a while, and never on standard output."""

import time

import pytest

from jitinfer import progress as module


@pytest.mark.parametrize(("watched", "seconds", "shown"), [(True, 0.6, True), (True, 0.0, False), (False, 0.6, False)])
def test_progress_is_shown_to_who_watches_what_takes_long(monkeypatch, capfd, watched, seconds, shown):
    monkeypatch.setattr(module, "someone_is_watching", lambda: watched)
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with module.progress("compiling a model"):
        time.sleep(seconds)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert ("compiling a model" in captured.err) == shown


def test_an_error_inside_comes_out(monkeypatch):
    monkeypatch.setattr(module, "someone_is_watching", lambda: True)
    with pytest.raises(KeyError), module.progress("failing"):
        raise KeyError("mine")


def test_steps_show_in_the_display_that_is_there(monkeypatch, capfd):
    monkeypatch.setattr(module, "someone_is_watching", lambda: True)
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with module.progress("compiling a model"), module.progress("tuning", 4) as advance:
        display = module._shown.get()
        for _ in range(3):
            time.sleep(0.2)
            advance()
        assert [(task.description, task.completed, task.total) for task in display.tasks] == [
            ("compiling a model", 0, None),
            ("tuning", 3, 4),
        ]
    assert module._shown.get() is None
    assert display.tasks == []
    assert "tuning" in capfd.readouterr().err
