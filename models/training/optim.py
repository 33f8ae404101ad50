"""Muon for matrices with AdamW for the rest, a moving average of weights, and checkpoints."""

import os

import torch


@torch.no_grad()
def orthogonalised(matrix, steps=5):
    """The nearest semi-orthogonal matrix, roughly: Newton-Schulz iteration, Muon's core.

    Every iterate is a polynomial of the Gram matrix times the input, so that the iteration runs on the
    small square matrix and the long side is touched twice only, which is less arithmetic for long matrices.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    gram, total = x @ x.T, None
    for step in range(steps):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        total = factor if total is None else factor @ total
        if step + 1 < steps:
            gram = factor @ gram @ factor
    x = total @ x
    return x.T if tall else x


class MuonAdamW(torch.optim.Optimizer):
    """Muon where a parameter is a matrix or a convolution, AdamW (same group dict) elsewhere.

    Muon's update is scaled to the size of an AdamW update (0.2 * sqrt(larger side)), so that both
    kinds share one learning rate.
    """

    def __init__(self, named_parameters, lr, use_muon, weight_decay=0.0, momentum=0.95, betas=(0.9, 0.99)):
        named = [(n, p) for n, p in named_parameters if p.requires_grad]
        matrices = [p for n, p in named if use_muon(n, p)]
        others = [p for n, p in named if not use_muon(n, p)]
        groups = [dict(params=others, muon=False)] + ([dict(params=matrices, muon=True)] if matrices else [])
        super().__init__(groups, dict(lr=lr, weight_decay=weight_decay, momentum=momentum, betas=betas))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            (self._muon if group["muon"] else self._adamw)(group)

    def _muon(self, group):
        params = [p for p in group["params"] if p.grad is not None]
        for p in params:
            self.state[p].setdefault("momentum", torch.zeros_like(p))
        moments = [self.state[p]["momentum"] for p in params]
        grads = [p.grad for p in params]
        torch._foreach_lerp_(moments, grads, 1 - group["momentum"])
        nesterov = torch._foreach_lerp(grads, moments, group["momentum"])
        for p, update in zip(params, nesterov):
            flat = orthogonalised(update.reshape(len(p), -1))
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(flat.view_as(p), alpha=-group["lr"] * 0.2 * max(flat.shape) ** 0.5)

    def _adamw(self, group):
        beta1, beta2 = group["betas"]
        params = [p for p in group["params"] if p.grad is not None]
        for p in params:
            if not self.state[p]:
                self.state[p].update(step=0, first=torch.zeros_like(p), second=torch.zeros_like(p))
            self.state[p]["step"] += 1
        if not params:
            return
        firsts = [self.state[p]["first"] for p in params]
        seconds = [self.state[p]["second"] for p in params]
        grads = [p.grad for p in params]
        step = self.state[params[0]]["step"]
        torch._foreach_lerp_(firsts, grads, 1 - beta1)
        torch._foreach_mul_(seconds, beta2)
        torch._foreach_addcmul_(seconds, grads, grads, 1 - beta2)
        roots = torch._foreach_sqrt(seconds)
        torch._foreach_div_(roots, (1 - beta2 ** step) ** 0.5)
        torch._foreach_add_(roots, 1e-8)
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_addcdiv_(params, firsts, roots, -group["lr"] / (1 - beta1 ** step))


class Average:
    """Exponential moving average of parameters, with a warm-up so that it forgets the start."""

    def __init__(self, parameters, decay):
        self.decay, self.count = decay, 0
        self.values = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self, parameters):
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        torch._foreach_lerp_(self.values, [p.detach() for p in parameters], 1 - decay)

    def swap(self, parameters):
        """Exchanges the average with the live weights (call twice to put things back)."""
        for mine, live in zip(self.values, parameters):
            kept = live.data.clone()
            live.data.copy_(mine)
            mine.copy_(kept)


def save_atomically(state, path):
    """A checkpoint is either the old one or the new one, never half of one."""
    torch.save(state, f"{path}.part")
    os.replace(f"{path}.part", path)
