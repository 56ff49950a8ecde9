from __future__ import annotations

import json

import pytest

from jitinfer.cache import Cache, Key
from jitinfer.tools.cli import main


def plan(number: int) -> Key:
    return Key("plan", {"number": number, "versions": {"triton": "3.6.0"}})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("TRITON_KERNEL_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JITINFER_CACHE_DIR", str(tmp_path))
    cache = Cache(tmp_path / "jitinfer")
    cache.put(plan(1), {"cubin": b"x" * 50_000, "source": b"y"}, {"seconds": 1.5})
    cache.put(Key("trace", {"number": 9}), {}, {})
    cache.put(plan(2), {"cubin": b"z" * 40_000}, {})
    cache.close()
    return cache.path


def test_ls_lists_the_default_folder(folder, capsys):
    assert main(["cache", "ls"]) == 0
    output = capsys.readouterr().out
    for key in (plan(1), plan(2), Key("trace", {"number": 9})):
        assert key.digest[:12] in output
    assert "50.3 kB" in output
    assert f"3 entries, 90.8 kB, in {folder}" in output.replace("\n", " ")


def test_ls_as_json(folder, capsys):
    assert main(["cache", "ls", "--json", "--dir", str(folder)]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert {entry["digest"] for entry in entries} == {
        plan(1).digest,
        plan(2).digest,
        Key("trace", {"number": 9}).digest,
    }
    assert [entry["kind"] for entry in entries] == ["plan", "trace", "plan"]
    assert entries[0]["size"] > 40_000


def test_looking_creates_nothing(tmp_path, capsys):
    folder = tmp_path / "none"
    assert main(["cache", "ls", "--dir", str(folder)]) == 0
    assert "0 entries" in capsys.readouterr().out
    for command in (["verify"], ["prune"], ["clear", "--yes"], ["show", "ab"], ["explain", "ab"]):
        assert main(["cache", *command, "--dir", str(folder)]) == 2
        assert capsys.readouterr().err == f"jitinfer: there is no cache at {folder}\n"
    assert not folder.exists()


def test_show_with_the_beginning_of_a_digest(folder, capsys):
    assert main(["cache", "show", plan(1).digest[:8]]) == 0
    output = capsys.readouterr().out
    assert output.startswith(f"plan {plan(1).digest}\n")
    assert '"triton": "3.6.0"' in output
    assert '"seconds": 1.5' in output
    assert "cubin: 50.0 kB" in output


def test_show_as_json(folder, capsys):
    assert main(["cache", "show", plan(1).digest, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["document"] == plan(1).document
    assert shown["metadata"] == {"seconds": 1.5}
    assert shown["blobs"] == {"cubin": 50_000, "source": 1}


@pytest.mark.parametrize("command", ["show", "explain"])
@pytest.mark.parametrize(("digest", "message"), [("ffffffffffff", "no entry"), ("", "3 entries")])
def test_a_digest_that_names_not_one_entry(folder, capsys, command, digest, message):
    assert main(["cache", command, digest]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_verify_sets_the_damaged_aside(folder, capsys):
    assert main(["cache", "verify"]) == 0
    assert capsys.readouterr().out == "3 entries, 0 damaged\n"
    (value,) = (path for path in folder.glob("??/??/*.val") if path.stat().st_size < 45_000)
    value.write_bytes(b"damaged")
    assert main(["cache", "verify", "--json"]) == 1
    (damage,) = json.loads(capsys.readouterr().out)
    assert damage["digest"] == plan(2).digest
    assert main(["cache", "verify"]) == 0
    assert capsys.readouterr().out == "2 entries, 0 damaged\n"


def test_prune_to_a_size(folder, capsys):
    assert main(["cache", "prune"]) == 0
    assert capsys.readouterr().out == "0 entries removed\n"
    assert main(["cache", "prune", "--size", "0.00005"]) == 0
    assert capsys.readouterr().out == "1 entries removed\n"
    assert {entry.kind for entry in Cache(folder).keys()} == {"plan", "trace"}  # noqa: SIM118
    assert Cache(folder).get(plan(1)) is None


@pytest.mark.parametrize("size", ["-1", "many", "nan"])
def test_a_size_that_is_none(folder, capsys, size):
    with pytest.raises(SystemExit) as exit_info:
        main(["cache", "prune", f"--size={size}"])
    assert exit_info.value.code == 2
    assert "--size" in capsys.readouterr().err


def test_clear_asks_first(folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert main(["cache", "clear"]) == 2
    assert "--yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert main(["cache", "clear"]) == 1
    assert Cache(folder).get(plan(1)) is not None
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert main(["cache", "clear"]) == 0
    assert Cache(folder).get(plan(1)) is None


def test_clear_without_asking(folder, capsys):
    assert main(["cache", "clear", "--yes"]) == 0
    assert capsys.readouterr().out == "3 entries removed\n"
    assert list(folder.glob("??/??/*.val")) == []


def test_explain(folder, capsys):
    assert main(["cache", "explain", plan(2).digest[:10]]) == 0
    output = capsys.readouterr().out
    assert plan(1).digest[:12] in output
    assert "number: 1 -> 2" in output


def test_a_folder_that_must_not_be_used(folder, capsys):
    folder.chmod(0o777)
    assert main(["cache", "ls"]) == 2
    assert f"chmod go-w {folder}" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["cache"], ["cache", "show"], ["nonsense"]])
def test_an_incomplete_command_line(argv, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(argv)
    assert exit_info.value.code == 2
    assert "usage: jitinfer" in capsys.readouterr().err
