"""What the documentation says is so: its programs run, and print what it says; its tables are those of the code.

`python tests/test_docs.py` writes what the programs print, and the tables, into docs/passes.md.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import jitinfer

ROOT = Path(__file__).parents[1]
PATH = ROOT / "docs" / "passes.md"
PASSES = PATH.read_text()


def written(text, folder):
    """The document with what its programs print now, each saved in `folder` under the name in its first line."""
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        (folder / block.partition("\n")[0].removeprefix("# ")).write_text(block)
    environment = dict(os.environ, PYTHONPATH=str(ROOT), JITINFER_CACHE_DIR=str(folder / "cache"))

    def run(match):
        done = subprocess.run(
            [sys.executable, *match[1].split()],
            capture_output=True,
            text=True,
            cwd=folder,
            env=environment,
            timeout=200,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        printed = done.stdout.replace(f"{folder}{os.sep}", "").strip()
        return f"```console\n$ python {match[1]}\n{printed}\n```\n"

    text = re.sub(r"^```console\n\$ python (.*?)\n.*?^```\n", run, text, flags=re.MULTILINE | re.DOTALL)
    return text[: text.index("| pass | what it does |")] + jitinfer.passes.table()


def masked(text):
    """Without what a clock says."""
    return re.sub(r" +\d+\.\d+ ?(ms|s)\b", r" \1", text)


@pytest.mark.slow
def test_the_programs_print_what_the_document_says(tmp_path):
    assert PASSES.count("```console\n$ python ") == 3
    assert masked(written(PASSES, tmp_path)) == masked(PASSES), "run python tests/test_docs.py if this is right"


def test_the_table_of_passes_is_that_of_the_code():
    assert PASSES.endswith(jitinfer.passes.table()), "run python tests/test_docs.py"
    for line in jitinfer.passes.table().splitlines()[2:]:
        assert re.fullmatch(r"\| `\w+` \| \S.* \|", line)


def test_the_patterns_in_the_reference_are_patterns():
    from jitinfer.graph import ops
    from jitinfer.passes import constant, either, maybe, optional
    from jitinfer.passes.pattern import Pattern, Variable, as_pattern

    section = PASSES.partition("## The language of patterns")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \| ", section, re.MULTILINE)
    names = {name: Variable(name) for name in ("x", "y", "a", "b", "w", "bias", "scale")}
    known = {"ops": ops, "constant": constant, "either": either, "maybe": maybe, "optional": optional, **names}
    written = [each for row in rows for each in re.findall("`([^`]*)`", row)]
    assert len(written) > 10
    for each in written:
        assert isinstance(as_pattern(eval(each, dict(known))), Pattern), each


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        PATH.write_text(written(PASSES, Path(name).resolve()))
