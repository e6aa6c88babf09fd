"""What recording costs, how soon a command answers, and whether both are as fast as PyTorch with hooks.

The other experiments are about nets; this one is about gradflow itself. What is compared takes turns, round by round,
in processes of their own: a round's number is a median or the time of a whole command, a claim's a ratio or a time by
round. The bars were set before anything was measured. The PyTorch programs, `tests/torch_step.py` and
`tests/torch_depth_sweep.py`, share no code with ours. They need a Python that has torch: this one, or the one that
the variable GRADFLOW_TORCH names (its path); without, their claims stay open.

Run it on an idle machine: about a quarter of an hour on two cores (`--full`, with a net of 200 layers and twice the
rounds, half an hour).
"""

import importlib.util
import json
import os
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

DIGITS = {"image": 8, "batch": 32, "channels": 1, "padding": "circular", "cores": 1}  # as `depth_sweep` has them
WATCHED = {"width": 256, "length": 64, "batch": 4, "cores": 1}  # a user's own transformer, by `gf.watch`
SIZES = {"32x32": {"image": 32, "batch": 128}, "digits": DIGITS, "transformer": WATCHED}
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"depth": (8, 10), "sizes": {"32x32": {"image": 8, "batch": 16}, "transformer": WATCHED | {"width": 8}}}
    | {"blocks": 1, "starts": 1, "seeds": 2, "steps": 2, "first": ("residual",), "job": False},
    "default": {"depth": (20, 56, 110), "sizes": SIZES}
    | {"blocks": 12, "starts": 3, "seeds": 3, "steps": 5, "first": ("plain", "residual"), "job": True},
}
PRESETS["full"] = PRESETS["default"] | {"depth": (20, 56, 110, 200), "seeds": 6}
TESTS = Path(__file__).parent.parent / "tests"
ROUND, COUNT, SECONDS, JOB = "median step, ratio by round", "ratio by process", "seconds", "seconds of the job, ratio"
BARS = {  # the claim, its statistic, and the number that it is to be at most
    "residual, shallow": ("a recorded step is as fast as PyTorch's, residual-20", ROUND, 1.0),
    "residual": ("a recorded step is as fast as PyTorch's, residual-56", ROUND, 1.0),
    "plain": ("a recorded step is as fast as PyTorch's, plain-56", ROUND, 1.0),
    "job, empty": ("depth_sweep takes little longer than in PyTorch, compile cache empty", JOB, 1.25),
    "job, filled": ("depth_sweep is as fast as in PyTorch, compile cache filled by other seeds", JOB, 1.0),
    "every, 32x32": ("reading every step costs little, 32x32", f"{ROUND}, read / not recorded", 1.03),
    "every, digits": ("reading every step costs little, digits", f"{ROUND}, read / not recorded", 1.03),
    "tenth, 32x32": ("reading every tenth step costs less, 32x32", f"{ROUND}, read / not recorded", 1.01),
    "tenth, digits": ("reading every tenth step costs less, digits", f"{ROUND}, read / not recorded", 1.01),
    "kernels, 32x32": ("recording adds few kernels, 32x32", f"kernels of the compiled step, {COUNT}", 1.2),
    "kernels, digits": ("recording adds few kernels, digits", f"kernels of the compiled step, {COUNT}", 1.2),
    "peak, 32x32": ("recording needs no memory at run time, 32x32", f"peak resident size, {COUNT}", 1.05),
    "peak, digits": ("recording needs no memory at run time, digits", f"peak resident size, {COUNT}", 1.05),
    "every, transformer": ("watching costs little, read every step", f"{ROUND}, read / not watched", 1.05),
    "tenth, transformer": ("watching costs little, read every tenth step", f"{ROUND}, read / not watched", 1.05),
    "memory, transformer": ("watching keeps no activations", f"temporary memory of the compiled step, {COUNT}", 1.05),
    "compile, 32x32": ("56 layers are soon compiled, 32x32", f"{SECONDS} to trace and compile", 2.0),
    "compile, digits": ("56 layers are soon compiled, digits", f"{SECONDS} to trace and compile", 2.0),
    "first, plain, empty": ("plain-56 is soon read, compile cache empty", f"{SECONDS} from `python`", 3.5),
    "first, residual, empty": ("residual-56 is soon read, compile cache empty", f"{SECONDS} from `python`", 3.5),
    "first, plain, filled": ("plain-56 is soon read, compile cache filled", f"{SECONDS} from `python`", 2.0),
    "first, residual, filled": ("residual-56 is soon read, compile cache filled", f"{SECONDS} from `python`", 2.0),
    "input": ("a step does not wait for data, 32x32", "time to make a batch / time of a step", 0.01),
    "linear": ("a step's time is linear in depth", "largest relative distance from the fitted line", 0.1),
}
HERE = "this project's own bar"
CLAIMS = {
    name: gf.Claim(text, HERE, f"none; the bar: at most {bar:g}", statistic, "<", bar)
    for name, (text, statistic, bar) in BARS.items()
}
CLAIMS["sweep"] = gf.Claim(
    text="a sweep over rates, decays, momenta, lengths and seeds of one net compiles its step once",
    source=HERE,
    paper="none; the bar: exactly 1",
    statistic="compilations of the step that JAX logs",
    side="=",
    than=1,
    margin=0.5,
)
RIGHT_DEPTHS = "the depths that the bars are about: --depth 20 56, and more beyond"


def measure(preset, folder, seeds=None, depth=None):
    """A row a variant and round. `seeds`: rounds a start of the processes; `depth`: the second one is the main one."""
    settings = PRESETS[preset] | {key: value for key, value in (("seeds", seeds), ("depth", depth)) if value}
    depths = sorted(settings["depth"])
    for one in depths:
        gf.nets.complete("residual", {"depth": one})
    if len(depths) < 2:
        raise gf.BadInput("overhead needs two depths or more, such as --depth 20 56: the second is the main one")
    if python := python_with_torch():
        seconds([python, "-c", "import torch, numpy"])  # said now, not after minutes
    table, scratch = Table(depths[1]), folder / "runs" / "overhead"
    for start in range(settings["starts"]):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        if settings["job"]:
            time_job(table, scratch, start)
        time_first_readings(table, scratch, start, settings["first"])
        count_compiles(table, scratch, start)
        for size, net in settings["sizes"].items():
            take_turns(table, scratch, start, size, net, depths, settings)
    shutil.rmtree(scratch, ignore_errors=True)
    return table.tables()


class Table:
    """The runs (a variant in a round) and readings, as they come."""

    def __init__(self, main):
        self.rest = {"depth": main, "net": "residual", "normalisation": "batch", "status": "done"}
        self.rest |= {"tool": "gradflow", "processor": processor(), "size": "digits", "read": 1, "cache": "empty"}
        self.rest |= {"data": "random"}
        self.runs, self.readings = {}, []

    def add(self, variant, seed, **numbers):
        """The numbers of a variant in a round, a list a quantity, under a name that says which."""
        run = self.rest | {key: value for key, value in variant.items() if key != "record"} | {"seed": seed}
        name = "-".join(str(run[key]) for key in ("tool", "net", "depth", "size", "read", "cache", "seed"))
        self.runs[name] = run
        for quantity, values in numbers.items():
            self.readings += [(name, step, "", -1, quantity, value) for step, value in enumerate(values, start=1)]
        print(name, {key: round(float(np.median(some)), 4) for key, some in numbers.items()}, flush=True)

    def tables(self):
        """As `gradflow.load` reads them."""
        columns = ["run", "step", "layer", "position", "quantity", "value"]
        runs = pd.DataFrame([{"run": name} | settings for name, settings in self.runs.items()])
        return runs, pd.DataFrame(self.readings, columns=columns)


def processor():
    """The widest vectors of this machine: whether PyTorch's library is ahead depends on that."""
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text() if cpu.exists() else ""
    return next((name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags), "no AVX2")


def python_with_torch():
    """The interpreter that has torch; None where there is none, or where the programs were not installed.

    Raises `BadInput` where the one that was named does not exist.
    """
    named, own = os.environ.get("GRADFLOW_TORCH"), sys.executable if importlib.util.find_spec("torch") else None
    if named and not shutil.which(named):
        raise gf.BadInput(
            f"GRADFLOW_TORCH is {named!r}, and no program: it must be the path of a Python that has torch"
        )
    return (named or own) if TESTS.is_dir() else None


# Steps: processes that are kept ready and take turns, so that a busy moment of the machine meets all of them.


def take_turns(table, scratch, start, size, net, depths, settings):
    """A process for each variant of this size, which make a few steps in turn, round after round."""
    watches, steps = [], settings["steps"] * (4 if size == "digits" else 1)  # those are short
    try:
        for place, variant in enumerate(variants(size, depths, settings["blocks"])):
            watches.append((variant, watch(variant, net, scratch / f"{size}-{place}")))
        for turn in range(settings["seeds"]):
            for variant, one in watches:
                main = variant["net"] == "transformer" or (variant["net"], variant["depth"]) == ("residual", depths[1])
                tenth = main and variant["record"] and variant["tool"] == "gradflow"
                for read in (1, 10) if tenth else (1,):
                    said = one.steps(max(steps, read), read)
                    numbers = {"step_seconds": said["seconds"]}
                    numbers |= {name: [said[name]] for name in ("peak_megabytes", "input_seconds") if name in said}
                    if turn == 0 and read == 1:
                        kept = ("trace_seconds", "compile_seconds", "temporary_megabytes", "kernels")
                        numbers |= {name: [one.ready[name]] for name in kept if name in one.ready}
                    shown = {"size": size, "read": read if variant["record"] else 0}
                    table.add(variant | shown, start * settings["seeds"] + turn, **numbers)
    finally:
        for _, one in watches:
            one.__exit__(None, None, None)


def variants(size, depths, blocks):
    """Recorded and not; at 32x32 also all depths, the plain twin, and PyTorch's; the transformer in both tools."""
    if size == "transformer":
        tools = ("gradflow", "torch") if python_with_torch() else ("gradflow",)
        both = [{"net": size, "depth": blocks, "record": record} for record in (True, False)]
        return [one | {"tool": tool} for tool in tools for one in both]
    residual = [{"net": "residual", "depth": depth, "tool": "gradflow", "record": True} for depth in depths]
    several = [residual[1], residual[1] | {"record": False}]
    if size == "32x32":
        twins = [residual[0], residual[1], residual[1] | {"net": "plain"}]
        theirs = [one | {"tool": "torch"} for one in twins if python_with_torch()]
        several = [residual[0], *several, twins[2], *theirs, *residual[2:]]
    return several


def watch(variant, net, cache):
    """The process of a variant, which finds nothing compiled."""
    settings = net | {key: variant[key] for key in ("net", "depth", "record")}
    if variant["tool"] == "torch":
        program = "torch_transformer.py" if variant["net"] == "transformer" else "torch_step.py"
        return gf.Stopwatch(settings, [str(TESTS / program)], python_with_torch() or sys.executable)
    return gf.Stopwatch(settings, environment=environment(cache))


# Commands: whole processes, from their start to their end.


def environment(cache):
    """Variables with which a command finds compiled what lies in the folder `cache`, and nothing else."""
    jax = {name: None for name in os.environ if name.startswith("JAX_COMPILATION_CACHE")}
    return {**jax, "GRADFLOW_CACHE_DIR": str(cache)}


def seconds(command, **variables):
    """How long a command takes. Raises `BadInput` where it fails; a claim that fails is no failure."""
    merged = {**os.environ, **variables}
    begun = time.perf_counter()
    given = {name: value for name, value in merged.items() if value is not None}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=given)
    passed = time.perf_counter() - begun
    if done.returncode not in (0, 1):
        raise gf.BadInput(f"{' '.join(map(str, command))} failed: {done.stderr.strip().splitlines()[-1:]}")
    return passed


GRADFLOW = [sys.executable, "-P", "-m", "gradflow"]
SHIFT = """

own = runs


def runs(preset, **given):
    return [run.replace(seed=run.seed + 100) for run in own(preset, **given)]
"""


def time_job(table, scratch, start):
    """`gradflow run depth_sweep` with an empty cache, again with other seeds, and the same runs in PyTorch."""
    source = Path(__file__).with_name("depth_sweep.py").read_text()
    others, cache = scratch / "depth_sweep_of_other_seeds.py", scratch / "job"
    others.write_text(source + SHIFT)
    for state, experiment in (("empty", "depth_sweep"), ("filled", others)):
        command = [*GRADFLOW, "run", experiment, "--results", scratch / state]
        table.add({"net": "all", "cache": state}, start, job_seconds=[seconds(command, **environment(cache))])
    if python := python_with_torch():
        command = [python, TESTS / "torch_depth_sweep.py", scratch / "torch", "--first-seed", 100]
        table.add({"net": "all", "tool": "torch"}, start, job_seconds=[seconds(command)])


FIRST = "import json, sys, gradflow as gf; print(next(gf.train(gf.Run(**json.loads(sys.argv[1])))).loss)"


def time_first_readings(table, scratch, start, nets):
    """A user's own process, from `python` to the first loss, for which JAX's own variable says where its cache is."""
    for net in nets:
        run = {"net": net, "depth": table.rest["depth"], "padding": DIGITS["padding"], "batch": DIGITS["batch"]}
        cache = scratch / f"first-{net}"
        variables = environment(cache) | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
        for state in ("empty", "filled"):
            passed = seconds([sys.executable, "-P", "-c", FIRST, json.dumps(run)], **variables)
            table.add({"net": net, "cache": state}, start, first_reading_seconds=[passed])


def count_compiles(table, scratch, start):
    """How often the step of 32 runs of one net is compiled, which differ in their hyperparameters and seeds."""
    net = "--net residual --depth 8 --width 4 --batch 16 --evaluations 0 --seeds 2 --workers 1"
    several = "--learning-rate 0.1 0.01 --weight-decay 1e-4 1e-3 --momentum 0.9 0.8 --steps 2 3"
    command = [*GRADFLOW, "sweep", *f"{net} {several}".split(), "--results", scratch]
    seconds(command, JAX_LOG_COMPILES="1", **environment(scratch / "sweep-cache"))
    logs = [path.read_text() for path in scratch.glob("sweep/runs/*/log.txt")]
    compiles = sum(log.count("Finished XLA compilation of jit(step)") for log in logs)
    table.add({"net": "residual", "depth": 8}, start, compiles=[compiles])


def verdict(table):
    """Ratios and times round by round, against the bars."""
    steps = table[table.quantity == "step_seconds"]
    depths = sorted(steps[(steps["size"] == "32x32")].depth.unique())
    numbers = claimed(table, depths)
    findings = tuple(gf.judge(claim, numbers[name], 1) for name, claim in CLAIMS.items())
    if depths[:2] != [20, 56]:
        findings = tuple(replace(one, outcome="INCONCLUSIVE", would_decide=RIGHT_DEPTHS) for one in findings)
    ratio, cost = (np.mean(list(numbers[name].values()) or [np.nan]) for name in ("residual", "every, 32x32"))
    title = (
        f"A recorded step of {depths[1]} layers takes {ratio:.2f} times PyTorch's on {table.processor.iloc[0]}, "
        f"and recording makes it {cost:.2f} times"
    )
    return gf.Verdict(title, findings, facts(table))


def claimed(table, depths):
    """What each claim is about, by round."""

    def median(quantity="step_seconds", of=table, **which):
        chosen = {"tool": "gradflow", "read": 1, "size": "digits", "cache": "empty"} | which
        rows = of[of.quantity == quantity]
        rows = rows[np.logical_and.reduce([rows[name] == value for name, value in chosen.items()])]
        return {int(seed): float(value) for seed, value in rows.groupby("seed").value.median().items()}

    def against_torch(net, depth):
        size = {"net": net, "depth": depth, "size": "32x32"}
        return ratio(median(**size), median(tool="torch", **size))

    shallow, main = depths[:2]
    numbers = {"residual, shallow": against_torch("residual", shallow)}
    numbers |= {net: against_torch(net, main) for net in ("residual", "plain")}
    numbers["linear"] = bends({depth: median(net="residual", depth=depth, size="32x32") for depth in depths})
    recorded: Any = {"net": "residual", "depth": main, "size": "32x32"}
    numbers["input"] = ratio(median("input_seconds", **recorded), median(**recorded))
    numbers["sweep"] = median("compiles")
    for state in ("empty", "filled"):
        numbers[f"job, {state}"] = ratio(median("job_seconds", cache=state), median("job_seconds", tool="torch"))
        for net in ("plain", "residual"):
            numbers[f"first, {net}, {state}"] = median("first_reading_seconds", net=net, cache=state)
    for size in SIZES:
        net: Any = {"net": size} if size == "transformer" else {"net": "residual", "depth": main}
        which = net | {"size": size}
        silent = median(read=0, **which)
        first, others = table[table.step % 10 == 1], table[table.step % 10 != 1]
        read, unread = median(of=first, **which | {"read": 10}), median(of=others, **which | {"read": 10})
        tenth = {seed: (read[seed] + 9 * unread[seed]) / 10 for seed in read if seed in unread}
        numbers |= {f"every, {size}": ratio(median(**which), silent), f"tenth, {size}": ratio(tenth, silent)}
        for name, quantity in (("kernels", "kernels"), ("peak", "peak_megabytes"), ("memory", "temporary_megabytes")):
            numbers[f"{name}, {size}"] = ratio(median(quantity, **which), median(quantity, read=0, **which))
        traced, compiled = median("trace_seconds", **which), median("compile_seconds", **which)
        numbers[f"compile, {size}"] = {seed: traced[seed] + compiled[seed] for seed in traced}
    return numbers


def ratio(one, other):
    """Round by round, where there are both."""
    return {seed: one[seed] / other[seed] for seed in one if seed in other}


def bends(by_depth):
    """By how much the worst depth lies off the straight line through all, round by round."""
    found = {}
    for seed in set.intersection(*(set(numbers) for numbers in by_depth.values())):
        x, y = np.array(list(by_depth), float), np.array([numbers[seed] for numbers in by_depth.values()])
        if len(x) > 2:
            found[seed] = float(np.max(np.abs(np.polyval(np.polyfit(x, y, 1), x) / y - 1)))
    return found


def facts(table):
    """Every number that was measured, as medians over rounds."""
    how = {0: "not recorded", 1: "read every step", 10: "read every tenth step"}  # of a transformer: not watched
    found = {}
    for key, rows in table.groupby(["quantity", "tool", "net", "depth", "size", "read", "cache"]):
        quantity, tool, net, depth, size, read, cache = key
        whole = quantity in ("job_seconds", "first_reading_seconds", "compiles")
        more = f"cache {cache}" if whole else f"{size}, {how[read]}"
        values = rows.groupby("seed").value.median()
        found[f"{quantity.replace('_', ' ')}, {tool}, {net}-{depth}, {more}"] = {
            "median": float(values.median()), "from": float(values.min()), "to": float(values.max())
        }  # fmt: skip
    return found


def figure(table, verdict):
    """The claims' numbers with their bars, and the step's time against depth."""
    note = gf.plot.caption(table)
    seen = [one for one in verdict.findings if one.per_seed]
    panels = {one.claim.text: {one.claim.paper.rpartition("bar: ")[2]: list(one.per_seed.values())} for one in seen}
    limits = {one.claim.text: one.claim.than for one in seen}
    steps = table[(table.quantity == "step_seconds") & (table.read != 10) & (table["size"] == "32x32")]
    curves = {}
    for (tool, net, read), rows in steps.groupby(["tool", "net", "read"]):
        medians = rows.groupby(["depth", "seed"]).value.median()
        label = f"{net}, {tool}{'' if read else ', not recorded'}"
        curves[label] = {depth: list(values) for depth, values in medians.groupby("depth")}
    times = gf.charts.lines({"": curves}, "depth", "seconds a step", title=verdict.title, note=note)
    return {"depth": times, "bars": gf.charts.dots(panels, title=verdict.title, note=note, limits=limits)}
