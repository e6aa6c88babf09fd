"""All runs of `experiments/depth_sweep.py` in PyTorch, as its user would write them: what ours is measured against.

Eager, channels last, hooks on the steps that are kept, one pinned process of one thread a core, the long runs first.
Same nets, starts, seeds, batches, rates and recorded quantities, a JSON file a run; no figures. It shares no code with
gradflow: of the checkout it reads the digits alone. It needs numpy and torch, which is no dependency.

    python tests/torch_depth_sweep.py RESULTS [--smoke] [--first-seed N]
    python tests/torch_depth_sweep.py --list [--smoke]          # the runs as JSON, without torch
"""

import argparse
import json
import math
import multiprocessing
import os
from itertools import product
from pathlib import Path

STARTS = {"small weights": ("glorot", "none"), "He's weights": ("he", "none"), "batch norm": ("he", "batch")}
DIGITS = Path(__file__).parent.parent / "gradflow" / "data" / "digits.npz"
PROCESS = {}  # of one that trains: its data and its folder
TRAIN, BATCH, RATE, MOMENTUM, DECAY = 1500, 32, 0.01, 0.9, 1e-4


def runs(smoke=False, first=0):
    """Many seeds for one step, a few trained; the longest first."""
    depths, steps, many, few = ((8, 14), 6, 2, 2) if smoke else ((18, 34, 56), 80, 10, 3)
    both = {(1, seed) for seed in range(many)} | {(steps, seed) for seed in range(few)}
    found = [
        {"net": net, "depth": depth, "start": start, "seed": first + seed, "steps": steps}
        for net, depth, start, (steps, seed) in product(("plain", "residual"), depths, STARTS, sorted(both))
    ]
    return sorted(found, key=lambda run: run["depth"] * run["steps"], reverse=True)


def keeps(step, steps):
    """Whether the layers of this step are recorded: ten a decade, first and last always."""
    return step in (1, steps) or math.floor(10 * math.log10(step)) > math.floor(10 * math.log10(step - 1))


def rate(step, steps):
    """Divided by 10 after one half and three quarters of the steps."""
    return RATE * 0.1 ** sum(step - 1 >= border for border in {max(1, steps // 2), max(1, steps * 3 // 4)})


def layers():
    """The modules, made where torch is there to be imported."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Convolution(nn.Conv2d):
        """3x3 with circular padding by two concatenations: faster on these small maps than `padding_mode`."""

        def __init__(self, channels_in, channels, stride):
            super().__init__(channels_in, channels, 3, stride, bias=False)

        def forward(self, x):
            x = torch.cat((x[:, :, -1:], x, x[:, :, :1]), 2)
            return super().forward(torch.cat((x[..., -1:], x, x[..., :1]), 3))

    class Unit(nn.Module):
        """Two layers, and with `shortcut` the option A identity around them (He 2015)."""

        def __init__(self, name, channels_in, channels, stride, shortcut, norm):
            super().__init__()
            self.name, self.channels, self.stride, self.shortcut = name, channels, stride, shortcut
            self.conv1, self.norm1 = Convolution(channels_in, channels, stride), norm(channels)
            self.conv2, self.norm2 = Convolution(channels, channels, 1), norm(channels)

        def branch(self, x, hook):
            x = functional.relu(hook(f"{self.name}/conv1", self.norm1(self.conv1(x))))
            return hook(f"{self.name}/conv2", self.norm2(self.conv2(x)))

        def forward(self, x, hook):
            x = hook(self.name, x)
            if not self.shortcut:
                return functional.relu(self.branch(x, hook))
            # A view of its own for each path, or a hook would see the sum of both gradients.
            identity, residual = (x.view_as(x), x.view_as(x)) if hook is not silent else (x, x)
            identity = hook(f"{self.name}/identity", identity, summary=False)
            residual = hook(f"{self.name}/residual", residual, summary=False)
            if self.stride != 1:
                identity = identity[:, :, :: self.stride, :: self.stride]
                identity = functional.pad(identity, (0, 0, 0, 0, 0, self.channels - identity.shape[1]))
            return functional.relu(identity + self.branch(residual, hook))

    class Net(nn.Module):
        """Stem, (depth - 2) / 2 units in three stages, as even as can be, global average pool, classifier."""

        def __init__(self, depth, shortcut, norm, width=16):
            super().__init__()
            self.stem, self.norm = Convolution(1, width, 1), norm(width)
            units, before, count = [], width, (depth - 2) // 2
            for stage in range(3):
                for index in range(count // 3 + (stage < count % 3)):
                    now, stride = width * 2**stage, 2 if stage and not index else 1
                    units.append(Unit(f"block{len(units) + 1:02d}", before, now, stride, shortcut, norm))
                    before = now
            self.units, self.head = nn.ModuleList(units), nn.Linear(before, 10)

        def forward(self, x, hook):
            x = functional.relu(hook("stem", self.norm(self.stem(x))))
            for unit in self.units:
                x = unit(x, hook)
            return hook("head", self.head(x.mean((2, 3))))

    return Net


def silent(name, x, summary=True):
    """The hook of a step that is not recorded."""
    return x


class Recorder:
    """Forward: mean, standard deviation, zeros of each point. Backward: the norm of its gradient."""

    def __init__(self):
        self.forward, self.backward = {}, {}

    def __call__(self, name, x, summary=True):
        import torch

        if summary:
            seen = x.detach()
            mean, norm, zeros = seen.mean(), torch.linalg.vector_norm(seen), (seen == 0).sum()
            deviation = torch.sqrt(norm**2 / seen.numel() - mean**2)  # torch.std_mean is several times slower (2.13)
            self.forward[name] = torch.stack([mean, deviation, zeros / seen.numel()])
        x.register_hook(lambda gradient: self.backward.__setitem__(name, torch.linalg.vector_norm(gradient)))
        return x


def build(run):
    """The net of a run with the weights of its start and seed."""
    import torch
    from torch import nn

    initialisation, normalisation = STARTS[run["start"]]
    torch.manual_seed(run["seed"])
    norm = nn.BatchNorm2d if normalisation == "batch" else lambda channels: nn.Identity()
    net = layers()(run["depth"], run["net"] == "residual", norm)
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            {"glorot": nn.init.xavier_uniform_, "he": nn.init.kaiming_normal_}[initialisation](module.weight)
    nn.init.zeros_(net.head.bias)
    return net.to(memory_format=torch.channels_last)


def layer_norms(arrays):
    """A norm a layer; the last layer's is over its last two arrays, kernel and bias."""
    import torch

    norms = torch.stack(torch._foreach_norm(arrays))
    return torch.cat((norms[:-2], norms[-2:].norm()[None]))


def train(run, images, labels):
    """The readings of a run, step by step."""
    import numpy as np
    import torch
    from torch.nn import functional

    net, steps, epoch = build(run), run["steps"], TRAIN // BATCH
    parameters = list(net.parameters())
    weights = [*(one for one in parameters if one.ndim > 1), net.head.bias]
    optimiser = torch.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    readings = []
    for step in range(1, steps + 1):
        number, place = divmod(step - 1, epoch)
        if place == 0:
            order = torch.from_numpy(np.random.default_rng((run["seed"], number)).permutation(TRAIN))
        chosen = order[place * BATCH : (place + 1) * BATCH]
        kept = keeps(step, steps)
        hook = Recorder() if kept else silent
        optimiser.param_groups[0]["lr"] = now = rate(step, steps)
        optimiser.zero_grad(set_to_none=True)
        logits = net(images[chosen], hook)
        loss = functional.cross_entropy(logits, labels[chosen])
        error = (logits.detach().argmax(1) != labels[chosen]).float().mean()
        loss.backward()
        reading = {}
        if kept:
            reading = {"weight": layer_norms(weights), "gradient": layer_norms([one.grad for one in weights])}
        optimiser.step()
        if kept:
            moments = layer_norms([optimiser.state[one]["momentum_buffer"] for one in weights])
            reading["update"] = now * moments  # the update is the rate times the momentum
            forward, backward = torch.stack(list(hook.forward.values())), torch.stack(list(hook.backward.values()))
            reading |= {"activation": forward, "activation_gradient": math.sqrt(BATCH) * backward}
        reading = {name: values.tolist() for name, values in reading.items()}
        if kept:
            reading |= {"points": [*hook.forward], "gradients_of": [*hook.backward]}
        readings.append({"step": step, "loss": loss.item(), "error": error.item(), **reading})
        if not math.isfinite(readings[-1]["loss"]):
            break
    return readings


def start(cores, results):
    """What each process does first: pins itself, and reads the data once."""
    os.sched_setaffinity(0, {cores.get()})
    import numpy as np
    import torch

    torch.set_num_threads(1)
    arrays = np.load(DIGITS)
    images = torch.from_numpy(arrays["images"][:TRAIN].astype(np.float32))[:, None]
    images = ((images - images.mean()) / images.std()).contiguous(memory_format=torch.channels_last)
    PROCESS["data"] = images, torch.from_numpy(arrays["labels"][:TRAIN].astype(np.int64))
    PROCESS["results"] = Path(results)


def work(run):
    """One run, from its settings to its file."""
    name = "-".join(map(str, run.values())).replace(" ", "_").replace("'", "")
    (PROCESS["results"] / f"{name}.json").write_text(json.dumps({"run": run, "readings": train(run, *PROCESS["data"])}))


def main():
    """Hands the runs to a process a core."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path, nargs="?", help="the folder of the files")
    parser.add_argument("--list", action="store_true", help="print the runs, make none")
    parser.add_argument("--smoke", action="store_true", help="the smoke preset")
    parser.add_argument("--first-seed", type=int, default=0, help="the seeds count from here")
    given = parser.parse_args()
    todo = runs(given.smoke, given.first_seed)
    if given.list or not given.results:
        print(json.dumps(todo))
        return
    given.results.mkdir(parents=True, exist_ok=True)
    available = sorted(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")
    cores = context.Queue()
    for core in available:
        cores.put(core)
    with context.Pool(len(available), start, (cores, str(given.results))) as pool:
        for _ in pool.imap_unordered(work, todo):
            pass


if __name__ == "__main__":
    main()
