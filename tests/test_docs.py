"""The pages in docs/: their code blocks, in order, are one program that runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).parent.parent / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page, tmp_path):
    blocks = re.findall(r"```python\n(.+?)```", page.read_text(), re.S)
    assert len(blocks) > 1
    words = [sys.executable, "-W", "error", "-c", "\n".join(blocks)]
    done = subprocess.run(words, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "flow.png").is_file()
