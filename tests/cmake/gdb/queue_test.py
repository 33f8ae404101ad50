"""The scheduler's queue as gdb shows it, in the dispatcher's own code (queue.cc)."""

import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import debugger  # noqa: E402
from debugger import Gdb, value  # noqa: E402


class Queue(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        debugger.skip_where_not_permitted()
        # The fourth request comes: one is drawn, two wait, the second of them with two images.
        cls.gdb = Gdb(["break fresco::Dispatcher::Submit", "ignore 1 3", "run"], ["print *this"])

    def test_requests_that_wait(self):
        text = value(self.gdb["print *this"])
        self.assertTrue(text.startswith("2 requests wait, 1 run, 1 devices = {"), text[:300])
        first = ("request first, model fake, tenant ada, standard, 0 of 1 images done, came 2 s ago; "
                 "1 images wait, place told 0")
        second = "request second, model fake, tenant bob, interactive, 0 of 2 images done, came 0 s ago; 2 images wait, place told 1"
        self.assertIn(first, text)
        self.assertIn(second, text)
        self.assertLess(text.index(first), text.index(second))

    def test_images_that_wait_by_class_and_model(self):
        text = self.gdb["print *this"]
        self.assertIn("3 wait (2 interactive, 1 standard; by model: 3 fake), 1 on devices, 0 moving", text)
        self.assertRegex(text, r"waiting\[0\] = job \d+: standard waiting, model fake, tenant ada, 4 of 4 steps left, received 2027-01-15 08:00:00")
        self.assertRegex(text, r"waiting\[2\] = job \d+: interactive waiting, model fake, tenant bob")


if __name__ == "__main__":
    unittest.main()
