"""Fresco Studio as people use it: headless Chromium, the real Envoy, the real server with the demo model.

FRESCO_STUDIO_PICTURES=FOLDER writes docs/STUDIO.md's screenshots there, and runs that alone."""

import base64
import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "deploy" / "envoy"))
from edge import BIN, running_envoy, running_server, wait_until  # noqa: E402

CHROMIUM = os.environ.get("FRESCO_CHROMIUM") or shutil.which("chromium")
if not CHROMIUM:
    raise unittest.SkipTest("no Chromium here: apt-get install chromium (Debian), or set FRESCO_CHROMIUM")

from PIL import Image  # noqa: E402
from playwright.sync_api import expect, sync_playwright  # noqa: E402

import pictures  # noqa: E402

SCREENSHOTS = os.environ.get("FRESCO_STUDIO_PICTURES")
PROMPT = "a fox on a light blue background"
PATIENCE = 60_000  # milliseconds, on a machine with other work
expect.set_options(timeout=PATIENCE)

# Puts every state that a tile has been in, how many previews it had and how faint they were into window.seen; and every shift of what is on the page.
WATCH = """() => {
  window.seen = {states: [], previews: 0, opacity: 1, shift: 0};
  new MutationObserver((changes) => {
    for (const {target, attributeName} of changes) {
      if (attributeName === 'data-state' && target.dataset.state) window.seen.states.push(target.dataset.state);
      if (attributeName !== 'src' || target.alt !== 'Preview') continue;
      window.seen.previews++;
      window.seen.opacity = Math.min(window.seen.opacity, getComputedStyle(target.parentElement).opacity);
    }
  }).observe(document.getElementById('stage'), {subtree: true, attributes: true, childList: true});
  new PerformanceObserver((list) => { for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.seen.shift += entry.value; })
    .observe({type: 'layout-shift'});
}"""


def setUpModule():
    StudioCase.browser = unittest.enterModuleContext(sync_playwright()).chromium.launch(executable_path=CHROMIUM)
    unittest.addModuleCleanup(StudioCase.browser.close)


class StudioCase(unittest.TestCase):
    """One browser for all; a page of its own, with nothing stored, for each test."""

    browser = None

    def open(self, address=None, *, ready=True, clock=False, **options):
        """A page at the studio. What it asks of whom, and what goes wrong in it, is judged at the test's end. clock: it can be told that time has passed."""
        address = address or self.address
        options = {"viewport": {"width": 1280, "height": 900}, "accept_downloads": True, **options}
        context = self.browser.new_context(**options)
        self.addCleanup(context.close)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        errors, elsewhere = [], []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: request.url.startswith((address + "/", "blob:", "data:")) or elsewhere.append(request.url))
        self.addCleanup(lambda: self.assertEqual(errors, [], "errors in the page"))
        self.addCleanup(lambda: self.assertEqual(elsewhere, [], "requests to other origins"))
        if clock:
            page.clock.install()
        page.goto(address)
        if ready:
            expect(page.locator("#model option")).not_to_have_count(0)
        return page

    def fill(self, page, **fields):
        for name, value in fields.items():
            field = page.locator(f"#{name}")
            if field.evaluate("(element) => element.tagName") == "SELECT":
                field.select_option(str(value))
            else:
                field.fill(str(value))

    def await_told(self, page, text):
        """In the line under the stage. expect looks less and less often: for what is soon there it would come late."""
        for _ in range(30):
            if text in page.locator("#telling").text_content():
                break
            page.wait_for_timeout(50)
        expect(page.locator("#telling")).to_contain_text(text)

    def await_picture(self, page):
        self.await_told(page, "Done in")
        expect(page.locator(".tile").first).to_have_attribute("data-state", "done")

    def draw(self, page, **fields):
        self.fill(page, **{"prompt": PROMPT, "preview_every": 0, **fields})
        page.locator("#go").click()
        self.await_picture(page)

    def facts(self, page):
        return dict(zip(page.locator("#facts dt").all_text_contents(), page.locator("#facts dd").all_text_contents()))

    def download(self, page):
        with page.expect_download() as download:
            page.locator("#download").click()
        return download.value.suggested_filename, pathlib.Path(download.value.path()).read_bytes()

    def drop(self, page, name, data, kind=""):
        """What the browser does when a file is dropped on the page."""
        page.evaluate("""([name, data, type]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], name, {type}));
          for (const kind of ['dragenter', 'dragover', 'drop'])
            document.body.dispatchEvent(new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: transfer}));
        }""", [name, base64.b64encode(data).decode(), kind])
        expect(page.locator("#drop")).to_be_hidden()


def fresco(server, *arguments, check=True):
    """Runs `fresco ARGUMENTS` against the server; returns the finished process."""
    command = [BIN / "fresco", *map(str, arguments), "--server", server.address]
    return subprocess.run(command, check=check, timeout=300, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def requests_on(server):
    """Those that it has, as `status` tells of each."""
    return json.loads(fresco(server, "status", "--json").stdout).get("requests") or []


def requests_of(server):
    """How many there are on it."""
    return len(requests_on(server))


def start_clients(case, server, count):
    """So many requests that take long, from programs that end with the test at the latest; the server has them when this returns.
    Each when the one before is there, and the first has begun: it takes no place in the queue."""
    command = [BIN / "fresco", "generate", "--server", server.address, "--quiet", "--count", "16", "--steps", "150", "--prompt", "x", "--output", os.devnull, "--format", "png"]
    clients = []
    while len(clients) < count:
        clients.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        case.addCleanup(clients[-1].wait)
        case.addCleanup(clients[-1].terminate)
        wait_until("the client's request", lambda: requests_of(server) == len(clients))
        wait_until("the first to begin", lambda: any(not request.get("waiting") for request in requests_on(server)))
    return clients


def await_model(server):
    """`fresco health --wait` would do, and asks less often."""
    wait_until("the model", lambda: fresco(server, "health", check=False).returncode == 0)


class ServedCase(StudioCase):
    """An edge and a server for all tests of a class."""

    SERVER = ()  # its arguments
    CLIENT = ()  # and what clients need beside them

    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(running_server(arguments=cls.SERVER))
        await_model(cls.server)  # before Envoy's first look, or its next would be a second later
        cls.envoy = cls.enterClassContext(running_envoy("workstation", [cls.server.address]))
        cls.address = "http://" + cls.envoy.address
        # From its first picture on the server knows about how long one takes.
        fresco(cls.server, "generate", "--quiet", "--steps", 1, "--prompt", "x", "--output", os.devnull, "--format", "png", *cls.CLIENT)


@unittest.skipIf(SCREENSHOTS, "only the screenshots are asked for")
class Studio(ServedCase):
    def test_draws_with_previews_and_shows_the_parameters(self):
        page = self.open()
        self.fill(page, prompt=PROMPT, negative_prompt="a red fox", steps=20, guidance_scale=3.5, seed=7, width=160, preview_every=1)
        page.evaluate(WATCH)
        page.keyboard.press("Control+Enter")
        stage = page.locator("#stage").bounding_box()
        self.await_picture(page)
        seen = page.evaluate("window.seen")
        states = [state for i, state in enumerate(seen["states"]) if i == 0 or state != seen["states"][i - 1]]
        if states[0] == "waiting":  # which a quick start leaves no time to see
            states.pop(0)
        self.assertEqual(states, ["preview", "done"])
        self.assertGreater(seen["previews"], 1)
        self.assertEqual(seen["opacity"], 1)
        self.assertEqual(page.locator("#stage").bounding_box(), stage)
        self.assertLess(seen["shift"], 0.01, "something moved while previews came")
        self.assertEqual(page.locator("#words").text_content(), PROMPT)
        self.assertIn("a red fox", page.locator("#minus").text_content())
        facts = self.facts(page)
        self.assertEqual({name: facts[name] for name in ("Seed", "Size", "Steps", "Guidance", "Model")},
                         {"Seed": "7", "Size": "160 × 128", "Steps": "20", "Guidance": "3.5", "Model": "demo"})
        self.assertRegex(facts["File"], "^PNG, ")
        self.assertRegex(facts["Took"], r"\d s$")
        self.assertIn("fresco", facts["Software"])
        self.assertEqual(page.locator(".tile img").evaluate("(image) => [image.naturalWidth, image.naturalHeight]"), [160, 128])
        self.assertIn("Done", page.locator("#live").text_content())

    def test_several_pictures_each_with_its_own_seed(self):
        page = self.open()
        self.draw(page, image_count=3, seed=18446744073709551614, steps=4)
        expect(page.locator(".tile[data-state=done]")).to_have_count(3)
        expect(page.locator("#shelf li")).to_have_count(3)
        page.locator(".tile").nth(2).click()
        self.assertEqual(self.facts(page)["Seed"], "0", "seeds go on modulo 2^64, with every digit")
        page.locator("#shelf button[aria-label$='seed 18446744073709551615']").click()
        self.assertEqual(self.facts(page)["Seed"], "18446744073709551615")

    def test_cancel_ends_it_here_and_on_the_server(self):
        page = self.open()
        for way in (lambda: page.locator("#cancel").click(), lambda: page.keyboard.press("Escape")):
            self.fill(page, prompt=PROMPT, image_count=8, steps=150)
            page.locator("#go").click()
            expect(page.locator("#telling")).to_contain_text("step")
            way()
            expect(page.locator("#telling")).to_contain_text("Cancelled.")
            expect(page.locator("#cancel")).to_be_hidden()
            expect(page.locator("#go")).to_be_enabled()
            wait_until("the server's end of the request", lambda: requests_of(self.server) == 0)

    def test_again_with_this_seed_gives_the_same_bytes(self):
        page = self.open()
        self.draw(page, steps=6, format="IMAGE_FORMAT_WEBP")
        seed = self.facts(page)["Seed"]
        name, first = self.download(page)
        self.assertEqual(name, f"a-fox-on-a-light-blue-background-{seed}.webp")
        self.draw(page, prompt="a red apple", format="IMAGE_FORMAT_PNG", steps=4)
        self.assertNotEqual(self.facts(page)["Seed"], seed, "a new seed each time, unless it is kept")
        page.locator("#shelf button").nth(1).click()
        self.assertEqual(self.facts(page)["Seed"], seed)
        page.locator("#again").click()
        expect(page.locator("#shelf li")).to_have_count(3)
        self.await_picture(page)
        self.assertEqual(self.download(page), (name, first))
        expect(page.locator("#seed-keep")).to_have_attribute("aria-pressed", "true")

    def drawn_by_the_client(self):
        """The same picture in every format, by `fresco generate`, with more than ASCII in its prompt."""
        with tempfile.TemporaryDirectory() as folder:
            good = {}
            for ending in ("png", "jpg", "webp"):
                file = pathlib.Path(folder) / f"owl.{ending}"
                fresco(self.server, "generate", "--quiet", "--prompt", "ein Käuzchen 🦉 <b>&amp;\nzwei", "--negative", "blue, \"red\"", "--steps", 5, "--guidance", 2.5,
                       "--seed", 18446744073709551615, "--width", 144, "--height", 96, "--output", file)
                good[ending] = file.read_bytes()
        return good

    def test_a_dropped_picture_gives_its_parameters_back(self):
        page = self.open()
        good = self.drawn_by_the_client()
        for name, data in [*((f"owl.{ending}", data) for ending, data in good.items()), ("exif.jpg", pictures.without_xmp(good["jpg"]))]:
            with self.subTest(name):
                self.drop(page, name, data)
                expect(page.locator("#telling")).to_contain_text(f"Read from {name}.")
                self.assertEqual(page.locator("#words").text_content(), "ein Käuzchen 🦉 <b>&amp;\nzwei")
                facts = self.facts(page)
                self.assertEqual((facts["Seed"], facts["Size"], facts["Steps"], facts["Guidance"], facts["Model"]), ("18446744073709551615", "144 × 96", "5", "2.5", "demo"))
                page.locator("#use").click()
                self.assertEqual(page.locator("#prompt").input_value(), "ein Käuzchen 🦉 <b>&amp;\nzwei")
                self.assertEqual(page.locator("#negative_prompt").input_value(), "blue, \"red\"")
                self.assertEqual(page.locator("#seed").input_value(), "18446744073709551615")
                self.fill(page, prompt="", negative_prompt="", seed="")
        page.locator("#file").set_input_files({"name": "chosen.png", "mimeType": "image/png", "buffer": good["png"]})
        expect(page.locator("#telling")).to_contain_text("Read from chosen.png.")
        page.locator("#again").click()
        self.await_picture(page)
        self.assertEqual(self.download(page)[1], good["png"], "what the client has drawn is drawn again, byte for byte")

    def test_files_of_others_and_hostile_ones(self):
        page = self.open()
        other = "masterpiece, <i>sunset</i>\nNegative prompt: blurry\nSteps: 20, Sampler: \"a, b\", CFG scale: 7, Seed: 42, Size: 512x768, Model hash: ab, Model: other, Version: v1"
        self.drop(page, "other.png", pictures.png(pictures.compressed_text("parameters", other)))
        expect(page.locator("#telling")).to_contain_text("Read from other.png.")
        self.assertEqual(page.locator("#words").text_content(), "masterpiece, <i>sunset</i>")
        self.assertEqual({name: self.facts(page)[name] for name in ("Seed", "Size", "Steps", "Guidance", "Model")},
                         {"Seed": "42", "Size": "512 × 768", "Steps": "20", "Guidance": "7", "Model": "other"})
        page.locator("#use").click()
        expect(page.locator("#toast")).to_contain_text("does not have the model “other”")
        for name, data in pictures.hostile(self.drawn_by_the_client()):
            with self.subTest(name):
                self.drop(page, name, data)
                expect(page.locator("#telling, #banner p").filter(has_text=name)).not_to_have_count(0)
        self.drop(page, "page.png", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "image/png")
        expect(page.locator("#banner")).to_contain_text("page.png is no PNG, JPEG or WebP picture.")
        self.draw(page, seed=1, steps=4, width=128, height=128, guidance_scale=3)

    def test_by_keyboard_alone(self):
        page = self.open()
        self.fill(page, steps=4)
        page.locator("h1").click()  # out of the field
        keyboard = page.keyboard
        keyboard.press("/")
        keyboard.type(PROMPT)
        keyboard.press("Control+Enter")
        self.await_picture(page)
        first = self.facts(page)["Seed"]
        keyboard.press("Escape")  # out of the text field
        keyboard.press("a")
        expect(page.locator("#shelf li")).to_have_count(2)
        self.await_picture(page)
        self.assertEqual(self.facts(page)["Seed"], first)
        keyboard.press("n")
        keyboard.press("Control+Enter")
        expect(page.locator("#shelf li")).to_have_count(3)
        self.await_picture(page)
        self.assertNotEqual(self.facts(page)["Seed"], first)
        keyboard.press("ArrowRight")
        self.assertEqual(self.facts(page)["Seed"], first)
        with page.expect_download():
            keyboard.press("d")
        keyboard.press("Delete")
        expect(page.locator("#shelf li")).to_have_count(2)
        keyboard.press("z")
        expect(page.locator("#shelf li")).to_have_count(3)
        keyboard.press("f")
        expect(page.locator("#whole")).to_be_visible()
        keyboard.press("Escape")
        expect(page.locator("#whole")).to_be_hidden()
        keyboard.press("?")
        expect(page.locator("#help")).to_contain_text("Again with this seed")
        keyboard.press("Escape")
        keyboard.press("g")
        self.assertTrue(page.evaluate("document.getElementById('shelf').contains(document.activeElement)"))
        keyboard.press("x")
        keyboard.press("Tab")
        keyboard.press("Enter")
        expect(page.locator("#gallery")).to_be_hidden()

    def test_every_control_is_reached_by_tab_is_named_and_shows_the_focus(self):
        page = self.open()
        self.draw(page, steps=4)
        reached = set()
        page.locator("h1").click()
        for _ in range(60):
            page.keyboard.press("Tab")
            found = page.evaluate("""() => {
              const element = document.activeElement, style = getComputedStyle(element);
              if (element === document.body) return null;
              return [element.id || element.textContent.trim(), style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2];
            }""")
            if found:
                self.assertTrue(found[1], f"{found[0]} does not show that it has the focus")
                reached.add(found[0])
        wanted = page.evaluate("""() => [...document.querySelectorAll('button, input, select, textarea')]
          .filter((e) => e.checkVisibility() && !e.disabled && e.tabIndex >= 0).map((e) => e.id || e.textContent.trim())""")
        self.assertEqual(set(wanted) - reached, set())
        unnamed = page.evaluate("""() => [...document.querySelectorAll('button, input, select, textarea')]
          .filter((e) => e.checkVisibility() && !(e.getAttribute('aria-label') || e.labels?.length || e.textContent.trim())).map((e) => e.outerHTML)""")
        self.assertEqual(unnamed, [])

    def test_a_phone_scrolls_only_downwards(self):
        page = self.open(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True, device_scale_factor=2)
        widths = lambda: page.evaluate("[document.scrollingElement.scrollWidth, innerWidth]")
        self.assertEqual(widths(), [360, 360])
        self.fill(page, prompt="a fox " + "on-a-background-whose-name-does-not-end-" * 20)
        page.locator("#settings summary").tap()
        self.fill(page, steps=40, image_count=2, preview_every=10)
        page.locator("#go").tap()
        expect(page.locator("#cancel")).to_be_visible()
        self.assertEqual(widths(), [360, 360])
        self.await_picture(page)
        self.assertEqual(widths(), [360, 360])
        small = page.evaluate("""() => [...document.querySelectorAll('main button, header button')].filter((e) => e.checkVisibility())
          .map((e) => [e.id, e.getBoundingClientRect().height]).filter(([, height]) => height < 38)""")
        self.assertEqual(small, [], "too small for a finger")
        broken = page.evaluate("""() => [...document.querySelectorAll('header h1, header button')].filter((e) => {
          const range = document.createRange();
          range.selectNodeContents(e);
          return range.getBoundingClientRect().height > 30;
        }).map((e) => e.textContent)""")
        self.assertEqual(broken, [], "on two lines")
        order = page.evaluate("['prompt', 'stage', 'about', 'settings', 'gallery'].map((id) => document.getElementById(id).getBoundingClientRect().top)")
        self.assertEqual(order, sorted(order))

    def test_what_is_wrong_is_said_at_its_field(self):
        page = self.open()
        self.fill(page, prompt=PROMPT, width=100, steps=100000, guidance_scale=31)
        page.locator("#go").click()
        expect(page.locator("#empty")).to_be_visible()
        expect(page.locator("#width-wrong")).to_have_text("Width must be a multiple of 16, got 100.")
        expect(page.locator("#steps-wrong")).to_contain_text("Steps must be from 1 to 150, got 100000")
        expect(page.locator("#guidance_scale-wrong")).to_contain_text("Guidance must be a number from 0 to 30")
        expect(page.locator("#width")).to_be_focused()
        expect(page.locator("#width")).to_have_attribute("aria-invalid", "true")
        expect(page.locator("#width")).to_have_attribute("aria-describedby", "width-wrong")
        expect(page.locator("#height")).not_to_have_attribute("aria-invalid", "true")
        self.fill(page, width=128, steps=4, guidance_scale=3, seed="a lot")
        page.locator("#go").click()
        expect(page.locator("#seed-wrong")).to_contain_text("Seed must be a whole number")
        expect(page.locator("#width-wrong")).to_have_count(0)
        self.fill(page, prompt="ä" * 5000, seed=3)
        page.locator("#go").click()
        expect(page.locator("#prompt-wrong")).to_have_text("Prompt must have at most 8192 bytes, has 10000.")
        self.draw(page)
        expect(page.locator("#form .wrong")).to_have_count(0)
        self.fill(page, prompt="a red apple", height=100)
        page.locator("#go").click()
        expect(page.locator("#height-wrong")).to_have_text("Height must be a multiple of 16, got 100.")
        expect(page.locator(".tile[data-state=done]"), "what was drawn before stays").to_have_count(1)
        self.assertEqual(page.locator("#words").text_content(), PROMPT)
        self.assertEqual(page.locator(".tile img").evaluate("(image) => image.naturalWidth"), 128)

    def test_html_in_a_prompt_is_text(self):
        page = self.open()
        prompt = "<img src=x onerror=\"window.broken=1\"><b id=bold>fox</b><script>window.broken=1</script>"
        self.draw(page, prompt=prompt, steps=4)
        self.assertEqual(page.locator("#words").text_content(), prompt)
        expect(page.locator("#bold")).to_have_count(0)
        page.reload()
        expect(page.locator("#shelf button")).to_have_attribute("aria-label", f"{prompt}, seed {page.locator('#seed').input_value()}")
        self.assertIsNone(page.evaluate("window.broken ?? null"))

    def test_the_policy_keeps_other_origins_and_scripts_out(self):
        page = self.open()
        broken = page.evaluate("""async () => {
          const broken = [];
          addEventListener('securitypolicyviolation', (event) => broken.push(event.effectiveDirective));
          await fetch('http://127.0.0.2:9/').catch(() => {});
          const script = document.createElement('script');
          try { script.textContent = 'window.broken = 1'; document.body.append(script); } catch {}
          try { document.body.insertAdjacentHTML('beforeend', '<b>x</b>'); } catch {}
          await new Promise((resolve) => setTimeout(resolve));
          return [broken, window.broken ?? null];
        }""")
        self.assertIn("connect-src", broken[0])
        self.assertIn("require-trusted-types-for", broken[0])
        self.assertIsNone(broken[1])

    def test_a_reload_keeps_the_form_and_the_gallery(self):
        page = self.open()
        self.draw(page, seed=11, steps=5, negative_prompt="blue", format="IMAGE_FORMAT_JPEG")
        page.reload()
        expect(page.locator("#shelf li")).to_have_count(1)
        self.assertEqual([page.locator(f"#{name}").input_value() for name in ("prompt", "negative_prompt", "steps", "seed", "format")],
                         [PROMPT, "blue", "5", "11", "IMAGE_FORMAT_JPEG"])
        page.locator("#shelf button").click()
        self.assertEqual(self.facts(page)["Seed"], "11")
        self.assertEqual(self.download(page)[1][:3], b"\xff\xd8\xff")

    def test_a_reload_in_the_middle_gives_the_same_pictures(self):
        page = self.open()
        self.draw(page, seed=11, steps=50, image_count=2)
        expect(page.locator("#shelf li")).to_have_count(2)
        undisturbed = [self.seed_and_pixels(page, i) for i in range(2)]
        page.locator("#clear").click()
        page.locator("#sure-yes").click()
        page.locator("#go").click()
        expect(page.locator("#telling")).to_contain_text("step")
        page.reload()
        expect(page.locator("#shelf li")).to_have_count(2)
        self.await_picture(page)
        self.assertEqual(sorted(self.seed_and_pixels(page, i) for i in range(2)), sorted(undisturbed))

    def seed_and_pixels(self, page, at):
        """The file also tells with how many others a picture was drawn."""
        page.locator("#shelf button").nth(at).click()
        with Image.open(io.BytesIO(self.download(page)[1])) as picture:
            return self.facts(page)["Seed"], picture.convert("RGB").tobytes()


@unittest.skipIf(SCREENSHOTS, "only the screenshots are asked for")
class Queue(ServedCase):
    SERVER = ("--config", str(pathlib.Path(__file__).resolve().parent / "one_at_a_time.yaml"))

    def setUp(self):
        wait_until("the end of what was before", lambda: requests_of(self.server) == 0)

    def test_the_place_in_the_queue_and_the_wait(self):
        page = self.open()
        start_clients(self, self.server, 2)
        self.fill(page, prompt=PROMPT, priority="PRIORITY_STANDARD")
        page.locator("#go").click()
        expect(page.locator("#telling")).to_have_text(re.compile(r"^(\d requests? before this one|Next in line), about \d+ (s|min)$"))
        expect(page.locator("#live")).to_have_text(re.compile("about"))
        page.keyboard.press("Escape")
        expect(page.locator("#telling")).to_contain_text("Cancelled.")

    def test_a_full_queue_is_waited_for(self):
        page = self.open(clock=True)
        clients = start_clients(self, self.server, 3)
        self.fill(page, prompt=PROMPT, steps=4, priority="PRIORITY_STANDARD")
        page.locator("#go").click()
        expect(page.locator("#telling")).to_have_text(re.compile(r"^Not now: the queue is full: 2 requests are waiting\. Trying again in \d+ s\.$"))
        for client in clients:
            client.terminate()
        wait_until("an empty queue", lambda: requests_of(self.server) == 0)
        page.clock.run_for(300_000)
        self.await_picture(page)


@unittest.skipIf(SCREENSHOTS, "only the screenshots are asked for")
class Tokens(ServedCase):
    """A server that asks who calls, and holds callers to limits."""

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        # guest and slow change, each in one test that is theirs.
        cls.tokens = {"studio": {}, "reader": {"scopes": ["reflect"]}, "guest": {}, "slow": {"requests_per_minute": 1, "burst": 1}}
        cls.write_tokens()
        config = cls.folder / "server.yaml"
        # JSON is YAML.
        config.write_text(json.dumps({"server": {"tokens": "tokens.yaml", "reload_interval": "1s"}, "models": [{"path": str(ROOT / "models" / "demo")}]}))
        (cls.folder / "token").write_text("studio-secret\n")
        cls.SERVER, cls.CLIENT = ("--config", str(config)), ("--token-file", cls.folder / "token")
        super().setUpClass()

    @classmethod
    def write_tokens(cls):
        entries = [{"name": name, "sha256": hashlib.sha256(f"{name}-secret".encode()).hexdigest(), **settings} for name, settings in cls.tokens.items()]
        (cls.folder / "partial").write_text(json.dumps({"tokens": entries}))
        (cls.folder / "partial").rename(cls.folder / "tokens.yaml")

    def change(self, name, settings):
        """As the operator does; None takes the token away."""
        before = self.server.metric("reloads_total")
        self.tokens.pop(name)
        if settings is not None:
            self.tokens[name] = settings
        self.write_tokens()
        wait_until("the new tokens", lambda: self.server.metric("reloads_total") > before)

    def give(self, page, token):
        expect(page.locator("#token-text")).to_be_focused()
        page.locator("#token-text").fill(token)
        page.keyboard.press("Enter")

    def open_with(self, token, **options):
        page = self.open(ready=False, **options)
        self.give(page, token)
        expect(page.locator("#model option")).not_to_have_count(0)
        return page

    def test_a_token_is_asked_for_until_one_does(self):
        page = self.open(ready=False)
        expect(page.locator("#token-why")).to_have_text("This server asks for a token.")
        expect(page.locator("#where")).to_have_text("asks for a token")
        for given, told in (("", "Enter the token that you were given."), ("“studio-secret”", "This is no token"), ("studio secret", "This is no token")):
            self.give(page, given)
            expect(page.locator("#token-wrong")).to_contain_text(told)
        self.give(page, "of-nobody")
        expect(page.locator("#token-why")).to_have_text("The token was refused: the token is not known here.")
        expect(page.locator("#token-wrong")).to_have_text("")
        self.give(page, "studio-secret")
        expect(page.locator("#token")).to_be_hidden()
        expect(page.locator("#banner")).to_be_hidden()
        expect(page.locator("#where")).to_contain_text("demo ready")
        self.draw(page, steps=4)
        self.assertNotIn("secret", page.evaluate("JSON.stringify(localStorage)"))
        page.reload()
        expect(page.locator("#where")).to_contain_text("demo ready")
        page.locator("#token-button").click()
        page.locator("#token-forget").click()
        page.locator("#go").click()
        expect(page.locator("#token-why")).to_have_text("This server asks for a token.")

    def test_who_closes_the_dialog_is_led_back_and_gets_what_was_asked_for(self):
        page = self.open(ready=False)
        expect(page.locator("#token")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#banner")).to_contain_text("This server asks for a token.")
        self.fill(page, prompt=PROMPT, steps=4, seed=3)
        page.locator("#go").click()
        expect(page.locator("#token")).to_be_visible()
        page.locator("#token [data-close]").click()
        page.locator("#banner-do").click()
        self.give(page, "studio-secret")
        self.await_picture(page)
        self.assertEqual({name: self.facts(page)[name] for name in ("Seed", "Steps", "Size", "Model")}, {"Seed": "3", "Steps": "4", "Size": "128 × 128", "Model": "demo"})
        expect(page.locator("#banner")).to_be_hidden()
        expect(page.locator("#model")).to_have_value("demo")

    def test_a_token_that_is_taken_away_while_the_page_is_open(self):
        page = self.open_with("guest-secret")
        self.draw(page, steps=4)
        self.change("guest", None)
        self.fill(page, prompt="a red apple")
        page.locator("#go").click()
        expect(page.locator("#token-why")).to_have_text("The token was refused: the token is not known here.")
        self.give(page, "studio-secret")
        expect(page.locator("#shelf li")).to_have_count(2)
        self.await_picture(page)
        self.assertEqual(page.locator("#words").text_content(), "a red apple")

    def test_a_token_that_may_not_draw(self):
        page = self.open_with("reader-secret")
        self.fill(page, prompt=PROMPT, steps=4)
        page.locator("#go").click()
        expect(page.locator("#banner p")).to_have_text("Not allowed: the token 'reader' is not one of those that may generate")
        page.locator("#banner-do").click()
        self.give(page, "studio-secret")
        self.await_picture(page)

    def test_more_calls_than_the_token_may_make(self):
        page = self.open_with("slow-secret", clock=True)
        self.draw(page, steps=4)
        telling, away = page.locator("#telling"), re.compile(r"^Not now: the token 'slow' may make 1 calls a minute that draw, 1 at once\. Trying again in (\d\d) s\.$")
        page.locator("#go").click()
        expect(telling).to_have_text(away)
        expect(page.locator("#live")).to_have_text(away)
        seconds = int(away.match(telling.text_content())[1])
        page.clock.run_for(10_000)
        self.assertLessEqual(int(away.match(telling.text_content())[1]), seconds - 10)
        page.keyboard.press("Escape")
        expect(telling).to_have_text("Cancelled.")
        page.locator("#go").click()

        def given_up():
            page.clock.run_for(60_000)
            return page.locator("#banner").is_visible()

        wait_until("the end of patience", given_up)
        expect(page.locator("#banner p")).to_have_text("Not now: the token 'slow' may make 1 calls a minute that draw, 1 at once")
        expect(telling).to_have_text("")
        self.change("slow", {})
        page.locator("#banner-do").click()
        self.await_picture(page)
        expect(page.locator("#shelf li")).to_have_count(2)


@unittest.skipIf(SCREENSHOTS, "only the screenshots are asked for")
class LostServer(ServedCase):
    def start_anew(self, *pages):
        """At the same address; it serves the tests that come after as well. The pages' countdowns end when it is there."""
        type(self).server = self.enterClassContext(running_server(address=self.server.address))
        await_model(self.server)
        wait_until("Envoy to see it", lambda: self.envoy.healthy_servers() == 1)
        for page in pages:
            page.clock.run_for(5_000)

    def test_a_picture_goes_on_when_the_server_is_killed_and_comes_back(self):
        page = self.open(clock=True)
        self.draw(page, seed=5, steps=120, preview_every=10)
        undisturbed = self.download(page)
        page.locator("#go").click()
        expect(page.locator("#telling")).to_contain_text("Step")
        self.server.kill()
        self.await_told(page, "Trying again")
        self.start_anew(page)
        expect(page.locator("#shelf li")).to_have_count(2)
        self.await_picture(page)
        self.assertEqual(self.download(page), undisturbed)

    def test_a_server_that_is_stopped_in_good_order_and_started_anew(self):
        page = self.open(clock=True)
        self.fill(page, prompt=PROMPT, steps=4)
        client, = start_clients(self, self.server, 1)
        self.server.terminate()
        wait_until("its end to begin", lambda: "stopping" in self.server.log.read_text())
        page.locator("#go").click()
        self.await_told(page, "Trying again")
        expect(page.locator("#telling")).to_have_text(re.compile(r"^The server is not ready(: the server is draining and takes no new requests)?\. Trying again in \d s\.$"))
        expect(page.locator("#where")).to_have_text("not ready")
        client.terminate()
        self.server.process.wait()
        late = self.open(ready=False, clock=True)
        expect(late.locator("#where")).to_have_text("not ready")
        self.start_anew(page, late)
        self.await_picture(page)
        for each in (page, late):
            expect(each.locator("#where")).to_contain_text("demo ready")


@unittest.skipUnless(SCREENSHOTS, "FRESCO_STUDIO_PICTURES is not set")
class Screenshots(ServedCase):
    """docs/STUDIO.md's pictures."""

    PROMPTS = ("a sunflower on a blue background", "two strawberries, white background", "a penguin on a pink background", "an owl on a purple background", "a cactus on an orange background",
               "a sailboat on a light blue background", "a pizza on a yellow background", "cityscape at dusk")

    def shoot(self, page, name, **options):
        image = Image.open(io.BytesIO(page.screenshot(**options))).convert("RGB")
        image.save(pathlib.Path(SCREENSHOTS) / f"studio-{name}.webp", quality=82, method=6)

    def fill_gallery(self, page):
        for seed, prompt in enumerate(self.PROMPTS):
            self.draw(page, prompt=prompt, seed=seed)
            expect(page.locator("#shelf li")).to_have_count(seed + 1)

    def test_screenshots(self):
        page = self.open(viewport={"width": 1440, "height": 1060})  # the whole form
        self.fill_gallery(page)
        self.draw(page, prompt="a fox on a light blue background", seed=1, negative_prompt="photo", preview_every=1)
        expect(page.locator("#shelf li")).to_have_count(len(self.PROMPTS) + 1)
        page.locator("h1").click()
        self.shoot(page, "light", full_page=True)
        page.set_viewport_size({"width": 1440, "height": 940})
        page.emulate_media(color_scheme="dark")
        self.fill(page, prompt="a small penguin on a yellow background", negative_prompt="", image_count=4, steps=150, seed=40)
        page.locator("#go").click()
        # In the third picture, if they are drawn one after the other.
        wait_until("some of the pictures", lambda: int(page.locator("#track").get_attribute("aria-valuenow") or 0) >= 62)
        self.shoot(page, "drawing")
        self.await_picture(page)
        page.emulate_media(color_scheme="light")
        page.keyboard.press("?")
        self.shoot(page, "keys")
        page.keyboard.press("Escape")
        self.fill(page, width=250, steps=500)
        page.locator("#go").click()
        expect(page.locator("#width-wrong")).to_be_visible()
        self.shoot(page, "wrong")

    def test_phone(self):
        page = self.open(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True, device_scale_factor=2, color_scheme="dark")
        page.locator("#settings summary").tap()
        self.fill(page, seed=1)
        page.locator("#settings summary").tap()
        self.fill(page, prompt=PROMPT)
        page.locator("#go").tap()
        self.await_picture(page)
        self.shoot(page, "phone")


if __name__ == "__main__":
    unittest.main()
