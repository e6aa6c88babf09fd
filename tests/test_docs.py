"""The pages in docs/ that are programs: their code blocks, in order, run. Of notebooks.md see test_notebooks.py."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted({*DOCS.glob("*.md")} - {DOCS / "notebooks.md"})


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_a_page_has_no_code_that_no_test_runs(page):
    text = page.read_text()
    blocks = r"^```(.*)\n(?:.*\n)*?```$"
    assert {*re.findall(blocks, text, re.M)} == {"python"}
    assert not re.search(r"^(?: {4}|\t|~~~)", re.sub(blocks, "", text, flags=re.M), re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page, tmp_path):
    blocks = re.findall(r"```python\n(.+?)```", page.read_text(), re.S)
    assert len(blocks) > 1
    words = [sys.executable, "-W", "error", "-c", "\n".join(blocks)]
    done = subprocess.run(words, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    for name in re.findall(r'savefig\("(.+?)"\)', page.read_text()):
        assert (tmp_path / name).is_file()
