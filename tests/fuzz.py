"""Whatever comes in: no traceback. `python tests/fuzz.py MINUTES` tries damaged and invented input for so long.

Not part of the test suite: what it finds becomes a test there. It gives real commands in this process, over arguments,
data sets, the tables of a results folder, and users' experiment files, each damaged at random, and holds that every
command ends with one of the documented exit codes, says one line where that is 2, and takes no longer than a minute.
Nothing is trained: where a sweep would begin to, its results folder is a file.
"""

import json
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from command_line import Result, call
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import gradflow as gf
from gradflow.commands.cli import EXIT_STOPPED
from gradflow.measuring.measure import ReadingSpec

SECONDS = 60
ENDED: Counter[str] = Counter()
TEMPORARY = tempfile.TemporaryDirectory(prefix="gradflow-fuzz-")  # gone at the end, however it comes
FOLDER = Path(TEMPORARY.name)
SPEC = ReadingSpec((), (), (), {})  # of a reading of the loss alone
NOWHERE = FOLDER / "a file"  # as a results folder: nothing is trained

odd_text = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", ".", "..", "../x", "/", "nan", "inf", "-1", "0", "1e400", "\x1b[31m", "$x_{", "[red]", "a\nb"]
    ),
)
odd_number = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(), st.sampled_from([0, 1, -1, 2**31, 2**63, 10**9, 10**30, 1e308])
)
odd_json = st.recursive(
    st.one_of(st.none(), st.booleans(), odd_number, odd_text),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(odd_text, inner, max_size=3)),
    max_leaves=6,
)


def answer(*words: object) -> Result:
    """Gives a command; a signal that it took is meant for all."""
    result = call(*words)
    if result.code == EXIT_STOPPED:
        raise KeyboardInterrupt
    return result


def holds(kind: str, *arguments: object) -> None:
    """Gives the command and checks how it ends."""
    words = [str(word) for word in arguments]
    if any("\0" in word for word in words):  # the system itself gives no such argument
        return
    begun = time.monotonic()
    result = answer(*words)
    ENDED[f"{kind}: exit {result.code}"] += 1
    assert result.code in (0, 1, 2, 3), result
    assert "Traceback" not in result.err + result.out, result
    assert result.code != 2 or result.err.count("\n") == 1, result
    assert result.err.isprintable() or result.code != 2 or result.err[:-1].isprintable(), result
    assert time.monotonic() - begun < SECONDS, (result, words)


OPTIONS = ("--net", "--depth", "--width", "--steps", "--batch", "--learning-rate", "--seeds", "--record", "--data")
OPTIONS += ("--name", "--workers", "--checkpoint-seconds", "--image-size", "--validation", "--seed", "--momentum")
OPTIONS += (
    "--normalisation",
    "--evaluations",
    "--transforms",
    "--image",
    "--classes",
    "--channels",
    "--layers",
    "--xyz",
)
VERBS = ("list", "run", "sweep", "plot", "judge", "describe", "frobnicate", "", "--help")
usual = st.sampled_from(
    ["plain", "residual", "mlp", "vgg", "8", "18", "1", "2", "0.1", "digits", "depth_sweep", "none"]
)


@st.composite
def commands(draw: Any) -> list[str]:
    words = [draw(st.sampled_from(VERBS))]
    if words[0] in ("run", "plot", "judge", "describe"):
        words.append(draw(st.one_of(usual, odd_text)))
    for _ in range(draw(st.integers(0, 4))):
        words.append(draw(st.one_of(st.sampled_from(OPTIONS), odd_text)))
        words += [str(value) for value in draw(st.lists(st.one_of(usual, odd_text, odd_number), max_size=2))]
    if words[0] in ("run", "sweep"):
        words += ["--results", str(NOWHERE)]
    return words


@given(commands())
def arguments(words: list[str]) -> None:
    holds("arguments", *words)


def damaged(draw: Any, content: bytes) -> bytes:
    """Some bytes changed, a piece cut out or put in, or all of it something else."""
    kind = draw(st.sampled_from(["bytes", "cut", "insert", "other"]))
    if kind == "other" or not content:
        return draw(st.binary(max_size=60))
    place = draw(st.integers(0, len(content) - 1))
    if kind == "cut":
        return content[:place] + content[place + draw(st.integers(1, 200)) :]
    if kind == "insert":
        return content[:place] + draw(st.binary(min_size=1, max_size=20)) + content[place:]
    changed = bytearray(content)
    for where in draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=6)):
        changed[where] = draw(st.integers(0, 255))
    return bytes(changed)


def changed_json(draw: Any, content: dict[str, Any]) -> dict[str, Any]:
    """A value anywhere in it is another one, or is missing."""
    content = json.loads(json.dumps(content))
    inside = content
    while True:
        key = draw(st.sampled_from(sorted(inside)))
        if isinstance(inside[key], dict) and inside[key] and draw(st.booleans()):
            inside = inside[key]
            continue
        if draw(st.booleans()):
            inside[key] = draw(odd_json)
        else:
            del inside[key]
        return content


def as_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where it was damaged before."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def damage_a_file(draw: Any, folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".svg", ".md"))
    path = draw(st.sampled_from(files))
    action = draw(st.sampled_from(["damage", "damage", "json", "remove", "copy", "folder"]))
    content = as_json(path) if action == "json" else None
    if content:
        path.write_text(json.dumps(changed_json(draw, content)))
    elif action == "remove":
        path.unlink()
    elif action == "copy":
        path.write_bytes(draw(st.sampled_from(files)).read_bytes())
    elif action == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(damaged(draw, path.read_bytes()))


def copy_of(original: Path) -> Path:
    copy = FOLDER / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(original, copy)
    return copy


@given(st.data())
def results(data: Any) -> None:
    """A published results folder, of a sweep or of an experiment, or the raw record, with a file or two damaged."""
    source, published = data.draw(st.tuples(st.sampled_from(["sweep", "smoke/arithmetic"]), st.booleans()))
    folder = copy_of(FOLDER / "results" / source)
    if not published:
        (folder / "readings.parquet").unlink()
    for _ in range(data.draw(st.integers(1, 2))):
        damage_a_file(data.draw, folder)
    holds("results", data.draw(st.sampled_from(["plot", "judge", "diagnose"])), folder)


@given(st.data())
def data_sets(data: Any) -> None:
    folder = copy_of(FOLDER / "data" / data.draw(st.sampled_from(["folder", "parquet", "idx"])))
    for _ in range(data.draw(st.integers(1, 2))):
        damage_a_file(data.draw, folder)
    holds("data", "sweep", "--data", folder, "--net", "mlp", "--depth", 2, "--results", NOWHERE)


settings_of_a_record = st.dictionaries(
    st.sampled_from(["net", "depth", "normalisation", "seed", "classes", "note", "rate", "a b"]),
    st.one_of(odd_number, odd_text, odd_json),
    max_size=3,
)


@given(settings_of_a_record)
def records(settings: dict[str, Any]) -> None:
    """The record of a user's own loop: it is made and read, or refused in one line."""
    folder = FOLDER / "record"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with gf.record(folder, settings=settings) as log:
            log(1, gf.Reading(1, SPEC, {"loss": np.float32(1)}))
        frame = gf.load(folder)
        told = {name: value for name, value in settings.items() if value is not None}
        assert {name: frame[name].iloc[0] for name in told} == told
        ENDED["record: made"] += 1
    except gf.BadInput as error:
        ENDED["record: refused" if len(str(error).splitlines()) == 1 else "record: several lines"] += 1
    assert not ENDED["record: several lines"], settings


SOURCE = '''"""An experiment."""
import gradflow as gf, numpy as np, pandas as pd
{claim}
def {runs}(preset, *arguments, **overrides):
    return {returned}
def verdict(table):
    return {verdict}
def figure(table, verdict):
    return {figure}
'''
CLAIM = 'CLAIM = gf.Claim(text="t", source="s", paper="p", statistic="x", side=">")'
TABLES = "(pd.DataFrame({'run': ['a'], 'net': ['n'], 'seed': [0], 'steps': [1], 'status': ['done']}),"
TABLES += " pd.DataFrame({'run': ['a'], 'step': [1], 'layer': [''], 'position': [-1], 'quantity': ['loss'],"
TABLES += " 'value': [1.0]}))"
FINDING = "gf.judge(CLAIM, {0: 1.0, 1: 2.0, 2: np.float32(3)}, 1)"
FACTS = ("{}", "{'a': np.float64(1)}", "{'a': np.arange(3)}", "{1: 2}", "{'a': float('nan')}", "{'a': object()}", "[1]")
ODD = (
    "None",
    "[]",
    "()",
    "{}",
    "3",
    "'x'",
    "1/0",
    "object()",
    "exit(3)",
    "[None]",
    "{'a': None}",
    "float('nan')",
    "gf",
)
ODD += ("(None, None)", "(pd.DataFrame(), pd.DataFrame())", "(x for x in [])", "{'../x': 3}", "[gf.Run()] * 2", "f()")


@st.composite
def experiments(draw: Any) -> str:
    verdicts = [f"gf.Verdict('t', ({FINDING},), {facts})" for facts in FACTS]
    figures = ["{}", "{'a': gf.plot.Figure()}", "{'a': gf.charts.dots({'p': {'x': [1.0]}})}"]
    source = SOURCE.format(
        claim=draw(st.sampled_from([CLAIM, CLAIM, CLAIM, "CLAIM = 3", "1/0", "exit()", "("])),
        runs=draw(st.sampled_from(["measure", "measure", "runs"])),
        returned=draw(st.sampled_from([TABLES] * len(ODD) + [*ODD])),
        verdict=draw(st.sampled_from([*verdicts * 2, *ODD])),
        figure=draw(st.sampled_from([*figures * 4, *ODD])),
    )
    return draw(st.sampled_from([source] * 9 + [source[: draw(st.integers(0, len(source)))]]))


@given(experiments(), st.booleans())
def experiment_files(source: str, smoke: bool) -> None:
    path = FOLDER / "mine.py"
    path.write_text(source)
    place = NOWHERE if "def runs" in source else FOLDER / "mine"
    shutil.rmtree(FOLDER / "mine", ignore_errors=True)
    holds("experiment", "run", path, *["--smoke"] * smoke, "--results", place)


def prepare() -> None:
    """The whole folders that are damaged: a sweep's, an experiment's, and one data set of each layout."""
    NOWHERE.write_text("")
    place = ("--results", FOLDER / "results")
    sweep = answer("sweep", "--net", "mlp", "--depth", 2, "--steps", 2, "--batch", 8, "--seeds", 2, *place)
    assert sweep.code == 0, sweep
    arithmetic = answer("run", "arithmetic", "--smoke", *place)
    assert arithmetic.code == 0, arithmetic
    pixels = np.random.default_rng(0).integers(0, 255, (8, 4, 4), np.uint8)
    for split in ("train", "test"):
        for number, one in enumerate(pixels):
            path = FOLDER / "data" / "folder" / split / f"class{number % 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(one).save(path)
        files = sorted((FOLDER / "data" / "folder" / split).rglob("*.png"))
        images = [{"bytes": path.read_bytes(), "path": path.name} for path in files]
        (FOLDER / "data" / "parquet").mkdir(exist_ok=True)
        table = pa.table({"image": images, "label": [number % 2 for number in range(8)]})
        pq.write_table(table, FOLDER / "data" / "parquet" / f"{split}-00000-of-00001.parquet")
        idx, name = FOLDER / "data" / "idx", "train" if split == "train" else "t10k"
        idx.mkdir(exist_ok=True)
        head = [bytes([0, 0, 8, 3]), *(size.to_bytes(4, "big") for size in pixels.shape)]
        (idx / f"{name}-images-idx3-ubyte").write_bytes(b"".join(head) + pixels.tobytes())
        labels = bytes([0, 0, 8, 1]) + (8).to_bytes(4, "big") + bytes(range(8))
        (idx / f"{name}-labels-idx1-ubyte").write_bytes(labels)


PROPERTIES: tuple[Callable[[], None], ...] = (arguments, results, data_sets, records, experiment_files)


def main(minutes: float) -> None:
    """Tries all kinds in turn until the time is over; ends with the smallest example of what does not hold."""
    prepare()
    quick = settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))  # pyright: ignore[reportArgumentType]
    checks = [quick(check) for check in PROPERTIES]
    ends = time.monotonic() + 60 * minutes
    try:
        while time.monotonic() < ends:
            for check in checks:
                check()
    finally:
        for kind, count in sorted(ENDED.items()):
            print(f"{kind}: {count}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else nothing is cleaned up
    try:
        main(float(sys.argv[1]) if len(sys.argv) > 1 else 10)
    except KeyboardInterrupt:
        sys.exit(EXIT_STOPPED)
