"""The same training step in PyTorch, eager, with hooks that read the same quantities: what ours is measured against.

It shares no code with gradflow. It needs torch, which is no dependency.

    python tests/torch_step.py '{"net": "residual", "depth": 20, "image": 32, "batch": 128, "record": true}'

It prints a JSON line when it is ready, then for each line `n` on its standard input one with the seconds of n steps.
"""

import json
import os
import resource
import sys
import time

import torch
from torch import nn
from torch.nn import functional


class Recorder:
    """Forward: mean, standard deviation, zeros of each point. Backward: the norm of its gradient."""

    def __init__(self):
        self.forward, self.backward = {}, {}

    def __call__(self, name, x, summary=True):
        if summary:
            seen = x.detach()
            mean, norm, zeros = seen.mean(), torch.linalg.vector_norm(seen), (seen == 0).sum()
            # torch.std_mean and torch.count_nonzero are several times slower on a CPU (2.13).
            self.forward[name] = torch.stack([mean, torch.sqrt(norm**2 / seen.numel() - mean**2), zeros / seen.numel()])
        x.register_hook(lambda gradient: self.backward.__setitem__(name, torch.linalg.vector_norm(gradient)))
        return x


def silent(name, x, summary=True):
    return x


class Unit(nn.Module):
    """Two 3x3 layers with batch norm, and with `shortcut` the option A identity around them (He 2015)."""

    def __init__(self, name, channels_in, channels, stride, shortcut):
        super().__init__()
        self.name, self.channels, self.stride, self.shortcut = name, channels, stride, shortcut
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

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
    """He 2015, section 4.2, for depth = 6n + 2."""

    def __init__(self, depth, shortcut, channels=3, classes=10, width=16):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        units, before = [], width
        for stage in range(3):
            for index in range((depth - 2) // 6):
                now, stride = width * 2**stage, 2 if stage and not index else 1
                units.append(Unit(f"block{len(units) + 1:02d}", before, now, stride, shortcut))
                before = now
        self.units, self.head = nn.ModuleList(units), nn.Linear(before, classes)

    def forward(self, x, hook=silent):
        x = functional.relu(hook("stem", self.norm(self.stem(x))))
        for unit in self.units:
            x = unit(x, hook)
        return hook("head", self.head(x.mean((2, 3))))


def main():
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(settings.get("threads", len(os.sched_getaffinity(0))))
    torch.manual_seed(0)
    batch, image, record = settings["batch"], settings["image"], settings["record"]
    net = Net(settings["depth"], settings["net"] == "residual").to(memory_format=torch.channels_last)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    data = torch.randn(8 * batch, 3, image, image).to(memory_format=torch.channels_last)
    answers = torch.randint(10, (8 * batch,))
    parameters = list(net.parameters())
    optimiser = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=1e-4)
    weights = [p for p in parameters if p.ndim > 1]

    def step():
        chosen = torch.randint(len(data), (batch,))
        hook = Recorder() if record else silent
        optimiser.zero_grad(set_to_none=True)
        logits = net(data[chosen].contiguous(memory_format=torch.channels_last), hook)
        loss = functional.cross_entropy(logits, answers[chosen])
        error = (logits.argmax(1) != answers[chosen]).float().mean()
        loss.backward()
        readings = [torch.stack([loss.detach(), error])]
        if record:
            readings += [
                torch.stack(torch._foreach_norm(weights)),
                torch.stack(torch._foreach_norm([p.grad for p in weights])),
            ]
        optimiser.step()
        if record:
            moments = [optimiser.state[p]["momentum_buffer"] for p in weights]
            readings += [0.01 * torch.stack(torch._foreach_norm(moments))]  # the update is the rate times the momentum
            readings += [torch.stack(list(hook.forward.values())), torch.stack(list(hook.backward.values()))]
        return [reading.tolist() for reading in readings]

    for _ in range(2):
        step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"ready": True, "peak_megabytes": peak, "version": torch.__version__}), flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            begun = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - begun)
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
