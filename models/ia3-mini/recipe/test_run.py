"""Tests of what the stages that train have in common. Prints one line a test ("ok N - …")."""

import types
import unittest
from unittest import mock

import run


class Runs(unittest.TestCase):
    def test_rates_and_the_end(self):
        """They rise for `warmup` steps, fall with the time, and the run is over when its minutes are."""
        now = mock.Mock(return_value=100.0)
        optimizer = types.SimpleNamespace(param_groups=[{"top": 2.0}, {"top": 1.0}])
        with mock.patch.object(run.time, "monotonic", now):
            r = run.Run(10, optimizer, 4)
            rates = []
            for seconds in (0, 0, 150, 300, 450, 599):
                now.return_value = 100.0 + seconds
                self.assertTrue(r.next())
                rates.append([round(g["lr"], 4) for g in optimizer.param_groups])
            self.assertEqual(rates, [[0.5, 0.25], [1.0, 0.5], [1.125, 0.5625], [1.0, 0.5], [0.5, 0.25], [0.0033, 0.0017]])
            now.return_value = 700.0
            self.assertFalse(r.next())

    def test_due(self):
        now = mock.Mock(return_value=0.0)
        with mock.patch.object(run.time, "monotonic", now):
            r, told = run.Run(60, types.SimpleNamespace(param_groups=[]), 1), []
            for minutes in (1, 5, 6, 9, 10, 16, 17):
                now.return_value = 60.0 * minutes
                told.append((r.due("line", 5), r.due("checkpoint", 10)))
        self.assertEqual(told, [(False, False), (True, False), (False, False), (False, False), (True, True), (True, False), (False, False)])


if __name__ == "__main__":
    unittest.main()
