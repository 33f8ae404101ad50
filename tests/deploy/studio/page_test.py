"""What can be said of the page without a browser."""

import pathlib
import re
import subprocess
import sys
import unittest

STUDIO = pathlib.Path(__file__).resolve().parents[3] / "deploy" / "studio"


class Page(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.page = (STUDIO / "index.html").read_text(encoding="utf-8")
        cls.policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', cls.page)[1]

    def test_the_policy_has_the_hashes_of_the_script_and_the_style(self):
        check = subprocess.run([sys.executable, STUDIO / "policy.py", "--check"], stderr=subprocess.PIPE, text=True)
        self.assertEqual(check.returncode, 0, check.stderr)

    def test_the_policy_lets_in_nothing_else(self):
        self.assertIn("default-src 'none'", self.policy)
        self.assertIn("connect-src 'self'", self.policy)
        self.assertIn("require-trusted-types-for 'script'", self.policy)
        for word in ("unsafe-inline", "unsafe-eval", "http:", "https:", "*"):
            self.assertNotIn(word, self.policy)

    def test_it_names_no_other_place(self):
        # xmlns of SVG and XMP's header are names, which nobody asks for.
        names = {"http://www.w3.org/2000/svg", "http://ns.adobe.com/xap/1.0/\\0"}
        self.assertEqual(set(re.findall(r"""(?:https?:)?//[\w.-]+\.\w+[^\s"'`)]*""", self.page)) - names, set())
        self.assertNotRegex(self.page, r"<(?:link|script|img|iframe|object|embed)\b[^>]*\b(?:src|href)=\"(?!data:)[^\"]")

    def test_nothing_gets_into_it_as_html(self):
        for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser", "eval(", "new Function", "javascript:"):
            self.assertNotIn(way, self.page)
        self.assertNotRegex(self.page, r"<[^>]*\son\w+=")


if __name__ == "__main__":
    unittest.main()
