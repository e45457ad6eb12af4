"""Muon: momentum whose matrices are made orthogonal (Jordan et al., github.com/KellerJordan/Muon; Liu et al., arXiv 2502.16982)."""

import torch

QUINTIC = 3.4445, -4.7750, 2.0315  # drives singular values in (0, 1] to about 1 within five steps


def orthogonal(g, steps=5):
    """g: [n, rows, columns]. About U·Vᵀ of each matrix U·S·Vᵀ, with singular values between 0.7 and 1.2."""
    a, b, c = QUINTIC
    x = g / (g.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2)
    for _ in range(steps):
        s = x @ x.transpose(1, 2)
        x = a * x + (b * s + c * (s @ s)) @ x
    return x.transpose(1, 2) if tall else x


class Muon(torch.optim.Optimizer):
    """For matrices only. A step's root mean square is that of Adam's at the same rate, about 0.2 · rate."""

    def __init__(self, params, momentum=0.95):
        super().__init__(params, {"lr": 0.0, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            updates = {}  # those of one shape are computed together
            for p in group["params"]:
                if p.grad is None:
                    continue
                m = self.state[p].setdefault("momentum", torch.zeros_like(p))
                m.lerp_(p.grad, 1 - group["momentum"])
                updates.setdefault(p.shape, []).append((p, p.grad.lerp(m, group["momentum"])))
            for shape, pairs in updates.items():
                for (p, _), u in zip(pairs, orthogonal(torch.stack([u for _, u in pairs]))):
                    p.add_(u, alpha=-0.2 * group["lr"] * max(shape) ** 0.5)


class Both:
    """Two optimizers as one: Muon for the matrices of blocks, AdamW for everything else."""

    def __init__(self, matrices, others, weight_decay=0.0):
        """Lists of groups, each with its highest rate as "top"."""
        self.parts = [Muon(matrices), torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.98), weight_decay=weight_decay, fused=True)]
        self.param_groups = [g for part in self.parts for g in part.param_groups]

    def zero_grad(self):
        for part in self.parts:
            part.zero_grad()

    def step(self):
        for part in self.parts:
            part.step()
