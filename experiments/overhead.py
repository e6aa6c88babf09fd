"""What recording costs, and whether a step is as fast as PyTorch's with hooks that read the same quantities.

The other experiments are about nets; this one is about gradflow itself. Every number is a ratio of times taken in
turns, round by round, in processes of their own, or the time of a whole command. The bars were set before anything
was measured. The PyTorch step is `tests/torch_step.py`: eager, channels last, one thread a core; it shares no code
with ours. Without PyTorch its claims stay open. Run it on an idle machine.
"""

import importlib.util
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import gradflow as gf

PRESETS = {
    "smoke": {"depth": (8, 14), "image_size": 8, "batch": 16, "starts": 1, "seeds": 2, "steps": 2, "jobs": 0},
    "default": {"depth": (20, 56, 110), "image_size": 32, "batch": 128}
    | {"starts": 2, "seeds": 3, "steps": 3, "jobs": 0},
}
PRESETS["full"] = PRESETS["default"] | {"depth": (20, 56, 110, 200), "deepest": 1202, "jobs": 2}
TORCH = Path(__file__).parent.parent / "tests" / "torch_step.py"
SIZE = 32, 128  # pixels a side and batch that the bars are about
RIGHT_SIZE = "the size that the bar is about: depths 20 and 56 first, images of 32x32, batch 128"
HERE = "this project's own bar"


def _bar(text, statistic, side, than, bar):
    return gf.Claim(text, HERE, f"none; the bar: {bar}", statistic, side, than)


TURNS = "median step, ratio by round"
CLAIMS = {
    "residual_shallow": _bar(
        "a recorded step is as fast as PyTorch's, shallowest residual net", TURNS, "<", 1.0, "at most 1.0"
    ),
    "residual": _bar("a recorded step is as fast as PyTorch's, residual net of 56", TURNS, "<", 1.0, "at most 1.0"),
    "plain": _bar("a recorded step is as fast as PyTorch's, plain net of 56", TURNS, "<", 1.0, "at most 1.0"),
    "every": _bar("reading every step costs little", f"{TURNS}, read / not recorded", "<", 1.03, "at most 1.03"),
    "tenth": _bar("reading every tenth step costs less", f"{TURNS}, read / not recorded", "<", 1.01, "at most 1.01"),
    "temporary": _bar("recording needs no memory", "compiled temporary size, ratio", "<", 1.05, "at most 1.05"),
    "peak": _bar("recording needs no memory at run time", "peak resident size, ratio", "<", 1.05, "at most 1.05"),
    "compile": _bar("56 layers are soon compiled", "seconds to trace and compile", "<", 3.0, "at most 3 s"),
    "compile_deepest": _bar("1202 layers are soon compiled", "seconds to trace and compile", "<", 15.0, "at most 15 s"),
    "linear": _bar(
        "a step's time is linear in depth", "largest relative distance from the fitted line", "<", 0.1, "10 %"
    ),
    "input": _bar("a step does not wait for data", "time to make a batch / time of a step", "<", 0.01, "under 1 %"),
    "grid": _bar(
        "pinned processes are faster", "depth_sweep, one process with all cores / one a core", ">", 1.3, "at least 1.3"
    ),
    "job": _bar("the main job is soon done", "seconds of depth_sweep, first command to figures", "<", 180, "3 minutes"),
}


def measure(preset, folder, seeds=None, depth=None, batch=None, image_size=None):
    """All variants in turns: a row a step, and a row a process start or a command."""
    given = {"seeds": seeds, "depth": depth, "batch": batch and batch[0], "image_size": image_size and image_size[0]}
    settings = PRESETS[preset] | {name: value for name, value in given.items() if value is not None}
    for name in ("seeds", "batch", "image_size"):
        if settings[name] < 1:
            raise gf.BadInput(f"{name} {settings[name]} is not legal: it must be at least 1")
    for depth in settings["depth"]:
        gf.nets.complete("residual", {"depth": depth})
    if len(settings["depth"]) < 2:
        raise gf.BadInput("overhead needs two depths or more, such as --depth 20 56: the second is the main one")
    depths = sorted(settings["depth"])
    shallow, main = depths[0], depths[1]
    table = Table(settings | {"main": main})
    ours = [{"net": net, "depth": depth, "tool": "gradflow"} for net, depth in _twins(shallow, main)]
    theirs = [one | {"tool": "torch"} for one in ours if _has_torch()]
    silent = [{"net": "residual", "depth": main, "tool": "gradflow", "record": False}]
    for start in range(settings["starts"]):
        for depth in (main, shallow):
            several = [one for one in ours + theirs + silent if one["depth"] == depth]
            table.take_turns(several, start)
        if start == 0:
            table.take_turns([{"net": "residual", "depth": depth, "tool": "gradflow"} for depth in depths[2:]], start)
    if settings.get("deepest"):
        deepest = [{"net": "residual", "depth": settings["deepest"], "tool": "gradflow"}]
        table.take_turns(deepest, 0, rounds=1, steps=1)
    for job in range(settings["jobs"]):
        for workers in (0, 1):
            table.command(folder / "runs" / "job", workers, job)
    return table.tables()


def _twins(shallow, main):
    return ("residual", shallow), ("residual", main), ("plain", main)


def _has_torch():
    return TORCH.is_file() and importlib.util.find_spec("torch") is not None


class Table:
    """The runs (a variant in a round) and readings, as they come."""

    def __init__(self, settings):
        self.settings, self.runs, self.readings = settings, {}, []

    def add(self, variant, seed, **numbers):
        """The numbers of a variant in a round, under the round's name."""
        name = "-".join(str(variant[key]) for key in ("tool", "net", "depth", "read", "workers")) + f"-seed{seed}"
        rest = {key: self.settings[key] for key in ("batch", "image_size")}
        self.runs[name] = variant | rest | {"normalisation": "batch", "data": "random", "seed": seed, "status": "done"}
        for quantity, values in numbers.items():
            for step, value in enumerate(values, start=1):
                self.readings.append((name, step, "", -1, quantity, value))

    def take_turns(self, variants, start, rounds=None, steps=None):
        """Starts a process for each variant and lets them make a few steps in turn, round after round."""
        rounds, steps = rounds or self.settings["seeds"], steps or self.settings["steps"]
        watches = []
        try:
            for one in variants:
                variant = {"record": True, "read": 1, "workers": 0} | one
                settings = {key: variant[key] for key in ("net", "depth", "record")}
                settings |= {"image": self.settings["image_size"], "batch": self.settings["batch"]}
                program = [str(TORCH)] if variant["tool"] == "torch" else ["-m", "gradflow", "stopwatch"]
                watches.append((variant, gf.Stopwatch(settings, program)))
            for turn in range(rounds):
                seed = start * rounds + turn
                for variant, watch in watches:
                    often = {"tool": "gradflow", "net": "residual", "depth": self.settings["main"], "record": True}
                    for read in (1, 10) if often.items() <= variant.items() else (1,):
                        said = watch.steps(max(steps, read), read)
                        shown = variant | {"read": read if variant["record"] else 0}
                        numbers = {"step_seconds": said["seconds"]}
                        for name in ("input_seconds", "peak_megabytes"):
                            numbers |= {name: [said[name]]} if name in said else {}
                        if turn == 0 and read == 1:
                            kept = [name for name in watch.ready if name.endswith(("_seconds", "_megabytes"))]
                            numbers |= {name: [watch.ready[name]] for name in kept}
                        self.add(shown, seed, **numbers)
                        print(shown, {name: round(float(np.median(v)), 4) for name, v in numbers.items()}, flush=True)
        finally:
            for _, watch in watches:
                watch.__exit__(None, None, None)

    def command(self, folder, workers, seed):
        """The whole of `gradflow run depth_sweep`; workers 0: as many as it takes by itself."""
        shutil.rmtree(folder, ignore_errors=True)
        command = [sys.executable, "-P", "-m", "gradflow", "run", "depth_sweep", "--results", str(folder)]
        command += ["--workers", str(workers)] if workers else []
        begun = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - begun
        if done.returncode > 1:
            raise gf.BadInput(f"{' '.join(command[2:])} failed: {done.stderr.strip().splitlines()[-1:]}")
        shutil.rmtree(folder, ignore_errors=True)
        variant = {"net": "all", "depth": 56, "tool": "gradflow", "record": True, "read": 1, "workers": workers}
        self.add(variant, seed, job_seconds=[seconds])
        print(f"depth_sweep, workers {workers or 'as it takes'}: {seconds:.0f} s", flush=True)

    def tables(self):
        """As `gradflow.load` reads them."""
        columns = ["run", "step", "layer", "position", "quantity", "value"]
        runs = pd.DataFrame([{"run": name} | settings for name, settings in self.runs.items()])
        return runs, pd.DataFrame(self.readings, columns=columns)


def verdict(table):
    """Ratios round by round, against the bars."""
    depths = sorted(table[(table.quantity == "step_seconds") & (table.depth <= 1000)].depth.unique())
    shallow, main, deepest = depths[0], depths[1], table.depth.max()
    every = {"tool": "gradflow", "read": 1, "workers": 0}

    def seconds(quantity="step_seconds", **which: Any):
        return _median(table, quantity, **(every | which))

    silent: Any = {"net": "residual", "depth": main, "read": 0}
    recorded: Any = {"net": "residual", "depth": main, "tool": "gradflow"}

    def made(**which: Any):
        return _plus(seconds("trace_seconds", **which), seconds("compile_seconds", **which))

    numbers = {
        name: _over(seconds(net=net, depth=depth), seconds(net=net, depth=depth, tool="torch"))
        for name, (net, depth) in zip(("residual_shallow", "residual", "plain"), _twins(shallow, main), strict=True)
    }
    numbers |= {
        "every": _over(seconds(**recorded), seconds(**silent)),
        "tenth": _over(_tenth(table, **recorded), seconds(**silent)),
        "temporary": _over(*(seconds("temporary_megabytes", **which) for which in (recorded, silent))),
        "peak": _over(*(seconds("peak_megabytes", **which) for which in (recorded, silent))),
        "compile": made(**recorded),
        "compile_deepest": made(net="residual", depth=deepest) if deepest > 1000 else {},
        "linear": _bends({depth: seconds(net="residual", depth=depth) for depth in depths}),
        "input": _over(seconds("input_seconds", **recorded), seconds(**recorded)),
        "grid": _over(seconds("job_seconds", workers=1), seconds("job_seconds")),
        "job": seconds("job_seconds"),
    }
    shown = table.drop_duplicates("run")
    others = sorted({20, 56} - {shallow, main}) or set(shown.image_size) - {SIZE[0]} or set(shown.batch) - {SIZE[1]}
    findings = tuple(gf.judge(claim, numbers[name], 1) for name, claim in CLAIMS.items())
    if others:
        findings = tuple(replace(one, outcome="INCONCLUSIVE", would_decide=RIGHT_SIZE) for one in findings)
    facts = {}
    for quantity in ("step_seconds", "trace_seconds", "compile_seconds", "temporary_megabytes", "peak_megabytes"):
        rows = table[(table.quantity == quantity) & (table.workers == 0)]
        for (tool, net, depth, read), values in rows.groupby(["tool", "net", "depth", "read"]).value:
            how = {0: "not recorded", 1: "read every step", 10: "read every tenth step"}[read]
            facts[f"{quantity.replace('_', ' ')}, {tool}, {net}-{depth}, {how}"] = {
                "median": float(values.median()), "from": float(values.min()), "to": float(values.max())
            }  # fmt: skip
    slope = _slope({depth: seconds(net="residual", depth=depth) for depth in depths})
    facts["milliseconds a layer, slope of the recorded residual step over depth"] = 1000 * slope
    ratio, cost = (np.mean(list(numbers[name].values()) or [np.nan]) for name in ("residual", "every"))
    title = (
        f"A recorded step of {main} layers takes {ratio:.2f} times PyTorch's, and recording makes it {cost:.2f} times"
    )
    return gf.Verdict(title, findings, facts)


def _median(table, quantity, **which):
    rows = table[(table.quantity == quantity)]
    rows = rows[np.logical_and.reduce([rows[name] == value for name, value in which.items()])]
    return {int(seed): float(value) for seed, value in rows.groupby("seed").value.median().items()}


def _tenth(table, **which):
    """The mean step where the first of ten is read: a tenth of that and nine of the others' median."""
    read, others = table[table.step % 10 == 1], table[table.step % 10 != 1]
    one, nine = (_median(rows, "step_seconds", read=10, **which) for rows in (read, others))
    return {seed: (one[seed] + 9 * nine[seed]) / 10 for seed in one if seed in nine}


def _over(one, other):
    return {seed: one[seed] / other[seed] for seed in one if seed in other}


def _plus(one, other):
    return {seed: one[seed] + other[seed] for seed in one if seed in other}


def _bends(by_depth):
    """By how much the worst depth lies off the straight line through all, seed by seed."""
    found = {}
    for seed in set.intersection(*(set(numbers) for numbers in by_depth.values())):
        x, y = np.array(list(by_depth), float), np.array([numbers[seed] for numbers in by_depth.values()])
        if len(x) > 2:
            found[seed] = float(np.max(np.abs(np.polyval(np.polyfit(x, y, 1), x) / y - 1)))
    return found


def _slope(by_depth):
    y = [np.median(list(numbers.values())) for numbers in by_depth.values()]
    return float(np.polyfit(list(by_depth), y, 1)[0])


def figure(table, verdict):
    """The ratios with their bars, and the step's time against depth."""
    note = gf.plot.caption(table)
    bars = {name: finding for name, finding in zip(CLAIMS, verdict.findings, strict=True) if finding.per_seed}
    ratios = {name: one for name, one in bars.items() if one.claim.than in (1.0, 1.03, 1.01, 1.05)}
    panels = {one.claim.text: {f"at most {one.claim.than:g}": list(one.per_seed.values())} for one in ratios.values()}
    limits = {one.claim.text: one.claim.than for one in ratios.values()}
    steps = table[(table.quantity == "step_seconds") & (table.read != 10) & (table.depth <= 1000)]
    curves = {}
    for (tool, net, read), rows in steps.groupby(["tool", "net", "read"]):
        how = "" if read else ", not recorded"
        medians = rows.groupby(["depth", "seed"]).value.median()
        curves[f"{net}, {tool}{how}"] = {depth: list(values) for depth, values in medians.groupby("depth")}
    times = gf.charts.lines({"": curves}, "depth", "seconds a step", title=verdict.title, note=note)
    drawn = {"depth": times}
    if panels:
        drawn["ratios"] = gf.charts.dots(panels, title=verdict.title, note=note, limits=limits)
    return drawn
