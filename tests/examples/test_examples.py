"""The examples do what they say, and the pages that are made from the code say what the code does."""

import argparse
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import numpy
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
FIGURES = {"dit": "before_after.png", "sd3": "sd3_timings.png"}


def start(script, folder, *arguments):
    """Starts an example; its standard output and errors go to a file in `folder`."""
    command = [sys.executable, str(ROOT / "examples" / f"{script}_pipeline.py"), *arguments]
    with open(folder / f"{script}.log", "w") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)


@pytest.fixture(scope="module", autouse=True)
def runs(tmp_path_factory):
    """Both pipelines, small, in folders of their own; started together, since most of their time is imports."""
    folders = {script: tmp_path_factory.mktemp(script) for script in FIGURES}
    processes = {script: start(script, folders[script], "--small", "--steps", "2") for script in FIGURES}
    yield {script: (processes[script], folders[script]) for script in FIGURES}
    for process in processes.values():
        process.kill()
        process.wait()


@pytest.fixture
def pipelines(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    import pipelines

    return pipelines


def shown(outputs):
    """What is printed arrives in pieces that depend on the load of the machine."""
    each = [output for outputs_of_cell in outputs for output in outputs_of_cell]
    printed = "".join(output["text"] for output in each if output["output_type"] == "stream")
    return printed + json.dumps([output["data"] for output in each if "data" in output])


def test_the_notebook_runs_and_shows_what_it_promises(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(ROOT / "examples" / "tour.ipynb", 4)
    stored = [cell.get("outputs") for cell in notebook.cells if cell.cell_type == "code"]
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()  # raises if a cell does
    for outputs in (stored, [cell.get("outputs") for cell in notebook.cells if cell.cell_type == "code"]):
        text = shown(outputs)
        assert re.search(r"largest difference: [0-9]e-0[5-9]", text)
        assert "made because causal was False, is True" in text
        assert "<b>attend</b>, compiled by jitinfer" in text
        assert "it is the dynamic one: True" in text
        assert "specialisations: 1" in text
        assert "onednn_placement_pass: " in text
        assert re.search(r"verdict +[0-9a-f]{12}", text)
        assert "Warning" not in text


@pytest.mark.parametrize("script", FIGURES)
def test_a_pipeline_gives_the_dynamic_image(runs, script):
    process, folder = runs[script]
    code = process.wait(timeout=280)
    log = (folder / f"{script}.log").read_text()
    assert code == 0, log
    found = json.loads((folder / "output" / f"{script}.json").read_text())
    assert 0 <= found["difference"] < 1e-3
    assert 0 <= found["difference_second_process"] < 1e-3
    assert all("Paddle Inference" in way for way, *_ in found["transformer_runs_by"] + found["vae_runs_by"])
    cold, traced, stored = found["first_call_seconds"].values()
    assert min(sum(cold), sum(traced)) > sum(stored) > 0  # by far; other tests run beside it
    for line in ("transformer, one step", "cache_static_model", "\ntransformer: Paddle Inference"):
        assert line in log


@pytest.mark.parametrize("script", FIGURES)
def test_a_pipeline_draws_its_figures(runs, script):
    process, folder = runs[script]
    assert process.wait(timeout=280) == 0
    for name in (f"{script}.png", FIGURES[script]):
        with Image.open(folder / "output" / name) as image:
            assert numpy.asarray(image.convert("L")).std() > 10


def test_the_cache_folder_of_somebody_else_is_left_alone(pipelines, tmp_path, capsys):
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    (theirs / "precious").touch()
    with pytest.raises(SystemExit, match="was not made by the examples"):
        pipelines.empty_cache(theirs)
    assert (theirs / "precious").exists()
    pipelines.empty_cache(ours)
    (ours / "old").touch()
    pipelines.empty_cache(ours)
    assert not (ours / "old").exists()
    assert "emptying" in capsys.readouterr().out


def test_a_pretrained_pipeline_that_cannot_be_had_is_a_clear_error(pipelines, monkeypatch):
    def build(_):
        raise OSError("the hub cannot be reached\nand a long story follows")

    example = pipelines.Example("dit", build, None, None, None, "")
    with pytest.raises(SystemExit, match=r"some/model.*a local folder \(OSError: the hub cannot be reached\)$"):
        pipelines.build(example, argparse.Namespace(pretrained="some/model"))
    monkeypatch.setattr(sys, "argv", ["dit_pipeline.py", "--pretrained", "./no-such-folder"])
    with pytest.raises(SystemExit, match=r"^--pretrained: there is no folder \./no-such-folder$"):
        pipelines.main(example, argparse.ArgumentParser())


def test_a_wrong_image_is_noticed(pipelines):
    image = numpy.linspace(0.0, 0.5, 48).reshape(1, 4, 4, 3)
    wrong = image.copy()
    wrong[0, 1, 2, 0] += 0.001
    assert math.isclose(pipelines.difference(wrong, image), 0.002, rel_tol=1e-9)
    assert not pipelines.agree({"difference": 0.0, "difference_second_process": 0.002, "limit": 1e-3})
    assert not pipelines.agree({"difference": 0.0, "difference_second_process": math.nan, "limit": 1e-3})
    assert pipelines.agree({"difference": 0.0009, "difference_second_process": 0.0009, "limit": 1e-3})


def test_the_page_of_options_is_the_table():
    from jitinfer.options import table

    assert (ROOT / "docs" / "options.md").read_text().endswith("\n\n" + table())


def test_the_page_of_coverage_is_up_to_date():
    """All but what is measured: `python docs/coverage.py` writes it anew."""
    spec = importlib.util.spec_from_file_location("coverage_page", ROOT / "docs" / "coverage.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    written, _, measured = page.PAGE.read_text().partition(page.MEASURED)
    assert written == page.described()
    rows = [line.split(" | ") for line in measured.splitlines() if line.startswith("| ")]
    assert len(rows) > 60
    assert {row[4] for row in rows[2:]} == {"none"}


def test_the_code_in_the_readme_runs(tmp_path, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    script = tmp_path / "readme.py"
    script.write_text(blocks[0])
    exec(compile(blocks[0], str(script), "exec"), {"__name__": "readme"})
    told = capsys.readouterr().out
    assert "attend: 1 specialisation" in told
    assert re.search(r"runs by +Paddle Inference", told)


def test_the_messages_in_the_readme_are_those_of_the_sources():
    sources = "\n".join(path.read_text() for path in (ROOT / "jitinfer").rglob("*.py"))
    section = (ROOT / "README.md").read_text().partition("## Troubleshooting")[2].partition("## ")[0]
    messages = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    assert len(messages) > 10
    for quoted in re.findall(r"`([^`]+)`", "".join(messages)):
        for part in quoted.split("…"):
            assert part.strip(" :") in sources, f"no message says {part!r}"


def _prose(page):
    """Without its programs, and without what they print."""
    return re.sub(r"(?ms)^```.*?^```", "", page.read_text())


def test_links_in_the_pages_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", _prose(page)):
            assert os.path.exists(page.parent / target), f"{page.name} links to {target}"
