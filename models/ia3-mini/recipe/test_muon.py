"""Tests of the optimizer. Prints one line a test ("ok N - …")."""

import unittest

try:
    import torch
except ImportError as e:
    raise unittest.SkipTest(f"{e.name} is not installed")

import muon


class Optimizer(unittest.TestCase):
    def test_orthogonal(self):
        """Directions stay, singular values come near to one, whichever side of a matrix is longer."""
        torch.manual_seed(0)
        for shape in ((3, 24, 24), (2, 16, 48), (2, 48, 16)):
            g = torch.randn(shape) * torch.tensor([1e-4, 1.0, 1e3][:shape[0]])[:, None, None]
            x = muon.orthogonal(g)
            self.assertEqual(x.shape, g.shape)
            u, _, v = torch.linalg.svd(g, full_matrices=False)
            inner = u.mT @ x @ v.mT
            values = torch.diagonal(inner, dim1=1, dim2=2)
            self.assertLess(float((inner - torch.diag_embed(values)).abs().max()), 1e-3)
            self.assertGreater(float(values[:, :-2].min()), 0.6)  # the smallest ones of a square matrix may stay small
            self.assertLess(float(values.max()), 1.25)

    def test_step(self):
        """With momentum m the first update is of gradient · ((1 - m) + m · (1 - m)), so it has the gradient's directions."""
        torch.manual_seed(0)
        p = torch.nn.Parameter(torch.randn(8, 32))
        before, gradient = p.detach().clone(), torch.randn(8, 32)
        optimizer = muon.Muon([{"params": [p], "lr": 0.01}])
        p.grad = gradient.clone()
        optimizer.step()
        moved = (before - p.detach()) / (0.01 * 0.2 * 32 ** 0.5)
        torch.testing.assert_close(moved, muon.orthogonal(gradient[None])[0], rtol=1e-4, atol=1e-5)
        self.assertAlmostEqual(float((before - p.detach()).square().mean().sqrt()), 0.01 * 0.2, delta=0.0005)

    def test_both(self):
        """Rates are set for all groups; each parameter is moved by its own part."""
        matrix, vector = torch.nn.Parameter(torch.ones(4, 4)), torch.nn.Parameter(torch.ones(4))
        both = muon.Both([{"params": [matrix], "top": 1.0}], [{"params": [vector], "top": 2.0}])
        for group in both.param_groups:
            group["lr"] = group["top"] * 0.1
        (matrix.sum() + vector.sum()).backward()
        both.step()
        torch.testing.assert_close(vector.detach(), torch.full((4,), 0.8))
        self.assertLess(float(matrix.detach().max()), 1.0)
        both.zero_grad()
        self.assertIsNone(matrix.grad)
        self.assertIsNone(vector.grad)


if __name__ == "__main__":
    unittest.main()
