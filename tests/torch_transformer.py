"""A transformer in PyTorch, eager, whose modules are watched by forward hooks and their outputs by tensor hooks.

The same net, step and readings as those of `gradflow/commands/transformer.py`, with which it shares no code. It needs
torch, which is no dependency, and answers as `tests/torch_step.py` does.

    python tests/torch_transformer.py '{"depth": 12, "width": 256, "length": 64, "batch": 4, "record": true}'
"""

import json
import os
import resource
import sys
import time

import torch
from torch import nn
from torch.nn import functional

WORDS, HEADS = 256, 4


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        batch, length, width = x.shape
        heads = (
            layer(x).view(batch, length, HEADS, -1).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        y = functional.scaled_dot_product_attention(*heads, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm1, self.norm2, self.attention = nn.LayerNorm(width), nn.LayerNorm(width), Attention(width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.narrow(functional.gelu(self.wide(self.norm2(x)), approximate="tanh"))


class Transformer(nn.Module):
    def __init__(self, depth, width):
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(WORDS, width), nn.LayerNorm(width), nn.Linear(width, WORDS)
        self.blocks = nn.ModuleList([Block(width) for _ in range(depth)])

    def forward(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Watcher:
    """Mean, deviation, zeros of each module's output, the norm of its gradient, and a block's two paths apart."""

    def __init__(self, net):
        self.seen, self.norms, self.paths = {}, {}, {}
        for name, module in net.named_modules():
            if name and not isinstance(module, nn.ModuleList):
                module.register_forward_hook(lambda module, given, x, name=name: self.output(name, x))
            if isinstance(module, Block):
                module.register_forward_pre_hook(lambda module, given, name=name: self.input(name, given[0]))

    def output(self, name, x):
        kept = x.detach()
        mean, norm, zeros = kept.mean(), torch.linalg.vector_norm(kept), (kept == 0).sum()
        deviation = torch.sqrt(norm**2 / kept.numel() - mean**2)
        self.seen[name] = torch.stack([mean, deviation, zeros / kept.numel()])
        x.register_hook(lambda gradient: self.gradient(name, gradient))

    def gradient(self, name, gradient):
        self.norms[name] = torch.linalg.vector_norm(gradient)
        if name.startswith("blocks.") and name.count(".") == 1:
            self.paths[name] = gradient

    def input(self, name, x):
        x.register_hook(lambda both: self.apart(name, both))

    def apart(self, name, both):
        identity = self.paths[name]
        residual = both - identity
        a, b = torch.linalg.vector_norm(identity), torch.linalg.vector_norm(residual)
        self.paths[name] = torch.stack([a, b, torch.sum(identity * residual) / (a * b)])

    def numbers(self):
        return [torch.stack(list(some.values())) for some in (self.seen, self.norms, self.paths)]


def main():
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(settings.get("cores") or len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    net = Transformer(settings["depth"], settings["width"])
    ids = torch.randint(WORDS, (settings["batch"], settings["length"] + 1))
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    weights = [p for p in net.parameters() if p.ndim > 1]
    watcher = Watcher(net) if settings["record"] else None

    def step():
        optimiser.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(net(ids[:, :-1]).reshape(-1, WORDS), ids[:, 1:].reshape(-1))
        loss.backward()
        readings = [loss.detach()]
        if watcher:
            norms = torch._foreach_norm(weights), torch._foreach_norm([p.grad for p in weights])
            readings += [*watcher.numbers(), *map(torch.stack, norms)]
        optimiser.step()
        return [reading.tolist() for reading in readings]

    for _ in range(2):
        step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"ready": True, "peak_megabytes": peak, "version": torch.__version__}), flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line.split()[0])):
            begun = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - begun)
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
